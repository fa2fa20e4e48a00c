//! The group committer: many writers, one thread that writes the index and fsyncs.
//!
//! A writer holds the state's lock while it works out its changes, lays them over those already
//! pending, lets go and waits. The committer takes everything pending as one *group*, writes it as
//! one atomic batch, flushes and fsyncs, and only then: what is held durably moves on
//! ([`Committer::durable`]), listeners are told in order, waiters get their answer. While it does
//! so the next group gathers, so one fsync serves as many writers as there are.
//!
//! The writers' lock goes to whoever has waited longest, and a writer of several parts reads ahead for the
//! next (`ahead`), so that working out and writing a long mail overlap.
//!
//! Writers read through three layers: what is pending, what is being written, the index. Readers
//! read the index alone: they see a change once its group is written, its writer returns only
//! after that, and nothing that leaves for the peer is read beyond the durable vector.
//!
//! # When a flush fails
//! Everybody in the failed group, and in the one gathering, gets the error; memory is thrown away
//! and nothing more is taken. The next write opens the index again and starts from what is on
//! disk. What of the failed group turns out to be there was never acknowledged, yet is as good as
//! any operation: listeners are told of it with the next group. What is not there is gone, and its
//! sequence numbers are free again, because nobody was ever shown them.

mod ahead;
mod flush;
mod memory;

use std::{
    collections::BTreeSet,
    io,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock},
};

use vmsync_config::words::{Extension, NodeId, Origin, UnixMillis, Vector};

use crate::{
    blobs::Blobs,
    digest::Buckets,
    disk::{Disk, Failure},
    error::StoreError,
    index::{Index, Overlay},
    model::Totals,
    operation::{EntityKey, Operation},
    transaction::{Finished, Transaction},
    upgrade,
    watermark::Watermark,
};

pub(crate) use ahead::ReadAhead;
pub(crate) use memory::Memory;
use memory::{create, load};

/// Tells listeners what a commit changed; sent after it is durable.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The operations, in order; none where state was joined.
    pub operations: Arc<[Operation]>,
    /// Entities whose records were changed by joining what the peer holds of them, and whether
    /// a deletion has left nothing of them.
    pub joined: Arc<[(EntityKey, bool)]>,
    /// Mailboxes whose counts, greetings or existence they changed; `None` when that is not known
    /// (what survived a failed flush): look at all of them.
    pub mailboxes: Option<Arc<[Extension]>>,
    /// Whether they came from the peer.
    pub remote: bool,
}

impl Committed {
    /// Nobody knows what: look at everything.
    fn unknown() -> Self {
        Self {
            operations: Arc::default(),
            joined: Arc::default(),
            mailboxes: None,
            remote: true,
        }
    }
}

pub(crate) type Listener = Box<dyn Fn(&Committed) + Send + Sync>;

/// The index's folder in the data folder.
pub(crate) const INDEX: &str = "db";

/// The writers whose changes are made durable together.
#[derive(Default)]
struct Group {
    outcome: Mutex<Option<Result<(), Failure>>>,
    done: Condvar,
}

impl Group {
    fn finish(&self, outcome: Result<(), Failure>) {
        *lock(&self.outcome) = Some(outcome);
        self.done.notify_all();
    }

