//! A store in memory that can crash at its durability point.
//!
//! It holds what the real one holds: an operation log per origin without gaps, the merged state,
//! the vector and a digest, all of what is *durable*; and beside it what was written but not yet
//! flushed, which a crash takes. The conflict rule is that of docs/decisions/0004-operations.md for
//! messages: the latest stamp wins field by field, deletion is final.

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
};

use serde_json::Value;
use vmsync_config::words::{NodeId, Origin, UnixMillis, Vector};
use vmsync_store::{Effect, EntityKey, Hlc, Operation, Stamp};

/// A peer's clock is followed this far ahead of ours, as the real store does.
const FOLLOW_MS: u64 = 5 * 60 * 1000;

/// What the simulated node asks of its store; the shell asks the same of the real one.
pub trait Replica {
    /// This store's origin now.
    fn origin(&self) -> &Origin;
    /// What is held durably, and the digest of the state at it.
    fn held(&self) -> (Vector, String);
    /// Durable operations of `origin` above `after`, to `upto`, at most `max`.
    fn operations(&self, origin: &Origin, after: u64, upto: u64, max: usize) -> Vec<Operation>;
    /// Applies the peer's operations durably; what is held is skipped, a gap is refused.
    fn apply(&mut self, operations: &[Operation], now: UnixMillis) -> Result<(), String>;
    /// Records a change; not durable before [`Replica::flush`].
    fn write(&mut self, entity: EntityKey, effect: Effect, now: UnixMillis);
    /// Makes all writes durable; returns them, to be acknowledged.
    fn flush(&mut self) -> Vec<Operation>;
    /// Loses what is not durable.
    fn crash(&mut self);
    /// Takes a new incarnation.
    fn new_incarnation(&mut self, incarnation: u32);
}

/// What is known of one message.
#[derive(Debug, Clone, Default, Hash)]
struct Record {
    fields: BTreeMap<String, (Stamp, String)>,
    deleted: bool,
}

/// The store in memory.
#[derive(Debug, Clone)]
pub struct Memory {
    origin: Origin,
    clock: Hlc,
    log: BTreeMap<Origin, Vec<Operation>>,
    state: BTreeMap<EntityKey, Record>,
    unflushed: Vec<Operation>,
}

impl Memory {
    /// An empty store.
    pub fn new(node: NodeId, incarnation: u32) -> Self {
        Self {
            origin: Origin { node, incarnation },
            clock: Hlc::default(),
            log: BTreeMap::new(),
            state: BTreeMap::new(),
            unflushed: Vec::new(),
        }
    }

    /// Whether this very operation is durable here.
    pub fn holds(&self, operation: &Operation) -> bool {
        self.at(&operation.stamp.origin, operation.stamp.seq) == Some(operation)
    }

    /// All durable operations.
    pub fn log(&self) -> impl Iterator<Item = &Operation> {
        self.log.values().flatten()
    }

    /// Messages that are deleted, or those that are not.
    pub fn messages(&self, deleted: bool) -> BTreeSet<EntityKey> {
        let these = self.state.iter().filter(|(_, r)| r.deleted == deleted);
        these.map(|(key, _)| key.clone()).collect()
    }

    fn at(&self, origin: &Origin, seq: u64) -> Option<&Operation> {
        let index = usize::try_from(seq.checked_sub(1)?).ok()?;
        self.log.get(origin)?.get(index)
    }

    fn count(&self, origin: &Origin) -> u64 {
        let held = self.log.get(origin).map_or(0, Vec::len);
        u64::try_from(held).unwrap_or(u64::MAX)
    }

    fn commit(&mut self, operation: Operation) {
        let record = self.state.entry(operation.entity.clone()).or_default();
        match &operation.effect {
            Effect::Delete => {
                record.deleted = true;
                record.fields.clear();
            }
            Effect::Set(_) if record.deleted => {}
            Effect::Set(fields) => record.set(&operation.stamp, fields),
        }
        let log = self.log.entry(operation.stamp.origin.clone()).or_default();
        log.push(operation);
    }

    fn tick(&mut self, now: UnixMillis) -> Hlc {
        self.clock = if now > self.clock.wall {
            Hlc {
                wall: now,
                count: 0,
            }
        } else {
            Hlc {
                count: self.clock.count + 1,
                ..self.clock
            }
        };
        self.clock
    }
}

impl Record {
    fn set(&mut self, stamp: &Stamp, fields: &BTreeMap<String, Value>) {
        for (name, value) in fields {
            let held = self.fields.get(name);
            if held.is_none_or(|(held, _)| held < stamp) {
                let value = (stamp.clone(), value.to_string());
                self.fields.insert(name.clone(), value);
            }
        }
    }
}

impl Replica for Memory {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn held(&self) -> (Vector, String) {
        let vector = self.log.keys().map(|o| (o.clone(), self.count(o)));
        let mut hasher = DefaultHasher::new();
        self.state.hash(&mut hasher);
        (vector.collect(), format!("{:016x}", hasher.finish()))
    }

    fn operations(&self, origin: &Origin, after: u64, upto: u64, max: usize) -> Vec<Operation> {
        let held = (after + 1..=upto).map_while(|seq| self.at(origin, seq));
        held.take(max).cloned().collect()
    }

    fn apply(&mut self, operations: &[Operation], now: UnixMillis) -> Result<(), String> {
        for operation in operations {
            let Stamp { at, origin, seq } = &operation.stamp;
            let held = self.count(origin);
            if *seq <= held {
                continue;
            }
            if *seq != held + 1 {
                return Err(format!(
                    "451 {origin} {seq} came where {} was due",
                    held + 1
                ));
            }
            if at.wall.0.saturating_sub(now.0) <= FOLLOW_MS {
                self.clock = self.clock.max(*at);
            }
            self.commit(operation.clone());
        }
        Ok(())
    }

    fn write(&mut self, entity: EntityKey, effect: Effect, now: UnixMillis) {
        let waiting = u64::try_from(self.unflushed.len()).unwrap_or(u64::MAX);
        let operation = Operation {
            stamp: Stamp {
                at: self.tick(now),
                origin: self.origin.clone(),
                seq: self.count(&self.origin) + waiting + 1,
            },
            entity,
            effect,
            extra: BTreeMap::new(),
        };
        self.unflushed.push(operation);
    }

    fn flush(&mut self) -> Vec<Operation> {
        let written = std::mem::take(&mut self.unflushed);
        for operation in &written {
            self.commit(operation.clone());
        }
        written
    }

    fn crash(&mut self) {
        self.unflushed.clear();
    }

    fn new_incarnation(&mut self, incarnation: u32) {
        self.origin.incarnation = incarnation;
    }
}
