//! Checks the index against itself: all that is derived is worked out again from the records.

use std::{collections::BTreeMap, io, sync::Arc};

use vmsync_config::words::{Extension, Origin};

use crate::{
    digest::Buckets,
    error::StoreError,
    join::audio_refs,
    keys,
    log::{self, Ends},
    mailboxes::after,
    model::Totals,
    operation::EntityKey,
    quarantine::Notes,
    record::Record,
    store::Store,
    view::{self, Summary},
};

/// Keys read at once.
const STRIDE: usize = 1_000;
/// Problems told one by one; more are counted.
const TOLD: usize = 1_000;

/// A key that follows from a record, and its value.
type Derivation = (Vec<u8>, Vec<u8>);

/// What the records come to.
#[derive(Default)]
struct Derived {
    summaries: BTreeMap<Extension, Summary>,
    totals: Totals,
    buckets: Buckets,
    quarantine: Arc<Notes>,
    /// Keys of each kind that follow from the records.
    keys: BTreeMap<u8, u64>,
    problems: Problems,
}

/// What does not fit, in words.
#[derive(Default)]
struct Problems {
    told: Vec<String>,
    more: u64,
}

impl Problems {
    fn tell(&mut self, text: impl Into<String>) {
        if self.told.len() < TOLD {
            self.told.push(text.into());
        } else {
            self.more += 1;
        }
    }

    fn all(mut self) -> Vec<String> {
        if self.more > 0 {
            self.told.push(format!("and {} more", self.more));
        }
        self.told
    }
}

/// What a look at the audio files found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AudioCheck {
    /// Files that records refer to.
    pub files: u64,
    /// Their audio, in bytes.
    pub bytes: u64,
    /// What is missing or damaged, in words; the first thousand, then how many more.
    pub problems: Vec<String>,
    /// Files no record refers to: left by a rebuild or by what is under way. They do no harm.
    pub unreferenced: u64,
}

