//! The HTTP front over a real store and a real listener; only the node loop is played by a stand-in,
//! so that each test says in a line who serves and what the loop would answer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test a broken expectation is the finding"
)]

mod console;
mod guards;
mod mailboxes;
mod messages;
mod pair;
mod recordings;
mod stream;
mod support;
