//! What must come in time, and what callers get: the other half of the [`Judge`].

use std::time::Duration;

use vmsync_config::{FailbackPolicy, Trigger, words::Now};
use vmsync_core::resilience::{FLAP_WINDOW, FLAPS, Serving, Standing};

use super::{
    deciding::capped,
    judge::{BEATS, Judge, Signs},
    node::Live,
    world::BACKUP,
};

/// The nodes agree so long after their heartbeats have met.
const AGREED: Duration = Duration::from_secs(5);

impl Judge {
    /// When the backup may begin to count the home as gone, after all it got.
    pub(super) fn given_up_at(&self) -> Duration {
        let Signs { began, peer, .. } = self.signs[BACKUP];
        peer.map_or(began, |last| last + self.config.pair.invisible_after)
    }

    /// How long a home that was lost so often must stay visible.
    pub(super) fn hold_off(&self) -> Duration {
        // What fell out of the hour by less than a second may be counted or not.
        let hour = FLAP_WINDOW.saturating_sub(Duration::from_secs(1));
        let begin = self.took_over.saturating_sub(hour);
        let flaps = self.flaps.iter().filter(|at| **at >= begin).count();
        let Some(beyond) = flaps.checked_sub(FLAPS) else {
            return Duration::ZERO;
        };
        let doublings = u32::try_from(beyond.min(16)).unwrap_or(16);
        capped(self.config.failback.hold_off.saturating_mul(1 << doublings))
    }

    /// Looks at the backup after each turn of it.
    pub(super) fn look_at_backup(
        &mut self,
        live: &Live,
        calls: usize,
        now: Now,
    ) -> Result<(), String> {
        if std::mem::take(&mut self.evidence.1) {
            self.evidence.0 = false;
        }
        if live.session.started().is_some() && self.visible.is_some() {
            self.exchanged.get_or_insert(now.mono);
        }
        let rules = live.agreed.maintenance.as_ref();
        let paused = rules.is_some_and(|m| m.is_on(now.wall));
        let ready = live.peer.report.as_ref().is_some_and(|r| r.ready);
        let able = live.started(now) && !paused;
        self.one_dead_service(live, now);
        if live.group.ownership.owner == self.group.backup {
            self.going = None;
            // A mail of an earlier session of the home that comes late begins the exchange anew.
            let exchanges = live.session.started().is_some();
            let open =
                exchanges && able && ready && live.peer.speaks(now) && !live.group.ownership.held;
            self.late_failback(open, (calls, live.session.finished()), now.mono)
        } else {
            (self.returning, self.finished) = (None, None);
            self.late_failover(able, now.mono)
        }
    }

    fn late_failback(
        &mut self,
        open: bool,
        (calls, finished): (usize, bool),
        now: Duration,
    ) -> Result<(), String> {
        let (Some(visible), Some(exchanged), true) = (self.visible, self.exchanged, open) else {
            (self.returning, self.finished) = (None, None);
            return Ok(());
        };
        let failback = &self.config.failback;
        let slack = self.config.pair.heartbeat * 2;
        let open = *self.returning.get_or_insert(now);
        let quiet = calls == 0 && (failback.policy == FailbackPolicy::Automatic || finished);
        let quiet = if quiet {
            Some(*self.finished.get_or_insert(now))
        } else {
            self.finished = None;
            None
        };
        // Steps of the clock may make it forget flaps, or remember some longer.
        let hold_off = match self.flaps.len() {
            0..FLAPS => Duration::ZERO,
            _ => capped(Duration::MAX),
        };
        let stable = visible + capped(failback.stable_for).max(hold_off);
        let timeout = exchanged.max(visible) + capped(failback.timeout);
        let due = match failback.policy {
            FailbackPolicy::Manual => return Ok(()),
            FailbackPolicy::Graceful => quiet.map(|at| at.max(stable)),
            FailbackPolicy::Automatic => Some(quiet.unwrap_or(timeout).min(timeout).max(stable)),
        };
        match due.map(|due| due.max(open)) {
            Some(due) if now > due + slack => Err(format!(
                "the policy {:?} should have brought the group home at {due:?}: home in sight since {visible:?}, exchanged at {exchanged:?}, {calls} calls (R-FB-3, R-FB-4, R-FB-5)",
                failback.policy
            )),
            _ => Ok(()),
        }
    }

