//! Several mails under way on one connection: outcomes stay in step, whatever happens.
#![allow(clippy::unwrap_used, reason = "a test says what failed by panicking")]

mod smtp_support;

use std::time::Duration;

use bytes::Bytes;
use smtp_support::{NODE, Receiver, limits, receiver, scripted, sender_to};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::{sleep, timeout},
};
use vmsync::smtp::{PeerSender, SendError, SendErrorKind};
use vmsync_core::smtp::Refusal;

const FROM: &str = "vmsync@vmpro2.example.com";
const NOBODY: &str = "2009@vmpro1.example.com";
const EHLO: &str = "250-a\r\n250-CHUNKING\r\n250-PIPELINING\r\n250-BINARYMIME\r\n250 8BITMIME\r\n";

async fn submit(s: &mut PeerSender, to: &str, mail: &'static [u8]) -> Result<(), SendError> {
    s.submit(FROM, to, Bytes::from_static(mail), true).await
}

async fn is_left(r: &Receiver, bodies: &[&[u8]]) {
    for _ in 0..100 {
        if r.desk.bodies() == bodies {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(r.desk.bodies(), bodies);
}

#[tokio::test]
async fn the_receiver_offers_all_that_the_sender_uses() {
    let r = receiver(true, limits()).await;
    let mut s = r.sender(true);
    assert_eq!((s.window(), s.outstanding()), (1, 0));
    let offers = s.offers().await.unwrap();
    assert!(offers.chunking && offers.binarymime && offers.pipelining && offers.eightbit);
    assert_eq!(offers.size, Some(1 << 20));
    assert_eq!((s.window(), s.outstanding()), (4, 0));
}

#[tokio::test]
async fn four_mails_are_under_way_at_once() {
    let r = receiver(true, limits()).await;
    let mut s = r.sender(true);
    let held = r.desk.gate.acquire_many(1000).await.unwrap();
    let mails: Vec<Bytes> = [0, 1, 70_000, 900_000, 3]
        .iter()
        .map(|&n| (0..=250).cycle().take(n).collect())
        .collect();
    // None has been taken yet, and the large ones don't wait for the answers to the small ones.
    for (index, mail) in mails[..4].iter().enumerate() {
        s.submit(FROM, NODE, mail.clone(), true).await.unwrap();
        assert_eq!(s.outstanding(), index + 1);
    }
    let e = s
        .submit(FROM, NODE, mails[4].clone(), true)
        .await
        .unwrap_err();
    assert_eq!((e.kind, s.outstanding()), (SendErrorKind::Temporary, 4));
    drop(held);
    s.next_reply().await.unwrap();
    s.submit(FROM, NODE, mails[4].clone(), true).await.unwrap();
    for left in [3, 2, 1, 0] {
        s.next_reply().await.unwrap();
        assert_eq!(s.outstanding(), left);
    }
    assert_eq!(r.desk.bodies(), mails);
    assert_eq!(
        s.next_reply().await.unwrap_err().kind,
        SendErrorKind::Unreachable
    );
    // One by one goes on over the same connection.
    s.send(FROM, NODE, b"last\r\n").await.unwrap();
}

#[tokio::test]
async fn each_mail_has_its_own_outcome() {
    let r = receiver(true, limits()).await;
    let mut s = r.sender(true);
    r.desk.next.lock().unwrap().push(Refusal::try_later("busy"));
    submit(&mut s, NODE, b"put off").await.unwrap();
    submit(&mut s, NOBODY, b"for nobody").await.unwrap();
    submit(&mut s, "x@example.org", b"foreign").await.unwrap();
    submit(&mut s, NODE, b"taken").await.unwrap();
    let e = s.next_reply().await.unwrap_err();
    assert_eq!((e.kind, e.code), (SendErrorKind::Temporary, Some(451)));
    assert_eq!(s.outstanding(), 3);
    let e = s.next_reply().await.unwrap_err();
    assert_eq!((e.kind, e.code), (SendErrorKind::Permanent, Some(550)));
    assert!(e.text.contains("2009") && e.text.contains("to RCPT"), "{e}");
    let e = s.next_reply().await.unwrap_err();
    assert!(e.text.contains("relaying denied"), "{e}");
    s.next_reply().await.unwrap();
    assert_eq!(r.desk.bodies(), ["taken"]);
}

#[tokio::test]
async fn cancelled_calls_never_make_a_false_acknowledgement() {
    let r = receiver(true, limits()).await;
    let mut s = r.sender(true);
    // Cancelled while waiting for a reply: both mails are unknown.
    let held = r.desk.gate.acquire_many(1000).await.unwrap();
    submit(&mut s, NODE, b"one").await.unwrap();
    submit(&mut s, NODE, b"two").await.unwrap();
    let short = Duration::from_millis(100);
    assert!(timeout(short, s.next_reply()).await.is_err());
    assert_eq!(s.outstanding(), 0);
    assert_eq!(
        s.next_reply().await.unwrap_err().kind,
        SendErrorKind::Unreachable
    );
    // A new mail has an outcome of its own.
    submit(&mut s, NOBODY, b"three").await.unwrap();
    assert_eq!(s.next_reply().await.unwrap_err().code, Some(550));
    // Cancelled while sending, since the server takes no more.
    let large = Bytes::from(vec![1; 1 << 20]);
    let sending = async {
        loop {
            s.submit(FROM, NODE, large.clone(), true).await.unwrap();
            if s.outstanding() == 4 {
                sleep(Duration::from_mins(1)).await;
            }
        }
    };
    let _ = timeout(Duration::from_secs(1), sending).await;
    let was = s.outstanding();
    drop(held);
    // Either a submit was cut off, and nothing is known; or all four lie in the sockets' buffers.
    assert!(was == 0 || was == 4, "{was}");
    for _ in 0..was {
        s.next_reply().await.unwrap();
    }
    submit(&mut s, NOBODY, b"four").await.unwrap();
    assert_eq!(s.next_reply().await.unwrap_err().code, Some(550));
}

#[tokio::test]
async fn a_submit_that_is_cut_off_drops_the_connection() {
    // This server says what it should and then reads nothing more.
    let at = scripted(&["220 a\r\n", EHLO]).await;
    let mut s = sender_to(at, None, false);
    s.offers().await.unwrap();
    let huge = Bytes::from(vec![1; 64 << 20]);
    let cut = timeout(Duration::from_millis(500), s.submit(FROM, NODE, huge, true)).await;
    assert!(cut.is_err() && s.outstanding() == 0);
    assert_eq!(
        s.next_reply().await.unwrap_err().kind,
        SendErrorKind::Unreachable
    );
}

#[tokio::test]
async fn waiting_for_an_answer_may_be_cancelled() {
    let r = receiver(true, limits()).await;
    let mut s = r.sender(true);
    s.answered().await;
    let held = r.desk.gate.acquire_many(1000).await.unwrap();
    submit(&mut s, NODE, b"one").await.unwrap();
    for _ in 0..3 {
        assert!(
            timeout(Duration::from_millis(50), s.answered())
                .await
                .is_err()
        );
    }
    submit(&mut s, NODE, b"two").await.unwrap();
    assert_eq!(s.outstanding(), 2);
    drop(held);
    s.answered().await;
    s.answered().await;
    assert_eq!(s.outstanding(), 2);
    s.next_reply().await.unwrap();
    s.next_reply().await.unwrap();
    assert_eq!(r.desk.bodies(), ["one", "two"]);
}

#[tokio::test]
async fn a_send_in_between_takes_a_connection_of_its_own() {
    let r = receiver(true, limits()).await;
    let mut s = r.sender(true);
    submit(&mut s, NODE, b"unknown").await.unwrap();
    s.send(FROM, NODE, b"known\r\n").await.unwrap();
    assert_eq!(s.outstanding(), 0);
    assert!(s.next_reply().await.is_err());
}

#[tokio::test]
async fn a_stopping_receiver_leaves_the_rest_unknown() {
    let r = receiver(true, limits()).await;
    let mut s = r.sender(true);
    let held = r.desk.gate.acquire_many(1000).await.unwrap();
    submit(&mut s, NODE, b"in progress").await.unwrap();
    submit(&mut s, NODE, b"too late").await.unwrap();
    sleep(Duration::from_millis(200)).await;
    r.stop.cancel();
    sleep(Duration::from_millis(50)).await;
    drop(held);
    s.next_reply().await.unwrap();
    let outcome = s.next_reply().await;
    let both: [&[u8]; 2] = [b"in progress", b"too late"];
    is_left(&r, &both[..=usize::from(outcome.is_ok())]).await;
    assert_eq!(s.outstanding(), 0);
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_replaced() {
    let mut l = limits();
    l.smtp_command_timeout = Duration::from_millis(300);
    let r = receiver(true, l).await;
    let mut s = r.sender(true);
    submit(&mut s, NODE, b"one").await.unwrap();
    s.next_reply().await.unwrap();
    sleep(Duration::from_millis(600)).await;
    assert_eq!(r.desk.events(), ["timed_out"]);
    submit(&mut s, NODE, b"two").await.unwrap();
    s.next_reply().await.unwrap();
    assert_eq!(r.desk.bodies(), ["one", "two"]);
}

#[tokio::test]
async fn mails_that_the_server_cant_take_change_nothing() {
    let r = receiver(true, limits()).await;
    let mut s = r.sender(true);
    submit(&mut s, NODE, b"one").await.unwrap();
    let large = Bytes::from(vec![0; (1 << 20) + 1]);
    let e = s.submit(FROM, NODE, large, true).await.unwrap_err();
    assert!(
        e.kind == SendErrorKind::Permanent && e.text.contains("1048576"),
        "{e}"
    );
    let lines = Bytes::from_static(b"a\nb\r\n");
    let e = s.submit(FROM, NODE, lines, false).await.unwrap_err();
    assert_eq!(e.kind, SendErrorKind::Permanent, "{e}");
    let e = submit(&mut s, "no address", b"x").await.unwrap_err();
    assert_eq!(e.kind, SendErrorKind::Permanent, "{e}");
    assert_eq!(s.outstanding(), 1);
    s.next_reply().await.unwrap();
    // Text goes in chunks too, and arrives with its dots.
    let text = Bytes::from_static("é\r\n.\r\n..\r\n".as_bytes());
    s.submit(FROM, NODE, text.clone(), false).await.unwrap();
    s.next_reply().await.unwrap();
    assert_eq!(r.desk.bodies(), [Bytes::from_static(b"one"), text]);
}

#[tokio::test]
async fn without_pipelined_chunks_it_is_one_at_a_time() {
    for ehlo in [
        "250 a\r\n",
        "250-a\r\n250 CHUNKING\r\n",
        "250-a\r\n250-PIPELINING\r\n250 BINARYMIME\r\n",
    ] {
        let lines = [
            "220 a\r\n",
            ehlo,
            "250 ok\r\n",
            "250 ok\r\n",
            "354 go\r\n",
            "250 ok\r\n",
        ];
        let at = scripted(Vec::leak(lines.to_vec())).await;
        let mut s = sender_to(at, None, false);
        let e = submit(&mut s, NODE, b"\0").await.unwrap_err();
        assert_eq!(e.kind, SendErrorKind::Permanent, "{e}");
        s.submit(FROM, NODE, "text\r\n".into(), false)
            .await
            .unwrap();
        assert_eq!((s.window(), s.outstanding()), (1, 1));
        let e = s
            .submit(FROM, NODE, "more\r\n".into(), false)
            .await
            .unwrap_err();
        assert_eq!((e.kind, s.outstanding()), (SendErrorKind::Temporary, 1));
        s.next_reply().await.unwrap();
        assert_eq!(s.outstanding(), 0);
    }
    // Refused on the way there.
    let at = scripted(&["220 a\r\n", "250 a\r\n", "250 ok\r\n", "550 who?\r\n"]).await;
    let mut s = sender_to(at, None, false);
    let e = s
        .submit(FROM, NODE, "text\r\n".into(), false)
        .await
        .unwrap_err();
    assert_eq!((e.code, s.outstanding()), (Some(550), 0));
}

#[tokio::test]
async fn only_three_250_are_an_acknowledgement() {
    let cases: [(&'static str, SendErrorKind, Option<u16>); 9] = [
        (
            "250 ok\r\n250 ok\r\n251 ok\r\n",
            SendErrorKind::Temporary,
            Some(251),
        ),
        (
            "250 ok\r\n250 ok\r\n354 go\r\n",
            SendErrorKind::Temporary,
            Some(354),
        ),
        // A 250 for a mail whose sender or recipient was refused is none.
        (
            "250 ok\r\n550 no\r\n250 ok\r\n",
            SendErrorKind::Permanent,
            Some(550),
        ),
        (
            "451 no\r\n250 ok\r\n250 ok\r\n",
            SendErrorKind::Temporary,
            Some(451),
        ),
        (
            "250 ok\r\n250 ok\r\n452 full\r\n",
            SendErrorKind::Temporary,
            Some(452),
        ),
        // Four replies to three commands: which was whose?
        (
            "250 a\r\n250 a\r\n250 a\r\n250 a\r\n",
            SendErrorKind::Temporary,
            None,
        ),
        ("250 ok\r\n421 bye\r\n", SendErrorKind::Temporary, Some(421)),
        (
            "250 ok\r\n250 ok\r\nnonsense\r\n",
            SendErrorKind::Temporary,
            None,
        ),
        ("250 ok\r\n250 ok\r\n", SendErrorKind::TimedOut, None),
    ];
    for (replies, kind, code) in cases {
        let lines = ["220 a\r\n", EHLO, replies];
        let at = scripted(Vec::leak(lines.to_vec())).await;
        let mut s = sender_to(at, None, false);
        submit(&mut s, NODE, b"x").await.unwrap();
        // The last case takes the sender's time-out of 5 s.
        let e = s.next_reply().await.unwrap_err();
        assert_eq!((e.kind, e.code), (kind, code), "{replies:?}: {e}");
        assert_eq!(s.outstanding(), 0, "{replies:?}");
    }
}

#[tokio::test]
async fn a_goodbye_takes_nothing_back() {
    let lines = [
        "220 a\r\n",
        EHLO,
        "250 a\r\n250 a\r\n250 a\r\n421 stopping\r\n",
    ];
    let at = scripted(Vec::leak(lines.to_vec())).await;
    let mut s = sender_to(at, None, false);
    submit(&mut s, NODE, b"x").await.unwrap();
    s.next_reply().await.unwrap();
    // But nothing more goes over that connection; and this server takes no other.
    let e = timeout(Duration::from_secs(9), submit(&mut s, NODE, b"y"))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(s.outstanding(), 0, "{e}");
}

#[tokio::test]
async fn replies_in_any_pieces_stay_in_step() {
    // Both mails are on their way before the first reply comes; then replies come in pieces.
    let at = scripted(&[
        "220 a\r\n",
        EHLO,
        "250 ok\r\n25",
        "0-two\r\n250 lines\r\n250 first\r\n250 ok\r\n550 no such\r\n55",
        "4 none\r\n250 ok\r\n250 ok\r\n250 third\r\n",
    ])
    .await;
    let mut s = sender_to(at, None, false);
    for mail in [&b"one"[..], b"two", b"three"] {
        submit(&mut s, NODE, mail).await.unwrap();
        sleep(Duration::from_millis(100)).await;
    }
    s.next_reply().await.unwrap();
    assert_eq!(s.next_reply().await.unwrap_err().code, Some(550));
    s.next_reply().await.unwrap();
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_all_unknown() {
    let at = scripted(&[
        "220 a\r\n",
        EHLO,
        "250 ok\r\n250 ok\r\n250 first\r\n250 ok\r\n",
    ])
    .await;
    let mut s = sender_to(at, None, false);
    for mail in [&b"one"[..], b"two", b"three"] {
        submit(&mut s, NODE, mail).await.unwrap();
    }
    s.next_reply().await.unwrap();
    assert_eq!(s.outstanding(), 2);
    let e = s.next_reply().await.unwrap_err();
    assert_eq!(
        (e.kind, s.outstanding()),
        (SendErrorKind::TimedOut, 0),
        "{e}"
    );
    assert!(s.next_reply().await.is_err());
}

#[tokio::test]
async fn a_server_that_hangs_up_says_why() {
    // It reads a little of the mail, refuses it, and is gone with the rest unread.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buf = [0; 4096];
        for line in [
            "220 a\r\n",
            EHLO,
            "250 ok\r\n250 ok\r\n552 5.3.4 too much\r\n",
        ] {
            stream.write_all(line.as_bytes()).await.unwrap();
            assert!(stream.read(&mut buf).await.unwrap() > 0);
        }
    });
    let mut s = sender_to(at, None, false);
    let huge = Bytes::from(vec![1; 64 << 20]);
    let e = s.submit(FROM, NODE, huge, true).await.unwrap_err();
    assert_eq!(
        (e.kind, e.code),
        (SendErrorKind::Permanent, Some(552)),
        "{e}"
    );
    assert_eq!(s.outstanding(), 0);
}

/// How fast 4 MB mails go one way over loopback with TLS, to a handler that takes no time and to one that
/// takes 5 ms a mail, as a disk does. In release:
/// `cargo test --release -p vmsync --test smtp_pipelining -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn megabytes_a_second() {
    const MAILS: usize = 100;
    let mut l = limits();
    l.message_bytes = 8 << 20;
    let r = receiver(true, l).await;
    let mut s = r.sender(true);
    s.offers().await.unwrap();
    let mail = Bytes::from(vec![0x5a; 4 << 20]);
    for takes in [Duration::ZERO, Duration::from_millis(5)] {
        *r.desk.takes.lock().unwrap() = takes;
        for (how, window) in [("one at a time", 1), ("pipelined", s.window())] {
            let start = tokio::time::Instant::now();
            for _ in 0..MAILS {
                if s.outstanding() == window {
                    s.next_reply().await.unwrap();
                    r.desk.mails.lock().unwrap().clear();
                }
                s.submit(FROM, NODE, mail.clone(), true).await.unwrap();
            }
            while s.outstanding() > 0 {
                s.next_reply().await.unwrap();
            }
            let (took, bytes) = (start.elapsed().as_micros(), (MAILS * mail.len()) as u128);
            println!("{how}, {takes:?} a mail: {} MB/s", bytes / took);
        }
    }
}
