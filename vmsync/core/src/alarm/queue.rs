//! What one channel has still to tell, in order.
//!
//! Guarantees: the first is told before the second; a notice leaves when it was told or is given up, not
//! before. When more wait than `limit`, what has become pointless goes first: the oldest alarm of which
//! begin *and* end still wait (nobody has heard of it, and it is over). So an alarm that is up is never
//! dropped, nor the end of one that was told. Only then go the oldest events and tests. With a limit
//! above twice the alarms that can be up there is always such a pair where only alarms wait.
//! How many were dropped stands in the next notice that is told (`missed`), so that the receiver knows
//! to read the state anew.
//!
//! Each step takes as long as looking up a few keys, also in a queue of a hundred thousand that is full: whoever
//! raises an alarm waits for it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

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
    /// By number.
    items: BTreeMap<u64, Item>,
    /// Of each alarm whose begin waits, by its number in the list: the begin's place.
    begun: HashMap<u64, u64>,
    /// Alarms of which begin and end wait: their places.
    over: BTreeMap<u64, u64>,
    /// Places of what is no alarm.
    others: BTreeSet<u64>,
    limit: usize,
    next: u64,
    /// The last of those that are being told now: they stay whatever happens.
    under_way: Option<u64>,
    /// Dropped, with nothing behind them yet.
    missed: u64,
    dropped: u64,
}

impl Queue {
    /// With what an earlier life has left, in any order.
    pub fn new(limit: usize, mut left: Vec<Item>) -> Self {
        left.sort_by_key(|item| item.number);
        let mut queue = Self {
            items: BTreeMap::new(),
            begun: HashMap::new(),
            over: BTreeMap::new(),
            others: BTreeSet::new(),
            next: left.last().map_or(1, |item| item.number.saturating_add(1)),
            limit: limit.max(2),
            under_way: None,
            missed: 0,
            dropped: 0,
        };
        for item in left {
            queue.insert(item);
        }
        queue
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

    /// The oldest, `most` of them, which from now on are being told.
    pub fn begin(&mut self, most: usize) -> Vec<Item> {
        let first: Vec<Item> = self.items.values().take(most).cloned().collect();
        self.under_way = first.last().map(|item| item.number);
        first
    }

    /// Telling failed; they stay the first.
    pub fn failed(&mut self) {
        self.under_way = None;
    }

    /// What was begun was told.
    pub fn told(&mut self) -> Vec<Change> {
        let Some(last) = self.under_way.take() else {
            return Vec::new();
        };
        let mut changes = Vec::new();
        while let Some(first) = self.items.keys().next().copied().filter(|n| *n <= last) {
            self.take_out(first);
            changes.push(Change::Remove(first));
        }
        changes
    }

    /// What was begun is given up.
    pub fn give_up(&mut self) -> Vec<Change> {
        let Some(last) = self.under_way.take() else {
            return Vec::new();
        };
        let mut changes = Vec::new();
        while let Some(first) = self.items.keys().next().copied().filter(|n| *n <= last) {
            changes.extend(self.drop_one(first));
        }
        changes
    }

    /// Adds a notice at the end.
    pub fn push(&mut self, notice: Arc<Notice>) -> Vec<Change> {
        let item = Item {
            number: self.next,
            missed: std::mem::take(&mut self.missed),
            notice,
        };
        self.next = self.next.saturating_add(1);
        self.insert(item.clone());
        let mut changes = vec![Change::Put(item)];
        // Over the limit by more than this one where it was lowered.
        while self.items.len() > self.limit {
            let gone = self.shorten();
            if gone.is_empty() {
                break;
            }
            changes.extend(gone);
        }
        changes
    }

    fn shorten(&mut self) -> Vec<Change> {
        let idle = self.under_way.map_or(0, |last| last.saturating_add(1));
        if let Some((begin, end)) = self.over.range(idle..).next().map(|(b, e)| (*b, *e)) {
            let mut changes = self.drop_one(begin);
            changes.extend(self.drop_one(end));
            return changes;
        }
        let event = self.others.range(idle..).next().copied();
        let oldest = || self.items.range(idle..).next().map(|(number, _)| *number);
        let gone = event.or_else(oldest);
        gone.map_or_else(Vec::new, |number| self.drop_one(number))
    }

    fn insert(&mut self, item: Item) {
        match &item.notice.what {
            What::Raised(facts) => {
                self.begun.insert(facts.number, item.number);
            }
            What::Cleared(facts) => {
                if let Some(begin) = self.begun.get(&facts.number) {
                    self.over.insert(*begin, item.number);
                }
            }
            What::Test(_) | What::Event { .. } => {
                self.others.insert(item.number);
            }
        }
        self.items.insert(item.number, item);
    }

    fn take_out(&mut self, number: u64) -> Option<Item> {
        let item = self.items.remove(&number)?;
        if let What::Raised(facts) = &item.notice.what {
            self.begun.remove(&facts.number);
        }
        self.over.remove(&number);
        self.others.remove(&number);
        Some(item)
    }

    fn drop_one(&mut self, number: u64) -> Vec<Change> {
        let Some(gone) = self.take_out(number) else {
            return Vec::new();
        };
        self.dropped = self.dropped.saturating_add(1);
        let missed = gone.missed.saturating_add(1);
        let mut changes = vec![Change::Remove(number)];
        match self.items.range_mut(number..).next() {
            Some((_, behind)) => {
                behind.missed = behind.missed.saturating_add(missed);
                changes.push(Change::Put(behind.clone()));
            }
            None => self.missed = self.missed.saturating_add(missed),
        }
        changes
    }
}

#[cfg(test)]
mod tests;