    fn wait(&self) -> Result<(), Failure> {
        let mut outcome = lock(&self.outcome);
        loop {
            if let Some(outcome) = &*outcome {
                return outcome.clone();
            }
            outcome = self
                .done
                .wait(outcome)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// When reading began, by the count of failed flushes.
pub(crate) struct Reading(u64);

/// The group that gathers.
#[derive(Default)]
struct Pending {
    overlay: Overlay,
    events: Vec<Committed>,
    group: Arc<Group>,
    /// Somebody waits for it. (Cleaning up behind a commit can wait for the next group.)
    awaited: bool,
    /// It is the first to refer to audio files: their names are made durable before it.
    names: bool,
    /// Keys of records in it that may have a large value so far.
    large: BTreeSet<Vec<u8>>,
}

struct Writing {
    overlay: Arc<Overlay>,
    group: Arc<Group>,
}

struct State {
    memory: Memory,
    pending: Pending,
    writing: Option<Writing>,
    /// Counts what was laid over the index.
    generation: u64,
    /// Why nothing more is taken until the index was opened again.
    broken: Option<Failure>,
    /// How many flushes have failed.
    failures: u64,
    stopping: bool,
}

/// See the head of this module.
pub(crate) struct Committer {
    state: Mutex<State>,
    /// Held while waiting for `state`: see [`Committer::state`].
    next: Mutex<()>,
    wake: Condvar,
    /// A group was taken to be written.
    taken: Condvar,
    /// `None` only after opening again failed.
    index: RwLock<Option<Index>>,
    index_dir: PathBuf,
    /// As of the last durable group.
    durable: Mutex<Memory>,
    listeners: RwLock<Vec<Listener>>,
    disk: Disk,
    blobs: Blobs,
    watermark: Watermark,
    /// It lies on a simulated disk (see `simulate`).
    #[cfg(feature = "simulate")]
    simulated: bool,
    #[cfg(test)]
    pub(crate) fail_next: std::sync::atomic::AtomicBool,
}

/// What is left to do with files once a transaction is durable.
#[derive(Debug, Default)]
pub(crate) struct Aftermath {
    pub(crate) settle: Vec<uuid::Uuid>,
    pub(crate) doomed: Vec<uuid::Uuid>,
    pub(crate) strays: Vec<uuid::Uuid>,
}

/// Changes that are worked out, and on their way to the disk.
#[must_use = "nothing is durable before it is finished"]
pub(crate) struct Begun {
    group: Option<Arc<Group>>,
    aftermath: Aftermath,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // State changes only by whole assignments, so a panicking holder leaves it sound.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Committer {
    /// Opens the index of the data folder, and sees whether it ends where it should: with the last
    /// commit known of, and each log with its last entry. A new one gets an origin of `node`; but
    /// where there are audio files, or commits were made, a missing or empty index is no new one:
    /// [`StoreError::Damaged`], as for any other damage.
    pub(crate) fn open(disk: Disk, blobs: &Blobs, node: &NodeId) -> Result<Self, StoreError> {
        let dir = disk.dir.join(INDEX);
        let failed = |e| disk.index_error(format!("opening the index {}", dir.display()), e);
        let (watermark, told) = Watermark::open(&disk.dir).map_err(failed)?;
        let told = told.unwrap_or(0);
        let used = || Ok(told > 0 || !blobs.is_empty()?);
        let damaged = |why: String| Err(failed(io::Error::new(io::ErrorKind::InvalidData, why)));
        if !dir.exists() && used().map_err(failed)? {
            return damaged("it is not there, but the store was in use".to_owned());
        }
        let index = Index::open(&dir).map_err(failed)?;
        upgrade::run(&index).map_err(failed)?;
        crate::durable::sync_dir(&disk.dir).map_err(failed)?;
        let memory = match load(&index).map_err(failed)? {
            Some(memory) if memory.commits < told => {
                let held = memory.commits;
                return damaged(format!(
                    "it ends with commit {held}, but commit {told} was made durable"
                ));
            }
            Some(memory) => memory,
            None if used().map_err(failed)? => {
                return damaged("it is empty, but the store was in use".to_owned());
            }
            None => create(&index, node, 0).map_err(failed)?,
        };
        Ok(Self::of(disk, blobs, dir, index, memory, watermark))
    }

    /// Makes a new index in the folder `name` of the data folder, whatever its present one is like.
    pub(crate) fn create(
        disk: Disk,
        blobs: &Blobs,
        name: &str,
        node: &NodeId,
    ) -> Result<Self, StoreError> {
        let dir = disk.dir.join(name);
        let failed = |e| disk.index_error(format!("making the index {}", dir.display()), e);
        let (watermark, told) = Watermark::open(&disk.dir).map_err(failed)?;
        // From now on the present index, should it be opened again, is behind.
        let commits = told.unwrap_or(0).saturating_add(1);
        watermark.raise(commits);
        let index = Index::open(&dir).map_err(failed)?;
        let memory = create(&index, node, commits).map_err(failed)?;
        Ok(Self::of(disk, blobs, dir, index, memory, watermark))
    }

    fn of(
        disk: Disk,
        blobs: &Blobs,
        index_dir: PathBuf,
        index: Index,
        memory: Memory,
        watermark: Watermark,
    ) -> Self {
        let durable = memory.clone();
        Self {
            state: Mutex::new(State {
                memory,
                pending: Pending::default(),
                writing: None,
                generation: 0,
                broken: None,
                failures: 0,
                stopping: false,
            }),
            next: Mutex::new(()),
            wake: Condvar::new(),
            taken: Condvar::new(),
            index: RwLock::new(Some(index)),
            #[cfg(feature = "simulate")]
            simulated: crate::simulate::Disk::of(&index_dir).is_some(),
            index_dir,
            durable: Mutex::new(durable),
            listeners: RwLock::new(Vec::new()),
            disk,
            blobs: blobs.clone(),
            watermark,
            #[cfg(test)]
            fail_next: false.into(),
        }
    }

    /// The writers' lock, given in turn: whoever waits for it is next. (A mutex alone goes to whoever comes
    /// by first, and that is the one who has just let it go: a backlog would be worked out to its end
    /// before the committer could say that it is done with the last group, and take the next.)
    fn state(&self) -> MutexGuard<'_, State> {
        let _next = lock(&self.next);
        lock(&self.state)
    }

    pub(crate) fn origin(&self) -> Origin {
        self.state().memory.origin.clone()
    }

    pub(crate) fn totals(&self) -> Totals {
        self.state().memory.totals
    }

    /// Vector and digest buckets as of the last durable group.
    pub(crate) fn durable(&self) -> (Vector, Buckets) {
        self.held(|m| (m.vector.clone(), m.buckets.clone()))
    }

    /// Looks at what is held as of the last durable group.
    pub(crate) fn held<T>(&self, look: impl FnOnce(&Memory) -> T) -> T {
        look(&lock(&self.durable))
    }

    pub(crate) fn listen(&self, listener: Listener) {
        self.listeners
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(listener);
    }

    /// Reads the index.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&Index) -> io::Result<T>,
    ) -> Result<T, StoreError> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = &*index else {
            return Err(StoreError::io(
                format!("reading the index {}", self.index_dir.display()),
                io::Error::other("it is closed after a failed write; the next write opens it"),
            ));
        };
        read(index).map_err(|e| {
            self.disk
                .index_error(format!("reading the index {}", index.path().display()), e)
        })
    }

