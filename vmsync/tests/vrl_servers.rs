//! The FTP client against servers of other people: vsftpd, Pure-FTPd and ProFTPD as Debian ships them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod vrl_support;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use vmsync::vrl::{
    ConfirmAnswer,
    foreign::{VerifyBy, check},
    ftp::{Account, Algorithm, Fault, FtpFailure, Session},
};
use vmsync_config::VrlTls;
use vrl_support::{
    files,
    servers::{Options, Pem, Server, Software, libunftp},
};

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
