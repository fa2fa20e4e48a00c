//! Node-local durable records, never replicated: ownership of groups, the journal of recordings,
//! phones seen. By space and key; what is in them is the caller's.

use crate::{disk::Purpose, error::StoreError, keys, limits, mailboxes::SMALL, store::Store};

impl Store {
    /// Reads record `key` of `space`.
    pub fn local(&self, space: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let key = keys::local(space, key);
        self.inner.committer.read(|index| index.get(&key))
    }

    /// All records of `space` in order of key.
    pub fn locals(&self, space: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let prefix = keys::locals(space);
        let found = self
            .inner
            .committer
            .read(|index| index.range(&prefix, &keys::end_of(&prefix), usize::MAX))?;
        Ok(found
            .into_iter()
            .map(|(key, value)| {
                let name = key.get(prefix.len()..).unwrap_or_default();
                (String::from_utf8_lossy(name).into_owned(), value)
            })
            .collect())
    }

    /// Writes (or with `None` removes) a record; durable when it returns. At most 1 MiB.
    pub fn put_local(
        &self,
        space: &str,
        key: &str,
        value: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        self.put_locals(space, &[(key, value)])
    }

    /// As [`put_local`](Self::put_local), several records as one, made durable together.
    pub fn put_locals(
        &self,
        space: &str,
        records: &[(&str, Option<&[u8]>)],
    ) -> Result<(), StoreError> {
        let records = records.iter().map(|(key, value)| (space, *key, *value));
        self.put_local_batch(&records.collect::<Vec<_>>())
    }

    /// As [`put_locals`](Self::put_locals), records of several spaces: space, key, value. All of them
    /// are there after a crash, or none.
    pub fn put_local_batch(
        &self,
        records: &[(&str, &str, Option<&[u8]>)],
    ) -> Result<(), StoreError> {
        let mut size = SMALL;
        for (space, key, value) in records {
            limits::local(space, key, *value)?;
            size += (key.len() + value.map_or(0, <[u8]>::len)) as u64;
        }
        self.write(size, Purpose::Upkeep, |t| {
            for (space, key, value) in records {
                t.put(keys::local(space, key), value.map(<[u8]>::to_vec));
            }
            Ok(())
        })
    }
}
