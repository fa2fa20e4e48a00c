//! The end of a transaction: all that follows from the changed records.

use std::{collections::BTreeSet, sync::Arc};

use uuid::Uuid;
use vmsync_config::words::{Extension, Origin};

use super::{Entry, Finished, Transaction};
use crate::{
    blobs::Blobs,
    commit::Aftermath,
    digest::Change,
    error::StoreError,
    index, keys,
    model::{Message, MessageState},
    operation::{EntityKey, GreetingKind},
    record::Record,
    view::{self, Listed},
};

impl Transaction<'_> {
    /// Works out all that follows from the changed records. Refuses with
    /// [`StoreError::MissingAudio`] when a record refers to a file that is not there, unless its
    /// entity is under quarantine.
    pub(crate) fn finish(mut self, blobs: &Blobs) -> Result<Finished, StoreError> {
        let mut aftermath = Aftermath::default();
        let mut used = BTreeSet::new();
        let mut buckets = BTreeSet::new();
        let mut joined = Vec::new();
        for (entity, entry) in std::mem::take(&mut self.entries) {
            let excused = self.memory.quarantine.contains_key(&entity);
            if !self.named.is_empty() || !entry.before.has_audio_of(&entry.now) {
                self.use_audio(&entry, excused, blobs, &mut aftermath, &mut used)?;
            }
            if entry.before != entry.now || excused != self.before.quarantine.contains_key(&entity)
            {
                self.store_record(&entity, &entry, &mut buckets)?;
                self.derive(&entity, &entry.before, &entry.now)?;
            }
            if self.joined.contains(&entity) {
                joined.push((entity, entry.now.is_deleted()));
            }
        }
        let named = std::mem::take(&mut self.named);
        aftermath.strays = named.difference(&used).copied().collect();
        let changed = self
            .summaries
            .iter()
            .filter(|(_, (stored, now))| stored != now);
        let mailboxes = changed.map(|(ext, _)| ext.clone()).collect();
        let tell = !self.operations.is_empty()
            || !joined.is_empty()
            || !self.raised.is_empty()
            || !Arc::ptr_eq(&self.before.quarantine, &self.memory.quarantine);
        self.store_memory(&buckets)?;
        Ok(Finished {
            overlay: self.writes,
            large: self.large,
            memory: self.memory,
            operations: self.operations,
            joined,
            mailboxes,
            tell,
            aftermath,
        })
    }

    /// What becomes of the audio files of one record.
    fn use_audio(
        &mut self,
        entry: &Entry,
        excused: bool,
        blobs: &Blobs,
        aftermath: &mut Aftermath,
        used: &mut BTreeSet<Uuid>,
    ) -> Result<(), StoreError> {
        let (before, after) = (entry.before.audio(), entry.now.audio());
        for blob in &after {
            let new = !before.contains(blob);
            if new && !excused && blobs.find(*blob).is_none() {
                return Err(StoreError::MissingAudio(*blob));
            }
            // One that was missing here may have come with what names it again.
            if new || self.named.contains(blob) {
                aftermath.settle.push(*blob);
            }
        }
        for blob in &before {
            if !after.contains(blob) {
                self.put(keys::doomed(*blob), Some(Vec::new()));
                aftermath.doomed.push(*blob);
            }
        }
        used.extend(before.into_iter().chain(after));
        Ok(())
    }

    fn store_record(
        &mut self,
        entity: &EntityKey,
        entry: &Entry,
        buckets: &mut BTreeSet<u8>,
    ) -> Result<(), StoreError> {
        let name = entity.to_string();
        let bytes = if entry.now.is_empty() {
            None
        } else {
            Some(entry.now.to_bytes().map_err(|e| self.failed(e.into()))?)
        };
        // What is under quarantine does not count in the digest.
        let counted = !self.before.quarantine.contains_key(entity);
        let counts = !self.memory.quarantine.contains_key(entity);
        let change = Change::of(
            &name,
            entry.stored.as_deref().filter(|_| counted),
            bytes.as_deref().filter(|_| counts),
        );
        self.memory.recount(&name, &change);
        if entry.stored.as_ref().is_some_and(|s| index::is_large(s)) {
            self.large.insert(keys::record(entity));
        }
        buckets.insert(change.bucket);
        self.put(keys::record(entity), bytes);
        Ok(())
    }

    fn derive(
        &mut self,
        entity: &EntityKey,
        before: &Record,
        after: &Record,
    ) -> Result<(), StoreError> {
        match entity {
            EntityKey::Message(id) => {
                // Most changes are of the state alone.
                if view::same_but_state(before, after) {
                    let is = view::listed(after);
                    return is.map_or(Ok(()), |is| self.relist(*id, view::state(before), &is));
                }
                let is = view::message(*id, after);
                if let Some(was) = view::message(*id, before) {
                    self.unlist(&was)?;
                }
                is.map_or(Ok(()), |is| self.list(&is))
            }
            EntityKey::Mailbox(ext) => self.derive_mailbox(ext, before, after),
            EntityKey::Greeting(ext, kind) => {
                let set = view::greeting(*kind, after).is_some();
                self.derive_greeting(ext, *kind, set)
            }
            EntityKey::Flow(_) | EntityKey::Setting(_) | EntityKey::Other(_) => Ok(()),
        }
    }

    /// A message of which nothing but the state has changed.
    fn relist(&mut self, id: Uuid, was: MessageState, is: &Listed) -> Result<(), StoreError> {
        if was == is.state {
            return Ok(());
        }
        let state = serde_json::to_vec(&is.state).map_err(|e| self.failed(e.into()))?;
        let place = keys::place(is.at, id);
        self.put(keys::arrival(&is.mailbox, &place), Some(state));
        let counts = &mut self.summary(&is.mailbox)?.counts;
        let before = counts.of(was);
        *before = before.saturating_sub(1);
        *counts.of(is.state) += 1;
        Ok(())
    }

    fn list(&mut self, m: &Message) -> Result<(), StoreError> {
        let state = serde_json::to_vec(&m.state).map_err(|e| self.failed(e.into()))?;
        let place = keys::place(m.stamp.at, m.id);
        self.put(keys::arrival(&m.mailbox, &place), Some(state));
        if let Some(source) = &m.facts.source_id {
            self.put(keys::source(&m.mailbox, source, m.id), Some(Vec::new()));
        }
        let summary = self.summary(&m.mailbox)?;
        let unmailed = view::is_unmailed(m, summary.email_since);
        let counts = &mut summary.counts;
        *counts.of(m.state) += 1;
        counts.bytes = counts.bytes.saturating_add(m.audio.bytes);
        let totals = &mut self.memory.totals;
        totals.messages += 1;
        totals.bytes = totals.bytes.saturating_add(m.audio.bytes);
        if unmailed {
            self.put(keys::unmailed(&m.mailbox, &place), Some(Vec::new()));
        }
        Ok(())
    }

    fn unlist(&mut self, m: &Message) -> Result<(), StoreError> {
        let place = keys::place(m.stamp.at, m.id);
        self.put(keys::arrival(&m.mailbox, &place), None);
        if let Some(source) = &m.facts.source_id {
            self.put(keys::source(&m.mailbox, source, m.id), None);
        }
        let summary = self.summary(&m.mailbox)?;
        let unmailed = view::is_unmailed(m, summary.email_since);
        let counts = &mut summary.counts;
        let of_state = counts.of(m.state);
        *of_state = of_state.saturating_sub(1);
        counts.bytes = counts.bytes.saturating_sub(m.audio.bytes);
        let totals = &mut self.memory.totals;
        totals.messages = totals.messages.saturating_sub(1);
        totals.bytes = totals.bytes.saturating_sub(m.audio.bytes);
        if unmailed {
            self.put(keys::unmailed(&m.mailbox, &place), None);
        }
        Ok(())
    }

    fn derive_mailbox(
        &mut self,
        ext: &Extension,
        before: &Record,
        after: &Record,
    ) -> Result<(), StoreError> {
        let (was, is) = (view::mailbox_exists(before), view::mailbox_exists(after));
        let email_since = view::email_setting(after).map(|s| s.since);
        let summary = self.summary(ext)?;
        summary.alive = is;
        if summary.email_since != email_since {
            summary.email_since = email_since;
            self.derive_unmailed(ext)?;
        }
        let mailboxes = &mut self.memory.totals.mailboxes;
        match (was, is) {
            (false, true) => *mailboxes += 1,
            (true, false) => *mailboxes = mailboxes.saturating_sub(1),
            _ => {}
        }
        Ok(())
    }

    /// Which messages of `ext` wait to be e-mailed, from their records: those of this transaction
    /// as they were before it, since what becomes of them follows (mailboxes come before messages).
    pub(crate) fn derive_unmailed(&mut self, ext: &Extension) -> Result<(), StoreError> {
        for key in self.keys(&keys::unmailed_of(ext))? {
            self.put(key, None);
        }
        let Some(since) = self.summary(ext)?.email_since else {
            return Ok(());
        };
        let earliest = keys::arrival(ext, &keys::place(since, uuid::Uuid::nil()));
        for key in self.keys(&keys::arrivals(ext))?.range(earliest..) {
            let Some(id) = keys::id_at_end(key) else {
                continue;
            };
            let message = view::message(id, self.record(&EntityKey::Message(id))?);
            if let Some(m) = message.filter(|m| view::is_unmailed(m, Some(since))) {
                let place = keys::place(m.stamp.at, m.id);
                self.put(keys::unmailed(ext, &place), Some(Vec::new()));
            }
        }
        Ok(())
    }

    fn derive_greeting(
        &mut self,
        ext: &Extension,
        kind: GreetingKind,
        set: bool,
    ) -> Result<(), StoreError> {
        let greetings = &mut self.summary(ext)?.greetings;
        greetings.retain(|k| *k != kind);
        if set {
            greetings.push(kind);
            greetings.sort_unstable();
        }
        Ok(())
    }

    fn store_memory(&mut self, buckets: &BTreeSet<u8>) -> Result<(), StoreError> {
        for (ext, (stored, summary)) in std::mem::take(&mut self.summaries) {
            if summary == stored {
                continue;
            }
            if summary.is_empty() {
                self.put(keys::summary(&ext), None);
            } else {
                self.put_json(keys::summary(&ext), &summary)?;
            }
        }
        let mut origins: BTreeSet<Origin> = std::mem::take(&mut self.raised);
        for operation in &self.operations {
            if !origins.contains(&operation.stamp.origin) {
                origins.insert(operation.stamp.origin.clone());
            }
        }
        for origin in origins {
            let seq = self.held(&origin).to_be_bytes().to_vec();
            self.put(keys::vector(&origin), Some(seq));
        }
        for bucket in buckets {
            let bytes = self.memory.buckets.bytes(*bucket);
            self.put(keys::digest(*bucket), Some(bytes));
        }
        let (clock, totals) = (self.memory.clock, self.memory.totals);
        if clock != self.before.clock {
            self.put_json(keys::CLOCK.to_vec(), &clock)?;
        }
        if totals != self.before.totals {
            self.put_json(keys::TOTALS.to_vec(), &totals)?;
        }
        if !Arc::ptr_eq(&self.before.seen, &self.memory.seen) {
            let seen = self.memory.seen.clone();
            self.put_json(keys::SEEN.to_vec(), &*seen)?;
        }
        Ok(())
    }
}
