//! Whether the other node is there: heartbeats sent, answers, questions and greetings judged.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use rand::Rng;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use vmsync_config::words::{GroupName, NodeId, Now, UnixMillis};
use vmsync_core::resilience::{Lost, Sign, Visibility};

use crate::{
    clock,
    pair::{PeerClient, PeerError, Report},
};

/// The other node as seen from here.
#[derive(Debug)]
pub struct Peer {
    visibility: Visibility,
    /// Since when it is in sight or not, by the wall clock.
    pub since: UnixMillis,
    /// The last sign of life.
    pub last_seen: Option<UnixMillis>,
    /// Why our heartbeats are not answered.
    pub reason: Option<String>,
    /// Why its SMTP receiver does not greet.
    pub greeting: Option<String>,
    /// What it told last.
    pub report: Option<Report>,
    /// How far its clock was ahead of ours at its last answer, in ms; 0 when it was not.
    ahead_ms: u64,
    challenges: Challenges,
}

impl Peer {
    /// Not seen yet.
    pub fn new(invisible_after: Duration, greeting: bool, now: Now) -> Self {
        Self {
            visibility: Visibility::new(invisible_after, greeting, now.mono),
            since: now.wall,
            last_seen: None,
            reason: Some("no heartbeat answered yet".to_owned()),
            greeting: None,
            report: None,
            ahead_ms: 0,
            challenges: Challenges::new(invisible_after),
        }
    }

    /// By any sign (docs/resilience.md).
    pub fn visible(&self) -> bool {
        self.sight().is_ok()
    }

    /// Since when visible (`Ok`) or not (`Err`), monotonic.
    pub fn sight(&self) -> Result<Duration, Duration> {
        self.visibility.sight()
    }

    /// Whether our questions are answered: only then callers can be sent there.
    pub fn answers(&self, now: Now) -> bool {
        self.visibility.fresh(Sign::Answer, now.mono)
    }

    /// Whether it says itself that it owns the group, so that `me` can send callers there. It may not know
    /// of it yet, or, while the nodes are in different modes, not at all: it would send them back.
    pub fn takes(&self, group: &GroupName, me: &NodeId) -> bool {
        let told = self.report.as_ref();
        let told = told.and_then(|r| r.groups.iter().find(|o| o.group == *group));
        told.is_some_and(|o| o.owner != *me)
    }

    /// Whether our own answers reach it, so that it sends callers here rather than answering them.
    pub(super) fn hears_us(&self, now: Now) -> bool {
        let asks = self.visibility.fresh(Sign::Question, now.mono);
        // The first question takes a moment, and those of older releases prove nothing.
        let came = self.sight().ok();
        let just_came =
            came.is_some_and(|since| now.mono < since.saturating_add(self.visibility.after()));
        let tells = self.report.as_ref().is_none_or(|r| r.challenge.is_some());
        asks || just_came || (self.visible() && !tells)
    }

    /// Whether heartbeats pass in either direction: it learns what is decided here.
    pub fn speaks(&self, now: Now) -> bool {
        self.visibility.speaks(now.mono)
    }

    /// Its services that give no sign while another does.
    pub fn lost_services(&self, now: Now) -> Vec<Lost> {
        self.visibility.lost(now.mono)
    }

    /// Which signs are fresh: answers, questions, greetings.
    pub fn signs(&self, now: Now) -> [bool; 3] {
        [Sign::Answer, Sign::Question, Sign::Greeting]
            .map(|sign| self.visibility.fresh(sign, now.mono))
    }

    /// It answered. True when it was invisible before.
    pub fn answered(&mut self, report: Report, now: Now) -> bool {
        self.reason = None;
        self.ahead_ms = report.at.0.saturating_sub(now.wall.0);
        self.report = Some(report);
        self.came(Sign::Answer, now)
    }

    /// Whether a question counts as a sign: it repeats a challenge given a moment ago.
    pub fn counts(&self, report: &Report, now: Now) -> bool {
        report.echo.is_some_and(|c| self.challenges.gave(c, now))
    }

    /// It asked, and its question counts. True when it was invisible before.
    pub fn asked(&mut self, report: Report, now: Now) -> bool {
        // Only answers bear challenges: the last one goes on to be repeated.
        let challenge = self.report.as_ref().and_then(|r| r.challenge);
        self.report = Some(Report {
            challenge,
            ..report
        });
        self.came(Sign::Question, now)
    }

