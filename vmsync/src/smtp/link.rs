//! An open connection to a server, after EHLO: what it offers, mails handed to it, replies still to come.

use std::{collections::VecDeque, fmt::Display, time::Duration};

use bytes::Bytes;
use lettre::{
    Address,
    transport::smtp::{
        commands::{Data, Mail, Rcpt},
        extension::{MailBodyParameter, MailParameter},
        response::Response,
    },
};
use tokio::time::timeout;

use super::{
    error::{SendError, SendErrorKind},
    sender::Timeouts,
    wire::Wire,
};
use crate::clock;

/// Longest line with CRLF (RFC 5321 section 4.5.3.1.6).
const MAX_LINE: usize = 1000;
/// Mails that may be under way on one connection. Two keep it busy while the server makes one
/// durable; the others even out mails of different sizes.
const WINDOW: usize = 4;
/// How long to wait for the reason of a server that hangs up in the middle of a mail.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a server offers (RFC 5321 section 4.1.1.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a keyword that is there or isn't"
)]
pub struct Offers {
    /// BDAT (RFC 3030).
    pub chunking: bool,
    /// Mails of any octets (RFC 3030).
    pub binarymime: bool,
    /// Commands without waiting for replies (RFC 2920).
    pub pipelining: bool,
    /// Lines of any octets (RFC 6152).
    pub eightbit: bool,
    /// The largest mail it takes, bytes; none = no limit told (RFC 1870).
    pub size: Option<u64>,
    pub(super) starttls: bool,
    /// Ways to authenticate that are known here (RFC 4616, and what older servers offer).
    pub(super) auth_plain: bool,
    pub(super) auth_login: bool,
    announces_size: bool,
}

impl Offers {
    /// Reads EHLO's answer; its first line is a greeting.
    pub(super) fn read(reply: &Response) -> Self {
        let mut offers = Self::default();
        for line in reply.message().skip(1) {
            let mut words = line.split_ascii_whitespace();
            let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
            match keyword.as_str() {
                "CHUNKING" => offers.chunking = true,
                "BINARYMIME" => offers.binarymime = true,
                "PIPELINING" => offers.pipelining = true,
                "8BITMIME" => offers.eightbit = true,
                "STARTTLS" => offers.starttls = true,
                "AUTH" => {
                    let ways: Vec<_> = words.map(str::to_ascii_uppercase).collect();
                    offers.auth_plain = ways.iter().any(|w| w == "PLAIN");
                    offers.auth_login = ways.iter().any(|w| w == "LOGIN");
                }
                "SIZE" => {
                    offers.announces_size = true;
                    let size = words.next().and_then(|n| n.parse().ok());
                    offers.size = size.filter(|&n| n > 0);
                }
                _ => {}
            }
        }
        offers
    }

    /// How many mails may be outstanding at once.
    pub(super) fn window(&self) -> usize {
        if self.chunking && self.pipelining {
            WINDOW
        } else {
            1
        }
    }
}

/// From whom and for whom.
pub(super) struct Route {
    from: Option<Address>,
    pub(super) to: Address,
}

impl Route {
    pub(super) fn new(from: &str, to: &str) -> Result<Self, SendError> {
        Ok(Self {
            from: match from {
                "" => None,
                from => Some(address("sender", from)?),
            },
            to: address("recipient", to)?,
        })
    }
}

/// A mail whose outcome isn't known yet.
struct Outstanding {
    /// What each of its replies answers.
    steps: &'static [&'static str],
    /// Those that have come.
    replies: Vec<Response>,
}

/// See the module's head.
pub(super) struct Link {
    pub(super) wire: Wire,
    pub(super) offers: Offers,
    /// When it was last used, on the monotonic clock.
    pub(super) used: Duration,
    outstanding: VecDeque<Outstanding>,
    /// Since when the oldest outstanding mail has been the oldest.
    waiting_since: Duration,
    /// Why no reply can be had any more.
    broken: Option<SendError>,
}

