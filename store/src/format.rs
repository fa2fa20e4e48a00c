//! The data folder: who may use it, and what wrote it.
//!
//! ```text
//! <data>/LOCK            held while a process uses the folder
//! <data>/FORMAT          "vmsync-store", version, node: three lines
//! <data>/COMMITTED       number of the last commit (see `watermark`)
//! <data>/SUSPECT         why the index is not trusted, if it is not (see `verify`)
//! <data>/db/             sled index (see `index`)
//! <data>/restoring/      a restore under way (see `restore`)
//! <data>/replaced-*/     stores a restore has set aside
//! <data>/db.damaged-*/   damaged indexes, set aside (see `rebuild`)
//! <data>/audio/          audio files (see `blobs`)
//! ```

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    thread,
    time::Duration,
};

use vmsync_config::words::{NodeId, UnixMillis};

use crate::{durable, error::StoreError};

/// A store being restored from a backup lies here until it is whole (see `restore`).
pub(crate) const RESTORING: &str = "restoring";

const MAGIC: &str = "vmsync-store";
/// The layout this program writes and reads. Raise it when an older program could not use the
/// folder any more, and teach [`check`] to bring the old one up.
const VERSION: u32 = 2;

/// Creates a folder that only this user may enter, and makes it durable.
pub(crate) fn create_dir(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => durable::sync_dir(dir.parent().unwrap_or(dir)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

/// A time as part of a file's name: `20261122T112431Z`.
pub(crate) fn in_a_name(at: UnixMillis) -> String {
    let text = at.to_string();
    let whole = text.split('.').next().unwrap_or(&text);
    let kept = whole.chars().filter(char::is_ascii_alphanumeric);
    let mut name: String = kept.collect();
    if !name.ends_with('Z') {
        name.push('Z');
    }
    name
}

/// How long a folder in use is waited for: a process being killed, or one just being started by
/// the one that closed the folder, holds on to the lock for a moment.
const PATIENCE: (u32, Duration) = (20, Duration::from_millis(50));

/// Takes the folder for this process; the lock falls with the file, also when the process dies.
pub(crate) fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("LOCK");
    let failed = |e| StoreError::io(format!("locking {}", path.display()), e);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    for _ in 0..PATIENCE.0 {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => thread::sleep(PATIENCE.1),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
    }
    Err(StoreError::InUse(dir.to_owned()))
}

/// Checks that the folder is this node's and of a version this program knows; a new folder
/// becomes both.
pub(crate) fn check(dir: &Path, node: &NodeId) -> Result<(), StoreError> {
    if dir.join(RESTORING).exists() {
        return Err(StoreError::Conflict(format!(
            "a restore into {} was cut off; run the same `vmsync store restore` again, or remove {}",
            dir.display(),
            dir.join(RESTORING).display()
        )));
    }
    let path = dir.join("FORMAT");
    match std::fs::read_to_string(&path) {
        Ok(text) => match read(dir, &text, node)? {
            VERSION => Ok(()),
            // So that an older program leaves alone what is brought up from here on (`upgrade`).
            _ => write(&path, node),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if dir.join("db").exists() || dir.join("audio").exists() {
                return Err(StoreError::Conflict(format!(
                    "{} holds data but no FORMAT file, so it is not known what wrote it; restore the FORMAT file, or set the folder aside: the node then fills a new one from its peer",
                    dir.display()
                )));
            }
            write(&path, node)
        }
        Err(e) => Err(StoreError::io(format!("reading {}", path.display()), e)),
    }
}

pub(crate) fn write(path: &Path, node: &NodeId) -> Result<(), StoreError> {
    let text = format!("{MAGIC}\nversion {VERSION}\nnode {node}\n");
    durable::write_file_durably(path, text.as_bytes())
        .map_err(|e| StoreError::io(format!("writing {}", path.display()), e))
}

/// The version the folder has.
fn read(dir: &Path, text: &str, node: &NodeId) -> Result<u32, StoreError> {
    let mut lines = text.lines();
    let magic = lines.next() == Some(MAGIC);
    let version = lines
        .next()
        .and_then(|l| l.strip_prefix("version "))
        .and_then(|v| v.parse::<u32>().ok());
    let (true, Some(version)) = (magic, version) else {
        return Err(StoreError::Conflict(format!(
            "{} does not begin with {MAGIC:?} and a version, so it is not known what wrote the folder; put the FORMAT file back, or set the folder aside: the node then fills a new one from its peer",
            dir.join("FORMAT").display()
        )));
    };
    if version > VERSION {
        return Err(StoreError::Conflict(format!(
            "the data folder {} has format version {version}; this program reads up to version {VERSION}: install the vmsync release that wrote it, or a later one",
            dir.display()
        )));
    }
    let owner = lines.next().and_then(|l| l.strip_prefix("node "));
    if owner != Some(node.as_str()) {
        return Err(StoreError::Conflict(format!(
            "the data folder {} belongs to node {}, not to {node}; give this node a data_dir of its own",
            dir.display(),
            owner.unwrap_or("(unnamed)")
        )));
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str) -> NodeId {
        id.parse().unwrap()
    }

    #[test]
    fn a_folder_stays_with_its_node_and_version() {
        let dir = tempfile::tempdir().unwrap();
        check(dir.path(), &node("vmpro1")).unwrap();
        check(dir.path(), &node("vmpro1")).unwrap();
        let error = check(dir.path(), &node("vmpro2")).unwrap_err().to_string();
        assert!(error.contains("node vmpro1, not to vmpro2"), "{error}");

        let path = dir.path().join("FORMAT");
        std::fs::write(&path, "vmsync-store\nversion 1\nnode vmpro1\n").unwrap();
        check(dir.path(), &node("vmpro1")).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "vmsync-store\nversion 2\nnode vmpro1\n");

        let newer = "vmsync-store\nversion 7\nowner vmpro1\n";
        std::fs::write(dir.path().join("FORMAT"), newer).unwrap();
        let error = check(dir.path(), &node("vmpro1")).unwrap_err().to_string();
        assert!(error.contains("version 7"), "{error}");
        assert!(error.contains("up to version 2"), "{error}");
        assert!(error.contains("install the vmsync release"), "{error}");

        std::fs::write(dir.path().join("FORMAT"), "SQLite format 3").unwrap();
        assert!(check(dir.path(), &node("vmpro1")).is_err());
    }

    #[test]
    fn data_without_a_format_file_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("db")).unwrap();
        let error = check(dir.path(), &node("vmpro1")).unwrap_err().to_string();
        assert!(error.contains("no FORMAT file"), "{error}");
    }

    #[test]
    fn a_time_in_a_name_sorts_and_needs_no_quotes() {
        let name = |ms| in_a_name(UnixMillis(ms));
        assert_eq!(name(1_790_000_000_123), "20260921T141320Z");
        assert!(name(1_790_000_000_000) < name(1_790_000_001_000));
    }

    #[test]
    fn a_second_user_of_the_folder_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        let error = lock(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("in use by another vmsync process"),
            "{error}"
        );
        drop(held);
        lock(dir.path()).unwrap();
    }
}
