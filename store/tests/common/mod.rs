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

use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use vmsync_config::words::{Extension, UnixMillis};
use vmsync_store::{
    AudioRef, Options, Store,
    model::{Mailbox, MailboxPatch, Message, MessageFacts},
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
