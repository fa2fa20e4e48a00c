//! The store itself: opening, closing, and what its parts have in common.

use std::{
    collections::BTreeSet,
    fmt,
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use uuid::Uuid;
use vmsync_config::words::{NodeId, Origin, UnixMillis};

use crate::{
    blobs::Blobs,
    commit::{Aftermath, Begun, Committed, Committer, lock},
    disk::{Disk, Purpose},
    error::StoreError,
    format,
    index::Overlay,
    keys,
    model::Totals,
    operation::EntityKey,
    record::Record,
    scrub::Faults,
    transaction::Transaction,
    verify,
};

/// A file in `incoming` that nothing refers to is kept this long, in ms, for operations that
/// are still to come.
const ORPHAN_MS: u64 = 60 * 60 * 1000;

/// How to open a store.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node it belongs to; a store of another node is refused.
    pub node: NodeId,
    /// Free bytes below which writes answer [`StoreError::Full`]. What makes room or keeps the
    /// node working (states, removals, local records) may use three quarters of it.
    pub min_free_bytes: u64,
    /// The wall clock; the store reads no other. The shell hands in its own, a test a fake one.
    pub clock: fn() -> UnixMillis,
}

/// A node's store. Cheap to clone; the last clone to go closes it. Every method blocks: call it
/// from a blocking thread.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) committer: Arc<Committer>,
    pub(crate) blobs: Blobs,
    pub(crate) disk: Disk,
    pub(crate) faults: Faults,
    clock: fn() -> UnixMillis,
    pub(crate) clock_ahead_ms: AtomicU64,
    /// How far the index has been verified.
    pub(crate) verifying: Mutex<verify::Place>,
    /// Held while a backup is made.
    pub(crate) backing_up: Mutex<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Last, so that the folder is free only when all else is closed.
    _lock: File,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("dir", &self.inner.disk.dir)
            .field("origin", &self.origin())
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.committer.stop();
        let Some(thread) = lock(&self.thread).take() else {
            return;
        };
        // A listener may have held the last clone: then this is the committer's own thread.
        if thread.thread().id() != thread::current().id() {
            let _ = thread.join();
        }
    }
}

impl Store {
    /// Opens or creates the store in `dir`. Of a large index only a part is read: the caller sees to
    /// the rest ([`verify_more`](Self::verify_more)).
    ///
    /// # Errors
    /// [`StoreError::InUse`] for a folder in use by another process; [`StoreError::Conflict`] for
    /// one of a newer version, of another node, or in which a restore was cut off;
    /// [`StoreError::Full`] on a disk with less than a quarter of the reserve free;
    /// [`StoreError::Damaged`] where the index is damaged or missing: [`rebuild`](crate::rebuild)
    /// makes it anew.
    pub fn open(dir: &Path, options: Options) -> Result<Self, StoreError> {
        let Options {
            node,
            min_free_bytes,
            clock,
        } = options;
        let opening = |e| StoreError::io(format!("opening the data folder {}", dir.display()), e);
        format::create_dir(dir).map_err(opening)?;
        let lock = format::lock(dir)?;
        format::check(dir, &node)?;
        let disk = Disk {
            dir: dir.to_owned(),
            reserve: min_free_bytes,
        };
        // sled writes while it opens; cut off by a full disk it leaves an index it can't open again.
        disk.room_for(0, Purpose::Upkeep)?;
        let blobs = Blobs::open(dir).map_err(|e| disk.error("creating the audio folders", e))?;
        let committer = Committer::open(disk.clone(), &blobs, &node)?;
        let store = Self::of(lock, disk, blobs, committer, clock)?;
        store.verify_at_open(verify::AT_OPEN)?;
        store.sweep()?;
        Ok(store)
    }

    /// Puts the parts together.
    pub(crate) fn of(
        lock: File,
        disk: Disk,
        blobs: Blobs,
        committer: Committer,
        clock: fn() -> UnixMillis,
    ) -> Result<Self, StoreError> {
        let committer = Arc::new(committer);
        let thread = (!committer.is_simulated()).then(|| {
            let committer = committer.clone();
            thread::Builder::new()
                .name("store-commit".into())
                .spawn(move || committer.run())
        });
        let thread = thread
            .transpose()
            .map_err(|e| StoreError::io("starting the thread that writes the index", e))?;
        Ok(Self {
            inner: Arc::new(Inner {
                committer,
                blobs,
                disk,
                faults: Faults::default(),
                clock,
                clock_ahead_ms: AtomicU64::new(0),
                verifying: Mutex::default(),
                backing_up: Mutex::default(),
                thread: Mutex::new(thread),
                _lock: lock,
            }),
        })
    }

    /// This store's origin (node and incarnation).
    pub fn origin(&self) -> Origin {
        self.inner.committer.origin()
    }

    /// The data folder.
    pub fn dir(&self) -> PathBuf {
        self.inner.disk.dir.clone()
    }

