//! One writer's changes: operations merged into records, and all that follows from the records.
//!
//! Operations, local or the peer's, go the same way: into the log, and by `merge` into the record
//! of their entity (`Transaction::take`); state of the peer is joined to it (`replica`). What is
//! derived (the digest, the mailbox's messages in order of arrival, its
//! counts, the totals, the source ids, the audio files in use) is worked out once per entity at
//! the end, from the record before and the record after (`finish`); so it cannot depend on the way
//! the record came about.

mod finish;
mod replica;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;
use vmsync_config::words::{Extension, Origin, UnixMillis, Vector};

use crate::{
    clock,
    commit::{Aftermath, Memory, ReadAhead},
    disk::Disk,
    error::StoreError,
    index::{Index, Overlay},
    keys, limits, log,
    merge::{self, BASED_ON, Rule},
    model::Totals,
    operation::{Effect, EntityKey, Hlc, Operation, Stamp},
    quarantine::Notes,
    record::{AUDIO, Record, blob_of},
    view::Summary,
};

/// Changes being worked out under the writers' lock.
pub(crate) struct Transaction<'a> {
    index: &'a Index,
    /// Not yet in the index: newest first.
    layers: [Option<&'a Overlay>; 2],
    /// What was read of all these before.
    ahead: Option<&'a ReadAhead>,
    disk: &'a Disk,
    writes: Overlay,
    /// Keys of records whose value so far is a large one.
    large: BTreeSet<Vec<u8>>,
    memory: Memory,
    before: Before,
    now: UnixMillis,
    entries: BTreeMap<EntityKey, Entry>,
    operations: Vec<Operation>,
    /// Entities changed by joining.
    joined: BTreeSet<EntityKey>,
    /// Origins whose last number a seeding has raised.
    raised: BTreeSet<Origin>,
    /// Audio files named by operations seen here, also by those skipped.
    named: BTreeSet<Uuid>,
    /// As stored, and as it becomes.
    summaries: BTreeMap<Extension, (Summary, Summary)>,
}

/// What was held in memory before, to see what has changed.
struct Before {
    clock: Hlc,
    totals: Totals,
    quarantine: Arc<Notes>,
    seen: Arc<Vector>,
}

struct Entry {
    stored: Option<Vec<u8>>,
    before: Record,
    now: Record,
}

/// What a transaction comes to.
pub(crate) struct Finished {
    pub(crate) overlay: Overlay,
    /// Keys of records that had a large value.
    pub(crate) large: BTreeSet<Vec<u8>>,
    pub(crate) memory: Memory,
    pub(crate) operations: Vec<Operation>,
    pub(crate) joined: Vec<(EntityKey, bool)>,
    pub(crate) mailboxes: Vec<Extension>,
    /// Whether listeners are to be told: something that is replicated has changed.
    pub(crate) tell: bool,
    pub(crate) aftermath: Aftermath,
}

