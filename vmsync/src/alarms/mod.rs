//! Alarms: what an operator must know, one per cause, with its start and its end (R-AL-1).
//!
//! Kept in the store's local records, so that a restart forgets none; those that are over are kept for
//! the list, the oldest dropped beyond [`kept`]. One that is up is never dropped.

mod later;
mod list;
mod writer;

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc::SyncSender},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vmsync_config::{Config, words::UnixMillis};
use vmsync_core::alarm::{Facts, What};
use vmsync_store::Store;

use crate::{channels::Channels, clock, events::EventHub};
use list::{List, Raised};

pub(crate) use later::Later;
pub(crate) use writer::Write;

/// The index was found damaged while running.
pub const INDEX_DAMAGED: &str = "index_damaged";
/// The index was found damaged when it was opened, and made anew.
pub const INDEX_REBUILT: &str = "index_rebuilt";
/// So many alarms are up that no more are listed.
pub const LIST_FULL: &str = "alarm_list_full";
/// Alarms that tell of something done: over once somebody has read them.
const NOTICES: [&str; 2] = [INDEX_REBUILT, "order_dropped"];
const SPACE: &str = "alarms";
/// Alarms about events rather than conditions: nothing tells when they are over but their absence.
const PASSING: [&str; 8] = [
    "bad_signature",
    "foreign_domain",
    "operation_refused",
    "quarantine_full",
    "tls_required",
    "wire_version",
    "wrong_certificate",
    "wrong_node",
];
/// How long it must have been quiet before such an alarm ends.
const CALM: Duration = Duration::from_hours(1);

/// How many alarms are kept where there are so many systems: a thousand, and for each system one of its voicemail and
/// one of its phones, so that all of them can be up beside whatever else is.
pub fn kept(systems: usize) -> usize {
    systems.saturating_mul(2).saturating_add(1_000)
}

/// One alarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Alarm {
    /// Number, growing.
    pub id: u64,
    /// Stable code: `voicemail_failover`, `foreign_domain`, `bad_signature`, …
    pub code: String,
    /// What it is about: a system, an address, a file.
    pub subject: String,
    /// In words, with what to do.
    pub text: String,
    /// When it began.
    #[schema(value_type = String)]
    pub since: UnixMillis,
    /// How often it was raised since.
    pub count: u64,
    /// When it was last raised.
    #[schema(value_type = String)]
    pub last: UnixMillis,
    /// When it ended.
    #[schema(value_type = Option<String>)]
    pub cleared: Option<UnixMillis>,
    /// When an operator acknowledged it.
    #[schema(value_type = Option<String>)]
    pub acknowledged: Option<UnixMillis>,
}

/// The list of alarms. Cheap to clone.
#[derive(Clone)]
pub struct Alarms {
    inner: Arc<Inner>,
}

struct Inner {
    writer: SyncSender<Write>,
    later: SyncSender<Vec<Later>>,
    channels: Channels,
    events: EventHub,
    list: Mutex<List>,
}

impl Alarms {
    /// Reads the alarms of earlier lives from `store`. Nobody is told of them but who asks.
    pub fn load(store: Store, events: EventHub) -> Result<Self, vmsync_store::StoreError> {
        Self::load_with(store, events, 0, |_, _| Ok(Channels::none()))
    }

    /// The same with the channels of `config`, whose tasks [`Channels::start`] starts.
    pub fn load_for(
        config: &Config,
        store: Store,
        events: EventHub,
    ) -> Result<Self, vmsync_store::StoreError> {
        Self::load_with(store, events, config.systems.len(), |store, writer| {
            Channels::load(config, store, writer)
        })
    }

    fn load_with(
        store: Store,
        events: EventHub,
        systems: usize,
        channels: impl FnOnce(&Store, &SyncSender<Write>) -> Result<Channels, vmsync_store::StoreError>,
    ) -> Result<Self, vmsync_store::StoreError> {
        let records = store.locals(SPACE)?;
        let kept_ones = records
            .iter()
            .filter_map(|(_, bytes)| serde_json::from_slice(bytes).ok());
        let list = List::new(kept(systems), kept_ones);
        let (writer, begin_writing) = writer::begin(kept(systems));
        let channels = channels(&store, &writer)?;
        let (later, orders) = later::queue();
        let inner = Arc::new(Inner {
            writer,
            later,
            channels,
            events,
            list: Mutex::new(list),
        });
        begin_writing(store)?;
        later::start(Arc::downgrade(&inner), orders)?;
        Ok(Self { inner })
    }

