//! One channel: its queue, how it stands, and how a test of it is asked for.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    mpsc::{SyncSender, TrySendError},
};

use tokio::sync::{Notify, mpsc, oneshot};
use vmsync_config::words::UnixMillis;
use vmsync_core::alarm::{Change, Filter, Item, Notice, Queue};

use super::specs::Spec;
use crate::alarms::Write;

/// Tests asked for and not begun.
const TESTS: usize = 4;

/// Notices to be written or, without one, removed: by key.
pub(super) type Records = Vec<(String, Option<Item>)>;

/// One channel.
pub struct Channel {
    /// Its name.
    pub name: String,
    /// `email`, `syslog`, `snmp` or `webhook`.
    pub kind: &'static str,
    /// Where to, for people.
    pub target: String,
    pub(super) filter: Filter,
    writer: SyncSender<Write>,
    state: Mutex<State>,
    pub(super) news: Notify,
    asked: mpsc::Sender<Ask>,
    pub(super) asks: Mutex<Option<mpsc::Receiver<Ask>>>,
}

/// Where the outcome of a test goes.
pub(super) type Ask = oneshot::Sender<Result<(), String>>;

pub(super) struct State {
    pub(super) queue: Queue,
    pub(super) view: View,
}

/// How a channel stands.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Notices that wait.
    pub queued: usize,
    /// Notices sent since the start.
    pub sent: u64,
    /// Notices dropped or given up since the start.
    pub dropped: u64,
    /// When the last one was sent.
    pub last_success: Option<UnixMillis>,
    /// What went wrong last, and when.
    pub last_error: Option<(UnixMillis, String)>,
    /// Tries that failed in a row; 0 = it works, as far as known.
    pub failures: u32,
    /// When the next try is.
    pub retry_at: Option<UnixMillis>,
}

impl Channel {
    pub(super) fn new(spec: Spec, queue: Queue, writer: SyncSender<Write>) -> Self {
        let (asked, asks) = mpsc::channel(TESTS);
        Self {
            name: spec.name,
            kind: spec.kind,
            target: spec.target,
            filter: spec.filter,
            writer,
            state: Mutex::new(State {
                queue,
                view: View::default(),
            }),
            news: Notify::new(),
            asked,
            asks: Mutex::new(Some(asks)),
        }
    }

    /// How it stands.
    pub fn view(&self) -> View {
        let state = self.lock();
        View {
            queued: state.queue.len(),
            dropped: state.queue.dropped(),
            ..state.view.clone()
        }
    }

    /// Sends a test alarm now, beside the queue. The inner `Err` says in words why it was not taken.
    pub async fn test(&self) -> Option<Result<(), String>> {
        let (answer, answered) = oneshot::channel();
        self.asked.try_send(answer).ok()?;
        answered.await.ok()
    }

    pub(super) fn push(&self, notice: Arc<Notice>) -> Records {
        let changes = self.lock().queue.push(notice);
        self.news.notify_one();
        self.records(changes)
    }

    pub(super) fn records(&self, changes: Vec<Change>) -> Records {
        let key = |number: u64| format!("{}/{number:020}", self.name);
        let record = |change| match change {
            Change::Put(item) => (key(item.number), Some(item)),
            Change::Remove(number) => (key(number), None),
        };
        changes.into_iter().map(record).collect()
    }

    /// In the background. What can't be written is sent all the same.
    pub(super) fn write(&self, notices: Records) {
        if notices.is_empty() {
            return;
        }
        let write = Write {
            alarm: None,
            notices,
        };
        // Gone: the node is stopping.
        if let Err(TrySendError::Full(_)) = self.writer.try_send(write) {
            tracing::error!(
                channel = self.name,
                "the state of a notice is not kept over a restart: the writer does not keep up"
            );
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
