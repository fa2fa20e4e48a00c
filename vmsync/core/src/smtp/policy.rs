//! Who may mail to whom, decided at RCPT, before any data is taken (R-SY-4, R-IN-2).

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use vmsync_config::{
    Limits,
    words::{Extension, Fqdn},
};

use super::{
    command::To,
    event::SmtpEvent,
    reply::{Refusal, printable},
};
use crate::wire::NODE_MAILBOX;

/// What a receiver takes, from whom, and within which limits.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Recipients of this domain only (R-SY-4).
    pub domain: Fqdn,
    /// Networks that may mail to mailboxes (R-IN-2). Mail for the node may come from anywhere: it is signed.
    pub allow: Vec<IpNet>,
    /// Mail for the node only over TLS.
    pub tls_required: bool,
    /// Largest mail, bytes.
    pub message_bytes: u64,
    /// Recipients of one mail; RFC 5321 section 4.5.3.1.8 wants at least 100. Default 100.
    pub recipients: usize,
    /// Commands refused with 5xx in one session, after which it is ended. Default 20.
    pub errors: u32,
    /// Commands since the last mail taken, after which the session is ended. Default 1000.
    pub commands: u32,
    /// How long to wait for the client.
    pub times: Times,
}

/// How long each step of a client may take.
#[derive(Debug, Clone)]
pub struct Times {
    /// From connecting (and from TLS) to the end of the first command. Default: as `command`, at most 30 s.
    pub greeting: Duration,
    /// From our reply to the end of the next command.
    pub command: Duration,
    /// From 354 to the end of the mail.
    pub data: Duration,
    /// Without a mail taken, whatever else the client says. Default 10 min.
    pub idle: Duration,
}

/// A recipient this node may take mail for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Recipient {
    /// The node itself: `vmsync@domain`.
    Node,
    /// A mailbox: `digits@domain`. Whether it exists is for the handler to say.
    Mailbox(Extension),
}

impl Policy {
    /// A policy with the defaults named at its fields.
    pub fn new(domain: Fqdn, allow: Vec<IpNet>, tls_required: bool, limits: &Limits) -> Self {
        let command = limits.smtp_command_timeout;
        Self {
            domain,
            allow,
            tls_required,
            message_bytes: limits.message_bytes,
            recipients: 100,
            errors: 20,
            commands: 1000,
            times: Times {
                greeting: command.min(Duration::from_secs(30)),
                command,
                data: limits.smtp_data_timeout,
                idle: Duration::from_mins(10),
            },
        }
    }

    /// The largest mail as a length in memory.
    pub(super) fn limit(&self) -> usize {
        usize::try_from(self.message_bytes).unwrap_or(usize::MAX)
    }

    /// Whether `peer` may mail to mailboxes.
    pub fn allows(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.allow.iter().any(|net| net.contains(&peer))
    }

    /// Decides about one recipient as far as it can be decided without asking the store.
    pub(super) fn recipient(
        &self,
        peer: IpAddr,
        tls: Tls,
        to: &To,
    ) -> Result<Recipient, (Refusal, Option<SmtpEvent>)> {
        let To::Address { local, domain } = to else {
            return Err((no_postmaster(), None));
        };
        if !domain.eq_ignore_ascii_case(self.domain.as_str()) {
            return Err(self.foreign(peer, domain));
        }
        if local.eq_ignore_ascii_case(NODE_MAILBOX) {
            return self.node(peer, tls);
        }
        if local.eq_ignore_ascii_case("postmaster") {
            return Err((no_postmaster(), None));
        }
        // Before anything is said about the mailbox, so that strangers can't search for numbers.
        if !self.allows(peer) {
            let text = "your network may not mail to mailboxes here";
            return Err((
                Refusal::new(550, "5.7.1", text),
                Some(SmtpEvent::NotAllowed { peer }),
            ));
        }
        match Extension::new(local) {
            Ok(extension) => Ok(Recipient::Mailbox(extension)),
            Err(_) => Err((
                Refusal::new(550, "5.1.1", "no such mailbox: expected 1 to 15 digits"),
                None,
            )),
        }
    }

    fn node(&self, peer: IpAddr, tls: Tls) -> Result<Recipient, (Refusal, Option<SmtpEvent>)> {
        let refusal = match (self.tls_required, tls) {
            (false, _) | (true, Tls::Active) => return Ok(Recipient::Node),
            (true, Tls::Offered) => {
                Refusal::new(530, "5.7.0", "must issue a STARTTLS command first")
            }
            (true, Tls::Absent) => {
                Refusal::new(550, "5.7.10", "encryption needed, but not configured here")
            }
        };
        Err((refusal, Some(SmtpEvent::TlsRequired { peer })))
    }

    fn foreign(&self, peer: IpAddr, domain: &str) -> (Refusal, Option<SmtpEvent>) {
        let text = format!("relaying denied: only {} is served here", self.domain);
        let domain = printable(domain).chars().take(255).collect();
        (
            Refusal::new(550, "5.7.1", text),
            Some(SmtpEvent::ForeignDomain { peer, domain }),
        )
    }
}

/// RFC 5321 section 4.5.1 wants `postmaster` to be accepted. Nobody reads text here, and a mail
/// taken and thrown away would be a lie, so it is refused with a text that says where to turn.
fn no_postmaster() -> Refusal {
    let text =
        "no postmaster mailbox: this is a voicemail server; ask the administrator of its network";
    Refusal::new(550, "5.1.1", text)
}

/// Where a session stands with TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tls {
    /// Not configured.
    Absent,
    /// Offered, not begun.
    Offered,
    /// Everything is encrypted.
    Active,
}
