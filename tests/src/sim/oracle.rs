//! What must hold, watched from outside both nodes.
//!
//! # What may be lost
//!
//! An operation that was acknowledged may be missing at the end only if the operator destroyed every
//! copy of it: when a node's data folder is replaced by an old copy, or by nothing, those operations
//! are excused that neither that copy nor the other node's store holds at that moment. A store
//! holds what its own vector, durable, covers; of an entity under quarantine, of which something may
//! have been skipped, what its record shows. Nothing else excuses, whatever else befell the pair;
//! `Sabotage` shows that this is not too wide.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;
use vmsync_config::{
    Group,
    words::{Origin, Vector},
};
use vmsync_core::{
    resilience::{Decision, Ownership, Serving, View},
    sync::WINDOW,
};
use vmsync_store::{Effect, EntityKey, Hlc, Operation, RecordsAsk, Stamp};

use super::node::{Lengths, Live, Node, Quarantine};

/// Which operation has a number.
pub type Numbers = BTreeMap<(Origin, u64), (Hlc, EntityKey)>;

/// Remembers what was acknowledged and what was ever seen durable.
#[derive(Debug, Default)]
pub struct Oracle {
    acknowledged: Vec<Operation>,
    numbers: Numbers,
    /// Numbers under which a node holds what an old copy brought back, not what has them now.
    old: [BTreeSet<(Origin, u64)>; 2],
    /// Messages some deletion of which was recorded.
    deleted: BTreeSet<EntityKey>,
    epochs: [u64; 2],
    counts: BTreeMap<&'static str, u64>,
}

impl Oracle {
    /// These became durable on a node; whether they are the peer's.
    pub fn durable(&mut self, committed: &[(Operation, bool)]) -> Result<(), String> {
        for (operation, _) in committed {
            if operation.skipped().is_some() {
                // It stands for another, of which it knows the number alone.
                continue;
            }
            let Stamp { at, origin, seq } = &operation.stamp;
            let what = (*at, operation.entity.clone());
            let earlier = self.numbers.insert((origin.clone(), *seq), what.clone());
            if earlier.is_some_and(|earlier| earlier != what) {
                return Err(format!("sequence {seq} of {origin} was used twice"));
            }
            if operation.effect == Effect::Delete {
                self.deleted.insert(operation.entity.clone());
            }
        }
        Ok(())
    }

    /// A client got its 201 for each of these.
    pub fn acknowledge(&mut self, committed: &[(Operation, bool)]) {
        let own = committed.iter().filter(|(_, remote)| !remote);
        let before = self.acknowledged.len();
        self.acknowledged.extend(own.map(|(o, _)| o.clone()));
        self.up("acknowledged", self.acknowledged.len() - before);
    }

    fn up(&mut self, what: &'static str, by: usize) {
        *self.counts.entry(what).or_default() += u64::try_from(by).unwrap_or(0);
    }