impl Store {
    /// Compares digest, counts, lists and totals with the records, vector and floor with the log
    /// and its running totals, and asks for every audio file. Returns what does not fit, in words
    /// (the first thousand); empty when all does. What is known to be under quarantine is not told
    /// again. It reads everything, a piece at a time: for `store check` and tests, while nothing
    /// writes.
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
        self.each(keys::RECORD, |key, value| {
            for (key, value) in derived.take(&key, &value, |blob| self.has_audio(blob)) {
                self.check_derived(&mut derived, &key, &value)?;
            }
            Ok(())
        })?;
        let (vector, digest) = self.digest();
        if derived.buckets.digest() != digest {
            derived
                .problems
                .tell("the digest is not that of the records");
        }
        if derived.totals != self.totals()? {
            derived
                .problems
                .tell("the totals are not those of the records");
        }
        for (ext, summary) in std::mem::take(&mut derived.summaries) {
            let bytes = serde_json::to_vec(&summary)
                .map_err(|e| StoreError::damaged("writing a summary", e))?;
            self.check_derived(&mut derived, &keys::summary(&ext), &bytes)?;
        }
        // Each that follows is there; as many as there are means that no others are.
        for kind in [keys::SUMMARY, keys::ARRIVAL, keys::SOURCE, keys::UNMAILED] {
            let mut held = 0;
            self.each(kind, |_, _| {
                held += 1;
                Ok(())
            })?;
            let wanted = derived.keys.get(&kind).copied().unwrap_or(0);
            if held != wanted {
                derived.problems.tell(format!(
                    "the keys {:?} are not those of the records: {held} held, {wanted} expected",
                    char::from(kind),
                ));
            }
        }
        for (origin, last) in vector.iter() {
            let ends = logs.get(origin).copied().unwrap_or_default();
            if let Some(problem) = self.check_log(origin, last, ends)? {
                derived.problems.tell(problem);
            }
        }
        Ok(derived.problems.all())
    }

    fn check_derived(
        &self,
        derived: &mut Derived,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), StoreError> {
        if let Some(kind) = key.first() {
            *derived.keys.entry(*kind).or_default() += 1;
        }
        let held = self.inner.committer.read(|index| index.get(key))?;
        if held.as_deref() != Some(value) {
            derived.problems.tell(format!(
                "the key {:?} is not what the records make it",
                String::from_utf8_lossy(key)
            ));
        }
        Ok(())
    }

    /// Looks at every audio file records refer to: whether it is there, whole and theirs; with
    /// `read`, all of it is read and compared with its SHA-256. Files of quarantined records are
    /// left out: of those it is known. `progress` is told how many were looked at.
    pub fn check_audio(
        &self,
        read: bool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<AudioCheck, StoreError> {
        let quarantine = self.inner.committer.held(|m| m.quarantine.clone());
        let blobs = &self.inner.blobs;
        let mut check = AudioCheck::default();
        let mut problems = Problems::default();
        let mut referred = Vec::new();
        self.each(keys::RECORD, |key, value| {
            let name = keys::entity_name(&key);
            let Ok(record) = Record::from_bytes(&value) else {
                return Ok(());
            };
            let known =
                EntityKey::try_from(name.clone()).is_ok_and(|e| quarantine.contains_key(&e));
            for audio in audio_refs(&record) {
                referred.push(audio.blob);
                if known {
                    continue;
                }
                let seen = match blobs.header(audio.blob) {
                    Ok(_) if read => blobs.verify(&audio),
                    Ok(header) if header.audio != audio => {
                        Err(io::Error::other("it is another than its record says"))
                    }
                    other => other.map(drop),
                };
                match seen {
                    Ok(()) => {
                        check.files += 1;
                        check.bytes = check.bytes.saturating_add(audio.bytes);
                    }
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {
                        problems.tell(format!("audio {} of {name} is missing", audio.blob));
                    }
                    Err(e) => {
                        problems.tell(format!("audio {} of {name} is damaged: {e}", audio.blob));
                    }
                }
                progress(referred.len() as u64);
            }
            Ok(())
        })?;
        referred.sort_unstable();
        let reading = |e| self.inner.disk.error("listing the audio files", e);
        let files = blobs.list().map_err(reading)?;
        let loose = files.iter().filter(|f| referred.binary_search(f).is_err());
        check.unreferenced = loose.count() as u64;
        check.problems = problems.all();
        Ok(check)
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

    /// Reads all keys of a kind in order, a stride at a time.
    fn each(
        &self,
        kind: u8,
        mut visit: impl FnMut(Vec<u8>, Vec<u8>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (mut from, end) = (vec![kind], keys::end_of(&[kind]));
        loop {
            let found = self
                .inner
                .committer
                .read(|index| index.range(&from, &end, STRIDE))?;
            let Some((last, _)) = found.last() else {
                return Ok(());
            };
            from = after(last.clone());
            for (key, value) in found {
                visit(key, value)?;
            }
        }
    }
}

impl Derived {
    fn summary(&mut self, ext: &Extension) -> &mut Summary {
        self.summaries.entry(ext.clone()).or_default()
    }

    /// Takes a record; gives the keys that follow from it.
    fn take(
        &mut self,
        key: &[u8],
        value: &[u8],
        has_audio: impl Fn(uuid::Uuid) -> bool,
    ) -> Vec<Derivation> {
        let name = String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned();
        let (Ok(entity), Ok(record)) =
            (EntityKey::try_from(name.clone()), Record::from_bytes(value))
        else {
            self.buckets.add(&name, value);
            self.problems
                .tell(format!("the record {name} is unreadable"));
            return Vec::new();
        };
        let counts = !self.quarantine.contains_key(&entity);
        if counts {
            self.buckets.add(&name, value);
        }
        for blob in record.audio() {
            if counts && !has_audio(blob) {
                self.problems
                    .tell(format!("audio {blob} of {name} is missing"));
            }
        }
        match entity {
            EntityKey::Mailbox(ext) if view::mailbox_exists(&record) => {
                let summary = self.summary(&ext);
                summary.alive = true;
                summary.email_since = view::email_setting(&record).map(|s| s.since);
                self.totals.mailboxes += 1;
            }
            EntityKey::Greeting(ext, kind) if view::greeting(kind, &record).is_some() => {
                let greetings = &mut self.summary(&ext).greetings;
                greetings.push(kind);
                greetings.sort_unstable();
            }
            EntityKey::Message(id) => {
                if let Some(message) = view::message(id, &record) {
                    return self.take_message(&message);
                }
            }
            _ => {}
        }
        Vec::new()
    }

    fn take_message(&mut self, m: &crate::model::Message) -> Vec<Derivation> {
        // Mailboxes come before messages.
        let summary = self.summary(&m.mailbox);
        let unmailed = view::is_unmailed(m, summary.email_since);
        let counts = &mut summary.counts;
        *counts.of(m.state) += 1;
        counts.bytes += m.audio.bytes;
        self.totals.messages += 1;
        self.totals.bytes += m.audio.bytes;
        let place = keys::place(m.stamp.at, m.id);
        let state = serde_json::to_vec(&m.state).unwrap_or_default();
        let mut keys = vec![(keys::arrival(&m.mailbox, &place), state)];
        if let Some(source) = &m.facts.source_id {
            keys.push((keys::source(&m.mailbox, source, m.id), Vec::new()));
        }
        if unmailed {
            keys.push((keys::unmailed(&m.mailbox, &place), Vec::new()));
        }
        keys
    }
}
