//! Backups: everything held, in a folder of its own, written while the store is in use.
//!
//! ```text
//! <into>/vmpro1-20261122T112431Z/manifest.json   what it is; written last: with it, it is complete
//!                                records.jsonl   a record a line, in order of key; then its SHA-256
//!                                audio/<2 hex>/  audio files, as in the data folder
//! <into>/….partial                               under way, or cut off: the next backup removes it
//! ```
//!
//! # What it promises
//! The vector in the manifest is that of the store before the first record was read, and every
//! record is read at that state or a later one, from what is durable. So whoever joins all records
//! holds everything up to that vector, as after a seeding. An audio file is in the backup before
//! the record that needs it is written.
//!
//! # Room and time
//! Audio files never change. On the same file system they are hard links, on another those the
//! last backup has are links to it: only what is new is copied. One thread reads page by page, so
//! memory stays small and calls go first. Node-local records (ownership, alarms, the journal of
//! recordings) are not in it: a restored node asks its peer.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::TryLockError,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use vmsync_config::words::{NodeId, Origin, UnixMillis, Vector};

use crate::{
    blobs::Blobs,
    durable,
    error::StoreError,
    format,
    join::{HeldRecord, RecordsAsk},
    operation::{AudioRef, EntityKey},
    rebuild::remove_folder,
    store::Store,
};

/// In the manifest.
const FORMAT: &str = "vmsync-backup";
/// The layout this program writes and reads.
const VERSION: u32 = 1;
pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const RECORDS: &str = "records.jsonl";
pub(crate) const AUDIO: &str = "audio";
const PARTIAL: &str = ".partial";
/// A manifest larger than this is none.
const MAX_MANIFEST: u64 = 4 * 1024 * 1024;
/// Records read at once.
const PAGE: usize = 256;
/// … and their bytes, audio included.
const PAGE_BYTES: u64 = 64 * 1024 * 1024;
/// A record whose audio goes while it is read is read again so often.
const TRIES: usize = 10;
/// Damaged files are named in the manifest up to this many.
const NAMED: usize = 100;

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// `vmsync-backup`.
    pub format: String,
    /// Of the layout.
    pub version: u32,
    /// The node it was made of.
    pub node: NodeId,
    /// That node's origin then.
    pub origin: Origin,
    /// Everything up to it is in the backup.
    pub vector: Vector,
    /// Digest of the state, where nothing changed while it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// When it was begun.
    pub started: UnixMillis,
    /// When it was complete.
    pub finished: UnixMillis,
    /// Records.
    pub records: u64,
    /// SHA-256 of `records.jsonl`, lower-case hex. (That of each audio file stands in its record.)
    pub records_sha256: String,
    /// Audio files.
    pub audio_files: u64,
    /// Their audio, in bytes.
    pub audio_bytes: u64,
    /// Of those, copied rather than linked.
    pub copied: u64,
    /// Records whose audio was missing or damaged already.
    pub without_audio: u64,
    /// The first hundred of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without_audio_named: Vec<String>,
}

/// A complete backup.
#[derive(Debug, Clone, PartialEq)]
pub struct Backup {
    /// Its folder.
    pub path: PathBuf,
    /// What it says of itself.
    pub manifest: Manifest,
}

impl Backup {
    /// The name of its folder.
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

/// How far a backup or restore is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Records done.
    pub records: u64,
    /// Audio files done.
    pub audio_files: u64,
}

/// A line of `records.jsonl`.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Line {
    /// What is held of an entity.
    Record { entity: EntityKey, record: Value },
    /// The last line: how many there are, and the SHA-256 of all before.
    End { records: u64, sha256: String },
}

impl Store {
    /// Makes a backup in a new folder of its own below `into`, which is created where it is
    /// missing. `progress` is told how far it is, and stops it by answering false.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] while another one is under way, and when it was stopped;
    /// [`StoreError::Io`] when something can't be written: then nothing is left of it but what the
    /// next backup removes.
    pub fn backup(
        &self,
        into: &Path,
        progress: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Backup, StoreError> {
        let _alone = match self.inner.backing_up.try_lock() {
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(left)) => left.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Conflict(
                    "a backup is under way; wait for its end".into(),
                ));
            }
        };
        let failed = failure(into);
        fs::create_dir_all(into).map_err(&failed)?;
        let node = self.origin().node;
        remove_partial(into, &node).map_err(&failed)?;
        let started = self.now();
        let name = free_name(into, &node, started);
        let partial = into.join(format!("{name}{PARTIAL}"));
        format::create_dir(&partial).map_err(&failed)?;
        let earlier = backups(into, &node)?.pop();
        let mut writing = Writing {
            store: self,
            folder: &partial,
            earlier: earlier.map(|b| Blobs::at(&b.path.join(AUDIO))),
            audio: Blobs::at(&partial.join(AUDIO)),
            progress,
            manifest: self.new_manifest(started),
        };
        let written = writing.run();
        let manifest = writing.manifest;
        if let Err(error) = written {
            // Best effort: what stays is removed by the next one.
            let _ = remove_folder(&partial);
            return Err(error);
        }
        let path = into.join(name);
        durable::rename(&partial, &path)
            .and_then(|()| durable::sync_dir(into))
            .map_err(&failed)?;
        Ok(Backup { path, manifest })
    }

    fn new_manifest(&self, started: UnixMillis) -> Manifest {
        let (vector, digest) = self.digest();
        Manifest {
            format: FORMAT.into(),
            version: VERSION,
            node: self.origin().node,
            origin: self.origin(),
            vector,
            digest: Some(digest.0),
            started,
            finished: started,
            records: 0,
            records_sha256: String::new(),
            audio_files: 0,
            audio_bytes: 0,
            copied: 0,
            without_audio: 0,
            without_audio_named: Vec::new(),
        }
    }
}

