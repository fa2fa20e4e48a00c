//! A damaged index: the node sets it aside, makes a new one from its audio files, says so, and gets
//! back from its peer what the files don't tell (docs/recover.md).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use std::{fs, path::Path};

use serde_json::{Value, json};
use vmsync_tests::pair::{GREETING, Node, ONE, Pair, TWO};

/// How far the file was written to; the rest is room made in advance.
fn written(file: &[u8]) -> usize {
    file.iter().rposition(|b| *b != 0).unwrap()
}

type Damage = fn(&Path);

/// Every way in which a disk or a person may harm the index.
const WAYS: [(&str, Damage); 5] = [
    ("cut", |db| {
        let file = db.join("db");
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..written(&whole) / 2]).unwrap();
    }),
    ("flipped in the middle", |db| {
        let file = db.join("db");
        let mut bytes = fs::read(&file).unwrap();
        let written = written(&bytes);
        let middle = &mut bytes[written / 4..written / 2];
        middle.iter_mut().step_by(257).for_each(|b| *b ^= 0x40);
        fs::write(&file, bytes).unwrap();
    }),
    ("its files gone", |db| {
        fs::remove_file(db.join("db")).unwrap();
    }),
    ("zeroed", |db| {
        for entry in fs::read_dir(db).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let length = fs::metadata(&path).unwrap().len();
                fs::write(&path, vec![0; usize::try_from(length).unwrap()]).unwrap();
            }
        }
    }),
    ("gone as a whole", |db| fs::remove_dir_all(db).unwrap()),
];

/// Messages in every state, one removed, a greeting set and one removed, a name, a call flow.
struct Story {
    old: String,
    saved: String,
    removed: String,
}

async fn tell(pair: &Pair) -> Story {
    let node = &pair.primary;
    let [old, saved, removed] = [
        node.leave("2001", "1", ONE).await,
        node.leave("2001", "2", TWO).await,
        node.leave("2002", "3", ONE).await,
    ];
    for (id, state) in [(&old, "old"), (&saved, "saved")] {
        let path = format!("/api/v1/mailboxes/2001/messages/{id}");
        node.patch(&path, &json!({"state": state}))
            .await
            .must_be(200);
    }
    for kind in ["standard", "busy"] {
        let path = format!("/api/v1/mailboxes/2001/greetings/{kind}");
        let put = node.request(reqwest::Method::PUT, &path).wav(GREETING);
        put.send().await.must_be(200);
    }
    node.patch("/api/v1/mailboxes/2001", &json!({"name": "Zoë"}))
        .await
        .must_be(200);
    pair.in_step().await;
    Story {
        old,
        saved,
        removed,
    }
}

/// What is held of mailbox 2001, as anybody may read it.
async fn seen(node: &Node) -> Value {
    let mailbox = node.get("/api/v1/mailboxes/2001").await;
    json!({
        "mailbox": mailbox,
        "messages": node.get("/api/v1/mailboxes/2001/messages").await["items"],
        "other": node.get("/api/v1/mailboxes/2002/messages").await["items"],
    })
}

fn set_aside(node: &Node) -> usize {
    let names = fs::read_dir(&node.data_dir).unwrap();
    let names = names.map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|n| n.starts_with("db.damaged-")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happened_to_the_index_everything_is_back_and_what_was_removed_stays_so() {
    let pair = Pair::start().await;
    let story = tell(&pair).await;
    let (node, peer) = (&pair.secondary, &pair.primary);
    let before = seen(peer).await;
    for (round, (way, harm)) in WAYS.iter().enumerate() {
        node.kill().await;
        harm(&node.data_dir.join("db"));
        if round == 0 {
            // While it is down, the peer goes on.
            let path = format!("/api/v1/mailboxes/2002/messages/{}", story.removed);
            peer.delete(&format!("{path}?purge=true"))
                .await
                .must_be(204);
            peer.delete("/api/v1/mailboxes/2001/greetings/busy")
                .await
                .must_be(204);
        }
        node.start().await;
        pair.in_step().await;
        let now = seen(peer).await;
        assert_eq!(seen(node).await, now, "{way}");
        assert_eq!(set_aside(node), (round + 1).min(3), "{way}");
        if round == 0 {
            assert_ne!(now, before, "what was removed is gone on both");
            assert_eq!(now["other"], json!([]));
        }
        node.shows("2001", &story.old, "state", "old").await;
        node.shows("2001", &story.saved, "state", "saved").await;
        node.hears("2001", &story.saved, TWO).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_peer_is_away_messages_are_heard_and_then_the_peer_knows_better() {
    let pair = Pair::start().await;
    let story = tell(&pair).await;
    let (node, peer) = (&pair.primary, &pair.secondary);
    // One message more that the peer never sees before the index is lost.
    peer.kill().await;
    let alone = node.leave("2001", "4", ONE).await;
    node.kill().await;
    fs::remove_dir_all(node.data_dir.join("db")).unwrap();
    node.start().await;

    let alarm = node.alarm("index_rebuilt").await;
    let text = alarm["text"].as_str().unwrap();
    assert!(text.contains("4 messages and 2 greetings"), "{text}");
    assert_eq!(node.messages("2001").await.len(), 3);
    for (id, sound) in [(&story.saved, TWO), (&alone, ONE)] {
        node.hears("2001", id, sound).await;
    }
    node.shows("2001", &story.saved, "state", "new").await;
    // What is done meanwhile is later than anything the peer knows.
    let path = format!("/api/v1/mailboxes/2001/messages/{}", story.old);
    node.patch(&path, &json!({"state": "saved"}))
        .await
        .must_be(200);

    peer.start().await;
    pair.in_step().await;
    for node in pair.nodes() {
        node.shows("2001", &story.old, "state", "saved").await;
        node.shows("2001", &story.saved, "state", "saved").await;
        node.hears("2001", &alone, ONE).await;
        let mailbox = node.get("/api/v1/mailboxes/2001").await;
        assert_eq!(mailbox["name"], "Zoë", "at {}", node.id);
    }
    assert_eq!(seen(node).await, seen(peer).await);
    // Nothing is missing any more, so nothing is left to be told.
    let up = node.get("/api/v1/alarms?active=true").await;
    assert_eq!(up["items"], json!([]));
}
