//! Rights (R-FO-8): in single-active the primary's count on the secondary too, and go on for 30 days
//! after the primary was last heard of.
//!
//! A node knows its own rights from its configuration. Those of the other node it hears in
//! heartbeats and keeps as a [`Lease`], durable. The grace period is counted in time that passed for
//! this node, as far as it can tell: a wall clock set back lengthens it by nothing, for what is spent
//! is kept; a clock set forward shortens it by as much, and the next word of the primary mends that.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmsync_config::words::UnixMillis;

/// How long the last known rights count without their source (R-FO-8).
pub const GRACE: Duration = Duration::from_hours(30 * 24);

/// What a node may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rights {
    /// It may take voicemail.
    pub voicemail: bool,
    /// It may record calls (R-VR-3).
    pub media_manager: bool,
}

/// The other node's rights as last heard, kept over restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// What it said.
    pub rights: Rights,
    /// When it said so last.
    pub confirmed: UnixMillis,
    /// Grace spent since, in milliseconds, up to `counted`.
    pub spent_ms: u64,
    /// The wall clock when it was last counted.
    pub counted: UnixMillis,
}

/// What this node may do now, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What it may do.
    pub rights: Rights,
    /// Where that comes from.
    pub source: Source,
    /// While the source can't be reached: when its rights end.
    pub grace_until: Option<UnixMillis>,
}

/// Where rights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// This node's configuration.
    Own,
    /// The other node.
    Peer,
    /// The other node was never heard of.
    None,
    /// The grace period is over.
    Expired,
}

impl Lease {
    /// The other node has said what it may do.
    pub fn heard(rights: Rights, now: UnixMillis) -> Self {
        Self {
            rights,
            confirmed: now,
            spent_ms: 0,
            counted: now,
        }
    }

    /// Counts the time since it was last counted. A clock that went back counts as no time at all.
    #[must_use]
    pub fn count(self, now: UnixMillis) -> Self {
        let passed = now.0.saturating_sub(self.counted.0);
        Self {
            spent_ms: self.spent_ms.saturating_add(passed),
            counted: now,
            ..self
        }
    }

    /// What is left of the grace period.
    pub fn left(&self, now: UnixMillis) -> Duration {
        GRACE.saturating_sub(Duration::from_millis(self.count(now).spent_ms))
    }
}

/// What a node may do: its own rights, and where `borrows` (the secondary of a single-active pair)
/// the primary's. `reachable`: whether the primary is in sight.
pub fn decide(
    own: Rights,
    borrows: bool,
    lease: Option<&Lease>,
    reachable: bool,
    now: UnixMillis,
) -> Standing {
    let own_only = |source| Standing {
        rights: own,
        source,
        grace_until: None,
    };
    if !borrows {
        return own_only(Source::Own);
    }
    let Some(lease) = lease else {
        return own_only(Source::None);
    };
    let left = lease.left(now);
    if !reachable && left.is_zero() {
        return own_only(Source::Expired);
    }
    let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    Standing {
        rights: Rights {
            voicemail: own.voicemail || lease.rights.voicemail,
            media_manager: own.media_manager || lease.rights.media_manager,
        },
        source: Source::Peer,
        grace_until: (!reachable).then(|| UnixMillis(now.0.saturating_add(left))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Rights = Rights {
        voicemail: true,
        media_manager: true,
    };
    const NONE: Rights = Rights {
        voicemail: false,
        media_manager: false,
    };
    const DAY: u64 = 24 * 3_600_000;

    fn day(n: u64) -> UnixMillis {
        UnixMillis(1_700_000_000_000 + n * DAY)
    }

    /// R-FO-8: own rights, borrows, heard on day 0, reachable, day; rights, source, days left.
    #[test]
    fn who_may_do_what() {
        let heard = Some(Lease::heard(ALL, day(0)));
        let table = [
            (ALL, false, None, false, 0, ALL, Source::Own, None),
            (NONE, false, heard, true, 0, NONE, Source::Own, None),
            (NONE, true, None, false, 0, NONE, Source::None, None),
            (ALL, true, None, false, 0, ALL, Source::None, None),
            (NONE, true, heard, true, 0, ALL, Source::Peer, None),
            (NONE, true, heard, false, 0, ALL, Source::Peer, Some(30)),
            (NONE, true, heard, false, 29, ALL, Source::Peer, Some(30)),
            (NONE, true, heard, false, 30, NONE, Source::Expired, None),
            (NONE, true, heard, true, 40, ALL, Source::Peer, None),
        ];
        for (own, borrows, lease, reachable, today, rights, source, until) in table {
            let got = decide(own, borrows, lease.as_ref(), reachable, day(today));
            let expected = Standing {
                rights,
                source,
                grace_until: until.map(day),
            };
            assert_eq!(got, expected, "borrows {borrows}, {lease:?}, day {today}");
        }
    }

    /// R-FO-8: the grace period can't be had twice.
    #[test]
    fn a_clock_set_back_gains_nothing_beyond_itself() {
        let mut lease = Lease::heard(ALL, day(0));
        for today in [20, 5, 15] {
            lease = lease.count(day(today));
        }
        // Twenty days, then ten more after the clock went back by fifteen.
        assert_eq!(lease.left(day(15)), Duration::ZERO);
        let said = decide(NONE, true, Some(&lease), false, day(15));
        assert_eq!(said.source, Source::Expired);
        let again = Lease::heard(ALL, day(15));
        assert_eq!(again.left(day(15)), GRACE);
    }

    #[test]
    fn a_restart_changes_nothing() {
        let lease = Lease::heard(ALL, day(0)).count(day(10));
        let kept = serde_json::to_vec(&lease).unwrap();
        let read: Lease = serde_json::from_slice(&kept).unwrap();
        assert_eq!(read.left(day(12)), lease.left(day(12)));
        assert_eq!(read.left(day(12)), Duration::from_hours(18 * 24));
    }
}
