//! State instead of operations: what is held of entities, out and in
//! (docs/decisions/0010-synchronisation.md).
//!
//! A record sent was durable here before it was shown, and a record joined is durable here before
//! the answer. Joining is repeatable and asks for no order (`merge`), so records may be sent for
//! any reason: to seed, to repair, to end a quarantine.

use serde_json::Value;
use uuid::Uuid;
use vmsync_config::words::Vector;

use crate::{
    clock,
    commit::Reading,
    disk::Purpose,
    error::StoreError,
    keys, limits,
    mailboxes::{SMALL, after},
    merge::{self, Rule},
    operation::{AudioRef, EntityKey, Stamp},
    record::{AUDIO, Record, audio_of},
    seed::{SeedStep, Seeding},
    store::Store,
    transaction::Transaction,
};

/// Records looked at in one call of [`Store::records`], so that it never takes long.
const LOOK: usize = 20_000;
/// Records read from the index at once.
const STRIDE: usize = 256;

/// What is held of an entity, to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldRecord {
    /// Which.
    pub entity: EntityKey,
    /// All that is known of it; for [`Store::join`] on the other side, opaque to all between.
    pub record: Value,
    /// The audio files it refers to that are here: to be put there before it is joined.
    pub audio: Vec<AudioRef>,
    /// Those that are not here. Such a record can be joined where the entity is quarantined only.
    pub missing: Vec<AudioRef>,
}

impl HeldRecord {
    /// What [`NewAudio::facts`](crate::NewAudio::facts) is for this audio of it.
    pub fn facts(&self, audio: &AudioRef) -> Value {
        if let EntityKey::Message(_) = self.entity {
            let facts = self.record.pointer("/f/facts/0");
            return facts.cloned().unwrap_or(Value::Null);
        }
        let versions = self.record.pointer("/v").and_then(Value::as_array);
        let its = |v: &&Value| {
            let named = v.pointer("/f/audio").and_then(crate::record::blob_of);
            named == Some(audio.blob)
        };
        let until = versions
            .and_then(|all| all.iter().find(its))
            .and_then(|v| v.pointer("/f/until"))
            .filter(|u| !u.is_null());
        until.map_or(Value::Null, |u| serde_json::json!({"until": u}))
    }

    /// For a message, whose it is.
    pub fn mailbox(&self) -> Option<&str> {
        match self.entity {
            EntityKey::Message(_) => self.record.pointer("/f/mailbox/0")?.as_str(),
            _ => None,
        }
    }
}

/// What the peer holds of an entity, to be joined.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerRecord {
    /// Which.
    pub entity: EntityKey,
    /// As [`HeldRecord::record`] gave it.
    pub record: Value,
}

/// Which records [`Store::records`] gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordsAsk<'a> {
    /// Those behind this key; `None` = from the first.
    pub after: Option<&'a str>,
    /// Those that bear something this vector does not cover.
    pub lacking: &'a Vector,
    /// At most so many.
    pub max: usize,
    /// Fewer, but at least one, when they are larger than this with their audio.
    pub max_bytes: u64,
}

/// Some records, in order of their keys.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordsPage {
    /// May be empty although more follow.
    pub records: Vec<HeldRecord>,
    /// Complete through this key: go on behind it. `None` = to the end.
    pub through: Option<String>,
}

/// What joining did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Joined {
    /// Records that are not as they were.
    pub changed: u64,
}

impl Store {
    /// Durable records in order of key, those alone that bear a stamp `lacking` does not cover.
    /// Who has joined all of them (in any number of pages, while writes go on here) holds
    /// everything of the vector this store had before the first page.
    pub fn records(&self, ask: &RecordsAsk<'_>) -> Result<RecordsPage, StoreError> {
        let mut from = match ask.after {
            None => keys::records(""),
            Some(key) => after(keys::records(key)),
        };
        let end = keys::end_of(&keys::records(""));
        let (mut records, mut through) = (Vec::new(), ask.after.map(str::to_owned));
        let (mut looked, mut bytes) = (0, 0u64);
        let reading = self.inner.committer.reading();
        loop {
            let found = self
                .inner
                .committer
                .read(|index| index.range(&from, &end, STRIDE))?;
            let last = found.len() < STRIDE;
            for (key, value) in found {
                let name = keys::entity_name(&key);
                let record = read_record(&name, &value)?;
                if record.is_beyond(ask.lacking) {
                    let held = self.held_record(&name, &record, &value)?;
                    let size = held.audio.iter().map(|a| a.bytes).sum::<u64>() + value.len() as u64;
                    bytes = bytes.saturating_add(size);
                    let full = records.len() >= ask.max || bytes > ask.max_bytes;
                    if full && !records.is_empty() {
                        return self.durable_page(&reading, records, through);
                    }
                    records.push(held);
                }
                looked += 1;
                through = Some(name);
                from = after(key);
            }
            if last {
                return self.durable_page(&reading, records, None);
            }
            if looked >= LOOK {
                return self.durable_page(&reading, records, through);
            }
        }
    }

