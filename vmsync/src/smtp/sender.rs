//! Hands mails to the peer's receiver, one at a time over one kept connection (R-SY-1, R-SY-2).
//!
//! Order of a mail: connect (TCP_NODELAY), greeting, EHLO, STARTTLS with the peer's certificate
//! verified, EHLO again, then MAIL, RCPT, DATA, the mail. Rules:
//!
//! - `Ok` means the code after the mail was exactly 250; anything else is an error.
//! - Where TLS is required and can't be had, nothing is sent. A failed handshake is never followed
//!   by clear text, required or not.
//! - After any error, time-out or cancellation the connection is dropped, never used again: its
//!   replies might belong to other commands. (It is taken out of the sender for the time of a
//!   mail, so that a cancelled `send` drops it.)
//! - Every step has its own time-out.
//! - A kept connection that turns out to be closed is replaced once, as long as nothing of the mail was sent.

use std::{fmt::Display, sync::Arc, time::Duration};

use lettre::{
    Address,
    transport::smtp::{
        commands::{Data, Ehlo, Mail, Noop, Quit, Rcpt, Starttls},
        extension::{ClientId, Extension, MailBodyParameter, MailParameter, ServerInfo},
        response::Response,
    },
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{stream::Stream, wire::Wire};
use crate::clock;

/// Longest text of an error; what a server says isn't ours to bound otherwise.
const MAX_TEXT: usize = 300;
/// Longest line with CRLF (RFC 5321 section 4.5.3.1.6).
const MAX_LINE: usize = 1000;

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

/// How long each step may take.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// Name look-up and connecting. Default 10 s.
    pub connect: Duration,
    /// The TLS handshake. Default 10 s.
    pub tls: Duration,
    /// The greeting and each command. Default 60 s.
    pub command: Duration,
    /// A whole mail, and the server making it durable. Default 5 min.
    pub data: Duration,
    /// How long an unused connection is kept. Default 30 s, below what a receiver allows.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            tls: Duration::from_secs(10),
            command: Duration::from_mins(1),
            data: Duration::from_mins(5),
            idle: Duration::from_secs(30),
        }
    }
}

/// Sends to one server. See the module's head.
pub struct PeerSender {
    server: String,
    port: u16,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    required: bool,
    hello: ClientId,
    timeouts: Timeouts,
    kept: Option<Link>,
}

/// An open connection after EHLO.
struct Link {
    wire: Wire,
    info: ServerInfo,
    /// What the server says it takes at most, bytes (RFC 1870); `Some(0)` = no limit told.
    size: Option<usize>,
    /// When it was last used, on the monotonic clock.
    used: Duration,
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

impl PeerSender {
    /// A sender to `server:port` that calls itself `hello_name`. With `tls` it uses STARTTLS where
    /// offered, verified for that name; with `required` it sends nothing without. Doesn't connect yet.
    pub fn new(
        server: impl Into<String>,
        port: u16,
        tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
        required: bool,
        hello_name: impl Into<String>,
        timeouts: Timeouts,
    ) -> Self {
        Self {
            server: server.into(),
            port,
            tls,
            required,
            hello: ClientId::Domain(hello_name.into()),
            timeouts,
            kept: None,
        }
    }

    /// Hands `mail` over; `from` may be empty (`<>`). Lines must end in CRLF and have at most 998
    /// characters. `Ok` only after the server has said 250 to the whole mail. May be cancelled:
    /// then the mail may or may not have arrived, as after a time-out.
    pub async fn send(&mut self, from: &str, to: &str, mail: &[u8]) -> Result<(), SendError> {
        let from = match from {
            "" => None,
            from => Some(address("sender", from)?),
        };
        let to = address("recipient", to)?;
        check_lines(mail)?;
        let (mut link, first) = self.open(from, mail).await?;
        link.expect_250("MAIL", &first)?;
        let command = self.timeouts.command;
        let reply = link.wire.command(Rcpt::new(to, vec![]), command).await?;
        link.expect_250("RCPT", &reply)?;
        let reply = link.wire.command(Data, command).await?;
        if !reply.has_code(354) {
            return Err(link.wire.refused("DATA", &reply));
        }
        let reply = link.wire.data(mail, self.timeouts.data).await?;
        link.expect_250("the mail", &reply)?;
        link.used = clock::now().mono;
        self.kept = Some(link);
        Ok(())
    }

    /// Whether the server answers: connects anew, waits for greeting and EHLO (with TLS as for a
    /// mail) and NOOP, and says how long all of it took.
    pub async fn probe(&mut self) -> Result<Duration, SendError> {
        let start = clock::now().mono;
        let mut link = self.connect().await?;
        let reply = link.wire.command(Noop, self.timeouts.command).await?;
        link.expect_250("NOOP", &reply)?;
        let took = clock::now().mono.saturating_sub(start);
        self.leave(link).await;
        Ok(took)
    }

