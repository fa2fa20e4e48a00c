//! Who serves a group: the resilience machine (R-FO, R-FB) as a table of rows.
//!
//! ```text
//!            home invisible               a row fires (failover, epoch + 1)
//!   normal ◀───────────────▶ pending ─────────────────────────▶ resilience
//!      ▲ └── operator, home still visible ──┐                       ▲ │
//!      │                                    ▼     home lost / seen  │ ▼
//!      └──────────── a row fires ────────── returning ◀────────────────┘
//!                 (failback, epoch + 1)
//! ```
//!
//! Order: [`Machine::decide`] derives the [`Phase`] from the durable [`Ownership`] and what is seen
//! now, passes the gate of that direction ([`rows::FAILOVER_GATE`] R-TO-6, [`rows::FAILBACK_GATE`]
//! R-FB-1), without an operator also [`rows::UNATTENDED_GATE`] (maintenance mode), and then tries the
//! [`rows::ROWS`] from top to bottom. The caller makes the new ownership durable *before* acting on it.
//!
//! Guarantees (docs/decisions/0007-ownership.md): a group's epochs are only ever raised by its
//! backup node, so one failover and its failback can't race; epochs only grow; nothing goes home
//! before both nodes have exchanged what they hold; no failback timer runs beyond 60 minutes.
//! Every function here is pure; deciding without applying is the dry run.

mod colour;
mod conditions;
mod evidence;
mod explain;
mod machine;
mod order;
mod ownership;
pub mod rows;
mod visibility;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmsync_config::{
    FailbackPolicy, Trigger,
    words::{GroupName, NodeId, UnixMillis},
};

pub use colour::{Colour, Link, colour};
pub(crate) use conditions::in_words;
pub use conditions::{Condition, Sight};
pub use evidence::{PhoneEvidence, PhoneKind, Registration, Verdict};
pub use explain::{Format, explain};
pub use machine::{Decision, HoldOff, Machine, Refused};
pub use order::{Closed, Doing, Hearing, LATE, Order, Pursuit, Standing, What};
pub use ownership::{Place, Serving, Startup, adopt, serves};
pub use visibility::{Lost, Sign, Visibility};

/// No failback timer runs longer, whatever was loaded (R-FB-5).
pub const TIMEOUT_CAP: Duration = Duration::from_hours(1);

/// Who owns a group; durable on both nodes (architecture decision 2). The higher epoch wins when nodes meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    /// Which group.
    pub group: GroupName,
    /// Raised by each failover and failback; only grows. 0 = nothing has ever happened.
    pub epoch: u64,
    /// The node that serves.
    pub owner: NodeId,
    /// Since when.
    pub since: UnixMillis,
    /// The *because* of the row that led here, with the operator's own words where given.
    pub reason: String,
    /// The backup was activated while the home was visible: failback waits for an administrator,
    /// or for the home to go away and come back (R-FB-1: visible *again*). Without it the policy
    /// would undo *Activate Backup Server* (R-FO-4) at once. Cleared within its epoch, never set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// The row that fired ([`rows::Row::id`]); `None` = settled between the nodes, or of an older release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<String>,
    /// When the backup took over without an operator, by its own wall clock, oldest first: those of
    /// the last [`FLAP_WINDOW`]. Flap damping counts them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failovers: Vec<UnixMillis>,
    /// The order ([`Order::id`]) that was carried out with this, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
}

/// Where a group stands, derived from ownership and what is seen now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Home serves and is visible.
    Normal,
    /// Home serves but is invisible: inside the timer or waiting for a phone.
    Pending,
    /// Backup serves, home invisible.
    Resilience,
    /// Backup serves, home visible: waiting for what failback needs.
    Returning,
}

impl Phase {
    /// The name in JSON and diagrams.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Pending => "pending",
            Self::Resilience => "resilience",
            Self::Returning => "returning",
        }
    }
}

