//! The receiver against clients that behave badly, over loopback.

mod smtp_support;

use std::{sync::atomic::Ordering, time::Duration};

use smtp_support::{Ca, DOMAIN, NODE, PEER, Typist, limits, receiver, receiver_with};
use tokio::time::{Instant, sleep, timeout};
use vmsync::smtp::SendErrorKind;

#[tokio::test]
async fn idle_clients_starve_nobody() {
    let r = receiver(false, limits()).await;
    let mut idle = vec![];
    for i in 0..100 {
        idle.push(Typist::connect(&format!("127.0.0.{}", 2 + i % 9), r.at).await);
    }
    // Once they have been silent for a moment, they make room: for another address and for their own.
    sleep(Duration::from_millis(300)).await;
    r.sender(false).send("", NODE, b"a\r\n").await.unwrap();
    let mut neighbour = Typist::connect("127.0.0.2", r.at).await;
    neighbour.begin_mail().await;
    assert!(neighbour.ask("b\r\n.\r\n").await.starts_with("250 "));
    assert_eq!(r.desk.bodies().len(), 2);
}

#[tokio::test]
async fn one_address_has_a_quarter_of_the_connections() {
    let r = receiver(false, limits()).await;
    let mut inside = vec![];
    for _ in 0..4 {
        let mut t = Typist::connect("127.0.0.2", r.at).await;
        assert!(t.line().await.starts_with("220 "));
        inside.push(t);
    }
    let mut fifth = Typist::connect("127.0.0.2", r.at).await;
    assert!(fifth.line().await.starts_with("421 vmpro1.example.com "));
    let mut other = Typist::connect("127.0.0.3", r.at).await;
    assert!(other.line().await.starts_with("220 "));
    assert_eq!(r.desk.events(), ["too_many_connections"]);
}

#[tokio::test]
async fn a_trickle_ends() {
    let r = receiver(false, limits()).await;
    let mut t = Typist::connect("127.0.0.1", r.at).await;
    t.begin_mail().await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) && t.try_say("x\r\n").await {
        sleep(Duration::from_millis(200)).await;
        if r.desk.events().contains(&"timed_out") {
            break;
        }
    }
    assert!(t.line().await.starts_with("421 4.4.2"));
    assert!(start.elapsed() < Duration::from_millis(3500));
    assert!(r.desk.bodies().is_empty());
}

#[tokio::test]
async fn a_client_that_takes_no_answers_is_left() {
    let mut l = limits();
    l.smtp_command_timeout = Duration::from_millis(700);
    let r = receiver(false, l).await;
    let mut t = Typist::connect("127.0.0.1", r.at).await;
    // Many long answers that nobody reads: EHLO's, until the socket is full or the session is ended.
    let flood = "EHLO a\r\n".repeat(2000);
    let _ = timeout(Duration::from_secs(3), t.try_say(&flood)).await;
    sleep(Duration::from_millis(900)).await;
    let mut other = Typist::connect("127.0.0.1", r.at).await;
    assert!(other.line().await.starts_with("220 "));
    assert!(!r.desk.events().is_empty());
}

#[tokio::test]
async fn stopping_finishes_the_mail_in_progress() {
    let r = receiver(false, limits()).await;
    let mut idle = Typist::connect("127.0.0.1", r.at).await;
    assert!(idle.line().await.starts_with("220 "));
    let mut busy = Typist::connect("127.0.0.1", r.at).await;
    busy.begin_mail().await;
    busy.say("half\r\n").await;
    // The server has to have seen the half mail, else it may stop between mails.
    sleep(Duration::from_millis(100)).await;
    r.stop.cancel();
    assert!(idle.line().await.starts_with("421 4.3.2"));
    assert!(busy.ask("whole\r\n.\r\n").await.starts_with("250 "));
    assert!(busy.line().await.starts_with("421 4.3.2"));
    drop((idle, busy));
    timeout(Duration::from_secs(3), r.task)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(r.desk.bodies(), ["half\r\nwhole\r\n"]);
}

