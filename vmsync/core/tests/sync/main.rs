//! Two sync sessions joined by a mail link, in virtual time.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "shared code of tests, outside #[test] functions"
)]

mod duo;
mod flow;
mod laws;
mod meeting;
mod refusals;
mod repair;
mod seeding;
mod states;