    /// Says goodbye on the kept connection, if there is one. Dropping the sender is as good.
    pub async fn close(&mut self) {
        if let Some(link) = self.kept.take() {
            self.leave(link).await;
        }
    }

    async fn leave(&self, mut link: Link) {
        let polite = self.timeouts.command.min(Duration::from_secs(1));
        let _ = link.wire.command(Quit, polite).await;
    }

    /// A connection on which MAIL was answered: the kept one, or, if that has gone stale, a new one.
    async fn open(
        &mut self,
        from: Option<Address>,
        mail: &[u8],
    ) -> Result<(Link, Response), SendError> {
        let now = clock::now().mono;
        let fresh = |l: &Link| now.saturating_sub(l.used) < self.timeouts.idle;
        if let Some(mut link) = self.kept.take().filter(fresh) {
            let command = link.mail(from.clone(), mail)?;
            // Only 421, a closed connection or one out of step: everything else is an answer.
            match link.wire.command(command, self.timeouts.command).await {
                Ok(reply) if reply.has_code(421) => {}
                Ok(reply) => return Ok((link, reply)),
                Err(e) if e.kind == SendErrorKind::TimedOut => return Err(e),
                Err(_) => {}
            }
        }
        let mut link = self.connect().await?;
        let command = link.mail(from, mail)?;
        let reply = link.wire.command(command, self.timeouts.command).await?;
        Ok((link, reply))
    }

    async fn connect(&self) -> Result<Link, SendError> {
        let mut link = self.greet(self.tcp().await?).await?;
        let offered = link.info.supports_feature(Extension::StartTls);
        match &self.tls {
            Some((config, name)) if offered => {
                let reply = link.wire.command(Starttls, self.timeouts.command).await?;
                if !reply.has_code(220) {
                    let refused = link.wire.refused("STARTTLS", &reply);
                    return Err(SendError {
                        kind: SendErrorKind::Tls,
                        ..refused
                    });
                }
                let wire = self.handshake(link.wire, config, name).await?;
                self.ehlo(wire).await
            }
            _ if !self.required => Ok(link),
            tls => {
                let why = match tls {
                    Some(_) => "TLS is required but STARTTLS is not offered; nothing was sent",
                    None => "TLS is required but no certificate is configured; nothing was sent",
                };
                let error = link.wire.error(SendErrorKind::Tls, why);
                self.leave(link).await;
                Err(error)
            }
        }
    }

    async fn tcp(&self) -> Result<TcpStream, SendError> {
        let limit = self.timeouts.connect;
        let connecting = TcpStream::connect((self.server.as_str(), self.port));
        match timeout(limit, connecting).await {
            Ok(Ok(stream)) => {
                // Each step waits for the last: Nagle's algorithm would cost 40 ms a mail.
                stream
                    .set_nodelay(true)
                    .map_err(|e| self.unreachable(&format!("TCP_NODELAY: {e}")))?;
                Ok(stream)
            }
            Ok(Err(e)) => Err(self.unreachable(&e)),
            Err(_) => Err(SendError::new(
                SendErrorKind::TimedOut,
                None,
                format!("{}: not connected within {limit:?}", self.name()),
            )),
        }
    }

    async fn greet(&self, stream: TcpStream) -> Result<Link, SendError> {
        let mut wire = Wire::new(Stream::Plain(stream), self.name());
        let greeting = wire.greeting(self.timeouts.command).await?;
        if !greeting.has_code(220) {
            return Err(wire.refused("the connection", &greeting));
        }
        self.ehlo(wire).await
    }

    async fn ehlo(&self, mut wire: Wire) -> Result<Link, SendError> {
        let hello = Ehlo::new(self.hello.clone());
        let reply = wire.command(hello, self.timeouts.command).await?;
        if !reply.has_code(250) {
            return Err(wire.refused("EHLO", &reply));
        }
        // lettre looks at each line's first word, which an offered keyword of blanks hasn't got.
        let info = reply
            .message()
            .all(|l| l.is_empty() || !l.trim().is_empty())
            .then(|| ServerInfo::from_response(&reply).ok())
            .flatten()
            .ok_or_else(|| wire.error(SendErrorKind::Temporary, "EHLO's answer is malformed"))?;
        Ok(Link {
            info,
            size: announced_size(&reply),
            used: clock::now().mono,
            wire,
        })
    }

