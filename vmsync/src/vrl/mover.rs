//! Moves recordings to the primary, several at once, each over an FTP session of its own.
//!
//! Every decision is `vmsync_core::vrl`'s. `run` finds the files and hands them to lanes, a `lane`
//! takes one recording as far as it goes (`steps`; large ones begin with `large`), journals every change of state before the
//! next step, and tells how far it is (`shared`). Killed anywhere, it starts again from folder and
//! journal. It stops at any await point: the journal is written before and after, so nothing
//! depends on a step having ended.

mod lane;
mod large;
mod run;
mod shared;
mod steps;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use vmsync_config::{
    Vrl,
    words::{Now, UnixMillis},
};
use vmsync_core::vrl::{Conditions, ConfirmAnswer, Found, Limit, Pace, closed_for};

use self::{run::Mover, shared::Shared};
use super::{
    archive::Archive,
    folder::Taken,
    ftp::{Account, ClientTls, TimeLimits},
    journal::Journal,
    probe::{self, TestStep},
    status::VrlStatus,
    watch::{Watch, WatchTuning, Writers},
};
use crate::clock;

/// Why the peer gave no answer; in words.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConfirmError {
    /// It can't be reached, or does not trust the question: no other recording would fare better now.
    #[error("{0}")]
    Unreachable(String),
    /// It failed at this one recording, such as a file it can't read.
    #[error("{0}")]
    Failed(String),
}

/// Asks the receiving node, over the signed control channel, about a file in its VRL folder.
#[async_trait]
pub trait Confirm: Send + Sync + 'static {
    /// Is `name` there, durable, with this length and SHA-256? Must have its own time limit.
    async fn confirm(
        &self,
        name: &str,
        bytes: u64,
        sha256: &str,
    ) -> Result<ConfirmAnswer, ConfirmError>;
}

/// What the mover is tuned by; tests shorten it.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// Waits after failures.
    pub pace: Pace,
    /// Time between two looks at the folder. Default 60 s.
    pub rescan: Duration,
    /// A file that was written to within this time is still growing. Default 2 s.
    pub quiet: Duration,
    /// Limits of the FTP session.
    pub limits: TimeLimits,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            pace: Pace::default(),
            rescan: Duration::from_mins(1),
            quiet: Duration::from_secs(2),
            limits: TimeLimits::default(),
        }
    }
}

/// Everything the mover needs.
pub struct Setup {
    /// `[vrl]`.
    pub vrl: Vrl,
    /// TLS for FTPS; may be `None` where `tls = "off"`.
    pub tls: Option<ClientTls>,
    /// Its memory.
    pub journal: Arc<dyn Journal>,
    /// The way to the receiving node.
    pub confirm: Arc<dyn Confirm>,
    /// Where recordings are kept once they are confirmed; `None` = they are removed.
    pub archive: Option<Arc<Archive>>,
    /// The clock.
    pub now: fn() -> Now,
    /// Ends it.
    pub stop: CancellationToken,
    /// Usually the default.
    pub tuning: Tuning,
}

/// A handle to the running mover. Cheap to clone.
#[derive(Clone)]
pub struct VrlHandle {
    shared: Arc<Shared>,
    account: Option<Account>,
    conditions: Arc<watch::Sender<Conditions>>,
    taken: mpsc::Sender<Taken>,
    refusal: Refusal,
    archive: Option<Arc<Archive>>,
    now: fn() -> Now,
}

/// Since when recordings put into the folder are refused, and why.
type Refusal = Arc<Mutex<Option<(UnixMillis, String)>>>;

impl VrlHandle {
    /// How far the move is.
    pub fn status(&self) -> VrlStatus {
        let now = (self.now)();
        VrlStatus {
            archive: self.archive.as_ref().map(|archive| archive.status(now)),
            ..self.shared.status(now)
        }
    }

    /// Looks at the folder and tries everything again now, whatever waits after failures or for the
    /// daily window: what is there is moved to the end.
    pub fn kick(&self) {
        self.shared.kick.notify_one();
    }

    /// Tells the mover of a recording just taken in, so that it need not wait for a rescan.
    pub fn taken(&self, taken: Taken) {
        // A full queue is no loss: the next look at the folder finds the file.
        if self.taken.try_send(taken).is_err() {
            tracing::debug!("the queue of recordings taken in is full; the next rescan finds them");
        }
    }

    /// Allows or forbids moving, with the reason shown to the operator. Forbidden at start.
    pub fn allow(&self, allowed: bool, why: impl Into<String>) {
        let new = Conditions {
            allowed,
            why: why.into(),
        };
        self.conditions.send_if_modified(|old| {
            let changed = *old != new;
            *old = new;
            changed
        });
    }

