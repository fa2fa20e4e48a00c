//! Where TLS is required nothing goes without it, whatever stands between the nodes.
#![allow(clippy::unwrap_used, reason = "a test says what failed by panicking")]

mod smtp_support;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use rustls::pki_types::ServerName;
use smtp_support::{Ca, DOMAIN, NODE, PEER, Receiver, limits, receiver, scripted, sender_to};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use vmsync::smtp::{PeerSender, SendError, SendErrorKind};

/// Changes a line of the server's on its way to the client.
type Rewrite = fn(&str) -> String;

/// Somebody between the nodes, who changes what the server says and listens to what the client says.
struct Between {
    at: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Between {
    async fn put(server: SocketAddr, rewrite: Rewrite) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let heard = Arc::<Mutex<Vec<u8>>>::default();
        let log = heard.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, server, rewrite, log.clone()));
            }
        });
        Self { at, heard }
    }

    /// A sender that takes it for the receiver `r`.
    fn sender(&self, r: &Receiver, required: bool) -> PeerSender {
        let name = ServerName::try_from(DOMAIN).unwrap();
        sender_to(self.at, Some((r.client.clone(), name)), required)
    }

    fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned()
    }
}

async fn relay(
    client: TcpStream,
    server: SocketAddr,
    rewrite: Rewrite,
    heard: Arc<Mutex<Vec<u8>>>,
) {
    let server = TcpStream::connect(server).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let replies = tokio::spawn(async move {
        let mut lines = BufReader::new(from_server);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).await.unwrap_or(0) > 0 {
            let changed = rewrite(&String::from_utf8_lossy(&line));
            line.clear();
            if to_client.write_all(changed.as_bytes()).await.is_err() {
                return;
            }
            if changed.contains("go ahead") {
                // TLS from here on, which has no lines.
                let _ = tokio::io::copy_buf(&mut lines, &mut to_client).await;
                return;
            }
        }
    });
    let mut buf = [0; 4096];
    while let Ok(n @ 1..) = from_client.read(&mut buf).await {
        heard.lock().unwrap().extend_from_slice(&buf[..n]);
        if to_server.write_all(&buf[..n]).await.is_err() {
            break;
        }
    }
    drop(to_server);
    let _ = replies.await;
}

/// Tries every way to send.
async fn every_way(mut s: PeerSender) -> Vec<SendError> {
    let mail = Bytes::from_static(b"secret\r\n");
    vec![
        s.send("", NODE, &mail).await.unwrap_err(),
        s.submit("", NODE, mail.clone(), true).await.unwrap_err(),
        s.submit("", NODE, mail, false).await.unwrap_err(),
        s.offers().await.unwrap_err(),
        s.probe().await.unwrap_err(),
        s.next_reply().await.unwrap_err(),
    ]
}

#[tokio::test]
async fn without_the_offer_of_starttls_nothing_is_sent() {
    let r = receiver(true, limits()).await;
    let stripped: [Rewrite; 3] = [
        |line| line.replace("STARTTLS", "XXXXXXXX"),
        |line| line.replace("250 STARTTLS", "250 8BITMIME"),
        // Not even the answer to EHLO is as it was.
        |line| {
            let kept = if line.starts_with("250-") { "" } else { line };
            kept.replace("STARTTLS", "SIZE")
        },
    ];
    for rewrite in stripped {
        let between = Between::put(r.at, rewrite).await;
        let errors = every_way(between.sender(&r, true)).await;
        for e in &errors[..5] {
            assert_eq!(e.kind, SendErrorKind::Tls, "{e}");
            assert!(e.text.contains("STARTTLS is not offered"), "{e}");
        }
        let heard = between.heard();
        assert!(heard.contains("EHLO") && !heard.contains("MAIL"), "{heard}");
    }
    assert!(r.desk.bodies().is_empty());
}

