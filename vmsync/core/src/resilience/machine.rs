//! The decision about one group: gate, rows, and what is still waited for.

use std::time::Duration;

use serde::Serialize;
use vmsync_config::{
    FailbackPolicy, Group,
    words::{Now, UnixMillis},
};

use super::{
    Ask, Ownership, Phase, Request, Rules, TIMEOUT_CAP, View,
    conditions::{Condition, NO_MAINTENANCE, Sight, in_words, recent},
    rows::{Cause, ROWS, Row, Target, UNATTENDED_GATE},
};

/// Failovers remembered for flap damping; the hold-off has long reached its cap by then.
const REMEMBERED: usize = 16;

/// The resilience machine of one group. Holds no state: what lasts is in [`Ownership`].
#[derive(Debug, Clone)]
pub struct Machine {
    group: Group,
}

/// What follows from what is known now.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Make this durable, then act on it. Its epoch is one higher when a row fired; the same when
    /// only [`Ownership::held`] ended.
    pub ownership: Option<Ownership>,
    /// The row that fired ([`Row::id`]); `None` = no failover or failback.
    pub row: Option<&'static str>,
    /// Why the request was refused.
    pub refused: Option<Refused>,
    /// The phase after this decision.
    pub phase: Phase,
    /// What the next transition still needs, in words; empty in normal operation.
    pub waiting_for: Vec<String>,
    /// Decide again then (monotonic), even when nothing happens.
    pub deadline: Option<Duration>,
    /// When the automatic policy goes home at the latest (monotonic).
    pub failback_deadline: Option<Duration>,
    /// The hold-off of a flapping home that is back.
    pub hold_off: Option<HoldOff>,
}

/// Flap damping at work ([`Rules::hold_off`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldOff {
    /// Failovers without an operator within [`super::FLAP_WINDOW`].
    pub flaps: usize,
    /// How long the home must stay visible.
    pub span: Duration,
    /// When it has (monotonic).
    pub until: Option<Duration>,
}

/// Why an operator's request was not granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// Stable: `resilience_off`, `home_invisible`, `home_silent`, `sync_not_started`,
    /// `calls_active`, `already_there`, `not_backup` (send it to the backup), `stale_expected_owner`.
    pub code: &'static str,
    /// What stands in the way and what to do.
    pub reason: String,
}

impl Machine {
    /// The machine of `group`.
    pub fn new(group: Group) -> Self {
        Self { group }
    }

    /// The group as configured.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Where the group stands for `me`, which sees its peer or doesn't. The home always sees
    /// itself, so it never calls itself pending.
    pub fn phase(&self, ownership: &Ownership, view: &View) -> Phase {
        let visible = view.peer.is_ok();
        if ownership.owner == self.group.backup {
            if visible {
                Phase::Returning
            } else {
                Phase::Resilience
            }
        } else if visible || view.me == self.group.home {
            Phase::Normal
        } else {
            Phase::Pending
        }
    }

    /// Decides; changes nothing. Call it whenever anything in `view`, `rules` or `ownership`
    /// changes, at [`Decision::deadline`], and for each request.
    ///
    /// Only the group's backup ever decides a transition: it is the one that fails over, and it is
    /// the owner when it is time to fail back. On the home a request is refused with `not_backup`;
    /// forward it.
    pub fn decide(
        &self,
        ownership: &Ownership,
        view: &View,
        rules: &Rules,
        ask: Option<&Ask>,
        now: Now,
    ) -> Decision {
        let sight = Sight {
            group: &self.group,
            ownership,
            view,
            rules,
            now,
        };
        if view.me != self.group.backup {
            return self.at_home(&sight, ask);
        }
        let phase = self.phase(ownership, view);
        let outcome = match ask {
            Some(ask) => self.requested(&sight, phase, ask),
            None => Ok(due_row(&sight, phase)),
        };
        match outcome {
            Ok(Some(row)) => {
                let next = self.after(row, &sight, ask.and_then(|a| a.reason.as_deref()));
                self.outlook(&sight, Some((next, Some(row.id))), None)
            }
            Ok(None) => {
                let ended = if ask.is_some() {
                    unheld(&sight)
                } else {
                    released(&sight)
                };
                self.outlook(&sight, ended.map(|o| (o, None)), None)
            }
            Err(refused) => self.outlook(&sight, None, Some(refused)),
        }
    }

    fn at_home(&self, sight: &Sight<'_>, ask: Option<&Ask>) -> Decision {
        let phase = self.phase(sight.ownership, sight.view);
        let backup = &self.group.backup;
        let refused = ask.map(|ask| {
            stale(sight, ask).unwrap_or_else(|| Refused {
                code: "not_backup",
                reason: format!(
                    "{backup} decides about group {}; ask there",
                    self.group.name
                ),
            })
        });
        let waiting_for = match phase {
            Phase::Normal | Phase::Pending => Vec::new(),
            Phase::Resilience | Phase::Returning => vec![format!("{backup} to fail back")],
        };
        Decision {
            ownership: None,
            row: None,
            refused,
            phase,
            waiting_for,
            deadline: None,
            failback_deadline: None,
            hold_off: None,
        }
    }