#[tokio::test]
async fn a_panic_ends_one_connection_only() {
    let r = receiver(false, limits()).await;
    r.desk.panics.store(true, Ordering::Relaxed);
    let mut t = Typist::connect("127.0.0.1", r.at).await;
    t.begin_mail().await;
    assert_eq!(t.ask("boom\r\n.\r\n").await, "", "closed without an answer");
    assert_eq!(r.desk.events(), ["panicked"]);
    r.sender(false).send("", NODE, b"a\r\n").await.unwrap();
}

#[tokio::test]
async fn mails_at_once_share_a_bounded_memory() {
    let mut l = limits();
    l.message_bytes = 1000;
    let r = receiver(false, l).await;
    // Four announced mails of the largest size fill it; the fifth is put off.
    let mut typists = vec![];
    for i in 0..5 {
        let mut t = Typist::connect(&format!("127.0.0.{}", 2 + i), r.at).await;
        t.line().await;
        t.ask("HELO pbx\r\n").await;
        t.ask("MAIL FROM:<> SIZE=1000\r\n").await;
        t.ask("RCPT TO:<2001@vmpro1.example.com>\r\n").await;
        assert!(t.ask("DATA\r\n").await.starts_with("354 "));
        t.say("x\r\n").await;
        sleep(Duration::from_millis(50)).await;
        typists.push(t);
    }
    let mut last = typists.pop().unwrap();
    assert!(last.ask(".\r\n").await.starts_with("452 4.3.1"));
    assert!(typists[0].ask(".\r\n").await.starts_with("250 "));
    for command in [
        "MAIL FROM:<>\r\n",
        "RCPT TO:<2001@vmpro1.example.com>\r\n",
        "DATA\r\n",
    ] {
        last.ask(command).await;
    }
    assert!(last.ask("x\r\n.\r\n").await.starts_with("250 "));
}

#[tokio::test]
async fn clear_text_after_starttls_is_not_executed() {
    let r = receiver(true, limits()).await;
    let mut t = Typist::connect("127.0.0.1", r.at).await;
    t.line().await;
    t.say("EHLO pbx\r\n").await;
    while !t.line().await.starts_with("250 ") {}
    assert!(t.ask("STARTTLS\r\nNOOP\r\n").await.starts_with("220 "));
    assert_eq!(t.line().await, "");
    assert_eq!(r.desk.events(), ["starttls_injection"]);
}

/// A mail to mailbox 2001 in one chunk, as it is pipelined.
fn chunked(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "MAIL FROM:<> BODY=BINARYMIME\r\nRCPT TO:<2001@{DOMAIN}>\r\nBDAT {} LAST\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn pipelined_mails_are_answered_in_order() {
    let r = receiver(false, limits()).await;
    let mut t = Typist::connect("127.0.0.1", r.at).await;
    t.greeted().await;
    let bodies: Vec<Vec<u8>> = (0..20_u8)
        .map(|n| vec![n; usize::from(n) * 9_001])
        .collect();
    r.desk
        .next
        .lock()
        .unwrap()
        .push(vmsync_core::smtp::Refusal::try_later("busy"));
    let mails: Vec<u8> = bodies.iter().flat_map(|b| chunked(b)).collect();
    t.say_bytes(&mails).await;
    for n in 0..20 {
        assert!(t.line().await.starts_with("250 2.1.0"), "MAIL {n}");
        assert!(t.line().await.starts_with("250 2.1.5"), "RCPT {n}");
        let expected = if n == 0 { "451 4.3.0" } else { "250 2.0.0" };
        assert!(t.line().await.starts_with(expected), "BDAT {n}");
    }
    assert_eq!(r.desk.bodies(), bodies[1..]);
}

