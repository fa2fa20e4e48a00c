//! A data folder of an older format version is taken over whole.
//!
//! `data/v1` holds one that the last program of format version 1 wrote and closed: two mailboxes,
//! messages in every state, a purge, a greeting with a conflict, a call flow too large for one key
//! of the index, a setting, a local record, operations of both nodes. `expected.json` is what that
//! program answered.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed expectation is the failure of the test"
)]

mod common;

use std::{fs, path::Path, process::Command};

use common::{assert_sound, deposit, ext, link, node, open};
use serde_json::{Value, json};
use vmsync_store::{
    GreetingKind, Store,
    model::{Message, MessageState},
};

const STATES: [MessageState; 5] = [
    MessageState::New,
    MessageState::Unopened,
    MessageState::Old,
    MessageState::Saved,
    MessageState::Deleted,
];

fn version_1() -> (tempfile::TempDir, Value) {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/v1");
    let dir = tempfile::tempdir().unwrap();
    let unpacked = Command::new("tar")
        .arg("-xzf")
        .arg(data.join("data.tar.gz"))
        .arg("-C")
        .arg(dir.path())
        .status()
        .unwrap();
    assert!(unpacked.success());
    let expected = fs::read(data.join("expected.json")).unwrap();
    (dir, serde_json::from_slice(&expected).unwrap())
}

fn answers(store: &Store) -> Value {
    let e = ext("2001");
    let (vector, digest) = store.digest();
    let operations = vector.iter();
    let operations = operations.map(|(o, _)| store.operations(o, 0, 1000).unwrap());
    json!({
        "origin": store.origin(),
        "vector": vector,
        "digest": digest,
        "mailboxes": store.mailboxes(None, 10).unwrap().items,
        "messages": store.messages(&e, &STATES, None, 100).unwrap().items,
        "greeting": store.greeting(&e, GreetingKind::Busy).unwrap(),
        "flow": store.flow("main").unwrap(),
        "settings": store.settings().unwrap(),
        "operations": operations.collect::<Vec<_>>(),
    })
}

#[test]
fn a_folder_of_version_1_answers_as_it_did() {
    let (dir, mut expected) = version_1();
    let data = dir.path().join("data");
    let fields = expected.as_object_mut().unwrap();
    let sourced = fields.remove("sourced").unwrap();
    let purged = fields.remove("purged").unwrap();
    for _ in 0..2 {
        let store = open(&data, "vmpro1");
        assert_eq!(answers(&store), expected);
        assert_eq!(
            store.local("ownership", "primary").unwrap().unwrap(),
            b"epoch 3"
        );
        let id = |v: &Value| v.as_str().unwrap().parse().unwrap();
        let sourced: Message = store.message(id(&sourced)).unwrap().unwrap();
        assert_eq!(store.read_audio(&sourced.audio).unwrap(), b"from a pbx");
        assert!(store.message(id(&purged)).unwrap().is_none());
        assert_sound(&store);
        let format = fs::read_to_string(data.join("FORMAT")).unwrap();
        assert_eq!(format, "vmsync-store\nversion 2\nnode vmpro1\n");
    }
}

#[test]
fn an_upgraded_store_counts_its_log_and_goes_on_with_a_peer() {
    let (dir, expected) = version_1();
    let store = open(&dir.path().join("data"), "vmpro1");
    let vector = store.have();
    let all = store
        .backlog(&vmsync_config::words::Vector::default())
        .unwrap();
    assert_eq!(all.operations, vector.iter().map(|(_, n)| n).sum::<u64>());
    // Five in 2001, one from the PBX, and the one that was purged.
    assert_eq!((all.messages, all.below_floor), (7, false));
    assert!(all.bytes > 9_000 + 10_500, "both call flows count");
    deposit(&store, "2001", b"after the upgrade");
    assert_eq!(store.backlog(&vector).unwrap().messages, 1);
    let (_peer, peer) = node("vmpro2");
    link::synchronise(&store, &peer);
    link::assert_same(&store, &peer);
    assert_ne!(json!(store.digest().1), expected["digest"]);
}
