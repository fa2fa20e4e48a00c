//! Configuration of a vmsync node: raw TOML shapes, checked into [`Config`], and the shared [`words`].
//!
//! Order: [`load`] reads the file into a tree in which every value knows its line (`tree`), lays
//! `VMSYNC__SECTION__KEY` environment variables over it (`overlay`), reads the tree into typed
//! shapes (`shape`, which is also the list of known keys) and checks those against the rules of
//! the pair (`check`). No step stops at its first error: all come back together, each naming its
//! line or variable, the field and, where it applies, the system or node it is about. A
//! [`Config`] is valid by construction. What a key may hold and its default stand in [`defaults`].

pub mod alarms;
mod check;
pub mod checked;
pub mod defaults;
mod errors;
mod field;
mod load;
mod nearest;
mod overlay;
mod shape;
#[cfg(test)]
mod tests;
mod tree;
mod units;
mod value;
pub mod words;

pub use alarms::{Severity, SnmpAuth};
pub use checked::*;
pub use errors::{ConfigError, ConfigErrors};
pub use load::{MAX_FILE_BYTES, environment, load, parse};
pub use units::{InvalidAmount, parse_bytes, parse_duration, show_bytes, show_duration};
