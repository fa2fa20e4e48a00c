//! Phones as evidence that a home is really gone (R-FO-1, R-FO-5): counting, nothing else.
//!
//! A registration counts when it is a physical desk phone of the home, at the backup's system,
//! after the home has been invisible for `failover_after`. One that came earlier counts when the
//! phone registers again, as phones do every few minutes. When the home returns, all is forgotten.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};
use vmsync_config::{
    Group, System,
    words::{NodeId, SystemName},
};

/// Distinct phones told apart; more are not remembered, for one is enough.
const REMEMBERED: usize = 4096;

/// What registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PhoneKind {
    /// Physical H.323 or SIP set: the only evidence.
    Desk,
    /// Cordless.
    Dect,
    /// On a computer or mobile; moves with its network, so proves nothing.
    Softphone,
    /// In a browser.
    Webrtc,
}

/// A registration as a PBX reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The phone's extension.
    pub extension: String,
    /// What it is.
    pub kind: PhoneKind,
    /// The system it belongs to.
    pub home_system: SystemName,
    /// The system it registered at.
    pub at_system: SystemName,
}

/// What a registration is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Evidence (R-FO-1).
    Counts,
    /// Not about this group: not a phone of its home at its backup's system.
    Elsewhere,
    /// Of this group, but no evidence; why, in words.
    Refused(String),
}

/// The evidence held by a group's backup. Kept over a restart of its process: what a phone did need
/// not be done again, only the time of invisibility is measured anew.
#[derive(Debug, Clone)]
pub struct PhoneEvidence {
    home: NodeId,
    home_systems: BTreeSet<SystemName>,
    backup_systems: BTreeSet<SystemName>,
    counted: BTreeSet<(SystemName, String)>,
    refused: u64,
}

impl PhoneEvidence {
    /// Nothing counted yet. A node's own id also names its system, so that a pair without
    /// `[[systems]]` can still report phones.
    pub fn new(group: &Group, systems: &[System]) -> Self {
        let of = |node: &NodeId| {
            let configured = systems.iter().filter(|s| s.home == *node);
            let own = SystemName::new(node.as_str()).ok();
            configured.map(|s| s.name.clone()).chain(own).collect()
        };
        Self {
            home: group.home.clone(),
            home_systems: of(&group.home),
            backup_systems: of(&group.backup),
            counted: BTreeSet::new(),
            refused: 0,
        }
    }

    /// Tell it whenever sight of the home changes: its return resets the count (R-FO-3).
    pub fn sight(&mut self, peer: Result<Duration, Duration>) {
        if peer.is_ok() {
            self.counted.clear();
        }
    }

    /// What counts now, to be kept.
    pub fn counted(&self) -> impl Iterator<Item = &(SystemName, String)> {
        self.counted.iter()
    }

    /// Whether this phone counts now.
    pub fn counts(&self, phone: &(SystemName, String)) -> bool {
        self.counted.contains(phone)
    }

    /// Takes on what was kept before the process ended. The home's return will have it forgotten.
    pub fn restore(&mut self, counted: Vec<(SystemName, String)>) {
        let known = |(system, _): &(SystemName, String)| self.home_systems.contains(system);
        let counted = counted.into_iter().filter(known).take(REMEMBERED);
        self.counted = counted.collect();
    }

    /// Judges a registration. `peer` as in [`super::View::peer`], `now` monotonic.
    pub fn registered(
        &mut self,
        phone: &Registration,
        peer: Result<Duration, Duration>,
        failover_after: Duration,
        now: Duration,
    ) -> Verdict {
        let concerns = self.home_systems.contains(&phone.home_system)
            && self.backup_systems.contains(&phone.at_system);
        if !concerns {
            return Verdict::Elsewhere;
        }
        let why = match peer {
            _ if phone.kind != PhoneKind::Desk => {
                "only a physical desk phone is evidence that its home is gone (R-FO-1)".to_owned()
            }
            Ok(_) => format!("{} is visible (R-FO-5)", self.home),
            Err(since) if now < since.saturating_add(failover_after) => format!(
                "{} has not been invisible for {} yet (R-FO-1)",
                self.home,
                super::conditions::in_words(failover_after)
            ),
            Err(_) => {
                if self.counted.len() < REMEMBERED {
                    let key: String = phone.extension.chars().take(32).collect();
                    self.counted.insert((phone.home_system.clone(), key));
                }
                return Verdict::Counts;
            }
        };
        self.refused = self.refused.saturating_add(1);
        Verdict::Refused(why)
    }

    /// Distinct desk phones that count now ([`super::View::desk_phones`]).
    pub fn desk_phones(&self) -> u32 {
        u32::try_from(self.counted.len()).unwrap_or(u32::MAX)
    }

    /// Registrations refused as evidence since start (R-FO-5: counted and shown).
    pub fn refused(&self) -> u64 {
        self.refused
    }
}
