//! Voice messages to users' e-mail addresses, between real processes and a mail server that does as
//! it is told (R-MB-11, R-SY-2 further entries, R-SY-3).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use std::time::Duration;

use mail_parser::{MessageParser, MimeHeaders as _};
use reqwest::Method;
use serde_json::{Value, json};
use vmsync_tests::{
    mailhog::{Behaviour, Guard, Item, MailHog},
    pair::{Node, ONE, Pair, TWO, run, soon, vmsync},
    swaks::Swaks,
};

/// An entry of both nodes' configurations for mail of `domain`.
fn entry(domain: &str, port: u16, more: &str) -> String {
    format!(
        "[[smtp.sender]]\ndomain = \"{domain}\"\nserver = \"127.0.0.1\"\nport = {port}\n{more}\n"
    )
}

fn add(pair: &Pair, entry: &str) {
    for node in pair.nodes() {
        node.configure_more(entry);
    }
}

/// A pair whose users' mail for example.com goes to the fixture.
async fn with_server(guard: Guard, more: &str) -> (Pair, MailHog) {
    let pair = Pair::laid_out().await;
    let server = MailHog::for_users(guard).await;
    add(&pair, &entry("example.com", server.smtp.port(), more));
    pair.start_both().await;
    (pair, server)
}

async fn set(node: &Node, mailbox: &str, email: &str, mode: &str) {
    let change = json!({"email": email, "email_mode": mode});
    node.patch(&format!("/api/v1/mailboxes/{mailbox}"), &change)
        .await
        .must_be(200);
}

async fn message(node: &Node, mailbox: &str, id: &str) -> Result<Value, String> {
    node.try_get(&format!("/api/v1/mailboxes/{mailbox}/messages/{id}"))
        .await
}

/// Waits for the mark at `node`.
async fn marked(node: &Node, mailbox: &str, id: &str) -> Value {
    let what = format!("{id} to be marked as e-mailed at {}", node.id);
    soon(&what, async || {
        let message = message(node, mailbox, id).await?;
        match message["emailed_at"] {
            Value::Null => Err(message.to_string()),
            _ => Ok(message),
        }
    })
    .await
}

/// Waits until `node` knows that it will not be mailed.
async fn not_mailed(node: &Node, mailbox: &str, id: &str) -> Value {
    let what = format!("{id} to be marked as not e-mailed at {}", node.id);
    soon(&what, async || {
        let message = message(node, mailbox, id).await?;
        match message["email_failed"] {
            Value::Null => Err(message.to_string()),
            _ => Ok(message),
        }
    })
    .await
}

/// The mail of message `id`, if it was mailed once.
fn once(server: &MailHog, id: &str) -> Item {
    let mails = mails_of(server, id);
    let [mail] = mails.as_slice() else {
        panic!("{} mails of {id}", mails.len())
    };
    mail.clone()
}

fn mails_of(server: &MailHog, id: &str) -> Vec<Item> {
    let mails = server.mails();
    let of = mails
        .iter()
        .filter(|m| m.header("Vmsync-Delivery") == Some(id));
    of.map(|m| Item::clone(m)).collect()
}

async fn delivery(node: &Node, place: usize) -> Result<Value, String> {
    let email = node.try_get("/api/v1/email").await?;
    Ok(email["entries"][place]["delivery"].clone())
}

/// Waits until delivery by an entry is in this state.
async fn state(node: &Node, place: usize, state: &str) -> Value {
    soon(&format!("entry {place} to be {state}"), async || {
        let delivery = delivery(node, place).await?;
        if delivery["state"] == state {
            Ok(delivery)
        } else {
            Err(delivery.to_string())
        }
    })
    .await
}

async fn ended(node: &Node, code: &str) {
    soon(&format!("the alarm {code} to end"), async || {
        let alarms = node.try_get("/api/v1/alarms?active=true").await?;
        let up = alarms["items"].as_array().unwrap();
        if up.iter().any(|a| a["code"] == code) {
            Err(alarms.to_string())
        } else {
            Ok(())
        }
    })
    .await;
}

