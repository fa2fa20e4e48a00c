//! Orders for later in this node: taken at either, carried out by the group's backup, told by both.
//!
//! Order of effects: a transition is durable before its order is closed. If the node dies between
//! the two, the order finds the group in another epoch and is void; nothing happens twice.

use vmsync_config::words::{GroupName, Now, UnixMillis};
use vmsync_core::resilience::{Doing, LATE, Order, Ownership, Request, Standing};
use vmsync_store::{Store, StoreError};

use super::{Node, requests::refused};
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
        let order = self.order(index, request, guard, at, until, now)?;
        let what = format!(
            "scheduled for {at}, at the latest {until}: {}",
            words(&order)
        );
        self.place(index, order, what, guard.dry_run).await
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
        let order = self.order(index, request, guard, now.wall, until, now)?;
        let what = format!(
            "noted: {backup} decides and can't be asked; {} as soon as it is told and can, until {until}",
            words(&order)
        );
        self.place(index, order, what, guard.dry_run).await
    }

    fn order(
        &self,
        index: usize,
        request: Request,
        guard: &Guard,
        at: UnixMillis,
        until: UnixMillis,
        now: Now,
    ) -> Result<Order, Refused> {
        let group = &self.groups[index];
        let ask = super::requests::ask(request, guard)?;
        let target = match request {
            Request::ActivateBackup => &group.machine.group().backup,
            Request::Failback { .. } => &group.machine.group().home,
        };
        let Ownership { owner, since, .. } = &group.ownership;
        if ask.expected_owner.as_ref().is_some_and(|e| e != owner) {
            return Err(refused(
                "stale_expected_owner",
                &format!(
                    "group {} is served by {owner} since {since}; look again, then decide",
                    group.name()
                ),
            ));
        }
        if target == owner {
            return Err(refused(
                "already_there",
                &format!("group {} is served by {owner} already", group.name()),
            ));
        }
        Ok(Order {
            id: uuid::Uuid::new_v4().to_string(),
            group: group.name().clone(),
            what: request.into(),
            expected_owner: ask.expected_owner,
            reason: ask.reason.map(|r| r.chars().take(200).collect()),
            at,
            until,
            epoch: group.ownership.epoch,
            made: now.wall,
            by: self.me().clone(),
        })
    }

    async fn place(
        &mut self,
        index: usize,
        order: Order,
        what: String,
        dry_run: bool,
    ) -> Result<Outcome, Refused> {
        let Ownership { owner, epoch, .. } = self.groups[index].ownership.clone();
        let group = order.group.clone();
        if let Some(Standing::Open(stands)) = self.agreed.orders.get(&group)
            && stands.epoch == epoch
            && order.made <= stands.until
        {
            return Err(refused(
                "already_scheduled",
                &format!(
                    "{} stands for {} (ordered at {}): cancel it first",
                    words(stands),
                    stands.at,
                    stands.by
                ),
            ));
        }
        if !dry_run {
            self.keep_order(&group, Standing::Open(order.clone()))
                .await
                .map_err(|e| refused("not_durable", &format!("{e}; nothing was changed")))?;
        }
        Ok(Outcome {
            group: group.to_string(),
            owner: owner.to_string(),
            epoch,
            what,
            dry_run,
            waiting_for: self.groups[index].decision.waiting_for.clone(),
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
        // What was ordered or cancelled at the peer meanwhile must be known first, where it is there.
        if self.peer.visible() && !self.knows_what_the_peer_does() {
            return;
        }
        for index in 0..self.groups.len() {
            if self.groups[index].machine.group().backup != *self.me() {
                continue;
            }
            let name = self.groups[index].name().clone();
            let Some(Standing::Open(order)) = self.agreed.orders.get(&name).cloned() else {
                continue;
            };
            let owned = &self.groups[index].ownership;
            let done_before = owned.order.as_ref() == Some(&order.id);
            let closed = match order.doing(owned, now) {
                // Carried out, and then this node ended before it could close it.
                _ if done_before => (true, owned.reason.clone()),
                Doing::Wait(due) => {
                    self.groups[index].order_due = Some(due);
                    continue;
                }
                Doing::Drop(why) => (false, why),
                Doing::Ask(ask) => {
                    let calls = self.calls_on_owner(index);
                    let (seen, rules) = (self.seen(now), self.rules());
                    let decision = self.groups[index].decide(&seen, calls, &rules, Some(&ask), now);
                    match (decision.refused, decision.ownership) {
                        (Some(no), _) if order.outwaits(&no) => continue,
                        (Some(no), _) => (false, no.reason),
                        (None, Some(mut next)) => {
                            let transition = decision.row.is_some();
                            let outcome = if transition {
                                next.order = Some(order.id.clone());
                                next.reason.clone()
                            } else {
                                "failback goes on by itself, as the policy says".to_owned()
                            };
                            if self.own(index, next, transition).await.is_err() {
                                continue;
                            }
                            self.decide_all(now).await;
                            (true, outcome)
                        }
                        (None, None) => (false, "nothing would change".to_owned()),
                    }
                }
            };
            let (done, outcome) = closed;
            if !done {
                let text = format!("an order of an operator was not carried out: {outcome}");
                let subject = format!("{name} {}", order.id.get(..8).unwrap_or_default());
                self.app.alarms.raise("order_dropped", &subject, &text);
            }
            let closed = order.closed(done, outcome, now.wall);
            if let Err(error) = self.keep_order(&name, Standing::Closed(closed)).await {
                tracing::warn!(%error, group = %name, "an order could not be closed; tried again");
            }
        }
    }

    /// Mails have brought all that the peer said it holds. Its heartbeats say that sooner than its mails,
    /// and also where mails are cut.
    fn knows_what_the_peer_does(&self) -> bool {
        let report = self.peer.report.as_ref();
        let told = report.is_none_or(|r| self.progress.have.covers(&r.have));
        told && self.session.started().is_some() && self.session.pending_in() == 0
    }

    /// Takes on what was read from the settings; what is new in it goes into the journal.
    pub(super) async fn agree(&mut self, agreed: Agreed) {
        let mut lines = Vec::new();
        for (group, standing) in &agreed.orders {
            if self.agreed.orders.get(group) != Some(standing) || !self.journal_read {
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

fn words(order: &Order) -> &'static str {
    match Request::from(order.what) {
        Request::ActivateBackup => "activate the backup",
        Request::Failback { force: false } => "failback",
        Request::Failback { force: true } => "forced failback",
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
                    words(order),
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
