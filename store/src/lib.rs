//! A node's durable memory: mailboxes, messages, greetings, call flows, settings, and the log of
//! every change to them.
//!
//! Order of every write (docs/decisions/0005-durability.md): audio file written, fsynced,
//! renamed, folder fsynced; then operation, state, vector and digest in one sled transaction;
//! then one shared flush with a real fsync; only then the caller gets its answer.

pub mod operation;
pub mod model;
mod api;

pub use api::*;
pub use operation::{AudioRef, Effect, EntityKey, GreetingKind, Hlc, Operation, Stamp};
