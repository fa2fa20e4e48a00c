//! What waits to be e-mailed, and what came of it (R-MB-11, R-MB-5).
//!
//! A message waits while its mailbox has an e-mail mode, it entered the pair after that was set, it
//! is not deleted, and bears no mark. That follows from records alone, so both nodes agree on it
//! and a restart forgets nothing; the keys `e` hold it ready, so that nobody reads through a
//! mailbox to find one message. Who mails it is the caller's.

use serde_json::{Value, json};
use uuid::Uuid;
use vmsync_config::words::Extension;

use crate::{
    disk::Purpose,
    error::StoreError,
    keys,
    mailboxes::{PAGE, SMALL, after, existing},
    messages::to_json,
    model::{EmailFailed, Message, MessageState},
    operation::EntityKey,
    store::Store,
    view::{self, EMAIL_FAILED, EMAILED},
};

/// Longest reason that is kept of a failure, in characters.
const WHY: usize = 500;

/// Messages of a mailbox that wait to be e-mailed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmailed {
    /// Whose.
    pub mailbox: Extension,
    /// How many wait.
    pub waiting: u64,
    /// The oldest of them, in order of arrival.
    pub messages: Vec<Uuid>,
}

impl Store {
    /// The next mailboxes (by extension, as text) behind `behind` of which messages wait to be
    /// e-mailed, at most `mailboxes`, with at most `each` messages of each.
    pub fn unmailed(
        &self,
        behind: Option<&Extension>,
        mailboxes: usize,
        each: usize,
    ) -> Result<Vec<Unmailed>, StoreError> {
        let end = keys::end_of(&[keys::UNMAILED]);
        let mut from = match behind {
            None => vec![keys::UNMAILED],
            Some(ext) => keys::end_of(&keys::unmailed_of(ext)),
        };
        let mut found: Vec<Unmailed> = Vec::new();
        while found.len() < mailboxes {
            let first = self
                .inner
                .committer
                .read(|index| index.keys(&from, &end, 1))?;
            let Some(mailbox) = first.first().and_then(|key| keys::unmailed_mailbox(key)) else {
                break;
            };
            from = keys::end_of(&keys::unmailed_of(&mailbox));
            found.push(self.unmailed_in(mailbox, each)?);
        }
        Ok(found)
    }

    fn unmailed_in(&self, mailbox: Extension, each: usize) -> Result<Unmailed, StoreError> {
        let mut from = keys::unmailed_of(&mailbox);
        let end = keys::end_of(&from);
        let mut unmailed = Unmailed {
            mailbox,
            waiting: 0,
            messages: Vec::new(),
        };
        loop {
            let page = self
                .inner
                .committer
                .read(|index| index.keys(&from, &end, PAGE))?;
            unmailed.waiting += page.len() as u64;
            let room = each.saturating_sub(unmailed.messages.len());
            let ids = page.iter().filter_map(|key| keys::id_at_end(key));
            unmailed.messages.extend(ids.take(room));
            match page.into_iter().next_back() {
                Some(last) if unmailed.waiting.is_multiple_of(PAGE as u64) => from = after(last),
                _ => return Ok(unmailed),
            }
        }
    }

    /// Notes that a mail server has taken the message; with `forwarded` it is deleted here too
    /// (recoverably, and not where the user has saved it meanwhile), in the same change. `None` when
    /// the message is gone. A message that bears the mark keeps it.
    pub fn mark_emailed(&self, id: Uuid, forwarded: bool) -> Result<Option<Message>, StoreError> {
        let entity = EntityKey::Message(id);
        self.write(SMALL, Purpose::Upkeep, |t| {
            let Some(held) = view::message(id, t.record(&entity)?) else {
                return Ok(None);
            };
            if held.emailed.is_some() {
                return Ok(Some(held));
            }
            let mut fields = vec![(EMAILED, json!(t.now()))];
            if forwarded && held.state != MessageState::Saved {
                fields.push(("state", json!(MessageState::Deleted)));
            }
            t.set(&entity, fields)?;
            Ok(view::message(id, t.record(&entity)?))
        })
    }

