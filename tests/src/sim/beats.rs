//! What the nodes see of one another and of the witness: heartbeats over HTTP, greetings over SMTP,
//! requests passed on; and which lines between them are cut.

use vmsync::pair::Report;
use vmsync_core::resilience::Ask;

use super::{
    deciding::Happening,
    ordering::Guard,
    world::{BACKUP, Event, HOME, World},
};

/// A line, of which each node has its own end: what goes out from there is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// Everything: packets get lost.
    Packets,
    /// It can open no connection to the web server of its peer, or that is dead.
    Http,
    /// The same of the mail server.
    Smtp,
    /// It can't reach the witness.
    Witness,
}

/// What is cut at each node.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cuts {
    pub(super) packets: [bool; 2],
    pub(super) http: [bool; 2],
    pub(super) smtp: [bool; 2],
    pub(super) witness: [bool; 2],
}

impl Cuts {
    pub(super) fn of(&mut self, line: Line) -> &mut [bool; 2] {
        match line {
            Line::Packets => &mut self.packets,
            Line::Http => &mut self.http,
            Line::Smtp => &mut self.smtp,
            Line::Witness => &mut self.witness,
        }
    }

    fn any_packets(self) -> bool {
        self.packets.contains(&true)
    }

    /// Whether `n` can open a connection for mails.
    pub(super) fn mails_go(self, n: usize) -> bool {
        !self.packets[n] && !self.smtp[n]
    }

    fn questions_go(self, n: usize) -> bool {
        !self.packets[n] && !self.http[n]
    }
}

/// A request passed on to the node that decides.
#[derive(Debug)]
pub(super) struct Act {
    pub(super) to: usize,
    /// The life it is meant for.
    pub(super) boot: u64,
    pub(super) ask: Ask,
    pub(super) guard: Guard,
}

impl World {
    /// Once in a while a node looks at everything that it can see.
    pub(super) fn beat(&mut self, n: usize) -> Result<(), String> {
        let every = self.nodes[n].config.pair.heartbeat;
        self.schedule(every, Event::Beat(n));
        self.look_for_ways();
        if self.nodes[n].live.is_none() {
            return Ok(());
        }
        self.ask_witness(n);
        self.ask_peer(n);
        let delay = self.rng.millis(1, 50);
        let boot = self.nodes[n].boot;
        self.schedule(delay, Event::Greeted(n, boot));
        self.settle(n)
    }

    fn ask_witness(&mut self, n: usize) {
        let (now, came) = (self.clock(n), !self.cuts.witness[n]);
        if let Some(live) = self.nodes[n].live.as_mut().filter(|l| l.witness.is_some()) {
            live.witnessed(came, now);
            if came {
                self.judge.witnessed(n, now.mono);
            }
        }
    }

    /// A heartbeat, one at a time.
    pub(super) fn ask_peer(&mut self, n: usize) {
        let now = self.clock(n);
        let node = &mut self.nodes[n];
        let pair = &node.config.pair;
        let limit = pair.invisible_after.saturating_sub(pair.heartbeat) / 2;
        let Some(live) = &mut node.live else { return };
        if live.asking.is_some_and(|until| now.mono < until) {
            live.poked = true;
            return;
        }
        live.poked = false;
        live.asking = Some(now.mono + limit);
        let (report, boot) = (live.report(now), live.boot);
        if self.cuts.questions_go(n) {
            let delay = self.rng.millis(1, 50);
            let question = Event::Asked(1 - n, boot, Box::new(report));
            self.schedule(delay, question);
        }
    }

    /// A question has come: what follows from it is durable before it is answered.
    pub(super) fn asked(&mut self, n: usize, boot: u64, report: &Report) -> Result<(), String> {
        let counts = self.at(n, |live, now| live.asked(report.clone(), now))?;
        if counts == Some(true) {
            self.judge.sign(n, self.now);
        }
        self.settle(n)?;
        let now = self.clock(n);
        if let Some(live) = self.nodes[n].live.as_mut()
            && !self.cuts.packets[n]
        {
            let answer = Box::new(live.answer(now));
            let delay = self.rng.millis(1, 50);
            self.schedule(delay, Event::Told(1 - n, boot, answer));
        }
        Ok(())
    }

