//! The client's side of the conversation: commands, mails and replies, each with its time-out.
//!
//! Commands and replies are `lettre`'s types. Its `AsyncSmtpConnection` isn't used, for reasons
//! found in its source (0.11.23): STARTTLS takes only a TLS configuration of its own builder,
//! not the caller's; a reply line without an end is buffered without limit; a reply that nobody
//! asked for stays in its buffer and is taken for the answer to the next command, after DATA for
//! a false acknowledgement. Here unasked bytes break the connection.

use std::{error::Error, fmt::Display, io, time::Duration};

use bytes::{Buf, BytesMut};
use futures_util::FutureExt;
use lettre::transport::smtp::response::Response;
use tokio::time::timeout;

use super::{
    error::{SendError, SendErrorKind},
    stream::Stream,
};

/// Longest reply line (RFC 5321 section 4.5.3.1.5 says 512) and longest reply.
const MAX_REPLY_LINE: usize = 2048;
const MAX_REPLY: usize = 32 * 1024;
const CHUNK: usize = 64 * 1024;
/// What a TLS record holds at most.
const RECORD: usize = 16 * 1024;

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

    /// Sends a line that is not to be repeated in any error, and reads its reply. `step` is said in
    /// its place.
    pub(super) async fn exchange(
        &mut self,
        line: &str,
        step: &str,
        limit: Duration,
    ) -> Result<Response, SendError> {
        self.in_step(step)?;
        self.within(limit, step, async |wire: &mut Self| {
            wire.put(line.as_bytes(), step).await?;
            wire.put(b"\r\n", step).await?;
            wire.reply(step).await
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

    /// Runs `work` for `limit` at most.
    pub(super) async fn within<T>(
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

    /// Fails if the server has said something that nobody asked for.
    pub(super) fn in_step(&self, step: &str) -> Result<(), SendError> {
        if self.held.is_empty() {
            return Ok(());
        }
        Err(self.error(
            SendErrorKind::Temporary,
            format!("the server said something unasked before {step}; connection dropped"),
        ))
    }

    async fn put(&mut self, bytes: &[u8], step: &str) -> Result<(), SendError> {
        let sent = self.stream.write(bytes).await;
        sent.map_err(|e| self.lost(&format!("sending {step}"), &e))
    }

    /// Sends `head` and `body` together, the body uncopied but for its beginning.
    pub(super) async fn put_both(
        &mut self,
        head: &[u8],
        body: &[u8],
        step: &str,
    ) -> Result<(), SendError> {
        // A small mail makes one TLS record and one packet with its commands.
        let with_head = body.len().min(RECORD.saturating_sub(head.len()));
        let (begin, rest) = body.split_at(with_head);
        self.put(&[head, begin].concat(), step).await?;
        if rest.is_empty() {
            return Ok(());
        }
        self.put(rest, step).await
    }

    /// Sends a mail (CRLF lines only) with its dots stuffed, and the final dot.
    pub(super) async fn put_stuffed(&mut self, mail: &[u8]) -> Result<(), SendError> {
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

    /// The next reply, whatever its code. Cancelled, it loses nothing.
    pub(super) async fn reply(&mut self, step: &str) -> Result<Response, SendError> {
        loop {
            if let Some(reply) = self.held_reply(step)? {
                return Ok(reply);
            }
            self.held.reserve(MAX_REPLY_LINE);
            match self.stream.read(&mut self.held, MAX_REPLY_LINE).await {
                Ok(0) => {
                    let what = format!("connection closed instead of an answer to {step}");
                    return Err(self.error(SendErrorKind::Unreachable, what));
                }
                Ok(_) => {}
                Err(e) => return Err(self.lost(&format!("waiting for the answer to {step}"), &e)),
            }
        }
    }

    /// Whether what has come, unread, is a 421 (RFC 5321 section 3.8), as far as can be seen yet.
    pub(super) fn says_goodbye(&self) -> bool {
        let begin = self.held.get(..3).unwrap_or(&self.held);
        b"421".starts_with(begin)
    }

    /// Whether the connection is open and nothing unasked has come.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.held.reserve(MAX_REPLY_LINE);
        let unasked = self.stream.read(&mut self.held, MAX_REPLY_LINE);
        // Looked at once, without waiting. Bytes that come stay in `held` and put it out of step.
        unasked.now_or_never().is_none() && self.held.is_empty()
    }

    /// Takes a whole reply out of what has come, if there is one.
    fn held_reply(&mut self, step: &str) -> Result<Option<Response>, SendError> {
        let mut text = String::new();
        let mut end = 0;
        loop {
            let rest = self.held.get(end..).unwrap_or_default();
            let Some(length) = rest.iter().position(|&b| b == b'\n') else {
                return if rest.len() > MAX_REPLY_LINE {
                    Err(self.nonsense(step, "a line of its answer is too long"))
                } else {
                    Ok(None)
                };
            };
            let line = String::from_utf8_lossy(rest.get(..length).unwrap_or_default());
            let line = line.trim_end_matches('\r');
            let last = line.as_bytes().get(3) != Some(&b'-');
            text.push_str(line);
            // A code alone is a reply too (RFC 5321 section 4.2), though lettre wants a blank.
            if line.len() == 3 {
                text.push(' ');
            }
            text.push_str("\r\n");
            end += length + 1;
            if last {
                break;
            }
            if end > MAX_REPLY {
                return Err(self.nonsense(step, "its answer is too long"));
            }
        }
        self.held.advance(end);
        match text.parse::<Response>() {
            Ok(reply) => Ok(Some(reply)),
            Err(_) => Err(self.nonsense(step, "its answer is no SMTP reply")),
        }
    }

    /// The connection broke. With TLS 1.3 a server's verdict on our certificate comes as such a break, after the
    /// handshake.
    fn lost(&self, doing: &str, error: &io::Error) -> SendError {
        let tls = error
            .get_ref()
            .is_some_and(<dyn Error + Send + Sync>::is::<rustls::Error>);
        let kind = if tls {
            SendErrorKind::Tls
        } else {
            SendErrorKind::Unreachable
        };
        self.error(kind, format!("{doing}: {error}"))
    }

    fn nonsense(&self, step: &str, what: &str) -> SendError {
        self.error(SendErrorKind::Temporary, format!("{what} (to {step})"))
    }
}
