//! The FTP client against servers of other people: vsftpd, Pure-FTPd and ProFTPD as Debian ships them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::support::{
    files,
    servers::{Options, Pem, Server, Software, libunftp, opened_when_free},
};
use vmsync::vrl::{
    ConfirmAnswer,
    foreign::{VerifyBy, check},
    ftp::{Account, Algorithm, Fault, FtpFailure, Session},
};
use vmsync_config::VrlTls;

/// A recording of every byte there is, line ends and all.
fn audio(bytes: usize) -> Vec<u8> {
    (0..=255).cycle().take(bytes).collect()
}

/// It as a file on this node.
fn recorded(dir: &tempfile::TempDir, bytes: &[u8]) -> PathBuf {
    let local = dir.path().join("call.wav");
    std::fs::write(&local, bytes).unwrap();
    local
}

/// A file goes up under a temporary name, gets its own, comes down again, and goes.
async fn there_and_back(account: &Account, server: &Server) {
    let dir = tempfile::tempdir().unwrap();
    let audio = audio(300_000);
    let local = recorded(&dir, &audio);
    let mut session = Session::open(account).await.unwrap();
    let (unfinished, name) = (".call~01234567.wav.part", "call.wav");
    let sent = |_: &[u8]| Duration::ZERO;
    session.upload(&local, unfinished, 0, sent).await.unwrap();
    assert_eq!(session.size(unfinished).await.unwrap(), Some(300_000));
    assert_eq!(session.size(name).await.unwrap(), None);
    session.rename(unfinished, name).await.unwrap();
    assert_eq!(session.size(unfinished).await.unwrap(), None);
    assert!(files(&server.folder)[name] == audio, "the bytes differ");
    assert!(
        session.read(name, 300_001).await.unwrap() == audio,
        "the bytes differ"
    );
    session.delete(name).await.unwrap();
    assert!(files(&server.folder).is_empty());
    session.quit().await;
}

#[tokio::test]
async fn a_file_goes_there_and_back_in_the_clear() {
    for software in Software::ALL {
        let Some(server) = Server::start(software, None, &Options::default()) else {
            return;
        };
        there_and_back(&server.account(VrlTls::Off, None), &server).await;
    }
}

#[tokio::test]
async fn a_file_goes_there_and_back_encrypted() {
    for software in Software::ALL {
        let pem = Pem::new();
        let options = Options {
            insists_on_tls: true,
            ..Options::default()
        };
        let Some(server) = Server::start(software, Some(&pem), &options) else {
            return;
        };
        there_and_back(&server.account(VrlTls::Required, Some(&pem)), &server).await;
    }
}

