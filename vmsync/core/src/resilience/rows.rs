//! The machine itself: rows, the gates before them, and what sight alone changes.
//!
//! This table is what runs, what `vmsync explain fsm` prints, and what docs/resilience.md shows.
//! A row's sentence is the log line and the API's `reason` too; `{home}`, `{backup}`,
//! `{failover_after}`, `{timeout}` and `{calls}` are filled in when it fires.

use vmsync_config::{FailbackPolicy, Trigger};

use super::{
    Phase, Request,
    conditions::{
        Condition, DESK_PHONE, HOME_SPEAKS, HOME_VISIBLE, INVISIBLE_LONG_ENOUGH, NO_CALLS,
        NO_MAINTENANCE, NOT_FLAPPING, NOT_HELD, RESILIENCE_ON, STABLE, SYNC_FINISHED, SYNC_STARTED,
        TIMEOUT, WITNESS,
    },
};

/// What makes a row eligible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The configured failover trigger.
    Trigger(Trigger),
    /// The failback policy in force.
    Policy(FailbackPolicy),
    /// An operator's request.
    Operator(Request),
}

/// Who owns the group after a row has fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Failover.
    Backup,
    /// Failback.
    Home,
}

/// One transition.
#[derive(Debug)]
pub struct Row {
    /// Stable name, for events and metrics.
    pub id: &'static str,
    /// The rule it implements.
    pub rule: &'static str,
    /// Phases it may fire in.
    pub from: &'static [Phase],
    /// What makes it eligible.
    pub cause: Cause,
    /// All must hold.
    pub conditions: &'static [&'static Condition],
    /// Where the group goes.
    pub target: Target,
    /// Why, in one sentence.
    pub because: &'static str,
}

/// Stands before every row that leads to the backup.
pub static FAILOVER_GATE: [&Condition; 1] = [&RESILIENCE_ON];

/// Stands before every row that leads home, an operator's forced request included (R-FB-1, R-FB-2).
pub static FAILBACK_GATE: [&Condition; 3] = [&HOME_VISIBLE, &HOME_SPEAKS, &SYNC_STARTED];

/// Stands before every row that fires without an operator, in either direction.
pub static UNATTENDED_GATE: [&Condition; 1] = [&NO_MAINTENANCE];

/// All transitions, tried in this order.
pub static ROWS: [Row; 8] = [
    Row {
        id: "failover-phones",
        rule: "R-FO-1",
        from: &[Phase::Pending],
        cause: Cause::Trigger(Trigger::Phones),
        conditions: &[&INVISIBLE_LONG_ENOUGH, &DESK_PHONE, &WITNESS],
        target: Target::Backup,
        because: "{home} was invisible for {failover_after}, then a desk phone of it registered at the system of {backup}",
    },
    Row {
        id: "failover-visibility",
        rule: "R-FO-2",
        from: &[Phase::Pending],
        cause: Cause::Trigger(Trigger::Visibility),
        conditions: &[&INVISIBLE_LONG_ENOUGH, &WITNESS],
        target: Target::Backup,
        because: "{home} was invisible for {failover_after}",
    },
    Row {
        id: "failover-operator",
        rule: "R-FO-4",
        from: &[Phase::Normal, Phase::Pending],
        cause: Cause::Operator(Request::ActivateBackup),
        conditions: &[],
        target: Target::Backup,
        because: "an operator activated the backup {backup}",
    },
    Row {
        id: "failback-graceful",
        rule: "R-FB-3",
        from: &[Phase::Returning],
        cause: Cause::Policy(FailbackPolicy::Graceful),
        conditions: &[&NOT_HELD, &STABLE, &NOT_FLAPPING, &NO_CALLS, &SYNC_FINISHED],
        target: Target::Home,
        because: "{home} is back, all calls on {backup} have ended and synchronisation has finished",
    },
    Row {
        id: "failback-automatic-calls",
        rule: "R-FB-4",
        from: &[Phase::Returning],
        cause: Cause::Policy(FailbackPolicy::Automatic),
        conditions: &[&NOT_HELD, &STABLE, &NOT_FLAPPING, &NO_CALLS],
        target: Target::Home,
        because: "{home} is back and all calls on {backup} have ended",
    },
    Row {
        id: "failback-automatic-timeout",
        rule: "R-FB-4",
        from: &[Phase::Returning],
        cause: Cause::Policy(FailbackPolicy::Automatic),
        conditions: &[&NOT_HELD, &STABLE, &NOT_FLAPPING, &TIMEOUT],
        target: Target::Home,
        because: "the timeout of {timeout} has run out since {home} came back; calls left to end on {backup}: {calls}",
    },
    Row {
        id: "failback-operator",
        rule: "R-FB-6",
        from: &[Phase::Returning],
        cause: Cause::Operator(Request::Failback { force: false }),
        conditions: &[&NO_CALLS],
        target: Target::Home,
        because: "an administrator started failback to {home}",
    },
    Row {
        id: "failback-forced",
        rule: "R-FB-6",
        from: &[Phase::Returning],
        cause: Cause::Operator(Request::Failback { force: true }),
        conditions: &[],
        target: Target::Home,
        because: "an administrator forced failback to {home}; calls left to end on {backup}: {calls}",
    },
];

/// A change of phase by sight alone: ownership stays.
#[derive(Debug)]
pub struct Glance {
    /// From.
    pub from: Phase,
    /// To.
    pub to: Phase,
    /// What was seen.
    pub because: &'static str,
}

/// All changes by sight alone.
pub static GLANCES: [Glance; 4] = [
    Glance {
        from: Phase::Normal,
        to: Phase::Pending,
        because: "home invisible",
    },
    Glance {
        from: Phase::Pending,
        to: Phase::Normal,
        because: "home visible again, the timer starts anew (R-FO-3)",
    },
    Glance {
        from: Phase::Resilience,
        to: Phase::Returning,
        because: "home visible again",
    },
    Glance {
        from: Phase::Returning,
        to: Phase::Resilience,
        because: "home invisible again, synchronisation must start anew",
    },
];

impl Target {
    /// The gate before every row with this target.
    pub fn gate(self) -> &'static [&'static Condition] {
        match self {
            Self::Backup => &FAILOVER_GATE,
            Self::Home => &FAILBACK_GATE,
        }
    }
}

impl Row {
    /// The phases this row may end in: known but for whether the home is visible.
    pub fn to(&self, from: Phase) -> Phase {
        match (self.target, from) {
            (Target::Home, _) => Phase::Normal,
            (Target::Backup, Phase::Normal) => Phase::Returning,
            (Target::Backup, _) => Phase::Resilience,
        }
    }
}
