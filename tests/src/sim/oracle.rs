//! What must hold, watched from outside both nodes.

use std::collections::{BTreeMap, BTreeSet};

use vmsync_config::{Group, words::Origin};
use vmsync_core::{
    resilience::{Decision, Ownership, Serving, View},
    sync::SyncState,
};
use vmsync_store::{Effect, Operation};

use super::{
    node::Node,
    store::{Memory, Replica},
};

/// Remembers what was acknowledged and what was ever seen durable.
#[derive(Debug, Default)]
pub struct Oracle {
    acknowledged: Vec<Operation>,
    seen: BTreeMap<(Origin, u64), Operation>,
    epochs: [u64; 2],
    /// How often a row fired, by its id.
    pub rows: BTreeMap<&'static str, u64>,
}

impl Oracle {
    /// These became durable on a node.
    pub fn durable(&mut self, operations: &[Operation]) -> Result<(), String> {
        for operation in operations {
            let key = (operation.stamp.origin.clone(), operation.stamp.seq);
            let earlier = self.seen.insert(key, operation.clone());
            if earlier.is_some_and(|earlier| earlier != *operation) {
                let stamp = &operation.stamp;
                return Err(format!(
                    "sequence {} of {} was used twice",
                    stamp.seq, stamp.origin
                ));
            }
        }
        Ok(())
    }

    /// A client got its 201 for each of these.
    pub fn acknowledge(&mut self, operations: Vec<Operation>) {
        self.acknowledged.extend(operations);
    }

    /// How many operations were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// A data folder is replaced by an old copy: what no disk holds any more can't be asked for.
    pub fn restored(&mut self, node: usize, copy: &Memory, peer: &Memory, epoch: u64) {
        let held = |o: &Operation| copy.holds(o) || peer.holds(o);
        self.acknowledged.retain(held);
        self.seen.retain(|_, o| held(o));
        if let Some(known) = self.epochs.get_mut(node) {
            *known = epoch;
        }
    }

    /// Ownership as it became durable on `node`.
    pub fn owns(&mut self, node: usize, ownership: &Ownership) -> Result<(), String> {
        let Some(known) = self.epochs.get_mut(node) else {
            return Ok(());
        };
        if ownership.epoch < *known {
            return Err(format!(
                "node {node} went back from epoch {known} to {}",
                ownership.epoch
            ));
        }
        *known = ownership.epoch;
        Ok(())
    }

    /// A row fired.
    pub fn fired(&mut self, group: &Group, view: &View, decision: &Decision) -> Result<(), String> {
        let (Some(row), Some(next)) = (decision.row, &decision.ownership) else {
            return Ok(());
        };
        *self.rows.entry(row).or_default() += 1;
        if view.me != group.backup {
            return Err(format!(
                "{row} fired on {}, which is not the backup",
                view.me
            ));
        }
        if self
            .epochs
            .iter()
            .any(|known| next.epoch <= *known && view.peer.is_ok())
        {
            return Err(format!("{row} did not raise the epoch above what is known"));
        }
        // Sight first, then the exchange: one from before the home went away counts no more.
        let exchanged =
            matches!((view.peer, view.sync_started), (Ok(seen), Some(started)) if started >= seen);
        if next.owner == group.home && !exchanged {
            return Err(format!(
                "{row} before both had exchanged what they hold (R-FB-1)"
            ));
        }
        Ok(())
    }

    /// After everything is healed and has come to rest.
    pub fn at_rest(&self, nodes: &[Node; 2], serving: &[Option<Serving>; 2]) -> Result<(), String> {
        let [a, b] = nodes;
        let deletions: BTreeSet<_> = self
            .acknowledged
            .iter()
            .filter(|o| o.effect == Effect::Delete)
            .map(|o| o.entity.clone())
            .collect();
        for node in nodes {
            for operation in &self.acknowledged {
                if !node.store.holds(operation) {
                    let stamp = &operation.stamp;
                    return Err(format!(
                        "{} lacks acknowledged operation {} of {}",
                        node.id, stamp.seq, stamp.origin
                    ));
                }
            }
            let gone = node.store.messages(true);
            if let Some(back) = deletions.difference(&gone).next() {
                return Err(format!("{back} was deleted and is back on {}", node.id));
            }
            self.unique(node)?;
            finished(node)?;
        }
        if a.store.held() != b.store.held() {
            return Err(format!(
                "the stores differ: {:?} and {:?}",
                a.store.held(),
                b.store.held()
            ));
        }
        if a.ownership != b.ownership {
            return Err(format!(
                "two ownerships: {:?} and {:?}",
                a.ownership, b.ownership
            ));
        }
        let owners = serving.iter().filter(|s| **s == Some(Serving::Yes)).count();
        if owners == 1 {
            Ok(())
        } else {
            Err(format!("{owners} nodes serve: {serving:?}"))
        }
    }

    fn unique(&self, node: &Node) -> Result<(), String> {
        for operation in node.store.log() {
            let key = (operation.stamp.origin.clone(), operation.stamp.seq);
            if self.seen.get(&key).is_some_and(|seen| seen != operation) {
                return Err(format!(
                    "{} holds another operation {} {}",
                    node.id, key.0, key.1
                ));
            }
        }
        Ok(())
    }
}

fn finished(node: &Node) -> Result<(), String> {
    let Some(live) = &node.live else {
        return Err(format!("{} is down", node.id));
    };
    let certificate = live.session.certificate();
    let equal = certificate.is_some_and(|c| c.vector == node.have());
    if live.session.finished() && equal {
        return Ok(());
    }
    let now = std::time::Duration::ZERO;
    let state: SyncState = live.session.outgoing(now).state;
    Err(format!(
        "{} has not finished: {state:?}, diverged {}",
        node.id,
        live.session.diverged()
    ))
}
