//! Makes alarms and notices durable, in the background.

use std::{
    collections::BTreeMap,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
};

use vmsync_core::alarm::Item;
use vmsync_store::{Store, StoreError};

use super::{Alarm, SPACE};
use crate::channels;

/// Records written as one, about.
const TOGETHER: usize = 1_000;

/// What is written as one: an alarm, and the notices of it (or either).
pub(crate) struct Write {
    /// Number and record; no record: removed.
    pub(crate) alarm: Option<(u64, Option<Alarm>)>,
    /// Key and record of notices that wait for channels.
    pub(crate) notices: Vec<(String, Option<Item>)>,
}

impl Write {
    /// The alarm of that number is kept no more.
    pub(super) fn forget(number: u64) -> Self {
        Self {
            alarm: Some((number, None)),
            notices: Vec::new(),
        }
    }
}

/// A writer behind which all alarms there can be may wait, with begin and end, twice; and what starts it.
pub(super) fn begin(
    alarms: usize,
) -> (
    SyncSender<Write>,
    impl FnOnce(Store) -> Result<(), StoreError>,
) {
    let (writer, changes) = sync_channel(alarms.saturating_mul(4));
    // One writer, so that a raise and its end are written in that order. It ends with the list.
    let start = move |store: Store| {
        let thread = std::thread::Builder::new().name("alarms".to_owned());
        let started = thread.spawn(move || run(&store, &changes));
        started.map(drop).map_err(|source| StoreError::Io {
            doing: "starting the writer of alarms".to_owned(),
            source,
        })
    };
    (writer, start)
}

fn run(store: &Store, changes: &Receiver<Write>) {
    while let Ok(first) = changes.recv() {
        // What has come meanwhile goes with it: a flood must not become a flood of fsyncs. The last word on each counts.
        let mut next = Some(first);
        let mut alarms = BTreeMap::new();
        let mut notices = BTreeMap::new();
        while let Some(write) = next {
            alarms.extend(write.alarm);
            notices.extend(write.notices);
            let room = alarms.len() + notices.len() < TOGETHER;
            next = room.then(|| changes.try_recv().ok()).flatten();
        }
        let mut records = Vec::with_capacity(alarms.len() + notices.len());
        for (number, alarm) in alarms {
            let value = alarm.and_then(|alarm| serde_json::to_vec(&alarm).ok());
            records.push((SPACE, format!("{number:012}"), value));
        }
        for (key, item) in notices {
            let value = item.and_then(|item| serde_json::to_vec(&item).ok());
            records.push((channels::SPACE, key, value));
        }
        let records: Vec<_> = records
            .iter()
            .map(|(space, key, value)| (*space, key.as_str(), value.as_deref()))
            .collect();
        if let Err(error) = store.put_local_batch(&records) {
            tracing::error!(%error, "alarms not kept over a restart");
        }
    }
}
