//! The sled index: one tree, read key by key, written in one atomic batch by the committer alone.
//!
//! What sled 0.34 is like, and what follows:
//! - `flush()` writes but does not fsync on Linux: [`Index::make_durable`] fsyncs the file after it.
//! - A page that outgrows 128 KiB goes to a file of its own that is *never* synced. A leaf holds
//!   up to 17 entries, so no value here is larger than [`WHOLE`]: larger ones lie in pieces.
//! - After an I/O error it answers nothing but that error until it is opened again: the committer
//!   opens it again (see `commit`).
//! - It may panic on a damaged file or a failed sync: calls into it are wrapped in [`checked`].

use std::{
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use sha2::{Digest as _, Sha256};

use crate::{durable, keys};

/// Changes to the index by key: a value, or `None` to remove. Later changes overlay earlier ones.
pub(crate) type Overlay = std::collections::BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Values up to this many bytes lie whole under their key.
const WHOLE: usize = 4000;
/// sled's own memory; the state proper is small and hot.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// First byte of a value that lies whole.
const TAG_WHOLE: u8 = 0;
/// First byte of a value in pieces: id (16 bytes) and length (4 bytes) follow.
const TAG_PIECES: u8 = 1;

/// The open index.
pub(crate) struct Index {
    /// `Some` until dropped.
    db: Option<sled::Db>,
    file: File,
    path: PathBuf,
}

impl Index {
    /// Opens or creates the index in `dir` and makes its files durable.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let config = sled::Config::default()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::HighThroughput)
            .flush_every_ms(None);
        let db = open_patiently(&config)?;
        let path = dir.join("db");
        let index = Self {
            db: Some(db),
            file: File::open(&path).map_err(told)?,
            path,
        };
        index.make_durable()?;
        durable::sync_file(&dir.join("conf")).map_err(told)?;
        Ok(index)
    }

    /// Where the index lies, for errors.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn db(&self) -> io::Result<&sled::Db> {
        self.db
            .as_ref()
            .ok_or_else(|| io::Error::other("the index is closed"))
    }

    /// The value of `key`.
    pub(crate) fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        checked(|| self.read(key))
    }

    fn read(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        // A value in pieces may be replaced between reading its head and its pieces: look again.
        for _ in 0..100 {
            let Some(head) = self.db()?.get(key).map_err(own)? else {
                return Ok(None);
            };
            if let Some(value) = self.whole(&head)? {
                return Ok(Some(value));
            }
        }
        Err(damaged(key))
    }

    /// Up to `limit` keys and values from `from` (included) to `to` (excluded), in order.
    pub(crate) fn range(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        if from >= to {
            return Ok(Vec::new());
        }
        checked(|| {
            let mut found = Vec::new();
            for entry in self.db()?.range(from..to).take(limit) {
                let (key, head) = entry.map_err(own)?;
                if let Some(value) = self.complete(&key, &head)? {
                    found.push((key.to_vec(), value));
                }
            }
            Ok(found)
        })
    }

    /// Reads every key and value, in order, and with them every page there is. For when nothing
    /// writes.
    pub(crate) fn each(
        &self,
        mut visit: impl FnMut(&[u8], &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        checked(|| {
            let mut last: Option<sled::IVec> = None;
            for entry in self.db()?.iter() {
                let (key, head) = entry.map_err(own)?;
                // A page that points back to an earlier one would never end.
                if last.as_ref().is_some_and(|last| *last >= key) {
                    return Err(damaged(&key));
                }
                if key.first() != Some(&keys::PIECE) {
                    let value = self.complete(&key, &head)?;
                    visit(&key, &value.ok_or_else(|| damaged(&key))?)?;
                }
                last = Some(key);
            }
            Ok(())
        })
    }

    fn complete(&self, key: &[u8], head: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match self.whole(head)? {
            Some(value) => Ok(Some(value)),
            None => self.read(key),
        }
    }

    /// Up to `limit` keys from `from` (included) to `to` (excluded), in order.
    pub(crate) fn keys(&self, from: &[u8], to: &[u8], limit: usize) -> io::Result<Vec<Vec<u8>>> {
        if from >= to {
            return Ok(Vec::new());
        }
        checked(|| {
            let entries = self.db()?.range(from..to).take(limit);
            entries
                .map(|entry| entry.map(|(key, _)| key.to_vec()).map_err(own))
                .collect()
        })
    }

    /// Puts a value together; `None` when a piece is missing.
    fn whole(&self, head: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match head.split_first() {
            Some((&TAG_WHOLE, value)) => Ok(Some(value.to_vec())),
            Some((&TAG_PIECES, rest)) => {
                let (id, len) = pieces_head(rest).ok_or_else(|| damaged(head))?;
                let mut value = Vec::new();
                for n in 0..len.div_ceil(WHOLE) {
                    match self.db()?.get(piece_key(id, n)).map_err(own)? {
                        Some(piece) => value.extend_from_slice(&piece),
                        None => return Ok(None),
                    }
                }
                Ok(Some(value))
            }
            _ => Err(damaged(head)),
        }
    }

    /// Applies all changes as one: after a crash all of them are there or none. Not yet durable.
    pub(crate) fn write(&self, changes: &Overlay) -> io::Result<()> {
        self.write_all(changes, |key, value| match key.first() {
            Some(&(keys::RECORD | keys::LOCAL)) => true,
            Some(&keys::LOG) => value.is_none(),
            _ => false,
        })
    }

    /// As [`write`](Self::write), where any of the keys may have a large value already.
    pub(crate) fn replace(&self, changes: &Overlay) -> io::Result<()> {
        self.write_all(changes, |_, _| true)
    }

    /// `had_pieces` says whether a key may have had a large value that goes now: records and local
    /// records are ever both large and replaced, entries of the log large and removed.
    fn write_all(
        &self,
        changes: &Overlay,
        had_pieces: impl Fn(&[u8], &Option<Vec<u8>>) -> bool,
    ) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            if had_pieces(key, value) {
                self.drop_pieces(key, &mut batch)?;
            }
            match value {
                None => batch.remove(key.as_slice()),
                Some(value) if value.len() <= WHOLE => {
                    let mut stored = Vec::with_capacity(1 + value.len());
                    stored.push(TAG_WHOLE);
                    stored.extend_from_slice(value);
                    batch.insert(key.as_slice(), stored);
                }
                Some(value) => insert_pieces(key, value, &mut batch)?,
            }
        }
        let db = self.db()?;
        guarded(|| db.apply_batch(batch))
    }

    /// Removes the pieces of the value `key` has now.
    fn drop_pieces(&self, key: &[u8], batch: &mut sled::Batch) -> io::Result<()> {
        let Some(head) = self.db()?.get(key).map_err(own)? else {
            return Ok(());
        };
        if let Some((&TAG_PIECES, rest)) = head.split_first() {
            let (id, len) = pieces_head(rest).ok_or_else(|| damaged(key))?;
            for n in 0..len.div_ceil(WHOLE) {
                batch.remove(piece_key(id, n));
            }
        }
        Ok(())
    }

    /// Makes everything written so far survive a loss of power.
    pub(crate) fn make_durable(&self) -> io::Result<()> {
        let db = self.db()?;
        guarded(|| db.flush())?;
        durable::sync_data(&self.file)
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        // sled panics when its last sync fails; the committer has told of that already.
        let db = self.db.take();
        let _ = catch_unwind(AssertUnwindSafe(move || drop(db)));
    }
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
fn checked<T>(calls: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    match catch_unwind(AssertUnwindSafe(calls)) {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the index failed an internal check",
        )),
    }
}

