//! The loop that moves recordings to the primary, one at a time over one kept FTP session.
//!
//! Every decision is `vmsync_core::vrl`'s; this finds the files, performs the steps
//! (`steps`), journals every change of state before the next step, and tells how far it is.
//! Killed anywhere, it starts again from folder and journal. It stops at any await point: the
//! journal is written before and after, so nothing depends on a step having ended.

mod shared;
mod steps;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use vmsync_config::{Vrl, words::Now};
use vmsync_core::vrl::{
    Backoff, Conditions, ConfirmAnswer, Limit, Pace, RecordingName, Step, Transfer, closed_for,
};

use self::shared::Shared;
use super::{
    folder::{self, Taken},
    ftp::{Account, ClientTls, Session, TimeLimits},
    journal::Journal,
    probe::{self, TestStep},
    status::{Current, VrlState, VrlStatus},
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
    now: fn() -> Now,
}

impl VrlHandle {
    /// How far the move is.
    pub fn status(&self) -> VrlStatus {
        self.shared.status((self.now)())
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
    let account = setup.vrl.remote.clone().map(|remote| Account {
        remote,
        tls: setup.tls.clone(),
        limits: setup.tuning.limits,
    });
    let handle = VrlHandle {
        shared: Arc::new(Shared::new(account.is_some())),
        account: account.clone(),
        conditions: Arc::new(conditions),
        taken,
        now: setup.now,
    };
    if let Some(account) = account {
        let setup_rate = account.remote.rate;
        let stop = setup.stop.clone();
        let mover = Mover {
            setup,
            account,
            shared: handle.shared.clone(),
            allowed,
            taken_in,
            transfers: BTreeMap::new(),
            growing: BTreeMap::new(),
            session: None,
            link: Backoff::default(),
            by_hand: false,
            limit: setup_rate.map(|rate| Mutex::new(Limit::new(rate))),
        };
        // Dropped at whatever it awaits: interruption is the normal case.
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = mover.run() => {}
            }
        });
    }
    handle
}

struct Mover {
    setup: Setup,
    account: Account,
    shared: Arc<Shared>,
    allowed: watch::Receiver<Conditions>,
    taken_in: mpsc::Receiver<Taken>,
    transfers: BTreeMap<RecordingName, Transfer>,
    /// Files too young to move: length and time of writing as first seen, and when that was.
    growing: BTreeMap<RecordingName, (folder::Found, Duration)>,
    session: Option<Session>,
    link: Backoff,
    /// An operator started the move: the daily window is not waited for until nothing is left.
    by_hand: bool,
    limit: Option<Mutex<Limit>>,
}

impl Mover {
    async fn run(mut self) {
        self.restore().await;
        let mut rescan_at = Duration::ZERO;
        loop {
            if self.now().mono >= rescan_at {
                rescan_at = self.now().mono + self.rescan().await;
            }
            let wake = self.pass().await.unwrap_or(rescan_at).min(rescan_at);
            let sleep = wake.saturating_sub(self.now().mono);
            tokio::select! {
                () = tokio::time::sleep(sleep.max(Duration::from_millis(10))) => {}
                () = self.shared.kick.notified() => {
                    self.link.kick();
                    self.by_hand = true;
                    self.transfers.values_mut().for_each(Transfer::kick);
                    rescan_at = Duration::ZERO;
                }
                Some(taken) = self.taken_in.recv() => self.plan_taken(taken).await,
                Ok(()) = self.allowed.changed() => {}
            }
        }
    }

    fn now(&self) -> Now {
        (self.setup.now)()
    }

