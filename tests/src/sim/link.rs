//! The mail link between the nodes: what becomes of one mail. It never lies about success: a 250 is
//! heard only for what the receiver has said 250 to.

use std::time::Duration;

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
