//! Which messages wait to be e-mailed, told by examples (R-MB-11, R-MB-5).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed expectation is the failure of the test"
)]

mod common;

use std::sync::atomic::{AtomicU64, Ordering};

use common::{assert_sound, deposit, ext, mailbox, node, open};
use vmsync_config::words::{EmailMode, UnixMillis};
use vmsync_store::{
    Keep, Options, Store, StoreError,
    model::{Mailbox, MailboxPatch, MessageState},
};

fn change(store: &Store, patch: &MailboxPatch) -> Result<Mailbox, StoreError> {
    store.change_mailbox(&ext("2001"), patch)
}

fn mode(mode: EmailMode) -> MailboxPatch {
    MailboxPatch {
        email_mode: Some(mode),
        ..MailboxPatch::default()
    }
}

fn address(email: &str) -> MailboxPatch {
    MailboxPatch {
        email: Some(email.into()),
        ..MailboxPatch::default()
    }
}

/// Mailbox 2001, which has its messages mailed as `copy`.
fn copying(store: &Store) {
    mailbox(store, "2001");
    let patch = MailboxPatch {
        email: Some("ann@example.com".into()),
        ..mode(EmailMode::Copy)
    };
    assert_eq!(change(store, &patch).unwrap().email_mode, EmailMode::Copy);
}

fn waiting(store: &Store) -> Vec<uuid::Uuid> {
    assert_sound(store);
    let found = store.unmailed(None, 10, 10).unwrap();
    found.into_iter().flat_map(|u| u.messages).collect()
}

#[test]
fn only_what_comes_after_the_mode_was_set_is_mailed() {
    let (_dir, store) = node("vmpro1");
    mailbox(&store, "2001");
    change(&store, &address("ann@example.com")).unwrap();
    deposit(&store, "2001", b"old");
    assert!(waiting(&store).is_empty());
    change(&store, &mode(EmailMode::Alert)).unwrap();
    let new = deposit(&store, "2001", b"new").id;
    assert_eq!(waiting(&store), [new]);
    // What waits goes by another mode; it is not taken for old.
    change(&store, &mode(EmailMode::Forward)).unwrap();
    assert_eq!(waiting(&store), [new]);
    // Off for a while: what came before and meanwhile is old.
    change(&store, &mode(EmailMode::Off)).unwrap();
    assert!(waiting(&store).is_empty());
    deposit(&store, "2001", b"meanwhile");
    change(&store, &mode(EmailMode::Copy)).unwrap();
    assert!(waiting(&store).is_empty());
    let newest = deposit(&store, "2001", b"newest").id;
    assert_eq!(waiting(&store), [newest]);
}

#[test]
fn a_mode_needs_an_address_that_smtp_can_carry() {
    let (_dir, store) = node("vmpro1");
    mailbox(&store, "2001");
    let error = change(&store, &mode(EmailMode::Copy)).unwrap_err();
    assert!(error.to_string().contains("set email too"), "{error}");
    for bad in [
        "zoë@example.com",
        "ann@bücher.example",
        "a b@example.com",
        "ann@-x.example",
        "ann@example.com>\r\nRCPT",
        ".ann@example.com",
        "\"ann\"@example.com",
    ] {
        let patch = MailboxPatch {
            email: Some(bad.into()),
            ..mode(EmailMode::Copy)
        };
        assert!(change(&store, &patch).is_err(), "{bad}");
    }
    copying_again(&store);
    let error = change(&store, &address("")).unwrap_err();
    assert!(error.to_string().contains("off first"), "{error}");
    let both = MailboxPatch {
        email: Some(String::new()),
        ..mode(EmailMode::Off)
    };
    assert_eq!(change(&store, &both).unwrap().email, None);
}

fn copying_again(store: &Store) {
    let patch = MailboxPatch {
        email: Some("ann+voice@mail.example.com".into()),
        ..mode(EmailMode::Copy)
    };
    change(store, &patch).unwrap();
}

