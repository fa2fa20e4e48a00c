//! Moving call recordings from the backup to the primary (R-VR-1, R-VR-4): what to do next, never how.
//!
//! ```text
//!            Upload            Verify            Confirm             RemoveLocal
//!  planned ─────────▶ sending ───────▶ sent ───────────▶ verified ─────────▶ confirmed ─────────▶ removed
//!     ▲  (whoever comes back after a break asks the peer first: it may hold the file already)
//!     └─ failure: waits with growing, jittered delays; name taken by other content: another stable name
//! ```
//! [`Book`] says what of the folder is whole and in which order it goes, [`Transfer`] what is done
//! next for one recording with its side files.
//!
//! Guarantees, held by the property tests in `tests/vrl_laws.rs`:
//! - [`Step::RemoveLocal`] is only ever asked for after the peer answered, in this life of the
//!   process, that it holds a durable file of equal length and SHA-256.
//! - Every step may be repeated and may be cut anywhere: [`Transfer`] is journalled, and
//!   [`Transfer::restored`] forgets everything that must be asked again.
//! - Whenever outcomes succeed, a transfer ends.
//!
//! Not here: sockets, files, clocks. The shell is `vmsync::vrl`.

mod backoff;
mod book;
mod name;
mod outlook;
mod progress;
pub mod retention;
mod transfer;
mod when;

pub use backoff::{Backoff, Pace};
pub use book::{Book, Found};
pub use name::{InvalidName, MAX_NAME_BYTES, RecordingName, is_file_name, is_ignored};
pub use outlook::{DiskOutlook, Outlook};
pub use progress::{Meter, Progress};
pub use transfer::{Conditions, ConfirmAnswer, Outcome, Part, State, Step, Transfer};
pub use when::{Limit, closed_for};