    /// What was read is shown only once it is durable.
    fn durable_page(
        &self,
        reading: &Reading,
        records: Vec<HeldRecord>,
        through: Option<String>,
    ) -> Result<RecordsPage, StoreError> {
        self.inner.committer.show(reading)?;
        Ok(RecordsPage { records, through })
    }

    /// What is held durably of these entities; those of which nothing is known are left out.
    pub fn records_of(&self, entities: &[EntityKey]) -> Result<Vec<HeldRecord>, StoreError> {
        let mut records = Vec::new();
        let reading = self.inner.committer.reading();
        for entity in entities {
            let key = keys::record(entity);
            let value = self.inner.committer.read(|index| index.get(&key))?;
            if let Some(value) = value {
                let name = entity.to_string();
                let record = read_record(&name, &value)?;
                records.push(self.held_record(&name, &record, &value)?);
            }
        }
        self.inner.committer.show(&reading)?;
        Ok(records)
    }

    fn held_record(
        &self,
        name: &str,
        record: &Record,
        value: &[u8],
    ) -> Result<HeldRecord, StoreError> {
        let reading = |e: String| StoreError::damaged(format!("reading the record {name}"), e);
        let audio = audio_refs(record).into_iter();
        let (audio, missing) = audio.partition(|a| self.has_sound_audio(a.blob));
        Ok(HeldRecord {
            entity: EntityKey::try_from(name.to_owned()).map_err(|e| reading(e.to_string()))?,
            record: serde_json::from_slice(value).map_err(|e| reading(e.to_string()))?,
            audio,
            missing,
        })
    }

    /// Takes what the peer holds of some entities into what is held here, durably; all or nothing.
    /// `seed` says that they are a step of a seeding. One that follows on what was taken before is
    /// remembered ([`seeding`](Self::seeding)), and the last one raises the vector to its `upto`;
    /// any other is joined and moves nothing.
    ///
    /// # Errors
    /// [`StoreError::MissingAudio`] when a record would refer to a file that is not here
    /// ([`put_audio`](Self::put_audio) comes first), unless its entity is quarantined;
    /// [`StoreError::Conflict`] when the peer knows more of this very incarnation than it does
    /// itself: this store lost its memory and needs [`new_incarnation`](Self::new_incarnation)
    /// first; [`StoreError::Invalid`] for what no node writes.
    pub fn join(
        &self,
        records: &[PeerRecord],
        seed: Option<&SeedStep>,
    ) -> Result<Joined, StoreError> {
        if records.is_empty() && seed.is_none() {
            return Ok(Joined::default());
        }
        let mut size = SMALL;
        let mut read = Vec::with_capacity(records.len());
        for given in records {
            let (record, bytes) = sound(given)?;
            size = size.saturating_add(4096 + bytes as u64);
            read.push((&given.entity, record));
        }
        if let Some(step) = seed {
            sound_vector(&step.upto)?;
            sound_vector(&step.beyond)?;
        }
        self.inner.disk.room_for(size, Purpose::Content)?;
        let joined = self.run(true, |t| {
            let mut changed = 0;
            for (entity, record) in &read {
                not_of_our_own_future(t, record)?;
                changed += u64::from(t.join(entity, record)?);
            }
            if let Some(step) = seed {
                take_step(t, step)?;
            }
            Ok(Joined { changed })
        })?;
        let stamps = read.iter().flat_map(|(_, record)| record.stamps());
        self.note_clock_ahead(stamps);
        Ok(joined)
    }

    /// Of each origin the last operation this store knows to have been recorded, durably: those it
    /// holds, those whose stamp some record here bears although the operation is not held (a step
    /// of a seeding, a repair), and those a seeding under way leads to. A node that starts asks its
    /// peer for it, because a number in it must not be used again.
    pub fn seen(&self) -> Vector {
        self.inner.committer.held(|memory| {
            let mut seen = memory.vector.clone();
            seen.merge(&memory.seen);
            if let Some(seeding) = &memory.seeding {
                seen.merge(&seeding.upto);
            }
            seen
        })
    }

    /// The seeding under way here, as durable; `None` when there is none.
    pub fn seeding(&self) -> Option<Seeding> {
        self.inner.committer.held(|memory| {
            let seeding = memory.seeding.as_deref();
            // What operations have reached meanwhile needs no state any more.
            let open = seeding.filter(|s| !memory.vector.covers(&s.upto));
            open.cloned()
        })
    }
}