    /// The answer has come back, to that life of the node.
    pub(super) fn told(&mut self, n: usize, boot: u64, report: &Report) -> Result<(), String> {
        let Some(live) = self.nodes[n].live.as_mut().filter(|l| l.boot == boot) else {
            return Ok(());
        };
        live.asking = None;
        self.judge.answered(n, self.now, !self.troubled);
        self.at(n, |live, now| live.answered(report.clone(), now))?;
        self.settle(n)
    }

    /// The greeting of the peer's mail server, or that there is none.
    pub(super) fn greeted(&mut self, n: usize, boot: u64) -> Result<(), String> {
        let up = self.nodes[1 - n].live.is_some();
        let came = up && !self.cuts.any_packets() && !self.cuts.smtp[n];
        let now = self.clock(n);
        let Some(live) = self.nodes[n].live.as_mut().filter(|l| l.boot == boot) else {
            return Ok(());
        };
        let appears = live.greeted(came, now);
        if came {
            self.judge.sign(n, self.now);
        }
        if appears { self.settle(n) } else { Ok(()) }
    }

    /// A request that was passed on.
    pub(super) fn passed_on(&mut self, act: Act) -> Result<(), String> {
        let Act {
            to,
            boot,
            ask,
            guard,
        } = act;
        if self.nodes[to].boot != boot {
            return Ok(());
        }
        self.count("requests passed on");
        self.request(to, &ask, &guard, true)?;
        self.settle(to)
    }

    /// Tells the judge whether the home could give the backup any sign of life now.
    pub(super) fn look_for_ways(&mut self) {
        let both = self.nodes.iter().all(|node| node.live.is_some());
        let Cuts { http, smtp, .. } = self.cuts;
        let way = !http[BACKUP] || !smtp[BACKUP] || !http[HOME];
        let could = both && way && !self.cuts.any_packets();
        self.judge.could_give_sign(could, self.now);
    }

    /// Hands what a node did to those who watch it.
    pub(super) fn watch(&mut self, n: usize) -> Result<(), String> {
        let Some(live) = &mut self.nodes[n].live else {
            return Ok(());
        };
        for happening in std::mem::take(&mut live.happened) {
            let now = self.clock(n);
            match happening {
                Happening::Sight(visible) => {
                    let seen = if visible { "sees" } else { "does not see" };
                    self.note(&format!("node {n} {seen} its peer"));
                    if n == BACKUP {
                        self.judge.sight(visible, now.mono);
                    }
                }
                Happening::Decided(decided) => {
                    self.oracle
                        .fired(&self.group, &decided.view, &decided.decision)?;
                    let facts = self.facts(now)?;
                    self.judge.decided(&decided, facts)?;
                    if let Some(next) = &decided.decision.ownership {
                        self.note(&format!("epoch {}: {}", next.epoch, next.reason));
                    }
                }
                Happening::Owns(owned) => {
                    self.oracle.owns(n, &owned)?;
                    self.judge.owns(n, &owned, Some(now))?;
                }
                Happening::Corrected => self.count("orders said to be cancelled set right"),
                Happening::Closed(done) => {
                    self.count(if done {
                        "orders closed as carried out"
                    } else {
                        "orders dropped"
                    });
                }
            }
        }
        Ok(())
    }

    /// After a turn of a node: what must come in time, and what callers get.
    pub(super) fn judge_turn(&mut self, n: usize) -> Result<(), String> {
        let now = self.clock(n);
        let calls = if n == BACKUP { self.living_calls() } else { 0 };
        let Some(serving) = self.nodes[n].serving(now) else {
            return Ok(());
        };
        if let Some(live) = &self.nodes[n].live {
            if n == BACKUP {
                self.judge.look_at_backup(live, calls, now)?;
            }
            self.judge.look_at_answers(n, &serving, live, now.mono)?;
        }
        if self.judge.agree_from().is_some_and(|from| self.now > from) {
            self.agree()?;
        }
        Ok(())
    }

    /// Healed, and time has passed: one owner, and that serves.
    fn agree(&self) -> Result<(), String> {
        let [Some(a), Some(b)] = [0, 1].map(|n| self.nodes[n].live.as_ref()) else {
            return Ok(());
        };
        let (ours, theirs) = (&a.group.ownership, &b.group.ownership);
        if (ours.epoch, &ours.owner) != (theirs.epoch, &theirs.owner) {
            return Err(format!(
                "the nodes do not agree within 5 s of their heartbeats: {ours:?} and {theirs:?}"
            ));
        }
        Ok(())
    }
}
