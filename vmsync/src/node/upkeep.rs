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
use vmsync_core::wire::{Buckets, Head};
use vmsync_store::{CompactTo, MergeReport, Store, StoreError};

use super::Node;

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

/// A meeting at which either side held something alone, until the report of it is made.
#[derive(Debug, Clone)]
struct Reunion {
    at: UnixMillis,
    ours: Vector,
    theirs: Vector,
}

/// The report of a reunion as it is kept and shown (R-SY-6).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReunionReport {
    /// Its id.
    pub id: Uuid,
    /// When the nodes had exchanged what they hold.
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
    reunion: Option<Reunion>,
    compact_at: Duration,
    compacting: Arc<AtomicBool>,
    release_at: Duration,
}

impl Upkeep {
    /// What is quarantined is tried again at once.
    pub(super) fn release_now(&mut self, now: Now) {
        self.release_at = now.mono;
    }
}

impl Node {
    /// Both have exchanged what they hold.
    pub(super) fn met(&mut self, ours: Vector, theirs: Vector, now: Now) {
        // What quarantine holds back may be well again.
        self.upkeep.release_at = now.mono;
        if ours.covers(&theirs) && theirs.covers(&ours) {
            return;
        }
        if let Some(reunion) = &mut self.upkeep.reunion {
            // Met again before they were equal: one reunion, from where both began.
            reunion.ours.merge(&ours);
            reunion.theirs.merge(&theirs);
        } else {
            let at = now.wall;
            self.upkeep.reunion = Some(Reunion { at, ours, theirs });
        }
    }

    /// Both hold the same: the report of what that took.
    pub(super) async fn equal_again(&mut self, now: Now) {
        let Some(reunion) = self.upkeep.reunion.take() else {
            return;
        };
        let digest = self.progress.digest.clone();
        let made = self
            .app
            .store(move |store| {
                let report = ReunionReport {
                    id: Uuid::now_v7(),
                    met_at: reunion.at,
                    equal_at: now.wall,
                    digest,
                    report: store.merge_report(&reunion.ours, &reunion.theirs)?,
                };
                keep(store, &report)?;
                Ok(report)
            })
            .await;
        match made {
            Ok(report) => {
                let (here, there) = (
                    report.report.here.operations,
                    report.report.there.operations,
                );
                let conflicts = report.report.conflicts.len();
                tracing::info!(here, there, conflicts, "both nodes hold the same again");
                self.app.events.publish(
                    "merged",
                    serde_json::json!({"report": report.id, "here": here, "there": there, "conflicts": conflicts}),
                );
            }
            Err(error) => tracing::warn!(%error, "the report of a reunion could not be kept"),
        }
    }

    /// The peer's sums came with this head: which buckets differ from ours?
    pub(super) async fn compare_buckets(&mut self, head: &Head) {
        let Some(theirs) = head.buckets.clone().filter(|_| self.session.diverged()) else {
            return;
        };
        let read = self.app.store(|store| Ok(store.buckets())).await;
        if let Ok((have, sums)) = read
            && have.covers(&head.have)
            && head.have.covers(&have)
            && let Some(ours) = Buckets::new(&sums)
        {
            self.session.differs(ours.differing(&theirs));
        }
    }

    /// What is due by time.
    pub(super) async fn upkeep(&mut self, now: Now) {
        if now.mono >= self.upkeep.compact_at {
            self.upkeep.compact_at = now.mono.saturating_add(COMPACT_EVERY);
            self.compact();
        }
        if self.session.started().is_some() && now.mono >= self.upkeep.release_at {
            self.upkeep.release_at = now.mono.saturating_add(RELEASE_EVERY);
            let quarantined = self.app.store(|s| Ok(s.quarantined())).await;
            let entities = quarantined.unwrap_or_default().into_iter();
            let entities = entities.map(|q| q.entity.to_string()).collect();
            self.session.release(entities);
        }
    }

    /// Shortens the log beside the loop, one at a time.
    fn compact(&self) {
        if self.upkeep.compacting.swap(true, Ordering::AcqRel) {
            return;
        }
        let heard = self.session.started().and(self.session.peer_have());
        let reunion = self.upkeep.reunion.as_ref();
        let to = CompactTo {
            both: heard.cloned().unwrap_or_default(),
            keep: KEEP,
            most: self.app.config.limits.log_operations as u64,
            never_past: reunion.map(|r| r.ours.meet(&r.theirs)),
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
