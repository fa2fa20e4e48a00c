//! Which mail is due, and when.
//!
//! Order of precedence once started: a seeding the peer needs, operations, repair, a status. One
//! that carries more makes one that carries less unneeded: every head is a status.

use std::time::Duration;

use vmsync_config::words::Origin;

use super::{BATCH, Kind, Plan, Session, WINDOW, backoff::LONGEST, flight::Told, repair::AGAIN};

/// A status waits this long for more to report.
const LINGER: Duration = Duration::from_millis(20);
/// A peer that holds what we hold, by our 250s, has this long to say so itself; then it is asked.
const WORD: Duration = Duration::from_secs(10);
/// With mails under way already, operations wait this long for company; a full batch does not.
const GATHER: Duration = Duration::from_millis(3);

impl Session {
    /// The next mail, if one is due. Each ticket must come back as sent or failed.
    pub fn poll(&mut self, now: Duration) -> Option<Plan> {
        self.read_progress(now);
        let (at, kind) = self.due()?;
        if at > now {
            return None;
        }
        self.begin(&kind, now);
        let probe = self.started.and_then(|_| self.probes.attach(now));
        let buckets = kind == Kind::Status && self.buckets_due().is_some_and(|at| at <= now);
        if buckets {
            self.repair_again = now.saturating_add(AGAIN);
        }
        let (tells, left) = (self.tells(), self.left_now());
        let again = kind == Kind::Status && self.word_due().is_some_and(|at| at <= now);
        if again {
            self.asked = Some(now);
        }
        // Who says hello has not been told, whatever the peer believes; and who sees a difference may be
        // alone in that, by a late word, and then the peer has no reason to say anything.
        let asks = again || buckets || (kind == Kind::Hello && tells.answers.is_some());
        let plan = |ticket| Plan {
            ticket,
            kind: kind.clone(),
            session: tells.session,
            answers: tells.answers,
            have: tells.held.have.clone(),
            digest: tells.held.digest.clone(),
            seeding: self.seeding.clone(),
            buckets,
            left,
            probe,
            echo: tells.echo,
            asks,
            minor: self.peer.as_ref().map_or(0, |p| p.minor),
        };
        let ticket = self.flights.begin(tells.clone(), kind.clone());
        Some(plan(ticket))
    }

    fn begin(&mut self, kind: &Kind, now: Duration) {
        match kind {
            Kind::Hello => {
                self.hello_at = now.saturating_add(self.hello.next(&mut self.jitter));
            }
            Kind::Seed { upto, after, .. } => {
                if let Some(peer) = &mut self.peer {
                    peer.seeded = None;
                }
                if after.is_none() {
                    let event = super::Event::Seeding { upto: upto.clone() };
                    self.event(event);
                }
            }
            Kind::Operations {
                ranges,
                skip: Some(why),
                ..
            } => {
                if let Some((origin, after, _)) = ranges.first() {
                    let event = super::Event::Skipping {
                        origin: origin.clone(),
                        seq: after.saturating_add(1),
                        why: why.clone(),
                    };
                    self.event(event);
                }
            }
            _ => {}
        }
    }

