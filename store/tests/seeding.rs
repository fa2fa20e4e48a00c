//! State for who lacks what the log no longer has.

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
use vmsync_config::words::Vector;
use vmsync_store::{
    CompactTo, EntityKey, GreetingKind, PeerRecord, RecordsAsk, SeedStep, Store, StoreError,
    model::MessageState,
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
        beyond: b.have(),
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

/// A mail that was late, or is sent again by a stranger, and a disk replaced since: the vector must
/// not promise what the step left out because the old store held it.
#[test]
fn a_step_made_for_a_store_that_held_more_does_not_fill_an_empty_one() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    lived_in(&a, &b);
    synchronise(&a, &b);
    deposit(&a, "2001", b"the only news");
    forget(&a);
    let (records, step) = next_step(&a, &b, 100).unwrap();
    assert_eq!((records.len(), step.through.as_deref()), (1, None));

    let (_c, c) = node("vmpro2");
    let records = carry(&a, &c, records);
    assert_eq!(c.join(&records, Some(&step)).unwrap().changed, 1);
    assert_eq!((c.have(), c.seeding()), (Vector::default(), None));
    link::seed(&a, &c, 2);
    assert_same(&a, &c);
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

/// The seeding was cut off, then its sender was replaced by an old copy: the numbers it has forgotten
/// are known here, from what the steps brought, and it must not use them again.
#[test]
fn numbers_that_came_with_a_cut_off_seeding_are_told() {
    let (_a, a) = node("vmpro1");
    mailbox(&a, "2001");
    for n in 0..12u8 {
        deposit(&a, "2001", &[n; 100]);
    }
    forget(&a);
    let (_c, c) = node("vmpro2");
    assert!(c.seen().is_empty());
    // The mailbox and some messages; and the end of a repair, to which no vector belongs.
    step(&a, &c).unwrap();
    let own = a.origin();
    assert_eq!((c.have().get(&own), c.seen().get(&own)), (0, 13));
    let (_d, d) = node("vmpro2");
    let last = a.messages(&ext("2001"), &[], None, 100).unwrap().items;
    let last = EntityKey::Message(last.last().unwrap().id);
    let records = carry(&a, &d, a.records_of(&[last]).unwrap());
    d.join(&records, None).unwrap();
    assert_eq!((d.have().get(&own), d.seen().get(&own)), (0, 13));
    for store in [c, d] {
        assert_eq!(reopened(store, "vmpro2").seen().get(&own), 13);
    }
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
