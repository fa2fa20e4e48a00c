//! What a restart finds, and what opening refuses.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed expectation is the failure of the test"
)]

mod common;

use std::{fs, io::Read};

use common::{assert_sound, audio, deposit, ext, files, from_source, mailbox, node, open, options};
use vmsync_store::{Options, Store, StoreError, model::MessageState};

#[test]
fn everything_is_there_after_reopening_and_numbers_go_on() {
    let (dir, store) = node("vmpro1");
    mailbox(&store, "2001");
    let message = deposit(&store, "2001", b"hello there");
    store
        .set_message_state(message.id, MessageState::Saved)
        .unwrap();
    store
        .put_local("ownership", "primary", Some(b"epoch 1"))
        .unwrap();
    let (origin, digest) = (store.origin(), store.digest());
    drop(store);

    let store = open(dir.path(), "vmpro1");
    assert_eq!(store.origin(), origin);
    assert_eq!(store.digest(), digest);
    assert_eq!(store.have().get(&origin), 3);
    let found = store.message(message.id).unwrap().unwrap();
    assert_eq!(found.state, MessageState::Saved);
    let mut rest = String::new();
    store
        .open_audio(found.audio.blob, 6)
        .unwrap()
        .read_to_string(&mut rest)
        .unwrap();
    assert_eq!(rest, "there");
    assert_eq!(
        store.local("ownership", "primary").unwrap().unwrap(),
        b"epoch 1"
    );
    deposit(&store, "2001", b"next");
    assert_eq!(store.have().get(&origin), 4);
    assert_sound(&store);
}

#[test]
fn a_folder_in_use_of_another_node_or_of_a_newer_version_is_refused() {
    let (dir, store) = node("vmpro1");
    let why = |node: &str| {
        Store::open(dir.path(), options(node))
            .unwrap_err()
            .to_string()
    };
    assert!(why("vmpro1").contains("in use by another vmsync process"));
    drop(store);
    assert!(why("vmpro2").contains("belongs to node vmpro1"));
    fs::write(
        dir.path().join("FORMAT"),
        "vmsync-store\nversion 3\nnode vmpro1\n",
    )
    .unwrap();
    let text = why("vmpro1");
    assert!(
        text.contains("version 3") && text.contains("up to version 2"),
        "{text}"
    );
}

#[test]
fn a_crash_leaves_no_rubbish_and_takes_nothing_that_is_needed() {
    let (dir, store) = node("vmpro1");
    mailbox(&store, "2001");
    let kept = deposit(&store, "2001", b"kept");
    let orphan = audio(b"never recorded");
    let key = "message/01920000-0000-7000-8000-00000000000f".to_owned();
    let new = vmsync_store::NewAudio {
        entity: key.try_into().unwrap(),
        mailbox: None,
        audio: &orphan,
        facts: serde_json::Value::Null,
    };
    store.put_audio(new, b"never recorded").unwrap();
    drop(store);

    // As a crash between the commit and the move leaves it, and one in the middle of a write.
    let incoming = dir.path().join("audio/incoming");
    let name = format!("{}.vma", kept.audio.blob);
    let last = &name[34..36];
    let place = dir.path().join("audio").join(last).join(&name);
    fs::hard_link(&place, incoming.join(&name)).unwrap();
    fs::remove_file(&place).unwrap();
    fs::write(incoming.join(".half.vma.0123.tmp"), b"half").unwrap();

    // The orphan is younger than an hour by the clock of the first start, older by the second's.
    let orphan = incoming.join(format!("{}.vma", orphan.blob));
    let store = open(dir.path(), "vmpro1");
    assert_eq!(store.read_audio(&kept.audio).unwrap(), b"kept");
    assert!(place.exists() && orphan.exists());
    assert_sound(&store);
    drop(store);
    let far_future = Options {
        clock: || vmsync_config::words::UnixMillis(9_000_000_000_000),
        ..options("vmpro1")
    };
    let store = Store::open(dir.path(), far_future).unwrap();
    assert_eq!(files(&dir.path().join("audio")), [name]);
    assert_sound(&store);
}

#[test]
fn a_full_disk_refuses_content_and_loses_nothing() {
    let (dir, store) = node("vmpro1");
    mailbox(&store, "2001");
    let message = deposit(&store, "2001", b"hello");
    drop(store);
    let free = vmsync_store::free_bytes(dir.path()).unwrap();
    let full = Options {
        min_free_bytes: free * 2,
        ..options("vmpro1")
    };
    let store = Store::open(dir.path(), full).unwrap();
    let refused = store.deposit(&ext("2001"), from_source("a"), audio(b"hi"), b"hi");
    let Err(StoreError::Full { path, reserve, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((path.as_path(), reserve), (dir.path(), free * 2));
    assert!(matches!(
        store.set_flow("main", ""),
        Err(StoreError::Full { .. })
    ));
    assert_eq!(files(&dir.path().join("audio")).len(), 1);
    // What makes room, and what keeps the node working, still goes.
    store
        .put_local("ownership", "primary", Some(b"epoch 2"))
        .unwrap();
    store.purge_message(message.id).unwrap();
    assert!(files(&dir.path().join("audio")).is_empty());
    assert_sound(&store);
}
