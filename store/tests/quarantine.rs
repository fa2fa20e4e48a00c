//! One bad operation never holds up the rest, and is never forgotten.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed expectation is the failure of the test"
)]

mod common;

use std::fs;

use common::{
    assert_sound, deposit, ext,
    link::{self, assert_same, carry, send, synchronise},
    mailbox, node, open,
};
use vmsync_store::{
    EntityKey, Operation, PeerRecord, Skip, Store, StoreError,
    model::{Message, MessageState},
};

/// Two nodes, and a message on the first that can't be sent: its audio file is damaged.
struct Pair {
    _dirs: (tempfile::TempDir, tempfile::TempDir),
    a: Store,
    b: Store,
    message: Message,
    skip: Skip,
}

fn damaged() -> Pair {
    let (dir_a, a) = node("vmpro1");
    let (dir_b, b) = node("vmpro2");
    mailbox(&a, "2001");
    synchronise(&a, &b);
    let message = deposit(&a, "2001", b"never to be heard");
    let path = audio_file(&a, &message);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let skip = Skip {
        origin: a.origin(),
        seq: message.stamp.seq,
        entity: EntityKey::Message(message.id),
        why: "its audio is unreadable".into(),
    };
    Pair {
        _dirs: (dir_a, dir_b),
        a,
        b,
        message,
        skip,
    }
}

fn audio_file(store: &Store, message: &Message) -> std::path::PathBuf {
    let name = format!("{}.vma", message.audio.blob);
    store.dir().join("audio").join(&name[34..36]).join(name)
}

fn both_skip(pair: &Pair) {
    for store in [&pair.a, &pair.b] {
        store.skip(std::slice::from_ref(&pair.skip)).unwrap();
    }
}

#[test]
fn a_message_that_cant_be_sent_holds_up_nothing_and_both_can_still_prove_the_rest() {
    let pair = damaged();
    let (a, b) = (&pair.a, &pair.b);
    assert!(link::try_send(a, b, &a.origin(), 10).is_err());
    both_skip(&pair);
    assert_eq!(a.digest(), b.digest());
    let after = deposit(a, "2001", b"the next caller");
    synchronise(a, b);
    assert_eq!(a.digest(), b.digest());
    assert_eq!(b.message(after.id).unwrap().unwrap(), after);
    for store in [a, b] {
        let listed = store.quarantined();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].entity, pair.skip.entity);
        assert_eq!(
            (&listed[0].origin, listed[0].seq),
            (&a.origin(), pair.skip.seq)
        );
        assert_eq!(listed[0].why, "its audio is unreadable");
        assert_sound(store);
    }
    // What it is can be told from the log of the node that never got it.
    let log = b.operations(&a.origin(), pair.skip.seq - 1, 1).unwrap();
    assert_eq!(log[0].skipped(), Some("its audio is unreadable"));
    // And it is so after a restart.
    let dir = b.dir();
    let (digest, listed) = (b.digest(), b.quarantined());
    drop(pair.b);
    let b = open(&dir, "vmpro2");
    assert_eq!((b.digest(), b.quarantined()), (digest, listed));
}

#[test]
fn later_operations_about_it_are_taken_and_a_purge_ends_it() {
    let pair = damaged();
    let (a, b) = (&pair.a, &pair.b);
    both_skip(&pair);
    a.set_message_state(pair.message.id, MessageState::Saved)
        .unwrap();
    synchronise(a, b);
    assert_eq!(a.digest(), b.digest());
    a.purge_message(pair.message.id).unwrap();
    synchronise(a, b);
    let entity = [pair.skip.entity.clone()];
    let records = carry(a, b, a.records_of(&entity).unwrap());
    b.join(&records, None).unwrap();
    a.release(&entity).unwrap();
    b.release(&entity).unwrap();
    assert_same(a, b);
    assert!(a.quarantined().is_empty() && b.quarantined().is_empty());
}

#[test]
fn it_ends_when_the_record_was_joined_with_its_audio() {
    let pair = damaged();
    let (a, b) = (&pair.a, &pair.b);
    both_skip(&pair);
    let entity = [pair.skip.entity.clone()];
    // The record alone may be joined meanwhile, but what it refers to is not here.
    let held = a.records_of(&entity).unwrap();
    let record = PeerRecord {
        entity: entity[0].clone(),
        record: held[0].record.clone(),
    };
    b.join(std::slice::from_ref(&record), None).unwrap();
    assert_eq!(a.digest(), b.digest());
    let missing = b.release(&entity);
    assert!(matches!(missing, Err(StoreError::MissingAudio(id)) if id == pair.message.audio.blob));
    assert_eq!(
        b.records_of(&entity).unwrap()[0].missing[0],
        pair.message.audio
    );
    assert_eq!(b.quarantined().len(), 1);
    // Somebody mends the file.
    let path = audio_file(a, &pair.message);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let records = carry(a, b, a.records_of(&entity).unwrap());
    assert_eq!(b.join(&records, None).unwrap().changed, 0);
    b.release(&entity).unwrap();
    a.release(&entity).unwrap();
    assert_eq!(
        b.read_audio(&pair.message.audio).unwrap(),
        b"never to be heard"
    );
    assert_same(a, b);
}

