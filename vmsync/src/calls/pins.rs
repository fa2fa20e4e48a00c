//! Wrong PINs: five within ten minutes lock a mailbox for half an hour (R-MB-14), on this node.

use std::{collections::BTreeMap, time::Duration};

use vmsync_config::words::Extension;

const TRIES: usize = 5;
const WITHIN: Duration = Duration::from_mins(10);
const LOCKED_FOR: Duration = Duration::from_mins(30);

/// Wrong tries by mailbox. Bounded: only mailboxes that exist get here, and each keeps at most five times.
#[derive(Default)]
pub(super) struct Pins(BTreeMap<Extension, Tries>);

#[derive(Default)]
struct Tries {
    wrong: Vec<Duration>,
    locked_at: Option<Duration>,
}

impl Pins {
    /// Whether no PIN is looked at now, not even the right one.
    pub(super) fn locked(&self, mailbox: &Extension, now: Duration) -> bool {
        let locked_at = self.0.get(mailbox).and_then(|tries| tries.locked_at);
        locked_at.is_some_and(|at| now.saturating_sub(at) < LOCKED_FOR)
    }

    /// A wrong try; true when it locks the mailbox.
    pub(super) fn wrong(&mut self, mailbox: &Extension, now: Duration) -> bool {
        let tries = self.0.entry(mailbox.clone()).or_default();
        tries.wrong.retain(|at| now.saturating_sub(*at) < WITHIN);
        tries.wrong.push(now);
        let locks = tries.wrong.len() >= TRIES;
        if locks {
            tries.wrong.clear();
            tries.locked_at = Some(now);
        }
        locks
    }

    /// The right PIN: what was wrong before is forgotten.
    pub(super) fn right(&mut self, mailbox: &Extension) {
        self.0.remove(mailbox);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(n: u64) -> Duration {
        Duration::from_mins(n)
    }

    #[test]
    fn five_wrong_tries_in_ten_minutes_lock_for_half_an_hour() {
        let (mut pins, mailbox) = (Pins::default(), Extension::new("2001").unwrap());
        let locks: Vec<bool> = (0..5).map(|n| pins.wrong(&mailbox, minutes(n))).collect();
        assert_eq!(locks, [false, false, false, false, true]);
        assert!(pins.locked(&mailbox, minutes(33)));
        assert!(!pins.locked(&mailbox, minutes(34)));
        assert!(!pins.locked(&Extension::new("2002").unwrap(), minutes(5)));
    }

    #[test]
    fn tries_far_apart_or_followed_by_the_right_pin_lock_nothing() {
        let (mut pins, mailbox) = (Pins::default(), Extension::new("2001").unwrap());
        assert!((0..50).all(|n| !pins.wrong(&mailbox, minutes(3 * n))));
        for n in 0..20 {
            assert!(!pins.wrong(&mailbox, minutes(200 + n)));
            pins.right(&mailbox);
        }
    }
}
