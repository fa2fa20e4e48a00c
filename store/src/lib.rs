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
//! | `merge`, `record`, `view`, `digest`, `clock` | pure: the conflict rule, what a record says, its digest, the hybrid clock |
//! | `keys`, `index` | the sled index: keys, large values in pieces, flush and fsync |
//! | `transaction`, `commit` | one writer's changes; the group committer |
//! | `durable`, `disk`, `format`, `blobs` | files: fsync and rename, room, the data folder, audio files |
//! | `mailboxes`, `messages`, `greetings`, `flows`, `local`, `replication`, `check` | the methods of [`Store`] |

mod blobs;
mod check;
mod clock;
mod commit;
mod digest;
mod disk;
mod durable;
mod error;
mod flows;
mod format;
mod greetings;
mod index;
mod keys;
mod limits;
mod local;
mod mailboxes;
mod merge;
mod messages;
pub mod model;
pub mod operation;
mod record;
mod replication;
mod store;
mod transaction;
mod view;

pub use blobs::NewAudio;
pub use clock::MAX_CLOCK_AHEAD_MS;
pub use commit::Committed;
pub use digest::Digest;
pub use durable::{free_bytes, remove_file_durably, sync_file, write_file_durably};
pub use error::StoreError;
pub use operation::{AudioRef, Effect, EntityKey, GreetingKind, Hlc, Operation, Stamp};
pub use store::{Options, Store};
