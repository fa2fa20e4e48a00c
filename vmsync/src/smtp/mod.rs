//! Mail in and out: sockets, TLS and time-outs around the decisions of [`vmsync_core::smtp`].
//!
//! [`receiver::serve`] accepts connections (`gate` says how many), [`connection`](self) plays one
//! session (`room` bounds the memory of all mails being received, `rate` how many one address sends),
//! and what comes in goes to a [`MailHandler`]. [`Refusals`] counts what was refused.
//! [`sender::PeerSender`] hands mails to the peer, [`submission::Submission`] to other mail servers.
//!
//! Neither logs what a mail holds; at `debug` level the receiver tells who came and how it ended.

mod connection;
mod dial;
mod error;
mod gate;
mod link;
mod rate;
pub mod receiver;
mod refusals;
mod room;
pub mod sender;
mod stream;
pub mod submission;
mod wire;

use std::net::SocketAddr;

use async_trait::async_trait;
use bytes::Bytes;
use vmsync_core::smtp::{Accepted, Envelope, Recipient, Refusal, SmtpEvent, Verdict};

pub use error::{SendError, SendErrorKind};
pub use link::Offers;
pub use receiver::serve;
pub use refusals::Refusals;
pub use sender::{PeerSender, Timeouts};

/// What stands behind the receiver: mailboxes, store, alarms.
///
/// A call that takes too long is dropped and answered with 451, so what it does must be safe to
/// repeat: the client will send the mail again.
#[async_trait]
pub trait MailHandler: Send + Sync + 'static {
    /// Whether mail for `recipient` is taken. Policy (domain, network, TLS) has been applied before.
    async fn recipient(&self, recipient: &Recipient, peer: SocketAddr) -> Verdict;
    /// Takes a mail. `Ok` is answered with 250, so everything must be durable by then.
    async fn deliver(&self, envelope: Envelope, body: Bytes) -> Result<Accepted, Refusal>;
    /// Counts and alarms. Must not block.
    fn event(&self, event: SmtpEvent);
}