    /// Recordings put into the folder from now on are refused, with the reason shown to the operator; `None` =
    /// they are taken (R-VR-3). What is refused stays where it is, and moves once it is taken.
    pub fn refuse(&self, why: Option<String>) {
        let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        let since = refusal.as_ref().map(|(since, _)| *since);
        let changed = refusal.is_some() != why.is_some();
        *refusal = why.map(|why| (since.unwrap_or_else(|| (self.now)().wall), why));
        drop(refusal);
        if changed {
            self.shared.look.notify_one();
        }
    }

    /// Test Connection (R-VR-2), at any time, beside a move in progress.
    pub async fn test(&self) -> Vec<TestStep> {
        match &self.account {
            Some(account) => probe::run(account, self.now).await,
            None => vec![TestStep {
                step: "settings".to_owned(),
                ok: false,
                ms: 0,
                detail: OFF.to_owned(),
                advice: Some(
                    "set remote_host, ftp_user and ftp_password_file in [vrl] of the secondary"
                        .to_owned(),
                ),
            }],
        }
    }
}

const OFF: &str = "no remote_host is configured in [vrl]: recordings stay on this node";

/// Starts the mover. Without a remote it only tells that it is off.
pub fn start(setup: Setup) -> VrlHandle {
    let (conditions, allowed) = watch::channel(Conditions {
        allowed: false,
        why: "the node has not yet decided who serves".to_owned(),
    });
    let (taken, taken_in) = mpsc::channel(1024);
    let limits = setup.tuning.limits;
    let account =
        (setup.vrl.remote.clone()).map(|remote| Account::new(remote, setup.tls.clone(), limits));
    let handle = VrlHandle {
        shared: Arc::new(Shared::new(account.is_some())),
        account: account.clone(),
        conditions: Arc::new(conditions),
        taken,
        refusal: Refusal::default(),
        archive: setup.archive.clone(),
        now: setup.now,
    };
    if let Some(archive) = setup.archive.clone() {
        tokio::spawn(archive.run(setup.now, setup.stop.clone()));
    }
    if let Some(account) = account {
        let stop = setup.stop.clone();
        let times = WatchTuning {
            rescan: setup.tuning.rescan,
            ..WatchTuning::default()
        };
        let watch = Watch::tuned(&setup.vrl.folder, times);
        let ctx = Arc::new(Context {
            writers: watch.writers(),
            limit: account.remote.rate.map(|rate| Mutex::new(Limit::new(rate))),
            setup,
            account,
            shared: handle.shared.clone(),
            allowed,
            refusal: handle.refusal.clone(),
            by_hand: AtomicBool::new(false),
        });
        let mover = Mover::new(ctx, watch, taken_in);
        // Dropped at whatever it awaits, with its lanes: interruption is the normal case.
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = mover.run() => {}
            }
        });
    }
    handle
}

/// What loop and lanes share.
struct Context {
    setup: Setup,
    account: Account,
    shared: Arc<Shared>,
    allowed: watch::Receiver<Conditions>,
    refusal: Refusal,
    /// An operator started the move: the daily window is not waited for until nothing is left.
    by_hand: AtomicBool,
    limit: Option<Mutex<Limit>>,
    /// Who writes to the folder.
    writers: Writers,
}

impl Context {
    fn now(&self) -> Now {
        (self.setup.now)()
    }

    /// Why recordings put into the folder are refused, if they are.
    fn refusal(&self) -> Option<String> {
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        refusal.as_ref().map(|(_, why)| why.clone())
    }

    /// Whether a file is refused: it was written since recordings are. What was there before was recorded
    /// by right, as far as anybody can tell.
    fn refuses(&self, found: &Found) -> bool {
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        refusal.as_ref().is_some_and(|(since, _)| {
            found.modified >= std::time::UNIX_EPOCH + Duration::from_millis(since.0)
        })
    }

    /// How many recordings may be on their way at once. Few where the line may be used little: a
    /// connection must not rest so long that the server gives it up.
    fn connections(&self) -> usize {
        let least_each = 64 * 1024;
        let remote = &self.account.remote;
        let by_rate = remote.rate.map_or(u64::MAX, |rate| rate / least_each);
        let most = u64::from(remote.connections).min(by_rate).max(1);
        usize::try_from(most).unwrap_or(1)
    }

    /// Whether recordings may move now, and when that may change by time alone (monotonic).
    fn conditions(&self) -> (Conditions, Option<Duration>) {
        let given = self.allowed.borrow().clone();
        let by_hand = self.by_hand.load(Ordering::Relaxed);
        let window = self.account.remote.window.filter(|_| !by_hand);
        let (true, Some(window)) = (given.allowed, window) else {
            return (given, None);
        };
        let now = self.now();
        match closed_for(window, clock::local_second(now.wall)) {
            None => (given, None),
            Some(left) => {
                let closed = Conditions {
                    allowed: false,
                    why: format!(
                        "outside of vrl.window {window}; POST /api/v1/vrl/transfer moves them now"
                    ),
                };
                (closed, Some(now.mono + left))
            }
        }
    }
}
