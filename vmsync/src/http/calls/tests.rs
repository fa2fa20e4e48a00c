//! Calls over HTTP, against a real store on loopback.

mod bench;
mod flows;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use vmsync_config::words::{Extension, NodeId};
use vmsync_core::resilience::Serving;
use vmsync_store::model::{MailboxPatch, MessageState};

use self::bench::{Node, actions, audio, set_aside, wav, wav_ms};
use crate::client::Body;

#[tokio::test]
async fn a_caller_leaves_a_message_which_is_durable_and_one() {
    let node = Node::start().await;
    let (call, first) = node.call("leave").await;
    assert_eq!(actions(&first), ["play", "record"]);
    assert_eq!(
        first["actions"][1]["max_seconds"], 10,
        "the node's limit is shorter than the flow's"
    );
    assert_eq!(node.app.calls.active(), 1);
    let path = format!("{call}/recording?recording=1");
    let kept = node.send(Method::POST, &path, audio(2)).await;
    assert_eq!(kept.status, StatusCode::CREATED, "{}", kept.json());
    assert_eq!(actions(&kept.json()), ["play", "disconnect"]);
    assert_eq!(node.app.calls.active(), 0, "it ended with its flow");
    // The answer was lost, so the channel sends it again.
    let again = node.send(Method::POST, &path, audio(2)).await;
    assert_eq!((again.status, again.json()), (kept.status, kept.json()));
    let messages = node.messages().await;
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].facts.caller_number.as_deref(), Some("5550123"));
    assert_eq!(
        messages[0].id.to_string(),
        kept.json()["message"].as_str().unwrap()
    );
}

#[tokio::test]
async fn a_recording_after_the_hang_up_is_kept_though_the_group_has_moved() {
    let node = Node::start().await;
    let (call, _) = node.call("leave").await;
    node.serve(Serving::No {
        owner: NodeId::new("vmpro2").unwrap(),
    });
    let refused = node
        .post(
            "/api/v1/calls",
            json!({ "kind": "leave", "mailbox": "2001" }),
        )
        .await;
    assert_eq!(
        refused.status,
        StatusCode::TEMPORARY_REDIRECT,
        "new calls go to the other node"
    );
    assert_eq!(
        refused.location.as_deref(),
        Some("http://127.0.0.1:9/api/v1/calls")
    );
    let waits = node.tell(&call, json!({ "event": "hung_up" })).await;
    assert_eq!(
        (&waits["state"], &waits["waiting_for"]),
        (&json!("active"), &json!("recording"))
    );
    let kept = node
        .send(Method::POST, &format!("{call}/recording"), audio(3))
        .await;
    assert_eq!(
        (kept.status, kept.json()["state"].clone()),
        (StatusCode::CREATED, json!("ended"))
    );
    assert_eq!(node.messages().await.len(), 1);
}

#[tokio::test]
async fn what_is_no_message_leaves_the_call_where_it_can_go_on() {
    let node = Node::start().await;
    let (call, _) = node.call("leave").await;
    let path = format!("{call}/recording");
    let noise = node
        .send(
            Method::POST,
            &path,
            Body::Audio("audio/wav", b"not a wav".to_vec()),
        )
        .await;
    assert_eq!(
        (noise.status.as_u16(), noise.json()["code"].clone()),
        (422, json!("not_audio"))
    );
    let long = node.send(Method::POST, &path, audio(12)).await;
    assert_eq!(
        (long.status.as_u16(), long.json()["code"].clone()),
        (422, json!("too_long"))
    );
    let early = node
        .post(
            &format!("{call}/events"),
            json!({ "event": "digits", "digits": "1" }),
        )
        .await;
    assert_eq!(
        (early.status.as_u16(), early.json()["waiting_for"].clone()),
        (409, json!("recording"))
    );
    let short = node
        .send(Method::POST, &path, Body::Audio("audio/wav", wav_ms(500)))
        .await;
    assert_eq!(short.status, StatusCode::OK, "{}", short.json());
    assert!(short.json()["refused"].as_str().unwrap().contains("500 ms"));
    assert_eq!(
        actions(&short.json()),
        ["play", "record"],
        "one more chance"
    );
    let first = node
        .send(Method::POST, &format!("{path}?recording=1"), audio(1))
        .await;
    assert_eq!(first.json(), short.json(), "the first is settled");
    let kept = node.send(Method::POST, &path, audio(1)).await;
    assert_eq!(kept.status, StatusCode::CREATED);
    assert_eq!(node.messages().await.len(), 1);
}

