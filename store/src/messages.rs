//! Messages: deposit, change of state, removal, lists (R-MB-4, R-MB-5), and their audio.

use std::io::Read;

use serde_json::{Value, json};
use uuid::Uuid;
use vmsync_config::words::{Extension, UnixMillis};

use crate::{
    blobs::{self, Blobs, NewAudio},
    chance,
    disk::Purpose,
    error::StoreError,
    keys, limits,
    mailboxes::{PAGE, SMALL, after, existing},
    model::{Message, MessageFacts, MessageState, Page},
    operation::{AudioRef, EntityKey},
    record::AUDIO,
    store::Store,
    transaction::Transaction,
    view,
};

impl Store {
    /// Deposits a message; the same `facts.source_id` for the same mailbox twice gives the first
    /// message back and `false`. (Where both nodes took the same source apart, both messages stay:
    /// a caller rather hears one twice than loses one.)
    /// `audio` fields were measured by the caller from `bytes`; the store checks length and SHA-256.
    pub fn deposit(
        &self,
        ext: &Extension,
        facts: MessageFacts,
        audio: AudioRef,
        bytes: &[u8],
    ) -> Result<(Message, bool), StoreError> {
        limits::facts(&facts)?;
        check_audio(&audio, bytes)?;
        let source = facts.source_id.clone();
        // Asked before the file is written, and again when the message is recorded.
        if let Some(first) = self.peek(|t| admit(t, ext, source.as_deref()))? {
            self.inner.committer.barrier()?;
            return Ok((first, false));
        }
        let id = new_id(self.now());
        let entity = EntityKey::Message(id);
        let facts = to_json(facts)?;
        let new = NewAudio {
            entity: entity.clone(),
            mailbox: Some(ext.clone()),
            audio: &audio,
            facts: facts.clone(),
        };
        self.add_audio(new, bytes)?;
        self.with_audio(audio.blob, move |t| {
            if let Some(first) = admit(t, ext, source.as_deref())? {
                return Ok(((first, false), false));
            }
            t.set(
                &entity,
                [
                    ("mailbox", json!(ext)),
                    ("state", json!(MessageState::New)),
                    ("facts", facts),
                    (AUDIO, to_json(audio)?),
                ],
            )?;
            let message = view::message(id, t.record(&entity)?);
            let message = message.ok_or_else(|| StoreError::no_message(id))?;
            Ok(((message, true), true))
        })
    }

    /// Changes a message's state; `Deleted` is recoverable. The state it has already is no change.
    pub fn set_message_state(&self, id: Uuid, state: MessageState) -> Result<Message, StoreError> {
        let entity = EntityKey::Message(id);
        self.write(SMALL, Purpose::Upkeep, |t| {
            let missing = || StoreError::no_message(id);
            let held = view::message(id, t.record(&entity)?).ok_or_else(missing)?;
            if held.state == state {
                return Ok(held);
            }
            t.set(&entity, [("state", json!(state))])?;
            view::message(id, t.record(&entity)?).ok_or_else(missing)
        })
    }

    /// Removes a message for good (tombstone); its audio file goes after the commit.
    pub fn purge_message(&self, id: Uuid) -> Result<(), StoreError> {
        let entity = EntityKey::Message(id);
        self.write(SMALL, Purpose::Upkeep, |t| {
            if view::message(id, t.record(&entity)?).is_none() {
                return Err(StoreError::no_message(id));
            }
            t.delete(&entity).map(drop)
        })
    }

    /// One message.
    pub fn message(&self, id: Uuid) -> Result<Option<Message>, StoreError> {
        Ok(view::message(id, &self.record(&EntityKey::Message(id))?))
    }

