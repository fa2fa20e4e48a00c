//! Equal vectors, different digests: found by items, joined, nothing deleted.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed expectation is the failure of the test"
)]

mod common;

use std::sync::{Arc, Mutex};

use common::{
    deposit, ext,
    link::{assert_same, repair, synchronise},
    mailbox, node,
};
use serde_json::json;
use vmsync_store::{BucketItems, EntityKey, Operation, PeerRecord, Store, model::MessageState};

/// The same vector, but for each of the numbers of `origin` another operation.
fn apart(a: &Store, b: &Store) {
    let twin = |n: u64, value: &str| -> Operation {
        serde_json::from_value(json!({
            "stamp": {"at": {"wall": "2026-11-22T08:00:00Z"}, "origin": "vmpro9.00000009", "seq": n},
            "entity": format!("setting/{value}"),
            "effect": {"set": {"value": value}},
        }))
        .unwrap()
    };
    a.apply(&[twin(1, "both"), twin(2, "left")]).unwrap();
    b.apply(&[twin(1, "both"), twin(2, "right")]).unwrap();
}

#[test]
fn two_states_that_differ_become_one_and_keep_all_of_either() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    mailbox(&a, "2001");
    deposit(&a, "2001", b"hello");
    synchronise(&a, &b);
    apart(&a, &b);
    assert_eq!(a.have(), b.have());
    assert_ne!(a.digest(), b.digest());
    let listed = |store: &Store| {
        let all: Vec<u8> = (0..=255).collect();
        let items = store.items(&all).unwrap();
        items.into_iter().flat_map(|b| b.items).count()
    };
    assert_eq!((listed(&a), listed(&b)), (4, 4));
    let heard = Arc::new(Mutex::new(Vec::new()));
    b.on_commit({
        let heard = heard.clone();
        Box::new(move |c| {
            heard.lock().unwrap().extend(c.joined.iter().cloned());
            assert!(c.operations.is_empty() && c.remote);
        })
    });
    repair(&a, &b);
    assert_same(&a, &b);
    for store in [&a, &b] {
        let settings = store.settings().unwrap();
        assert_eq!(settings["left"].0, "left");
        assert_eq!(settings["right"].0, "right");
    }
    assert_eq!(
        *heard.lock().unwrap(),
        [(EntityKey::Setting("left".into()), false)]
    );
}

#[test]
fn audio_lost_on_one_node_comes_back_from_the_other() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    mailbox(&a, "2001");
    let message = deposit(&a, "2001", b"hello");
    synchronise(&a, &b);
    let name = format!("{}.vma", message.audio.blob);
    let place = b.dir().join("audio").join(&name[34..36]).join(&name);
    std::fs::remove_file(&place).unwrap();
    let bucket: Vec<u8> = (0..=255).collect();
    let theirs = b.items(&bucket).unwrap();
    let lacking: Vec<_> = theirs.iter().flat_map(|b| &b.items).collect();
    assert_eq!(lacking.iter().filter(|i| i.lacks_audio).count(), 1);
    let wanted = a.compare_items(&theirs).unwrap();
    assert_eq!(wanted, [EntityKey::Message(message.id)]);
    let records = a.records_of(&wanted).unwrap();
    let records = common::link::carry(&a, &b, records);
    assert_eq!(b.join(&records, None).unwrap().changed, 0);
    assert!(
        place.is_file(),
        "it is in its place again, not left with what comes in"
    );
    assert_same(&a, &b);
    // Who lacks it itself has nothing to offer.
    std::fs::remove_file(&place).unwrap();
    assert!(
        b.compare_items(&a.items(&bucket).unwrap())
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_deletion_on_one_side_stays_one() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    mailbox(&a, "2001");
    let (one, two) = (deposit(&a, "2001", b"one"), deposit(&a, "2001", b"two"));
    synchronise(&a, &b);
    a.purge_message(one.id).unwrap();
    b.set_message_state(one.id, MessageState::Saved).unwrap();
    a.set_message_state(two.id, MessageState::Old).unwrap();
    repair(&a, &b);
    for store in [&a, &b] {
        assert!(store.message(one.id).unwrap().is_none());
        let two = store.message(two.id).unwrap().unwrap();
        assert_eq!(two.state, MessageState::Old);
        assert_eq!(store.mailbox(&ext("2001")).unwrap().unwrap().counts.old, 1);
    }
    assert_eq!(a.buckets().1, b.buckets().1);
    // The operations behind it still come, and change nothing.
    synchronise(&a, &b);
    assert_same(&a, &b);
}

#[test]
fn an_empty_list_of_a_bucket_asks_for_all_of_it_and_no_list_for_nothing() {
    let (_a, a) = node("vmpro1");
    for n in 0..40 {
        a.set_setting(&format!("s{n}"), json!(n)).unwrap();
    }
    let all: Vec<u8> = (0..=255).collect();
    let lists = a.items(&all).unwrap();
    assert_eq!(lists.iter().map(|l| l.items.len()).sum::<usize>(), 40);
    assert!(a.compare_items(&lists).unwrap().is_empty());
    assert!(a.compare_items(&[]).unwrap().is_empty());
    let full = lists.iter().max_by_key(|l| l.items.len()).unwrap();
    let none = BucketItems {
        bucket: full.bucket,
        items: Vec::new(),
    };
    let wanted = a.compare_items(&[none]).unwrap();
    let listed: Vec<_> = full.items.iter().map(|i| i.entity.clone()).collect();
    assert_eq!(wanted, listed);
}

#[test]
fn a_change_made_after_joining_bears_a_later_stamp() {
    let (_a, a) = node("vmpro1");
    let ahead = "1790000200000.7@vmpro2.00000002#1";
    let record = PeerRecord {
        entity: EntityKey::Setting("x".into()),
        record: json!({"f": {"value": [1, ahead]}}),
    };
    a.join(&[record], None).unwrap();
    a.set_setting("y", json!(2)).unwrap();
    a.set_setting("x", json!(3)).unwrap();
    let settings = a.settings().unwrap();
    assert_eq!(settings["x"].0, 3);
    assert!(settings["y"].1.at.wall.0 >= 1_790_000_200_000);
}
