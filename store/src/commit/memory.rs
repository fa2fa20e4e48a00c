//! What the committer holds in memory of the index, and how it is read at start.

use std::io;

use vmsync_config::words::{NodeId, Origin, Vector};

use super::Committed;
use crate::{
    digest::Buckets,
    index::Index,
    keys,
    model::Totals,
    operation::{Hlc, Operation},
};

/// What is held in memory of the index: small, and needed by every write.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    pub(crate) origin: Origin,
    pub(crate) vector: Vector,
    pub(crate) clock: Hlc,
    pub(crate) buckets: Buckets,
    pub(crate) totals: Totals,
}

/// Reads what is held in memory; `None` when the index is new.
pub(super) fn load(index: &Index) -> io::Result<Option<Memory>> {
    let Some(origin) = json(index, keys::ORIGIN)? else {
        return Ok(None);
    };
    let mut memory = Memory {
        origin,
        vector: Vector::default(),
        clock: json(index, keys::CLOCK)?.unwrap_or_default(),
        buckets: Buckets::default(),
        totals: json(index, keys::TOTALS)?.unwrap_or_default(),
    };
    for (key, value) in all(index, keys::VECTOR)? {
        let origin = std::str::from_utf8(key.get(1..).unwrap_or_default())
            .map_err(invalid)?
            .parse()
            .map_err(invalid)?;
        let seq = <[u8; 8]>::try_from(value.as_slice()).map_err(invalid)?;
        memory.vector.raise(&origin, u64::from_be_bytes(seq));
    }
    for (key, value) in all(index, keys::DIGEST)? {
        let bucket = key.get(1).copied().unwrap_or_default();
        if !memory.buckets.load(bucket, &value) {
            return Err(invalid("a digest bucket has the wrong length"));
        }
    }
    Ok(Some(memory))
}

/// Gives a new index its origin, durably.
pub(super) fn create(index: &Index, node: &NodeId) -> io::Result<Memory> {
    let memory = Memory {
        origin: Origin {
            node: node.clone(),
            incarnation: rand::random(),
        },
        vector: Vector::default(),
        clock: Hlc::default(),
        buckets: Buckets::default(),
        totals: Totals::default(),
    };
    let origin = serde_json::to_vec(&memory.origin)?;
    index.write(&[(keys::ORIGIN.to_vec(), Some(origin))].into())?;
    index.make_durable()?;
    Ok(memory)
}

/// What a failed group left on disk all the same, as events: one per origin.
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
            operations.push(serde_json::from_slice::<Operation>(&bytes)?);
        }
        if !operations.is_empty() {
            events.push(Committed {
                mailboxes: None,
                operations: operations.into(),
                remote: *origin != memory.origin,
            });
        }
    }
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
