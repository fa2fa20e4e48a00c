//! What one channel has still to tell, in order.
//!
//! Guarantees: the first is told before the second; a notice leaves when it was told or is given up, not
//! before. When more wait than `limit`, what has become pointless goes first: the oldest alarm of which
//! begin *and* end still wait (nobody has heard of it, and it is over). So an alarm that is up is never
//! dropped, nor the end of one that was told. Only then go the oldest events and tests. With a limit
//! above twice the alarms that can be up there is always such a pair where only alarms wait.
//! How many were dropped stands in the next notice that is told (`missed`), so that the receiver knows
//! to read the state anew.

use std::{collections::VecDeque, sync::Arc};

use serde::{Deserialize, Serialize};

use super::notice::{Notice, What};

/// A notice in a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Its place: grows by one.
    pub number: u64,
    /// Notices dropped between the one before and this one.
    pub missed: u64,
    /// What is told.
    pub notice: Arc<Notice>,
}

/// What has changed, to be made durable in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Write the item, new or changed.
    Put(Item),
    /// Remove that of this number.
    Remove(u64),
}

/// See the module's head.
#[derive(Debug)]
pub struct Queue {
    items: VecDeque<Item>,
    limit: usize,
    next: u64,
    /// Being told now: stays whatever happens.
    under_way: Option<u64>,
    /// Dropped, with nothing behind them yet.
    missed: u64,
    dropped: u64,
}