#[tokio::test]
async fn one_further_mail_is_read_while_another_is_handled() {
    let mut l = limits();
    l.message_bytes = 16 << 20;
    l.smtp_data_timeout = Duration::from_secs(20);
    let r = receiver(false, l).await;
    let held = r.desk.gate.acquire_many(1000).await.unwrap();
    let mut t = Typist::connect("127.0.0.1", r.at).await;
    t.greeted().await;
    let mail = chunked(&vec![7; 12 << 20]);
    // The first is with the handler. The second can be sent all the same, though no socket buffers that much.
    for _ in 0..2 {
        let sent = timeout(Duration::from_secs(10), t.say_bytes(&mail)).await;
        sent.expect("read ahead");
    }
    // Five more, which no socket buffers (Linux' tcp_rmem goes up to 32 MiB), can't: the client has to wait.
    let five = mail.repeat(5);
    {
        let mut all = std::pin::pin!(t.say_bytes(&five));
        let sent = timeout(Duration::from_millis(700), &mut all).await;
        assert!(sent.is_err() && r.desk.bodies().is_empty());
        drop(held);
        all.await;
    }
    for n in 0..7 {
        assert!(t.line().await.starts_with("250 2.1.0"), "MAIL {n}");
        assert!(t.line().await.starts_with("250 2.1.5"), "RCPT {n}");
        assert!(t.line().await.starts_with("250 2.0.0"), "BDAT {n}");
    }
    assert_eq!(r.desk.bodies(), vec![vec![7; 12 << 20]; 7]);
}

#[tokio::test]
async fn who_leaves_while_his_mail_is_handled_has_it_taken() {
    let r = receiver(false, limits()).await;
    let held = r.desk.gate.acquire_many(1000).await.unwrap();
    let mut t = Typist::connect("127.0.0.1", r.at).await;
    t.greeted().await;
    t.say_bytes(&chunked(b"the last words")).await;
    sleep(Duration::from_millis(200)).await;
    drop(t);
    sleep(Duration::from_millis(100)).await;
    drop(held);
    sleep(Duration::from_millis(200)).await;
    assert_eq!(r.desk.bodies(), ["the last words"]);
}

#[tokio::test]
async fn mail_for_the_node_comes_from_the_peer_alone() {
    let r = receiver(true, limits()).await;
    let peer = r.client.clone();
    r.sender_with(peer).send("", NODE, b"a\r\n").await.unwrap();
    // Anybody without a certificate; another machine of the same CA; and the peer's name by another CA.
    let stranger = Ca::new();
    let cases = [
        (
            r.ca.client(None),
            "no client certificate",
            "wrong_certificate",
        ),
        (
            r.ca.client(Some("vmpro3.example.com")),
            "vmpro3.example.com",
            "wrong_certificate",
        ),
    ];
    for (client, text, event) in cases {
        let e = r
            .sender_with(client.clone())
            .send("", NODE, b"b\r\n")
            .await
            .unwrap_err();
        assert_eq!((e.kind, e.code), (SendErrorKind::Permanent, Some(550)));
        assert!(e.text.contains(text) && e.text.contains(PEER), "{e}");
        assert_eq!(r.desk.events().last(), Some(&event));
        // Its voice messages are as welcome as a PBX's.
        let mailbox = format!("2001@{DOMAIN}");
        let mut sender = r.sender_with(client);
        sender.send("", &mailbox, b"c\r\n").await.unwrap();
    }
    assert_eq!(r.refused("wrong_certificate"), 2);
    let forged = r.ca.client_of(&stranger, PEER);
    let e = r
        .sender_with(forged)
        .send("", NODE, b"d\r\n")
        .await
        .unwrap_err();
    assert_eq!(e.kind, SendErrorKind::Tls, "{e}");
    assert_eq!(r.desk.events().last(), Some(&"tls_failed"));
    assert_eq!(r.refused("tls_failed"), 1);
    let e = r.sender(false).send("", NODE, b"e\r\n").await.unwrap_err();
    assert_eq!(e.code, Some(530));
    assert_eq!(r.refused("tls_required"), 1);
    assert_eq!(r.desk.bodies(), ["a\r\n", "c\r\n", "c\r\n"]);
}