/// The peer asks to end the quarantine of `entity` with what it holds.
fn asks(from: &Store, to: &Store, entity: &EntityKey) -> Result<(), StoreError> {
    let entity = std::slice::from_ref(entity);
    let records = carry(from, to, from.records_of(entity).unwrap());
    to.join(&records, None).unwrap();
    to.release_with(entity, &records)
}

#[test]
fn only_who_holds_all_of_it_can_end_a_quarantine() {
    let pair = damaged();
    let (a, b) = (&pair.a, &pair.b);
    both_skip(&pair);
    let entity = &pair.skip.entity;
    // The second has nothing but a stand-in for it.
    let more = asks(b, a, entity);
    assert!(matches!(more, Err(StoreError::HoldsMore(e)) if e == *entity));
    assert!(a.is_quarantined(entity) && b.is_quarantined(entity));
    assert_eq!(a.digest(), b.digest());
    // Also where the first has ended it already.
    let path = audio_file(a, &pair.message);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    a.release(std::slice::from_ref(entity)).unwrap();
    assert!(asks(b, a, entity).is_err());
    // The first has all of it.
    asks(a, b, entity).unwrap();
    assert!(!b.is_quarantined(entity));
    assert_same(a, b);
    // A repetition changes nothing.
    asks(a, b, entity).unwrap();
}

#[test]
fn where_each_lacks_something_of_the_other_both_have_to_send_theirs() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    let entity = EntityKey::Flow("welcome".into());
    a.set_flow("welcome", "one").unwrap();
    b.set_flow("welcome", "two").unwrap();
    let skip = |from: &Store| Skip {
        origin: from.origin(),
        seq: 1,
        entity: entity.clone(),
        why: "refused".into(),
    };
    for store in [&a, &b] {
        store.skip(&[skip(&a), skip(&b)]).unwrap();
    }
    assert_eq!(a.digest(), b.digest());
    assert!(asks(&a, &b, &entity).is_err());
    // Now the second holds both versions.
    asks(&b, &a, &entity).unwrap();
    b.release(std::slice::from_ref(&entity)).unwrap();
    assert_same(&a, &b);
}

#[test]
fn what_nobody_holds_any_more_does_not_stay_quarantined() {
    let pair = damaged();
    let b = &pair.b;
    both_skip(&pair);
    // The first lost its disk; the second passes on the stand-in.
    let (_c, c) = node("vmpro1");
    send(b, &c, &pair.a.origin(), 100);
    assert!(c.is_quarantined(&pair.skip.entity) && b.is_quarantined(&pair.skip.entity));
    asks(b, &c, &pair.skip.entity).unwrap();
    b.release(std::slice::from_ref(&pair.skip.entity)).unwrap();
    assert_eq!(b.digest(), c.digest());
    assert!(b.quarantined().is_empty() && c.quarantined().is_empty());
}

#[test]
fn a_message_that_stayed_behind_counts_as_the_only_copy() {
    let pair = damaged();
    let (a, b) = (&pair.a, &pair.b);
    both_skip(&pair);
    synchronise(a, b);
    let after = deposit(a, "2001", b"the next caller");
    assert_eq!(a.backlog(&b.have()).unwrap().messages, 2);
    synchronise(a, b);
    assert_eq!(a.backlog(&b.have()).unwrap().messages, 1);
    // Not counted twice before the peer was told of the skip, and not where it is not.
    let mut before = b.have();
    before = before.meet(&[(a.origin(), pair.skip.seq - 1)].into_iter().collect());
    assert_eq!(a.backlog(&before).unwrap().messages, 2);
    assert_eq!(b.backlog(&a.have()).unwrap().messages, 0);
    a.purge_message(pair.message.id).unwrap();
    a.purge_message(after.id).unwrap();
    synchronise(a, b);
    assert_eq!(a.backlog(&b.have()).unwrap().messages, 0);
}

#[test]
fn the_peers_good_copy_replaces_a_damaged_file_under_quarantine() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    mailbox(&a, "2001");
    let message = deposit(&a, "2001", b"heard again");
    synchronise(&a, &b);
    let path = audio_file(&a, &message);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let entity = [EntityKey::Message(message.id)];
    let records = b.records_of(&entity).unwrap();
    carry(&b, &a, records.clone());
    assert!(
        a.read_audio(&message.audio).is_err(),
        "not looked at without need"
    );
    a.skip(&[Skip {
        origin: a.origin(),
        seq: 0,
        entity: entity[0].clone(),
        why: "its audio is damaged".into(),
    }])
    .unwrap();
    carry(&b, &a, records);
    assert_eq!(a.read_audio(&message.audio).unwrap(), b"heard again");
    a.release(&entity).unwrap();
    assert_same(&a, &b);
}

