//! What an archive remembers over restarts.

use std::collections::BTreeMap;

use vmsync_core::vrl::retention::{Kept, SavedAge};
use vmsync_store::Store;

use crate::vrl::journal::JournalError;

/// What an archive remembers over restarts. Every method blocks, and is durable when it returns.
pub trait Records: Send + Sync + 'static {
    /// Everything recorded, by name in the archive; and the age.
    fn load(&self) -> Result<(BTreeMap<String, Kept>, Option<SavedAge>), JournalError>;
    /// Writes, or with `None` removes, several at once.
    fn put(&self, records: &[(&str, Option<&Kept>)]) -> Result<(), JournalError>;
    /// Writes the age.
    fn put_age(&self, age: SavedAge) -> Result<(), JournalError>;
}

/// Records in the store's node-local ones.
pub struct StoreRecords(pub Store);

const SPACE: &str = "vrl-archive";
/// Space and key of the age.
const AGE: (&str, &str) = ("vrl-archive-age", "age");

impl Records for StoreRecords {
    fn load(&self) -> Result<(BTreeMap<String, Kept>, Option<SavedAge>), JournalError> {
        let words = |e: vmsync_store::StoreError| JournalError(e.to_string());
        let mut records = BTreeMap::new();
        for (name, value) in self.0.locals(SPACE).map_err(words)? {
            match serde_json::from_slice(&value) {
                Ok(kept) => {
                    records.insert(name, kept);
                }
                // Its file is told as nobody's, and stays.
                Err(e) => {
                    tracing::warn!(file = name, error = %e, "unreadable record of the archive");
                }
            }
        }
        let age = self.0.local(AGE.0, AGE.1).map_err(words)?;
        let age = age.and_then(|value| serde_json::from_slice(&value).ok());
        Ok((records, age))
    }

    fn put(&self, records: &[(&str, Option<&Kept>)]) -> Result<(), JournalError> {
        let mut written = Vec::with_capacity(records.len());
        for (name, kept) in records {
            let value = kept
                .map(serde_json::to_vec)
                .transpose()
                .map_err(|e| JournalError(e.to_string()))?;
            written.push((*name, value));
        }
        let records: Vec<_> = written.iter().map(|(n, v)| (*n, v.as_deref())).collect();
        self.0
            .put_locals(SPACE, &records)
            .map_err(|e| JournalError(e.to_string()))
    }

    fn put_age(&self, age: SavedAge) -> Result<(), JournalError> {
        let value = serde_json::to_vec(&age).map_err(|e| JournalError(e.to_string()))?;
        self.0
            .put_local(AGE.0, AGE.1, Some(&value))
            .map_err(|e| JournalError(e.to_string()))
    }
}
