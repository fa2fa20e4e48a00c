//! Orders for later in this node: taken at either, carried out by the group's backup, told by both.
//!
//! Order of effects: a transition is durable before its order is closed. If the node dies between
//! the two, the order finds the group in another epoch and is void; nothing happens twice.

use vmsync_config::words::{GroupName, Now, UnixMillis};
use vmsync_core::resilience::{Ask, Closed, Hearing, LATE, Order, Pursuit, Request, Standing};
use vmsync_store::{Store, StoreError};

use super::{Node, groups, requests::refused};
use crate::{
    agreed::{self, Agreed},
    app::{Guard, Outcome, Refused},
};

/// What happened beside transitions, `group/time/what`: the history tells it too.
const JOURNAL: &str = "journal";
/// Lines kept for each group.
const JOURNAL_KEPT: usize = 500;
/// How far ahead an order may be scheduled: 30 days.
const AHEAD_MS: u64 = 30 * 86_400_000;
/// How long a request waits for the node that decides: one day.
const QUEUED_MS: u64 = 86_400_000;

/// A line of the journal.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct Line {
    /// `scheduled`, `carried-out`, `dropped`, `maintenance` or `maintenance-ended`.
    pub(crate) kind: String,
    /// When.
    pub(crate) at: UnixMillis,
    /// In words.
    pub(crate) text: String,
}

impl Node {
    /// Takes an order for `at`. Nothing is checked but what can't change until then.
    pub(super) async fn schedule(
        &mut self,
        index: usize,
        request: Request,
        guard: &Guard,
        at: UnixMillis,
        now: Now,
    ) -> Result<Outcome, Refused> {
        if at.0 > now.wall.0.saturating_add(AHEAD_MS) {
            return Err(refused("invalid", "at is more than 30 days ahead"));
        }
        if at.0.saturating_add(60_000) < now.wall.0 {
            return Err(refused(
                "invalid",
                &format!("at is past: it is {} here", now.wall),
            ));
        }
        let late = u64::try_from(LATE.as_millis()).unwrap_or(u64::MAX);
        let until = UnixMillis(at.0.saturating_add(late));
        let ask = super::requests::ask(request, guard)?;
        let what = |order: &Order| {
            let what = order.what.words();
            format!("scheduled for {at}, at the latest {until}: {what}")
        };
        self.place(index, ask, (at, until), guard.dry_run, now, what)
            .await
    }

    /// The node that decides is out of sight: a failback waits for it as an order; nobody else could
    /// give the group back (R-FB-1). Activating a backup that is not there makes no sense.
    pub(super) async fn queue(
        &mut self,
        index: usize,
        request: Request,
        guard: &Guard,
        now: Now,
    ) -> Result<Outcome, Refused> {
        let backup = self.groups[index].machine.group().backup.clone();
        let patience = match request {
            // By its mails it can be told, so it will be there soon, or not at all.
            Request::ActivateBackup if self.peer.visible() => {
                u64::try_from(LATE.as_millis()).unwrap_or(u64::MAX)
            }
            Request::ActivateBackup => {
                return Err(refused(
                    "peer_unreachable",
                    &format!("{backup} is out of sight, so it can't take over"),
                ));
            }
            Request::Failback { .. } => QUEUED_MS,
        };
        let until = UnixMillis(now.wall.0.saturating_add(patience));
        let ask = super::requests::ask(request, guard)?;
        let what = |order: &Order| {
            let what = order.what.words();
            format!(
                "noted: {backup} decides and can't be asked; {what} as soon as it is told and can, until {until}"
            )
        };
        let span = (now.wall, until);
        self.place(index, ask, span, guard.dry_run, now, what).await
    }