#[tokio::test]
async fn a_recording_the_disk_could_not_take_is_waited_for_and_kept_later() {
    let node = Node::start().await;
    let (call, _) = node.call("leave").await;
    let path = format!("{call}/recording?recording=1");
    let (here, away) = (
        node.folder.path().join("data/audio"),
        node.folder.path().join("away"),
    );
    set_aside(&here, &away);
    let failed = node.send(Method::POST, &path, audio(2)).await;
    assert_eq!(
        failed.status,
        StatusCode::INTERNAL_SERVER_ERROR,
        "{}",
        failed.json()
    );
    let hung_up = node.tell(&call, json!({ "event": "hung_up" })).await;
    assert_eq!(
        (&hung_up["state"], &hung_up["waiting_for"]),
        (&json!("active"), &json!("recording"))
    );
    set_aside(&away, &here);
    let kept = node.send(Method::POST, &path, audio(2)).await;
    assert_eq!(
        (kept.status, &kept.json()["state"]),
        (StatusCode::CREATED, &json!("ended")),
        "{}",
        kept.json()
    );
    assert_eq!(node.messages().await.len(), 1);
}

#[tokio::test]
async fn what_the_disk_does_not_take_can_be_given_up() {
    let node = Node::start().await;
    let (call, _) = node.call("leave").await;
    set_aside(
        &node.folder.path().join("data/audio"),
        &node.folder.path().join("away"),
    );
    let failed = node
        .send(Method::POST, &format!("{call}/recording"), audio(2))
        .await;
    assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR);
    let over = node
        .tell(&call, json!({ "event": "nothing_recorded" }))
        .await;
    assert_eq!(
        over["actions"][0]["items"][0]["prompt"],
        "message-not-saved"
    );
    assert_eq!(node.messages().await.len(), 0);
}

#[tokio::test]
async fn a_disabled_mailbox_says_so_before_the_caller_speaks() {
    let node = Node::start().await;
    let off = MailboxPatch {
        enabled: Some(false),
        ..MailboxPatch::default()
    };
    node.app
        .store(move |s| s.change_mailbox(&Extension::new("2001").unwrap(), &off))
        .await
        .unwrap();
    let (_, first) = node.call("leave").await;
    assert_eq!(
        first["actions"][0]["items"][0]["prompt"],
        "mailbox-unavailable"
    );
    assert_eq!(first["state"], "ended");
}

#[tokio::test]
async fn a_user_collects_with_the_pin() {
    let node = Node::start().await;
    let pin = MailboxPatch {
        pin: Some("4711".to_owned()),
        ..MailboxPatch::default()
    };
    node.app
        .store(move |s| s.change_mailbox(&Extension::new("2001").unwrap(), &pin))
        .await
        .unwrap();
    let (leave, _) = node.call("leave").await;
    node.send(Method::POST, &format!("{leave}/recording"), audio(2))
        .await;
    let (call, _) = node.call("collect").await;
    let wrong = node
        .tell(&call, json!({ "event": "digits", "digits": "1111#" }))
        .await;
    assert_eq!(wrong["actions"][0]["items"][0]["prompt"], "wrong-pin");
    let header = node
        .tell(&call, json!({ "event": "digits", "digits": "4711#" }))
        .await;
    assert_eq!(header["waiting_for"], "played", "{header}");
    let body = node.tell(&call, json!({ "event": "played" })).await;
    let at = body["actions"][0]["items"][0]["audio"].as_str().unwrap();
    assert_eq!(
        node.client.get_bytes(at).await.unwrap(),
        wav(2),
        "byte for byte"
    );
    assert_eq!(node.messages().await[0].state, MessageState::Unopened);
    node.tell(&call, json!({ "event": "played" })).await;
    assert_eq!(node.messages().await[0].state, MessageState::Old);
    let saved = node
        .tell(&call, json!({ "event": "digits", "digits": "2" }))
        .await;
    assert_eq!(
        node.messages().await[0].state,
        MessageState::Saved,
        "{saved}"
    );
    let over = node.tell(&call, json!({ "event": "hung_up" })).await;
    assert_eq!(
        (&over["state"], node.app.calls.active()),
        (&json!("ended"), 0)
    );
}

