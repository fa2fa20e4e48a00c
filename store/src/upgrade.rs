//! Brings an index of an older format version up to this one, in place.
//!
//! Version 2 keeps running totals with each entry of the log (see `log`). The entries of version 1
//! are written anew, a batch at a time; each says of itself which version it is, so an upgrade cut
//! off at any point goes on where it was at the next start. The folder says version 2 from before
//! the first entry is changed (see `format`), so that an older program leaves it alone, and the
//! index itself only once all are: then nothing is looked at again.

use std::io;

use vmsync_config::words::Origin;

use crate::{
    index::{Index, Overlay},
    keys,
    log::{self, Sums},
    operation::Operation,
};

/// The version of the index this program reads and writes.
const VERSION: &[u8] = b"2";
/// Entries changed as one.
const BATCH: usize = 500;

/// What a new index is given.
pub(crate) fn mark_of_this_version() -> (Vec<u8>, Option<Vec<u8>>) {
    (keys::FORMAT.to_vec(), Some(VERSION.to_vec()))
}

/// Upgrades what needs it; nothing else may use the index meanwhile.
pub(crate) fn run(index: &Index) -> io::Result<()> {
    if index.get(keys::FORMAT)?.is_some() || index.get(keys::ORIGIN)?.is_none() {
        return Ok(());
    }
    tracing::info!(index = %index.path().display(), "the operation log is brought up to format version 2");
    let mut entries = 0;
    for origin in origins(index)? {
        entries += upgrade_log(index, &origin)?;
    }
    index.make_durable()?;
    index.write(&Overlay::from([mark_of_this_version()]))?;
    index.make_durable()?;
    tracing::info!(entries, "the operation log is of format version 2");
    Ok(())
}

/// All origins whose operations are held.
fn origins(index: &Index) -> io::Result<Vec<Origin>> {
    let vector = index.range(&[keys::VECTOR], &keys::end_of(&[keys::VECTOR]), usize::MAX)?;
    let origin = |(key, _): (Vec<u8>, Vec<u8>)| keys::origin(&key);
    vector.into_iter().map(origin).collect()
}

/// Goes through the log of `origin`; says how many entries were changed.
fn upgrade_log(index: &Index, origin: &Origin) -> io::Result<u64> {
    let mut place = (keys::log(origin, 0), Sums::default());
    let mut changed = 0;
    while let Some((next, entries)) = upgrade_batch(index, origin, place)? {
        place = next;
        changed += entries;
    }
    Ok(changed)
}

/// A place in a log: where to go on, and the totals before it.
type Place = (Vec<u8>, Sums);

/// Changes the next entries; gives the place behind them and how many were changed, `None` at the
/// end.
fn upgrade_batch(
    index: &Index,
    origin: &Origin,
    (from, mut sums): Place,
) -> io::Result<Option<(Place, u64)>> {
    let entries = index.range(&from, &keys::log(origin, u64::MAX), BATCH)?;
    let Some((last, _)) = entries.last() else {
        return Ok(None);
    };
    let next = [last.as_slice(), &[0]].concat();
    let mut changes = Overlay::new();
    for (key, value) in entries {
        if log::is_version_1(&value) {
            let operation: Operation = serde_json::from_slice(&value)?;
            sums = sums.plus(&operation, value.len());
            changes.insert(key, Some(log::encode(sums, &value)));
        } else {
            sums = log::split(&value)?.0;
        }
    }
    index.write(&changes)?;
    Ok(Some(((next, sums), changes.len() as u64)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operation::{Effect, Hlc, Stamp};

    /// An index as version 1 wrote it: some entries are so large that they lie in pieces.
    fn version_1(dir: &std::path::Path, origin: &Origin, entries: u64) -> Index {
        let index = Index::open(dir).unwrap();
        let mut changes = Overlay::new();
        let name = serde_json::to_vec(origin).unwrap();
        changes.insert(keys::ORIGIN.to_vec(), Some(name));
        let last = entries.to_be_bytes().to_vec();
        changes.insert(keys::vector(origin), Some(last));
        for seq in 1..=entries {
            let size = if seq % 100 == 0 { 9_000 } else { 10 };
            let operation = Operation {
                stamp: Stamp {
                    at: Hlc::default(),
                    origin: origin.clone(),
                    seq,
                },
                entity: crate::operation::EntityKey::Setting(format!("s{seq}")),
                effect: Effect::Set([("value".to_owned(), json!("x".repeat(size)))].into()),
                extra: std::collections::BTreeMap::new(),
            };
            let bytes = serde_json::to_vec(&operation).unwrap();
            changes.insert(keys::log(origin, seq), Some(bytes));
        }
        index.write(&changes).unwrap();
        index
    }

    fn all(index: &Index) -> Vec<(Vec<u8>, Vec<u8>)> {
        let log = index.range(b"l", b"m", usize::MAX).unwrap();
        for (_, value) in &log {
            log::decode(value).unwrap();
        }
        log
    }

    #[test]
    fn an_upgrade_cut_off_anywhere_goes_on_where_it_was() {
        let origin: Origin = "vmpro1.00000001".parse().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let index = version_1(dir.path(), &origin, 1_800);
        run(&index).unwrap();
        let whole = all(&index);
        assert_eq!(whole.len(), 1_800);
        let pieces = index.keys(b"p", b"q", usize::MAX).unwrap().len();
        assert_eq!(pieces, 18 * 3, "no piece of an old value stays");
        for done in 1..4 {
            let dir = tempfile::tempdir().unwrap();
            let index = version_1(dir.path(), &origin, 1_800);
            let mut place = (keys::log(&origin, 0), Sums::default());
            for _ in 0..done {
                place = upgrade_batch(&index, &origin, place).unwrap().unwrap().0;
            }
            drop(index);
            let index = Index::open(dir.path()).unwrap();
            run(&index).unwrap();
            assert_eq!(all(&index), whole);
            run(&index).unwrap();
            assert_eq!(all(&index), whole);
        }
    }

    #[test]
    fn a_new_index_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path()).unwrap();
        run(&index).unwrap();
        assert_eq!(index.get(keys::FORMAT).unwrap(), None);
    }
}
