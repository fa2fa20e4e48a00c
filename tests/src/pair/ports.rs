//! Ports that stay a test's own while its nodes are down.
//!
//! Below the range from which the system takes ports for outgoing connections (32768 and up), so
//! that no connection takes the port of a node that is about to be started again; kept apart
//! between test processes by locked files.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

/// Ports of one pair: the demo takes five, a witness one, the lines between its nodes four.
const EACH: u16 = 12;
const FIRST: u16 = 20_000;
const BLOCKS: u16 = 1_000;
/// The port of a witness in a block.
const WITNESS: u16 = 6;
/// Where the ports of the lines begin in a block.
const LINES: u16 = 8;

/// A block of ports, held until dropped.
pub struct Ports {
    /// The first.
    pub base: u16,
    _lock: File,
}

impl Ports {
    /// Takes a block that nobody uses.
    pub fn reserve() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let dir = std::env::temp_dir().join("vmsync-test-ports");
        if let Err(e) = std::fs::create_dir_all(&dir) {
            panic!("{}: {e}", dir.display());
        }
        let start = u16::try_from(std::process::id() % u32::from(BLOCKS)).unwrap_or(0);
        for _ in 0..BLOCKS {
            let block = (start + NEXT.fetch_add(1, Ordering::Relaxed) % BLOCKS) % BLOCKS;
            let base = FIRST + block * EACH;
            let Ok(lock) = File::create(dir.join(base.to_string())) else {
                continue;
            };
            if lock.try_lock().is_ok() && free(base) {
                return Self { base, _lock: lock };
            }
        }
        panic!(
            "no free block of {EACH} ports between {FIRST} and {}",
            FIRST + BLOCKS * EACH
        )
    }
}

impl Ports {
    /// A port that the demo leaves free.
    pub(super) fn witness(&self) -> u16 {
        self.base + WITNESS
    }

    /// Four ports that the demo leaves free.
    pub(super) fn lines(&self) -> [u16; 4] {
        [0, 1, 2, 3].map(|n| self.base + LINES + n)
    }
}

fn free(base: u16) -> bool {
    (base..base + EACH).all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
}
