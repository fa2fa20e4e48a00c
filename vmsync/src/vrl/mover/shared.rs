//! What the mover tells of itself, kept current while it moves.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use vmsync_config::words::Now;
use vmsync_core::vrl::{Meter, Progress, RecordingName};

use crate::vrl::status::{Current, VrlState, VrlStatus};

/// What handle, loop and lanes share.
pub(super) struct Shared {
    pub(super) kick: Notify,
    /// The folder is to be looked at.
    pub(super) look: Notify,
    told: Mutex<Told>,
}

#[derive(Default)]
pub(super) struct Told {
    /// State, reason, sums since start, last error, unfit files; the rest is filled in when asked for.
    pub(super) status: VrlStatus,
    meter: Meter,
    /// Recordings that wait, and their bytes.
    pub(super) waiting: (u64, u64),
    pub(super) on_the_way: BTreeMap<RecordingName, Current>,
    /// When something was achieved last, or there came to be something to do; `None` = nothing is
    /// to do, or it must wait (monotonic).
    achieved: Option<Duration>,
}

impl Told {
    /// A file that can't be moved, until the next look at the folder.
    pub(super) fn unfit(&mut self, words: String) {
        if self.status.unfit.len() < 100 {
            self.status.unfit.push(words);
        }
    }

    /// Something was achieved.
    pub(super) fn achieve(&mut self, now: Now) {
        self.achieved = self.achieved.map(|_| now.mono);
    }

    /// Whether something is to be achieved at all.
    pub(super) fn at_work(&mut self, at_work: bool, now: Now) {
        self.achieved = at_work.then(|| self.achieved.unwrap_or(now.mono));
    }

    /// `n` more bytes of a recording left.
    pub(super) fn sent(&mut self, name: &RecordingName, n: u64, now: Now) {
        self.meter.add(now, n);
        self.achieve(now);
        if let Some(current) = self.on_the_way.get_mut(name) {
            current.sent = current.sent.saturating_add(n);
        }
    }
}

impl Shared {
    pub(super) fn new(on: bool) -> Self {
        let mut told = Told::default();
        if on {
            told.status.state = VrlState::Waiting;
        } else {
            super::OFF.clone_into(&mut told.status.why);
        }
        Self {
            kick: Notify::new(),
            look: Notify::new(),
            told: Mutex::new(told),
        }
    }

    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A failure, in words.
    pub(super) fn complain(&self, words: &str) {
        let mut told = self.told();
        // Once per kind of failure, not once per try.
        if told.status.last_error.as_deref() != Some(words) {
            tracing::warn!("recordings: {words}");
        }
        told.status.last_error = Some(words.to_owned());
    }

    pub(super) fn status(&self, now: Now) -> VrlStatus {
        let told = self.told();
        let mut status = told.status.clone();
        status.on_the_way = told.on_the_way.values().cloned().collect();
        status.current = status.on_the_way.first().cloned();
        let left = status.on_the_way.iter().fold(0_u64, |sum, c| {
            sum.saturating_add(c.bytes.saturating_sub(c.sent))
        });
        let progress = Progress {
            files_pending: told.waiting.0 + status.on_the_way.len() as u64,
            bytes_pending: told.waiting.1.saturating_add(left),
            ..Progress::default()
        }
        .at_rate(told.meter.rate(now));
        status.files_pending = progress.files_pending;
        status.bytes_pending = progress.bytes_pending;
        status.rate = progress.rate;
        status.eta_s = progress.eta_s;
        status.stalled_s = told
            .achieved
            .map(|since| now.mono.saturating_sub(since).as_secs());
        status
    }
}
