//! What is done at one node is at the other: at once, and after the other was away.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use reqwest::Method;
use serde_json::json;
use vmsync_tests::{
    pair::{GREETING, Node, ONE, Pair, TWO},
    swaks::Swaks,
};

fn path(mailbox: &str, id: &str) -> String {
    format!("/api/v1/mailboxes/{mailbox}/messages/{id}")
}

/// Mails `wav` to a mailbox at `node`; gives the message's id.
async fn mail(pair: &Pair, node: &Node, mailbox: &str, message_id: &str, wav: &[u8]) -> String {
    let file = pair.file(&format!("{message_id}.wav"), wav);
    let sent = Swaks::mail(node, &format!("{mailbox}@{}", node.fqdn))
        .header("Message-Id", &format!("<{message_id}@pbx.demo.example>"))
        .recording(&file)
        .send()
        .await
        .taken();
    // The receiver's 250 names the message.
    let words = sent.text.lines().find_map(|l| {
        l.split_once("message ")
            .filter(|_| l.starts_with("<-  250"))
    });
    words
        .unwrap_or_else(|| panic!("no message named:\n{}", sent.text))
        .1
        .trim()
        .to_owned()
}

/// R-SY-1: messages.
#[tokio::test]
async fn a_message_taken_by_either_node_is_at_the_other_byte_for_byte() {
    let pair = Pair::start().await;
    let uploaded = pair.primary.leave("2001", "5551234", ONE).await;
    let mailed = mail(&pair, &pair.primary, "2002", "at-primary", TWO).await;
    // The standby takes mail too: a PBX that only knows the secondary must not lose a message.
    let mailed_there = mail(&pair, &pair.secondary, "2003", "at-secondary", GREETING).await;
    for node in pair.nodes() {
        node.hears("2001", &uploaded, ONE).await;
        node.hears("2002", &mailed, TWO).await;
        node.hears("2003", &mailed_there, GREETING).await;
        node.shows("2003", &mailed_there, "taken_by", "vmpro2")
            .await;
        node.shows("2001", &uploaded, "caller_number", "5551234")
            .await;
    }
    pair.in_step().await;
}

/// R-SY-1: their state, the mailbox, greetings.
#[tokio::test]
async fn later_changes_reach_the_other_node() {
    let pair = Pair::start().await;
    let (here, there) = (&pair.primary, &pair.secondary);
    let played = here.leave("2001", "1", ONE).await;
    let deleted = here.leave("2001", "2", ONE).await;
    let purged = here.leave("2001", "3", TWO).await;
    there.hears("2001", &purged, TWO).await;

    here.patch(&path("2001", &played), &json!({"state": "old"}))
        .await
        .must_be(200);
    here.delete(&path("2001", &deleted)).await.must_be(200);
    here.delete(&format!("{}?purge=true", path("2001", &purged)))
        .await
        .must_be(204);
    here.request(Method::PUT, "/api/v1/mailboxes/2001/greetings/busy")
        .wav(GREETING)
        .send()
        .await
        .must_be(200);
    here.patch(
        "/api/v1/mailboxes/2002",
        &json!({"name": "Rear Admiral Hopper", "enabled": false}),
    )
    .await
    .must_be(200);

    there.shows("2001", &played, "state", "old").await;
    there.shows("2001", &deleted, "state", "deleted").await;
    there.lacks(&path("2001", &purged)).await;
    pair.in_step().await;
    let greeting = there
        .request(Method::GET, "/api/v1/mailboxes/2001/greetings/busy")
        .send()
        .await
        .must_be(200);
    assert!(greeting.body == GREETING, "the greeting sounds different");
    let mailbox = there.get("/api/v1/mailboxes/2002").await;
    assert_eq!(
        (&mailbox["name"], &mailbox["enabled"]),
        (&json!("Rear Admiral Hopper"), &json!(false))
    );
    // Deleted is recoverable, and a second deletion is for good, on both.
    here.delete(&path("2001", &deleted)).await.must_be(204);
    there.lacks(&path("2001", &deleted)).await;
    pair.in_step().await;
}

#[tokio::test]
async fn what_the_primary_took_alone_reaches_the_secondary_when_it_is_back() {
    let pair = Pair::start().await;
    let (here, there) = (&pair.primary, &pair.secondary);
    let before = here.leave("2001", "1", ONE).await;
    there.hears("2001", &before, ONE).await;
    there.kill().await;

    let meanwhile = here.leave("2001", "2", TWO).await;
    let mailed = mail(&pair, here, "2002", "meanwhile", ONE).await;
    here.delete(&format!("{}?purge=true", path("2001", &before)))
        .await
        .must_be(204);
    here.request(Method::PUT, "/api/v1/mailboxes/2003/greetings/standard")
        .wav(GREETING)
        .send()
        .await
        .must_be(200);
    here.post(
        "/api/v1/mailboxes",
        &json!({"extension": "2004", "name": "New one"}),
    )
    .await
    .must_be(201);

    there.start().await;
    pair.in_step().await;
    there.hears("2001", &meanwhile, TWO).await;
    there.hears("2002", &mailed, ONE).await;
    there.lacks(&path("2001", &before)).await;
    let greeting = there
        .request(Method::GET, "/api/v1/mailboxes/2003/greetings/standard")
        .send()
        .await
        .must_be(200);
    assert!(greeting.body == GREETING, "the greeting sounds different");
    assert_eq!(there.get("/api/v1/mailboxes/2004").await["name"], "New one");
}

#[tokio::test]
async fn what_the_secondary_took_alone_reaches_the_primary_when_it_is_back() {
    let pair = Pair::start().await;
    let before = pair.primary.leave("2001", "1", ONE).await;
    pair.secondary.hears("2001", &before, ONE).await;
    pair.fail_over().await;

    let there = &pair.secondary;
    let meanwhile = there.leave("2002", "2", TWO).await;
    there
        .patch(&path("2001", &before), &json!({"state": "saved"}))
        .await
        .must_be(200);
    there
        .patch("/api/v1/mailboxes/2003", &json!({"name": "Front desk"}))
        .await
        .must_be(200);

    pair.primary.start().await;
    pair.in_step().await;
    pair.served_by(&pair.primary).await;
    pair.primary.hears("2002", &meanwhile, TWO).await;
    pair.primary.shows("2001", &before, "state", "saved").await;
    assert_eq!(
        pair.primary.get("/api/v1/mailboxes/2003").await["name"],
        "Front desk"
    );
}

/// Each node is killed in turn, again and again, while messages come in at the other.
#[tokio::test]
async fn nothing_is_lost_or_doubled_however_often_a_node_is_killed() {
    let pair = Pair::start().await;
    let mut left = Vec::new();
    for round in 0..3 {
        let [here, there] = if round % 2 == 0 {
            pair.nodes()
        } else {
            [&pair.secondary, &pair.primary]
        };
        there.kill().await;
        for n in 0..3 {
            left.push(mail(&pair, here, "2001", &format!("round-{round}-{n}"), ONE).await);
        }
        there.start().await;
    }
    pair.in_step().await;
    left.sort();
    for node in pair.nodes() {
        let messages = node.messages("2001").await;
        let mut ids: Vec<_> = messages.iter().map(|m| m["id"].as_str().unwrap()).collect();
        ids.sort_unstable();
        assert_eq!(ids, left, "at {}", node.id);
    }
}
