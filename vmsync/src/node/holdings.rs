//! What the peer is known to hold, also while it is away: what it lacks is told (`single_copies`,
//! `copies`, what is pending) exactly when it can't be asked. Kept durably, seldom, for a node
//! that starts alone.
//!
//! An older word than the last only makes more of what the peer lacks, never less.

use std::time::Duration;

use vmsync_config::words::Vector;
use vmsync_store::{Store, StoreError};

const SPACE: &str = "peer";
const HAVE: &str = "have";
/// Longest time between a change and its record; most operations until then.
const KEEP_EVERY: Duration = Duration::from_mins(1);
const KEEP_AFTER: u64 = 1_000;

/// What the peer is known to hold.
#[derive(Debug, Default)]
pub(super) struct PeerHolds {
    have: Vector,
    kept: Vector,
    keep_at: Duration,
}

impl PeerHolds {
    /// As kept by an earlier life of this node; nothing where it never heard of the peer.
    pub(super) fn load(store: &Store) -> Result<Self, StoreError> {
        let bytes = store.local(SPACE, HAVE)?;
        let read = bytes.and_then(|b| serde_json::from_slice::<Vector>(&b).ok());
        let have = read.unwrap_or_default();
        Ok(Self {
            kept: have.clone(),
            have,
            keep_at: Duration::ZERO,
        })
    }

    /// What it holds, in its own words and our 250s, as of now. It may be less than before: its
    /// disk was replaced.
    pub(super) fn hear(&mut self, have: &Vector) {
        if self.have != *have {
            self.have.clone_from(have);
        }
    }

    pub(super) fn have(&self) -> &Vector {
        &self.have
    }

    /// What is to be kept now (monotonic), if anything; once the peer is out of sight, at once.
    pub(super) fn due(&mut self, now: Duration, in_sight: bool) -> Option<Vector> {
        let many = self.have.ahead_of(&self.kept) >= KEEP_AFTER;
        let late = !in_sight || many || now >= self.keep_at;
        if self.have == self.kept || !late {
            return None;
        }
        self.keep_at = now.saturating_add(KEEP_EVERY);
        self.kept.clone_from(&self.have);
        Some(self.have.clone())
    }

    pub(super) fn keep(store: &Store, have: &Vector) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(have).map_err(|e| StoreError::Invalid(e.to_string()))?;
        store.put_local(SPACE, HAVE, Some(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(seq: u64) -> Vector {
        [("vmpro1.00000001".parse().unwrap(), seq)]
            .into_iter()
            .collect()
    }

    #[test]
    fn it_is_kept_at_once_then_seldom_and_after_many_operations() {
        let second = Duration::from_secs(1);
        let mut peer = PeerHolds::default();
        assert_eq!(peer.due(second, true), None, "nothing is known");
        peer.hear(&holds(1));
        assert_eq!(peer.due(second, true), Some(holds(1)));
        peer.hear(&holds(2));
        assert_eq!(peer.due(2 * second, true), None);
        assert_eq!(peer.due(61 * second, true), Some(holds(2)));
        assert_eq!(peer.due(62 * second, false), None, "nothing new");
        peer.hear(&holds(1_001));
        assert_eq!(peer.due(63 * second, true), None);
        peer.hear(&holds(1_002));
        assert_eq!(peer.due(64 * second, true), Some(holds(1_002)));
        peer.hear(&holds(1_003));
        assert_eq!(peer.due(65 * second, true), None);
        assert_eq!(peer.due(66 * second, false), Some(holds(1_003)), "it went");
    }

    #[test]
    fn a_node_that_starts_alone_knows_what_its_peer_held() {
        let folder = tempfile::tempdir().unwrap();
        let options = vmsync_store::Options {
            node: "vmpro1".parse().unwrap(),
            min_free_bytes: 0,
            clock: || vmsync_config::words::UnixMillis(1_700_000_000_000),
        };
        let store = Store::open(folder.path(), options).unwrap();
        let none = PeerHolds::load(&store).unwrap();
        assert_eq!(*none.have(), Vector::default());
        PeerHolds::keep(&store, &holds(7)).unwrap();
        let mut peer = PeerHolds::load(&store).unwrap();
        assert_eq!(*peer.have(), holds(7));
        assert_eq!(peer.due(Duration::ZERO, false), None, "it is kept already");
    }
}
