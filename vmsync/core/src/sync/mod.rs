//! The sync session of one node toward its peer: what to mail next, and how far both are (R-SY-1, R-SY-5).
//!
//! ```text
//!   A                                           B
//!   │ hello   {session a, have, digest}       ─▶│  A's session is new: answer at once
//!   │◀─ hello   {session b, answers a, have…}   │
//!   │ status  {session a, answers b, have…}   ─▶│  both have exchanged what they hold: started
//!   │ operations 1..n {…}                     ─▶│  durable, applied, then 250
//!   │◀─ status  {…, have, digest}               │  equal vectors, equal digests: finished; quiet
//! ```
//!
//! Order: the shell tells the [`Session`] what happened (`local`, `heard`, `packed`, `sent`,
//! `failed`, `visible`), then asks [`Session::poll`] until it gives `None`, and comes again at
//! [`Session::next_deadline`] or when something happens.
//!
//! Guarantees:
//! - Operations flow only after `started`; losing sight of the peer begins a new session (R-FB-1).
//! - Only what is durable here is offered, and only a 250 or the peer's own word raises what the
//!   peer is believed to hold. A mail that was taken but whose 250 got lost is sent again; the
//!   receiver skips what it holds.
//! - A status is sent only when the peer would learn something from it, so the pair goes quiet.
//! - Mails may arrive twice, late, or from a session long gone: a head of an unknown session is
//!   answered, and the answer makes its sender correct us. A few mails later both agree.
//!
//! Rejected: telling old sessions by time (clocks jump) or by a list of past nonces (a late first
//! mail would put the living session on it).

mod backoff;
mod peer;
mod progress;
mod session;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vmsync_config::words::{NodeId, Origin, UnixMillis, Vector};

use crate::wire::{Head, VERSION};

pub use session::Session;

/// Mails in flight at once. Ranges are planned past what is in flight, so it can be raised.
pub const WINDOW: usize = 1;

/// Names one mail from [`Session::poll`] to its [`Session::sent`] or [`Session::failed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(crate) u64);

/// A mail to send now.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Hand it back with the outcome, exactly once, whatever it was.
    pub ticket: Ticket,
    /// What to put in.
    pub kind: Kind,
    /// Head: own session nonce.
    pub session: u64,
    /// Head: the peer's session nonce as last heard.
    pub answers: Option<u64>,
    /// Head: what is held durably here.
    pub have: Vector,
    /// Head: the digest at `have`.
    pub digest: String,
}

/// What a mail carries beside its head.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Nothing: the peer does not answer this session yet.
    Hello,
    /// Operations `(origin, after, upto)`: sequences above `after` to `upto`, as many as fit from
    /// the front of each range. Tell what was really packed with [`Session::packed`].
    Operations {
        /// In order of origin; never empty.
        ranges: Vec<(Origin, u64, u64)>,
    },
    /// Nothing: the peer should know what is held here now.
    Status,
}

impl Plan {
    /// The head of this mail. `from` is the store's origin now.
    pub fn head(&self, id: Uuid, from: Origin, to: NodeId, sent_at: UnixMillis) -> Head {
        Head {
            version: VERSION.to_owned(),
            id,
            from,
            to,
            session: self.session,
            answers: self.answers,
            have: self.have.clone(),
            digest: self.digest.clone(),
            sent_at,
            seeding: None,
            buckets: None,
            left: None,
            probe: None,
            echo: None,
            extra: std::collections::BTreeMap::new(),
        }
    }
}

/// Something the shell must act on or report. Drain with [`Session::next_event`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Both nodes have exchanged what they hold (R-FB-1).
    Started,
    /// Both hold the same: equal vectors, equal digests.
    Finished,
    /// Equal vectors, different digests: alarm; the states were damaged or merged differently.
    Diverged,
    /// The peer holds operations of `origin` beyond `held`, which this store has forgotten: it was
    /// restored from an old copy. Call `store.new_incarnation()`, then [`Session::rename`], before
    /// anything else is written.
    PeerKnowsMore {
        /// Our current origin.
        origin: Origin,
        /// Last sequence held here.
        held: u64,
        /// Last sequence held by the peer.
        theirs: u64,
    },
}

/// R-SY-5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncState {
    /// Never spoken since start.
    Idle,
    /// Both have exchanged what they hold; nothing is under way in this direction.
    Started,
    /// Operations are under way.
    Syncing,
    /// Both hold the same.
    Finished,
    /// No progress; [`Direction::stalled`] says since when and why.
    Stalled,
}

/// One direction of the synchronisation, for people (R-SY-5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Direction {
    /// Its state.
    pub state: SyncState,
    /// Operations one side holds and the other lacks, as far as known.
    pub pending: u64,
    /// Since when (monotonic) and why it is stalled.
    pub stalled: Option<(std::time::Duration, String)>,
}

/// The last time both nodes were seen to hold the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// When, by this node's wall clock.
    pub at: UnixMillis,
    /// What both held.
    pub vector: Vector,
    /// The digest both had.
    pub digest: String,
}
