//! Configuration of a vmsync node: raw TOML shapes, checked into [`Config`], and the shared [`words`].
//!
//! Order: [`load`] reads the file, lays `VMSYNC__SECTION__KEY` environment variables over it,
//! and checks everything; all errors come back together, each naming the field and, where it
//! applies, the system or node it is about. A [`Config`] is valid by construction.

pub mod checked;
pub mod words;

pub use checked::*;
