//! The other resilience features (table of other features): users, hunt groups, conferences,
//! phones, DECT, DECT master and portal of each system. The pair decides and publishes; PBXs act.
//!
//! The same machine as for voicemail ([`crate::resilience`]) with other parameters: the same four
//! [`Phase`]s, derived from a durable [`Standing`] and what is seen now; rows whose conditions can
//! be tested, said in words and dated; a *because* for every transition. What differs from feature
//! to feature is one table, [`parameters::ROWS`].
//!
//! Order: signs of life, polls and registrations go into the [`Tracker`]; [`Tracker::decide`] looks
//! at the systems they touched and at those whose deadline has come, and nothing else; the caller
//! makes what changed durable, hands it back ([`Tracker::take`]), and only then publishes it.
//!
//! Guarantees: epochs only grow; nothing goes home before its home was visible for the whole stable
//! time; softphones, DECT and WebRTC never bring phones over; a sign of life costs one look-up,
//! whatever the number of systems; memory is bounded by the configuration. Where a node can't know
//! (it has just started), what serves goes on serving.

mod conditions;
mod decide;
pub mod parameters;
mod phones;
mod signs;
mod system;
mod tracker;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use vmsync_config::words::{NodeId, SystemName, UnixMillis};

pub use vmsync_config::{Feature, Features as Timers, Location, Return};

pub use crate::resilience::Phase;
pub use conditions::{Condition, Sight};
pub use decide::{Outlook, Refused, decide};
pub use phones::{Advice, Away, PhoneView, Registration};
pub use signs::{Seen, Subject};
pub use system::SystemView;
pub use tracker::{Decided, Heard, Keep, Limits, Tracker};

/// One PBX as the tracker knows it: the configuration's, with the home that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// Its name.
    pub name: SystemName,
    /// The node it stands at.
    pub home: NodeId,
    /// The system that takes over for it.
    pub backup: Option<SystemName>,
    /// The node that decides about it: the one its backup stands at. `None` = nothing is to be decided.
    pub decider: Option<NodeId>,
    /// What the backup takes over; nothing else ever fails over.
    pub backed_up: Vec<Feature>,
    /// How its phones go home.
    pub phone_failback: Return,
    /// Whether DECT goes home by itself.
    pub prioritize_primary: bool,
    /// How its portal goes home.
    pub portal_failback: Return,
}

impl Setup {
    /// All configured systems.
    pub fn all(systems: &[vmsync_config::System]) -> Vec<Self> {
        let homes: HashMap<_, _> = systems.iter().map(|s| (&s.name, &s.home)).collect();
        let setups = systems.iter().map(|system| Self {
            name: system.name.clone(),
            home: system.home.clone(),
            backup: system.backup.clone(),
            decider: system
                .backup
                .as_ref()
                .and_then(|b| homes.get(b))
                .map(|home| (*home).clone()),
            backed_up: system.backed_up.clone(),
            phone_failback: system.phone_failback,
            prioritize_primary: system.prioritize_primary,
            portal_failback: system.portal_failback,
        });
        setups.collect()
    }

    /// Whether the backup takes `feature` over.
    pub fn backs_up(&self, feature: Feature) -> bool {
        self.backup.is_some() && self.backed_up.contains(&feature)
    }
}

/// Which side serves a feature of a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The system itself.
    Home,
    /// Its backup.
    Backup,
}

/// What lasts of one feature of one system; durable before it is published (R-FO-7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Raised by each failover and failback; only grows. 0 = nothing has ever happened.
    pub epoch: u64,
    /// Who serves.
    pub side: Side,
    /// Since when.
    pub since: UnixMillis,
    /// Why, in one sentence.
    pub because: String,
    /// The node that decided it, where that was the other one; this one follows it then, and tells
    /// no alarm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<NodeId>,
}

/// Standings a node tells of at most, in each heartbeat.
pub const MOST_TOLD: usize = 1_000;

/// How a feature of a system stands, as one node tells the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Of which system.
    pub system: SystemName,
    /// Which.
    pub feature: Feature,
    /// Who serves it.
    pub side: Side,
    /// Each transition raises it by one: the higher one is the later.
    pub epoch: u64,
    /// The node that decided it.
    pub by: NodeId,
}

impl Standing {
    /// Nothing has ever happened.
    pub fn initial() -> Self {
        Self {
            epoch: 0,
            side: Side::Home,
            since: UnixMillis(0),
            because: String::new(),
            by: None,
        }
    }
}
