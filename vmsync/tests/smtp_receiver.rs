//! The receiver against clients that behave badly, over loopback.

mod smtp_support;

use std::{sync::atomic::Ordering, time::Duration};

use smtp_support::{NODE, Typist, limits, receiver};
use tokio::time::{Instant, sleep, timeout};

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
    assert!(fifth.line().await.starts_with("421 4.7.0"));
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
