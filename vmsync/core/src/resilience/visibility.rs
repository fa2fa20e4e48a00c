//! Whether the other node is there: judged by two independent signs, so that one dead service is
//! an alarm and no failover.
//!
//! The signs are heartbeats over HTTP and the greeting of its SMTP receiver (RFC 5321 section 3.1).
//! A heartbeat counts in either direction: an answer to our question, or a signed question that
//! repeats a challenge of ours (docs/heartbeat.md), so that a way cut in one direction does not
//! make a living node invisible. The peer is visible while any sign is fresher than
//! `invisible_after`; [`Visibility::lost`] names what is missing meanwhile.

use std::time::Duration;

/// One way of seeing that the peer lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sign {
    /// It answered a heartbeat of ours.
    Answer,
    /// Its signed heartbeat came to us, with a fresh challenge of ours in it.
    Question,
    /// Its SMTP receiver greeted us by its name.
    Greeting,
}

impl Sign {
    const ALL: [Self; 3] = [Self::Answer, Self::Question, Self::Greeting];
}

/// A service of the peer that gives no sign while another does: worth an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lost {
    /// Our heartbeats are not answered.
    Heartbeat,
    /// Its SMTP receiver does not greet.
    Smtp,
}

/// What a node has seen of its peer. Times are monotonic.
#[derive(Debug, Clone)]
pub struct Visibility {
    after: Duration,
    /// When each of [`Sign::ALL`] was last seen, or first waited for.
    seen: [Seen; 3],
    sight: Result<Duration, Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    /// The last time; `None` = never since the start.
    last: Option<Duration>,
    /// Waited for at all: the greeting is not where the peer has no receiver.
    expected: bool,
}

impl Visibility {
    /// Nothing seen yet. `after` is `invisible_after`; `greeting` whether the peer's SMTP receiver
    /// is asked for its greeting.
    pub fn new(after: Duration, greeting: bool, now: Duration) -> Self {
        let seen = Sign::ALL.map(|sign| Seen {
            last: None,
            expected: greeting || sign != Sign::Greeting,
        });
        Self {
            after,
            seen,
            sight: Err(now),
        }
    }

    /// `invisible_after`.
    pub fn after(&self) -> Duration {
        self.after
    }

    /// Since when visible (`Ok`) or not (`Err`), as [`super::View::peer`] wants it.
    pub fn sight(&self) -> Result<Duration, Duration> {
        self.sight
    }

    /// A sign came. True when the peer was invisible until now.
    pub fn came(&mut self, sign: Sign, now: Duration) -> bool {
        let seen = &mut self.seen[sign as usize];
        // Signs are told by tasks of their own and may come out of order.
        seen.last = seen.last.max(Some(now));
        let appeared = self.sight.is_err();
        if appeared {
            self.sight = Ok(now);
        }
        appeared
    }

    /// True when the peer becomes invisible now: the last sign is too old.
    pub fn vanished(&mut self, now: Duration) -> bool {
        let gone = self.sight.is_ok() && self.deadline().is_some_and(|at| now >= at);
        if gone {
            self.sight = Err(now);
        }
        gone
    }

    /// It is known to be gone (its process was started anew): earlier signs say nothing any more.
    pub fn gone(&mut self, now: Duration) {
        for seen in &mut self.seen {
            seen.last = None;
        }
        self.sight = Err(now);
    }

    /// When it becomes invisible unless another sign comes.
    pub fn deadline(&self) -> Option<Duration> {
        self.sight.ok()?;
        let last = self.seen.iter().filter_map(|s| s.last).max()?;
        Some(last.saturating_add(self.after))
    }

    /// When a sign that is fresh now no longer is, unless it comes again.
    pub fn next_change(&self, now: Duration) -> Option<Duration> {
        let ends = self.seen.iter().filter_map(|s| s.last);
        let ends = ends.map(|last| last.saturating_add(self.after));
        ends.filter(|end| *end > now).min()
    }

