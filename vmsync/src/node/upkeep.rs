//! What the loop does for the store beside replication: keeps its log short, reports what a reunion
//! came to, compares buckets where the states differ, and tries quarantined entities again.
//!
//! None of it decides who serves, and all of it may be cut off at any point: it is done again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vmsync_config::words::{Now, UnixMillis, Vector};
use vmsync_core::wire::Head;
use vmsync_store::{CompactTo, MergeReport, Reunion, Store, StoreError};

use super::{Node, holdings::PeerHolds, housekeeping::Housekeeping};
use crate::{app::App, exchange};

/// Operations kept in the log although both nodes hold them, so that a short absence or a peer
/// restored from a recent copy needs no state.
const KEEP: u64 = 5_000;
/// Time between two looks at the length of the log.
const COMPACT_EVERY: Duration = Duration::from_secs(10);
/// Time between two attempts to release what is quarantined.
const RELEASE_EVERY: Duration = Duration::from_hours(1);
/// Where reports are kept, and how many.
const REPORTS: &str = "merge_reports";
const REPORTS_KEPT: usize = 100;

/// Where what the next report is of is kept, so that a restart in the middle goes on with it.
const REUNION: &str = "reunion";
const PRESENT: &str = "present";

/// From a first meeting at which either side held something alone, until the report of it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Open {
    /// Of the report to come: one that is written twice is one report.
    id: Uuid,
    at: UnixMillis,
    reunion: Reunion,
}

/// The report of a reunion as it is kept and shown (R-SY-6).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReunionReport {
    /// Its id.
    pub id: Uuid,
    /// When the nodes first had met.
    pub met_at: UnixMillis,
    /// When both held the same again.
    pub equal_at: UnixMillis,
    /// The digest both had then.
    pub digest: String,
    /// What each side had, what was kept and what was dropped.
    #[serde(flatten)]
    pub report: MergeReport,
}

/// What upkeep remembers between two turns.
#[derive(Default)]
pub(super) struct Upkeep {
    reunion: Option<Open>,
    /// Held while a report is being made: what the note of the last reunion is kept for.
    reporting: Arc<tokio::sync::Mutex<()>>,
    compact_at: Duration,
    compacting: Arc<AtomicBool>,
    release_at: Duration,
    /// See `scrub`: audio faults noted when the peer was last asked, and when to ask again.
    pub(super) faults_asked_for: u64,
    pub(super) mend_at: Duration,
    pub(super) housekeeping: Housekeeping,
}

impl Upkeep {
    /// Goes on with what was under way when the process ended.
    pub(super) fn load(store: &Store) -> Result<Self, StoreError> {
        let kept = store.local(REUNION, PRESENT)?;
        let reunion = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(Self {
            reunion,
            ..Self::default()
        })
    }

    /// What is quarantined is tried again at once.
    pub(super) fn release_now(&mut self, now: Now) {
        self.release_at = now.mono;
    }
}

impl Node {
    /// Both have exchanged what they hold.
    pub(super) async fn met(&mut self, ours: Vector, theirs: Vector, now: Now) {
        // What quarantine holds back may be well again.
        self.upkeep.release_at = now.mono;
        self.upkeep.mend_at = now.mono;
        self.note_meeting(ours, theirs, now).await;
    }

    /// The peer's present session was heard of: notes what both held, durably, before this node
    /// answers and either sends anything.
    pub(super) async fn note_meeting(&mut self, ours: Vector, theirs: Vector, now: Now) {
        let equal = ours.covers(&theirs) && theirs.covers(&ours);
        let open = match self.upkeep.reunion.clone() {
            Some(mut open) => {
                open.reunion.again(&ours, &theirs);
                open
            }
            None if equal => return,
            None => Open {
                id: Uuid::now_v7(),
                at: now.wall,
                reunion: Reunion::new(ours, theirs),
            },
        };
        if self.upkeep.reunion.as_ref() == Some(&open) {
            return;
        }
        self.upkeep.reunion = Some(open.clone());
        let _no_report = self.upkeep.reporting.lock().await;
        let kept = self.app.store(move |store| {
            let bytes = serde_json::to_vec(&open);
            let bytes = bytes.map_err(|e| StoreError::Invalid(e.to_string()))?;
            store.put_local(REUNION, PRESENT, Some(&bytes))
        });
        if let Err(error) = kept.await {
            tracing::warn!(%error, "a reunion could not be noted: its report will be of what comes after a restart, should there be one");
        }
    }