#[test]
fn skips_follow_the_log_as_operations_do() {
    let (_a, a) = node("vmpro1");
    let skip = |origin: &str, seq: u64, entity: &str| Skip {
        origin: origin.parse().unwrap(),
        seq,
        entity: entity.to_owned().try_into().unwrap(),
        why: "x".repeat(1_000),
    };
    let peer = "vmpro2.00000002";
    let error = a.skip(&[skip(peer, 2, "flow/x")]);
    assert!(matches!(
        error,
        Err(StoreError::Gap {
            expected: 1,
            got: 2,
            ..
        })
    ));
    let own = a.origin().to_string();
    let error = a.skip(&[skip(&own, 1, "flow/x")]);
    assert!(matches!(error, Err(StoreError::Conflict(_))));
    assert!(matches!(
        a.skip(&[skip(peer, 1, "flow/x"), skip(peer, u64::MAX, "flow/x")]),
        Err(StoreError::Invalid(_))
    ));
    assert!(a.quarantined().is_empty(), "all or nothing");
    a.skip(&[
        skip(peer, 1, "flow/x"),
        skip(peer, 2, "flow/x"),
        skip(peer, 0, "flow/y"),
    ])
    .unwrap();
    assert_eq!(a.have().get(&peer.parse().unwrap()), 2);
    let listed = a.quarantined();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0].why.len(), 300);
    // Also without a number: the one that stayed behind is still what is lacking.
    a.skip(&[skip(peer, 0, "flow/x")]).unwrap();
    let noted = &a.quarantined()[0];
    assert_eq!((noted.origin.to_string().as_str(), noted.seq), (peer, 2));
    // Repeated, it is noted and nothing else.
    a.skip(&[skip(peer, 1, "flow/x")]).unwrap();
    assert_eq!(a.have().get(&peer.parse().unwrap()), 2);
    assert_sound(&a);
}

#[test]
fn no_more_than_ten_thousand_are_noted() {
    let (_a, a) = node("vmpro1");
    let skip = |n: usize| Skip {
        origin: a.origin(),
        seq: 0,
        entity: EntityKey::Setting(format!("s{n}")),
        why: "a fault".into(),
    };
    let many: Vec<_> = (0..vmsync_store::MAX_QUARANTINED).map(skip).collect();
    a.skip(&many).unwrap();
    assert!(matches!(
        a.skip(&[skip(usize::MAX)]),
        Err(StoreError::QuarantineFull { most: 10_000 })
    ));
    a.skip(&many[..1]).unwrap();
    a.release(&[many[0].entity.clone()]).unwrap();
    a.skip(&[skip(usize::MAX)]).unwrap();
}

#[test]
fn a_store_that_gets_its_log_back_gets_the_record_for_what_was_skipped() {
    let pair = damaged();
    let (a, b) = (&pair.a, &pair.b);
    both_skip(&pair);
    // Resolved: what it was is on both nodes, but not in the log of the second.
    let path = audio_file(a, &pair.message);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let entity = [pair.skip.entity.clone()];
    b.join(&carry(a, b, a.records_of(&entity).unwrap()), None)
        .unwrap();
    a.release(&entity).unwrap();
    b.release(&entity).unwrap();
    // The mail with the skip comes again, late.
    b.skip(std::slice::from_ref(&pair.skip)).unwrap();
    assert!(b.quarantined().is_empty());
    // The first loses its disk, and is filled from the second.
    let (_c, c) = node("vmpro1");
    synchronise(&c, b);
    assert_eq!(c.message(pair.message.id).unwrap().unwrap(), pair.message);
    assert!(c.quarantined().is_empty());
    assert_same(&c, b);
}

#[test]
fn what_stands_for_a_skipped_operation_quarantines_wherever_it_is_applied() {
    let pair = damaged();
    let b = &pair.b;
    both_skip(&pair);
    let (_c, c) = node("vmpro3");
    send(b, &c, &pair.a.origin(), 100);
    assert_eq!(c.have(), b.have());
    assert_eq!(c.digest(), b.digest());
    assert_eq!(c.quarantined()[0].entity, pair.skip.entity);
    let stand_in: Operation = c
        .operations(&pair.a.origin(), pair.skip.seq - 1, 1)
        .unwrap()[0]
        .clone();
    assert_eq!(c.apply(&[stand_in]).unwrap(), 0);
    assert!(c.mailbox(&ext("2001")).unwrap().is_some());
}
