//! The mail link between the nodes: what becomes of one mail.

use std::time::Duration;

use super::rng::Rng;

/// How bad the link of this seed is, in percent.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    lost: u64,
    answer_lost: u64,
    twice: u64,
    late: u64,
    slowest: u64,
}

/// What the link does with one mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Arrives after this long, is answered.
    Arrives(Duration),
    /// Arrives, but its answer doesn't; the sender gives up later.
    Unanswered(Duration),
    /// Arrives, and once more later, as from a second connection.
    Twice(Duration, Duration),
    /// The sender gives up first; then it arrives.
    Late(Duration),
    /// Never arrives.
    Lost,
}

impl Link {
    /// A link of some badness.
    pub fn new(rng: &mut Rng) -> Self {
        Self {
            lost: rng.below(25),
            answer_lost: rng.below(15),
            twice: rng.below(15),
            late: rng.below(10),
            slowest: 2 + rng.below(200),
        }
    }

    /// A good one.
    pub fn healed() -> Self {
        Self {
            lost: 0,
            answer_lost: 0,
            twice: 0,
            late: 0,
            slowest: 5,
        }
    }

    /// The fate of the next mail.
    pub fn fate(&self, rng: &mut Rng) -> Fate {
        let delay = rng.millis(1, self.slowest);
        if rng.chance(self.lost) {
            Fate::Lost
        } else if rng.chance(self.late) {
            Fate::Late(rng.millis(4_000, 60_000))
        } else if rng.chance(self.answer_lost) {
            Fate::Unanswered(delay)
        } else if rng.chance(self.twice) {
            Fate::Twice(delay, rng.millis(1, 60_000))
        } else {
            Fate::Arrives(delay)
        }
    }
}
