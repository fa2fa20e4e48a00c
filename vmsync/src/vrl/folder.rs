//! The VRL folder: flat, one file per recording. Hidden names and `.part` are unfinished files.
//!
//! Guarantees: a recording taken in is durable before its caller hears of it; no recording is
//! ever replaced by other content; a file is removed only while its content is the one named.
//! Everything here blocks but [`take`].

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use vmsync_core::vrl::{ConfirmAnswer, InvalidName, Part, RecordingName, is_file_name, is_ignored};

use super::stamp::Stamp;

use super::recent::{Key, TICK, recent};

/// A recording taken in, durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Taken {
    /// Its name in the folder: the one asked for, or `name~<8 hex>.ext` when that holds other content.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
    /// False when the same recording was there already.
    pub new: bool,
}

/// Why a recording was not taken in. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The name is unfit: HTTP 400.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The bytes are not those announced: HTTP 400.
    #[error("the recording's SHA-256 is {got}, not {announced} as announced; send it again")]
    Damaged {
        /// What the sender said.
        announced: String,
        /// What arrived.
        got: String,
    },
    /// Under the reserve: HTTP 507.
    #[error(
        "the disk of {folder} is full: {free} bytes free, {reserve} kept in reserve; free some space, then try again"
    )]
    Full {
        /// The folder.
        folder: PathBuf,
        /// Bytes free.
        free: u64,
        /// The configured reserve.
        reserve: u64,
    },
    /// The disk failed: HTTP 500.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, with the path.
        doing: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

pub use vmsync_core::vrl::Found;

/// What the folder holds.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Recordings, in order of name.
    pub recordings: Vec<Found>,
    /// Files that can't be moved, with the reason; at most 100 of them.
    pub unfit: Vec<String>,
}

/// What came of removing a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// Gone.
    Removed,
    /// It was not there.
    Gone,
    /// It has other content, and stays.
    Changed,
}

/// Puts a recording into the folder, durable when this returns. The same name with the same
/// content is no error; with other content both are kept.
pub async fn take(
    folder: &Path,
    name: &str,
    bytes: impl Into<bytes::Bytes>,
    sha256: Option<&str>,
    reserve: u64,
) -> Result<Taken, TakeError> {
    let name = RecordingName::new(name)?;
    let (folder, bytes) = (folder.to_owned(), bytes.into());
    let announced = sha256.map(str::to_ascii_lowercase);
    let shown = folder.display().to_string();
    tokio::task::spawn_blocking(move || {
        take_blocking(&folder, &name, &bytes, announced.as_deref(), reserve)
    })
    .await
    .unwrap_or_else(|e| Err(failed(format!("writing to {shown}"), io::Error::other(e))))
}

fn take_blocking(
    folder: &Path,
    name: &RecordingName,
    bytes: &[u8],
    announced: Option<&str>,
    reserve: u64,
) -> Result<Taken, TakeError> {
    let sha256 = hex::encode(Sha256::digest(bytes));
    if let Some(announced) = announced.filter(|a| *a != sha256) {
        return Err(TakeError::Damaged {
            announced: announced.to_owned(),
            got: sha256,
        });
    }
    fs::create_dir_all(folder).map_err(|e| failed(format!("creating {}", folder.display()), e))?;
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    room_for(folder, length, reserve)?;
    let _names = names();
    for name in name.candidates(&sha256) {
        let path = folder.join(&name);
        let doing = || format!("writing {}", path.display());
        match compare(&path, length, &sha256).map_err(|e| failed(doing(), e))? {
            ConfirmAnswer::Durable => {
                return Ok(Taken {
                    name,
                    bytes: length,
                    sha256,
                    new: false,
                });
            }
            ConfirmAnswer::Different { .. } => {}
            ConfirmAnswer::Missing => {
                vmsync_store::write_file_durably(&path, bytes)
                    .map_err(|e| write_failed(folder, reserve, doing(), e))?;
                return Ok(Taken {
                    name,
                    bytes: length,
                    sha256,
                    new: true,
                });
            }
        }
    }
    let taken = io::Error::other("every name kept for it holds other content");
    Err(failed(
        format!("writing {name} to {}", folder.display()),
        taken,
    ))
}

