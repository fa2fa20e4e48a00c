//! Connections that break in the middle of an upload, through a proxy that understands enough
//! FTP to stand between the data connections too.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::support::{Backup, Primary, until, until_done};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// Lets `budget` bytes of data through in all, then cuts every data connection, `cuts` times.
struct Proxy {
    server: SocketAddr,
    piece: u64,
    cuts: AtomicU64,
    carried: AtomicU64,
}

impl Proxy {
    async fn start(server: SocketAddr, piece: u64, cuts: u64) -> (SocketAddr, Arc<Self>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = Arc::new(Self {
            server,
            piece,
            cuts: AtomicU64::new(cuts),
            carried: AtomicU64::new(0),
        });
        let shared = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(shared.clone().control(client));
            }
        });
        (address, proxy)
    }

    async fn control(self: Arc<Self>, client: TcpStream) {
        let server = TcpStream::connect(self.server).await.unwrap();
        let (from_server, mut to_server) = server.into_split();
        let (mut from_client, mut to_client) = client.into_split();
        tokio::spawn(async move {
            let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        });
        let mut replies = BufReader::new(from_server).lines();
        while let Ok(Some(mut line)) = replies.next_line().await {
            if let Some(port) = line.strip_prefix("229").and_then(|l| l.split('|').nth(3)) {
                let behind = SocketAddr::new(self.server.ip(), port.parse().unwrap());
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let ours = listener.local_addr().unwrap().port();
                line = format!("229 Entering Extended Passive Mode (|||{ours}|)");
                tokio::spawn(self.clone().data(listener, behind));
            }
            if to_client
                .write_all(format!("{line}\r\n").as_bytes())
                .await
                .is_err()
            {
                return;
            }
        }
    }

    async fn data(self: Arc<Self>, listener: TcpListener, behind: SocketAddr) {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(behind).await.unwrap();
        let cut = self
            .cuts
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
            .is_ok();
        let most = if cut { self.piece } else { u64::MAX };
        let n = tokio::io::copy(&mut (&mut client).take(most), &mut server)
            .await
            .unwrap_or(0);
        self.carried.fetch_add(n, Ordering::SeqCst);
    }
}

fn audio(len: usize) -> Vec<u8> {
    (0..len)
        .map(|n| u8::try_from(n * 13 % 251).unwrap())
        .collect()
}

#[tokio::test]
async fn a_broken_upload_goes_on_where_it_broke() {
    let primary = Primary::start(None).await;
    let (address, proxy) = Proxy::start(primary.address, 1_000_000, 3).await;
    let mut backup = Backup::of(&primary);
    backup.remote.port = address.port();
    // Larger than what the sockets on the way can swallow after a cut.
    backup.records("long.wav", &audio(12_000_000));
    let (handle, _stop) = backup.start_allowed();
    until_done(&handle, 1).await;
    assert_eq!(primary.files().len(), 1, "no .part is left");
    assert!(
        primary.files()["long.wav"] == audio(12_000_000),
        "the bytes differ"
    );
    let carried = proxy.carried.load(Ordering::SeqCst);
    assert_eq!(carried, 12_000_000, "nothing was sent twice");
}

#[tokio::test]
async fn a_resumed_upload_over_damaged_bytes_starts_anew() {
    let primary = Primary::start(None).await;
    let backup = Backup::of(&primary);
    backup.records("call.wav", &audio(200_000));
    // As a power cut may leave it: begun in the journal, the right length of wrong bytes at the primary.
    let (_, sha256) = vmsync::vrl::folder::hash_file(&backup.folder().join("call.wav")).unwrap();
    let name = vmsync_core::vrl::RecordingName::new("call.wav").unwrap();
    std::fs::create_dir_all(primary.folder()).unwrap();
    std::fs::write(
        primary.folder().join(name.temporary(&sha256)),
        vec![0; 150_000],
    )
    .unwrap();
    let mut part = vmsync_core::vrl::Part::new(name.clone(), 200_000, sha256);
    part.state = vmsync_core::vrl::State::Sending;
    let begun =
        vmsync_core::vrl::Transfer::planned(part, Vec::new(), vmsync_config::words::UnixMillis(0));
    let record = serde_json::to_string(&begun).unwrap();
    backup.journal.records.lock().unwrap().insert(name, record);
    let (handle, _stop) = backup.start_allowed();
    until_done(&handle, 1).await;
    assert_eq!(primary.files().len(), 1);
    assert!(
        primary.files()["call.wav"] == audio(200_000),
        "the bytes differ"
    );
}

/// A large recording is sent while it is hashed: what a kill or a cut left of it is gone on with, and nothing of it
/// has a finished name before it is whole.
#[tokio::test]
async fn a_large_recording_goes_on_where_a_kill_left_it() {
    let primary = Primary::start(None).await;
    let mut backup = Backup::of(&primary);
    backup.remote.rate = Some(20_000_000);
    let large = audio(30_000_000);
    backup.records("long.wav", &large);
    // Settled: what changed a moment ago is hashed before it leaves.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let (first, stop) = backup.start_allowed();
    until("some of it to be at the primary", || {
        first.status().current.is_some_and(|c| c.sent > 10_000_000)
    })
    .await;
    stop.cancel();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let there = primary.files();
    let (name, part) = there.iter().next().unwrap();
    assert!(
        name.contains(".part") && there.len() == 1,
        "{:?}",
        there.keys()
    );
    let left = part.len();
    assert!(left > 5_000_000, "{left}");
    backup.remote.rate = None;
    let (handle, _stop) = backup.start_allowed();
    until_done(&handle, 1).await;
    let there = primary.files();
    assert_eq!(there.keys().collect::<Vec<_>>(), ["long.wav"]);
    assert!(there["long.wav"] == large, "the bytes differ");
    assert!(backup.files().is_empty());
}
