//! The mover and the server against programs of other people.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod vrl_support;

use std::{
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use vrl_support::{
    Backup, Control, LOCATION, Mood, PASSWORD, Primary, files, servers::libunftp, until_done,
};

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