#[test]
fn what_failed_waits_again_when_somebody_asks_for_it() {
    let (_dir, store) = node("vmpro1");
    mailbox(&store, "2001");
    let before = deposit(&store, "2001", b"before the mode").id;
    copying_again(&store);
    let all = [b"a", b"b", b"c", b"d"].map(|audio| deposit(&store, "2001", audio).id);
    let [a, b, c, d] = all;
    let ext = ext("2001");
    let fail = |id| store.mark_email_failed(id, "ann@example.com", "550 no such user");
    for id in [a, b, c, before] {
        fail(id).unwrap();
    }
    store.set_message_state(c, MessageState::Deleted).unwrap();
    store.mark_emailed(d, false).unwrap();
    assert!(waiting(&store).is_empty());

    // One of them; the same once more changes nothing.
    assert_eq!(store.email_again(&ext, Some(b)).unwrap(), 1);
    assert_eq!(waiting(&store), [b]);
    assert_eq!(store.message(b).unwrap().unwrap().email_failed, None);
    let have = store.have();
    for not_failed in [b, c, d, before] {
        let error = store.email_again(&ext, Some(not_failed)).unwrap_err();
        assert!(matches!(error, StoreError::Conflict(_)), "{error}");
    }
    let nobody = uuid::Uuid::now_v7();
    let error = store.email_again(&ext, Some(nobody)).unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    assert_eq!(store.have(), have);
    // All: but for what is deleted, or of before the mode.
    assert_eq!(store.email_again(&ext, None).unwrap(), 1);
    assert_eq!(waiting(&store), [a, b]);
    assert_eq!(store.email_again(&ext, None).unwrap(), 0);
    let marked = |id| store.message(id).unwrap().unwrap().email_failed.is_some();
    assert!(marked(c) && marked(before));
    // It may fail again, and be mailed in the end.
    fail(a).unwrap();
    assert_eq!(waiting(&store), [b]);
    store.email_again(&ext, Some(a)).unwrap();
    store.mark_emailed(a, false).unwrap();
    assert!(store.email_again(&ext, Some(a)).is_err());
    // Without a mode nothing waits.
    change(&store, &mode(EmailMode::Off)).unwrap();
    let error = store.email_again(&ext, None).unwrap_err();
    assert!(error.to_string().contains("email_mode first"), "{error}");
}

#[test]
fn a_mark_ends_the_waiting_and_a_forwarded_message_is_deleted_with_it() {
    let (_dir, store) = node("vmpro1");
    copying(&store);
    let [a, b, c, d] = [b"a", b"b", b"c", b"d"].map(|audio| deposit(&store, "2001", audio).id);
    store.set_message_state(c, MessageState::Saved).unwrap();
    assert_eq!(waiting(&store), [a, b, c, d]);
    let copied = store.mark_emailed(a, false).unwrap().unwrap();
    assert!(copied.emailed.is_some() && copied.state == MessageState::New);
    let forwarded = store.mark_emailed(b, true).unwrap().unwrap();
    assert!(forwarded.emailed.is_some() && forwarded.state == MessageState::Deleted);
    // Who saves a message means to find it again.
    let saved = store.mark_emailed(c, true).unwrap().unwrap();
    assert_eq!(saved.state, MessageState::Saved);
    let why = "mail.example.com answered 550 5.1.1 no\r\nsuch user";
    let failed = store.mark_email_failed(d, "ann@example.com", why);
    let failed = failed.unwrap().unwrap().email_failed.unwrap();
    assert!(failed.why.ends_with("5.1.1 no  such user"), "{failed:?}");
    assert!(waiting(&store).is_empty());
    // A second try of the same changes nothing.
    let have = store.have();
    store.mark_emailed(a, true).unwrap();
    store.mark_email_failed(d, "ann@example.com", why).unwrap();
    assert_eq!(store.have(), have);
    store.purge_message(a).unwrap();
    assert_eq!(store.mark_emailed(a, false).unwrap(), None);
}

