//! What is kept here of recordings the primary has confirmed (`[vrl.archive]`, docs/vrl.md).
//!
//! A recording is *kept* instead of removed: its record is written first, then it moves, so that nothing in the
//! archive is without the record that lets it go one day. [`Archive::keep`] may be cut anywhere and
//! called again: what has moved already is found by its length and SHA-256. What goes, and when, is decided by
//! [`vmsync_core::vrl::retention`]; here a file is hashed once more before it goes.
//!
//! The records are node-local ones of the store: durable together, and read at once. Should the index be lost, the
//! files stay, are told as nobody's, and are left to the operator: deleting less is the safe side.
//!
//! Everything here blocks but [`Archive::run`].

mod copy;
mod records;
mod sweeping;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use vmsync_config::{
    VrlArchive,
    words::{Now, UnixMillis},
};
use vmsync_core::vrl::{
    ConfirmAnswer, RecordingName,
    retention::{AgeClock, KeepLimits, Kept, MOST_KEPT},
};

use self::copy::copy;
pub use self::records::{Records, StoreRecords};
use super::{folder, journal::JournalError};
use crate::app::rfc3339;

/// Time between two looks at the archive.
pub const SWEEP: Duration = Duration::from_hours(1);

/// A file of which the primary's node has said that it holds it durably.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmed {
    /// Its name here.
    pub name: RecordingName,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its content, lower-case hex.
    pub sha256: String,
    /// Its name at the primary.
    pub remote_name: String,
    /// When that was said.
    pub confirmed_at: UnixMillis,
}

/// What came of keeping a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keeping {
    /// It is in the archive, durably, and not in the folder of recordings any more; the names it has there.
    Kept(Vec<String>),
    /// Neither here nor there: somebody else removed it.
    Gone,
    /// A file is not what was confirmed any more; nothing was moved.
    Changed {
        /// Which.
        name: RecordingName,
        /// Its length now.
        bytes: u64,
        /// Its SHA-256 now.
        sha256: String,
    },
}

/// How the archive stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct ArchiveStatus {
    /// Where it is.
    pub folder: String,
    /// Files kept.
    pub files: u64,
    /// Bytes of all files in it.
    pub bytes: u64,
    /// When the oldest was confirmed (RFC 3339).
    pub oldest: Option<String>,
    /// Seconds until it is gone through again.
    pub next_sweep_s: u64,
    /// Files deleted since start.
    pub deleted: u64,
    /// Files that are not what was recorded, or of which nothing is recorded, with the reason: they are never touched. At most 100.
    pub unfit: Vec<String>,
    /// What went wrong in the last sweep.
    pub last_error: Option<String>,
}

/// The archive of this node.
pub struct Archive {
    folder: PathBuf,
    limits: KeepLimits,
    /// Bytes that stay free on its disk.
    reserve: u64,
    records: Arc<dyn Records>,
    held: Mutex<Held>,
    // Apart, so that asking never waits for a disk.
    told: Mutex<Told>,
}

struct Held {
    kept: BTreeMap<String, Kept>,
    age: AgeClock,
    /// Bytes of the folder at the last sweep, and what was kept since.
    bytes: u64,
}

#[derive(Default)]
struct Told {
    status: ArchiveStatus,
    /// When it is swept next (monotonic).
    next: Duration,
}

