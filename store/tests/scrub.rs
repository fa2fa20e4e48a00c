//! Audio files that go bad while the node works: found, told, and replaced by the peer's copy.

#![allow(
    clippy::unwrap_used,
    reason = "a failed expectation is the failure of the test"
)]

mod common;

use std::{fs, path::PathBuf};

use common::{
    assert_sound, deposit, ext,
    link::{assert_same, carry, synchronise},
    mailbox, node,
};
use vmsync_store::{EntityKey, ScrubAsk, Store, model::Message};

const ALL: ScrubAsk<'static> = ScrubAsk {
    after: None,
    files: u64::MAX,
    bytes: u64::MAX,
    read: true,
};

fn file(store: &Store, message: &Message) -> PathBuf {
    let name = format!("{}.vma", message.audio.blob);
    let folder = store.dir().join("audio").join(&name[34..36]);
    folder.join(name)
}

fn flip_last_byte(path: &PathBuf) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

fn entities(store: &Store) -> Vec<EntityKey> {
    let faults = store.audio_faults().into_iter();
    faults.map(|f| f.entity).collect()
}

#[test]
fn what_is_missing_damaged_or_cut_is_found_and_nothing_else() {
    let (_a, a) = node("vmpro1");
    mailbox(&a, "2001");
    let [well, missing, flipped, cut, purged, gone_bad] =
        [b"1", b"2", b"3", b"4", b"5", b"6"].map(|b| deposit(&a, "2001", b));
    fs::remove_file(file(&a, &missing)).unwrap();
    flip_last_byte(&file(&a, &flipped));
    fs::write(file(&a, &cut), &fs::read(file(&a, &cut)).unwrap()[..90]).unwrap();
    a.purge_message(purged.id).unwrap();
    flip_last_byte(&file(&a, &gone_bad));
    // A first look sees what is there and how long it is.
    let quick = a.scrub(&ScrubAsk { read: false, ..ALL }).unwrap();
    assert_eq!((quick.files, quick.through), (5, None));
    let mut bad = [&missing, &cut].map(|m| EntityKey::Message(m.id)).to_vec();
    let mut found = entities(&a);
    bad.sort();
    found.sort();
    assert_eq!(found, bad);
    // All of it is read.
    a.scrub(&ALL).unwrap();
    let mut found = entities(&a);
    found.sort();
    bad.extend([&flipped, &gone_bad].map(|m| EntityKey::Message(m.id)));
    bad.sort();
    assert_eq!(found, bad);
    assert!(!found.contains(&EntityKey::Message(well.id)));
    assert_eq!(a.audio_fault_counts(), (4, 4));
    // One whose message is gone is none any more.
    a.purge_message(gone_bad.id).unwrap();
    assert!(
        a.check_audio_of(&[EntityKey::Message(gone_bad.id)])
            .unwrap()
    );
    assert_eq!(a.audio_fault_counts(), (3, 4));
    assert!(!a.check_audio_of(&bad).unwrap());
}

#[test]
fn it_goes_on_where_it_was() {
    let (_a, a) = node("vmpro1");
    mailbox(&a, "2001");
    for n in 0..10u8 {
        deposit(&a, "2001", &[n; 100]);
    }
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let ask = ScrubAsk {
            after: after.as_deref(),
            bytes: 250,
            ..ALL
        };
        let step = a.scrub(&ask).unwrap();
        seen.push(step.files);
        after = step.through;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen.iter().sum::<u64>(), 10);
    assert!(seen.iter().all(|files| *files <= 2), "{seen:?}");
    // At least one at a time, however large.
    let ask = ScrubAsk { bytes: 0, ..ALL };
    assert_eq!(a.scrub(&ask).unwrap().files, 1);
}

