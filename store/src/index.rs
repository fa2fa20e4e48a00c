//! The sled index: one tree, read key by key, written in one atomic batch by the committer alone.
//!
//! What sled 0.34 is like, and what follows:
//! - `flush()` writes but does not fsync on Linux: [`Index::make_durable`] fsyncs the file after it.
//! - A page that outgrows 128 KiB goes to a file of its own that is *never* synced. A leaf holds
//!   up to 17 entries, so no value here is larger than [`WHOLE`]: larger ones lie in pieces.
//! - After an I/O error it answers nothing but that error until it is opened again: the committer
//!   opens it again (see `commit`).
//! - It may panic on a damaged file or a failed sync: calls into it are wrapped in [`checked`].

mod tree;

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::keys;
pub(crate) use tree::Batch;
use tree::{Bytes, Tree, checked};

/// Changes to the index by key: a value, or `None` to remove. Later changes overlay earlier ones.
pub(crate) type Overlay = std::collections::BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Values up to this many bytes lie whole under their key.
const WHOLE: usize = 4000;
/// First byte of a value that lies whole.
const TAG_WHOLE: u8 = 0;
/// First byte of a value in pieces: id (16 bytes) and length (4 bytes) follow.
const TAG_PIECES: u8 = 1;

/// Whether a value lies in pieces.
pub(crate) fn is_large(value: &[u8]) -> bool {
    value.len() > WHOLE
}

/// The open index.
pub(crate) struct Index {
    tree: Tree,
    path: PathBuf,
}

impl Index {
    /// Opens or creates the index in `dir` and makes its files durable.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        Ok(Self {
            tree: Tree::open(dir)?,
            path: dir.join("db"),
        })
    }

    /// Where the index lies, for errors.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The value of `key`.
    pub(crate) fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        checked(|| self.read(key))
    }

    fn read(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        // A value in pieces may be replaced between reading its head and its pieces: look again.
        for _ in 0..100 {
            let Some(head) = self.tree.get(key)? else {
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
            for entry in self.tree.range(from, to, limit)? {
                let (key, head) = entry?;
                if let Some(value) = self.complete(&key, &head)? {
                    found.push((key.to_vec(), value));
                }
            }
            Ok(found)
        })
    }

    /// Reads up to `limit` entries from `from` (included) to `to` (excluded), in order, and with them
    /// every page they lie on. Pieces are only read, and visited with what they belong to. Gives the
    /// last key, `None` when there was none.
    pub(crate) fn walk(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        mut visit: impl FnMut(&[u8], &[u8]) -> io::Result<()>,
    ) -> io::Result<Option<Vec<u8>>> {
        checked(|| {
            let mut last: Option<Bytes> = None;
            for entry in self.tree.range(from, to, limit)? {
                let (key, head) = entry?;
                // A page that points back to an earlier one would never end.
                if last.as_ref().is_some_and(|last| *last >= key) {
                    return Err(damaged(&key));
                }
                if key.first() != Some(&keys::PIECE)
                    && let Some(value) = self.complete(&key, &head)?
                {
                    visit(&key, &value)?;
                }
                last = Some(key);
            }
            Ok(last.map(|key| key.to_vec()))
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
            let entries = self.tree.range(from, to, limit)?;
            entries
                .map(|entry| entry.map(|(key, _)| key.to_vec()))
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
                    match self.tree.get(piece_key(id, n))? {
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
        self.write_all(changes, |_, _| true)
    }

    /// As [`write`](Self::write), what the committer has gathered: `large` names the records among it
    /// whose value may be a large one so far, so that the others need not be looked at. Local records
    /// may be large too; entries of the log are never replaced, but removed.
    pub(crate) fn write_group(
        &self,
        changes: &Overlay,
        large: &BTreeSet<Vec<u8>>,
    ) -> io::Result<()> {
        self.write_all(changes, |key, value| match key.first() {
            Some(&keys::RECORD) => large.contains(key),
            Some(&keys::LOCAL) => true,
            Some(&keys::LOG) => value.is_none(),
            _ => false,
        })
    }

    /// `had_pieces` says whether a key may have had a large value that goes now.
    fn write_all(
        &self,
        changes: &Overlay,
        had_pieces: impl Fn(&Vec<u8>, &Option<Vec<u8>>) -> bool,
    ) -> io::Result<()> {
        let mut batch = Batch::with_capacity(changes.len());
        for (key, value) in changes {
            if had_pieces(key, value) {
                self.drop_pieces(key, &mut batch)?;
            }
            match value {
                None => batch.push((key.as_slice().into(), None)),
                Some(value) if value.len() <= WHOLE => {
                    let mut stored = Vec::with_capacity(1 + value.len());
                    stored.push(TAG_WHOLE);
                    stored.extend_from_slice(value);
                    batch.push((key.as_slice().into(), Some(stored.into())));
                }
                Some(value) => insert_pieces(key, value, &mut batch)?,
            }
        }
        self.tree.apply(batch)
    }

    /// Removes the pieces of the value `key` has now.
    fn drop_pieces(&self, key: &[u8], batch: &mut Batch) -> io::Result<()> {
        let Some(head) = self.tree.get(key)? else {
            return Ok(());
        };
        if let Some((&TAG_PIECES, rest)) = head.split_first() {
            let (id, len) = pieces_head(rest).ok_or_else(|| damaged(key))?;
            for n in 0..len.div_ceil(WHOLE) {
                batch.push((piece_key(id, n).into(), None));
            }
        }
        Ok(())
    }

    /// Makes everything written so far survive a loss of power.
    pub(crate) fn make_durable(&self) -> io::Result<()> {
        self.tree.make_durable()
    }
}

/// Pieces are named after key and content, so that a new value never shares them with the old.
fn insert_pieces(key: &[u8], value: &[u8], batch: &mut Batch) -> io::Result<()> {
    let length = u32::try_from(value.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a value of over 4 GiB"))?;
    let mut hash = Sha256::new();
    hash.update(key);
    hash.update([0]);
    hash.update(value);
    let hash = hash.finalize();
    let (id, _) = hash.split_at(16);
    for (n, piece) in value.chunks(WHOLE).enumerate() {
        batch.push((piece_key(id, n).into(), Some(piece.into())));
    }
    let mut head = vec![TAG_PIECES];
    head.extend_from_slice(id);
    head.extend_from_slice(&length.to_be_bytes());
    batch.push((key.into(), Some(head.into())));
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
