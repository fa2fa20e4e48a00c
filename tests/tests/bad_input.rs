//! Bad input of every kind: a clear answer, and nothing lost.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use vmsync_config::words::{UnixMillis, Vector};
use vmsync_core::wire::{Addresses, Form, Head, Keys, Mail, VERSION, encode};
use vmsync_tests::{
    pair::{Ended, Node, ONE, Pair, TWO, run, vmsync, wav},
    swaks::Swaks,
};

const MESSAGES: &str = "/api/v1/mailboxes/2001/messages";

#[track_caller]
fn says(ended: &Ended, words: &[&str]) {
    for word in words {
        assert!(
            ended.err.contains(word),
            "does not say {word:?}:\n{}",
            ended.err
        );
    }
}

#[tokio::test]
async fn over_http_each_mistake_has_its_answer() {
    let pair = Pair::laid_out().await;
    pair.primary
        .configure_more("[limits]\nmessage_bytes = \"64KiB\"");
    pair.start_both().await;
    let node = &pair.primary;
    let kept = node.leave("2001", "1", ONE).await;

    // Who asks.
    let missing = node.stranger(Method::GET, MESSAGES).send().await;
    missing.problem(401, "no_token", &["Authorization: Bearer"]);
    let wrong = node
        .stranger(Method::POST, MESSAGES)
        .token("not-this-one")
        .wav(ONE)
        .send()
        .await;
    wrong.problem(401, "no_token", &["tokens file"]);
    let other = node
        .stranger(Method::GET, MESSAGES)
        .token(&pair.secondary.admin_token)
        .send()
        .await;
    other.problem(401, "no_token", &[]);
    let reader = node
        .stranger(Method::POST, MESSAGES)
        .token(&node.read_token)
        .wav(ONE)
        .send()
        .await;
    reader.problem(403, "admin_needed", &["admin"]);
    node.stranger(Method::GET, MESSAGES)
        .token(&node.read_token)
        .send()
        .await
        .must_be(200);

    // What is sent.
    let deposit =
        |kind: &str, body: &[u8]| node.request(Method::POST, MESSAGES).body(kind, body).send();
    deposit("audio/wav", &wav(5)).await.problem(
        413,
        "too_large",
        &["65536 bytes", "limits.message_bytes"],
    );
    deposit("text/plain", b"hello")
        .await
        .problem(415, "not_audio", &[]);
    deposit("audio/wav", b"")
        .await
        .problem(422, "not_audio", &[]);
    deposit("audio/wav", b"these are words, not audio")
        .await
        .problem(422, "not_audio", &[]);
    deposit("audio/wav", &ONE[..ONE.len() / 2])
        .await
        .problem(422, "not_audio", &["truncated"]);
    deposit("audio/wav", &ONE[..20])
        .await
        .problem(422, "not_audio", &[]);

    // Where to.
    let nobody = node.deposit("2999", "1", ONE).send().await;
    nobody.problem(404, "not_found", &["2999"]);
    let no_digits = node.deposit("reception", "1", ONE).send().await;
    no_digits.problem(422, "invalid", &["reception"]);
    let nowhere = node
        .request(Method::GET, "/api/v1/mailbox/2001")
        .send()
        .await;
    nowhere.problem(404, "not_found", &["/api/v1/mailbox/2001"]);
    node.request(Method::PUT, MESSAGES)
        .wav(ONE)
        .send()
        .await
        .problem(405, "method_not_allowed", &["PUT"]);

    // JSON.
    let mailboxes = |body: &str| {
        node.request(Method::POST, "/api/v1/mailboxes")
            .body("application/json", body)
            .send()
    };
    mailboxes("{\"extension\": \"2004\", ").await.problem(
        400,
        "malformed",
        &["not JSON", "line 1"],
    );
    mailboxes(r#"{"extension": 2004}"#)
        .await
        .problem(422, "invalid", &["string"]);
    mailboxes(r#"{"extension": "2004", "colour": "red"}"#)
        .await
        .problem(422, "invalid", &["colour"]);
    mailboxes(r#"{"extension": "2004", "pin": "12"}"#)
        .await
        .problem(422, "invalid", &["PIN"]);
    mailboxes(r#"{"extension": "2004", "home_system": "moon"}"#)
        .await
        .problem(422, "invalid", &["moon"]);
    mailboxes(r#"{"extension": "2001", "name": "Twice"}"#)
        .await
        .problem(409, "conflict", &["2001"]);
    let state = node
        .patch(&format!("{MESSAGES}/{kept}"), &json!({"state": "heard"}))
        .await;
    state.problem(422, "invalid", &["heard"]);
    let query = node
        .request(Method::GET, &format!("{MESSAGES}?stat=new"))
        .send()
        .await;
    query.problem(422, "invalid", &["stat"]);

    // Nothing was lost, and nothing was made of any of this.
    assert_eq!(node.messages("2001").await.len(), 1);
    node.hears("2001", &kept, ONE).await;
    assert_eq!(
        node.get("/api/v1/mailboxes").await["items"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    let next = node.leave("2001", "2", TWO).await;
    pair.in_step().await;
    pair.secondary.hears("2001", &next, TWO).await;
}

#[tokio::test]
async fn a_repeated_deposit_is_one_message() {
    let pair = Pair::start().await;
    let node = &pair.primary;
    let deposit = |wav| {
        node.deposit("2001", "1", wav)
            .header("idempotency-key", "call-17")
            .send()
    };
    let first = deposit(ONE).await.must_be(201).json();
    let again = deposit(ONE).await.must_be(200).json();
    assert_eq!(first["id"], again["id"]);
    deposit(TWO)
        .await
        .problem(409, "idempotency_key_reused", &["new key"]);
    assert_eq!(node.messages("2001").await.len(), 1);
}

#[tokio::test]
async fn check_shows_all_five_errors_of_a_configuration() {
    let pair = Pair::laid_out().await;
    let node = &pair.primary;
    node.configure("role = \"primary\"", "role = \"master\"");
    node.configure("timeout = \"60m\"", "timeout = \"90m\"");
    node.configure("heartbeat = \"250ms\"", "heartbeat = \"soon\"");
    node.configure(
        &format!("listen = \"{}\"", node.smtp),
        "listen = \"everywhere\"",
    );
    node.configure_more("[limits]\nmesage_bytes = \"1MiB\"");
    let config = node.config.to_string_lossy();
    let ended = run(
        vmsync(),
        &["check", "--config", &config],
        Duration::from_secs(20),
    )
    .await;
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    says(
        &ended,
        &[
            "node.role",
            "failback.timeout",
            "R-FB-5",
            "pair.heartbeat",
            "smtp.receiver.listen",
            "limits.mesage_bytes",
            "message_bytes",
        ],
    );
    // And `serve` says the same instead of starting.
    let served = node.fails_to_start().await;
    assert_eq!((served.code, &served.err), (Some(2), &ended.err));
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_key() {
    let pair = Pair::laid_out().await;
    let node = &pair.primary;
    let http = node.http.trim_start_matches("http://").to_owned();
    let ftp = node.ftp.clone().unwrap();
    for (key, address) in [
        ("http.listen", &http),
        ("smtp.receiver.listen", &node.smtp),
        ("vrl.server.listen", &ftp),
    ] {
        let taken = std::net::TcpListener::bind(address.as_str()).unwrap();
        let ended = node.fails_to_start().await;
        assert_eq!(ended.code, Some(1), "{}", ended.err);
        says(
            &ended,
            &[
                &format!("{key} = {address}"),
                "another program has this port",
            ],
        );
        drop(taken);
    }
    pair.start_both().await;
}

#[tokio::test]
async fn a_data_folder_is_not_opened_by_the_wrong_program() {
    let pair = Pair::laid_out().await;
    let node = &pair.primary;
    node.start().await;
    let kept = node.leave("2001", "1", ONE).await;

    // A second process.
    says(
        &node.fails_to_start().await,
        &[
            "in use by another vmsync process",
            &node.data_dir.to_string_lossy(),
        ],
    );
    node.stop().await;

    // A newer release wrote it.
    let format = node.data_dir.join("FORMAT");
    let written = std::fs::read_to_string(&format).unwrap();
    let version = written.lines().nth(1).unwrap().to_owned();
    std::fs::write(&format, written.replace(&version, "version 7001")).unwrap();
    let ended = node.fails_to_start().await;
    assert_eq!(ended.code, Some(1));
    says(
        &ended,
        &[
            "version 7001",
            &format!("up to {version}"),
            &node.data_dir.to_string_lossy(),
        ],
    );

    // Another node's folder.
    std::fs::write(&format, written.replace("vmpro1", "vmpro7")).unwrap();
    says(&node.fails_to_start().await, &["belongs to node vmpro7"]);

    std::fs::write(&format, &written).unwrap();
    node.start().await;
    node.hears("2001", &kept, ONE).await;
}

#[tokio::test]
async fn a_missing_key_or_certificate_is_named() {
    let pair = Pair::laid_out().await;
    let node = &pair.primary;
    node.configure("key_file = \"../pair.key\"", "key_file = \"../lost.key\"");
    node.configure("cert = \"vmpro1.demo.example.pem\"", "cert = \"lost.pem\"");
    node.configure("tokens_file = \"tokens\"", "tokens_file = \"lost-tokens\"");
    let ended = node.fails_to_start().await;
    says(&ended, &["lost.key", "lost.pem", "lost-tokens"]);
}

/// A mail to `node` that says it is from its peer, signed with `key`.
fn forged(node: &Node, key: &str) -> Vec<u8> {
    let mail = Mail {
        operations: vec![json!({"an": "operation"}).into()],
        ..Mail::of(Head {
            version: VERSION.to_owned(),
            id: uuid::Uuid::now_v7(),
            from: "vmpro2.00000001".parse().unwrap(),
            to: node.id.parse().unwrap(),
            session: 1,
            answers: None,
            have: Vector::default(),
            digest: String::new(),
            sent_at: UnixMillis(1_790_000_000_000),
            seeding: None,
            buckets: None,
            left: None,
            probe: None,
            echo: None,
            asks: false,
            extra: std::collections::BTreeMap::default(),
        })
    };
    let addresses = Addresses {
        from: "vmsync@vmpro2.demo.example".to_owned(),
        to: format!("vmsync@{}", node.fqdn),
    };
    let keys = Keys::parse(key).unwrap();
    encode(&mail, &[], &addresses, &keys, Form::default()).unwrap()
}

#[tokio::test]
async fn with_the_wrong_pair_key_nothing_is_believed_until_the_right_one_is_back() {
    let pair = Pair::laid_out().await;
    let key = "0123456789abcdef".repeat(4);
    std::fs::write(pair.layout().join("other.key"), &key).unwrap();
    pair.secondary.configure("../pair.key", "../other.key");
    for node in pair.nodes() {
        node.launch().await;
    }
    for node in pair.nodes() {
        node.ready().await;
        let alarm = node.alarm("bad_signature").await;
        assert!(
            alarm["text"].as_str().unwrap().contains("same key file"),
            "{alarm}"
        );
        let status = node.try_status().await.unwrap();
        // Its mail server greets, so it is there; but nothing it says is believed.
        let signs = &status["peer"]["signs"];
        assert_eq!(
            (&signs["answers"], &signs["questions"]),
            (&false.into(), &false.into())
        );
        assert!(
            status["peer"]["reason"].as_str().unwrap().contains("key"),
            "{}",
            status["peer"]
        );
    }
    let id = pair.primary.leave("2001", "1", ONE).await;

    // A mail with that key, and one with none.
    let file = pair.file("forged.eml", forged(&pair.primary, &key));
    let to = format!("vmsync@{}", pair.primary.fqdn);
    let stranger = || Swaks::mail(&pair.primary, &to).flag("-tls");
    let of_peer = |kind: &str| {
        let name = format!("{}.{kind}", pair.secondary.fqdn);
        let file = pair.secondary.config.with_file_name(name);
        file.to_string_lossy().into_owned()
    };
    let mail = || {
        let with_cert = stranger().with("--tls-cert", &of_peer("pem"));
        with_cert.with("--tls-key", &of_peer("key"))
    };
    let data = format!("@{}", file.display());
    mail()
        .with("--data", &data)
        .send()
        .await
        .refused("550", "fits none of the pair's keys");
    mail().send().await.refused("550", "not signed");
    // Nor is anything for the node taken from anybody but the peer, or in clear text.
    let nobody = stranger().send().await;
    let nobody = nobody.refused("550", "no client certificate was presented");
    assert!(!nobody.sent_data(), "{}", nobody.text);
    let alarm = pair.primary.alarm("wrong_certificate").await;
    assert!(
        alarm["text"]
            .as_str()
            .unwrap()
            .contains(&pair.secondary.fqdn),
        "{alarm}"
    );
    Swaks::mail(&pair.primary, &to)
        .send()
        .await
        .refused("530", "STARTTLS");

    let before = pair.primary.get("/api/v1/sync").await;
    assert_eq!(
        pair.primary.get("/api/v1/mailboxes").await["items"]
            .as_array()
            .unwrap()
            .len(),
        3,
        "{before}"
    );
    pair.secondary.lacks(&format!("{MESSAGES}/{id}")).await;

    pair.secondary.stop().await;
    pair.secondary.configure("../other.key", "../pair.key");
    pair.secondary.start().await;
    pair.in_step().await;
    pair.secondary.hears("2001", &id, ONE).await;
}
