//! What a transaction does beyond operations: joining state, moving vector and floor past what
//! state stands for, quarantine.

use std::sync::Arc;

use vmsync_config::words::{Origin, Vector};

use super::Transaction;
use crate::{
    clock,
    error::StoreError,
    keys,
    log::{self, Mark, Sums},
    merge,
    operation::{EntityKey, Operation},
    quarantine::{self, MAX_QUARANTINED, Note},
    record::Record,
    seed::Seeding,
};

impl Transaction<'_> {
    /// Joins what the peer holds of an entity; says whether that changed anything.
    pub(crate) fn join(&mut self, entity: &EntityKey, other: &Record) -> Result<bool, StoreError> {
        for stamp in other.stamps() {
            self.memory.clock = clock::observe(self.memory.clock, self.now, stamp.at);
            self.see(&stamp.origin, stamp.seq);
        }
        for (origin, seq) in other.replaced.iter() {
            self.see(origin, seq);
        }
        self.named.extend(other.audio());
        let held = &mut self.entry(entity)?.now;
        let before = held.clone();
        merge::join(merge::rule(entity), held, other);
        let changed = *held != before;
        if changed {
            self.joined.insert(entity.clone());
        }
        Ok(changed)
    }

    /// Notes that operation `seq` of `origin` was recorded, here or elsewhere, though it may not be held.
    pub(crate) fn see(&mut self, origin: &Origin, seq: u64) {
        if seq > self.held(origin).max(self.memory.seen.get(origin)) {
            Arc::make_mut(&mut self.memory.seen).raise(origin, seq);
        }
    }

    /// Everything up to `upto` is held, as state: raises the vector, and with it the floor of the
    /// logs that do not reach there.
    pub(crate) fn jump_to(&mut self, upto: &Vector) {
        for (origin, seq) in upto.iter() {
            if seq <= self.held(origin) {
                continue;
            }
            let sums = self.memory.logs.entry(origin.clone()).or_default().last;
            self.raise_floor(origin, seq, sums);
            self.memory.vector.raise(origin, seq);
            self.raised.insert(origin.clone());
        }
    }

    /// Notes that the log of `origin` no longer has operations up to `seq`, whose totals are
    /// `sums`. The caller removes the entries.
    pub(crate) fn raise_floor(&mut self, origin: &Origin, seq: u64, sums: Sums) {
        let floor = Mark { seq, sums };
        let ends = self.memory.logs.entry(origin.clone()).or_default();
        ends.floor = floor;
        self.put(keys::floor(origin), Some(floor.to_bytes()));
    }

    /// An entry of the log, which must be there.
    pub(crate) fn entry_of_log(
        &self,
        origin: &Origin,
        seq: u64,
    ) -> Result<(Sums, Operation), StoreError> {
        let reading = || format!("reading operation {seq} of {origin}");
        let entry = self.get(&keys::log(origin, seq))?;
        let entry =
            entry.ok_or_else(|| StoreError::damaged(reading(), "it is missing in the log"))?;
        log::decode(&entry).map_err(|e| StoreError::damaged(reading(), e))
    }

    /// Remembers how far a seeding is; `None` when it has ended.
    pub(crate) fn remember_seeding(&mut self, seeding: Option<Seeding>) -> Result<(), StoreError> {
        match &seeding {
            Some(seeding) => self.put_json(keys::SEEDING.to_vec(), seeding)?,
            None => self.put(keys::SEEDING.to_vec(), None),
        }
        self.memory.seeding = seeding.map(Arc::new);
        Ok(())
    }

    /// Puts an entity under quarantine, or notes why it is again.
    pub(crate) fn quarantine(
        &mut self,
        entity: &EntityKey,
        mut note: Note,
    ) -> Result<(), StoreError> {
        // Read now, so that its record leaves the digest.
        self.entry(entity)?;
        let notes = Arc::make_mut(&mut self.memory.quarantine);
        if let Some(earlier) = notes.get(entity) {
            note.since = earlier.since;
            if note.seq == 0 {
                // The operation that stayed behind before is what it lacks still.
                note.origin = earlier.origin.clone();
                note.seq = earlier.seq;
            }
            note.stand_ins.merge(&earlier.stand_ins);
        } else if notes.len() >= MAX_QUARANTINED {
            return Err(StoreError::QuarantineFull {
                most: MAX_QUARANTINED,
            });
        }
        notes.insert(entity.clone(), note.clone());
        self.put_json(keys::quarantine(entity), &note)
    }

    /// Quarantines the entity of an operation that only stands for the one that was skipped.
    pub(super) fn quarantine_stand_in(
        &mut self,
        operation: &Operation,
        why: &str,
    ) -> Result<(), StoreError> {
        let stamp = &operation.stamp;
        let mut note = quarantine::note(&stamp.origin, stamp.seq, why, self.now);
        note.stand_ins.raise(&stamp.origin, stamp.seq);
        self.quarantine(&operation.entity, note)
    }

    /// Ends the quarantine of an entity; `None` when it is under none.
    pub(crate) fn release(&mut self, entity: &EntityKey) -> Result<Option<Note>, StoreError> {
        if !self.memory.quarantine.contains_key(entity) {
            return Ok(None);
        }
        self.entry(entity)?;
        self.put(keys::quarantine(entity), None);
        Ok(Arc::make_mut(&mut self.memory.quarantine).remove(entity))
    }
}
