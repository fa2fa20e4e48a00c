//! Reading from the store what goes into a mail that carries state in place of operations: a step
//! of a seeding, the items of buckets that differ, the records the peer wants
//! (docs/decisions/0010-synchronisation.md).
//!
//! A record whose audio can't be read still goes, marked: both nodes quarantine its entity, and
//! nothing behind it waits.

use std::collections::BTreeMap;

use vmsync_config::words::Vector;
use vmsync_core::wire::{BucketItems, Item, MAX_SKIPS, Record, SeedStep, Skip};
use vmsync_store::{EntityKey, HeldRecord, RecordsAsk, RecordsPage, Store, StoreError};

use super::packing::{AUDIO_BYTES, FILES, JSON_BYTES, Packed};

/// Records in one mail at most.
const RECORDS: usize = 2_000;
/// Items in one mail at most; buckets beyond it wait for the next mail.
const ITEMS: usize = 60_000;
/// The place of a record, for which no operation stands.
const NO_OPERATION: u64 = 0;

/// The step after `after` of a seeding that leads to `upto`, for a peer that holds `lacking`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step<'a> {
    pub(crate) upto: &'a Vector,
    pub(crate) after: Option<&'a str>,
    pub(crate) lacking: &'a Vector,
    /// Records at most.
    pub(crate) most: u64,
}

impl Step<'_> {
    fn records(&self, store: &Store) -> Result<RecordsPage, StoreError> {
        store.records(&RecordsAsk {
            after: self.after,
            lacking: self.lacking,
            max: usize::try_from(self.most)
                .unwrap_or(RECORDS)
                .clamp(1, RECORDS),
            max_bytes: AUDIO_BYTES + JSON_BYTES as u64,
        })
    }

    fn ends(&self, packed: &mut Packed, through: Option<String>) {
        packed.load.through.clone_from(&through);
        packed.seed = Some(SeedStep {
            upto: self.upto.clone(),
            beyond: self.lacking.clone(),
            after: self.after.map(str::to_owned),
            through,
        });
    }
}

/// A step of a seeding, with as many records as go into one mail. What is quarantined here is so
/// there too, which may never have heard of it, or the digests would differ until the release.
pub(crate) fn seed(store: &Store, step: &Step<'_>) -> Result<Packed, StoreError> {
    let page = step.records(store)?;
    let quarantined = store.quarantined().into_iter();
    let quarantined: BTreeMap<_, _> = quarantined.map(|q| (q.entity, q.why)).collect();
    let mut packed = Packed::default();
    let mut through = page.through;
    let mut last = step.after.map(str::to_owned);
    for held in page.records {
        let (entity, told) = (held.entity.clone(), packed.skips.len());
        if !packed.add_record(store, held)? {
            through = last;
            break;
        }
        if let Some(why) = quarantined.get(&entity)
            && packed.skips.len() == told
        {
            packed.quarantine(store, &entity, why);
        }
        packed.load.operations += 1;
        last = Some(entity.to_string());
    }
    step.ends(&mut packed, through);
    Ok(packed)
}

/// A step past a single record that the peer refuses: its entity is quarantined instead, and its
/// record tried again later, as that of any other.
pub(crate) fn seed_without(
    store: &Store,
    step: &Step<'_>,
    why: &str,
) -> Result<Packed, StoreError> {
    let page = Step { most: 1, ..*step }.records(store)?;
    let mut packed = Packed::default();
    for held in &page.records {
        packed.quarantine(store, &held.entity, why);
    }
    packed.load.operations = 1;
    step.ends(&mut packed, page.through);
    Ok(packed)
}

/// All items of `buckets`, or of as many of them as go into one mail.
pub(crate) fn items(store: &Store, buckets: &[u8]) -> Result<Packed, StoreError> {
    let mut packed = Packed::default();
    let mut count = 0;
    for found in store.items(buckets)? {
        count += found.items.len();
        if count > ITEMS && !packed.items.is_empty() {
            break;
        }
        let item = |i: vmsync_store::Item| Item {
            entity: i.entity.to_string(),
            hash: i.hash,
            lacks_audio: i.lacks_audio,
        };
        packed.items.push(BucketItems {
            bucket: found.bucket,
            items: found.items.into_iter().map(item).collect(),
        });
        packed.load.operations += 1;
    }
    Ok(packed)
}

