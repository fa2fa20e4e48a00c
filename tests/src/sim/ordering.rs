//! Requests of operators at a node, and orders for later: the order of effects as in the shell.

use serde_json::Value;
use vmsync::{agreed, node::history};
use vmsync_config::words::{NodeId, Now, UnixMillis};
use vmsync_core::resilience::{Ask, Closed, Hearing, LATE, Order, Pursuit, Request, Standing};
use vmsync_store::StoreError;

use super::{Sabotage, deciding::Happening, node::Live};

/// How long a request waits for the node that decides: one day.
const QUEUED_MS: u64 = 86_400_000;

/// The conditions of a request.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// Refused when another owns the group.
    pub expected_owner: Option<NodeId>,
    /// Not now but then.
    pub at: Option<UnixMillis>,
    /// Only say what would happen.
    pub dry_run: bool,
}

/// What an operator is told.
#[derive(Debug)]
pub enum Answer {
    /// Why not.
    Refused(&'static str),
    /// The peer decides it.
    Forward,
    /// Nothing was done: it was only tried.
    Tried,
    /// It is done.
    Done,
    /// It stands as an order.
    Noted(Order),
}

impl Live {
    /// Decides a request, or notes it.
    pub fn request(
        &mut self,
        ask: &Ask,
        guard: &Guard,
        (forwarded, id): (bool, String),
        now: Now,
    ) -> Result<Answer, StoreError> {
        self.read_settings(now)?;
        if !self.started(now) {
            return Ok(Answer::Refused("starting"));
        }
        let late = u64::try_from(LATE.as_millis()).unwrap_or(u64::MAX);
        if let Some(at) = guard.at {
            if at.0.saturating_add(60_000) < now.wall.0 {
                return Ok(Answer::Refused("invalid"));
            }
            let until = UnixMillis(at.0.saturating_add(late));
            return self.place(ask, guard, (at, until), id, now);
        }
        let decision = self.ask_machine(Some(ask), now);
        match (decision.refused, decision.ownership) {
            (Some(no), _) if no.code == "not_backup" && !forwarded => {
                if self.peer.answers(now) {
                    return Ok(Answer::Forward);
                }
                let patience = match ask.request {
                    Request::ActivateBackup if self.peer.visible() => late,
                    Request::ActivateBackup => return Ok(Answer::Refused("peer_unreachable")),
                    Request::Failback { .. } => QUEUED_MS,
                };
                let until = UnixMillis(now.wall.0.saturating_add(patience));
                self.place(ask, guard, (now.wall, until), id, now)
            }
            (Some(no), _) => Ok(Answer::Refused(no.code)),
            (None, None) => Ok(Answer::Refused("nothing_to_do")),
            (None, Some(_)) if guard.dry_run => {
                self.happened.pop();
                Ok(Answer::Tried)
            }
            (None, Some(next)) => {
                self.own(next, decision.row.is_some())?;
                Ok(Answer::Done)
            }
        }
    }

    fn place(
        &mut self,
        ask: &Ask,
        guard: &Guard,
        span: (UnixMillis, UnixMillis),
        id: String,
        now: Now,
    ) -> Result<Answer, StoreError> {
        let group = self.group.machine.group();
        let standing = self.agreed.orders.get(&group.name);
        let state = (group, &self.group.ownership, standing);
        let made = (now.wall, &self.config.node.id);
        let order = match Order::take(id, ask, state, span, made) {
            Ok(order) => order,
            Err(no) => return Ok(Answer::Refused(no.code)),
        };
        if guard.dry_run {
            return Ok(Answer::Tried);
        }
        self.keep_order(Standing::Open(order.clone()))?;
        Ok(Answer::Noted(order))
    }

    /// Cancels the order that stands; its id.
    pub fn cancel(&mut self, now: Now) -> Result<Option<String>, StoreError> {
        self.read_settings(now)?;
        let standing = self.agreed.orders.get(self.group.name()).cloned();
        let Some(Standing::Open(order)) = standing.filter(|_| self.started(now)) else {
            return Ok(None);
        };
        let outcome = "cancelled by an operator".to_owned();
        self.keep_order(Standing::Closed(order.closed(false, outcome, now.wall)))?;
        Ok(Some(order.id))
    }

    fn keep_order(&mut self, standing: Standing) -> Result<(), StoreError> {
        let value = serde_json::to_value(&standing).map_err(|e| told(&e))?;
        let name = self.group.name().clone();
        self.store.set_setting(&agreed::order_of(&name), value)?;
        self.agreed.orders.insert(name, standing);
        self.poked = true;
        Ok(())
    }

    /// Maintenance mode, as `PUT` and `DELETE /api/v1/maintenance` set it. False where nobody may yet.
    pub fn maintain(&mut self, value: Value, now: Now) -> Result<bool, StoreError> {
        if !self.started(now) {
            return Ok(false);
        }
        self.store.set_setting(agreed::MAINTENANCE, value)?;
        Ok(true)
    }

    /// Carries out what is due, where this node decides.
    pub(super) fn carry_out(&mut self, now: Now) -> Result<(), StoreError> {
        self.group.order_due = None;
        let report = self.peer.report.as_ref();
        let told = report.is_none_or(|r| self.store.have().covers(&r.have))
            && self.session.started().is_some()
            && self.session.pending_in() == 0;
        if self.group.machine.group().backup != self.config.node.id {
            return Ok(());
        }
        let standing = self.agreed.orders.get(self.group.name());
        if let Some(closed) = self.group.order_to_check(standing) {
            if self.peer.visible() && !told {
                return Ok(());
            }
            if let Some(corrected) = self.corrected(&closed)? {
                self.happened.push(Happening::Corrected);
                self.keep_order(Standing::Closed(corrected))?;
            }
            self.group.order_checked = Some(closed.id);
            return Ok(());
        }
        let Some(Standing::Open(mut order)) = standing.cloned() else {
            return Ok(());
        };
        let mut owned = self.group.ownership.clone();
        if self.broken(Sabotage::RepeatOrders) {
            order.epoch = owned.epoch;
            owned.order = None;
        }
        let hearing = match &self.peer.report {
            Some(report) if self.peer.speaks(now) => report.hearing(&order, told),
            _ => Hearing::Away,
        };
        let pursuit = order.pursue(&owned, now, hearing, |ask| self.ask_machine(Some(ask), now));
        let (done, outcome) = match pursuit {
            Pursuit::Wait(due) => {
                self.group.order_due = due;
                return Ok(());
            }
            Pursuit::Close { done, outcome } => (done, outcome),
            Pursuit::Own {
                next,
                transition,
                outcome,
            } => {
                self.own(*next, transition)?;
                self.decide(now)?;
                (true, outcome)
            }
        };
        if self.broken(Sabotage::RepeatOrders) {
            return Ok(());
        }
        let closed = order.closed(done, outcome, now.wall);
        let closed = self.corrected(&closed)?.unwrap_or(closed);
        self.happened.push(Happening::Closed(closed.done));
        self.keep_order(Standing::Closed(closed))
    }

    fn corrected(&self, closed: &Closed) -> Result<Option<Closed>, StoreError> {
        if closed.done {
            return Ok(None);
        }
        Ok(closed.corrected(&history(&self.store, self.group.name())?))
    }
}

fn told(error: &serde_json::Error) -> StoreError {
    StoreError::Invalid(error.to_string())
}
