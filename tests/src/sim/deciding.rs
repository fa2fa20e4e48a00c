//! A node's turn, as the loop of the shell takes it (`vmsync/src/node`: `run`, `own`, `requests`,
//! `orders`): what is seen of the peer, what is decided, made durable, and only then acted on. What
//! decides and what is kept are the shell's own types; here is only the order of effects.

use std::{sync::atomic::Ordering, time::Duration};

use vmsync::{
    agreed::Agreed,
    node::{Seen, Witnessed, keep_evidence, persist, rules},
    pair::Report,
};
use vmsync_config::words::Now;
use vmsync_core::resilience::{Ask, Decision, Ownership, Registration, Rules, Verdict, View};
use vmsync_store::StoreError;

use super::{Sabotage, node::Live};

/// What a node did, for whoever watches it.
#[derive(Debug)]
pub enum Happening {
    /// It decided this; it is not durable yet.
    Decided(Box<Decided>),
    /// It has this now.
    Owns(Box<Ownership>),
    /// The peer came in sight, or went out of it.
    Sight(bool),
    /// An order was closed.
    Closed(bool),
    /// What was said of an order that was carried out is set right.
    Corrected,
}

/// A decision with what it rests on.
#[derive(Debug)]
pub struct Decided {
    /// What was known.
    pub view: View,
    /// What was owned before.
    pub before: Ownership,
    /// What follows.
    pub decision: Decision,
}

impl Live {
    /// Whether it decides and serves.
    pub fn started(&self, now: Now) -> bool {
        self.remembers && self.startup.done(now.mono)
    }

    /// The rules in force.
    pub fn rules(&self) -> Rules {
        let mut rules = rules(&self.config, &self.agreed);
        if self.broken(Sabotage::IgnoreMaintenance) {
            rules.maintenance = None;
        }
        rules
    }

    /// What is seen of the witness; `None` where none is configured.
    pub fn witness(&self, now: Now) -> Option<bool> {
        self.witness.as_ref().map(|w| w.seen(now))
    }

    pub(super) fn broken(&self, sabotage: Sabotage) -> bool {
        self.sabotage == Some(sabotage)
    }

    // ---- signs of life

    /// A heartbeat of the peer came. Whether it counts as a sign.
    pub fn asked(&mut self, report: Report, now: Now) -> Result<bool, StoreError> {
        self.adopt(&report.groups)?;
        let counts = self.peer.counts(&report, now);
        if counts && !self.broken(Sabotage::OneSignIsAll) {
            self.restarted(&report, now)?;
            if self.peer.asked(report, now) {
                self.in_sight(now);
            }
        }
        Ok(counts)
    }

    /// The peer's answer to a heartbeat came.
    pub fn answered(&mut self, report: Report, now: Now) -> Result<(), StoreError> {
        self.restarted(&report, now)?;
        self.to_adopt.clone_from(&report.groups);
        if self.peer.answered(report, now) {
            self.in_sight(now);
        }
        Ok(())
    }

    /// Its SMTP receiver greeted, or did not. True when the peer appears.
    pub fn greeted(&mut self, came: bool, now: Now) -> bool {
        if !came {
            self.peer.greeting = Some("no greeting".to_owned());
            return false;
        }
        let again = self.peer.greeting.is_some();
        let appears = !self.broken(Sabotage::OneSignIsAll) && self.peer.greeted(now);
        if appears {
            self.in_sight(now);
        }
        if again {
            self.session.reachable(now);
        }
        appears
    }

    /// The witness answered, or did not.
    pub fn witnessed(&mut self, came: bool, at: Now) {
        let came = came || self.broken(Sabotage::TakeWitnessForGranted);
        let result = came.then_some(()).ok_or_else(|| "no answer".to_owned());
        if let Some(witness) = &mut self.witness {
            witness.heard(Witnessed { at, result });
        }
    }

    fn in_sight(&mut self, now: Now) {
        self.happened.push(Happening::Sight(true));
        let nonce = self.rng.number();
        self.session.visible(true, nonce, now);
        self.group.evidence.sight(self.peer.sight());
    }

    /// Mails under way are given up with the peer.
    fn out_of_sight(&mut self, now: Now) {
        self.happened.push(Happening::Sight(false));
        self.exchanged = None;
        let nonce = self.rng.number();
        self.session.visible(false, nonce, now);
        self.group.evidence.sight(self.peer.sight());
        self.disconnect(now, "the peer went out of sight");
    }

    /// Another life of the peer means that it went away and came back, however quickly.
    fn restarted(&mut self, report: &Report, now: Now) -> Result<(), StoreError> {
        let outlived = self.started(now) && self.group.outlived(report);
        if self.peer.restarted(report) || outlived {
            self.peer.lost(now);
            self.out_of_sight(now);
            if self.started(now) {
                self.decide(now)?;
            }
        }
        Ok(())
    }

    /// A phone registered at the backup's system, as its PBX reports.
    pub fn registered(&mut self, phone: &Registration, now: Now) -> Result<Verdict, StoreError> {
        let after = self.config.resilience.failover_after;
        let sight = self.peer.sight();
        let evidence = &mut self.group.evidence;
        let verdict = evidence.registered(phone, sight, after, now.mono);
        self.keep_evidence()?;
        Ok(verdict)
    }

