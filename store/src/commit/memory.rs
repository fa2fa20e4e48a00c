//! What the committer holds in memory of the index, and how it is read at start.

use std::{collections::BTreeMap, io, sync::Arc};

use vmsync_config::words::{NodeId, Origin, Vector};

use super::Committed;
use crate::{
    chance,
    digest::{Buckets, Change},
    index::{Index, Overlay},
    keys,
    log::{self, Ends, Mark},
    model::Totals,
    operation::{EntityKey, Hlc},
    quarantine::Notes,
    seed::Seeding,
    upgrade,
    verify::Counted,
};

/// What is held in memory of the index: small, and needed by every write.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    pub(crate) origin: Origin,
    pub(crate) vector: Vector,
    pub(crate) clock: Hlc,
    pub(crate) buckets: Buckets,
    pub(crate) totals: Totals,
    /// Of each origin in the vector, where its log begins and what it comes to.
    pub(crate) logs: BTreeMap<Origin, Ends>,
    pub(crate) seeding: Option<Arc<Seeding>>,
    /// Of each origin the last operation some record bears the stamp of, where that is not held.
    pub(crate) seen: Arc<Vector>,
    /// Nearly always empty; shared, because memory is copied for every writer.
    pub(crate) quarantine: Arc<Notes>,
    /// Number of the last group committed (see `watermark`).
    pub(crate) commits: u64,
    /// The records a verification under way has counted.
    pub(crate) verifying: Option<Arc<Counted>>,
}

impl Memory {
    fn new(origin: Origin) -> Self {
        Self {
            origin,
            vector: Vector::default(),
            clock: Hlc::default(),
            buckets: Buckets::default(),
            totals: Totals::default(),
            logs: BTreeMap::new(),
            seeding: None,
            seen: Arc::default(),
            quarantine: Arc::default(),
            commits: 0,
            verifying: None,
        }
    }

    /// The one place where the digest changes.
    pub(crate) fn recount(&mut self, name: &str, change: &Change) {
        self.buckets.apply(change);
        Counted::change(&mut self.verifying, name, change);
    }

    /// The last operation of `origin` that its log no longer has.
    pub(crate) fn floor(&self, origin: &Origin) -> u64 {
        self.logs.get(origin).map_or(0, |ends| ends.floor.seq)
    }
}

/// Reads what is held in memory; `None` when the index is new.
pub(super) fn load(index: &Index) -> io::Result<Option<Memory>> {
    let Some(origin) = json(index, keys::ORIGIN)? else {
        return Ok(None);
    };
    let mut memory = Memory {
        clock: json(index, keys::CLOCK)?.unwrap_or_default(),
        totals: json(index, keys::TOTALS)?.unwrap_or_default(),
        seeding: json(index, keys::SEEDING)?.map(Arc::new),
        seen: json(index, keys::SEEN)?.map(Arc::new).unwrap_or_default(),
        quarantine: Arc::new(quarantine(index)?),
        commits: json(index, keys::COMMITS)?.unwrap_or_default(),
        ..Memory::new(origin)
    };
    for (key, value) in all(index, keys::VECTOR)? {
        let origin = keys::origin(&key)?;
        let seq = <[u8; 8]>::try_from(value.as_slice()).map_err(invalid)?;
        let seq = u64::from_be_bytes(seq);
        let ends = ends(index, &origin, seq)?;
        memory.vector.raise(&origin, seq);
        memory.logs.insert(origin, ends);
    }
    for (key, value) in all(index, keys::DIGEST)? {
        let bucket = key.get(1).copied().unwrap_or_default();
        if !memory.buckets.load(bucket, &value) {
            return Err(invalid("a digest bucket has the wrong length"));
        }
    }
    Ok(Some(memory))
}

/// Gives a new index its origin, durably. Its commits are counted on from `commits`.
pub(super) fn create(index: &Index, node: &NodeId, commits: u64) -> io::Result<Memory> {
    let origin = Origin {
        node: node.clone(),
        incarnation: chance::incarnation(),
    };
    let memory = Memory {
        commits,
        ..Memory::new(origin)
    };
    let origin = serde_json::to_vec(&memory.origin)?;
    let origin = (keys::ORIGIN.to_vec(), Some(origin));
    let commits = (keys::COMMITS.to_vec(), Some(commits.to_string().into()));
    let mark = upgrade::mark_of_this_version();
    index.write(&Overlay::from([origin, commits, mark]))?;
    index.make_durable()?;
    Ok(memory)
}

/// Where the log of `origin` begins, and its totals at `last`, which is its end.
fn ends(index: &Index, origin: &Origin, last: u64) -> io::Result<Ends> {
    let floor = match index.get(&keys::floor(origin))? {
        Some(stored) => Mark::from_bytes(&stored)?,
        None => Mark::default(),
    };
    if floor.seq >= last {
        let last = floor.sums;
        return Ok(Ends { floor, last });
    }
    let entry = index.get(&keys::log(origin, last))?;
    let entry = entry.ok_or_else(|| invalid(format!("operation {last} of {origin} is missing")))?;
    let (last, _) = log::split(&entry)?;
    Ok(Ends { floor, last })
}

fn quarantine(index: &Index) -> io::Result<Notes> {
    let mut notes = Notes::new();
    for (key, value) in all(index, keys::QUARANTINE)? {
        let entity = EntityKey::try_from(keys::entity_name(&key)).map_err(invalid)?;
        notes.insert(entity, serde_json::from_slice(&value)?);
    }
    Ok(notes)
}

/// What a failed group left on disk all the same, as events: one per origin, and one that says
/// that more than operations may have changed.
pub(super) fn operations_since(
    index: &Index,
    told: &Vector,
    memory: &Memory,
) -> io::Result<Vec<Committed>> {
    let mut events = Vec::new();
    for (origin, last) in memory.vector.iter() {
        let from = keys::log(origin, told.get(origin).saturating_add(1));
        let to = keys::log(origin, last.saturating_add(1));
        let mut operations = Vec::new();
        for (_, bytes) in index.range(&from, &to, usize::MAX)? {
            operations.push(log::decode(&bytes)?.1);
        }
        if !operations.is_empty() {
            events.push(Committed {
                operations: operations.into(),
                remote: *origin != memory.origin,
                ..Committed::unknown()
            });
        }
    }
    events.push(Committed::unknown());
    Ok(events)
}

fn all(index: &Index, kind: u8) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    index.range(&[kind], &keys::end_of(&[kind]), usize::MAX)
}

fn json<T: serde::de::DeserializeOwned>(index: &Index, key: &[u8]) -> io::Result<Option<T>> {
    index
        .get(key)?
        .map(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from))
        .transpose()
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
