//! Those who use the pair and those who run it: phones, calls, operators with requests, orders for
//! later and maintenance mode.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use serde_json::Value;
use uuid::Uuid;
use vmsync::{agreed::Ended, calls::NewCall};
use vmsync_callflows::{Flow, Run, Variables};
use vmsync_config::words::{Extension, Now, SystemName, UnixMillis};
use vmsync_core::resilience::{
    Ask, Maintenance, PhoneKind, Registration, Request, Serving, Standing, Verdict,
};
use vmsync_store::StoreError;

use super::{
    beats::Act,
    judge::Facts,
    node::Live,
    ordering::{Answer, Guard},
    trouble::MAILBOXES,
    world::{BACKUP, Event, HOME, World, id},
};

/// A call, as its PBX knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Talk {
    node: usize,
    boot: u64,
    id: Uuid,
    last_sign: Duration,
    /// The caller hangs up.
    pub(super) ends: Duration,
    /// The PBX dies, and says nothing more of it.
    dies: Option<Duration>,
}

impl Talk {
    /// For ever.
    pub(super) fn goes_on(&mut self) {
        (self.ends, self.dies) = (Duration::MAX, None);
    }
}

impl World {
    // ---- phones and calls

    /// A phone registers at the backup's system, or at another.
    pub(super) fn phone(&mut self) -> Result<(), String> {
        use PhoneKind::{Dect, Desk, Softphone, Webrtc};
        let kinds = [Desk, Desk, Desk, Softphone, Softphone, Dect, Webrtc];
        let kind = self.rng.pick(&kinds).copied().unwrap_or(Dect);
        let system = |n: usize| SystemName::new(self.nodes[n].id.as_str());
        let (home, backup) = (system(HOME), system(BACKUP));
        let (Ok(home_system), Ok(at_system)) = (home, backup) else {
            return Err("a node's id names no system".to_owned());
        };
        let extension = self.rng.pick(&MAILBOXES).copied().unwrap_or("2001");
        let elsewhere = self.rng.chance(10);
        let phone = Registration {
            extension: extension.to_owned(),
            kind,
            at_system: if elsewhere {
                home_system.clone()
            } else {
                at_system
            },
            home_system,
        };
        let verdict = self.at(BACKUP, |live, now| live.registered(&phone, now))?;
        if let Some(verdict) = verdict {
            let counts = verdict == Verdict::Counts;
            if counts {
                self.note(&format!("a {kind:?} of the home counts"));
            }
            self.judge.phone(kind, counts, self.now)?;
        }
        Ok(())
    }

    /// A call begins at the node that answers it.
    pub(super) fn call(&mut self, n: usize) -> Result<(), String> {
        let at = match self.nodes[n].serving(self.clock(n)) {
            Some(Serving::Yes | Serving::YesPartition) => n,
            Some(Serving::No { .. }) => 1 - n,
            _ => return Ok(()),
        };
        let now = self.clock(at);
        let serves = self.nodes[at].serving(now);
        let Some(live) = &self.nodes[at].live else {
            return Ok(());
        };
        if !matches!(serves, Some(Serving::Yes | Serving::YesPartition)) {
            return Ok(());
        }
        let mailbox = Extension::new(MAILBOXES[0]).map_err(|e| e.to_string())?;
        let new = NewCall {
            kind: "leave".to_owned(),
            mailbox,
            group: self.group.name.clone(),
            caller_number: None,
            caller_name: None,
        };
        let run = Run::start(leave()?, Variables::new());
        let call = live.calls.start(new, run, now).map_err(|e| e.to_string())?;
        let pace = self.pace;
        let mut span = |low, high| self.rng.millis(low, high) * pace;
        let lasts = span(500, 40_000);
        let dies = span(500, 60_000);
        let dies = self.rng.chance(25).then_some(self.now + dies);
        let talk = Talk {
            node: at,
            boot: self.nodes[at].boot,
            id: call.id,
            last_sign: self.now,
            ends: self.now + lasts,
            dies,
        };
        self.count("calls");
        self.note(&format!("a call begins at node {at}"));
        self.talks.insert(self.talked, talk);
        let next = self.next_sign(&talk);
        self.schedule(next, Event::Talk(self.talked));
        self.talked += 1;
        Ok(())
    }

    fn next_sign(&self, talk: &Talk) -> Duration {
        let idle = self.nodes[talk.node].config.limits.call_idle;
        talk.ends.saturating_sub(self.now).min(idle / 3)
    }

