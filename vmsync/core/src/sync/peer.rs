//! What is known of the peer in its present session.

use std::time::Duration;

use vmsync_config::words::{UnixMillis, Vector};

use crate::wire::{Head, Left, Seeding};

/// A vector and the digest of the state at it.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Held {
    pub(super) have: Vector,
    pub(super) digest: String,
}

impl Held {
    pub(super) fn same_operations(&self, other: &Self) -> bool {
        self.have.covers(&other.have) && other.have.covers(&self.have)
    }
}

/// What is known of the peer in its present session.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) nonce: u64,
    /// It has answered our session, so it holds our vector.
    pub(super) knows_us: bool,
    /// Best knowledge: its word and our 250s.
    pub(super) have: Vector,
    /// Its own last word, vector and digest together.
    pub(super) said: Held,
    said_at: UnixMillis,
    /// The minor version it reads.
    pub(super) minor: u32,
    /// How far our seeding of it has come: its word, and our 250s to steps that follow on it.
    pub(super) seeding: Option<Seeding>,
    /// When the last step got its 250 (monotonic).
    pub(super) seeded: Option<Duration>,
    /// What it still has for us.
    pub(super) left: Option<Left>,
}

impl Peer {
    /// Met by `head`, of which nothing but the session is taken yet.
    pub(super) fn new(head: &Head) -> Self {
        Self {
            nonce: head.session,
            knows_us: false,
            have: Vector::default(),
            said: Held::default(),
            said_at: UnixMillis::default(),
            minor: head.minor(),
            seeding: None,
            seeded: None,
            left: None,
        }
    }

    /// The entity through which it has the state of a seeding that leads to `upto`.
    pub(super) fn seeded_through(&self, upto: &Vector) -> Option<&str> {
        let seeding = self.seeding.as_ref().filter(|s| s.upto == *upto)?;
        seeding.after.as_deref()
    }

    /// Takes the peer's word, unless it is older than what it said before in this session.
    /// `steps_under_way`: what it says of our seeding is behind what we know.
    ///
    /// Of two words at one vector its clock tells which is the newer, and that may have been set
    /// back. So one that says what is held here (`ours`) counts whatever its time is: else the
    /// end of a quarantine or a repair, which moves no vector, would not be heard. Should it have
    /// been a late mail after all, the peer still sees the difference and tells its sums again. And
    /// should the other be the late one, this side does, and asks (`Plan::asks`).
    pub(super) fn hear(&mut self, head: &Head, ours: &Held, steps_under_way: bool) {
        self.have.merge(&head.have);
        let word = Held {
            have: head.have.clone(),
            digest: head.digest.clone(),
        };
        let newer = word.have.covers(&self.said.have)
            && (!word.same_operations(&self.said)
                || head.sent_at >= self.said_at
                || (word.digest == ours.digest && word.same_operations(ours)));
        if newer {
            self.said = word;
            self.said_at = head.sent_at;
            self.minor = head.minor();
            self.left = head.left;
            if !steps_under_way {
                self.seeding.clone_from(&head.seeding);
            }
        }
    }
}
