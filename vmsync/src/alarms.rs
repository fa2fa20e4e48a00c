//! Alarms: what an operator must know, one per cause, with its start and its end (R-AL-1).
//!
//! Kept in the store's local records, so that a restart forgets none; cleared ones are kept for
//! the list, the oldest dropped beyond [`KEPT`].

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vmsync_config::{Config, words::UnixMillis};
use vmsync_core::alarm::{Facts, What};
use vmsync_store::Store;

use crate::{
    channels::{self, Channels},
    clock,
    events::EventHub,
};

/// How many alarms are kept.
pub const KEPT: usize = 1_000;
/// The index was found damaged while running.
pub const INDEX_DAMAGED: &str = "index_damaged";
/// The index was found damaged when it was opened, and made anew.
pub const INDEX_REBUILT: &str = "index_rebuilt";
/// Alarms that tell of something done: over once somebody has read them.
const NOTICES: [&str; 2] = [INDEX_REBUILT, "order_dropped"];
const SPACE: &str = "alarms";
/// Characters of a subject that are kept and compared.
const SUBJECT: usize = 200;
/// Changes waiting to be written.
const WAITING: usize = 4 * KEPT;
/// Changes written as one.
const TOGETHER: usize = 500;
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

/// What is written as one: an alarm, and the notices of it (or either).
pub(crate) struct Write {
    /// Number and record; no record: removed.
    pub(crate) alarm: Option<(u64, Option<Vec<u8>>)>,
    /// Key and record of notices that wait for channels.
    pub(crate) notices: Vec<(String, Option<Vec<u8>>)>,
}

struct Inner {
    writer: SyncSender<Write>,
    channels: Channels,
    events: EventHub,
    list: Mutex<Vec<Alarm>>,
}

impl Alarms {
    /// Reads the alarms of earlier lives from `store`. Nobody is told of them but who asks.
    pub fn load(store: Store, events: EventHub) -> Result<Self, vmsync_store::StoreError> {
        Self::load_with(store, events, |_, _| Ok(Channels::none()))
    }

    /// The same with the channels of `config`, whose tasks [`Channels::start`] starts.
    pub fn load_for(
        config: &Config,
        store: Store,
        events: EventHub,
    ) -> Result<Self, vmsync_store::StoreError> {
        Self::load_with(store, events, |store, writer| {
            Channels::load(config, store, writer)
        })
    }

    fn load_with(
        store: Store,
        events: EventHub,
        channels: impl FnOnce(&Store, &SyncSender<Write>) -> Result<Channels, vmsync_store::StoreError>,
    ) -> Result<Self, vmsync_store::StoreError> {
        let mut list: Vec<Alarm> = store
            .locals(SPACE)?
            .iter()
            .filter_map(|(_, bytes)| serde_json::from_slice(bytes).ok())
            .collect();
        list.sort_by_key(|a| a.id);
        let (writer, changes) = sync_channel(WAITING);
        let channels = channels(&store, &writer)?;
        // One writer, so that a raise and its end are written in that order. It ends with the list.
        std::thread::Builder::new()
            .name("alarms".to_owned())
            .spawn(move || write(&store, &changes))
            .map_err(|source| vmsync_store::StoreError::Io {
                doing: "starting the writer of alarms".to_owned(),
                source,
            })?;
        Ok(Self {
            inner: Arc::new(Inner {
                writer,
                channels,
                events,
                list: Mutex::new(list),
            }),
        })
    }

    /// Raises an alarm. Where it is up already for the same code and subject, an event (`PASSING`)
    /// counts on; a condition that is merely still so does not.
    pub fn raise(&self, code: &str, subject: &str, text: &str) {
        let now = clock::wall();
        let subject: String = subject.chars().take(SUBJECT).collect();
        let mut list = self.lock();
        let up = list
            .iter_mut()
            .find(|a| a.cleared.is_none() && a.code == code && a.subject == subject);
        if let Some(alarm) = up {
            if PASSING.contains(&code) {
                alarm.count += 1;
            }
            alarm.last = now;
            text.clone_into(&mut alarm.text);
            // Repeats are not written one by one: a flood of them must not become a flood of fsyncs.
            return;
        }
        let alarm = Alarm {
            id: list.last().map_or(1, |a| a.id + 1),
            code: code.to_owned(),
            subject: subject.clone(),
            text: text.to_owned(),
            since: now,
            count: 1,
            last: now,
            cleared: None,
            acknowledged: None,
        };
        tracing::warn!(alarm = code, subject, "{text}");
        list.push(alarm.clone());
        let gone = (list.len() > KEPT).then(|| {
            // One that is up is never pushed out by others while an ended one is left.
            let ended = list.iter().position(|a| a.cleared.is_some());
            list.remove(ended.unwrap_or(0))
        });
        // Under the lock, so that no end is told before its begin.
        self.published(&alarm, Some(What::Raised));
        drop(list);
        if let Some(gone) = gone {
            self.write(Write {
                alarm: Some((gone.id, None)),
                notices: Vec::new(),
            });
        }
    }

    /// By which ways people are told.
    pub fn channels(&self) -> &Channels {
        &self.inner.channels
    }

    /// Ends an alarm, if it is up.
    pub fn clear(&self, code: &str, subject: &str) {
        self.change(|a| {
            (a.cleared.is_none() && a.code == code && a.subject == subject)
                .then(|| a.cleared = Some(clock::wall()))
        });
    }

    /// Ends every alarm of `code`.
    pub fn clear_all(&self, code: &str) {
        while self
            .change(|a| {
                (a.cleared.is_none() && a.code == code).then(|| a.cleared = Some(clock::wall()))
            })
            .is_some()
        {}
    }

