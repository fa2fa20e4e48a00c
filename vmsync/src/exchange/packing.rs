//! Reading from the store what goes into one mail.
//!
//! Order within an origin is never changed. To a peer of version 1.0 a voice message (or greeting)
//! travels alone; to a later one a backlog travels together, up to [`AUDIO_BYTES`]. An operation
//! whose audio can't be read is not left in the way: it goes out as a skip
//! (docs/decisions/0010-synchronisation.md).

use serde_json::Value;
use vmsync_config::words::Origin;
use vmsync_core::{
    sync::Load,
    wire::{BucketItems, CarriedAudio, Json, Record, SeedStep, Skip, Voice},
};
use vmsync_store::{
    AudioRef, Effect, EntityKey, Logged, Operation, Store, StoreError, model::MessageFacts,
};

use super::applying::AboutAudio;

/// Operations read from the log at once.
const STRIDE: usize = 500;
/// JSON bytes in one mail at most (one operation may be larger and then goes alone).
pub(super) const JSON_BYTES: usize = 1024 * 1024;
/// Audio bytes in one mail at most, where several files go together.
pub(super) const AUDIO_BYTES: u64 = 4 * 1024 * 1024;
/// Audio files in one mail at most.
pub(super) const FILES: usize = 64;

/// What goes into one mail.
#[derive(Default)]
pub(crate) struct Packed {
    /// In order.
    pub(crate) operations: Vec<Json>,
    /// Operations that stay behind.
    pub(crate) skips: Vec<Skip>,
    /// Audio they name.
    pub(crate) audio: Vec<CarriedAudio>,
    /// What a person reads of each of `audio`.
    pub(crate) voices: Vec<Option<Voice>>,
    /// Where it ends, and how much it is.
    pub(crate) load: Load,
    /// State in place of operations, see `state.rs`.
    pub(crate) records: Vec<Record>,
    pub(crate) seed: Option<SeedStep>,
    pub(crate) items: Vec<BucketItems>,
    pub(crate) release: Vec<String>,
    pub(super) json_bytes: usize,
    pub(super) audio_bytes: u64,
}

/// How much may go into one mail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Operations.
    pub(crate) operations: u64,
    /// Whether several audio files may go together, and skips be told of: since version 1.1.
    pub(crate) together: bool,
}

enum Added {
    Yes,
    /// The mail is full, or this one goes alone.
    No,
}

/// Packs operations of `ranges` (origin, after, up to and including) from the front.
pub(crate) fn pack(
    store: &Store,
    ranges: &[(Origin, u64, u64)],
    room: Room,
) -> Result<Packed, StoreError> {
    let mut packed = Packed::default();
    for (origin, after, upto) in ranges {
        let mut next = *after;
        while next < *upto {
            let stride = room.operations.saturating_sub(packed.load.operations);
            let stride = usize::try_from(stride).unwrap_or(STRIDE).min(STRIDE);
            if stride == 0 {
                return Ok(packed);
            }
            for logged in store.logged(origin, next, stride)? {
                if logged.seq > *upto {
                    break;
                }
                let special = logged.read.as_ref();
                if let Some(operation) = special
                    && let Some(why) = operation.skipped().filter(|_| room.together)
                {
                    // It stands for one that was skipped before; such go alone.
                    if packed.load.operations == 0 {
                        packed.leave(operation, why);
                    }
                    return Ok(packed);
                }
                if let Added::No = packed.add(store, origin, logged, room)? {
                    return Ok(packed);
                }
            }
            let reached = packed.load.upto.get(origin);
            if reached <= next {
                break;
            }
            next = reached;
        }
    }
    Ok(packed)
}

/// The first operation of `ranges`, as one that stays behind.
pub(crate) fn skip(
    store: &Store,
    ranges: &[(Origin, u64, u64)],
    why: &str,
) -> Result<Packed, StoreError> {
    let mut packed = Packed::default();
    if let Some((origin, after, _)) = ranges.first()
        && let Some(operation) = store.operations(origin, *after, 1)?.first()
    {
        packed.leave(operation, why);
    }
    Ok(packed)
}

