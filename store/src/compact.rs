//! Keeping the log short: what it no longer has, state stands for.
//!
//! The floor of an origin is raised durably in the same batch that removes the entries, so a log
//! is always whole between its floor and its end. Entries go a few hundred at a time, each batch
//! a transaction of its own, so that nobody waits for long.

use vmsync_config::words::{Origin, Vector};

use crate::{
    commit::Memory, disk::Purpose, error::StoreError, keys, mailboxes::SMALL, operation::Hlc,
    store::Store, transaction::Transaction,
};

/// Entries removed as one.
const BATCH: u64 = 500;

/// How far [`Store::compact`] may go. Numbers of entries are over all origins together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CompactTo {
    /// What both nodes are known to hold durably: entries at or below it may go.
    pub both: Vector,
    /// So many of the newest entries stay, also where both hold them.
    pub keep: u64,
    /// Beyond so many entries the oldest go, even if the peer lacks them: it then gets state.
    pub most: u64,
    /// Entries above it stay, because a merge report still needs them, as long as the log has no
    /// more than `most`. `None` protects nothing; an origin it does not name is protected whole.
    pub never_past: Option<Vector>,
}

/// The log of one origin.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    origin: Origin,
    floor: u64,
    last: u64,
}

/// What may go next: of each origin named, entries up to the number given; all in all so many.
#[derive(Debug, PartialEq, Eq)]
struct Allowance {
    upto: Vec<(Span, u64)>,
    entries: u64,
}

impl Store {
    /// Removes entries of the log and raises its floor over them, durably; the oldest first, about
    /// (by batches). What they did stays. Returns how many went. While it runs, writes go on, and
    /// [`operations`](Self::operations) answers rightly or with [`StoreError::BelowFloor`].
    pub fn compact(&self, to: &CompactTo) -> Result<u64, StoreError> {
        let mut gone = self.sweep_log()?;
        // What is written from here on is left to the next time, so that this ends.
        let end = self.have();
        loop {
            let batch = self.write(SMALL, Purpose::Upkeep, |t| remove_batch(t, to, &end))?;
            if batch == 0 {
                return Ok(gone);
            }
            gone += batch;
        }
    }

    /// Removes entries at or below the floor: what a seeding has jumped over.
    fn sweep_log(&self) -> Result<u64, StoreError> {
        let mut gone = 0;
        for (origin, floor) in self.floor().iter() {
            let (mut from, end) = (keys::log(origin, 0), keys::log(origin, floor + 1));
            loop {
                let limit = usize::try_from(BATCH).unwrap_or(usize::MAX);
                let old = self
                    .inner
                    .committer
                    .read(|index| index.keys(&from, &end, limit))?;
                let Some(last) = old.last() else { break };
                from.clone_from(last);
                gone += old.len() as u64;
                self.write(SMALL, Purpose::Upkeep, |t| {
                    for key in old {
                        t.put(key, None);
                    }
                    Ok(())
                })?;
            }
        }
        Ok(gone)
    }
}

fn remove_batch(t: &mut Transaction<'_>, to: &CompactTo, end: &Vector) -> Result<u64, StoreError> {
    let Some(allowed) = allowance(&spans(t.memory(), end), to) else {
        return Ok(0);
    };
    let mut oldest: Option<(Hlc, Span, u64)> = None;
    for (span, upto) in allowed.upto {
        let (_, first) = t.entry_of_log(&span.origin, span.floor + 1)?;
        let first = first.stamp.at;
        if oldest.as_ref().is_none_or(|(at, ..)| first < *at) {
            oldest = Some((first, span, upto));
        }
    }
    let Some((_, span, upto)) = oldest else {
        return Ok(0);
    };
    let entries = (upto - span.floor).min(allowed.entries).min(BATCH);
    let floor = span.floor + entries;
    let (sums, _) = t.entry_of_log(&span.origin, floor)?;
    t.raise_floor(&span.origin, floor, sums);
    for seq in span.floor + 1..=floor {
        t.put(keys::log(&span.origin, seq), None);
    }
    Ok(entries)
}

fn spans(memory: &Memory, end: &Vector) -> Vec<Span> {
    let span = |(origin, last): (&Origin, u64)| Span {
        origin: origin.clone(),
        floor: memory.floor(origin),
        last,
    };
    end.iter().map(span).collect()
}

/// What may go next; `None` when the log is as short as it should be.
fn allowance(logs: &[Span], to: &CompactTo) -> Option<Allowance> {
    let entries: u64 = logs.iter().map(|l| l.last.saturating_sub(l.floor)).sum();
    let allow = |stay: u64, limit: &dyn Fn(&Span) -> u64| {
        let entries = entries.checked_sub(stay).filter(|n| *n > 0)?;
        let upto = logs.iter().map(|l| (l.clone(), limit(l).min(l.last)));
        let upto: Vec<_> = upto.filter(|(l, upto)| *upto > l.floor).collect();
        (!upto.is_empty()).then_some(Allowance { upto, entries })
    };
    let held_by_both = |l: &Span| {
        let both = to.both.get(&l.origin);
        let never_past = to.never_past.as_ref();
        never_past.map_or(both, |v| both.min(v.get(&l.origin)))
    };
    allow(to.keep, &held_by_both).or_else(|| allow(to.most, &|l| l.last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(n: u8) -> Origin {
        format!("vmpro{n}.0000000{n}").parse().unwrap()
    }

    fn span(n: u8, floor: u64, last: u64) -> Span {
        let origin = origin(n);
        Span {
            origin,
            floor,
            last,
        }
    }

    fn both(a: u64, b: u64) -> Vector {
        [(origin(1), a), (origin(2), b)].into_iter().collect()
    }

    #[test]
    fn what_both_hold_goes_but_for_the_newest() {
        let logs = [span(1, 10, 100), span(2, 0, 30)];
        let to = CompactTo {
            both: both(100, 20),
            keep: 50,
            most: 1_000,
            never_past: None,
        };
        let allowed = allowance(&logs, &to).unwrap();
        assert_eq!(allowed.entries, 90 + 30 - 50);
        assert_eq!(
            allowed.upto,
            [(logs[0].clone(), 100), (logs[1].clone(), 20)]
        );
        assert_eq!(allowance(&logs, &CompactTo { keep: 120, ..to }), None);
    }

    #[test]
    fn a_report_protects_entries_until_the_log_is_too_long() {
        let logs = [span(1, 10, 100), span(2, 0, 30)];
        let to = CompactTo {
            both: both(100, 30),
            keep: 0,
            most: 200,
            never_past: Some([(origin(1), 40)].into_iter().collect()),
        };
        let allowed = allowance(&logs, &to).unwrap();
        assert_eq!(allowed.upto, [(logs[0].clone(), 40)]);
        let logs = [span(1, 40, 100), span(2, 0, 30)];
        assert_eq!(allowance(&logs, &to), None);
        let allowed = allowance(&logs, &CompactTo { most: 80, ..to }).unwrap();
        assert_eq!(allowed.entries, 10);
        assert_eq!(
            allowed.upto,
            [(logs[0].clone(), 100), (logs[1].clone(), 30)]
        );
    }

    #[test]
    fn beyond_the_bound_the_oldest_go_although_the_peer_lacks_them() {
        let logs = [span(1, 0, 100)];
        let to = CompactTo {
            most: 60,
            ..CompactTo::default()
        };
        let allowed = allowance(&logs, &to).unwrap();
        assert_eq!((allowed.entries, allowed.upto[0].1), (40, 100));
        assert_eq!(allowance(&[span(1, 40, 100)], &to), None);
    }
}
