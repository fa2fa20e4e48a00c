//! When recordings move, and how fast: the daily window and the bandwidth limit.

use std::time::Duration;

use vmsync_config::DailyWindow;

/// Seconds of a day.
const DAY: u64 = 86_400;
/// How long at most until the window is looked at again: the clock may be set, and summer time comes and goes.
const LOOK_AGAIN: Duration = Duration::from_mins(15);

/// How long recordings wait until the window is to be looked at again; `None` = it is open. `second` of
/// the local day.
pub fn closed_for(window: DailyWindow, second: u64) -> Option<Duration> {
    let minute = u16::try_from(second % DAY / 60).unwrap_or(0);
    if window.contains(minute) {
        return None;
    }
    let opens = u64::from(window.opens) * 60;
    let left = (opens + DAY - second % DAY) % DAY;
    Some(Duration::from_secs(left).min(LOOK_AGAIN))
}

/// A limit of bytes a second, shared by all that move. What is sent may run ahead by a second's worth,
/// and is then rested for.
#[derive(Debug, Clone)]
pub struct Limit {
    rate: u64,
    /// When all that was sent so far may have been sent (monotonic).
    paid: Duration,
}

impl Limit {
    /// `rate` bytes a second; 0 counts as 1.
    pub fn new(rate: u64) -> Self {
        Self {
            rate: rate.max(1),
            paid: Duration::ZERO,
        }
    }

    /// `bytes` were sent at `now` (monotonic); how long to rest before more may be.
    pub fn sent(&mut self, bytes: u64, now: Duration) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // Time in which nothing was sent is not saved up.
        self.paid = self.paid.max(now).saturating_add(cost);
        self.paid.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(opens: u16, closes: u16) -> DailyWindow {
        DailyWindow { opens, closes }
    }

    #[test]
    fn a_window_may_go_over_midnight() {
        let night = window(22 * 60, 5 * 60 + 30);
        assert_eq!(night.to_string(), "22:00-05:30");
        let at = |h: u64, m: u64| closed_for(night, h * 3600 + m * 60);
        assert_eq!(
            (at(22, 0), at(23, 59), at(0, 0), at(5, 29)),
            (None, None, None, None)
        );
        assert_eq!(at(5, 30), Some(LOOK_AGAIN));
        assert_eq!(at(21, 50), Some(Duration::from_mins(10)));
        let lunch = window(12 * 60, 13 * 60);
        assert_eq!(
            closed_for(lunch, 11 * 3600 + 59 * 60 + 30),
            Some(Duration::from_secs(30))
        );
        assert_eq!(closed_for(lunch, 12 * 3600), None);
        assert_eq!(closed_for(lunch, 13 * 3600), Some(LOOK_AGAIN));
    }

    proptest! {
        /// Whoever rests as told sends no more than the rate, over any span, but for the last piece; and
        /// who always has something to send sends no less.
        #[test]
        fn the_rate_is_kept_and_used(pieces in prop::collection::vec(1_u64..200_000, 1..60), rate in 1_000_u64..10_000_000) {
            let mut limit = Limit::new(rate);
            let begun = Duration::from_secs(7);
            let (mut now, mut sent) = (begun, 0_u128);
            for bytes in &pieces {
                sent += u128::from(*bytes);
                let rest = limit.sent(*bytes, now);
                now += rest;
                let passed = now.saturating_sub(begun).as_nanos();
                let allowed = passed * u128::from(rate) / 1_000_000_000;
                prop_assert!(sent.abs_diff(allowed) <= 1, "{sent} {allowed}");
            }
            // Idle time is not saved up.
            now += Duration::from_hours(1);
            prop_assert!(limit.sent(rate, now) >= Duration::from_millis(999));
        }
    }
}
