//! Recordings always arrive: whatever happens on the way, at the end each is at the primary exactly once, byte
//! for byte, and none is missing anywhere (R-VR-1, R-VR-4). Against the embedded server and those of Debian.
//!
//! By default a few dozen recordings of up to 2 MB each; with `FULL=1` a thousand of up to 500 MB (some
//! minutes, and 4 GB of disk).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what failed by panicking, and what it did"
)]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::support::{
    Backup, Mood, Primary,
    cutter::{Cutter, Dice},
    servers::{Options, PORTS, Pem, Server, Software, free_ports},
};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use vmsync::vrl::server::{ServerOptions, ServerTls};
use vmsync_config::{
    VrlTls, VrlVerify,
    words::{Now, UnixMillis},
};

/// What is asked of a run.
struct Size {
    recordings: u64,
    largest: u64,
    cuts: u64,
    kills: u64,
    /// The whole of it.
    within: Duration,
}

fn size() -> Size {
    if std::env::var_os("FULL").is_some_and(|v| v == "1") {
        Size {
            recordings: 1_000,
            largest: 500_000_000,
            cuts: 200,
            kills: 20,
            within: Duration::from_mins(20),
        }
    } else {
        Size {
            recordings: 60,
            largest: 2_000_000,
            cuts: 30,
            kills: 3,
            within: Duration::from_mins(1),
        }
    }
}

/// Bytes of every value, different for each recording; made piece by piece, some are large.
fn record(path: &Path, bytes: u64, dice: &Dice) -> String {
    use std::io::Write as _;
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    let mut hash = Sha256::new();
    let mut left = bytes;
    while left > 0 {
        let word = dice.roll(u64::MAX).to_le_bytes();
        let piece = word.repeat(8192);
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        file.write_all(&piece[..n]).unwrap();
        hash.update(&piece[..n]);
        left -= n as u64;
    }
    file.flush().unwrap();
    hex::encode(hash.finalize())
}

/// Names and content of a folder, by SHA-256, hidden and unfinished files too.
fn content(folder: &Path) -> BTreeMap<String, String> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let (_, sha256) = vmsync::vrl::folder::hash_file(&entry.path()).unwrap();
            (entry.file_name().into_string().unwrap(), sha256)
        })
        .collect()
}

/// Fills the backup: most recordings are short, a few are long, one is empty; some have side files, and
/// names are what users make of them.
fn fill(backup: &Backup, size: &Size, dice: &Dice) -> BTreeMap<String, String> {
    let mut expected = BTreeMap::new();
    let mut add = |name: String, bytes: u64| {
        let sha256 = record(&backup.folder().join(&name), bytes, dice);
        expected.insert(name, sha256);
    };
    for n in 0..size.recordings {
        let bytes = match n {
            0 => 0,
            1 => size.largest,
            n if n % 50 == 2 => size.largest / 10,
            n if n % 10 == 3 => size.largest.min(3_000_000) / 3,
            _ => dice.roll(300_000),
        };
        let name = match n % 5 {
            0 => format!("2026-11-23 {n:04} Jörg & Søn.wav"),
            1 => format!("通話-{n:04}.wav"),
            2 => format!("{n:04};v=1 'quoted' \"twice\" 100%.opus"),
            _ => format!("call-{n:04}.wav"),
        };
        if n % 7 == 4 {
            let stem = name.rsplit_once('.').unwrap().0;
            add(format!("{stem}.xml"), 200 + n);
            add(format!("{name}.json"), 100 + n);
        }
        add(name, bytes);
    }
    expected
}

/// Whose server, behind what address.
enum At {
    Embedded(Primary),
    Foreign(Server),
}

impl At {
    async fn start(software: Option<Software>, tls: Option<&Pem>) -> Option<Self> {
        let Some(software) = software else {
            let first = free_ports();
            let listener = TcpListener::bind(("127.0.0.1", first)).await.unwrap();
            let tls = tls.map(|pem| ServerTls {
                config: pem.server(),
                required: true,
            });
            let options = ServerOptions {
                min_free_bytes: 0,
                ..ServerOptions::default()
            };
            let passive = (first + 1, first + PORTS - 1);
            let primary = Primary::start_at(listener, passive, tls, options);
            return Some(Self::Embedded(primary));
        };
        Server::start(software, tls, &Options::default()).map(Self::Foreign)
    }

    fn backup(&self) -> (std::net::SocketAddr, Backup) {
        match self {
            Self::Embedded(primary) => (primary.address, Backup::of(primary)),
            Self::Foreign(server) => (
                server.address,
                Backup::moving_to(server.remote(VrlTls::Off), server.folder.clone()),
            ),
        }
    }

    /// Kills the server, and starts it again.
    fn kill(&mut self) {
        if let Self::Foreign(server) = self {
            server.restart();
        }
    }
}

/// How far the wall clock is ahead, milliseconds.
static AHEAD: AtomicU64 = AtomicU64::new(0);

