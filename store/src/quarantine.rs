//! One bad operation never holds up the rest: it is skipped, and its entity is quarantined.
//!
//! An operation is skipped when it can't be sent (its audio is unreadable) or the peer refuses it
//! for good. Both nodes then note the entity durably and leave its record out of their digests,
//! so that they can still prove that they hold the same of everything else. Operations about it
//! are still taken. What stands in the receiver's log for the skipped one says so
//! ([`Operation::skipped`]). The quarantine ends ([`Store::release`]) when the entity's record was
//! joined on the other node with its audio.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vmsync_config::words::{Origin, UnixMillis, Vector};

use crate::{
    disk::Purpose,
    error::StoreError,
    join::{PeerRecord, first_missing, lost_memory, sound, sound_stamp},
    mailboxes::SMALL,
    merge,
    operation::{EntityKey, Operation},
    record::Record,
    store::Store,
    transaction::Transaction,
};

/// Most entities quarantined at once: many more are one fault, not many.
pub const MAX_QUARANTINED: usize = 10_000;
/// Longest reason kept, in characters.
const WHY: usize = 300;

/// An operation that is to stay behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// Where it was first recorded.
    pub origin: Origin,
    /// Its number there; 0 quarantines the entity and moves nothing (a record that can't be sent).
    pub seq: u64,
    /// What it is about.
    pub entity: EntityKey,
    /// Why it stays behind, for people; cut after 300 characters.
    pub why: String,
}

/// An entity under quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Which.
    pub entity: EntityKey,
    /// Origin of the last operation skipped.
    pub origin: Origin,
    /// Its number; 0 when none was.
    pub seq: u64,
    /// Why.
    pub why: String,
    /// Since when.
    pub since: UnixMillis,
}

/// What is noted of an entity under quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) origin: Origin,
    pub(crate) seq: u64,
    pub(crate) why: String,
    pub(crate) since: UnixMillis,
    /// Of each origin the last operation that something else stands for in the log here.
    #[serde(default, skip_serializing_if = "Vector::is_empty")]
    pub(crate) stand_ins: Vector,
}

/// All entities under quarantine.
pub(crate) type Notes = BTreeMap<EntityKey, Note>;

impl Store {
    /// Notes durably that these operations stay behind. Of those not held here the vector is
    /// raised past them, in order and without gaps as in [`apply`](Self::apply); those held are
    /// noted only, which is what the side that can't send them does. Those the log no longer has
    /// are settled, and passed over: a repetition that comes late changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Gap`], [`StoreError::Conflict`] as [`apply`](Self::apply);
    /// [`StoreError::QuarantineFull`] beyond [`MAX_QUARANTINED`] entities.
    pub fn skip(&self, skips: &[Skip]) -> Result<(), StoreError> {
        if skips.is_empty() {
            return Ok(());
        }
        let size = SMALL + 4096 * skips.len() as u64;
        self.inner.disk.room_for(size, Purpose::Upkeep)?;
        self.run(true, |t| skips.iter().try_for_each(|skip| take(t, skip)))
    }

    /// The entities under quarantine, durably, in order of their keys.
    pub fn quarantined(&self) -> Vec<Quarantined> {
        let notes = self.inner.committer.held(|m| m.quarantine.clone());
        let quarantined = |(entity, note): (&EntityKey, &Note)| Quarantined {
            entity: entity.clone(),
            origin: note.origin.clone(),
            seq: note.seq,
            why: note.why.clone(),
            since: note.since,
        };
        notes.iter().map(quarantined).collect()
    }

    /// Ends the quarantine of these entities, durably: their records count in the digest again.
    /// Those not under quarantine are passed over. All or nothing.
    ///
    /// The log goes no further back than what was skipped of them, because something else stands
    /// for it there: who still lacks it gets the record.
    ///
    /// # Errors
    /// [`StoreError::MissingAudio`] while a record refers to a file that is not here.
    pub fn release(&self, entities: &[EntityKey]) -> Result<(), StoreError> {
        if entities.is_empty() {
            return Ok(());
        }
        self.write(SMALL, Purpose::Upkeep, |t| {
            entities.iter().try_for_each(|e| self.end(t, e))
        })
    }

    /// As [`release`](Self::release), for a peer that is about to do the same and holds `records`
    /// of these entities, which were joined here: only where that is all that is held here too.
    /// Of an entity without a record among them it holds nothing. Else the peer, which perhaps only
    /// has a stand-in for what was skipped, would end what this node's record alone can end, and
    /// the states would differ for ever.
    ///
    /// # Errors
    /// [`StoreError::HoldsMore`], and those of [`release`](Self::release).
    pub fn release_with(
        &self,
        entities: &[EntityKey],
        records: &[PeerRecord],
    ) -> Result<(), StoreError> {
        if entities.is_empty() {
            return Ok(());
        }
        let mut asked = Vec::with_capacity(entities.len());
        for entity in entities {
            let mut theirs = Record::default();
            for given in records.iter().filter(|r| r.entity == *entity) {
                // Joined, so that it has the form in which records are held.
                merge::join(merge::rule(entity), &mut theirs, &sound(given)?.0);
            }
            asked.push((entity, theirs));
        }
        self.write(SMALL, Purpose::Upkeep, |t| {
            for (entity, theirs) in &asked {
                if t.record(entity)? != theirs {
                    return Err(StoreError::HoldsMore((*entity).clone()));
                }
                self.end(t, entity)?;
            }
            Ok(())
        })
    }

    fn end(&self, t: &mut Transaction<'_>, entity: &EntityKey) -> Result<(), StoreError> {
        let Some(note) = t.release(entity)? else {
            return Ok(());
        };
        if let Some(blob) = first_missing(t.record(entity)?, |b| self.has_audio(b)) {
            return Err(StoreError::MissingAudio(blob));
        }
        for (origin, seq) in note.stand_ins.iter() {
            if seq > t.memory().floor(origin) {
                let (sums, _) = t.entry_of_log(origin, seq)?;
                t.raise_floor(origin, seq, sums);
            }
        }
        Ok(())
    }
}

fn take(t: &mut Transaction<'_>, skip: &Skip) -> Result<(), StoreError> {
    let held = t.held(&skip.origin);
    if (1..=t.memory().floor(&skip.origin)).contains(&skip.seq) {
        return Ok(());
    }
    if skip.seq <= held {
        let note = note(&skip.origin, skip.seq, &skip.why, t.now());
        return t.quarantine(&skip.entity, note);
    }
    if skip.origin == *t.origin() {
        return Err(lost_memory(&skip.origin, skip.seq, held));
    }
    let operation = Operation::skip(
        skip.origin.clone(),
        skip.seq,
        skip.entity.clone(),
        cut(&skip.why),
    );
    if !sound_stamp(&operation.stamp) {
        return Err(StoreError::Invalid(format!(
            "operation {} of {} can't be skipped: there is no such number",
            skip.seq, skip.origin
        )));
    }
    if skip.seq != held + 1 {
        return Err(StoreError::Gap {
            origin: skip.origin.clone(),
            expected: held + 1,
            got: skip.seq,
        });
    }
    t.remote(operation)
}

/// What is noted of an entity whose operation was skipped.
pub(crate) fn note(origin: &Origin, seq: u64, why: &str, since: UnixMillis) -> Note {
    Note {
        origin: origin.clone(),
        seq,
        why: cut(why).to_owned(),
        since,
        stand_ins: Vector::default(),
    }
}

fn cut(why: &str) -> &str {
    let end = why.char_indices().nth(WHY).map_or(why.len(), |(at, _)| at);
    why.get(..end).unwrap_or(why)
}
