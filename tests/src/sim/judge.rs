//! What must hold of failover and failback, judged from outside: from what was sent and delivered,
//! which processes lived, who called, and what operators were told; never from what a node believes.
//!
//! | promise | rule |
//! |---|---|
//! | no failover without an operator while any sign of life of the home came within the limit, or while one could have come: one dead service moves nobody | R-FO-1, R-FO-3 |
//! | trigger `phones`: only once a physical desk phone of the home has registered meanwhile; what was said to count is known after a restart | R-FO-1, R-FO-5, R-FO-7 |
//! | nothing by itself in maintenance mode, nor without the witness; no failover at all with resilience off | R-TO-6 |
//! | under trigger `visibility` the backup does take over when its time has come | R-FO-2 |
//! | no failback before both have taken a mail of the other since the home came back | R-FB-1 |
//! | by policy only: once the home was stable and its hold-off over, never with a living call (but by the timeout), under `graceful` with all the backup has at the home | R-FB-3, R-FB-4, R-FB-7, R-FB-8 |
//! | `automatic` never later than its time, 60 minutes at most | R-FB-4, R-FB-5 |
//! | epochs only grow, one epoch has one owner; after healing both nodes name the same within 5 s, and one serves | |
//! | an order is carried out at most once, in its time, not after a cancellation its node knew; how it stands in the end is true | |
//! | callers get an answer where that was put first; where consistency was, an owner that sees nobody falls silent | |

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use vmsync_config::{
    Config, FailbackPolicy, Group, Trigger,
    words::{NodeId, Now},
};
use vmsync_core::resilience::{Order, Ownership, PhoneKind};

use super::{
    deciding::{Decided, capped},
    node::Live,
    world::{BACKUP, HOME},
};

/// Beats within which a sign that can come has come: two for the time-out of a question that was lost,
/// two for one that bears a challenge.
pub(super) const BEATS: u32 = 6;

/// What is true at the backup when it decides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    pub(super) now: Now,
    /// Maintenance mode, as its store has it.
    pub(super) maintenance: bool,
    /// Calls of the group on it that gave a sign of life in time.
    pub(super) calls: usize,
    /// The home's disk has all that is on the backup's.
    pub(super) home_has_all: bool,
}

/// What is known of the signs a node got of its peer, and of the witness, in this life.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Signs {
    /// The process began.
    pub(super) began: Duration,
    pub(super) peer: Option<Duration>,
    pub(super) witness: Option<Duration>,
}

/// Remembers what befell the pair.
#[derive(Debug)]
pub(super) struct Judge {
    pub(super) config: Config,
    pub(super) group: Group,
    pub(super) signs: [Signs; 2],
    /// The last time the home could give the backup no sign; since when it has not been able to.
    pub(super) mute: (Duration, Option<Duration>),
    /// The backup's sight of the home: since when, and since when both have exchanged what they hold.
    pub(super) visible: Option<Duration>,
    pub(super) exchanged: Option<Duration>,
    /// The last mail each node took.
    mails: [Option<Duration>; 2],
    /// A desk phone was said to count; the home has been seen since, but that is not durable yet.
    pub(super) evidence: (bool, bool),
    /// Failovers without an operator; and when the backup last took over, by whomever.
    pub(super) flaps: Vec<Duration>,
    pub(super) took_over: Duration,
    /// Since when nothing but time and calls stands in the way of a policy; of a failover.
    pub(super) returning: Option<Duration>,
    pub(super) finished: Option<Duration>,
    pub(super) going: Option<Duration>,
    /// Each order that an operator was told of, until its node's folder is replaced.
    pub(super) orders: BTreeMap<String, Order>,
    pub(super) carried_out: BTreeMap<String, u64>,
    cancelled: BTreeSet<String>,
    owners: BTreeMap<u64, NodeId>,
    /// A data folder was replaced, or the backup's clock has stepped.
    pub(super) restored: bool,
    pub(super) stepped: bool,
    pub(super) moved: Duration,
    /// When each got its first answer after healing.
    pub(super) met: [Option<Duration>; 2],
    /// The home was given up for lost by one service, and was there by another.
    pub(super) dead_service: Option<Duration>,
    counts: BTreeMap<&'static str, u64>,
}

impl Judge {
    pub(super) fn new(config: &Config, group: &Group) -> Self {
        Self {
            config: config.clone(),
            group: group.clone(),
            signs: [Signs::default(); 2],
            mute: (Duration::ZERO, None),
            visible: None,
            exchanged: None,
            mails: [None; 2],
            evidence: (false, false),
            flaps: Vec::new(),
            took_over: Duration::ZERO,
            returning: None,
            finished: None,
            going: None,
            orders: BTreeMap::new(),
            carried_out: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            owners: BTreeMap::new(),
            restored: false,
            stepped: false,
            moved: Duration::ZERO,
            met: [None; 2],
            dead_service: None,
            counts: BTreeMap::new(),
        }
    }

