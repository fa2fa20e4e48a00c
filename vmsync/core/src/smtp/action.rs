//! What a session wants done.

use std::net::IpAddr;

use bytes::Bytes;

use super::{event::SmtpEvent, policy::Recipient};

/// What the driver has to do, in this order.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Send these bytes.
    Reply(Vec<u8>),
    /// Send what is to be sent, negotiate TLS, then tell [`super::Session::tls_started`] with what certificate.
    StartTls,
    /// Ask whether mail for it is taken, then call [`super::Session::recipient`].
    AskRecipient(Recipient),
    /// Take the mail: make it durable, then call [`super::Session::delivered`].
    Deliver {
        /// From whom, for whom.
        envelope: Envelope,
        /// The mail. After DATA: dots unstuffed, every line ending in CRLF. After BDAT: any octets.
        body: Bytes,
    },
    /// Count it, perhaps alarm it.
    Event(SmtpEvent),
    /// Send what is to be sent and close the connection. The last action of a session.
    Close,
}

/// A mail's envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The reverse-path without its brackets; empty for `<>`. Not verified.
    pub from: String,
    /// At least one; a mail for the node has no other recipient.
    pub recipients: Vec<Recipient>,
    /// The client's address.
    pub peer: IpAddr,
    /// What it called itself in EHLO or HELO. Not verified.
    pub hello: String,
    /// Whether it came over TLS.
    pub tls: bool,
}
