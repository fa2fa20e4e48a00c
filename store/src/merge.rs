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
//!
//! # Why any order and any duplication give the same record
//!
//! For rules 1 and 2 a record is a maximum per field and a maximum over deletions. For rule 3 it
//! is a set of versions and a vector of what was replaced: the set is "all versions ever given,
//! less those some `based_on` covers, less those before the latest deletion", which does not ask
//! for an order. Since an origin has always seen its own versions, at most one per origin stands,
//! so conflicts are bounded by the number of origins; nothing needs to be cut, and cutting the
//! eleventh would depend on the order of arrival. Views show the newest ten.

use vmsync_config::words::Vector;

use crate::{
    operation::{Effect, EntityKey, Operation, Stamp},
    record::{Field, Record, Version},
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
    match rule(&operation.entity) {
        Rule::Final => merge_final(record, operation),
        Rule::Fields => merge_fields(record, operation),
        Rule::Versions => merge_version(record, operation),
    }
}

fn merge_final(record: &mut Record, operation: &Operation) {
    match &operation.effect {
        Effect::Delete => {
            record.fields.clear();
            raise(&mut record.deleted, &operation.stamp);
        }
        Effect::Set(_) if record.deleted.is_some() => {}
        Effect::Set(_) => merge_fields(record, operation),
    }
}

fn merge_fields(record: &mut Record, operation: &Operation) {
    let stamp = &operation.stamp;
    match &operation.effect {
        Effect::Delete => {
            raise(&mut record.deleted, stamp);
            record.fields.retain(|_, f| f.1 > *stamp);
        }
        Effect::Set(fields) => {
            if record.deleted.as_ref().is_some_and(|d| d > stamp) {
                return;
            }
            for (name, value) in fields {
                if record.stamp(name).is_none_or(|held| stamp > held) {
                    let field = Field(value.clone(), stamp.clone());
                    record.fields.insert(name.clone(), field);
                }
            }
        }
    }
}

fn merge_version(record: &mut Record, operation: &Operation) {
    let stamp = &operation.stamp;
    match &operation.effect {
        Effect::Delete => {
            raise(&mut record.deleted, stamp);
            record.versions.retain(|v| v.stamp > *stamp);
        }
        Effect::Set(fields) => {
            let mut replaces: Vector = fields
                .get(BASED_ON)
                .and_then(|v| serde_json::from_value(v.clone()).ok())
                .unwrap_or_default();
            // An origin has always seen its own versions, also where it does not say so.
            replaces.raise(&stamp.origin, stamp.seq.saturating_sub(1));
            record.replaced.merge(&replaces);
            let seen = &record.replaced;
            record.versions.retain(|v| stands(seen, &v.stamp));
            let deleted = record.deleted.as_ref().is_some_and(|d| d > stamp);
            let held = record.versions.iter().any(|v| v.stamp == *stamp);
            if stands(&record.replaced, stamp) && !deleted && !held {
                let mut fields = fields.clone();
                fields.remove(BASED_ON);
                record.versions.push(Version {
                    stamp: stamp.clone(),
                    fields,
                });
                record.versions.sort_by(|a, b| b.stamp.cmp(&a.stamp));
            }
        }
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