    /// The PBX says that the call goes on, or is over; or says nothing more.
    pub(super) fn talk(&mut self, key: u64) -> Result<(), String> {
        let Some(mut talk) = self.talks.get(&key).copied() else {
            return Ok(());
        };
        let n = talk.node;
        let now = self.clock(n);
        let live = self.nodes[n].live.as_ref().filter(|l| l.boot == talk.boot);
        let Some(live) = live else {
            self.talks.remove(&key);
            return Ok(());
        };
        if talk.dies.is_some_and(|at| at <= self.now) {
            self.count("calls that outlive their PBX");
            return Ok(());
        }
        if talk.ends <= self.now {
            live.calls.end(talk.id, "hung up", now);
            self.talks.remove(&key);
        } else {
            live.calls.keepalive(talk.id, now);
            talk.last_sign = self.now;
            self.talks.insert(key, talk);
            let next = self.next_sign(&talk);
            self.schedule(next, Event::Talk(key));
        }
        self.settle(n)
    }

    /// Calls on the backup that gave a sign in time (R-FB-8).
    pub(super) fn living_calls(&self) -> usize {
        let Some(live) = &self.nodes[BACKUP].live else {
            return 0;
        };
        let idle = live.config.limits.call_idle;
        let living =
            |t: &&Talk| t.node == BACKUP && t.boot == live.boot && self.now < t.last_sign + idle;
        self.talks.values().filter(living).count()
    }

    /// What is true at the backup now.
    pub(super) fn facts(&self, now: Now) -> Result<Facts, String> {
        let Some(live) = &self.nodes[BACKUP].live else {
            return Err("the backup decided while it was down".to_owned());
        };
        // Read here by itself: what the node makes of it is what is judged.
        let maintenance = match live.store.settings() {
            Ok(settings) => {
                let (value, _) = settings.get("maintenance").cloned().unzip();
                let value = value.unwrap_or_default();
                let until = value["until"].as_str().and_then(|t| t.parse().ok());
                value["since"].is_string() && until.is_none_or(|until: UnixMillis| now.wall < until)
            }
            // The power is gone.
            Err(_) => false,
        };
        Ok(Facts {
            now,
            maintenance,
            calls: self.living_calls(),
            home_has_all: self.nodes[HOME].have.covers(&self.nodes[BACKUP].have),
        })
    }

    // ---- operators

    /// An operator asks a node for something, now or later, or takes an order back.
    pub(super) fn operator(&mut self, n: usize) -> Result<(), String> {
        let request = match self.rng.below(4) {
            0 | 1 => Request::ActivateBackup,
            2 => Request::Failback { force: false },
            _ => Request::Failback { force: true },
        };
        let now = self.clock(n);
        let mut guard = Guard::default();
        match self.rng.below(10) {
            0..4 => {
                let ahead = self.rng.below(60_000) * u64::from(self.pace);
                guard.at = Some(UnixMillis(now.wall.0 + ahead));
            }
            4 => guard.dry_run = true,
            5 => guard.expected_owner = Some(self.nodes[self.rng.node()].id.clone()),
            6 | 7 => return self.cancel(n),
            _ => {}
        }
        self.note(&format!("an operator asks node {n}: {request:?} {guard:?}"));
        let ask = Ask {
            request,
            expected_owner: guard.expected_owner.clone(),
            reason: Some("the operator's words".to_owned()),
        };
        self.request(n, &ask, &guard, false)
    }

    /// What comes of a request at `n`.
    pub(super) fn request(
        &mut self,
        n: usize,
        ask: &Ask,
        guard: &Guard,
        forwarded: bool,
    ) -> Result<(), String> {
        let id = id(&mut self.rng).to_string();
        let answer = self.told_to_operator(n, |live, now| {
            live.request(ask, guard, (forwarded, id), now)
        })?;
        match answer {
            None => Ok(()),
            Some(Answer::Refused(code)) => {
                self.count(match code {
                    "stale_expected_owner" => "requests that came too late",
                    "already_scheduled" => "orders refused for another",
                    "peer_unreachable" => "activations that reach nobody",
                    _ => "requests refused",
                });
                self.note(&format!("refused: {code}"));
                Ok(())
            }
            Some(Answer::Tried) => {
                self.count("requests tried");
                Ok(())
            }
            Some(Answer::Done) => {
                self.count("requests granted");
                Ok(())
            }
            Some(Answer::Noted(order)) => {
                self.count(if guard.at.is_some() {
                    "orders scheduled"
                } else {
                    "orders noted for a node that is away"
                });
                self.note(&format!("node {n} notes {order:?}"));
                self.judge.ordered(order);
                Ok(())
            }
            Some(Answer::Forward) => {
                let boot = self.nodes[n]
                    .live
                    .as_ref()
                    .and_then(|l| l.peer.report.as_ref())
                    .map(|r| r.boot);
                let (Some(boot), false) = (boot, self.cuts.http[n] || self.cuts.packets[n]) else {
                    return Ok(());
                };
                let act = Act {
                    to: 1 - n,
                    boot,
                    ask: ask.clone(),
                    guard: guard.clone(),
                };
                let delay = self.rng.millis(1, 50);
                self.schedule(delay, Event::Act(Box::new(act)));
                Ok(())
            }
        }
    }

