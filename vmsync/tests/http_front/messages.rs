//! Leaving, listening to, changing and deleting messages.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{Node, problem, wav};

const INBOX: &str = "/api/v1/mailboxes/2001/messages";

async fn inbox() -> Node {
    let node = Node::start().await;
    node.mailbox("2001");
    node
}

/// R-IN-1, R-MB-6.
#[tokio::test]
async fn a_message_left_is_heard_byte_for_byte() {
    let node = inbox().await;
    let audio = wav(1500, 7);
    let facts = "?caller_number=%2B4930123&caller_name=Ada&urgent=true&received_at=2026-11-22T09:00:00%2B01:00";
    let response = node
        .deposit(&format!("{INBOX}{facts}"), audio.clone())
        .await;
    assert_eq!(response.status(), StatusCode::CREATED);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let message: Value = response.json().await.unwrap();
    assert_eq!(
        location,
        format!("{INBOX}/{}", message["id"].as_str().unwrap())
    );
    assert_eq!(message["mailbox"], "2001");
    assert_eq!(message["state"], "new");
    assert_eq!(message["caller_number"], "+4930123");
    assert_eq!(message["caller_name"], "Ada");
    assert_eq!(message["received_at"], "2026-11-22T08:00:00.000Z");
    assert_eq!(message["duration_ms"], 1500);
    assert_eq!(message["codec"], "pcm16");
    assert_eq!(message["bytes"], audio.len());
    assert_eq!(message["sha256"], hex::encode(Sha256::digest(&audio)));
    assert_eq!(message["urgent"], true);
    assert_eq!(message["private"], false);
    assert_eq!(message["taken_by"], "vmpro1");

    assert_eq!(node.json(&location).await, message);
    let response = node.get(&format!("{location}/audio")).await;
    assert_eq!(response.headers()["content-type"], "audio/wav");
    assert_eq!(response.headers()["served-by"], "vmpro1");
    assert_eq!(response.headers()["sync-lag-ms"], "42");
    assert_eq!(response.bytes().await.unwrap(), audio);
}

#[tokio::test]
async fn audio_is_served_in_ranges_and_not_sent_twice() {
    let node = inbox().await;
    let audio = wav(9000, 3);
    let message: Value = node
        .deposit(INBOX, audio.clone())
        .await
        .json()
        .await
        .unwrap();
    let path = format!("{INBOX}/{}/audio", message["id"].as_str().unwrap());
    let with = |name: &'static str, value: String| {
        let request = node.ask(Method::GET, &path).header(name, value);
        async move { request.send().await.unwrap() }
    };

    let part = with("Range", "bytes=70000-70099".to_owned()).await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(
        part.headers()["content-range"],
        format!("bytes 70000-70099/{}", audio.len())
    );
    assert_eq!(part.bytes().await.unwrap(), audio[70_000..70_100]);
    let tail = with("Range", "bytes=-10".to_owned()).await;
    assert_eq!(tail.bytes().await.unwrap(), audio[audio.len() - 10..]);
    let beyond = with("Range", "bytes=999999999-".to_owned()).await;
    assert_eq!(
        beyond.headers()["content-range"],
        format!("bytes */{}", audio.len())
    );
    assert_eq!(problem(beyond).await.1, "range_not_satisfiable");

    let etag = format!("\"{}\"", message["sha256"].as_str().unwrap());
    let whole = node.get(&path).await;
    assert_eq!(whole.headers()["etag"], etag);
    assert_eq!(whole.content_length(), Some(audio.len() as u64));
    assert_eq!(
        with("If-None-Match", etag).await.status(),
        StatusCode::NOT_MODIFIED
    );
    let head = node.ask(Method::HEAD, &path).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], audio.len().to_string());
}

