//! How much memory all mails being received may take together.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The common budget, bytes.
#[derive(Debug)]
pub(super) struct Room {
    used: AtomicUsize,
    limit: usize,
}

/// One connection's share; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    room: Arc<Room>,
    bytes: usize,
}

impl Room {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            limit,
        })
    }
}

impl Share {
    pub(super) fn new(room: Arc<Room>) -> Self {
        Self { room, bytes: 0 }
    }

    /// Makes the share `bytes` large. False, and nothing changed, where there isn't so much left.
    pub(super) fn resize(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let less = self.bytes.saturating_sub(bytes);
        let fits = self
            .room
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                let used = used.saturating_sub(less).checked_add(more)?;
                (more == 0 || used <= self.room.limit).then_some(used)
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
        let room = Room::new(100);
        let mut a = Share::new(room.clone());
        let mut b = Share::new(room.clone());
        assert!(a.resize(60) && b.resize(40) && !b.resize(41));
        assert!(a.resize(10) && b.resize(90));
        drop(b);
        assert!(a.resize(100));
        drop(a);
        assert_eq!(room.used.load(Ordering::Relaxed), 0);
    }
}
