//! The SMTP receiver's session without its socket (RFC 5321): bytes in, actions out.
//!
//! ```text
//!  bytes ─▶ line ─▶ command ─▶ session ─▶ reply, AskRecipient, StartTls, Close
//!            └────▶ data, chunks ┘  └──▶ Deliver (a whole mail)
//!                       policy: may this recipient be taken, from there, like that?
//! ```
//!
//! Guarantees, each held by a dialog in `tests/dialogs` or a property in `tests/smtp_laws.rs`:
//!
//! - A mail ends at CRLF.CRLF and nowhere else; a bare CR or LF, in a command or in data, is
//!   refused and never ends anything but itself (RFC 5321 sections 2.3.8 and 4.1.1.4).
//! - A chunk (BDAT, RFC 3030) is exactly its octets, whatever they are: none of them is ever read as a
//!   command, also where the chunk is refused. Where a BDAT's size can't be read, the session ends.
//! - Mail for the node, where TLS is required, is taken only from the peer as its certificate says.
//! - A foreign domain is refused at RCPT, before any data is taken (R-SY-4); there is no relaying.
//! - Nothing said in clear text before TLS counts after it, and nothing sent together with
//!   STARTTLS is ever executed (RFC 3207 section 4.2).
//! - A 250 after data is only given after [`Session::delivered`] was told `Ok`.
//! - Whatever is sent, in whatever pieces, the answers are the same, nothing panics, and memory
//!   is bounded: one command line, one mail of at most the size limit, 100 recipients.
//! - Every wait on the client has a [`Session::deadline`]; a whole mail has one, so a trickle ends.
//!
//! No `Received:` header is written (RFC 5321 section 4.4): the mail isn't passed on but consumed
//! here, what it carries is stored apart from it, and the store knows when and from whom it came.

mod action;
mod command;
mod data;
mod event;
mod line;
mod policy;
mod reply;
mod session;

pub use action::{Action, Envelope};
pub use event::{Phase, SmtpEvent};
pub use policy::{Certificate, Policy, Recipient, Times};
pub use reply::{Accepted, Refusal, Verdict};
pub use session::Session;
