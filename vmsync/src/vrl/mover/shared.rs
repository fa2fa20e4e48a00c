//! What the mover tells of itself, kept current while it moves.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use vmsync_config::words::Now;
use vmsync_core::vrl::{Meter, Progress};

use crate::vrl::status::{VrlState, VrlStatus};

/// What handle and loop share.
pub(super) struct Shared {
    pub(super) kick: Notify,
    pub(super) told: Mutex<Told>,
}

#[derive(Default)]
pub(super) struct Told {
    pub(super) status: VrlStatus,
    pub(super) meter: Meter,
    /// Bytes of all recordings that wait, the current one included.
    pub(super) waiting: u64,
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
            told: Mutex::new(told),
        }
    }

    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn status(&self, now: Now) -> VrlStatus {
        let told = self.told();
        let mut status = told.status.clone();
        status.on_the_way = status.current.iter().cloned().collect();
        let sent = status.current.as_ref().map_or(0, |c| c.sent);
        let progress = Progress {
            files_pending: status.files_pending,
            bytes_pending: told.waiting.saturating_sub(sent),
            ..Progress::default()
        }
        .at_rate(told.meter.rate(now));
        status.bytes_pending = progress.bytes_pending;
        status.rate = progress.rate;
        status.eta_s = progress.eta_s;
        status
    }
}