impl<'a> Transaction<'a> {
    pub(crate) fn new(
        index: &'a Index,
        layers: [Option<&'a Overlay>; 2],
        memory: Memory,
        now: UnixMillis,
        disk: &'a Disk,
    ) -> Self {
        let before = Before {
            clock: memory.clock,
            totals: memory.totals,
            quarantine: memory.quarantine.clone(),
            seen: memory.seen.clone(),
        };
        Self {
            index,
            layers,
            ahead: None,
            disk,
            writes: Overlay::new(),
            large: BTreeSet::new(),
            memory,
            before,
            now,
            entries: BTreeMap::new(),
            operations: Vec::new(),
            joined: BTreeSet::new(),
            raised: BTreeSet::new(),
            named: BTreeSet::new(),
            summaries: BTreeMap::new(),
        }
    }

    /// With what was read ahead, where that is still true.
    pub(crate) fn with(mut self, ahead: Option<&'a ReadAhead>) -> Self {
        self.ahead = ahead;
        self
    }

    // ---- reading ----

    fn failed(&self, source: io::Error) -> StoreError {
        let doing = format!("reading the index {}", self.index.path().display());
        self.disk.index_error(doing, source)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(value) = self.writes.get(key) {
            return Ok(value.clone());
        }
        if let Some(value) = self.ahead.and_then(|ahead| ahead.get(key)) {
            return Ok(value.clone());
        }
        let mut layers = self.layers.iter().flatten();
        if let Some(value) = layers.find_map(|layer| layer.get(key)) {
            return Ok(value.clone());
        }
        self.index.get(key).map_err(|e| self.failed(e))
    }

    /// All keys that begin with `prefix`, in order.
    pub(crate) fn keys(&self, prefix: &[u8]) -> Result<BTreeSet<Vec<u8>>, StoreError> {
        let end = keys::end_of(prefix);
        let stored = self
            .index
            .range(prefix, &end, usize::MAX)
            .map_err(|e| self.failed(e))?;
        let mut found: BTreeSet<Vec<u8>> = stored.into_iter().map(|(key, _)| key).collect();
        let layers = self.layers.iter().rev().flatten().copied();
        for layer in layers.chain(std::iter::once(&self.writes)) {
            for (key, value) in layer.range(prefix.to_vec()..end.clone()) {
                if value.is_some() {
                    found.insert(key.clone());
                } else {
                    found.remove(key);
                }
            }
        }
        Ok(found)
    }

    fn json<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        self.get(key)?
            .map(|bytes| serde_json::from_slice(&bytes).map_err(|e| self.failed(e.into())))
            .transpose()
    }

    fn entry(&mut self, entity: &EntityKey) -> Result<&mut Entry, StoreError> {
        if !self.entries.contains_key(entity) {
            let stored = self.get(&keys::record(entity))?;
            let before = match &stored {
                Some(bytes) => Record::from_bytes(bytes).map_err(|e| self.failed(e.into()))?,
                None => Record::default(),
            };
            let now = before.clone();
            let entry = Entry {
                stored,
                before,
                now,
            };
            self.entries.insert(entity.clone(), entry);
        }
        self.entries.get_mut(entity).ok_or_else(|| {
            StoreError::Conflict(format!("the record of {entity} was lost while in use"))
        })
    }

    /// The record of an entity as it is now, this transaction's changes included.
    pub(crate) fn record(&mut self, entity: &EntityKey) -> Result<&Record, StoreError> {
        Ok(&self.entry(entity)?.now)
    }

    /// Counts and greetings of a mailbox as they were before this transaction.
    pub(crate) fn summary(&mut self, ext: &Extension) -> Result<&mut Summary, StoreError> {
        if !self.summaries.contains_key(ext) {
            let stored: Summary = self.json(&keys::summary(ext))?.unwrap_or_default();
            self.summaries.insert(ext.clone(), (stored.clone(), stored));
        }
        Ok(&mut self.summaries.entry(ext.clone()).or_default().1)
    }

    /// Last sequence number held of `origin`, this transaction included.
    pub(crate) fn held(&self, origin: &Origin) -> u64 {
        self.memory.vector.get(origin)
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.memory.origin
    }

    /// What is held in memory, this transaction included; counts and digest only at its end.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The wall clock.
    pub(crate) fn now(&self) -> UnixMillis {
        self.now
    }

    // ---- changing ----

    /// Records a local change of `fields`.
    pub(crate) fn set<'n>(
        &mut self,
        entity: &EntityKey,
        fields: impl IntoIterator<Item = (&'n str, Value)>,
    ) -> Result<Stamp, StoreError> {
        let mut fields: BTreeMap<String, Value> = fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        if merge::rule(entity) == Rule::Versions {
            let context = serde_json::to_value(self.record(entity)?.context())
                .map_err(|e| self.failed(e.into()))?;
            fields.insert(BASED_ON.to_owned(), context);
        }
        self.local(entity, Effect::Set(fields))
    }

    /// Records a local deletion.
    pub(crate) fn delete(&mut self, entity: &EntityKey) -> Result<Stamp, StoreError> {
        self.local(entity, Effect::Delete)
    }

