//! Room on the disk: asked before every write, and how a failure to write is told.

use std::{io, path::PathBuf};

use crate::{durable, error::StoreError};

/// What a write is for; decides how much of the reserve it may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// New content: leaves the whole reserve untouched.
    Content,
    /// What keeps the node working, or makes room, on a nearly full disk: a message's state,
    /// removals, node-local records. It may use three quarters of the reserve.
    Upkeep,
}

/// The disk of the data folder.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    /// Data folder.
    pub(crate) dir: PathBuf,
    /// Free bytes that content never uses.
    pub(crate) reserve: u64,
}

impl Disk {
    /// Refuses with [`StoreError::Full`] when `size` bytes more would eat into the reserve.
    pub(crate) fn room_for(&self, size: u64, purpose: Purpose) -> Result<(), StoreError> {
        let reserve = match purpose {
            Purpose::Content => self.reserve,
            Purpose::Upkeep => self.reserve / 4,
        };
        let free = durable::free_bytes(&self.dir).map_err(|e| {
            StoreError::io(
                format!("asking for the free space of {}", self.dir.display()),
                e,
            )
        })?;
        if free < reserve.saturating_add(size) {
            return Err(self.full(free));
        }
        Ok(())
    }

    /// The error for a failed file operation: a full disk is told as such.
    pub(crate) fn error(&self, doing: impl Into<String>, source: io::Error) -> StoreError {
        if is_full(source.kind()) {
            self.full(durable::free_bytes(&self.dir).unwrap_or(0))
        } else {
            StoreError::io(doing, source)
        }
    }

    /// The error for a failed call into the index: what only a damaged one answers is told as such.
    pub(crate) fn index_error(&self, doing: impl Into<String>, source: io::Error) -> StoreError {
        match source.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                StoreError::damaged(doing, source)
            }
            _ => self.error(doing, source),
        }
    }

    fn full(&self, free: u64) -> StoreError {
        StoreError::Full {
            path: self.dir.clone(),
            free,
            reserve: self.reserve,
        }
    }
}

fn is_full(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// A failure many waiters are told of; `io::Error` cannot be cloned.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    doing: String,
    kind: io::ErrorKind,
    text: String,
}

impl Failure {
    pub(crate) fn new(doing: impl Into<String>, error: &io::Error) -> Self {
        Self {
            doing: doing.into(),
            kind: error.kind(),
            text: error.to_string(),
        }
    }

    pub(crate) fn to_error(&self, disk: &Disk) -> StoreError {
        disk.index_error(
            self.doing.clone(),
            io::Error::new(self.kind, self.text.clone()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upkeep_may_use_part_of_the_reserve_that_content_may_not() {
        let dir = tempfile::tempdir().unwrap();
        let free = durable::free_bytes(dir.path()).unwrap();
        let disk = Disk {
            dir: dir.path().into(),
            reserve: free * 2,
        };
        assert!(matches!(
            disk.room_for(1, Purpose::Content),
            Err(StoreError::Full { .. })
        ));
        assert!(disk.room_for(1, Purpose::Upkeep).is_ok());
        assert!(disk.room_for(free, Purpose::Upkeep).is_err());
    }

    #[test]
    fn enospc_and_an_exhausted_quota_are_a_full_disk() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk {
            dir: dir.path().into(),
            reserve: 0,
        };
        for errno in [28, 122] {
            let e = io::Error::from_raw_os_error(errno);
            assert!(matches!(disk.error("writing", e), StoreError::Full { .. }));
        }
        let e = io::Error::from_raw_os_error(5);
        assert!(matches!(disk.error("writing", e), StoreError::Io { .. }));
    }
}
