//! One phone: where it is registered, and where it may be.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmsync_config::words::{SystemName, UnixMillis};

use super::{Feature, Side, Timers, system::Tracked};
use crate::resilience::PhoneKind;

/// A phone's registration, or a change of what a registered phone does, as a PBX reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The phone's extension, 1 to 15 digits.
    pub extension: String,
    /// What it is.
    pub kind: PhoneKind,
    /// The system it belongs to.
    pub home_system: SystemName,
    /// The system it is registered at.
    pub at_system: SystemName,
    /// It is on a call that its home has left it with.
    pub on_preserved_call: bool,
    /// On no call at all.
    pub idle: bool,
    /// It has restarted or logged in anew, rather than refreshed its registration.
    pub restarted: bool,
    /// Where it stands, where that is told.
    pub location: Option<SystemName>,
}

/// A phone away from home, as kept over a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Away {
    /// What it is.
    pub kind: PhoneKind,
    /// Where it is registered.
    pub at_system: SystemName,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<SystemName>,
    /// Since when it is there.
    pub since: UnixMillis,
}

/// Where a phone may be, and where it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// Systems that may take its registration now.
    pub may_register: Vec<SystemName>,
    /// Where it should go now; `None` = stay.
    pub move_to: Option<SystemName>,
    /// Why, or what it waits for.
    pub because: String,
    /// Until when more than one system may take it (monotonic).
    pub until: Option<Duration>,
}

/// A phone as tracked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhoneView {
    /// Its extension.
    pub extension: String,
    /// What it is.
    pub kind: PhoneKind,
    /// The system it belongs to.
    pub home_system: SystemName,
    /// The system it is registered at.
    pub at_system: SystemName,
    /// The system it falls back to: its location's, else its home's backup.
    pub fallback: Option<SystemName>,
    /// Where it stands.
    pub location: Option<SystemName>,
    /// When it was last heard of.
    pub heard: UnixMillis,
    /// Where it may be.
    pub advice: Advice,
}

/// What is kept of one phone.
#[derive(Debug)]
pub(super) struct Phone {
    pub(super) kind: PhoneKind,
    pub(super) at: SystemName,
    pub(super) location: Option<SystemName>,
    pub(super) on_preserved_call: bool,
    pub(super) idle: bool,
    pub(super) restarted: bool,
    pub(super) heard: UnixMillis,
    /// The absence of its home in which it counted as evidence; 0 = none.
    pub(super) counted: u32,
}

impl Phone {
    /// The feature whose decisions it follows.
    fn feature(&self) -> Feature {
        if self.kind == PhoneKind::Dect {
            Feature::Dect
        } else {
            Feature::Phones
        }
    }
}

/// Where `phone` of `system` may be at `now`. `fallback`: its location's system, else the backup;
/// `gone_since`: the home, where it is invisible.
pub(super) fn advice(
    system: &Tracked,
    phone: &Phone,
    fallback: Option<&SystemName>,
    gone_since: Option<Duration>,
    timers: &Timers,
    now: Duration,
) -> Advice {
    let home = system.name();
    let stay = |may: &[&SystemName], because: String| Advice {
        may_register: may.iter().map(|s| (*s).clone()).collect(),
        move_to: None,
        because,
        until: None,
    };
    let feature = phone.feature();
    let fallback = fallback.filter(|f| *f != home);
    let Some(fallback) = fallback.filter(|_| system.setup.backs_up(feature)) else {
        let what = feature.as_str();
        return stay(&[home], format!("{what} of {home} are not backed up"));
    };
    let at_home = phone.at == *home;
    if system.stands(feature).standing.side == Side::Backup {
        if !at_home || gone_since.is_none() {
            return stay(&[fallback], format!("{fallback} serves phones of {home}"));
        }
        if phone.on_preserved_call {
            return stay(&[fallback], "its preserved call to end first".to_owned());
        }
        return Advice {
            move_to: Some(fallback.clone()),
            ..stay(&[fallback], format!("{fallback} serves phones of {home}"))
        };
    }
    if let Some(since) = gone_since {
        return if now < since.saturating_add(timers.failover_after) {
            stay(&[home], format!("{home} is gone, but not for long enough"))
        } else {
            stay(&[home, fallback], format!("{home} is gone"))
        };
    }
    let window = system.homeless_until.filter(|until| now < *until);
    let both = window.is_some() && feature == Feature::Phones;
    let may: &[&SystemName] = if both { &[home, fallback] } else { &[home] };
    let until = window.filter(|_| both);
    if at_home {
        let because = format!("{home} serves its phones");
        return Advice {
            until,
            ..stay(may, because)
        };
    }
    let waits_for = if !phone.idle || phone.on_preserved_call {
        Some("its call to end".to_owned())
    } else if system.phones_wait() && feature == Feature::Phones && !phone.restarted {
        Some(format!(
            "it to register anew or restart (manual failback of phones of {home})"
        ))
    } else {
        None
    };
    match waits_for {
        Some(what) => Advice {
            until,
            ..stay(&[home, fallback], format!("waiting for {what}"))
        },
        None => Advice {
            move_to: Some(home.clone()),
            until,
            ..stay(may, format!("{home} serves its phones again"))
        },
    }
}
