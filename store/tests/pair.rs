//! Two stores exchanging operations and audio through the public interface, as the nodes do.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed expectation is the failure of the test"
)]

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use common::{
    act, audio, deposit, ext,
    link::{assert_same, send, synchronise},
    mailbox, named, node,
};
use proptest::prelude::*;
use serde_json::json;
use vmsync_config::words::UnixMillis;
use vmsync_store::{
    Effect, EntityKey, GreetingKind, NewAudio, Operation, StoreError,
    model::{MailboxPatch, MessageState},
};

#[test]
fn a_message_arrives_byte_for_byte_with_its_later_changes() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    mailbox(&a, "2001");
    let message = deposit(&a, "2001", b"hello");
    synchronise(&a, &b);
    assert_eq!(b.message(message.id).unwrap().unwrap(), message);
    assert_eq!(b.read_audio(&message.audio).unwrap(), b"hello");
    b.set_message_state(message.id, MessageState::Old).unwrap();
    synchronise(&a, &b);
    let seen = a.message(message.id).unwrap().unwrap();
    assert_eq!(seen.state, MessageState::Old);
    a.purge_message(message.id).unwrap();
    synchronise(&a, &b);
    assert!(b.message(message.id).unwrap().is_none());
    assert_same(&a, &b);
}

#[test]
fn listeners_hear_of_every_commit_in_order() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    let heard = Arc::new(Mutex::new(Vec::new()));
    for store in [&a, &b] {
        let heard = heard.clone();
        store.on_commit(Box::new(move |c| {
            let seqs: Vec<u64> = c.operations.iter().map(|o| o.stamp.seq).collect();
            heard.lock().unwrap().push((c.remote, seqs));
        }));
    }
    mailbox(&a, "2001");
    mailbox(&a, "2002");
    synchronise(&a, &b);
    b.put_local("x", "y", Some(b"no operation")).unwrap();
    assert_eq!(
        *heard.lock().unwrap(),
        [(false, vec![1]), (false, vec![2]), (true, vec![1, 2])]
    );
}

#[test]
fn more_operations_than_one_transaction_takes_are_applied_up_to_what_is_wrong() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    for n in 0..1_100 {
        a.create_mailbox(&ext(&format!("{}", 10_000 + n)), &MailboxPatch::default())
            .unwrap();
    }
    let mut all = a.operations(&a.origin(), 0, 2_000).unwrap();
    all.remove(1_050);
    assert!(matches!(b.apply(&all), Err(StoreError::Gap { .. })));
    assert_eq!(b.have().get(&a.origin()), 1_000);
    assert_eq!(b.apply(&all[..1_050]).unwrap(), 50);
    synchronise(&a, &b);
    assert_same(&a, &b);
}

#[test]
fn the_audio_of_a_mail_is_written_side_by_side_and_one_bad_file_is_told() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    mailbox(&a, "2001");
    let sounds: Vec<_> = (0..9).map(|n| format!("sound {n}").into_bytes()).collect();
    let messages: Vec<_> = sounds.iter().map(|s| deposit(&a, "2001", s)).collect();
    let files: Vec<_> = messages
        .iter()
        .zip(&sounds)
        .map(|(message, sound)| {
            let new = NewAudio {
                entity: EntityKey::Message(message.id),
                mailbox: Some(ext("2001")),
                audio: &message.audio,
                facts: json!({}),
            };
            (new, sound.as_slice())
        })
        .collect();
    let mut wrong = files.clone();
    wrong[7].1 = b"silence";
    assert!(matches!(b.put_audios(&wrong), Err(StoreError::Invalid(_))));
    b.put_audios(&files).unwrap();
    b.put_audios(&files).unwrap();
    b.put_audios(&[]).unwrap();
    b.apply(&a.operations(&a.origin(), 0, 100).unwrap())
        .unwrap();
    for (message, sound) in messages.iter().zip(&sounds) {
        assert_eq!(&b.read_audio(&message.audio).unwrap(), sound);
    }
    assert_same(&a, &b);
}