    /// What happened, by name.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.counts.iter().map(|(name, count)| (*name, *count))
    }

    pub(super) fn up(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    // ---- what befalls the nodes

    /// A process began.
    pub(super) fn starts(&mut self, n: usize, live: &Live) -> Result<(), String> {
        self.ends(n);
        self.signs[n].began = live.since;
        self.owns(n, &live.group.ownership, None)?;
        if n == BACKUP {
            let knows = live.group.evidence.desk_phones() > 0;
            if self.evidence.0 && !knows {
                return Err("a desk phone was said to count, and the backup has forgotten it with its restart (R-FO-7)".to_owned());
            }
            if knows {
                self.up("evidence kept over a restart");
            }
            self.evidence = (knows, false);
        }
        Ok(())
    }

    /// A process ended, or has begun anew.
    pub(super) fn ends(&mut self, n: usize) {
        self.signs[n] = Signs::default();
        self.met[n] = None;
        if n == BACKUP {
            (self.visible, self.exchanged) = (None, None);
            (self.returning, self.finished, self.going) = (None, None, None);
            if std::mem::take(&mut self.evidence.1) {
                // Whether that was durable the restart will tell.
                self.evidence.0 = false;
            }
            self.dead_service = None;
        }
    }

    /// The data folder of a node is another one.
    pub(super) fn replaced(&mut self, n: usize) {
        self.restored = true;
        self.orders.clear();
        self.carried_out.clear();
        self.cancelled.clear();
        self.owners.clear();
        if n == BACKUP {
            self.evidence = (false, false);
        }
    }

    /// A sign of life of its peer reached `n`.
    pub(super) fn sign(&mut self, n: usize, now: Duration) {
        self.signs[n].peer = Some(now);
        if n == BACKUP {
            self.mute.1 = None;
            self.going = None;
        }
    }

    /// A heartbeat of `n` was answered.
    pub(super) fn answered(&mut self, n: usize, now: Duration, healed: bool) {
        self.sign(n, now);
        if healed {
            self.met[n].get_or_insert(now);
        }
    }

    /// The witness answered `n`.
    pub(super) fn witnessed(&mut self, n: usize, now: Duration) {
        self.signs[n].witness = Some(now);
    }

    /// `n` has answered 250 to a mail of its peer.
    pub(super) fn took_mail(&mut self, n: usize, now: Duration) {
        self.mails[n] = Some(now);
    }

    /// Whether the home could give the backup a sign at this moment.
    pub(super) fn could_give_sign(&mut self, could: bool, now: Duration) {
        if could {
            self.mute.1 = None;
        } else {
            self.mute.0 = now;
            self.mute.1.get_or_insert(now);
        }
    }

    /// The home came in sight of the backup, or went out of it.
    pub(super) fn sight(&mut self, visible: bool, now: Duration) {
        self.visible = visible.then_some(now);
        self.exchanged = None;
        (self.returning, self.finished, self.going) = (None, None, None);
        self.evidence.1 |= visible;
    }

    /// A phone registered at the backup's system; whether it was said to count.
    pub(super) fn phone(
        &mut self,
        kind: PhoneKind,
        counts: bool,
        now: Duration,
    ) -> Result<(), String> {
        if !counts {
            self.up("phones refused as evidence");
            return Ok(());
        }
        self.up("phones that count");
        if kind != PhoneKind::Desk {
            return Err(format!("a {kind:?} was taken for evidence (R-FO-1)"));
        }
        self.evidence.0 = true;
        self.gone_long_enough("a phone was taken for evidence", now)
    }

    // ---- what operators are told

    pub(super) fn ordered(&mut self, order: Order) {
        self.orders.insert(order.id.clone(), order);
    }

    /// The backup itself was told.
    pub(super) fn cancelled(&mut self, id: String) {
        self.cancelled.insert(id);
    }

    // ---- what a node does

    /// Nothing of the home for `invisible_after` and then `failover_after`.
    fn gone_long_enough(&self, what: &str, now: Duration) -> Result<(), String> {
        let after = self.config.resilience.failover_after;
        let since = self.given_up_at();
        if now < since + after {
            return Err(format!(
                "{what} though a sign of life of the home came {:?} ago (R-FO-1, R-FO-3)",
                now.saturating_sub(self.signs[BACKUP].peer.unwrap_or_default())
            ));
        }
        let (mute, slack) = (self.mute.0, self.config.pair.heartbeat * BEATS);
        if now > mute + slack {
            return Err(format!(
                "{what} though the home lives and could have been seen for {:?}: one dead service is no failover",
                now.saturating_sub(mute)
            ));
        }
        Ok(())
    }

    /// The backup (or a node that must not) decided a change.
    pub(super) fn decided(&mut self, decided: &Decided, facts: Facts) -> Result<(), String> {
        let (Some(row), Some(next)) = (decided.decision.row, &decided.decision.ownership) else {
            return Ok(());
        };
        let now = facts.now.mono;
        let broken = |why: &str| Err(format!("{row}: {why}"));
        self.moved = now;
        if decided.view.me != self.group.backup {
            return broken("not the backup decided it");
        }
        let by_itself = !matches!(
            row,
            "failover-operator" | "failback-operator" | "failback-forced"
        );
        if by_itself && facts.maintenance {
            return broken("maintenance mode is on");
        }
        if next.owner == self.group.backup {
            self.took_over = now;
            if !self.config.resilience.backs_up_voicemail {
                return broken("resilience is turned off (R-TO-6)");
            }
            return if by_itself {
                self.failover(row, now)
            } else {
                Ok(())
            };
        }
        self.failback(row, by_itself, decided, facts)
    }

    fn failover(&mut self, row: &str, now: Duration) -> Result<(), String> {
        self.flaps.push(now);
        let trigger = match self.config.resilience.trigger {
            Trigger::Phones => "failover-phones",
            Trigger::Visibility => "failover-visibility",
            Trigger::Manual => "none",
        };
        if row != trigger {
            return Err(format!("{row}: the trigger set is {trigger}"));
        }
        if row == "failover-phones" && !self.evidence.0 {
            return Err(format!(
                "{row}: no desk phone of the home has registered since it was last seen (R-FO-1)"
            ));
        }
        if let Some(witness) = &self.config.witness {
            let seen = self.signs[BACKUP].witness;
            if seen.is_none_or(|at| now >= at + witness.unseen_after) {
                return Err(format!("{row}: the backup does not see the witness"));
            }
            self.up("failovers with the witness in sight");
        }
        self.gone_long_enough(row, now)
    }

    fn failback(
        &mut self,
        row: &'static str,
        by_itself: bool,
        decided: &Decided,
        facts: Facts,
    ) -> Result<(), String> {
        let now = facts.now.mono;
        let broken = |why: String| Err(format!("{row}: {why}"));
        let since =
            |mail: Option<Duration>| mail.filter(|at| self.visible.is_some_and(|v| *at >= v));
        let (Some(visible), Some(_), Some(_)) = (
            self.visible,
            since(self.mails[HOME]),
            since(self.mails[BACKUP]),
        ) else {
            return broken(format!(
                "before both have exchanged what they hold: home seen {:?}, mails taken {:?} (R-FB-1)",
                self.visible, self.mails
            ));
        };
        let timed = row == "failback-automatic-timeout";
        if facts.calls > 0 && !timed && row != "failback-forced" {
            return broken(format!("{} calls are active", facts.calls));
        }
        if facts.calls > 0 {
            self.up("failbacks with calls left to end");
        }
        if !by_itself {
            return Ok(());
        }
        let failback = self.config.failback.clone();
        if decided.before.held {
            return broken("it was activated with its home in sight, and that never left".into());
        }
        let policy = match row {
            "failback-graceful" => FailbackPolicy::Graceful,
            _ => FailbackPolicy::Automatic,
        };
        if policy != failback.policy {
            return broken(format!("the policy set is {:?}", failback.policy));
        }
        if now < visible + capped(failback.stable_for) {
            return broken("its home was not stable for long enough (R-FB-7)".into());
        }
        let hold_off = self.hold_off();
        if !self.stepped && !self.restored && now < visible + hold_off {
            return broken(format!("the hold-off of {hold_off:?} is not over"));
        }
        if hold_off > Duration::ZERO {
            self.up("failbacks after a hold-off");
        }
        let began = self.exchanged.map_or(visible, |at| at.max(visible));
        if timed && now < began + capped(failback.timeout) {
            return broken("the timeout has not run out (R-FB-4)".into());
        }
        if row == "failback-graceful" && !facts.home_has_all {
            return broken("the home's disk lacks what is on the backup's (R-FB-3)".into());
        }
        if failback.timeout > capped(failback.timeout) && timed {
            self.up("timeouts cut to 60 minutes");
        }
        Ok(())
    }

    /// An ownership is durable on `n`; `wall` is the clock of the node that took it on.
    pub(super) fn owns(
        &mut self,
        n: usize,
        ownership: &Ownership,
        now: Option<Now>,
    ) -> Result<(), String> {
        let Ownership {
            epoch,
            owner,
            order,
            ..
        } = ownership;
        self.moved = self.moved.max(now.map_or(Duration::ZERO, |n| n.mono));
        let known = self.owners.insert(*epoch, owner.clone());
        // A copy that was put in place knows nothing of the epochs after it.
        if !self.restored && known.is_some_and(|known| known != *owner) {
            return Err(format!("two owners in epoch {epoch}"));
        }
        let Some(id) = order else { return Ok(()) };
        let before = self.carried_out.insert(id.clone(), *epoch);
        if before.is_some_and(|before| before != *epoch) {
            return Err(format!("order {id} was carried out twice"));
        }
        if before.is_some() || n != BACKUP {
            return Ok(());
        }
        self.up("orders carried out");
        if self.cancelled.contains(id) {
            return Err(format!("order {id} was carried out after it was cancelled"));
        }
        let in_time =
            |order: &Order| now.is_none_or(|n| order.at <= n.wall && n.wall <= order.until);
        match self.orders.get(id) {
            Some(order) if !in_time(order) => {
                Err(format!("order {id} was not carried out in its time"))
            }
            _ => Ok(()),
        }
    }
}
