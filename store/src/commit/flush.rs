//! The committer's side: a group is taken, written, made durable and told; after a failure the index is
//! opened again.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, PoisonError},
};

use super::{
    Committed, Committer, Group, Memory, Pending, State, Writing, load, lock,
    memory::operations_since,
};
use crate::{
    disk::{Failure, Purpose},
    error::StoreError,
    index::{Index, Overlay},
    keys,
};

struct TakenGroup {
    number: u64,
    overlay: Arc<Overlay>,
    events: Vec<Committed>,
    group: Arc<Group>,
    names: bool,
    large: BTreeSet<Vec<u8>>,
}

impl Committer {
    /// After a failed flush: opens the index again and starts from what is on disk.
    pub(super) fn heal(&self, state: &mut State) -> Result<(), StoreError> {
        if state.broken.is_none() {
            return Ok(());
        }
        self.disk.room_for(0, Purpose::Upkeep)?;
        let doing = format!("opening the index {} again", self.index_dir.display());
        let mut slot = self.index.write().unwrap_or_else(PoisonError::into_inner);
        // sled locks its file: the old one must be gone before.
        drop(slot.take());
        let opened = Index::open(&self.index_dir).and_then(|index| {
            let memory = load(&index)?.ok_or_else(|| io::Error::other("it lost its origin"))?;
            let events = operations_since(&index, &lock(&self.durable).vector, &memory)?;
            Ok((index, memory, events))
        });
        let (index, memory, events) = opened.map_err(|e| self.disk.index_error(doing, e))?;
        *slot = Some(index);
        *lock(&self.durable) = memory.clone();
        state.memory = memory;
        state.pending = Pending {
            events,
            ..Pending::default()
        };
        state.broken = None;
        state.generation += 1;
        tracing::warn!(index = %self.index_dir.display(), "the index was opened again after a failed write; writes are taken again");
        Ok(())
    }

    /// The committer thread.
    pub(crate) fn run(&self) {
        while let Some((group, snapshot)) = self.next_group() {
            self.make_durable(&group, snapshot);
        }
    }

    /// In a simulation whoever waits commits, so that the steps come in one order.
    pub(super) fn commit_here(&self) {
        loop {
            let mut state = self.state();
            if !state.pending.awaited {
                return;
            }
            let (group, snapshot) = Self::take_group(&mut state);
            drop(state);
            self.make_durable(&group, snapshot);
        }
    }

    fn make_durable(&self, pending: &TakenGroup, snapshot: Memory) {
        let outcome = self.commit(pending);
        let mut state = self.state();
        state.writing = None;
        if let Err(failure) = &outcome {
            state.broken = Some(failure.clone());
            state.failures += 1;
            let gathering = std::mem::take(&mut state.pending);
            gathering.group.finish(Err(failure.clone()));
        } else {
            *lock(&self.durable) = snapshot;
        }
        drop(state);
        match &outcome {
            Ok(()) => {
                self.watermark.raise(pending.number);
                self.tell(&pending.events);
            }
            Err(f) => {
                tracing::error!(error = %f.to_error(&self.disk), "a write could not be made durable; nothing is taken until one can");
            }
        }
        pending.group.finish(outcome);
    }

    /// Waits for changes; `None` when the store closes.
    fn next_group(&self) -> Option<(TakenGroup, Memory)> {
        let mut state = self.state();
        while !state.pending.awaited {
            if state.stopping {
                return None;
            }
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let group = Self::take_group(&mut state);
        self.taken.notify_all();
        Some(group)
    }

    fn take_group(state: &mut State) -> (TakenGroup, Memory) {
        let mut pending = std::mem::take(&mut state.pending);
        state.memory.commits = state.memory.commits.saturating_add(1);
        let number = state.memory.commits;
        let written = number.to_string().into_bytes();
        pending
            .overlay
            .insert(keys::COMMITS.to_vec(), Some(written));
        let taken = TakenGroup {
            number,
            overlay: Arc::new(pending.overlay),
            events: pending.events,
            group: pending.group,
            names: pending.names,
            large: pending.large,
        };
        state.writing = Some(Writing {
            overlay: taken.overlay.clone(),
            group: taken.group.clone(),
        });
        (taken, state.memory.clone())
    }

    /// Names of audio files first, then the index that refers to them.
    fn commit(&self, taken: &TakenGroup) -> Result<(), Failure> {
        if taken.names {
            let doing = || format!("making the names in {} durable", self.disk.dir.display());
            let synced = self.blobs.sync_incoming();
            synced.map_err(|e| Failure::new(doing(), &e))?;
        }
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let write = |index: &Index| {
            index.write_group(&taken.overlay, &taken.large)?;
            #[cfg(test)]
            if self
                .fail_next
                .swap(false, std::sync::atomic::Ordering::SeqCst)
            {
                return Err(io::ErrorKind::StorageFull.into());
            }
            index.make_durable()
        };
        index
            .as_ref()
            .ok_or_else(|| io::Error::other("it is closed"))
            .and_then(write)
            .map_err(|e| {
                Failure::new(
                    format!("writing the index {}", self.index_dir.display()),
                    &e,
                )
            })
    }

    fn tell(&self, events: &[Committed]) {
        let listeners = self
            .listeners
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        for event in events {
            for listener in &*listeners {
                listener(event);
            }
        }
    }

    /// Makes [`run`](Self::run) return once nobody waits any more.
    pub(crate) fn stop(&self) {
        self.state().stopping = true;
        self.wake.notify_all();
    }
}
