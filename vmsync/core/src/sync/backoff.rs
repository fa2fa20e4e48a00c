//! Exponential back-off with jitter, from a seed instead of a random source.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
/// The longest pause between two tries.
pub(super) const LONGEST: Duration = Duration::from_secs(30);

/// A pseudo-random sequence (SplitMix64); only spreads retries, protects nothing.
#[derive(Debug, Clone)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// `span`, shortened by up to half, so that two nodes don't stay in step.
    pub(super) fn spread(&mut self, span: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let half = span / 2;
        // The top 10 bits choose one of 1024 steps of the half.
        let step = u32::try_from(z >> 54).unwrap_or(0);
        span.saturating_sub(half / 1024 * step)
    }
}

/// Pauses that double from 100 ms to 30 s.
#[derive(Debug, Clone, Default)]
pub(super) struct Backoff {
    tries: u32,
}

impl Backoff {
    pub(super) fn reset(&mut self) {
        self.tries = 0;
    }

    pub(super) fn tries(&self) -> u32 {
        self.tries
    }

    /// The pause before a first repetition.
    pub(super) fn first(jitter: &mut Jitter) -> Duration {
        jitter.spread(FIRST)
    }

    pub(super) fn next(&mut self, jitter: &mut Jitter) -> Duration {
        let doubled = 1_u32.checked_shl(self.tries.min(16)).unwrap_or(1);
        self.tries = self.tries.saturating_add(1);
        jitter.spread((FIRST * doubled).min(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_within_their_bounds() {
        for seed in 0..200 {
            let (mut jitter, mut pauses) = (Jitter::new(seed), Backoff::default());
            let mut whole = FIRST;
            for _ in 0..40 {
                let pause = pauses.next(&mut jitter);
                assert!(
                    pause <= whole && pause >= whole / 2,
                    "{pause:?} of {whole:?}"
                );
                whole = (whole * 2).min(LONGEST);
            }
        }
    }
}
