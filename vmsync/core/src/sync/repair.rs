//! Equal vectors, different digests: buckets are compared, then items, then the records that
//! differ are sent and joined. Nothing is deleted on the way.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

/// Buckets whose items go into one mail.
pub(super) const BUCKETS_A_MAIL: usize = 4;
/// Records asked for in one mail at most; the shell sends fewer where they are large.
const RECORDS_A_MAIL: usize = 256;
/// Records that wait to be sent; what is beyond is found again by the next comparison.
const MOST_WANTED: usize = 10_000;
/// Pause between two comparisons of the same states.
pub(super) const AGAIN: Duration = Duration::from_mins(1);

/// What is to be sent to repair a difference, or to release from quarantine.
#[derive(Debug, Clone, Default)]
pub(super) struct Repair {
    buckets: BTreeSet<u8>,
    /// At most so many in the next mail, after one that was refused; `None` = no limit but the usual.
    narrowed: Option<usize>,
    wanted: BTreeSet<String>,
    /// Wanted before, and taken since: if they are wanted once more, the record was not what lacked.
    sent: BTreeSet<String>,
    /// Groups to be sent together: released ones, and halves of what was refused.
    groups: VecDeque<(Vec<String>, bool)>,
}

impl Repair {
    /// These buckets differ.
    pub(super) fn differs(&mut self, buckets: impl IntoIterator<Item = u8>) {
        self.buckets.extend(buckets);
    }

    /// The peer wants these entities. One that has taken the record and wants it still has quarantined
    /// the entity, as far as can be told: the record goes with a release.
    pub(super) fn want(&mut self, entities: impl IntoIterator<Item = String>) {
        for entity in entities {
            if self.sent.contains(&entity) {
                self.release(vec![entity]);
            } else if self.wanted.len() < MOST_WANTED {
                self.wanted.insert(entity);
            }
        }
    }

    /// These were quarantined and are to be tried again.
    pub(super) fn release(&mut self, entities: Vec<String>) {
        let known = |e: &String| {
            self.groups
                .iter()
                .any(|(g, release)| *release && g.contains(e))
        };
        let new: Vec<_> = entities.into_iter().filter(|e| !known(e)).collect();
        // One by one: each is there because something was wrong with it.
        for entity in new
            .into_iter()
            .take(MOST_WANTED.saturating_sub(self.groups.len()))
        {
            self.groups.push_back((vec![entity], true));
        }
    }

    pub(super) fn buckets(&self) -> Vec<u8> {
        let most = self.narrowed.unwrap_or(BUCKETS_A_MAIL);
        self.buckets.iter().copied().take(most).collect()
    }

    /// The next records to send, and whether they are to be released.
    pub(super) fn records(&self) -> Option<(Vec<String>, bool)> {
        if let Some(group) = self.groups.front() {
            return Some(group.clone());
        }
        let some: Vec<_> = self.wanted.iter().take(RECORDS_A_MAIL).cloned().collect();
        (!some.is_empty()).then_some((some, false))
    }

    /// The items of the first `sent` of these buckets are at the peer.
    pub(super) fn told(&mut self, buckets: &[u8], sent: u64) {
        let sent = usize::try_from(sent).unwrap_or(usize::MAX).max(1);
        for bucket in buckets.iter().take(sent) {
            self.buckets.remove(bucket);
        }
        if self.buckets.is_empty() {
            self.narrowed = None;
        }
    }

    /// The peer refuses a mail with the items of the first `packed` of these buckets (0 = it could
    /// not be put together): fewer at once, until one alone is given up. The next comparison finds
    /// that one again.
    pub(super) fn items_refused(&mut self, buckets: &[u8], packed: u64) {
        let packed = match usize::try_from(packed) {
            Ok(0) | Err(_) => buckets.len(),
            Ok(packed) => packed.min(buckets.len()),
        };
        if packed > 1 {
            self.narrowed = Some(packed / 2);
        } else {
            self.told(buckets, 1);
        }
    }

