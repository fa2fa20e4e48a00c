//! Plays `dialogs/*.dialog` against the session: byte by byte, line by line, and all at once.
//!
//! A dialog is read like a conversation (see `dialogs/README`). The answers must be the same and
//! in the same order in all three ways; an answer that isn't in the file is a failure too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use vmsync_config::words::{Fqdn, Now, UnixMillis};
use vmsync_core::smtp::{
    Accepted, Action, Certificate, Policy, Recipient, Refusal, Session, Times, Verdict,
};

#[derive(Clone, Copy, Debug)]
enum Way {
    Bytes,
    Lines,
    AllAtOnce,
}

#[test]
fn every_dialog_goes_as_written() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogs");
    let mut played = 0;
    let mut failures = vec![];
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "dialog") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for way in [Way::Bytes, Way::Lines, Way::AllAtOnce] {
            if let Err(e) = Play::new(way, &text).run(&text) {
                failures.push(format!("{} ({way:?}): {e}", path.display()));
            }
        }
        played += 1;
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    assert!(played >= 15, "only {played} dialogs found");
}

struct Play {
    way: Way,
    session: Session,
    now: Duration,
    verdicts: HashMap<String, Refusal>,
    deliveries: VecDeque<Refusal>,
    unsent: Vec<u8>,
    /// Offered to the session, not taken yet.
    inbox: BytesMut,
    heard: VecDeque<String>,
    handshake: bool,
}

impl Play {
    fn new(way: Way, text: &str) -> Self {
        let mut policy = Policy {
            domain: Fqdn::new("vmpro1.example.com").unwrap(),
            peer: Fqdn::new("vmpro2.example.com").unwrap(),
            allow: vec!["192.0.2.0/24".parse().unwrap()],
            tls_required: false,
            message_bytes: 2000,
            recipients: 3,
            errors: 5,
            commands: 40,
            mails_per_minute: 6000,
            times: Times {
                greeting: Duration::from_secs(30),
                command: Duration::from_mins(1),
                data: Duration::from_mins(5),
                idle: Duration::from_mins(10),
            },
        };
        let mut peer: IpAddr = "192.0.2.7".parse().unwrap();
        let mut tls = false;
        let mut peer_only = false;
        let mut verdicts = HashMap::new();
        let mut deliveries = VecDeque::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["peer", address] => peer = address.parse().unwrap(),
                ["tls", "offered"] => tls = true,
                ["only", "for", "the", "peer"] => peer_only = true,
                ["tls", "required"] => policy.tls_required = true,
                ["recipient", who, "gets", code, enhanced, ..] => {
                    verdicts.insert(who.to_owned(), refusal(code, enhanced, &words[5..]));
                }
                ["delivery", "gets", "250"] => deliveries.push_back(Refusal::try_later("")),
                ["delivery", "gets", code, enhanced, ..] => {
                    deliveries.push_back(refusal(code, enhanced, &words[4..]));
                }
                _ => {}
            }
        }
        let now = Duration::from_secs(1000);
        let mut session = Session::new(Arc::new(policy), peer, tls, at(now));
        if peer_only {
            session.only_for_the_peer(false);
        }
        Self {
            way,
            session,
            now,
            verdicts,
            deliveries,
            unsent: vec![],
            inbox: BytesMut::new(),
            heard: VecDeque::new(),
            handshake: false,
        }
    }

    fn run(mut self, text: &str) -> Result<(), String> {
        self.perform();
        let mut expected = vec![];
        for (number, line) in text.lines().enumerate() {
            let number = number + 1;
            if let Some(said) = line.strip_prefix("C: ").or((line == "C:").then_some("")) {
                let mut bytes = unescape(said);
                bytes.extend(b"\r\n");
                self.say(&bytes);
            } else if let Some(said) = line.strip_prefix("C+ ") {
                self.say(&unescape(said));
            } else if ["S: ", "M: ", "E: "].iter().any(|p| line.starts_with(p)) || line == "CLOSED"
            {
                expected.push((number, line));
            } else if let Some(what) = line.strip_prefix("T: ") {
                self.flush();
                match what.split_whitespace().collect::<Vec<_>>()[..] {
                    ["handshake", ref who @ ..] if std::mem::take(&mut self.handshake) => {
                        let certificate = match who[..] {
                            [] => Certificate::None,
                            ["peer"] => Certificate::Peer,
                            ["as", name] => Certificate::Other(name.to_owned()),
                            _ => return Err(format!("line {number}: unknown {what}")),
                        };
                        self.session.tls_started(at(self.now), certificate);
                    }
                    ["handshake", ..] => {
                        return Err(format!("line {number}: nobody asked for TLS"));
                    }
                    ["wait", seconds] => {
                        self.now += Duration::from_secs(seconds.parse().unwrap());
                        self.session.expire(at(self.now));
                    }
                    ["stop"] => self.session.stop(),
                    ["out", "of", "room"] => self.session.out_of_room(),
                    _ => return Err(format!("line {number}: unknown {what}")),
                }
                self.perform();
            }
            if !matches!(self.way, Way::AllAtOnce) {
                self.compare(&mut expected)?;
            }
        }
        self.flush();
        self.compare(&mut expected)?;
        match self.heard.pop_front() {
            Some(more) => Err(format!("at the end, not expected: {more}")),
            None => Ok(()),
        }
    }

    fn compare(&mut self, expected: &mut Vec<(usize, &str)>) -> Result<(), String> {
        for (number, line) in expected.drain(..) {
            let heard = self.heard.pop_front().unwrap_or("nothing".into());
            let same = match line.strip_prefix("S: ") {
                Some(_) => heard.starts_with(line),
                // A byte string as `escape_ascii` writes it, its repetitions written out.
                None => heard.as_bytes() == repeated(line),
            };
            if !same {
                return Err(format!("line {number}: expected {line}\n   heard {heard}"));
            }
        }
        Ok(())
    }

    fn say(&mut self, bytes: &[u8]) {
        match self.way {
            Way::AllAtOnce => self.unsent.extend(bytes),
            Way::Lines => self.feed(bytes),
            Way::Bytes => bytes.chunks(1).for_each(|b| self.feed(b)),
        }
    }

    fn flush(&mut self) {
        let unsent = std::mem::take(&mut self.unsent);
        self.feed(&unsent);
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
        while !self.inbox.is_empty() && self.session.handle(at(self.now), &mut self.inbox) > 0 {
            self.perform();
        }
    }

    fn perform(&mut self) {
        while let Some(action) = self.session.poll() {
            match action {
                Action::Reply(bytes) => {
                    let text = String::from_utf8(bytes).unwrap();
                    assert!(text.ends_with("\r\n"));
                    for line in text.split_terminator("\r\n") {
                        assert!(line.len() <= 510, "{line}");
                        self.heard.push_back(format!("S: {line}"));
                    }
                }
                Action::StartTls => self.handshake = true,
                Action::AskRecipient(recipient) => {
                    let verdict = match self.verdicts.get(&name(&recipient)) {
                        Some(refusal) => Verdict::Refuse(refusal.clone()),
                        None => Verdict::Accept,
                    };
                    self.session.recipient(at(self.now), verdict);
                }
                Action::Deliver { envelope, body } => {
                    let to: Vec<_> = envelope.recipients.iter().map(name).collect();
                    let tls = if envelope.tls { " over TLS" } else { "" };
                    self.heard.push_back(format!(
                        "M: from <{}> at {} to {}{tls}: {}",
                        envelope.from,
                        envelope.hello,
                        to.join(","),
                        body.escape_ascii()
                    ));
                    let answer = match self.deliveries.pop_front() {
                        Some(r) if !r.text().is_empty() => Err(r),
                        _ => Ok(Accepted::default()),
                    };
                    self.session.delivered(at(self.now), answer);
                }
                Action::Event(e) => self.heard.push_back(format!("E: {}", e.name())),
                Action::Close => self.heard.push_back("CLOSED".into()),
            }
        }
    }
}

