//! How much memory all mails being received may take together.
//!
//! A connection claims what its mail takes: what is held of it, or what was announced where that is more;
//! from the last byte to the answer, all of it; and what was read of a further mail meanwhile. Up to 64 KiB
//! a connection of commands and the like are not counted. A part of the room is kept for the
//! peer: however many mails PBXs send, replication goes on.
//!
//! Not counted either: what TLS and the kernel buffer (some tens of KiB a connection, and the socket's
//! receive buffer), and copies the handler makes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The common budget, bytes.
#[derive(Debug)]
pub(super) struct Room {
    used: AtomicUsize,
    /// For everybody.
    limit: usize,
    /// For the peer.
    whole: usize,
}

/// One connection's share; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    room: Arc<Room>,
    bytes: usize,
    of_peer: bool,
}

impl Room {
    /// Room for `limit` bytes, and `reserve` more for the peer alone.
    pub(super) fn new(limit: usize, reserve: usize) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            limit,
            whole: limit.saturating_add(reserve),
        })
    }
}

impl Share {
    pub(super) fn new(room: Arc<Room>) -> Self {
        Self {
            room,
            bytes: 0,
            of_peer: false,
        }
    }

    /// It is the peer's: the reserve is open to it.
    pub(super) fn favour(&mut self) {
        self.of_peer = true;
    }

    /// Makes the share `bytes` large. False, and nothing changed, where there isn't so much left.
    pub(super) fn resize(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let less = self.bytes.saturating_sub(bytes);
        let limit = if self.of_peer {
            self.room.whole
        } else {
            self.room.limit
        };
        let fits = self
            .room
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                let used = used.saturating_sub(less).checked_add(more)?;
                (more == 0 || used <= limit).then_some(used)
            })
            .is_ok();
        if fits {
            self.bytes = bytes;
        }
        fits
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_fit_into_the_room_and_are_given_back() {
        let room = Room::new(100, 50);
        let mut a = Share::new(room.clone());
        let mut b = Share::new(room.clone());
        assert!(a.resize(60) && b.resize(40) && !b.resize(41));
        assert!(a.resize(10) && b.resize(90));
        drop(b);
        assert!(a.resize(100));
        let mut peer = Share::new(room.clone());
        assert!(!peer.resize(1));
        peer.favour();
        assert!(peer.resize(50) && !peer.resize(51));
        drop((a, peer));
        assert_eq!(room.used.load(Ordering::Relaxed), 0);
    }
}