#[tokio::test]
async fn the_same_idempotency_key_is_the_same_message() {
    let node = inbox().await;
    let send = |audio: Vec<u8>| {
        let request = node
            .ask(Method::POST, INBOX)
            .header("Content-Type", "audio/wav");
        let request = request.header("Idempotency-Key", "call-4711").body(audio);
        async move { request.send().await.unwrap() }
    };
    let first = send(wav(500, 1)).await;
    assert_eq!(first.status(), StatusCode::CREATED);
    let first: Value = first.json().await.unwrap();
    let again = send(wav(500, 1)).await;
    assert_eq!(again.status(), StatusCode::OK);
    assert_eq!(again.json::<Value>().await.unwrap(), first);
    let (status, code, _) = problem(send(wav(500, 2)).await).await;
    assert_eq!((status, code.as_str()), (409, "idempotency_key_reused"));
    assert_eq!(node.json(INBOX).await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn deleting_is_recoverable_once_and_final_twice() {
    let node = inbox().await;
    let message: Value = node.deposit(INBOX, wav(500, 1)).await.json().await.unwrap();
    let path = format!("{INBOX}/{}", message["id"].as_str().unwrap());

    let old = node
        .send(Method::PATCH, &path, json!({"state": "old"}))
        .await;
    assert_eq!(old.json::<Value>().await.unwrap()["state"], "old");
    let deleted = node.ask(Method::DELETE, &path).send().await.unwrap();
    assert_eq!(deleted.json::<Value>().await.unwrap()["state"], "deleted");
    assert_eq!(
        node.json(INBOX).await["items"],
        json!([]),
        "deleted ones are listed only on request"
    );
    let listed = node.json(&format!("{INBOX}?state=deleted,new")).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    let back = node
        .send(Method::PATCH, &path, json!({"state": "saved"}))
        .await;
    assert_eq!(back.json::<Value>().await.unwrap()["state"], "saved");

    node.ask(Method::DELETE, &path).send().await.unwrap();
    let purged = node.ask(Method::DELETE, &path).send().await.unwrap();
    assert_eq!(purged.status(), StatusCode::NO_CONTENT);
    assert_eq!(problem(node.get(&path).await).await.0, 404);

    let message: Value = node.deposit(INBOX, wav(500, 2)).await.json().await.unwrap();
    let path = format!("{INBOX}/{}?purge=true", message["id"].as_str().unwrap());
    assert_eq!(
        node.ask(Method::DELETE, &path)
            .send()
            .await
            .unwrap()
            .status(),
        204
    );
}

#[tokio::test]
async fn what_is_no_message_is_told_why() {
    let node = Node::with("", |c| {
        c.limits.message_min = std::time::Duration::from_secs(1);
        c.limits.message_max = std::time::Duration::from_secs(3);
    })
    .await;
    node.mailbox("2001");
    let send = |kind: &'static str, body: Vec<u8>| {
        let request = node
            .ask(Method::POST, INBOX)
            .header("Content-Type", kind)
            .body(body);
        async move {
            let (status, code, _) = problem(request.send().await.unwrap()).await;
            (status, code)
        }
    };
    let case = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(
        send("text/plain", b"hello".to_vec()).await,
        case(415, "not_audio")
    );
    assert_eq!(
        send("audio/wav", b"hello".to_vec()).await,
        case(422, "not_audio")
    );
    assert_eq!(send("audio/wav", Vec::new()).await, case(422, "not_audio"));
    let mut truncated = wav(2000, 0);
    truncated.truncate(10_000);
    assert_eq!(send("audio/wav", truncated).await, case(422, "not_audio"));
    assert_eq!(send("audio/wav", wav(999, 0)).await, case(422, "too_short"));
    assert_eq!(send("audio/wav", wav(3001, 0)).await, case(422, "too_long"));
    assert_eq!(
        node.deposit(INBOX, wav(3000, 0)).await.status(),
        StatusCode::CREATED
    );

    let nowhere = node
        .deposit("/api/v1/mailboxes/2999/messages", wav(2000, 0))
        .await;
    let (status, _, body) = problem(nowhere).await;
    assert_eq!(status, 404);
    assert!(body["detail"].as_str().unwrap().contains("2999"), "{body}");
    let bad = node
        .deposit(&format!("{INBOX}?received_at=yesterday"), wav(2000, 0))
        .await;
    assert_eq!(problem(bad).await.0, 422);
}

#[tokio::test]
async fn a_disabled_or_full_mailbox_takes_nothing_new() {
    let node = inbox().await;
    let mailbox = "/api/v1/mailboxes/2001";
    node.send(Method::PATCH, mailbox, json!({"enabled": false}))
        .await;
    let (status, code, _) = problem(node.deposit(INBOX, wav(500, 0)).await).await;
    assert_eq!((status, code.as_str()), (423, "mailbox_disabled"));
    node.send(
        Method::PATCH,
        mailbox,
        json!({"enabled": true, "max_messages": 1}),
    )
    .await;
    assert_eq!(
        node.deposit(INBOX, wav(500, 0)).await.status(),
        StatusCode::CREATED
    );
    let (status, code, _) = problem(node.deposit(INBOX, wav(500, 1)).await).await;
    assert_eq!((status, code.as_str()), (409, "mailbox_full"));
}

#[tokio::test]
async fn a_message_is_found_only_in_its_own_mailbox() {
    let node = inbox().await;
    node.mailbox("2002");
    let message: Value = node.deposit(INBOX, wav(500, 0)).await.json().await.unwrap();
    let id = message["id"].as_str().unwrap();
    let other = node
        .get(&format!("/api/v1/mailboxes/2002/messages/{id}"))
        .await;
    assert_eq!(problem(other).await.0, 404);
    let bad = node.get(&format!("{INBOX}/not-an-id")).await;
    assert_eq!(problem(bad).await.1, "invalid");
}

#[tokio::test]
async fn messages_come_in_pages() {
    let node = inbox().await;
    for n in 0..5 {
        node.deposit(INBOX, wav(200, n)).await;
    }
    let mut seen = Vec::new();
    let mut path = format!("{INBOX}?limit=2");
    loop {
        let page = node.json(&path).await;
        seen.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|m| m["id"].clone()),
        );
        match page["next"].as_str() {
            Some(next) => path = format!("{INBOX}?limit=2&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 5);
    seen.dedup();
    assert_eq!(seen.len(), 5);
}
