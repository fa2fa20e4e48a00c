//! State for a peer that lacks operations the log no longer has (docs/decisions/0010-synchronisation.md).
//!
//! What the peer has told of a seeding is where it goes on, whoever was restarted. A peer that
//! tells nothing, or of a vector this store does not cover, is seeded from the beginning.
//!
//! A 250 to a step says that its records are durable there, not that the step moved anything: the
//! receiver passes over a step that does not follow on those it took. So a 250 counts only where
//! the step follows on what is known to be taken, and that the seeding has ended is believed on
//! the peer's own word alone.

use std::time::Duration;

use vmsync_config::words::Vector;

use super::{Kind, Session, flight::Flight, peer::Peer};
use crate::wire::Seeding;

/// The peer's word that a seeding has ended is waited for this long after the 250 to its last step;
/// then it goes on from where the peer is known to be.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A step on its way.
struct Step<'a> {
    upto: &'a Vector,
    after: Option<&'a str>,
    /// `None` = it is the last.
    through: Option<&'a String>,
}

impl<'a> Step<'a> {
    fn of(flight: &'a Flight) -> Option<Self> {
        let Kind::Seed { upto, after, .. } = &flight.kind else {
            return None;
        };
        let load = flight.load.as_ref()?;
        Some(Self {
            upto,
            after: after.as_deref(),
            through: load.through.as_ref(),
        })
    }

    /// Whether the receiver, as far as it is known to be, has everything before this step.
    fn follows(&self, peer: &Peer) -> bool {
        self.after <= peer.seeded_through(self.upto)
    }
}

impl Session {
    /// The next step, if the peer needs one, and when.
    pub(super) fn seed_due(&self) -> Option<(Duration, Kind)> {
        let peer = self.peer.as_ref()?;
        if peer.minor == 0 {
            // It would not understand; `trouble` tells people.
            return None;
        }
        if !self.lacks_what_the_log_lost(&peer.have) {
            return None;
        }
        let step = |upto: &Vector, after: Option<&String>| Kind::Seed {
            upto: upto.clone(),
            after: after.cloned(),
            lacking: peer.have.clone(),
            most: self.narrow.most(),
            skip: self.narrow.skip(),
        };
        let steps: Vec<_> = self.flights.iter().filter_map(Step::of).collect();
        if let (Some(first), Some(last)) = (steps.first(), steps.last()) {
            // Steps behind one that failed are for nothing: they come back first.
            let through = last.through.filter(|_| first.follows(peer))?;
            return Some((Duration::ZERO, step(last.upto, Some(through))));
        }
        let at = peer.seeded.map_or(Duration::ZERO, |at| at + PATIENCE);
        let next = match &peer.seeding {
            // One that has come to its end was heard of late: what is lacking since takes another.
            Some(s) if self.local.have.covers(&s.upto) && !peer.have.covers(&s.upto) => {
                step(&s.upto, s.after.as_ref())
            }
            _ => step(&self.local.have, None),
        };
        Some((at, next))
    }

    /// Whether the peer needs state that it can't be sent, being too old to understand it.
    pub(super) fn too_old_to_seed(&self) -> bool {
        self.peer
            .as_ref()
            .is_some_and(|p| p.minor == 0 && self.lacks_what_the_log_lost(&p.have))
    }

    pub(super) fn lacks_what_the_log_lost(&self, theirs: &Vector) -> bool {
        !theirs.covers(&self.floor)
    }

    /// The peer said 250 to a step. True when that is progress.
    pub(super) fn seeded(&mut self, flight: &Flight, now: Duration) -> bool {
        let (Some(step), Some(peer)) = (Step::of(flight), &mut self.peer) else {
            return false;
        };
        if !step.follows(peer) {
            return false;
        }
        let reached = peer.seeded_through(step.upto);
        match step.through {
            None => peer.seeded = Some(now),
            Some(through) if reached.is_none_or(|reached| reached < through.as_str()) => {
                peer.seeding = Some(Seeding {
                    upto: step.upto.clone(),
                    after: Some(through.clone()),
                });
            }
            Some(_) => {}
        }
        true
    }
}