    /// What happened, by name.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.counts.iter().map(|(name, count)| (*name, *count))
    }

    /// Which operation has which number now: what a copy made now holds under it.
    pub fn numbers(&self) -> Numbers {
        self.numbers.clone()
    }

    /// The data folder of `node` is replaced by one that holds `copy`; see the head of this module.
    /// Where all copies of an operation in use are destroyed its number is free as well: no node can
    /// know of it. (A copy the operator still keeps may bring it back; then both stand in the
    /// records, whose stamps differ.)
    pub fn replaced(
        &mut self,
        node: usize,
        (copy, as_of, copied): (&Vector, &Numbers, &Quarantine),
        (peer, left_out): (&Vector, &Quarantine),
        epoch: u64,
    ) {
        let covers = |v: &Vector, key: &(Origin, u64)| v.get(&key.0) >= key.1;
        let theirs = std::mem::take(&mut self.old[1 - node]);
        let in_copy = |key: &(Origin, u64), what: &(Hlc, EntityKey)| {
            covers(copy, key) && as_of.get(key) == Some(what)
        };
        let at_peer = |key: &(Origin, u64)| covers(peer, key) && !theirs.contains(key);
        let held = |key: &_, what: &_| in_copy(key, what) || at_peer(key);
        let mut acknowledged = std::mem::take(&mut self.acknowledged);
        let before = acknowledged.len();
        acknowledged.retain(|o| {
            let key = (o.stamp.origin.clone(), o.stamp.seq);
            let what = (o.stamp.at, o.entity.clone());
            // Under quarantine a number may be covered by what stands for a skipped operation.
            let shown = |q: &Quarantine| match q.get(&o.entity) {
                None => true,
                Some(record) => {
                    let record = record.as_ref().map_or(&Value::Null, |r| &r.record);
                    self.stands(o, record).is_ok()
                }
            };
            (in_copy(&key, &what) && shown(copied)) || (at_peer(&key) && shown(left_out))
        });
        self.acknowledged = acknowledged;
        self.up(
            "acknowledged, then destroyed",
            before - self.acknowledged.len(),
        );
        self.numbers.retain(|key, what| held(key, what));
        let other = |(key, what): (&(Origin, u64), _)| {
            let differs = self.numbers.get(key).is_some_and(|now| now != what);
            (differs && covers(copy, key)).then(|| key.clone())
        };
        self.old[node] = as_of.iter().filter_map(other).collect();
        self.old[1 - node] = theirs;
        if let Some(known) = self.epochs.get_mut(node) {
            *known = epoch;
        }
    }

    /// Ownership as it is durable on `node`.
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
        self.up(row, 1);
        if view.me != group.backup {
            return Err(format!(
                "{row} fired on {}, which is not the backup",
                view.me
            ));
        }
        let [_, mine] = self.epochs;
        if next.epoch <= mine {
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

    /// Memory is bounded, and nobody believes that its peer holds more than it does. `peer` is what
    /// that holds durably, and since when its data folder is the same.
    pub fn at_any_time(&self, node: &Node, peer: (&Vector, Duration)) -> Result<(), String> {
        let Some(live) = &node.live else {
            return Ok(());
        };
        let under_way = live.way.outstanding.len();
        if under_way > WINDOW {
            return Err(format!("{} has {under_way} mails under way", node.id));
        }
        let (holds, since) = peer;
        let believed = live.session.peer_have();
        let spoken = live.session.started().is_some_and(|at| at > since);
        if spoken && believed.is_some_and(|believed| !holds.covers(believed)) {
            return Err(format!(
                "{} believes that its peer holds {believed:?}, which holds {holds:?}",
                node.id
            ));
        }
        Ok(())
    }

    /// After everything is healed and has come to rest.
    pub fn at_rest(
        &mut self,
        nodes: &[Node; 2],
        serving: &[Option<Serving>; 2],
        lengths: Lengths,
    ) -> Result<(), String> {
        let mut lives = Vec::new();
        for node in nodes {
            let live = node.live.as_ref();
            lives.push(live.ok_or_else(|| format!("{} is down", node.id))?);
        }
        let &[a, b] = lives.as_slice() else {
            return Err("two nodes make a pair".to_owned());
        };
        for (node, live) in nodes.iter().zip([a, b]) {
            let told = |why| format!("{}: {why}", node.id);
            finished(live).map_err(told)?;
            self.holds(live).map_err(told)?;
            sound(live, lengths).map_err(told)?;
        }
        if a.store.digest() != b.store.digest() {
            return Err(format!(
                "the stores differ: {:?} and {:?}",
                a.store.digest(),
                b.store.digest()
            ));
        }
        // What was never told because nothing ever happened differs in its time.
        let owned = |o: &Ownership| (o.epoch, o.owner.clone(), o.held);
        if owned(&a.group.ownership) != owned(&b.group.ownership) {
            return Err(format!(
                "two ownerships: {:?} and {:?}",
                a.group.ownership, b.group.ownership
            ));
        }
        let owners = serving.iter().filter(|s| **s == Some(Serving::Yes)).count();
        if owners == 1 {
            Ok(())
        } else {
            Err(format!("{owners} nodes serve: {serving:?}"))
        }
    }

    /// Whatever was acknowledged is in the state: it stands, or something later does.
    fn holds(&self, live: &Live) -> Result<(), String> {
        let entities: BTreeSet<_> = self.acknowledged.iter().map(|o| &o.entity).collect();
        let entities: Vec<EntityKey> = entities.into_iter().cloned().collect();
        let records = live
            .store
            .records_of(&entities)
            .map_err(|e| e.to_string())?;
        let records: BTreeMap<_, _> = records.iter().map(|r| (&r.entity, &r.record)).collect();
        for operation in &self.acknowledged {
            let record = records.get(&operation.entity).copied();
            let record = record.unwrap_or(&Value::Null);
            self.stands(operation, record).map_err(|why| {
                let Operation { stamp, entity, .. } = operation;
                format!(
                    "acknowledged operation {} of {} about {entity}: {why}",
                    stamp.seq, stamp.origin
                )
            })?;
        }
        Ok(())
    }

    fn stands(&self, operation: &Operation, record: &Value) -> Result<(), String> {
        let deleted = record.get("d").and_then(short);
        let stamp = &operation.stamp;
        match &operation.entity {
            EntityKey::Message(_) if deleted.is_some() => {
                if self.deleted.contains(&operation.entity) {
                    Ok(())
                } else {
                    Err("nobody deleted it, and it is deleted".to_owned())
                }
            }
            EntityKey::Message(_) if operation.effect == Effect::Delete => {
                Err("it was deleted, and is back".to_owned())
            }
            EntityKey::Greeting(..) | EntityKey::Flow(_) => {
                let versions = record.get("v").and_then(Value::as_array);
                let stamps = versions.into_iter().flatten();
                let mut stamps = stamps.filter_map(|v| v.get("s").and_then(short));
                let replaced = record
                    .get("c")
                    .and_then(|c| c.get(stamp.origin.to_string()));
                let replaced = replaced.and_then(Value::as_u64).unwrap_or(0);
                if replaced >= stamp.seq || stamps.any(|s| s == *stamp) {
                    Ok(())
                } else {
                    Err(format!("the version is lost: {record}"))
                }
            }
            // What was deleted when it was sent goes without its content, and its deletion, which
            // follows, may have been destroyed with all its copies. (Where it was not, it is itself
            // among what must stand.)
            EntityKey::Message(_) if self.deleted.contains(&operation.entity) => Ok(()),
            _ => {
                let later = |s: &Stamp| s >= stamp;
                if deleted.as_ref().is_some_and(later) {
                    return Ok(());
                }
                let Effect::Set(fields) = &operation.effect else {
                    return Err(format!("the deletion is lost: {record}"));
                };
                for name in fields.keys() {
                    let field = record
                        .get("f")
                        .and_then(|f| f.get(name))
                        .and_then(|f| f.get(1));
                    if !field.and_then(short).as_ref().is_some_and(later) {
                        return Err(format!("field {name} is lost: {record}"));
                    }
                }
                Ok(())
            }
        }
    }
}

