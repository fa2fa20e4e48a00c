//! Backups of the running node: one at a time, in the folder its configuration names.
//!
//! A backup takes as long as it takes, on a thread of its own; who asked for it asks how far it is.
//! It ends early, leaving nothing, when the node stops.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vmsync_config::words::UnixMillis;
use vmsync_store::{Backup, Progress, Store, StoreError, backups, prune_backups};

use crate::{app::App, clock};

/// The last backup failed.
const FAILED: &str = "backup_failed";

/// Runs backups, and knows how the last one went. Dropping it stops the one under way.
pub struct Backups {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    now: Mutex<Now>,
    stop: AtomicBool,
}

#[derive(Default, Clone)]
struct Now {
    running: Option<Running>,
    failed: Option<Failed>,
}

/// A backup under way.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Running {
    /// Since when.
    #[schema(value_type = String)]
    pub since: UnixMillis,
    /// Records written.
    pub records: u64,
    /// Audio files linked or copied.
    pub audio_files: u64,
}

/// How the last backup failed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Failed {
    /// When.
    #[schema(value_type = String)]
    pub at: UnixMillis,
    /// Why, in words.
    pub why: String,
}

/// A complete backup.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct BackupView {
    /// Its folder in `dir`.
    pub name: String,
    /// When it was begun.
    #[schema(value_type = String)]
    pub started: UnixMillis,
    /// When it was complete.
    #[schema(value_type = String)]
    pub finished: UnixMillis,
    /// Records in it.
    pub records: u64,
    /// Audio files in it.
    pub audio_files: u64,
    /// Their audio, in bytes.
    pub audio_bytes: u64,
    /// Records whose audio was missing or damaged already when it was made.
    pub without_audio: u64,
    /// Digest of the state in it, where nothing changed while it was written.
    pub digest: Option<String>,
}

/// All backups, and the one under way.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct BackupList {
    /// Where they lie on this node.
    pub dir: String,
    /// The one under way.
    pub running: Option<Running>,
    /// How the last one failed, where it did.
    pub failed: Option<Failed>,
    /// Complete ones, oldest first.
    pub items: Vec<BackupView>,
}

/// Why no backup was begun.
#[derive(Debug, thiserror::Error)]
pub enum NotBegun {
    /// The configuration names no folder.
    #[error(
        "this node makes no backups: set node.backup_dir in its configuration and start it again"
    )]
    NoFolder,
    /// One at a time.
    #[error("a backup is under way; wait for its end")]
    Busy,
    /// The list can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Default for Backups {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Backups {
    fn drop(&mut self) {
        self.inner.stop.store(true, Ordering::Relaxed);
    }
}

impl Backups {
    /// Nothing is under way.
    pub fn new() -> Self {
        Self {
            inner: Arc::default(),
        }
    }

    /// Begins a backup; afterwards all but the newest `keep` are removed.
    pub fn begin(&self, app: &Arc<App>, keep: Option<usize>) -> Result<(), NotBegun> {
        let dir = folder(app)?.to_owned();
        {
            let mut now = self.inner.lock();
            if now.running.is_some() {
                return Err(NotBegun::Busy);
            }
            now.running = Some(Running {
                since: clock::wall(),
                records: 0,
                audio_files: 0,
            });
        }
        let (inner, app) = (Arc::clone(&self.inner), Arc::clone(app));
        tokio::task::spawn_blocking(move || inner.run(&app, &dir, keep));
        Ok(())
    }

    /// What there is, and what is under way.
    pub async fn list(&self, app: &Arc<App>) -> Result<BackupList, NotBegun> {
        let dir = folder(app)?.to_owned();
        // Before the list is read: what ends meanwhile is in it.
        let Now { running, failed } = self.inner.lock().clone();
        let (into, node) = (dir.clone(), app.config.node.id.clone());
        let found = app.store(move |_| backups(&into, &node)).await?;
        Ok(BackupList {
            dir: dir.display().to_string(),
            running,
            failed,
            items: found.iter().map(BackupView::of).collect(),
        })
    }
}

fn folder(app: &App) -> Result<&PathBuf, NotBegun> {
    app.config
        .node
        .backup_dir
        .as_ref()
        .ok_or(NotBegun::NoFolder)
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, app: &App, dir: &Path, keep: Option<usize>) {
        let me = app.config.node.id.as_str();
        let mut progress = |at: Progress| {
            if let Some(running) = &mut self.lock().running {
                running.records = at.records;
                running.audio_files = at.audio_files;
            }
            !self.stop.load(Ordering::Relaxed)
        };
        // Were a fault in it to end this thread, a backup would seem under way for ever.
        let work = || make(&app.store, dir, keep, &mut progress).map_err(|e| e.to_string());
        let made = catch_unwind(AssertUnwindSafe(work));
        let failed = match made.unwrap_or_else(|_| Err("internal error; the log says more".into()))
        {
            Ok((backup, _)) => {
                app.alarms.clear(FAILED, me);
                tracing::info!(backup = %backup.path.display(), records = backup.manifest.records, audio_files = backup.manifest.audio_files, "a backup is complete");
                None
            }
            Err(why) => {
                tracing::error!(%why, "a backup failed");
                app.alarms.raise(FAILED, me, &why);
                let at = clock::wall();
                Some(Failed { at, why })
            }
        };
        let running = None;
        *self.lock() = Now { running, failed };
    }
}

/// Makes a backup in `dir` and then removes all but the newest `keep`; gives those removed.
pub(crate) fn make(
    store: &Store,
    dir: &Path,
    keep: Option<usize>,
    progress: &mut dyn FnMut(Progress) -> bool,
) -> Result<(Backup, Vec<PathBuf>), StoreError> {
    let backup = store.backup(dir, progress)?;
    let removed = match keep {
        Some(keep) => prune_backups(dir, &store.origin().node, keep)?,
        None => Vec::new(),
    };
    Ok((backup, removed))
}

impl BackupView {
    pub(crate) fn of(backup: &Backup) -> Self {
        let m = &backup.manifest;
        Self {
            name: backup.name(),
            started: m.started,
            finished: m.finished,
            records: m.records,
            audio_files: m.audio_files,
            audio_bytes: m.audio_bytes,
            without_audio: m.without_audio,
            digest: m.digest.clone(),
        }
    }
}
