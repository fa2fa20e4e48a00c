//! The mail link between the nodes: what becomes of one mail. It never lies about success: a 250 is
//! heard only for what the receiver has said 250 to. And a receiver that will not have what is in some.

use std::time::Duration;

use vmsync_core::wire::{Json, Mail};

use super::rng::Rng;

/// How bad the link of this seed is, in percent.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    cut: u64,
    unanswered: u64,
    twice: u64,
    late: u64,
    refused: u64,
    slowest: u64,
}

/// What the link, or somebody on the way, does with one mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Arrives after this long, is answered.
    Arrives(Duration),
    /// The connection ends inside DATA: nothing of it is received, nor of what is behind it.
    Cut(Duration),
    /// Arrives whole, and the connection ends before the answer.
    Unanswered(Duration),
    /// Arrives, and once more later, as over a second connection.
    Twice(Duration, Duration),
    /// The sender gives the connection up; then it arrives.
    Late(Duration),
    /// Arrives and is refused with this code, whatever is in it.
    Refused(Duration, u16),
}

impl Link {
    /// A link of some badness.
    pub fn new(rng: &mut Rng) -> Self {
        Self {
            cut: rng.below(15),
            unanswered: rng.below(12),
            twice: rng.below(12),
            late: rng.below(8),
            refused: rng.below(10),
            slowest: 2 + rng.below(200),
        }
    }

    /// A good one.
    pub fn healed() -> Self {
        Self {
            cut: 0,
            unanswered: 0,
            twice: 0,
            late: 0,
            refused: 0,
            slowest: 5,
        }
    }

    /// The fate of the next mail.
    pub fn fate(&self, rng: &mut Rng) -> Fate {
        let delay = rng.millis(1, self.slowest);
        if rng.chance(self.cut) {
            Fate::Cut(delay)
        } else if rng.chance(self.unanswered) {
            Fate::Unanswered(delay)
        } else if rng.chance(self.late) {
            Fate::Late(rng.millis(4_000, 60_000))
        } else if rng.chance(self.twice) {
            Fate::Twice(delay, rng.millis(1, 60_000))
        } else if rng.chance(self.refused) {
            let codes = [451, 451, 452, 421, 554, 554, 550];
            Fate::Refused(delay, rng.pick(&codes).copied().unwrap_or(451))
        } else {
            Fate::Arrives(delay)
        }
    }
}

/// Why a receiver takes no mail with certain entities in it: a fault of its own, a program on the way
/// that will not let some content pass. What is chosen follows from a number, so that the same is
/// refused as long as this lasts, whatever it comes with and however often.
#[derive(Debug, Clone, Copy)]
pub struct Refuser {
    /// It ends then.
    pub until: Duration,
    salt: u64,
    one_in: u64,
    /// Every mail that so much as names them, that they are skipped too.
    named: bool,
}

impl Refuser {
    /// One that lasts until then.
    pub fn new(rng: &mut Rng, until: Duration) -> Self {
        Self {
            until,
            salt: rng.number(),
            one_in: 3 + rng.below(20),
            named: rng.chance(15),
        }
    }

    /// An entity of this mail that is refused.
    pub fn refuses(&self, mail: &Mail) -> Option<String> {
        let operation = |o: &Json| {
            let of = |e: &serde_json::Value| e.as_str().map(str::to_owned);
            o.value().get("entity").and_then(of)
        };
        let operations = mail.operations.iter().filter_map(operation);
        let records = mail.records.iter().map(|r| r.entity.clone());
        let skips = mail.skips.iter().map(|s| s.entity.clone());
        let items = mail.items.iter().flat_map(|b| &b.items);
        let items = items.map(|i| i.entity.clone());
        let named = skips.chain(items).filter(|_| self.named);
        let mut entities = operations.chain(records).chain(named);
        entities.find(|entity| self.has_chosen(entity))
    }

    fn has_chosen(&self, entity: &str) -> bool {
        let folded = entity.bytes().fold(self.salt, |sum, byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Rng::new(folded).below(self.one_in) == 0
    }
}
