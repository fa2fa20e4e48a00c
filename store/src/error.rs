//! Why the store could not do what was asked.

use std::{io, path::PathBuf};

use rustix::io::Errno;
use uuid::Uuid;
use vmsync_config::words::{Extension, Origin};

use crate::operation::EntityKey;

/// Why an operation of the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such mailbox, message, greeting…; `what` names it (`mailbox 2009`).
    #[error("{what} does not exist")]
    NotFound {
        /// e.g. `mailbox 2009`
        what: String,
    },
    /// It exists already, or the state forbids it; in words.
    #[error("{0}")]
    Conflict(String),
    /// The data folder is another process's now.
    #[error(
        "the data folder {} is in use by another vmsync process; stop that one, or give this node a data_dir of its own",
        .0.display()
    )]
    InUse(PathBuf),
    /// A value is out of its range; in words.
    #[error("{0}")]
    Invalid(String),
    /// The mailbox takes nothing new (R-MB-2).
    #[error("mailbox {0} is disabled")]
    Disabled(Extension),
    /// The mailbox has reached its limit of messages.
    #[error("mailbox {0} is full")]
    MailboxFull(Extension),
    /// The disk is full (ENOSPC) or under its reserve.
    #[error(
        "the disk of {path} is full: {free} bytes free, {reserve} kept in reserve; free some space, then try again"
    )]
    Full {
        /// Data folder.
        path: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes kept in reserve.
        reserve: u64,
    },
    /// Remote operations do not join what is held: `expected` is the next sequence number wanted.
    #[error("operation {got} of {origin} came where {expected} was expected")]
    Gap {
        /// Whose.
        origin: Origin,
        /// Next wanted.
        expected: u64,
        /// Given.
        got: u64,
    },
    /// The log no longer has the operations asked for: who lacks them gets state
    /// ([`Store::records`](crate::Store::records)).
    #[error(
        "the log of {origin} begins after operation {floor}: what came before is held as state only"
    )]
    BelowFloor {
        /// Whose.
        origin: Origin,
        /// The last operation the log no longer has.
        floor: u64,
    },
    /// Too many entities are quarantined at once.
    #[error(
        "{most} entities are quarantined already; release or resolve them before more are skipped"
    )]
    QuarantineFull {
        /// The bound.
        most: usize,
    },
    /// The quarantine of an entity can't end with what the peer holds of it.
    #[error(
        "more is held here of {0} than in this mail: its quarantine ends when this node's record was taken"
    )]
    HoldsMore(EntityKey),
    /// A remote operation names an audio file that is not in the store.
    #[error("audio {0} is not in the store")]
    MissingAudio(Uuid),
    /// The index is not what this program wrote. An open store goes on with what it can; a new
    /// start, or [`rebuild`](crate::rebuild), sets the index aside and makes another.
    #[error(
        "{doing}: {why}: the index is damaged; start the node again and it sets the index aside and makes a new one from its audio files and its peer, or stop it and run `vmsync store check`"
    )]
    Damaged {
        /// What was being done, with the path.
        doing: String,
        /// What was found.
        why: String,
    },
    /// Disk or index failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, with the path.
        doing: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// Whether the process or the machine lacked something for a moment (file descriptors, memory), so
    /// that it says nothing about what was to be read.
    pub fn is_passing(&self) -> bool {
        let Self::Io { source, .. } = self else {
            return false;
        };
        let passing = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN];
        let number = source.raw_os_error();
        number.is_some_and(|n| passing.iter().any(|e| e.raw_os_error() == n))
    }

    pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            doing: doing.into(),
            source,
        }
    }

    /// Something in the index is not what this program writes.
    pub(crate) fn damaged(doing: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Damaged {
            doing: doing.into(),
            why: why.to_string(),
        }
    }

    pub(crate) fn no_mailbox(ext: &Extension) -> Self {
        Self::NotFound {
            what: format!("mailbox {ext}"),
        }
    }

    pub(crate) fn no_message(id: Uuid) -> Self {
        Self::NotFound {
            what: format!("message {id}"),
        }
    }
}