fn jumping() -> Now {
    let now = vmsync::clock::now();
    Now {
        wall: UnixMillis(now.wall.0 + AHEAD.load(Ordering::Relaxed)),
        ..now
    }
}

/// Connections are cut at random bytes, the server is killed, the receiving node does not answer, the clock
/// jumps, and the mover is killed over and over.
async fn all_arrive(software: Option<Software>, encrypted: bool, seed: u64) {
    all_arrive_verified(software, encrypted, VrlVerify::Node, seed).await;
}

async fn all_arrive_verified(
    software: Option<Software>,
    encrypted: bool,
    verify: VrlVerify,
    seed: u64,
) {
    let size = size();
    let (dice, pem) = (Dice::new(seed), Pem::new());
    let tls = encrypted.then_some(&pem);
    let Some(mut at) = At::start(software, tls).await else {
        return;
    };
    let (server, mut backup) = at.backup();
    let cutter = Cutter::start(server, PORTS, size.cuts, 400_000, seed).await;
    backup.remote.host = cutter.address.ip().to_string();
    backup.now = jumping;
    backup.remote.verify = verify;
    if encrypted {
        backup.remote.tls = VrlTls::Required;
        backup.tls = Some(pem.client.clone());
    }
    let expected = fill(&backup, &size, &dice);
    let begun = vmsync::clock::now().mono;
    let took = || vmsync::clock::now().mono.saturating_sub(begun);
    let mut kills = 0;
    let (mut handle, mut stop) = backup.start_allowed();
    loop {
        tokio::time::sleep(Duration::from_millis(100 + dice.roll(200))).await;
        assert!(took() < size.within, "{:?}", handle.status());
        if kills < 4 * size.kills {
            kills += 1;
            match kills % 4 {
                0 => {
                    stop.cancel();
                    (handle, stop) = backup.start_allowed();
                }
                1 => at.kill(),
                2 => {
                    *backup.control.mood.lock().unwrap() = Mood::Unreachable;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    *backup.control.mood.lock().unwrap() = Mood::Honest;
                }
                _ => AHEAD.store(dice.roll(1 << 40), Ordering::Relaxed),
            }
            handle.kick();
        } else if handle.status().files_pending == 0 && backup.files().is_empty() {
            break;
        }
    }
    let there = content(&backup.control.folder);
    let cut = size.cuts - cutter.left();
    println!(
        "{software:?} encrypted={encrypted} {verify:?}: {} files, {cut} connections cut, {kills} kills and jumps, {:?}",
        there.len(),
        took()
    );
    for (name, sha256) in &expected {
        assert_eq!(there.get(name), Some(sha256), "{name}");
    }
    // A Pure-FTPd that is killed leaves what it alone knows the names of.
    let own = |name: &String| name.starts_with(".pureftpd-upload.");
    let more = there
        .keys()
        .filter(|n| !expected.contains_key(*n) && !own(n));
    let more: Vec<_> = more.collect();
    assert!(more.is_empty(), "more than once, or unfinished: {more:?}");
    assert!(cut > 0, "nothing was cut");
    assert!(backup.journal.records.lock().unwrap().is_empty());
}

#[tokio::test]
async fn all_arrive_at_the_embedded_server() {
    all_arrive(None, false, 1).await;
}

#[tokio::test]
async fn all_arrive_at_the_embedded_server_encrypted() {
    all_arrive(None, true, 2).await;
}

#[tokio::test]
async fn all_arrive_at_vsftpd() {
    all_arrive(Some(Software::Vsftpd), false, 3).await;
}

#[tokio::test]
async fn all_arrive_at_vsftpd_encrypted() {
    all_arrive(Some(Software::Vsftpd), true, 4).await;
}

#[tokio::test]
async fn all_arrive_at_pure_ftpd() {
    all_arrive(Some(Software::PureFtpd), false, 5).await;
}

#[tokio::test]
async fn all_arrive_at_pure_ftpd_encrypted() {
    all_arrive(Some(Software::PureFtpd), true, 6).await;
}

#[tokio::test]
async fn all_arrive_at_proftpd() {
    all_arrive(Some(Software::Proftpd), false, 7).await;
}

#[tokio::test]
async fn all_arrive_at_proftpd_encrypted() {
    all_arrive(Some(Software::Proftpd), true, 8).await;
}

/// Without a node at the other side: what the FTP server can tell is all there is.
#[tokio::test]
async fn all_arrive_where_proftpd_hashes_them() {
    all_arrive_verified(Some(Software::Proftpd), true, VrlVerify::Hash, 9).await;
}

#[tokio::test]
async fn all_arrive_where_they_are_read_back_from_vsftpd() {
    all_arrive_verified(Some(Software::Vsftpd), false, VrlVerify::ReadBack, 10).await;
}

#[tokio::test]
async fn all_arrive_where_the_embedded_server_hashes_them() {
    all_arrive_verified(None, true, VrlVerify::Hash, 11).await;
}
