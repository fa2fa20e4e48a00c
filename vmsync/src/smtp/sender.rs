//! Hands mails to the peer's receiver over one kept connection (R-SY-1, R-SY-2).
//!
//! Order of a connection: connect (TCP_NODELAY), greeting, EHLO, STARTTLS with the peer's certificate
//! verified and our own presented, EHLO again. Then mails: one by one with [`PeerSender::send`]; or, where
//! the server offers CHUNKING and PIPELINING, several under way at once: [`PeerSender::submit`] writes a
//! whole mail without waiting, [`PeerSender::next_reply`] tells what came of the oldest. Rules:
//!
//! - `Ok` for a mail means the code after it was exactly 250; anything else is an error.
//! - Where TLS is required and can't be had, nothing is sent. A failed handshake is never followed
//!   by clear text, required or not.
//! - After a time-out, a cancellation, an answer to nothing, a broken connection, or a refusal where
//!   one command waits for the other, the connection is dropped, never used again: its replies might
//!   belong to other commands. (It is taken out of the sender while it is used, so that a cancelled
//!   call drops it.) What was outstanding on it is then unknown: taken or not.
//! - Only the refusal of a pipelined mail leaves the connection as it is, since each mail has its
//!   own three replies (MAIL, RCPT, BDAT), whatever they are.
//! - Every step has its own time-out.
//! - A kept connection that turns out to be closed is replaced once, as long as nothing of the mail was sent.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use lettre::transport::smtp::{
    commands::{Noop, Quit, Starttls},
    extension::ClientId,
    response::Response,
};
use rustls::{ClientConfig, pki_types::ServerName};

use super::{
    dial::{Dial, SILENCE},
    error::{SendError, SendErrorKind},
    link::{Link, Offers, Route, check_lines, nothing_outstanding},
    stream::Stream,
};
use crate::clock;