    /// Messages of a mailbox, oldest first; `states` empty = all but deleted. `limit` is held to 1
    /// to 1000. The order is that in which the messages entered the pair.
    pub fn messages(
        &self,
        ext: &Extension,
        states: &[MessageState],
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Message>, StoreError> {
        let limit = limit.clamp(1, PAGE);
        let mut from = match cursor {
            None => keys::arrivals(ext),
            Some(text) => after(keys::arrival(ext, &parse_cursor(text)?)),
        };
        let end = keys::end_of(&keys::arrivals(ext));
        let wanted = |state: MessageState| {
            if states.is_empty() {
                state != MessageState::Deleted
            } else {
                states.contains(&state)
            }
        };
        let mut items: Vec<Message> = Vec::new();
        loop {
            let found = self
                .inner
                .committer
                .read(|index| index.range(&from, &end, limit))?;
            let last = found.len() < limit;
            for (key, state) in found {
                if items.len() == limit {
                    let next = items
                        .last()
                        .map(|m| hex::encode(keys::place(m.stamp.at, m.id)));
                    return Ok(Page { items, next });
                }
                let state = serde_json::from_slice(&state)
                    .map_err(|e| StoreError::damaged("reading a mailbox's messages", e))?;
                if wanted(state)
                    && let Some(id) = keys::id_at_end(&key)
                    && let Some(message) = self.message(id)?
                {
                    items.push(message);
                }
                from = after(key);
            }
            if last {
                return Ok(Page { items, next: None });
            }
        }
    }

    /// Opens an audio file for reading from `offset` of the audio to its end (header skipped, checked).
    pub fn open_audio(&self, blob: Uuid, offset: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        let file = self
            .inner
            .blobs
            .open_at(blob, offset)
            .map_err(|e| self.audio_error(blob, e))?;
        Ok(Box::new(file))
    }

    /// A whole audio file, its SHA-256 checked.
    pub fn read_audio(&self, audio: &AudioRef) -> Result<Vec<u8>, StoreError> {
        self.inner
            .blobs
            .read(audio)
            .map_err(|e| self.audio_error(audio.blob, e))
    }

    fn audio_error(&self, blob: Uuid, error: std::io::Error) -> StoreError {
        if error.kind() == std::io::ErrorKind::NotFound {
            return StoreError::NotFound {
                what: format!("audio {blob}"),
            };
        }
        let doing = format!(
            "reading audio {blob} in {}",
            self.inner.disk.dir.join("audio").display()
        );
        self.inner.disk.error(doing, error)
    }

    /// Writes a new audio file durably, into `incoming`.
    pub(crate) fn add_audio(&self, new: NewAudio<'_>, bytes: &[u8]) -> Result<(), StoreError> {
        let Self { inner } = self;
        let audio = new.audio;
        if inner.blobs.find(audio.blob).is_some() {
            return Err(StoreError::Conflict(format!(
                "audio {} exists already; give every upload an id of its own",
                audio.blob
            )));
        }
        let size = audio.bytes.saturating_add(Blobs::OVERHEAD);
        inner
            .disk
            .room_for(size.saturating_add(SMALL), Purpose::Content)?;
        let doing = format!("writing audio {} for {}", audio.blob, new.entity);
        let written = inner.blobs.write(new, bytes);
        written.map_err(|e| inner.disk.error(doing, e))
    }

    /// Runs what refers to a new audio file and says whether it does. When it does not, or was
    /// refused, the file goes. After a failed flush it stays: whether the operation is on disk is
    /// known only when the index was opened again, and a later start sweeps what is unneeded.
    pub(crate) fn with_audio<T>(
        &self,
        blob: Uuid,
        build: impl FnOnce(&mut Transaction<'_>) -> Result<(T, bool), StoreError>,
    ) -> Result<T, StoreError> {
        let result = self.run(false, build);
        let unneeded = match &result {
            Ok((_, used)) => !used,
            Err(StoreError::Io { .. } | StoreError::Full { .. }) => false,
            Err(_) => true,
        };
        if unneeded {
            self.inner.blobs.discard(blob);
        }
        result.map(|(value, _)| value)
    }
}

/// Whether the mailbox takes a message now. Gives the message back that came from the same source.
fn admit(
    t: &mut Transaction<'_>,
    ext: &Extension,
    source: Option<&str>,
) -> Result<Option<Message>, StoreError> {
    let entity = existing(t, ext)?;
    if let Some(source) = source {
        for key in t.keys(&keys::sources(ext, source))? {
            if let Some(id) = keys::id_at_end(&key)
                && let Some(first) = view::message(id, t.record(&EntityKey::Message(id))?)
            {
                return Ok(Some(first));
            }
        }
    }
    let summary = t.summary(ext)?.clone();
    let mailbox = view::mailbox(ext, t.record(&entity)?, &summary);
    if !mailbox.enabled {
        return Err(StoreError::Disabled(ext.clone()));
    }
    let most = mailbox.max_messages.map_or(u64::MAX, u64::from);
    if summary.counts.live() >= most {
        return Err(StoreError::MailboxFull(ext.clone()));
    }
    Ok(None)
}

/// A value of this store's own types as JSON.
pub(crate) fn to_json(value: impl serde::Serialize) -> Result<Value, StoreError> {
    serde_json::to_value(value).map_err(|e| StoreError::damaged("writing a field", e))
}

/// Refuses audio that is not what its description says.
pub(crate) fn check_audio(audio: &AudioRef, bytes: &[u8]) -> Result<(), StoreError> {
    if !blobs::matches(audio, bytes) {
        return Err(StoreError::Invalid(format!(
            "audio {} has {} bytes whose SHA-256 or length is not the one given",
            audio.blob,
            bytes.len()
        )));
    }
    let texts = [&audio.content_type, &audio.codec];
    if texts.iter().any(|t| t.len() > 200) {
        return Err(StoreError::Invalid(
            "the audio's content type or codec is longer than 200 characters".into(),
        ));
    }
    Ok(())
}

/// A version 7 UUID of this time (RFC 9562 section 5.7).
fn new_id(now: UnixMillis) -> Uuid {
    uuid::Builder::from_unix_timestamp_millis(now.0, &chance::bytes()).into_uuid()
}

fn parse_cursor(text: &str) -> Result<Vec<u8>, StoreError> {
    hex::decode(text)
        .ok()
        .filter(|place| place.len() == keys::PLACE)
        .ok_or_else(|| {
            StoreError::Invalid(format!(
                "{:?} is no cursor of a list of messages; use the one the last page gave",
                text.chars().take(80).collect::<String>()
            ))
        })
}
