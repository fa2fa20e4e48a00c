//! Alarms on their way to people and programs (R-AL-1): what is told, by whom, in what order, and how
//! it is written for syslog, SNMP, e-mail and webhooks.
//!
//! Nothing here sends. A [`Queue`] holds what one channel has still to tell, in order; the encoders turn
//! a [`Notice`] into bytes. Sockets, files and the clock are the shell's (`vmsync::channels`).

mod ber;
mod catalogue;
mod mail;
mod notice;
mod queue;
mod refusal;
pub mod snmp;
pub mod syslog;
mod usm;
pub mod webhook;

pub use catalogue::{CATALOGUE, Entry, severity};
pub use mail::{AlarmMail, write as write_mail};
pub use notice::{Facts, Filter, Notice, What, told_by};
pub use queue::{Change, Item, Queue};
pub use refusal::{Patience, Refusals};
pub use usm::{Auth, Authoritative, BadPassword, LocalKeys};

/// The private enterprise number under which alarms are written in SNMP and syslog: 32473, which RFC 5612
/// reserves for examples and documentation. This project has none of its own; who ships it should
/// register one and change it here and in `docs/mib/VMSYNC-MIB.txt`.
pub const ENTERPRISE: u32 = 32_473;
