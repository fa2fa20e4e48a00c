//! Whether the other node is there: heartbeats sent, answers judged.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use vmsync_config::words::{Now, UnixMillis};

use crate::{
    clock,
    pair::{PeerClient, PeerError, Report},
};

/// The other node as seen from here.
pub(super) struct Peer {
    /// Since when visible (`Ok`) or not (`Err`), monotonic.
    pub(super) sight: Result<Duration, Duration>,
    /// The same moment by the wall clock.
    pub(super) since: UnixMillis,
    /// Last answer.
    pub(super) last_seen: Option<UnixMillis>,
    last_answer: Option<Duration>,
    /// Why it does not answer.
    pub(super) reason: Option<String>,
    /// What it told last.
    pub(super) report: Option<Report>,
    /// How far its clock was ahead of ours at its last answer, in ms; 0 when it was not.
    ahead_ms: u64,
    invisible_after: Duration,
}

impl Peer {
    /// Not seen yet.
    pub(super) fn new(invisible_after: Duration, now: Now) -> Self {
        Self {
            sight: Err(now.mono),
            since: now.wall,
            last_seen: None,
            last_answer: None,
            reason: Some("no heartbeat answered yet".to_owned()),
            report: None,
            ahead_ms: 0,
            invisible_after,
        }
    }

    pub(super) fn visible(&self) -> bool {
        self.sight.is_ok()
    }

    /// It answered. True when it was invisible before.
    pub(super) fn answered(&mut self, report: Report, now: Now) -> bool {
        self.last_seen = Some(now.wall);
        self.last_answer = Some(now.mono);
        self.reason = None;
        self.ahead_ms = report.at.0.saturating_sub(now.wall.0);
        self.report = Some(report);
        let appeared = self.sight.is_err();
        if appeared {
            self.sight = Ok(now.mono);
            self.since = now.wall;
        }
        appeared
    }

    /// How far its clock is ahead of ours, in ms. Its heartbeats tell while they come, for they
    /// bear its clock itself; stamps of what it sent (`by_stamps`) may be of long ago.
    pub(super) fn clock_ahead_ms(&self, by_stamps: u64) -> u64 {
        if self.visible() {
            self.ahead_ms
        } else {
            by_stamps
        }
    }

    /// Whether `report` comes from another life of its process than the last one: it went away and
    /// came back, however quickly.
    pub(super) fn restarted(&self, report: &Report) -> bool {
        self.visible()
            && self
                .report
                .as_ref()
                .is_some_and(|last| last.boot != report.boot)
    }

    /// It is gone, known for certain rather than by a missing answer.
    pub(super) fn lost(&mut self, now: Now) {
        self.sight = Err(now.mono);
        self.since = now.wall;
    }

    /// It did not answer one heartbeat.
    pub(super) fn missed(&mut self, error: &PeerError) {
        self.reason = Some(error.to_string());
    }

    /// True when it becomes invisible now: the last answer is too long ago.
    pub(super) fn vanished(&mut self, now: Now) -> bool {
        let gone = self.visible() && self.deadline().is_some_and(|at| now.mono >= at);
        if gone {
            self.lost(now);
        }
        gone
    }

    /// When it becomes invisible unless it answers.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let last = self.last_answer.filter(|_| self.visible())?;
        Some(last.saturating_add(self.invisible_after))
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
        }
    }

    #[test]
    fn a_peer_is_invisible_once_no_answer_came_for_the_time_set() {
        let mut peer = Peer::new(Duration::from_secs(5), at(0));
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
        assert_eq!(peer.sight, Err(Duration::from_secs(7)));
        assert!(!peer.vanished(at(8_000)), "said once");
        assert!(peer.answered(report(), at(9_000)));
    }

    #[test]
    fn heartbeats_tell_when_its_clock_is_ahead_and_when_it_is_right_again() {
        let mut peer = Peer::new(Duration::from_secs(5), at(0));
        assert_eq!(peer.clock_ahead_ms(7), 7, "nothing but stamps to go by");
        let says = |wall| Report {
            at: UnixMillis(wall),
            ..report()
        };
        peer.answered(says(1_000_000 + 901_000), at(1_000));
        assert_eq!(peer.clock_ahead_ms(0), 900_000);
        // Set right: no matter what stamps the wrong clock left behind.
        peer.answered(says(1_000_000 + 1_900), at(2_000));
        assert_eq!(peer.clock_ahead_ms(900_000), 0);
        peer.lost(at(3_000));
        assert_eq!(peer.clock_ahead_ms(900_000), 900_000);
    }

    #[test]
    fn a_restart_quicker_than_the_heartbeats_is_noticed() {
        let mut peer = Peer::new(Duration::from_secs(5), at(0));
        assert!(!peer.restarted(&report()), "the first report is no restart");
        peer.answered(report(), at(1_000));
        assert!(!peer.restarted(&report()));
        assert!(peer.restarted(&Report {
            boot: 2,
            ..report()
        }));
    }
}
