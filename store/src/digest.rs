//! A digest of the whole state that does not depend on the order in which it came about.
//!
//! Each record falls into one of 256 buckets by the first byte of the SHA-256 of its key. A bucket
//! is the sum, as four 64-bit numbers without carry between them, of the SHA-256 of every record
//! in it: adding and taking away one record costs one hash, whatever else the store holds. The
//! digest is the SHA-256 of all buckets. It finds differences between two honest nodes; it is no
//! protection against a forger (the mails between the nodes are signed for that).

use sha2::{Digest as _, Sha256};

/// An order-independent digest of the whole state (architecture decision 5).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Digest(pub String);

/// One bucket.
pub(crate) type Sum = [u64; 4];

/// The 256 buckets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Buckets(Vec<Sum>);

impl Default for Buckets {
    fn default() -> Self {
        Self(vec![[0; 4]; 256])
    }
}

/// What the change of one record does to the sums.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    /// Where.
    pub(crate) bucket: u8,
    by: Sum,
}

impl Change {
    /// From the record as it counted before to how it counts now; `None` where it does not count.
    pub(crate) fn of(key: &str, before: Option<&[u8]>, now: Option<&[u8]>) -> Self {
        let sum =
            |bytes: Option<&[u8]>| bytes.map_or([0; 4], |bytes| to_sum(item(key, bytes).as_ref()));
        let (mut by, before) = (sum(now), sum(before));
        for (by, before) in by.iter_mut().zip(before) {
            *by = by.wrapping_sub(before);
        }
        let bucket = bucket(key);
        Self { bucket, by }
    }
}

impl Buckets {
    /// Adds the record `bytes` of `key`.
    pub(crate) fn add(&mut self, key: &str, bytes: &[u8]) {
        self.apply(&Change::of(key, None, Some(bytes)));
    }

    /// Adds what has changed.
    pub(crate) fn apply(&mut self, change: &Change) {
        if let Some(sum) = self.0.get_mut(usize::from(change.bucket)) {
            for (sum, by) in sum.iter_mut().zip(change.by) {
                *sum = sum.wrapping_add(by);
            }
        }
    }

    /// The bucket as stored.
    pub(crate) fn bytes(&self, bucket: u8) -> Vec<u8> {
        let sum = self.0.get(usize::from(bucket)).copied().unwrap_or_default();
        sum.iter().flat_map(|n| n.to_le_bytes()).collect()
    }

    /// Sets a bucket from its stored form; `false` when it has the wrong length.
    pub(crate) fn load(&mut self, bucket: u8, stored: &[u8]) -> bool {
        match self.0.get_mut(usize::from(bucket)) {
            Some(sum) if stored.len() == 32 => {
                *sum = to_sum(stored);
                true
            }
            _ => false,
        }
    }

    /// The bucket's sum for comparison: its first 8 bytes, 16 hexadecimal digits.
    pub(crate) fn short(&self, bucket: u8) -> String {
        let mut text = hex::encode(self.bytes(bucket));
        text.truncate(16);
        text
    }

    /// The digest over all buckets.
    pub(crate) fn digest(&self) -> Digest {
        let mut all = Sha256::new();
        for number in self.0.iter().flatten() {
            all.update(number.to_le_bytes());
        }
        Digest(hex::encode(all.finalize()))
    }
}

/// The bucket of the record of `key`.
pub(crate) fn bucket(key: &str) -> u8 {
    Sha256::digest(key.as_bytes())[0]
}

/// First 16 hexadecimal digits of what the record `bytes` of `key` adds.
pub(crate) fn short_hash(key: &str, bytes: &[u8]) -> String {
    let mut text = hex::encode(item(key, bytes));
    text.truncate(16);
    text
}

fn item(key: &str, bytes: &[u8]) -> impl AsRef<[u8]> + use<> {
    let mut item = Sha256::new();
    item.update(key.as_bytes());
    item.update([0]);
    item.update(bytes);
    item.finalize()
}

fn to_sum(bytes: &[u8]) -> Sum {
    let mut sum = [0; 4];
    for (number, chunk) in sum.iter_mut().zip(bytes.chunks_exact(8)) {
        let mut le = [0; 8];
        le.copy_from_slice(chunk);
        *number = u64::from_le_bytes(le);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_does_not_matter_and_taking_away_undoes_adding() {
        let (mut a, mut b) = (Buckets::default(), Buckets::default());
        let empty = a.digest();
        for n in 0..100 {
            a.add(&format!("message/{n}"), b"new");
        }
        for n in (0..100).rev() {
            b.add(&format!("message/{n}"), b"old");
            b.add(&format!("message/{n}"), b"new");
            let key = format!("message/{n}");
            b.apply(&Change::of(&key, Some(b"old"), None));
        }
        assert_eq!(a.digest(), b.digest());
        assert_ne!(a.digest(), empty);
        a.apply(&Change::of("message/7", Some(b"new"), Some(b"old")));
        assert_ne!(a.digest(), b.digest());
        a.apply(&Change::of("message/7", Some(b"old"), Some(b"new")));
        assert_eq!(a.digest(), b.digest());
    }

    #[test]
    fn a_bucket_reads_back_as_stored() {
        let mut a = Buckets::default();
        a.add("mailbox/2001", b"{}");
        let bucket = bucket("mailbox/2001");
        let mut b = Buckets::default();
        assert!(b.load(bucket, &a.bytes(bucket)));
        assert_eq!(a, b);
        assert!(!b.load(bucket, b"short"));
        let bytes = &a.bytes(bucket)[..8];
        assert_eq!(a.short(bucket), hex::encode(bytes));
        assert_eq!(a.short(bucket.wrapping_add(1)), "0".repeat(16));
    }
}
