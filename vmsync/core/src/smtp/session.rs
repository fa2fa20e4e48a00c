//! The session: which command is right when, and what follows from it.
//!
//! ```text
//!          EHLO/HELO          MAIL            RCPT (asked)        DATA            CRLF.CRLF (asked)
//!  greeted ────────▶ ready ────────▶ mail open ────────▶ … ─────────▶ receiving ──────────▶ ready
//!                      ▲                                   BDAT n … BDAT m LAST (asked)        │
//!                      └── RSET, EHLO, STARTTLS, any answer after data ────────────────────────┘
//! ```
//!
//! While the handler is asked or TLS is negotiated, no input is looked at, so replies keep their
//! order whatever was pipelined (RFC 2920).

mod chunks;
mod commands;
mod ends;

use std::{collections::VecDeque, net::IpAddr, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use vmsync_config::words::Now;

use self::chunks::{Chunk, Chunks};
use super::{
    action::{Action, Envelope},
    command,
    data::{Data, Fault},
    event::SmtpEvent,
    line::{Line, Lines},
    policy::{Certificate, Policy, Recipient, Tls},
    reply::{self, Accepted, Refusal, Verdict},
};

#[derive(Debug)]
enum State {
    /// Commands are read.
    Command,
    /// The handler is asked about this recipient.
    AskingRecipient(Recipient),
    /// A mail is read.
    Receiving(Data),
    /// A chunk of a mail is read, or skipped.
    Chunk(Chunk),
    /// The handler has the mail, of so many bytes.
    Delivering(usize),
    /// The driver negotiates TLS.
    StartingTls,
    /// Over.
    Closed,
}

/// One client's session. See the module's head.
#[derive(Debug)]
pub struct Session {
    policy: Arc<Policy>,
    peer: IpAddr,
    tls: Tls,
    state: State,
    lines: Lines,
    hello: Option<String>,
    from: Option<String>,
    declared: usize,
    binary: bool,
    recipients: Vec<Recipient>,
    /// What came by BDAT; Some from a mail's first chunk to its end.
    chunks: Option<Chunks>,
    actions: VecDeque<Action>,
    errors: u32,
    commands: u32,
    greeted: bool,
    stopping: bool,
    /// No place for anybody but the peer; whether it is that address which has too many connections.
    peer_only: Option<bool>,
    /// Ends of the waits that run, on the monotonic clock.
    step_ends: Duration,
    idle_ends: Duration,
}

impl Session {
    /// A session with a client that has just connected; its first action is the greeting.
    pub fn new(policy: Arc<Policy>, peer: IpAddr, offer_tls: bool, now: Now) -> Self {
        let mut session = Self {
            step_ends: now.mono.saturating_add(policy.times.greeting),
            idle_ends: now.mono.saturating_add(policy.times.idle),
            peer: peer.to_canonical(),
            tls: if offer_tls { Tls::Offered } else { Tls::Absent },
            state: State::Command,
            lines: Lines::default(),
            hello: None,
            from: None,
            declared: 0,
            binary: false,
            recipients: Vec::new(),
            chunks: None,
            actions: VecDeque::new(),
            errors: 0,
            commands: 0,
            greeted: false,
            stopping: false,
            peer_only: None,
            policy,
        };
        let greeting = format!("{} ESMTP vmsync", session.policy.domain);
        session.send(reply::bare(220, &greeting));
        session
    }

    /// Takes bytes of the client out of `input` and says how many. It takes none where an answer is awaited
    /// (see [`Session::wants_input`]), and none of a chunk before it is there whole (see
    /// [`Session::expects`]), so that a chunk needn't be copied; the driver offers the rest again, with more.
    pub fn handle(&mut self, now: Now, input: &mut BytesMut) -> usize {
        let offered = input.len();
        while !input.is_empty() {
            match &mut self.state {
                State::Command => {
                    let (n, line) = self.lines.take(input);
                    input.advance(n);
                    if let Some(line) = line {
                        self.line(now, line);
                    }
                }
                State::Receiving(data) => {
                    let (n, end) = data.take(input);
                    input.advance(n);
                    if data.flooding() {
                        self.flooded();
                    } else if end {
                        self.end_of_data(now);
                    }
                }
                State::Chunk(_) => {
                    if !self.take_chunk(now, input) {
                        break;
                    }
                }
                State::StartingTls => {
                    self.injected();
                    input.clear();
                }
                State::AskingRecipient(_) | State::Delivering(_) => break,
                State::Closed => input.clear(),
            }
        }
        offered.saturating_sub(input.len())
    }

    /// The next thing to do, if any.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether [`Session::handle`] would take input now. If not, an answer is awaited, or it is over.
    pub fn wants_input(&self) -> bool {
        matches!(
            self.state,
            State::Command | State::Receiving(_) | State::Chunk(_)
        )
    }

    /// How many bytes [`Session::handle`] must be offered at once before it goes on: the chunk being
    /// received. 0 where any number will do.
    pub fn expects(&self) -> usize {
        match &self.state {
            State::Chunk(chunk) if self.keeping() => chunk.octets(),
            _ => 0,
        }
    }

    /// Whether a mail is being received or delivered: the time at which not to interrupt.
    pub fn is_busy(&self) -> bool {
        match self.state {
            State::Receiving(_) | State::Delivering(_) | State::AskingRecipient(_) => true,
            // A chunk that is only skipped is no mail: else anybody could hold a place with one.
            State::Command | State::Chunk(_) => self.keeping(),
            State::StartingTls | State::Closed => false,
        }
    }

    /// Whether [`Session::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Bytes of memory the mail being received or delivered needs: what is held, or what was announced
    /// where that is more. 0 between mails and once a mail is being discarded.
    pub fn holding(&self) -> usize {
        match (&self.state, &self.chunks) {
            (State::Delivering(bytes), _) => *bytes,
            (State::Receiving(data), _) if !data.failed() => data.held().max(self.declared),
            (_, Some(chunks)) if chunks.keeping() => chunks.announced().max(self.declared),
            _ => 0,
        }
    }

    /// Discards the mail being received and answers 452 for it, for want of memory.
    pub fn out_of_room(&mut self) {
        if let State::Receiving(data) = &mut self.state {
            data.fail(Fault::NoRoom);
        } else if self.keeping() {
            let refusal = self.fault(Fault::NoRoom);
            self.fail_chunks(refusal);
        }
    }

    /// Only the peer has a place in this full house: anybody else is sent away when he begins a mail.
    /// `per_peer`: it is his address that has too many connections.
    pub fn only_for_the_peer(&mut self, per_peer: bool) {
        self.peer_only = Some(per_peer);
    }

    /// Whether the client has shown, by its certificate, to be the peer.
    pub fn is_peer(&self) -> bool {
        self.tls == Tls::Active(Certificate::Peer)
    }

    /// The answer to [`Action::AskRecipient`].
    pub fn recipient(&mut self, now: Now, verdict: Verdict) {
        match std::mem::replace(&mut self.state, State::Command) {
            State::AskingRecipient(recipient) => {
                match verdict {
                    Verdict::Accept => {
                        self.recipients.push(recipient);
                        self.send(reply::coded(250, "2.1.5", "recipient ok"));
                    }
                    Verdict::Refuse(refusal) => self.refuse(&refusal),
                }
                self.next_command(now);
            }
            other => self.state = other,
        }
    }

    /// The answer to [`Action::Deliver`].
    pub fn delivered(&mut self, now: Now, result: Result<Accepted, Refusal>) {
        if !matches!(self.state, State::Delivering(_)) {
            return;
        }
        self.state = State::Command;
        match result {
            Ok(accepted) => {
                self.commands = 0;
                self.idle_ends = now.mono.saturating_add(self.policy.times.idle);
                let text = match accepted.text.as_str() {
                    "" => "mail accepted",
                    text => text,
                };
                self.send(reply::coded(250, "2.0.0", text));
            }
            Err(refusal) => self.refuse(&refusal),
        }
        self.next_command(now);
    }

    /// TLS is up, and that is the client's certificate: everything said before is forgotten (RFC 3207
    /// section 4.2).
    pub fn tls_started(&mut self, now: Now, certificate: Certificate) {
        if matches!(self.state, State::StartingTls) {
            self.reset();
            self.hello = None;
            self.tls = Tls::Active(certificate);
            self.state = State::Command;
            self.step_ends = now.mono.saturating_add(self.policy.times.greeting);
        }
    }

    fn line(&mut self, now: Now, line: Line) {
        self.greeted = true;
        self.commands = self.commands.saturating_add(1);
        let parsed = match line {
            Line::Good(line) => command::parse(&line),
            Line::BareEnding { bdat } => {
                let peer = self.peer;
                self.event(SmtpEvent::BareLineEnding { peer });
                if bdat {
                    return self.broken_chunk();
                }
                let text = "bare CR or LF refused: lines end in CRLF";
                Err(Refusal::new(500, "5.5.2", text))
            }
            Line::TooLong { bdat: true } => return self.broken_chunk(),
            Line::TooLong { bdat: false } => Err(Refusal::new(500, "5.5.2", "line too long")),
        };
        match parsed {
            Ok(command) => self.command(now, command),
            Err(refusal) => self.refuse(&refusal),
        }
        if self.commands > self.policy.commands && matches!(self.state, State::Command) {
            self.give_up();
        }
        if matches!(self.state, State::Command) {
            self.next_command(now);
        }
    }

    fn end_of_data(&mut self, now: Now) {
        let State::Receiving(data) = std::mem::replace(&mut self.state, State::Command) else {
            return;
        };
        match data.finish() {
            Ok(body) => self.deliver(Bytes::from(body)),
            Err(fault) => {
                self.reset();
                let refusal = self.fault(fault);
                self.refuse(&refusal);
                self.next_command(now);
            }
        }
    }

    /// Hands the mail over; the transaction ends.
    fn deliver(&mut self, body: Bytes) {
        let envelope = Envelope {
            from: self.from.take().unwrap_or_default(),
            recipients: std::mem::take(&mut self.recipients),
            peer: self.peer,
            hello: self.hello.clone().unwrap_or_default(),
            tls: matches!(self.tls, Tls::Active(_)),
        };
        self.reset();
        self.state = State::Delivering(body.len());
        self.actions.push_back(Action::Deliver { envelope, body });
    }

    /// What is answered to a mail with this fault; told to counters, too.
    fn fault(&mut self, fault: Fault) -> Refusal {
        let peer = self.peer;
        let (code, enhanced, text) = match fault {
            Fault::BareEnding => {
                self.event(SmtpEvent::BareLineEnding { peer });
                (550, "5.6.0", "bare CR or LF refused (SMTP smuggling)")
            }
            Fault::LongLine => (554, "5.6.0", "a line has more than 998 characters"),
            Fault::Nul => (
                554,
                "5.6.0",
                "NUL in a mail refused; it can be sent by BDAT",
            ),
            Fault::Oversize => {
                self.event(SmtpEvent::Oversize { peer });
                let text = format!("larger than {} bytes", self.policy.message_bytes);
                return Refusal::new(552, "5.3.4", text);
            }
            Fault::NoRoom => {
                self.event(SmtpEvent::NoRoom { peer });
                (452, "4.3.1", "too many mails at once, try again later")
            }
        };
        Refusal::new(code, enhanced, text)
    }

    /// Ready for the next command; or the end, where it was asked for.
    fn next_command(&mut self, now: Now) {
        self.step_ends = now.mono.saturating_add(self.policy.times.command);
        if self.stopping {
            self.stop();
        }
    }

    /// Forgets the mail, keeps the session (RFC 5321 section 4.1.1.5).
    fn reset(&mut self) {
        self.from = None;
        self.declared = 0;
        self.binary = false;
        self.recipients = Vec::new();
        self.chunks = None;
    }

    fn ok(&mut self, enhanced: &str, text: &str) {
        self.send(reply::coded(250, enhanced, text));
    }

    fn refuse(&mut self, refusal: &Refusal) {
        self.send(refusal.line());
        if !refusal.is_temporary() {
            self.errors = self.errors.saturating_add(1);
            if self.errors > self.policy.errors {
                self.give_up();
            }
        }
    }

    fn send(&mut self, bytes: Vec<u8>) {
        self.actions.push_back(Action::Reply(bytes));
    }

    fn event(&mut self, event: SmtpEvent) {
        self.actions.push_back(Action::Event(event));
    }
}
