//! The mover and the server against programs of other people.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::support::{
    Backup, Control, LOCATION, Mood, PASSWORD, Primary, files,
    odd::{Odd, Oddities},
    servers::{Pem, libunftp},
    until_done,
};
use tokio::time::timeout;
use vmsync::vrl::{
    foreign::{VerifyBy, check},
    ftp::{Account, Fault, Session},
};
use vmsync_config::VrlTls;

#[tokio::test]
async fn the_mover_works_with_libunftp() {
    let root = tempfile::tempdir().unwrap();
    let address = libunftp(root.path()).await;
    let folder = root.path().join(LOCATION.trim_start_matches('/'));
    let primary = Primary::start(None).await; // for its password file only
    let mut backup = Backup::of(&primary);
    backup.remote.port = address.port();
    backup.control = Arc::new(Control {
        folder: folder.clone(),
        mood: Mutex::new(Mood::Honest),
        asked: Mutex::default(),
        before: Mutex::default(),
    });
    let audio: Vec<u8> = (0..=255).cycle().take(700_000).collect();
    backup.records("call.wav", &audio);
    backup.records("Gespräch.wav", b"x");
    let (handle, _stop) = backup.start_allowed();
    let steps = handle.test().await;
    assert!(steps.iter().all(|s| s.ok), "{steps:?}");
    until_done(&handle, 2).await;
    let there = files(&folder);
    assert_eq!(there.len(), 2, "{:?}", there.keys());
    assert!(there["call.wav"] == audio, "the bytes differ");
    assert!(backup.files().is_empty());
}

#[tokio::test]
async fn curl_works_with_the_server() {
    if std::process::Command::new("curl")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        eprintln!("skipped: curl is not installed");
        return;
    }
    let primary = Primary::start(None).await;
    let dir = tempfile::tempdir().unwrap();
    let local = dir.path().join("call.wav");
    std::fs::write(&local, b"audio\n\r\n\0").unwrap();
    let url = format!("ftp://{}/{}", primary.address, "call.wav");
    let curl = async |args: &[&str]| {
        let run = tokio::process::Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "10", "--user"])
            .arg(format!("vrl:{PASSWORD}"))
            .args(args)
            .output();
        tokio::time::timeout(Duration::from_secs(15), run)
            .await
            .unwrap()
            .unwrap()
    };
    let up = curl(&["--upload-file", local.to_str().unwrap(), &url]).await;
    assert!(up.status.success(), "{up:?}");
    assert_eq!(primary.files()["call.wav"], b"audio\n\r\n\0");
    assert_eq!(curl(&[&url]).await.stdout, b"audio\n\r\n\0");
    // Over PASV, and by the path an administrator knows.
    let path = format!(
        "ftp://{}/%2F{}/call.wav",
        primary.address,
        LOCATION.trim_start_matches('/')
    );
    assert_eq!(
        curl(&["--disable-epsv", &path]).await.stdout,
        b"audio\n\r\n\0"
    );
    let list = curl(&[&format!("ftp://{}/", primary.address)]).await;
    assert!(
        String::from_utf8_lossy(&list.stdout).contains(" 9 "),
        "{list:?}"
    );
}

/// Uploads `bytes` as `name`, of which the server has `offset`; how many went over the wire.
async fn upload(account: &Account, bytes: &[u8], name: &str, offset: u64) -> (u64, Session) {
    let dir = tempfile::tempdir().unwrap();
    let local = dir.path().join("call.wav");
    std::fs::write(&local, bytes).unwrap();
    let mut session = Session::open(account).await.unwrap();
    let mut sent = 0;
    let count = |piece: &[u8]| {
        sent += piece.len() as u64;
        Duration::ZERO
    };
    session.upload(&local, name, offset, count).await.unwrap();
    (sent, session)
}

#[tokio::test]
async fn a_server_that_does_not_know_epsv_is_asked_by_pasv_and_not_for_epsv_again() {
    for unknown in [
        "500 what?",
        "502 not here",
        "522 another protocol, please (1)",
    ] {
        let odd = Odd::start(Oddities {
            answers: vec![("EPSV", unknown)],
            ..Oddities::default()
        })
        .await;
        let account = odd.account();
        upload(&account, b"audio", "a.wav", 0).await;
        upload(&account, b"audio", "b.wav", 0).await;
        assert_eq!(odd.file("b.wav").unwrap(), b"audio");
        // The address in the answer to PASV is one at which nobody is.
        assert_eq!((odd.heard("EPSV"), odd.heard("PASV")), (1, 2));
    }
}

#[tokio::test]
async fn a_port_of_epsv_that_is_closed_gives_way_to_pasv() {
    let odd = Odd::start(Oddities {
        closed: vec!["EPSV"],
        ..Oddities::default()
    })
    .await;
    let account = odd.account();
    upload(&account, b"audio", "a.wav", 0).await;
    upload(&account, b"audio", "b.wav", 0).await;
    assert_eq!(odd.file("b.wav").unwrap(), b"audio");
    assert_eq!((odd.heard("EPSV"), odd.heard("PASV")), (1, 2));
}