    /// `Ok(None)`: nothing fires now, but the hold ends, so the policy goes on by itself.
    fn requested(
        &self,
        sight: &Sight<'_>,
        phase: Phase,
        ask: &Ask,
    ) -> Result<Option<&'static Row>, Refused> {
        if let Some(refused) = stale(sight, ask) {
            return Err(refused);
        }
        let Group { name, home, backup } = &self.group;
        let (target, serving) = match ask.request {
            Request::ActivateBackup => (Target::Backup, backup),
            Request::Failback { .. } => (Target::Home, home),
        };
        if target == direction(phase).opposite() {
            return Err(Refused {
                code: "already_there",
                reason: format!("group {name} is served by {serving} already"),
            });
        }
        let row = ROWS
            .iter()
            .find(|r| r.cause == Cause::Operator(ask.request));
        let conditions = row.map_or(&[][..], |r| r.conditions);
        match first_unmet(sight, target.gate()).or_else(|| first_unmet(sight, conditions)) {
            None => Ok(row),
            Some(unmet) if leaves_to_policy(sight, unmet) => Ok(None),
            Some(unmet) => Err(Refused {
                code: unmet.code,
                reason: self.needs(sight, target, unmet),
            }),
        }
    }

    fn needs(&self, sight: &Sight<'_>, target: Target, unmet: &Condition) -> String {
        let (what, name) = match target {
            Target::Backup => ("failover", &self.group.name),
            Target::Home => ("failback", &self.group.name),
        };
        let hint = if unmet.code == "calls_active" {
            "; wait, or force it: the calls are then finished where they are"
        } else {
            ""
        };
        let needed = (unmet.waits_for)(sight);
        format!("{what} of group {name} needs {needed}{hint}")
    }

    fn after(&self, row: &Row, sight: &Sight<'_>, words: Option<&str>) -> Ownership {
        let mut reason = fill(row.because, sight);
        let words: String = words
            .unwrap_or_default()
            .chars()
            .filter(|c| !c.is_control())
            .take(200)
            .collect();
        if !words.is_empty() {
            reason = format!("{reason}: {words}");
        }
        let owner = match row.target {
            Target::Backup => &self.group.backup,
            Target::Home => &self.group.home,
        };
        Ownership {
            group: self.group.name.clone(),
            epoch: sight.ownership.epoch.saturating_add(1),
            owner: owner.clone(),
            since: sight.now.wall,
            reason,
            held: row.target == Target::Backup && sight.view.peer.is_ok(),
            row: Some(row.id.to_owned()),
            failovers: failovers(row, sight),
            order: None,
        }
    }

    /// The decision with what is waited for *after* it.
    fn outlook(
        &self,
        sight: &Sight<'_>,
        change: Option<(Ownership, Option<&'static str>)>,
        refused: Option<Refused>,
    ) -> Decision {
        let (ownership, row) = match change {
            Some((ownership, row)) => (Some(ownership), row),
            None => (None, None),
        };
        let sight = Sight {
            ownership: ownership.as_ref().unwrap_or(sight.ownership),
            ..*sight
        };
        let phase = self.phase(sight.ownership, sight.view);
        let (waiting_for, deadline) = if phase == Phase::Normal {
            (Vec::new(), None)
        } else {
            awaited(&sight, direction(phase))
        };
        let automatic = phase == Phase::Returning
            && sight.rules.policy == FailbackPolicy::Automatic
            && !sight.ownership.held
            && (NO_MAINTENANCE.holds)(&sight);
        let failback_deadline = automatic.then(|| sight.automatic_deadline()).flatten();
        let flapping = phase == Phase::Returning && !sight.hold_off().is_zero();
        let hold_off = flapping.then(|| HoldOff {
            flaps: sight.flaps(),
            span: sight.hold_off(),
            until: sight.hold_off_due(),
        });
        Decision {
            ownership,
            row,
            refused,
            phase,
            waiting_for,
            deadline,
            failback_deadline,
            hold_off,
        }
    }
}

impl Target {
    fn opposite(self) -> Self {
        match self {
            Self::Backup => Self::Home,
            Self::Home => Self::Backup,
        }
    }
}

/// Where the next transition leads.
fn direction(phase: Phase) -> Target {
    match phase {
        Phase::Normal | Phase::Pending => Target::Backup,
        Phase::Resilience | Phase::Returning => Target::Home,
    }
}

/// The rows that may fire without an operator under the rules in force, alternatives of one another.
fn unattended(rules: &Rules, target: Target) -> impl Iterator<Item = &'static Row> {
    let cause = match target {
        Target::Backup => Cause::Trigger(rules.trigger),
        Target::Home => Cause::Policy(rules.policy),
    };
    ROWS.iter().filter(move |row| row.cause == cause)
}

