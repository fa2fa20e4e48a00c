//! The decisions of the pair, without doing: what to accept, send, serve, move and alarm.
//!
//! Nothing here reads a clock, a file or a socket; time comes in as [`Now`]. Each part is a
//! machine with `handle…` methods in and `poll…` or returned actions out, so that tests and the
//! simulation drive it in virtual time.

pub mod alarm;
pub mod audio;
pub mod delivery;
pub mod features;
pub mod intake;
pub mod resilience;
pub mod rights;
pub mod smtp;
pub mod sync;
pub mod vrl;
pub mod wire;

pub use vmsync_config::words::Now;
