//! The sender against the receiver, and against servers that lie, over loopback.
#![allow(clippy::unwrap_used, reason = "a test says what failed by panicking")]

mod smtp_support;

use std::time::Duration;

use smtp_support::{Ca, DOMAIN, NODE, PEER, limits, receiver, scripted, sender_to};
use tokio::{
    io::AsyncWriteExt,
    net::TcpListener,
    time::{Instant, sleep, timeout},
};
use vmsync::smtp::SendErrorKind;
use vmsync_core::smtp::Refusal;

#[tokio::test]
async fn mails_arrive_byte_for_byte_over_one_connection() {
    for tls in [false, true] {
        let r = receiver(tls, limits()).await;
        let mut s = r.sender(tls);
        let mails: [&[u8]; 4] = [
            b"Subject: a\r\n\r\n.\r\n..dots\r\n.\r\n",
            b"",
            "8 bit: é\r\n".as_bytes(),
            &b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\n".repeat(10_000),
        ];
        for mail in mails {
            s.send("vmsync@vmpro2.example.com", NODE, mail)
                .await
                .unwrap();
        }
        assert_eq!(r.desk.bodies(), mails);
        let (envelope, _) = r.desk.mails.lock().unwrap()[0].clone();
        assert_eq!(envelope.tls, tls);
        assert_eq!(envelope.from, "vmsync@vmpro2.example.com");
        assert_eq!(envelope.hello, "vmpro2.example.com");
    }
}

