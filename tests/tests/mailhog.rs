//! The capture fixture answers as MailHog does.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use lettre::{
    Message, SmtpTransport, Transport,
    message::{Attachment, MultiPart, SinglePart, header::ContentType},
};
use serde_json::{Value, json};
use vmsync_tests::{
    mailhog::{MailHog, Options},
    pair::client,
};

async fn fixture() -> MailHog {
    let any = "127.0.0.1:0".parse().unwrap();
    MailHog::start(Options {
        smtp: any,
        http: any,
        forward_to: None,
    })
    .await
    .unwrap()
}

async fn get(fixture: &MailHog, path: &str) -> Value {
    let answer = client()
        .get(format!("http://{}{path}", fixture.http))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.unwrap()
}

async fn delete(fixture: &MailHog, path: &str) {
    let answer = client()
        .delete(format!("http://{}{path}", fixture.http))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200, "{path}");
}

/// Sends a mail of two parts from `from` to `to`.
async fn send(fixture: &MailHog, from: &str, to: &str, subject: &str) {
    let audio = Attachment::new("msg0000.wav".to_owned()).body(
        vec![0, 255, 13, 10, 46],
        ContentType::parse("audio/wav").unwrap(),
    );
    let mail = Message::builder()
        .from(format!("A PBX <{from}>").parse().unwrap())
        .to(to.parse().unwrap())
        .subject(subject)
        .multipart(
            MultiPart::mixed()
                .singlepart(SinglePart::plain("Hello.\r\n.\r\nGoodbye.".to_owned()))
                .singlepart(audio),
        )
        .unwrap();
    let (host, port) = (fixture.smtp.ip().to_string(), fixture.smtp.port());
    let sending = move || {
        SmtpTransport::builder_dangerous(host)
            .port(port)
            .build()
            .send(&mail)
    };
    tokio::task::spawn_blocking(sending).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_mail_is_shown_with_mailhogs_fields() {
    let fixture = fixture().await;
    send(&fixture, "pbx@a.example", "2001@b.example", "New message").await;
    let page = get(&fixture, "/api/v2/messages").await;
    assert_eq!(
        (&page["total"], &page["count"], &page["start"]),
        (&json!(1), &json!(1), &json!(0))
    );
    let item = &page["items"][0];
    assert_eq!(
        item["From"],
        json!({"Relays": null, "Mailbox": "pbx", "Domain": "a.example", "Params": ""})
    );
    assert_eq!(
        item["To"],
        json!([{"Relays": null, "Mailbox": "2001", "Domain": "b.example", "Params": ""}])
    );
    let headers = &item["Content"]["Headers"];
    assert_eq!(headers["Subject"], json!(["New message"]));
    assert_eq!(headers["To"], json!(["2001@b.example"]));
    assert!(
        item["Content"]["Body"]
            .as_str()
            .unwrap()
            .contains("Goodbye.")
    );
    assert!(item["Content"]["Size"].as_u64().unwrap() > 200);
    assert!(item["ID"].as_str().unwrap().contains('@'));
    assert!(item["Created"].as_str().unwrap().contains('T'));
    let parts = item["MIME"]["Parts"].as_array().unwrap();
    assert_eq!(parts.len(), 2);
    // A line of one dot comes through as it was (RFC 5321 section 4.5.2).
    assert_eq!(
        parts[0]["Body"].as_str().unwrap().trim_end(),
        "Hello.\r\n.\r\nGoodbye."
    );
    assert_eq!(parts[1]["Headers"]["Content-Type"], json!(["audio/wav"]));
    assert_eq!(parts[1]["Body"].as_str().unwrap().trim_end(), "AP8NCi4=");
    let raw = &item["Raw"];
    assert_eq!(
        (&raw["From"], &raw["To"]),
        (&json!("pbx@a.example"), &json!(["2001@b.example"]))
    );
    assert!(raw["Data"].as_str().unwrap().starts_with("From: "));
    assert!(!raw["Helo"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn mails_are_paged_searched_and_deleted_newest_first() {
    let fixture = fixture().await;
    for n in 1..=5 {
        send(
            &fixture,
            &format!("from{n}@a.example"),
            &format!("to{n}@b.example"),
            &format!("Number {n}"),
        )
        .await;
    }
    let subjects = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().unwrap();
        items
            .iter()
            .map(|i| {
                i["Content"]["Headers"]["Subject"][0]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    };
    let page = get(&fixture, "/api/v2/messages?start=1&limit=2").await;
    assert_eq!(
        (&page["total"], &page["count"], &page["start"]),
        (&json!(5), &json!(2), &json!(1))
    );
    assert_eq!(subjects(&page), ["Number 4", "Number 3"]);
    for (kind, query) in [
        ("from", "from2@a.example"),
        ("to", "TO2@b.example"),
        ("containing", "number%202"),
    ] {
        let found = get(
            &fixture,
            &format!("/api/v2/search?kind={kind}&query={query}"),
        )
        .await;
        assert_eq!(
            (subjects(&found), &found["total"]),
            (vec!["Number 2".to_owned()], &json!(1)),
            "{kind}"
        );
    }
    let none = get(&fixture, "/api/v2/search?kind=to&query=from2").await;
    assert_eq!(none["total"], 0);

    let id = page["items"][0]["ID"].as_str().unwrap();
    assert_eq!(
        get(&fixture, &format!("/api/v1/messages/{id}")).await["ID"],
        id
    );
    delete(&fixture, &format!("/api/v1/messages/{id}")).await;
    assert_eq!(
        subjects(&get(&fixture, "/api/v2/messages").await),
        ["Number 5", "Number 3", "Number 2", "Number 1"]
    );
    delete(&fixture, "/api/v1/messages").await;
    assert_eq!(get(&fixture, "/api/v2/messages").await["total"], 0);
}