/// How long each step may take.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// Name look-up and connecting. Default 10 s.
    pub connect: Duration,
    /// The TLS handshake. Default 10 s.
    pub tls: Duration,
    /// The greeting and each command. Default 60 s.
    pub command: Duration,
    /// Sending a whole mail; and again, once it is the oldest outstanding, the server making it durable.
    /// Default 5 min.
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
    dial: Dial,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    required: bool,
    kept: Option<Link>,
    window: usize,
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
            dial: Dial {
                server: server.into(),
                port,
                hello: ClientId::Domain(hello_name.into()),
                timeouts,
                silence: Some(SILENCE),
            },
            tls,
            required,
            kept: None,
            window: 1,
        }
    }

    /// Hands `mail` over; `from` may be empty (`<>`). Lines must end in CRLF and have at most 998
    /// characters. `Ok` only after the server has said 250 to the whole mail. May be cancelled:
    /// then the mail may or may not have arrived, as after a time-out.
    ///
    /// Should submitted mails be outstanding, their connection is dropped: it isn't known what came of them.
    pub async fn send(&mut self, from: &str, to: &str, mail: &[u8]) -> Result<(), SendError> {
        let route = Route::new(from, to)?;
        check_lines(mail)?;
        let (mut link, first) = self.open(&route, mail).await?;
        link.expect_250("MAIL", &first)?;
        link.up_to_354(route, self.dial.timeouts.command).await?;
        let reply = link.wire.data(mail, self.dial.timeouts.data).await?;
        link.expect_250("the mail", &reply)?;
        link.used = clock::now().mono;
        self.kept = Some(link);
        Ok(())
    }

    /// What the server offers; connects if there is no connection. May be cancelled.
    pub async fn offers(&mut self) -> Result<Offers, SendError> {
        let link = self.ready().await?;
        let offers = link.offers.clone();
        self.kept = Some(link);
        Ok(offers)
    }

    /// Hands `mail` over as far as it goes without knowing its outcome, which [`PeerSender::next_reply`] tells.
    /// A `binary` mail is any octets, and needs a server that offers BINARYMIME; any other has lines as for
    /// [`PeerSender::send`].
    ///
    /// With CHUNKING and PIPELINING it is written in one go. That doesn't wait for replies, and it can't be held up
    /// by replies that nobody reads yet: at most [`PeerSender::window`] mails of three lines each lie in the
    /// sockets' buffers. The server may take its time, though: it reads on only as it has room. Without, the DATA
    /// transaction runs up to the end of the mail.
    ///
    /// # Errors
    /// The mail can't be sent to this server as it is, or the window is full: then nothing has changed. Or it
    /// was refused before its data, or the connection failed: then [`PeerSender::outstanding`] is 0 and all
    /// submitted mails are unknown. The same holds when the call is cancelled.
    pub async fn submit(
        &mut self,
        from: &str,
        to: &str,
        mail: Bytes,
        binary: bool,
    ) -> Result<(), SendError> {
        let route = Route::new(from, to)?;
        if !binary {
            check_lines(&mail)?;
        }
        let mut link = self.ready().await?;
        let command = if link.outstanding() < link.offers.window() {
            link.mail(&route, &mail, binary)
        } else {
            let what = "as many mails are outstanding as may be";
            Err(link.wire.error(SendErrorKind::Temporary, what))
        };
        match command {
            Ok(command) => {
                link.submit(command, route, &mail, &self.dial.timeouts)
                    .await?;
                self.kept = Some(link);
                Ok(())
            }
            Err(error) => {
                self.kept = Some(link);
                Err(error)
            }
        }
    }

    /// What came of the oldest submitted mail. `Ok` only if the server has said 250 to all of it.
    ///
    /// # Errors
    /// That mail was refused: the others' replies are still to come. Or the connection failed, was
    /// dropped before, or there is no such mail: then [`PeerSender::outstanding`] is 0 and all submitted mails are
    /// unknown, this one and those behind it. The same holds when the call is cancelled; to wait in a way
    /// that can be cancelled see [`PeerSender::answered`].
    pub async fn next_reply(&mut self) -> Result<(), SendError> {
        let mut link = self.kept.take().ok_or_else(nothing_outstanding)?;
        if link.outstanding() == 0 {
            self.kept = Some(link);
            return Err(nothing_outstanding());
        }
        link.collect(self.dial.timeouts.data).await;
        if let Some(error) = link.broken() {
            return Err(error);
        }
        let outcome = link.settle();
        if link.broken().is_none() {
            self.kept = Some(link);
        }
        outcome
    }

    /// Returns once [`PeerSender::next_reply`] needn't wait; at once if nothing is outstanding. Changes nothing,
    /// and may be cancelled without consequence.
    pub async fn answered(&mut self) {
        if let Some(link) = &mut self.kept {
            link.collect(self.dial.timeouts.data).await;
        }
    }

    /// How many submitted mails have no outcome yet.
    pub fn outstanding(&self) -> usize {
        self.kept.as_ref().map_or(0, Link::outstanding)
    }

    /// How many mails may be outstanding at once: 4 with CHUNKING and PIPELINING, as the server last offered, else
    /// (and before the first connection) 1.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Whether the server answers: connects anew, waits for greeting and EHLO (with TLS as for a
    /// mail) and NOOP, and says how long all of it took.
    pub async fn probe(&mut self) -> Result<Duration, SendError> {
        let start = clock::now().mono;
        let mut link = self.connect().await?;
        let reply = link.wire.command(Noop, self.dial.timeouts.command).await?;
        link.expect_250("NOOP", &reply)?;
        let took = clock::now().mono.saturating_sub(start);
        self.leave(link).await;
        Ok(took)
    }

    /// Says goodbye on the kept connection, if there is one and nothing is outstanding on it; else drops it.
    /// Dropping the sender is as good.
    pub async fn close(&mut self) {
        if let Some(link) = self.kept.take().filter(|l| l.outstanding() == 0) {
            self.leave(link).await;
        }
    }

    async fn leave(&self, mut link: Link) {
        let polite = self.dial.timeouts.command.min(Duration::from_secs(1));
        let _ = link.wire.command(Quit, polite).await;
    }

    /// The kept connection, or, if there is none or it has gone stale, a new one.
    async fn ready(&mut self) -> Result<Link, SendError> {
        if let Some(mut link) = self.kept.take() {
            if let Some(error) = link.broken() {
                return Err(error);
            }
            if link.outstanding() > 0 || (self.is_fresh(&link) && link.wire.is_quiet()) {
                return Ok(link);
            }
        }
        self.renewed().await
    }

    async fn renewed(&mut self) -> Result<Link, SendError> {
        let link = self.connect().await?;
        self.window = link.offers.window();
        Ok(link)
    }

    fn is_fresh(&self, link: &Link) -> bool {
        clock::now().mono.saturating_sub(link.used) < self.dial.timeouts.idle
    }

    /// A connection on which MAIL was answered: the kept one, or, if that has gone stale, a new one.
    async fn open(&mut self, route: &Route, mail: &[u8]) -> Result<(Link, Response), SendError> {
        let limit = self.dial.timeouts.command;
        let kept = self.kept.take().filter(|l| l.outstanding() == 0);
        if let Some(mut link) = kept.filter(|l| self.is_fresh(l)) {
            let command = link.mail(route, mail, false)?;
            // Only 421, a closed connection or one out of step: everything else is an answer.
            match link.wire.command(command, limit).await {
                Ok(reply) if reply.has_code(421) => {}
                Ok(reply) => return Ok((link, reply)),
                Err(e) if e.kind == SendErrorKind::TimedOut => return Err(e),
                Err(_) => {}
            }
        }
        let mut link = self.renewed().await?;
        let command = link.mail(route, mail, false)?;
        let reply = link.wire.command(command, limit).await?;
        Ok((link, reply))
    }

    async fn connect(&self) -> Result<Link, SendError> {
        let wire = self.dial.wire(Stream::Plain(self.dial.tcp().await?));
        let mut link = self.dial.greet(wire).await?;
        let offered = link.offers.starttls;
        match &self.tls {
            Some((config, name)) if offered => {
                let reply = link
                    .wire
                    .command(Starttls, self.dial.timeouts.command)
                    .await?;
                if !reply.has_code(220) {
                    let refused = link.wire.refused("STARTTLS", &reply);
                    return Err(SendError {
                        kind: SendErrorKind::Tls,
                        ..refused
                    });
                }
                let stream = link.wire.into_stream()?;
                let wire = self.dial.handshake(stream, config, name).await?;
                self.dial.ehlo(wire).await
            }
            tls if !self.required => {
                if tls.is_some() {
                    tracing::warn!(
                        server = %self.dial.name(),
                        "STARTTLS isn't offered; mails go there in clear text, since tls.require is false"
                    );
                }
                Ok(link)
            }
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
}
