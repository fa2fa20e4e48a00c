//! Compaction, and state for who lacks what the log no longer has.

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
    assert_sound, audio, deposit, ext,
    link::{self, assert_same, carry, deliver, next_step, synchronise},
    mailbox, named, node, open,
};
use serde_json::json;
use vmsync_config::words::{UnixMillis, Vector};
use vmsync_store::{
    Backlog, CompactTo, EntityKey, GreetingKind, Operation, PeerRecord, RecordsAsk, SeedStep,
    Store, StoreError, model::MessageState,
};

/// The log goes, whatever the peer has.
fn forget(store: &Store) -> u64 {
    store.compact(&CompactTo::default()).unwrap()
}

/// A little of everything, with the other node's hand in it.
fn lived_in(a: &Store, b: &Store) {
    mailbox(a, "2001");
    mailbox(a, "2002");
    synchronise(a, b);
    for n in 0..12u8 {
        let message = deposit(a, "2001", &[n; 100]);
        match n % 3 {
            0 => drop(
                a.set_message_state(message.id, MessageState::Saved)
                    .unwrap(),
            ),
            1 => a.purge_message(message.id).unwrap(),
            _ => {}
        }
    }
    let (e, kind) = (ext("2001"), GreetingKind::Busy);
    a.set_greeting(&e, kind, audio(b"from a"), b"from a", None)
        .unwrap();
    b.set_greeting(&e, kind, audio(b"from b"), b"from b", None)
        .unwrap();
    a.set_flow("main", "by = \"a\"").unwrap();
    b.set_flow("main", "by = \"b\"").unwrap();
    b.set_setting("failback.policy", json!("manual")).unwrap();
    synchronise(a, b);
    a.delete_mailbox(&ext("2002")).unwrap();
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

#[test]
fn an_empty_node_is_seeded_when_the_log_is_gone() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    lived_in(&a, &b);
    deliver(&a, &b);
    forget(&a);
    drop(b);
    // A new disk: another incarnation, nothing held.
    let (_c, new) = node("vmpro2");
    mailbox(&new, "2003");
    synchronise(&a, &new);
    assert_same(&a, &new);
    assert_eq!(new.seeding(), None);
    assert!(new.have().covers(&a.have()));
    // What the state stands for is not in its log either.
    assert!(new.floor().covers(&a.floor()));
    let greeting = new.greeting(&ext("2001"), GreetingKind::Busy).unwrap();
    assert_eq!(greeting.unwrap().conflicts.len(), 1);
    assert_eq!(new.flow("main").unwrap().unwrap().conflicts.len(), 1);
    // A change made upon what was seeded wins, here and there.
    new.set_flow("main", "settled = true").unwrap();
    new.change_mailbox(&ext("2001"), &named("Zoë")).unwrap();
    synchronise(&a, &new);
    assert_same(&a, &new);
    assert_eq!(a.mailbox(&ext("2001")).unwrap().unwrap().name, "Zoë");
    assert!(a.flow("main").unwrap().unwrap().conflicts.is_empty());
}

#[test]
fn a_seeding_cut_off_at_any_step_goes_on_where_it_was_on_either_side() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    lived_in(&a, &b);
    forget(&a);
    let upto = a.have();
    let steps = {
        let (_c, c) = node("vmpro2");
        std::iter::from_fn(|| step(&a, &c)).count()
    };
    assert!(steps > 5, "{steps}");
    let mut a = a;
    for cut in 1..steps {
        let (_c, mut c) = node("vmpro2");
        for _ in 0..cut {
            assert!(step(&a, &c).is_some());
        }
        let seeding = c.seeding().unwrap();
        assert_eq!(seeding.upto, upto);
        assert!(c.have().is_empty(), "nothing is promised before the end");
        c = reopened(c, "vmpro2");
        assert_eq!(c.seeding(), Some(seeding), "step {cut}");
        if cut % 3 == 0 {
            a = reopened(a, "vmpro1");
        }
        let rest = std::iter::from_fn(|| step(&a, &c)).count();
        assert_eq!(cut + rest, steps, "no step was made twice");
        assert_same(&a, &c);
    }
}

fn reopened(store: Store, node: &str) -> Store {
    let dir = store.dir();
    drop(store);
    open(&dir, node)
}

