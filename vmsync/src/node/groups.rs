//! The groups of this node: their durable ownership, the evidence for failover, what failback waits for.

use std::time::Duration;

use vmsync_config::{
    Config, Group, System,
    words::{GroupName, NodeId, Now, SystemName},
};
use vmsync_core::resilience::{
    Ask, Closed, Decision, Machine, Ownership, PhoneEvidence, Rules, Standing, View, adopt,
};
use vmsync_store::{Store, StoreError};

use super::proof;
use crate::{agreed::Agreed, pair::Report};

/// Ownership of each group by name.
const OWNERSHIP: &str = "ownership";
/// For a held group: the life of the home's process in which the backup was activated.
const HELD_LIFE: &str = "held-life";
/// Desk phones that count as evidence, by group.
const EVIDENCE: &str = "evidence";
/// So many of them are kept over a restart, for one is enough (R-FO-1): each is a write, and all phones of a home
/// register at once.
const EVIDENCE_KEPT: usize = 16;
/// Every transition, `group/epoch`.
const HISTORY: &str = "history";
/// Transitions kept for each group.
const HISTORY_KEPT: usize = 1_000;

/// One group as this node knows it.
#[derive(Debug)]
pub struct GroupState {
    /// What decides.
    pub machine: Machine,
    /// As durable.
    pub ownership: Ownership,
    /// Desk phones that count.
    pub evidence: PhoneEvidence,
    /// While the ownership is held: the home's life in which the backup was activated. Another life
    /// means that the home went away and came back, even if neither was ever missed, because this
    /// node was away itself.
    pub held_life: Option<u64>,
    /// The last decision: phase and what is waited for.
    pub decision: Decision,
    /// When an order has to be looked at again (monotonic).
    pub order_due: Option<Duration>,
    /// The last closed order whose end was compared with the history.
    pub order_checked: Option<String>,
    /// The evidence as it was last kept.
    pub evidence_kept: Vec<(SystemName, String)>,
}

/// What a group's decision looks at besides its own state.
#[derive(Debug, Clone)]
pub struct Seen {
    /// As in [`View`], like the others.
    pub me: NodeId,
    /// Since when the peer is visible or not.
    pub peer: Result<Duration, Duration>,
    /// Heartbeats pass.
    pub speaks: bool,
    /// The witness is seen.
    pub witness: Option<bool>,
    /// Since when, in this sight of the peer, both have exchanged what they hold.
    pub sync_started: Option<Duration>,
    /// Both hold the same.
    pub sync_finished: bool,
    /// Left to be exchanged.
    pub pending_operations: u64,
}

impl GroupState {
    /// Reads the group's last ownership from `store`.
    pub fn load(
        store: &Store,
        config: &Config,
        systems: &[System],
        group: Group,
        now: Now,
    ) -> Result<Self, StoreError> {
        let kept = store.local(OWNERSHIP, group.name.as_str())?;
        let ownership = match kept {
            None => Ownership::initial(&group, now.wall),
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|e| StoreError::Io {
                doing: format!("reading the kept ownership of group {}", group.name),
                source: std::io::Error::other(e),
            })?,
        };
        let ownership = known_owner(ownership, &group, now);
        let mut evidence = PhoneEvidence::new(&group, systems);
        let evidence_kept = store.local(EVIDENCE, group.name.as_str())?;
        let evidence_kept = evidence_kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let evidence_kept: Vec<_> = evidence_kept.unwrap_or_default();
        evidence.restore(evidence_kept.clone());
        let machine = Machine::new(group);
        let view = View::new(config.node.id.clone(), now.mono);
        let decision = machine.decide(
            &ownership,
            &view,
            &rules(config, &Agreed::configured(&config.failback)),
            None,
            now,
        );
        // Decided only for its phase: a transition is not taken before the peer was asked.
        let held_life = store.local(HELD_LIFE, machine.group().name.as_str())?;
        let held_life = held_life.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(Self {
            machine,
            ownership,
            evidence,
            held_life,
            decision,
            order_due: None,
            order_checked: None,
            evidence_kept,
        })
    }

    /// The group's name.
    pub fn name(&self) -> &GroupName {
        &self.machine.group().name
    }

    fn view(&self, seen: &Seen, calls: u32) -> View {
        View {
            me: seen.me.clone(),
            peer: seen.peer,
            desk_phones: self.evidence.desk_phones(),
            sync_started: seen.sync_started,
            sync_finished: seen.sync_finished,
            pending_operations: seen.pending_operations,
            calls,
            speaks: seen.speaks,
            witness: seen.witness,
        }
    }

    /// Whether a hold is over because the home is in another life than when it began.
    pub fn outlived(&self, report: &Report) -> bool {
        let of_home = self.machine.group().home == report.node;
        // Of a home that was never heard no life is known: the first is the one it was held in.
        let other = self.held_life.is_some_and(|life| life != report.boot);
        of_home && self.ownership.held && other
    }

    /// Decides; changes nothing.
    pub fn decide(
        &self,
        seen: &Seen,
        calls: u32,
        rules: &Rules,
        ask: Option<&Ask>,
        now: Now,
    ) -> Decision {
        self.machine
            .decide(&self.ownership, &self.view(seen, calls), rules, ask, now)
    }

    /// The peer's record, where it wins over ours.
    pub fn adopted(&self, theirs: &[Ownership]) -> Option<Ownership> {
        let theirs = theirs.iter().find(|o| o.group == *self.name())?;
        adopt(self.machine.group(), &self.ownership, theirs)
    }
}