/// Remembers how far the seeding is, and at its end moves on to what it leads to.
fn take_step(t: &mut Transaction<'_>, step: &SeedStep) -> Result<(), StoreError> {
    knows_no_more_than_we(t, step.upto.get(t.origin()))?;
    let memory = t.memory();
    if !step.moves(&memory.vector, memory.seeding.as_deref()) {
        return Ok(());
    }
    if step.through.is_none() {
        t.jump_to(&step.upto);
    }
    t.remember_seeding(step.taken())
}

fn not_of_our_own_future(t: &Transaction<'_>, record: &Record) -> Result<(), StoreError> {
    let own = t.origin();
    let stamps = record.stamps().filter(|s| s.origin == *own).map(|s| s.seq);
    knows_no_more_than_we(t, stamps.max().unwrap_or(0).max(record.replaced.get(own)))
}

/// The peer knows our own operations up to `theirs`.
fn knows_no_more_than_we(t: &Transaction<'_>, theirs: u64) -> Result<(), StoreError> {
    let own = t.origin();
    if theirs > t.held(own) {
        return Err(lost_memory(own, theirs, t.held(own)));
    }
    Ok(())
}

/// The error for a peer that knows more of us than we do.
pub(crate) fn lost_memory(
    own: &vmsync_config::words::Origin,
    theirs: u64,
    ours: u64,
) -> StoreError {
    StoreError::Conflict(format!(
        "the peer holds operation {theirs} of this store's own {own}, which itself holds up to {ours}: this store was restored from a backup; take a new incarnation first"
    ))
}

fn read_record(name: &str, value: &[u8]) -> Result<Record, StoreError> {
    Record::from_bytes(value)
        .map_err(|e| StoreError::damaged(format!("reading the record {name}"), e))
}

/// Reads a record of the peer and refuses what no node writes, before anything is touched. Gives
/// its length with it.
pub(crate) fn sound(given: &PeerRecord) -> Result<(Record, usize), StoreError> {
    let wrong = |why: &str| StoreError::Invalid(format!("the record of {}: {why}", given.entity));
    let record = Record::from_value(&given.record).map_err(|e| wrong(&e.to_string()))?;
    let bytes = record.to_bytes().map_err(|e| wrong(&e.to_string()))?.len();
    if bytes > limits::RECORD {
        return Err(wrong(&format!(
            "it has {bytes} bytes; at most {} are taken",
            limits::RECORD
        )));
    }
    if !record.stamps().all(sound_stamp) {
        return Err(wrong(
            "a stamp in it has no sequence number, or a time after the year 9999",
        ));
    }
    sound_vector(&record.replaced)?;
    let versions = record.versions.iter().flat_map(|v| v.fields.keys());
    let newer = record.versions.iter().flat_map(|v| v.more.keys());
    let newer = newer.chain(record.more.keys());
    let mut names = record.fields.keys().chain(versions).chain(newer);
    if names.any(|name| name.len() > limits::FIELD) {
        return Err(wrong("the name of a field or member is too long"));
    }
    let by_field = record.versions.is_empty() && record.replaced.is_empty();
    let fits = match merge::rule(&given.entity) {
        Rule::Versions => record.fields.is_empty(),
        Rule::Final | Rule::Fields => by_field,
    };
    // A newer version may know better what a kind unknown here is.
    if !fits && !matches!(given.entity, EntityKey::Other(_)) {
        return Err(wrong("it is not of the kind its key says"));
    }
    Ok((record, bytes))
}

/// Whether a node may have written this stamp.
pub(crate) fn sound_stamp(stamp: &Stamp) -> bool {
    (1..u64::MAX).contains(&stamp.seq) && stamp.at.wall.0 <= clock::LAST_MILLISECOND
}

fn sound_vector(vector: &Vector) -> Result<(), StoreError> {
    let origins = vector.iter().count();
    if origins > limits::MAX_ORIGINS || vector.iter().any(|(_, seq)| seq == u64::MAX) {
        return Err(StoreError::Invalid(format!(
            "a vector of {origins} origins: at most {} are taken, with numbers below 2^64-1",
            limits::MAX_ORIGINS
        )));
    }
    Ok(())
}

/// The audio files a record refers to, as it describes them.
pub(crate) fn audio_refs(record: &Record) -> Vec<AudioRef> {
    let field = record.read(AUDIO).into_iter();
    let versions = record.versions.iter().filter_map(|v| v.get(AUDIO));
    field.chain(versions.filter_map(audio_of)).collect()
}

/// The audio files a record refers to that `here` does not know.
pub(crate) fn first_missing(record: &Record, here: impl Fn(Uuid) -> bool) -> Option<Uuid> {
    record.audio().into_iter().find(|blob| !here(*blob))
}