#[test]
fn gaps_and_missing_audio_are_refused_whole_and_repeats_are_skipped() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    mailbox(&a, "2001");
    mailbox(&a, "2002");
    let message = deposit(&a, "2001", b"hello");
    let all = a.operations(&a.origin(), 0, 10).unwrap();
    assert!(matches!(
        b.apply(&all[1..]),
        Err(StoreError::Gap {
            expected: 1,
            got: 2,
            ..
        })
    ));
    assert!(matches!(b.apply(&all), Err(StoreError::MissingAudio(id)) if id == message.audio.blob));
    assert!(b.have().is_empty(), "nothing of a refused batch is held");
    assert_eq!(b.apply(&all[..2]).unwrap(), 2);
    assert_eq!(b.apply(&all[..2]).unwrap(), 0);
    synchronise(&a, &b);
    assert_eq!(b.apply(&all).unwrap(), 0);
    assert_same(&a, &b);
}

#[test]
fn what_was_deleted_before_the_peer_saw_it_needs_no_audio() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    mailbox(&a, "2001");
    let gone = deposit(&a, "2001", b"gone");
    let set = |text: &[u8]| {
        a.set_greeting(
            &ext("2001"),
            GreetingKind::Busy,
            audio(text),
            text,
            Some(UnixMillis(1_800_000_000_000)),
        )
        .unwrap()
    };
    set(b"first greeting");
    set(b"second greeting");
    a.purge_message(gone.id).unwrap();
    // One by one, so that the peer sees each state in between.
    while send(&a, &b, &a.origin(), 1) > 0 {}
    assert_same(&a, &b);
    let greeting = b.greeting(&ext("2001"), GreetingKind::Busy).unwrap();
    assert_eq!(
        b.read_audio(&greeting.unwrap().audio).unwrap(),
        b"second greeting"
    );
}

#[test]
fn deleting_a_mailbox_never_deletes_a_message_it_had_not_seen() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    mailbox(&a, "2001");
    let seen = deposit(&a, "2001", b"seen");
    synchronise(&a, &b);
    // A partition: one node deletes the mailbox, the other takes a message for it.
    a.delete_mailbox(&ext("2001")).unwrap();
    let unseen = deposit(&b, "2001", b"unseen");
    synchronise(&a, &b);
    assert_same(&a, &b);
    for store in [&a, &b] {
        let left = store.mailbox(&ext("2001")).unwrap().unwrap();
        assert!(left.deleted && !left.enabled);
        assert_eq!(left.counts.new, 1);
        assert_eq!(store.mailboxes(None, 10).unwrap().items, [left]);
        assert!(store.message(seen.id).unwrap().is_none());
        assert_eq!(store.read_audio(&unseen.audio).unwrap(), b"unseen");
    }
    // Deleted again, now that the message was seen, nothing is left.
    a.delete_mailbox(&ext("2001")).unwrap();
    synchronise(&a, &b);
    assert!(b.mailbox(&ext("2001")).unwrap().is_none());
    assert_same(&a, &b);
}

/// R-CF-5, R-CF-6, R-MB-7.
#[test]
fn a_greeting_and_a_call_flow_changed_apart_are_both_kept() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    mailbox(&a, "2001");
    synchronise(&a, &b);
    let (e, kind) = (ext("2001"), GreetingKind::Standard);
    a.set_greeting(&e, kind, audio(b"from a"), b"from a", None)
        .unwrap();
    b.set_greeting(&e, kind, audio(b"from b"), b"from b", None)
        .unwrap();
    a.set_flow("main", "by = \"a\"").unwrap();
    b.set_flow("main", "by = \"b\"").unwrap();
    synchronise(&a, &b);
    assert_same(&a, &b);
    for store in [&a, &b] {
        let greeting = store.greeting(&e, kind).unwrap().unwrap();
        assert_eq!(store.read_audio(&greeting.audio).unwrap(), b"from b");
        let lost: Vec<_> = greeting.conflicts.iter().collect();
        assert_eq!(store.read_audio(lost[0]).unwrap(), b"from a");
        let flow = store.flow("main").unwrap().unwrap();
        assert_eq!(
            (flow.source.as_str(), flow.conflicts.as_slice()),
            ("by = \"b\"", ["by = \"a\"".to_owned()].as_slice())
        );
    }
    a.set_flow("main", "settled = true").unwrap();
    a.set_greeting(&e, kind, audio(b"settled"), b"settled", None)
        .unwrap();
    synchronise(&a, &b);
    assert!(b.flow("main").unwrap().unwrap().conflicts.is_empty());
    assert!(b.greeting(&e, kind).unwrap().unwrap().conflicts.is_empty());
    assert_same(&a, &b);
}

