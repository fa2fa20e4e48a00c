//! What must hold of every step, and the folding of states that decide nothing.

use std::time::Duration;

use vmsync_config::FailbackPolicy;
use vmsync_core::resilience::{
    Condition, Ownership, Place, Request, Serving, Sight, Sign,
    rows::{Cause, FAILBACK_GATE, FAILOVER_GATE, ROWS, Target, UNATTENDED_GATE},
    serves,
};

use super::{NOW, Play, SIGNS, at};
use crate::model::{
    TICK, backup,
    state::{Late, OLD, State, Told},
};

impl Play<'_> {
    pub(super) fn breaks(&mut self, promise: &str) {
        self.wrong.get_or_insert_with(|| promise.to_owned());
    }

    /// A row fires, or a hold ends.
    pub(super) fn fired(
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

    pub(super) fn paused(&self, n: usize) -> bool {
        let wall = self.clock(n).wall;
        self.rules(n).maintenance.is_some_and(|m| m.is_on(wall))
    }

    /// A whole exchange of heartbeats lies behind `n`, and nothing was decided meanwhile: if both
    /// said now that they own a group, one would be wrong.
    pub(super) fn met(&mut self, n: usize, answer: &Late) {
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

    pub(in crate::model) fn serving(&self, n: usize, g: usize) -> Option<Serving> {
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
    pub(super) fn compare(&mut self, before: &State) {
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
    pub(super) fn consistent(&mut self, g: usize) {
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
    pub(super) fn only_time_stands(&self, g: usize) -> bool {
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
    pub(super) fn tell_what_was_missing(&mut self, n: usize, g: usize) {
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
    pub(super) fn forget_what_decides_nothing(&mut self) {
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
    pub(in crate::model) fn fold(&mut self) {
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