#[test]
fn the_peers_copy_takes_the_place_of_what_is_damaged() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    mailbox(&a, "2001");
    let all = [b"one", b"two", b"3.3"].map(|b| deposit(&a, "2001", b));
    synchronise(&a, &b);
    let [missing, flipped, header] = &all;
    fs::remove_file(file(&b, missing)).unwrap();
    flip_last_byte(&file(&b, flipped));
    fs::write(file(&b, header), b"no audio file at all").unwrap();
    b.scrub(&ALL).unwrap();
    assert_eq!(b.audio_faults().len(), 3);
    // Both hold the same records; but what is damaged counts as not here, so the peer sends it.
    assert_eq!(a.digest(), b.digest());
    let mut buckets: Vec<u8> = b.audio_faults().iter().map(|f| f.bucket).collect();
    buckets.sort_unstable();
    buckets.dedup();
    let wanted = a.compare_items(&b.items(&buckets).unwrap()).unwrap();
    assert_eq!(wanted.len(), 3);
    // Nor does it offer what it knows to be damaged.
    let offered = b.records_of(&wanted).unwrap();
    assert!(offered.iter().all(|r| r.audio.is_empty()));
    let records = carry(&a, &b, a.records_of(&wanted).unwrap());
    assert_eq!(b.join(&records, None).unwrap().changed, 0);
    assert_eq!(b.audio_faults(), []);
    for message in &all {
        assert_eq!(
            b.read_audio(&message.audio).unwrap(),
            a.read_audio(&message.audio).unwrap()
        );
        assert!(file(&b, message).is_file(), "in its place");
    }
    b.scrub(&ALL).unwrap();
    assert_eq!(b.audio_fault_counts(), (0, 3));
    assert_same(&a, &b);
    assert_sound(&b);
    assert_eq!(b.mailbox(&ext("2001")).unwrap().unwrap().counts.new, 3);
}

#[test]
fn only_what_our_own_record_says_takes_its_place() {
    let (_a, a) = node("vmpro1");
    mailbox(&a, "2001");
    let message = deposit(&a, "2001", b"hello");
    fs::remove_file(file(&a, &message)).unwrap();
    a.scrub(&ALL).unwrap();
    let other = vmsync_store::AudioRef {
        blob: message.audio.blob,
        ..common::audio(b"other")
    };
    let new = |audio| vmsync_store::NewAudio {
        entity: EntityKey::Message(message.id),
        mailbox: None,
        audio,
        facts: serde_json::Value::Null,
    };
    // It is taken as any file that is not there yet, and found to be wrong.
    a.put_audio(new(&other), b"other").unwrap();
    assert_eq!(a.audio_faults().len(), 1);
    assert!(!a.check_audio_of(&[EntityKey::Message(message.id)]).unwrap());
    a.put_audio(new(&message.audio), b"hello").unwrap();
    assert_eq!(a.audio_faults(), []);
    assert_eq!(a.read_audio(&message.audio).unwrap(), b"hello");
}

#[test]
fn whatever_a_file_has_become_the_rest_is_looked_at() {
    let (_a, a) = node("vmpro1");
    mailbox(&a, "2001");
    let all = [b"1", b"2", b"3", b"4"].map(|s| deposit(&a, "2001", s));
    // Each of the first bytes: the magic, the version, the length of the header.
    for at in 0..16 {
        let path = file(&a, &all[1]);
        let sound = fs::read(&path).unwrap();
        let mut bytes = sound.clone();
        bytes[at] ^= 0x02;
        fs::write(&path, bytes).unwrap();
        for read in [false, true] {
            let looked = a.scrub(&ScrubAsk { read, ..ALL }).unwrap();
            assert_eq!(looked.files, 4, "byte {at}");
            assert_eq!(entities(&a), [EntityKey::Message(all[1].id)], "byte {at}");
        }
        fs::write(&path, sound).unwrap();
        assert!(a.check_audio_of(&entities(&a)).unwrap());
        assert_eq!(a.audio_faults(), []);
    }
    // Not even a file any more.
    let path = file(&a, &all[2]);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(a.scrub(&ALL).unwrap().files, 4);
    assert_eq!(entities(&a), [EntityKey::Message(all[2].id)]);
}
