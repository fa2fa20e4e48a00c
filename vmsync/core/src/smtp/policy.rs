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
    /// The peer: with `tls_required`, mail for the node needs a client certificate that bears this name.
    pub peer: Fqdn,
    /// Networks that may mail to mailboxes (R-IN-2). Mail for the node may come from anywhere: it is signed.
    pub allow: Vec<IpNet>,
    /// Mail for the node only over TLS, and only from the peer as its certificate says.
    pub tls_required: bool,
    /// Largest mail, bytes.
    pub message_bytes: u64,
    /// Recipients of one mail; RFC 5321 section 4.5.3.1.8 wants at least 100. Default 100.
    pub recipients: usize,
    /// Commands refused with 5xx in one session, after which it is ended. Default 20.
    pub errors: u32,
    /// Commands since the last mail taken, after which the session is ended. Default 1000. A BDAT of at
    /// least 4 KiB isn't counted: the size limit bounds those.
    pub commands: u32,
    /// Mails for mailboxes that one address (an IPv6 /64) may send in a minute, over all its connections;
    /// more are put off with 450. Default 6000: far beyond a PBX, short of what a mail loop does.
    pub mails_per_minute: u32,
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
    pub fn new(
        domain: Fqdn,
        peer: Fqdn,
        allow: Vec<IpNet>,
        tls_required: bool,
        limits: &Limits,
    ) -> Self {
        let command = limits.smtp_command_timeout;
        Self {
            domain,
            peer,
            allow,
            tls_required,
            message_bytes: limits.message_bytes,
            recipients: 100,
            errors: 20,
            commands: 1000,
            mails_per_minute: 6000,
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

    /// More bytes than a client sends that is merely too big for us: it isn't waited for any longer.
    pub(super) fn flood(&self) -> u64 {
        self.message_bytes.saturating_mul(2).saturating_add(65_536)
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
        tls: &Tls,
        to: &To,
    ) -> Result<Recipient, (Refusal, Option<SmtpEvent>)> {
        let To::Address { local, domain } = to else {
            return Err((no_postmaster(), Some(SmtpEvent::NoMailbox { peer })));
        };
        if !domain.eq_ignore_ascii_case(self.domain.as_str()) {
            return Err(self.foreign(peer, domain));
        }
        if local.eq_ignore_ascii_case(NODE_MAILBOX) {
            return self.node(peer, tls);
        }
        if local.eq_ignore_ascii_case("postmaster") {
            return Err((no_postmaster(), Some(SmtpEvent::NoMailbox { peer })));
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
                Some(SmtpEvent::NoMailbox { peer }),
            )),
        }
    }

    fn node(&self, peer: IpAddr, tls: &Tls) -> Result<Recipient, (Refusal, Option<SmtpEvent>)> {
        let required = SmtpEvent::TlsRequired { peer };
        let (refusal, event) = match tls {
            _ if !self.tls_required => return Ok(Recipient::Node),
            Tls::Active(Certificate::Peer) => return Ok(Recipient::Node),
            Tls::Active(certificate) => {
                let missing = self.missing(certificate);
                let refusal = Refusal::new(550, "5.7.1", missing.clone());
                (refusal, SmtpEvent::WrongCertificate { peer, missing })
            }
            Tls::Offered => {
                let text = "must issue a STARTTLS command first";
                (Refusal::new(530, "5.7.0", text), required)
            }
            Tls::Absent => {
                let text = "encryption needed, but not configured here";
                (Refusal::new(550, "5.7.10", text), required)
            }
        };
        Err((refusal, Some(event)))
    }

    fn missing(&self, certificate: &Certificate) -> String {
        let found = match certificate {
            Certificate::Other(names) => format!("the certificate presented names {names}"),
            Certificate::None | Certificate::Peer => "no client certificate was presented".into(),
        };
        let peer = &self.peer;
        printable(&format!(
            "mail for the node is taken from {peer} only, by its certificate of the pair's CA; {found}"
        ))
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

/// What the client's certificate says, once TLS is up. That the pair's CA signed it, or that there is
/// none, the handshake has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certificate {
    /// The client presented none, as a PBX does.
    None,
    /// It bears the peer's name.
    Peer,
    /// It is another machine's; the names it bears, for people.
    Other(String),
}

/// Where a session stands with TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tls {
    /// Not configured.
    Absent,
    /// Offered, not begun.
    Offered,
    /// Everything is encrypted; who the client has shown to be.
    Active(Certificate),
}
