//! How many mails for mailboxes one address may send in a minute.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

const MINUTE: Duration = Duration::from_mins(1);
/// Addresses remembered. Should more than that send within a minute, the newest ones are not counted;
/// the number of connections bounds them all the same.
const MOST: usize = 4096;

/// Counts by address. A minute begins with an address's first mail in it.
#[derive(Default)]
pub(super) struct Rate {
    minutes: Mutex<HashMap<IpAddr, (Duration, u32)>>,
}

impl Rate {
    /// Counts a mail of `peer` at `now` (monotonic). False = it would be more than `most` in its minute.
    pub(super) fn take(&self, peer: IpAddr, now: Duration, most: u32) -> bool {
        let mut minutes = self.minutes.lock().unwrap_or_else(PoisonError::into_inner);
        let over = |began: Duration| now.saturating_sub(began) >= MINUTE;
        if minutes.len() >= MOST && !minutes.contains_key(&peer) {
            minutes.retain(|_, (began, _)| !over(*began));
            if minutes.len() >= MOST {
                return true;
            }
        }
        let (began, count) = minutes.entry(peer).or_insert((now, 0));
        if over(*began) {
            (*began, *count) = (now, 0);
        }
        if *count >= most {
            return false;
        }
        *count += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_a_minute_for_each_address() {
        let rate = Rate::default();
        let at = Duration::from_secs;
        let (a, b) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        assert!(rate.take(a, at(0), 2) && rate.take(a, at(50), 2));
        assert!(!rate.take(a, at(59), 2) && rate.take(b, at(59), 2));
        assert!(rate.take(a, at(60), 2) && rate.take(a, at(60), 2) && !rate.take(a, at(119), 2));
    }

    #[test]
    fn memory_is_bounded() {
        let rate = Rate::default();
        for n in 0..10_000_u32 {
            rate.take(IpAddr::from(n.to_be_bytes()), Duration::ZERO, 1);
        }
        assert_eq!(rate.minutes.lock().unwrap().len(), MOST);
        assert!(rate.take(IpAddr::from([9; 4]), MINUTE, 1));
        assert_eq!(rate.minutes.lock().unwrap().len(), 1);
    }
}
