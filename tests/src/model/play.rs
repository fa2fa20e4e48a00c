//! What one step does: the turn of a node as the shell takes it (`vmsync/src/node`: `run`, `own`,
//! `requests`, `orders`), deciding with the functions of `vmsync_core::resilience` themselves.

use std::time::Duration;

use vmsync_config::{
    FailbackPolicy,
    words::{Now, UnixMillis},
};
use vmsync_core::resilience::{
    Ask, Condition, Decision, Doing, Maintenance, Order, Ownership, PhoneEvidence, PhoneKind,
    Place, Registration, Request, Rules, Serving, Sight, Sign, Startup, View, Visibility, adopt,
    rows::{Cause, FAILBACK_GATE, FAILOVER_GATE, ROWS, Target, UNATTENDED_GATE},
    serves,
};

use super::{
    Mutant, Setup, TICK, Tally, backup,
    state::{
        Act, Beat, Kept, Late, OLD, Open, Owned, Paused, Run, Set, State, Step, Told, asked,
        number, older,
    },
};

/// The tick of now; every age fits before it.
const NOW: u32 = 1_000;
/// Ticks a starting node waits for its peer.
const GRACE: u32 = 1;
/// Ticks after which nothing that holds a failback up may still do so: 60 minutes (R-FB-5).
const CAP: u8 = 3;

/// The power of the node failed.
struct Dark;

/// One step being made.
pub(super) struct Play<'a> {
    setup: &'a Setup,
    pub(super) state: State,
    now: u32,
    sights: [Visibility; 2],
    power: Option<(usize, u8)>,
    /// Durable writes of each node in this step.
    pub(super) writes: [u8; 2],
    tally: &'a mut Tally,
    /// The first promise that was broken.
    pub(super) wrong: Option<String>,
}

impl<'a> Play<'a> {
    pub(super) fn new(setup: &'a Setup, state: State, tally: &'a mut Tally) -> Self {
        Self {
            setup,
            state,
            now: NOW,
            sights: [0, 1].map(|n| sight(&state, n)),
            power: None,
            writes: [0; 2],
            tally,
            wrong: None,
        }
    }

