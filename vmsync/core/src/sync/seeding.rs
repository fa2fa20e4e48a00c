//! State for a peer that lacks operations the log no longer has (docs/decisions/0010-synchronisation.md).
//!
//! What the peer has told of a seeding is where it goes on, whoever was restarted. A peer that
//! tells nothing, or of a vector this store does not cover, is seeded from the beginning.

use vmsync_config::words::Vector;

use super::{Kind, Session};
use crate::wire::Seeding;

impl Session {
    /// The next step, if the peer needs one.
    pub(super) fn seed_due(&self) -> Option<Kind> {
        let peer = self.peer.as_ref()?;
        if peer.minor == 0 {
            // It would not understand; `trouble` tells people.
            return None;
        }
        let assumed = self.flights.assumed(&peer.have);
        if !self.lacks_what_the_log_lost(&assumed) {
            return None;
        }
        let step = |upto: &Vector, after: Option<&String>| Kind::Seed {
            upto: upto.clone(),
            after: after.cloned(),
            lacking: peer.have.clone(),
        };
        // Steps follow one another; the last one on its way would have ended the need.
        let last = self.flights.iter().rev().find_map(|f| match &f.kind {
            Kind::Seed { upto, .. } => Some((upto, f.load.as_ref()?.through.as_ref()?)),
            _ => None,
        });
        if let Some((upto, through)) = last {
            return Some(step(upto, Some(through)));
        }
        match &peer.seeding {
            Some(s) if self.local.have.covers(&s.upto) => Some(step(&s.upto, s.after.as_ref())),
            _ => Some(step(&self.local.have, None)),
        }
    }

    /// Whether the peer needs state that it can't be sent, being too old to understand it.
    pub(super) fn too_old_to_seed(&self) -> bool {
        self.peer
            .as_ref()
            .is_some_and(|p| p.minor == 0 && self.lacks_what_the_log_lost(&p.have))
    }

    fn lacks_what_the_log_lost(&self, theirs: &Vector) -> bool {
        !theirs.covers(&self.floor)
    }

    /// A step is durable at the peer.
    pub(super) fn seeded(&mut self, upto: &Vector, through: Option<&String>) {
        let Some(peer) = &mut self.peer else { return };
        if let Some(through) = through {
            peer.seeding = Some(Seeding {
                upto: upto.clone(),
                after: Some(through.clone()),
            });
        } else {
            peer.have.merge(upto);
            peer.seeding = None;
        }
    }
}