#[tokio::test]
async fn closed_data_ports_are_told_as_such_and_the_session_lives() {
    let odd = Odd::start(Oddities {
        closed: vec!["EPSV", "PASV"],
        ..Oddities::default()
    })
    .await;
    let mut session = Session::open(&odd.account()).await.unwrap();
    let failure = session.upload_bytes(b"audio", "a.wav").await.unwrap_err();
    assert_eq!(failure.fault, Fault::DataPort, "{failure}");
    assert!(failure.is_about_link());
    assert_eq!(session.size("a.wav").await.unwrap(), None);
}

#[tokio::test]
async fn a_server_that_knows_rest_gets_what_is_missing() {
    let odd = Odd::start(Oddities::default()).await;
    odd.has("a.wav", b"abc");
    let (sent, session) = upload(&odd.account(), b"abcdef", "a.wav", 3).await;
    assert_eq!((sent, session.began_at()), (3, 3));
    assert_eq!(odd.file("a.wav").unwrap(), b"abcdef");
}

#[tokio::test]
async fn where_rest_is_refused_the_file_is_appended_to() {
    for refusal in [
        ("REST", "502 no"),
        ("STOR a", "451 Restart not permitted, try again"),
    ] {
        let odd = Odd::start(Oddities {
            answers: vec![refusal],
            ..Oddities::default()
        })
        .await;
        odd.has("a.wav", b"abc");
        let account = odd.account();
        let (sent, session) = upload(&account, b"abcdef", "a.wav", 3).await;
        assert_eq!((sent, session.began_at()), (3, 3));
        assert_eq!(odd.file("a.wav").unwrap(), b"abcdef");
        odd.has("b.wav", b"abc");
        upload(&account, b"abcdef", "b.wav", 3).await;
        assert_eq!(odd.file("b.wav").unwrap(), b"abcdef");
        assert_eq!(odd.heard("REST 3"), 1, "it is remembered");
    }
}

#[tokio::test]
async fn where_neither_rest_nor_appe_is_known_the_file_is_sent_whole() {
    let odd = Odd::start(Oddities {
        answers: vec![("REST", "502 no"), ("APPE", "500 no")],
        ..Oddities::default()
    })
    .await;
    odd.has("a.wav", b"abc");
    let (sent, session) = upload(&odd.account(), b"abcdef", "a.wav", 3).await;
    assert_eq!((sent, session.began_at()), (6, 0));
    assert_eq!(odd.file("a.wav").unwrap(), b"abcdef");
}

#[tokio::test]
async fn a_rest_that_is_taken_and_ignored_is_noticed() {
    let odd = Odd::start(Oddities {
        forgets_rest: true,
        ..Oddities::default()
    })
    .await;
    odd.has("a.wav", b"abc");
    let account = odd.account();
    let (sent, session) = upload(&account, b"abcdefg", "a.wav", 3).await;
    assert_eq!(odd.file("a.wav").unwrap(), b"abcdefg");
    assert_eq!((sent, session.began_at()), (4 + 7, 0));
    odd.has("b.wav", b"abc");
    let (sent, _) = upload(&account, b"abcdefg", "b.wav", 3).await;
    assert_eq!((sent, odd.heard("APPE")), (4, 1), "it is remembered");
    assert_eq!(odd.file("b.wav").unwrap(), b"abcdefg");
}

#[tokio::test]
async fn no_name_becomes_a_second_command() {
    let odd = Odd::start(Oddities::default()).await;
    odd.has("x", b"audio");
    let dir = tempfile::tempdir().unwrap();
    let local = dir.path().join("call.wav");
    std::fs::write(&local, b"audio").unwrap();
    let mut session = Session::open(&odd.account()).await.unwrap();
    let before = odd.heard("");
    for name in ["a\r\nDELE x", "a\nDELE x", "a\rDELE x", "a\0b"] {
        let sent = |_: &[u8]| Duration::ZERO;
        let failures = [
            session.upload(&local, name, 0, sent).await.unwrap_err(),
            session.upload_bytes(b"audio", name).await.unwrap_err(),
            session.size(name).await.unwrap_err(),
            session.read(name, 1).await.unwrap_err(),
            session.rename(name, "b").await.unwrap_err(),
            session.rename("x", name).await.unwrap_err(),
            session.delete(name).await.unwrap_err(),
            session.enter(name).await.unwrap_err(),
            check(&mut session, VerifyBy::Hash, &local, name, 5, "")
                .await
                .unwrap_err(),
        ];
        for failure in failures {
            assert_eq!(failure.fault, Fault::Local, "{failure:?}");
            assert!(
                !failure.to_string().contains(['\r', '\n', '\0']),
                "{failure:?}"
            );
        }
    }
    assert_eq!(odd.heard(""), before, "nothing was sent");
    assert_eq!(odd.heard("DELE"), 0);
}

