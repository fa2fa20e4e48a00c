//! Mails on their way, in the order they were planned.

use std::collections::BTreeMap;

use vmsync_config::words::Vector;

use super::{Kind, Load, Ticket, peer::Held};

/// What a mail's head tells: the peer is up to date when this equals what would be told now.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Told {
    pub(super) session: u64,
    pub(super) answers: Option<u64>,
    pub(super) held: Held,
    pub(super) echo: Option<u64>,
}

#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) tells: Told,
    pub(super) kind: Kind,
    /// `None` until the shell has said what it packed.
    pub(super) load: Option<Load>,
}

/// Mails under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Flights {
    all: BTreeMap<Ticket, Flight>,
    last: u64,
}

impl Flights {
    pub(super) fn begin(&mut self, tells: Told, kind: Kind) -> Ticket {
        self.last = self.last.wrapping_add(1);
        let ticket = Ticket(self.last);
        // Only what carries something is packed by the shell in a way that matters here.
        let load = matches!(kind, Kind::Hello | Kind::Status).then(Load::default);
        let flight = Flight { tells, kind, load };
        self.all.insert(ticket, flight);
        ticket
    }

    pub(super) fn packed(&mut self, ticket: Ticket, load: Load) {
        if let Some(flight) = self.all.get_mut(&ticket) {
            flight.load = Some(load);
        }
    }

    pub(super) fn end(&mut self, ticket: Ticket) -> Option<Flight> {
        self.all.remove(&ticket)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The last ticket given out.
    pub(super) fn newest(&self) -> Ticket {
        Ticket(self.last)
    }

    /// Whether one is still being put together: the next can't be planned before it is known
    /// where that one ends.
    pub(super) fn packing(&self) -> bool {
        self.all.values().any(|f| f.load.is_none())
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Flight> {
        self.all.values()
    }

    /// What the peer will hold when all under way have arrived, beyond `have`.
    pub(super) fn assumed(&self, have: &Vector) -> Vector {
        let mut assumed = have.clone();
        for flight in self.all.values() {
            let Some(load) = &flight.load else { continue };
            // That a seeding has ended is the peer's to say.
            if let Kind::Operations { .. } = flight.kind {
                assumed.merge(&load.upto);
            }
        }
        assumed
    }
}