#[tokio::test]
async fn a_notice_a_copy_and_a_forwarded_message() {
    let (pair, server) = with_server(Guard::default(), "").await;
    let node = &pair.primary;
    let old = node.leave("2002", "5550000", ONE).await;
    for (mailbox, mode) in [("2001", "alert"), ("2002", "copy"), ("2003", "forward")] {
        set(node, mailbox, &format!("user{mailbox}@example.com"), mode).await;
    }
    let alert = node.leave("2001", "5551234", ONE).await;
    let name = "caller_name=%C5%BB%C3%B3%C5%82%C4%87%20%E6%9D%B1%E4%BA%AC&urgent=true&private=true";
    let path = format!("/api/v1/mailboxes/2002/messages?caller_number=5551234&{name}");
    let copy = node.request(Method::POST, &path).wav(TWO).send().await;
    let copy = copy.must_be(201).json()["id"].as_str().unwrap().to_owned();
    let forward = node.leave("2003", "5551234", ONE).await;
    for (mailbox, id) in [("2001", &alert), ("2002", &copy), ("2003", &forward)] {
        for node in pair.nodes() {
            marked(node, mailbox, id).await;
        }
    }
    pair.in_step().await;

    let mail = once(&server, &alert);
    assert_eq!(mail.raw.to, ["user2001@example.com"]);
    assert!(mail.mime.is_none() && mail.header("Message-Context").is_none());
    assert!(
        mail.header("Subject")
            .unwrap()
            .starts_with("Voice message from 5551234 (0:04) for 2001")
    );

    // R-SY-3: blank, so from the mailbox's own address, in the envelope and the header.
    let mail = once(&server, &copy);
    assert_eq!(mail.raw.from, "user2002@example.com");
    let read = MessageParser::default()
        .parse(mail.raw.data.as_bytes())
        .unwrap();
    let from = read.from().unwrap().first().unwrap();
    assert_eq!(from.name(), Some("Żółć 東京 (5551234)"));
    assert_eq!(from.address(), Some("user2002@example.com"));
    assert_eq!(mail.header("Importance"), Some("high"));
    assert_eq!(mail.header("Sensitivity"), Some("private"));
    assert_eq!(mail.header("Message-Context"), Some("voice-message"));
    let attached = read.attachment(0).unwrap();
    assert!(attached.contents() == TWO, "the audio differs");
    let name = attached.attachment_name().unwrap();
    assert!(name.starts_with("voice-2002-5551234-"), "{name}");
    assert_eq!(message(node, "2002", &copy).await.unwrap()["state"], "new");
    assert!(
        mails_of(&server, &old).is_empty(),
        "it came before the mode was set"
    );

    // Forwarded: deleted at both, recoverably.
    once(&server, &forward);
    for node in pair.nodes() {
        assert!(node.messages("2003").await.is_empty());
        assert_eq!(
            message(node, "2003", &forward).await.unwrap()["state"],
            "deleted"
        );
    }
    let delivery = state(node, 1, "idle").await;
    assert_eq!(
        (&delivery["sent"], &delivery["failed"]),
        (&json!(3), &json!(0))
    );
    let email = node.get("/api/v1/email").await;
    assert_eq!(email["entries"][0]["carries"], "nodes");
    assert_eq!(
        email["entries"][0]["sender"],
        format!("vmsync@{}", node.fqdn)
    );
    assert_eq!(email["entries"][1]["sender"], "the mailbox's own address");
    let metrics = node
        .request(Method::GET, "/metrics")
        .send()
        .await
        .must_be(200)
        .text();
    let series = "vmsync_email_sent_total{domain=\"example.com\"} 3\n";
    assert!(metrics.contains(series), "{metrics}");
}

