//! The conflict rule, written once. Pure: a record and an operation in, the record changed.
//!
//! # The rule in words
//!
//! Every operation bears a *stamp*: hybrid clock, then origin, then sequence number. Stamps are
//! totally ordered and no two are equal, so "later" always has one answer on both nodes.
//!
//! 1. **Messages**: each field holds the value with the latest stamp. A deletion is final:
//!    whatever else arrives, before or after, with an earlier or a later stamp, the message stays
//!    deleted (a tombstone remembers it).
//! 2. **Mailboxes, settings and kinds unknown here**: each field holds the value with the latest
//!    stamp. A deletion takes every field with an earlier stamp; a field set with a later stamp
//!    stands. A mailbox *exists* while its field `created` stands, which only creation sets: so a
//!    change of a name that did not know of the deletion does not bring the mailbox back, and a
//!    creation after it does. The deletion of a mailbox says nothing about messages: the node
//!    that deletes it also deletes, one by one, the messages it has seen. A message it had not
//!    seen stays.
//! 3. **Greetings and call flows**: an operation gives a whole *version* and says in `based_on`,
//!    for each origin, up to which operation its writer had seen versions of this entity; it
//!    replaces exactly those. What two nodes wrote without knowing of each other therefore both
//!    stands: a true conflict. Of the versions that stand, the one with the latest stamp is live
//!    and the others are kept, listed as conflicts, until someone sets the entity again, which
//!    replaces all it has seen (R-SY-6, R-CF-6). A removal is a version without content: it
//!    replaces what its writer had seen, and never wins over a version it had not seen. (A
//!    deletion, which this program does not write for them, takes versions with earlier stamps.)
//!    A version recovered from an audio file alone (see `rebuild`) stands only while no other does:
//!    whoever wrote another could not say that it replaces this one.
//!
//! # Joining
//!
//! What two nodes hold of an entity can be *joined* ([`join`]): each field with its latest stamp,
//! the latest deletion, the versions of both less what either has replaced; and then the rules
//! above are applied to the outcome. Taking an operation *is* joining the record it makes, so a
//! node may be sent operations, records or any mixture of them, and holds the same in the end.
//! A deletion of a message stays final because the tombstone is part of the record.
//!
//! Two values with the same stamp can come about by a fault only (a number given twice). Then the
//! one with the larger canonical bytes stands on both nodes, and where it is a field or version
//! against a deletion, the deletion: so that a join always ends, and ends alike.
//!
//! Members of a record or version that this program does not know (a newer one's) are joined by
//! name, of two different values the one with the larger canonical bytes: never lost, and the same
//! on both nodes. A deletion leaves a record's. What a newer program gives a rule of its own it has
//! to shape so that this rule does no harm.
//!
//! # Why any order and any duplication give the same record
//!
//! For rules 1 and 2 a record is a maximum per field and a maximum over deletions. For rule 3 it
//! is a set of versions and a vector of what was replaced: the set is "all versions ever given,
//! less those some `based_on` covers, less those before the latest deletion", which does not ask
//! for an order. (A recovered version is dropped for another that stands. That one may go later, but
//! only for one that stands in its place, or for a deletion, which takes the recovered one too.)
//! So joining is commutative, associative and idempotent. Since an origin has always
//! seen its own versions, at most one per origin stands, so conflicts are bounded by the number of
//! origins; nothing needs to be cut, and cutting the eleventh would depend on the order of
//! arrival. Views show the newest ten.

use std::{cmp::Ordering, collections::BTreeMap};

use serde_json::Value;
use vmsync_config::words::Vector;

use crate::{
    operation::{Effect, EntityKey, Operation, Stamp},
    record::{Field, Json, Record, Version, canonical_bytes},
};

/// Field by which a version says what it replaces; a [`Vector`].
pub(crate) const BASED_ON: &str = "based_on";

/// How operations about an entity combine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// By field, deletion final (rule 1).
    Final,
    /// By field, deletion as of its stamp (rule 2).
    Fields,
    /// By whole version (rule 3).
    Versions,
}

/// The rule for an entity, by its kind. A greeting kind of a newer version is a greeting.
pub(crate) fn rule(entity: &EntityKey) -> Rule {
    match entity {
        EntityKey::Message(_) => Rule::Final,
        EntityKey::Greeting(..) | EntityKey::Flow(_) => Rule::Versions,
        EntityKey::Other(key) if key.starts_with("greeting/") => Rule::Versions,
        EntityKey::Mailbox(_) | EntityKey::Setting(_) | EntityKey::Other(_) => Rule::Fields,
    }
}

