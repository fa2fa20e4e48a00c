//! When a notice that the receiver refuses for good is given up, so that what waits behind it is told.

use std::time::Duration;

use uuid::Uuid;

/// How long the same notice must be refused for good before it is given up, and how often at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Since its first refusal.
    pub over: Duration,
    /// Refusals, the first included.
    pub tries: u32,
}

/// How often the notice that is being told was refused for good: in memory, so that a restart begins anew.
#[derive(Debug, Clone, Default)]
pub struct Refusals {
    of: Option<(Uuid, Duration, u32)>,
}

impl Refusals {
    /// Notice `id` was refused for good at `now` (monotonic): whether it is to be given up. Failures that pass in
    /// between neither count nor begin it anew.
    pub fn give_up(&mut self, id: Uuid, now: Duration, patience: &Patience) -> bool {
        let (first, before) = match self.of {
            Some((same, first, tries)) if same == id => (first, tries),
            _ => (now, 0),
        };
        let tries = before.saturating_add(1);
        let over = tries >= patience.tries && now.saturating_sub(first) >= patience.over;
        self.of = (!over).then_some((id, first, tries));
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        over: Duration::from_mins(10),
        tries: 4,
    };

    /// A content filter answers 554 to one alarm, again and again.
    #[test]
    fn what_is_refused_for_good_is_tried_some_times_over_a_while_and_then_given_up() {
        let (mut refusals, id) = (Refusals::default(), Uuid::from_u128(1));
        let at = Duration::from_secs;
        for seconds in [0, 1, 3, 7, 599] {
            assert!(!refusals.give_up(id, at(seconds), &PATIENCE), "{seconds}");
        }
        assert!(refusals.give_up(id, at(600), &PATIENCE));
        assert!(!refusals.give_up(id, at(601), &PATIENCE), "anew");
    }

    #[test]
    fn a_pause_alone_gives_nothing_up() {
        let (mut refusals, id) = (Refusals::default(), Uuid::from_u128(1));
        for minutes in [0, 20, 40] {
            let at = Duration::from_mins(minutes);
            assert!(!refusals.give_up(id, at, &PATIENCE), "{minutes}");
        }
        assert!(refusals.give_up(id, Duration::from_hours(1), &PATIENCE));
    }

    #[test]
    fn each_notice_has_its_own_patience() {
        let mut refusals = Refusals::default();
        let [one, two] = [1, 2].map(Uuid::from_u128);
        for minutes in [0, 4, 8] {
            assert!(!refusals.give_up(one, Duration::from_mins(minutes), &PATIENCE));
        }
        assert!(!refusals.give_up(two, Duration::from_mins(12), &PATIENCE));
    }
}