#[tokio::test]
async fn what_a_server_puts_off_stays_and_goes_later() {
    let (pair, server) = with_server(Guard::default(), "sender = \"voicemail@example.com\"").await;
    let node = &pair.primary;
    set(node, "2001", "ada@example.com", "forward").await;
    set(node, "2002", "bob@example.com", "copy").await;
    server.behave(Behaviour::recipients(450, "4.2.0 greylisted, come back"));
    let id = node.leave("2001", "5551234", ONE).await;
    let waiting = soon("the mailbox to wait", async || {
        let delivery = delivery(node, 1).await?;
        let waiting = delivery["waiting"][0].clone();
        if waiting["mailbox"] == "2001" {
            Ok(waiting)
        } else {
            Err(delivery.to_string())
        }
    })
    .await;
    assert!(
        waiting["why"]
            .as_str()
            .unwrap()
            .contains("450 4.2.0 greylisted"),
        "{waiting}"
    );
    let kept = message(node, "2001", &id).await.unwrap();
    assert_eq!(
        (&kept["state"], &kept["emailed_at"]),
        (&json!("new"), &Value::Null)
    );
    assert!(server.mails().is_empty());
    // A restart forgets the pause, not the message.
    node.kill().await;
    server.behave(Behaviour::default());
    node.start().await;
    let sent = marked(node, "2001", &id).await;
    assert_eq!(sent["state"], "deleted");
    let mail = once(&server, &id);
    assert_eq!(mail.raw.from, "voicemail@example.com");
    pair.in_step().await;
    marked(&pair.secondary, "2001", &id).await;
}

#[tokio::test]
async fn a_dead_server_delays_no_other_domain_and_is_alarmed() {
    let pair = Pair::laid_out().await;
    let server = MailHog::for_users(Guard::default()).await;
    // Nobody listens there, but the port is taken.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = dead.local_addr().unwrap().port();
    drop(dead);
    add(&pair, &entry("example.net", port, ""));
    add(&pair, &entry("*", server.smtp.port(), ""));
    pair.start_both().await;
    let node = &pair.primary;
    set(node, "2001", "ada@example.net", "copy").await;
    set(node, "2002", "bob@example.org", "copy").await;
    let stuck = node.leave("2001", "1", ONE).await;
    let failing = state(node, 1, "failing").await;
    assert!(
        failing["last_error"]["text"]
            .as_str()
            .unwrap()
            .contains("can't be reached"),
        "{failing}"
    );
    // By the entry for all other domains.
    let id = node.leave("2002", "1", ONE).await;
    marked(node, "2002", &id).await;
    once(&server, &id);
    let alarm = node.alarm("email_server").await;
    assert_eq!(alarm["subject"], "example.net");
    // The message is mailed once its address is one whose server lives, and the alarm ends.
    set(node, "2001", "ada@example.org", "copy").await;
    marked(node, "2001", &stuck).await;
    once(&server, &stuck);
    ended(node, "email_server").await;
}

#[tokio::test]
async fn a_refused_recipient_is_shown_at_the_message_and_alarmed_until_cured() {
    let (pair, server) = with_server(Guard::default(), "").await;
    let node = &pair.primary;
    set(node, "2001", "ada@example.com", "forward").await;
    server.behave(Behaviour::recipients(550, "5.1.1 no such user here"));
    let id = node.leave("2001", "5551234", ONE).await;
    let alarm = node.alarm("email_failed").await;
    assert_eq!(alarm["subject"], "2001");
    pair.in_step().await;
    for node in pair.nodes() {
        let failed = not_mailed(node, "2001", &id).await;
        assert_eq!(failed["state"], "new", "nothing is lost");
        let why = failed["email_failed"]["why"].as_str().unwrap();
        assert!(why.contains("550 5.1.1 no such user here"), "{failed}");
        assert_eq!(failed["email_failed"]["to"], "ada@example.com");
    }
    // The next that is taken ends the alarm; what failed is not mailed again.
    server.behave(Behaviour::default());
    let next = node.leave("2001", "5551234", TWO).await;
    marked(node, "2001", &next).await;
    ended(node, "email_failed").await;
    once(&server, &next);
    assert!(mails_of(&server, &id).is_empty());
}

