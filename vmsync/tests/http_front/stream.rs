//! The event stream as a reader sees it.

use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::{Method, Response};
use serde_json::json;
use tokio::time::timeout;
use vmsync::events::KEPT;

use crate::support::{Node, problem};

/// Reads until `wanted` stands in what came.
async fn read_until(response: Response, wanted: &str) -> String {
    let mut text = String::new();
    let mut chunks = response.bytes_stream();
    let read = async {
        while !text.contains(wanted) {
            let chunk = chunks.next().await.expect("the stream ended").unwrap();
            text.push_str(&String::from_utf8_lossy(&chunk));
        }
    };
    timeout(Duration::from_secs(5), read)
        .await
        .expect("nothing came");
    text
}

async fn follow(node: &Node, last: Option<&str>, query: &str) -> Response {
    let mut request = node.ask(Method::GET, &format!("/api/v1/events{query}"));
    if let Some(last) = last {
        request = request.header("Last-Event-ID", last);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    response
}

#[tokio::test]
async fn events_come_as_they_happen() {
    let node = Node::start().await;
    let response = follow(&node, None, "").await;
    node.app
        .events
        .publish("mwi", json!({"mailbox": "2001", "new": 1}));
    let text = read_until(response, "event: mwi").await;
    assert!(text.contains("id: "), "{text}");
}

#[tokio::test]
async fn a_reader_that_comes_back_misses_nothing_and_one_away_too_long_is_told() {
    let node = Node::start().await;
    let hub = &node.app.events;
    hub.publish("mwi", json!({"n": 1}));
    let seen = hub.recent(1)[0].id.clone();
    hub.publish("mwi", json!({"n": 2}));
    hub.publish("alarm", json!({"n": 3}));
    let text = read_until(follow(&node, Some(&seen), "").await, "\"n\":3").await;
    assert!(
        text.contains("\"n\":2") && !text.contains("\"n\":1") && !text.contains("gap"),
        "{text}"
    );
    let text = read_until(follow(&node, Some(&seen), "?kinds=alarm").await, "\"n\":3").await;
    assert!(!text.contains("event: mwi"), "{text}");
    for n in 0..=KEPT {
        hub.publish("mwi", json!({"later": n}));
    }
    let text = read_until(follow(&node, Some(&seen), "").await, "event: mwi").await;
    assert!(
        text.find("event: gap").unwrap() < text.find("event: mwi").unwrap(),
        "{text}"
    );
}

#[tokio::test]
async fn followers_are_bounded_and_end_with_the_node() {
    let mut node = Node::start().await;
    let mut followers = Vec::new();
    for _ in 0..64 {
        followers.push(follow(&node, None, "").await);
    }
    let one_more = node.get("/api/v1/events").await;
    assert_eq!(one_more.headers()["retry-after"], "5");
    assert_eq!(problem(one_more).await.1, "busy");
    let served = node.served.take().unwrap();
    node.stop.cancel();
    timeout(Duration::from_secs(4), served)
        .await
        .expect("followers held the stop")
        .unwrap();
}
