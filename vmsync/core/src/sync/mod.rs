//! The sync session of one node toward its peer: what to mail next, and how far both are (R-SY-1, R-SY-5).
//!
//! ```text
//!   A                                           B
//!   │ hello   {session a, have, digest}       ─▶│  A's session is new: answer at once
//!   │◀─ hello   {session b, answers a, have…}   │
//!   │ status  {session a, answers b, have…}   ─▶│  both have exchanged what they hold: started
//!   │ operations 1..n {…}                     ─▶│  durable, applied, then 250
//!   │ operations n+1..m {…}                   ─▶│  on its way before the 250 to the last came
//!   │◀─ status  {…, have, digest}               │  equal vectors, equal digests: finished; quiet
//! ```
//!
//! Order: the shell tells the [`Session`] what happened (`local`, `heard`, `packed`, `sent`,
//! `failed`, `visible`, `differs`, `lacks`, `want`), then asks [`Session::poll`] until it gives `None`, and
//! comes again at [`Session::next_deadline`] or when something happens.
//!
//! | module | decides |
//! |---|---|
//! | `session` | what is believed of both nodes; inputs |
//! | `plan` | which mail is due, and when |
//! | `flight` | mails on their way |
//! | `seeding` | state for a peer that lacks what the log no longer has |
//! | `repair` | items and records where equal vectors have different digests, or audio is missing |
//! | `narrow` | finding the one operation or record that is refused, and going on without it |
//! | `probe` | numbered probes, end to end |
//! | `progress`, `eta` | how far each direction is, in the words of R-SY-5, and how long the rest takes |
//!
//! Guarantees:
//! - Operations flow only after `started`; losing sight of the peer begins a new session (R-FB-1).
//! - Only what is durable here is offered, and only a 250 or the peer's own word raises what the
//!   peer is believed to hold. A mail that was taken but whose 250 got lost is sent again; the
//!   receiver skips what it holds.
//! - At most [`WINDOW`] mails are under way, in order; the next is planned from where the last ends.
//! - A status is sent only when the peer would learn something from it, so the pair goes quiet
//!   (but for probes, where they are asked for).
//! - One operation that is refused for good is found by halving and then skipped, visibly; it never
//!   holds up the rest for longer than that takes.
//! - Mails may arrive twice, late, or from a session long gone: a head of an unknown session is
//!   answered, and the answer makes its sender correct us. A few mails later both agree. Who was
//!   made to forget what the peer has said asks for it again.
//!
//! Rejected: telling old sessions by time (clocks jump) or by a list of past nonces (a late first
//! mail would put the living session on it).

mod backoff;
mod eta;
mod flight;
mod narrow;
mod peer;
mod plan;
mod probe;
mod progress;
mod repair;
mod seeding;
mod session;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vmsync_config::words::{NodeId, Origin, UnixMillis, Vector};

use crate::wire::{Buckets, Head, Left, Seeding, VERSION};

pub use probe::ProbeView;
pub use session::Session;

/// Mails under way at once at most.
pub const WINDOW: usize = 4;
/// Operations in one mail at most, unless it is being narrowed down.
pub const BATCH: u64 = 4_000;

/// Names one mail from [`Session::poll`] to its [`Session::sent`] or [`Session::failed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(crate) u64);

/// What is durable in the store, read together.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Local {
    /// The vector.
    pub have: Vector,
    /// The digest at it.
    pub digest: String,
    /// Operations at or below are not in the log any more.
    pub floor: Vector,
    /// How far a seeding of this store by the peer has come.
    pub seeding: Option<Seeding>,
}

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
    /// Head: how far a seeding by the peer has come here.
    pub seeding: Option<Seeding>,
    /// Whether the head should carry the sums of the digest's buckets, read when it is written.
    pub buckets: bool,
    /// Head: what is left for the peer, as last told by [`Session::left`].
    pub left: Option<Left>,
    /// Head: a probe to be returned.
    pub probe: Option<u64>,
    /// Head: the peer's probe, returned.
    pub echo: Option<u64>,
    /// Head: the peer is to tell what it holds, whatever it has told before.
    pub asks: bool,
    /// The minor version the peer reads; what a later one added must not be used.
    pub minor: u32,
}