impl Packed {
    fn add(
        &mut self,
        store: &Store,
        origin: &Origin,
        logged: Logged,
        room: Room,
    ) -> Result<Added, StoreError> {
        let Logged {
            seq,
            mut json,
            read,
        } = logged;
        let bytes = json.len();
        let audio = read.as_ref().and_then(named_audio);
        let files = if room.together { FILES } else { 1 };
        let audio_bytes = audio.as_ref().map_or(0, |a| a.bytes);
        let alone = audio.is_some() && !room.together;
        let full = self.json_bytes + bytes > JSON_BYTES
            || self.audio_bytes.saturating_add(audio_bytes) > AUDIO_BYTES
            || (audio.is_some() && self.audio.len() >= files)
            || alone
            || (!self.audio.is_empty() && !room.together);
        if full && self.load.operations > 0 {
            return Ok(Added::No);
        }
        if let (Some(audio), Some(operation)) = (audio, &read) {
            match store.read_audio(&audio) {
                Ok(bytes) => {
                    let (facts, mailbox) = (facts_of(operation), mailbox_of(operation));
                    self.carry(&operation.entity, mailbox, &facts, &audio, bytes)?;
                }
                // The file may be well; the same mail is packed again.
                Err(error) if error.is_passing() => return Err(error),
                Err(error) => {
                    // It may have gone between the two reads, because the message was deleted.
                    let again = again(store, origin, seq)?;
                    let without = again.filter(|l| l.read.as_ref().and_then(named_audio).is_none());
                    if let Some(without) = without {
                        json = without.json;
                    } else if self.load.operations > 0 {
                        return Ok(Added::No);
                    } else if room.together {
                        let why = format!("its audio can't be read at this node: {error}");
                        self.leave(operation, &why);
                        return Ok(Added::No);
                    } else {
                        return Err(error);
                    }
                }
            }
        }
        let json = Json::new(json).map_err(|e| StoreError::Invalid(e.to_string()))?;
        self.operations.push(json);
        self.json_bytes += bytes;
        self.count(origin, seq);
        Ok(Added::Yes)
    }

    fn count(&mut self, origin: &Origin, seq: u64) {
        self.load.upto.raise(origin, seq);
        self.load.operations += 1;
        let json = u64::try_from(self.json_bytes).unwrap_or(u64::MAX);
        self.load.bytes = json.saturating_add(self.audio_bytes);
    }

    fn leave(&mut self, operation: &Operation, why: &str) {
        self.skips.push(Skip {
            origin: operation.stamp.origin.clone(),
            seq: operation.stamp.seq,
            entity: operation.entity.to_string(),
            why: why.chars().take(300).collect(),
        });
        self.count(&operation.stamp.origin, operation.stamp.seq);
    }

    /// Takes audio along, just compared with its SHA-256 by the store.
    pub(super) fn carry(
        &mut self,
        entity: &EntityKey,
        mailbox: Option<&str>,
        facts: &Value,
        audio: &AudioRef,
        bytes: Vec<u8>,
    ) -> Result<(), StoreError> {
        let about = AboutAudio {
            entity: entity.clone(),
            mailbox: mailbox.and_then(|m| m.parse().ok()),
            audio: audio.clone(),
            facts: facts.clone(),
        };
        let about = serde_json::to_value(about).map_err(|e| StoreError::Invalid(e.to_string()))?;
        self.audio.push(CarriedAudio::vouched(about, bytes));
        self.voices.push(voice_of(entity, mailbox, audio, facts));
        self.audio_bytes = self.audio_bytes.saturating_add(audio.bytes);
        Ok(())
    }
}

fn again(store: &Store, origin: &Origin, seq: u64) -> Result<Option<Logged>, StoreError> {
    let read = store.logged(origin, seq.saturating_sub(1), 1)?;
    Ok(read.into_iter().next())
}

