//! The store's interface. Everything blocks: call it from a blocking thread.
//! (Skeleton of signatures: bodies to be written, file to be split as the implementer finds best.)

use std::{io::Read, path::{Path, PathBuf}, sync::Arc};

use uuid::Uuid;
use vmsync_config::words::{Extension, NodeId, Origin, UnixMillis, Vector};

use crate::{
    model::*,
    operation::*,
};

/// How to open a store.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node it belongs to; a store of another node is refused.
    pub node: NodeId,
    /// Free bytes below which writes answer [`StoreError::Full`].
    pub min_free_bytes: u64,
    /// The wall clock; the store reads no other. The shell hands in its own, a test a fake one.
    pub clock: fn() -> UnixMillis,
}

/// Why an operation of the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such mailbox, message, greeting…; `what` names it (`mailbox 2009`).
    #[error("{what} does not exist")]
    NotFound { /** e.g. `mailbox 2009` */ what: String },
    /// It exists already, or the state forbids it; in words.
    #[error("{0}")]
    Conflict(String),
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
    #[error("the disk of {path} is full: {free} bytes free, {reserve} kept in reserve; free some space, then try again")]
    Full { /** data folder */ path: PathBuf, /** bytes free */ free: u64, /** reserve */ reserve: u64 },
    /// Remote operations do not join what is held: `expected` is the next sequence number wanted.
    #[error("operation {got} of {origin} came where {expected} was expected")]
    Gap { /** whose */ origin: Origin, /** next wanted */ expected: u64, /** given */ got: u64 },
    /// A remote operation names an audio file that is not in the store.
    #[error("audio {0} is not in the store")]
    MissingAudio(Uuid),
    /// Disk or index failed.
    #[error("{doing}: {source}")]
    Io { /** what was being done, with the path */ doing: String, /** why it failed */ #[source] source: std::io::Error },
}

/// A node's store. Cheap to clone.
#[derive(Clone)]
pub struct Store { inner: Arc<()> }

/// An order-independent digest of the whole state (architecture decision 5).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Digest(pub String);

/// Tells listeners what a commit changed; sent after it is durable.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The operations, in order.
    pub operations: Arc<[Operation]>,
    /// Whether they came from the peer.
    pub remote: bool,
}

/// What an audio file in the store says of itself (its header), so that the index can be rebuilt.
#[derive(Debug, Clone)]
pub struct NewAudio<'a> {
    /// The entity the audio is for.
    pub entity: EntityKey,
    /// Everything about the audio; `blob` is chosen by the caller (`Uuid::now_v7()`) or, for a replica, by the origin.
    pub audio: &'a AudioRef,
    /// For a message, its facts as JSON; else null.
    pub facts: serde_json::Value,
}

impl Store {
    /// Opens or creates the store in `dir`. Refuses a folder of a newer version or of another node.
    pub fn open(dir: &Path, options: Options) -> Result<Self, StoreError> { todo!() }
    /// This store's origin (node and incarnation).
    pub fn origin(&self) -> Origin { todo!() }
    /// Registers a listener called after each durable commit, in commit order, from the committing
    /// thread; it must not block (push into a channel).
    pub fn on_commit(&self, listener: Box<dyn Fn(&Committed) + Send + Sync>) { todo!() }

    // ---- writes: all durable when they return ----
    /// Creates a mailbox; `Conflict` when it exists.
    pub fn create_mailbox(&self, ext: &Extension, patch: &MailboxPatch) -> Result<Mailbox, StoreError> { todo!() }
    /// Changes the fields given.
    pub fn change_mailbox(&self, ext: &Extension, patch: &MailboxPatch) -> Result<Mailbox, StoreError> { todo!() }
    /// Deletes it with every message and greeting seen here.
    pub fn delete_mailbox(&self, ext: &Extension) -> Result<(), StoreError> { todo!() }
    /// R-MB-2 *clear*: all messages and greetings go, the PIN stays.
    pub fn clear_mailbox(&self, ext: &Extension) -> Result<(), StoreError> { todo!() }
    /// Deposits a message; the same `facts.source_id` for the same mailbox twice gives the first message back and `false`.
    /// `audio` fields were measured by the caller from `bytes`; the store checks length and SHA-256.
    pub fn deposit(&self, ext: &Extension, facts: MessageFacts, audio: AudioRef, bytes: &[u8]) -> Result<(Message, bool), StoreError> { todo!() }
    /// Changes a message's state; `Deleted` is recoverable.
    pub fn set_message_state(&self, id: Uuid, state: MessageState) -> Result<Message, StoreError> { todo!() }
    /// Removes a message for good (tombstone); its audio file goes after the commit.
    pub fn purge_message(&self, id: Uuid) -> Result<(), StoreError> { todo!() }
    /// Sets a greeting.
    pub fn set_greeting(&self, ext: &Extension, kind: GreetingKind, audio: AudioRef, bytes: &[u8], until: Option<UnixMillis>) -> Result<Greeting, StoreError> { todo!() }
    /// Removes a greeting.
    pub fn remove_greeting(&self, ext: &Extension, kind: GreetingKind) -> Result<(), StoreError> { todo!() }
    /// Makes a call flow live.
    pub fn set_flow(&self, name: &str, source: &str) -> Result<Flow, StoreError> { todo!() }
    /// Removes a call flow.
    pub fn remove_flow(&self, name: &str) -> Result<(), StoreError> { todo!() }
    /// Sets a replicated setting.
    pub fn set_setting(&self, name: &str, value: serde_json::Value) -> Result<(), StoreError> { todo!() }