    /// Its SMTP receiver greeted. True when it was invisible before.
    pub fn greeted(&mut self, now: Now) -> bool {
        self.greeting = None;
        self.came(Sign::Greeting, now)
    }

    fn came(&mut self, sign: Sign, now: Now) -> bool {
        self.last_seen = Some(now.wall);
        let appeared = self.visibility.came(sign, now.mono);
        if appeared {
            self.since = now.wall;
        }
        appeared
    }

    /// What its next question has to repeat.
    pub fn challenge(&mut self, now: Now) -> u64 {
        self.challenges.give(now)
    }

    /// How far its clock is ahead of ours, in ms. Its heartbeats tell while they come, for they
    /// bear its clock itself; stamps of what it sent (`by_stamps`) may be of long ago.
    pub fn clock_ahead_ms(&self, by_stamps: u64, now: Now) -> u64 {
        if self.answers(now) {
            self.ahead_ms
        } else {
            by_stamps
        }
    }

    /// Whether `report` comes from another life of its process than the last one: it went away and
    /// came back, however quickly.
    pub fn restarted(&self, report: &Report) -> bool {
        self.visible()
            && self
                .report
                .as_ref()
                .is_some_and(|last| last.boot != report.boot)
    }

    /// It is gone, known for certain rather than by a missing answer.
    pub fn lost(&mut self, now: Now) {
        self.visibility.gone(now.mono);
        self.since = now.wall;
    }

    /// It did not answer one heartbeat.
    pub fn missed(&mut self, error: &PeerError) {
        self.reason = Some(error.to_string());
    }

    /// True when it becomes invisible now: the last sign is too long ago.
    pub fn vanished(&mut self, now: Now) -> bool {
        let gone = self.visibility.vanished(now.mono);
        if gone {
            self.since = now.wall;
        }
        gone
    }

    /// When, after that, it becomes invisible or one of its services silent, unless it gives a sign.
    pub fn deadline(&self, after: Duration) -> Option<Duration> {
        self.visibility.next_change(after)
    }
}

/// Numbers given to the peer in our answers. A question that repeats one was asked after we gave it,
/// so it is no old one played again.
#[derive(Debug)]
struct Challenges {
    /// Newest last, with when it was given.
    given: VecDeque<(u64, Duration)>,
    fresh_for: Duration,
}

impl Challenges {
    /// A new one is made at most this often, so that few need be kept.
    const PARTS: u32 = 8;

    fn new(fresh_for: Duration) -> Self {
        Self {
            given: VecDeque::new(),
            fresh_for,
        }
    }

    fn give(&mut self, now: Now) -> u64 {
        let stale = |at: Duration| now.mono.saturating_sub(at) > self.fresh_for;
        while self.given.front().is_some_and(|(_, at)| stale(*at)) {
            self.given.pop_front();
        }
        match self.given.back() {
            Some((number, at)) if now.mono.saturating_sub(*at) < self.fresh_for / Self::PARTS => {
                *number
            }
            _ => {
                // 53 bits survive any JSON.
                let number = rand::rng().random::<u64>() >> 11;
                self.given.push_back((number, now.mono));
                number
            }
        }
    }

    fn gave(&self, number: u64, now: Now) -> bool {
        self.given
            .iter()
            .any(|(n, at)| *n == number && now.mono.saturating_sub(*at) <= self.fresh_for)
    }
}

/// One heartbeat's outcome.
pub(super) struct Beat {
    /// When the answer came, not when the loop gets to it: the loop's own delay is no absence.
    pub(super) at: Now,
    pub(super) result: Result<Report, PeerError>,
}

/// How the heartbeat task is driven.
pub(super) struct Heartbeat {
    pub(super) client: PeerClient,
    pub(super) every: Duration,
    pub(super) limit: Duration,
    /// What to tell.
    pub(super) report: watch::Receiver<Arc<Report>>,
    /// Beat now: something changed that the peer should know.
    pub(super) poke: Arc<Notify>,
    pub(super) out: mpsc::Sender<Beat>,
}

