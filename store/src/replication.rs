//! What the pair needs: what is held, operations out, operations and audio in.
//!
//! Nothing here shows the peer anything that is not durable.

use std::{io, sync::atomic::Ordering, thread};

use uuid::Uuid;
use vmsync_config::words::{Origin, Vector};

use crate::{
    blobs::{Blobs, NewAudio},
    chance, clock,
    commit::ReadAhead,
    digest::Digest,
    disk::Purpose,
    error::StoreError,
    join::{audio_refs, lost_memory, sound_stamp},
    keys, limits,
    log::{self, Mark},
    mailboxes::SMALL,
    merge::{self, Rule},
    messages::check_audio,
    operation::{Effect, EntityKey, Operation, Stamp},
    record::{AUDIO, blob_of},
    store::Store,
    transaction::Transaction,
};

/// One answer of [`Store::operations`] ends after this many bytes, whatever was asked for.
const ANSWER: usize = 8 * 1024 * 1024;
/// Audio files written side by side.
const SIDE_BY_SIDE: usize = 4;
/// Operations of the peer taken as one transaction.
const PART: usize = 500;
/// Entries of the log read at once.
const STRIDE: usize = 256;

/// An operation as it stands in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Logged {
    /// Its number.
    pub seq: u64,
    /// The operation as JSON.
    pub json: String,
    /// Read, where it may name audio or stand for one that was skipped; `None` = it does neither.
    pub read: Option<Operation>,
}

impl Store {
    /// What is held *durably*: operations not yet flushed are not in it.
    pub fn have(&self) -> Vector {
        self.inner.committer.durable().0
    }

    /// Digest of the state at the vector returned with it, read together.
    pub fn digest(&self) -> (Vector, Digest) {
        let (vector, buckets) = self.inner.committer.durable();
        (vector, buckets.digest())
    }

    /// Durable operations of `origin` with sequence above `after`, in order, at most `max`; fewer
    /// (but at least one) when they are large.
    ///
    /// An operation that names an audio file nothing refers to any more, because the message was
    /// deleted or the greeting replaced since, is given without it: the file is gone, and the
    /// operation that made it so follows. A caller that finds the audio of an operation missing
    /// all the same (it went between the two reads) asks again. One that was skipped where it came
    /// from says so ([`Operation::skipped`]).
    ///
    /// # Errors
    /// [`StoreError::BelowFloor`] when the log no longer has the first of them.
    pub fn operations(
        &self,
        origin: &Origin,
        after: u64,
        max: usize,
    ) -> Result<Vec<Operation>, StoreError> {
        let logged = self.logged(origin, after, max)?;
        let read = logged.into_iter().map(|logged| match logged.read {
            Some(operation) => Ok(operation),
            None => {
                serde_json::from_str(&logged.json).map_err(|e| damaged_entry(origin, logged.seq, e))
            }
        });
        read.collect()
    }

    /// As [`operations`](Self::operations), as JSON: most are passed on as they stand in the log.
    pub fn logged(
        &self,
        origin: &Origin,
        after: u64,
        max: usize,
    ) -> Result<Vec<Logged>, StoreError> {
        let (last, floor) = self
            .inner
            .committer
            .held(|m| (m.vector.get(origin), m.floor(origin)));
        if after < floor {
            let origin = origin.clone();
            return Err(StoreError::BelowFloor { origin, floor });
        }
        let reading = self.inner.committer.reading();
        let mut operations = Vec::new();
        let (mut next, mut size, mut stripped) = (after.saturating_add(1), 0, false);
        while next <= last && operations.len() < max && size < ANSWER {
            let to = keys::log(origin, last.saturating_add(1));
            let from = keys::log(origin, next);
            let stride = STRIDE.min(max - operations.len());
            let found = self
                .inner
                .committer
                .read(|index| index.range(&from, &to, stride))?;
            if found.is_empty() {
                return Err(self.missing(origin, next));
            }
            for (key, bytes) in found {
                if key != keys::log(origin, next) {
                    return Err(self.missing(origin, next));
                }
                let (logged, changed) = self.logged_as(origin, next, &bytes)?;
                stripped |= changed;
                next = next.saturating_add(1);
                size += bytes.len();
                operations.push(logged);
                if size >= ANSWER {
                    break;
                }
            }
        }
        if stripped {
            // What took the audio away may not be durable yet; without it the peer would lose
            // the audio to a change that never was.
            self.inner.committer.show(&reading)?;
        }
        Ok(operations)
    }

