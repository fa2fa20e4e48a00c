//! What one node mails to the other, read as any mail by the capture fixture that stands between them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use vmsync_config::words::UnixMillis;
use vmsync_core::wire::{Addresses, Form, Head, Keys, Mail, Skip, encode};
use vmsync_tests::{
    mailhog::{MailHog, Options},
    pair::{ONE, Pair, TWO, client, soon},
    swaks::Swaks,
};

/// A pair without TLS whose primary mails through the fixture.
async fn observed() -> (Pair, MailHog) {
    let pair = Pair::laid_out().await;
    pair.configure_both("require = true", "require = false");
    let any = "127.0.0.1:0".parse().unwrap();
    let secondary = pair.secondary.smtp.parse().unwrap();
    let fixture = MailHog::start(Options {
        smtp: any,
        http: any,
        forward_to: Some(secondary),
    })
    .await
    .unwrap();
    let entry = |port: u16| format!("server = \"127.0.0.1\"\nport = {port}\n");
    pair.primary
        .configure(&entry(secondary.port()), &entry(fixture.smtp.port()));
    pair.start_both().await;
    (pair, fixture)
}

async fn get(fixture: &MailHog, path: &str) -> Value {
    let answer = client()
        .get(format!("http://{}{path}", fixture.http))
        .send()
        .await
        .unwrap();
    answer.json().await.unwrap()
}

/// Waits for the mail of a voice message in which `words` stand.
async fn voice_mail(fixture: &MailHog, words: &str) -> Value {
    let path = format!("/api/v2/search?kind=containing&query={words}");
    soon(&format!("the mail with {words}"), async || {
        let found = get(fixture, &path).await;
        let mut mails = found["items"].as_array().unwrap().iter();
        let voice =
            mails.find(|m| m["Content"]["Headers"]["Message-Context"] == json!(["voice-message"]));
        voice
            .cloned()
            .ok_or_else(|| format!("{} mails found", found["total"]))
    })
    .await
}

/// A header of a mail or part; empty where there is none.
fn header<'a>(content: &'a Value, name: &str) -> &'a str {
    content["Headers"][name][0].as_str().unwrap_or_default()
}

fn decoded(part: &Value) -> Vec<u8> {
    let body: String = part["Body"].as_str().unwrap().split_whitespace().collect();
    STANDARD.decode(body).unwrap()
}

#[tokio::test]
async fn a_voice_message_travels_as_a_mail_anybody_could_play() {
    let (pair, fixture) = observed().await;
    let call = pair.primary.deposit(
        "2001",
        "5551234&caller_name=Charles%20Babbage&urgent=true&private=true",
        ONE,
    );
    let id = call.send().await.must_be(201).json()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let mail = voice_mail(&fixture, "5551234").await;

    assert_eq!(mail["Raw"]["From"], "vmsync@vmpro1.demo.example");
    assert_eq!(mail["Raw"]["To"], json!(["vmsync@vmpro2.demo.example"]));
    assert_eq!(mail["Raw"]["Helo"], "vmpro1.demo.example");
    let content = &mail["Content"];
    assert!(
        header(content, "Subject").contains("2001"),
        "{}",
        header(content, "Subject")
    );
    assert_eq!(header(content, "Importance"), "high");
    assert_eq!(header(content, "Sensitivity"), "private");
    assert_eq!(header(content, "Auto-Submitted"), "auto-generated");
    assert!(header(content, "Vmsync-Signature").starts_with("hmac-sha256; key="));

    let [text, audio, machine] = mail["MIME"]["Parts"].as_array().unwrap().as_slice() else {
        panic!("expected text, audio and machine part: {}", mail["MIME"]);
    };
    assert!(
        text["Body"].as_str().unwrap().contains("Charles Babbage"),
        "{text}"
    );
    assert!(header(audio, "Content-Type").starts_with("audio/wav;"));
    assert_eq!(
        header(audio, "Content-Duration"),
        "4",
        "3.7 s, in whole seconds"
    );
    assert!(decoded(audio) == ONE, "the attachment sounds different");
    assert_eq!(
        header(machine, "Content-Type"),
        "application/vnd.vmsync.sync+json; version=\"1.1\""
    );
    let json: Value = serde_json::from_slice(&decoded(machine)).unwrap();
    assert!(
        json.to_string().contains(&id),
        "the machine part doesn't name message {id}: {json}"
    );

    pair.secondary.hears("2001", &id, ONE).await;
    pair.in_step().await;
}

