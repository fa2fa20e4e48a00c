//! What a row may wait for: as in [`crate::resilience`], each condition can be tested, said in words
//! and dated by one value, so that machine, operator and timer can't disagree.

use std::time::Duration;

use vmsync_config::words::Now;

use super::{Return, Seen, Setup, Side, Timers, parameters::Row};
use crate::resilience::{Maintenance, in_words};

/// Everything a condition may look at.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    /// The system decided about.
    pub setup: &'a Setup,
    /// The row of the feature.
    pub row: &'static Row,
    /// The timers in force.
    pub timers: &'a Timers,
    /// What the row's subject looks like.
    pub seen: Seen,
    /// Desk phones of the system that registered at its backup after it was gone long enough.
    pub desk_phones: u32,
    /// Who serves its phones, in this very decision.
    pub phones: Side,
    /// Maintenance mode as agreed between the nodes, also one whose time is over.
    pub maintenance: Option<&'a Maintenance>,
    /// Since when (monotonic) the node that decides is out of sight, where a takeover would be in its stead.
    pub stands_in_since: Option<Duration>,
    /// An administrator asks for failback now.
    pub asked: bool,
    /// The moment of the decision.
    pub now: Now,
}

/// Something that must be so before a feature moves.
#[derive(Debug)]
pub struct Condition {
    /// Stable code of the refusal when an administrator's request fails on it.
    pub code: &'static str,
    /// Stands before the others: while it does not hold, nothing else is waited for.
    pub gate: bool,
    /// What it asks, for the table of parameters; `{gone_for}` and `{back_for}` are the row's.
    pub asks: &'static str,
    /// Whether it is so.
    pub holds: fn(&Sight<'_>) -> bool,
    /// Completes "waiting for …".
    pub waits_for: fn(&Sight<'_>) -> String,
    /// When it will become so by time alone (monotonic).
    pub due: fn(&Sight<'_>) -> Option<Duration>,
}

/// As R-TO-6: off unless turned on.
pub(super) static SWITCHED_ON: Condition = Condition {
    code: "backup_off",
    gate: true,
    asks: "its backup is turned on",
    holds: |s| s.setup.backs_up(s.row.feature),
    waits_for: |s| {
        let (feature, name) = (s.row.feature.as_str(), &s.setup.name);
        format!(
            "backup of {feature} to be turned on (backup and backed_up of {name} in [[systems]])"
        )
    },
    due: never,
};

/// Hunt groups and conferences: without phones there is nothing they could go with.
pub(super) static PHONES_SWITCHED_ON: Condition = Condition {
    code: "phone_backup_off",
    gate: true,
    asks: "backup of phones is turned on",
    holds: |s| s.setup.backs_up(super::Feature::Phones),
    waits_for: |s| {
        format!(
            "backup of phones to be turned on (backed_up of {} in [[systems]])",
            s.setup.name
        )
    },
    due: never,
};

/// The subject is gone, for the row's time.
pub(super) static GONE: Condition = Condition {
    code: "not_gone_long_enough",
    gate: false,
    asks: "{subject} gone for {gone_for}",
    holds: |s| s.gone_due().is_some_and(|due| due <= s.now.mono),
    waits_for: |s| {
        let after = in_words((s.row.gone_for)(s.timers));
        format!("{} to stay {} for {after}", s.subject(), s.row.gone_word)
    },
    due: |s| s.gone_due(),
};

/// R-FO-1: a physical desk phone, then.
pub(super) static DESK_PHONE: Condition = Condition {
    code: "no_desk_phone",
    gate: false,
    asks: "then a desk phone registers at the backup, on no preserved call",
    holds: |s| s.desk_phones > 0,
    waits_for: |s| {
        format!(
            "a desk phone of {} to register at {}",
            s.setup.name,
            s.backup()
        )
    },
    due: never,
};

/// Hunt groups and conferences go over with the phones.
pub(super) static PHONES_OVER: Condition = Condition {
    code: "phones_at_home",
    gate: false,
    asks: "the phones fail over",
    holds: |s| s.phones == Side::Backup,
    waits_for: |s| format!("the phones of {} to fail over", s.setup.name),
    due: never,
};

/// And home with them.
pub(super) static PHONES_HOME: Condition = Condition {
    code: "phones_not_home",
    gate: false,
    asks: "the phones go home",
    holds: |s| s.phones == Side::Home,
    waits_for: |s| format!("the phones of {} to go home", s.setup.name),
    due: never,
};

/// The subject is there again.
pub(super) static BACK: Condition = Condition {
    code: "home_invisible",
    gate: true,
    asks: "{subject} back",
    holds: |s| matches!(s.seen, Some(Ok(_))),
    waits_for: |s| format!("{} to be {} again", s.subject(), s.row.back_word),
    due: never,
};

/// R-FB-7: and has been for the row's time.
pub(super) static STABLE: Condition = Condition {
    code: "home_not_stable",
    gate: false,
    asks: "{subject} back for {back_for}",
    holds: |s| s.back_due().is_some_and(|due| due <= s.now.mono),
    waits_for: |s| {
        let span = in_words((s.row.back_for)(s.timers));
        format!("{} to stay {} for {span}", s.subject(), s.row.back_word)
    },
    due: |s| s.back_due(),
};

/// DECT without *prioritize primary* and a manual portal wait for somebody.
pub(super) static AUTOMATIC_OR_ASKED: Condition = Condition {
    code: "manual",
    gate: false,
    asks: "{automatic}, else an administrator",
    holds: |s| s.asked || s.automatic(),
    waits_for: |s| {
        let (name, feature) = (&s.setup.name, s.row.feature.as_str());
        format!("an administrator to start failback of {feature} of {name}")
    },
    due: never,
};

/// Stands before everything that happens without an administrator, as for voicemail.
pub(super) static NO_MAINTENANCE: Condition = Condition {
    code: "maintenance",
    gate: false,
    asks: "no maintenance mode is on",
    holds: |s| s.asked || s.maintenance_on().is_none(),
    waits_for: |s| {
        s.maintenance_on().map_or_else(
            || "maintenance mode to end".to_owned(),
            Maintenance::waits_for,
        )
    },
    due: |s| {
        let until = s.maintenance_on()?.until?;
        let left = Duration::from_millis(until.0.saturating_sub(s.now.wall.0));
        Some(s.now.mono.saturating_add(left))
    },
};

/// A node that only stands in takes nothing over while the other one just restarts.
pub(super) static DECIDER_GONE: Condition = Condition {
    code: "decider_may_be_back",
    gate: false,
    asks: "the node that decides is here, or gone for long enough",
    holds: |s| s.stand_in_due().is_none_or(|due| due <= s.now.mono),
    waits_for: |s| {
        let after = in_words(s.patience());
        let decider = s.setup.decider.as_ref();
        let decider = decider.map_or("the other node", vmsync_config::words::NodeId::as_str);
        format!("{decider}, which decides, to stay out of sight for {after}")
    },
    due: |s| s.stand_in_due(),
};

impl Sight<'_> {
    /// How long the node that decides may be out of sight: a restart is shorter.
    fn patience(&self) -> Duration {
        self.timers.invisible_after.min(self.timers.failover_after)
    }

    fn stand_in_due(&self) -> Option<Duration> {
        Some(self.stands_in_since?.saturating_add(self.patience()))
    }

    fn maintenance_on(&self) -> Option<&Maintenance> {
        self.maintenance.filter(|m| m.is_on(self.now.wall))
    }

    fn gone_due(&self) -> Option<Duration> {
        let since = self.seen?.err()?;
        Some(since.saturating_add((self.row.gone_for)(self.timers)))
    }

    fn back_due(&self) -> Option<Duration> {
        let since = self.seen?.ok()?;
        Some(since.saturating_add((self.row.back_for)(self.timers)))
    }

    /// Whether this feature of this system goes home without being asked.
    pub(super) fn automatic(&self) -> bool {
        match self.row.feature {
            super::Feature::Dect => self.setup.prioritize_primary,
            super::Feature::Portal => self.setup.portal_failback == Return::Automatic,
            _ => true,
        }
    }

    pub(super) fn subject(&self) -> String {
        self.row.watches.of(self.setup.name.as_str())
    }

    pub(super) fn backup(&self) -> &str {
        let backup = self.setup.backup.as_ref();
        backup.map_or("its backup", vmsync_config::words::SystemName::as_str)
    }
}

fn never(_: &Sight<'_>) -> Option<Duration> {
    None
}
