//! A damaged index is noticed when it is opened, set aside, and made anew from the audio files;
//! what the peer knows wins over what the files say.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed expectation is the failure of the test"
)]

mod common;

use std::{fs, path::Path};

use common::{
    assert_sound, audio, deposit, ext, from_source,
    link::{assert_same, synchronise},
    mailbox, named, node, open, options,
};
use vmsync_config::words::UnixMillis;
use vmsync_store::{
    EntityKey, GreetingKind, NewAudio, Rebuilt, Store, StoreError, model::MessageState, rebuild,
};

/// What opening finds wrong.
fn damage(dir: &Path, node: &str) -> String {
    match Store::open(dir, options(node)) {
        Err(StoreError::Damaged { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

fn rebuilt(dir: &Path, node: &str) -> (Store, Rebuilt) {
    let why = damage(dir, node);
    let report = rebuild(dir, options(node), &why, false, &mut |_, _| {}).unwrap();
    assert_eq!(report.why, why);
    let store = open(dir, node);
    assert_sound(&store);
    assert_eq!(store.rebuilt().unwrap(), Some(report.clone()));
    (store, report)
}

/// The names in the data folder that begin with `start`.
fn named_so(dir: &Path, start: &str) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap();
    let names = names.map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    let mut found: Vec<_> = names.filter(|n| n.starts_with(start)).collect();
    found.sort();
    found
}

/// Where sled's one large file lies.
fn file(dir: &Path) -> std::path::PathBuf {
    dir.join("db/db")
}

/// What a disk or a person may do to an index.
type Damage = fn(&Path);

/// Every way of damage a test here knows.
fn ways() -> Vec<(&'static str, Damage)> {
    fn change(dir: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(file(dir)).unwrap();
        change(&mut bytes);
        fs::write(file(dir), bytes).unwrap();
    }
    vec![
        ("truncated", |dir| {
            change(dir, |bytes| bytes.truncate(bytes.len() / 3));
        }),
        ("cut to nothing", |dir| change(dir, Vec::clear)),
        ("zeroed", |dir| change(dir, |bytes| bytes.fill(0))),
        ("flipped all over", |dir| {
            change(dir, |bytes| {
                bytes.iter_mut().step_by(1_000).for_each(|b| *b ^= 0x11);
            });
        }),
        ("its large file gone", |dir| {
            fs::remove_file(file(dir)).unwrap();
        }),
        ("its configuration garbled", |dir| {
            fs::write(dir.join("db/conf"), b"no such thing").unwrap();
        }),
        ("the folder gone", |dir| {
            fs::remove_dir_all(dir.join("db")).unwrap();
        }),
        ("a folder instead of the file", |dir| {
            fs::remove_file(file(dir)).unwrap();
            fs::create_dir(file(dir)).unwrap();
        }),
    ]
}

#[test]
fn whatever_happened_to_the_index_messages_and_greetings_come_back_from_their_files() {
    for (way, harm) in ways() {
        let (dir, store) = node("vmpro1");
        mailbox(&store, "2001");
        mailbox(&store, "2002");
        let first = deposit(&store, "2001", b"first");
        let facts = from_source("<7@pbx>");
        let (second, _) = store
            .deposit(&ext("2001"), facts, audio(b"second"), b"second")
            .unwrap();
        let other = deposit(&store, "2002", b"other");
        let until = Some(UnixMillis(1_800_000_000_000));
        let kind = GreetingKind::Temporary;
        store
            .set_greeting(&ext("2002"), kind, audio(b"away"), b"away", until)
            .unwrap();
        let before = store.origin();
        drop(store);
        harm(dir.path());

        let (store, report) = rebuilt(dir.path(), "vmpro1");
        assert_eq!(
            (report.messages, report.greetings, report.mailboxes),
            (3, 1, 2),
            "{way}"
        );
        assert_eq!((report.held_aside, report.unreadable), (0, 0), "{way}");
        assert_ne!(store.origin(), before, "{way}: a new incarnation");
        let list = store.messages(&ext("2001"), &[], None, 10).unwrap().items;
        let ids: Vec<_> = list.iter().map(|m| m.id).collect();
        assert_eq!(ids, [first.id, second.id], "{way}: in order of arrival");
        assert_eq!(list[1].facts, second.facts, "{way}");
        assert_eq!(store.read_audio(&other.audio).unwrap(), b"other", "{way}");
        let greeting = store.greeting(&ext("2002"), kind).unwrap().unwrap();
        assert_eq!(greeting.until, until, "{way}");
        // Known by its source still: the PBX that sends it again makes no second message.
        let facts = from_source("<7@pbx>");
        let again = store.deposit(&ext("2001"), facts, audio(b"second"), b"second");
        assert_eq!(again.unwrap().0.id, second.id, "{way}");
        // And it goes on, over another restart.
        deposit(&store, "2002", b"new");
        drop(store);
        assert_sound(&open(dir.path(), "vmpro1"));
    }
}

/// A node and its peer, in step, with something of everything.
struct Scene {
    dir: tempfile::TempDir,
    peer: Store,
    saved: uuid::Uuid,
    purged: uuid::Uuid,
    alone: uuid::Uuid,
    _peer: tempfile::TempDir,
}

/// In step, then one message more that the peer never saw; then the index is destroyed.
fn destroyed() -> Scene {
    let (dir, store) = node("vmpro1");
    let (peer_dir, peer) = node("vmpro2");
    mailbox(&store, "2001");
    store.change_mailbox(&ext("2001"), &named("Zoë")).unwrap();
    let saved = deposit(&store, "2001", b"saved").id;
    let purged = deposit(&peer_with(&store, &peer), "2001", b"purged").id;
    for (kind, sound) in [
        (GreetingKind::Standard, b"hello".as_slice()),
        (GreetingKind::Busy, b"busy".as_slice()),
    ] {
        store
            .set_greeting(&ext("2001"), kind, audio(sound), sound, None)
            .unwrap();
    }
    store.set_message_state(saved, MessageState::Saved).unwrap();
    store.set_flow("main", "start = \"a\"").unwrap();
    synchronise(&store, &peer);
    let alone = deposit(&store, "2001", b"alone").id;
    drop(store);
    fs::write(file(dir.path()), b"").unwrap();
    Scene {
        dir,
        peer,
        saved,
        purged,
        alone,
        _peer: peer_dir,
    }
}

fn peer_with(store: &Store, peer: &Store) -> Store {
    synchronise(store, peer);
    peer.clone()
}

#[test]
fn the_peer_wins_over_the_files_and_gets_what_only_they_have() {
    let Scene {
        dir,
        peer,
        saved,
        purged,
        alone,
        _peer,
    } = destroyed();
    let (store, report) = rebuilt(dir.path(), "vmpro1");
    assert_eq!((report.messages, report.greetings), (3, 2));
    let new = |id| store.message(id).unwrap().unwrap().state;
    assert_eq!(new(saved), MessageState::New, "nothing better is known yet");
    assert_eq!(store.mailbox(&ext("2001")).unwrap().unwrap().name, "");

    // Meanwhile the peer went on: what it removed must not come back.
    peer.purge_message(purged).unwrap();
    peer.remove_greeting(&ext("2001"), GreetingKind::Busy)
        .unwrap();
    synchronise(&store, &peer);

    for store in [&store, &peer] {
        let state = |id| store.message(id).unwrap().map(|m| m.state);
        assert_eq!(state(saved), Some(MessageState::Saved));
        assert_eq!(state(purged), None, "deleted stays deleted");
        assert_eq!(state(alone), Some(MessageState::New));
        let mailbox = store.mailbox(&ext("2001")).unwrap().unwrap();
        assert_eq!(mailbox.name, "Zoë");
        assert_eq!(mailbox.greetings, [GreetingKind::Standard]);
        let greeting = store.greeting(&ext("2001"), GreetingKind::Standard);
        assert_eq!(greeting.unwrap().unwrap().conflicts, []);
        assert!(store.flow("main").unwrap().is_some());
    }
    assert_same(&store, &peer);
    store.forget_rebuilt().unwrap();
    assert_eq!(store.rebuilt().unwrap(), None);
}

#[test]
fn a_mailbox_deleted_on_the_peer_stays_deleted() {
    let Scene {
        dir, peer, _peer, ..
    } = destroyed();
    peer.delete_mailbox(&ext("2001")).unwrap();
    let (store, _) = rebuilt(dir.path(), "vmpro1");
    assert!(!store.mailbox(&ext("2001")).unwrap().unwrap().deleted);
    synchronise(&store, &peer);
    // The message the peer had never seen stays, as after any deletion.
    for store in [&store, &peer] {
        let mailbox = store.mailbox(&ext("2001")).unwrap().unwrap();
        assert!(mailbox.deleted);
        assert_eq!((mailbox.counts.new, mailbox.counts.total()), (1, 1));
    }
    assert_same(&store, &peer);
}

#[test]
fn a_file_that_does_not_say_whose_it_is_waits_for_the_peer() {
    let (dir, store) = node("vmpro1");
    let (_peer, peer) = node("vmpro2");
    mailbox(&peer, "2001");
    let message = deposit(&peer, "2001", b"hello");
    // As early versions wrote the files of replicas.
    let new = NewAudio {
        entity: EntityKey::Message(message.id),
        mailbox: None,
        audio: &message.audio,
        facts: serde_json::Value::Null,
    };
    store.put_audio(new, b"hello").unwrap();
    synchronise(&peer, &store);
    drop(store);
    fs::remove_dir_all(dir.path().join("db")).unwrap();

    let (store, report) = rebuilt(dir.path(), "vmpro1");
    assert_eq!((report.messages, report.held_aside), (0, 1));
    assert!(
        report.words().contains("1 files wait for the peer"),
        "{}",
        report.words()
    );
    synchronise(&peer, &store);
    assert_eq!(store.read_audio(&message.audio).unwrap(), b"hello");
    assert_same(&store, &peer);
}

#[test]
fn unreadable_files_are_counted_and_the_rest_comes_back() {
    let (dir, store) = node("vmpro1");
    mailbox(&store, "2001");
    let [kept, cut, garbled] =
        [b"kept", b"cut!", b"garb"].map(|b| deposit(&store, "2001", b.as_slice()));
    drop(store);
    let place = |m: &vmsync_store::model::Message| {
        let name = format!("{}.vma", m.audio.blob);
        dir.path().join("audio").join(&name[34..36]).join(name)
    };
    let bytes = fs::read(place(&cut)).unwrap();
    fs::write(place(&cut), &bytes[..bytes.len() - 1]).unwrap();
    let mut bytes = fs::read(place(&garbled)).unwrap();
    bytes[40] ^= 1;
    fs::write(place(&garbled), bytes).unwrap();
    fs::remove_dir_all(dir.path().join("db")).unwrap();

    let (store, report) = rebuilt(dir.path(), "vmpro1");
    assert_eq!((report.messages, report.unreadable), (1, 2));
    assert_eq!(store.read_audio(&kept.audio).unwrap(), b"kept");
    let aside = report.audio_set_aside.unwrap();
    assert_eq!(fs::read_dir(aside).unwrap().count(), 2);
}

/// What only reading all of a file shows, `store rebuild` finds, and the peer's file takes its place.
#[test]
fn damaged_audio_is_found_by_reading_it_and_comes_back_from_the_peer() {
    let (dir, store) = node("vmpro1");
    let (_peer, peer) = node("vmpro2");
    mailbox(&store, "2001");
    let [kept, garbled] = [b"kept", b"garb"].map(|b| deposit(&store, "2001", b.as_slice()));
    synchronise(&store, &peer);
    drop(store);
    let name = format!("{}.vma", garbled.audio.blob);
    let path = dir.path().join("audio").join(&name[34..36]).join(name);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();

    let store = open(dir.path(), "vmpro1");
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    let quick = store.check_audio(false, &mut |_| {}).unwrap();
    assert_eq!((quick.files, quick.problems.len()), (2, 0));
    let check = store.check_audio(true, &mut |_| {}).unwrap();
    assert_eq!((check.files, check.problems.len()), (1, 1));
    let problem = &check.problems[0];
    assert!(
        problem.contains(&garbled.id.to_string()) && problem.contains("SHA-256"),
        "{problem}"
    );
    drop(store);
    let options = options("vmpro1");
    let report = rebuild(dir.path(), options, "a test", true, &mut |_, _| {}).unwrap();
    assert_eq!((report.messages, report.unreadable), (1, 1));
    let store = open(dir.path(), "vmpro1");
    assert!(store.message(kept.id).unwrap().is_some());
    synchronise(&store, &peer);
    assert_eq!(store.read_audio(&garbled.audio).unwrap(), b"garb");
    assert_same(&store, &peer);
    assert_eq!(
        store.check_audio(true, &mut |_| {}).unwrap().problems,
        [] as [String; 0]
    );
}

#[test]
fn an_interrupted_rebuild_begins_anew_and_only_three_old_indexes_are_kept() {
    let (dir, store) = node("vmpro1");
    mailbox(&store, "2001");
    deposit(&store, "2001", b"hello");
    drop(store);
    let dir = dir.path();
    // As a crash leaves it while building, and between the two moves.
    fs::create_dir(dir.join("db.rebuilding")).unwrap();
    fs::write(dir.join("db.rebuilding/db"), b"half").unwrap();
    copy(&dir.join("db"), &dir.join("db.damaged-20200101T000000Z"));
    fs::remove_dir_all(dir.join("db")).unwrap();
    assert!(damage(dir, "vmpro1").contains("not there"));
    let (store, report) = rebuilt(dir, "vmpro1");
    assert_eq!((report.messages, report.set_aside), (1, None));
    drop(store);
    for round in 0..3 {
        fs::write(file(dir), b"").unwrap();
        let (_, report) = rebuilt(dir, "vmpro1");
        assert_eq!(report.messages, 1);
        assert_eq!(report.removed.len(), usize::from(round == 2));
    }
    let kept = named_so(dir, "db.");
    assert_eq!(kept.len(), 3, "{kept:?}");
    assert!(!kept[0].contains("2020"), "the oldest has gone: {kept:?}");
}

/// sled drops the damaged end of its log without a word.
#[test]
fn an_index_that_fell_back_is_not_taken_for_a_sound_one() {
    let (dir, store) = node("vmpro1");
    mailbox(&store, "2001");
    drop(store);
    let old = dir.path().join("old");
    copy(&dir.path().join("db"), &old);
    let store = open(dir.path(), "vmpro1");
    let message = deposit(&store, "2001", b"acknowledged");
    drop(store);
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    copy(&old, &dir.path().join("db"));

    let (store, report) = rebuilt(dir.path(), "vmpro1");
    assert!(report.why.contains("made durable"), "{}", report.why);
    assert_eq!(store.read_audio(&message.audio).unwrap(), b"acknowledged");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_folder_in_use_is_not_rebuilt() {
    let (dir, store) = node("vmpro1");
    let busy = rebuild(
        dir.path(),
        options("vmpro1"),
        "a test",
        false,
        &mut |_, _| {},
    );
    let error = busy.unwrap_err().to_string();
    assert!(error.contains("in use by another"), "{error}");
    drop(store);
}