/// The records of `entities`, or of as many from the front as go into one mail. With `release`
/// they are no longer quarantined once both hold them; but one that goes without its audio stays
/// so, or one node would end the quarantine and the other could not.
pub(crate) fn records(
    store: &Store,
    entities: &[String],
    release: bool,
) -> Result<Packed, StoreError> {
    let mut packed = Packed::default();
    let keys: Vec<EntityKey> = entities
        .iter()
        .filter_map(|e| EntityKey::try_from(e.clone()).ok())
        .collect();
    for held in store.records_of(&keys)? {
        let entity = held.entity.to_string();
        let without_audio = packed.skips.len();
        if !packed.add_record(store, held)? {
            break;
        }
        packed.load.operations += 1;
        if release && packed.skips.len() == without_audio {
            packed.release.push(entity);
        }
    }
    if packed.records.is_empty() {
        // Nothing is held of them any more: they are done with, unless the peer holds something.
        packed.load.operations = u64::try_from(entities.len()).unwrap_or(u64::MAX);
        if release {
            packed.release = keys.iter().map(ToString::to_string).collect();
        }
    }
    Ok(packed)
}

impl Packed {
    /// The receiver quarantines it as this node does.
    fn quarantine(&mut self, store: &Store, entity: &EntityKey, why: &str) {
        self.skips.push(Skip {
            origin: store.origin(),
            seq: NO_OPERATION,
            entity: entity.to_string(),
            why: why.chars().take(300).collect(),
        });
    }

    /// False when the mail is full; at least one record goes into each.
    fn add_record(&mut self, store: &Store, held: HeldRecord) -> Result<bool, StoreError> {
        let bytes = held.record.to_string().len();
        let audio: u64 = held.audio.iter().map(|a| a.bytes).sum();
        let full = self.json_bytes + bytes > JSON_BYTES
            || self.audio_bytes.saturating_add(audio) > AUDIO_BYTES
            || self.audio.len() + held.audio.len() > FILES
            || self.skips.len() >= MAX_SKIPS;
        if full && !self.records.is_empty() {
            return Ok(false);
        }
        let mut unreadable = held
            .missing
            .first()
            .map(|a| format!("{} is missing", a.blob));
        for reference in &held.audio {
            match store.read_audio(reference) {
                Ok(bytes) => {
                    let facts = held.facts(reference);
                    self.carry(&held.entity, held.mailbox(), &facts, reference, bytes)?;
                }
                Err(error) if error.is_passing() => return Err(error),
                Err(error) => {
                    let checked = store.check_audio_of(std::slice::from_ref(&held.entity));
                    if let Err(error) = checked {
                        tracing::warn!(%error, entity = %held.entity, "audio that can't be read could not be checked");
                    }
                    unreadable = Some(error.to_string());
                }
            }
        }
        if let Some(why) = unreadable {
            let why = format!("its audio can't be read at {}: {why}", store.origin().node);
            self.quarantine(store, &held.entity, &why);
        }
        self.json_bytes += bytes;
        self.load.bytes = (self.json_bytes as u64).saturating_add(self.audio_bytes);
        self.records.push(Record {
            entity: held.entity.to_string(),
            record: held.record,
        });
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use vmsync_config::words::{Extension, UnixMillis};
    use vmsync_store::{
        Options, Skip,
        model::{MailboxPatch, MessageFacts},
    };

    use super::*;
    use crate::mailroom::describe;

    const WAV: &[u8] = include_bytes!("../../assets/voice/two.wav");

    #[test]
    fn a_record_without_its_audio_goes_but_its_quarantine_stays() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            node: "vmpro1".parse().unwrap(),
            min_free_bytes: 0,
            clock: || UnixMillis(1_700_000_000_000),
        };
        let store = Store::open(folder.path(), options).unwrap();
        let ext: Extension = "2001".parse().unwrap();
        store
            .create_mailbox(&ext, &MailboxPatch::default())
            .unwrap();
        let audio = describe(&vmsync_core::audio::measure(WAV).unwrap(), WAV);
        let name = format!("{}.vma", audio.blob);
        let facts = MessageFacts::default();
        let message = store.deposit(&ext, facts, audio, WAV).unwrap().0;
        let entities = [format!("mailbox/{ext}"), format!("message/{}", message.id)];
        let quarantine = entities.iter().map(|e| Skip {
            origin: store.origin(),
            seq: NO_OPERATION,
            entity: EntityKey::try_from(e.clone()).unwrap(),
            why: "a test".into(),
        });
        store.skip(&quarantine.collect::<Vec<_>>()).unwrap();
        assert_eq!(records(&store, &entities, true).unwrap().release, entities);