#[tokio::test]
async fn what_is_refused_is_counted_by_its_reason() {
    let r = receiver(false, limits()).await;
    let mut t = Typist::connect("127.0.0.1", r.at).await;
    t.greeted().await;
    assert!(t.ask("MAIL FROM:<>\r\n").await.starts_with("250"));
    for (to, reply) in [
        ("someone@example.org", "550 5.7.1"),
        ("another@example.org", "550 5.7.1"),
        ("2009@vmpro1.example.com", "550 5.1.1"),
        ("reception@vmpro1.example.com", "550 5.1.1"),
    ] {
        let answer = t.ask(&format!("RCPT TO:<{to}>\r\n")).await;
        assert!(answer.starts_with(reply), "{to}: {answer}");
    }
    assert!(t.ask("DATA\r\n").await.starts_with("554 5.5.1"));
    let mut stranger = Typist::connect("127.0.0.1", r.at).await;
    stranger.greeted().await;
    assert!(
        stranger
            .ask("MAIL FROM:<> SIZE=99999999\r\n")
            .await
            .starts_with("552")
    );
    let counted: Vec<_> = r.refusals.counts().filter(|(_, n)| *n > 0).collect();
    assert_eq!(
        counted,
        [("foreign_domain", 2), ("no_mailbox", 2), ("oversize", 1)]
    );
    assert!(r.desk.bodies().is_empty());
}

#[tokio::test]
async fn an_address_sends_so_many_mails_a_minute() {
    let r = receiver_with(false, limits(), |p| p.mails_per_minute = 2).await;
    let mut mailbox = r.sender(false);
    for _ in 0..2 {
        mailbox
            .send("", "2001@vmpro1.example.com", b"a\r\n")
            .await
            .unwrap();
    }
    let e = mailbox
        .send("", "2001@vmpro1.example.com", b"a\r\n")
        .await
        .unwrap_err();
    assert_eq!((e.kind, e.code), (SendErrorKind::Temporary, Some(450)));
    assert_eq!(r.refused("too_many_mails"), 1);
    // The peer isn't counted.
    for _ in 0..5 {
        mailbox.send("", NODE, b"n\r\n").await.unwrap();
    }
}

#[tokio::test]
async fn however_busy_the_house_there_is_a_place_for_the_peer() {
    let mut l = limits();
    l.smtp_connections = 4;
    let r = receiver(true, l).await;
    let mut pbxs = vec![];
    for n in 2..6 {
        let mut t = Typist::connect(&format!("127.0.0.{n}"), r.at).await;
        t.begin_mail().await;
        pbxs.push(t);
    }
    // Another PBX is told to come back.
    let mut fifth = Typist::connect("127.0.0.9", r.at).await;
    fifth.greeted().await;
    assert!(fifth.ask("MAIL FROM:<>\r\n").await.starts_with("421 4.7.0"));
    assert_eq!(r.desk.events().last(), Some(&"too_many_connections"));
    r.sender(true)
        .send("", NODE, b"replicated\r\n")
        .await
        .unwrap();
    for t in &mut pbxs {
        assert!(t.ask("x\r\n.\r\n").await.starts_with("250 "));
    }
}

#[tokio::test]
async fn however_many_mails_come_in_there_is_memory_for_the_peers() {
    let mut l = limits();
    l.message_bytes = 200_000;
    let r = receiver(true, l).await;
    let mut pbxs = vec![];
    for n in 2..6 {
        let mut t = Typist::connect(&format!("127.0.0.{n}"), r.at).await;
        t.greeted().await;
        t.ask("MAIL FROM:<>\r\n").await;
        t.ask("RCPT TO:<2001@vmpro1.example.com>\r\n").await;
        t.say("BDAT 200000 LAST\r\nx").await;
        pbxs.push(t);
    }
    sleep(Duration::from_millis(100)).await;
    let mut fifth = Typist::connect("127.0.0.9", r.at).await;
    fifth.greeted().await;
    fifth.say_bytes(&chunked(&vec![b'y'; 200_000])).await;
    fifth.line().await;
    fifth.line().await;
    assert!(fifth.line().await.starts_with("452 4.3.1"));
    let mail = b"123456789 1234567\r\n".repeat(10_000);
    r.sender(true).send("", NODE, &mail).await.unwrap();
    assert_eq!(r.desk.bodies(), [mail]);
}
