//! Whether the disk of recordings will be full soon: told before it is, while somebody can still do something.
//!
//! A disk is *low* under twice the reserve, and *filling* when, at the rate of the last ten minutes, the reserve is reached
//! within an hour. Either ends only well away from where it began, so that an alarm does not come and go.

use std::{collections::VecDeque, time::Duration};

/// The rate is made from so much of the past.
const PAST: Duration = Duration::from_mins(10);
/// And from no less: one large recording is no rate.
const LEAST: Duration = Duration::from_mins(3);
/// Between two samples that are kept.
const APART: Duration = Duration::from_secs(20);
/// Filling: the reserve is reached within this.
const SOON: Duration = Duration::from_hours(1);
/// No longer filling: it takes longer than this.
const LATER: Duration = Duration::from_hours(2);

/// What is wrong with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// Less than twice the reserve is free.
    Low,
    /// The reserve will be reached in this time.
    Filling(Duration),
}

/// Watches one disk. Holds at most some thirty numbers.
#[derive(Debug, Clone, Default)]
pub struct DiskOutlook {
    // (monotonic, bytes free), oldest first.
    samples: VecDeque<(Duration, u64)>,
    low: bool,
    filling: bool,
}

impl DiskOutlook {
    /// `free` bytes are free at `now` (monotonic), of which `reserve` are never used.
    pub fn look(&mut self, free: u64, reserve: u64, now: Duration) -> Option<Outlook> {
        let left = self.left(free, reserve, now);
        let twice = reserve.saturating_mul(2);
        let ends = twice.saturating_add(reserve / 2);
        self.low = free < if self.low { ends } else { twice };
        let within = if self.filling { LATER } else { SOON };
        self.filling = left.is_some_and(|left| left <= within);
        match (self.low, left.filter(|_| self.filling)) {
            (true, _) => Some(Outlook::Low),
            (false, Some(left)) => Some(Outlook::Filling(left)),
            (false, None) => None,
        }
    }

    /// How long until the reserve is reached, if less and less is free.
    fn left(&mut self, free: u64, reserve: u64, now: Duration) -> Option<Duration> {
        while self
            .samples
            .front()
            .is_some_and(|(at, _)| now.saturating_sub(*at) > PAST)
        {
            self.samples.pop_front();
        }
        let first = self.samples.front().copied();
        if self
            .samples
            .back()
            .is_none_or(|(at, _)| now.saturating_sub(*at) >= APART)
        {
            self.samples.push_back((now, free));
        }
        let (since, before) = first?;
        let span = now.saturating_sub(since);
        let used = before.saturating_sub(free);
        if span < LEAST || used == 0 {
            return None;
        }
        let ms = u128::from(free.saturating_sub(reserve)) * span.as_millis() / u128::from(used);
        Some(Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GB: u64 = 1_000_000_000;

    fn min(minutes: u64) -> Duration {
        Duration::from_mins(minutes)
    }

    #[test]
    fn a_disk_is_low_under_twice_the_reserve_and_until_well_above_it() {
        let mut disk = DiskOutlook::default();
        assert_eq!(disk.look(2 * GB, GB, min(0)), None);
        assert_eq!(disk.look(2 * GB - 1, GB, min(0)), Some(Outlook::Low));
        assert_eq!(disk.look(2 * GB + GB / 4, GB, min(0)), Some(Outlook::Low));
        assert_eq!(disk.look(2 * GB + GB / 2, GB, min(0)), None);
        assert_eq!(disk.look(2 * GB + GB / 4, GB, min(0)), None);
        // Without a reserve there is nothing to be low of.
        assert_eq!(DiskOutlook::default().look(0, 0, min(0)), None);
    }

    #[test]
    fn a_disk_that_fills_within_the_hour_is_told_after_three_minutes() {
        let mut disk = DiskOutlook::default();
        // 100 GB free, 2 GB a minute: 49 minutes to the reserve of 1 GB.
        let told: Vec<_> = (0..6)
            .map(|m| disk.look((100 - 2 * m) * GB, GB, min(m)))
            .collect();
        assert_eq!(told[..3], [None, None, None]);
        assert_eq!(
            told[3],
            Some(Outlook::Filling(Duration::from_secs(93 * 30)))
        );
        assert!(told[3..].iter().all(Option::is_some));
        // It slows down: two hours away before it is over.
        let slower = |disk: &mut DiskOutlook, from: u64, a_minute: u64| {
            (0..15)
                .map(|m| disk.look(90 * GB - a_minute * m, GB, min(from + m)))
                .last()
                .unwrap()
        };
        assert!(slower(&mut disk, 6, GB).is_some(), "76 minutes left");
        assert_eq!(
            slower(&mut disk, 40, GB / 2),
            None,
            "two hours and a half left"
        );
    }

    #[test]
    fn one_large_recording_is_no_rate() {
        let mut disk = DiskOutlook::default();
        assert_eq!(disk.look(10 * GB, GB, min(0)), None);
        assert_eq!(disk.look(7 * GB, GB, min(1)), None);
        // Room that is made is no growth.
        assert_eq!(disk.look(12 * GB, GB, min(9)), None);
    }

    proptest! {
        #[test]
        fn it_stays_small_and_never_says_low_above_the_line(steps in prop::collection::vec((0_u64..120, 0_u64..20 * GB), 1..400)) {
            let mut disk = DiskOutlook::default();
            let mut now = Duration::ZERO;
            for (seconds, free) in steps {
                now += Duration::from_secs(seconds);
                let told = disk.look(free, GB, now);
                prop_assert!(disk.samples.len() <= 31);
                prop_assert!(free >= 2 * GB || told == Some(Outlook::Low));
                prop_assert!(free < 2 * GB + GB / 2 || told != Some(Outlook::Low));
            }
        }
    }
}
