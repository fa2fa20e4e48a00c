//! The shell around the decisions: sockets, files, processes and the clock.
//!
//! `serve` wires it: store, SMTP receiver and sender, heartbeats, the node loop, recordings,
//! HTTP. The dependencies point one way: `http`, `smtp`, `vrl` and `pair` know `app`; `app` knows the
//! node's handle; nobody knows `serve` but the command line.

pub mod agreed;
pub mod alarms;
pub mod app;
pub mod backups;
pub mod bench;
pub mod calls;
pub mod channels;
pub mod cli;
pub mod client;
pub mod clock;
pub mod delivery;
pub mod demo;
pub mod events;
pub mod exchange;
pub mod features;
pub mod http;
pub mod keys;
pub mod mailroom;
pub mod node;
pub mod pair;
pub mod pki;
pub mod rights;
pub mod serve;
pub mod smtp;
pub mod status;
pub mod topology;
mod verify;
pub mod vrl;
mod witness;