/// Complete backups of `node` in `into`, oldest first. Whatever else lies there is passed over.
pub fn backups(into: &Path, node: &NodeId) -> Result<Vec<Backup>, StoreError> {
    let failed = failure(into);
    let mut found = Vec::new();
    let entries = match fs::read_dir(into) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
        other => other.map_err(&failed)?,
    };
    for entry in entries {
        let path = entry.map_err(&failed)?.path();
        if is_partial(&path) || !path.is_dir() {
            continue;
        }
        if let Ok(manifest) = read_manifest(&path)
            && manifest.node == *node
        {
            found.push(Backup { path, manifest });
        }
    }
    found.sort_by(|a, b| (a.manifest.started, &a.path).cmp(&(b.manifest.started, &b.path)));
    Ok(found)
}

/// Removes all but the newest `keep` complete backups of `node`; gives those removed. At least one
/// is kept.
pub fn prune_backups(into: &Path, node: &NodeId, keep: usize) -> Result<Vec<PathBuf>, StoreError> {
    let failed = failure(into);
    let mut old = backups(into, node)?;
    old.truncate(old.len().saturating_sub(keep.max(1)));
    let mut removed = Vec::new();
    for backup in old {
        // By its name first: half of a backup must not be taken for one.
        let partial = into.join(format!("{}{PARTIAL}", backup.name()));
        durable::rename(&backup.path, &partial)
            .and_then(|()| durable::sync_dir(into))
            .and_then(|()| remove_folder(&partial))
            .map_err(&failed)?;
        removed.push(backup.path);
    }
    Ok(removed)
}

/// Reads the manifest of a complete backup.
///
/// # Errors
/// [`StoreError::Invalid`] for a folder that is no backup this program can read, in words.
pub fn read_manifest(folder: &Path) -> Result<Manifest, StoreError> {
    let no = |why: String| {
        StoreError::Invalid(format!(
            "{} is no backup this program can restore: {why}",
            folder.display()
        ))
    };
    let path = folder.join(MANIFEST);
    let length = fs::metadata(&path)
        .map_err(|e| no(format!("{MANIFEST}: {e}")))?
        .len();
    if length > MAX_MANIFEST {
        return Err(no(format!("{MANIFEST} has {length} bytes")));
    }
    let text = fs::read_to_string(&path).map_err(|e| no(format!("{MANIFEST}: {e}")))?;
    let value: Value = serde_json::from_str(&text).map_err(|e| no(format!("{MANIFEST}: {e}")))?;
    if value["format"] != FORMAT {
        return Err(no(format!("{MANIFEST} does not say {FORMAT:?}")));
    }
    match value["version"].as_u64() {
        Some(version) if version > u64::from(VERSION) => {
            return Err(no(format!(
                "it has version {version}, and this program reads up to version {VERSION}: install a later release"
            )));
        }
        _ => {}
    }
    serde_json::from_value(value).map_err(|e| no(format!("{MANIFEST}: {e}")))
}

/// A backup being written.
struct Writing<'a> {
    store: &'a Store,
    folder: &'a Path,
    /// The audio of the backup before.
    earlier: Option<Blobs>,
    audio: Blobs,
    progress: &'a mut dyn FnMut(Progress) -> bool,
    manifest: Manifest,
}

