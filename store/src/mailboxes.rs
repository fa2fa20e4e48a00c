//! Mailboxes: create, change, clear, delete, list (R-MB-1 to R-MB-3), and their PINs.

use argon2::{Argon2, PasswordHash, PasswordHasher, PasswordVerifier, password_hash::SaltString};
use serde_json::{Value, json};
use vmsync_config::words::{EmailMode, Extension};

use crate::{
    disk::Purpose,
    error::StoreError,
    keys, limits,
    messages::to_json,
    model::{Mailbox, MailboxPatch, Page},
    operation::{EntityKey, GreetingKind},
    record::AUDIO,
    store::Store,
    transaction::Transaction,
    view::{self, EMAIL_MODE, EmailSetting, Summary},
};

/// Room asked for a change of fields: its operation, its record, and sled's rewriting of pages.
pub(crate) const SMALL: u64 = 64 * 1024;
/// Most items on a page.
pub(crate) const PAGE: usize = 1000;

impl Store {
    /// Creates a mailbox; `Conflict` when it exists. One that was deleted starts anew: nothing of
    /// its fields and greetings comes back.
    pub fn create_mailbox(
        &self,
        ext: &Extension,
        patch: &MailboxPatch,
    ) -> Result<Mailbox, StoreError> {
        let mut fields = fields_of(patch)?;
        // Everything is set, so that nothing older shows through.
        for (name, value) in [
            ("created", json!(true)),
            ("name", json!("")),
            ("enabled", json!(true)),
            ("email", Value::Null),
            (EMAIL_MODE, Value::Null),
            ("home_system", Value::Null),
            ("max_messages", Value::Null),
            ("pin_hash", Value::Null),
        ] {
            if !fields.iter().any(|(given, _)| *given == name) {
                fields.push((name, value));
            }
        }
        let entity = EntityKey::Mailbox(ext.clone());
        self.write(SMALL, Purpose::Content, |t| {
            if view::mailbox_exists(t.record(&entity)?) {
                return Err(StoreError::Conflict(format!(
                    "mailbox {ext} exists already"
                )));
            }
            remove_greetings(t, ext)?;
            let fields = with_email_mode(t, &entity, fields, patch.email_mode)?;
            t.set(&entity, fields).map(drop)
        })?;
        self.mailbox(ext)?
            .ok_or_else(|| StoreError::no_mailbox(ext))
    }

    /// Changes the fields given.
    pub fn change_mailbox(
        &self,
        ext: &Extension,
        patch: &MailboxPatch,
    ) -> Result<Mailbox, StoreError> {
        let fields = fields_of(patch)?;
        self.write(SMALL, Purpose::Content, |t| {
            let entity = existing(t, ext)?;
            let fields = with_email_mode(t, &entity, fields, patch.email_mode)?;
            if fields.is_empty() {
                return Ok(());
            }
            t.set(&entity, fields).map(drop)
        })?;
        self.mailbox(ext)?
            .ok_or_else(|| StoreError::no_mailbox(ext))
    }

    /// Deletes it with every message and greeting seen here. A message the peer took meanwhile
    /// stays, listed under the mailbox with `deleted: true`. A mailbox that is only listed for
    /// such messages is rid of them by deleting it again.
    pub fn delete_mailbox(&self, ext: &Extension) -> Result<(), StoreError> {
        let entity = EntityKey::Mailbox(ext.clone());
        self.write(SMALL, Purpose::Upkeep, |t| {
            let exists = view::mailbox_exists(t.record(&entity)?);
            if !exists && !t.summary(ext)?.is_visible() {
                return Err(StoreError::no_mailbox(ext));
            }
            purge_messages(t, ext)?;
            remove_greetings(t, ext)?;
            if exists {
                t.delete(&entity)?;
            }
            Ok(())
        })
    }

