//! How much a peer still lacks: counted, not guessed.

use std::cmp::Ordering;

use vmsync_config::words::{Origin, Vector};

use crate::{
    error::StoreError,
    keys,
    log::{self, Sums},
    store::Store,
};

/// What is held durably beyond a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Operations.
    pub operations: u64,
    /// Their bytes: JSON and audio, before any transfer encoding.
    pub bytes: u64,
    /// Messages created by them: while a peer holds exactly that vector, each has this copy only.
    pub messages: u64,
    /// The log no longer reaches back to the vector: state has to be sent
    /// ([`Store::records`]). `operations` is exact all the same; `bytes` and `messages` are those
    /// of all messages held, the most that may have to be sent.
    pub below_floor: bool,
}

impl Store {
    /// The last operation of each origin that the log no longer has, durably: at or above it
    /// [`operations`](Self::operations) answers, below it only state is left
    /// ([`records`](Self::records)). Origins whose log is whole are left out.
    pub fn floor(&self) -> Vector {
        self.inner.committer.held(|memory| {
            let floors = memory.logs.iter();
            floors
                .filter(|(_, ends)| ends.floor.seq > 0)
                .map(|(origin, ends)| (origin.clone(), ends.floor.seq))
                .collect()
        })
    }

    /// What a peer that holds `held` lacks of what is durable here. Exact, and as cheap for a
    /// million operations as for one: it reads one entry of the log per origin.
    pub fn backlog(&self, held: &Vector) -> Result<Backlog, StoreError> {
        let (vector, logs, totals) = self
            .inner
            .committer
            .held(|m| (m.vector.clone(), m.logs.clone(), m.totals));
        let mut left = Backlog::default();
        for (origin, last) in vector.iter() {
            let theirs = held.get(origin);
            if theirs >= last {
                continue;
            }
            left.operations = left.operations.saturating_add(last - theirs);
            let ends = logs.get(origin).copied().unwrap_or_default();
            let before = match theirs.cmp(&ends.floor.seq) {
                Ordering::Less => None,
                Ordering::Equal => Some(ends.floor.sums),
                Ordering::Greater => self.sums_at(origin, theirs)?,
            };
            match before {
                Some(before) => {
                    let beyond = ends.last.since(before);
                    left.bytes = left.bytes.saturating_add(beyond.bytes);
                    left.messages = left.messages.saturating_add(beyond.messages);
                }
                None => left.below_floor = true,
            }
        }
        if left.below_floor {
            (left.bytes, left.messages) = (totals.bytes, totals.messages);
        }
        Ok(left)
    }

    /// The totals at an entry of the log; `None` when it was compacted meanwhile.
    fn sums_at(&self, origin: &Origin, seq: u64) -> Result<Option<Sums>, StoreError> {
        let key = keys::log(origin, seq);
        self.inner.committer.read(|index| match index.get(&key)? {
            Some(entry) => log::split(&entry).map(|(sums, _)| Some(sums)),
            None => Ok(None),
        })
    }
}
