//! The hybrid logical clock: wall time that never goes back, with a counter for what shares a
//! millisecond (Kulkarni et al., *Logical Physical Clocks*, 2014). Pure: `now` is an argument.
//!
//! A peer's reading moves our clock forward, so that what is done here after seeing its change
//! bears a later stamp. A peer more than [`MAX_CLOCK_AHEAD_MS`] ahead is not followed: one wrong
//! clock must not drag the other node's along. Its operations keep their own stamps.

use vmsync_config::words::UnixMillis;

use crate::operation::Hlc;

/// How far ahead of ours, in ms, a peer's clock is followed. Beyond it is an alarm
/// ([`Store::clock_ahead_ms`](crate::Store::clock_ahead_ms)).
pub const MAX_CLOCK_AHEAD_MS: u64 = 5 * 60 * 1000;

/// End of the year 9999, the last an RFC 3339 time can tell.
pub(crate) const LAST_MILLISECOND: u64 = 253_402_300_799_999;

/// The reading for the next local operation: later than `last`, and not before `now`.
pub(crate) fn tick(last: Hlc, now: UnixMillis) -> Hlc {
    let wall = UnixMillis(now.0.min(LAST_MILLISECOND));
    if wall > last.wall {
        Hlc { wall, count: 0 }
    } else {
        successor(last)
    }
}

/// The least reading later than `last`.
pub(crate) fn successor(last: Hlc) -> Hlc {
    match last.count.checked_add(1) {
        Some(count) => Hlc { count, ..last },
        None => Hlc {
            wall: UnixMillis(last.wall.0.saturating_add(1).min(LAST_MILLISECOND)),
            count: 0,
        },
    }
}

/// Our reading after seeing `remote`: raised to it unless it is too far ahead.
pub(crate) fn observe(last: Hlc, now: UnixMillis, remote: Hlc) -> Hlc {
    if ahead_ms(now, remote) > MAX_CLOCK_AHEAD_MS {
        last
    } else {
        last.max(remote)
    }
}

/// How far `remote` is ahead of our wall clock, in ms; 0 when it is not.
pub(crate) fn ahead_ms(now: UnixMillis, remote: Hlc) -> u64 {
    remote.wall.0.saturating_sub(now.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall: u64, count: u32) -> Hlc {
        Hlc {
            wall: UnixMillis(wall),
            count,
        }
    }

    #[test]
    fn the_clock_follows_the_wall_and_counts_when_the_wall_stands_or_goes_back() {
        assert_eq!(tick(at(100, 3), UnixMillis(105)), at(105, 0));
        assert_eq!(tick(at(100, 3), UnixMillis(100)), at(100, 4));
        assert_eq!(tick(at(100, 3), UnixMillis(40)), at(100, 4));
        assert_eq!(tick(at(100, u32::MAX), UnixMillis(40)), at(101, 0));
    }

    #[test]
    fn a_peer_slightly_ahead_is_followed_and_one_far_ahead_is_not() {
        let now = UnixMillis(1_000_000);
        let near = at(now.0 + MAX_CLOCK_AHEAD_MS, 7);
        let far = at(now.0 + MAX_CLOCK_AHEAD_MS + 1, 0);
        assert_eq!(observe(at(now.0, 0), now, near), near);
        assert_eq!(observe(at(now.0, 0), now, far), at(now.0, 0));
        assert_eq!(ahead_ms(now, far), MAX_CLOCK_AHEAD_MS + 1);
        assert_eq!(ahead_ms(now, at(5, 0)), 0);
    }
}
