//! What each command does (RFC 5321 section 4.1.1).

use vmsync_config::words::Now;

use super::{Session, State};
use crate::smtp::{
    action::Action,
    command::{Command, To},
    data::{Data, Fault},
    event::SmtpEvent,
    policy::{Recipient, Tls},
    reply::{self, Refusal},
};

impl Session {
    pub(super) fn command(&mut self, now: Now, command: Command) {
        match command {
            Command::Ehlo(name) => self.ehlo(name),
            Command::Helo(name) => {
                self.reset();
                self.hello = Some(name);
                let domain = self.policy.domain.to_string();
                self.send(reply::bare(250, &domain));
            }
            Command::Mail { from, size, binary } => self.mail(from, size, binary),
            Command::Rcpt(to) => self.rcpt(&to),
            Command::Data => self.data(now),
            Command::Bdat { size, last } => self.bdat(now, size, last),
            Command::BrokenBdat => self.broken_chunk(),
            Command::Rset => {
                self.reset();
                self.ok("2.0.0", "forgotten");
            }
            Command::Noop => self.ok("2.0.0", "ok"),
            // RFC 5321 section 3.5.3: not said, since it would tell which mailboxes there are.
            Command::Vrfy => self.send(reply::coded(252, "2.5.0", "send a mail and see")),
            Command::Help => self.send(reply::coded(214, "2.0.0", "RFC 5321")),
            Command::Quit => self.close_with(221, "2.0.0", "bye"),
            Command::StartTls => self.starttls(),
            Command::Http => self.close_with(421, "4.7.0", "this is SMTP"),
        }
    }

    fn ehlo(&mut self, name: String) {
        self.reset();
        self.hello = Some(name);
        let mut keywords = vec![
            "PIPELINING".to_owned(),
            format!("SIZE {}", self.policy.message_bytes),
            "8BITMIME".to_owned(),
            "BINARYMIME".to_owned(),
            "CHUNKING".to_owned(),
            "ENHANCEDSTATUSCODES".to_owned(),
        ];
        if self.tls == Tls::Offered {
            keywords.push("STARTTLS".to_owned());
        }
        self.send(reply::ehlo(self.policy.domain.as_str(), &keywords));
    }

    fn starttls(&mut self) {
        match &self.tls {
            Tls::Absent => self.refuse(&Refusal::new(502, "5.5.1", "TLS is not configured")),
            Tls::Active(_) => self.refuse(&Refusal::new(503, "5.5.1", "TLS is active already")),
            Tls::Offered if self.hello.is_none() => self.refuse(&first("EHLO")),
            Tls::Offered => {
                self.send(reply::coded(220, "2.0.0", "go ahead"));
                self.actions.push_back(Action::StartTls);
                self.state = State::StartingTls;
            }
        }
    }

    fn mail(&mut self, from: String, size: usize, binary: bool) {
        if let Some(per_peer) = self.peer_only
            && !self.is_peer()
        {
            let peer = self.peer;
            self.event(SmtpEvent::TooManyConnections { peer, per_peer });
            return self.close_with(421, "4.7.0", "too many connections, try again later");
        }
        if self.hello.is_none() {
            return self.refuse(&first("EHLO"));
        }
        if self.from.is_some() {
            return self.refuse(&Refusal::new(503, "5.5.1", "one MAIL at a time"));
        }
        if size > self.policy.limit() {
            let refusal = self.fault(Fault::Oversize);
            return self.refuse(&refusal);
        }
        self.from = Some(from);
        self.declared = size;
        self.binary = binary;
        self.ok("2.1.0", "sender ok");
    }

    fn rcpt(&mut self, to: &To) {
        if self.from.is_none() {
            return self.refuse(&first("MAIL"));
        }
        if self.chunks.is_some() {
            return self.refuse(&Refusal::new(
                503,
                "5.5.1",
                "the mail has begun; or send RSET",
            ));
        }
        let recipient = match self.policy.recipient(self.peer, &self.tls, to) {
            Ok(recipient) => recipient,
            Err((refusal, event)) => {
                if let Some(event) = event {
                    self.event(event);
                }
                return self.refuse(&refusal);
            }
        };
        if self.recipients.contains(&recipient) {
            // Named twice, delivered once.
            return self.ok("2.1.5", "recipient ok");
        }
        let node = self.recipients.contains(&Recipient::Node) || recipient == Recipient::Node;
        if node && !self.recipients.is_empty() {
            let text = "mail for the node has no other recipient; send it apart";
            return self.refuse(&Refusal::new(452, "4.5.3", text));
        }
        if self.recipients.len() >= self.policy.recipients {
            return self.refuse(&Refusal::new(452, "4.5.3", "too many recipients"));
        }
        self.actions
            .push_back(Action::AskRecipient(recipient.clone()));
        self.state = State::AskingRecipient(recipient);
    }

    fn data(&mut self, now: Now) {
        if self.from.is_none() {
            return self.refuse(&first("MAIL"));
        }
        if self.recipients.is_empty() {
            return self.refuse(&no_recipients());
        }
        // RFC 3030 sections 2 and 3.
        if self.chunks.is_some() {
            let text = "a mail begun with BDAT goes on with BDAT; or send RSET";
            return self.refuse(&Refusal::new(503, "5.5.1", text));
        }
        if self.binary {
            let text = "a BINARYMIME mail is sent with BDAT";
            return self.refuse(&Refusal::new(503, "5.5.1", text));
        }
        self.send(reply::bare(354, "end with CRLF.CRLF"));
        self.state = State::Receiving(Data::new(self.policy.limit()));
        self.step_ends = now.mono.saturating_add(self.policy.times.data);
    }
}

pub(super) fn no_recipients() -> Refusal {
    Refusal::new(554, "5.5.1", "no valid recipients")
}

pub(super) fn first(verb: &str) -> Refusal {
    Refusal::new(503, "5.5.1", format!("send {verb} first"))
}
