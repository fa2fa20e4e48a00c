//! What one step does: the turn of a node as the shell takes it (`vmsync/src/node`: `run`, `own`,
//! `requests`, `orders`), deciding with the functions of `vmsync_core::resilience` themselves.

mod deciding;
mod promises;
mod speech;

use std::time::Duration;

use vmsync_config::words::{Now, UnixMillis};
use vmsync_core::resilience::{Sign, Startup, Visibility};

use super::{
    Setup, TICK, Tally,
    state::{Act, Beat, OLD, Paused, Run, Set, State, Step, older},
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
