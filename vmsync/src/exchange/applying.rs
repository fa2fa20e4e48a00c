//! A mail of the peer taken into the store.

use serde::{Deserialize, Serialize};
use vmsync_config::words::Extension;
use vmsync_core::{
    smtp::Refusal,
    wire::{self, Mail},
};
use vmsync_store::{
    AudioRef, EntityKey, NewAudio, Operation, PeerRecord, SeedStep, Store, StoreError,
};

/// How an audio file is described in a mail between the nodes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AboutAudio {
    /// What it belongs to.
    pub(super) entity: EntityKey,
    /// Whose, for a message. Not sent by version 1.0 of the wire format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mailbox: Option<Extension>,
    /// The audio's facts.
    #[serde(flatten)]
    pub(super) audio: AudioRef,
    /// What else the file needs to describe itself (`NewAudio::facts`).
    #[serde(default)]
    pub(super) facts: serde_json::Value,
}

/// What came of a mail of the peer.
#[derive(Debug, Default)]
pub struct Applied {
    /// Operations and records that were new.
    pub new: u64,
    /// Entities whose records the peer should get.
    pub wanted: Vec<String>,
    /// Entities under quarantine here that count in the peer's digest: their release is to be tried.
    pub quarantined: Vec<String>,
    /// It began or ended quarantines: the digest in its head is from before.
    pub old_digest: bool,
}

/// Audio first, then what names it: a crash in between leaves files that nothing names, which the
/// next try finds in place. All of it can be repeated.
pub fn apply(store: &Store, mail: &Mail) -> Result<Applied, StoreError> {
    let mut operations = Vec::with_capacity(mail.operations.len());
    for operation in &mail.operations {
        operations.push(operation.read::<Operation>().map_err(malformed)?);
    }
    let have = store.have();
    let known = |o: &Operation| o.stamp.seq <= have.get(&o.stamp.origin);
    // Of what else a mail brings, 250 promises as much.
    let nothing_else = mail.records.is_empty() && mail.seed.is_none() && mail.skips.is_empty();
    let repeated = nothing_else && !operations.is_empty() && operations.iter().all(known);
    let mut applied = Applied::default();
    let records = records(mail)?;
    if !repeated {
        put_audio(store, mail)?;
        // Quarantined first, so that what lacks its audio can be taken all the same.
        store.skip(&skips(&mail.skips)?)?;
        applied.new = store.join(&records, seed_step(mail).as_ref())?.changed;
        applied.new += store.apply(&operations)? as u64;
    }
    store.release_with(&entities(&mail.release)?, &records)?;
    applied.old_digest = !mail.skips.is_empty() || !mail.release.is_empty();
    if !mail.items.is_empty() {
        let items = items(&mail.items)?;
        let wanted = store.compare_items(&items)?;
        applied.wanted = wanted.iter().map(ToString::to_string).collect();
        let counted = items.iter().flat_map(|b| &b.items).map(|i| &i.entity);
        let quarantined = counted.filter(|entity| store.is_quarantined(entity));
        applied.quarantined = quarantined.map(ToString::to_string).collect();
    }
    Ok(applied)
}

fn put_audio(store: &Store, mail: &Mail) -> Result<(), StoreError> {
    let mut about = Vec::with_capacity(mail.audio.len());
    for carried in &mail.audio {
        about.push(AboutAudio::deserialize(carried.about()).map_err(malformed)?);
    }
    let new = about.iter().map(|about| NewAudio {
        entity: about.entity.clone(),
        mailbox: about.mailbox.clone(),
        audio: &about.audio,
        facts: about.facts.clone(),
    });
    let bytes = mail.audio.iter().map(|carried| &carried.bytes()[..]);
    let audios: Vec<_> = new.zip(bytes).collect();
    store.put_audios(&audios)
}

fn records(mail: &Mail) -> Result<Vec<PeerRecord>, StoreError> {
    let mut records = Vec::with_capacity(mail.records.len());
    for record in &mail.records {
        records.push(PeerRecord {
            entity: entity(&record.entity)?,
            record: record.record.clone(),
        });
    }
    Ok(records)
}

fn seed_step(mail: &Mail) -> Option<SeedStep> {
    mail.seed.as_ref().map(|s| SeedStep {
        upto: s.upto.clone(),
        beyond: s.beyond.clone(),
        after: s.after.clone(),
        through: s.through.clone(),
    })
}

fn malformed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Invalid(format!("malformed mail of the peer: {error}"))
}

fn entity(name: &str) -> Result<EntityKey, StoreError> {
    EntityKey::try_from(name.to_owned()).map_err(malformed)
}

fn entities(names: &[String]) -> Result<Vec<EntityKey>, StoreError> {
    names.iter().map(|name| entity(name)).collect()
}

fn items(buckets: &[wire::BucketItems]) -> Result<Vec<vmsync_store::BucketItems>, StoreError> {
    let item = |i: &wire::Item| {
        Ok(vmsync_store::Item {
            entity: entity(&i.entity)?,
            hash: i.hash.clone(),
            lacks_audio: i.lacks_audio,
        })
    };
    let bucket = |b: &wire::BucketItems| {
        Ok(vmsync_store::BucketItems {
            bucket: b.bucket,
            items: b
                .items
                .iter()
                .map(item)
                .collect::<Result<_, StoreError>>()?,
        })
    };
    buckets.iter().map(bucket).collect()
}

/// Skips as the store takes them.
pub(super) fn skips(skips: &[wire::Skip]) -> Result<Vec<vmsync_store::Skip>, StoreError> {
    let skip = |s: &wire::Skip| {
        Ok(vmsync_store::Skip {
            origin: s.origin.clone(),
            seq: s.seq,
            entity: entity(&s.entity)?,
            why: s.why.clone(),
        })
    };
    skips.iter().map(skip).collect()
}

/// How a mail is refused that could not be applied.
pub fn refusal(error: &StoreError) -> Refusal {
    match error {
        StoreError::Full { .. } => Refusal::no_space(),
        // Another try of the same mail would change nothing; a part of it may go, or what is held
        // here, which says more, has to go the other way.
        StoreError::Invalid(_) | StoreError::MissingAudio(_) | StoreError::HoldsMore(_) => {
            Refusal::bad_content(error.to_string())
        }
        _ => Refusal::try_later(error.to_string()),
    }
}