    /// Raises an alarm. Where it is up already for the same code and subject, an event (`PASSING`)
    /// counts on; a condition that is merely still so does not. Repeats are not written one by one: a
    /// flood of them must not become a flood of fsyncs.
    pub fn raise(&self, code: &str, subject: &str, text: &str) {
        let mut list = self.lock();
        match list.raise(code, subject, text, clock::wall()) {
            Raised::Again => {}
            Raised::New { alarm, gone } => {
                tracing::warn!(alarm = code, subject = alarm.subject, "{text}");
                // Under the lock, so that no end is told before its begin.
                self.published(&alarm, Some(What::Raised));
                drop(list);
                if let Some(gone) = gone {
                    self.inner.write(Write::forget(gone));
                }
            }
            Raised::Full { news } => {
                let up = list.up_count();
                drop(list);
                if news {
                    tracing::warn!(alarm = code, subject, "not listed: {text}");
                }
                let words = format!(
                    "{up} alarms are up, and no more are listed or told until some of them end: the log has those beyond"
                );
                self.raise(LIST_FULL, "alarms", &words);
            }
        }
    }

    /// Raises and ends many alarms in this order, beside what the caller goes on to do.
    pub(crate) fn later(&self, orders: Vec<Later>) {
        // Gone: the node is stopping.
        let _ = self.inner.later.send(orders);
    }

    /// By which ways people are told.
    pub fn channels(&self) -> &Channels {
        &self.inner.channels
    }

    /// Ends an alarm, if it is up.
    pub fn clear(&self, code: &str, subject: &str) {
        let mut list = self.lock();
        let number = list.find(code, subject);
        if let Some(alarm) = number.and_then(|number| list.end(number, clock::wall())) {
            self.published(&alarm, Some(What::Cleared));
            let room = code != LIST_FULL && list.has_room();
            let full = list.find(LIST_FULL, "alarms").filter(|_| room);
            if let Some(alarm) = full.and_then(|number| list.end(number, clock::wall())) {
                self.published(&alarm, Some(What::Cleared));
            }
        }
    }

    /// Ends every alarm of `code`.
    pub fn clear_all(&self, code: &str) {
        for subject in self.up_of(code) {
            self.clear(code, &subject);
        }
    }

    /// Ends alarms about single events (`PASSING`) that have not come again for an hour.
    pub fn expire(&self, now: UnixMillis) {
        let calm = u64::try_from(CALM.as_millis()).unwrap_or(u64::MAX);
        let mut list = self.lock();
        for code in PASSING {
            for subject in list.up_of(code) {
                let number = list.find(code, &subject);
                let over = |a: &Alarm| now.0.saturating_sub(a.last.0) >= calm;
                let over = number.filter(|n| list.all().get(n).is_some_and(over));
                if let Some(alarm) = over.and_then(|number| list.end(number, now)) {
                    self.published(&alarm, Some(What::Cleared));
                }
            }
        }
    }

    /// Acknowledges alarm `id`; `None` when there is none of that number. A notice (`NOTICES`) is
    /// over with that.
    pub fn acknowledge(&self, id: u64) -> Option<Alarm> {
        let mut list = self.lock();
        let (alarm, ended) = list.acknowledge(id, clock::wall())?;
        self.published(&alarm, ended.then_some(What::Cleared));
        Some(alarm)
    }

    /// All alarms, oldest first: many where there are many systems.
    pub fn list(&self) -> Vec<Alarm> {
        self.read(|all| all.cloned().collect())
    }

    /// What `read` makes of all alarms, oldest first. It must be quick: whoever raises one waits meanwhile.
    pub fn read<T>(
        &self,
        read: impl FnOnce(&mut dyn DoubleEndedIterator<Item = &Alarm>) -> T,
    ) -> T {
        read(&mut self.lock().all().values())
    }

    /// Subjects of `code` that are up.
    pub fn up_of(&self, code: &str) -> Vec<String> {
        self.lock().up_of(code)
    }

    /// How many are up.
    pub fn active(&self) -> usize {
        self.lock().up_count()
    }

    fn published(&self, alarm: &Alarm, told: Option<fn(Facts) -> What>) {
        if let Ok(data) = serde_json::to_value(alarm) {
            self.inner.events.publish("alarm", data);
        }
        let channels = &self.inner.channels;
        self.inner.write(Write {
            alarm: Some((alarm.id, Some(alarm.clone()))),
            notices: told.map_or_else(Vec::new, |what| channels.alarm(alarm, what)),
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, List> {
        self.inner
            .list
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Written in the background: an alarm never holds up a decision, and a full disk is itself an alarm.
    fn write(&self, write: Write) {
        if self.writer.try_send(write).is_err() {
            tracing::error!("alarm not kept over a restart: the writer does not keep up");
        }
    }
}

#[cfg(test)]
mod tests;