    /// Records what an audio file says of itself, for an index made anew: with the least stamp
    /// there is, so that whatever else is known of the entity wins over it.
    pub(crate) fn recover<'n>(
        &mut self,
        entity: &EntityKey,
        fields: impl IntoIterator<Item = (&'n str, Value)>,
    ) -> Result<(), StoreError> {
        let origin = self.memory.origin.clone();
        let fields = fields.into_iter().map(|(n, v)| (n.to_owned(), v));
        self.take(Operation {
            stamp: Stamp::recovered(origin.clone(), self.held(&origin).saturating_add(1)),
            entity: entity.clone(),
            effect: Effect::Set(fields.collect()),
            extra: BTreeMap::new(),
        })
    }

    fn local(&mut self, entity: &EntityKey, effect: Effect) -> Result<Stamp, StoreError> {
        self.memory.clock = clock::tick(self.memory.clock, self.now);
        // A change made here wins over what it was made upon, also where that bears the stamp of
        // a clock too far ahead to be followed.
        let newest = self.record(entity)?.newest().map(|stamp| stamp.at);
        let at = match newest {
            Some(newest) if newest >= self.memory.clock => clock::successor(newest),
            _ => self.memory.clock,
        };
        let origin = self.memory.origin.clone();
        let stamp = Stamp {
            at,
            seq: self.held(&origin).saturating_add(1),
            origin,
        };
        self.take(Operation {
            stamp: stamp.clone(),
            entity: entity.clone(),
            effect,
            extra: BTreeMap::new(),
        })?;
        Ok(stamp)
    }

    /// Takes an operation of the peer that is the next of its origin.
    pub(crate) fn remote(&mut self, operation: Operation) -> Result<(), StoreError> {
        self.memory.clock = clock::observe(self.memory.clock, self.now, operation.stamp.at);
        self.take(operation)
    }

    fn take(&mut self, operation: Operation) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(&operation).map_err(|e| self.failed(e.into()))?;
        if bytes.len() > limits::OPERATION {
            return Err(StoreError::Invalid(format!(
                "operation {} of {} has {} bytes; at most {} are taken",
                operation.stamp.seq,
                operation.stamp.origin,
                bytes.len(),
                limits::OPERATION
            )));
        }
        self.note(&operation)?;
        if let Some(why) = operation.skipped() {
            self.quarantine_stand_in(&operation, why)?;
        }
        merge::merge(&mut self.entry(&operation.entity)?.now, &operation);
        let Stamp { origin, seq, .. } = &operation.stamp;
        self.memory.vector.raise(origin, *seq);
        let ends = self.memory.logs.entry(origin.clone()).or_default();
        ends.last = ends.last.plus(&operation, bytes.len());
        let value = log::encode(ends.last, &bytes);
        self.writes.insert(keys::log(origin, *seq), Some(value));
        self.operations.push(operation);
        Ok(())
    }

    /// Notes the audio file an operation names, so that it does not stay when nothing refers to it.
    pub(crate) fn note(&mut self, operation: &Operation) -> Result<(), StoreError> {
        if let Effect::Set(fields) = &operation.effect
            && let Some(blob) = fields.get(AUDIO).and_then(blob_of)
        {
            self.named.insert(blob);
            self.entry(&operation.entity)?;
        }
        Ok(())
    }

    /// Sets or removes a key of its own (node-local records).
    pub(crate) fn put(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.writes.insert(key, value);
    }

    /// Takes another origin; its sequence numbers begin at 1.
    pub(crate) fn take_origin(&mut self, origin: Origin) -> Result<(), StoreError> {
        self.put_json(keys::ORIGIN.to_vec(), &origin)?;
        self.memory.origin = origin;
        Ok(())
    }

    fn put_json(&mut self, key: Vec<u8>, value: &impl Serialize) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(value).map_err(|e| self.failed(e.into()))?;
        self.writes.insert(key, Some(bytes));
        Ok(())
    }
}