/// A stamp as records have it: `WALL.COUNT@ORIGIN#SEQ`.
fn short(text: &Value) -> Option<Stamp> {
    let (at, by) = text.as_str()?.split_once('@')?;
    let (wall, count) = at.split_once('.')?;
    let (origin, seq) = by.split_once('#')?;
    Some(Stamp {
        at: Hlc {
            wall: vmsync_config::words::UnixMillis(wall.parse().ok()?),
            count: count.parse().ok()?,
        },
        origin: origin.parse().ok()?,
        seq: seq.parse().ok()?,
    })
}

fn finished(live: &Live) -> Result<(), String> {
    let certificate = live.session.certificate();
    let equal = certificate.is_some_and(|c| c.vector == live.store.have());
    if live.session.finished() && equal {
        return Ok(());
    }
    let now = Duration::ZERO;
    let out = live.session.outgoing(now);
    Err(format!(
        "it has not finished: {out:?}, diverged {}, holds {:?}, the peer {:?}, seeding {:?}",
        live.session.diverged(),
        live.store.have(),
        live.session.peer_have(),
        live.store.seeding(),
    ))
}

/// The index agrees with itself, all audio is there and what its SHA-256 says, nothing is
/// quarantined or known to be damaged, the log is short.
fn sound(live: &Live, lengths: Lengths) -> Result<(), String> {
    let store = &live.store;
    let error = |e: vmsync_store::StoreError| e.to_string();
    let wrong = store.check().map_err(error)?;
    if !wrong.is_empty() {
        return Err(wrong.join("; "));
    }
    let quarantined = store.quarantined();
    if !quarantined.is_empty() {
        return Err(format!("still quarantined: {quarantined:?}"));
    }
    let all = RecordsAsk {
        after: None,
        lacking: &Vector::default(),
        max: usize::MAX,
        max_bytes: u64::MAX,
    };
    let all = store.records(&all).map_err(error)?;
    if all.through.is_some() {
        return Err("not all records could be looked at".to_owned());
    }
    for record in all.records {
        for audio in record.audio.iter().chain(&record.missing) {
            let read = store.read_audio(audio);
            read.map_err(|e| format!("the audio of {}: {e}", record.entity))?;
        }
    }
    let faults = store.audio_faults();
    if !faults.is_empty() {
        return Err(format!("still known as damaged: {faults:?}"));
    }
    let entries = store.have().ahead_of(&store.floor());
    if entries > lengths.keep.max(1) {
        return Err(format!(
            "{entries} entries in a log that may have {}",
            lengths.keep
        ));
    }
    Ok(())
}
