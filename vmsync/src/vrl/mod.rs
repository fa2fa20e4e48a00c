//! Call recordings on disk and on the wire (R-VR): the shell around `vmsync_core::vrl`.
//!
//! | module | does |
//! |---|---|
//! | [`archive`] | keeps what was moved, as long as it may be kept |
//! | [`board`] | how recordings stand: status, events, alarms |
//! | [`folder`] | takes recordings in, lists, hashes and removes them; answers the peer's question |
//! | [`mover`] | the loop that moves them to the primary, and its handle |
//! | [`ftp`] | one FTP session as the mover and Test Connection need it |
//! | [`foreign`] | whether a foreign server holds what was sent |
//! | [`probe`] | Test Connection (R-VR-2) |
//! | `stamp` | what a file looked like when it was read |
//! | [`journal`] | what the mover remembers over restarts |
//! | [`status`] | how far it is |
//! | `recent` | the SHA-256 of files written or read lately |
//! | [`watch`] | what was finished in the folder, what is still written |
//! | [`server`] | the primary's FTP server, rooted in its folder |
//!
//! Order of a move: the file is durable here, the journal says so; it is uploaded under a
//! temporary name, its length checked, renamed; the receiving *node* hashes and fsyncs it and
//! says so over the control channel; only then the local copy goes, if it still is what was
//! confirmed.

pub mod archive;
pub mod board;
pub mod folder;
pub mod foreign;
pub mod ftp;
pub mod journal;
pub mod mover;
pub mod probe;
mod recent;
pub mod server;
mod stamp;
pub mod status;
pub mod watch;

pub use archive::{Archive, ArchiveStatus, Confirmed, Keeping};
pub use board::Board;
pub use folder::{TakeError, Taken, confirm_local, take};
pub use journal::{Journal, JournalError, StoreJournal};
pub use mover::{Confirm, ConfirmError, VrlHandle};
pub use probe::TestStep;
pub use status::{Current, VrlState, VrlStatus};
pub use vmsync_core::vrl::ConfirmAnswer;
pub use watch::{Changes, Watch, WatchTuning};
