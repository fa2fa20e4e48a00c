//! What a reunion came to: after a time apart, what each side held alone, and of what both had
//! changed, what was kept, what was dropped and by which rule (R-SY-6).
//!
//! Made from the log, after both sides' operations were applied: so it tells what the conflict rule
//! did, not what it would do. Both nodes make the same report of the same reunion, each from its side.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vmsync_config::words::{Origin, UnixMillis, Vector};

use crate::{
    error::StoreError,
    merge::{self, BASED_ON, Rule},
    operation::{Effect, EntityKey, Operation, Stamp},
    record::Record,
    reunion::Reunion,
    store::Store,
};

/// Conflicts listed in one report; the rest is counted.
const LISTED: usize = 500;
/// Operations looked at; beyond it the report says that it is incomplete.
const LOOKED_AT: u64 = 200_000;
/// Longest value shown, characters.
const SHOWN: usize = 80;
/// Fields whose value is nobody's business.
const SECRET: [&str; 2] = ["pin_hash", "source"];

/// What a reunion came to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MergeReport {
    /// What this node held and the peer did not.
    pub here: Side,
    /// What the peer held and this node did not.
    pub there: Side,
    /// What both had changed, at most 500.
    pub conflicts: Vec<Conflict>,
    /// Conflicts beyond those listed.
    pub more: u64,
    /// Why the report is not whole; `None` = it is.
    pub incomplete: Option<String>,
}

/// What one side held alone, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Side {
    /// Operations in all.
    pub operations: u64,
    /// New voice messages.
    pub messages_taken: u64,
    /// Messages deleted for good.
    pub messages_deleted: u64,
    /// Other changes of messages (played, saved…).
    pub messages_changed: u64,
    /// Changes of mailboxes.
    pub mailboxes: u64,
    /// Greetings recorded or removed.
    pub greetings: u64,
    /// Call flows made live.
    pub flows: u64,
    /// Changes of settings and of anything else.
    pub settings: u64,
}

/// Something both sides had changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// What, `message/UUID` or the like.
    pub entity: String,
    /// Which field of it; `None` where the whole of it was at stake.
    pub field: Option<String>,
    /// What stands now.
    pub kept: Change,
    /// What does not; `retrievable` says whether it is kept as a version.
    pub dropped: Vec<Change>,
    /// Whether what was dropped is kept as a version that can be looked at and taken back.
    pub retrievable: bool,
    /// The rule that decided.
    pub because: String,
}

/// One side's change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Who made it: a node and the life of its store.
    pub by: Origin,
    /// When, by that node's clock.
    pub at: UnixMillis,
    /// To what, where it is short and may be shown.
    pub value: Option<String>,
}

/// What one side did to an entity.
#[derive(Debug, Default)]
struct Done {
    /// The latest of each field.
    fields: BTreeMap<String, (Stamp, Value)>,
    deleted: Option<Stamp>,
}

impl Store {
    /// The report of a reunion, once both hold all of it. Reads the log: what was compacted
    /// meanwhile is missing, and told.
    pub fn merge_report(&self, reunion: &Reunion) -> Result<MergeReport, StoreError> {
        let mut report = MergeReport::default();
        let me = self.origin().node;
        let (upto, behind) = reunion.here(&me);
        let here = self.alone(&upto, behind, &mut report.here, &mut report.incomplete)?;
        let (upto, behind) = reunion.there(&me);
        let there = self.alone(&upto, behind, &mut report.there, &mut report.incomplete)?;
        for (entity, done_here) in &here {
            let Some(done_there) = there.get(entity) else {
                continue;
            };
            let record = self.record(entity)?;
            for conflict in conflicts(entity, &record, done_here, done_there) {
                if report.conflicts.len() < LISTED {
                    report.conflicts.push(conflict);
                } else {
                    report.more += 1;
                }
            }
        }
        Ok(report)
    }

    /// What the holder of `held` had done that the holder of `other` had not.
    fn alone(
        &self,
        held: &Vector,
        other: &Vector,
        side: &mut Side,
        incomplete: &mut Option<String>,
    ) -> Result<BTreeMap<EntityKey, Done>, StoreError> {
        let mut done: BTreeMap<EntityKey, Done> = BTreeMap::new();
        let mut looked_at = 0;
        for (origin, last) in held.iter() {
            let mut next = other.get(origin);
            while next < last {
                let read = match self.operations(origin, next, 500) {
                    Ok(read) => read,
                    Err(StoreError::BelowFloor { .. }) => {
                        *incomplete = Some(format!(
                            "operations of {origin} are not in the log any more; they were applied, but can't be told one by one"
                        ));
                        break;
                    }
                    Err(other) => return Err(other),
                };
                let Some(reached) = read.last().map(|o| o.stamp.seq) else {
                    break;
                };
                for operation in read.into_iter().filter(|o| o.stamp.seq <= last) {
                    looked_at += 1;
                    side.count(&operation);
                    done.entry(operation.entity.clone())
                        .or_default()
                        .take(operation);
                }
                next = reached;
                if looked_at > LOOKED_AT {
                    *incomplete = Some(format!("only {LOOKED_AT} operations were looked at"));
                    return Ok(done);
                }
            }
        }
        Ok(done)
    }
}

