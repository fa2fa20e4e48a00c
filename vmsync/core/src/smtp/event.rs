//! What a session has to tell to counters and alarms; never holds a mail's content.

use std::{fmt, net::IpAddr};

/// What the receiver was waiting for when a time-out ended a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The first command after the greeting.
    Greeting,
    /// A whole command line.
    Command,
    /// The end of a mail.
    Data,
    /// A mail, from a client that only kept the session alive.
    Idle,
    /// The TLS handshake.
    Tls,
    /// The client taking our answer.
    Reply,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Greeting => "the first command",
            Self::Command => "a command",
            Self::Data => "the end of the mail",
            Self::Idle => "a mail",
            Self::Tls => "the TLS handshake",
            Self::Reply => "our answer to be taken",
        })
    }
}

/// Something to be counted, and perhaps alarmed. `Display` is the log line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SmtpEvent {
    /// A recipient of a domain that isn't ours: an attempt to relay, or a wrong setting (R-SY-4).
    ForeignDomain {
        /// Who tried.
        peer: IpAddr,
        /// The domain asked for; printable ASCII, at most 255 characters.
        domain: String,
    },
    /// A mail for a mailbox from a network that isn't allowed (R-IN-2).
    NotAllowed {
        /// Who tried.
        peer: IpAddr,
    },
    /// A mail for the node without TLS, though that is required.
    TlsRequired {
        /// Who tried.
        peer: IpAddr,
    },
    /// A mail for the node from somebody whose certificate isn't the peer's.
    WrongCertificate {
        /// Who tried.
        peer: IpAddr,
        /// What is missing; printable ASCII, at most 400 characters.
        missing: String,
    },
    /// A mail for a mailbox whose number can't be one.
    NoMailbox {
        /// Who tried.
        peer: IpAddr,
    },
    /// More mails for mailboxes in a minute than one address may send.
    TooManyMails {
        /// Who was put off.
        peer: IpAddr,
    },
    /// A BDAT whose size can't be read; what follows can't be told from commands.
    BrokenChunk {
        /// Who sent it.
        peer: IpAddr,
    },
    /// A bare CR or LF: SMTP smuggling, or a broken client.
    BareLineEnding {
        /// Who sent it.
        peer: IpAddr,
    },
    /// Clear text sent together with STARTTLS: command injection (RFC 3207), or a broken client.
    StartTlsInjection {
        /// Who sent it.
        peer: IpAddr,
    },
    /// A mail over the size limit.
    Oversize {
        /// Who sent it.
        peer: IpAddr,
    },
    /// No memory is left for mails being received.
    NoRoom {
        /// Whose mail was put off.
        peer: IpAddr,
    },
    /// The session was ended for its many errors or its many commands without a mail.
    TooManyErrors {
        /// Who made them.
        peer: IpAddr,
    },
    /// The session was ended by a time-out.
    TimedOut {
        /// Who was waited for.
        peer: IpAddr,
        /// For what.
        phase: Phase,
    },
    /// A connection was turned away, because there are too many.
    TooManyConnections {
        /// Who was turned away.
        peer: IpAddr,
        /// Too many from that address; else too many altogether.
        per_peer: bool,
    },
    /// The TLS handshake failed.
    TlsFailed {
        /// With whom.
        peer: IpAddr,
        /// Why, in the TLS library's words.
        why: String,
    },
    /// A connection's task panicked; only that connection ended.
    Panicked {
        /// Whose connection.
        peer: IpAddr,
    },
}

impl SmtpEvent {
    /// Every [`SmtpEvent::name`] of an event by which something was refused.
    pub const REFUSALS: [&str; 15] = [
        "foreign_domain",
        "not_allowed",
        "tls_required",
        "wrong_certificate",
        "no_mailbox",
        "too_many_mails",
        "broken_chunk",
        "bare_line_ending",
        "starttls_injection",
        "oversize",
        "no_room",
        "too_many_errors",
        "timed_out",
        "too_many_connections",
        "tls_failed",
    ];

