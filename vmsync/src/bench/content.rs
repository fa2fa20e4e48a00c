//! Made-up content: audio for deposits; and whole mailboxes written straight into a store, as
//! operations of a third origin that either node may hold.

use std::path::Path;

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use uuid::Uuid;
use vmsync_config::words::{Extension, NodeId, Origin};
use vmsync_store::{AudioRef, Effect, EntityKey, Hlc, NewAudio, Operation, Options, Stamp, Store};

use crate::{clock, mailroom::describe};

/// Messages a mailbox.
pub(super) const A_MAILBOX: u32 = 10;
/// Operations written at once.
const BATCH: usize = 4_000;
/// When the made-up content begins, ms since 1970: always the same, so that two stores filled alike
/// hold the same. Operations are a millisecond apart.
const THEN: u64 = 1_780_000_000_000;
/// Bytes of a WAV header as written here.
const HEADER: u32 = 44;

/// A WAV file (G.711 µ-law, 8 kHz, mono) of `bytes` bytes that no compression shortens.
pub(super) fn wav(n: u32, bytes: u32) -> Vec<u8> {
    let samples = bytes.saturating_sub(HEADER);
    let mut wav = Vec::with_capacity(bytes as usize);
    wav.extend_from_slice(b"RIFF");
    wav.extend_from_slice(&(36 + samples).to_le_bytes());
    wav.extend_from_slice(b"WAVEfmt ");
    wav.extend_from_slice(&16_u32.to_le_bytes());
    // WAVE_FORMAT_MULAW, one channel, 8,000 samples and bytes a second, one byte a block, 8 bits.
    for word in [7_u16, 1, 8_000, 0, 8_000, 0, 1, 8] {
        wav.extend_from_slice(&word.to_le_bytes());
    }
    wav.extend_from_slice(b"data");
    wav.extend_from_slice(&samples.to_le_bytes());
    wav.resize(bytes.max(HEADER) as usize, 0);
    if let Some(sound) = wav.get_mut(HEADER as usize..) {
        StdRng::seed_from_u64(u64::from(n)).fill(sound);
    }
    wav
}

/// Makes `wav` another file of the same length.
pub(super) fn renumber(wav: &mut [u8], n: u32) {
    if let Some(at) = wav.get_mut(HEADER as usize..HEADER as usize + 4) {
        at.copy_from_slice(&n.to_le_bytes());
    }
}

/// The extension of mailbox `n`.
pub(super) fn extension(n: u32) -> Result<Extension, String> {
    Extension::new((200_000 + n).to_string()).map_err(|e| e.to_string())
}

/// Opens a node's store while its process does not run.
pub(super) fn open(dir: &Path, node: &str) -> Result<Store, String> {
    let node: NodeId = node.parse().map_err(|e| format!("{node}: {e}"))?;
    let options = Options {
        node,
        min_free_bytes: 64 << 20,
        clock: clock::wall,
    };
    Store::open(dir, options).map_err(|e| e.to_string())
}

/// Writes operations of one origin, numbered and stamped in order.
pub(super) struct Writer<'a> {
    store: &'a Store,
    origin: Origin,
    seq: u64,
    start: u64,
    batch: Vec<Operation>,
}

impl<'a> Writer<'a> {
    /// Of `origin` after what `store` holds of it; stamps begin so many milliseconds after [`THEN`].
    pub(super) fn new(store: &'a Store, origin: &str, after: u64) -> Result<Self, String> {
        let origin: Origin = origin.parse().map_err(|e| format!("{origin}: {e}"))?;
        Ok(Self {
            seq: store.have().get(&origin),
            store,
            origin,
            start: THEN + after,
            batch: Vec::with_capacity(BATCH),
        })
    }