#[test]
fn a_deleted_message_waits_only_once_it_is_back() {
    let (_dir, store) = node("vmpro1");
    copying(&store);
    let id = deposit(&store, "2001", b"a").id;
    store.set_message_state(id, MessageState::Deleted).unwrap();
    assert!(waiting(&store).is_empty());
    store.set_message_state(id, MessageState::Old).unwrap();
    assert_eq!(waiting(&store), [id]);
    store.clear_mailbox(&ext("2001")).unwrap();
    assert!(waiting(&store).is_empty());
    deposit(&store, "2001", b"b");
    store.delete_mailbox(&ext("2001")).unwrap();
    assert!(waiting(&store).is_empty());
    // Made anew it has no mode.
    assert_eq!(mailbox(&store, "2001").email_mode, EmailMode::Off);
    deposit(&store, "2001", b"c");
    assert!(waiting(&store).is_empty());
}

#[test]
fn what_waits_is_known_after_a_restart_and_at_the_peer_in_any_order() {
    let (dir, store) = node("vmpro1");
    copying(&store);
    let [a, b] = [b"a", b"b"].map(|audio| deposit(&store, "2001", audio).id);
    store.mark_emailed(a, false).unwrap();
    drop(store);
    let store = open(dir.path(), "vmpro1");
    assert_eq!(waiting(&store), [b]);

    let (_other_dir, peer) = node("vmpro2");
    for id in [a, b] {
        let audio = store.message(id).unwrap().unwrap().audio;
        let bytes = store.read_audio(&audio).unwrap();
        let new = vmsync_store::NewAudio {
            entity: vmsync_store::EntityKey::Message(id),
            mailbox: Some(ext("2001")),
            audio: &audio,
            facts: serde_json::json!({}),
        };
        peer.put_audios(&[(new, &bytes)]).unwrap();
    }
    let origin = store.origin();
    let last = store.have().get(&origin);
    for seq in 1..=last {
        let found = store.operations(&origin, seq - 1, 1).unwrap();
        peer.apply(&found).unwrap();
        assert_sound(&peer);
    }
    assert_eq!(waiting(&peer), [b]);
    assert_eq!(peer.digest().1, store.digest().1);
}

/// R-MB-9 after R-MB-11: what a user has played already is still mailed before it goes.
#[test]
fn housekeeping_leaves_what_waits_to_be_mailed() {
    static WALL: AtomicU64 = AtomicU64::new(1_790_000_000_000);
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        clock: || UnixMillis(WALL.fetch_add(1, Ordering::Relaxed)),
        ..common::options("vmpro1")
    };
    let store = Store::open(dir.path(), options).unwrap();
    copying(&store);
    let [a, b] = [b"a", b"b"].map(|audio| deposit(&store, "2001", audio).id);
    for id in [a, b] {
        store.set_message_state(id, MessageState::Old).unwrap();
    }
    store.mark_emailed(a, false).unwrap();
    WALL.fetch_add(25 * 3_600_000, Ordering::Relaxed);
    let done = store
        .housekeep(&Keep::default(), None, 100, &|_| true)
        .unwrap();
    assert_eq!(done.deleted, 1);
    assert_eq!(
        store.message(a).unwrap().unwrap().state,
        MessageState::Deleted
    );
    assert_eq!(waiting(&store), [b]);
    store.mark_emailed(b, false).unwrap();
    let done = store
        .housekeep(&Keep::default(), None, 100, &|_| true)
        .unwrap();
    assert_eq!(done.deleted, 1);
}

#[test]
fn mailboxes_are_gone_through_in_order_with_how_many_wait() {
    let (_dir, store) = node("vmpro1");
    for digits in ["20", "2001", "201"] {
        let patch = MailboxPatch {
            email: Some("ann@example.com".into()),
            ..mode(EmailMode::Copy)
        };
        store.create_mailbox(&ext(digits), &patch).unwrap();
    }
    for n in 0..5_u8 {
        deposit(&store, "2001", &[n]);
        deposit(&store, "20", &[n, n]);
    }
    let first = store.unmailed(None, 1, 2).unwrap();
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].mailbox.as_str(), first[0].waiting), ("20", 5));
    assert_eq!(first[0].messages.len(), 2);
    let next = store.unmailed(Some(&ext("20")), 5, 2).unwrap();
    assert_eq!(next.len(), 1);
    assert_eq!((next[0].mailbox.as_str(), next[0].waiting), ("2001", 5));
    assert!(store.unmailed(Some(&ext("2001")), 5, 2).unwrap().is_empty());
}
