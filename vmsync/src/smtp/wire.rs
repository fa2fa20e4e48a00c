//! The client's side of the conversation: one command, one reply, each with its time-out.
//!
//! Commands and replies are `lettre`'s types. Its `AsyncSmtpConnection` isn't used, for reasons
//! found in its source (0.11.23): STARTTLS takes only a TLS configuration of its own builder,
//! not the caller's; a reply line without an end is buffered without limit; a reply that nobody
//! asked for stays in its buffer and is taken for the answer to the next command, after DATA for
//! a false acknowledgement. Here unasked bytes break the connection.

use std::{fmt::Display, time::Duration};

use bytes::BytesMut;
use lettre::transport::smtp::response::Response;
use tokio::time::timeout;

use super::{
    sender::{SendError, SendErrorKind},
    stream::Stream,
};

/// Longest reply line (RFC 5321 section 4.5.3.1.5 says 512) and longest reply.
const MAX_REPLY_LINE: usize = 2048;
const MAX_REPLY: usize = 32 * 1024;
const CHUNK: usize = 64 * 1024;

/// A connection on which each reply answers the last command.
pub(super) struct Wire {
    stream: Stream,
    held: BytesMut,
    /// `server:port`, for error texts.
    name: String,
}

impl Wire {
    pub(super) fn new(stream: Stream, name: String) -> Self {
        Self {
            stream,
            held: BytesMut::new(),
            name,
        }
    }

    /// Sends `command` and reads its reply, whatever its code.
    pub(super) async fn command(
        &mut self,
        command: impl Display,
        limit: Duration,
    ) -> Result<Response, SendError> {
        let line = command.to_string();
        let verb = line
            .split([' ', '\r'])
            .next()
            .unwrap_or_default()
            .to_owned();
        self.in_step(&verb)?;
        self.within(limit, &verb, async |wire: &mut Self| {
            wire.put(line.as_bytes(), &verb).await?;
            wire.reply(&verb).await
        })
        .await
    }

    /// Reads a reply to something else than a command: the greeting.
    pub(super) async fn greeting(&mut self, limit: Duration) -> Result<Response, SendError> {
        self.within(limit, "the connection", async |wire: &mut Self| {
            wire.reply("the connection").await
        })
        .await
    }

    /// Sends a mail (CRLF lines only, checked by the sender) with its dots stuffed, and the
    /// final dot; reads the reply. One time-out for all of it.
    pub(super) async fn data(
        &mut self,
        mail: &[u8],
        limit: Duration,
    ) -> Result<Response, SendError> {
        const STEP: &str = "the mail";
        self.in_step(STEP)?;
        self.within(limit, STEP, async |wire: &mut Self| {
            let sent = wire.put_stuffed(mail).await;
            match (sent, wire.reply(STEP).await) {
                // A server that refuses in the middle says why before it hangs up.
                (Err(_), Ok(reply)) if !reply.is_positive() => Ok(reply),
                (Err(e), _) => Err(e),
                (Ok(()), reply) => reply,
            }
        })
        .await
    }

    /// Takes the stream for the TLS handshake. Bytes that came before it are an injection.
    pub(super) fn into_stream(self) -> Result<Stream, SendError> {
        self.in_step("STARTTLS")?;
        Ok(self.stream)
    }

    /// An error of this connection.
    pub(super) fn error(&self, kind: SendErrorKind, what: impl Display) -> SendError {
        SendError::new(kind, None, format!("{}: {what}", self.name))
    }

    /// A reply that isn't what was hoped for, as an error.
    pub(super) fn refused(&self, step: &str, reply: &Response) -> SendError {
        let code = u16::from(reply.code());
        let text: Vec<_> = reply.message().collect();
        let kind = match code {
            500..=599 => SendErrorKind::Permanent,
            _ => SendErrorKind::Temporary,
        };
        let text = format!("{} answered {code} {} to {step}", self.name, text.join(" "));
        SendError::new(kind, Some(code), text)
    }

    async fn within<T>(
        &mut self,
        limit: Duration,
        step: &str,
        work: impl AsyncFnOnce(&mut Self) -> Result<T, SendError>,
    ) -> Result<T, SendError> {
        match timeout(limit, work(&mut *self)).await {
            Ok(result) => result,
            Err(_) => Err(self.error(
                SendErrorKind::TimedOut,
                format!("no answer to {step} within {limit:?}"),
            )),
        }
    }

    fn in_step(&self, step: &str) -> Result<(), SendError> {
        if self.held.is_empty() {
            return Ok(());
        }
        Err(self.error(
            SendErrorKind::Temporary,
            format!("the server said something unasked before {step}; connection dropped"),
        ))
    }

    async fn put(&mut self, bytes: &[u8], step: &str) -> Result<(), SendError> {
        self.stream
            .write(bytes)
            .await
            .map_err(|e| self.error(SendErrorKind::Unreachable, format!("sending {step}: {e}")))
    }

    async fn put_stuffed(&mut self, mail: &[u8]) -> Result<(), SendError> {
        let mut chunk = Vec::with_capacity(CHUNK + 1024);
        for line in mail.split_inclusive(|&b| b == b'\n') {
            // RFC 5321 section 4.5.2.
            if line.first() == Some(&b'.') {
                chunk.push(b'.');
            }
            chunk.extend_from_slice(line);
            if chunk.len() >= CHUNK {
                self.put(&chunk, "the mail").await?;
                chunk.clear();
            }
        }
        if !mail.is_empty() && !mail.ends_with(b"\r\n") {
            chunk.extend_from_slice(b"\r\n");
        }
        chunk.extend_from_slice(b".\r\n");
        self.put(&chunk, "the mail").await
    }

    async fn reply(&mut self, step: &str) -> Result<Response, SendError> {
        let mut text = String::new();
        loop {
            let line = self.line(step).await?;
            let last = line.as_bytes().get(3) != Some(&b'-');
            text.push_str(&line);
            // A code alone is a reply too (RFC 5321 section 4.2), though lettre wants a blank.
            if line.len() == 3 {
                text.push(' ');
            }
            text.push_str("\r\n");
            if last {
                break;
            }
            if text.len() > MAX_REPLY {
                return Err(self.nonsense(step, "its answer is too long"));
            }
        }
        text.parse::<Response>()
            .map_err(|_| self.nonsense(step, "its answer is no SMTP reply"))
    }

    /// One line of a reply, without its CRLF.
    async fn line(&mut self, step: &str) -> Result<String, SendError> {
        loop {
            if let Some(end) = self.held.iter().position(|&b| b == b'\n') {
                let line = self.held.split_to(end + 1);
                return Ok(String::from_utf8_lossy(&line)
                    .trim_end_matches(['\r', '\n'])
                    .to_owned());
            }
            if self.held.len() > MAX_REPLY_LINE {
                return Err(self.nonsense(step, "a line of its answer is too long"));
            }
            self.held.reserve(MAX_REPLY_LINE);
            match self.stream.read(&mut self.held).await {
                Ok(0) => {
                    let what = format!("connection closed instead of an answer to {step}");
                    return Err(self.error(SendErrorKind::Unreachable, what));
                }
                Ok(_) => {}
                Err(e) => {
                    let what = format!("waiting for the answer to {step}: {e}");
                    return Err(self.error(SendErrorKind::Unreachable, what));
                }
            }
        }
    }

    fn nonsense(&self, step: &str, what: &str) -> SendError {
        self.error(SendErrorKind::Temporary, format!("{what} (to {step})"))
    }
}