impl Side {
    fn count(&mut self, operation: &Operation) {
        self.operations += 1;
        let count = match (&operation.entity, &operation.effect) {
            (EntityKey::Message(_), Effect::Delete) => &mut self.messages_deleted,
            (EntityKey::Message(_), Effect::Set(f)) if f.contains_key("mailbox") => {
                &mut self.messages_taken
            }
            (EntityKey::Message(_), Effect::Set(_)) => &mut self.messages_changed,
            (EntityKey::Mailbox(_), _) => &mut self.mailboxes,
            (EntityKey::Greeting(..), _) => &mut self.greetings,
            (EntityKey::Flow(_), _) => &mut self.flows,
            (EntityKey::Setting(_) | EntityKey::Other(_), _) => &mut self.settings,
        };
        *count += 1;
    }
}

impl Done {
    fn take(&mut self, operation: Operation) {
        let stamp = operation.stamp;
        match operation.effect {
            Effect::Delete => {
                if self.deleted.as_ref().is_none_or(|held| *held < stamp) {
                    self.deleted = Some(stamp);
                }
            }
            Effect::Set(fields) => {
                for (name, value) in fields {
                    let held = self.fields.get(&name);
                    if held.is_none_or(|(held, _)| *held < stamp) {
                        self.fields.insert(name, (stamp.clone(), value));
                    }
                }
            }
        }
    }

    /// Its latest change.
    fn newest(&self) -> Option<&Stamp> {
        let fields = self.fields.values().map(|(stamp, _)| stamp);
        fields.chain(&self.deleted).max()
    }
}

fn conflicts(entity: &EntityKey, record: &Record, a: &Done, b: &Done) -> Vec<Conflict> {
    match merge::rule(entity) {
        Rule::Versions => version_conflict(entity, record, a, b).into_iter().collect(),
        rule => {
            let deletion = deletion_conflict(entity, record, rule, a, b);
            deletion.map_or_else(|| field_conflicts(entity, record, a, b), |c| vec![c])
        }
    }
}

/// One side deleted what the other changed.
fn deletion_conflict(
    entity: &EntityKey,
    record: &Record,
    rule: Rule,
    a: &Done,
    b: &Done,
) -> Option<Conflict> {
    let (by, other) = match (&a.deleted, &b.deleted) {
        (Some(by), None) => (by, b),
        (None, Some(by)) => (by, a),
        // Both deleted it: they agree.
        _ => return None,
    };
    record.deleted.as_ref()?;
    let dropped: Vec<_> = other
        .fields
        .iter()
        .filter(|(_, (stamp, _))| rule == Rule::Final || stamp < by)
        .map(|(name, (stamp, value))| change(stamp, name, value))
        .collect();
    let because = if rule == Rule::Final {
        "the deletion of a message is final"
    } else {
        "a deletion takes the fields set before it"
    };
    let deletion = Change {
        value: Some("deleted".to_owned()),
        ..change(by, "", &Value::Null)
    };
    (!dropped.is_empty()).then(|| Conflict {
        entity: entity.to_string(),
        field: None,
        kept: deletion,
        dropped,
        retrievable: false,
        because: because.to_owned(),
    })
}

fn field_conflicts(entity: &EntityKey, record: &Record, a: &Done, b: &Done) -> Vec<Conflict> {
    let both: BTreeSet<_> = a
        .fields
        .keys()
        .filter(|f| b.fields.contains_key(*f))
        .collect();
    let conflict = |name: &String| {
        let (first, second) = (a.fields.get(name)?, b.fields.get(name)?);
        if first.1 == second.1 {
            return None;
        }
        let (kept, dropped) = if first.0 > second.0 {
            (first, second)
        } else {
            (second, first)
        };
        // Changed once more since: neither stands.
        record.stamp(name).filter(|held| **held == kept.0)?;
        Some(Conflict {
            entity: entity.to_string(),
            field: Some(name.clone()),
            kept: change(&kept.0, name, &kept.1),
            dropped: vec![change(&dropped.0, name, &dropped.1)],
            retrievable: false,
            because: "the later change stands".to_owned(),
        })
    };
    both.into_iter().filter_map(conflict).collect()
}

/// Greetings and call flows: a true conflict keeps both.
fn version_conflict(entity: &EntityKey, record: &Record, a: &Done, b: &Done) -> Option<Conflict> {
    let [live, others @ ..] = record.versions.as_slice() else {
        return None;
    };
    let (a, b) = (a.newest()?, b.newest()?);
    let apart = |s: &Stamp| *s == live.stamp || others.iter().any(|v| v.stamp == *s);
    if a == b || !apart(a) || !apart(b) {
        return None;
    }
    let show = |v: &crate::record::Version| {
        let name = v.fields.keys().find(|f| *f != BASED_ON);
        let value = name.and_then(|n| v.get(n)).cloned().unwrap_or_default();
        change(&v.stamp, name.map_or("", String::as_str), &value)
    };
    Some(Conflict {
        entity: entity.to_string(),
        field: None,
        kept: show(live),
        dropped: others.iter().map(show).collect(),
        retrievable: true,
        because: "neither knew of the other: the later one is live, the other is kept as a version"
            .to_owned(),
    })
}

fn change(stamp: &Stamp, field: &str, value: &Value) -> Change {
    let shown = match value {
        _ if SECRET.contains(&field) => None,
        Value::String(text) => Some(text.chars().take(SHOWN).collect()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        _ => None,
    };
    Change {
        by: stamp.origin.clone(),
        at: stamp.at.wall,
        value: shown,
    }
}