    /// Whether recordings may move now, and when that may change by time alone (monotonic).
    fn conditions(&self) -> (Conditions, Option<Duration>) {
        let given = self.allowed.borrow().clone();
        let window = self.account.remote.window.filter(|_| !self.by_hand);
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

    async fn restore(&mut self) {
        let journal = self.setup.journal.clone();
        match tokio::task::spawn_blocking(move || journal.load_all()).await {
            Ok(Ok(transfers)) => {
                let restored = transfers.into_iter().map(Transfer::restored);
                self.transfers = restored.map(|t| (t.name.clone(), t)).collect();
            }
            Ok(Err(e)) => self.complain(&e.to_string()),
            Err(e) => self.complain(&e.to_string()),
        }
    }

    /// Looks at the folder; returns when to look again.
    async fn rescan(&mut self) -> Duration {
        let path = self.setup.vrl.folder.clone();
        let listing = match tokio::task::spawn_blocking(move || folder::list(&path)).await {
            Ok(Ok(listing)) => listing,
            Ok(Err(e)) => {
                let folder = self.setup.vrl.folder.display();
                self.complain(&format!("reading the folder {folder}: {e}"));
                return self.setup.tuning.rescan;
            }
            Err(e) => {
                self.complain(&e.to_string());
                return self.setup.tuning.rescan;
            }
        };
        {
            let mut told = self.shared.told();
            told.status.unfit = listing.unfit;
            if self.transfers.is_empty() {
                told.status.last_error = None;
            }
        }
        let seen = std::mem::take(&mut self.growing);
        for found in listing.recordings {
            if self.transfers.contains_key(&found.name) {
                continue;
            }
            if self.is_quiet(&found, &seen) {
                self.plan(&found.name).await;
            } else {
                let since = match seen.get(&found.name) {
                    Some((before, since)) if *before == found => *since,
                    _ => self.now().mono,
                };
                self.growing.insert(found.name.clone(), (found, since));
            }
        }
        if self.growing.is_empty() {
            self.setup.tuning.rescan
        } else {
            self.setup.tuning.quiet.min(self.setup.tuning.rescan)
        }
    }

    // Old enough by the file's own time, or, where the clocks disagree, unchanged since seen.
    fn is_quiet(
        &self,
        found: &folder::Found,
        seen: &BTreeMap<RecordingName, (folder::Found, Duration)>,
    ) -> bool {
        let now = self.now();
        let quiet = self.setup.tuning.quiet;
        let wall = std::time::UNIX_EPOCH + Duration::from_millis(now.wall.0);
        wall.duration_since(found.modified)
            .is_ok_and(|age| age >= quiet)
            || seen.get(&found.name).is_some_and(|(before, since)| {
                before == found && now.mono.saturating_sub(*since) >= quiet
            })
    }

    async fn plan(&mut self, name: &RecordingName) {
        let path = self.setup.vrl.folder.join(name.as_str());
        match tokio::task::spawn_blocking(move || folder::hash_file(&path)).await {
            Ok(Ok((bytes, sha256))) => self.add(name.clone(), bytes, sha256).await,
            // Removed in between, or unreadable: the next look tells.
            Ok(Err(e)) => self.complain(&format!("reading {name}: {e}")),
            Err(e) => self.complain(&e.to_string()),
        }
    }

    async fn plan_taken(&mut self, taken: Taken) {
        if let Ok(name) = RecordingName::new(&taken.name)
            && !self.transfers.contains_key(&name)
        {
            self.add(name, taken.bytes, taken.sha256).await;
        }
    }

    async fn add(&mut self, name: RecordingName, bytes: u64, sha256: String) {
        let transfer = Transfer::planned(name.clone(), bytes, sha256, self.now().wall);
        self.save(&transfer).await;
        self.transfers.insert(name, transfer);
    }

    /// Drives every transfer as far as it goes; returns when the next one is due.
    async fn pass(&mut self) -> Option<Duration> {
        self.count();
        let mut order: Vec<_> = self
            .transfers
            .values()
            .map(|t| (t.found_at, t.name.clone()))
            .collect();
        order.sort();
        let mut wake: Option<Duration> = None;
        let mut waits_for = None;
        for (_, name) in order {
            if let Some(until) = self.link.wait(self.now()) {
                wake = Some(wake.map_or(until, |w| w.min(until)));
                break;
            }
            if let Some((until, why)) = self.drive(&name).await {
                wake = match (wake, until) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
                waits_for.get_or_insert(why);
            }
        }
        self.rest(waits_for).await;
        wake
    }

    /// Drives one transfer until it waits or ends; returns until when and why it waits.
    async fn drive(&mut self, name: &RecordingName) -> Option<(Option<Duration>, String)> {
        loop {
            let (conditions, opens) = self.conditions();
            let transfer = self.transfers.get(name)?;
            match transfer.next(&conditions, self.now()) {
                Step::Wait { until, why } => return Some((until.or(opens), why)),
                Step::Done => {
                    self.finished(name).await;
                    return None;
                }
                step => {
                    if let Some(link) = self.step(name, step).await {
                        self.link.failed(
                            self.now(),
                            &self.setup.tuning.pace,
                            &self.account.remote.host,
                        );
                        self.complain(&link);
                        return Some((self.link.wait(self.now()), link));
                    }
                }
            }
        }
    }

    async fn finished(&mut self, name: &RecordingName) {
        let Some(transfer) = self.transfers.remove(name) else {
            return;
        };
        let journal = self.setup.journal.clone();
        let gone = name.clone();
        if let Ok(Err(e)) = tokio::task::spawn_blocking(move || journal.remove(&gone)).await {
            // Not fatal: restored, it finds the local file gone and ends again.
            tracing::warn!(recording = %name, error = %e, "the journal record of a moved recording stays");
        }
        if let Some(why) = &transfer.last_error {
            tracing::error!(recording = %name, "{why}");
        } else {
            tracing::info!(recording = %name, remote_name = transfer.remote_name, bytes = transfer.bytes, "recording moved to the primary");
        }
        {
            let mut told = self.shared.told();
            told.status.files_done += 1;
            told.status.bytes_done = told.status.bytes_done.saturating_add(transfer.bytes);
            told.status.last_error = transfer.last_error;
        }
        self.count();
    }

    /// Journals a transfer, durably.
    async fn save(&mut self, transfer: &Transfer) {
        let journal = self.setup.journal.clone();
        let record = transfer.clone();
        let saved = tokio::task::spawn_blocking(move || journal.save(&record)).await;
        // Not fatal for safety: without its record a transfer is planned anew, and the peer asked first.
        match saved {
            Ok(Err(e)) => self.complain(&e.to_string()),
            Err(e) => self.complain(&e.to_string()),
            Ok(Ok(())) => {}
        }
    }

    fn complain(&self, words: &str) {
        let mut told = self.shared.told();
        // Once per kind of failure, not once per try.
        if told.status.last_error.as_deref() != Some(words) {
            tracing::warn!("recordings: {words}");
        }
        told.status.last_error = Some(words.to_owned());
    }

    fn count(&self) {
        let mut told = self.shared.told();
        told.status.files_pending = self.transfers.len() as u64;
        told.waiting = self
            .transfers
            .values()
            .fold(0, |n, t| n.saturating_add(t.bytes));
    }

    /// Nothing to do for now: says so, and lets the session go.
    async fn rest(&mut self, waits_for: Option<String>) {
        self.count();
        let idle = self.transfers.is_empty();
        if idle {
            self.by_hand = false;
        }
        {
            let mut told = self.shared.told();
            told.status.current = None;
            let failed = told.status.last_error.is_some();
            let allowed = self.conditions().0.allowed;
            (told.status.state, told.status.why) = match waits_for {
                _ if idle && !failed => (VrlState::Done, "nothing to move".to_owned()),
                Some(why) if allowed && failed => (VrlState::Failed, why),
                Some(why) => (VrlState::Waiting, why),
                None if failed => (
                    VrlState::Failed,
                    told.status.last_error.clone().unwrap_or_default(),
                ),
                None => (VrlState::Waiting, String::new()),
            };
        }
        if let Some(session) = self.session.take() {
            session.quit().await;
        }
    }

    fn current(&self, transfer: &Transfer, sent: u64) {
        let mut told = self.shared.told();
        told.status.state = VrlState::Transferring;
        told.status.why.clone_from(&self.allowed.borrow().why);
        told.status.current = Some(Current {
            name: transfer.name.as_str().to_owned(),
            bytes: transfer.bytes,
            sent,
        });
    }
}
