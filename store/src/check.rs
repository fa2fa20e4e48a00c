//! Checks the index against itself: all that is derived is worked out again from the records.

use std::{collections::BTreeMap, sync::Arc};

use vmsync_config::words::{Extension, Origin};

use crate::{
    digest::Buckets,
    error::StoreError,
    keys,
    log::{self, Ends},
    model::Totals,
    operation::EntityKey,
    quarantine::Notes,
    record::Record,
    store::Store,
    view::{self, Summary},
};

/// Entries of the log read at once.
const STRIDE: usize = 1_000;

type Keys = BTreeMap<Vec<u8>, Vec<u8>>;

/// What the records come to.
#[derive(Default)]
struct Derived {
    summaries: BTreeMap<Extension, Summary>,
    totals: Totals,
    buckets: Buckets,
    keys: Keys,
    quarantine: Arc<Notes>,
    problems: Vec<String>,
}

impl Store {
    /// Compares digest, counts, lists and totals with the records, vector and floor with the log
    /// and its running totals, and asks for every audio file. Returns what does not fit, in words;
    /// empty when all does. What is known to be under quarantine is not told again.
    /// It reads everything: for `store check` and tests, while nothing writes.
    pub fn check(&self) -> Result<Vec<String>, StoreError> {
        self.inner.committer.barrier()?;
        let (logs, quarantine) = self
            .inner
            .committer
            .held(|m| (m.logs.clone(), m.quarantine.clone()));
        let mut derived = Derived {
            quarantine,
            ..Derived::default()
        };
        for (key, value) in self.all(keys::RECORD)? {
            derived.take(&key, &value, |blob| self.has_audio(blob));
        }
        let (vector, digest) = self.digest();
        if derived.buckets.digest() != digest {
            derived.problem("the digest is not that of the records");
        }
        if derived.totals != self.totals()? {
            derived.problem("the totals are not those of the records");
        }
        derived.add_summaries()?;
        for kind in [keys::SUMMARY, keys::ARRIVAL, keys::SOURCE] {
            let held = self.all(kind)?;
            let wanted: Keys = derived
                .keys
                .iter()
                .filter(|(key, _)| key.first() == Some(&kind))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            if held != wanted {
                derived.problem(format!(
                    "the keys {:?} are not those of the records: {} held, {} expected",
                    char::from(kind),
                    held.len(),
                    wanted.len()
                ));
            }
        }
        for (origin, last) in vector.iter() {
            let ends = logs.get(origin).copied().unwrap_or_default();
            let problem = self.check_log(origin, last, ends)?;
            derived.problems.extend(problem);
        }
        Ok(derived.problems)
    }

    /// Reads the log of `origin` from its floor to `last`.
    fn check_log(
        &self,
        origin: &Origin,
        last: u64,
        ends: Ends,
    ) -> Result<Option<String>, StoreError> {
        let (mut seq, mut sums) = (ends.floor.seq, ends.floor.sums);
        let end = keys::log(origin, last.saturating_add(1));
        while seq < last {
            let from = keys::log(origin, seq + 1);
            let log = self
                .inner
                .committer
                .read(|index| index.range(&from, &end, STRIDE))?;
            if log.is_empty() {
                return Ok(Some(format!(
                    "operation {} of {origin} is missing",
                    seq + 1
                )));
            }
            for (_, bytes) in log {
                seq += 1;
                let Ok((told, operation)) = log::decode(&bytes) else {
                    return Ok(Some(format!("operation {seq} of {origin} is unreadable")));
                };
                if operation.stamp.seq != seq || operation.stamp.origin != *origin {
                    return Ok(Some(format!("operation {seq} of {origin} is missing")));
                }
                let length = log::split(&bytes).map_or(0, |(_, json)| json.len());
                sums = sums.plus(&operation, length);
                if told != sums {
                    return Ok(Some(format!(
                        "the running totals at operation {seq} of {origin} are not those of the log"
                    )));
                }
            }
        }
        Ok((sums != ends.last).then(|| {
            format!("the totals of the log of {origin} are not those of its last operation")
        }))
    }

    fn all(&self, kind: u8) -> Result<Keys, StoreError> {
        let found = self
            .inner
            .committer
            .read(|index| index.range(&[kind], &keys::end_of(&[kind]), usize::MAX))?;
        Ok(found.into_iter().collect())
    }
}

impl Derived {
    fn problem(&mut self, text: impl Into<String>) {
        self.problems.push(text.into());
    }

    fn summary(&mut self, ext: &Extension) -> &mut Summary {
        self.summaries.entry(ext.clone()).or_default()
    }

    fn take(&mut self, key: &[u8], value: &[u8], has_audio: impl Fn(uuid::Uuid) -> bool) {
        let name = String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned();
        let (Ok(entity), Ok(record)) =
            (EntityKey::try_from(name.clone()), Record::from_bytes(value))
        else {
            self.buckets.add(&name, value);
            return self.problem(format!("the record {name} is unreadable"));
        };
        let counts = !self.quarantine.contains_key(&entity);
        if counts {
            self.buckets.add(&name, value);
        }
        for blob in record.audio() {
            if counts && !has_audio(blob) {
                self.problem(format!("audio {blob} of {name} is missing"));
            }
        }
        match entity {
            EntityKey::Mailbox(ext) if view::mailbox_exists(&record) => {
                self.summary(&ext).alive = true;
                self.totals.mailboxes += 1;
            }
            EntityKey::Greeting(ext, kind) if view::greeting(kind, &record).is_some() => {
                let greetings = &mut self.summary(&ext).greetings;
                greetings.push(kind);
                greetings.sort_unstable();
            }
            EntityKey::Message(id) => {
                if let Some(message) = view::message(id, &record) {
                    self.take_message(&message);
                }
            }
            _ => {}
        }
    }

    fn take_message(&mut self, m: &crate::model::Message) {
        let counts = &mut self.summary(&m.mailbox).counts;
        *counts.of(m.state) += 1;
        counts.bytes += m.audio.bytes;
        self.totals.messages += 1;
        self.totals.bytes += m.audio.bytes;
        let place = keys::place(m.stamp.at, m.id);
        let state = serde_json::to_vec(&m.state).unwrap_or_default();
        self.keys.insert(keys::arrival(&m.mailbox, &place), state);
        if let Some(source) = &m.facts.source_id {
            self.keys
                .insert(keys::source(&m.mailbox, source, m.id), Vec::new());
        }
    }

    fn add_summaries(&mut self) -> Result<(), StoreError> {
        for (ext, summary) in std::mem::take(&mut self.summaries) {
            let bytes = serde_json::to_vec(&summary)
                .map_err(|e| StoreError::damaged("writing a summary", e))?;
            self.keys.insert(keys::summary(&ext), bytes);
        }
        Ok(())
    }
}
