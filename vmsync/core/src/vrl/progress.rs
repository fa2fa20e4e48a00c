//! How far a move has come: rate over the last seconds, time left.

use std::{collections::VecDeque, time::Duration};

use serde::Serialize;
use vmsync_config::words::Now;

/// Seconds the rate is measured over.
const WINDOW: u64 = 20;

/// Counts bytes as they leave, and tells the rate. Holds at most `WINDOW` + 1 numbers.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    // (second since process start, bytes in that second), oldest first.
    seconds: VecDeque<(u64, u64)>,
}

impl Meter {
    /// Counts `bytes` that left at `now`.
    pub fn add(&mut self, now: Now, bytes: u64) {
        let second = now.mono.as_secs();
        match self.seconds.back_mut() {
            Some((s, n)) if *s >= second => *n = n.saturating_add(bytes),
            _ => self.seconds.push_back((second, bytes)),
        }
        self.forget(second);
    }

    /// Bytes a second over the last `WINDOW` seconds; 0 when nothing moved.
    pub fn rate(&self, now: Now) -> u64 {
        let second = now.mono.as_secs();
        let oldest = second.saturating_sub(WINDOW);
        let recent = self.seconds.iter().filter(|(s, _)| *s >= oldest);
        let (first, total) = recent.fold((second, 0_u64), |(first, total), (s, n)| {
            (first.min(*s), total.saturating_add(*n))
        });
        // From the beginning of the first second to now.
        let span = now
            .mono
            .saturating_sub(Duration::from_secs(first))
            .as_millis()
            .max(100);
        u64::try_from(u128::from(total) * 1000 / span).unwrap_or(u64::MAX)
    }

    fn forget(&mut self, second: u64) {
        let oldest = second.saturating_sub(WINDOW);
        while self.seconds.front().is_some_and(|(s, _)| *s < oldest) {
            self.seconds.pop_front();
        }
    }
}

/// How far the move of all waiting recordings has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Progress {
    /// Recordings waiting or on their way.
    pub files_pending: u64,
    /// Their bytes not yet at the primary.
    pub bytes_pending: u64,
    /// Recordings moved since start.
    pub files_done: u64,
    /// Their bytes.
    pub bytes_done: u64,
    /// Bytes a second over the last seconds.
    pub rate: u64,
    /// Seconds until nothing is pending at that rate; `None` while nothing moves.
    pub eta_s: Option<u64>,
}

impl Progress {
    /// Adds rate and time left.
    #[must_use]
    pub fn at_rate(mut self, rate: u64) -> Self {
        self.rate = rate;
        self.eta_s = match (self.bytes_pending, rate) {
            (0, _) => Some(0),
            (_, 0) => None,
            (left, rate) => Some(left.div_ceil(rate)),
        };
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmsync_config::words::UnixMillis;

    fn at(ms: u64) -> Now {
        Now {
            mono: Duration::from_millis(ms),
            wall: UnixMillis(0),
        }
    }

    #[test]
    fn a_steady_flow_is_measured() {
        let mut meter = Meter::default();
        for ms in (0..60_000).step_by(100) {
            meter.add(at(ms), 1_000);
        }
        let rate = meter.rate(at(60_000));
        assert!((9_000..=11_000).contains(&rate), "{rate}");
        assert!(meter.seconds.len() <= 21);
    }

    #[test]
    fn a_stalled_flow_falls_to_nothing() {
        let mut meter = Meter::default();
        meter.add(at(1_000), 5_000_000);
        assert_eq!(meter.rate(at(60_000)), 0);
    }

    #[test]
    fn time_left_follows_from_the_rate() {
        let p = Progress {
            bytes_pending: 1_001,
            ..Progress::default()
        };
        assert_eq!(p.at_rate(100).eta_s, Some(11));
        assert_eq!(p.at_rate(0).eta_s, None);
        assert_eq!(Progress::default().at_rate(0).eta_s, Some(0));
    }
}
