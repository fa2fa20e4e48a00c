//! The client of users' mail servers, against servers that play a script (RFC 5321, RFC 4954).
#![allow(clippy::unwrap_used, reason = "a test says what failed by panicking")]

mod smtp_support;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use smtp_support::Ca;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;
use vmsync::smtp::{
    Timeouts,
    submission::{Login, Submission, Tls},
};
use vmsync_core::delivery::{Answer, Stage};

/// What the server offers, what is said after that, what it means.
type Row<'a> = (&'static str, Vec<(&'a str, &'a str)>, &'a str);

const MAIL: &[u8] = b"Subject: x\r\n\r\n.\r\n";
const TAKEN: [(&str, &str); 4] = [
    ("MAIL FROM:<a@x.example>", "250 ok"),
    ("RCPT TO:<b@y.example>", "251 it will be sent on"),
    ("DATA", "354 go on"),
    ("Subject: x\r\n\r\n..\r\n.", "250 queued"),
];

/// A server that answers each line (a mail is one) with the next answer of the script, and says
/// whether all came as expected. An answer may have several lines; an empty one hangs up.
async fn play(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    script: Vec<(String, String)>,
) -> Result<(), String> {
    let mut stream = BufReader::new(stream);
    for (expected, answer) in script {
        let mut said = String::new();
        let lines = expected.matches("\r\n").count();
        for _ in 0..=lines {
            if expected != "greeting" {
                stream
                    .read_line(&mut said)
                    .await
                    .map_err(|e| e.to_string())?;
            }
        }
        if expected != "greeting" && said.trim_end() != expected {
            return Err(format!("{said:?} in place of {expected:?}"));
        }
        if answer.is_empty() {
            return Ok(());
        }
        let answer = format!("{answer}\r\n");
        stream
            .write_all(answer.as_bytes())
            .await
            .map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn script(parts: &[&[(&str, &str)]]) -> Vec<(String, String)> {
    let all = parts.iter().flat_map(|part| part.iter());
    all.map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect()
}

async fn server(
    sessions: Vec<Vec<(String, String)>>,
    tls: Option<TlsAcceptor>,
) -> (SocketAddr, JoinHandle<Result<(), String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let playing = tokio::spawn(async move {
        for session in sessions {
            let (stream, _) = listener.accept().await.map_err(|e| e.to_string())?;
            match &tls {
                None => play(stream, session).await?,
                Some(tls) => {
                    let stream = tls.accept(stream).await.map_err(|e| e.to_string())?;
                    play(stream, session).await?;
                }
            }
        }
        Ok(())
    });
    (address, playing)
}

fn timeouts() -> Timeouts {
    let second = Duration::from_secs(1);
    Timeouts {
        connect: second,
        tls: second,
        command: second,
        data: second,
        idle: second,
    }
}

fn client(to: SocketAddr, name: &str, tls: Tls, password: Option<&Path>) -> Submission {
    let login = password.map(|file| Login {
        user: "voice".into(),
        password_file: file.to_owned(),
    });
    Submission::new(
        name,
        to.port(),
        tls,
        login,
        "vmpro1.example.com",
        timeouts(),
    )
}

fn hello(offers: &'static str) -> [(&'static str, &'static str); 2] {
    [
        ("greeting", "220 hello"),
        ("EHLO vmpro1.example.com", offers),
    ]
}

#[tokio::test]
async fn a_login_by_either_way_and_a_recipient_that_has_moved() {
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, "pass word\nnot this\n").unwrap();
    let b64 = |text: &str| STANDARD.encode(text);
    let (user, secret) = (b64("voice"), b64("pass word"));
    let plain = format!("AUTH PLAIN {}", b64("\0voice\0pass word"));
    let by_plain = [(plain.as_str(), "235 welcome")];
    let by_login = [
        ("AUTH LOGIN", "334 VXNlcm5hbWU6"),
        (user.as_str(), "334 UGFzc3dvcmQ6"),
        (secret.as_str(), "235 welcome"),
    ];
    let rows: [(&'static str, &[(&str, &str)]); 2] = [
        ("250-x\r\n250 AUTH LOGIN PLAIN", &by_plain),
        ("250-x\r\n250 AUTH CRAM-MD5 LOGIN", &by_login),
    ];
    for (offers, login) in rows {
        let session = script(&[&hello(offers), login, &TAKEN, &TAKEN]);
        let (address, playing) = server(vec![session], None).await;
        let tls = Tls::Opportunistic(Ca::new().client(None));
        let mut client = client(address, "127.0.0.1", tls, Some(&password));
        client
            .send("a@x.example", "b@y.example", MAIL)
            .await
            .unwrap();
        // The second on the same connection.
        client
            .send("a@x.example", "b@y.example", MAIL)
            .await
            .unwrap();
        playing.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn no_answer_and_no_error_holds_the_password() {
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, "hunter2\n").unwrap();
    let secret = STANDARD.encode("hunter2");
    for (n, last) in ["535 5.7.8 wrong", "334 and what else", ""]
        .into_iter()
        .enumerate()
    {
        let steps = [
            ("AUTH LOGIN", "334 user"),
            ("dm9pY2U=", "334 password"),
            (secret.as_str(), last),
        ];
        let session = script(&[&hello("250-x\r\n250 AUTH LOGIN"), &steps]);
        let (address, _playing) = server(vec![session], None).await;
        let tls = Tls::Opportunistic(Ca::new().client(None));
        let mut client = client(address, "127.0.0.1", tls, Some(&password));
        let failure = client
            .send("a@x.example", "b@y.example", MAIL)
            .await
            .unwrap_err();
        assert_eq!(failure.stage, Stage::Connection, "{n}");
        assert!(failure.why.contains("AUTH LOGIN"), "{}", failure.why);
        let words = format!("{failure:?}");
        assert!(
            !words.contains("hunter2") && !words.contains(&secret),
            "{words}"
        );
        let setup = matches!(Answer::from(failure), Answer::NotNow { setup: true, .. });
        assert_eq!(setup, n == 0, "{words}");
    }
}

#[tokio::test]
async fn tls_from_the_first_byte_for_the_right_name_only() {
    let ca = Ca::new();
    let acceptor = || Some(TlsAcceptor::from(ca.server("localhost")));
    let session = || script(&[&hello("250 x"), &TAKEN]);
    let (address, playing) = server(vec![session()], acceptor()).await;
    let tls = Tls::Implicit(ca.client(None));
    let mut known = client(address, "localhost", tls, None);
    known
        .send("a@x.example", "b@y.example", MAIL)
        .await
        .unwrap();
    playing.await.unwrap().unwrap();

    // The certificate names localhost, the entry an address.
    let (address, _playing) = server(vec![session()], acceptor()).await;
    let tls = Tls::Implicit(Arc::clone(&ca.client(None)));
    let mut other = client(address, "127.0.0.1", tls, None);
    let failure = other
        .send("a@x.example", "b@y.example", MAIL)
        .await
        .unwrap_err();
    assert!(failure.setup && failure.code.is_none(), "{failure:?}");
}

#[tokio::test]
async fn required_tls_that_is_not_offered_means_that_nothing_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, "hunter2\n").unwrap();
    let session = script(&[&hello("250-x\r\n250 AUTH PLAIN"), &[("QUIT", "221 bye")]]);
    let (address, playing) = server(vec![session], None).await;
    let tls = Tls::Required(Ca::new().client(None));
    let mut client = client(address, "127.0.0.1", tls, Some(&password));
    let failure = client
        .send("a@x.example", "b@y.example", MAIL)
        .await
        .unwrap_err();
    assert!(
        failure.setup && failure.why.contains("STARTTLS"),
        "{failure:?}"
    );
    playing.await.unwrap().unwrap();
}

#[tokio::test]
async fn each_refusal_tells_how_far_it_came() {
    let size = "250-x\r\n250 SIZE 10";
    let quit = ("QUIT", "221 bye");
    let from = ("MAIL FROM:<a@x.example>", "250 ok");
    let to = "RCPT TO:<b@y.example>";
    let rows: [Row<'_>; 7] = [
        ("554 not you", vec![], "set it up"),
        (size, vec![], "refused"),
        (
            "250 x",
            vec![("MAIL FROM:<a@x.example>", "550 not from there"), quit],
            "mailbox later",
        ),
        (
            "250 x",
            vec![from, (to, "550 no such user"), quit],
            "refused",
        ),
        ("250 x", vec![from, (to, "421 going down"), quit], "not now"),
        (
            "250 x",
            vec![from, (to, "250 ok"), ("DATA", "451 busy"), quit],
            "mailbox later",
        ),
        (
            "250 x",
            vec![
                from,
                (to, "250 ok"),
                ("DATA", "354 go on"),
                (TAKEN[3].0, ""),
            ],
            "not now",
        ),
    ];
    for (n, (offers, steps, expected)) in rows.into_iter().enumerate() {
        let session = script(&[&hello(offers), &steps]);
        let (address, _playing) = server(vec![session], None).await;
        let tls = Tls::Opportunistic(Ca::new().client(None));
        let mut client = client(address, "127.0.0.1", tls, None);
        let failure = client
            .send("a@x.example", "b@y.example", MAIL)
            .await
            .unwrap_err();
        let words = format!("{failure:?}");
        let answer = match Answer::from(failure) {
            Answer::NotNow { setup: true, .. } => "set it up",
            Answer::NotNow { .. } => "not now",
            Answer::MailboxLater(_) => "mailbox later",
            Answer::Refused(_) => "refused",
            Answer::Taken | Answer::MessageLater(_) => "something else",
        };
        assert_eq!(answer, expected, "row {n}: {words}");
    }
}

/// A server may close a connection nobody uses; that is no trouble of its.
#[tokio::test]
async fn a_connection_gone_stale_is_replaced() {
    let first = script(&[
        &hello("250 x"),
        &TAKEN,
        &[(TAKEN[0].0, "421 4.4.2 idle too long")],
    ]);
    let second = script(&[&hello("250 x"), &TAKEN]);
    let (address, playing) = server(vec![first, second], None).await;
    let tls = Tls::Opportunistic(Ca::new().client(None));
    let mut client = client(address, "127.0.0.1", tls, None);
    for _ in 0..2 {
        client
            .send("a@x.example", "b@y.example", MAIL)
            .await
            .unwrap();
    }
    playing.await.unwrap().unwrap();
}
