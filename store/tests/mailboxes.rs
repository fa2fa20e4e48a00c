//! What a mailbox is and does, told by examples.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed expectation is the failure of the test"
)]

mod common;

use common::{assert_sound, audio, deposit, ext, files, from_source, mailbox, named, node};
use vmsync_store::{
    GreetingKind, StoreError,
    model::{Counts, MailboxPatch, MessageState},
};

/// R-MB-1, R-MB-2, R-MB-3.
#[test]
fn a_mailbox_is_created_changed_and_listed() {
    let (_dir, store) = node("vmpro1");
    let made = mailbox(&store, "2001");
    assert_eq!(made.name, "Ann");
    assert!(made.enabled && !made.deleted && !made.has_pin);
    assert!(matches!(
        store.create_mailbox(&ext("2001"), &named("Bob")),
        Err(StoreError::Conflict(_))
    ));

    let patch = MailboxPatch {
        email: Some("ann@example.com".into()),
        home_system: Some("Sydney-1".into()),
        max_messages: Some(10),
        ..MailboxPatch::default()
    };
    let changed = store.change_mailbox(&ext("2001"), &patch).unwrap();
    assert_eq!(changed.name, "Ann");
    assert_eq!(changed.email.as_deref(), Some("ann@example.com"));
    assert_eq!(changed.max_messages, Some(10));

    for n in 2002..2010 {
        mailbox(&store, &n.to_string());
    }
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.mailboxes(cursor.as_deref(), 4).unwrap();
        seen.extend(page.items.into_iter().map(|m| m.extension.to_string()));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    let expected: Vec<String> = (2001..2010).map(|n: u32| n.to_string()).collect();
    assert_eq!(seen, expected);
    assert!(store.mailboxes(Some("rubbish"), 4).is_err());
    assert_sound(&store);
}

/// R-MB-1: only its hash is kept.
#[test]
fn a_pin_is_checked_and_never_shown() {
    let (_dir, store) = node("vmpro1");
    mailbox(&store, "2001");
    assert!(!store.check_pin(&ext("2001"), "").unwrap());
    let patch = MailboxPatch {
        pin: Some("4711".into()),
        ..MailboxPatch::default()
    };
    let changed = store.change_mailbox(&ext("2001"), &patch).unwrap();
    assert!(changed.has_pin);
    assert!(!serde_json::to_string(&changed).unwrap().contains("argon2"));
    assert!(store.check_pin(&ext("2001"), "4711").unwrap());
    assert!(!store.check_pin(&ext("2001"), "4712").unwrap());
    assert!(store.check_pin(&ext("2999"), "4711").is_err());

    // R-MB-2: clearing keeps the PIN.
    deposit(&store, "2001", b"hello");
    store.clear_mailbox(&ext("2001")).unwrap();
    assert!(store.check_pin(&ext("2001"), "4711").unwrap());
    assert_eq!(store.totals().unwrap().messages, 0);
}

/// R-MB-4.
#[test]
fn a_message_goes_through_its_states() {
    let (dir, store) = node("vmpro1");
    mailbox(&store, "2001");
    let first = deposit(&store, "2001", b"first");
    let second = deposit(&store, "2001", b"second!");
    assert_eq!(first.state, MessageState::New);
    let counts = |store: &vmsync_store::Store| store.mailbox(&ext("2001")).unwrap().unwrap().counts;
    assert_eq!(
        counts(&store),
        Counts {
            new: 2,
            bytes: 12,
            ..Counts::default()
        }
    );
    store
        .set_message_state(first.id, MessageState::Old)
        .unwrap();
    store
        .set_message_state(second.id, MessageState::Deleted)
        .unwrap();
    let list = |states: &[MessageState]| -> Vec<uuid::Uuid> {
        let page = store.messages(&ext("2001"), states, None, 10).unwrap();
        page.items.into_iter().map(|m| m.id).collect()
    };
    assert_eq!(list(&[]), [first.id]);
    assert_eq!(list(&[MessageState::Deleted]), [second.id]);
    assert_eq!(store.read_audio(&second.audio).unwrap(), b"second!");

    store.purge_message(second.id).unwrap();
    assert!(store.message(second.id).unwrap().is_none());
    assert!(matches!(
        store.set_message_state(second.id, MessageState::New),
        Err(StoreError::NotFound { .. })
    ));
    assert!(matches!(
        store.purge_message(second.id),
        Err(StoreError::NotFound { .. })
    ));
    assert_eq!(
        files(&dir.path().join("audio")),
        [format!("{}.vma", first.audio.blob)]
    );
    assert_eq!(counts(&store).old, 1);
    assert_eq!(counts(&store).bytes, 5);
    assert_sound(&store);
}