    /// Ends alarms about single events (`PASSING`) that have not come again for an hour.
    pub fn expire(&self, now: UnixMillis) {
        let calm = u64::try_from(CALM.as_millis()).unwrap_or(u64::MAX);
        let over = |a: &Alarm| {
            a.cleared.is_none()
                && PASSING.contains(&a.code.as_str())
                && now.0.saturating_sub(a.last.0) >= calm
        };
        while self
            .change(|a| over(a).then(|| a.cleared = Some(now)))
            .is_some()
        {}
    }

    /// Acknowledges alarm `id`; `None` when there is none of that number. A notice (`NOTICES`) is
    /// over with that.
    pub fn acknowledge(&self, id: u64) -> Option<Alarm> {
        self.change(|a| {
            (a.id == id).then(|| {
                let now = *a.acknowledged.get_or_insert(clock::wall());
                if NOTICES.contains(&a.code.as_str()) {
                    a.cleared.get_or_insert(now);
                }
            })
        })
    }

    /// All alarms, oldest first.
    pub fn list(&self) -> Vec<Alarm> {
        self.lock().clone()
    }

    /// How many are up.
    pub fn active(&self) -> usize {
        self.lock().iter().filter(|a| a.cleared.is_none()).count()
    }

    fn change(&self, change: impl Fn(&mut Alarm) -> Option<()>) -> Option<Alarm> {
        let mut list = self.lock();
        let (was_up, alarm) = list.iter_mut().rev().find_map(|a| {
            let was_up = a.cleared.is_none();
            change(a).map(|()| (was_up, a.clone()))
        })?;
        let ended = was_up && alarm.cleared.is_some();
        self.published(&alarm, ended.then_some(What::Cleared));
        drop(list);
        Some(alarm)
    }

    fn published(&self, alarm: &Alarm, told: Option<fn(Facts) -> What>) {
        if let Ok(data) = serde_json::to_value(alarm) {
            self.inner.events.publish("alarm", data);
        }
        let channels = &self.inner.channels;
        self.write(Write {
            alarm: Some((alarm.id, serde_json::to_vec(alarm).ok())),
            notices: told.map_or_else(Vec::new, |what| channels.alarm(alarm, what)),
        });
    }

    /// Written in the background: an alarm never holds up a decision, and a full disk is itself an alarm.
    fn write(&self, write: Write) {
        if self.inner.writer.try_send(write).is_err() {
            tracing::error!("alarm not kept over a restart: the writer does not keep up");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Alarm>> {
        self.inner
            .list
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn write(store: &Store, changes: &Receiver<Write>) {
    while let Ok(first) = changes.recv() {
        // What has come meanwhile goes with it: a flood must not become a flood of fsyncs.
        let more = changes.try_iter().take(TOGETHER);
        let mut records: BTreeMap<(&str, String), Option<Vec<u8>>> = BTreeMap::new();
        for write in std::iter::once(first).chain(more) {
            if let Some((id, value)) = write.alarm {
                records.insert((SPACE, format!("{id:012}")), value);
            }
            for (key, value) in write.notices {
                records.insert((channels::SPACE, key), value);
            }
        }
        let records: Vec<_> = records
            .iter()
            .map(|((space, key), value)| (*space, key.as_str(), value.as_deref()))
            .collect();
        if let Err(error) = store.put_local_batch(&records) {
            tracing::error!(%error, "alarms not kept over a restart");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &std::path::Path) -> Alarms {
        let options = vmsync_store::Options {
            node: "vmpro1".parse().unwrap(),
            min_free_bytes: 0,
            clock: clock::wall,
        };
        let store = Store::open(folder, options).unwrap();
        Alarms::load(store, EventHub::new()).unwrap()
    }

    #[test]
    fn one_cause_is_one_alarm_until_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let alarms = open(folder.path());
        alarms.raise("foreign_domain", "example.net", "first");
        alarms.raise("foreign_domain", "example.net", "again");
        alarms.raise("foreign_domain", "example.org", "another");
        let list = alarms.list();
        assert_eq!((list.len(), list[0].count, alarms.active()), (2, 2, 2));
        assert_eq!(list[0].text, "again");
        for _ in 0..3 {
            alarms.raise("disk_full", "vmpro1", "still");
        }
        let list = alarms.list();
        let full = list.iter().find(|a| a.code == "disk_full");
        assert_eq!(
            full.map(|a| a.count),
            Some(1),
            "one condition, looked at thrice"
        );
        alarms.clear("disk_full", "vmpro1");
        alarms.clear("foreign_domain", "example.net");
        assert_eq!(alarms.active(), 1);
        alarms.raise("foreign_domain", "example.net", "anew");
        assert_eq!(
            alarms.list().len(),
            4,
            "a new cause after the end of the old one"
        );
    }

    #[test]
    fn alarms_and_acknowledgements_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let alarms = open(folder.path());
        alarms.raise("disk_full", "vmpro1", "no space");
        let id = alarms.list()[0].id;
        assert!(alarms.acknowledge(id).is_some());
        assert!(alarms.acknowledge(id + 1).is_none());
        drop(alarms);
        let again = open(folder.path()).list();
        assert!(again[0].acknowledged.is_some() && again[0].cleared.is_none());
    }

    #[test]
    fn a_notice_is_over_once_it_was_read() {
        let folder = tempfile::tempdir().unwrap();
        let alarms = open(folder.path());
        alarms.raise(INDEX_REBUILT, "vmpro1", "made anew");
        assert_eq!(alarms.active(), 1);
        alarms.acknowledge(1);
        assert_eq!(alarms.active(), 0);
    }
}