impl Queue {
    /// With what an earlier life has left, in any order.
    pub fn new(limit: usize, mut left: Vec<Item>) -> Self {
        left.sort_by_key(|item| item.number);
        Self {
            next: left.last().map_or(1, |item| item.number.saturating_add(1)),
            items: left.into(),
            limit: limit.max(2),
            under_way: None,
            missed: 0,
            dropped: 0,
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many were dropped since this queue was made.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The oldest that waits.
    pub fn first(&self) -> Option<&Item> {
        self.items.front()
    }

    /// The oldest, which from now on is being told.
    pub fn begin(&mut self) -> Option<Item> {
        let first = self.items.front()?.clone();
        self.under_way = Some(first.number);
        Some(first)
    }

    /// Telling failed; it stays the first.
    pub fn failed(&mut self) {
        self.under_way = None;
    }

    /// It was told.
    pub fn told(&mut self, number: u64) -> Vec<Change> {
        self.under_way = None;
        match self.items.front() {
            Some(first) if first.number == number => {
                self.items.pop_front();
                vec![Change::Remove(number)]
            }
            _ => Vec::new(),
        }
    }

    /// It is given up.
    pub fn give_up(&mut self, number: u64) -> Vec<Change> {
        self.under_way = None;
        match self.items.front() {
            Some(first) if first.number == number => self.drop_at(0),
            _ => Vec::new(),
        }
    }

    /// Adds a notice at the end.
    pub fn push(&mut self, notice: Arc<Notice>) -> Vec<Change> {
        let item = Item {
            number: self.next,
            missed: std::mem::take(&mut self.missed),
            notice,
        };
        self.next = self.next.saturating_add(1);
        self.items.push_back(item.clone());
        let mut changes = vec![Change::Put(item)];
        if self.items.len() > self.limit {
            changes.extend(self.shorten());
        }
        changes
    }

    fn shorten(&mut self) -> Vec<Change> {
        if let Some((begin, end)) = self.oldest_ended_pair() {
            // The later one first, so that the other's place holds.
            let mut changes = self.drop_at(end);
            changes.extend(self.drop_at(begin));
            return changes;
        }
        let idle = |item: &Item| Some(item.number) != self.under_way;
        let alarm = |item: &Item| matches!(item.notice.what, What::Raised(_) | What::Cleared(_));
        let event = self.items.iter().position(|i| idle(i) && !alarm(i));
        let place = event.or_else(|| self.items.iter().position(idle));
        place.map_or_else(Vec::new, |place| self.drop_at(place))
    }

    fn oldest_ended_pair(&self) -> Option<(usize, usize)> {
        let ends: std::collections::HashMap<u64, usize> = self
            .items
            .iter()
            .enumerate()
            .filter_map(|(place, item)| match &item.notice.what {
                What::Cleared(facts) => Some((facts.number, place)),
                _ => None,
            })
            .collect();
        self.items.iter().enumerate().find_map(|(place, item)| {
            let What::Raised(facts) = &item.notice.what else {
                return None;
            };
            let end = *ends.get(&facts.number)?;
            (Some(item.number) != self.under_way && end > place).then_some((place, end))
        })
    }

    fn drop_at(&mut self, place: usize) -> Vec<Change> {
        let Some(gone) = self.items.remove(place) else {
            return Vec::new();
        };
        self.dropped = self.dropped.saturating_add(1);
        let missed = gone.missed.saturating_add(1);
        let mut changes = vec![Change::Remove(gone.number)];
        match self.items.get_mut(place) {
            Some(behind) => {
                behind.missed = behind.missed.saturating_add(missed);
                changes.push(Change::Put(behind.clone()));
            }
            None => self.missed = self.missed.saturating_add(missed),
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use uuid::Uuid;
    use vmsync_config::{Severity, words::UnixMillis};

    use super::*;
    use crate::alarm::Facts;

    fn notice(what: What) -> Arc<Notice> {
        let (id, at) = (Uuid::nil(), UnixMillis(0));
        Arc::new(Notice { id, at, what })
    }

    fn facts(number: u64) -> Facts {
        Facts {
            number,
            code: "disk_full".to_owned(),
            subject: "vmpro1".to_owned(),
            text: String::new(),
            severity: Severity::Critical,
            since: UnixMillis(0),
        }
    }

    fn raised(number: u64) -> Arc<Notice> {
        notice(What::Raised(facts(number)))
    }

    fn cleared(number: u64) -> Arc<Notice> {
        notice(What::Cleared(facts(number)))
    }

    fn event() -> Arc<Notice> {
        Arc::new(Notice::event(
            Uuid::nil(),
            UnixMillis(0),
            "phase",
            None,
            1.into(),
        ))
    }

    fn words(queue: &Queue) -> Vec<String> {
        let word = |item: &Item| {
            let number = item.notice.facts().map_or(0, |f| f.number);
            format!("{} {number} -{}", item.notice.word(), item.missed)
        };
        queue.items.iter().map(word).collect()
    }

    #[test]
    fn what_is_told_leaves_in_order_and_what_failed_stays() {
        let mut queue = Queue::new(100, Vec::new());
        for n in 1..=3 {
            queue.push(raised(n));
        }
        let first = queue.begin().unwrap();
        queue.failed();
        assert_eq!(queue.begin().unwrap(), first);
        assert_eq!(queue.told(first.number), [Change::Remove(1)]);
        assert_eq!(queue.begin().unwrap().notice, raised(2));
        assert!(queue.told(3).is_empty(), "not the first");
        assert_eq!(queue.len(), 2);
    }

    #[test]
    fn over_the_limit_goes_the_oldest_alarm_that_is_over_and_the_next_says_so() {
        let mut queue = Queue::new(4, Vec::new());
        for notice in [raised(1), raised(2), cleared(2), raised(3), cleared(3)] {
            queue.push(notice);
        }
        assert_eq!(
            words(&queue),
            ["raised 1 -0", "raised 3 -2", "cleared 3 -0"]
        );
        assert_eq!(queue.dropped(), 2);
    }

    #[test]
    fn events_go_only_where_no_alarm_is_over() {
        let mut queue = Queue::new(2, Vec::new());
        for notice in [event(), raised(1), event()] {
            queue.push(notice);
        }
        assert_eq!(words(&queue), ["raised 1 -1", "event 0 -0"]);
    }

    #[test]
    fn what_is_given_up_is_told_of_with_the_next() {
        let mut queue = Queue::new(9, Vec::new());
        queue.push(event());
        let first = queue.begin().unwrap().number;
        queue.give_up(first);
        queue.push(raised(1));
        assert_eq!(words(&queue), ["raised 1 -1"]);
    }

    /// What a store holds after the changes.
    fn keep(kept: &mut std::collections::BTreeMap<u64, Item>, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Put(item) => drop(kept.insert(item.number, item)),
                Change::Remove(number) => drop(kept.remove(&number)),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever comes, is told, fails and is restarted: the receiver ends up with exactly the alarms
        /// that are up, hears of no end without its begin, and everything is either told or counted.
        #[test]
        fn the_receiver_ends_with_the_truth(steps in prop::collection::vec((0_u8..10, 0_u64..4), 1..200)) {
            // Four alarms up at most, so nine suffice.
            let mut queue = Queue::new(9, Vec::new());
            let (mut kept, mut up) = (std::collections::BTreeMap::new(), [None::<u64>; 4]);
            let (mut last, mut heard, mut told, mut pushed, mut missed) = (0, BTreeSet::new(), 0, 0, 0);
            let mut tell = |queue: &mut Queue, kept: &mut _| -> bool {
                let Some(item) = queue.begin() else { return false };
                match &item.notice.what {
                    What::Raised(f) => assert!(heard.insert(f.number)),
                    What::Cleared(f) => assert!(heard.remove(&f.number), "end without begin"),
                    _ => {}
                }
                told += 1;
                missed += item.missed;
                keep(kept, queue.told(item.number));
                true
            };
            for (step, n) in steps {
                match step {
                    0..=5 => {
                        let slot = &mut up[usize::try_from(n).unwrap()];
                        let notice = if let Some(number) = slot.take() {
                            cleared(number)
                        } else {
                            last += 1;
                            *slot = Some(last);
                            raised(last)
                        };
                        pushed += 1;
                        keep(&mut kept, queue.push(notice));
                    }
                    6 | 7 => { tell(&mut queue, &mut kept); }
                    8 => {
                        queue.begin();
                        queue.failed();
                    }
                    _ => {
                        // Dropped with nothing behind: that alone a restart forgets to count.
                        pushed -= queue.missed;
                        queue = Queue::new(9, kept.values().cloned().collect());
                    }
                }
                prop_assert!(queue.len() <= 9);
            }
            pushed -= queue.missed;
            while tell(&mut queue, &mut kept) {}
            prop_assert!(kept.is_empty());
            prop_assert_eq!(heard, up.into_iter().flatten().collect::<BTreeSet<_>>());
            prop_assert_eq!(told + missed, pushed);
        }
    }
}