/// Refuses when `bytes` more would eat into the reserve.
pub(crate) fn room_for(folder: &Path, bytes: u64, reserve: u64) -> Result<(), TakeError> {
    let free = vmsync_store::free_bytes(folder).map_err(|e| {
        failed(
            format!("asking for the free space of {}", folder.display()),
            e,
        )
    })?;
    if free < reserve.saturating_add(bytes) {
        return Err(TakeError::Full {
            folder: folder.to_owned(),
            free,
            reserve,
        });
    }
    Ok(())
}

/// What is in the folder, in order of name. A missing folder is an empty one.
pub fn list(folder: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(listing),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // A file may go between the two calls; links are not followed.
        let Ok(meta) = entry.metadata() else { continue };
        if is_ignored(&name) || !meta.is_file() {
            continue;
        }
        match (RecordingName::new(&name), entry.file_name().to_str()) {
            (Ok(name), Some(_)) => listing.recordings.push(Found {
                name,
                bytes: meta.len(),
                modified: meta.modified()?,
            }),
            (Err(e), _) if listing.unfit.len() < 100 => listing.unfit.push(e.to_string()),
            (Ok(name), None) if listing.unfit.len() < 100 => {
                listing.unfit.push(format!("{name} is not UTF-8"));
            }
            _ => {}
        }
    }
    listing.recordings.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(listing)
}

/// Length and SHA-256 (lower-case hex) of a file.
pub fn hash_file(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0_u8; 256 * 1024];
    let mut bytes = 0_u64;
    loop {
        let n = match file.read(&mut buffer) {
            Ok(0) => return Ok((bytes, hex::encode(hash.finalize()))),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        hash.update(buffer.get(..n).unwrap_or_default());
        bytes += n as u64;
    }
}

