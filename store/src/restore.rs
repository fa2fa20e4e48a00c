//! A store from a backup.
//!
//! Everything in the backup is verified first: its manifest, its records against their SHA-256,
//! every audio file against its own. Then a new store is built beside whatever is in the data
//! folder, and at last put in its place:
//!
//! ```text
//! <data>/restoring/…        the new store; `READY` in it once it is whole
//! <data>/replaced-TIME/…    what was there before (only where that was asked for)
//! ```
//!
//! Everything stays inside the data folder, which may be a mount point. Interrupted before `READY`,
//! the next try begins anew; after it, it goes on with the moves, each of which can tell whether
//! it was done. Meanwhile no node starts on the folder.
//!
//! The new store is of a new incarnation and joins the records as a seeding would: vector and floor
//! of its logs are those of the backup. So it is as any node that was away since: the peer gives it
//! what is newer, and gets what it lacks itself.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use vmsync_config::words::{Origin, UnixMillis, Vector};

use crate::{
    backup::{self, Line, Manifest, Progress},
    blobs::Blobs,
    commit::{Committer, INDEX},
    disk::{Disk, Purpose},
    durable,
    error::StoreError,
    format,
    join::{PeerRecord, audio_refs},
    limits,
    operation::EntityKey,
    rebuild::remove_folder,
    record::Record,
    seed::SeedStep,
    store::{Options, Store},
    watermark,
};

const READY: &str = "READY";
/// A line of `records.jsonl` has at most so many bytes.
const MAX_LINE: u64 = limits::RECORD as u64 + 4096;
/// Records joined as one.
const BATCH: usize = 256;
/// … and the bytes of their lines.
const BATCH_BYTES: usize = 16 * 1024 * 1024;
/// Room asked for one record, in bytes.
const PER_RECORD: u64 = 4 * 1024;

/// What to restore, and where.
#[derive(Debug)]
pub struct RestoreFrom<'a> {
    /// The backup's folder.
    pub backup: &'a Path,
    /// The data folder; created where it is missing.
    pub dir: &'a Path,
    /// The node it is for. (It may be the other one of the pair than the backup was made of.)
    pub options: Options,
    /// Set aside what the data folder holds; without it a folder that holds a store is refused.
    pub replace: bool,
    /// Leave out records whose audio is damaged in the backup; without it such a backup is refused.
    pub leave_out_damaged: bool,
}

/// What came of a restore.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    /// What the backup says of itself.
    pub backup: Manifest,
    /// The new store's origin.
    pub origin: Origin,
    /// Records restored.
    pub records: u64,
    /// Entities left out, because their audio is missing or damaged in the backup.
    pub left_out: Vec<String>,
    /// Where the store that was there before lies now.
    pub replaced: Option<PathBuf>,
}

/// Builds a store from a backup; see the head of this module. `progress` is told twice how far it
/// is: while everything is verified, and while the store is built.
///
/// # Errors
/// [`StoreError::Invalid`] when the backup is damaged or no backup, [`StoreError::Conflict`] when
/// the data folder is in use or holds a store, [`StoreError::Full`], [`StoreError::Io`].
#[allow(
    clippy::needless_pass_by_value,
    reason = "as `Store::open`, whose place it takes"
)]
pub fn restore(
    from: RestoreFrom<'_>,
    progress: &mut dyn FnMut(&str, Progress),
) -> Result<Restored, StoreError> {
    let dir = from.dir;
    let failed = |e| StoreError::io(format!("restoring into {}", dir.display()), e);
    fs::create_dir_all(dir).map_err(failed)?;
    let lock = format::lock(dir)?;
    let building = dir.join(format::RESTORING);
    let mut restored = if let Some(restored) = ready(&building) {
        if backup::read_manifest(from.backup).is_ok_and(|m| m != restored.backup) {
            return Err(StoreError::Conflict(format!(
                "the restore of another backup ({} of {}) was cut off in its last step: run that one again first",
                restored.backup.node, restored.backup.started
            )));
        }
        restored
    } else {
        if holds_a_store(dir) && !from.replace {
            return Err(StoreError::Conflict(format!(
                "{} holds a store already; to put the backup in its place say --force: what is there is set aside, not removed",
                dir.display()
            )));
        }
        remove_folder(&building).map_err(failed)?;
        let manifest = backup::read_manifest(from.backup)?;
        let left_out = verify(&from, &manifest, progress)?;
        build(&from, &building, &lock, manifest, &left_out, progress)?
    };
    let at = (from.options.clock)();
    restored.replaced = put_in_place(dir, &building, at).map_err(failed)?;
    Ok(restored)
}

/// What a restore cut off during its last moves has built.
fn ready(building: &Path) -> Option<Restored> {
    serde_json::from_slice(&fs::read(building.join(READY)).ok()?).ok()
}

fn holds_a_store(dir: &Path) -> bool {
    ["FORMAT", INDEX, "audio"]
        .iter()
        .any(|name| dir.join(name).exists())
}