/// What a server says of a file that is as it was sent, that has other bytes, that is shorter, and that is not there.
async fn judged(account: &Account, folder: &Path, how: VerifyBy) -> Result<(), FtpFailure> {
    let dir = tempfile::tempdir().unwrap();
    let audio = audio(300_000);
    let local = recorded(&dir, &audio);
    let (_, sha256) = vmsync::vrl::folder::hash_file(&local).unwrap();
    let mut damaged = audio.clone();
    damaged[299_999] ^= 1;
    // A space and an umlaut: what is between a command and its end is the name.
    let whole = "Gespräch 1.wav";
    for (name, bytes) in [
        (whole, &audio[..]),
        ("damaged.wav", &damaged),
        ("short.wav", &audio[..299_999]),
    ] {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    let mut session = Session::open(account).await.unwrap();
    let mut answers = Vec::new();
    for name in [whole, "damaged.wav", "short.wav", "nowhere.wav"] {
        answers.push(check(&mut session, how, &local, name, 300_000, &sha256).await?);
    }
    assert_eq!(answers[0], ConfirmAnswer::Durable);
    assert!(
        matches!(answers[1], ConfirmAnswer::Different { bytes: 300_000, .. }),
        "{answers:?}"
    );
    let short = ConfirmAnswer::Different {
        bytes: 299_999,
        sha256: String::new(),
    };
    assert_eq!(answers[2], short);
    assert_eq!(answers[3], ConfirmAnswer::Missing);
    session.quit().await;
    Ok(())
}

#[tokio::test]
async fn what_was_sent_is_compared_by_reading_it_back() {
    for software in Software::ALL {
        let Some(server) = Server::start(software, None, &Options::default()) else {
            return;
        };
        let account = server.account(VrlTls::Off, None);
        judged(&account, &server.folder, VerifyBy::ReadBack)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn what_was_sent_is_compared_by_a_hash_where_the_server_has_one() {
    for software in Software::ALL {
        let Some(server) = Server::start(software, None, &Options::default()) else {
            return;
        };
        let account = server.account(VrlTls::Off, None);
        let judged = judged(&account, &server.folder, VerifyBy::Hash).await;
        if software == Software::Proftpd {
            judged.unwrap();
        } else {
            let failure = judged.unwrap_err();
            assert_eq!(failure.fault, Fault::Lacks, "{software:?}: {failure}");
            assert!(failure.words.contains("read-back"), "{failure}");
        }
    }
}

#[tokio::test]
async fn each_hash_of_a_server_is_the_hash() {
    let Some(server) = Server::start(Software::Proftpd, None, &Options::default()) else {
        return;
    };
    std::fs::write(server.folder.join("call.wav"), b"abc").unwrap();
    let mut session = Session::open(&server.account(VrlTls::Off, None))
        .await
        .unwrap();
    let mut ways = Vec::new();
    for offer in session.hashes().await.unwrap() {
        let hash = session.hash("call.wav", offer, 3).await.unwrap();
        // As RFC 1321 and FIPS 180-2 print them.
        let known = match offer.algorithm {
            Algorithm::Sha256 => "ba7816bf8f01cfea",
            Algorithm::Sha512 => "ddaf35a193617aba",
            Algorithm::Md5 => "900150983cd24fb0",
        };
        assert!(hash.starts_with(known), "{}: {hash}", offer.words());
        ways.push(offer.words());
    }
    assert_eq!(
        ways,
        [
            "HASH SHA-256",
            "XSHA256",
            "HASH SHA-512",
            "XSHA512",
            "HASH MD5",
            "XMD5",
            "MD5"
        ]
    );
}

#[tokio::test]
async fn a_recording_that_changed_here_is_not_taken_as_compared() {
    let Some(server) = Server::start(Software::Vsftpd, None, &Options::default()) else {
        return;
    };
    let root = server.folder.parent().unwrap();
    let address = libunftp(root).await;
    let mut account = server.account(VrlTls::Off, None);
    account.remote.port = address.port();
    account.remote.user = "vrl".to_owned();
    // By SITE MD5, for which the file here is read once more.
    judged(&account, &server.folder, VerifyBy::Hash)
        .await
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let local = recorded(&dir, b"other");
    std::fs::write(server.folder.join("call.wav"), b"audio").unwrap();
    let mut session = Session::open(&account).await.unwrap();
    let sha256 = "00".repeat(32);
    let checked = check(&mut session, VerifyBy::Hash, &local, "call.wav", 5, &sha256).await;
    assert_eq!(checked.unwrap_err().fault, Fault::Local);
}

/// Names that are legal recordings, and trouble for somebody: spaces, quotes, what shells and LIST expand, options,
/// percent signs, semicolons of MLSD, and one letter written in the two ways of Unicode.
const NAMES: [&str; 12] = [
    "two  words.wav",
    "\"quoted\".wav",
    "it's.wav",
    "-la.wav",
    "--.wav",
    "[a-z]*?.wav",
    "100%20%s.wav",
    "type=dir; x.wav",
    "{a,b}~$HOME`id`.wav",
    "Gespr\u{e4}ch.wav",
    "Gespra\u{308}ch.wav",
    "\u{4f1a}\u{8bae}\u{1f4de}.wav",
];

#[tokio::test]
async fn odd_names_arrive_as_they_are() {
    for software in Software::ALL {
        let Some(server) = Server::start(software, None, &Options::default()) else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let mut session = Session::open(&server.account(VrlTls::Off, None))
            .await
            .unwrap();
        for name in NAMES {
            let local = recorded(&dir, name.as_bytes());
            let (bytes, sha256) = vmsync::vrl::folder::hash_file(&local).unwrap();
            let recording = vmsync_core::vrl::RecordingName::new(name).unwrap();
            let temporary = recording.temporary(&sha256);
            session
                .upload(&local, &temporary, 0, |_| Duration::ZERO)
                .await
                .unwrap();
            assert_eq!(
                session.size(name).await.unwrap(),
                None,
                "{software:?}: {name}"
            );
            session.rename(&temporary, name).await.unwrap();
            let checked = check(
                &mut session,
                VerifyBy::ReadBack,
                &local,
                name,
                bytes,
                &sha256,
            )
            .await;
            assert_eq!(
                checked.unwrap(),
                ConfirmAnswer::Durable,
                "{software:?}: {name}"
            );
        }
        let there = files(&server.folder);
        assert!(
            NAMES.iter().all(|n| there[*n] == n.as_bytes()),
            "{software:?}: {there:?}"
        );
        assert_eq!(there.len(), NAMES.len(), "{software:?}");
        let listing = session.list().await.unwrap();
        let mut listed: Vec<_> = listing
            .entries
            .iter()
            .map(|e| (&*e.name, e.bytes))
            .collect();
        let mut sent: Vec<_> = NAMES.iter().map(|n| (*n, Some(n.len() as u64))).collect();
        listed.sort_unstable();
        sent.sort_unstable();
        assert_eq!(listed, sent, "{software:?}");
        assert!(listing.whole && listing.entries.iter().all(|e| e.is_file));
        for name in NAMES {
            session.delete(name).await.unwrap();
        }
        assert!(files(&server.folder).is_empty());
    }
}

#[tokio::test]
async fn data_connections_resume_the_session_of_their_own_control_connection() {
    for software in [Software::Vsftpd, Software::Proftpd] {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let pem = Pem::new().only(&[version]);
            let options = Options {
                insists_on_tls: true,
                insists_on_resumption: true,
                ..Options::default()
            };
            let Some(server) = Server::start(software, Some(&pem), &options) else {
                return;
            };
            let account = server.account(VrlTls::Required, Some(&pem));
            let dir = tempfile::tempdir().unwrap();
            // Two at once, as the mover and Test Connection are; tickets of one are worth nothing to the other.
            let mut refused = 0;
            let mut sessions = [
                Session::open(&account).await.unwrap(),
                Session::open(&account).await.unwrap(),
            ];
            // More than the tickets that a server gives out at the start.
            for n in 0..12 {
                let session = &mut sessions[n % 2];
                let name = format!("{n}.wav");
                let local = recorded(&dir, b"audio");
                let sent = session.upload(&local, &name, 0, |_| Duration::ZERO).await;
                let back = match sent {
                    Ok(_) => session.read(&name, 9).await,
                    Err(e) => Err(e),
                };
                match back {
                    Ok(bytes) => assert_eq!(bytes, b"audio", "{software:?} {version:?}"),
                    // As the mover does: another session.
                    Err(e) => {
                        assert!(e.is_about_link(), "{software:?} {version:?}: {e}");
                        refused += 1;
                        *session = Session::open(&account).await.unwrap();
                    }
                }
            }
            println!("{software:?} {version:?}: {refused} data connections of 24 refused");
            // ProFTPD gives too few tickets; that is learnt once.
            let few = software == Software::Proftpd
                && version.version == rustls::ProtocolVersion::TLSv1_3;
            assert!(
                refused <= usize::from(few),
                "{software:?} {version:?}: {refused}"
            );
        }
    }
}

#[tokio::test]
async fn a_full_server_is_told_apart_from_a_wrong_password() {
    for software in Software::ALL {
        let options = Options {
            most_clients: Some(1),
            ..Options::default()
        };
        let Some(server) = Server::start(software, None, &options) else {
            return;
        };
        let account = server.account(VrlTls::Off, None);
        let first = opened_when_free(&account).await;
        let failure = Session::open(&account).await.err().unwrap();
        assert!(failure.is_too_many(), "{software:?}: {failure:?}");
        first.quit().await;
        let mut wrong = account;
        let dir = tempfile::tempdir().unwrap();
        wrong.remote.password_file = dir.path().join("password");
        std::fs::write(&wrong.remote.password_file, "wrong\n").unwrap();
        opened_when_free(&server.account(VrlTls::Off, None))
            .await
            .quit()
            .await;
        let failure = loop {
            match Session::open(&wrong).await.err().unwrap() {
                full if full.is_too_many() => tokio::time::sleep(Duration::from_millis(50)).await,
                failure => break failure,
            }
        };
        assert_eq!(
            failure.fault,
            Fault::Refused(530),
            "{software:?}: {failure}"
        );
    }
}

#[tokio::test]
async fn a_server_that_ends_idle_sessions_is_not_noticed() {
    for software in [Software::Vsftpd, Software::Proftpd] {
        let options = Options {
            idle: Some(1),
            ..Options::default()
        };
        let Some(server) = Server::start(software, None, &options) else {
            return;
        };
        let mut session = Session::open(&server.account(VrlTls::Off, None))
            .await
            .unwrap();
        session.upload_bytes(b"audio", "a.wav").await.unwrap();
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(
            session.size("a.wav").await.unwrap(),
            Some(5),
            "{software:?}"
        );
    }
}

#[tokio::test]
async fn a_server_that_was_restarted_is_gone_back_to() {
    let Some(mut server) = Server::start(Software::PureFtpd, None, &Options::default()) else {
        return;
    };
    let mut session = Session::open(&server.account(VrlTls::Off, None))
        .await
        .unwrap();
    session.upload_bytes(b"audio", "a.wav").await.unwrap();
    server.kill();
    server.restart();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(session.size("a.wav").await.unwrap(), Some(5));
}

#[tokio::test]
async fn an_upload_goes_on_where_it_broke_off() {
    for (software, more) in [
        (Software::Vsftpd, ""),
        (Software::PureFtpd, ""),
        (Software::Proftpd, ""),
        // REST before STOR is refused, APPE is not.
        (Software::Proftpd, "AllowStoreRestart off"),
    ] {
        let options = Options {
            more: (!more.is_empty())
                .then(|| more.to_owned())
                .into_iter()
                .collect(),
            ..Options::default()
        };
        let Some(server) = Server::start(software, None, &options) else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let audio = audio(300_000);
        let local = recorded(&dir, &audio);
        let mut session = Session::open(&server.account(VrlTls::Off, None))
            .await
            .unwrap();
        session
            .upload_bytes(&audio[..100_000], ".a.part")
            .await
            .unwrap();
        session
            .upload(&local, ".a.part", 100_000, |_| Duration::ZERO)
            .await
            .unwrap();
        assert_eq!(session.began_at(), 100_000, "{software:?} {more}");
        assert!(
            files(&server.folder)[".a.part"] == audio,
            "{software:?} {more}"
        );
    }
}