    async fn place(
        &mut self,
        index: usize,
        ask: Ask,
        span: (UnixMillis, UnixMillis),
        dry_run: bool,
        now: Now,
        what: impl FnOnce(&Order) -> String,
    ) -> Result<Outcome, Refused> {
        let state = &self.groups[index];
        let (group, ownership) = (state.machine.group(), &state.ownership);
        let name = group.name.clone();
        let standing = self.agreed.orders.get(&name);
        let id = uuid::Uuid::new_v4().to_string();
        let order = Order::take(
            id,
            &ask,
            (group, ownership, standing),
            span,
            (now.wall, self.me()),
        )
        .map_err(|no| refused(no.code, &no.reason))?;
        let what = what(&order);
        if !dry_run {
            self.keep_order(&name, Standing::Open(order.clone()))
                .await
                .map_err(|e| refused("not_durable", &format!("{e}; nothing was changed")))?;
        }
        let state = &self.groups[index];
        Ok(Outcome {
            group: name.to_string(),
            owner: state.ownership.owner.to_string(),
            epoch: state.ownership.epoch,
            what,
            dry_run,
            waiting_for: state.decision.waiting_for.clone(),
            scheduled: Some(order.into()),
            one_sided: None,
        })
    }

    /// Cancels the order of `group`; `None` when there is none.
    pub(super) async fn cancel(
        &mut self,
        group: &GroupName,
        now: Now,
    ) -> Result<Option<Order>, Refused> {
        if !self.started(now) {
            return Err(refused(
                "starting",
                "this node is asking its peer before it changes anything; try again in a second",
            ));
        }
        let Some(Standing::Open(order)) = self.agreed.orders.get(group).cloned() else {
            return Ok(None);
        };
        let outcome = format!("cancelled by an operator at {}", self.me());
        let closed = order.closed(false, outcome, now.wall);
        self.keep_order(group, Standing::Closed(closed))
            .await
            .map_err(|e| refused("not_durable", &format!("{e}; nothing was changed")))?;
        Ok(Some(order))
    }

    async fn keep_order(
        &mut self,
        group: &GroupName,
        standing: Standing,
    ) -> Result<(), StoreError> {
        let value =
            serde_json::to_value(&standing).map_err(|e| StoreError::Invalid(e.to_string()))?;
        let name = agreed::order_of(group);
        self.app.store(move |s| s.set_setting(&name, value)).await?;
        // The commit will tell the same; until then nobody acts on what was before.
        let mut agreed = self.agreed.clone();
        agreed.orders.insert(group.clone(), standing);
        self.agree(agreed).await;
        // The peer hears at once that there is something it must know before it decides.
        self.progress.tell_peer = true;
        Ok(())
    }

    /// Carries out what is due, where this node decides.
    pub(super) async fn carry_out(&mut self, now: Now) {
        for group in &mut self.groups {
            // One that has passed must not wake the loop again and again while it is waited for.
            group.order_due = None;
        }
        self.close_orders_of_none(now).await;
        for index in 0..self.groups.len() {
            if self.groups[index].machine.group().backup != *self.me() {
                continue;
            }
            let name = self.groups[index].name().clone();
            let standing = self.agreed.orders.get(&name);
            if let Some(closed) = self.groups[index].order_to_check(standing) {
                // What the peer says of it may be on its way.
                if self.peer.visible() && !self.mails_have_told_all() {
                    continue;
                }
                self.check_order(index, &name, &closed).await;
                continue;
            }
            let Some(Standing::Open(order)) = standing.cloned() else {
                continue;
            };
            let calls = self.calls_on_owner(index);
            let (seen, rules) = (self.seen(now), self.rules());
            let hearing = self.hearing(&order, now);
            let state = &self.groups[index];
            let decide = |ask: &Ask| state.decide(&seen, calls, &rules, Some(ask), now);
            let (done, outcome) = match order.pursue(&state.ownership, now, hearing, decide) {
                Pursuit::Wait(due) => {
                    self.groups[index].order_due = due;
                    continue;
                }
                Pursuit::Close { done, outcome } => (done, outcome),
                Pursuit::Own {
                    next,
                    transition,
                    outcome,
                } => {
                    if self.own(index, *next, transition).await.is_err() {
                        continue;
                    }
                    self.decide_all(now).await;
                    (true, outcome)
                }
            };
            let closed = order.closed(done, outcome, now.wall);
            let corrected = self.corrected(&name, &closed).await;
            if !done && matches!(corrected, Ok(None)) {
                let outcome = &closed.outcome;
                let text = format!("an order of an operator was not carried out: {outcome}");
                let subject = format!("{name} {}", order.id.get(..8).unwrap_or_default());
                self.app.alarms.raise("order_dropped", &subject, &text);
            }
            let closed = corrected.ok().flatten().unwrap_or(closed);
            if let Err(error) = self.keep_order(&name, Standing::Closed(closed)).await {
                tracing::warn!(%error, group = %name, "an order could not be closed; tried again");
            }
        }
    }