    /// Registers a listener called after each durable commit, in commit order, from the committing
    /// thread, before the writer gets its answer; it must not block (push into a channel) and must
    /// not call the store.
    pub fn on_commit(&self, listener: Box<dyn Fn(&Committed) + Send + Sync>) {
        // A panicking listener must not take the committer with it.
        self.inner.committer.listen(Box::new(move |event| {
            if catch_unwind(AssertUnwindSafe(|| listener(event))).is_err() {
                tracing::error!("a listener of the store panicked");
            }
        }));
    }

    /// Totals.
    #[allow(clippy::unnecessary_wraps, reason = "reads answer with a result alike")]
    pub fn totals(&self) -> Result<Totals, StoreError> {
        Ok(self.inner.committer.totals())
    }

    /// How far, in ms, the clock of the peer was ahead of ours when its last operations or
    /// records came; 0 when it was not. Above [`MAX_CLOCK_AHEAD_MS`](crate::MAX_CLOCK_AHEAD_MS) it is not
    /// followed, and one of the two clocks needs setting: an alarm.
    pub fn clock_ahead_ms(&self) -> u64 {
        self.inner.clock_ahead_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn now(&self) -> UnixMillis {
        (self.inner.clock)()
    }

    /// Reads the record of an entity from the index.
    pub(crate) fn record(&self, entity: &EntityKey) -> Result<Record, StoreError> {
        self.inner
            .committer
            .read(|index| match index.get(&keys::record(entity))? {
                Some(bytes) => Record::from_bytes(&bytes).map_err(io::Error::from),
                None => Ok(Record::default()),
            })
    }

    /// Runs a transaction of this node; durable when it returns.
    pub(crate) fn write<T>(
        &self,
        size: u64,
        purpose: Purpose,
        build: impl FnOnce(&mut Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.inner.disk.room_for(size, purpose)?;
        self.run(false, build)
    }

    /// Runs a transaction and then puts the audio files in their places.
    pub(crate) fn run<T>(
        &self,
        remote: bool,
        build: impl FnOnce(&mut Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (value, begun) = self.begin(remote, build)?;
        self.finish(begun)?;
        Ok(value)
    }

    /// As [`run`](Self::run), but does not wait: what is begun must be [`finish`](Self::finish)ed.
    pub(crate) fn begin<T>(
        &self,
        remote: bool,
        build: impl FnOnce(&mut Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<(T, Begun), StoreError> {
        self.inner.committer.begin(self.now(), remote, build)
    }

    /// Waits until what was begun is durable, and puts its audio files in their places.
    pub(crate) fn finish(&self, begun: Begun) -> Result<(), StoreError> {
        let aftermath = self.inner.committer.finish(begun)?;
        self.settle(aftermath);
        Ok(())
    }

    /// Runs a transaction that only looks, at what is pending too.
    pub(crate) fn peek<T>(
        &self,
        look: impl FnOnce(&mut Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.inner.committer.peek(self.now(), look)
    }

    /// After the commit. Whatever fails here is done again at the next start.
    fn settle(&self, aftermath: Aftermath) {
        let blobs = &self.inner.blobs;
        for blob in aftermath.settle {
            if let Err(error) = blobs.settle(blob) {
                tracing::warn!(%blob, %error, "an audio file could not be moved to its place; tried again at the next start");
            }
        }
        for blob in aftermath.strays {
            blobs.discard(blob);
        }
        self.remove_doomed(&aftermath.doomed);
    }

    fn remove_doomed(&self, doomed: &[Uuid]) {
        let mut done = Overlay::new();
        for blob in doomed {
            match self.inner.blobs.remove(*blob) {
                Ok(()) => {
                    done.insert(keys::doomed(*blob), None);
                }
                Err(error) => {
                    tracing::warn!(%blob, %error, "an audio file could not be removed; tried again at the next start");
                }
            }
        }
        if !done.is_empty() {
            self.inner.committer.add_unawaited(done);
        }
    }

    /// At start: removes audio files whose removal was decided, and clears `incoming` of what a
    /// crash left there. The work is bounded by what was under way, not by what is held.
    fn sweep(&self) -> Result<(), StoreError> {
        let prefix = [keys::DOOMED];
        let doomed: BTreeSet<Uuid> = self
            .inner
            .committer
            .read(|index| index.range(&prefix, &keys::end_of(&prefix), usize::MAX))?
            .iter()
            .filter_map(|(key, _)| keys::id_at_end(key))
            .collect();
        self.remove_doomed(&doomed.into_iter().collect::<Vec<_>>());

        let sweeping = |e| self.inner.disk.error("sweeping the audio folder", e);
        let now = self.now();
        for (blob, written) in self.inner.blobs.left_over().map_err(sweeping)? {
            if self.is_referred_to(blob)? {
                self.inner.blobs.settle(blob).map_err(sweeping)?;
            } else if now.0.saturating_sub(written) > ORPHAN_MS {
                self.inner.blobs.discard(blob);
            }
        }
        Ok(())
    }

    fn is_referred_to(&self, blob: Uuid) -> Result<bool, StoreError> {
        match self.inner.blobs.open_file(blob) {
            Ok((_, header)) => Ok(self.record(&header.entity)?.audio().contains(&blob)),
            Err(_) => Ok(false),
        }
    }
}
