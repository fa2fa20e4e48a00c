//! Two states that differ although both hold the same operations: finding where
//! (docs/decisions/0010-synchronisation.md).
//!
//! Buckets that differ are listed item by item, and who gets the list says which of its own
//! records the other has not, or has otherwise. Both sides do; records are joined; nothing is
//! deleted. Entities under quarantine are in neither digests nor lists.

use std::collections::{BTreeMap, HashMap};

use vmsync_config::words::Vector;

use crate::{
    commit::Memory, digest, error::StoreError, index::Index, keys, operation::EntityKey,
    record::Record, store::Store,
};

/// Keys read from the index at once.
const STRIDE: usize = 4_096;

/// An entity as it counts in the digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Which.
    pub entity: EntityKey,
    /// First 16 hexadecimal digits of what it adds to the digest: SHA-256 of key, NUL, record.
    pub hash: String,
    /// It refers to audio that is not here, or damaged.
    pub lacks_audio: bool,
}

/// All items of one bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketItems {
    /// Which of the 256: the first byte of the SHA-256 of each key in it.
    pub bucket: u8,
    /// In order of key, none missing.
    pub items: Vec<Item>,
}

impl Store {
    /// The 256 bucket sums, 16 hexadecimal digits each (the first 8 bytes of a sum), at the
    /// vector returned with them; of the same moment as [`digest`](Self::digest) while nothing is
    /// written in between. Where two nodes with equal vectors differ, their states do.
    pub fn buckets(&self) -> (Vector, Vec<String>) {
        self.inner.committer.held(|m| {
            let sums = (0..=u8::MAX).map(|bucket| m.buckets.short(bucket));
            (m.vector.clone(), sums.collect())
        })
    }

    /// What is held durably in these buckets, in the order they are asked for; a bucket with
    /// nothing in it has no items. It reads every key once (a second or two with a million
    /// records) and the records of these buckets: ask for several at a time.
    pub fn items(&self, buckets: &[u8]) -> Result<Vec<BucketItems>, StoreError> {
        let mut found: BTreeMap<u8, Vec<Item>> = BTreeMap::new();
        let reading = self.inner.committer.reading();
        for entity in self.counted(buckets)? {
            let name = entity.to_string();
            let key = keys::record(&entity);
            let Some(value) = self.inner.committer.read(|index| index.get(&key))? else {
                continue;
            };
            let record = Record::from_bytes(&value)
                .map_err(|e| StoreError::damaged(format!("reading the record {name}"), e))?;
            let item = Item {
                hash: digest::short_hash(&name, &value),
                lacks_audio: record
                    .audio()
                    .iter()
                    .any(|blob| !self.has_sound_audio(*blob)),
                entity,
            };
            found.entry(digest::bucket(&name)).or_default().push(item);
        }
        self.inner.committer.show(&reading)?;
        let of = |bucket: &u8| BucketItems {
            bucket: *bucket,
            items: found.remove(bucket).unwrap_or_default(),
        };
        Ok(buckets.iter().map(of).collect())
    }

    /// Which of our entities to send to who gave these lists: those it has not, has otherwise, or
    /// lacks audio of that is here. What it has and we have not, it will find in our lists.
    pub fn compare_items(&self, theirs: &[BucketItems]) -> Result<Vec<EntityKey>, StoreError> {
        let buckets: Vec<u8> = theirs.iter().map(|b| b.bucket).collect();
        let listed = theirs.iter().flat_map(|b| &b.items);
        let listed: HashMap<&EntityKey, &Item> = listed.map(|i| (&i.entity, i)).collect();
        let ours = self.items(&buckets)?;
        let send = |item: &Item| match listed.get(&item.entity) {
            None => true,
            Some(their) => their.hash != item.hash || (their.lacks_audio && !item.lacks_audio),
        };
        let ours = ours.into_iter().flat_map(|b| b.items);
        Ok(ours.filter(send).map(|item| item.entity).collect())
    }

    /// Every entity of these buckets that counts in the digest.
    fn counted(&self, buckets: &[u8]) -> Result<Vec<EntityKey>, StoreError> {
        let mut wanted = [false; 256];
        for bucket in buckets {
            if let Some(w) = wanted.get_mut(usize::from(*bucket)) {
                *w = true;
            }
        }
        let is_wanted = |name: &str| wanted.get(usize::from(digest::bucket(name))) == Some(&true);
        let quarantine = self.inner.committer.held(|m: &Memory| m.quarantine.clone());
        let (mut from, end) = (keys::records(""), keys::end_of(&keys::records("")));
        let mut found = Vec::new();
        loop {
            let names = |index: &Index| index.keys(&from, &end, STRIDE);
            let keys = self.inner.committer.read(names)?;
            let Some(last) = keys.last() else {
                return Ok(found);
            };
            from = crate::mailboxes::after(last.clone());
            for key in &keys {
                let name = keys::entity_name(key);
                if is_wanted(&name)
                    && let Ok(entity) = EntityKey::try_from(name)
                    && !quarantine.contains_key(&entity)
                {
                    found.push(entity);
                }
            }
        }
    }
}