    async fn handshake(
        &self,
        wire: Wire,
        config: &Arc<ClientConfig>,
        name: &ServerName<'static>,
    ) -> Result<Wire, SendError> {
        let Stream::Plain(tcp) = wire.into_stream()? else {
            return Err(self.unreachable(&"TLS twice"));
        };
        let limit = self.timeouts.tls;
        let connector = TlsConnector::from(Arc::clone(config));
        match timeout(limit, connector.connect(name.clone(), tcp)).await {
            Ok(Ok(stream)) => Ok(Wire::new(Stream::Tls(Box::new(stream.into())), self.name())),
            Ok(Err(e)) => {
                let text = format!("{}: TLS handshake failed: {e}", self.name());
                Err(SendError::new(SendErrorKind::Tls, None, text))
            }
            Err(_) => {
                let text = format!("{}: no TLS handshake within {limit:?}", self.name());
                Err(SendError::new(SendErrorKind::TimedOut, None, text))
            }
        }
    }

    fn unreachable(&self, why: &dyn Display) -> SendError {
        let text = format!("{} can't be reached: {why}", self.name());
        SendError::new(SendErrorKind::Unreachable, None, text)
    }

    fn name(&self) -> String {
        format!("{}:{}", self.server, self.port)
    }
}

impl Link {
    /// MAIL for this mail to this server, if the server can take it.
    fn mail(&self, from: Option<Address>, mail: &[u8]) -> Result<Mail, SendError> {
        let cannot = |why: String| self.wire.error(SendErrorKind::Permanent, why);
        let mut parameters = Vec::new();
        if let Some(limit) = self.size {
            if limit > 0 && mail.len() > limit {
                let bytes = mail.len();
                return Err(cannot(format!("takes {limit} bytes, the mail has {bytes}")));
            }
            parameters.push(MailParameter::Size(mail.len()));
        }
        if !mail.is_ascii() {
            if !self.info.supports_feature(Extension::EightBitMime) {
                return Err(cannot("8BITMIME isn't offered, the mail needs it".into()));
            }
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        Ok(Mail::new(from, parameters))
    }

    fn expect_250(&self, step: &str, reply: &Response) -> Result<(), SendError> {
        if reply.has_code(250) {
            Ok(())
        } else {
            Err(self.wire.refused(step, reply))
        }
    }
}

fn announced_size(reply: &Response) -> Option<usize> {
    reply.message().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next().filter(|w| w.eq_ignore_ascii_case("SIZE"))?;
        Some(words.next().and_then(|n| n.parse().ok()).unwrap_or(0))
    })
}

fn address(what: &str, text: &str) -> Result<Address, SendError> {
    let invalid = |why: &dyn Display| {
        let text = format!("{what} address {text:?} can't be used: {why}");
        SendError::new(SendErrorKind::Permanent, None, text)
    };
    match text.parse::<Address>() {
        Ok(address) if text.is_ascii() => Ok(address),
        Ok(_) => Err(invalid(&"it isn't ASCII")),
        Err(e) => Err(invalid(&e)),
    }
}

/// Dot-stuffing is only right for lines that end in CRLF, so a mail with any other CR or LF is an error, as
/// is a line that no server need take.
fn check_lines(mail: &[u8]) -> Result<(), SendError> {
    let fault = |line: usize, what: &str| {
        let text = format!("the mail can't be sent: line {line} {what}");
        Err(SendError::new(SendErrorKind::Permanent, None, text))
    };
    for (index, line) in mail.split_inclusive(|&b| b == b'\n').enumerate() {
        let number = index + 1;
        let text = match line {
            [text @ .., b'\r', b'\n'] => text,
            [.., b'\n'] => return fault(number, "ends in LF without CR"),
            text => text,
        };
        if text.contains(&b'\r') {
            return fault(number, "has a CR without LF");
        }
        if text.contains(&0) {
            return fault(number, "has a NUL");
        }
        let stuffed = usize::from(text.first() == Some(&b'.'));
        if text.len() + stuffed + 2 > MAX_LINE {
            return fault(number, "has more than 998 characters");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_crlf_lines_go_out() {
        for good in ["", "a", "a\r\n\r\n", ".\r\n", &"x".repeat(998)] {
            assert_eq!(check_lines(good.as_bytes()), Ok(()), "{good:?}");
        }
        for bad in [
            "a\nb\r\n",
            "a\r\n\n",
            "a\rb\r\n",
            "a\r",
            "\r\r\n",
            "a\0\r\n",
            &"x".repeat(999),
        ] {
            let e = check_lines(bad.as_bytes()).unwrap_err();
            assert_eq!(e.kind, SendErrorKind::Permanent, "{bad:?}: {e}");
        }
    }

    #[test]
    fn size_is_read_from_ehlo() {
        let size = |text: &str| announced_size(&text.parse().unwrap());
        assert_eq!(size("250-a\r\n250 size 5\r\n"), Some(5));
        assert_eq!(size("250-a\r\n250 SIZE\r\n"), Some(0));
        assert_eq!(size("250 a\r\n"), None);
    }
}