    fn late_failover(&mut self, able: bool, now: Duration) -> Result<(), String> {
        let resilience = &self.config.resilience;
        let heartbeat = self.config.pair.heartbeat;
        let witness = self.config.witness.as_ref().is_none_or(|w| {
            let seen = self.signs[BACKUP].witness;
            seen.is_some_and(|at| now < at + w.unseen_after)
        });
        let by_itself = resilience.backs_up_voicemail && resilience.trigger == Trigger::Visibility;
        let (Some(mute), true) = (self.mute.1, able && witness && by_itself) else {
            self.going = None;
            return Ok(());
        };
        let since = *self.going.get_or_insert(now);
        let invisible = (mute + self.config.pair.invisible_after).max(self.signs[BACKUP].began);
        let due = invisible + resilience.failover_after;
        if now > due.max(since) + heartbeat * BEATS {
            return Err(format!(
                "the home can give no sign since {mute:?}, and the backup has not taken over (R-FO-2)"
            ));
        }
        Ok(())
    }

    /// The home's web server is gone for so long that it would have been given up, but something else
    /// of it lives.
    fn one_dead_service(&mut self, live: &Live, now: Now) {
        let dead = live.peer.visible() && !live.peer.answers(now);
        if !dead {
            self.dead_service = None;
            return;
        }
        let limit = self.config.resilience.failover_after + self.config.pair.invisible_after;
        let since = *self.dead_service.get_or_insert(now.mono);
        if now.mono >= since + limit {
            self.dead_service = Some(Duration::MAX.saturating_sub(limit));
            if live.group.ownership.owner == self.group.home {
                self.up("dead services that were no failover");
            }
        }
    }

    /// Looks at what a node answers callers.
    pub(super) fn look_at_answers(
        &mut self,
        n: usize,
        serving: &Serving,
        live: &Live,
        now: Duration,
    ) -> Result<(), String> {
        let first = self.config.resilience.answering_beats_consistency;
        let me = &live.config.node.id;
        if first && matches!(serving, Serving::Isolated { .. }) {
            return Err(format!(
                "{me} answers nobody, though answering was put first"
            ));
        }
        if matches!(serving, Serving::Isolated { .. }) {
            self.up("looks at a node that fell silent");
        }
        let Some(witness) = self.config.witness.as_ref().filter(|_| !first) else {
            return Ok(());
        };
        let Signs {
            peer,
            witness: seen,
            ..
        } = self.signs[n];
        let over = |last: Option<Duration>, span| last.is_none_or(|at| now >= at + span);
        let alone =
            over(peer, self.config.pair.invisible_after) && over(seen, witness.unseen_after);
        if alone && matches!(serving, Serving::Yes | Serving::YesPartition) {
            return Err(format!(
                "{me} answers, and sees neither its peer nor the witness"
            ));
        }
        Ok(())
    }

    /// After healing: since when both must name the same owner.
    pub(super) fn agree_from(&self) -> Option<Duration> {
        let [Some(a), Some(b)] = self.met else {
            return None;
        };
        Some(a.max(b).max(self.moved) + AGREED)
    }

    /// How the order of the group stands in the end.
    pub(super) fn standing(
        &self,
        standing: Option<&Standing>,
        now: Now,
        epoch: u64,
    ) -> Result<(), String> {
        match standing {
            Some(Standing::Closed(closed)) if self.orders.contains_key(&closed.id) => {
                let done = self.carried_out.contains_key(&closed.id);
                let by_policy = closed.outcome.contains("goes on by itself");
                if closed.done == done || (closed.done && by_policy) {
                    Ok(())
                } else {
                    Err(format!(
                        "an order stands as {closed:?}, carried out: {done}"
                    ))
                }
            }
            Some(Standing::Open(order)) => {
                let late = now.wall > order.until;
                if order.epoch != epoch || late {
                    return Err(format!(
                        "{order:?} still stands in epoch {epoch}, late: {late}"
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
