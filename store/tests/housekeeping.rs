//! Housekeeping: played messages become deleted, deleted ones go; nothing else does.

#![allow(
    clippy::unwrap_used,
    reason = "a failed expectation is the failure of the test"
)]

mod common;

use std::sync::atomic::{AtomicU64, Ordering};

use common::{assert_sound, deposit, ext, link::assert_same, link::synchronise, mailbox};
use vmsync_config::words::UnixMillis;
use vmsync_store::{
    Housekept, Keep, Options, Store,
    model::{MailboxPatch, MessageState},
};

static HOURS: AtomicU64 = AtomicU64::new(0);
static TICKS: AtomicU64 = AtomicU64::new(0);

/// A clock this test sets, which still goes on by itself.
fn clock() -> UnixMillis {
    let ticks = TICKS.fetch_add(1, Ordering::Relaxed);
    UnixMillis(1_790_000_000_000 + HOURS.load(Ordering::Relaxed) * 3_600_000 + ticks)
}

fn node(id: &str) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        clock,
        ..common::options(id)
    };
    let store = Store::open(dir.path(), options).unwrap();
    (dir, store)
}

fn pass(store: &Store) -> (u64, u64) {
    let done = store
        .housekeep(&Keep::default(), None, usize::MAX, &|_| true)
        .unwrap();
    assert_eq!(done.through, None);
    (done.deleted, done.purged)
}

#[test]
fn a_message_is_played_kept_a_day_deleted_kept_another_and_gone_on_both_nodes() {
    let (_a, a) = node("vmpro1");
    let (_b, b) = node("vmpro2");
    mailbox(&a, "2001");
    mailbox(&a, "2002");
    let [unheard, played, saved, taken_back] =
        [b"1", b"2", b"3", b"4"].map(|s| deposit(&a, "2001", s).id);
    for id in [played, taken_back] {
        a.set_message_state(id, MessageState::Old).unwrap();
    }
    a.set_message_state(saved, MessageState::Saved).unwrap();
    assert_eq!(pass(&a), (0, 0));
    HOURS.fetch_add(23, Ordering::Relaxed);
    // Playing it again begins no new day, saving it does something.
    a.set_message_state(played, MessageState::Old).unwrap();
    assert_eq!(pass(&a), (0, 0));
    HOURS.fetch_add(2, Ordering::Relaxed);
    assert_eq!(pass(&a), (2, 0));
    assert_eq!(pass(&a), (0, 0), "done is done");
    let state = |store: &Store, id| store.message(id).unwrap().map(|m| m.state);
    assert_eq!(state(&a, played), Some(MessageState::Deleted));
    // The user takes one back in time.
    a.set_message_state(taken_back, MessageState::Saved)
        .unwrap();
    synchronise(&a, &b);
    HOURS.fetch_add(24, Ordering::Relaxed);
    assert_eq!(pass(&a), (0, 1));
    synchronise(&a, &b);
    for store in [&a, &b] {
        assert_eq!(state(store, played), None);
        assert_eq!(state(store, unheard), Some(MessageState::New));
        assert_eq!(state(store, saved), Some(MessageState::Saved));
        assert_eq!(state(store, taken_back), Some(MessageState::Saved));
        assert_sound(store);
    }
    assert_same(&a, &b);

    // Only mailboxes of systems that are served here; and a piece at a time.
    let branch = MailboxPatch {
        home_system: Some("branch".to_owned()),
        ..MailboxPatch::default()
    };
    a.change_mailbox(&ext("2002"), &branch).unwrap();
    for mailbox in ["2001", "2002"] {
        let id = deposit(&a, mailbox, b"5").id;
        a.set_message_state(id, MessageState::Old).unwrap();
    }
    HOURS.fetch_add(25, Ordering::Relaxed);
    let elsewhere = |s: Option<&vmsync_config::words::SystemName>| s.is_none();
    let first = a.housekeep(&Keep::default(), None, 1, &elsewhere).unwrap();
    let expected = Housekept {
        deleted: 1,
        purged: 0,
        through: Some(ext("2001")),
    };
    assert_eq!(first, expected);
    let rest = a
        .housekeep(&Keep::default(), first.through.as_ref(), 1, &elsewhere)
        .unwrap();
    assert_eq!(rest, Housekept::default());
    let all = Keep {
        old: 0,
        deleted: 0,
        ..Keep::default()
    };
    assert_eq!(
        a.housekeep(&all, None, 1, &|_| true).unwrap(),
        Housekept::default(),
        "0 = for ever"
    );
}