    /// Runs one writer: `build` works out the changes; when it fails nothing has happened. They are
    /// durable, with everything before them, once [`finish`](Self::finish) says so.
    pub(crate) fn begin<T>(
        &self,
        now: UnixMillis,
        remote: bool,
        build: impl FnOnce(&mut Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<(T, Begun), StoreError> {
        let (value, begun, _) = self.begin_part(now, remote, &ReadAhead::default(), &[], build)?;
        Ok((value, begun))
    }

    /// As [`begin`](Self::begin), for one of several parts: with what was read `ahead` for it, and reading
    /// ahead the values of `next`.
    pub(crate) fn begin_part<T>(
        &self,
        now: UnixMillis,
        remote: bool,
        ahead: &ReadAhead,
        next: &[Vec<u8>],
        build: impl FnOnce(&mut Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<(T, Begun, ReadAhead), StoreError> {
        let mut state = self.state();
        let (value, finished) = self.with_transaction(&mut state, now, ahead, |mut t| {
            Ok((build(&mut t)?, t.finish(&self.blobs)?))
        })?;
        let Finished {
            overlay,
            large,
            memory,
            operations,
            joined,
            mailboxes,
            tell,
            aftermath,
        } = finished;
        let group = Self::stage(&mut state, overlay, memory);
        state.pending.names |= !aftermath.settle.is_empty();
        state.pending.large.extend(large);
        if tell {
            state.pending.events.push(Committed {
                operations: operations.into(),
                joined: joined.into(),
                mailboxes: Some(mailboxes.into()),
                remote,
            });
        }
        let ahead = self.read_ahead(&state, next);
        drop(state);
        self.wake.notify_one();
        Ok((value, Begun { group, aftermath }, ahead))
    }

    /// Lets the committer have what is pending, if it has nothing to write. Who begins one part after
    /// another takes the lock anew so quickly that the committer would get it only behind the last.
    pub(crate) fn give_way(&self) {
        let mut state = self.state();
        let has_work = |state: &State| state.pending.awaited && state.writing.is_none();
        while has_work(&state) && !state.stopping && !self.is_simulated() {
            let taken = self.taken.wait(state);
            state = taken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until what was begun is durable.
    pub(crate) fn finish(&self, begun: Begun) -> Result<Aftermath, StoreError> {
        self.wait(begun.group)?;
        Ok(begun.aftermath)
    }

    /// Runs a writer that only looks: at what is pending too, without waiting for it.
    pub(crate) fn peek<T>(
        &self,
        now: UnixMillis,
        look: impl FnOnce(&mut Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut state = self.state();
        self.with_transaction(&mut state, now, &ReadAhead::default(), |mut t| look(&mut t))
    }

    /// Looks at what the next writer would see, and changes what is only kept in memory.
    pub(crate) fn with_state<T>(
        &self,
        look: impl FnOnce(&Index, &[Option<&Overlay>], &mut Memory) -> io::Result<T>,
    ) -> Result<T, StoreError> {
        let mut state = self.state();
        let state = &mut *state;
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let index = index.as_ref().filter(|_| state.broken.is_none());
        let index = index.ok_or_else(|| self.closed())?;
        let layers = [
            Some(&state.pending.overlay),
            state.writing.as_ref().map(|w| &*w.overlay),
        ];
        look(index, &layers, &mut state.memory).map_err(|e| {
            let doing = format!("reading the index {}", index.path().display());
            self.disk.index_error(doing, e)
        })
    }

    fn with_transaction<T>(
        &self,
        state: &mut State,
        now: UnixMillis,
        ahead: &ReadAhead,
        run: impl FnOnce(Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.heal(state)?;
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = &*index else {
            return Err(self.closed());
        };
        let layers = [
            Some(&state.pending.overlay),
            state.writing.as_ref().map(|w| &*w.overlay),
        ];
        let memory = state.memory.clone();
        let ahead = Some(ahead).filter(|ahead| ahead.is_true_of(state));
        let transaction = Transaction::new(index, layers, memory, now, &self.disk);
        run(transaction.with(ahead))
    }

    /// Waits until everything written so far is durable.
    pub(crate) fn barrier(&self) -> Result<(), StoreError> {
        let group = Self::last_group(&self.state());
        self.wait(group)
    }

    /// Begins to read what is to leave the node; ends with [`show`](Self::show).
    pub(crate) fn reading(&self) -> Reading {
        Reading(self.state().failures)
    }

    /// Waits until everything read since is durable. Fails where a write has failed meanwhile:
    /// what was read may not be there when the index is opened again.
    pub(crate) fn show(&self, reading: &Reading) -> Result<(), StoreError> {
        let state = self.state();
        if let Some(failure) = &state.broken {
            return Err(failure.to_error(&self.disk));
        }
        if state.failures != reading.0 {
            return Err(StoreError::io(
                format!("reading the index {}", self.index_dir.display()),
                io::Error::other("a write failed meanwhile; read again"),
            ));
        }
        let group = Self::last_group(&state);
        drop(state);
        self.wait(group)
    }

    /// Lays changes over what is pending without waiting: they go with the next group.
    pub(crate) fn add_unawaited(&self, overlay: Overlay) {
        let mut state = self.state();
        if state.broken.is_none() {
            state.pending.overlay.extend(overlay);
            state.generation += 1;
        }
    }

    fn closed(&self) -> StoreError {
        StoreError::io(
            format!("writing the index {}", self.index_dir.display()),
            io::Error::other("it is closed"),
        )
    }

    /// Adds changes to the gathering group; returns the group that will make them durable.
    fn stage(state: &mut State, overlay: Overlay, memory: Memory) -> Option<Arc<Group>> {
        if overlay.is_empty() {
            return Self::last_group(state);
        }
        state.memory = memory;
        state.pending.overlay.extend(overlay);
        state.generation += 1;
        state.pending.awaited = true;
        Some(state.pending.group.clone())
    }

    fn last_group(state: &State) -> Option<Arc<Group>> {
        if state.pending.awaited {
            Some(state.pending.group.clone())
        } else {
            state.writing.as_ref().map(|w| w.group.clone())
        }
    }

    fn wait(&self, group: Option<Arc<Group>>) -> Result<(), StoreError> {
        if self.is_simulated() {
            self.commit_here();
        }
        group.map_or(Ok(()), |g| {
            g.wait().map_err(|failure| failure.to_error(&self.disk))
        })
    }

    /// Whether everything is to happen on the thread that asks for it (see `simulate`).
    pub(crate) fn is_simulated(&self) -> bool {
        #[cfg(feature = "simulate")]
        let simulated = self.simulated;
        #[cfg(not(feature = "simulate"))]
        let simulated = {
            let _ = self;
            false
        };
        simulated
    }
}

#[cfg(test)]
mod tests;