/// Reads all of the backup; gives the entities whose audio is missing or damaged.
fn verify(
    from: &RestoreFrom<'_>,
    manifest: &Manifest,
    progress: &mut dyn FnMut(&str, Progress),
) -> Result<BTreeSet<EntityKey>, StoreError> {
    let audio = Blobs::at(&from.backup.join(backup::AUDIO));
    let mut bad = BTreeSet::new();
    let mut first = None;
    let mut done = Progress::default();
    let mut lines = Lines::open(from.backup)?;
    while let Some((entity, value, _)) = lines.next()? {
        let record = Record::from_value(&value).map_err(|e| lines.damaged(e))?;
        for audio_ref in audio_refs(&record) {
            match audio.verify(&audio_ref) {
                Ok(()) => done.audio_files += 1,
                Err(error) => {
                    first.get_or_insert_with(|| {
                        format!("audio {} of {entity}: {error}", audio_ref.blob)
                    });
                    bad.insert(entity.clone());
                }
            }
        }
        done.records += 1;
        progress("verified", done);
    }
    lines.complete(manifest)?;
    // What was damaged when the backup was made is known and can't be helped.
    if bad.len() as u64 > manifest.without_audio && !from.leave_out_damaged {
        return Err(StoreError::Invalid(format!(
            "the backup {} is damaged: audio of {} records, the first: {}; take another backup, or restore the rest with --leave-out-damaged",
            from.backup.display(),
            bad.len(),
            first.unwrap_or_default()
        )));
    }
    Ok(bad)
}

/// Builds the new store in the folder `building`.
fn build(
    from: &RestoreFrom<'_>,
    building: &Path,
    lock: &File,
    manifest: Manifest,
    left_out: &BTreeSet<EntityKey>,
    progress: &mut dyn FnMut(&str, Progress),
) -> Result<Restored, StoreError> {
    let failed = |e| StoreError::io(format!("restoring into {}", building.display()), e);
    let Options {
        node,
        min_free_bytes,
        clock,
    } = &from.options;
    format::create_dir(building).map_err(failed)?;
    let disk = Disk {
        dir: building.to_owned(),
        reserve: *min_free_bytes,
    };
    let device = |path| fs::metadata(path).map(|m| m.dev());
    let linked = device(from.backup).map_err(failed)? == device(building).map_err(failed)?;
    let copies = if linked { 0 } else { manifest.audio_bytes };
    let room = manifest.records.saturating_mul(PER_RECORD);
    disk.room_for(room.saturating_add(copies), Purpose::Content)?;

    let blobs = Blobs::open(building).map_err(failed)?;
    let committer = Committer::create(disk.clone(), &blobs, INDEX, node)?;
    let lock = lock.try_clone().map_err(failed)?;
    let store = Store::of(lock, disk, blobs, committer, *clock)?;
    let restored = Restored {
        origin: store.origin(),
        records: manifest.records.saturating_sub(left_out.len() as u64),
        left_out: left_out.iter().map(ToString::to_string).collect(),
        backup: manifest,
        replaced: None,
    };
    join_all(from, &store, left_out, &restored.backup, progress)?;
    store.inner.blobs.sync_folders().map_err(failed)?;
    drop(store);
    format::write(&building.join("FORMAT"), node)?;
    let told = serde_json::to_vec(&restored).map_err(|e| failed(e.into()))?;
    durable::write_file_durably(&building.join(READY), &told).map_err(failed)?;
    Ok(restored)
}

fn join_all(
    from: &RestoreFrom<'_>,
    store: &Store,
    left_out: &BTreeSet<EntityKey>,
    manifest: &Manifest,
    progress: &mut dyn FnMut(&str, Progress),
) -> Result<(), StoreError> {
    let mut joining = Joining {
        store,
        backup: Blobs::at(&from.backup.join(backup::AUDIO)),
        manifest,
        records: Vec::new(),
        bytes: 0,
        after: None,
        done: Progress::default(),
    };
    let mut lines = Lines::open(from.backup)?;
    while let Some((entity, record, bytes)) = lines.next()? {
        if left_out.contains(&entity) {
            continue;
        }
        joining.take(PeerRecord { entity, record }, bytes)?;
        if joining.records.len() >= BATCH || joining.bytes >= BATCH_BYTES {
            joining.join(false)?;
            progress("restored", joining.done);
        }
    }
    joining.join(true)?;
    progress("restored", joining.done);
    Ok(())
}

/// The records of a backup on their way into the new store.
struct Joining<'a> {
    store: &'a Store,
    backup: Blobs,
    manifest: &'a Manifest,
    records: Vec<PeerRecord>,
    bytes: usize,
    after: Option<String>,
    done: Progress,
}

