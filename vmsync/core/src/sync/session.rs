//! The session machine: inputs, and the one function that says what is due.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use vmsync_config::words::{NodeId, Now, Origin, Vector};

use super::{
    Certificate, Event, Kind, Plan, Ticket, WINDOW,
    backoff::{Backoff, Jitter, LONGEST},
    peer::{Held, Peer},
};
use crate::wire::Head;

/// A status waits this long for more to report.
const LINGER: Duration = Duration::from_millis(20);
/// Events kept for a shell that doesn't drain them; the oldest go first.
const EVENTS: usize = 64;

/// What a mail's head tells: the peer is up to date when this equals what would be told now.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    session: u64,
    answers: Option<u64>,
    held: Held,
}

/// Our mails fail since then; why, as the last one did.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub(super) since: Duration,
    pub(super) why: String,
    pub(super) permanent: bool,
}

#[derive(Debug, Clone)]
struct Flight {
    tells: Told,
    packed: Vector,
}

/// The session of this node toward its peer.
#[derive(Debug, Clone)]
pub struct Session {
    me: Origin,
    nonce: u64,
    jitter: Jitter,
    pub(super) visible: bool,
    /// When sight last changed, or the peer began a new session in sight.
    pub(super) begun: Duration,
    pub(super) peer_node: Option<NodeId>,
    pub(super) local: Held,
    /// Own operations handed out for packing; may run ahead of `local`, never behind the truth.
    packed_own: u64,
    pub(super) peer: Option<Peer>,
    pub(super) started: Option<Duration>,
    told: Option<Told>,
    /// Since when the peer could learn something from a status.
    owed: Duration,
    flights: BTreeMap<Ticket, Flight>,
    tickets: u64,
    hello: Backoff,
    hello_at: Duration,
    retry: Backoff,
    retry_at: Duration,
    pub(super) trouble: Option<Trouble>,
    pub(super) progress_out: Duration,
    pub(super) progress_in: Duration,
    certificate: Option<Certificate>,
    agreement: Agreement,
    events: VecDeque<Event>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agreement {
    Unknown,
    Behind,
    Same,
    Diverged,
}

impl Session {
    /// A session that has seen nothing: the peer is invisible, nothing is held. `nonce` is random;
    /// `seed` spreads the retries.
    pub fn new(me: Origin, nonce: u64, seed: u64) -> Self {
        Self {
            me,
            nonce,
            jitter: Jitter::new(seed),
            visible: false,
            begun: Duration::ZERO,
            peer_node: None,
            local: Held::default(),
            packed_own: 0,
            peer: None,
            started: None,
            told: None,
            owed: Duration::ZERO,
            flights: BTreeMap::new(),
            tickets: 0,
            hello: Backoff::default(),
            hello_at: Duration::ZERO,
            retry: Backoff::default(),
            retry_at: Duration::ZERO,
            trouble: None,
            progress_out: Duration::ZERO,
            progress_in: Duration::ZERO,
            certificate: None,
            agreement: Agreement::Unknown,
            events: VecDeque::new(),
        }
    }

    /// The durable local state is now this; `have` and `digest` read together. First of all after
    /// [`Self::new`], then after each commit; a shell that is late only delays the exchange.
    pub fn local(&mut self, have: Vector, digest: String, now: Now) {
        let next = Held { have, digest };
        if next == self.local {
            return;
        }
        if !self.owes_status() {
            self.owed = now.mono;
        }
        if self.pending_out() == 0 {
            self.progress_out = now.mono;
        }
        let missing = self.pending_in();
        self.local = next;
        if self.pending_in() < missing {
            self.progress_in = now.mono;
        }
        self.compare(now);
    }

    /// A mail of the peer was accepted (its operations are durable and applied). Also to be told
    /// when the mail carried nothing new.
    pub fn heard(&mut self, head: &Head, now: Now) {
        self.peer_node = Some(head.from.node.clone());
        self.progress_in = now.mono;
        if self.peer.as_ref().is_none_or(|p| p.nonce != head.session) {
            self.meet(head, now);
        }
        let (owed, answered) = (self.owes_status(), head.answers == Some(self.nonce));
        let Some(peer) = &mut self.peer else { return };
        peer.hear(head);
        peer.knows_us |= answered;
        if !answered {
            // It has not heard this session, or was misled by a late mail: tell it (again).
            self.told = None;
        }
        if peer.knows_us && self.started.is_none() {
            self.start(now);
        }
        if !owed {
            self.owed = now.mono;
        }
        self.check_memory(head);
        self.compare(now);
    }