    /// Takes the order back that stands at `n`.
    pub(super) fn cancel(&mut self, n: usize) -> Result<(), String> {
        let cancelled = self.told_to_operator(n, Live::cancel)?.flatten();
        if let Some(id) = cancelled {
            self.count("orders cancelled");
            self.note(&format!("order {id} is cancelled at node {n}"));
            if n == BACKUP {
                self.judge.cancelled(id);
            }
        }
        Ok(())
    }

    /// Maintenance mode begins at a node, for a while or until it is ended; or is ended.
    pub(super) fn maintenance(&mut self, n: usize) -> Result<(), String> {
        let now = self.clock(n);
        let until = self.rng.chance(50).then(|| {
            let span = 1_000 + self.rng.below(60_000);
            UnixMillis(now.wall.0 + span * u64::from(self.pace))
        });
        let value = if self.rng.chance(50) {
            serde_json::to_value(Maintenance {
                since: now.wall,
                until,
                reason: "new switch".to_owned(),
                by: self.nodes[n].id.clone(),
            })
        } else {
            return self.end_maintenance(n);
        };
        if self.maintain(n, value.map_err(|e| e.to_string())?)? {
            self.count("maintenance begun");
            self.note(&format!("maintenance begins at node {n}, until {until:?}"));
        }
        Ok(())
    }

    /// Ends it, where it is on as far as the node knows.
    pub(super) fn end_maintenance(&mut self, n: usize) -> Result<(), String> {
        let now = self.clock(n);
        let live = self.nodes[n].live.as_ref();
        if live.is_none_or(|l| l.agreed.maintenance.is_none()) {
            return Ok(());
        }
        let ended = Ended {
            ended: now.wall,
            by: self.nodes[n].id.clone(),
        };
        let value = serde_json::to_value(ended).map_err(|e| e.to_string())?;
        if self.maintain(n, value)? {
            self.count("maintenance ended");
            self.note(&format!("maintenance ends at node {n}"));
        }
        Ok(())
    }

    fn maintain(&mut self, n: usize, value: Value) -> Result<bool, String> {
        let done = self.told_to_operator(n, |live, now| live.maintain(value, now))?;
        Ok(done == Some(true))
    }

    /// Once all is well: an operator ends maintenance mode, and takes back what still stands.
    pub(super) fn tidy_up(&mut self, orders: bool) -> Result<(), String> {
        for n in [BACKUP, HOME] {
            self.end_maintenance(n)?;
            if orders {
                self.cancel(n)?;
            }
            self.settle(n)?;
        }
        Ok(())
    }

    /// How the order of the group stands on both nodes at rest.
    pub(super) fn orders_at_rest(&self) -> Result<(), String> {
        let mut told: Vec<Option<&Standing>> = Vec::new();
        for n in [HOME, BACKUP] {
            let Some(live) = &self.nodes[n].live else {
                return Err(format!("node {n} is down"));
            };
            let standing = live.agreed.orders.get(&self.group.name);
            told.push(standing);
            if n == BACKUP {
                let epoch = live.group.ownership.epoch;
                self.judge.standing(standing, self.clock(n), epoch)?;
            }
        }
        match told.as_slice() {
            [a, b] if a != b => Err(format!("an order stands as {a:?} and as {b:?}")),
            _ => Ok(()),
        }
    }

    /// Does something that is acknowledged to whoever asked once it is durable.
    fn told_to_operator<T>(
        &mut self,
        n: usize,
        run: impl FnOnce(&mut Live, Now) -> Result<T, StoreError>,
    ) -> Result<Option<T>, String> {
        let mut written = Vec::new();
        let done = self.at(n, |live, now| {
            let done = run(live, now)?;
            written = live.committed();
            Ok(done)
        })?;
        self.oracle.durable(&written)?;
        if done.is_some() {
            self.oracle.acknowledge(&written);
        }
        Ok(done)
    }
}

fn leave() -> Result<Arc<Flow>, String> {
    static LEAVE: OnceLock<Result<Arc<Flow>, String>> = OnceLock::new();
    let read = || {
        let source = vmsync_callflows::built_in("leave").ok_or("there is no flow leave")?;
        let flow = vmsync_callflows::check(source.as_bytes(), "leave.toml");
        flow.map(Arc::new).map_err(|e| format!("{e:?}"))
    };
    LEAVE.get_or_init(read).clone()
}