#[tokio::test]
async fn a_name_the_server_refuses_is_this_files_fault() {
    let odd = Odd::start(Oddities {
        answers: vec![("STOR", "553 Prohibited file name")],
        ..Oddities::default()
    })
    .await;
    let mut session = Session::open(&odd.account()).await.unwrap();
    let failure = session.upload_bytes(b"audio", "aux.wav").await.unwrap_err();
    assert_eq!(failure.fault, Fault::Refused(553));
    assert!(!failure.is_about_link());
}

#[tokio::test]
async fn a_session_that_the_server_ended_meanwhile_is_opened_anew() {
    let odd = Odd::start(Oddities {
        idle: Some(Duration::from_millis(600)),
        ..Oddities::default()
    })
    .await;
    let mut session = Session::open(&odd.account()).await.unwrap();
    odd.has("a.wav", b"abc");
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(session.size("a.wav").await.unwrap(), Some(3));
    session.rename("a.wav", "b.wav").await.unwrap();
    assert_eq!(odd.heard("PASS"), 2);
    assert_eq!(odd.heard("CWD /VRL"), 2, "and it is where it was");
}

#[tokio::test]
async fn a_greeting_of_many_lines_is_a_greeting() {
    let odd = Odd::start(Oddities {
        greeting: Some(
            "220-Welcome\r\n220-530 not this\r\n 421 nor this\r\n220 ready\r\n".to_owned(),
        ),
        ..Oddities::default()
    })
    .await;
    Session::open(&odd.account()).await.unwrap();
}

#[tokio::test]
async fn a_full_server_says_so_at_the_greeting() {
    let odd = Odd::start(Oddities {
        greeting: Some("421 Too many users, sorry\r\n".to_owned()),
        ..Oddities::default()
    })
    .await;
    let failure = Session::open(&odd.account()).await.err().unwrap();
    assert!(
        failure.is_too_many() && failure.is_about_link(),
        "{failure:?}"
    );
}

#[tokio::test]
async fn no_server_is_listened_to_for_ever() {
    let long = "220-".to_owned() + &"x".repeat(300_000);
    for (oddities, fault) in [
        // One byte at a time: each is in time, all together are not.
        (
            Oddities {
                pause: Some(Duration::from_millis(50)),
                greeting: Some("220 ready, ".repeat(100)),
                ..Oddities::default()
            },
            Fault::Silent,
        ),
        (
            Oddities {
                greeting: Some(long.clone()),
                ..Oddities::default()
            },
            Fault::Broken,
        ),
        (
            Oddities {
                greeting: Some("220-more\r\n".repeat(40_000)),
                ..Oddities::default()
            },
            Fault::Broken,
        ),
    ] {
        let odd = Odd::start(oddities).await;
        let account = odd.account();
        let opened = timeout(Duration::from_secs(5), Session::open(&account));
        let failure = opened.await.expect("it ends by itself").err().unwrap();
        assert_eq!(failure.fault, fault, "{failure}");
    }
}

#[tokio::test]
async fn a_file_that_trickles_back_or_never_ends_is_given_up() {
    let (dir, sha256) = (tempfile::tempdir().unwrap(), "00".repeat(32));
    let local = dir.path().join("call.wav");
    std::fs::write(&local, b"audio").unwrap();
    for (pause, said, fault) in [
        (Some(Duration::from_millis(50)), "213 100", Fault::Silent),
        (None, "213 99", Fault::Senseless),
    ] {
        let odd = Odd::start(Oddities {
            pause,
            answers: vec![("SIZE", said)],
            ..Oddities::default()
        })
        .await;
        odd.has("a.wav", &[b'a'; 100]);
        let mut session = Session::open(&odd.account()).await.unwrap();
        let bytes = said[4..].parse().unwrap();
        let read = check(
            &mut session,
            VerifyBy::ReadBack,
            &local,
            "a.wav",
            bytes,
            &sha256,
        );
        let failure = timeout(Duration::from_secs(5), read)
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(failure.fault, fault, "{failure}");
    }
}

#[tokio::test]
async fn preferred_tls_is_done_without_where_the_server_says_that_it_has_none() {
    for none in [
        "431 no",
        "500 what?",
        "502 no",
        "504 not that",
        "530 log in first",
        "534 no",
    ] {
        let odd = Odd::start(Oddities {
            answers: vec![("AUTH", none)],
            ..Oddities::default()
        })
        .await;
        let mut account = odd.account();
        account.tls = Some(Pem::new().client);
        account.remote.tls = VrlTls::Preferred;
        let mut session = Session::open(&account).await.expect(none);
        session.upload_bytes(b"audio", "a.wav").await.unwrap();
        account.remote.tls = VrlTls::Required;
        let failure = Session::open(&account).await.err().expect(none);
        assert_eq!(failure.fault, Fault::Refused(none[..3].parse().unwrap()));
    }
}