impl Link {
    pub(super) fn new(wire: Wire, offers: Offers) -> Self {
        Self {
            wire,
            offers,
            used: clock::now().mono,
            outstanding: VecDeque::new(),
            waiting_since: Duration::ZERO,
            broken: None,
        }
    }

    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Why it can't be used any more, if so.
    pub(super) fn broken(&mut self) -> Option<SendError> {
        self.broken.take()
    }

    /// MAIL for this mail to this server, if the server can take it.
    pub(super) fn mail(&self, route: &Route, mail: &[u8], binary: bool) -> Result<Mail, SendError> {
        let cannot = |why: String| self.wire.error(SendErrorKind::Permanent, why);
        let mut parameters = Vec::new();
        if let Some(limit) = self.offers.size
            && mail.len() as u64 > limit
        {
            let bytes = mail.len();
            return Err(cannot(format!("takes {limit} bytes, the mail has {bytes}")));
        }
        if self.offers.announces_size {
            parameters.push(MailParameter::Size(mail.len()));
        }
        if binary {
            if !(self.offers.binarymime && self.offers.chunking) {
                let why = "BINARYMIME and CHUNKING aren't both offered, the mail needs them";
                return Err(cannot(why.to_owned()));
            }
            parameters.push(MailParameter::Other {
                keyword: "BODY".to_owned(),
                value: Some("BINARYMIME".to_owned()),
            });
        } else if !mail.is_ascii() {
            if !self.offers.eightbit {
                return Err(cannot("8BITMIME isn't offered, the mail needs it".into()));
            }
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        Ok(Mail::new(route.from.clone(), parameters))
    }

    /// Hands a mail over up to the point where only replies are missing. After an error the connection is of
    /// no more use.
    pub(super) async fn submit(
        &mut self,
        command: Mail,
        route: Route,
        mail: &Bytes,
        timeouts: &Timeouts,
    ) -> Result<(), SendError> {
        let steps: &'static [&'static str] = if self.offers.window() > 1 {
            self.put_chunk(&command, route, mail, timeouts).await?;
            &["MAIL", "RCPT", "the mail"]
        } else {
            let limit = timeouts.command;
            let reply = self.wire.command(command, limit).await?;
            self.expect_250("MAIL", &reply)?;
            self.up_to_354(route, limit).await?;
            let put = async |wire: &mut Wire| wire.put_stuffed(mail).await;
            self.wire.within(timeouts.data, "the mail", put).await?;
            &["the mail"]
        };
        self.used = clock::now().mono;
        if self.outstanding.is_empty() {
            self.waiting_since = self.used;
        }
        self.outstanding.push_back(Outstanding {
            steps,
            replies: Vec::with_capacity(steps.len()),
        });
        Ok(())
    }

    /// RCPT and DATA, each waited for.
    pub(super) async fn up_to_354(
        &mut self,
        route: Route,
        limit: Duration,
    ) -> Result<(), SendError> {
        let reply = self
            .wire
            .command(Rcpt::new(route.to, vec![]), limit)
            .await?;
        self.expect_250("RCPT", &reply)?;
        let reply = self.wire.command(Data, limit).await?;
        if reply.has_code(354) {
            return Ok(());
        }
        Err(self.wire.refused("DATA", &reply))
    }