    pub(super) fn set(&mut self, entity: EntityKey, fields: Value) -> Result<(), String> {
        let Value::Object(fields) = fields else {
            return Err("fields are an object".to_owned());
        };
        self.seq += 1;
        self.batch.push(Operation {
            stamp: Stamp {
                at: Hlc {
                    wall: vmsync_config::words::UnixMillis(self.start + self.seq),
                    count: 0,
                },
                origin: self.origin.clone(),
                seq: self.seq,
            },
            entity,
            effect: Effect::Set(fields.into_iter().collect()),
            extra: std::collections::BTreeMap::new(),
        });
        if self.batch.len() == BATCH {
            self.flush()?;
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), String> {
        self.store.apply(&self.batch).map_err(|e| e.to_string())?;
        self.batch.clear();
        Ok(())
    }
}

/// The id of message `n` of the made-up content, the same in every store: a version 7 UUID.
pub(super) fn message_id(n: u32) -> Uuid {
    let mut random = [0; 10];
    StdRng::seed_from_u64(u64::from(n)).fill(&mut random);
    uuid::Builder::from_unix_timestamp_millis(THEN + u64::from(n), &random).into_uuid()
}

/// Fills `store` with `messages` messages, [`A_MAILBOX`] a mailbox, which share one short recording.
pub(super) fn fill(store: &Store, messages: u32) -> Result<(), String> {
    let wav = wav(0, 1_000);
    let measured = vmsync_core::audio::measure(&wav).map_err(|e| e.to_string())?;
    let audio = AudioRef {
        blob: Uuid::from_u128(0x5eed),
        ..describe(&measured, &wav)
    };
    let new = NewAudio {
        entity: EntityKey::Message(message_id(0)),
        mailbox: Some(extension(0)?),
        audio: &audio,
        facts: Value::Null,
    };
    store.put_audio(new, &wav).map_err(|e| e.to_string())?;
    let audio = serde_json::to_value(&audio).map_err(|e| e.to_string())?;
    let mut writer = Writer::new(store, "vmpro1.5eed0001", 0)?;
    for n in 0..messages.div_ceil(A_MAILBOX) {
        writer.set(EntityKey::Mailbox(extension(n)?), mailbox(n))?;
    }
    for n in 0..messages {
        let fields = message(n, extension(n / A_MAILBOX)?.as_str(), &audio);
        writer.set(EntityKey::Message(message_id(n)), fields)?;
    }
    writer.flush()
}

fn mailbox(n: u32) -> Value {
    json!({
        "created": true, "name": format!("Subscriber {n}"), "enabled": true,
        "email": format!("subscriber{n}@demo.example"), "home_system": "headquarters",
        "max_messages": null, "pin_hash": null,
    })
}

fn message(n: u32, mailbox: &str, audio: &Value) -> Value {
    json!({
        "mailbox": mailbox, "state": "new", "audio": audio,
        "facts": {
            "caller_number": format!("555{n:07}"), "caller_name": format!("Caller {n}"),
            "received_at": vmsync_config::words::UnixMillis(THEN + u64::from(n)),
            "urgent": false, "private": false, "taken_by": "vmpro1",
            "source_id": format!("mail:<{n}@pbx.demo.example>"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_audio_is_audio_of_the_length_asked_for_and_every_file_another() {
        let mut one = wav(1, 8_044);
        assert_eq!(one.len(), 8_044);
        let measured = vmsync_core::audio::measure(&one).unwrap();
        assert_eq!((measured.codec, measured.duration_ms), ("ulaw", 1_000));
        let before = one.clone();
        renumber(&mut one, 77);
        assert_ne!(one, before);
        assert_eq!(
            vmsync_core::audio::measure(&one).unwrap().duration_ms,
            1_000
        );
    }

    #[test]
    fn two_stores_filled_alike_hold_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let stores = ["vmpro1", "vmpro2"].map(|node| {
            let store = open(&dir.path().join(node), node).unwrap();
            fill(&store, 25).unwrap();
            store
        });
        assert_eq!(stores[0].digest().1, stores[1].digest().1);
        let totals = stores[0].totals().unwrap();
        assert_eq!((totals.mailboxes, totals.messages), (3, 25));
        let page = stores[1].messages(&extension(1).unwrap(), &[], None, 100);
        assert_eq!(page.unwrap().items.len(), 10);
    }
}