impl GroupState {
    /// The end of the group's order as it stands here, if that is yet to be compared with the history:
    /// an order is carried out by its group's backup, and what is told of it elsewhere may be less than true.
    pub fn order_to_check(&self, standing: Option<&Standing>) -> Option<Closed> {
        let Some(Standing::Closed(closed)) = standing else {
            return None;
        };
        let unchecked = !closed.done && self.order_checked.as_ref() != Some(&closed.id);
        unchecked.then(|| closed.clone())
    }

    /// What counts as evidence, where that changed since it was kept.
    pub fn evidence_to_keep(&self) -> Option<Vec<(SystemName, String)>> {
        let counted = || self.evidence.counted();
        let enough = counted().count().min(EVIDENCE_KEPT);
        let valid = self
            .evidence_kept
            .iter()
            .all(|phone| self.evidence.counts(phone));
        let unchanged = valid && self.evidence_kept.len() >= enough;
        (!unchanged).then(|| counted().take(EVIDENCE_KEPT).cloned().collect())
    }
}

/// Makes `counted` durable: known after a restart as well (R-FO-7).
pub fn keep_evidence(
    store: &Store,
    group: &GroupName,
    counted: &[(SystemName, String)],
) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(counted).map_err(|e| StoreError::Invalid(e.to_string()))?;
    store.put_local(EVIDENCE, group.as_str(), Some(&bytes))
}

/// A record may name a node that is no longer of the pair (a backup that was replaced): its home
/// takes the group, under the next epoch, so that the new peer follows.
fn known_owner(kept: Ownership, group: &Group, now: Now) -> Ownership {
    if kept.owner == group.home || kept.owner == group.backup {
        return kept;
    }
    Ownership {
        epoch: kept.epoch.saturating_add(1),
        owner: group.home.clone(),
        since: now.wall,
        reason: format!(
            "{} owned the group and is no longer of this pair",
            kept.owner
        ),
        held: false,
        row: None,
        order: None,
        ..kept
    }
}

/// The rules in force: the configuration's, with the replicated failback settings over it.
pub fn rules(config: &Config, agreed: &Agreed) -> Rules {
    let failback = &agreed.failback;
    Rules {
        backs_up_voicemail: config.resilience.backs_up_voicemail,
        trigger: config.resilience.trigger,
        failover_after: config.resilience.failover_after,
        policy: failback.policy,
        timeout: failback.timeout,
        stable_for: failback.stable_for,
        hold_off: failback.hold_off,
        maintenance: agreed.maintenance.clone(),
    }
}

/// Makes a new ownership durable, with its place in the history.
pub fn persist(
    store: &Store,
    ownership: &Ownership,
    held_life: Option<u64>,
) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(ownership).map_err(|e| StoreError::Invalid(e.to_string()))?;
    let group = ownership.group.as_str();
    let life = held_life.filter(|_| ownership.held);
    let life = life.map(|life| life.to_string());
    let epoch_key = history_key(group, ownership.epoch);
    let mut records = vec![
        (HISTORY, epoch_key.as_str(), Some(bytes.as_slice())),
        (OWNERSHIP, group, Some(&bytes)),
    ];
    if ownership.held || held_life.is_some() {
        records.push((HELD_LIFE, group, life.as_ref().map(String::as_bytes)));
    }
    store.put_local_batch(&records)
}

/// Every kept transition of `group`, oldest first; drops what is beyond 1,000.
pub fn history(store: &Store, group: &GroupName) -> Result<Vec<Ownership>, StoreError> {
    let prefix = format!("{group}/");
    let mut lines: Vec<_> = store
        .locals(HISTORY)?
        .into_iter()
        .filter(|(key, _)| key.starts_with(&prefix))
        .collect();
    let surplus = lines.len().saturating_sub(HISTORY_KEPT);
    for (key, _) in lines.drain(..surplus) {
        store.put_local(HISTORY, &key, None)?;
        proof::forget_failback(store, &key)?;
    }
    Ok(lines
        .iter()
        .filter_map(|(_, bytes)| serde_json::from_slice(bytes).ok())
        .collect())
}

pub(super) fn history_key(group: &str, epoch: u64) -> String {
    format!("{group}/{epoch:016}")
}