    /// One entry, and whether it is given without its audio.
    fn logged_as(
        &self,
        origin: &Origin,
        seq: u64,
        entry: &[u8],
    ) -> Result<(Logged, bool), StoreError> {
        let text = log::split(entry).and_then(|(_, json)| {
            let text = std::str::from_utf8(json);
            text.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
        });
        let json = text.map_err(|e| damaged_entry(origin, seq, e))?.to_owned();
        // Names in what this program wrote stand there as they are, without escapes.
        let plain = !json.contains("\"audio\"")
            && !json.contains("\"skipped\"")
            && json.contains(&format!("\"seq\":{seq}}}"));
        if plain {
            let read = None;
            return Ok((Logged { seq, json, read }, false));
        }
        let mut operation: Operation =
            serde_json::from_str(&json).map_err(|e| damaged_entry(origin, seq, e))?;
        if operation.stamp.seq != seq {
            return Err(self.missing(origin, seq));
        }
        let stripped = self.strip_gone_audio(&mut operation)?;
        let json = if stripped {
            serde_json::to_string(&operation).map_err(|e| StoreError::Invalid(e.to_string()))?
        } else {
            json
        };
        let read = Some(operation);
        Ok((Logged { seq, json, read }, stripped))
    }

    /// Why an entry of the log is not there: compacted since it was asked for, or lost. The floor
    /// is raised in the batch that removes the entries, so who misses one sees it raised.
    fn missing(&self, origin: &Origin, seq: u64) -> StoreError {
        let key = keys::floor(origin);
        let floor = self
            .inner
            .committer
            .read(|index| index.get(&key)?.map(|v| Mark::from_bytes(&v)).transpose());
        match floor {
            Ok(Some(Mark { seq: floor, .. })) if floor >= seq => StoreError::BelowFloor {
                origin: origin.clone(),
                floor,
            },
            Ok(_) => StoreError::damaged(
                format!("reading operation {seq} of {origin}"),
                "it is missing in the log",
            ),
            Err(error) => error,
        }
    }

    /// Takes the audio from an operation where nothing refers to it any more.
    fn strip_gone_audio(&self, operation: &mut Operation) -> Result<bool, StoreError> {
        let Effect::Set(fields) = &mut operation.effect else {
            return Ok(false);
        };
        let Some(blob) = fields.get(AUDIO).and_then(blob_of) else {
            return Ok(false);
        };
        let record = self.record(&operation.entity)?;
        if record.audio().contains(&blob) {
            return Ok(false);
        }
        if merge::rule(&operation.entity) == Rule::Final && record.deleted.is_some() {
            // Deleted for good: nobody needs to know who called.
            fields.clear();
        } else {
            fields.insert(AUDIO.to_owned(), serde_json::Value::Null);
        }
        Ok(true)
    }

