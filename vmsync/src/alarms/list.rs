//! The list itself, in memory: which alarms are up, which are over and still shown.
//!
//! Each step is a few look-ups, also where ten thousand systems fail over at once.

use std::collections::{BTreeMap, BTreeSet};

use vmsync_config::words::UnixMillis;

use super::{Alarm, LIST_FULL, NOTICES, PASSING};

/// Characters of a subject that are kept and compared.
const SUBJECT: usize = 200;
/// Alarms of one code about what strangers do (`PASSING`) that are up at once; what is beyond counts on [`OTHERS`].
const STRANGERS: usize = 100;
/// Subject of what is beyond [`STRANGERS`].
pub(super) const OTHERS: &str = "others";

/// See the module's head.
pub(super) struct List {
    all: BTreeMap<u64, Alarm>,
    /// Numbers of those that are up, by code and subject.
    up: BTreeMap<String, BTreeMap<String, u64>>,
    up_count: usize,
    ended: BTreeSet<u64>,
    next: u64,
    limit: usize,
    /// Code and subject of what found no room, as far as that many.
    refused: BTreeSet<(String, String)>,
}

/// What became of a raise.
pub(super) enum Raised {
    /// It was up already.
    Again,
    /// It is up now; the oldest that is over made room for it.
    New { alarm: Alarm, gone: Option<u64> },
    /// So many are up that there is no room; and whether that is news of this one.
    Full { news: bool },
}

impl List {
    /// Of `alarms` that were kept, in any order; at most `limit`, of which none is up that an earlier one is.
    pub(super) fn new(limit: usize, alarms: impl IntoIterator<Item = Alarm>) -> Self {
        let mut list = Self {
            all: BTreeMap::new(),
            up: BTreeMap::new(),
            up_count: 0,
            ended: BTreeSet::new(),
            next: 1,
            limit,
            refused: BTreeSet::new(),
        };
        for alarm in alarms {
            list.next = list.next.max(alarm.id.saturating_add(1));
            list.insert(alarm);
        }
        list
    }

    pub(super) fn all(&self) -> &BTreeMap<u64, Alarm> {
        &self.all
    }

    pub(super) fn up_count(&self) -> usize {
        self.up_count
    }

    /// Subjects of `code` that are up.
    pub(super) fn up_of(&self, code: &str) -> Vec<String> {
        let up = self.up.get(code).into_iter();
        up.flat_map(|subjects| subjects.keys().cloned()).collect()
    }

    /// The number of that which is up.
    pub(super) fn find(&self, code: &str, subject: &str) -> Option<u64> {
        self.up.get(code)?.get(cut(subject)).copied()
    }

    /// Whether there is room again after [`Raised::Full`]; some, so that this does not come and go.
    pub(super) fn has_room(&mut self) -> bool {
        let room = self.up_count <= self.limit / 10 * 9;
        if room {
            self.refused.clear();
        }
        room
    }

    pub(super) fn raise(
        &mut self,
        code: &str,
        subject: &str,
        text: &str,
        now: UnixMillis,
    ) -> Raised {
        let mut subject = cut(subject).to_owned();
        let passing = PASSING.contains(&code);
        let up = self.up.get(code);
        if passing && up.is_some_and(|up| up.len() >= STRANGERS && !up.contains_key(&subject)) {
            OTHERS.clone_into(&mut subject);
        }
        let up = self
            .find(code, &subject)
            .and_then(|id| self.all.get_mut(&id));
        if let Some(alarm) = up {
            if passing {
                alarm.count += 1;
            }
            alarm.last = now;
            text.clone_into(&mut alarm.text);
            return Raised::Again;
        }
        if self.up_count >= self.limit && code != LIST_FULL {
            let room = self.refused.len() < self.limit;
            let news = room && self.refused.insert((code.to_owned(), subject));
            return Raised::Full { news };
        }
        let alarm = Alarm {
            id: self.next,
            code: code.to_owned(),
            subject,
            text: text.to_owned(),
            since: now,
            count: 1,
            last: now,
            cleared: None,
            acknowledged: None,
        };
        self.next = self.next.saturating_add(1);
        self.insert(alarm.clone());
        // One that is up is never pushed out by others.
        let gone = (self.all.len() > self.limit)
            .then(|| self.ended.pop_first())
            .flatten();
        if let Some(gone) = gone {
            self.all.remove(&gone);
        }
        Raised::New { alarm, gone }
    }

    /// Ends number `id`, if it is up.
    pub(super) fn end(&mut self, id: u64, now: UnixMillis) -> Option<Alarm> {
        let alarm = self.all.get_mut(&id).filter(|a| a.cleared.is_none())?;
        alarm.cleared = Some(now);
        let alarm = alarm.clone();
        if let Some(subjects) = self.up.get_mut(&alarm.code) {
            subjects.remove(&alarm.subject);
        }
        self.up_count -= 1;
        self.ended.insert(id);
        Some(alarm)
    }

    /// Acknowledges number `id`: the alarm as it is now, and whether that has ended it.
    pub(super) fn acknowledge(&mut self, id: u64, now: UnixMillis) -> Option<(Alarm, bool)> {
        let alarm = self.all.get_mut(&id)?;
        let at = *alarm.acknowledged.get_or_insert(now);
        if NOTICES.contains(&alarm.code.as_str())
            && let Some(ended) = self.end(id, at)
        {
            return Some((ended, true));
        }
        self.all.get(&id).map(|alarm| (alarm.clone(), false))
    }

    fn insert(&mut self, alarm: Alarm) {
        if alarm.cleared.is_some() {
            self.ended.insert(alarm.id);
        } else {
            let subjects = self.up.entry(alarm.code.clone()).or_default();
            subjects.insert(alarm.subject.clone(), alarm.id);
            self.up_count += 1;
        }
        self.all.insert(alarm.id, alarm);
    }
}

fn cut(subject: &str) -> &str {
    let end = subject.char_indices().nth(SUBJECT);
    end.and_then(|(at, _)| subject.get(..at)).unwrap_or(subject)
}