/// Makes one small step of a seeding, twice, as when the answer to the first was lost.
fn step(from: &Store, to: &Store) -> Option<()> {
    let (records, step) = next_step(from, to, 2)?;
    let records = carry(from, to, records);
    to.join(&records, Some(&step)).unwrap();
    let before = (to.seeding(), to.digest());
    assert_eq!(to.join(&records, Some(&step)).unwrap().changed, 0);
    assert_eq!((to.seeding(), to.digest()), before);
    Some(())
}

#[test]
fn steps_out_of_order_are_joined_and_move_nothing_and_another_end_begins_anew() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    for n in 0..6 {
        a.set_setting(&format!("s{n}"), json!(n)).unwrap();
    }
    let at = |after: Option<&str>, through: Option<&str>| SeedStep {
        upto: a.have(),
        after: after.map(str::to_owned),
        through: through.map(str::to_owned),
    };
    let last = a.records_of(&[EntityKey::Setting("s5".into())]).unwrap();
    let joined = b
        .join(&carry(&a, &b, last), Some(&at(Some("setting/s4"), None)))
        .unwrap();
    assert_eq!((joined.changed, b.seeding()), (1, None));
    assert!(b.have().is_empty());
    let (records, first) = next_step(&a, &b, 2).unwrap();
    b.join(&carry(&a, &b, records), Some(&first)).unwrap();
    let reached = |s: &Store| s.seeding().unwrap().after;
    assert_eq!(reached(&b).as_deref(), Some("setting/s1"));
    for (after, through) in [
        (Some("setting/s3"), None),
        (Some("setting/s2"), Some("setting/s4")),
        (None, Some("setting/s0")),
    ] {
        b.join(&[], Some(&at(after, through))).unwrap();
        assert_eq!(reached(&b).as_deref(), Some("setting/s1"));
    }
    // The sender has forgotten, holds more, and begins again.
    a.set_setting("s9", json!(9)).unwrap();
    b.join(&[], Some(&at(None, Some("setting/s0")))).unwrap();
    assert_eq!(reached(&b).as_deref(), Some("setting/s0"));
    link::seed(&a, &b, 2);
    assert_same(&a, &b);
}

#[test]
fn a_node_seeded_while_the_other_writes_ends_up_the_same() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    lived_in(&a, &b);
    forget(&a);
    let (_c, c) = node("vmpro2");
    let stop = AtomicBool::new(false);
    thread::scope(|s| {
        s.spawn(|| {
            mailbox(&a, "2100");
            for n in 0u32.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let message = deposit(&a, "2100", &n.to_be_bytes());
                match n % 4 {
                    0 => a.purge_message(message.id).unwrap(),
                    1 => drop(a.set_message_state(message.id, MessageState::Old).unwrap()),
                    2 => drop(a.set_flow("main", &format!("n = {n}")).unwrap()),
                    _ => {}
                }
            }
        });
        s.spawn(|| {
            for n in 0u32..60 {
                c.set_setting("seen", json!(n)).unwrap();
                c.set_flow("second", &format!("n = {n}")).unwrap();
            }
        });
        for _ in 0..3 {
            link::seed(&a, &c, 4);
            forget(&a);
        }
        stop.store(true, Ordering::Relaxed);
    });
    synchronise(&a, &c);
    synchronise(&a, &c);
    assert_same(&a, &c);
}

#[test]
fn only_what_the_vector_does_not_cover_is_sent() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    lived_in(&a, &b);
    deliver(&a, &b);
    let message = deposit(&a, "2001", b"new");
    a.set_flow("main", "other = true").unwrap();
    let page = a
        .records(&RecordsAsk {
            after: None,
            lacking: &b.have(),
            max: 100,
            max_bytes: u64::MAX,
        })
        .unwrap();
    let names: Vec<_> = page.records.iter().map(|r| r.entity.to_string()).collect();
    assert_eq!(
        names,
        ["flow/main".to_owned(), format!("message/{}", message.id)]
    );
    assert_eq!(page.through, None);
    assert_eq!(page.records[1].audio, [message.audio]);
    // One record at least, however little was asked for.
    let one = RecordsAsk {
        after: None,
        lacking: &Vector::default(),
        max: 0,
        max_bytes: 0,
    };
    let page = a.records(&one).unwrap();
    assert_eq!(page.records.len(), 1);
    assert_eq!(page.through, Some(page.records[0].entity.to_string()));
}

