//! A PBX mails voice messages, by a mail client that shares no code with vmsync (R-IN-2).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use reqwest::Method;
use serde_json::json;
use vmsync_tests::{
    pair::{ONE, Pair, wav},
    swaks::Swaks,
};

#[tokio::test]
async fn a_mail_with_a_recording_becomes_a_message_once() {
    let pair = Pair::start().await;
    let (node, file) = (&pair.primary, pair.file("one.wav", ONE));
    let mail = || {
        Swaks::mail(node, &format!("2001@{}", node.fqdn))
            .header("Message-Id", "<asterisk-1@pbx.demo.example>")
            .header("Date", "Sun, 22 Nov 2026 09:00:00 +0100")
            .recording(&file)
    };
    // The PBX lost the answer and sends the same mail again; then once more, to the other node.
    mail().send().await.taken();
    mail().send().await.taken();
    pair.in_step().await;
    let other = &pair.secondary;
    let again = mail()
        .with("--server", &other.smtp)
        .with("--to", &format!("2001@{}", other.fqdn));
    again.send().await.taken();
    pair.in_step().await;
    let messages = node.messages("2001").await;
    let [message] = messages.as_slice() else {
        panic!("one message, not {}: {messages:?}", messages.len())
    };
    assert_eq!(message["caller_number"], "5551234");
    assert_eq!(message["caller_name"], "Charles Babbage");
    assert_eq!(message["state"], "new");
    assert_eq!(message["received_at"], "2026-11-22T08:00:00.000Z");
    assert_eq!(message["duration_ms"], 3658, "measured from the audio");
    let id = message["id"].as_str().unwrap();
    node.hears("2001", id, ONE).await;
    let mwi = node.get("/api/v1/mailboxes/2001/mwi").await;
    assert_eq!((&mwi["on"], &mwi["new"]), (&json!(true), &json!(1)));
    // Another mail is another message.
    mail()
        .header("Message-Id", "<asterisk-2@pbx.demo.example>")
        .send()
        .await
        .taken();
    assert_eq!(node.messages("2001").await.len(), 2);
}

/// One answer stands for the whole mail, and one mailbox may be full where the other isn't: so the
/// second recipient is put off, and a mail server sends it its own copy (RFC 5321 section 4.5.3.1.10).
#[tokio::test]
async fn each_recipient_gets_a_mail_of_its_own() {
    let pair = Pair::start().await;
    let (node, file) = (&pair.primary, pair.file("one.wav", ONE));
    let mail = |to: &str| {
        Swaks::mail(node, to)
            .header("Message-Id", "<to-two@pbx.demo.example>")
            .recording(&file)
            .send()
    };
    let both = format!("2001@{0},2002@{0}", node.fqdn);
    let sent = mail(&both).await;
    assert!(
        sent.text.contains("<** 452 4.5.3 too many recipients"),
        "{}",
        sent.text
    );
    mail(&format!("2002@{}", node.fqdn)).await.taken();
    assert_eq!(node.messages("2001").await.len(), 1);
    assert_eq!(node.messages("2002").await.len(), 1);
}

#[tokio::test]
async fn tls_works_and_is_the_nodes_own_certificate() {
    let pair = Pair::start().await;
    let (node, file) = (&pair.primary, pair.file("one.wav", ONE));
    let ca = pair.layout().join("pki/ca.pem");
    let sent = Swaks::mail(node, &format!("2001@{}", node.fqdn))
        .flag("-tls")
        .flag("--tls-verify")
        .with("--tls-ca-path", &ca.to_string_lossy())
        .recording(&file)
        .send()
        .await
        .taken();
    assert!(
        sent.text.contains("TLS started with cipher TLSv1.3"),
        "{}",
        sent.text
    );
    assert_eq!(node.messages("2001").await.len(), 1);
}