/// The audio an operation brings into being, if any.
fn named_audio(operation: &Operation) -> Option<AudioRef> {
    let Effect::Set(fields) = &operation.effect else {
        return None;
    };
    fields
        .get("audio")
        .and_then(|v| serde_json::from_value(v.clone()).ok())
}

/// What the audio's file says of it beside the audio itself (`NewAudio::facts`).
fn facts_of(operation: &Operation) -> Value {
    match (&operation.entity, &operation.effect) {
        (EntityKey::Message(_), Effect::Set(fields)) => {
            fields.get("facts").cloned().unwrap_or_default()
        }
        (EntityKey::Greeting(..), Effect::Set(fields)) => match fields.get("until") {
            None | Some(Value::Null) => Value::Null,
            Some(until) => serde_json::json!({"until": until}),
        },
        _ => Value::Null,
    }
}

/// A message's mailbox as the store wrote it.
fn mailbox_of(operation: &Operation) -> Option<&str> {
    match &operation.effect {
        Effect::Set(fields) => fields.get("mailbox").and_then(Value::as_str),
        Effect::Delete => None,
    }
}

/// What a person reads in the mail of a voice message; `None` for other audio.
fn voice_of(
    entity: &EntityKey,
    mailbox: Option<&str>,
    audio: &AudioRef,
    facts: &Value,
) -> Option<Voice> {
    if !matches!(entity, EntityKey::Message(_)) {
        return None;
    }
    let facts: MessageFacts = serde_json::from_value(facts.clone()).unwrap_or_default();
    Some(Voice {
        mailbox: mailbox.unwrap_or_default().to_owned(),
        caller_number: facts.caller_number,
        caller_name: facts.caller_name,
        duration_ms: audio.duration_ms,
        urgent: facts.urgent,
        private: facts.private,
        received_at: facts.received_at,
    })
}

#[cfg(test)]
mod tests {
    use vmsync_config::words::{Extension, UnixMillis};
    use vmsync_store::{
        Options,
        model::{MailboxPatch, MessageState},
    };

    use super::*;
    use crate::mailroom::describe;

    const NOW: Room = Room {
        operations: 5_000,
        together: true,
    };
    /// For a peer of version 1.0.
    const OLD: Room = Room {
        together: false,
        ..NOW
    };
    const WAV: &[u8] = include_bytes!("../../assets/voice/two.wav");

    struct Bench {
        store: Store,
        ext: Extension,
        _folder: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
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
            Self {
                store,
                ext,
                _folder: folder,
            }
        }

        fn deposit(&self, caller: &str) -> uuid::Uuid {
            let facts = MessageFacts {
                caller_number: Some(caller.to_owned()),
                urgent: true,
                ..MessageFacts::default()
            };
            let audio = describe(&vmsync_core::audio::measure(WAV).unwrap(), WAV);
            self.store
                .deposit(&self.ext, facts, audio, WAV)
                .unwrap()
                .0
                .id
        }