    /// The mail of `ticket` was put together with operations up to `upto`.
    pub fn packed(&mut self, ticket: Ticket, upto: &Vector) {
        self.packed_own = self.packed_own.max(upto.get(&self.me));
        if let Some(flight) = self.flights.get_mut(&ticket) {
            flight.packed.merge(upto);
        }
    }

    /// The peer said 250: everything in that mail is durable there.
    pub fn sent(&mut self, ticket: Ticket, now: Now) {
        let Some(flight) = self.flights.remove(&ticket) else {
            return;
        };
        self.retry.reset();
        self.retry_at = Duration::ZERO;
        self.trouble = None;
        // A 250 from before either side began a new session proves nothing about this one.
        let Some(peer) = &mut self.peer else { return };
        if flight.tells.session != self.nonce || flight.tells.answers != Some(peer.nonce) {
            return;
        }
        peer.have.merge(&flight.packed);
        if !flight.packed.is_empty() {
            self.progress_out = now.mono;
        }
        self.told = Some(flight.tells);
        self.compare(now);
    }

    /// The mail of `ticket` was not taken, or nobody knows. `temporary` is an SMTP 4xx, a time-out
    /// or a broken connection; anything else is tried again too, for nothing is given up, but only
    /// every 30 s.
    pub fn failed(&mut self, ticket: Ticket, now: Now, temporary: bool, why: &str) {
        if self.flights.remove(&ticket).is_none() {
            return;
        }
        let pause = self.retry.next(&mut self.jitter);
        let pause = if temporary {
            pause
        } else {
            self.jitter.spread(LONGEST)
        };
        self.retry_at = now.mono.saturating_add(pause);
        let since = self.trouble.take().map_or(now.mono, |t| t.since);
        self.trouble = Some(Trouble {
            since,
            why: why.chars().take(300).collect(),
            permanent: !temporary,
        });
    }

    /// Sight of the peer changed. Losing it ends the session; the next has `new_nonce`.
    pub fn visible(&mut self, visible: bool, new_nonce: u64, now: Now) {
        if visible == self.visible {
            return;
        }
        self.visible = visible;
        self.begun = now.mono;
        self.hello.reset();
        self.retry.reset();
        self.retry_at = Duration::ZERO;
        self.trouble = None;
        if visible {
            self.hello_at = now.mono;
        } else {
            self.nonce = new_nonce;
            self.peer = None;
            self.forget();
        }
    }

    /// The store took a new incarnation.
    pub fn rename(&mut self, me: Origin) {
        self.me = me;
        self.packed_own = 0;
    }

    /// The next mail, if one is due. Each ticket must come back as sent or failed.
    pub fn poll(&mut self, now: Duration) -> Option<Plan> {
        let (at, kind) = self.due()?;
        if at > now {
            return None;
        }
        if kind == Kind::Hello {
            self.hello_at = now.saturating_add(self.hello.next(&mut self.jitter));
        }
        let tells = self.tells();
        self.tickets = self.tickets.wrapping_add(1);
        let ticket = Ticket(self.tickets);
        let flight = Flight {
            tells: tells.clone(),
            packed: Vector::default(),
        };
        self.flights.insert(ticket, flight);
        Some(Plan {
            ticket,
            kind,
            session: tells.session,
            answers: tells.answers,
            have: tells.held.have,
            digest: tells.held.digest,
        })
    }

    /// When [`Self::poll`] will give something by time alone (monotonic); may have passed already.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.due().map(|(at, _)| at)
    }

    /// The next event.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Own session nonce.
    pub fn nonce(&self) -> u64 {
        self.nonce
    }

    /// Since when both have exchanged what they hold (monotonic), [`crate::resilience::View::sync_started`].
    pub fn started(&self) -> Option<Duration> {
        self.started
    }

    /// Both hold the same now: equal vectors and equal digests.
    pub fn finished(&self) -> bool {
        self.agreement == Agreement::Same
    }

    /// Equal vectors, different digests: alarm.
    pub fn diverged(&self) -> bool {
        self.agreement == Agreement::Diverged
    }