#[tokio::test]
async fn what_failed_is_mailed_again_when_somebody_asks_for_it() {
    let (pair, server) = with_server(Guard::default(), "").await;
    let node = &pair.primary;
    set(node, "2001", "ada@example.com", "copy").await;
    server.behave(Behaviour::recipients(550, "5.1.1 no such user here"));
    let one = node.leave("2001", "5551234", ONE).await;
    let other = node.leave("2001", "5551235", TWO).await;
    for id in [&one, &other] {
        not_mailed(node, "2001", id).await;
    }
    node.alarm("email_failed").await;
    server.behave(Behaviour::default());

    let path = "/api/v1/email/resend";
    let body = json!({"mailbox": "2001", "message": one});
    let reader = node.stranger(Method::POST, path).token(&node.read_token);
    let refused = reader.json(&body).send().await;
    refused.problem(403, "admin_needed", &["admin"]);
    let answer = node.post(path, &body).await.must_be(200).json();
    assert_eq!(answer, json!({"mailbox": "2001", "again": 1}));
    for node in pair.nodes() {
        let mailed = marked(node, "2001", &one).await;
        assert!(mailed["email_failed"].is_null(), "{mailed}");
    }
    once(&server, &one);
    assert!(mails_of(&server, &other).is_empty());
    let answer = node.post(path, &body).await;
    answer.problem(409, "conflict", &["has not failed"]);

    // The rest, by the command; the alarm ends with the mail that is taken.
    let args = [
        "email",
        "resend",
        "2001",
        "--url",
        &node.http,
        "--token",
        &node.admin_token,
    ];
    let said = run(vmsync(), &args, Duration::from_secs(20)).await.well();
    assert!(said.out.contains("1 messages of mailbox 2001"), "{said:?}");
    marked(node, "2001", &other).await;
    once(&server, &other);
    ended(node, "email_failed").await;
    let answer = node.post(path, &json!({"mailbox": "2001"})).await;
    assert_eq!(answer.must_be(200).json()["again"], 0);
}

/// The server has the mail, and the node is killed before it hears so: it goes out once more, under
/// the same Message-ID, and not a third time.
#[tokio::test]
async fn a_crash_before_the_mark_sends_the_same_mail_once_more() {
    let (pair, server) = with_server(Guard::default(), "").await;
    let node = &pair.primary;
    set(node, "2001", "ada@example.com", "copy").await;
    server.behave(Behaviour {
        slow: Duration::from_secs(5),
        ..Behaviour::default()
    });
    let id = node.leave("2001", "5551234", ONE).await;
    soon("the server to have the mail", async || {
        (!mails_of(&server, &id).is_empty())
            .then_some(())
            .ok_or_else(String::new)
    })
    .await;
    node.kill().await;
    server.behave(Behaviour::default());
    node.start().await;
    marked(node, "2001", &id).await;
    pair.in_step().await;
    let mails = mails_of(&server, &id);
    assert_eq!(mails.len(), 2);
    assert_eq!(mails[0].header("Message-ID"), mails[1].header("Message-ID"));
    assert_eq!(mails[0].raw.data, mails[1].raw.data, "byte for byte");
    node.stop().await;
    node.start().await;
    pair.in_step().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(mails_of(&server, &id).len(), 2);
}

/// What arrives at the backup is mailed by it, what waited at the home too; the home, back again,
/// mails none of it a second time.
#[tokio::test]
async fn through_failover_and_failback_each_message_is_mailed_once() {
    let (pair, server) = with_server(Guard::default(), "").await;
    let (home, backup) = (&pair.primary, &pair.secondary);
    set(home, "2001", "ada@example.com", "copy").await;
    set(home, "2002", "bob@example.com", "forward").await;
    let before = home.leave("2001", "1", ONE).await;
    marked(home, "2001", &before).await;
    server.behave(Behaviour::recipients(451, "4.3.0 not now"));
    let waited = home.leave("2001", "2", TWO).await;
    pair.in_step().await;
    pair.fail_over().await;
    let during = backup.leave("2002", "3", ONE).await;
    server.behave(Behaviour::default());
    marked(backup, "2001", &waited).await;
    marked(backup, "2002", &during).await;

    home.start().await;
    // Graceful: by itself, once both hold the same.
    pair.served_by(home).await;
    pair.in_step().await;
    let after = home.leave("2001", "4", TWO).await;
    marked(home, "2001", &after).await;
    // Longer than a new owner waits before it mails what it inherited.
    tokio::time::sleep(Duration::from_secs(5)).await;
    for id in [&before, &waited, &during, &after] {
        once(&server, id);
    }
    for node in pair.nodes() {
        marked(node, "2001", &waited).await;
        let during = message(node, "2002", &during).await.unwrap();
        assert_eq!(during["state"], "deleted");
    }
}