    /// The first `sent` of these records are at the peer.
    pub(super) fn taken(&mut self, entities: &[String], sent: u64) {
        let sent = usize::try_from(sent).unwrap_or(usize::MAX);
        if self.groups.front().is_some_and(|(g, _)| g == entities) {
            let rest: Vec<_> = entities.iter().skip(sent.max(1)).cloned().collect();
            if let Some((_, release)) = self.groups.pop_front()
                && !rest.is_empty()
            {
                self.groups.push_front((rest, release));
            }
        } else {
            for entity in entities.iter().take(sent.max(1)) {
                self.wanted.remove(entity);
                if self.sent.len() < MOST_WANTED {
                    self.sent.insert(entity.clone());
                }
            }
        }
    }

    /// The peer refuses these for what they are: smaller groups, until one alone is given up.
    pub(super) fn refused(&mut self, entities: &[String], release: bool) {
        if self.groups.front().is_some_and(|(g, _)| g == entities) {
            self.groups.pop_front();
        }
        for entity in entities {
            self.wanted.remove(entity);
        }
        if entities.len() > 1 {
            let (a, b) = entities.split_at(entities.len() / 2);
            for half in [a, b] {
                self.groups.push_back((half.to_vec(), release));
            }
        }
    }

    /// Both hold the same: what was sent has done what it should.
    pub(super) fn agreed(&mut self) {
        self.sent.clear();
    }

    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buckets.is_empty() && self.wanted.is_empty() && self.groups.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(range: std::ops::Range<u32>) -> Vec<String> {
        range.map(|n| format!("message/{n:03}")).collect()
    }

    #[test]
    fn what_is_refused_is_halved_until_one_alone_is_given_up() {
        let mut repair = Repair::default();
        repair.want(names(0..100));
        let mut taken = BTreeSet::new();
        let mut mails = 0;
        while let Some((group, release)) = repair.records() {
            mails += 1;
            assert!(mails < 40);
            if group.contains(&"message/037".to_owned()) {
                repair.refused(&group, release);
            } else {
                repair.taken(&group, group.len() as u64);
                taken.extend(group);
            }
        }
        assert_eq!(taken.len(), 99);
        assert!(repair.is_empty());
    }

    #[test]
    fn buckets_that_did_not_fit_are_told_next() {
        let mut repair = Repair::default();
        repair.differs([3, 7, 9, 250]);
        let asked = repair.buckets();
        assert_eq!(asked, [3, 7, 9, 250]);
        repair.told(&asked, 1);
        assert_eq!(repair.buckets(), [7, 9, 250]);
    }

    #[test]
    fn items_the_peer_refuses_are_told_in_smaller_mails_and_one_bucket_alone_is_given_up() {
        let mut repair = Repair::default();
        repair.differs([3, 7, 9, 250]);
        let mut told = Vec::new();
        for mails in 1.. {
            let buckets = repair.buckets();
            if buckets.is_empty() {
                break;
            }
            assert!(mails < 10);
            if buckets.contains(&7) {
                repair.items_refused(&buckets, buckets.len() as u64);
            } else {
                repair.told(&buckets, buckets.len() as u64);
                told.extend(buckets);
            }
        }
        assert_eq!(told, [3, 9, 250]);
        assert!(repair.is_empty());
        // The next round begins with as many as ever.
        repair.differs([1, 2, 3, 4, 5]);
        assert_eq!(repair.buckets().len(), BUCKETS_A_MAIL);
    }

    #[test]
    fn what_did_not_fit_is_sent_next() {
        let mut repair = Repair::default();
        repair.want(names(0..10));
        let (group, _) = repair.records().unwrap();
        repair.taken(&group, 3);
        assert_eq!(repair.records().unwrap().0, names(3..10));
    }

    #[test]
    fn what_is_wanted_again_although_it_was_taken_goes_with_a_release() {
        let mut repair = Repair::default();
        repair.want(names(0..2));
        let (group, release) = repair.records().unwrap();
        assert!(!release);
        repair.taken(&group, 2);
        repair.want(names(1..3));
        let one = |n| names(n..n + 1);
        assert_eq!(repair.records().unwrap(), (one(1), true));
        repair.taken(&one(1), 1);
        assert_eq!(repair.records().unwrap(), (one(2), false));
        repair.taken(&one(2), 1);
        repair.agreed();
        repair.want(one(1));
        assert_eq!(repair.records().unwrap(), (one(1), false));
    }
}