    // ---- reads ----
    /// One mailbox.
    pub fn mailbox(&self, ext: &Extension) -> Result<Option<Mailbox>, StoreError> { todo!() }
    /// Mailboxes in order of extension.
    pub fn mailboxes(&self, cursor: Option<&str>, limit: usize) -> Result<Page<Mailbox>, StoreError> { todo!() }
    /// Messages of a mailbox, oldest first; `states` empty = all but deleted.
    pub fn messages(&self, ext: &Extension, states: &[MessageState], cursor: Option<&str>, limit: usize) -> Result<Page<Message>, StoreError> { todo!() }
    /// One message.
    pub fn message(&self, id: Uuid) -> Result<Option<Message>, StoreError> { todo!() }
    /// One greeting.
    pub fn greeting(&self, ext: &Extension, kind: GreetingKind) -> Result<Option<Greeting>, StoreError> { todo!() }
    /// One call flow.
    pub fn flow(&self, name: &str) -> Result<Option<Flow>, StoreError> { todo!() }
    /// All call flows.
    pub fn flows(&self) -> Result<Vec<Flow>, StoreError> { todo!() }
    /// All settings.
    pub fn settings(&self) -> Result<Settings, StoreError> { todo!() }
    /// Totals.
    pub fn totals(&self) -> Result<Totals, StoreError> { todo!() }
    /// The PIN's check; counts wrong tries are the caller's.
    pub fn check_pin(&self, ext: &Extension, pin: &str) -> Result<bool, StoreError> { todo!() }
    /// Opens an audio file for reading `len` bytes from `offset` of the audio (header skipped, checked).
    pub fn open_audio(&self, blob: Uuid, offset: u64) -> Result<Box<dyn Read + Send>, StoreError> { todo!() }
    /// A whole audio file, its SHA-256 checked.
    pub fn read_audio(&self, audio: &AudioRef) -> Result<Vec<u8>, StoreError> { todo!() }

    // ---- replication ----
    /// What is held *durably*: operations not yet flushed are not in it.
    pub fn have(&self) -> Vector { todo!() }
    /// Digest of the state at the vector returned with it, read together.
    pub fn digest(&self) -> (Vector, Digest) { todo!() }
    /// Durable operations of `origin` with sequence above `after`, in order, at most `max`.
    pub fn operations(&self, origin: &Origin, after: u64, max: usize) -> Result<Vec<Operation>, StoreError> { todo!() }
    /// Writes a replica's audio file durably; does nothing when it is there with the same SHA-256.
    pub fn put_audio(&self, new: NewAudio<'_>, bytes: &[u8]) -> Result<(), StoreError> { todo!() }
    /// Applies operations of the peer, in order, durably; those held already are skipped. Returns how many were new.
    pub fn apply(&self, operations: &[Operation]) -> Result<usize, StoreError> { todo!() }
    /// Takes a new incarnation (the peer knows more of us than we do).
    pub fn new_incarnation(&self) -> Result<Origin, StoreError> { todo!() }

    // ---- node-local durable records (never replicated): ownership, VRL journal, phones ----
    /// Reads record `key` of `space`.
    pub fn local(&self, space: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> { todo!() }
    /// All records of `space` in order of key.
    pub fn locals(&self, space: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> { todo!() }
    /// Writes (or with `None` removes) a record; durable when it returns.
    pub fn put_local(&self, space: &str, key: &str, value: Option<&[u8]>) -> Result<(), StoreError> { todo!() }
}

/// Writes a file so that it is there whole or not at all, and durable when this returns:
/// temporary name, fsync, rename, fsync of the folder. The only place for it in the program.
pub fn write_file_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> { todo!() }
/// Makes an existing file and its folder entry durable.
pub fn sync_file(path: &Path) -> std::io::Result<()> { todo!() }
/// Removes a file durably.
pub fn remove_file_durably(path: &Path) -> std::io::Result<()> { todo!() }
/// Bytes free to this process on the disk of `path`.
pub fn free_bytes(path: &Path) -> std::io::Result<u64> { todo!() }