#[test]
fn a_store_restored_from_a_backup_takes_a_new_incarnation_and_gets_back_what_it_lost() {
    let (_a, old) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    mailbox(&old, "2001");
    let message = deposit(&old, "2001", b"hello");
    synchronise(&old, &b);
    let before = old.origin();

    // An empty disk: another incarnation from the start.
    let (_c, new) = node("vmpro1");
    assert_ne!(new.origin(), before);
    mailbox(&new, "2002");
    synchronise(&new, &b);
    assert_eq!(new.message(message.id).unwrap().unwrap(), message);
    assert_same(&new, &b);

    // A copy of itself that is behind: refused until it takes a new incarnation.
    let ahead = Operation {
        stamp: vmsync_store::Stamp {
            at: vmsync_store::Hlc::default(),
            origin: new.origin(),
            seq: 2,
        },
        entity: EntityKey::Setting("x".into()),
        effect: Effect::Set([("value".into(), json!(1))].into()),
        extra: std::collections::BTreeMap::new(),
    };
    assert!(matches!(
        new.apply(std::slice::from_ref(&ahead)),
        Err(StoreError::Conflict(_))
    ));
    let fresh = new.new_incarnation().unwrap();
    assert_eq!(new.origin(), fresh);
    assert_eq!(new.apply(&[ahead]).unwrap(), 1);
    mailbox(&new, "2003");
    assert_eq!(new.have().get(&fresh), 1);
    synchronise(&new, &b);
    assert_same(&new, &b);
}

#[test]
fn a_peer_clock_far_ahead_is_told_but_not_followed() {
    let (_a, a) = node("vmpro1");
    let wrong = Operation {
        stamp: vmsync_store::Stamp {
            at: vmsync_store::Hlc {
                wall: UnixMillis(4_000_000_000_000),
                count: 0,
            },
            origin: "vmpro2.0000000a".parse().unwrap(),
            seq: 1,
        },
        entity: EntityKey::Setting("failback.policy".into()),
        effect: Effect::Set([("value".into(), json!("manual"))].into()),
        extra: std::collections::BTreeMap::new(),
    };
    a.apply(&[wrong]).unwrap();
    assert!(a.clock_ahead_ms() > vmsync_store::MAX_CLOCK_AHEAD_MS);
    mailbox(&a, "2001");
    let own = a.operations(&a.origin(), 0, 1).unwrap();
    assert!(own[0].stamp.at.wall < UnixMillis(2_000_000_000_000));
    // A change made here upon the peer's wins all the same.
    a.set_setting("failback.policy", json!("graceful")).unwrap();
    assert_eq!(a.settings().unwrap()["failback.policy"].0, "graceful");
}