    fn keep_evidence(&mut self) -> Result<(), StoreError> {
        if let Some(counted) = self.group.evidence_to_keep() {
            if !self.broken(Sabotage::ForgetEvidence) {
                keep_evidence(&self.store, self.group.name(), &counted)?;
            }
            self.group.evidence_kept = counted;
        }
        Ok(())
    }

    // ---- the turn

    /// Decides, makes it durable. True: the peer should hear of it at once.
    pub fn turn(&mut self, now: Now) -> Result<bool, StoreError> {
        self.read_settings(now)?;
        self.adopt_told(now)?;
        self.decided_at = now.mono;
        if self.peer.vanished(now) {
            self.out_of_sight(now);
        }
        self.exchanged = self.exchanged.or(self.session.started());
        self.calls.expire(now, self.config.limits.call_idle);
        if self.startup.done(now.mono) && self.remember(now)? {
            self.decide(now)?;
            self.carry_out(now)?;
        }
        self.keep_evidence()?;
        let ready = self.started(now);
        let news = std::mem::replace(&mut self.was_ready, ready) != ready;
        Ok(std::mem::take(&mut self.poked) || news)
    }

    pub(super) fn read_settings(&mut self, now: Now) -> Result<(), StoreError> {
        if self.settings_changed.swap(false, Ordering::Relaxed) {
            self.tell(now);
            let settings = self.store.settings()?;
            self.agreed = Agreed::read(&self.config.failback, &settings);
        }
        Ok(())
    }

    fn adopt_told(&mut self, now: Now) -> Result<(), StoreError> {
        let theirs = std::mem::take(&mut self.to_adopt);
        if !theirs.is_empty() {
            self.adopt(&theirs)?;
            if self.remember(now)? {
                self.startup.heard();
            }
        }
        Ok(())
    }

    fn adopt(&mut self, theirs: &[Ownership]) -> Result<(), StoreError> {
        match self.group.adopted(theirs) {
            Some(next) => self.own(next, false),
            None => Ok(()),
        }
    }

    /// Takes on an ownership once it is durable.
    pub(super) fn own(&mut self, next: Ownership, transition: bool) -> Result<(), StoreError> {
        let life = if transition {
            self.peer.report.as_ref().map(|r| r.boot)
        } else {
            self.group.held_life
        };
        persist(&self.store, &next, life)?;
        self.happened.push(Happening::Owns(Box::new(next.clone())));
        self.group.ownership = next;
        self.group.held_life = life;
        self.poked = true;
        Ok(())
    }

    fn seen(&self, now: Now) -> Seen {
        let ready = self.peer.report.as_ref().is_some_and(|r| r.ready);
        let started = self.session.started().filter(|_| ready);
        let hurried = || self.peer.sight().ok();
        Seen {
            me: self.config.node.id.clone(),
            peer: self.peer.sight(),
            speaks: self.peer.speaks(now),
            witness: self.witness(now),
            sync_started: match started {
                Some(now) => Some(self.exchanged.unwrap_or(now)),
                None if self.broken(Sabotage::HurryHome) => hurried(),
                None => None,
            },
            sync_finished: self.session.finished(),
            pending_operations: self.session.pending_out() + self.session.pending_in(),
        }
    }

    fn calls_on_owner(&self) -> u32 {
        let name = self.group.name();
        if self.group.ownership.owner == self.config.node.id {
            return self.calls.active_in(name);
        }
        let report = self.peer.report.as_ref();
        let told = report.and_then(|r| r.calls.iter().find(|(g, _)| g == name));
        told.map_or(0, |(_, calls)| *calls)
    }

    pub(super) fn ask_machine(&mut self, ask: Option<&Ask>, now: Now) -> Decision {
        let (seen, calls) = (self.seen(now), self.calls_on_owner());
        let rules = self.rules();
        let decision = self.group.decide(&seen, calls, &rules, ask, now);
        if decision.ownership.is_some() {
            let view = View {
                me: seen.me,
                peer: seen.peer,
                desk_phones: self.group.evidence.desk_phones(),
                sync_started: seen.sync_started,
                sync_finished: seen.sync_finished,
                pending_operations: seen.pending_operations,
                calls,
                speaks: seen.speaks,
                witness: seen.witness,
            };
            let decided = Decided {
                view,
                before: self.group.ownership.clone(),
                decision: decision.clone(),
            };
            self.happened.push(Happening::Decided(Box::new(decided)));
        }
        decision
    }

    pub(super) fn decide(&mut self, now: Now) -> Result<(), StoreError> {
        let decision = self.ask_machine(None, now);
        if let Some(next) = decision.ownership.clone() {
            self.own(next, decision.row.is_some())?;
        }
        self.group.decision = decision;
        Ok(())
    }
}

/// A span of the rules, never longer than the cap of R-FB-5.
pub fn capped(span: Duration) -> Duration {
    span.min(vmsync_core::resilience::TIMEOUT_CAP)
}