    /// R-MB-2 *clear*: all messages and greetings go, the PIN stays.
    pub fn clear_mailbox(&self, ext: &Extension) -> Result<(), StoreError> {
        self.write(SMALL, Purpose::Upkeep, |t| {
            existing(t, ext)?;
            purge_messages(t, ext)?;
            remove_greetings(t, ext)
        })
    }

    /// One mailbox.
    pub fn mailbox(&self, ext: &Extension) -> Result<Option<Mailbox>, StoreError> {
        let summary =
            self.inner
                .committer
                .read(|index| match index.get(&keys::summary(ext))? {
                    Some(bytes) => Ok(serde_json::from_slice::<Summary>(&bytes)?),
                    None => Ok(Summary::default()),
                })?;
        if !summary.is_visible() {
            return Ok(None);
        }
        let record = self.record(&EntityKey::Mailbox(ext.clone()))?;
        Ok(Some(view::mailbox(ext, &record, &summary)))
    }

    /// Mailboxes in order of extension, as text. `limit` is held to 1 to 1000.
    pub fn mailboxes(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Mailbox>, StoreError> {
        let limit = limit.clamp(1, PAGE);
        let mut from = match cursor {
            None => vec![keys::SUMMARY],
            Some(text) => {
                let last = Extension::new(text).map_err(|_| {
                    StoreError::Invalid(format!(
                        "{text:?} is no cursor of a list of mailboxes; use the one the last page gave"
                    ))
                })?;
                after(keys::summary(&last))
            }
        };
        let end = keys::end_of(&[keys::SUMMARY]);
        let mut items: Vec<Mailbox> = Vec::new();
        loop {
            let found = self
                .inner
                .committer
                .read(|index| index.range(&from, &end, limit))?;
            let last = found.len() < limit;
            for (key, value) in found {
                if items.len() == limit {
                    let next = items.last().map(|m| m.extension.to_string());
                    return Ok(Page { items, next });
                }
                let summary: Summary = serde_json::from_slice(&value)
                    .map_err(|e| StoreError::damaged("reading a mailbox's summary", e))?;
                if summary.is_visible() {
                    items.push(self.listed(&key, &summary)?);
                }
                from = after(key);
            }
            if last {
                return Ok(Page { items, next: None });
            }
        }
    }

    fn listed(&self, key: &[u8], summary: &Summary) -> Result<Mailbox, StoreError> {
        let ext = key
            .get(1..)
            .and_then(|e| std::str::from_utf8(e).ok())
            .and_then(|e| Extension::new(e).ok())
            .ok_or_else(|| StoreError::damaged("reading the list of mailboxes", "a bad key"))?;
        let record = self.record(&EntityKey::Mailbox(ext.clone()))?;
        Ok(view::mailbox(&ext, &record, summary))
    }

    /// The PIN's check; counting wrong tries is the caller's. `false` also while no PIN is set.
    pub fn check_pin(&self, ext: &Extension, pin: &str) -> Result<bool, StoreError> {
        let record = self.record(&EntityKey::Mailbox(ext.clone()))?;
        if !view::mailbox_exists(&record) {
            return Err(StoreError::no_mailbox(ext));
        }
        let Some(hash) = view::pin_hash(&record) else {
            return Ok(false);
        };
        let hash = PasswordHash::new(&hash).map_err(|e| {
            StoreError::damaged(
                format!("reading the PIN hash of mailbox {ext}"),
                e.to_string(),
            )
        })?;
        Ok(Argon2::default()
            .verify_password(pin.as_bytes(), &hash)
            .is_ok())
    }
}

/// The key right after `key`.
pub(crate) fn after(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

/// The mailbox, which must exist.
pub(crate) fn existing(t: &mut Transaction<'_>, ext: &Extension) -> Result<EntityKey, StoreError> {
    let entity = EntityKey::Mailbox(ext.clone());
    if view::mailbox_exists(t.record(&entity)?) {
        Ok(entity)
    } else {
        Err(StoreError::no_mailbox(ext))
    }
}

fn fields_of(patch: &MailboxPatch) -> Result<Vec<(&'static str, Value)>, StoreError> {
    fn text(given: &str) -> Value {
        if given.is_empty() {
            Value::Null
        } else {
            json!(given)
        }
    }
    limits::mailbox_patch(patch)?;
    let mut fields = Vec::new();
    if let Some(name) = &patch.name {
        fields.push(("name", json!(name)));
    }
    if let Some(email) = &patch.email {
        fields.push(("email", text(email)));
    }
    if let Some(system) = &patch.home_system {
        fields.push(("home_system", text(system)));
    }
    if let Some(enabled) = patch.enabled {
        fields.push(("enabled", json!(enabled)));
    }
    if let Some(most) = patch.max_messages {
        fields.push((
            "max_messages",
            if most == 0 { Value::Null } else { json!(most) },
        ));
    }
    if let Some(pin) = &patch.pin {
        let hash = if pin.is_empty() {
            Value::Null
        } else {
            json!(hash_pin(pin)?)
        };
        fields.push(("pin_hash", hash));
    }
    Ok(fields)
}

/// The fields with the e-mail mode, which is set together with the time from which it holds. A mode
/// needs an address, and an address stays while there is a mode (R-MB-11).
fn with_email_mode(
    t: &mut Transaction<'_>,
    entity: &EntityKey,
    mut fields: Vec<(&'static str, Value)>,
    wanted: Option<EmailMode>,
) -> Result<Vec<(&'static str, Value)>, StoreError> {
    // In `merge`'s terms what a deletion left behind is not this mailbox's.
    let since = t.memory().clock;
    let record = t.record(entity)?;
    let held = view::email_setting(record);
    let mode = wanted.unwrap_or(held.map_or(EmailMode::Off, |s| s.mode));
    let given = fields.iter().rev().find(|(name, _)| *name == "email");
    let email = match given {
        Some((_, email)) => email.as_str().map(str::to_owned),
        None if view::mailbox_exists(record) => record.read("email"),
        None => None,
    };
    if mode != EmailMode::Off {
        limits::mailable(mode, email.as_deref())?;
    }
    if wanted.is_none() || mode == held.map_or(EmailMode::Off, |s| s.mode) {
        return Ok(fields);
    }
    let setting = match mode {
        EmailMode::Off => Value::Null,
        // What waits under another mode goes by the new one.
        mode => to_json(EmailSetting {
            mode,
            since: held.map_or(since, |s| s.since),
        })?,
    };
    fields.retain(|(name, _)| *name != EMAIL_MODE);
    fields.push((EMAIL_MODE, setting));
    Ok(fields)
}

fn hash_pin(pin: &str) -> Result<String, StoreError> {
    let failed = |e: argon2::password_hash::Error| {
        StoreError::io("hashing a PIN", std::io::Error::other(e.to_string()))
    };
    let salt = SaltString::encode_b64(&rand::random::<[u8; 16]>()).map_err(failed)?;
    Ok(Argon2::default()
        .hash_password(pin.as_bytes(), &salt)
        .map_err(failed)?
        .to_string())
}

/// Deletes every message of the mailbox seen here, one operation each.
fn purge_messages(t: &mut Transaction<'_>, ext: &Extension) -> Result<(), StoreError> {
    for key in t.keys(&keys::arrivals(ext))? {
        if let Some(id) = keys::id_at_end(&key) {
            t.delete(&EntityKey::Message(id))?;
        }
    }
    Ok(())
}

/// Removes every greeting seen here; one recorded elsewhere meanwhile stays (rule 3 in `merge`).
fn remove_greetings(t: &mut Transaction<'_>, ext: &Extension) -> Result<(), StoreError> {
    for kind in GreetingKind::ALL {
        let entity = EntityKey::Greeting(ext.clone(), kind);
        if view::greeting(kind, t.record(&entity)?).is_some() {
            t.set(&entity, [(AUDIO, Value::Null)])?;
        }
    }
    Ok(())
}