#[tokio::test]
async fn a_login_goes_over_verified_tls_only_and_a_new_password_needs_no_restart() {
    let pair = Pair::laid_out().await;
    let primary = &pair.primary;
    // Certificates of the pair's CA, which the nodes trust, for 127.0.0.1.
    let pki = pair.layout().join("pki");
    let config = std::fs::read_to_string(&primary.config).unwrap();
    let of = |key: &str| {
        let line = config.lines().find(|l| l.starts_with(&format!("{key} = ")));
        let path = line.and_then(|l| l.split('"').nth(1)).unwrap();
        primary.config.parent().unwrap().join(path)
    };
    assert!(pki.exists());
    let guard = |certificate| Guard {
        certificate,
        login: Some(("voicemail".into(), "s3cret".into())),
    };
    let safe = MailHog::for_users(guard(Some((of("cert"), of("key"))))).await;
    let bare = MailHog::for_users(guard(None)).await;
    let password = pair.file("mail.password", "wrong\n");
    let auth = format!(
        "auth = {{ user = \"voicemail\", password_file = \"{}\" }}",
        password.display()
    );
    add(&pair, &entry("example.com", safe.smtp.port(), &auth));
    add(&pair, &entry("example.net", bare.smtp.port(), &auth));
    pair.start_both().await;
    set(primary, "2001", "ada@example.com", "copy").await;
    set(primary, "2002", "bob@example.net", "copy").await;
    let id = primary.leave("2001", "1", ONE).await;
    let never = primary.leave("2002", "1", ONE).await;

    let failing = state(primary, 1, "failing").await;
    let said = failing["last_error"]["text"].as_str().unwrap();
    assert!(said.contains("535") && !said.contains("wrong"), "{said}");
    let failing = state(primary, 2, "failing").await;
    let said = failing["last_error"]["text"].as_str().unwrap();
    assert!(said.contains("STARTTLS is not offered"), "{said}");
    primary.alarm("email_server").await;
    assert!(safe.logins() > 0 && bare.logins() == 0);

    pair.file("mail.password", "s3cret\n");
    marked(primary, "2001", &id).await;
    once(&safe, &id);
    assert!(bare.mails().is_empty() && bare.logins() == 0);
    let kept = message(primary, "2002", &never).await.unwrap();
    assert_eq!(
        (&kept["emailed_at"], &kept["email_failed"]),
        (&Value::Null, &Value::Null)
    );
    for node in pair.nodes() {
        assert!(!node.last_words().contains("s3cret"));
    }
}

#[tokio::test]
async fn a_domain_no_entry_carries_is_told_at_the_mailbox_and_alarmed() {
    let (pair, server) = with_server(Guard::default(), "").await;
    let node = &pair.primary;
    set(node, "2001", "ada@example.org", "copy").await;
    let mailbox = node.get("/api/v1/mailboxes/2001").await;
    assert!(
        mailbox["email_problem"]
            .as_str()
            .unwrap()
            .contains("example.org"),
        "{mailbox}"
    );
    let id = node.leave("2001", "1", ONE).await;
    let alarm = node.alarm("email_no_entry").await;
    assert_eq!(alarm["subject"], "example.org");
    let email = node.get("/api/v1/email").await;
    assert_eq!(email["uncarried"]["pending"], 1);
    set(node, "2001", "ada@example.com", "copy").await;
    marked(node, "2001", &id).await;
    once(&server, &id);
    ended(node, "email_no_entry").await;
}

/// A user whose mail program sends everything on to his voicemail would hear the same message for
/// ever.
#[tokio::test]
async fn a_mail_that_comes_back_is_refused() {
    let (pair, server) = with_server(Guard::default(), "").await;
    let node = &pair.primary;
    set(node, "2001", "ada@example.com", "copy").await;
    let id = node.leave("2001", "1", ONE).await;
    marked(node, "2001", &id).await;
    let mail = once(&server, &id);
    let file = pair.file("one.wav", ONE);
    let marked_as = mail.header("Vmsync-Delivery").unwrap();
    Swaks::mail(node, &format!("2001@{}", node.fqdn))
        .header("Vmsync-Delivery", marked_as)
        .recording(&file)
        .send()
        .await
        .refused("554", "would go round for ever");
    assert_eq!(node.messages("2001").await.len(), 1);
}