#[test]
fn operations_of_kinds_and_fields_unknown_here_are_kept_and_passed_on() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    let text = r#"{"stamp":{"at":{"wall":"2026-11-22T08:00:00Z"},"origin":"vmpro9.00000001","seq":1},
        "entity":"fax/7","effect":{"set":{"pages":2.1}},"urgency":"high"}"#;
    let newer: Operation = serde_json::from_str(text).unwrap();
    a.apply(std::slice::from_ref(&newer)).unwrap();
    synchronise(&a, &b);
    let held = b.operations(&newer.stamp.origin, 0, 10).unwrap();
    assert_eq!(held, [newer]);
    assert_same(&a, &b);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn two_nodes_used_at_random_with_a_ragged_link_end_up_the_same(
        steps in proptest::collection::vec((any::<bool>(), 0..18u8, any::<u8>()), 1..60)
    ) {
        let (_a, a) = node("vmpro1");
        let (_b, b) = node("vmpro2");
        for (n, (left, what, which)) in steps.into_iter().enumerate() {
            let (here, there) = if left { (&a, &b) } else { (&b, &a) };
            if what >= 15 {
                send(here, there, &here.origin(), usize::from(which % 4));
            } else {
                act(here, what, which, n);
            }
        }
        synchronise(&a, &b);
        assert_same(&a, &b);
    }
}

#[test]
fn records_show_a_peer_clock_far_ahead_as_operations_do_and_our_own_stamps_do_not() {
    let (_a, a) = node("vmpro1");
    let record = |origin: &str, wall: u64| vmsync_store::PeerRecord {
        entity: EntityKey::Setting("x.y".into()),
        record: json!({"f": {"value": [1, format!("{wall}.0@{origin}#1")]}}),
    };
    a.join(&[record("vmpro1.0000000b", 4_000_000_000_000)], None)
        .unwrap();
    assert_eq!(a.clock_ahead_ms(), 0, "an earlier life of this very node");
    a.join(&[record("vmpro2.0000000a", 4_000_000_000_000)], None)
        .unwrap();
    assert!(a.clock_ahead_ms() > vmsync_store::MAX_CLOCK_AHEAD_MS);
    a.join(&[record("vmpro2.0000000a", 1_000)], None).unwrap();
    assert_eq!(a.clock_ahead_ms(), 0);
}

#[test]
fn an_incarnation_nothing_was_written_under_leaves_no_trace() {
    let (_a, a) = node("vmpro1");
    mailbox(&a, "2001");
    let (have, seen) = (a.have(), a.seen());
    for _ in 0..5 {
        a.new_incarnation().unwrap();
    }
    assert_eq!(
        (a.have(), a.seen()),
        (have, seen),
        "starts alone add no origins"
    );
}

/// A long mail is taken in parts, each reading ahead for the next: what others write between two parts must
/// not be lost, nor what an earlier part wrote.
#[test]
fn a_long_mail_is_taken_as_if_operation_by_operation_while_others_write() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    for n in 0..20 {
        mailbox(&a, &format!("20{n:02}"));
    }
    synchronise(&a, &b);
    let after = a.have().get(&a.origin());
    for n in 0..6_000 {
        let patch = MailboxPatch {
            max_messages: Some(1 + n % 500),
            ..MailboxPatch::default()
        };
        // Few mailboxes, so that each part changes what the ones before and behind it change.
        a.change_mailbox(&ext(&format!("20{:02}", n % 20)), &patch)
            .unwrap();
    }
    let operations = a.operations(&a.origin(), after, usize::MAX).unwrap();
    assert_eq!(operations.len(), 6_000);
    let (taken, renamed) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for first in 0..4 {
            let (b, taken, renamed) = (&b, &taken, &renamed);
            scope.spawn(move || {
                for n in (0..20).cycle().skip(first) {
                    if taken.load(Ordering::Acquire) {
                        return;
                    }
                    let name = renamed.fetch_add(1, Ordering::Relaxed);
                    let name = named(&format!("name {name}"));
                    b.change_mailbox(&ext(&format!("20{n:02}")), &name).unwrap();
                }
            });
        }
        b.apply(&operations).unwrap();
        taken.store(true, Ordering::Release);
    });
    let renamed = renamed.into_inner();
    assert!(
        renamed > 10,
        "only {renamed} changes of others came between"
    );
    // At the other node each change comes by itself, and in another order.
    for operation in b.operations(&b.origin(), 0, usize::MAX).unwrap() {
        a.apply(&[operation]).unwrap();
    }
    assert_same(&a, &b);
}