    /// MAIL, RCPT and the mail as one chunk, without waiting for anything.
    ///
    /// The server can't be kept from taking it by replies that nobody reads: there are at most three short
    /// lines a mail and [`WINDOW`] mails, less than any socket buffers.
    async fn put_chunk(
        &mut self,
        command: &Mail,
        route: Route,
        mail: &Bytes,
        timeouts: &Timeouts,
    ) -> Result<(), SendError> {
        const STEP: &str = "the mail";
        let rcpt = Rcpt::new(route.to, vec![]);
        let head = format!("{command}{rcpt}BDAT {} LAST\r\n", mail.len());
        let put = async |wire: &mut Wire| wire.put_both(head.as_bytes(), mail, STEP).await;
        let Err(error) = self.wire.within(timeouts.data, STEP, put).await else {
            return Ok(());
        };
        if !self.outstanding.is_empty() || error.kind == SendErrorKind::TimedOut {
            return Err(error);
        }
        // A server that refuses in the middle says why before it hangs up.
        let refusal = async {
            for step in ["MAIL", "RCPT", STEP] {
                let reply = self.wire.reply(step).await.ok()?;
                if !reply.is_positive() {
                    return Some(self.wire.refused(step, &reply));
                }
            }
            None
        };
        let said = timeout(LAST_WORDS, refusal).await;
        Err(said.ok().flatten().unwrap_or(error))
    }

    /// Waits until all replies to the oldest mail are there, or can't come any more. May be cancelled and
    /// called again.
    pub(super) async fn collect(&mut self, limit: Duration) {
        let waited = clock::now().mono.saturating_sub(self.waiting_since);
        let left = limit.saturating_sub(waited);
        let Some(oldest) = self.outstanding.front_mut() else {
            return;
        };
        if self.broken.is_some() {
            return;
        }
        let read = self.wire.within(left, "the mail", async |wire: &mut Wire| {
            while let Some(step) = oldest.steps.get(oldest.replies.len()) {
                let reply = wire.reply(step).await?;
                let closing = reply.has_code(421);
                let refused = wire.refused(step, &reply);
                oldest.replies.push(reply);
                if closing {
                    return Err(refused);
                }
            }
            Ok(())
        });
        if let Err(error) = read.await {
            self.broken = Some(error);
        }
    }

    /// What came of the oldest mail, once [`Link::collect`] has ended; whatever it was, the replies to the
    /// others stay in step.
    pub(super) fn settle(&mut self) -> Result<(), SendError> {
        let Some(oldest) = self.outstanding.pop_front() else {
            return Err(nothing_outstanding());
        };
        self.used = clock::now().mono;
        self.waiting_since = self.used;
        for (step, reply) in oldest.steps.iter().zip(&oldest.replies) {
            self.expect_250(step, reply)?;
        }
        if self.outstanding.is_empty()
            && let Err(unasked) = self.wire.in_step("the next mail")
        {
            self.broken = Some(unasked.clone());
            // A server may end a session at any time. Any other reply is one too many: whose was the last?
            if !self.wire.says_goodbye() {
                return Err(unasked);
            }
        }
        Ok(())
    }

    pub(super) fn expect_250(&self, step: &str, reply: &Response) -> Result<(), SendError> {
        if reply.has_code(250) {
            Ok(())
        } else {
            Err(self.wire.refused(step, reply))
        }
    }
}

pub(super) fn nothing_outstanding() -> SendError {
    let text = "no mail is outstanding: its connection was dropped, or none was submitted";
    SendError::new(SendErrorKind::Unreachable, None, text)
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
/// is a line that no server need take. A binary mail has no lines.
pub(super) fn check_lines(mail: &[u8]) -> Result<(), SendError> {
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
    fn offers_are_read_from_ehlo() {
        let offers = |text: &str| Offers::read(&text.parse().unwrap());
        let full = offers(
            "250-chunking starttls\r\n250-Pipelining\r\n250-size 5\r\n250-BINARYMIME\r\n250-CHUNKING\r\n250 8BITMIME\r\n",
        );
        assert!(full.chunking && full.binarymime && full.pipelining && full.eightbit);
        assert!(!full.starttls, "the first line is a greeting");
        assert_eq!((full.size, full.window()), (Some(5), 4));
        let some = offers("250-a\r\n250-SIZE 0\r\n250-\r\n250-  \r\n250 CHUNKING\r\n");
        assert_eq!((some.size, some.window()), (None, 1));
        assert_eq!(offers("250 CHUNKING\r\n"), Offers::default());
    }
}