#[test]
fn a_restored_store_takes_a_new_incarnation_before_it_is_seeded() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    mailbox(&a, "2001");
    synchronise(&a, &b);
    // What `a` does now is lost with it: its folder is put back from a copy.
    let (copy, lost) = (tempfile::tempdir().unwrap(), a.dir());
    drop(a);
    copy_dir(&lost, copy.path());
    let a = open(&lost, "vmpro1");
    let message = deposit(&a, "2001", b"after the copy");
    synchronise(&a, &b);
    let old = a.origin();
    drop(a);
    forget(&b);

    let a = open(copy.path(), "vmpro1");
    let (records, step) = next_step(&b, &a, 100).unwrap();
    let records = carry(&b, &a, records);
    let conflict = |r: Result<_, StoreError>| matches!(r, Err(StoreError::Conflict(_)));
    assert!(conflict(a.join(&records, Some(&step))));
    assert!(conflict(a.join(&records, None)));
    assert!(conflict(a.join(&[], Some(&step))));
    assert!(a.message(message.id).unwrap().is_none());
    assert_ne!(a.new_incarnation().unwrap(), old);
    mailbox(&a, "2002");
    synchronise(&a, &b);
    assert_same(&a, &b);
    assert_eq!(a.message(message.id).unwrap().unwrap(), message);
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_record_without_its_audio_or_of_a_shape_nobody_writes_is_refused_whole() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    mailbox(&a, "2001");
    let message = deposit(&a, "2001", b"hello");
    let entity = EntityKey::Message(message.id);
    let held = a.records_of(&[ext_key("2001"), entity]).unwrap();
    let blob = held[1].audio[0].blob;
    let peer: Vec<_> = held
        .iter()
        .map(|h| PeerRecord {
            entity: h.entity.clone(),
            record: h.record.clone(),
        })
        .collect();
    let error = b.join(&peer, None);
    assert!(matches!(error, Err(StoreError::MissingAudio(id)) if id == blob));
    assert!(b.mailbox(&ext("2001")).unwrap().is_none());
    let wrong = |entity: &EntityKey, record: serde_json::Value| {
        let given = PeerRecord {
            entity: entity.clone(),
            record,
        };
        let error = b.join(&[given], None).unwrap_err();
        assert!(matches!(error, StoreError::Invalid(_)), "{error}");
    };
    let stamp = "1790000000000.0@vmpro1.00000001#1";
    wrong(&ext_key("2001"), json!({"f": {"name": ["x", "yesterday"]}}));
    wrong(
        &ext_key("2001"),
        json!({"f": {"name": ["x", "1790000000000.0@vmpro1.00000001#0"]}}),
    );
    wrong(
        &ext_key("2001"),
        json!({"f": {"x".repeat(201): ["x", stamp]}}),
    );
    wrong(&ext_key("2001"), json!({"v": [{"s": stamp, "f": {}}]}));
    wrong(
        &ext_key("2001"),
        json!({"f": {"name": ["x".repeat(17 << 20), stamp]}}),
    );
    wrong(&ext_key("2001"), json!([1, 2]));
    wrong(
        &"flow/main".to_owned().try_into().unwrap(),
        json!({"f": {"name": ["x", stamp]}}),
    );
    assert!(b.have().is_empty());
    assert_sound(&b);
    b.join(&carry(&a, &b, held), None).unwrap();
    assert_eq!(b.read_audio(&message.audio).unwrap(), b"hello");
    assert_eq!(a.buckets().1, b.buckets().1);
}

fn ext_key(digits: &str) -> EntityKey {
    EntityKey::Mailbox(ext(digits))
}

/// Operations of the peer that set the states of `ids` in turn.
fn changes(ids: &[uuid::Uuid], from: u64, to: u64) -> Vec<Operation> {
    let change = |seq: u64| {
        let id = ids[usize::try_from(seq).unwrap() % ids.len()];
        serde_json::from_value(json!({
            "stamp": {"at": {"wall": UnixMillis(1_790_000_000_000 + seq)}, "origin": "vmpro2.00000002", "seq": seq},
            "entity": format!("message/{id}"),
            "effect": {"set": {"state": if seq % 2 == 0 { "old" } else { "saved" }}},
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
        .map(|e| match e.file_type().unwrap().is_dir() {
            true => bytes_of(&e.path()),
            false => e.metadata().map_or(0, |m| m.len()),
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
        a.set_message_state(message.id, states[usize::from(n % 2 == 0)])
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