    /// Writes the audio files of a mail as [`put_audio`](Self::put_audio) does, several side by side:
    /// a disk makes several durable in little more than the time of one. Where one fails, others
    /// may have been written: they are found in place by the next try.
    pub fn put_audios(&self, audios: &[(NewAudio<'_>, &[u8])]) -> Result<(), StoreError> {
        let alone = self.inner.committer.is_simulated();
        let lanes = if alone { 1 } else { SIDE_BY_SIDE }.min(audios.len());
        let lane = |first: usize| {
            let mut lane = audios.iter().skip(first).step_by(lanes.max(1));
            lane.try_for_each(|(new, bytes)| self.put_audio(new.clone(), bytes))
        };
        thread::scope(|scope| {
            let others: Vec<_> = (1..lanes)
                .map(|first| scope.spawn(move || lane(first)))
                .collect();
            let own = lane(0);
            let others = others.into_iter().map(|other| {
                let failed = |_| Err(StoreError::damaged("writing audio", "a thread of it ended"));
                other.join().unwrap_or_else(failed)
            });
            others.fold(own, Result::and)
        })
    }

    /// Writes a replica's audio file, its bytes durably, its name with the operations that refer to
    /// it ([`apply`](Self::apply), [`join`](Self::join)), or at once where those are held already; writes
    /// nothing when it is there with the same SHA-256, or when it is for a message deleted here already.
    pub fn put_audio(&self, new: NewAudio<'_>, bytes: &[u8]) -> Result<(), StoreError> {
        check_audio(new.audio, bytes)?;
        let blob = new.audio.blob;
        if self.mend_fault(&new, bytes)? {
            return Ok(());
        }
        let found = self.inner.blobs.open_file(blob);
        let record = self.record(&new.entity)?;
        let referred_to = audio_refs(&record).iter().any(|held| held.blob == blob);
        if let Ok((_, held)) = found {
            if held.audio.sha256 == new.audio.sha256 {
                self.mend_audio(new, bytes)?;
                if referred_to {
                    // It may be of a first try that did not come to its end.
                    return self.settle_durably(blob);
                }
                return Ok(());
            }
            return Err(StoreError::Invalid(format!(
                "audio {blob} is in the store with other content"
            )));
        }
        if matches!(new.entity, EntityKey::Message(_)) && record.deleted.is_some() {
            return Ok(());
        }
        if referred_to {
            // What refers to it is held: it went missing, and no commit may follow.
            return self.replace_audio(new, bytes);
        }
        self.write_replica(new, bytes)
    }

    /// Writes a file that is there anew if its entity is under quarantine and its audio is damaged.
    /// (Others are not read through: a peer that repeats itself must not cost a disk its time.)
    fn mend_audio(&self, new: NewAudio<'_>, bytes: &[u8]) -> Result<(), StoreError> {
        let quarantined = self
            .inner
            .committer
            .held(|m| m.quarantine.contains_key(&new.entity));
        if !quarantined || self.inner.blobs.read(new.audio).is_ok() {
            return Ok(());
        }
        self.replace_audio(new, bytes)
    }

    /// Writes a file anew in the place of what is there, durably: the record that refers to it was
    /// there before, so that no commit makes the name durable.
    pub(crate) fn replace_audio(&self, new: NewAudio<'_>, bytes: &[u8]) -> Result<(), StoreError> {
        let blob = new.audio.blob;
        self.write_replica(new, bytes)?;
        self.settle_durably(blob)
    }

    fn settle_durably(&self, blob: Uuid) -> Result<(), StoreError> {
        let doing = format!("replacing the damaged audio {blob}");
        let settled = self.inner.blobs.settle_durably(blob);
        settled.map_err(|e| self.inner.disk.error(doing, e))
    }

    fn write_replica(&self, new: NewAudio<'_>, bytes: &[u8]) -> Result<(), StoreError> {
        let size = new.audio.bytes.saturating_add(Blobs::OVERHEAD);
        self.inner
            .disk
            .room_for(size.saturating_add(SMALL), Purpose::Content)?;
        let doing = format!("writing audio {} for {}", new.audio.blob, new.entity);
        let written = self.inner.blobs.write(new, bytes);
        written.map_err(|e| self.inner.disk.error(doing, e))
    }

    /// Applies operations of the peer, in order, durably; those held already are skipped. Returns
    /// how many were new. They are taken a few hundred at a time, so that other writers get their
    /// turn: on an error none of the few hundred it is among was applied, those before them were.
    ///
    /// # Errors
    /// [`StoreError::Gap`] when an operation is not the next of its origin;
    /// [`StoreError::MissingAudio`] when a message or greeting would refer to a file that is not
    /// there; [`StoreError::Conflict`] when the peer knows more of this very incarnation than it
    /// does itself: this store lost its memory and needs [`new_incarnation`](Self::new_incarnation)
    /// first; [`StoreError::Invalid`] for what no node writes; [`StoreError::QuarantineFull`] when
    /// one stands for a skipped operation and no more can be noted.
    pub fn apply(&self, operations: &[Operation]) -> Result<usize, StoreError> {
        if operations.is_empty() {
            // Needs no room: even on a full disk the nodes must be able to tell what they hold.
            return Ok(0);
        }
        operations.iter().try_for_each(sound)?;
        let removes = |o: &Operation| o.effect == Effect::Delete || o.skipped().is_some();
        let removing = operations.iter().all(removes);
        let purpose = if removing {
            Purpose::Upkeep
        } else {
            Purpose::Content
        };
        let size = SMALL + 4096 * operations.len() as u64;
        self.inner.disk.room_for(size, purpose)?;
        let (mut new, mut begun) = (0, Vec::new());
        // The next are worked out while the committer writes the last.
        let committer = &self.inner.committer;
        let mut ahead = ReadAhead::default();
        let mut parts = operations.chunks(PART).peekable();
        let mut take_next = |part: &[Operation], next: &[Operation]| {
            let keys: Vec<_> = next.iter().map(|o| keys::record(&o.entity)).collect();
            let read = std::mem::take(&mut ahead);
            let taken = committer.begin_part(self.now(), true, &read, &keys, |t| take(t, part));
            let (count, part, read) = taken?;
            ahead = read;
            new += count;
            begun.push(part);
            committer.give_way();
            Ok(())
        };
        let mut taken = Ok(());
        while let (Some(part), Ok(())) = (parts.next(), &taken) {
            taken = take_next(part, parts.peek().copied().unwrap_or_default());
        }
        for part in begun {
            self.finish(part)?;
        }
        taken?;
        self.note_clock_ahead(operations.iter().map(|o| &o.stamp));
        Ok(new)
    }

    /// Notes how far ahead of our clock the peer's stamps are. Ours come back with records too, and
    /// say nothing of its clock; where there are none of the peer's, nothing was learnt.
    pub(crate) fn note_clock_ahead<'a>(&self, stamps: impl Iterator<Item = &'a Stamp>) {
        let (now, me) = (self.now(), self.origin().node);
        let theirs = stamps.filter(|s| s.origin.node != me);
        if let Some(ahead) = theirs.map(|s| clock::ahead_ms(now, s.at)).max() {
            self.inner.clock_ahead_ms.store(ahead, Ordering::Relaxed);
        }
    }

    /// Takes a new incarnation (the peer knows more of us than we do). Its sequence begins at 1;
    /// the operations of the old one can then be fetched from the peer.
    pub fn new_incarnation(&self) -> Result<Origin, StoreError> {
        self.write(SMALL, Purpose::Upkeep, |t| {
            let mut origin = t.origin().clone();
            // Random, so that it need not be remembered to be new; but never one known here.
            while origin == *t.origin() || t.held(&origin) > 0 {
                origin.incarnation = chance::incarnation();
            }
            t.take_origin(origin.clone())?;
            Ok(origin)
        })
    }

    /// Whether an audio file is in the store (durable, header not checked).
    pub fn has_audio(&self, blob: Uuid) -> bool {
        self.inner.blobs.find(blob).is_some()
    }
}

fn damaged_entry(origin: &Origin, seq: u64, why: impl std::fmt::Display) -> StoreError {
    StoreError::damaged(
        format!("reading operation {seq} of {origin}"),
        why.to_string(),
    )
}

/// Takes operations of the peer into a transaction; how many were new.
fn take(t: &mut Transaction<'_>, operations: &[Operation]) -> Result<usize, StoreError> {
    let mut new = 0;
    for operation in operations {
        let origin = &operation.stamp.origin;
        let held = t.held(origin);
        if operation.stamp.seq <= held {
            t.note(operation)?;
            continue;
        }
        if origin == t.origin() {
            return Err(lost_memory(origin, operation.stamp.seq, held));
        }
        if operation.stamp.seq != held + 1 {
            return Err(StoreError::Gap {
                origin: origin.clone(),
                expected: held + 1,
                got: operation.stamp.seq,
            });
        }
        t.remote(operation.clone())?;
        new += 1;
    }
    Ok(new)
}

/// Refuses what no node writes, before anything is touched.
fn sound(operation: &Operation) -> Result<(), StoreError> {
    let wrong = |why: &str| {
        Err(StoreError::Invalid(format!(
            "operation {} of {}: {why}",
            operation.stamp.seq, operation.stamp.origin
        )))
    };
    if !sound_stamp(&operation.stamp) {
        return wrong("sequence numbers begin at 1, and times end with the year 9999");
    }
    if let Effect::Set(fields) = &operation.effect
        && fields.keys().any(|name| name.len() > limits::FIELD)
    {
        return wrong("a field's name is too long");
    }
    Ok(())
}