        /// Every mail it takes to tell a peer that holds nothing.
        fn mails(&self, room: Room) -> Vec<Packed> {
            let origin = self.store.origin();
            let last = self.store.have().get(&origin);
            let mut after = 0;
            let mut mails = Vec::new();
            while after < last {
                let mail = pack(&self.store, &[(origin.clone(), after, last)], room).unwrap();
                assert!(mail.load.operations > 0, "no progress after {after}");
                after = mail.load.upto.get(&origin);
                mails.push(mail);
            }
            mails
        }
    }

    #[test]
    fn a_voice_message_travels_alone_and_small_changes_together() {
        let bench = Bench::new();
        let id = bench.deposit("5551234");
        bench
            .store
            .set_message_state(id, MessageState::Old)
            .unwrap();
        bench
            .store
            .set_message_state(id, MessageState::Saved)
            .unwrap();
        let mails = bench.mails(OLD);
        let counts: Vec<_> = mails
            .iter()
            .map(|m| (m.load.operations, m.audio.len()))
            .collect();
        assert_eq!(
            counts,
            [(1, 0), (1, 1), (2, 0)],
            "mailbox; message; its two states"
        );
        let voice = mails[1].voices[0].as_ref().unwrap();
        assert_eq!(voice.mailbox, "2001");
        assert_eq!(voice.caller_number.as_deref(), Some("5551234"));
        assert!(voice.urgent);
        assert_eq!(&mails[1].audio[0].bytes()[..], WAV);
        assert_eq!(mails[1].audio[0].about()["mailbox"], "2001");
    }

    #[test]
    fn a_backlog_travels_together() {
        let bench = Bench::new();
        let ids: Vec<_> = (0..70)
            .map(|n| bench.deposit(&format!("55512{n:02}")))
            .collect();
        let state = MessageState::Old;
        bench.store.set_message_state(ids[3], state).unwrap();
        let mails = bench.mails(NOW);
        let counts: Vec<_> = mails
            .iter()
            .map(|m| (m.load.operations, m.audio.len()))
            .collect();
        assert_eq!(
            counts,
            [(65, 64), (7, 6)],
            "mailbox and 64; six and a state"
        );
        let read = |m: &Packed| m.voices.iter().all(Option::is_some);
        assert!(mails.iter().all(read));
        assert!(mails[0].load.bytes > 64 * WAV.len() as u64);
    }

    #[test]
    fn audio_that_cannot_be_read_holds_nothing_up() {
        let bench = Bench::new();
        bench.deposit("1");
        let bad = bench.deposit("2");
        bench.deposit("3");
        let audio = bench.store.message(bad).unwrap().unwrap().audio;
        let file = format!("{}.vma", audio.blob);
        for entry in walk(&bench.store.dir().join("audio")) {
            if entry.ends_with(&file) {
                std::fs::write(entry, b"no audio").unwrap();
            }
        }
        let mails = bench.mails(NOW);
        let counts: Vec<_> = mails
            .iter()
            .map(|m| (m.operations.len(), m.skips.len()))
            .collect();
        assert_eq!(counts, [(2, 0), (0, 1), (1, 0)]);
        assert_eq!(mails[1].skips[0].entity, format!("message/{bad}"));
        assert!(mails[1].skips[0].why.contains("can't be read"));
        let origin = bench.store.origin();
        assert!(
            pack(&bench.store, &[(origin, 2, 4)], OLD).is_err(),
            "a peer of version 1.0 can't be told"
        );
    }

    fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
        entries
            .flat_map(|p| if p.is_dir() { walk(&p) } else { vec![p] })
            .collect()
    }

    #[test]
    fn audio_of_a_purged_message_is_not_missed() {
        let bench = Bench::new();
        let id = bench.deposit("5551234");
        bench.store.purge_message(id).unwrap();
        let mails = bench.mails(NOW);
        assert!(mails.iter().all(|m| m.audio.is_empty()));
        assert_eq!(
            mails.iter().map(|m| m.load.operations).sum::<u64>(),
            3,
            "mailbox, message, purge"
        );
    }

    #[test]
    fn a_mail_never_goes_beyond_its_range() {
        let bench = Bench::new();
        let origin = bench.store.origin();
        let ext = &bench.ext;
        for n in 0..10 {
            let patch = MailboxPatch {
                name: Some(format!("name {n}")),
                ..MailboxPatch::default()
            };
            bench.store.change_mailbox(ext, &patch).unwrap();
        }
        let mail = pack(&bench.store, &[(origin.clone(), 3, 7)], NOW).unwrap();
        assert_eq!((mail.load.operations, mail.load.upto.get(&origin)), (4, 7));
        let few = Room {
            operations: 2,
            ..NOW
        };
        let mail = pack(&bench.store, &[(origin.clone(), 3, 7)], few).unwrap();
        assert_eq!(mail.load.upto.get(&origin), 5);
    }
}