fn at(mono: Duration) -> Now {
    Now {
        mono,
        wall: UnixMillis(0),
    }
}

fn name(recipient: &Recipient) -> String {
    match recipient {
        Recipient::Node => "node".into(),
        Recipient::Mailbox(e) => e.to_string(),
    }
}

fn refusal(code: &str, enhanced: &str, text: &[&str]) -> Refusal {
    let enhanced = enhanced.to_owned().leak();
    Refusal::new(code.parse().unwrap(), enhanced, text.join(" "))
}

/// `{12*x}` written out, all else as it stands.
fn repeated(line: &str) -> Vec<u8> {
    let mut out = vec![];
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('{') {
        let (inner, after) = after.split_once('}').unwrap();
        let (count, what) = inner.split_once('*').unwrap();
        out.extend(before.bytes());
        out.extend(what.repeat(count.parse().unwrap()).bytes());
        rest = after;
    }
    out.extend(rest.bytes());
    out
}

/// `\r \n \0 \\ \xHH`, and `{1200*x}` for 1200 times `x`.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = vec![];
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => {
                let e = rest.chars().next().unwrap();
                rest = &rest[1..];
                match e {
                    'r' => out.push(b'\r'),
                    'n' => out.push(b'\n'),
                    '0' => out.push(0),
                    'x' => {
                        out.push(u8::from_str_radix(&rest[..2], 16).unwrap());
                        rest = &rest[2..];
                    }
                    other => out.extend(other.to_string().bytes()),
                }
            }
            '{' => {
                let (inner, after) = rest.split_once('}').unwrap();
                let (count, what) = inner.split_once('*').unwrap();
                for _ in 0..count.parse().unwrap() {
                    out.extend(unescape(what));
                }
                rest = after;
            }
            c => out.extend(c.to_string().bytes()),
        }
    }
    out
}
