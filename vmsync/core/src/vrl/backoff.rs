//! Waiting after failures: doubling, with jitter that needs no random source.

use std::time::Duration;

use vmsync_config::words::Now;

/// How long to wait after failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// After the first failure.
    pub first: Duration,
    /// Never longer than this.
    pub most: Duration,
}

impl Default for Pace {
    /// 2 s, doubling up to 5 min.
    fn default() -> Self {
        Self {
            first: Duration::from_secs(2),
            most: Duration::from_mins(5),
        }
    }
}

impl Pace {
    /// The wait after failure number `failures` (from 1): doubled each time, capped at
    /// [`Pace::most`], then spread over 75 to 100 % of it by a hash of `seed` and the count, so
    /// that many transfers that failed together don't come back together.
    pub fn delay(&self, failures: u32, seed: &str) -> Duration {
        let doubled = self.first.saturating_mul(
            1_u32
                .checked_shl(failures.saturating_sub(1))
                .unwrap_or(u32::MAX),
        );
        let spread = fnv1a(seed, failures) % 251;
        doubled.min(self.most).saturating_mul(750 + spread) / 1000
    }
}

// FNV-1a: stable across releases and platforms, which std's hasher does not promise.
fn fnv1a(seed: &str, failures: u32) -> u32 {
    seed.bytes()
        .chain(failures.to_le_bytes())
        .fold(0x811c_9dc5, |h, b| {
            (h ^ u32::from(b)).wrapping_mul(0x0100_0193)
        })
}

/// The state of one thing that is tried again: a server, a link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
    not_before: Option<Duration>,
}

impl Backoff {
    /// Notes a failure; the next try is due after the pace's delay.
    pub fn failed(&mut self, now: Now, pace: &Pace, seed: &str) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now.mono.saturating_add(pace.delay(self.failures, seed)));
    }

    /// Notes a success: no waiting any more.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Forgets the wait, not the count: an operator asked to try now.
    pub fn kick(&mut self) {
        self.not_before = None;
    }

    /// Until when to wait (monotonic), if the time has not come.
    pub fn wait(&self, now: Now) -> Option<Duration> {
        self.not_before.filter(|t| *t > now.mono)
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_the_cap_and_spread() {
        let pace = Pace::default();
        for (failures, whole) in [
            (1, 2_u64),
            (2, 4),
            (5, 32),
            (9, 300),
            (40, 300),
            (u32::MAX, 300),
        ] {
            let d = pace.delay(failures, "a.wav");
            assert!(d <= Duration::from_secs(whole), "{failures}: {d:?}");
            assert!(d >= Duration::from_secs(whole) * 3 / 4, "{failures}: {d:?}");
        }
        assert_ne!(pace.delay(3, "a.wav"), pace.delay(3, "b.wav"));
        assert_eq!(pace.delay(3, "a.wav"), pace.delay(3, "a.wav"));
    }
}
