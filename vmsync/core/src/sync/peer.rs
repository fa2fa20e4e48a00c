//! What is known of the peer in its present session.

use vmsync_config::words::{UnixMillis, Vector};

use crate::wire::Head;

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
        }
    }

    /// Takes the peer's word, unless it is older than what it said before in this session.
    pub(super) fn hear(&mut self, head: &Head) {
        self.have.merge(&head.have);
        let word = Held {
            have: head.have.clone(),
            digest: head.digest.clone(),
        };
        let newer = word.have.covers(&self.said.have)
            && (!word.same_operations(&self.said) || head.sent_at >= self.said_at);
        if newer {
            self.said = word;
            self.said_at = head.sent_at;
        }
    }
}