#[tokio::test]
async fn mails_of_a_pair_are_found_paged_and_deleted() {
    let (pair, fixture) = observed().await;
    for caller in ["5550001", "5550002", "5550003"] {
        pair.primary.leave("2002", caller, TWO).await;
        voice_mail(&fixture, caller).await;
    }
    pair.in_step().await;
    let all = get(&fixture, "/api/v2/messages?limit=250").await;
    let total = all["total"].as_u64().unwrap();
    for (kind, query, expected) in [
        ("from", "vmsync@vmpro1.demo.example", total),
        ("to", "vmsync@vmpro2.demo.example", total),
        ("to", "vmsync@vmpro1.demo.example", 0),
        ("containing", "message-context:%20voice-message", 3),
    ] {
        let found = get(
            &fixture,
            &format!("/api/v2/search?kind={kind}&query={query}"),
        )
        .await;
        assert_eq!(found["total"], expected, "{kind} {query}");
    }
    let second = get(&fixture, "/api/v2/messages?start=1&limit=1").await;
    assert_eq!(
        (&second["count"], &second["items"][0]["ID"]),
        (&json!(1), &all["items"][1]["ID"])
    );
    let created: Vec<_> = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["Created"].as_str().unwrap())
        .collect();
    assert!(
        created.is_sorted_by(|a, b| a >= b),
        "newest first: {created:?}"
    );

    client()
        .delete(format!("http://{}/api/v1/messages", fixture.http))
        .send()
        .await
        .unwrap();
    assert_eq!(get(&fixture, "/api/v2/messages").await["total"], 0);
}

/// A mail that was taken down on the way can be read, but not changed or made up.
#[tokio::test]
async fn no_pin_or_key_is_in_a_mail() {
    let (pair, fixture) = observed().await;
    pair.primary
        .patch("/api/v1/mailboxes/2003", &json!({"pin": "86420135"}))
        .await
        .must_be(200);
    pair.in_step().await;
    let key = std::fs::read_to_string(pair.layout().join("pair.key")).unwrap();
    let key = key.lines().last().unwrap().trim().to_owned();
    let mut machine_parts = 0;
    for mail in fixture.mails() {
        let parts = mail.mime.as_ref().map_or(&[][..], |m| &m.parts);
        let mut texts = vec![mail.raw.data.clone()];
        for part in parts.iter().filter(|p| {
            p.headers
                .get("Content-Type")
                .is_some_and(|t| t[0].contains("vmsync"))
        }) {
            let body: String = part.body.split_whitespace().collect();
            texts.push(String::from_utf8(STANDARD.decode(body).unwrap()).unwrap());
            machine_parts += 1;
        }
        for text in texts {
            assert!(!text.contains("86420135"), "the PIN stands in a mail");
            assert!(!text.contains(&key), "the pair's key stands in a mail");
        }
    }
    assert!(machine_parts > 0, "no mail was seen");
}

/// What the primary has told of itself last.
fn last_head(fixture: &MailHog) -> Head {
    let mails = fixture.mails();
    let parts = mails.iter().filter_map(|m| m.mime.as_ref());
    let machine = parts.flat_map(|m| &m.parts).filter(|p| {
        let kind = p.headers.get("Content-Type");
        kind.is_some_and(|t| t[0].contains("vmsync"))
    });
    let heads = machine.map(|part| {
        let body: String = part.body.split_whitespace().collect();
        let mut manifest: Value = serde_json::from_slice(&STANDARD.decode(body).unwrap()).unwrap();
        serde_json::from_value::<Head>(manifest["head"].take()).unwrap()
    });
    heads.max_by_key(|head| head.sent_at).unwrap()
}

/// Whoever takes down a mail can send it again, at any time (docs/wire-format.md, section 12).
#[tokio::test]
async fn a_skip_sent_again_is_in_sight_and_both_agree_again_soon() {
    let (pair, fixture) = observed().await;
    pair.in_step().await;
    let mut head = last_head(&fixture);
    head.id = uuid::Uuid::now_v7();
    head.sent_at = UnixMillis(head.sent_at.0 + 1);
    let mail = Mail {
        skips: vec![Skip {
            origin: head.from.clone(),
            seq: 0,
            entity: "mailbox/2001".to_owned(),
            why: "a mail of old".to_owned(),
        }],
        ..Mail::of(head)
    };
    let key = std::fs::read_to_string(pair.layout().join("pair.key")).unwrap();
    let addresses = Addresses {
        from: "vmsync@vmpro1.demo.example".to_owned(),
        to: "vmsync@vmpro2.demo.example".to_owned(),
    };
    let form = Form {
        peer_minor: 1,
        ..Form::default()
    };
    let keys = Keys::parse(&key).unwrap();
    let bytes = encode(&mail, &[], &addresses, &keys, form).unwrap();
    let file = pair.file("skip.eml", bytes);
    let again = Swaks::mail(&pair.secondary, &addresses.to);
    let again = again.with("--data", &format!("@{}", file.display()));
    again.send().await.taken();
    soon("the quarantine to be in sight", async || {
        let history = pair.secondary.try_get("/api/v1/alarms").await?;
        let raised = history.to_string().contains("quarantined");
        raised.then_some(()).ok_or(history.to_string())
    })
    .await;
    soon("the quarantine to end", async || {
        let sync = pair.secondary.try_get("/api/v1/sync").await?;
        let none = sync["quarantine"] == json!([]);
        none.then_some(()).ok_or(sync["quarantine"].to_string())
    })
    .await;
    pair.in_step().await;
}