/// What a mail carries beside its head.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Nothing: the peer does not answer this session yet.
    Hello,
    /// Operations, as many as fit, from the front of each range. Tell what was really packed with
    /// [`Session::packed`].
    Operations {
        /// `(origin, after, upto)`: sequences above `after` to `upto`. In order of origin; never empty.
        ranges: Vec<(Origin, u64, u64)>,
        /// At most so many.
        most: u64,
        /// The first of them is refused for good, for this reason: only it, as a skip.
        skip: Option<String>,
    },
    /// The next step of a seeding: records after this key, in order, that bear a stamp beyond `lacking`.
    Seed {
        /// What the peer will hold when the seeding is through.
        upto: Vector,
        /// Go on after this entity; `None` = from the first.
        after: Option<String>,
        /// What the peer holds already.
        lacking: Vector,
        /// At most so many records.
        most: u64,
        /// The first of them is refused for good, for this reason: only it, quarantined, without
        /// its record.
        skip: Option<String>,
    },
    /// The items held in these buckets of the digest.
    Items {
        /// In ascending order; never empty.
        buckets: Vec<u8>,
    },
    /// The records of these entities, as held now.
    Records {
        /// In order; never empty.
        entities: Vec<String>,
        /// They were quarantined; with the 250 they no longer are.
        release: bool,
    },
    /// Nothing: the peer should know what is held here now.
    Status,
}

/// What was really put into a mail.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Load {
    /// The last operation of each origin in it, skipped ones included.
    pub upto: Vector,
    /// How many operations, or records.
    pub operations: u64,
    /// Bytes of the mail, about.
    pub bytes: u64,
    /// A seeding step reaches through this entity; `None` = it is the last step.
    pub through: Option<String>,
}

/// Why a mail was not taken, by what can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// A 4xx, a time-out, a broken connection: the same mail may be taken later.
    Passing,
    /// Refused for what the nodes are to each other (signature, name, version, TLS): all mails are,
    /// until somebody changes that.
    Setup,
    /// Refused for what is in it, or it can't be put together.
    Content,
}

impl Plan {
    /// The head of this mail. `from` is the store's origin now; `buckets` the sums, where asked for.
    pub fn head(
        &self,
        id: Uuid,
        from: Origin,
        to: NodeId,
        sent_at: UnixMillis,
        buckets: Option<Buckets>,
    ) -> Head {
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
            seeding: self.seeding.clone(),
            buckets,
            left: self.left,
            probe: self.probe,
            echo: self.echo,
            asks: self.asks,
            extra: std::collections::BTreeMap::new(),
        }
    }
}

/// Something the shell must act on or report. Drain with [`Session::next_event`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Both nodes have exchanged what they hold (R-FB-1).
    Started {
        /// What this node held when the peer's session was first heard of.
        ours: Vector,
        /// What the peer held then.
        theirs: Vector,
    },
    /// Both hold the same: equal vectors, equal digests.
    Finished,
    /// Equal vectors, different digests: alarm; the states were damaged or merged differently.
    /// They are being repaired.
    Diverged,
    /// The peer refuses this operation for good: it is being skipped.
    Skipping {
        /// Its origin.
        origin: Origin,
        /// Its number.
        seq: u64,
        /// The peer's words.
        why: String,
    },
    /// The peer lacks what this store's log no longer has: it is being sent the state itself.
    Seeding {
        /// What it will hold then.
        upto: Vector,
    },
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
    /// Bytes of them, audio included, as far as known.
    pub bytes: u64,
    /// How long that will take at the pace of the last seconds; `None` = not known, or nothing.
    pub rest: Option<Duration>,
    /// A seeding under way has come this far; an entity, or empty at its beginning.
    pub seeding: Option<String>,
    /// Since when (monotonic) and why it is stalled.
    pub stalled: Option<(Duration, String)>,
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
