//! A damaged index: the node sets it aside, makes a new one from its audio files, says so, and gets
//! back from its peer what the files don't tell (docs/recover.md).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use std::{fs, path::Path};

use serde_json::{Value, json};
use vmsync_config::words::{Origin, UnixMillis};
use vmsync_store::{Effect, EntityKey, Hlc, Operation, Options, Stamp, Store, StoreError};
use vmsync_tests::pair::{GREETING, Node, ONE, Pair, TWO, soon};

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

/// Where a message's audio lies.
async fn audio_file(node: &Node, mailbox: &str, id: &str) -> std::path::PathBuf {
    let message = node
        .get(&format!("/api/v1/mailboxes/{mailbox}/messages/{id}"))
        .await;
    let sha256 = message["sha256"].as_str().unwrap();
    let files = walk(&node.data_dir.join("audio")).into_iter();
    let its = |f: &std::path::PathBuf| {
        let bytes = fs::read(f).unwrap();
        let head = String::from_utf8_lossy(&bytes[..bytes.len().min(600)]).into_owned();
        head.contains(sha256) && head.contains(id)
    };
    files.into_iter().find(its).unwrap()
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries
        .flat_map(|p| if p.is_dir() { walk(&p) } else { vec![p] })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn audio_the_disk_has_lost_or_spoilt_comes_back_from_the_peer_while_both_run() {
    let pair = Pair::start().await;
    let story = tell(&pair).await;
    let (node, peer) = (&pair.primary, &pair.secondary);
    let before = node.get("/api/v1/sync/certificate").await;
    assert_eq!(before["equal_now"], true);
    // One file is gone; one has a flipped bit that only its SHA-256 shows.
    let lost = audio_file(node, "2001", &story.old).await;
    let spoilt = audio_file(node, "2001", &story.saved).await;
    fs::remove_file(&lost).unwrap();
    let mut bytes = fs::read(&spoilt).unwrap();
    *bytes.last_mut().unwrap() ^= 0x10;
    fs::write(&spoilt, &bytes).unwrap();

    // Who wants to hear the lost one is told, and hears it a moment later.
    let path = format!("/api/v1/mailboxes/2001/messages/{}/audio", story.old);
    let answer = node.request(reqwest::Method::GET, &path).send().await;
    answer.problem(503, "audio_damaged", &["the peer is asked for its copy"]);
    node.hears("2001", &story.old, ONE).await;
    // The spoilt one is found by reading all of them.
    // (The answer may tell of the new course already.)
    let earlier = node.get("/api/v1/sync").await["audio"]["check"]["begun"].clone();
    let check = node.post("/api/v1/sync/audio-check", &json!({})).await;
    check.must_be(202);
    soon("every audio file to be sound again", async || {
        let sync = node.try_get("/api/v1/sync").await?;
        let check = &sync["audio"]["check"];
        let read = check["begun"] != earlier && check["ended"].is_string();
        match (read, &sync["audio"]["faults"]) {
            (true, faults) if *faults == json!([]) => Ok(()),
            _ => Err(sync["audio"].to_string()),
        }
    })
    .await;
    node.hears("2001", &story.saved, TWO).await;
    assert!(lost.is_file());
    let alarms = node.get("/api/v1/alarms").await;
    let alarm = alarms["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|a| a["code"] == "audio_damaged")
        .unwrap();
    assert!(alarm["cleared"].is_string(), "{alarm}");
    // A start looks whether each file is there.
    node.kill().await;
    fs::remove_file(&spoilt).unwrap();
    node.start().await;
    node.hears("2001", &story.saved, TWO).await;
    // None of it was a change: both hold what they held.
    for at in [node, peer] {
        assert_eq!(
            at.get("/api/v1/sync/certificate").await["digest"],
            before["digest"]
        );
    }
}

/// More records than a start looks at.
const MANY: u64 = 22_000;
/// One that it does not look at.
const DAMAGED: u64 = 20_400;

/// The same made-up entities in both stores, while neither node runs, so that each has a large index.
fn fill(pair: &Pair) {
    let origin: Origin = "vmpro1.0000feed".parse().unwrap();
    let operation = |seq: u64| Operation {
        stamp: Stamp {
            at: Hlc {
                wall: UnixMillis(1_790_000_000_000 + seq),
                count: 0,
            },
            origin: origin.clone(),
            seq,
        },
        entity: EntityKey::Other(note(seq)),
        effect: Effect::Set([("text".to_owned(), json!(marker(seq)))].into()),
        extra: std::collections::BTreeMap::new(),
    };
    let operations: Vec<_> = (1..=MANY).map(operation).collect();
    std::thread::scope(|scope| {
        for node in pair.nodes() {
            let operations = &operations;
            scope.spawn(move || {
                open(node).unwrap().apply(operations).unwrap();
            });
        }
    });
}

fn open(node: &Node) -> Result<Store, StoreError> {
    let options = Options {
        node: node.id.parse().unwrap(),
        min_free_bytes: 0,
        clock: || UnixMillis(1_790_000_100_000),
    };
    Store::open(&node.data_dir, options)
}

fn note(n: u64) -> String {
    format!("note/{n:05}")
}

fn marker(n: u64) -> String {
    format!("the text of note {n:05}")
}

/// Flips a bit of `text` where it lies in the index; in one of the places (sled keeps old ones, and
/// reads the end of its file when it opens it) where opening does not see it, and reading all does.
fn rot(node: &Node, text: &str) {
    let file = node.data_dir.join("db/db");
    let whole = fs::read(&file).unwrap();
    let text = text.as_bytes();
    let places = (0..whole.len() - text.len()).filter(|at| whole[*at..].starts_with(text));
    for at in places {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x20;
        fs::write(&file, bytes).unwrap();
        if open(node).is_ok_and(|store| store.verify().is_err()) {
            return;
        }
    }
    panic!("no place was found");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_found_while_running_is_told_and_the_next_start_mends_it() {
    let pair = Pair::laid_out().await;
    fill(&pair);
    pair.start_both().await;
    let story = tell(&pair).await;
    let (node, peer) = (&pair.secondary, &pair.primary);
    node.kill().await;
    // Opened once more, sled notes where everything lies, and does not read what was written before.
    drop(open(node).unwrap());
    rot(node, &marker(DAMAGED));

    node.start().await;
    let alarm = node.alarm("index_damaged").await;
    let text = alarm["text"].as_str().unwrap();
    assert!(text.contains("start the node again"), "{text}");
    // Meanwhile it goes on.
    assert_eq!(set_aside(node), 0);
    node.hears("2001", &story.saved, TWO).await;
    let later = peer.leave("2002", "7", ONE).await;
    pair.in_step().await;
    node.hears("2002", &later, ONE).await;

    node.stop().await;
    node.start().await;
    pair.in_step().await;
    assert_eq!(set_aside(node), 1);
    assert_eq!(seen(node).await, seen(peer).await);
    node.shows("2001", &story.old, "state", "old").await;
    node.hears("2002", &later, ONE).await;
    let up = node.get("/api/v1/alarms?active=true").await;
    assert_eq!(up["items"], json!([]));

    // And it is trusted again: a start does not set anything aside any more.
    node.stop().await;
    node.start().await;
    pair.in_step().await;
    assert_eq!(set_aside(node), 1);
}