/// What one node knows when it decides about one group.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// This node.
    pub me: NodeId,
    /// Since when the peer is visible (`Ok`) or invisible (`Err`), monotonic.
    pub peer: Result<Duration, Duration>,
    /// Desk phones of the home that count as evidence ([`PhoneEvidence::desk_phones`]).
    pub desk_phones: u32,
    /// Since when both have exchanged what they hold, monotonic; `None` = not since the home was
    /// last seen to come back (R-FB-1).
    pub sync_started: Option<Duration>,
    /// Equal vectors and digests (R-FB-3).
    pub sync_finished: bool,
    /// Operations still to be exchanged, both directions; only for words.
    pub pending_operations: u64,
    /// Active calls of this group on the backup. Calls without sign of life don't count (R-FB-8).
    pub calls: u32,
    /// Whether heartbeats pass between the nodes, in either direction ([`Visibility::speaks`]). A home
    /// of which only the mail server lives can't be told that it owns the group.
    pub speaks: bool,
    /// Whether the witness is seen from here; `None` = none is configured.
    pub witness: Option<bool>,
}

impl View {
    /// The view of a node that has just started: nothing seen of the peer since `since`.
    pub fn new(me: NodeId, since: Duration) -> Self {
        Self {
            me,
            peer: Err(since),
            desk_phones: 0,
            sync_started: None,
            sync_finished: false,
            pending_operations: 0,
            calls: 0,
            speaks: false,
            witness: None,
        }
    }
}

/// Rules in force for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// R-TO-6.
    pub backs_up_voicemail: bool,
    /// R-FO-1, R-FO-2.
    pub trigger: Trigger,
    /// R-FO-1.
    pub failover_after: Duration,
    /// R-FB-2 to R-FB-4.
    pub policy: FailbackPolicy,
    /// R-FB-5; capped at [`TIMEOUT_CAP`] here too.
    pub timeout: Duration,
    /// R-FB-7; capped at [`TIMEOUT_CAP`] as well, for it delays the automatic failback.
    pub stable_for: Duration,
    /// Flap damping: how long a home must stay visible once [`FLAPS`] failovers without an operator
    /// fell into [`FLAP_WINDOW`]; twice as long for each further one, at most [`TIMEOUT_CAP`]. Zero = off.
    pub hold_off: Duration,
    /// Maintenance mode: nothing is decided without an operator.
    pub maintenance: Option<Maintenance>,
}

/// Failovers without an operator within [`FLAP_WINDOW`] that make a home a flapping one.
pub const FLAPS: usize = 3;
/// The time in which they are counted.
pub const FLAP_WINDOW: Duration = Duration::from_hours(1);

/// Maintenance mode, replicated as a setting: automatic decisions pause, operators' go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintenance {
    /// Since when.
    pub since: UnixMillis,
    /// It ends by itself then; `None` = when an operator ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixMillis>,
    /// The operator's words; at most 200 characters.
    pub reason: String,
    /// The node where it was begun.
    pub by: NodeId,
}

impl Maintenance {
    /// Whether it is still on.
    pub fn is_on(&self, now: UnixMillis) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// Completes "waiting for …".
    pub(crate) fn waits_for(&self) -> String {
        let end = match self.until {
            Some(until) => format!("maintenance mode to end, at {until} at the latest"),
            None => "an operator to end maintenance mode".to_owned(),
        };
        match self.reason.as_str() {
            "" => end,
            reason => format!("{end} ({reason})"),
        }
    }
}

/// What an operator may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// *Activate Backup Server* (R-FO-4).
    ActivateBackup,
    /// Failback under any policy (R-FB-6), ahead of its conditions; R-FB-1 always holds.
    Failback {
        /// Even with calls active: they are finished where they are.
        force: bool,
    },
}

/// A request as it came in over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// What.
    pub request: Request,
    /// Refused when another node owns the group by now: two operators don't undo one another.
    pub expected_owner: Option<NodeId>,
    /// The operator's words; cut to 200 characters, control characters dropped.
    pub reason: Option<String>,
}

impl From<Request> for Ask {
    fn from(request: Request) -> Self {
        Self {
            request,
            expected_owner: None,
            reason: None,
        }
    }
}