    /// The last time both were equal.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }

    /// What is due next and when.
    fn due(&self) -> Option<(Duration, Kind)> {
        if !self.visible || self.flights.len() >= WINDOW {
            return None;
        }
        let (at, kind) = if self.started.is_some() {
            self.due_once_started()?
        } else {
            (self.hello_at, Kind::Hello)
        };
        Some((at.max(self.retry_at), kind))
    }

    fn due_once_started(&self) -> Option<(Duration, Kind)> {
        let ranges = self.ranges();
        if !ranges.is_empty() {
            return Some((Duration::ZERO, Kind::Operations { ranges }));
        }
        if !self.owes_status() {
            return None;
        }
        let at = if self.peer_knows_sessions() {
            self.owed.saturating_add(LINGER)
        } else {
            Duration::ZERO
        };
        Some((at, Kind::Status))
    }

    fn ranges(&self) -> Vec<(Origin, u64, u64)> {
        let Some(peer) = &self.peer else {
            return Vec::new();
        };
        let mut assumed = peer.have.clone();
        for flight in self.flights.values() {
            assumed.merge(&flight.packed);
        }
        let lacking = self.local.have.iter();
        lacking
            .map(|(origin, upto)| (origin.clone(), assumed.get(origin), upto))
            .filter(|(_, after, upto)| upto > after)
            .collect()
    }

    fn tells(&self) -> Told {
        Told {
            session: self.nonce,
            answers: self.peer.as_ref().map(|p| p.nonce),
            held: self.local.clone(),
        }
    }

    fn owes_status(&self) -> bool {
        let in_flight = self.flights.values().map(|f| &f.tells);
        let mut tells = self.told.iter().chain(in_flight);
        !tells.any(|t| self.present(t) && t.held == self.local)
    }

    fn peer_knows_sessions(&self) -> bool {
        self.told.as_ref().is_some_and(|t| self.present(t))
    }

    fn present(&self, told: &Told) -> bool {
        let theirs = self.peer.as_ref().map(|p| p.nonce);
        told.session == self.nonce && told.answers == theirs
    }

    /// A session of the peer not known yet: answer it at once.
    fn meet(&mut self, head: &Head, now: Now) {
        self.forget();
        self.hello.reset();
        self.hello_at = now.mono;
        if self.visible {
            self.begun = now.mono;
        }
        self.peer = Some(Peer::new(head));
    }

    fn start(&mut self, now: Now) {
        self.started = Some(now.mono);
        self.progress_out = now.mono;
        self.hello.reset();
        self.event(Event::Started);
    }

    /// What was exchanged with a session that is over counts no more (R-FB-1).
    fn forget(&mut self) {
        self.started = None;
        self.told = None;
        self.agreement = Agreement::Unknown;
    }

    /// Architecture decision 3: a sequence number must never be used twice.
    fn check_memory(&mut self, head: &Head) {
        let ours = self.local.have.get(&self.me).max(self.packed_own);
        let theirs = head.have.get(&self.me);
        let event = Event::PeerKnowsMore {
            origin: self.me.clone(),
            held: ours,
            theirs,
        };
        let told = self.local != Held::default();
        if told && theirs > ours && !self.events.contains(&event) {
            self.event(event);
        }
    }

    fn compare(&mut self, now: Now) {
        let agreement = match &self.peer {
            Some(peer) if self.started.is_some() => {
                if !self.local.same_operations(&peer.said) {
                    Agreement::Behind
                } else if self.local.digest == peer.said.digest {
                    Agreement::Same
                } else {
                    Agreement::Diverged
                }
            }
            _ => Agreement::Unknown,
        };
        if agreement == Agreement::Same {
            self.certificate = Some(Certificate {
                at: now.wall,
                vector: self.local.have.clone(),
                digest: self.local.digest.clone(),
            });
        }
        if std::mem::replace(&mut self.agreement, agreement) != agreement {
            match agreement {
                Agreement::Same => self.event(Event::Finished),
                Agreement::Diverged => self.event(Event::Diverged),
                Agreement::Unknown | Agreement::Behind => {}
            }
        }
    }

    fn event(&mut self, event: Event) {
        if self.events.len() >= EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    pub(super) fn failures(&self) -> u32 {
        self.retry.tries()
    }
}