    /// When [`Self::poll`] will give something by time alone (monotonic); may have passed already.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.due().map(|(at, _)| at)
    }

    /// What is due next and when.
    fn due(&self) -> Option<(Duration, Kind)> {
        if !self.visible || self.flights.packing() {
            return None;
        }
        if self.started.is_none() {
            let at = self.hello_at.max(self.retry_at);
            return self.flights.is_empty().then_some((at, Kind::Hello));
        }
        let window = if self.narrow.on() { 1 } else { WINDOW };
        if self.flights.len() >= window {
            return None;
        }
        let (at, kind) = self.due_once_started()?;
        Some((at.max(self.retry_at), kind))
    }

    fn due_once_started(&self) -> Option<(Duration, Kind)> {
        let status = self.status_due();
        let owed = status.as_ref().filter(|_| self.owes_status());
        let seed = self.seed_due();
        // A status that is owed goes before state: it costs little and can't be refused, and that the
        // peer learns what is held here, first of all that both have met (R-FB-1), must not wait for
        // a step or a repair that fails again and again. A seeding under way tells it with each step.
        let owed_at = owed.map_or(Duration::ZERO, |(at, _)| *at);
        if let Some((Duration::ZERO, seed)) = seed {
            let met = self.peer_knows_sessions() || owed.is_none();
            return Some(if met {
                (self.rest_until, seed)
            } else {
                (owed_at, Kind::Status)
            });
        }
        let seed = seed.map(|(at, kind)| (at.max(self.rest_until), kind));
        let repair = self.repair_due();
        let repair = repair.map(|kind| (self.rest_until.max(owed_at), kind));
        let operations = self.operations_due();
        // Whatever is due first; of what is due at once, operations.
        let due = [operations, status, repair, seed];
        due.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    fn operations_due(&self) -> Option<(Duration, Kind)> {
        let ranges = self.ranges();
        if ranges.is_empty() {
            return None;
        }
        let count = ranges.iter().fold(0_u64, |sum, (_, after, upto)| {
            sum.saturating_add(upto - after)
        });
        let at = if self.flights.is_empty() || count >= BATCH {
            Duration::ZERO
        } else {
            self.unsent_since.saturating_add(GATHER)
        };
        // A rest is for backlogs; what just happened goes on its way.
        let at = if count >= 16 {
            at.max(self.rest_until)
        } else {
            at
        };
        let kind = Kind::Operations {
            ranges,
            most: self.narrow.most(),
            skip: self.narrow.skip().filter(|_| self.peer_reads(1)),
        };
        Some((at, kind))
    }

    /// `(origin, after, upto)` of what the peer lacks and is not on its way, from the log.
    pub(super) fn ranges(&self) -> Vec<(Origin, u64, u64)> {
        let Some(peer) = &self.peer else {
            return Vec::new();
        };
        let assumed = self.flights.assumed(&peer.have);
        let lacking = self.local.have.iter();
        lacking
            .map(|(origin, upto)| (origin.clone(), assumed.get(origin), upto))
            .filter(|(origin, after, upto)| upto > after && *after >= self.floor.get(origin))
            .collect()
    }

    fn repair_due(&self) -> Option<Kind> {
        let idle = !self
            .flights
            .iter()
            .any(|f| matches!(f.kind, Kind::Items { .. } | Kind::Records { .. }));
        if !idle || !self.peer_reads(1) {
            return None;
        }
        let buckets = self.repair.buckets();
        if !buckets.is_empty() {
            return Some(Kind::Items { buckets });
        }
        let (entities, release) = self.repair.records()?;
        Some(Kind::Records { entities, release })
    }

    fn status_due(&self) -> Option<(Duration, Kind)> {
        let owed = self.owes_status().then(|| {
            if self.peer_knows_sessions() {
                self.owed.saturating_add(LINGER)
            } else {
                Duration::ZERO
            }
        });
        let due = [owed, self.word_due(), self.buckets_due(), self.probes.due()];
        let at = due.into_iter().flatten().min()?;
        Some((at, Kind::Status))
    }

    /// When the peer is to be told the sums of our buckets: the states differ and nothing is being
    /// done about it.
    fn buckets_due(&self) -> Option<Duration> {
        let wanted = self.diverged() && self.repair.is_empty() && self.peer_reads(1);
        wanted.then_some(self.repair_again)
    }

    /// When the peer is to be asked for its word: nothing is left to send either way, yet its last
    /// word is older. That word came late, after one of a session long gone had made us forget
    /// the newer; the peer can't know.
    fn word_due(&self) -> Option<Duration> {
        let left = self.pending_out() > 0 || self.pending_in() > 0 || !self.flights.is_empty();
        let at = self.progress_out.max(self.progress_in).saturating_add(WORD);
        let again = self.asked.map_or(at, |asked| asked.saturating_add(LONGEST));
        (self.behind() && !left).then(|| at.max(again))
    }

    fn peer_reads(&self, minor: u32) -> bool {
        self.peer.as_ref().is_some_and(|p| p.minor >= minor)
    }

    fn tells(&self) -> Told {
        Told {
            session: self.nonce,
            answers: self.peer.as_ref().map(|p| p.nonce),
            held: self.local.clone(),
            echo: self.probes.echo(),
        }
    }

    pub(super) fn owes_status(&self) -> bool {
        let in_flight = self.flights.iter().map(|f| &f.tells);
        let mut tells = self.told.iter().chain(in_flight);
        let echo = self.probes.echo();
        !tells.any(|t| self.present(t) && t.held == self.local && t.echo == echo)
    }

    fn peer_knows_sessions(&self) -> bool {
        self.told.as_ref().is_some_and(|t| self.present(t))
    }

    fn present(&self, told: &Told) -> bool {
        let theirs = self.peer.as_ref().map(|p| p.nonce);
        told.session == self.nonce && told.answers == theirs
    }
}
