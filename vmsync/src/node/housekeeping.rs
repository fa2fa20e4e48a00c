//! When housekeeping runs (R-MB-9): each hour, on the node that serves, when it is idle, and only
//! while both nodes hold the same: what a user has saved at the other side of a partition must not
//! be deleted here because it was not known.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vmsync_config::words::{Extension, GroupName, Now, UnixMillis};
use vmsync_core::resilience::Serving;
use vmsync_store::{Keep, Store, StoreError};

use super::Node;
use crate::{app::App, clock, http};

/// From the start to the first pass, and from one to the next.
const EVERY: Duration = Duration::from_hours(1);
/// Between two steps of a pass.
const BREATH: Duration = Duration::from_millis(500);
/// Messages looked at in one step.
const STEP: usize = 2_000;
/// Where the last pass is kept.
const SPACE: &str = "housekeeping";
const LAST: &str = "last";

/// A pass through all mailboxes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Pass {
    /// Messages that became `deleted`; they can still be taken back.
    pub deleted: u64,
    /// Messages that went for good.
    pub purged: u64,
    /// When it had been through all mailboxes, RFC 3339.
    #[schema(value_type = Option<String>)]
    pub ended: Option<UnixMillis>,
    /// Where it is.
    #[serde(skip)]
    through: Option<Extension>,
}

/// What the loop remembers of it.
#[derive(Default)]
pub(super) struct Housekeeping {
    next_at: Option<Duration>,
    /// Once more when this pass is over: it was asked for while one was under way.
    again: bool,
    busy: Arc<AtomicBool>,
    pass: Arc<Mutex<Pass>>,
}

impl Housekeeping {
    /// An operator wants it now, or as soon as it may be.
    pub(super) fn run_now(&mut self, now: Now) {
        self.next_at = Some(now.mono);
        self.again = *pass(&self.pass) != Pass::default();
    }
}

/// The last pass of this node; none before the first.
pub(crate) fn last_pass(store: &Store) -> Result<Option<Pass>, StoreError> {
    let kept = store.local(SPACE, LAST)?;
    Ok(kept.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

impl Node {
    /// What keeps it from running, in words; empty = nothing does.
    pub(super) fn housekeeping_waits_for(&self, now: Now) -> Vec<String> {
        let mut waits = Vec::new();
        if self.served_groups(now).is_empty() {
            waits.push("this node to serve: it runs on the one that does".to_owned());
        }
        if !self.session.finished() {
            let peer = &self.app.config.pair.peer_id;
            waits.push(format!("{peer} to hold the same as this node"));
        }
        let calls = self.app.calls.active();
        if calls > 0 {
            waits.push(format!("active calls to end: {calls}"));
        }
        waits
    }

    fn served_groups(&self, now: Now) -> BTreeSet<GroupName> {
        (0..self.groups.len())
            .filter(|index| self.serving(*index, now) == Serving::Yes)
            .map(|index| self.groups[index].name().clone())
            .collect()
    }

    /// The next step, if one is due and nothing speaks against it.
    pub(super) fn housekeep(&mut self, now: Now) {
        let housekeeping = &mut self.upkeep.housekeeping;
        let due = *housekeeping
            .next_at
            .get_or_insert(now.mono.saturating_add(EVERY));
        if now.mono < due || housekeeping.busy.load(Ordering::Acquire) {
            return;
        }
        if pass(&housekeeping.pass).ended.is_some() {
            *pass(&housekeeping.pass) = Pass::default();
            let again = std::mem::take(&mut housekeeping.again);
            let pause = if again { Duration::ZERO } else { EVERY };
            housekeeping.next_at = Some(now.mono.saturating_add(pause));
            return;
        }
        if !self.housekeeping_waits_for(now).is_empty() {
            return;
        }
        let groups = self.served_groups(now);
        let housekeeping = &mut self.upkeep.housekeeping;
        housekeeping.next_at = Some(now.mono.saturating_add(BREATH));
        housekeeping.busy.store(true, Ordering::Release);
        let (busy, pass) = (
            Arc::clone(&housekeeping.busy),
            Arc::clone(&housekeeping.pass),
        );
        let app = Arc::clone(&self.app);
        tokio::spawn(async move {
            if let Err(error) = step(&app, &pass, groups).await {
                tracing::warn!(%error, "housekeeping failed; tried again");
            }
            busy.store(false, Ordering::Release);
        });
    }
}

fn pass(pass: &Mutex<Pass>) -> std::sync::MutexGuard<'_, Pass> {
    pass.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn step(
    app: &Arc<App>,
    now: &Mutex<Pass>,
    groups: BTreeSet<GroupName>,
) -> Result<(), StoreError> {
    let after = pass(now).through.clone();
    let of = Arc::clone(app);
    let done = app
        .store(move |store| {
            let keep: Keep = http::kept_hours(&store.settings()?);
            store.housekeep(&keep, after.as_ref(), STEP, &|system| {
                groups.contains(&of.group_of(system.map(vmsync_config::words::SystemName::as_str)))
            })
        })
        .await?;
    let ended = {
        let mut pass = pass(now);
        pass.deleted += done.deleted;
        pass.purged += done.purged;
        pass.through = done.through;
        pass.ended = pass.through.is_none().then(clock::wall);
        pass.ended.is_some().then(|| pass.clone())
    };
    let Some(ended) = ended else { return Ok(()) };
    if ended.deleted + ended.purged > 0 {
        tracing::info!(
            deleted = ended.deleted,
            purged = ended.purged,
            "housekeeping"
        );
    }
    let bytes = serde_json::to_vec(&ended).map_err(|e| StoreError::Invalid(e.to_string()))?;
    app.store(move |store| store.put_local(SPACE, LAST, Some(&bytes)))
        .await
}
