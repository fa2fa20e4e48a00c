//! The session machine: what is believed of both nodes, and the inputs that change it.

use std::{collections::VecDeque, time::Duration};

use vmsync_config::words::{NodeId, Now, Origin, Vector};

use super::{
    Blame, Certificate, Event, Kind, Load, Local, ProbeView, Ticket,
    backoff::{Backoff, Jitter, LONGEST},
    eta::Eta,
    flight::{Flight, Flights, Told},
    narrow::Narrow,
    peer::{Held, Peer},
    probe::Probes,
    repair::Repair,
};
use crate::wire::{Head, Left, Seeding};

/// Events kept for a shell that doesn't drain them; the oldest go first.
const EVENTS: usize = 64;

/// Our mails fail since then; why, as the last one did.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub(super) since: Duration,
    pub(super) why: String,
    pub(super) blame: Blame,
}

/// The session of this node toward its peer.
#[derive(Debug, Clone)]
pub struct Session {
    pub(super) me: Origin,
    pub(super) nonce: u64,
    pub(super) jitter: Jitter,
    pub(super) visible: bool,
    /// When sight last changed, or the peer began a new session in sight.
    pub(super) begun: Duration,
    pub(super) peer_node: Option<NodeId>,
    pub(super) local: Held,
    pub(super) floor: Vector,
    pub(super) seeding: Option<Seeding>,
    /// Own operations handed out for packing; may run ahead of `local`, never behind the truth.
    packed_own: u64,
    pub(super) peer: Option<Peer>,
    pub(super) started: Option<Duration>,
    /// What both held when the peer's present session was first heard of. By the time both have
    /// started, its operations may have come already.
    met: (Vector, Vector),
    pub(super) told: Option<Told>,
    /// Since when the peer could learn something from a status.
    pub(super) owed: Duration,
    /// When the peer was last asked for its word.
    pub(super) asked: Option<Duration>,
    /// Since when operations wait that are not on their way.
    pub(super) unsent_since: Duration,
    /// What is left for the peer, for heads.
    pub(super) left: Option<Left>,
    /// Bulk waits until then, in favour of calls.
    pub(super) rest_until: Duration,
    pub(super) flights: Flights,
    pub(super) hello: Backoff,
    pub(super) hello_at: Duration,
    retry: Backoff,
    pub(super) retry_at: Duration,
    /// Failures of mails planned before the last one counted are echoes of it.
    counted: Ticket,
    pub(super) narrow: Narrow,
    pub(super) repair: Repair,
    pub(super) repair_again: Duration,
    pub(super) probes: Probes,
    pub(super) trouble: Option<Trouble>,
    pub(super) progress_out: Duration,
    pub(super) progress_in: Duration,
    /// What is left in each direction, as it becomes less.
    pub(super) eta_out: Eta,
    pub(super) eta_in: Eta,
    /// Bytes of the steps of this seeding that the peer has taken.
    pub(super) seeded_bytes: u64,
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
            floor: Vector::default(),
            seeding: None,
            packed_own: 0,
            peer: None,
            started: None,
            met: (Vector::default(), Vector::default()),
            told: None,
            owed: Duration::ZERO,
            asked: None,
            unsent_since: Duration::ZERO,
            left: None,
            rest_until: Duration::ZERO,
            flights: Flights::default(),
            hello: Backoff::default(),
            hello_at: Duration::ZERO,
            retry: Backoff::default(),
            retry_at: Duration::ZERO,
            counted: Ticket(0),
            narrow: Narrow::default(),
            repair: Repair::default(),
            repair_again: Duration::ZERO,
            probes: Probes::default(),
            trouble: None,
            progress_out: Duration::ZERO,
            progress_in: Duration::ZERO,
            eta_out: Eta::default(),
            eta_in: Eta::default(),
            seeded_bytes: 0,
            certificate: None,
            agreement: Agreement::Unknown,
            events: VecDeque::new(),
        }
    }

    // ---- what the shell tells ----

    /// The durable local state is now this. First of all after [`Self::new`], then after each
    /// commit; a shell that is late only delays the exchange.
    pub fn local(&mut self, local: Local, now: Now) {
        self.floor = local.floor;
        self.seeding = local.seeding;
        let next = Held {
            have: local.have,
            digest: local.digest,
        };
        if next == self.local {
            return;
        }
        if !self.owes_status() {
            self.owed = now.mono;
        }
        if self.pending_out() == 0 {
            self.progress_out = now.mono;
        }
        if self.ranges().is_empty() {
            self.unsent_since = now.mono;
        }
        let missing = self.pending_in();
        self.local = next;
        if self.pending_in() < missing {
            self.progress_in = now.mono;
        }
        self.compare(now, false);
    }

    /// What is left for the peer beyond [`Self::peer_have`], as the store counts it.
    pub fn left(&mut self, left: Left) {
        self.left = Some(left);
    }

    /// Sends a probe at this interval; `None` = none.
    pub fn probe_every(&mut self, every: Option<Duration>) {
        self.probes.every(every);
    }

    /// Backlogs and seedings wait until then (monotonic): calls go first.
    pub fn rest(&mut self, until: Duration) {
        self.rest_until = until;
    }

    /// A mail of the peer was accepted (its operations are durable and applied). Also to be told
    /// when the mail carried nothing new.
    pub fn heard(&mut self, head: &Head, now: Now) {
        self.hear(head, now, true);
    }

    /// As [`Self::heard`], of a mail that began or ended a quarantine: its head was written before the
    /// peer did the same, so that the digest it told differs means nothing yet.
    pub fn heard_with_old_digest(&mut self, head: &Head, now: Now) {
        self.hear(head, now, false);
    }

    fn hear(&mut self, head: &Head, now: Now, comparable: bool) {
        self.peer_node = Some(head.from.node.clone());
        self.progress_in = now.mono;
        if self.peer.as_ref().is_none_or(|p| p.nonce != head.session) {
            self.meet(head, now);
        }
        let (owed, answered) = (self.owes_status(), head.answers == Some(self.nonce));
        self.probes.heard(head.probe, now.mono);
        self.probes.echoed(head.echo, now.mono);
        let stepping = self
            .flights
            .iter()
            .any(|f| matches!(f.kind, Kind::Seed { .. }));
        let Some(peer) = &mut self.peer else { return };
        peer.hear(head, &self.local, stepping);
        peer.knows_us |= answered;
        if !answered || head.asks {
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
        self.compare(now, comparable);
    }

    /// The peer told the sums of its buckets, and these differ from ours, read at the same vector.
    pub fn differs(&mut self, buckets: impl IntoIterator<Item = u8>) {
        if self.diverged() {
            self.repair.differs(buckets);
        }
    }

    /// The audio of entities in these buckets is missing or damaged here: the peer is told what is
    /// held of them, so that it sends its copies, whether or not the states differ.
    pub fn lacks(&mut self, buckets: impl IntoIterator<Item = u8>) {
        if self.started.is_some() {
            self.repair.differs(buckets);
        }
    }

    /// The peer's items show that it should get the records of these entities.
    pub fn want(&mut self, entities: impl IntoIterator<Item = String>) {
        self.repair.want(entities);
    }

    /// These entities are quarantined; the peer is to be sent their records again.
    pub fn release(&mut self, entities: Vec<String>) {
        self.repair.release(entities);
    }

    /// The mail of `ticket` was put together like this.
    pub fn packed(&mut self, ticket: Ticket, load: Load, now: Duration) {
        self.packed_own = self.packed_own.max(load.upto.get(&self.me));
        self.flights.packed(ticket, load);
        self.unsent_since = now;
    }

    /// The peer said 250: everything in that mail is durable there.
    pub fn sent(&mut self, ticket: Ticket, now: Now) {
        let Some(flight) = self.flights.end(ticket) else {
            return;
        };
        self.retry.reset();
        self.retry_at = Duration::ZERO;
        self.trouble = None;
        // A 250 from before either side began a new session proves nothing about this one.
        let present = self.peer.as_ref().is_some_and(|peer| {
            flight.tells.session == self.nonce && flight.tells.answers == Some(peer.nonce)
        });
        if present {
            self.took(flight, now);
            self.compare(now, false);
        }
    }

    fn took(&mut self, flight: Flight, now: Now) {
        if self.seeded(&flight, now.mono) {
            self.progress_out = now.mono;
        }
        let load = flight.load.unwrap_or_default();
        if let Kind::Seed { after, .. } = &flight.kind {
            self.narrow.taken(load.operations);
            let before = after.as_ref().map_or(0, |_| self.seeded_bytes);
            self.seeded_bytes = before.saturating_add(load.bytes);
        }
        match &flight.kind {
            Kind::Operations { .. } => {
                if let Some(peer) = &mut self.peer {
                    peer.have.merge(&load.upto);
                }
                self.narrow.taken(load.operations);
                self.progress_out = now.mono;
            }
            Kind::Items { buckets } => self.repair.told(buckets, load.operations),
            Kind::Records { entities, .. } => self.repair.taken(entities, load.operations),
            Kind::Hello | Kind::Status | Kind::Seed { .. } => {}
        }
        self.told = Some(flight.tells);
    }

    /// The mail of `ticket` was not taken, or nobody knows. Nothing is given up: it is tried again,
    /// after a pause that grows; what is refused for its content in ever smaller parts.
    pub fn failed(&mut self, ticket: Ticket, now: Now, blame: Blame, why: &str) {
        let Some(flight) = self.flights.end(ticket) else {
            return;
        };
        let why: String = why.chars().take(300).collect();
        if blame == Blame::Content {
            self.refused(&flight, &why);
        }
        // The mails behind one that failed fail with it: that is one failure.
        if ticket > self.counted {
            self.counted = self.flights.newest();
            let pause = match blame {
                Blame::Passing => self.retry.next(&mut self.jitter),
                Blame::Content if self.narrowing(&flight) => Backoff::first(&mut self.jitter),
                Blame::Content | Blame::Setup => {
                    self.retry.next(&mut self.jitter);
                    self.jitter.spread(LONGEST)
                }
            };
            self.retry_at = now.mono.saturating_add(pause);
        }
        let since = self.trouble.take().map_or(now.mono, |t| t.since);
        self.trouble = Some(Trouble { since, why, blame });
    }

    fn refused(&mut self, flight: &Flight, why: &str) {
        let operations = flight.load.as_ref().map_or(0, |l| l.operations);
        match &flight.kind {
            Kind::Operations { most, .. } | Kind::Seed { most, .. } => {
                // One that could not even be put together was as large as was asked for.
                let count = if operations == 0 { *most } else { operations };
                self.narrow.refused(count, why);
            }
            Kind::Records { entities, release } => self.repair.refused(entities, *release),
            Kind::Items { buckets } => self.repair.items_refused(buckets, operations),
            Kind::Hello | Kind::Status => {}
        }
    }

    /// Whether something else is tried next, so that a long pause is not due.
    fn narrowing(&self, flight: &Flight) -> bool {
        match &flight.kind {
            Kind::Operations { skip, .. } => skip.is_none() && self.peer_understands_skips(),
            Kind::Seed { skip, .. } => skip.is_none(),
            Kind::Records { .. } | Kind::Items { .. } => true,
            Kind::Hello | Kind::Status => false,
        }
    }

    fn peer_understands_skips(&self) -> bool {
        self.peer.as_ref().is_some_and(|p| p.minor >= 1)
    }

    /// The peer's receiver is there again after it could not be reached: what failed for that reason
    /// does not wait for the end of its pause. What was refused does.
    pub fn reachable(&mut self, now: Now) {
        let passing = |t: &Trouble| t.blame == Blame::Passing;
        if self.trouble.as_ref().is_some_and(passing) {
            self.retry.reset();
            self.retry_at = Duration::ZERO;
            self.hello.reset();
            self.hello_at = self.hello_at.min(now.mono);
        }
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

    // ---- what it tells ----

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

    /// The peer's last word is not what we hold.
    pub(super) fn behind(&self) -> bool {
        self.agreement == Agreement::Behind
    }

    /// The last time both were equal.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }

    /// What the peer is known to hold in this session; `None` = it has not been heard.
    pub fn peer_have(&self) -> Option<&Vector> {
        self.peer.as_ref().map(|p| &p.have)
    }

    /// What both held when the peer's present session was first heard of, until both have started.
    pub fn meeting(&self) -> Option<(&Vector, &Vector)> {
        let known = self.peer.is_some() && self.started.is_none();
        known.then_some((&self.met.0, &self.met.1))
    }

    /// The peer's present session, by its nonce; `None` = it has not been heard.
    pub fn peer_session(&self) -> Option<u64> {
        self.peer.as_ref().map(|p| p.nonce)
    }

    /// How the probes fare.
    pub fn probe(&self, now: Duration) -> ProbeView {
        self.probes.view(now)
    }

    // ---- within ----

    /// A session of the peer not known yet: answer it at once.
    fn meet(&mut self, head: &Head, now: Now) {
        self.forget();
        self.hello.reset();
        self.hello_at = now.mono;
        if self.visible {
            self.begun = now.mono;
        }
        self.met = (self.local.have.clone(), head.have.clone());
        self.peer = Some(Peer::new(head));
    }

    fn start(&mut self, now: Now) {
        self.started = Some(now.mono);
        self.progress_out = now.mono;
        self.hello.reset();
        let (ours, theirs) = std::mem::take(&mut self.met);
        self.event(Event::Started { ours, theirs });
    }

    /// What was exchanged with a session that is over counts no more (R-FB-1).
    fn forget(&mut self) {
        self.started = None;
        self.told = None;
        self.agreement = Agreement::Unknown;
        self.narrow = Narrow::default();
        self.repair.forget();
        self.repair_again = Duration::ZERO;
        self.eta_out = Eta::default();
        self.eta_in = Eta::default();
        self.seeded_bytes = 0;
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

    /// Divergence is found when the peer is heard, not by a change here: what it said last of its digest
    /// may be from before the skip or release that came with this very change. A 1.0 peer knows
    /// neither, and does not say it again.
    fn compare(&mut self, now: Now, heard: bool) {
        let agreement = match &self.peer {
            Some(peer) if self.started.is_some() => {
                if !self.local.same_operations(&peer.said) {
                    Agreement::Behind
                } else if self.local.digest == peer.said.digest {
                    Agreement::Same
                } else if heard || self.agreement == Agreement::Diverged || peer.minor == 0 {
                    Agreement::Diverged
                } else {
                    Agreement::Behind
                }
            }
            _ => Agreement::Unknown,
        };
        if agreement == Agreement::Same {
            self.repair.agreed();
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

    pub(super) fn event(&mut self, event: Event) {
        if self.events.len() >= EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    pub(super) fn failures(&self) -> u32 {
        self.retry.tries()
    }
}