    /// Makes the step and gives the state after it.
    pub(super) fn make(mut self, step: Step) -> (State, [u8; 2], Option<String>) {
        self.power = step.power;
        let before = self.state;
        self.act(step.act);
        self.fold();
        self.compare(&before);
        self.forget_what_decides_nothing();
        (self.state, self.writes, self.wrong)
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Tick(beats, greetings) => self.tick(beats, greetings),
            Act::Beat(n, beat) => self.beat(n, beat),
            Act::Delay(n, answer) => self.delay(n, answer),
            Act::Arrives => self.arrives(),
            Act::Crash(n) => self.crash(n),
            Act::Start(n) => self.start(n),
            Act::SyncStarts(n) => {
                self.running(n, |run| run.sync = Some(0));
                self.turn(n);
            }
            Act::SyncFinished(n, finished) => {
                self.running(n, |run| run.finished = finished);
                self.turn(n);
            }
            Act::Call(n, g, begins) => {
                self.running(n, |run| run.calls[g] = begins);
                self.turn(n);
            }
            Act::Phone(g, kind) => self.phone(g, kind),
            Act::Witness(n, seen) => {
                self.running(n, |run| run.witness = seen);
                self.turn(n);
            }
            Act::Ask(n, g, request) => self.ask(n, g, request),
            Act::Order(n, request) => self.order(n, request, 1, false),
            Act::Cancel(n) => {
                let stamp = self.stamp(n);
                let _ = self.keep(n, |node| node.order = Set { stamp, value: None });
            }
            Act::Maintain(n, value) => {
                let stamp = self.stamp(n);
                let _ = self.keep(n, |node| node.paused = Set { stamp, value });
                self.turn(n);
            }
            Act::Replicate(n) => self.replicate(n),
        }
    }

    // ---- time and heartbeats

    fn tick(&mut self, beats: [Beat; 2], greetings: [bool; 2]) {
        let due = [0, 1].map(|g| self.only_time_stands(g));
        self.now += 1;
        self.age();
        let mut quiet = [true; 2];
        for n in 0..2 {
            if greetings[n] && self.state.nodes[1 - n].run.is_some() {
                self.came(n, Sign::Greeting);
                quiet[n] = false;
            }
        }
        for n in [1, 0] {
            if beats[n] != Beat::Lost {
                quiet = [false; 2];
                self.hears(n, beats[n]);
            }
        }
        for (n, quiet) in quiet.into_iter().enumerate() {
            let (before, saw) = (self.state.nodes[n], self.sights[n].sight());
            let woken = quiet.then(|| self.would_wake(n)).flatten();
            self.turn(n);
            let moved =
                |g: usize| self.state.nodes[n].kept[g].owned.epoch > before.kept[g].owned.epoch;
            let by_order = before.order.value.is_some();
            if quiet
                && saw == self.sights[n].sight()
                && !by_order
                && (moved(0) || moved(1))
                && !woken.unwrap_or(false)
            {
                self.breaks("a transition by time alone, for which no deadline was told");
            }
        }
        for (g, due) in due.into_iter().enumerate().take(self.setup.groups.len()) {
            self.fold();
            let still = due && self.only_time_stands(g);
            let age = &mut self.state.watched.due[g];
            *age = if still { older(*age) } else { 0 };
            if *age >= CAP {
                self.breaks("an automatic failback later than 60 minutes (R-FB-5)");
            }
        }
    }

    /// Whether the deadline told before this tick wakes the node now.
    fn would_wake(&mut self, n: usize) -> Option<bool> {
        self.state.nodes[n].run?;
        let mut woken = false;
        for g in 0..self.setup.groups.len() {
            if !self.started(n) {
                return Some(true); // the start's own deadline
            }
            // As the decision a moment before this tick told it.
            let now = at(self.now).saturating_sub(Duration::from_millis(1));
            let decision = self.decision(n, g, None, now);
            woken |= decision.deadline.is_some_and(|due| due <= at(self.now));
        }
        Some(woken)
    }

    fn age(&mut self) {
        for node in &mut self.state.nodes {
            if let Some(order) = &mut node.order.value {
                order.at = order.at.saturating_sub(1).max(-4);
            }
            if let Some(Paused { left: Some(left) }) = &mut node.paused.value {
                *left = left.saturating_sub(1).max(-4);
            }
            if let Some(run) = &mut node.run {
                run.age = older(run.age);
                run.sync = run.sync.map(older);
                if let Some(told) = &mut run.told {
                    told.fresh = false;
                }
            }
        }
        // Nobody waits longer for an answer; a question may lie in a buffer.
        self.state.late = self.state.late.filter(|late| late.answer_to.is_none());
        if let Some(late) = &mut self.state.late {
            late.echo = false;
        }
    }

    fn beat(&mut self, n: usize, beat: Beat) {
        self.hears(n, beat);
        self.turn(n);
    }

    /// A heartbeat of `n`, as far as it gets. The peer takes its turn before it answers.
    fn hears(&mut self, n: usize, beat: Beat) {
        let Some(question) = self.question(n) else {
            return;
        };
        self.asked(question);
        if beat == Beat::Both
            && let Some(answer) = self.answer(1 - n, question.owned)
        {
            self.answered(answer);
        }
    }

    fn question(&mut self, n: usize) -> Option<Late> {
        let run = self.state.nodes[n].run?;
        let told = run.told;
        let peer = self.state.nodes[1 - n].life;
        Some(Late {
            to: u8::try_from(1 - n).ok()?,
            answer_to: None,
            owned: self.state.nodes[n].kept.map(|k| k.owned),
            life: self.state.nodes[n].life,
            ready: self.started(n),
            echo: told.is_some_and(|t| t.fresh && t.life == peer),
            asked: Default::default(),
        })
    }

    fn answer(&mut self, n: usize, asked: [Owned; 2]) -> Option<Late> {
        let question = self.question(n)?;
        let answer_to = Some(self.state.nodes[1 - n].life);
        Some(Late {
            answer_to,
            asked,
            ..question
        })
    }

    fn delay(&mut self, n: usize, answer: bool) {
        self.state.left.delays -= 1;
        let question = self.question(n);
        if answer {
            let Some(question) = question else { return };
            self.asked(question);
            self.state.late = self.answer(1 - n, question.owned);
        } else {
            self.state.late = question;
        }
    }

    fn arrives(&mut self) {
        let Some(late) = self.state.late.take() else {
            return;
        };
        let to = usize::from(late.to);
        match late.answer_to {
            None => self.asked(late),
            Some(life) if life == self.state.nodes[to].life => self.answered(late),
            Some(_) => {}
        }
        self.turn(to);
    }

    /// `Command::Heartbeat`.
    fn asked(&mut self, late: Late) {
        let n = usize::from(late.to);
        if self.state.nodes[n].run.is_none() {
            return;
        }
        if self.adopt(n, &late.owned).is_err() {
            return;
        }
        if late.echo {
            self.came(n, Sign::Question);
        }
        self.turn(n);
    }

    /// `Node::beat`, and what follows at the start of the next turn.
    fn answered(&mut self, late: Late) {
        let n = usize::from(late.to);
        let Some(run) = self.state.nodes[n].run else {
            return;
        };
        let known = self.sights[n].sight().is_ok() && run.told.is_some_and(|t| t.life != late.life);
        let outlived = |g: usize| {
            let kept = self.state.nodes[n].kept[g];
            n == backup(g) && kept.owned.held && kept.held_life != late.life
        };
        let outlived = self.started(n) && (0..self.setup.groups.len()).any(outlived);
        if known || outlived {
            self.sights[n].gone(at(self.now));
            self.out_of_sight(n);
            if self.started(n) && self.decide_all(n).is_err() {
                return;
            }
        }
        let told = Told {
            life: late.life,
            ready: late.ready,
            fresh: true,
        };
        self.running(n, |run| run.told = Some(told));
        self.came(n, Sign::Answer);
        if self.adopt(n, &late.owned).is_err() {
            return;
        }
        self.running(n, |run| run.heard = true);
        self.met(n, &late);
        self.turn(n);
    }

    fn came(&mut self, n: usize, sign: Sign) {
        if self.state.nodes[n].run.is_some() && self.sights[n].came(sign, at(self.now)) {
            self.running(n, |run| (run.sync, run.finished) = (None, false));
            self.sight_changed(n);
        }
    }

    fn out_of_sight(&mut self, n: usize) {
        self.running(n, |run| (run.sync, run.finished) = (None, false));
        self.sight_changed(n);
    }

    fn sight_changed(&mut self, n: usize) {
        for g in 0..self.setup.groups.len() {
            let mut evidence = self.evidence(n, g);
            evidence.sight(self.sights[n].sight());
            self.running(n, |run| run.evidence[g] = evidence.desk_phones() > 0);
            if n == backup(g) && self.sights[n].sight().is_ok() {
                self.state.watched.desk[g] = false;
            }
        }
    }

    // ---- the life of a process

    fn crash(&mut self, n: usize) {
        self.state.left.crashes = self.state.left.crashes.saturating_sub(1);
        self.down(n);
    }

    fn down(&mut self, n: usize) {
        self.state.nodes[n].run = None;
        // Connections end with it; what lies in a buffer of the other side stays.
        self.state.late = self.state.late.filter(|l| l.answer_to.is_none());
    }

    fn start(&mut self, n: usize) {
        let node = &mut self.state.nodes[n];
        node.life += 1;
        node.run = Some(Run {
            age: 0,
            heard: false,
            sight: Err(0),
            signs: [false; 3],
            told: None,
            sync: None,
            finished: false,
            calls: [false; 2],
            evidence: node.kept.map(|k| k.evidence),
            witness: true,
        });
        self.sights[n] = Visibility::new(TICK, true, at(self.now));
        if let Some(late) = self.state.late.as_mut().filter(|l| usize::from(l.to) == n) {
            late.echo = false;
        }
        self.turn(n);
    }

    fn running(&mut self, n: usize, change: impl FnOnce(&mut Run)) {
        if let Some(run) = &mut self.state.nodes[n].run {
            change(run);
        }
    }

    fn started(&self, n: usize) -> bool {
        let Some(run) = self.state.nodes[n].run else {
            return false;
        };
        let mut startup = Startup::new(at(self.now - u32::from(run.age)), TICK * GRACE);
        if run.heard {
            startup.heard();
        }
        startup.done(at(self.now))
    }

    /// One durable write of a node.
    fn keep(&mut self, n: usize, write: impl FnOnce(&mut super::state::Node)) -> Result<(), Dark> {
        if self.power == Some((n, self.writes[n])) {
            self.state.left.crashes = self.state.left.crashes.saturating_sub(1);
            self.down(n);
            return Err(Dark);
        }
        self.writes[n] += 1;
        write(&mut self.state.nodes[n]);
        Ok(())
    }

    // ---- the turn

    fn turn(&mut self, n: usize) {
        let _ = self.try_turn(n);
    }

    fn try_turn(&mut self, n: usize) -> Result<(), Dark> {
        if self.state.nodes[n].run.is_none() {
            return Ok(());
        }
        if self.sights[n].vanished(at(self.now)) {
            self.out_of_sight(n);
        }
        if self.started(n) {
            self.decide_all(n)?;
            self.carry_out(n)?;
        }
        for g in 0..self.setup.groups.len() {
            let Some(run) = self.state.nodes[n].run else {
                return Ok(());
            };
            if run.evidence[g] != self.state.nodes[n].kept[g].evidence {
                self.keep(n, |node| node.kept[g].evidence = run.evidence[g])?;
            }
        }
        Ok(())
    }

    fn decide_all(&mut self, n: usize) -> Result<(), Dark> {
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

    fn carry_out(&mut self, n: usize) -> Result<(), Dark> {
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

    fn own(&mut self, n: usize, g: usize, next: &Ownership, transition: bool) -> Result<(), Dark> {
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

    fn adopt(&mut self, n: usize, theirs: &[Owned; 2]) -> Result<(), Dark> {
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

    // ---- operators

    fn ask(&mut self, n: usize, g: usize, request: Request) {
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

    fn granted(&mut self, n: usize, g: usize, request: Request, decision: &Decision) {
        if let Some(next) = &decision.ownership {
            self.fired(n, g, decision.row, next, Some(request));
            let _ = self.own(n, g, next, decision.row.is_some());
        }
    }

    fn order(&mut self, n: usize, request: Request, at: i8, queued: bool) {
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

    fn replicate(&mut self, n: usize) {
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
    fn stamp(&self, n: usize) -> u8 {
        let node = &self.state.nodes[n];
        let last = node.order.stamp.max(node.paused.stamp);
        ((last >> 1) + 1) << 1 | u8::try_from(n).unwrap_or(0)
    }

    fn phone(&mut self, g: usize, kind: PhoneKind) {
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

    // ---- the machine's arguments

    fn evidence(&self, n: usize, g: usize) -> PhoneEvidence {
        let mut evidence = self.setup.evidence[g].clone();
        if self.state.nodes[n].run.is_some_and(|r| r.evidence[g]) {
            evidence.restore(self.setup.counted[g].clone());
        }
        evidence
    }

    fn clock(&self, n: usize) -> Now {
        clock(self.setup, n, at(self.now))
    }

    fn rules(&self, n: usize) -> Rules {
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

    fn view(&self, n: usize, g: usize, now: Duration) -> View {
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

    fn decision(&self, n: usize, g: usize, ask: Option<&Ask>, now: Duration) -> Decision {
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

    fn owner(&self, g: usize, owned: Owned) -> vmsync_config::words::NodeId {
        let group = &self.setup.groups[g];
        if owned.backup {
            group.backup.clone()
        } else {
            group.home.clone()
        }
    }

    fn ownership(&self, n: usize, g: usize, owned: Owned) -> Ownership {
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

    fn owned(&self, g: usize, ownership: &Ownership) -> Owned {
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

    fn order_of(&self, open: Open) -> Order {
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
        }
    }

    // ---- what must hold

    fn breaks(&mut self, promise: &str) {
        self.wrong.get_or_insert_with(|| promise.to_owned());
    }

    /// A row fires, or a hold ends.
    fn fired(
        &mut self,
        n: usize,
        g: usize,
        row: Option<&'static str>,
        next: &Ownership,
        asked: Option<Request>,
    ) {
        let owned = self.state.nodes[n].kept[g].owned;
        if next.epoch > u64::from(owned.epoch) && n != backup(g) {
            self.breaks("an epoch raised by a node that is not the group's backup");
        }
        let Some(row) = row else { return };
        self.tally.happened(row);
        let sight = self.sights[n].sight();
        let Some(run) = self.state.nodes[n].run else {
            return;
        };
        let home = next.owner == self.setup.groups[g].home;
        let exchanged = run.sync.is_some() && run.told.is_some_and(|t| t.ready);
        if home && !(exchanged && sight.is_ok()) {
            self.breaks("a failback before synchronisation has started (R-FB-1)");
        }
        if asked.is_some() {
            return;
        }
        if self.paused(n) {
            self.breaks("a decision without an operator in maintenance mode");
        }
        let gone =
            sight.is_err_and(|since| at(self.now) >= since + self.setup.rules.failover_after);
        if !home && !gone {
            self.breaks(
                "a failover by itself before the home was gone for failover_after (R-FO-1)",
            );
        }
        if row == "failover-phones" && !self.state.watched.desk[g] {
            self.breaks("a failover without a physical desk phone (R-FO-1)");
        }
        if !home && self.setup.witness && !run.witness {
            self.breaks("a failover by itself at a node that does not see the witness");
        }
    }

    fn paused(&self, n: usize) -> bool {
        let wall = self.clock(n).wall;
        self.rules(n).maintenance.is_some_and(|m| m.is_on(wall))
    }

    /// A whole exchange of heartbeats lies behind `n`, and nothing was decided meanwhile: if both
    /// said now that they own a group, one would be wrong.
    fn met(&mut self, n: usize, answer: &Late) {
        for g in 0..self.setup.groups.len() {
            let theirs = self.state.nodes[1 - n].kept[g].owned;
            let mine = self.state.nodes[n].kept[g].owned;
            if theirs != answer.owned[g] || (mine != answer.asked[g] && mine != theirs) {
                continue;
            }
            let both = [0, 1]
                .map(|n| self.serving(n, g))
                .iter()
                .all(|s| *s == Some(Serving::Yes));
            if both || mine.epoch != theirs.epoch || mine.backup != theirs.backup {
                self.breaks("two owners after a whole exchange");
            }
        }
    }

    pub(super) fn serving(&self, n: usize, g: usize) -> Option<Serving> {
        let run = self.state.nodes[n].run?;
        let ownership = self.ownership(n, g, self.state.nodes[n].kept[g].owned);
        Some(serves(Place {
            me: &self.setup.me(n),
            ownership: &ownership,
            peer_answers: self.sights[n].fresh(Sign::Answer, at(self.now)),
            peer_visible: self.sights[n].sight().is_ok(),
            started: self.started(n),
            answering_first: self.setup.answering_first,
            witness: self.setup.witness.then_some(run.witness),
        }))
    }

    /// What holds of every step, seen from outside.
    fn compare(&mut self, before: &State) {
        for g in 0..self.setup.groups.len() {
            if !self.only_time_stands(g) {
                self.state.watched.due[g] = 0;
            }
            for n in 0..2 {
                let (was, is) = (
                    before.nodes[n].kept[g].owned,
                    self.state.nodes[n].kept[g].owned,
                );
                if is.epoch < was.epoch {
                    self.breaks("an epoch fell");
                }
                if is.epoch == was.epoch && is.held && !was.held {
                    self.breaks("a hold came back within its epoch");
                }
            }
            let [a, b] = [0, 1].map(|n| self.state.nodes[n].kept[g].owned);
            if a.epoch == b.epoch && a.backup != b.backup && !self.setup.split {
                self.breaks("two owners in one epoch");
            }
            self.consistent(g);
        }
    }

    /// With consistency put first and a witness: see docs/decisions/0015-model-check.md.
    fn consistent(&mut self, g: usize) {
        if self.setup.answering_first {
            return;
        }
        let (home, decides) = (1 - backup(g), backup(g));
        let serving = [home, decides].map(|n| self.serving(n, g));
        if serving.contains(&Some(Serving::YesPartition)) {
            self.breaks("an answer for a group of another node, with consistency put first");
        }
        let Some(run) = self.state.nodes[home].run else {
            return;
        };
        let taken = self.state.nodes[decides].kept[g].owned;
        let both = serving.iter().all(|s| *s == Some(Serving::Yes));
        if both {
            self.tally
                .happened("both answer although consistency is put first");
        }
        let exchanging = self.sights[home].fresh(Sign::Answer, at(self.now));
        if both && taken.by_itself && !run.witness && !exchanging {
            self.breaks("two answer, though the home sees neither peer nor witness");
        }
    }

    /// Whether nothing but time stands between group and home, under policy `automatic`.
    fn only_time_stands(&self, g: usize) -> bool {
        let n = backup(g);
        let automatic = self.setup.rules.policy == FailbackPolicy::Automatic;
        let owned = self.state.nodes[n].kept[g].owned;
        let Some(run) = self.state.nodes[n].run else {
            return false;
        };
        automatic
            && owned.backup
            && !owned.held
            && self.started(n)
            && !self.paused(n)
            && self.sights[n].sight().is_ok()
            && self.sights[n].speaks(at(self.now))
            && run.sync.is_some()
            && run.told.is_some_and(|t| t.ready)
    }

    /// Tells the tally of rows that wait for one condition alone.
    fn tell_what_was_missing(&mut self, n: usize, g: usize) {
        if n != backup(g) || !self.tally.wants_missing {
            return;
        }
        let ownership = self.ownership(n, g, self.state.nodes[n].kept[g].owned);
        let (view, rules) = (self.view(n, g, at(self.now)), self.rules(n));
        let machine = &self.setup.machines[g];
        let phase = machine.phase(&ownership, &view);
        let sight = Sight {
            group: machine.group(),
            ownership: &ownership,
            view: &view,
            rules: &rules,
            now: self.clock(n),
        };
        for row in ROWS.iter().filter(|r| r.from.contains(&phase)) {
            let paused: &[&Condition] = match row.cause {
                Cause::Operator(_) => &[],
                Cause::Trigger(t) if t != rules.trigger => continue,
                Cause::Policy(p) if p != rules.policy => continue,
                _ => &UNATTENDED_GATE,
            };
            let gate: &[&Condition] = match row.target {
                Target::Backup => &FAILOVER_GATE,
                Target::Home => &FAILBACK_GATE,
            };
            let all = gate.iter().chain(paused).chain(row.conditions);
            let mut unmet = all.filter(|c| !(c.holds)(&sight));
            if let (Some(only), None) = (unmet.next(), unmet.next()) {
                self.tally.missing(row.id, only.code);
            }
        }
    }

    /// States that differ in nothing that any rule of this setup looks at are one.
    fn forget_what_decides_nothing(&mut self) {
        let rules = &self.setup.rules;
        let automatic = rules.policy == FailbackPolicy::Automatic;
        let aged = automatic || !rules.stable_for.is_zero() || self.setup.flaps > 0;
        let single = self.setup.groups.len() == 1;
        for n in 0..2 {
            let started = self.started(n);
            let Some(run) = &mut self.state.nodes[n].run else {
                continue;
            };
            if started {
                (run.heard, run.age) = (true, 0);
            }
            if !aged {
                run.sight = run.sight.map(|_| 0);
            }
            if !automatic {
                run.sync = run.sync.map(|_| 0);
            }
            if single && n == 0 {
                run.sight = run.sight.map(|_| 0).map_err(|_| 0);
                run.told = run.told.map(|told| Told {
                    ready: true,
                    ..told
                });
            }
        }
    }

    /// Puts the sight of both into the state.
    pub(super) fn fold(&mut self) {
        let (now, ticks) = (at(self.now), self.now);
        for n in 0..2 {
            let sight = &self.sights[n];
            let age = |t: Duration| {
                let age = now.saturating_sub(t).as_secs() / TICK.as_secs();
                u8::try_from(age).unwrap_or(OLD).min(OLD)
            };
            if let Some(run) = &mut self.state.nodes[n].run {
                run.sight = sight.sight().map(age).map_err(age);
                run.signs = SIGNS.map(|s| sight.fresh(s, now));
            }
        }
        debug_assert!(ticks >= NOW);
    }
}

const SIGNS: [Sign; 3] = [Sign::Answer, Sign::Question, Sign::Greeting];

/// The moment of a tick.
fn at(tick: u32) -> Duration {
    TICK * tick
}

fn clock(setup: &Setup, n: usize, mono: Duration) -> Now {
    let ahead = if n == 1 { i64::from(setup.skew) } else { 0 };
    let tick = i64::try_from(TICK.as_millis()).unwrap_or(0);
    let wall = i64::try_from(mono.as_millis()).unwrap_or(0) + ahead * tick;
    Now {
        mono,
        wall: UnixMillis(u64::try_from(wall).unwrap_or(0)),
    }
}

/// What a node has seen, as the state tells it.
fn sight(state: &State, n: usize) -> Visibility {
    let ago = |age: u8| at(NOW - u32::from(age));
    let Some(run) = &state.nodes[n].run else {
        return Visibility::new(TICK, true, at(NOW));
    };
    match run.sight {
        Err(age) => Visibility::new(TICK, true, ago(age)),
        Ok(age) => {
            let mut sight = Visibility::new(TICK, true, ago(OLD));
            let fresh = SIGNS.into_iter().zip(run.signs).filter(|(_, fresh)| *fresh);
            let fresh: Vec<_> = fresh.map(|(sign, _)| sign).collect();
            for sign in fresh.iter().take(1) {
                sight.came(*sign, ago(age));
            }
            for sign in fresh {
                sight.came(sign, at(NOW));
            }
            sight
        }
    }
}
