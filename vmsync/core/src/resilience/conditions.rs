//! What a row may wait for: each condition can be tested, said in words, and dated.
//!
//! One value serves three readers, so that they can't disagree: the machine (`holds`), the operator
//! (`waits_for`), and the shell's timer (`due`). Words carry no running counters of seconds: they
//! change only when something happened, so they can go on the event stream.

use std::time::Duration;

use vmsync_config::{
    Group,
    words::{Now, UnixMillis},
};

use super::{FLAP_WINDOW, FLAPS, Ownership, Rules, TIMEOUT_CAP, View};

/// Everything a condition may look at.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    /// The group decided about.
    pub group: &'a Group,
    /// Who owns it.
    pub ownership: &'a Ownership,
    /// What its backup sees.
    pub view: &'a View,
    /// The rules in force.
    pub rules: &'a Rules,
    /// The moment of the decision.
    pub now: Now,
}

/// Something that must be so before a row fires or a gate opens.
#[derive(Debug)]
pub struct Condition {
    /// Stable code of the refusal when an operator's request fails on it.
    pub code: &'static str,
    /// What it asks, as printed by `vmsync explain fsm`.
    pub asks: &'static str,
    /// Whether it is so.
    pub holds: fn(&Sight<'_>) -> bool,
    /// Completes "waiting for …" and "needs …".
    pub waits_for: fn(&Sight<'_>) -> String,
    /// When it will become so by time alone (monotonic).
    pub due: fn(&Sight<'_>) -> Option<Duration>,
}

/// R-TO-6.
pub(super) static RESILIENCE_ON: Condition = Condition {
    code: "resilience_off",
    asks: "resilience of voicemail is turned on (R-TO-6)",
    holds: |s| s.rules.backs_up_voicemail,
    waits_for: |s| {
        format!(
            "resilience of voicemail to be turned on (set backs_up_voicemail = true in [resilience] on {})",
            s.group.backup
        )
    },
    due: never,
};

/// R-FB-1, first half.
pub(super) static HOME_VISIBLE: Condition = Condition {
    code: "home_invisible",
    asks: "the home is visible again (R-FB-1)",
    holds: |s| s.view.peer.is_ok(),
    waits_for: |s| format!("{} to be visible again", s.group.home),
    due: never,
};

/// R-FB-1, first half: only a home that hears can be given the group.
pub(super) static HOME_SPEAKS: Condition = Condition {
    code: "home_silent",
    asks: "heartbeats pass between the nodes",
    holds: |s| s.view.speaks,
    waits_for: |s| {
        let hint = match s.view.peer {
            Ok(_) => " (only its mail server answers)",
            Err(_) => "",
        };
        format!("heartbeats with {} to pass again{hint}", s.group.home)
    },
    due: never,
};

/// R-FB-1, second half.
pub(super) static SYNC_STARTED: Condition = Condition {
    code: "sync_not_started",
    asks: "synchronisation has started (R-FB-1)",
    holds: |s| s.view.sync_started.is_some(),
    waits_for: |s| format!("synchronisation with {} to start", s.group.home),
    due: never,
};

/// R-FO-1 and R-FO-2, the timer.
pub(super) static INVISIBLE_LONG_ENOUGH: Condition = Condition {
    code: "home_not_gone_long_enough",
    asks: "the home has been invisible for failover_after",
    holds: |s| s.failover_due().is_some_and(|due| due <= s.now.mono),
    waits_for: |s| {
        let after = in_words(s.rules.failover_after);
        format!("{} to stay invisible for {after}", s.group.home)
    },
    due: |s| s.failover_due(),
};

/// The third party that both nodes can ask, so that a node which is cut off itself stays quiet.
pub(super) static WITNESS: Condition = Condition {
    code: "witness_unseen",
    asks: "the witness, where there is one, is seen from the backup",
    holds: |s| s.view.witness != Some(false),
    waits_for: |s| {
        format!(
            "{} to see the witness (it may be cut off itself)",
            s.group.backup
        )
    },
    due: never,
};

/// Maintenance mode.
pub(super) static NO_MAINTENANCE: Condition = Condition {
    code: "maintenance",
    asks: "no maintenance mode is on",
    holds: |s| s.maintenance_left().is_none(),
    waits_for: |s| {
        let on = s.rules.maintenance.as_ref();
        on.map_or_else(
            || "maintenance mode to end".to_owned(),
            super::Maintenance::waits_for,
        )
    },
    due: |s| {
        let left = s.maintenance_left()??;
        Some(s.now.mono.saturating_add(left))
    },
};

/// R-FO-1, the phone.
pub(super) static DESK_PHONE: Condition = Condition {
    code: "no_desk_phone",
    asks: "a desk phone of the home has then registered at the backup's system",
    holds: |s| s.view.desk_phones > 0,
    waits_for: |s| {
        let Group { home, backup, .. } = s.group;
        format!("a desk phone of {home} to register at the system of {backup}")
    },
    due: never,
};

/// The home went away in this resilience, or was never there; see [`Ownership::held`].
pub(super) static NOT_HELD: Condition = Condition {
    code: "held",
    asks: "the home has been away in this resilience (R-FB-1: visible again)",
    holds: |s| !s.ownership.held,
    waits_for: |s| {
        let Group { home, backup, .. } = s.group;
        format!(
            "an administrator to start failback, for {backup} was activated while {home} was visible"
        )
    },
    due: never,
};

/// R-FB-7.
pub(super) static STABLE: Condition = Condition {
    code: "home_not_stable",
    asks: "the home has been visible for stable_for (R-FB-7)",
    holds: |s| s.stable_due().is_some_and(|due| due <= s.now.mono),
    waits_for: |s| {
        let span = in_words(s.rules.stable_for.min(TIMEOUT_CAP));
        format!("{} to stay visible for {span}", s.group.home)
    },
    due: |s| s.stable_due(),
};

/// Flap damping: a home that keeps going away is not handed the group the moment it appears.
pub(super) static NOT_FLAPPING: Condition = Condition {
    code: "hold_off",
    asks: "a home that was lost three times in an hour has stayed visible for its hold-off",
    holds: |s| s.hold_off_due().is_none_or(|due| due <= s.now.mono),
    waits_for: |s| {
        format!(
            "{} to stay visible for {} (hold-off: it was lost {} times within {})",
            s.group.home,
            in_words(s.hold_off()),
            s.flaps(),
            in_words(FLAP_WINDOW)
        )
    },
    due: |s| s.hold_off_due(),
};

/// R-FB-3, calls.
pub(super) static NO_CALLS: Condition = Condition {
    code: "calls_active",
    asks: "no calls of the group on the backup",
    holds: |s| s.view.calls == 0,
    waits_for: |s| match s.view.calls {
        1 => format!("1 call on {} to end", s.group.backup),
        n => format!("{n} calls on {} to end", s.group.backup),
    },
    due: never,
};

/// R-FB-3, synchronisation.
pub(super) static SYNC_FINISHED: Condition = Condition {
    code: "sync_not_finished",
    asks: "synchronisation has finished",
    holds: |s| s.view.sync_finished,
    waits_for: |s| match s.view.pending_operations {
        0 => "synchronisation to finish (comparing what both hold)".to_owned(),
        1 => "synchronisation to finish (1 operation left)".to_owned(),
        n => format!("synchronisation to finish ({n} operations left)"),
    },
    due: never,
};

/// R-FB-4, the timeout.
pub(super) static TIMEOUT: Condition = Condition {
    code: "timeout_running",
    asks: "the timeout has run out since the home came back",
    holds: |s| s.timeout_due().is_some_and(|due| due <= s.now.mono),
    waits_for: |s| {
        let timeout = in_words(s.rules.timeout.min(TIMEOUT_CAP));
        format!("the timeout of {timeout} to run out")
    },
    due: |s| s.timeout_due(),
};

impl Sight<'_> {
    fn failover_due(&self) -> Option<Duration> {
        let since = self.view.peer.err()?;
        Some(since.saturating_add(self.rules.failover_after))
    }

    fn stable_due(&self) -> Option<Duration> {
        let since = self.view.peer.ok()?;
        Some(since.saturating_add(self.rules.stable_for.min(TIMEOUT_CAP)))
    }

    /// The automatic clock begins when the home is visible *and* synchronisation has started; both
    /// begin anew when sight is lost, so a home that comes and goes isn't given the group.
    fn timeout_due(&self) -> Option<Duration> {
        let began = self.view.peer.ok()?.max(self.view.sync_started?);
        Some(began.saturating_add(self.rules.timeout.min(TIMEOUT_CAP)))
    }

    /// When the automatic policy goes home at the latest (R-FB-4), stability and hold-off included.
    pub(super) fn automatic_deadline(&self) -> Option<Duration> {
        let due = self.timeout_due()?.max(self.stable_due()?);
        Some(
            self.hold_off_due()
                .map_or(due, |hold_off| due.max(hold_off)),
        )
    }

    /// Failovers without an operator that count as flaps.
    pub(super) fn flaps(&self) -> usize {
        recent(&self.ownership.failovers, self.ownership.since).count()
    }

    /// How long a flapping home must stay visible; zero for one that does not flap.
    pub(super) fn hold_off(&self) -> Duration {
        let Some(beyond) = self.flaps().checked_sub(FLAPS) else {
            return Duration::ZERO;
        };
        let doublings = u32::try_from(beyond).unwrap_or(u32::MAX).min(16);
        let hold_off = self.rules.hold_off.saturating_mul(1 << doublings);
        hold_off.min(TIMEOUT_CAP)
    }

    /// `None` where nothing is held off.
    pub(super) fn hold_off_due(&self) -> Option<Duration> {
        let hold_off = self.hold_off();
        let since = self.view.peer.ok()?;
        (!hold_off.is_zero()).then(|| since.saturating_add(hold_off))
    }

    /// `None`: no maintenance; `Some(None)`: until an operator ends it.
    #[allow(clippy::option_option, reason = "off, open-ended, or for a while")]
    fn maintenance_left(&self) -> Option<Option<Duration>> {
        let on = self.rules.maintenance.as_ref();
        let on = on.filter(|m| m.is_on(self.now.wall))?;
        let left =
            |until: UnixMillis| Duration::from_millis(until.0.saturating_sub(self.now.wall.0));
        Some(on.until.map(left))
    }
}

/// Those of `failovers` in the window that ends at `at`. Compared with one another rather than with
/// the clock of now: the hold-off of a failover must not shrink while it is waited for.
pub(super) fn recent(failovers: &[UnixMillis], at: UnixMillis) -> impl Iterator<Item = UnixMillis> {
    let window = u64::try_from(FLAP_WINDOW.as_millis()).unwrap_or(u64::MAX);
    let begin = at.0.saturating_sub(window);
    failovers.iter().copied().filter(move |f| f.0 >= begin)
}

fn never(_: &Sight<'_>) -> Option<Duration> {
    None
}

/// A span as people write it: `45s`, `3m`, `1h 30m`, `500ms`.
pub(crate) fn in_words(span: Duration) -> String {
    let (seconds, millis) = (span.as_secs(), span.subsec_millis());
    let units = [
        (seconds / 3600, "h"),
        (seconds % 3600 / 60, "m"),
        (seconds % 60, "s"),
        (u64::from(millis), "ms"),
    ];
    let parts: Vec<String> = units
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, unit)| format!("{n}{unit}"))
        .collect();
    if parts.is_empty() {
        "0s".to_owned()
    } else {
        parts.join(" ")
    }
}
