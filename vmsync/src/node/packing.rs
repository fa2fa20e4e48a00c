//! Reading operations from the store into one mail.
//!
//! A voice message (or greeting) travels alone, so that it is one mail that any mail program can
//! play; small changes travel together. Order within an origin is never changed.

use serde_json::Value;
use vmsync_config::words::{Origin, Vector};
use vmsync_core::wire::{CarriedAudio, Voice};
use vmsync_store::{
    AudioRef, Effect, EntityKey, Operation, Store, StoreError, model::MessageFacts,
};

use crate::mailroom::AboutAudio;

/// Operations in one mail at most.
const MOST: usize = 500;
/// JSON bytes in one mail at most (one operation may be larger and then goes alone).
const MOST_BYTES: usize = 512 * 1024;

/// What goes into one mail.
#[derive(Default)]
pub(crate) struct Packed {
    /// As JSON, in order.
    pub(crate) operations: Vec<Value>,
    /// Audio they name.
    pub(crate) audio: Vec<CarriedAudio>,
    /// What a person reads, for a voice message.
    pub(crate) voice: Option<Voice>,
    /// The last operation of each origin in this mail.
    pub(crate) upto: Vector,
    /// How many there are.
    pub(crate) count: u64,
}

/// Packs operations of `ranges` (origin, after, up to and including) from the front.
pub(crate) fn pack(store: &Store, ranges: &[(Origin, u64, u64)]) -> Result<Packed, StoreError> {
    let mut packed = Packed::default();
    let mut size = 0;
    for (origin, after, upto) in ranges {
        for operation in store.operations(origin, *after, MOST)? {
            if operation.stamp.seq > *upto {
                break;
            }
            let audio = named_audio(&operation);
            let json =
                serde_json::to_value(&operation).map_err(|e| StoreError::Invalid(e.to_string()))?;
            size += json.to_string().len();
            let full = packed.operations.len() == MOST || size > MOST_BYTES || audio.is_some();
            if full && !packed.operations.is_empty() {
                return Ok(packed);
            }
            packed.add(&operation, json);
            if let Some(audio) = audio {
                packed.carry(store, &operation, &audio)?;
                return Ok(packed);
            }
        }
    }
    Ok(packed)
}

impl Packed {
    fn add(&mut self, operation: &Operation, json: Value) {
        self.operations.push(json);
        self.upto
            .raise(&operation.stamp.origin, operation.stamp.seq);
        self.count += 1;
    }

    /// Adds the audio an operation names. The store gives an operation whose audio nobody needs any
    /// more without it; should the file go between the two reads, the mail is packed anew.
    fn carry(
        &mut self,
        store: &Store,
        operation: &Operation,
        audio: &AudioRef,
    ) -> Result<(), StoreError> {
        let bytes = store.read_audio(audio)?;
        let facts = facts_of(operation);
        let about = AboutAudio {
            entity: operation.entity.clone(),
            audio: audio.clone(),
            facts: facts.clone(),
        };
        let about = serde_json::to_value(about).map_err(|e| StoreError::Invalid(e.to_string()))?;
        self.audio.push(CarriedAudio::new(about, bytes));
        self.voice = voice_of(operation, audio, &facts);
        Ok(())
    }
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

/// A message's facts as the store wrote them; null for anything else.
fn facts_of(operation: &Operation) -> Value {
    match (&operation.entity, &operation.effect) {
        (EntityKey::Message(_), Effect::Set(fields)) => {
            fields.get("facts").cloned().unwrap_or_default()
        }
        _ => Value::Null,
    }
}

/// What a person reads in the mail of a voice message.
fn voice_of(operation: &Operation, audio: &AudioRef, facts: &Value) -> Option<Voice> {
    let (EntityKey::Message(_), Effect::Set(fields)) = (&operation.entity, &operation.effect)
    else {
        return None;
    };
    let mailbox = fields.get("mailbox").and_then(Value::as_str);
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
        fn mails(&self) -> Vec<Packed> {
            let origin = self.store.origin();
            let last = self.store.have().get(&origin);
            let mut after = 0;
            let mut mails = Vec::new();
            while after < last {
                let mail = pack(&self.store, &[(origin.clone(), after, last)]).unwrap();
                assert!(mail.count > 0, "no progress after {after}");
                after = mail.upto.get(&origin);
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
        let mails = bench.mails();
        let counts: Vec<_> = mails.iter().map(|m| (m.count, m.audio.len())).collect();
        assert_eq!(
            counts,
            [(1, 0), (1, 1), (2, 0)],
            "mailbox; message; its two states"
        );
        let voice = mails[1].voice.as_ref().unwrap();
        assert_eq!(voice.mailbox, "2001");
        assert_eq!(voice.caller_number.as_deref(), Some("5551234"));
        assert!(voice.urgent);
        assert_eq!(mails[1].audio[0].bytes(), WAV);
    }

    #[test]
    fn audio_of_a_purged_message_is_not_missed() {
        let bench = Bench::new();
        let id = bench.deposit("5551234");
        bench.store.purge_message(id).unwrap();
        let mails = bench.mails();
        assert!(mails.iter().all(|m| m.audio.is_empty()));
        assert_eq!(
            mails.iter().map(|m| m.count).sum::<u64>(),
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
        let mail = pack(&bench.store, &[(origin.clone(), 3, 7)]).unwrap();
        assert_eq!((mail.count, mail.upto.get(&origin)), (4, 7));
    }
}
