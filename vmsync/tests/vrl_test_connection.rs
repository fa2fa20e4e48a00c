//! Test Connection (R-VR-2): the exact step that fails, with words and advice.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod vrl_support;

use vmsync::vrl::{TestStep, server::ServerTls};
use vmsync_config::VrlTls;
use vrl_support::{Backup, Pki, Primary};

const ALL: [&str; 9] = [
    "resolve", "connect", "tls", "login", "location", "write", "read", "rename", "delete",
];

/// All steps before `step` worked, `step` did not and was the last; its words.
fn fails_at(steps: &[TestStep], step: &str) -> TestStep {
    let names: Vec<_> = steps.iter().map(|s| s.step.as_str()).collect();
    let at = ALL.iter().position(|s| *s == step).unwrap();
    assert_eq!(names, ALL[..=at], "{steps:?}");
    let (last, before) = steps.split_last().unwrap();
    assert!(before.iter().all(|s| s.ok), "{steps:?}");
    assert!(!last.ok && last.advice.is_some(), "{last:?}");
    last.clone()
}

#[tokio::test]
async fn everything_right_is_nine_steps_and_leaves_nothing() {
    let pki = Pki::new();
    let tls = ServerTls {
        config: pki.server.clone(),
        required: true,
    };
    let primary = Primary::start(Some(tls)).await;
    let mut backup = Backup::of(&primary);
    backup.remote.tls = VrlTls::Required;
    backup.tls = Some(pki.client);
    let (handle, _stop) = backup.start();
    let steps = handle.test().await;
    assert!(
        steps.iter().all(|s| s.ok && s.advice.is_none()),
        "{steps:?}"
    );
    assert_eq!(
        steps.iter().map(|s| s.step.as_str()).collect::<Vec<_>>(),
        ALL
    );
    assert!(primary.files().is_empty());
}

#[tokio::test]
async fn a_wrong_password_is_the_login() {
    let primary = Primary::start(None).await;
    let mut backup = Backup::of(&primary);
    backup.remote.password_file = backup.dir.path().join("password");
    std::fs::write(&backup.remote.password_file, "wrong\n").unwrap();
    let (handle, _stop) = backup.start();
    let step = fails_at(&handle.test().await, "login");
    assert!(
        step.detail.contains("530 wrong user or password"),
        "{step:?}"
    );
    assert!(step.advice.unwrap().contains("ftp_password_file"));
    assert!(
        !step.detail.contains("wrong\n"),
        "the password itself is not told"
    );
}

#[tokio::test]
async fn a_missing_password_file_is_named() {
    let primary = Primary::start(None).await;
    let mut backup = Backup::of(&primary);
    backup.remote.password_file = backup.dir.path().join("nowhere");
    let (handle, _stop) = backup.start();
    let step = fails_at(&handle.test().await, "login");
    assert!(step.detail.contains("nowhere") && step.advice.unwrap().contains("vmsync may read it"));
}

#[tokio::test]
async fn a_wrong_location_is_the_location() {
    let primary = Primary::start(None).await;
    let mut backup = Backup::of(&primary);
    backup.remote.location = "/srv/elsewhere".to_owned();
    let (handle, _stop) = backup.start();
    let step = fails_at(&handle.test().await, "location");
    assert!(
        step.detail.contains("550") && step.detail.contains(vrl_support::LOCATION),
        "{step:?}"
    );
}

#[tokio::test]
async fn nobody_listening_is_the_connection() {
    let primary = Primary::start(None).await;
    let mut backup = Backup::of(&primary);
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    backup.remote.port = free.port();
    let (handle, _stop) = backup.start();
    let step = fails_at(&handle.test().await, "connect");
    assert!(step.detail.contains("refused"), "{step:?}");
}

#[tokio::test]
async fn an_unknown_host_is_the_resolving() {
    let primary = Primary::start(None).await;
    let mut backup = Backup::of(&primary);
    backup.remote.host = "no such host".to_owned();
    let (handle, _stop) = backup.start();
    fails_at(&handle.test().await, "resolve");
}

#[tokio::test]
async fn tls_asked_of_a_server_without_it_is_tls() {
    let primary = Primary::start(None).await;
    let mut backup = Backup::of(&primary);
    backup.remote.tls = VrlTls::Required;
    backup.tls = Some(Pki::new().client);
    let (handle, _stop) = backup.start();
    let step = fails_at(&handle.test().await, "tls");
    assert!(step.detail.contains("502"), "{step:?}");
}

#[tokio::test]
async fn a_full_disk_is_the_writing() {
    let options = vmsync::vrl::server::ServerOptions {
        min_free_bytes: u64::MAX,
        ..Default::default()
    };
    let primary = Primary::start_with(None, options).await;
    let backup = Backup::of(&primary);
    let (handle, _stop) = backup.start();
    let step = fails_at(&handle.test().await, "write");
    assert!(step.detail.contains("452") && step.advice.unwrap().contains("disk space"));
}