/// The receiving side's answer: is `name` here with this length and SHA-256? If so, it is made
/// durable before this returns. Unfinished uploads (their temporary name) may be asked about too.
pub fn confirm_local(
    folder: &Path,
    name: &str,
    bytes: u64,
    sha256: &str,
) -> io::Result<ConfirmAnswer> {
    if !is_askable(name) {
        let why = format!("{name:?} is not the name of a recording");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let (path, sha256) = (folder.join(name), sha256.to_ascii_lowercase());
    let meta = match fs::symlink_metadata(&path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(ConfirmAnswer::Missing),
        Err(e) => return Err(e),
    };
    if !meta.is_file() || meta.len() != bytes {
        let (bytes, sha256) = (meta.len(), String::new());
        return Ok(ConfirmAnswer::Different { bytes, sha256 });
    }
    let (key, found) = hash_known(&path)?;
    if found != sha256 {
        return Ok(ConfirmAnswer::Different {
            bytes,
            sha256: found,
        });
    }
    if !key.is_some_and(|key| recent().is_durable(&key, &path)) {
        vmsync_store::sync_bytes(&path)?;
        vmsync_store::sync_names(folder)?;
        if let Some(key) = key {
            recent().note(key, &found, Some(&path));
        }
    }
    Ok(ConfirmAnswer::Durable)
}

/// SHA-256 (lower-case hex) of a file; read only if nothing is known of it since its last change.
/// With it the key under which it may be remembered: none while the file may still be written to.
pub(crate) fn hash_known(path: &Path) -> io::Result<(Option<Key>, String)> {
    /// Files that take longer to read than [`TICK`].
    const LARGE: u64 = 8 << 20;
    let meta = fs::metadata(path)?;
    let mut key = Key::of(&meta);
    if let Some(sha256) = recent().sha256(&key) {
        return Ok((Some(key), sha256));
    }
    let mut settled = key.is_settled(crate::clock::wall().0);
    if !settled && meta.len() > LARGE {
        // Costs less than reading it again at the next question.
        std::thread::sleep(TICK);
        key = Key::of(&fs::metadata(path)?);
        settled = key.is_settled(crate::clock::wall().0);
    }
    let (_, sha256) = hash_file(path)?;
    if !settled || Key::of(&fs::metadata(path)?) != key {
        return Ok((None, sha256));
    }
    recent().note(key, &sha256, None);
    Ok((Some(key), sha256))
}

/// A look at one file of the folder; `None` when it is not there, or no file.
pub(crate) fn look(folder: &Path, name: &RecordingName) -> io::Result<Option<Found>> {
    match fs::symlink_metadata(folder.join(name.as_str())) {
        Ok(meta) if meta.is_file() => Ok(Some(Found {
            name: name.clone(),
            bytes: meta.len(),
            modified: meta.modified()?,
        })),
        Ok(_) => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Removes a file, provided its content still is the one named. With the stamp it had when
/// it was read it need not be read again.
pub(crate) fn remove_if_same(
    folder: &Path,
    file: &Part,
    stamp: Option<Stamp>,
) -> io::Result<Removal> {
    let _names = names();
    let path = folder.join(file.name.as_str());
    let unchanged = match stamp.map(|stamp| stamp.is_of(&path)) {
        Some(Err(e)) if e.kind() == io::ErrorKind::NotFound => return Ok(Removal::Gone),
        Some(unchanged) => unchanged?,
        None => false,
    };
    let answer = if unchanged {
        ConfirmAnswer::Durable
    } else {
        compare(&path, file.bytes, &file.sha256)?
    };
    match answer {
        ConfirmAnswer::Missing => Ok(Removal::Gone),
        ConfirmAnswer::Durable => {
            // The caller syncs the folder, once for all that it removes.
            fs::remove_file(&path)?;
            Ok(Removal::Removed)
        }
        ConfirmAnswer::Different { .. } => Ok(Removal::Changed),
    }
}

/// Gives a finished upload its name, durably, never replacing anything: `AlreadyExists` when the
/// name is taken. What is known of its content stays known.
pub(crate) fn publish(part: &Path, to: &Path) -> io::Result<()> {
    let key = Key::of(&fs::metadata(part)?);
    vmsync_store::sync_bytes(part)?;
    {
        let _names = names();
        vmsync_store::rename_new(part, to)?;
    }
    // Looked at before the folder is synced: a name that is not durable yet is told to nobody.
    let after = Key::of(&fs::symlink_metadata(to)?);
    vmsync_store::sync_names(to.parent().unwrap_or(Path::new(".")))?;
    recent().renamed(&key, after, to);
    Ok(())
}

/// Compares a file with length and hash; links and folders count as other content.
pub(crate) fn compare(path: &Path, bytes: u64, sha256: &str) -> io::Result<ConfirmAnswer> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(ConfirmAnswer::Missing),
        Err(e) => return Err(e),
    };
    if !meta.is_file() || meta.len() != bytes {
        return Ok(ConfirmAnswer::Different {
            bytes: meta.len(),
            sha256: String::new(),
        });
    }
    let (bytes, found) = hash_file(path)?;
    Ok(if found == sha256 {
        ConfirmAnswer::Durable
    } else {
        ConfirmAnswer::Different {
            bytes,
            sha256: found,
        }
    })
}

// A recording, or the unfinished upload of one.
fn is_askable(name: &str) -> bool {
    let unfinished = name.starts_with('.') && name.strip_suffix(".part").is_some();
    is_file_name(name) && (unfinished || !is_ignored(name))
}

// One decision about names at a time, so that "is it free?" holds until it is taken.
fn names() -> MutexGuard<'static, ()> {
    static NAMES: Mutex<()> = Mutex::new(());
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(doing: String, source: io::Error) -> TakeError {
    TakeError::Io { doing, source }
}

fn write_failed(folder: &Path, reserve: u64, doing: String, e: io::Error) -> TakeError {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => TakeError::Full {
            folder: folder.to_owned(),
            free: vmsync_store::free_bytes(folder).unwrap_or(0),
            reserve,
        },
        _ => failed(doing, e),
    }
}

#[cfg(test)]
mod tests;
