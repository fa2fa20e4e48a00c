//! How long what is left of a direction will take, from how fast it has become less.

use std::{collections::VecDeque, time::Duration};

/// The pace is that of the last so long.
const OVER: Duration = Duration::from_secs(20);
/// Readings closer together than this are one.
const APART: Duration = Duration::from_millis(250);

/// Readings of what is left; their number is bounded by [`OVER`] and [`APART`].
#[derive(Debug, Clone, Default)]
pub(super) struct Eta {
    /// When, and how much was left then; ever less.
    readings: VecDeque<(Duration, u64)>,
}

impl Eta {
    /// So much is left now.
    pub(super) fn read(&mut self, now: Duration, left: u64) {
        if self.readings.back().is_some_and(|(_, last)| left > *last) || left == 0 {
            // More to do than before says nothing of the pace: it is measured from here.
            self.readings.clear();
        }
        if left == 0 {
            return;
        }
        while self
            .readings
            .front()
            .is_some_and(|(at, _)| now.saturating_sub(*at) > OVER)
        {
            self.readings.pop_front();
        }
        let fresh = self
            .readings
            .back()
            .is_none_or(|(at, _)| now.saturating_sub(*at) >= APART);
        if fresh {
            self.readings.push_back((now, left));
        }
    }

    /// How long the rest will take at this pace; `None` where nothing is left or nothing moves.
    pub(super) fn rest(&self) -> Option<Duration> {
        let (from, before) = *self.readings.front()?;
        let (to, left) = *self.readings.back()?;
        let done = before.checked_sub(left).filter(|done| *done > 0)?;
        let took = to.saturating_sub(from).as_millis();
        let rest = took.checked_mul(u128::from(left))? / u128::from(done);
        Some(Duration::from_millis(u64::try_from(rest).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_rest_takes_as_long_as_the_pace_says() {
        let mut eta = Eta::default();
        assert_eq!(eta.rest(), None);
        for second in 0..5 {
            eta.read(ms(1000 * second), 1_000 - 100 * second);
        }
        // 600 left at 100 a second.
        assert_eq!(eta.rest(), Some(ms(6000)));
        eta.read(ms(4_600), 0);
        assert_eq!(eta.rest(), None, "nothing is left");
    }

    #[test]
    fn more_to_do_or_standing_still_is_no_pace() {
        let mut eta = Eta::default();
        eta.read(ms(0), 500);
        eta.read(ms(1_000), 400);
        eta.read(ms(2_000), 9_000);
        assert_eq!(eta.rest(), None, "measured from here");
        eta.read(ms(3_000), 8_000);
        assert_eq!(eta.rest(), Some(ms(8_000)));
        for second in 4..30 {
            eta.read(ms(1000 * second), 8_000);
        }
        assert_eq!(eta.rest(), None, "it has stood still for long");
    }

    #[test]
    fn however_often_it_is_read_little_is_kept() {
        let mut eta = Eta::default();
        for n in 0..1_000_000 {
            eta.read(ms(n), 2_000_000 - n);
        }
        assert!(eta.readings.len() <= 82, "{}", eta.readings.len());
        assert_eq!(eta.rest().map(|r| r.as_secs()), Some(1_000));
    }
}
