//! How much a peer still lacks: counted, not guessed.

use std::cmp::Ordering;

use vmsync_config::words::{Origin, Vector};

use crate::{
    error::StoreError,
    keys,
    log::{self, Sums},
    operation::EntityKey,
    store::Store,
};

/// Most messages under quarantine looked at in one count, so that it never takes long.
const LOOK: usize = 500;

/// What is held durably beyond a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Operations.
    pub operations: u64,
    /// Their bytes: JSON and audio, before any transfer encoding.
    pub bytes: u64,
    /// Messages of which, while a peer holds exactly that vector, this copy is the only one: those
    /// created by them, and those under quarantine whose audio is here.
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
        } else {
            let withheld = self.quarantined_messages(held)?;
            left.messages = left.messages.saturating_add(withheld);
        }
        Ok(left)
    }

    /// Messages under quarantine that are here, although `held` covers their operations. Of many
    /// the first [`LOOK`] are looked at, and the rest counted as if they were here.
    fn quarantined_messages(&self, held: &Vector) -> Result<u64, StoreError> {
        let ids: Vec<_> = self.inner.committer.held(|m| {
            let ids = m.quarantine.keys().filter_map(|entity| match entity {
                EntityKey::Message(id) => Some(*id),
                _ => None,
            });
            ids.collect()
        });
        let mut count = ids.len().saturating_sub(LOOK) as u64;
        for id in ids.into_iter().take(LOOK) {
            let here = self.message(id)?.is_some_and(|m| {
                m.stamp.seq <= held.get(&m.stamp.origin) && self.has_audio(m.audio.blob)
            });
            count += u64::from(here);
        }
        Ok(count)
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