    /// The address it is about.
    pub fn peer(&self) -> IpAddr {
        match self {
            Self::ForeignDomain { peer, .. }
            | Self::NotAllowed { peer }
            | Self::TlsRequired { peer }
            | Self::WrongCertificate { peer, .. }
            | Self::NoMailbox { peer }
            | Self::TooManyMails { peer }
            | Self::BrokenChunk { peer }
            | Self::BareLineEnding { peer }
            | Self::StartTlsInjection { peer }
            | Self::Oversize { peer }
            | Self::NoRoom { peer }
            | Self::TooManyErrors { peer }
            | Self::TimedOut { peer, .. }
            | Self::TooManyConnections { peer, .. }
            | Self::TlsFailed { peer, .. }
            | Self::Panicked { peer } => *peer,
        }
    }

    /// A stable name, for a counter's label.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ForeignDomain { .. } => "foreign_domain",
            Self::NotAllowed { .. } => "not_allowed",
            Self::TlsRequired { .. } => "tls_required",
            Self::WrongCertificate { .. } => "wrong_certificate",
            Self::NoMailbox { .. } => "no_mailbox",
            Self::TooManyMails { .. } => "too_many_mails",
            Self::BrokenChunk { .. } => "broken_chunk",
            Self::BareLineEnding { .. } => "bare_line_ending",
            Self::StartTlsInjection { .. } => "starttls_injection",
            Self::Oversize { .. } => "oversize",
            Self::NoRoom { .. } => "no_room",
            Self::TooManyErrors { .. } => "too_many_errors",
            Self::TimedOut { .. } => "timed_out",
            Self::TooManyConnections { .. } => "too_many_connections",
            Self::TlsFailed { .. } => "tls_failed",
            Self::Panicked { .. } => "panicked",
        }
    }
}

impl fmt::Display for SmtpEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = self.peer();
        match self {
            Self::ForeignDomain { domain, .. } => write!(
                f,
                "{peer} wanted to mail to the foreign domain {domain}; refused, this is no relay"
            ),
            Self::NotAllowed { .. } => write!(
                f,
                "{peer} wanted to mail to a mailbox but is in none of the allowed networks; \
                 add its network to smtp.receiver.allow if it is a PBX of yours"
            ),
            Self::TlsRequired { .. } => {
                write!(f, "{peer} wanted to mail to the node without TLS; refused")
            }
            Self::WrongCertificate { missing, .. } => {
                write!(f, "{peer} wanted to mail to the node; refused: {missing}")
            }
            Self::NoMailbox { .. } => write!(
                f,
                "{peer} wanted to mail to what can't be a mailbox (1 to 15 digits); refused"
            ),
            Self::TooManyMails { .. } => write!(
                f,
                "{peer} sends more mails a minute than one address may; asked to come back later"
            ),
            Self::BrokenChunk { .. } => write!(
                f,
                "{peer} sent a BDAT whose size can't be read; connection closed"
            ),
            Self::BareLineEnding { .. } => {
                write!(
                    f,
                    "{peer} sent a bare CR or LF (SMTP smuggling, or a broken client); refused"
                )
            }
            Self::StartTlsInjection { .. } => write!(
                f,
                "{peer} sent clear text together with STARTTLS (command injection, or a broken client); connection closed"
            ),
            Self::Oversize { .. } => {
                write!(f, "{peer} sent a mail over the size limit; refused")
            }
            Self::NoRoom { .. } => write!(
                f,
                "{peer} was asked to come back later: too many mails are being received at once"
            ),
            Self::TooManyErrors { .. } => {
                write!(
                    f,
                    "{peer} made too many errors or commands without a mail; connection closed"
                )
            }
            Self::TimedOut { phase, .. } => {
                write!(
                    f,
                    "waited too long for {phase} with {peer}; connection closed"
                )
            }
            Self::TooManyConnections { per_peer: true, .. } => {
                write!(f, "{peer} has too many connections already; turned away")
            }
            Self::TooManyConnections { .. } => {
                write!(f, "{peer} was turned away: too many connections")
            }
            Self::TlsFailed { why, .. } => write!(f, "TLS handshake with {peer} failed: {why}"),
            Self::Panicked { .. } => {
                write!(
                    f,
                    "internal error in the connection of {peer}; that connection was closed"
                )
            }
        }
    }
}
