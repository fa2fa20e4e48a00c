//! Has the index verified once after every start, a little at a time, beside all else.
//!
//! Damage that is found is an alarm, and noted for the next start, which reads all of the index
//! first and makes it anew. The node itself goes on: what can be read still answers callers, and an
//! operator can choose the moment, best with the peer in step (docs/recover.md).

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use vmsync_store::{StoreError, Verified};

use crate::{app::App, clock};

/// Looked at without a rest, in entries.
const BURST: usize = 500;
/// A rest takes so many times as long as the work before it.
const REST: u32 = 4;
/// And at least so long while others write.
const STAND_BACK: Duration = Duration::from_millis(100);
/// A burst waits so long at most for the exchange of a backlog.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time until what failed is begun anew.
const AGAIN: Duration = Duration::from_secs(30);

/// Runs until the node stops, also where all of the index was looked at, or damage found, before.
pub(crate) async fn run(app: Arc<App>, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => return,
        () = verify(&app) => {}
    }
    stop.cancelled().await;
}

async fn verify(app: &App) {
    let mut status = app.node.watch();
    if status.wait_for(|s| s.node.ready).await.is_err() {
        return;
    }
    let (begun, mut looked, mut before) = (clock::now().mono, 0, 0);
    loop {
        app.node.calm(PATIENCE).await;
        let burst = clock::now().mono;
        let rest = match app.store(burst_of).await {
            Ok((entries, Verified::More { commits, .. })) => {
                looked += entries;
                let busy = std::mem::replace(&mut before, commits) != commits;
                let rest = clock::now().mono.saturating_sub(burst) * REST;
                rest.max(if busy { STAND_BACK } else { Duration::ZERO })
            }
            Ok((_, Verified::Sound)) => {
                let took = clock::now().mono.saturating_sub(begun);
                tracing::info!(
                    entries = looked,
                    seconds = took.as_secs(),
                    "all of the index was read: it is sound"
                );
                return;
            }
            // Told, and noted, by `App::store`.
            Err(StoreError::Damaged { .. }) => return,
            Err(error) => {
                tracing::warn!(%error, "the index could not be verified; tried again");
                AGAIN
            }
        };
        tokio::time::sleep(rest).await;
    }
}

/// Looks at so many entries; how many, and what came of the last of them.
fn burst_of(store: &vmsync_store::Store) -> Result<(usize, Verified), StoreError> {
    let mut looked = 0;
    loop {
        match store.verify_more()? {
            Verified::More { entries, .. } if looked + entries < BURST => looked += entries,
            last @ Verified::More { entries, .. } => return Ok((looked + entries, last)),
            Verified::Sound => return Ok((looked, Verified::Sound)),
        }
    }
}
