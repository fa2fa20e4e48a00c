//! Makes alarms and notices durable, in the background.

use std::{
    collections::BTreeMap,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    time::Duration,
};

use vmsync_core::alarm::Item;
use vmsync_store::{Store, StoreError};

use super::{Alarm, SPACE};
use crate::channels;

/// Records written as one, about.
const TOGETHER: usize = 1_000;
/// After a failure, where nothing else is written meanwhile.
const PAUSE: Duration = Duration::from_secs(1);
/// Removals kept while nothing can be written.
const REMOVALS: usize = 50_000;

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
        let started = thread.spawn(move || {
            run(&changes, |records| {
                store.put_local_batch(records).map_err(|e| e.to_string())
            });
        });
        started.map(drop).map_err(|source| StoreError::Io {
            doing: "starting the writer of alarms".to_owned(),
            source,
        })
    };
    (writer, start)
}

/// Writes what comes until the list has ended, and what is left of it then.
fn run(changes: &Receiver<Write>, mut put: impl FnMut(&[Record<'_>]) -> Result<(), String>) {
    let mut pending = Pending::default();
    let mut failed = false;
    loop {
        let first = if pending.is_empty() {
            changes.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            changes.recv_timeout(PAUSE)
        };
        let ended = matches!(first, Err(RecvTimeoutError::Disconnected));
        // What has come meanwhile goes with it: a flood must not become a flood of fsyncs.
        let mut next = first.ok();
        let mut more = 0;
        while let Some(write) = next {
            more += 1 + write.notices.len();
            pending.take(write);
            next = (more < TOGETHER).then(|| changes.try_recv().ok()).flatten();
        }
        if !pending.is_empty() {
            match pending.written(&mut put) {
                Ok(()) => failed = false,
                Err(error) => {
                    // Once, not with every try.
                    if !std::mem::replace(&mut failed, true) {
                        tracing::error!(%error, "alarms are not kept over a restart; tried again");
                    }
                }
            }
        }
        if ended {
            return;
        }
    }
}

/// Space, key and value of a record; no value: removed.
type Record<'r> = (&'r str, &'r str, Option<&'r [u8]>);

/// What is to be written: the last word on each. It stays until it is written; its bound is that of the list and the
/// queues, and [`REMOVALS`].
#[derive(Default)]
struct Pending {
    alarms: BTreeMap<u64, Option<Alarm>>,
    notices: BTreeMap<String, Option<Item>>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.alarms.is_empty() && self.notices.is_empty()
    }

    fn take(&mut self, write: Write) {
        self.alarms.extend(write.alarm);
        self.notices.extend(write.notices);
    }

    fn written(
        &mut self,
        put: &mut impl FnMut(&[Record<'_>]) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut records = Vec::with_capacity(self.alarms.len() + self.notices.len());
        for (number, alarm) in &self.alarms {
            let value = alarm.as_ref().and_then(|a| serde_json::to_vec(a).ok());
            records.push((SPACE, format!("{number:012}"), value));
        }
        for (key, item) in &self.notices {
            let value = item.as_ref().and_then(|i| serde_json::to_vec(i).ok());
            records.push((channels::SPACE, key.clone(), value));
        }
        let records: Vec<Record<'_>> = records
            .iter()
            .map(|(space, key, value)| (*space, key.as_str(), value.as_deref()))
            .collect();
        let written = put(&records);
        if written.is_ok() {
            *self = Self::default();
        } else {
            forget_removals(&mut self.alarms);
            forget_removals(&mut self.notices);
        }
        written
    }
}

/// Of more removals than [`REMOVALS`] the first are passed over.
fn forget_removals<K: Ord + Clone, V>(records: &mut BTreeMap<K, Option<V>>) {
    let removals = records.iter().filter(|(_, value)| value.is_none());
    let beyond = removals.clone().count().saturating_sub(REMOVALS);
    let gone: Vec<K> = removals.take(beyond).map(|(key, _)| key.clone()).collect();
    for key in gone {
        records.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmsync_config::words::UnixMillis;

    fn alarm(id: u64, cleared: Option<u64>) -> Write {
        let alarm = Alarm {
            id,
            code: "disk_full".to_owned(),
            subject: "vmpro1".to_owned(),
            text: String::new(),
            since: UnixMillis(0),
            count: 1,
            last: UnixMillis(0),
            cleared: cleared.map(UnixMillis),
            acknowledged: None,
        };
        Write {
            alarm: Some((id, Some(alarm))),
            notices: Vec::new(),
        }
    }

    fn removed(key: &str) -> Write {
        Write {
            alarm: None,
            notices: vec![(key.to_owned(), None)],
        }
    }

    /// Runs the writer over `writes` with a store that fails as often as said: the keys of each try.
    fn tries(writes: Vec<Write>, mut failing: usize, stay: Duration) -> Vec<Vec<String>> {
        let (list, changes) = sync_channel(100);
        let raising = std::thread::spawn(move || {
            for write in writes {
                list.send(write).unwrap();
                std::thread::sleep(PAUSE / 10);
            }
            std::thread::sleep(stay);
        });
        let mut tries = Vec::new();
        run(&changes, |records| {
            let key = |(_, key, value): &Record<'_>| {
                let word = if value.is_some() { "put" } else { "removed" };
                format!("{word} {key}")
            };
            tries.push(records.iter().map(key).collect());
            let fails = failing > 0;
            failing = failing.saturating_sub(1);
            if fails {
                Err("disk full".to_owned())
            } else {
                Ok(())
            }
        });
        raising.join().unwrap();
        tries
    }

    #[test]
    fn what_could_not_be_written_is_written_with_the_next() {
        let all = tries(vec![alarm(1, None), removed("log/1")], 1, Duration::ZERO);
        let both = ["put 000000000001", "removed log/1"];
        assert_eq!(all.last().unwrap(), &both);
    }

    #[test]
    fn where_nothing_else_is_written_it_is_tried_again_after_a_pause() {
        let all = tries(vec![alarm(1, Some(5))], 2, PAUSE * 4);
        assert_eq!(all, vec![["put 000000000001"]; 3], "and no more then");
    }

    #[test]
    fn a_store_that_never_writes_holds_no_more_removals_than_some() {
        let mut pending = Pending::default();
        for n in 0..REMOVALS + 5 {
            pending.take(removed(&format!("log/{n:020}")));
        }
        pending.take(alarm(1, None));
        let mut put = |_: &[Record<'_>]| Err("disk full".to_owned());
        assert!(pending.written(&mut put).is_err());
        assert_eq!(pending.notices.len(), REMOVALS);
        assert_eq!(pending.alarms.len(), 1, "what is to be kept stays");
    }
}
