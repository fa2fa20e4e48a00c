//! The log is kept short, answers rightly above its floor, and says how much is left.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed expectation is the failure of the test"
)]

mod common;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use common::{
    assert_sound, deposit,
    link::{assert_same, deliver, synchronise},
    mailbox, node, open,
};
use serde_json::json;
use vmsync_config::words::{UnixMillis, Vector};
use vmsync_store::{Backlog, CompactTo, Operation, Store, StoreError, model::MessageState};

/// The log goes, whatever the peer has.
fn forget(store: &Store) -> u64 {
    store.compact(&CompactTo::default()).unwrap()
}

fn reopened(store: Store, node: &str) -> Store {
    let dir = store.dir();
    drop(store);
    open(&dir, node)
}

#[test]
fn below_the_floor_the_log_says_so_and_above_it_it_answers_as_before() {
    let (_a, a) = node("vmpro1");
    mailbox(&a, "2001");
    for n in 0..9u8 {
        deposit(&a, "2001", &[n]);
    }
    let origin = a.origin();
    let before = a.operations(&origin, 0, 100).unwrap();
    let all = |seq| CompactTo {
        both: [(origin.clone(), seq)].into_iter().collect(),
        keep: 3,
        most: 100,
        never_past: None,
    };
    assert_eq!(a.compact(&all(4)).unwrap(), 4);
    assert_eq!(a.floor().get(&origin), 4);
    for after in 0..4 {
        let answer = a.operations(&origin, after, 100);
        assert!(matches!(
            answer,
            Err(StoreError::BelowFloor { floor: 4, .. })
        ));
    }
    assert_eq!(a.operations(&origin, 4, 100).unwrap(), before[4..]);
    assert_eq!(a.operations(&origin, 9, 100).unwrap(), before[9..]);
    // The newest three stay, whatever both hold.
    assert_eq!(a.compact(&all(10)).unwrap(), 3);
    assert_eq!(a.compact(&all(10)).unwrap(), 0);
    assert_eq!(a.operations(&origin, 7, 100).unwrap(), before[7..]);
    assert_sound(&a);
    // And so it is after a restart, for a peer that has what went, and for one that has not.
    let (_b, b) = node("vmpro2");
    let a = reopened(a, "vmpro1");
    assert_eq!(a.floor().get(&origin), 7);
    assert_eq!(a.operations(&origin, 7, 100).unwrap(), before[7..]);
    mailbox(&a, "2002");
    synchronise(&a, &b);
    assert_same(&a, &b);
}

#[test]
fn what_is_left_is_counted_to_the_byte() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    mailbox(&a, "2001");
    deliver(&a, &b);
    deposit(&b, "2001", &[7; 1_000]);
    deliver(&b, &a);
    let held = a.have();
    let first = deposit(&a, "2001", &[0; 300]);
    deposit(&a, "2001", &[1; 500]);
    a.set_message_state(first.id, MessageState::Old).unwrap();
    let json: usize = a
        .operations(&a.origin(), held.get(&a.origin()), 10)
        .unwrap()
        .iter()
        .map(|o| serde_json::to_vec(o).unwrap().len())
        .sum();
    let expected = Backlog {
        operations: 3,
        bytes: 800 + json as u64,
        messages: 2,
        below_floor: false,
    };
    assert_eq!(a.backlog(&held).unwrap(), expected);
    assert_eq!(a.backlog(&a.have()).unwrap(), Backlog::default());
    // Compaction changes nothing above the floor; below it, all that is held is the measure.
    let both = CompactTo {
        both: held.clone(),
        most: 100,
        ..CompactTo::default()
    };
    a.compact(&both).unwrap();
    assert_eq!(a.backlog(&held).unwrap(), expected);
    let none = a.backlog(&Vector::default()).unwrap();
    assert_eq!((none.operations, none.messages), (5, 3));
    assert_eq!((none.bytes, none.below_floor), (1_800, true));
    // The totals go on after a restart, also where the log is empty.
    forget(&a);
    let a = reopened(a, "vmpro1");
    let held = a.have();
    deposit(&a, "2001", &[2; 50]);
    assert_eq!(a.backlog(&held).unwrap().messages, 1);
    assert_sound(&a);
}