impl Heartbeat {
    /// Beats until stopped. One at a time: a slow peer gets no pile of questions.
    pub(super) async fn run(self, stop: CancellationToken) {
        loop {
            let begun = clock::now().mono;
            let ours = Arc::clone(&self.report.borrow());
            let result = tokio::select! {
                () = stop.cancelled() => return,
                result = self.client.heartbeat(&ours, self.limit) => result,
            };
            let at = clock::now();
            if self.out.send(Beat { at, result }).await.is_err() {
                return;
            }
            let rest = self
                .every
                .saturating_sub(clock::now().mono.saturating_sub(begun));
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.poke.notified() => {}
                () = tokio::time::sleep(rest) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now {
            mono: Duration::from_millis(ms),
            wall: UnixMillis(1_000_000 + ms),
        }
    }

    fn report() -> Report {
        Report {
            node: "vmpro2".parse().unwrap(),
            boot: 1,
            at: UnixMillis(0),
            groups: Vec::new(),
            calls: Vec::new(),
            totals: crate::status::TotalsStatus::default(),
            have: vmsync_config::words::Vector::default(),
            seen: vmsync_config::words::Vector::default(),
            ready: true,
            mode: None,
            backs_up: None,
            rights: None,
            orders: None,
            features: None,
            challenge: None,
            echo: None,
        }
    }

    #[test]
    fn a_peer_is_invisible_once_no_answer_came_for_the_time_set() {
        let mut peer = Peer::new(Duration::from_secs(5), true, at(0));
        assert!(!peer.visible());
        assert!(peer.answered(report(), at(1_000)));
        assert!(
            !peer.answered(report(), at(2_000)),
            "it was visible already"
        );
        peer.missed(&PeerError::Forged {
            url: "x".to_owned(),
        });
        assert!(!peer.vanished(at(6_999)));
        assert!(peer.vanished(at(7_000)));
        assert_eq!(peer.sight(), Err(Duration::from_secs(7)));
        assert!(!peer.vanished(at(8_000)), "said once");
        assert!(peer.answered(report(), at(9_000)));
    }

    #[test]
    fn heartbeats_tell_when_its_clock_is_ahead_and_when_it_is_right_again() {
        let mut peer = Peer::new(Duration::from_secs(5), true, at(0));
        assert_eq!(
            peer.clock_ahead_ms(7, at(0)),
            7,
            "nothing but stamps to go by"
        );
        let says = |wall| Report {
            at: UnixMillis(wall),
            ..report()
        };
        peer.answered(says(1_000_000 + 901_000), at(1_000));
        assert_eq!(peer.clock_ahead_ms(0, at(1_000)), 900_000);
        // Set right: no matter what stamps the wrong clock left behind.
        peer.answered(says(1_000_000 + 1_900), at(2_000));
        assert_eq!(peer.clock_ahead_ms(900_000, at(2_000)), 0);
        peer.lost(at(3_000));
        assert_eq!(peer.clock_ahead_ms(900_000, at(3_000)), 900_000);
    }

    #[test]
    fn a_question_counts_when_it_repeats_a_fresh_challenge() {
        let mut peer = Peer::new(Duration::from_secs(5), true, at(0));
        let asks = |echo| Report { echo, ..report() };
        assert!(!peer.counts(&asks(None), at(0)), "of an older release");
        let challenge = peer.challenge(at(1_000));
        assert!(
            !peer.counts(&asks(Some(challenge ^ 1)), at(1_100)),
            "made up"
        );
        assert!(!peer.visible());
        assert!(peer.counts(&asks(Some(challenge)), at(2_000)));
        assert!(peer.asked(asks(Some(challenge)), at(2_000)));
        assert!(peer.visible() && peer.speaks(at(2_000)) && !peer.answers(at(2_000)));
        assert!(peer.vanished(at(7_000)));
        let replayed = peer.counts(&asks(Some(challenge)), at(7_001));
        assert!(!replayed && !peer.visible(), "played again after its time");
        for n in 0..10_000 {
            peer.challenge(at(8_000 + n));
        }
        assert!(peer.challenges.given.len() <= 10, "few are kept");
    }

    #[test]
    fn a_restart_quicker_than_the_heartbeats_is_noticed() {
        let mut peer = Peer::new(Duration::from_secs(5), true, at(0));
        assert!(!peer.restarted(&report()), "the first report is no restart");
        peer.answered(report(), at(1_000));
        assert!(!peer.restarted(&report()));
        assert!(peer.restarted(&Report {
            boot: 2,
            ..report()
        }));
    }
}
