//! Test Connection (R-VR-2): the exact step that fails, with words and advice.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use crate::support::{
    Backup, Pki, Primary, files,
    servers::{Options, Pem, Server, Software, opened_when_free},
};
use tokio::net::{TcpListener, TcpStream};
use vmsync::vrl::{TestStep, ftp::Account, probe, server::ServerTls};
use vmsync_config::{VrlTls, VrlVerify};

const ALL: [&str; 10] = [
    "resolve", "connect", "tls", "login", "location", "write", "read", "verify", "rename", "delete",
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
async fn everything_right_is_ten_steps_and_leaves_nothing() {
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
        step.detail.contains("550") && step.detail.contains(crate::support::LOCATION),
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

/// One thing that is wrong, at each of the servers.
struct Row {
    what: &'static str,
    /// What the server is told to be.
    options: Options,
    /// Whether it has a certificate.
    tls: bool,
    /// What is changed in the account, and at the server.
    spoil: fn(&mut Account, &Server, &Pem),
    step: &'static str,
    /// In the advice.
    advice: &'static str,
}

impl Row {
    fn plain(what: &'static str, step: &'static str, advice: &'static str) -> Self {
        Self {
            what,
            options: Options::default(),
            tls: false,
            spoil: |_, _, _| {},
            step,
            advice,
        }
    }

    fn spoilt(mut self, spoil: fn(&mut Account, &Server, &Pem)) -> Self {
        self.spoil = spoil;
        self
    }

    fn encrypted(mut self, insists: bool) -> Self {
        self.tls = true;
        self.options.insists_on_tls = insists;
        self
    }
}

fn wrong() -> Vec<Row> {
    let read_only = Options {
        read_only: true,
        ..Options::default()
    };
    vec![
        Row::plain("wrong password", "login", "ftp_password_file").spoilt(|account, server, _| {
            let file = server.password_file.with_extension("wrong");
            std::fs::write(&file, "wrong\n").unwrap();
            account.remote.password_file = file;
        }),
        Row::plain("wrong folder", "location", "remote_location").spoilt(|account, _, _| {
            "/srv/elsewhere".clone_into(&mut account.remote.location);
        }),
        Row {
            options: read_only,
            ..Row::plain(
                "a folder that can't be written to",
                "write",
                "right to write",
            )
        },
        Row::plain("no TLS", "tls", "offers explicit TLS").spoilt(|account, _, pem| {
            account.remote.tls = VrlTls::Required;
            account.tls = Some(pem.client.clone());
        }),
        Row::plain("TLS insisted on", "login", "tls").encrypted(true),
        Row::plain("another CA", "tls", "not signed by [tls] ca")
            .encrypted(true)
            .spoilt(|account, _, _| {
                account.remote.tls = VrlTls::Required;
                account.tls = Some(Pem::new().client);
            }),
        Row::plain("another name", "tls", "does not bear remote_host")
            .encrypted(true)
            .spoilt(|account, _, pem| {
                account.remote.tls = VrlTls::Required;
                let mut client = pem.client.clone();
                "vmpro7.example.test".clone_into(&mut client.server_name);
                account.tls = Some(client);
            }),
        Row::plain("passive ports closed", "write", "passive ports").spoilt(|account, _, _| {
            // Another address of this machine: commands are carried over, data connections are not.
            "127.0.0.2".clone_into(&mut account.remote.host);
        }),
        Row::plain("no hash", "verify", "vrl.verify").spoilt(|account, _, _| {
            account.remote.verify = VrlVerify::Hash;
        }),
    ]
}

/// Carries what comes to 127.0.0.2 over to 127.0.0.1.
async fn carrier(server: SocketAddr) {
    let listener = TcpListener::bind(("127.0.0.2", server.port()))
        .await
        .unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(server).await.unwrap();
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
}

#[tokio::test]
async fn what_is_wrong_is_told_with_each_servers_words_and_what_to_do() {
    for row in wrong() {
        for software in Software::ALL {
            let pem = Pem::new();
            let certificate = row.tls.then_some(&pem);
            let Some(server) = Server::start(software, certificate, &row.options) else {
                return;
            };
            carrier(server.address).await;
            let mut account = server.account(VrlTls::Off, None);
            (row.spoil)(&mut account, &server, &pem);
            let steps = probe::run(&account, vmsync::clock::now).await;
            let what = format!("{}, {software:?}: {steps:#?}", row.what);
            if row.what == "no hash" && software == Software::Proftpd {
                assert!(steps.iter().all(|s| s.ok), "{what}");
                assert!(steps[7].detail.starts_with("HASH SHA-256 is"), "{what}");
                continue;
            }
            let step = fails_at(&steps, row.step);
            assert!(step.advice.as_ref().unwrap().contains(row.advice), "{what}");
            assert!(!step.detail.is_empty(), "{what}");
            assert!(
                files(&server.folder).is_empty() || row.step == "verify",
                "{what}"
            );
        }
    }
}

#[tokio::test]
async fn every_server_passes_in_the_clear_and_encrypted() {
    for software in Software::ALL {
        for tls in [VrlTls::Off, VrlTls::Preferred, VrlTls::Required] {
            let pem = Pem::new();
            let Some(server) = Server::start(software, Some(&pem), &Options::default()) else {
                return;
            };
            std::fs::write(server.folder.join("call.wav"), b"audio").unwrap();
            let mut account = server.account(tls, Some(&pem));
            account.remote.verify = VrlVerify::ReadBack;
            let steps = probe::run(&account, vmsync::clock::now).await;
            assert!(
                steps.iter().all(|s| s.ok),
                "{software:?} {tls:?}: {steps:#?}"
            );
            let last = &steps[ALL.len() - 1];
            assert!(
                last.detail.ends_with("; 1 files are there"),
                "{software:?} {tls:?}: {last:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_full_server_is_to_be_tried_later() {
    for software in Software::ALL {
        let options = Options {
            most_clients: Some(1),
            ..Options::default()
        };
        let Some(server) = Server::start(software, None, &options) else {
            return;
        };
        let account = server.account(VrlTls::Off, None);
        let _other = opened_when_free(&account).await;
        let steps = probe::run(&account, vmsync::clock::now).await;
        let last = steps.last().unwrap();
        assert!(
            ["connect", "login"].contains(&&*last.step) && !last.ok,
            "{software:?}: {steps:#?}"
        );
        assert!(
            last.advice
                .as_ref()
                .unwrap()
                .contains("no more connections"),
            "{last:?}"
        );
    }
}

#[tokio::test]
async fn a_full_disk_of_another_server_is_the_writing() {
    for software in Software::ALL {
        let Some(server) = Server::start(software, None, &Options::default()) else {
            return;
        };
        let disk = Disk::mount(&server.folder);
        let steps = probe::run(&server.account(VrlTls::Off, None), vmsync::clock::now).await;
        drop(disk);
        let step = fails_at(&steps, "write");
        assert!(
            step.advice.as_ref().unwrap().contains("disk space"),
            "{software:?}: {step:?}"
        );
    }
}

/// A disk with no byte left, in memory.
struct Disk(std::path::PathBuf);

impl Disk {
    fn mount(at: &std::path::Path) -> Self {
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16k,mode=777", "tmpfs"])
            .arg(at)
            .status()
            .unwrap();
        assert!(mounted.success());
        std::fs::write(at.join("full"), [0; 16 * 1024]).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}