/// Pieces are named after key and content, so that a new value never shares them with the old.
fn insert_pieces(key: &[u8], value: &[u8], batch: &mut sled::Batch) -> io::Result<()> {
    let length = u32::try_from(value.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a value of over 4 GiB"))?;
    let mut hash = Sha256::new();
    hash.update(key);
    hash.update([0]);
    hash.update(value);
    let hash = hash.finalize();
    let (id, _) = hash.split_at(16);
    for (n, piece) in value.chunks(WHOLE).enumerate() {
        batch.insert(piece_key(id, n), piece);
    }
    let mut head = vec![TAG_PIECES];
    head.extend_from_slice(id);
    head.extend_from_slice(&length.to_be_bytes());
    batch.insert(key, head);
    Ok(())
}

fn pieces_head(rest: &[u8]) -> Option<(&[u8], usize)> {
    let (id, length) = rest.split_at_checked(16)?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    Some((id, usize::try_from(length).ok()?))
}

fn piece_key(id: &[u8], n: usize) -> Vec<u8> {
    let mut key = vec![keys::PIECE];
    key.extend_from_slice(id);
    key.extend_from_slice(&(n as u64).to_be_bytes());
    key
}

fn damaged(key: &[u8]) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the value at {:?} is damaged", String::from_utf8_lossy(key)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(index: &Index, key: &str, value: Option<Vec<u8>>) {
        let changes = [(key.as_bytes().to_vec(), value)].into();
        index.write(&changes).unwrap();
    }

    #[test]
    fn values_of_any_size_read_back_and_leave_no_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path()).unwrap();
        for size in [0, 1, WHOLE, WHOLE + 1, 700_000, 3 * WHOLE, 5] {
            let value: Vec<u8> = (0..size).map(|n| n.to_le_bytes()[0]).collect();
            put(&index, "rflow/main", Some(value.clone()));
            assert_eq!(index.get(b"rflow/main").unwrap(), Some(value.clone()));
            let all = index.range(b"r", b"s", 10).unwrap();
            assert_eq!(all, [(b"rflow/main".to_vec(), value)]);
        }
        put(&index, "rflow/main", Some(vec![7; 50_000]));
        put(&index, "rflow/main", None);
        assert_eq!(index.get(b"rflow/main").unwrap(), None);
        assert!(index.range(b"a", b"z", 10).unwrap().is_empty());
    }

    #[test]
    fn no_value_ever_becomes_a_file_of_sleds_own() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path()).unwrap();
        for n in 0..40 {
            put(&index, &format!("l{n:02}"), Some(vec![1; WHOLE]));
            put(&index, &format!("r{n:02}"), Some(vec![2; 300_000]));
        }
        index.make_durable().unwrap();
        let files = std::fs::read_dir(dir.path().join("blobs")).unwrap();
        assert_eq!(files.count(), 0);
    }

    #[test]
    fn what_was_written_is_there_when_opened_again_at_once() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..5u8 {
            let index = Index::open(dir.path()).unwrap();
            if round > 0 {
                assert_eq!(index.get(b"m").unwrap(), Some(vec![round - 1]));
            }
            put(&index, "m", Some(vec![round]));
            index.make_durable().unwrap();
        }
    }
}
