//! What the FTP server takes in memory and time. Figures are printed: `-- --nocapture`, and
//! `--ignored` for those that take long.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking; figures are printed"
)]

#[path = "vrl/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use support::{Primary, client::Client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vmsync::vrl::{ConfirmAnswer, confirm_local};

/// Highest resident memory of this process since it was asked last, KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    let kib = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    kib
}

#[allow(clippy::disallowed_methods, reason = "a measurement")]
fn now() -> Instant {
    Instant::now()
}

/// Uploads this many MiB of zeros under a temporary name, and names it; how long it took.
async fn upload_mib(primary: &Primary, name: &str, mib: usize) -> Duration {
    let mut client = Client::log_in(primary).await;
    let mut data = client.data().await;
    let part = format!(".{name}.part");
    client.expect(&format!("STOR {part}"), 150).await;
    let (start, piece) = (now(), vec![0_u8; 1 << 20]);
    for _ in 0..mib {
        data.write_all(&piece).await.unwrap();
    }
    data.shutdown().await.unwrap();
    client.expect_within(226, Duration::from_mins(1)).await;
    client.expect(&format!("RNFR {part}"), 350).await;
    client.send(&format!("RNTO {name}")).await;
    client.expect_within(250, Duration::from_mins(5)).await;
    start.elapsed()
}

async fn takes_in_bounded_memory(mib: usize) {
    let primary = Primary::start(None).await;
    Client::log_in(&primary).await;
    peak_kib();
    let before = peak_kib();
    let took = upload_mib(&primary, "long.wav", mib).await;
    let grown = peak_kib().saturating_sub(before);
    println!("{mib} MiB in {took:?}; memory grew by {grown} KiB");
    // The login's hash takes 7 MiB.
    assert!(grown < 40 * 1024, "memory grew by {grown} KiB");
    let mut hash = Sha256::new();
    for _ in 0..mib {
        hash.update(vec![0_u8; 1 << 20]);
    }
    let (bytes, sha256) = (mib as u64 * (1 << 20), hex::encode(hash.finalize()));
    let start = now();
    let answer = confirm_local(&primary.folder(), "long.wav", bytes, &sha256).unwrap();
    println!("confirmed in {:?}", start.elapsed());
    assert_eq!(answer, ConfirmAnswer::Durable);
}

#[tokio::test]
async fn a_large_recording_takes_little_memory() {
    takes_in_bounded_memory(128).await;
}

#[tokio::test]
#[ignore = "writes 2 GB; alone in its process: --exact"]
async fn a_recording_of_2_gb_takes_little_memory() {
    takes_in_bounded_memory(2048).await;
}

/// Files of 300 KB: uploaded, named, confirmed.
async fn files_a_second(connections: usize) -> f64 {
    const FILES: usize = 400;
    let primary = Primary::start(None).await;
    let bytes = vec![7_u8; 300_000];
    let sha256 = hex::encode(Sha256::digest(&bytes));
    let start = now();
    let (primary, bytes, sha256) = (&primary, &bytes, &sha256);
    futures_util::future::join_all((0..connections).map(|c| async move {
        let mut client = Client::log_in(primary).await;
        for n in 0..FILES / connections {
            let (name, part) = (format!("{c}-{n}.wav"), format!(".{c}-{n}.wav.part"));
            let stored = client.store(&part, bytes).await;
            assert!(stored.starts_with("226"), "{stored}");
            client.expect(&format!("RNFR {part}"), 350).await;
            client.expect(&format!("RNTO {name}"), 250).await;
            let (folder, sha256) = (primary.folder(), sha256.clone());
            let ask = move || confirm_local(&folder, &name, 300_000, &sha256).unwrap();
            let answer = tokio::task::spawn_blocking(ask).await.unwrap();
            assert_eq!(answer, ConfirmAnswer::Durable);
        }
    }))
    .await;
    #[allow(clippy::cast_precision_loss, reason = "small")]
    let rate = FILES as f64 / start.elapsed().as_secs_f64();
    rate
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a measurement"]
async fn how_many_recordings_a_second() {
    for connections in [1, 8] {
        let rate = files_a_second(connections).await;
        println!("{connections} connections: {rate:.0} files of 300 KB a second, each confirmed");
    }
}

#[tokio::test]
#[ignore = "makes 100,000 files; alone in its process: --exact"]
async fn a_listing_of_100_000_recordings_takes_little_memory() {
    let primary = Primary::start(None).await;
    let mut client = Client::log_in(&primary).await;
    for n in 0..100_000 {
        let name = format!("2026-11-23 10-{n:06} +49 30 1234567.wav");
        std::fs::write(primary.folder().join(name), b"").unwrap();
    }
    for command in ["NLST", "LIST", "MLSD"] {
        peak_kib();
        let before = peak_kib();
        let start = now();
        let mut data = client.data().await;
        client.expect(command, 150).await;
        let (mut lines, mut piece) = (0, vec![0; 64 * 1024]);
        loop {
            let n = data.read(&mut piece).await.unwrap();
            lines += piece[..n].split(|b| *b == b'\n').count() - 1;
            if n == 0 {
                break;
            }
        }
        client.expect_within(226, Duration::from_secs(5)).await;
        let grown = peak_kib().saturating_sub(before);
        println!(
            "{command}: {lines} lines in {:?}; memory grew by {grown} KiB",
            start.elapsed()
        );
        assert_eq!(lines, 100_000);
        assert!(grown < 4 * 1024, "memory grew by {grown} KiB");
    }
}
