//! What the nodes hear of one another: heartbeats in time or late, greetings, and what follows from them.

use vmsync_core::resilience::Sign;

use super::{Play, at};
use crate::model::{
    backup,
    state::{Beat, Late, Owned, Told},
};

impl Play<'_> {
    pub(super) fn beat(&mut self, n: usize, beat: Beat) {
        self.hears(n, beat);
        self.turn(n);
    }

    /// A heartbeat of `n`, as far as it gets. The peer takes its turn before it answers.
    pub(super) fn hears(&mut self, n: usize, beat: Beat) {
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

    pub(super) fn question(&mut self, n: usize) -> Option<Late> {
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

    pub(super) fn answer(&mut self, n: usize, asked: [Owned; 2]) -> Option<Late> {
        let question = self.question(n)?;
        let answer_to = Some(self.state.nodes[1 - n].life);
        Some(Late {
            answer_to,
            asked,
            ..question
        })
    }

    pub(super) fn delay(&mut self, n: usize, answer: bool) {
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

    pub(super) fn arrives(&mut self) {
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
    pub(super) fn asked(&mut self, late: Late) {
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
    pub(super) fn answered(&mut self, late: Late) {
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

    pub(super) fn came(&mut self, n: usize, sign: Sign) {
        if self.state.nodes[n].run.is_some() && self.sights[n].came(sign, at(self.now)) {
            self.running(n, |run| (run.sync, run.finished) = (None, false));
            self.sight_changed(n);
        }
    }

    pub(super) fn out_of_sight(&mut self, n: usize) {
        self.running(n, |run| (run.sync, run.finished) = (None, false));
        self.sight_changed(n);
    }

    pub(super) fn sight_changed(&mut self, n: usize) {
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
}
