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
                    tracing::warn!(recording = key, error = %e, "unreadable journal record removed; the recording is planned anew");
                    if let Err(e) = self.0.put_local(SPACE, &key, None) {
                        tracing::warn!(recording = key, error = %words(&e), "it stays");
                    }
                    None
                }
            })
            .collect())
    }

    fn save(&self, transfer: &Transfer) -> Result<(), JournalError> {
        let value = serde_json::to_vec(transfer).map_err(|e| JournalError(e.to_string()))?;
        self.0
            .put_local(SPACE, transfer.name().as_str(), Some(&value))
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

#[cfg(test)]
mod tests {
    use super::*;
    use vmsync_config::words::{NodeId, UnixMillis};
    use vmsync_store::Options;

    fn open(dir: &std::path::Path) -> StoreJournal {
        let options = Options {
            node: NodeId::new("vmpro2").unwrap(),
            min_free_bytes: 0,
            clock: || UnixMillis(1_700_000_000_000),
        };
        StoreJournal(Store::open(dir, options).unwrap())
    }

    #[test]
    fn records_survive_the_process_and_an_unreadable_one_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        // The longest name there is, in two-byte letters.
        let name = RecordingName::new(&"ü".repeat(100)).unwrap();
        let part = vmsync_core::vrl::Part::new(name.clone(), 7, "ab".repeat(32));
        let transfer = Transfer::planned(part, Vec::new(), UnixMillis(5));
        let journal = open(dir.path());
        journal.save(&transfer).unwrap();
        journal
            .0
            .put_local(SPACE, "broken.wav", Some(b"{"))
            .unwrap();
        drop(journal);
        let journal = open(dir.path());
        assert_eq!(journal.load_all().unwrap(), [transfer]);
        journal.remove(&name).unwrap();
        journal.remove(&name).unwrap();
        assert_eq!(journal.load_all().unwrap(), []);
    }
}