impl Archive {
    /// Reads the records. `reserve`: bytes to leave free on the archive's disk.
    pub fn open(
        config: &VrlArchive,
        reserve: u64,
        records: Arc<dyn Records>,
        now: Now,
    ) -> Result<Self, JournalError> {
        let (kept, age) = records.load()?;
        let bytes = kept.values().fold(0_u64, |n, k| n.saturating_add(k.bytes));
        let status = ArchiveStatus {
            folder: config.folder.display().to_string(),
            files: kept.len() as u64,
            bytes,
            oldest: kept.values().map(|k| k.confirmed_at).min().map(rfc3339),
            ..ArchiveStatus::default()
        };
        Ok(Self {
            folder: config.folder.clone(),
            limits: KeepLimits {
                max_age: config.max_age,
                max_bytes: config.max_bytes,
            },
            reserve,
            records,
            held: Mutex::new(Held {
                kept,
                age: AgeClock::begin(age, now),
                bytes,
            }),
            told: Mutex::new(Told {
                status,
                next: now.mono,
            }),
        })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How it stands.
    pub fn status(&self, now: Now) -> ArchiveStatus {
        let told = self.told();
        ArchiveStatus {
            next_sweep_s: told.next.saturating_sub(now.mono).as_secs(),
            ..told.status.clone()
        }
    }

    /// Moves a recording, the first of `unit`, and the side files that go with it, from `folder` to the archive, the
    /// recording last. Where a name is taken by other content, all of them get the recording's hash into their
    /// names: `NAME~HEX.EXT`.
    pub fn keep(&self, folder: &Path, unit: &[Confirmed], now: Now) -> io::Result<Keeping> {
        let mut held = self.held();
        fs::create_dir_all(&self.folder)?;
        let mut here = BTreeSet::new();
        for file in unit {
            match folder::compare(&folder.join(file.name.as_str()), file.bytes, &file.sha256)? {
                ConfirmAnswer::Durable => {
                    here.insert(file.name.as_str());
                }
                ConfirmAnswer::Missing => {}
                ConfirmAnswer::Different { .. } => {
                    let (bytes, sha256) = folder::hash_file(&folder.join(file.name.as_str()))?;
                    let name = file.name.clone();
                    return Ok(Keeping::Changed {
                        name,
                        bytes,
                        sha256,
                    });
                }
            }
        }
        let placed = self.places(unit, &here)?;
        if placed.is_empty() {
            return Ok(Keeping::Gone);
        }
        let kept_at = held.age.lived_ms(now);
        let whole = placed.first().map_or("", |p| p.name.as_str());
        let record = |p: &Place<'_>| p.record(kept_at, whole);
        let kept: Vec<_> = placed
            .iter()
            .map(|p| (p.name.as_str(), record(p)))
            .collect();
        let records: Vec<_> = kept
            .iter()
            .map(|(name, kept)| (*name, Some(kept)))
            .collect();
        self.records.put(&records).map_err(io::Error::other)?;
        for (name, kept) in &kept {
            let before = held.kept.insert((*name).to_owned(), kept.clone());
            if before.is_none() {
                held.bytes = held.bytes.saturating_add(kept.bytes);
            }
        }
        let to_move = placed
            .iter()
            .rev()
            .filter(|p| here.contains(p.file.name.as_str()));
        for place in to_move {
            if let Some((bytes, sha256)) = self.move_in(folder, place)? {
                let name = place.file.name.clone();
                return Ok(Keeping::Changed {
                    name,
                    bytes,
                    sha256,
                });
            }
        }
        {
            let mut told = self.told();
            told.status.files = held.kept.len() as u64;
            told.status.bytes = held.bytes;
            let oldest = unit.iter().map(|c| c.confirmed_at).min();
            if told.status.oldest.is_none() {
                told.status.oldest = oldest.map(rfc3339);
            }
        }
        // Between two sweeps it may grow by a sixty-fourth over its limit, so that not each recording costs a sweep.
        let most = self
            .limits
            .max_bytes
            .map_or(u64::MAX, |m| m.saturating_add(m / 64));
        if held.bytes > most || held.kept.len() > MOST_KEPT + MOST_KEPT / 64 {
            // It is kept all the same.
            if let Err(e) = self.sweep_held(&mut held, now) {
                tracing::warn!(error = %e, "the archive of recordings was not gone through");
            }
        }
        Ok(Keeping::Kept(placed.into_iter().map(|p| p.name).collect()))
    }

    /// Under which names the files are kept, those moved by an earlier try included; without those that are gone.
    fn places<'u>(
        &self,
        unit: &'u [Confirmed],
        here: &BTreeSet<&str>,
    ) -> io::Result<Vec<Place<'u>>> {
        let Some(first) = unit.first() else {
            return Ok(Vec::new());
        };
        let mut level = 0;
        'levels: loop {
            let mut placed = Vec::new();
            for file in unit {
                let Some(name) = file.name.candidates(&first.sha256).into_iter().nth(level) else {
                    let folder = self.folder.display();
                    let why = format!(
                        "every name kept for {} in {folder} is taken by something else; move it away",
                        file.name
                    );
                    return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
                };
                let there = folder::compare(&self.folder.join(&name), file.bytes, &file.sha256)?;
                match there {
                    ConfirmAnswer::Different { .. } => {
                        level += 1;
                        continue 'levels;
                    }
                    // Gone from here, and not (yet) found there.
                    ConfirmAnswer::Missing if !here.contains(file.name.as_str()) => {}
                    ConfirmAnswer::Missing | ConfirmAnswer::Durable => placed.push(Place {
                        file,
                        name,
                        there: there == ConfirmAnswer::Durable,
                    }),
                }
            }
            return Ok(placed);
        }
    }

    /// Moves one file; its length and SHA-256 if it turns out to be another by now.
    fn move_in(&self, from: &Path, place: &Place<'_>) -> io::Result<Option<(u64, String)>> {
        let (file, to) = (place.file, self.folder.join(&place.name));
        let source = from.join(file.name.as_str());
        if place.there {
            vmsync_store::sync_file(&to)?;
        } else {
            match folder::publish(&source, &to) {
                // That the old name is gone is durable as well.
                Ok(()) => return vmsync_store::sync_names(from).map(|()| None),
                Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
                    self.copy_in(&source, &to, file)?;
                }
                Err(e) => return Err(e),
            }
        }
        // Once more: it may have been written to while it was copied.
        match folder::compare(&source, file.bytes, &file.sha256)? {
            ConfirmAnswer::Missing => Ok(None),
            ConfirmAnswer::Durable => vmsync_store::remove_file_durably(&source).map(|()| None),
            ConfirmAnswer::Different { .. } => folder::hash_file(&source).map(Some),
        }
    }

    /// To another file system: under a hidden name first, and compared.
    fn copy_in(&self, source: &Path, to: &Path, file: &Confirmed) -> io::Result<()> {
        folder::room_for(&self.folder, file.bytes, self.reserve).map_err(io::Error::other)?;
        let part = self.folder.join(file.name.temporary(&file.sha256));
        match fs::remove_file(&part) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let copied = copy(source, &part).and_then(|()| {
            let same = folder::compare(&part, file.bytes, &file.sha256)?;
            if same != ConfirmAnswer::Durable {
                let why = format!(
                    "the copy of {} in the archive is not what was copied",
                    file.name
                );
                return Err(io::Error::other(why));
            }
            folder::publish(&part, to)
        });
        if copied.is_err() {
            // Best effort: it is written over by the next try.
            let _ = fs::remove_file(&part);
        }
        copied
    }

    /// Sweeps every hour until `stop`.
    pub async fn run(self: Arc<Self>, now: fn() -> Now, stop: CancellationToken) {
        loop {
            let archive = self.clone();
            let swept = tokio::task::spawn_blocking(move || archive.sweep(now())).await;
            let failed = match swept {
                Ok(swept) => swept.err().map(|e| e.to_string()),
                Err(e) => Some(e.to_string()),
            };
            if let Some(error) = failed {
                tracing::warn!(error, "the archive of recordings was not gone through");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(SWEEP) => {}
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file and the name it is kept under.
struct Place<'u> {
    file: &'u Confirmed,
    name: String,
    /// An earlier try has brought it there already.
    there: bool,
}

impl Place<'_> {
    fn record(&self, kept_at: u64, unit: &str) -> Kept {
        Kept {
            unit: unit.to_owned(),
            name: self.file.name.as_str().to_owned(),
            remote_name: self.file.remote_name.clone(),
            bytes: self.file.bytes,
            sha256: self.file.sha256.clone(),
            confirmed_at: self.file.confirmed_at,
            kept_at,
        }
    }
}