    /// Whether `sign` is fresh.
    pub fn fresh(&self, sign: Sign, now: Duration) -> bool {
        let last = self.seen[sign as usize].last;
        last.is_some_and(|last| now < last.saturating_add(self.after))
    }

    /// Whether heartbeats pass, in either direction: what one decides the other learns.
    pub fn speaks(&self, now: Duration) -> bool {
        self.fresh(Sign::Answer, now) || self.fresh(Sign::Question, now)
    }

    /// What gives no sign for `invisible_after` although the peer is visible.
    pub fn lost(&self, now: Duration) -> Vec<Lost> {
        let Ok(since) = self.sight else {
            return Vec::new();
        };
        // A service may come a little after the first sign of a node that starts.
        if now < since.saturating_add(self.after) {
            return Vec::new();
        }
        let services = [
            (Sign::Answer, Lost::Heartbeat),
            (Sign::Greeting, Lost::Smtp),
        ];
        let silent = |sign: Sign| self.seen[sign as usize].expected && !self.fresh(sign, now);
        let lost = services.into_iter().filter(|(sign, _)| silent(*sign));
        lost.map(|(_, lost)| lost).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(5);

    fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn either_sign_keeps_the_peer_visible_and_the_dead_service_is_named() {
        let mut peer = Visibility::new(AFTER, true, s(0));
        assert!(peer.came(Sign::Answer, s(1)));
        assert!(!peer.came(Sign::Greeting, s(1)), "it was visible already");
        for n in 2..20 {
            peer.came(Sign::Greeting, s(n));
            assert!(!peer.vanished(s(n)), "its mail server greets at {n}");
        }
        assert_eq!(peer.lost(s(19)), [Lost::Heartbeat]);
        assert!(!peer.speaks(s(19)));
        for n in 20..40 {
            peer.came(Sign::Answer, s(n));
        }
        assert_eq!(peer.lost(s(39)), [Lost::Smtp]);
        assert_eq!(peer.sight(), Ok(s(1)), "visible all the time");
    }

    #[test]
    fn it_is_invisible_only_when_every_sign_is_too_old() {
        let mut peer = Visibility::new(AFTER, true, s(0));
        peer.came(Sign::Answer, s(1));
        peer.came(Sign::Greeting, s(2));
        assert_eq!(peer.deadline(), Some(s(7)));
        assert_eq!(peer.next_change(s(2)), Some(s(6)));
        assert!(!peer.vanished(Duration::from_millis(6_999)));
        assert!(peer.vanished(s(7)));
        assert!(!peer.vanished(s(8)), "said once");
        assert_eq!((peer.sight(), peer.deadline()), (Err(s(7)), None));
        assert!(
            peer.lost(s(60)).is_empty(),
            "nothing is said of a node that is gone"
        );
        assert!(peer.came(Sign::Greeting, s(61)));
    }

    #[test]
    fn questions_of_a_peer_that_can_not_be_asked_are_signs_too() {
        let mut peer = Visibility::new(AFTER, true, s(0));
        for n in 1..20 {
            peer.came(Sign::Question, s(n));
        }
        assert_eq!(peer.sight(), Ok(s(1)));
        assert!(peer.speaks(s(19)) && !peer.fresh(Sign::Answer, s(19)));
        assert_eq!(peer.lost(s(19)), [Lost::Heartbeat, Lost::Smtp]);
    }

    #[test]
    fn no_greeting_is_missed_where_none_is_asked_for() {
        let mut peer = Visibility::new(AFTER, false, s(0));
        for n in 1..20 {
            peer.came(Sign::Answer, s(n));
        }
        assert!(peer.lost(s(19)).is_empty());
    }

    #[test]
    fn a_restarted_peer_is_seen_anew() {
        let mut peer = Visibility::new(AFTER, true, s(0));
        peer.came(Sign::Greeting, s(3));
        peer.gone(s(4));
        assert_eq!(peer.sight(), Err(s(4)));
        assert!(peer.came(Sign::Answer, s(4)));
        assert_eq!(peer.deadline(), Some(s(9)));
    }
}