/// Operations of the peer that set the states of `ids` in turn.
fn changes(ids: &[uuid::Uuid], from: u64, to: u64) -> Vec<Operation> {
    let change = |seq: u64| {
        let id = ids[usize::try_from(seq).unwrap() % ids.len()];
        serde_json::from_value(json!({
            "stamp": {"at": {"wall": UnixMillis(1_790_000_000_000 + seq)}, "origin": "vmpro2.00000002", "seq": seq},
            "entity": format!("message/{id}"),
            "effect": {"set": {"state": if seq.is_multiple_of(2) { "old" } else { "saved" }}},
        }))
        .unwrap()
    };
    (from..=to).map(change).collect()
}

#[test]
fn a_hundred_thousand_changes_of_fifty_messages_keep_the_log_under_its_bound() {
    const CHANGES: u64 = 100_000;
    let (_a, a) = node("vmpro1");
    mailbox(&a, "2001");
    let ids: Vec<_> = (0..50u8).map(|n| deposit(&a, "2001", &[n]).id).collect();
    let to = CompactTo {
        most: 5_000,
        keep: 1_000,
        ..CompactTo::default()
    };
    let entries = |s: &Store| {
        let floor = s.floor();
        let have = s.have();
        have.iter().map(|(o, n)| n - floor.get(o)).sum::<u64>()
    };
    let mut largest = 0;
    for last in (500..=CHANGES).step_by(500) {
        a.apply(&changes(&ids, last - 499, last)).unwrap();
        a.compact(&to).unwrap();
        assert!(entries(&a) <= to.most);
        largest = largest.max(bytes_of(&a.dir().join("db")));
    }
    assert_eq!(entries(&a), to.most);
    println!(
        "index at most {largest} bytes, {} at the end",
        bytes_of(&a.dir().join("db"))
    );
    // Twice what the same log takes that was never any longer.
    assert!(largest < 64 << 20, "{largest} bytes");
    assert_sound(&a);
}

fn bytes_of(dir: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    entries
        .map(|e| {
            if e.file_type().unwrap().is_dir() {
                bytes_of(&e.path())
            } else {
                e.metadata().map_or(0, |m| m.len())
            }
        })
        .sum()
}

#[test]
fn readers_of_a_log_being_compacted_get_it_whole_or_are_told() {
    let (_a, a) = node("vmpro1");
    mailbox(&a, "2001");
    let message = deposit(&a, "2001", b"hello");
    let change = |n: u64| {
        let states = [MessageState::Old, MessageState::Saved];
        a.set_message_state(message.id, states[usize::from(n.is_multiple_of(2))])
            .unwrap();
    };
    let origin = a.origin();
    let done = AtomicBool::new(false);
    let (mut answers, mut told) = (0, 0);
    thread::scope(|s| {
        s.spawn(|| {
            (0..1_500).for_each(change);
            done.store(true, Ordering::Relaxed);
        });
        s.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let to = CompactTo {
                    most: 20,
                    ..CompactTo::default()
                };
                a.compact(&to).unwrap();
            }
        });
        while !done.load(Ordering::Relaxed) {
            let after = a.floor().get(&origin);
            match a.operations(&origin, after, 1_000) {
                Ok(operations) => {
                    let seqs: Vec<_> = operations.iter().map(|o| o.stamp.seq).collect();
                    let whole: Vec<_> = (after + 1..).take(seqs.len()).collect();
                    assert_eq!(seqs, whole);
                    answers += 1;
                }
                Err(StoreError::BelowFloor { floor, .. }) => {
                    assert!(floor > after);
                    told += 1;
                }
                Err(error) => panic!("{error}"),
            }
            a.backlog(&[(origin.clone(), after)].into_iter().collect())
                .unwrap();
        }
    });
    assert!(answers > 0, "{answers} answers, {told} refusals");
    a.compact(&CompactTo {
        most: 20,
        ..CompactTo::default()
    })
    .unwrap();
    assert_eq!(a.have().get(&origin) - a.floor().get(&origin), 20);
    assert_sound(&a);
}
