//! Housekeeping on a real pair (R-MB-9): on the node that serves, while both hold the same.

#![allow(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use serde_json::json;
use vmsync_config::words::{Extension, UnixMillis};
use vmsync_store::{
    AudioRef, EntityKey, NewAudio, Options, Store,
    model::{MailboxPatch, MessageFacts, MessageState},
};
use vmsync_tests::pair::{Node, ONE, Pair, soon};

#[allow(
    clippy::disallowed_methods,
    reason = "the nodes' clocks are those of this machine"
)]
fn now() -> UnixMillis {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixMillis(u64::try_from(now.unwrap().as_millis()).unwrap())
}

/// 25 hours more than a played or deleted message is kept.
fn two_days_ago() -> UnixMillis {
    UnixMillis(now().0 - 49 * 3_600_000)
}

fn audio() -> AudioRef {
    use sha2::Digest as _;
    AudioRef {
        blob: uuid::Uuid::now_v7(),
        sha256: hex::encode(sha2::Sha256::digest(ONE)),
        bytes: ONE.len() as u64,
        content_type: "audio/wav".to_owned(),
        codec: "pcm16".to_owned(),
        duration_ms: 1_000,
    }
}

/// Messages a third node took and set to these states two days ago, in the store of `node`: a node's
/// own clock never goes back.
fn long_ago<const N: usize>(node: &Node, states: [MessageState; N]) -> [String; N] {
    let options = |id: &str, clock| Options {
        node: id.parse().unwrap(),
        min_free_bytes: 0,
        clock,
    };
    let folder = tempfile::tempdir().unwrap();
    let third = Store::open(folder.path(), options("vmpro9", two_days_ago)).unwrap();
    let store = Store::open(&node.data_dir, options(&node.id, now)).unwrap();
    let ext: Extension = "2009".parse().unwrap();
    third
        .create_mailbox(&ext, &MailboxPatch::default())
        .unwrap();
    let ids = states.map(|state| {
        let facts = MessageFacts::default();
        let message = third.deposit(&ext, facts, audio(), ONE).unwrap().0;
        third.set_message_state(message.id, state).unwrap();
        let new = NewAudio {
            entity: EntityKey::Message(message.id),
            mailbox: Some(ext.clone()),
            audio: &message.audio,
            facts: json!({}),
        };
        store.put_audio(new, ONE).unwrap();
        message.id.to_string()
    });
    let operations = third.operations(&third.origin(), 0, 100).unwrap();
    store.apply(&operations).unwrap();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_played_long_ago_becomes_deleted_and_what_was_deleted_goes_on_both_nodes() {
    let pair = Pair::laid_out().await;
    let (node, peer) = (&pair.primary, &pair.secondary);
    // What users did two days ago.
    let states = [
        MessageState::New,
        MessageState::Old,
        MessageState::Saved,
        MessageState::Deleted,
    ];
    let ids = long_ago(node, states);
    pair.start_both().await;
    pair.in_step().await;
    let fresh = node.leave("2009", "5551234", ONE).await;
    node.patch(
        &format!("/api/v1/mailboxes/2009/messages/{fresh}"),
        &json!({"state": "old"}),
    )
    .await
    .must_be(200);
    pair.in_step().await;

    // The one that stands by leaves it to the one that serves.
    let standby = peer.post("/api/v1/housekeeping", &json!({})).await;
    let words = standby.must_be(202).json()["waiting_for"].to_string();
    assert!(words.contains("this node to serve"), "{words}");
    // A call must end first.
    let call = json!({"kind": "leave", "mailbox": "2009"});
    let call = node.post("/api/v1/calls", &call).await.must_be(201).json();
    let busy = node.post("/api/v1/housekeeping", &json!({})).await;
    let words = busy.must_be(202).json()["waiting_for"].to_string();
    assert!(words.contains("active calls to end: 1"), "{words}");
    let call = format!("/api/v1/calls/{}", call["id"].as_str().unwrap());
    node.delete(&call).await.must_be(204);

    let [new, old, saved, deleted] = &ids;
    for at in pair.nodes() {
        at.shows("2009", old, "state", "deleted").await;
        at.lacks(&format!("/api/v1/mailboxes/2009/messages/{deleted}"))
            .await;
        at.shows("2009", new, "state", "new").await;
        at.shows("2009", saved, "state", "saved").await;
        at.shows("2009", &fresh, "state", "old").await;
    }
    let pass = soon("the pass to end", async || {
        let told = node.try_get("/api/v1/housekeeping").await?;
        match &told["last"]["ended"] {
            serde_json::Value::String(_) => Ok(told["last"].clone()),
            _ => Err(told.to_string()),
        }
    })
    .await;
    assert_eq!((&pass["deleted"], &pass["purged"]), (&json!(1), &json!(1)));

    // Hours are settings: they hold on both nodes.
    let change = json!({"housekeeping": {"saved": 24, "deleted": 0}});
    let put = node.request(reqwest::Method::PUT, "/api/v1/settings");
    put.json(&change).send().await.must_be(200);
    pair.in_step().await;
    let settings = peer.get("/api/v1/settings").await;
    assert_eq!(
        settings["housekeeping"],
        json!({"new": 0, "unopened": 0, "old": 24, "saved": 24, "deleted": 0})
    );
    node.post("/api/v1/housekeeping", &json!({}))
        .await
        .must_be(202);
    peer.shows("2009", saved, "state", "deleted").await;
    peer.shows("2009", old, "state", "deleted").await;
}
