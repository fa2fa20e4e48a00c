//! A node's durable memory: mailboxes, messages, greetings, call flows, settings, and the log of
//! every change to them.
//!
//! Order of every write (docs/decisions/0005-durability.md): audio file written, fsynced,
//! renamed, folder fsynced; then operation, state, vector and digest in one batch of the index;
//! then one shared flush with a real fsync; only then the caller gets its answer.
//!
//! | module | holds |
//! |---|---|
//! | `operation`, `model` | what is replicated; typed views of what is held |
//! | `merge`, `record`, `view`, `digest`, `clock`, `seed` | pure: the conflict rule, what a record says, its digest, the hybrid clock, the steps of a seeding |
//! | `keys`, `index`, `log`, `upgrade` | the sled index: keys, large values in pieces, flush and fsync; entries of the log; older versions |
//! | `transaction`, `commit` | one writer's changes; the group committer |
//! | `durable`, `disk`, `format`, `blobs` | files: fsync and rename, room, the data folder, audio files |
//! | `chance`, `simulate` | where ids come from; a disk whose power is lost, for tests (feature `simulate`) |
//! | `backup`, `restore` | everything held, in a folder of its own; a new store from it |
//! | `verify`, `watermark`, `rebuild` | whether the index is sound; a new one from the audio files |
//! | `scrub` | whether the audio files are, while the node works |
//! | `housekeeping` | how long messages are kept in each state |
//! | `mailboxes`, `messages`, `email`, `greetings`, `flows`, `local`, `check` | the methods of [`Store`] |
//! | `replication`, `backlog`, `compact`, `join`, `repair`, `quarantine` | those the pair needs: operations, how many, how long they are kept; state, where it differs, what stays behind |

mod backlog;
mod backup;
mod blobs;
mod chance;
mod check;
mod clock;
mod commit;
mod compact;
mod digest;
mod disk;
mod durable;
mod email;
mod error;
mod flows;
mod format;
mod greetings;
mod housekeeping;
mod index;
mod join;
mod keys;
mod limits;
mod local;
mod log;
mod mailboxes;
mod merge;
mod merged;
mod messages;
pub mod model;
pub mod object;
mod operation;
mod quarantine;
mod rebuild;
mod record;
mod repair;
mod replication;
mod restore;
mod reunion;
mod scrub;
mod seed;
#[cfg(feature = "simulate")]
pub mod simulate;
mod store;
mod transaction;
mod upgrade;
mod verify;
mod view;
mod watermark;

pub use backlog::Backlog;
pub use backup::{Backup, Manifest, Progress, backups, prune_backups, read_manifest};
pub use blobs::NewAudio;
pub use check::AudioCheck;
pub use clock::MAX_CLOCK_AHEAD_MS;
pub use commit::Committed;
pub use compact::CompactTo;
pub use digest::Digest;
pub use durable::{
    free_bytes, remove_file_durably, rename_new, sync_bytes, sync_file, sync_names,
    write_file_durably,
};
pub use email::Unmailed;
pub use error::StoreError;
pub use housekeeping::{Housekept, Keep};
pub use join::{HeldRecord, Joined, PeerRecord, RecordsAsk, RecordsPage};
pub use limits::MAX_ORIGINS;
pub use merged::{Change, Conflict, MergeReport, Side};
pub use operation::{AudioRef, Effect, EntityKey, GreetingKind, Hlc, Operation, Stamp};
pub use quarantine::{MAX_QUARANTINED, Quarantined, Skip};
pub use rebuild::{Rebuilt, rebuild};
pub use repair::{BucketItems, Item};
pub use replication::Logged;
pub use restore::{RestoreFrom, Restored, restore};
pub use reunion::Reunion;
pub use scrub::{AudioFault, MAX_AUDIO_FAULTS, ScrubAsk, Scrubbed};
pub use seed::{SeedStep, Seeding};
pub use store::{Options, Store};
pub use verify::Verified;
