//! Numbered probes, end to end: each node's heads carry one at an interval, the peer's next head
//! returns it. What they pass is what messages pass: packing, signature, TLS, SMTP, the peer's
//! mailroom and loop.

use std::time::Duration;

/// Probes in both directions.
#[derive(Debug, Clone, Default)]
pub(super) struct Probes {
    every: Option<Duration>,
    /// The last one's number, and when it was first due to go if it has not come back.
    number: u64,
    waiting: Option<Duration>,
    next: Duration,
    returned: Option<Returned>,
    /// The peer's last, and when it came.
    heard: Option<(u64, Duration)>,
}

#[derive(Debug, Clone, Copy)]
struct Returned {
    sent: Duration,
    took: Duration,
}

/// How the probes fare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProbeView {
    /// How long ago the last probe that came back was sent; `None` = none has yet.
    pub out_age: Option<Duration>,
    /// How long that one took, there and back.
    pub round_trip: Option<Duration>,
    /// How long ago the peer's last probe came.
    pub in_age: Option<Duration>,
}

impl Probes {
    pub(super) fn every(&mut self, every: Option<Duration>) {
        self.every = every;
    }

    /// When the next is due.
    pub(super) fn due(&self) -> Option<Duration> {
        self.every.map(|_| self.next)
    }

    /// The probe for a mail that goes out now.
    pub(super) fn attach(&mut self, now: Duration) -> Option<u64> {
        let every = self.every?;
        if now >= self.next {
            self.next = now.saturating_add(every);
            if self.waiting.is_none() {
                self.number = self.number.wrapping_add(1);
                self.waiting = Some(now);
            }
        }
        self.waiting.map(|_| self.number)
    }

    pub(super) fn echoed(&mut self, number: Option<u64>, now: Duration) {
        if let Some(sent) = self.waiting.filter(|_| number == Some(self.number)) {
            self.waiting = None;
            let took = now.saturating_sub(sent);
            self.returned = Some(Returned { sent, took });
        }
    }

    pub(super) fn heard(&mut self, number: Option<u64>, now: Duration) {
        if let Some(number) = number {
            self.heard = Some((number, now));
        }
    }

    /// The peer's last probe, to be returned.
    pub(super) fn echo(&self) -> Option<u64> {
        self.heard.map(|(number, _)| number)
    }

    pub(super) fn view(&self, now: Duration) -> ProbeView {
        ProbeView {
            out_age: self.returned.map(|r| now.saturating_sub(r.sent)),
            round_trip: self.returned.map(|r| r.took),
            in_age: self.heard.map(|(_, at)| now.saturating_sub(at)),
        }
    }
}
