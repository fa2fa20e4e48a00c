//! Reading operations from the store into one mail.
//!
//! A voice message (or greeting) travels alone, so that it is one mail that any mail program can
//! play; small changes travel together. Order within an origin is never changed.

use serde_json::Value;
use vmsync_config::words::{Origin, Vector};
use vmsync_core::wire::{CarriedAudio, Voice};
use vmsync_store::{AudioRef, Effect, EntityKey, Operation, Store, StoreError};

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
        self.audio.push(CarriedAudio {
            about,
            bytes: bytes.into(),
        });
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

fn facts_of(operation: &Operation) -> Value {
    match (&operation.entity, &operation.effect) {
        (EntityKey::Message(_), Effect::Set(fields)) => {
            let facts = fields.iter().filter(|(name, _)| *name != "audio");
            Value::Object(facts.map(|(n, v)| (n.clone(), v.clone())).collect())
        }
        _ => Value::Null,
    }
}

fn voice_of(operation: &Operation, audio: &AudioRef, facts: &Value) -> Option<Voice> {
    if !matches!(operation.entity, EntityKey::Message(_)) {
        return None;
    }
    let text = |name: &str| facts[name].as_str().map(str::to_owned);
    Some(Voice {
        mailbox: text("mailbox").unwrap_or_default(),
        caller_number: text("caller_number"),
        caller_name: text("caller_name"),
        duration_ms: audio.duration_ms,
        urgent: facts["urgent"] == true,
        private: facts["private"] == true,
        received_at: text("received_at").and_then(|t| t.parse().ok()),
    })
}