    /// Both hold the same: the report of what that took.
    pub(super) fn equal_again(&mut self, now: Now) {
        let Some(open) = self.upkeep.reunion.take() else {
            return;
        };
        let (app, digest) = (Arc::clone(&self.app), self.progress.digest.clone());
        let reporting = Arc::clone(&self.upkeep.reporting);
        // Beside the loop: after a long time apart there is much to read, and nobody waits for it.
        tokio::spawn(async move {
            let _alone = reporting.lock().await;
            report(&app, open, digest, now).await;
        });
    }

    /// The peer's sums came with this head: which buckets differ from ours?
    pub(super) async fn compare_buckets(&mut self, head: &Head) {
        if head.buckets.is_none() || !self.session.diverged() {
            return;
        }
        let head = head.clone();
        let read = self.app.store(move |s| Ok(exchange::differing(s, &head)));
        if let Ok(differing) = read.await {
            self.session.differs(differing);
        }
    }

    /// What is due by time.
    pub(super) async fn upkeep(&mut self, now: Now) {
        if now.mono >= self.upkeep.compact_at {
            self.upkeep.compact_at = now.mono.saturating_add(COMPACT_EVERY);
            self.compact();
        }
        self.keep_what_the_peer_holds(now).await;
        if self.session.started().is_some() && now.mono >= self.upkeep.release_at {
            self.upkeep.release_at = now.mono.saturating_add(RELEASE_EVERY);
            let quarantined = self.app.store(|s| Ok(s.quarantined())).await;
            let entities = quarantined.unwrap_or_default().into_iter();
            let entities = entities.map(|q| q.entity.to_string()).collect();
            self.session.release(entities);
        }
    }

    /// For a later life of this node that starts without its peer.
    async fn keep_what_the_peer_holds(&mut self, now: Now) {
        if let Some(have) = self.progress.peer.due(now.mono, self.peer.visible()) {
            let kept = self.app.store(move |s| PeerHolds::keep(s, &have)).await;
            if let Err(error) = kept {
                tracing::debug!(%error, "what the peer holds could not be kept");
            }
        }
    }

    /// Shortens the log beside the loop, one at a time.
    fn compact(&self) {
        if self.upkeep.compacting.swap(true, Ordering::AcqRel) {
            return;
        }
        let heard = self.session.started().and(self.session.peer_have());
        if self.upkeep.reporting.try_lock().is_err() {
            // What is being reported is still needed.
            self.upkeep.compacting.store(false, Ordering::Release);
            return;
        }
        let reunion = self.upkeep.reunion.as_ref();
        let to = CompactTo {
            both: heard.cloned().unwrap_or_default(),
            keep: KEEP,
            most: self.app.config.limits.log_operations as u64,
            never_past: reunion.map(|open| open.reunion.both()),
        };
        let (app, busy) = (Arc::clone(&self.app), Arc::clone(&self.upkeep.compacting));
        tokio::spawn(async move {
            match app.store(move |store| store.compact(&to)).await {
                Ok(0) => {}
                Ok(gone) => tracing::debug!(gone, "the log was shortened"),
                Err(error) => tracing::warn!(%error, "the log could not be shortened"),
            }
            busy.store(false, Ordering::Release);
        });
    }
}

/// Makes and keeps the report of what `open` came to.
async fn report(app: &App, open: Open, digest: String, now: Now) {
    let made = app.store(move |store| {
        let report = ReunionReport {
            id: open.id,
            met_at: open.at,
            equal_at: now.wall,
            digest,
            report: store.merge_report(&open.reunion)?,
        };
        keep(store, &report)?;
        store.put_local(REUNION, PRESENT, None)?;
        Ok(report)
    });
    match made.await {
        Ok(ReunionReport { id, report, .. }) => {
            let (here, there) = (report.here.operations, report.there.operations);
            let conflicts = report.conflicts.len();
            tracing::info!(here, there, conflicts, "both nodes hold the same again");
            let told = serde_json::json!({"report": id, "here": here, "there": there, "conflicts": conflicts});
            app.events.publish("merged", told);
        }
        Err(error) => tracing::warn!(%error, "the report of a reunion could not be kept"),
    }
}

fn keep(store: &Store, report: &ReunionReport) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(report).map_err(|e| StoreError::Invalid(e.to_string()))?;
    store.put_local(REPORTS, &report.id.to_string(), Some(&bytes))?;
    let all = store.locals(REPORTS)?;
    for (name, _) in all.iter().rev().skip(REPORTS_KEPT) {
        store.put_local(REPORTS, name, None)?;
    }
    Ok(())
}

/// The reports kept, newest first.
pub(crate) fn reports(store: &Store) -> Result<Vec<ReunionReport>, StoreError> {
    // Ids begin with their time, so that names are in order.
    let mut all = store.locals(REPORTS)?;
    all.reverse();
    let read = all
        .iter()
        .filter_map(|(_, bytes)| serde_json::from_slice(bytes).ok());
    Ok(read.collect())
}