#[tokio::test]
async fn no_step_waits_for_a_timer() {
    let r = receiver(true, limits()).await;
    let mut s = r.sender(true);
    let start = Instant::now();
    for _ in 0..50 {
        s.send("", NODE, b"small\r\n").await.unwrap();
    }
    // Nagle's algorithm against delayed acknowledgements would cost 40 ms a mail.
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn answers_become_errors_and_the_next_mail_goes() {
    let r = receiver(false, limits()).await;
    let mut s = r.sender(false);
    let e = s
        .send("", "2009@vmpro1.example.com", b"x\r\n")
        .await
        .unwrap_err();
    assert_eq!((e.kind, e.code), (SendErrorKind::Permanent, Some(550)));
    assert!(
        e.text.contains("no mailbox 2009") && e.text.contains("RCPT"),
        "{e}"
    );
    let e = s.send("", "x@example.org", b"x\r\n").await.unwrap_err();
    assert!(e.text.contains("relaying denied"), "{e}");
    r.desk
        .next
        .lock()
        .unwrap()
        .push(Refusal::try_later("disk busy"));
    let e = s.send("", NODE, b"x\r\n").await.unwrap_err();
    assert_eq!((e.kind, e.code), (SendErrorKind::Temporary, Some(451)));
    let e = s
        .send("", NODE, &b"0123456789abcd\r\n".repeat(100_000))
        .await
        .unwrap_err();
    assert_eq!(e.kind, SendErrorKind::Permanent, "{e}");
    let e = s.send("", NODE, b"a\n.\r\nb\r\n").await.unwrap_err();
    assert!(e.text.contains("line 1 ends in LF"), "{e}");
    s.send("", NODE, b"at last\r\n").await.unwrap();
    assert_eq!(r.desk.bodies(), ["at last\r\n"]);
}

#[tokio::test]
async fn a_cancelled_send_never_makes_a_false_acknowledgement() {
    let r = receiver(true, limits()).await;
    let mut s = r.sender(true);
    s.send("", NODE, b"first\r\n").await.unwrap();
    // The receiver holds the next mail back; the send is cancelled while it waits for 250.
    let all = r.desk.gate.acquire_many(1000).await.unwrap();
    let cancelled = timeout(Duration::from_millis(200), s.send("", NODE, b"second\r\n")).await;
    assert!(cancelled.is_err());
    r.desk
        .next
        .lock()
        .unwrap()
        .push(Refusal::try_later("not now"));
    drop(all);
    sleep(Duration::from_millis(200)).await;
    // Whatever was said to the second is not taken for the third.
    r.desk
        .next
        .lock()
        .unwrap()
        .push(Refusal::try_later("not now"));
    let e = s.send("", NODE, b"third\r\n").await.unwrap_err();
    assert_eq!(e.code, Some(451));
    s.send("", NODE, b"third\r\n").await.unwrap();
    assert!(r.desk.bodies().ends_with(&["third\r\n".into()]));
}

#[tokio::test]
async fn tls_is_never_left_out_where_required() {
    let plain = receiver(false, limits()).await;
    let e = plain
        .sender(true)
        .send("", NODE, b"x\r\n")
        .await
        .unwrap_err();
    assert_eq!(e.kind, SendErrorKind::Tls, "{e}");
    let tls = receiver(true, limits()).await;
    let e = tls
        .sender_as(Some("vmpro9.example.com"))
        .send("", NODE, b"x\r\n")
        .await
        .unwrap_err();
    assert_eq!(e.kind, SendErrorKind::Tls, "{e}");
    // Another CA, and not even required.
    let stranger = Ca::new().client(Some(PEER));
    let name = DOMAIN.to_owned().try_into().unwrap();
    let mut s = sender_to(tls.at, Some((stranger, name)), false);
    let e = s.send("", NODE, b"x\r\n").await.unwrap_err();
    assert_eq!(e.kind, SendErrorKind::Tls, "{e}");
    // The receiver insists as well.
    let e = tls
        .sender(false)
        .send("", NODE, b"x\r\n")
        .await
        .unwrap_err();
    assert_eq!(e.code, Some(530));
    assert!(plain.desk.bodies().is_empty() && tls.desk.bodies().is_empty());
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_replaced() {
    let mut l = limits();
    l.smtp_command_timeout = Duration::from_millis(300);
    let r = receiver(true, l).await;
    let mut s = r.sender(true);
    s.send("", NODE, b"one\r\n").await.unwrap();
    sleep(Duration::from_millis(600)).await;
    assert_eq!(r.desk.events(), ["timed_out"]);
    s.send("", NODE, b"two\r\n").await.unwrap();
    assert_eq!(r.desk.bodies(), ["one\r\n", "two\r\n"]);
}

#[tokio::test]
async fn probing_says_how_long_an_answer_takes() {
    let r = receiver(true, limits()).await;
    let mut s = r.sender(true);
    assert!(s.probe().await.unwrap() < Duration::from_secs(2));
    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let e = sender_to(nobody, None, false).probe().await.unwrap_err();
    assert_eq!(e.kind, SendErrorKind::Unreachable, "{e}");
}

#[tokio::test]
async fn only_250_after_the_mail_counts() {
    type Case = (&'static [&'static str], SendErrorKind);
    let cases: [Case; 6] = [
        (
            &[
                "220 a\r\n",
                "250 a\r\n",
                "250 ok\r\n",
                "250 ok\r\n",
                "354 go\r\n",
                "251 ok\r\n",
            ],
            SendErrorKind::Temporary,
        ),
        (
            &[
                "220 a\r\n",
                "250 a\r\n",
                "250 ok\r\n",
                "250 ok\r\n",
                "354 go\r\n",
                "354 go\r\n",
            ],
            SendErrorKind::Temporary,
        ),
        // Said before the mail was sent: no acknowledgement.
        (
            &[
                "220 a\r\n",
                "250 a\r\n",
                "250 ok\r\n",
                "250 ok\r\n",
                "354 go\r\n250 ok\r\n",
            ],
            SendErrorKind::Temporary,
        ),
        (
            &["220 a\r\n", "250 a\r\n", "250 ok\r\n250 ok\r\n250 ok\r\n"],
            SendErrorKind::Temporary,
        ),
        (
            &["220 a\r\n", "250-a\r\n251 b\r\n"],
            SendErrorKind::Temporary,
        ),
        (&["554 no\r\n"], SendErrorKind::Permanent),
    ];
    for (lines, kind) in cases {
        let at = scripted(lines).await;
        let e = sender_to(at, None, false)
            .send("", NODE, b"x\r\n")
            .await
            .unwrap_err();
        assert_eq!(e.kind, kind, "{lines:?}: {e}");
    }
}

#[tokio::test]
async fn the_connection_is_kept_between_mails() {
    // The server takes one connection only.
    let at = scripted(&[
        "220 a\r\n",
        "250 a\r\n",
        "250 ok\r\n",
        "250 ok\r\n",
        "354 go\r\n",
        "250 taken\r\n",
        "250 ok\r\n",
        "250 ok\r\n",
        "354 go\r\n",
        "250 taken\r\n",
    ])
    .await;
    let mut s = sender_to(at, None, false);
    s.send("", NODE, b"one\r\n").await.unwrap();
    s.send("", NODE, b"two\r\n").await.unwrap();
}

#[tokio::test]
async fn silence_and_endless_lines_end_in_time() {
    let silent = scripted(&["220 a\r\n"]).await;
    let start = Instant::now();
    let e = sender_to(silent, None, false)
        .send("", NODE, b"x\r\n")
        .await
        .unwrap_err();
    assert_eq!(e.kind, SendErrorKind::TimedOut, "{e}");
    assert!(e.text.contains("EHLO"), "{e}");
    assert!(start.elapsed() < Duration::from_secs(4));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        while stream.write_all(&[b'2'; 4096]).await.is_ok() {}
    });
    let e = sender_to(at, None, false).probe().await.unwrap_err();
    assert!(e.text.contains("too long"), "{e}");
}