impl Writing<'_> {
    fn run(&mut self) -> Result<(), StoreError> {
        let failed = failure(self.folder);
        fs::create_dir(self.folder.join(AUDIO)).map_err(&failed)?;
        self.records()?;
        self.audio.sync_folders().map_err(&failed)?;
        durable::sync_dir(self.folder).map_err(&failed)?;
        let (vector, digest) = self.store.digest();
        if vector != self.manifest.vector || Some(digest.0) != self.manifest.digest {
            self.manifest.digest = None;
        }
        self.manifest.finished = self.store.now();
        let text =
            serde_json::to_vec_pretty(&self.manifest).map_err(|e| failed(io::Error::from(e)))?;
        durable::write_file_durably(&self.folder.join(MANIFEST), &text).map_err(&failed)
    }

    fn records(&mut self) -> Result<(), StoreError> {
        let failed = failure(self.folder);
        let file = File::create_new(self.folder.join(RECORDS)).map_err(&failed)?;
        let mut out = Hashing {
            out: BufWriter::new(&file),
            hash: Sha256::new(),
        };
        let everything = Vector::default();
        let mut after: Option<String> = None;
        loop {
            let page = self.store.records(&RecordsAsk {
                after: after.as_deref(),
                lacking: &everything,
                max: PAGE,
                max_bytes: PAGE_BYTES,
            })?;
            for held in page.records {
                if let Some(held) = self.with_audio(held)? {
                    out.line(&Line::Record {
                        entity: held.entity,
                        record: held.record,
                    })
                    .map_err(&failed)?;
                    self.manifest.records += 1;
                }
                let done = Progress {
                    records: self.manifest.records,
                    audio_files: self.manifest.audio_files,
                };
                if !(self.progress)(done) {
                    return Err(StoreError::Conflict(
                        "the backup was stopped before its end; begin it again".into(),
                    ));
                }
            }
            after = page.through;
            if after.is_none() {
                break;
            }
        }
        let sha256 = hex::encode(out.hash.clone().finalize());
        let records = self.manifest.records;
        out.line(&Line::End { records, sha256 }).map_err(&failed)?;
        self.manifest.records_sha256 = hex::encode(out.hash.finalize());
        out.out.flush().map_err(&failed)?;
        drop(out.out);
        durable::sync(&file).map_err(&failed)
    }

    /// Takes over the audio of a record. Where a file went since the record was read, because the
    /// message was deleted or the greeting replaced, the record is read again.
    fn with_audio(&mut self, held: HeldRecord) -> Result<Option<HeldRecord>, StoreError> {
        let mut held = held;
        for _ in 0..TRIES {
            let gone = self.take(&held)?;
            if gone.is_empty() && held.missing.is_empty() {
                return Ok(Some(held));
            }
            let again = self.store.records_of(std::slice::from_ref(&held.entity))?;
            let Some(again) = again.into_iter().next() else {
                return Ok(None);
            };
            if again == held {
                // It is not a race: the file is missing or damaged.
                break;
            }
            held = again;
        }
        self.manifest.without_audio += 1;
        if self.manifest.without_audio_named.len() < NAMED {
            let named = &mut self.manifest.without_audio_named;
            named.push(held.entity.to_string());
        }
        Ok(Some(held))
    }

    /// Links or copies the record's files; gives those that are gone or damaged.
    fn take(&mut self, held: &HeldRecord) -> Result<Vec<AudioRef>, StoreError> {
        let mut bad = Vec::new();
        for audio in &held.audio {
            if self.audio.find(audio.blob).is_some() {
                continue;
            }
            let store = &self.store.inner.blobs;
            let sound = store.header(audio.blob).is_ok_and(|h| h.audio == *audio);
            let Some(from) = store.find(audio.blob).filter(|_| sound) else {
                bad.push(audio.clone());
                continue;
            };
            let earlier = self.earlier.as_ref().and_then(|e| e.find(audio.blob));
            match self.audio.take_over(audio.blob, &from, earlier.as_deref()) {
                Ok(copied) => self.manifest.copied += u64::from(copied),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    bad.push(audio.clone());
                    continue;
                }
                Err(e) => return Err(failure(self.folder)(e)),
            }
            self.manifest.audio_files += 1;
            self.manifest.audio_bytes += audio.bytes;
        }
        Ok(bad)
    }
}

/// Writes lines and hashes what it writes.
struct Hashing<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Hashing<W> {
    fn line(&mut self, line: &Line) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        self.hash.update(&bytes);
        self.out.write_all(&bytes)
    }
}

fn failure(folder: &Path) -> impl Fn(io::Error) -> StoreError + use<> {
    let doing = format!("writing a backup in {}", folder.display());
    move |e| StoreError::io(doing.clone(), e)
}

fn is_partial(path: &Path) -> bool {
    path.to_string_lossy().ends_with(PARTIAL)
}

/// Removes what earlier backups of this node left that were cut off.
fn remove_partial(into: &Path, node: &NodeId) -> io::Result<()> {
    for entry in fs::read_dir(into)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let of = name.strip_suffix(PARTIAL).and_then(|n| n.rsplit_once('-'));
        if of.is_some_and(|(of, _)| of == node.as_str()) {
            remove_folder(&entry.path())?;
        }
    }
    Ok(())
}

/// A name for a new backup that is not taken.
fn free_name(into: &Path, node: &NodeId, at: UnixMillis) -> String {
    let named = |at| format!("{node}-{}", format::in_a_name(at));
    // A second has room for one.
    (0..1_000_000)
        .map(|more| named(UnixMillis(at.0.saturating_add(more * 1000))))
        .find(|name| !into.join(name).exists())
        .unwrap_or_else(|| named(at))
}