#[test]
fn messages_are_paged_in_order_of_arrival() {
    let (_dir, store) = node("vmpro1");
    mailbox(&store, "2001");
    mailbox(&store, "200");
    deposit(&store, "200", b"another mailbox");
    let sent: Vec<_> = (0..7u8)
        .map(|n| deposit(&store, "2001", &[n; 3]).id)
        .collect();
    let (mut got, mut cursor) = (Vec::new(), None);
    loop {
        let page = store
            .messages(&ext("2001"), &[], cursor.as_deref(), 3)
            .unwrap();
        got.extend(page.items.into_iter().map(|m| m.id));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(got, sent);
    assert!(store.messages(&ext("2001"), &[], Some("zz"), 3).is_err());
}

#[test]
fn the_same_source_twice_is_one_message_and_one_file() {
    let (dir, store) = node("vmpro1");
    mailbox(&store, "2001");
    mailbox(&store, "2002");
    let facts = || from_source("<1@pbx.example.com>");
    let (first, new) = store
        .deposit(&ext("2001"), facts(), audio(b"hi"), b"hi")
        .unwrap();
    assert!(new);
    let (again, new) = store
        .deposit(&ext("2001"), facts(), audio(b"hi"), b"hi")
        .unwrap();
    assert!(!new);
    assert_eq!(again, first);
    let (other, new) = store
        .deposit(&ext("2002"), facts(), audio(b"hi"), b"hi")
        .unwrap();
    assert!(new);
    assert_ne!(other.id, first.id);
    assert_eq!(files(&dir.path().join("audio")).len(), 2);
    assert_sound(&store);
}

#[test]
fn a_mailbox_takes_nothing_when_unknown_disabled_or_full() {
    let (dir, store) = node("vmpro1");
    let refused = |digits: &str| {
        store
            .deposit(&ext(digits), from_source("x"), audio(b"hi"), b"hi")
            .unwrap_err()
    };
    assert!(matches!(refused("2001"), StoreError::NotFound { .. }));
    mailbox(&store, "2001");
    let change = |patch: MailboxPatch| store.change_mailbox(&ext("2001"), &patch).unwrap();
    change(MailboxPatch {
        enabled: Some(false),
        ..MailboxPatch::default()
    });
    assert!(matches!(refused("2001"), StoreError::Disabled(_)));
    change(MailboxPatch {
        enabled: Some(true),
        max_messages: Some(1),
        ..MailboxPatch::default()
    });
    let only = deposit(&store, "2001", b"only");
    assert!(matches!(refused("2001"), StoreError::MailboxFull(_)));
    // What is deleted does not count.
    store
        .set_message_state(only.id, MessageState::Deleted)
        .unwrap();
    deposit(&store, "2001", b"next");
    assert_eq!(files(&dir.path().join("audio")).len(), 2);

    let wrong = store.deposit(&ext("2001"), from_source("y"), audio(b"hi"), b"ho");
    assert!(matches!(wrong, Err(StoreError::Invalid(_))));
}

/// R-MB-7.
#[test]
fn greetings_are_set_replaced_and_removed_with_their_files() {
    let (dir, store) = node("vmpro1");
    mailbox(&store, "2001");
    let (e, busy) = (ext("2001"), GreetingKind::Busy);
    let set = |bytes: &[u8]| {
        store
            .set_greeting(&e, busy, audio(bytes), bytes, None)
            .unwrap()
    };
    set(b"I am busy");
    let second = set(b"I am busy, too");
    assert!(second.conflicts.is_empty());
    assert_eq!(store.greeting(&e, busy).unwrap().unwrap(), second);
    assert_eq!(store.mailbox(&e).unwrap().unwrap().greetings, [busy]);
    assert_eq!(
        files(&dir.path().join("audio")),
        [format!("{}.vma", second.audio.blob)]
    );
    store.remove_greeting(&e, busy).unwrap();
    assert!(store.greeting(&e, busy).unwrap().is_none());
    assert!(store.remove_greeting(&e, busy).is_err());
    assert!(files(&dir.path().join("audio")).is_empty());
    assert_sound(&store);
}

#[test]
fn a_deleted_mailbox_goes_with_all_it_held_and_starts_anew() {
    let (dir, store) = node("vmpro1");
    mailbox(&store, "2001");
    deposit(&store, "2001", b"hello");
    store
        .set_greeting(
            &ext("2001"),
            GreetingKind::Standard,
            audio(b"hi"),
            b"hi",
            None,
        )
        .unwrap();
    store.delete_mailbox(&ext("2001")).unwrap();
    assert!(store.mailbox(&ext("2001")).unwrap().is_none());
    assert!(store.delete_mailbox(&ext("2001")).is_err());
    assert!(files(&dir.path().join("audio")).is_empty());
    assert_sound(&store);

    let again = store
        .create_mailbox(&ext("2001"), &MailboxPatch::default())
        .unwrap();
    assert_eq!(again.name, "");
    assert!(again.greetings.is_empty());
    assert_eq!(store.totals().unwrap().mailboxes, 1);
    assert_sound(&store);
}

#[test]
fn call_flows_and_settings_are_kept() {
    let (_dir, store) = node("vmpro1");
    let large = "# a call flow\n".repeat(10_000);
    store.set_flow("main", &large).unwrap();
    store.set_flow("night", "start = 1").unwrap();
    assert_eq!(store.flow("main").unwrap().unwrap().source, large);
    let names: Vec<_> = store.flows().unwrap().into_iter().map(|f| f.name).collect();
    assert_eq!(names, ["main", "night"]);
    store.remove_flow("main").unwrap();
    assert!(store.flow("main").unwrap().is_none());
    assert!(store.remove_flow("main").is_err());
    assert!(store.set_flow("big", &"x".repeat(300_000)).is_err());

    store
        .set_setting("failback.policy", serde_json::json!("manual"))
        .unwrap();
    let settings = store.settings().unwrap();
    assert_eq!(settings["failback.policy"].0, "manual");
    assert_eq!(settings["failback.policy"].1.origin, store.origin());
    assert_sound(&store);
}

#[test]
fn local_records_stay_here() {
    let (_dir, store) = node("vmpro1");
    let before = store.digest();
    store
        .put_local("ownership", "primary", Some(b"epoch 1"))
        .unwrap();
    store
        .put_local("ownership", "secondary", Some(&vec![7; 100_000]))
        .unwrap();
    store
        .put_local("owner", "ship", Some(b"other space"))
        .unwrap();
    let all = store.locals("ownership").unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(all[0], ("primary".into(), b"epoch 1".to_vec()));
    let lights: [(&str, Option<&[u8]>); 2] = [("2001", Some(b"on")), ("2002", Some(b"on"))];
    store.put_locals("mwi", &lights).unwrap();
    store
        .put_locals("mwi", &[("2001", None), ("2003", Some(b"on"))])
        .unwrap();
    let on = store.locals("mwi").unwrap().into_iter().map(|(ext, _)| ext);
    assert_eq!(on.collect::<Vec<_>>(), ["2002", "2003"]);
    store.put_local("ownership", "primary", None).unwrap();
    assert_eq!(store.local("ownership", "primary").unwrap(), None);
    assert_eq!(store.digest(), before);
    assert!(store.have().is_empty());
}
