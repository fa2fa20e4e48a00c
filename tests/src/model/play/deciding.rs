//! What a node decides and keeps: rows, orders, ownership heard, requests, phones.

use std::time::Duration;

use vmsync_config::words::{Now, UnixMillis};
use vmsync_core::resilience::{
    Ask, Decision, Doing, Maintenance, Order, Ownership, PhoneEvidence, PhoneKind, Registration,
    Request, Rules, Sign, View, adopt,
};

use super::{Dark, Play, at, clock};
use crate::model::{
    Mutant, TICK, backup,
    state::{Kept, Open, Owned, Set, asked, number},
};

impl Play<'_> {
    pub(super) fn decide_all(&mut self, n: usize) -> Result<(), Dark> {
        for g in 0..self.setup.groups.len() {
            let decision = self.decision(n, g, None, at(self.now));
            self.tell_what_was_missing(n, g);
            if let Some(next) = decision.ownership {
                self.fired(n, g, decision.row, &next, None);
                self.own(n, g, &next, decision.row.is_some())?;
            }
        }
        Ok(())
    }

    pub(super) fn carry_out(&mut self, n: usize) -> Result<(), Dark> {
        let Some(open) = self.state.nodes[n].order.value.filter(|_| n == backup(0)) else {
            return Ok(());
        };
        let mine = self.ownership(n, 0, self.state.nodes[n].kept[0].owned);
        let order = self.order_of(open);
        match order.doing(&mine, self.clock(n)) {
            Doing::Wait(_) => return Ok(()),
            Doing::Drop(_) => {}
            Doing::Ask(ask) => {
                let decision = self.decision(n, 0, Some(&ask), at(self.now));
                match (decision.refused, decision.ownership) {
                    (Some(no), _) if order.outwaits(&no) => return Ok(()),
                    (None, Some(next)) => {
                        self.fired(n, 0, decision.row, &next, Some(ask.request));
                        self.own(n, 0, &next, decision.row.is_some())?;
                        if decision.row.is_some() {
                            self.tally.happened("an order carried out");
                            let done = &mut self.state.watched.done[usize::from(open.id)];
                            if std::mem::replace(done, true) {
                                self.breaks("an order carried out twice");
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
        let stamp = self.stamp(n);
        self.keep(n, |node| node.order = Set { stamp, value: None })
    }

    pub(super) fn own(
        &mut self,
        n: usize,
        g: usize,
        next: &Ownership,
        transition: bool,
    ) -> Result<(), Dark> {
        let owned = self.owned(g, next);
        let told = self.state.nodes[n].run.and_then(|r| r.told);
        let life = if transition {
            told.map_or(0, |t| t.life)
        } else {
            self.state.nodes[n].kept[g].held_life
        };
        if life != 0 && owned.held {
            self.keep(n, |node| node.kept[g].held_life = life)?;
        }
        self.keep(n, |node| {
            node.kept[g] = Kept {
                owned,
                held_life: if owned.held { life } else { 0 },
                ..node.kept[g]
            }
        })
    }

    pub(super) fn adopt(&mut self, n: usize, theirs: &[Owned; 2]) -> Result<(), Dark> {
        for (g, theirs) in theirs.iter().enumerate().take(self.setup.groups.len()) {
            let mine = self.ownership(n, g, self.state.nodes[n].kept[g].owned);
            let theirs = self.ownership(n, g, *theirs);
            let won = match self.setup.mutant {
                Some(Mutant::PrefersEqualEpochs) => {
                    (theirs.epoch >= mine.epoch && theirs != mine).then_some(theirs)
                }
                _ => adopt(&self.setup.groups[g], &mine, &theirs),
            };
            if let Some(next) = won {
                self.own(n, g, &next, false)?;
            }
        }
        Ok(())
    }

    pub(super) fn ask(&mut self, n: usize, g: usize, request: Request) {
        self.state.left.acts -= 1;
        if !self.started(n) {
            return;
        }
        let ask = Ask {
            expected_owner: Some(self.owner(g, self.state.nodes[n].kept[g].owned)),
            ..Ask::from(request)
        };
        let decision = self.decision(n, g, Some(&ask), at(self.now));
        let Some(refused) = decision.refused else {
            self.granted(n, g, request, &decision);
            self.turn(n);
            return;
        };
        if refused.code != "not_backup" {
            self.tally.refused(refused.code);
            return;
        }
        let (peer, told) = (1 - n, self.state.nodes[n].run.and_then(|r| r.told));
        if !self.sights[n].fresh(Sign::Answer, at(self.now)) {
            if request != Request::ActivateBackup && g == 0 {
                self.order(n, request, 0, true);
            }
        } else if self.started(peer) && told.is_some_and(|t| t.life == self.state.nodes[peer].life)
        {
            let decision = self.decision(peer, g, Some(&ask), at(self.now));
            match &decision.refused {
                Some(refused) => self.tally.refused(refused.code),
                None => self.granted(peer, g, request, &decision),
            }
            self.turn(peer);
        }
    }

    pub(super) fn granted(&mut self, n: usize, g: usize, request: Request, decision: &Decision) {
        if let Some(next) = &decision.ownership {
            self.fired(n, g, decision.row, next, Some(request));
            let _ = self.own(n, g, next, decision.row.is_some());
        }
    }

    pub(super) fn order(&mut self, n: usize, request: Request, at: i8, queued: bool) {
        if !queued {
            self.state.left.acts -= 1;
        }
        let owned = self.state.nodes[n].kept[0].owned;
        let there = owned.backup == (request == Request::ActivateBackup);
        if !self.started(n) || there || usize::from(self.state.watched.orders) >= 4 {
            return;
        }
        let (stamp, id) = (self.stamp(n), self.state.watched.orders);
        self.state.watched.orders += 1;
        let at = if n == 1 { at + self.setup.skew } else { at };
        let open = Open {
            id,
            what: number(request),
            at,
            queued,
            epoch: owned.epoch,
        };
        let _ = self.keep(n, |node| {
            node.order = Set {
                stamp,
                value: Some(open),
            }
        });
        self.tally.happened(if queued {
            "an order queued"
        } else {
            "an order scheduled"
        });
        self.turn(n);
    }

    pub(super) fn replicate(&mut self, n: usize) {
        let from = self.state.nodes[n];
        let to = 1 - n;
        if from.order.stamp > self.state.nodes[to].order.stamp {
            let _ = self.keep(to, |node| node.order = from.order);
        }
        if from.paused.stamp > self.state.nodes[to].paused.stamp {
            let _ = self.keep(to, |node| node.paused = from.paused);
        }
        self.turn(to);
    }

    /// Later than all that this node knows; equal to none of the peer's.
    pub(super) fn stamp(&self, n: usize) -> u8 {
        let node = &self.state.nodes[n];
        let last = node.order.stamp.max(node.paused.stamp);
        ((last >> 1) + 1) << 1 | u8::try_from(n).unwrap_or(0)
    }

    pub(super) fn phone(&mut self, g: usize, kind: PhoneKind) {
        let n = backup(g);
        let group = &self.setup.groups[g];
        let Ok(home_system) = group.home.as_str().parse() else {
            return;
        };
        let Ok(at_system) = group.backup.as_str().parse() else {
            return;
        };
        let sight = self.sights[n].sight();
        let long = |since: Duration| at(self.now) >= since + self.setup.rules.failover_after;
        if kind == PhoneKind::Desk && sight.is_err_and(long) {
            self.state.watched.desk[g] = true;
        }
        let counted = match self.setup.mutant {
            Some(Mutant::CountsSoftphones) => PhoneKind::Desk,
            _ => kind,
        };
        let phone = Registration {
            extension: "2001".to_owned(),
            kind: counted,
            home_system,
            at_system,
        };
        let mut evidence = self.evidence(n, g);
        evidence.registered(&phone, sight, self.setup.rules.failover_after, at(self.now));
        self.running(n, |run| run.evidence[g] = evidence.desk_phones() > 0);
        self.turn(n);
    }

    pub(super) fn evidence(&self, n: usize, g: usize) -> PhoneEvidence {
        let mut evidence = self.setup.evidence[g].clone();
        if self.state.nodes[n].run.is_some_and(|r| r.evidence[g]) {
            evidence.restore(self.setup.counted[g].clone());
        }
        evidence
    }

    pub(super) fn clock(&self, n: usize) -> Now {
        clock(self.setup, n, at(self.now))
    }

    pub(super) fn rules(&self, n: usize) -> Rules {
        let paused = self.state.nodes[n].paused.value;
        let maintenance = paused.map(|p| {
            let until = |left: i8| {
                let tick = i64::from(self.now) + i64::from(left);
                let tick = u32::try_from(tick).unwrap_or(0);
                UnixMillis(u64::try_from(at(tick).as_millis()).unwrap_or(0))
            };
            Maintenance {
                since: UnixMillis(0),
                until: p.left.map(until),
                reason: String::new(),
                by: self.setup.me(n),
            }
        });
        Rules {
            maintenance,
            ..self.setup.rules.clone()
        }
    }

    pub(super) fn view(&self, n: usize, g: usize, now: Duration) -> View {
        let me = self.setup.me(n);
        let Some(run) = self.state.nodes[n].run else {
            return View::new(me, now);
        };
        let ready = run.told.is_some_and(|t| t.ready);
        let sync = run.sync.map(|age| at(self.now - u32::from(age)));
        let mut view = View {
            me,
            peer: self.sights[n].sight(),
            desk_phones: u32::from(run.evidence[g]),
            sync_started: sync.filter(|_| ready),
            sync_finished: run.finished,
            pending_operations: 0,
            calls: u32::from(run.calls[g]),
            speaks: self.sights[n].speaks(now),
            witness: self.setup.witness.then_some(run.witness),
        };
        match self.setup.mutant {
            Some(Mutant::NoFailbackGate) => {
                view.sync_started = view.peer.ok();
                view.speaks = true;
            }
            Some(Mutant::TimerBeginsAnew) if view.sync_started.is_some() => {
                view.sync_started = Some(now);
            }
            _ => {}
        }
        view
    }

    pub(super) fn decision(
        &self,
        n: usize,
        g: usize,
        ask: Option<&Ask>,
        now: Duration,
    ) -> Decision {
        let kept = self.state.nodes[n].kept[g].owned;
        let mine = self.ownership(n, g, kept);
        let view = self.view(n, g, now);
        let mut rules = self.rules(n);
        if self.setup.mutant == Some(Mutant::DecidesInMaintenance) {
            rules.maintenance = None;
        }
        let machine = &self.setup.machines[g];
        let mut decision = machine.decide(&mine, &view, &rules, ask, clock(self.setup, n, now));
        let home = n != backup(g);
        if self.setup.mutant == Some(Mutant::HomeTakesBack)
            && home
            && kept.backup
            && view.peer.is_err()
        {
            let owner = self.setup.groups[g].home.clone();
            decision.ownership = Some(Ownership {
                epoch: mine.epoch + 1,
                owner,
                ..mine
            });
        }
        decision
    }

    pub(super) fn owner(&self, g: usize, owned: Owned) -> vmsync_config::words::NodeId {
        let group = &self.setup.groups[g];
        if owned.backup {
            group.backup.clone()
        } else {
            group.home.clone()
        }
    }

    pub(super) fn ownership(&self, n: usize, g: usize, owned: Owned) -> Ownership {
        let wall = self.clock(n).wall;
        Ownership {
            group: self.setup.groups[g].name.clone(),
            epoch: u64::from(owned.epoch),
            owner: self.owner(g, owned),
            since: wall,
            reason: String::new(),
            held: owned.held,
            row: owned.by_itself.then(|| "failover-visibility".to_owned()),
            failovers: vec![wall; usize::from(owned.flaps)],
            order: None,
        }
    }

    pub(super) fn owned(&self, g: usize, ownership: &Ownership) -> Owned {
        let row = ownership.row.as_deref();
        Owned {
            epoch: u8::try_from(ownership.epoch).unwrap_or(u8::MAX),
            backup: ownership.owner == self.setup.groups[g].backup,
            held: ownership.held,
            by_itself: matches!(row, Some("failover-visibility" | "failover-phones")),
            flaps: u8::try_from(ownership.failovers.len())
                .unwrap_or(u8::MAX)
                .min(5),
        }
    }

    pub(super) fn order_of(&self, open: Open) -> Order {
        let wall = |ticks: i8| {
            let tick = u32::try_from(i64::from(self.now) + i64::from(ticks)).unwrap_or(0);
            UnixMillis(u64::try_from(at(tick).as_millis()).unwrap_or(0))
        };
        let begin = wall(open.at);
        let late = if open.queued {
            TICK * 3
        } else {
            vmsync_core::resilience::LATE
        };
        Order {
            id: open.id.to_string(),
            group: self.setup.groups[0].name.clone(),
            what: asked(open.what),
            expected_owner: None,
            reason: None,
            at: begin,
            until: UnixMillis(begin.0 + u64::try_from(late.as_millis()).unwrap_or(0)),
            epoch: u64::from(open.epoch),
            made: begin,
            by: self.setup.me(0),
            follows: None,
        }
    }

    // ---- what must hold
}