fn due_row(sight: &Sight<'_>, phase: Phase) -> Option<&'static Row> {
    unattended(sight.rules, direction(phase)).find(|row| {
        row.from.contains(&phase)
            && first_unmet(sight, row.target.gate()).is_none()
            && first_unmet(sight, &UNATTENDED_GATE).is_none()
            && first_unmet(sight, row.conditions).is_none()
    })
}

fn first_unmet<'c>(sight: &Sight<'_>, conditions: &[&'c Condition]) -> Option<&'c Condition> {
    conditions.iter().copied().find(|c| !(c.holds)(sight))
}

/// The home was seen to go away, so what comes next is a return (R-FB-1).
fn released(sight: &Sight<'_>) -> Option<Ownership> {
    unheld(sight).filter(|_| sight.view.peer.is_err())
}

fn unheld(sight: &Sight<'_>) -> Option<Ownership> {
    sight.ownership.held.then(|| Ownership {
        held: false,
        ..sight.ownership.clone()
    })
}

/// An administrator asked for the failback of a held group while calls are active: the hold was all
/// that stood in the policy's way, so the request is granted by ending it (R-FB-6).
fn leaves_to_policy(sight: &Sight<'_>, unmet: &Condition) -> bool {
    sight.ownership.held
        && unmet.code == "calls_active"
        && sight.rules.policy != FailbackPolicy::Manual
}

/// What flap damping will count: the failovers of the last hour that no operator asked for. Those
/// that seem to lie ahead are of a clock that was wrong.
fn failovers(row: &Row, sight: &Sight<'_>) -> Vec<UnixMillis> {
    let now = sight.now.wall;
    let mut all: Vec<_> = recent(&sight.ownership.failovers, now).collect();
    all.retain(|at| *at <= now);
    if row.target == Target::Backup && matches!(row.cause, Cause::Trigger(_)) {
        all.push(now);
    }
    let surplus = all.len().saturating_sub(REMEMBERED);
    all.drain(..surplus);
    all
}

fn stale(sight: &Sight<'_>, ask: &Ask) -> Option<Refused> {
    let expected = ask.expected_owner.as_ref()?;
    let Ownership { owner, since, .. } = sight.ownership;
    (expected != owner).then(|| Refused {
        code: "stale_expected_owner",
        reason: format!(
            "group {} is served by {owner} since {since}, not by {expected}; look again, then decide",
            sight.group.name
        ),
    })
}

/// What is missing, and when time alone may change that: the gate first, then the first row in
/// full, then what its alternatives need instead.
fn awaited(sight: &Sight<'_>, target: Target) -> (Vec<String>, Option<Duration>) {
    let closed = unmet(sight, target.gate());
    if !closed.is_empty() {
        return (words(sight, &closed), None);
    }
    let mut rows = unattended(sight.rules, target);
    let Some(first) = rows.next() else {
        let who = match target {
            Target::Backup => "an operator to activate the backup",
            Target::Home => "an administrator to start failback",
        };
        return (vec![who.to_owned()], None);
    };
    let paused = unmet(sight, &UNATTENDED_GATE);
    if !paused.is_empty() {
        let due = paused.iter().filter_map(|c| (c.due)(sight)).min();
        return (words(sight, &paused), due);
    }
    let mut missing = unmet(sight, first.conditions);
    let mut waiting_for = words(sight, &missing);
    for row in rows {
        let mut instead = unmet(sight, row.conditions);
        instead.retain(|c| !missing.iter().any(|m| std::ptr::eq(*m, *c)));
        let alternative = words(sight, &instead);
        waiting_for.extend(alternative.iter().map(|w| format!("or {w}")));
        missing.extend(instead);
    }
    let dues = missing.iter().filter_map(|c| (c.due)(sight));
    let deadline = dues.filter(|due| *due > sight.now.mono).min();
    (waiting_for, deadline)
}

fn unmet(sight: &Sight<'_>, of: &[&'static Condition]) -> Vec<&'static Condition> {
    of.iter().copied().filter(|c| !(c.holds)(sight)).collect()
}

fn words(sight: &Sight<'_>, of: &[&Condition]) -> Vec<String> {
    of.iter().map(|c| (c.waits_for)(sight)).collect()
}

/// Fills a row's sentence with the names and figures of this moment.
fn fill(because: &str, sight: &Sight<'_>) -> String {
    because
        .replace("{home}", sight.group.home.as_str())
        .replace("{backup}", sight.group.backup.as_str())
        .replace("{failover_after}", &in_words(sight.rules.failover_after))
        .replace("{timeout}", &in_words(sight.rules.timeout.min(TIMEOUT_CAP)))
        .replace("{calls}", &sight.view.calls.to_string())
}