    /// An order of a group that is no more, since the modes were switched, is void.
    async fn close_orders_of_none(&mut self, now: Now) {
        let known = |name: &GroupName| self.groups.iter().any(|g| g.name() == name);
        let decides = self.groups.first().map(|g| &g.machine.group().backup) == Some(self.me());
        let mut open = self.agreed.orders.iter().filter_map(|(name, standing)| {
            let Standing::Open(order) = standing else {
                return None;
            };
            (!known(name)).then(|| order.clone())
        });
        let Some(order) = open.next().filter(|_| decides) else {
            return;
        };
        drop(open);
        if self.hearing(&order, now) != Hearing::Same {
            return;
        }
        let outcome = format!("void: there is no group {} any more", order.group);
        let (name, closed) = (order.group.clone(), order.closed(false, outcome, now.wall));
        if let Err(error) = self.keep_order(&name, Standing::Closed(closed)).await {
            tracing::warn!(%error, group = %name, "an order could not be closed; tried again");
        }
    }

    /// Heartbeats tell which order stands at the peer: sooner than mails do, and also where mails are cut.
    fn hearing(&self, order: &Order, now: Now) -> Hearing {
        match &self.peer.report {
            Some(report) if self.peer.speaks(now) => {
                report.hearing(order, self.mails_have_told_all())
            }
            _ => Hearing::Away,
        }
    }

    /// Mails have brought all that the peer said it holds.
    fn mails_have_told_all(&self) -> bool {
        let report = self.peer.report.as_ref();
        let told = report.is_none_or(|r| self.progress.have.covers(&r.have));
        told && self.session.started().is_some() && self.session.pending_in() == 0
    }

