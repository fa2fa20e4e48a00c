//! How delivery stands, for status, metrics, alarms and `GET /api/v1/email`: written by the lanes,
//! read by everybody.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use vmsync_config::{Config, words::UnixMillis};

/// Mailboxes shown of each entry.
const SHOWN: usize = 20;

/// What is known of every entry. Place 0 stands for what no entry carries.
pub struct Board {
    lanes: Mutex<Vec<LaneState>>,
}

/// One entry of `[[smtp.sender]]`, or what no entry carries.
#[derive(Debug, Clone, Default)]
pub struct LaneState {
    /// Mails taken by its server since this node was started.
    pub sent: u64,
    /// When the last one was.
    pub last_sent: Option<UnixMillis>,
    /// Messages that will not be mailed, since this node was started.
    pub failed: u64,
    /// The last error, whatever came of it, with its time.
    pub last_error: Option<(UnixMillis, String)>,
    /// Messages that wait, on whichever node.
    pub pending: u64,
    /// Why nothing is tried now, until when.
    pub trouble: Option<Trouble>,
    /// Mailboxes that wait by themselves: why, until when.
    pub waiting: Vec<(String, String, Option<UnixMillis>)>,
    /// Those of them an operator is to be told of.
    pub delayed: BTreeMap<String, String>,
    /// Of what no entry carries: domain and why.
    pub uncarried: BTreeMap<String, String>,
    /// Whether this node has tried, or has nothing to try, since it was started.
    pub known: bool,
}

/// What keeps an entry from working.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// Since when.
    pub since: UnixMillis,
    /// In words.
    pub why: String,
    /// When it is tried again.
    pub again: Option<UnixMillis>,
    /// Tries that failed in a row.
    pub tries: u32,
    /// An operator is to be told.
    pub told: bool,
}

impl Board {
    /// For the entries of `config`.
    pub fn new(config: &Config) -> Self {
        let lanes = vec![LaneState::default(); config.senders.len().max(1)];
        Self {
            lanes: Mutex::new(lanes),
        }
    }

    /// All of it.
    pub fn lanes(&self) -> Vec<LaneState> {
        self.lock().clone()
    }

    /// Messages that wait and messages that failed since the start.
    pub fn totals(&self) -> (u64, u64) {
        let lanes = self.lock();
        let sum = |of: fn(&LaneState) -> u64| lanes.iter().map(of).sum();
        (sum(|l| l.pending), sum(|l| l.failed))
    }

    pub(super) fn change(&self, lane: usize, change: impl FnOnce(&mut LaneState)) {
        if let Some(state) = self.lock().get_mut(lane) {
            change(state);
            state.waiting.truncate(SHOWN);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<LaneState>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