/// Takes `operation` into the record of its entity.
pub(crate) fn merge(record: &mut Record, operation: &Operation) {
    let rule = rule(&operation.entity);
    take(rule, record, made_by(rule, operation));
}

/// Takes all that `other` knows of the same entity into `record`. See the head of this module.
pub(crate) fn join(rule: Rule, record: &mut Record, other: &Record) {
    take(rule, record, other.clone());
}

fn take(rule: Rule, record: &mut Record, other: Record) {
    if let Some(deleted) = &other.deleted {
        raise(&mut record.deleted, deleted);
    }
    for (name, field) in other.fields {
        match record.fields.get_mut(&name) {
            Some(held) if !later((&field.1, &field.0), (&held.1, &held.0)) => {}
            Some(held) => *held = field,
            None => {
                record.fields.insert(name, field);
            }
        }
    }
    record.replaced.merge(&other.replaced);
    unite(&mut record.more, other.more);
    for version in other.versions {
        match record
            .versions
            .iter_mut()
            .find(|v| v.stamp == version.stamp)
        {
            Some(held) => {
                unite(&mut held.more, version.more);
                if canonical_bytes(&version.fields) > canonical_bytes(&held.fields) {
                    held.fields = version.fields;
                }
            }
            None => record.versions.push(version),
        }
    }
    settle(rule, record);
}

/// Members this program does not know: those of both; of two values of one name the one with the
/// larger canonical bytes.
fn unite(held: &mut BTreeMap<String, Value>, other: BTreeMap<String, Value>) {
    for (name, value) in other {
        match held.get(&name) {
            Some(own) if canonical_bytes(&value) <= canonical_bytes(own) => {}
            _ => drop(held.insert(name, value)),
        }
    }
}

/// Drops what a deletion or a replacement takes, and puts versions in order.
fn settle(rule: Rule, record: &mut Record) {
    if let Some(deleted) = &record.deleted {
        match rule {
            Rule::Final => record.fields.clear(),
            Rule::Fields | Rule::Versions => record.fields.retain(|_, f| f.1 > *deleted),
        }
        record.versions.retain(|v| v.stamp > *deleted);
    }
    let replaced = &record.replaced;
    record.versions.retain(|v| stands(replaced, &v.stamp));
    if record.versions.iter().any(|v| !v.stamp.is_recovered()) {
        record.versions.retain(|v| !v.stamp.is_recovered());
    }
    record.versions.sort_by(|a, b| b.stamp.cmp(&a.stamp));
}

/// The record of an entity of which nothing but `operation` is known. One that stands for a
/// skipped operation says nothing.
fn made_by(rule: Rule, operation: &Operation) -> Record {
    let mut record = Record::default();
    if operation.skipped().is_some() {
        return record;
    }
    let stamp = &operation.stamp;
    match &operation.effect {
        Effect::Delete => record.deleted = Some(stamp.clone()),
        Effect::Set(fields) if rule == Rule::Versions => {
            let mut fields = fields.clone();
            let based_on = fields.remove(BASED_ON);
            record.replaced = based_on
                .and_then(|v| serde_json::from_value(v).ok())
                .unwrap_or_default();
            // An origin has always seen its own versions, also where it does not say so.
            let own = stamp.seq.saturating_sub(1);
            record.replaced.raise(&stamp.origin, own);
            let stamp = stamp.clone();
            let more = BTreeMap::new();
            record.versions.push(Version {
                fields,
                stamp,
                more,
            });
            settle(rule, &mut record);
        }
        Effect::Set(fields) => {
            let field = |v: &Value| Field(Json::of(v), stamp.clone());
            record.fields = fields.iter().map(|(n, v)| (n.clone(), field(v))).collect();
        }
    }
    record
}

/// Whether a value stands against another of the same field.
fn later((stamp, value): (&Stamp, &Json), (held_stamp, held): (&Stamp, &Json)) -> bool {
    match stamp.cmp(held_stamp) {
        Ordering::Equal => value.text() > held.text(),
        order => order.is_gt(),
    }
}

fn stands(replaced: &Vector, stamp: &Stamp) -> bool {
    stamp.seq > replaced.get(&stamp.origin)
}

fn raise(latest: &mut Option<Stamp>, stamp: &Stamp) {
    if latest.as_ref().is_none_or(|held| stamp > held) {
        *latest = Some(stamp.clone());
    }
}

#[cfg(test)]
mod tests;