#[tokio::test]
async fn what_is_not_for_this_node_is_refused_before_its_content() {
    let pair = Pair::start().await;
    let (node, file) = (&pair.primary, pair.file("one.wav", ONE));
    let to = |address: String| Swaks::mail(node, &address).recording(&file).send();

    let refused = to(format!("2999@{}", node.fqdn))
        .await
        .refused("550", "there is no mailbox 2999");
    assert!(!refused.sent_data(), "{}", refused.text);
    let refused = to("2001@elsewhere.example".to_owned())
        .await
        .refused("550", "relaying denied");
    assert!(!refused.sent_data(), "{}", refused.text);
    let alarm = node.alarm("foreign_domain").await;
    let text = alarm["text"].as_str().unwrap();
    assert!(
        text.contains("elsewhere.example") && text.contains(&node.fqdn),
        "{alarm}"
    );
    let metrics = node.request(Method::GET, "/metrics").send().await;
    let metrics = metrics.must_be(200).text();
    for (reason, count) in [
        ("foreign_domain", 1),
        ("no_mailbox", 1),
        ("wrong_certificate", 0),
    ] {
        let series = format!("vmsync_smtp_refused_total{{reason=\"{reason}\"}} {count}\n");
        assert!(metrics.contains(&series), "no {series}in\n{metrics}");
    }

    node.patch("/api/v1/mailboxes/2002", &json!({"enabled": false}))
        .await
        .must_be(200);
    let refused = to(format!("2002@{}", node.fqdn))
        .await
        .refused("552", "mailbox 2002 is disabled");
    assert!(!refused.sent_data(), "{}", refused.text);
    for mailbox in ["2001", "2002", "2003"] {
        assert_eq!(node.messages(mailbox).await.len(), 0);
    }
}

#[tokio::test]
async fn mail_from_a_network_that_is_not_allowed_is_refused() {
    let pair = Pair::laid_out().await;
    pair.primary
        .configure("allow = [\"127.0.0.0/8\"]", "allow = [\"192.0.2.0/24\"]");
    pair.start_both().await;
    let (node, file) = (&pair.primary, pair.file("one.wav", ONE));
    for mailbox in ["2001", "2999"] {
        let mail = Swaks::mail(node, &format!("{mailbox}@{}", node.fqdn)).recording(&file);
        let refused = mail
            .send()
            .await
            .refused("550", "may not mail to mailboxes here");
        assert!(!refused.sent_data(), "{}", refused.text);
    }
    // Mail between the nodes is signed and needs no leave.
    let id = pair.primary.leave("2001", "1", ONE).await;
    pair.secondary.hears("2001", &id, ONE).await;
    pair.in_step().await;
}

#[tokio::test]
async fn a_mail_without_whole_audio_is_refused_with_words() {
    let pair = Pair::start().await;
    let node = &pair.primary;
    let mail = || Swaks::mail(node, &format!("2001@{}", node.fqdn));
    mail().send().await.refused("554", "no audio attachment");
    let truncated = pair.file("truncated.wav", &ONE[..ONE.len() / 2]);
    mail()
        .recording(&truncated)
        .send()
        .await
        .refused("554", "truncated");
    let text = pair.file("text.wav", "these are words, not audio");
    mail().recording(&text).send().await.refused("554", "");
    assert_eq!(node.messages("2001").await.len(), 0);
}

#[tokio::test]
async fn a_recording_over_the_limit_is_refused() {
    let pair = Pair::laid_out().await;
    pair.primary
        .configure_more("[limits]\nmessage_bytes = \"64KiB\"");
    pair.start_both().await;
    let node = &pair.primary;
    let mail =
        |file: &std::path::Path| Swaks::mail(node, &format!("2001@{}", node.fqdn)).recording(file);
    // A mail larger than any that could be taken.
    let huge = pair.file("huge.wav", wav(110));
    mail(&huge).send().await.refused("552", "");
    // A mail that could be taken, but with more audio than limits.message_bytes.
    let large = pair.file("large.wav", wav(20));
    mail(&large)
        .send()
        .await
        .refused("552", "limits.message_bytes");
    assert_eq!(node.messages("2001").await.len(), 0);
    let small = pair.file("small.wav", wav(4));
    mail(&small).send().await.taken();
    assert_eq!(node.messages("2001").await.len(), 1);
}

#[tokio::test]
async fn a_recording_longer_than_a_message_may_be_is_refused() {
    let pair = Pair::laid_out().await;
    pair.primary
        .configure_more("[limits]\nmessage_max = \"5s\"");
    pair.start_both().await;
    let node = &pair.primary;
    let mail =
        |file: &std::path::Path| Swaks::mail(node, &format!("2001@{}", node.fqdn)).recording(file);
    let long = pair.file("long.wav", wav(6));
    mail(&long)
        .send()
        .await
        .refused("552", "limits.message_max");
    let short = pair.file("short.wav", wav(5));
    mail(&short).send().await.taken();
    assert_eq!(node.messages("2001").await.len(), 1);
}