#[tokio::test]
async fn without_starttls_itself_nothing_is_sent() {
    let r = receiver(true, limits()).await;
    let refused: [Rewrite; 2] = [
        |line| line.replace("220 2.0.0 go ahead", "454 4.7.0 not now"),
        |line| line.replace("220 2.0.0 go ahead", "250 2.0.0 no need"),
    ];
    for rewrite in refused {
        let between = Between::put(r.at, rewrite).await;
        let errors = every_way(between.sender(&r, true)).await;
        for e in &errors[..5] {
            assert_eq!(e.kind, SendErrorKind::Tls, "{e}");
        }
        // Nor without being required: it was offered, and then something was wrong.
        every_way(between.sender(&r, false)).await;
        let heard = between.heard();
        assert!(
            heard.contains("STARTTLS") && !heard.contains("MAIL"),
            "{heard}"
        );
    }
    assert!(r.desk.bodies().is_empty());
}

#[tokio::test]
async fn words_slipped_in_before_tls_are_not_taken_for_the_servers() {
    // What is said together with 220 would be the first thing heard inside TLS (RFC 3207).
    let at = scripted(&[
        "220 a\r\n",
        "250-a\r\n250 STARTTLS\r\n",
        "220 go\r\n250-a\r\n250 CHUNKING\r\n",
    ])
    .await;
    let name = ServerName::try_from(DOMAIN).unwrap();
    let mut s = sender_to(at, Some((Ca::new().client(Some(PEER)), name)), true);
    let e = s.offers().await.unwrap_err();
    assert!(e.text.contains("unasked"), "{e}");
}

#[tokio::test]
async fn only_the_peer_by_its_certificate_is_sent_to() {
    let r = receiver(true, limits()).await;
    let name = |name: &str| ServerName::try_from(name.to_owned()).unwrap();
    for required in [true, false] {
        // Another CA than the server's; and another server than was meant.
        let stranger = Ca::new().client(Some(PEER));
        let cases = [
            (stranger, name(DOMAIN)),
            (r.client.clone(), name("vmpro9.example.com")),
        ];
        for case in cases {
            let between = Between::put(r.at, str::to_owned).await;
            let errors = every_way(sender_to(between.at, Some(case), required)).await;
            for e in &errors[..5] {
                assert_eq!(e.kind, SendErrorKind::Tls, "{e}");
            }
            assert!(!between.heard().contains("MAIL"));
        }
    }
    assert!(r.desk.bodies().is_empty());
}

#[tokio::test]
async fn a_node_that_requires_tls_takes_nothing_from_one_that_does_not() {
    let r = receiver(true, limits()).await;
    let between = Between::put(r.at, |line| line.replace("STARTTLS", "XXXXXXXX")).await;
    // Sent in clear text, as tls.require = false allows there; refused before any of it is seen.
    let mut s = between.sender(&r, false);
    let e = s.send("", NODE, b"secret\r\n").await.unwrap_err();
    assert_eq!((e.kind, e.code), (SendErrorKind::Permanent, Some(530)));
    assert!(!between.heard().contains("secret"));
    assert_eq!(r.refused("tls_required"), 1);
    // In one go with the recipient the mail itself goes in clear text too: that is what `false` means.
    s.submit("", NODE, "plain\r\n".into(), false).await.unwrap();
    let e = s.next_reply().await.unwrap_err();
    assert_eq!(e.code, Some(530));
    assert!(r.desk.bodies().is_empty());
}

#[tokio::test]
async fn over_tls_nobody_between_hears_a_mail() {
    let r = receiver(true, limits()).await;
    let between = Between::put(r.at, str::to_owned).await;
    let mut s = between.sender(&r, true);
    s.send("", NODE, b"secret\r\n").await.unwrap();
    s.submit("", NODE, "secret\r\n".into(), true).await.unwrap();
    s.next_reply().await.unwrap();
    let heard = between.heard();
    assert!(heard.contains("STARTTLS") && !heard.contains("secret") && !heard.contains("MAIL"));
    assert_eq!(r.desk.bodies(), ["secret\r\n", "secret\r\n"]);
}
