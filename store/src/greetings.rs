//! Greetings of a mailbox (R-MB-7).

use serde_json::{Value, json};
use vmsync_config::words::{Extension, UnixMillis};

use crate::{
    blobs::NewAudio,
    disk::Purpose,
    error::StoreError,
    mailboxes::{SMALL, existing},
    messages::{check_audio, to_json},
    model::Greeting,
    operation::{AudioRef, EntityKey, GreetingKind},
    record::AUDIO,
    store::Store,
    view,
};

impl Store {
    /// Sets a greeting. It replaces all versions seen here, conflicting ones too.
    pub fn set_greeting(
        &self,
        ext: &Extension,
        kind: GreetingKind,
        audio: AudioRef,
        bytes: &[u8],
        until: Option<UnixMillis>,
    ) -> Result<Greeting, StoreError> {
        check_audio(&audio, bytes)?;
        // Asked before the file is written, and again when the greeting is recorded.
        self.peek(|t| existing(t, ext).map(drop))?;
        let entity = EntityKey::Greeting(ext.clone(), kind);
        let new = NewAudio {
            entity: entity.clone(),
            mailbox: None,
            audio: &audio,
            facts: until.map_or(Value::Null, |u| json!({"until": u})),
        };
        self.add_audio(new, bytes)?;
        self.with_audio(audio.blob, move |t| {
            existing(t, ext)?;
            let until = until.map_or(Value::Null, |u| json!(u));
            t.set(&entity, [(AUDIO, to_json(audio)?), ("until", until)])?;
            let greeting = view::greeting(kind, t.record(&entity)?);
            Ok((greeting.ok_or_else(|| no_greeting(ext, kind))?, true))
        })
    }

    /// Removes a greeting, conflicting versions too.
    pub fn remove_greeting(&self, ext: &Extension, kind: GreetingKind) -> Result<(), StoreError> {
        let entity = EntityKey::Greeting(ext.clone(), kind);
        self.write(SMALL, Purpose::Upkeep, |t| {
            existing(t, ext)?;
            if view::greeting(kind, t.record(&entity)?).is_none() {
                return Err(no_greeting(ext, kind));
            }
            t.set(&entity, [(AUDIO, Value::Null)]).map(drop)
        })
    }

    /// One greeting; `None` also when the mailbox does not exist.
    pub fn greeting(
        &self,
        ext: &Extension,
        kind: GreetingKind,
    ) -> Result<Option<Greeting>, StoreError> {
        let mailbox = self.record(&EntityKey::Mailbox(ext.clone()))?;
        if !view::mailbox_exists(&mailbox) {
            return Ok(None);
        }
        let record = self.record(&EntityKey::Greeting(ext.clone(), kind))?;
        Ok(view::greeting(kind, &record))
    }
}

fn no_greeting(ext: &Extension, kind: GreetingKind) -> StoreError {
    StoreError::NotFound {
        what: format!("greeting {} of mailbox {ext}", kind.as_str()),
    }
}
