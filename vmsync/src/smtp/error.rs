//! Why a mail wasn't handed over.

use std::fmt::Display;

/// Longest text of an error; what a server says isn't ours to bound otherwise.
const MAX_TEXT: usize = 300;

/// How to go on after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendErrorKind {
    /// The server may take the same mail later (4xx), or didn't keep to the protocol.
    Temporary,
    /// The same mail will be refused again (5xx), or can't be sent as it is.
    Permanent,
    /// No connection, or it broke.
    Unreachable,
    /// TLS is required but wasn't offered, or the handshake failed (certificate, name, version).
    Tls,
    /// A step took too long.
    TimedOut,
}

/// Why a mail wasn't handed over. Its text names the server and the step, and holds no content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct SendError {
    /// How to go on.
    pub kind: SendErrorKind,
    /// The server's code, where it gave one.
    pub code: Option<u16>,
    /// For a log line or a status page; printable, at most 300 characters.
    pub text: String,
}

impl SendError {
    pub(super) fn new(kind: SendErrorKind, code: Option<u16>, text: impl Display) -> Self {
        let text = text
            .to_string()
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(MAX_TEXT)
            .collect();
        Self { kind, code, text }
    }

    /// Whether the same mail may be sent again later as it is.
    pub fn is_temporary(&self) -> bool {
        self.kind != SendErrorKind::Permanent
    }
}