        let place = folder.path().join("audio").join(&name[34..36]).join(name);
        std::fs::remove_file(place).unwrap();
        let packed = records(&store, &entities, true).unwrap();
        assert_eq!((packed.records.len(), packed.skips.len()), (2, 1));
        assert_eq!(packed.release, entities[..1]);
        assert!(packed.skips[0].why.contains("is missing"));
    }

    /// What the mailroom does with it.
    fn take(store: &Store, packed: &Packed) {
        store
            .skip(&crate::exchange::applying::skips(&packed.skips).unwrap())
            .unwrap();
        let record = |r: &Record| vmsync_store::PeerRecord {
            entity: EntityKey::try_from(r.entity.clone()).unwrap(),
            record: r.record.clone(),
        };
        let records: Vec<_> = packed.records.iter().map(record).collect();
        let step = packed.seed.as_ref().map(|s| vmsync_store::SeedStep {
            upto: s.upto.clone(),
            beyond: s.beyond.clone(),
            after: s.after.clone(),
            through: s.through.clone(),
        });
        store.join(&records, step.as_ref()).unwrap();
        let entity = |e: &String| EntityKey::try_from(e.clone()).unwrap();
        let released: Vec<_> = packed.release.iter().map(entity).collect();
        store.release(&released).unwrap();
    }

    #[test]
    fn a_seeding_passes_a_record_the_peer_refuses_and_both_hold_the_same_of_the_rest() {
        let open = |node: &str| {
            let folder = tempfile::tempdir().unwrap();
            let options = Options {
                node: node.parse().unwrap(),
                min_free_bytes: 0,
                clock: || UnixMillis(1_700_000_000_000),
            };
            let store = Store::open(folder.path(), options).unwrap();
            (folder, store)
        };
        let ((_a, from), (_b, to)) = (open("vmpro1"), open("vmpro2"));
        let mailboxes: [Extension; 3] = ["2001", "2002", "2003"].map(|e| e.parse().unwrap());
        for ext in &mailboxes {
            from.create_mailbox(ext, &MailboxPatch::default()).unwrap();
        }
        let (upto, lacking) = (from.have(), to.have());
        let step = |after| Step {
            upto: &upto,
            after,
            lacking: &lacking,
            most: 1,
        };
        // mailbox/2001 goes, mailbox/2002 is refused, the rest follows.
        let first = seed(&from, &step(None)).unwrap();
        assert_eq!(first.load.through.as_deref(), Some("mailbox/2001"));
        take(&to, &first);
        let second = seed_without(&from, &step(Some("mailbox/2001")), "554 no").unwrap();
        assert_eq!(second.load.through.as_deref(), Some("mailbox/2002"));
        assert_eq!((second.records.len(), second.load.operations), (0, 1));
        from.skip(&crate::exchange::applying::skips(&second.skips).unwrap())
            .unwrap();
        take(&to, &second);
        let last = seed(&from, &step(Some("mailbox/2002"))).unwrap();
        assert_eq!(last.load.through, None);
        take(&to, &last);
        assert_eq!(to.have(), upto);
        assert_eq!(to.digest(), from.digest(), "of everything else");
        assert!(to.mailbox(&mailboxes[1]).unwrap().is_none());
        for store in [&from, &to] {
            assert_eq!(store.quarantined()[0].entity.to_string(), "mailbox/2002");
        }
        // Tried again, and taken now.
        let again = records(&from, &["mailbox/2002".to_owned()], true).unwrap();
        take(&to, &again);
        from.release(&[EntityKey::Mailbox(mailboxes[1].clone())])
            .unwrap();
        assert_eq!(to.digest(), from.digest());
        assert!(to.mailbox(&mailboxes[1]).unwrap().is_some());
        assert!(to.quarantined().is_empty() && from.quarantined().is_empty());
    }
}
