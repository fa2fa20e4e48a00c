//! How a session ends: by time, by request, or for what the client did.

use std::time::Duration;

use vmsync_config::words::Now;

use super::{Session, State, chunks::Chunks};
use crate::smtp::{
    action::Action,
    event::{Phase, SmtpEvent},
    reply,
};

impl Session {
    /// When the wait for the client ends, on the monotonic clock. None while it isn't the client
    /// that is waited for.
    pub fn deadline(&self) -> Option<Duration> {
        match self.state {
            State::Command => {
                let mail_ends = self.chunks.as_ref().map_or(Duration::MAX, Chunks::ends);
                Some(self.step_ends.min(self.idle_ends).min(mail_ends))
            }
            State::Receiving(_) | State::Chunk(_) => Some(self.step_ends),
            _ => None,
        }
    }

    /// To be called when the deadline has passed; does nothing before it.
    pub fn expire(&mut self, now: Now) {
        if self.deadline().is_none_or(|ends| now.mono < ends) {
            return;
        }
        let phase = match self.state {
            State::Receiving(_) | State::Chunk(_) => Phase::Data,
            _ if self.chunks.as_ref().is_some_and(|c| c.ends() <= now.mono) => Phase::Data,
            _ if self.idle_ends <= self.step_ends => Phase::Idle,
            _ if self.greeted => Phase::Command,
            _ => Phase::Greeting,
        };
        let peer = self.peer;
        self.event(SmtpEvent::TimedOut { peer, phase });
        let text = format!("waited too long for {phase}, closing");
        self.close_with(421, "4.4.2", &text);
    }

    /// Asks the session to end: at once between mails, after the answer to the one in progress.
    pub fn stop(&mut self) {
        self.stopping = true;
        if self.wants_input() && !self.is_busy() {
            self.close_with(421, "4.3.2", "shutting down, try again later");
        }
    }

    /// Ends a session that has been idle longest, to make room for another client; does nothing
    /// while a mail is in progress.
    pub fn make_room(&mut self) {
        if self.wants_input() && !self.is_busy() {
            self.close_with(
                421,
                "4.7.0",
                "too many connections, closing the longest idle",
            );
        }
    }

    /// A client that goes on long after the limit isn't waited for.
    pub(super) fn flooded(&mut self) {
        let peer = self.peer;
        self.event(SmtpEvent::Oversize { peer });
        let text = format!("larger than {} bytes, closing", self.policy.message_bytes);
        self.close_with(552, "5.3.4", &text);
    }

    /// Clear text came with STARTTLS. It is neither executed nor taken for TLS.
    pub(super) fn injected(&mut self) {
        let peer = self.peer;
        self.actions.retain(|a| *a != Action::StartTls);
        self.event(SmtpEvent::StartTlsInjection { peer });
        self.close();
    }

    pub(super) fn give_up(&mut self) {
        let peer = self.peer;
        self.event(SmtpEvent::TooManyErrors { peer });
        let text = "too many errors or commands without a mail, closing";
        self.close_with(421, "4.7.0", text);
    }

    pub(super) fn close_with(&mut self, code: u16, enhanced: &str, text: &str) {
        if !matches!(self.state, State::Closed) {
            self.send(reply::coded(code, enhanced, text));
            self.close();
        }
    }

    pub(super) fn close(&mut self) {
        self.state = State::Closed;
        self.reset();
        self.actions.push_back(Action::Close);
    }
}
