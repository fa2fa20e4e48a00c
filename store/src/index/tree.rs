//! The ordered keys and values under the index: sled; in a simulation, memory that loses what was
//! not made durable (see [`simulate`](crate::simulate)).

use std::{
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    thread,
    time::Duration,
};

pub(super) use sled::IVec as Bytes;

use crate::durable;

/// sled's own memory; the state proper is small and hot.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// Changes that are applied as one: a value, or `None` to remove. Later ones overlay earlier ones.
pub(crate) type Batch = Vec<(Bytes, Option<Bytes>)>;
/// A key and its value.
pub(super) type Entry = io::Result<(Bytes, Bytes)>;

/// An open tree.
pub(super) enum Tree {
    Sled {
        /// `Some` until dropped.
        db: Option<sled::Db>,
        file: File,
    },
    #[cfg(feature = "simulate")]
    Simulated(crate::simulate::Disk),
}

impl Tree {
    /// Opens or creates the tree in `dir`.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        #[cfg(feature = "simulate")]
        if let Some(disk) = crate::simulate::Disk::of(dir) {
            std::fs::create_dir_all(dir)?;
            // As the real one below: what a process that was killed had only written is there now, and
            // is built upon.
            disk.flush()?;
            return Ok(Self::Simulated(disk));
        }
        let config = sled::Config::default()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::HighThroughput)
            .flush_every_ms(None);
        let tree = Self::Sled {
            db: Some(open_patiently(&config)?),
            file: File::open(dir.join("db")).map_err(told)?,
        };
        tree.make_durable()?;
        durable::sync_file(&dir.join("conf")).map_err(told)?;
        Ok(tree)
    }

    /// The value of `key`.
    pub(super) fn get(&self, key: impl AsRef<[u8]>) -> io::Result<Option<Bytes>> {
        match self {
            Self::Sled { db, .. } => there(db.as_ref())?.get(key).map_err(own),
            #[cfg(feature = "simulate")]
            Self::Simulated(disk) => disk.get(key.as_ref()),
        }
    }

    /// Keys and values from `from` (included) to `to` (excluded), in order.
    pub(super) fn range(&self, from: &[u8], to: &[u8], limit: usize) -> io::Result<Scan> {
        Ok(match self {
            Self::Sled { db, .. } => Scan::Sled(there(db.as_ref())?.range(from..to).take(limit)),
            #[cfg(feature = "simulate")]
            Self::Simulated(disk) => {
                Scan::Simulated(disk.range(from, Some(to), limit)?.into_iter())
            }
        })
    }

    /// Applies all changes as one: after a crash all of them are there or none. Not yet durable.
    pub(super) fn apply(&self, batch: Batch) -> io::Result<()> {
        match self {
            Self::Sled { db, .. } => {
                let mut changes = sled::Batch::default();
                for (key, value) in batch {
                    match value {
                        Some(value) => changes.insert(key, value),
                        None => changes.remove(key),
                    }
                }
                let db = there(db.as_ref())?;
                guarded(|| db.apply_batch(changes))
            }
            #[cfg(feature = "simulate")]
            Self::Simulated(disk) => disk.apply(batch),
        }
    }

    /// Makes everything written so far survive a loss of power.
    pub(super) fn make_durable(&self) -> io::Result<()> {
        match self {
            Self::Sled { db, file } => {
                let db = there(db.as_ref())?;
                guarded(|| db.flush())?;
                durable::sync_data(file)
            }
            #[cfg(feature = "simulate")]
            Self::Simulated(disk) => disk.flush(),
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // sled panics when its last sync fails; the committer has told of that already.
        #[allow(irrefutable_let_patterns, reason = "there is another in a simulation")]
        if let Self::Sled { db, .. } = self {
            let db = db.take();
            let _ = catch_unwind(AssertUnwindSafe(move || drop(db)));
        }
    }
}

/// Keys and values being read.
#[cfg_attr(
    feature = "simulate",
    allow(clippy::large_enum_variant, reason = "the large one is the program's")
)]
pub(super) enum Scan {
    Sled(std::iter::Take<sled::Iter>),
    #[cfg(feature = "simulate")]
    Simulated(std::vec::IntoIter<(Bytes, Bytes)>),
}

impl Iterator for Scan {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        match self {
            Self::Sled(entries) => entries.next().map(|entry| entry.map_err(own)),
            #[cfg(feature = "simulate")]
            Self::Simulated(entries) => entries.next().map(Ok),
        }
    }
}

fn there(db: Option<&sled::Db>) -> io::Result<&sled::Db> {
    db.ok_or_else(|| io::Error::other("the index is closed"))
}

/// Opens sled; for two seconds a lock still held is waited for, because threads of an instance
/// just closed in this process may hold on to it for a moment. (Another process is kept out by
/// the data folder's own lock before.)
fn open_patiently(config: &sled::Config) -> io::Result<sled::Db> {
    let mut tries = 200;
    loop {
        match guarded(|| config.open()) {
            Err(e) if tries > 0 && e.to_string().contains("could not acquire lock") => {
                tries -= 1;
                thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

/// Runs a call into sled; its errors and panics become I/O errors.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> io::Result<T> {
    checked(|| call().map_err(own))
}

/// An error of sled's.
fn own(error: sled::Error) -> io::Error {
    told(io::Error::from(error))
}

/// What only a damaged index makes sled or the file system say is told as such: sled's words for
/// "should not happen" and "not of this version", and files that are missing or are something else.
fn told(error: io::Error) -> io::Error {
    use io::ErrorKind as K;
    match error.kind() {
        K::InvalidInput | K::NotFound | K::UnexpectedEof | K::IsADirectory | K::NotADirectory => {
            io::Error::new(K::InvalidData, error)
        }
        K::Other if error.to_string().contains("unexpected bug") => {
            io::Error::new(K::InvalidData, error)
        }
        _ => error,
    }
}

/// Runs calls into sled; a panic becomes an I/O error.
pub(super) fn checked<T>(calls: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    match catch_unwind(AssertUnwindSafe(calls)) {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the index failed an internal check",
        )),
    }
}