    /// Notes that the message will not be e-mailed to `to`, and why. `None` when the message is gone.
    pub fn mark_email_failed(
        &self,
        id: Uuid,
        to: &str,
        why: &str,
    ) -> Result<Option<Message>, StoreError> {
        let entity = EntityKey::Message(id);
        let clean = |text: &str| -> String {
            let text = text.replace(char::is_control, " ");
            text.chars().take(WHY).collect()
        };
        let (to, why) = (clean(to), clean(why));
        self.write(SMALL, Purpose::Upkeep, |t| {
            let Some(held) = view::message(id, t.record(&entity)?) else {
                return Ok(None);
            };
            if held.emailed.is_some() || held.email_failed.is_some() {
                return Ok(Some(held));
            }
            let at = t.now();
            let failed = to_json(EmailFailed { at, to, why })?;
            t.set(&entity, [(EMAIL_FAILED, failed)])?;
            Ok(view::message(id, t.record(&entity)?))
        })
    }

    /// Lets messages of a mailbox whose e-mail failed for good wait again: `only` that one, or all.
    /// What would not wait without that mark either (it is deleted, or came before the mode was set)
    /// keeps it. How many wait now that did not.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] where the mailbox has no e-mail mode, or the
    /// one message has not failed or would not wait.
    pub fn email_again(&self, ext: &Extension, only: Option<Uuid>) -> Result<u64, StoreError> {
        if let Some(id) = only {
            if self.again(ext, &[id])? == 0 {
                return Err(StoreError::Conflict(format!(
                    "message {id} does not wait to be e-mailed for want of another try: its e-mail has not failed, or it is deleted or came before email_mode was set"
                )));
            }
            return Ok(1);
        }
        let (mut count, mut cursor) = (self.again(ext, &[])?, None);
        loop {
            let page = self.messages(ext, &[], cursor.as_deref(), PAGE)?;
            let failed = page.items.iter().filter(|m| m.email_failed.is_some());
            let failed: Vec<_> = failed.map(|m| m.id).collect();
            if !failed.is_empty() {
                count += self.again(ext, &failed)?;
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok(count);
            }
        }
    }

    /// As [`email_again`](Self::email_again), of some messages, in one change.
    fn again(&self, ext: &Extension, ids: &[Uuid]) -> Result<u64, StoreError> {
        let size = SMALL + 4096 * ids.len() as u64;
        self.write(size, Purpose::Upkeep, |t| {
            existing(t, ext)?;
            let Some(since) = t.summary(ext)?.email_since else {
                return Err(StoreError::Conflict(format!(
                    "mailbox {ext} has no e-mail mode: set email and email_mode first"
                )));
            };
            let mut count = 0;
            for id in ids {
                let entity = EntityKey::Message(*id);
                let held = view::message(*id, t.record(&entity)?).filter(|m| m.mailbox == *ext);
                let held = held.ok_or_else(|| StoreError::no_message(*id));
                let mut message = match held {
                    Ok(message) => message,
                    // Purged since it was listed.
                    Err(_) if ids.len() > 1 => continue,
                    Err(error) => return Err(error),
                };
                let failed = message.email_failed.take().is_some();
                if failed && view::is_unmailed(&message, Some(since)) {
                    t.set(&entity, [(EMAIL_FAILED, Value::Null)])?;
                    count += 1;
                }
            }
            Ok(count)
        })
    }

    /// Takes what records say of e-mail into the lists of an index that an earlier version of this
    /// program has written to: it kept the fields, but derived nothing from them.
    /// Reads every mailbox: for a node that runs already.
    pub fn settle_unmailed(&self) -> Result<(), StoreError> {
        let mut cursor: Option<String> = None;
        loop {
            let page = self.mailboxes(cursor.as_deref(), PAGE)?;
            for mailbox in &page.items {
                self.settle_mailbox(&mailbox.extension)?;
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    fn settle_mailbox(&self, ext: &Extension) -> Result<(), StoreError> {
        let record = self.record(&EntityKey::Mailbox(ext.clone()))?;
        let since = view::email_setting(&record).map(|s| s.since);
        let key = keys::summary(ext);
        let summary = self.inner.committer.read(|index| index.get(&key))?;
        let held: view::Summary = match summary {
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| StoreError::damaged("reading a mailbox's summary", e))?,
            None => return Ok(()),
        };
        if held.email_since == since {
            return Ok(());
        }
        self.run(false, |t| {
            t.summary(ext)?.email_since = since;
            t.derive_unmailed(ext)
        })
    }
}
