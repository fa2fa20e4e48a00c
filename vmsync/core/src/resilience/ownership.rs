//! Ownership between the nodes: whose record wins when they meet, and who answers meanwhile.

use std::time::Duration;

use vmsync_config::{
    Group,
    words::{NodeId, UnixMillis},
};

use super::Ownership;

/// No pair gets here by failing over; a record beyond it is damage, and would end the counting.
/// Also the largest integer JSON numbers carry exactly (RFC 8259 section 6).
const EPOCH_LIMIT: u64 = (1 << 53) - 1;

impl Ownership {
    /// A group nothing has happened to yet: its home owns it.
    pub fn initial(group: &Group, since: UnixMillis) -> Self {
        Self {
            group: group.name.clone(),
            epoch: 0,
            owner: group.home.clone(),
            since,
            reason: "normal operation".to_owned(),
            held: false,
            row: None,
            failovers: Vec::new(),
            order: None,
        }
    }
}

/// What to take over, durably, when the peer's record is heard; `None` = mine stands.
///
/// The higher epoch wins. Equal epochs with different owners can't come from this machine (only the
/// group's backup raises epochs), but from an operator who restored or copied a data folder: the
/// home wins, under the next epoch and with a reason that says so, the same on both nodes. A record
/// of another group, of a node outside the group, or beyond any real epoch is ignored.
pub fn adopt(group: &Group, mine: &Ownership, theirs: &Ownership) -> Option<Ownership> {
    let sound = theirs.group == group.name
        && theirs.epoch < EPOCH_LIMIT
        && (theirs.owner == group.home || theirs.owner == group.backup);
    if !sound || theirs.epoch < mine.epoch {
        return None;
    }
    if theirs.epoch > mine.epoch {
        return Some(theirs.clone());
    }
    if theirs.owner != mine.owner {
        return Some(settled(group, mine, theirs));
    }
    // Within an epoch `held` only ever ends, so both nodes agree whoever speaks last.
    (mine.held && !theirs.held).then(|| theirs.clone())
}

fn settled(group: &Group, mine: &Ownership, theirs: &Ownership) -> Ownership {
    Ownership {
        group: group.name.clone(),
        epoch: mine.epoch.saturating_add(1),
        owner: group.home.clone(),
        since: mine.since.max(theirs.since),
        reason: format!(
            "{} and {} both owned group {} in epoch {}, as after a data folder was restored or copied; its home takes it",
            group.home, group.backup, group.name, mine.epoch
        ),
        held: false,
        row: None,
        failovers: Vec::new(),
        order: None,
    }
}

/// Whether a node answers requests of a group itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serving {
    /// It owns the group.
    Yes,
    /// It doesn't, but the owner is out of sight: answering beats silence (R-FO-6, api.md 307 rule).
    YesPartition,
    /// Ask the owner.
    No {
        /// Who serves.
        owner: NodeId,
    },
    /// Just started: it first asks its peer who owns the group (503 with Retry-After).
    Starting,
    /// It can't know that nobody else serves, and consistency was put first (503).
    Isolated {
        /// Who owned the group last, as far as is known here.
        owner: NodeId,
    },
}

/// What decides whether a node answers for a group.
#[derive(Debug, Clone, Copy)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts, each as it is"
)]
pub struct Place<'a> {
    /// This node.
    pub me: &'a NodeId,
    /// Of the group.
    pub ownership: &'a Ownership,
    /// The peer answers questions and owns the group by its own word: callers can be sent there and
    /// are not sent back.
    pub peer_answers: bool,
    /// It gives any sign of life.
    pub peer_visible: bool,
    /// [`Startup::done`]: until the peer was asked, a node must not serve what it owned last, for
    /// the peer may have taken it over since.
    pub started: bool,
    /// The switch `resilience.answering_beats_consistency`, on by default.
    pub answering_first: bool,
    /// As [`super::View::witness`].
    pub witness: Option<bool>,
}

/// Whether a node serves.
///
/// With `answering_first` a caller is never left without an answer, at the price that in a
/// partition both nodes answer, and what both took is merged afterwards. Without it a node that
/// can't see the owner doesn't answer for it, and an owner that sees neither its peer nor the
/// witness falls silent, before the peer may take the group over.
pub fn serves(place: Place<'_>) -> Serving {
    let owner = &place.ownership.owner;
    let cut_off = !place.peer_visible && place.witness == Some(false);
    if !place.started {
        Serving::Starting
    } else if owner == place.me {
        if cut_off && !place.answering_first {
            Serving::Isolated {
                owner: owner.clone(),
            }
        } else {
            Serving::Yes
        }
    } else if place.peer_answers {
        Serving::No {
            owner: owner.clone(),
        }
    } else if place.answering_first {
        Serving::YesPartition
    } else {
        Serving::Isolated {
            owner: owner.clone(),
        }
    }
}

/// The wait of a starting node for its peer's word (architecture decision 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Startup {
    alone_at: Duration,
    heard: bool,
}

impl Startup {
    /// Starts waiting at `now` (monotonic), at most `grace`.
    pub fn new(now: Duration, grace: Duration) -> Self {
        Self {
            alone_at: now.saturating_add(grace),
            heard: false,
        }
    }

    /// The peer has told its ownership records, and they were adopted where they won.
    pub fn heard(&mut self) {
        self.heard = true;
    }

    /// Whether this node may serve: it has heard its peer, or is alone for the whole grace.
    pub fn done(&self, now: Duration) -> bool {
        self.heard || now >= self.alone_at
    }

    /// When the grace ends, if still waiting.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        (!self.done(now)).then_some(self.alone_at)
    }
}