impl Joining<'_> {
    /// Puts the audio of a record in its place, and the record to those joined next.
    fn take(&mut self, given: PeerRecord, bytes: usize) -> Result<(), StoreError> {
        let PeerRecord { entity, record } = &given;
        let read = Record::from_value(record)
            .map_err(|e| StoreError::Invalid(format!("the record of {entity}: {e}")))?;
        for audio in audio_refs(&read) {
            let blob = audio.blob;
            let blobs = &self.store.inner.blobs;
            if blobs.find(blob).is_none() {
                let doing = || format!("restoring audio {blob} of {entity}");
                let gone = || io::Error::from(io::ErrorKind::NotFound);
                let from = self.backup.find(blob).ok_or_else(gone);
                from.and_then(|from| blobs.take_over(blob, &from, None))
                    .map_err(|e| StoreError::io(doing(), e))?;
                self.done.audio_files += 1;
            }
        }
        self.done.records += 1;
        self.records.push(given);
        self.bytes += bytes;
        Ok(())
    }

    /// Joins what was taken, as a step of a seeding; the last one raises the vector.
    fn join(&mut self, last: bool) -> Result<(), StoreError> {
        let records = std::mem::take(&mut self.records);
        self.bytes = 0;
        let through = records.last().map(|r| r.entity.to_string());
        let upto = self.manifest.vector.clone();
        if upto.is_empty() {
            // Nothing was held when the backup began: there is nothing to be seeded up to.
            return self.store.join(&records, None).map(drop);
        }
        let through = through.filter(|_| !last);
        let step = SeedStep {
            upto,
            // A backup holds every record there was.
            beyond: Vector::default(),
            after: self.after.take(),
            through: through.clone(),
        };
        self.after = through;
        self.store.join(&records, Some(&step)).map(drop)
    }
}

/// Puts the new store in its place, and what is there aside. Each step can tell whether it was done:
/// what lies in `building` still has not been moved. `FORMAT` goes last.
fn put_in_place(dir: &Path, building: &Path, at: UnixMillis) -> io::Result<Option<PathBuf>> {
    let aside = dir.join(format!("replaced-{}", format::in_a_name(at)));
    let mut replaced = None;
    for name in ["audio", INDEX, watermark::NAME, "FORMAT"] {
        let (new, place) = (building.join(name), dir.join(name));
        if !new.exists() {
            continue;
        }
        if place.exists() {
            fs::create_dir_all(&aside)?;
            durable::rename(&place, &aside.join(name))?;
            durable::sync_dir(&aside)?;
            replaced = Some(aside.clone());
        }
        durable::rename(&new, &place)?;
        durable::sync_dir(dir)?;
    }
    remove_folder(building)?;
    durable::sync_dir(dir)?;
    Ok(replaced)
}

/// The records of a backup, line by line.
struct Lines {
    file: BufReader<File>,
    path: PathBuf,
    hash: Sha256,
    seen: u64,
    /// The last line was read, and says so many.
    end: Option<u64>,
}

impl Lines {
    fn open(backup: &Path) -> Result<Self, StoreError> {
        let path = backup.join(backup::RECORDS);
        let file = File::open(&path)
            .map_err(|e| StoreError::io(format!("reading {}", path.display()), e))?;
        Ok(Self {
            file: BufReader::new(file),
            path,
            hash: Sha256::new(),
            seen: 0,
            end: None,
        })
    }

    fn damaged(&self, why: impl std::fmt::Display) -> StoreError {
        StoreError::Invalid(format!(
            "the backup is damaged: {} line {}: {why}; take another backup",
            self.path.display(),
            self.seen + 1
        ))
    }

    /// The next record and the length of its line; `None` at the end.
    fn next(&mut self) -> Result<Option<(EntityKey, serde_json::Value, usize)>, StoreError> {
        let mut line = Vec::new();
        self.file
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .map_err(|e| StoreError::io(format!("reading {}", self.path.display()), e))?;
        if line.last() != Some(&b'\n') {
            return Err(self.damaged("it has no end"));
        }
        let before = self.hash.clone();
        self.hash.update(&line);
        match serde_json::from_slice(&line).map_err(|e| self.damaged(e))? {
            Line::Record { entity, record } => {
                self.seen += 1;
                Ok(Some((entity, record, line.len())))
            }
            Line::End { records, sha256 } => {
                if records != self.seen || sha256 != hex::encode(before.finalize()) {
                    return Err(
                        self.damaged("the records before are not those it was written with")
                    );
                }
                self.end = Some(records);
                Ok(None)
            }
        }
    }

    /// All was read; whether it is what the manifest says, and nothing follows.
    fn complete(mut self, manifest: &Manifest) -> Result<(), StoreError> {
        let more = self.file.fill_buf().map_or(0, <[u8]>::len);
        let same = hex::encode(self.hash.clone().finalize()) == manifest.records_sha256;
        if more > 0 || !same || self.end != Some(manifest.records) {
            return Err(self.damaged("it is not the file its manifest was written for"));
        }
        Ok(())
    }
}
