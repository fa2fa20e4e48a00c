//! The FTP client against servers of other people: vsftpd, Pure-FTPd and ProFTPD as Debian ships them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod vrl_support;

use std::{path::PathBuf, time::Duration};

use vmsync::vrl::ftp::{Account, Session};
use vmsync_config::VrlTls;
use vrl_support::{
    files,
    servers::{Options, Pem, Server, Software},
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
