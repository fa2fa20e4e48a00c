//! Rights (R-FO-8): in single-active the primary's count on the secondary too, and go on for 30 days
//! (or a shorter grace that is configured) after the primary was last heard of.
//!
//! A node knows its own rights from its configuration. Those of the other node it hears in
//! heartbeats and keeps as a [`Lease`], durable. The grace period is counted in time that passed for
//! this node, as far as it can tell: a wall clock set back lengthens it by nothing, for what is spent
//! is kept; a clock set forward shortens it by as much, and the next word of the primary mends that.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmsync_config::words::UnixMillis;

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

/// What a node is told of the source of rights it borrows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lender<'a> {
    /// What it last said, if it ever did.
    pub lease: Option<&'a Lease>,
    /// Whether it answers now.
    pub answers: bool,
    /// How long its rights count while it does not: `rights.grace`.
    pub grace: Duration,
}

/// What this node may do now, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Taking voicemail.
    pub voicemail: Right,
    /// Recording calls (R-VR-3).
    pub media_manager: Right,
}

/// One right of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right {
    /// Whether the node has it now.
    pub granted: bool,
    /// Where that comes from.
    pub source: Source,
    /// It is borrowed and its source does not answer: when it ends.
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

    /// What is left of `grace`.
    pub fn left(&self, grace: Duration, now: UnixMillis) -> Duration {
        grace.saturating_sub(Duration::from_millis(self.count(now).spent_ms))
    }
}

impl Standing {
    /// When the first of its borrowed rights ends.
    pub fn grace_until(&self) -> Option<UnixMillis> {
        let ends = [self.voicemail.grace_until, self.media_manager.grace_until];
        ends.into_iter().flatten().min()
    }
}

/// What a node may do: what it has of its `own`, and where it borrows (the secondary of a
/// single-active pair) what its `lender` has.
pub fn decide(own: Rights, lender: Option<Lender<'_>>, now: UnixMillis) -> Standing {
    Standing {
        voicemail: right(own.voicemail, lender, |r| r.voicemail, now),
        media_manager: right(own.media_manager, lender, |r| r.media_manager, now),
    }
}

fn right(
    own: bool,
    lender: Option<Lender<'_>>,
    which: impl Fn(&Rights) -> bool,
    now: UnixMillis,
) -> Right {
    let is = |granted, source| Right {
        granted,
        source,
        grace_until: None,
    };
    let Some(lender) = lender.filter(|_| !own) else {
        return is(own, Source::Own);
    };
    let Some(lease) = lender.lease else {
        return is(false, Source::None);
    };
    let left = lease.left(lender.grace, now);
    if !which(&lease.rights) {
        return is(false, Source::Peer);
    }
    if lender.answers {
        return is(true, Source::Peer);
    }
    if left.is_zero() {
        return is(false, Source::Expired);
    }
    let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    Right {
        grace_until: Some(UnixMillis(now.0.saturating_add(left))),
        ..is(true, Source::Peer)
    }
}

#[cfg(test)]
mod tests {
    use vmsync_config::defaults::RIGHTS_GRACE;

    use super::*;

    const GRACE: Duration = RIGHTS_GRACE.default;
    const ALL: Rights = Rights {
        voicemail: true,
        media_manager: true,
    };
    const NONE: Rights = Rights {
        voicemail: false,
        media_manager: false,
    };
    /// It may take voicemail, and not record.
    const VOICEMAIL: Rights = Rights {
        voicemail: true,
        media_manager: false,
    };
    const DAY: u64 = 24 * 3_600_000;

    fn day(n: u64) -> UnixMillis {
        UnixMillis(1_700_000_000_000 + n * DAY)
    }

    fn lender(lease: Option<&Lease>, answers: bool) -> Lender<'_> {
        Lender {
            lease,
            answers,
            grace: GRACE,
        }
    }

    /// R-FO-8, R-VR-3: the right to record, of a node that borrows or does not.
    #[test]
    fn who_may_record() {
        use Source::{Expired, None as Unknown, Own, Peer};
        let (all, voicemail) = (Lease::heard(ALL, day(0)), Lease::heard(VOICEMAIL, day(0)));
        // own, lender heard on day 0, today; granted, source, until which day.
        let table = [
            (ALL, None, 0, true, Own, None),
            (NONE, None, 0, false, Own, None),
            (NONE, Some(lender(None, false)), 0, false, Unknown, None),
            (NONE, Some(lender(Some(&all), true)), 0, true, Peer, None),
            (
                NONE,
                Some(lender(Some(&all), false)),
                0,
                true,
                Peer,
                Some(30),
            ),
            (
                NONE,
                Some(lender(Some(&all), false)),
                29,
                true,
                Peer,
                Some(30),
            ),
            (
                NONE,
                Some(lender(Some(&all), false)),
                30,
                false,
                Expired,
                None,
            ),
            (NONE, Some(lender(Some(&all), true)), 40, true, Peer, None),
            (
                NONE,
                Some(lender(Some(&voicemail), false)),
                1,
                false,
                Peer,
                None,
            ),
            // What is its own never ends.
            (ALL, Some(lender(None, false)), 0, true, Own, None),
            (ALL, Some(lender(Some(&all), false)), 40, true, Own, None),
        ];
        for (own, lender, today, granted, source, until) in table {
            let expected = Right {
                granted,
                source,
                grace_until: until.map(day),
            };
            let got = decide(own, lender, day(today)).media_manager;
            assert_eq!(got, expected, "own {own:?}, {lender:?}, day {today}");
        }
    }

    /// R-FO-8: a licence of its own is not shown to end because another is borrowed.
    #[test]
    fn each_right_has_its_own_source_and_end() {
        let lease = Lease::heard(ALL, day(0));
        let got = decide(VOICEMAIL, Some(lender(Some(&lease), false)), day(3));
        assert_eq!(got.voicemail.source, Source::Own);
        assert_eq!(got.voicemail.grace_until, None);
        assert_eq!(got.media_manager.source, Source::Peer);
        assert_eq!(got.grace_until(), Some(day(30)));
    }

    /// R-FO-8: the grace period can't be had twice.
    #[test]
    fn a_clock_set_back_gains_nothing_beyond_itself() {
        let mut lease = Lease::heard(ALL, day(0));
        for today in [20, 5, 15] {
            lease = lease.count(day(today));
        }
        // Twenty days, then ten more after the clock went back by fifteen.
        assert_eq!(lease.left(GRACE, day(15)), Duration::ZERO);
        let said = decide(NONE, Some(lender(Some(&lease), false)), day(15));
        assert_eq!(said.voicemail.source, Source::Expired);
        let again = Lease::heard(ALL, day(15));
        assert_eq!(again.left(GRACE, day(15)), GRACE);
    }

    #[test]
    fn a_restart_changes_nothing() {
        let lease = Lease::heard(ALL, day(0)).count(day(10));
        let kept = serde_json::to_vec(&lease).unwrap();
        let read: Lease = serde_json::from_slice(&kept).unwrap();
        assert_eq!(read.left(GRACE, day(12)), lease.left(GRACE, day(12)));
        assert_eq!(read.left(GRACE, day(12)), Duration::from_hours(18 * 24));
    }
}