    /// Tells of an order what is true: it may have been cancelled at the peer after it was carried out here,
    /// while neither could hear the other.
    async fn check_order(&mut self, index: usize, name: &GroupName, closed: &Closed) {
        let kept = match self.corrected(name, closed).await {
            Ok(Some(corrected)) => self.keep_order(name, Standing::Closed(corrected)).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        match kept {
            Ok(()) => self.groups[index].order_checked = Some(closed.id.clone()),
            Err(error) => {
                tracing::warn!(%error, group = %name, "the end of an order could not be checked; tried again");
            }
        }
    }

    async fn corrected(
        &self,
        name: &GroupName,
        closed: &Closed,
    ) -> Result<Option<Closed>, StoreError> {
        if closed.done {
            return Ok(None);
        }
        let group = name.clone();
        let history = self.app.store(move |s| groups::history(s, &group));
        Ok(closed.corrected(&history.await?))
    }

    /// An order taken here, or known here, whose place another took that was given where it was not known.
    fn displaced(&self, order: &Order) -> Line {
        let Order {
            group,
            at,
            by,
            what,
            ..
        } = order;
        let what = what.words();
        let text = format!(
            "{what} ordered at {by} for {at} no longer stands: while the nodes could not hear one another, the other order was taken"
        );
        let subject = format!("{group} {}", order.id.get(..8).unwrap_or_default());
        self.app.alarms.raise("order_dropped", &subject, &text);
        Line {
            kind: "dropped".to_owned(),
            at: crate::clock::wall(),
            text,
        }
    }

    /// Takes on what was read from the settings; what is new in it goes into the journal.
    pub(super) async fn agree(&mut self, agreed: Agreed) {
        let mut lines = Vec::new();
        for (group, standing) in &agreed.orders {
            let before = self.agreed.orders.get(group);
            if let Some(lost) = before.and_then(|before| before.displaced_by(standing)) {
                lines.push((group.clone(), self.displaced(lost)));
            }
            if before != Some(standing) || !self.journal_read {
                lines.push((group.clone(), told(standing)));
            }
        }
        let maintenance = agreed.maintenance.as_ref();
        let begun = maintenance
            .filter(|m| self.agreed.maintenance.as_ref() != Some(*m) || !self.journal_read);
        let ended = agreed.ended.as_ref();
        let ended = ended.filter(|e| self.agreed.ended.as_ref() != Some(*e) || !self.journal_read);
        for group in &self.groups {
            if let Some(m) = begun {
                let until = m.until.map_or("it is ended".to_owned(), |u| u.to_string());
                let line = Line {
                    kind: "maintenance".to_owned(),
                    at: m.since,
                    text: format!(
                        "maintenance mode begun at {} until {until}: {}",
                        m.by, m.reason
                    ),
                };
                lines.push((group.name().clone(), line));
            }
            if let Some(e) = ended {
                let line = Line {
                    kind: "maintenance-ended".to_owned(),
                    at: e.ended,
                    text: format!("maintenance mode ended at {}", e.by),
                };
                lines.push((group.name().clone(), line));
            }
        }
        let switched = agreed.switched != self.agreed.switched;
        self.agreed = agreed;
        let features = &self.app.features;
        features.maintenance(self.agreed.maintenance.as_ref());
        // At the start the settings tell what is old.
        let news = std::mem::replace(&mut self.journal_read, true);
        if switched {
            self.switch().await;
        }
        if lines.is_empty() {
            return;
        }
        for (group, line) in lines.iter().filter(|_| news) {
            if let Ok(mut data) = serde_json::to_value(line) {
                data["group"] = group.as_str().into();
                self.app.events.publish("order", data);
            }
        }
        if let Err(error) = self.app.store(move |s| write(s, &lines)).await {
            tracing::warn!(%error, "a line of the history could not be kept");
        }
    }
}

fn told(standing: &Standing) -> Line {
    match standing {
        Standing::Open(order) => {
            let reason = order.reason.as_deref().unwrap_or_default();
            let sep = if reason.is_empty() { "" } else { ": " };
            Line {
                kind: "scheduled".to_owned(),
                at: order.made,
                text: format!(
                    "{} ordered at {} for {}{sep}{reason}",
                    order.what.words(),
                    order.by,
                    order.at
                ),
            }
        }
        Standing::Closed(closed) => Line {
            kind: if closed.done {
                "carried-out"
            } else {
                "dropped"
            }
            .to_owned(),
            at: closed.at,
            text: format!("the order: {}", closed.outcome),
        },
    }
}

/// Writing a line again changes nothing: its key is made of what it tells.
fn write(store: &Store, lines: &[(GroupName, Line)]) -> Result<(), StoreError> {
    for (group, line) in lines {
        let bytes = serde_json::to_vec(line).map_err(|e| StoreError::Invalid(e.to_string()))?;
        let key = format!("{group}/{:016}/{}", line.at.0, line.kind);
        store.put_local(JOURNAL, &key, Some(&bytes))?;
        journal(store, group)?;
    }
    Ok(())
}

/// The journal of `group`, oldest first; drops what is beyond [`JOURNAL_KEPT`].
pub(crate) fn journal(store: &Store, group: &GroupName) -> Result<Vec<Line>, StoreError> {
    let prefix = format!("{group}/");
    let mut kept = store.locals(JOURNAL)?;
    kept.retain(|(key, _)| key.starts_with(&prefix));
    let surplus = kept.len().saturating_sub(JOURNAL_KEPT);
    for (key, _) in kept.drain(..surplus) {
        store.put_local(JOURNAL, &key, None)?;
    }
    let lines = kept.iter().map(|(_, bytes)| serde_json::from_slice(bytes));
    Ok(lines.filter_map(Result::ok).collect())
}
