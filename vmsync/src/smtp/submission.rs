//! Hands mails to a mail server that is not the peer's: a company's own, or a provider's (R-SY-2,
//! further entries; RFC 5321, RFC 6409).
//!
//! Order: connect, TLS as the entry says, EHLO, AUTH where set, then mails one by one. As with the
//! peer: `Ok` means the code after the mail was exactly 250; every step has its time-out; after any
//! failure the connection is dropped. A password is read from its file for each connection, goes only
//! where TLS has shown who the server is (the demo's servers excepted, see [`Tls::Opportunistic`]),
//! and stands in no error and no log.

use std::{path::PathBuf, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lettre::transport::smtp::{
    commands::{Data, Quit, Rcpt, Starttls},
    extension::ClientId,
    response::Response,
};
use rustls::{ClientConfig, pki_types::ServerName};
use vmsync_core::delivery::{Failure, Stage};
use zeroize::Zeroizing;

use super::{
    dial::Dial,
    error::{SendError, SendErrorKind},
    link::{Link, Route, check_lines},
    sender::Timeouts,
    stream::Stream,
};
use crate::{clock, keys};

/// How long an unused connection is kept: servers close theirs after minutes.
const IDLE: Duration = Duration::from_secs(10);

/// What TLS a server is to have.
#[derive(Clone)]
pub enum Tls {
    /// STARTTLS where offered. The configuration is one that asks for no name.
    Opportunistic(Arc<ClientConfig>),
    /// STARTTLS, verified, or nothing.
    Required(Arc<ClientConfig>),
    /// From the first byte, verified.
    Implicit(Arc<ClientConfig>),
}

/// Who logs in, and the file with the password.
#[derive(Debug, Clone)]
pub struct Login {
    /// User name.
    pub user: String,
    /// Its first line is the password.
    pub password_file: PathBuf,
}

/// Sends to one server. See the module's head.
pub struct Submission {
    dial: Dial,
    tls: Tls,
    login: Option<Login>,
    kept: Option<Link>,
}

impl Submission {
    /// To `server:port`, which is told `hello_name`. Doesn't connect yet.
    pub fn new(
        server: impl Into<String>,
        port: u16,
        tls: Tls,
        login: Option<Login>,
        hello_name: impl Into<String>,
        timeouts: Timeouts,
    ) -> Self {
        Self {
            dial: Dial {
                server: server.into(),
                port,
                hello: ClientId::Domain(hello_name.into()),
                timeouts,
                silence: None,
            },
            tls,
            login,
            kept: None,
        }
    }

    /// Hands `mail` over; lines must end in CRLF. `Ok` only after the server has said 250 to all of
    /// it. When it fails or is cancelled the mail may have been taken all the same, if it had come as
    /// far as [`Stage::Content`].
    pub async fn send(&mut self, from: &str, to: &str, mail: &[u8]) -> Result<(), Failure> {
        let unsendable = |e: SendError| Failure {
            unsendable: true,
            ..failure(Stage::Sender, e)
        };
        let route = Route::new(from, to).map_err(unsendable)?;
        check_lines(mail).map_err(unsendable)?;
        let (mut link, reply) = self.open(&route, mail).await?;
        let limit = self.dial.timeouts.command;
        let sent = async {
            expect(&link, Stage::Sender, "MAIL", &reply, &[250])?;
            let at = |stage| move |e| failure(stage, e);
            let (wire, to) = (&mut link.wire, Rcpt::new(route.to, vec![]));
            let reply = wire.command(to, limit).await;
            let reply = reply.map_err(at(Stage::Recipient))?;
            // 251: it is not there any more, and the server knows where (RFC 5321 section 3.4).
            expect(&link, Stage::Recipient, "RCPT", &reply, &[250, 251])?;
            let reply = link.wire.command(Data, limit).await;
            let reply = reply.map_err(at(Stage::Content))?;
            expect(&link, Stage::Content, "DATA", &reply, &[354])?;
            let reply = link.wire.data(mail, self.dial.timeouts.data).await;
            let reply = reply.map_err(at(Stage::Content))?;
            expect(&link, Stage::Content, "the mail", &reply, &[250])
        };
        match sent.await {
            Ok(()) => {
                link.used = clock::now().mono;
                self.kept = Some(link);
                Ok(())
            }
            // No answer: nothing more is asked on it.
            Err(failure) if failure.code.is_none() => Err(failure),
            Err(failure) => {
                self.leave(link).await;
                Err(failure)
            }
        }
    }

    /// Says goodbye on the kept connection, if there is one.
    pub async fn close(&mut self) {
        if let Some(link) = self.kept.take() {
            self.leave(link).await;
        }
    }

    /// A connection on which MAIL was answered: the kept one, or, if that has gone stale, a new one.
    async fn open(&mut self, route: &Route, mail: &[u8]) -> Result<(Link, Response), Failure> {
        let limit = self.dial.timeouts.command;
        let unsendable = |e: SendError| Failure {
            unsendable: true,
            ..failure(Stage::Sender, e)
        };
        let fresh = |link: &Link| clock::now().mono.saturating_sub(link.used) < IDLE;
        if let Some(mut link) = self.kept.take().filter(fresh)
            && link.wire.is_quiet()
        {
            let command = link.mail(route, mail, false).map_err(unsendable)?;
            match link.wire.command(command, limit).await {
                Ok(reply) if reply.has_code(421) => {}
                Ok(reply) => return Ok((link, reply)),
                Err(e) if e.kind == SendErrorKind::TimedOut => {
                    return Err(failure(Stage::Sender, e));
                }
                Err(_) => {}
            }
        }
        let mut link = self.connect().await?;
        let command = link.mail(route, mail, false).map_err(unsendable)?;
        let reply = link.wire.command(command, limit).await;
        Ok((link, reply.map_err(|e| failure(Stage::Sender, e))?))
    }

    async fn connect(&self) -> Result<Link, Failure> {
        let at_first = |e| failure(Stage::Connection, e);
        let (link, private) = self.reach().await.map_err(at_first)?;
        match &self.login {
            None => Ok(link),
            Some(login) => self.log_in(link, login, private).await,
        }
    }

    /// A connection after EHLO, and whether TLS has shown who the server is.
    async fn reach(&self) -> Result<(Link, bool), SendError> {
        let stream = Stream::Plain(self.dial.tcp().await?);
        let name = || {
            let server = self.dial.server.trim_end_matches('.').to_owned();
            ServerName::try_from(server).map_err(|e| {
                let text = format!("{}: {e}", self.dial.name());
                SendError::new(SendErrorKind::Tls, None, text)
            })
        };
        if let Tls::Implicit(config) = &self.tls {
            let wire = self.dial.handshake(stream, config, &name()?).await?;
            return Ok((self.dial.greet(wire).await?, true));
        }
        let mut link = self.dial.greet(self.dial.wire(stream)).await?;
        let (config, required) = match &self.tls {
            Tls::Opportunistic(config) => (config, false),
            Tls::Required(config) | Tls::Implicit(config) => (config, true),
        };
        if !link.offers.starttls {
            if !required {
                return Ok((link, false));
            }
            let why = "STARTTLS is not offered, and this entry sends nothing without: check server and port, or set smtp.sender.tls";
            let error = link.wire.error(SendErrorKind::Tls, why);
            self.leave(link).await;
            return Err(error);
        }
        let reply = link
            .wire
            .command(Starttls, self.dial.timeouts.command)
            .await?;
        if !reply.has_code(220) {
            return Err(link.wire.refused("STARTTLS", &reply));
        }
        let stream = link.wire.into_stream()?;
        let wire = self.dial.handshake(stream, config, &name()?).await?;
        Ok((self.dial.ehlo(wire).await?, required))
    }

    /// AUTH (RFC 4954) with PLAIN (RFC 4616), else LOGIN.
    async fn log_in(&self, mut link: Link, login: &Login, private: bool) -> Result<Link, Failure> {
        let setup = |why: String| Failure {
            stage: Stage::Connection,
            code: None,
            unsendable: false,
            setup: true,
            why,
        };
        // The check of the configuration lets this pass for the demo only.
        if !private && !matches!(self.tls, Tls::Opportunistic(_)) {
            return Err(setup(
                "no password goes over an unverified connection".into(),
            ));
        }
        let file = login.password_file.clone();
        let read = tokio::task::spawn_blocking(move || keys::read_secret_line(&file)).await;
        let password = match read {
            Ok(Ok(password)) => password,
            Ok(Err(e)) => return Err(setup(e.to_string())),
            Err(e) => return Err(setup(e.to_string())),
        };
        let (user, password) = (login.user.as_str(), &*password);
        let coded = |text: &str| Zeroizing::new(STANDARD.encode(text));
        let limit = self.dial.timeouts.command;
        let (step, lines): (_, Vec<Zeroizing<String>>) = if link.offers.auth_plain {
            let token = Zeroizing::new(format!("\0{user}\0{password}"));
            let token = coded(&token);
            (
                "AUTH PLAIN",
                vec![Zeroizing::new(format!("AUTH PLAIN {}", *token))],
            )
        } else if link.offers.auth_login {
            let begin = Zeroizing::new("AUTH LOGIN".to_owned());
            ("AUTH LOGIN", vec![begin, coded(user), coded(password)])
        } else {
            let why = format!(
                "{} offers no authentication that is known here (PLAIN or LOGIN), and auth is set: check server and port",
                self.dial.name()
            );
            self.leave(link).await;
            return Err(setup(why));
        };
        let last = lines.len().saturating_sub(1);
        for (n, line) in lines.iter().enumerate() {
            let reply = link.wire.exchange(line, step, limit).await;
            let reply = reply.map_err(|e| failure(Stage::Connection, e))?;
            let wanted = if n == last { 235 } else { 334 };
            expect(&link, Stage::Connection, step, &reply, &[wanted])?;
        }
        Ok(link)
    }

    async fn leave(&self, mut link: Link) {
        let polite = self.dial.timeouts.command.min(Duration::from_secs(1));
        let _ = link.wire.command(Quit, polite).await;
    }
}

fn expect(
    link: &Link,
    stage: Stage,
    step: &str,
    reply: &Response,
    codes: &[u16],
) -> Result<(), Failure> {
    if codes.iter().any(|code| reply.has_code(*code)) {
        Ok(())
    } else {
        Err(failure(stage, link.wire.refused(step, reply)))
    }
}

fn failure(stage: Stage, error: SendError) -> Failure {
    Failure {
        stage,
        code: error.code,
        unsendable: false,
        setup: error.kind == SendErrorKind::Tls,
        why: error.text,
    }
}