#[tokio::test]
async fn five_wrong_pins_lock_the_mailbox_for_every_call() {
    let node = Node::start().await;
    let pin = MailboxPatch {
        pin: Some("4711".to_owned()),
        ..MailboxPatch::default()
    };
    node.app
        .store(move |s| s.change_mailbox(&Extension::new("2001").unwrap(), &pin))
        .await
        .unwrap();
    let mut tried = 0;
    while tried < 5 {
        let (call, _) = node.call("collect").await;
        for _ in 0..3.min(5 - tried) {
            node.tell(&call, json!({ "event": "digits", "digits": "0000#" }))
                .await;
            tried += 1;
        }
    }
    let (call, _) = node.call("collect").await;
    let right = node
        .tell(&call, json!({ "event": "digits", "digits": "4711#" }))
        .await;
    assert_eq!(
        right["actions"][0]["items"][0]["prompt"], "mailbox-locked",
        "{right}"
    );
}

#[tokio::test]
async fn calls_are_listed_kept_alive_and_ended() {
    let node = Node::start().await;
    let (call, first) = node.call("leave").await;
    let (other, second) = node.call("leave").await;
    let page = node.client.get("/api/v1/calls?limit=1").await.unwrap();
    assert_eq!(
        (&page["items"][0]["id"], &page["next"]),
        (&first["id"], &first["id"])
    );
    let rest = node
        .client
        .get(&format!(
            "/api/v1/calls?cursor={}",
            first["id"].as_str().unwrap()
        ))
        .await
        .unwrap();
    assert_eq!(
        (&rest["items"][0]["id"], &rest["next"]),
        (&second["id"], &Value::Null)
    );
    assert_eq!(
        node.post(&format!("{call}/keepalive"), json!({}))
            .await
            .status,
        StatusCode::OK
    );
    assert_eq!(
        node.send(Method::DELETE, &call, Body::None).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        node.send(Method::DELETE, &call, Body::None).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        node.post(&format!("{call}/keepalive"), json!({}))
            .await
            .status,
        StatusCode::NOT_FOUND
    );
    let over = node
        .post(&format!("{call}/events"), json!({ "event": "hung_up" }))
        .await;
    assert_eq!(over.status, StatusCode::CONFLICT);
    assert_eq!(node.client.get(&other).await.unwrap()["state"], "active");
    let unknown = node
        .post(
            "/api/v1/calls/0192aaaa-0000-7000-8000-000000000000/events",
            json!({ "event": "hung_up" }),
        )
        .await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn bad_starts_and_events_are_refused_with_the_reason() {
    let node = Node::start().await;
    for (body, status) in [
        (json!({ "kind": "leave", "mailbox": "2999" }), 404),
        (json!({ "kind": "no-such-flow", "mailbox": "2001" }), 404),
        (json!({ "kind": "../leave", "mailbox": "2001" }), 422),
        (json!({ "kind": "leave", "mailbox": "x" }), 422),
        (
            json!({ "kind": "leave", "mailbox": "2001", "colour": 1 }),
            422,
        ),
        (
            json!({ "kind": "leave", "mailbox": "2001", "caller_name": "a\u{7}" }),
            422,
        ),
    ] {
        let reply = node.post("/api/v1/calls", body.clone()).await;
        assert_eq!(reply.status.as_u16(), status, "{body}: {}", reply.json());
    }
    assert_eq!(node.app.calls.active(), 0);
    let (call, _) = node.call("collect").await;
    for body in [
        json!({ "event": "digits" }),
        json!({ "event": "digits", "digits": "12x" }),
        json!({ "event": "timeout", "digits": "1" }),
        json!({ "event": "sneeze" }),
    ] {
        let reply = node.post(&format!("{call}/events"), body.clone()).await;
        assert_eq!(reply.status.as_u16(), 422, "{body}");
    }
}
