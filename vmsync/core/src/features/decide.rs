//! The decision about one feature of one system. Pure; deciding without applying is the dry run.

use std::time::Duration;

use serde::Serialize;

use super::{
    Phase, Side, Standing,
    conditions::{AUTOMATIC_OR_ASKED, Condition, DECIDER_GONE, NO_MAINTENANCE, Sight},
};
use crate::resilience::in_words;

/// What follows for one feature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// A transition: make it durable, then act on it.
    pub standing: Option<Standing>,
    /// The phase after this decision.
    pub phase: Phase,
    /// What the next transition still needs, in words; empty in normal operation.
    pub waiting_for: Vec<String>,
    /// Decide again then (monotonic), even when nothing happens.
    pub deadline: Option<Duration>,
}

impl Outlook {
    /// Of what the other node decides: it alone knows what is pending.
    pub(super) fn left_to_the_other(side: Side, sight: &Sight<'_>) -> Self {
        let over = side == Side::Backup;
        let decider = sight.setup.decider.as_ref().filter(|_| over);
        let waiting_for = decider.map(|d| format!("{d} to bring it home"));
        Self {
            standing: None,
            phase: if over {
                phase(side, sight)
            } else {
                Phase::Normal
            },
            waiting_for: waiting_for.into_iter().collect(),
            deadline: None,
        }
    }

    /// Of what the other node decided later than this one knew.
    pub(super) fn following(standing: Standing, sight: &Sight<'_>) -> Self {
        Self {
            phase: phase(standing.side, sight),
            standing: Some(standing),
            waiting_for: Vec::new(),
            deadline: None,
        }
    }
}

/// Why an administrator's request was not granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// Stable: `already_there`, `not_manual`, `home_invisible`, `stale_expected_state`,
    /// `no_such_system`.
    pub code: &'static str,
    /// What stands in the way and what to do.
    pub reason: String,
}

/// Decides; changes nothing. Call it whenever anything in `sight` changes, and at
/// [`Outlook::deadline`].
pub fn decide(standing: &Standing, sight: &Sight<'_>) -> Outlook {
    let fires = unmet(sight, conditions(standing.side, sight)).is_empty();
    let next = fires.then(|| after(standing, sight));
    let side = next.as_ref().map_or(standing.side, |s| s.side);
    // What was asked for was asked of this decision alone.
    let rest = Sight {
        asked: false,
        ..*sight
    };
    let phase = phase(side, sight);
    let (waiting_for, deadline) = if phase == Phase::Normal {
        (Vec::new(), None)
    } else {
        let mut missing = unmet(&rest, conditions(side, &rest));
        if missing.iter().any(|c| c.gate) {
            missing.retain(|c| c.gate);
        }
        let words = missing.iter().map(|c| (c.waits_for)(&rest)).collect();
        let dues = missing.iter().filter_map(|c| (c.due)(&rest));
        (words, dues.filter(|due| *due > sight.now.mono).min())
    };
    Outlook {
        standing: next,
        phase,
        waiting_for,
        deadline,
    }
}

/// Whether an administrator may start failback now.
pub(super) fn may_fail_back(standing: &Standing, sight: &Sight<'_>) -> Result<(), Refused> {
    let (feature, name) = (sight.row.feature.as_str(), &sight.setup.name);
    let refused = |code, reason| Err(Refused { code, reason });
    if standing.side == Side::Home {
        return refused(
            "already_there",
            format!("{feature} of {name} is served by {name} already"),
        );
    }
    let by_hand = sight
        .row
        .failback
        .iter()
        .any(|c| c.code == AUTOMATIC_OR_ASKED.code);
    let asked = Sight {
        asked: true,
        ..*sight
    };
    let missing = unmet(&asked, sight.row.failback);
    match missing.first() {
        Some(condition) if by_hand => refused(
            condition.code,
            format!(
                "failback of {feature} of {name} needs {}",
                (condition.waits_for)(&asked)
            ),
        ),
        _ if !by_hand => refused(
            "not_manual",
            format!("{feature} of {name} goes home by itself; see waiting_for"),
        ),
        _ => Ok(()),
    }
}

fn conditions(side: Side, sight: &Sight<'_>) -> &'static [&'static Condition] {
    match side {
        Side::Home => sight.row.failover,
        Side::Backup => sight.row.failback,
    }
}

/// Before every row, whatever the feature.
static ALWAYS: [&Condition; 2] = [&NO_MAINTENANCE, &DECIDER_GONE];

fn unmet(sight: &Sight<'_>, of: &'static [&'static Condition]) -> Vec<&'static Condition> {
    let all = of.iter().chain(&ALWAYS).copied();
    all.filter(|c| !(c.holds)(sight)).collect()
}

/// As for voicemail. Of what nothing is known, nothing is expected.
fn phase(side: Side, sight: &Sight<'_>) -> Phase {
    match (side, sight.seen) {
        (Side::Home, Some(Err(_))) => Phase::Pending,
        (Side::Home, _) => Phase::Normal,
        (Side::Backup, Some(Ok(_))) => Phase::Returning,
        (Side::Backup, _) => Phase::Resilience,
    }
}

fn after(standing: &Standing, sight: &Sight<'_>) -> Standing {
    let (side, because) = match standing.side {
        Side::Home => (Side::Backup, sight.row.failover_because),
        Side::Backup => (Side::Home, sight.row.failback_because),
    };
    let because = because
        .replace("{subject}", &sight.subject())
        .replace("{backup}", sight.backup())
        .replace("{gone_for}", &in_words((sight.row.gone_for)(sight.timers)))
        .replace("{back_for}", &in_words((sight.row.back_for)(sight.timers)));
    let because = if sight.asked && !sight.automatic() {
        format!("an administrator started failback, {because}")
    } else {
        because
    };
    Standing {
        epoch: standing.epoch.saturating_add(1),
        side,
        since: sight.now.wall,
        because,
        by: None,
    }
}
