//! What the examples share: a node in a temporary folder, a clock that ticks by itself, audio.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each example uses part of it; a failed expectation is the failure of the test"
)]

pub(crate) mod link;

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use serde_json::json;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use vmsync_config::words::{EmailMode, Extension, UnixMillis};
use vmsync_store::{
    AudioRef, GreetingKind, Options, Store, StoreError,
    model::{Mailbox, MailboxPatch, Message, MessageFacts, MessageState},
};

static WALL: AtomicU64 = AtomicU64::new(1_790_000_000_000);

/// A wall clock that is a millisecond later each time it is read.
pub(crate) fn clock() -> UnixMillis {
    UnixMillis(WALL.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn options(node: &str) -> Options {
    Options {
        node: node.parse().unwrap(),
        min_free_bytes: 0,
        clock,
    }
}

pub(crate) fn open(dir: &Path, node: &str) -> Store {
    Store::open(dir, options(node)).unwrap()
}

/// A new store in a folder that goes with it; in memory where there is a file system for that,
/// because these examples are about what is held, not about the disk.
pub(crate) fn node(id: &str) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let store = open(dir.path(), id);
    (dir, store)
}

pub(crate) fn ext(digits: &str) -> Extension {
    digits.parse().unwrap()
}

pub(crate) fn named(name: &str) -> MailboxPatch {
    MailboxPatch {
        name: Some(name.into()),
        ..MailboxPatch::default()
    }
}

pub(crate) fn mailbox(store: &Store, digits: &str) -> Mailbox {
    store.create_mailbox(&ext(digits), &named("Ann")).unwrap()
}

/// The description of `bytes` as audio, under a new id.
pub(crate) fn audio(bytes: &[u8]) -> AudioRef {
    AudioRef {
        blob: Uuid::new_v4(),
        sha256: hex::encode(Sha256::digest(bytes)),
        bytes: bytes.len() as u64,
        content_type: "audio/wav".into(),
        codec: "ulaw".into(),
        duration_ms: 1_000,
    }
}

pub(crate) fn from_source(source: &str) -> MessageFacts {
    MessageFacts {
        caller_number: Some("5551234".into()),
        source_id: Some(source.into()),
        ..MessageFacts::default()
    }
}

pub(crate) fn deposit(store: &Store, digits: &str, bytes: &[u8]) -> Message {
    let facts = MessageFacts::default();
    let (message, new) = store
        .deposit(&ext(digits), facts, audio(bytes), bytes)
        .unwrap();
    assert!(new);
    message
}

/// Names of all files under `dir`.
pub(crate) fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    found.sort();
    found
}

/// The index agrees with itself and every audio file is there.
pub(crate) fn assert_sound(store: &Store) {
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
}

/// Messages go out by e-mail, or are to.
fn mail(store: &Store, e: &Extension, id: Option<Uuid>, which: u8) -> Result<(), StoreError> {
    match (which / 2 % 4, id) {
        (0, Some(id)) => store.mark_emailed(id, which < 80).map(drop),
        (1, Some(id)) => store
            .mark_email_failed(id, "ann@example.com", "no")
            .map(drop),
        (wanted, _) => {
            let patch = MailboxPatch {
                email: Some("ann@example.com".into()),
                email_mode: Some([EmailMode::Off, EmailMode::Copy][usize::from(wanted % 2)]),
                ..MailboxPatch::default()
            };
            store.change_mailbox(e, &patch).map(drop)
        }
    }
}

/// What users do, at random, to one of two nodes.
pub(crate) fn act(store: &Store, what: u8, which: u8, n: usize) {
    let e = ext(["2001", "2002"][usize::from(which % 2)]);
    let ids: Vec<_> = store
        .messages(&e, &[], None, 100)
        .unwrap()
        .items
        .into_iter()
        .map(|m| m.id)
        .collect();
    let some_message = ids.get(usize::from(which) % ids.len().max(1)).copied();
    let bytes = format!("audio {n}").into_bytes();
    // Half of it is refused (no such mailbox, exists already…), as in life.
    let _ = match what {
        0 => store.create_mailbox(&e, &named("Ann")).map(drop),
        1 => store.delete_mailbox(&e),
        2 => store.clear_mailbox(&e),
        3..=6 => store
            .deposit(
                &e,
                from_source(&format!("{}", n % 5)),
                audio(&bytes),
                &bytes,
            )
            .map(drop),
        7 => some_message.map_or(Ok(()), |id| {
            store.set_message_state(id, MessageState::Saved).map(drop)
        }),
        8 => some_message.map_or(Ok(()), |id| store.purge_message(id)),
        9 => store
            .set_greeting(&e, GreetingKind::Busy, audio(&bytes), &bytes, None)
            .map(drop),
        10 => store.remove_greeting(&e, GreetingKind::Busy),
        11 => store.set_flow("main", &format!("n = {n}")).map(drop),
        12 => store.set_setting("x", json!(0.1 + f64::from(which))),
        14 if which < 160 => mail(store, &e, some_message, which),
        _ => {
            let patch = MailboxPatch {
                enabled: Some(!which.is_multiple_of(3)),
                ..named(&format!("Ann {n}"))
            };
            store.change_mailbox(&e, &patch).map(drop)
        }
    };
}
