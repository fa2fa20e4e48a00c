//! What the mover remembers over restarts: one record per recording on its way.

use vmsync_core::vrl::{RecordingName, Transfer};
use vmsync_store::{Store, StoreError};

/// The journal failed; in words.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the journal of recordings: {0}")]
pub struct JournalError(pub String);

/// Durable records of transfers. Every method blocks, and is durable when it returns.
pub trait Journal: Send + Sync + 'static {
    /// Everything journalled.
    fn load_all(&self) -> Result<Vec<Transfer>, JournalError>;
    /// Writes the record of one transfer.
    fn save(&self, transfer: &Transfer) -> Result<(), JournalError>;
    /// Forgets one transfer.
    fn remove(&self, name: &RecordingName) -> Result<(), JournalError>;
}

/// The journal in the store's node-local records.
pub struct StoreJournal(pub Store);

/// Space of the records.
const SPACE: &str = "vrl";

impl Journal for StoreJournal {
    fn load_all(&self) -> Result<Vec<Transfer>, JournalError> {
        let records = self.0.locals(SPACE).map_err(|e| words(&e))?;
        Ok(records
            .into_iter()
            .filter_map(|(key, value)| match serde_json::from_slice(&value) {
                Ok(transfer) => Some(transfer),
                Err(e) => {
                    // Not fatal: the folder is scanned anyway, and the primary is asked first.
                    tracing::warn!(recording = key, error = %e, "unreadable journal record; planned anew");
                    None
                }
            })
            .collect())
    }

    fn save(&self, transfer: &Transfer) -> Result<(), JournalError> {
        let value = serde_json::to_vec(transfer).map_err(|e| JournalError(e.to_string()))?;
        self.0
            .put_local(SPACE, transfer.name.as_str(), Some(&value))
            .map_err(|e| words(&e))
    }

    fn remove(&self, name: &RecordingName) -> Result<(), JournalError> {
        self.0
            .put_local(SPACE, name.as_str(), None)
            .map_err(|e| words(&e))
    }
}

fn words(e: &StoreError) -> JournalError {
    JournalError(e.to_string())
}
