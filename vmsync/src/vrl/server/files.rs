//! The folder as FTP clients may use it.
//!
//! Flat: the configured location and `/` are the folder, and there is nothing below it. A client
//! may write, rename and delete *unfinished* files (`.part`); a finished recording it may read,
//! and never replace, rename or delete. A file gets a finished name only whole, durably, and
//! only if that name is free or holds the same content already.

use std::{
    io::{self, SeekFrom},
    path::{Path, PathBuf},
    time::SystemTime,
};

use tokio::{
    fs::{File, OpenOptions},
    io::AsyncSeekExt,
};

use crate::vrl::folder;

/// Why a client may not do that: an FTP reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    pub(crate) words: String,
}

impl Refusal {
    pub(crate) fn new(code: u16, words: impl Into<String>) -> Self {
        Self {
            code,
            words: words.into(),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(e: io::Error) -> Self {
        let code = match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => 550,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => 452,
            _ => 451,
        };
        Self::new(code, e.to_string())
    }
}

/// The folder and its rules.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) root: PathBuf,
    /// Clients ask for this path, or for `root` itself, and mean the folder.
    pub(crate) location: String,
    /// Largest upload.
    pub(crate) max_bytes: u64,
    /// Free bytes kept on the disk.
    pub(crate) reserve: u64,
}

/// An upload in progress: where it is written, and what becomes of it.
pub(crate) struct Upload {
    pub(crate) file: File,
    pub(crate) offset: u64,
    part: PathBuf,
    publish_as: Option<PathBuf>,
}

impl Files {
    /// Whether `path` is the folder itself.
    pub(crate) fn is_root(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        matches!(path, "" | ".") || self.locations().any(|l| same_folder(path, l))
    }

    /// Whether `path` is on the way to the folder, so that making it is no error.
    pub(crate) fn is_ancestor(&self, path: &str) -> bool {
        let below = format!("{}/", path.trim_matches('/'));
        self.is_root(path)
            || self
                .locations()
                .any(|l| l.trim_start_matches('/').starts_with(&below))
    }

    /// The paths clients may know the folder by: the usual one, and its own.
    fn locations(&self) -> impl Iterator<Item = &str> {
        [Some(self.location.as_str()), self.root.to_str()]
            .into_iter()
            .flatten()
    }

    /// The file a client means.
    pub(crate) fn path(&self, given: &str) -> Result<PathBuf, Refusal> {
        let name = match given.rsplit_once('/') {
            Some((folder, name)) if self.is_root(folder) => name,
            Some(_) => return Err(Refusal::new(553, "there are no folders below this one")),
            None => given,
        };
        if !vmsync_core::vrl::is_file_name(name) {
            return Err(Refusal::new(553, "this is not the name of a recording"));
        }
        Ok(self.root.join(name))
    }

    /// Length and time of a file.
    pub(crate) async fn stat(&self, given: &str) -> Result<(u64, SystemTime), Refusal> {
        let meta = tokio::fs::symlink_metadata(self.path(given)?).await?;
        if !meta.is_file() {
            return Err(Refusal::new(550, "not a file"));
        }
        Ok((meta.len(), meta.modified()?))
    }

    /// Opens a file for reading from `offset`.
    pub(crate) async fn read(&self, given: &str, offset: u64) -> Result<File, Refusal> {
        self.stat(given).await?;
        let mut file = File::open(self.path(given)?).await?;
        file.seek(SeekFrom::Start(offset)).await?;
        Ok(file)
    }

    /// Begins an upload. To a finished name it goes by way of a hidden `.part`, which is all
    /// that a broken upload leaves.
    pub(crate) async fn begin(&self, given: &str, offset: u64) -> Result<Upload, Refusal> {
        let to = self.path(given)?;
        let root = self.root.clone();
        let (max, reserve) = (self.max_bytes, self.reserve);
        let space = tokio::task::spawn_blocking(move || folder::room_for(&root, 0, reserve)).await;
        match space {
            Ok(Ok(())) if offset <= max => {}
            Ok(Ok(())) => return Err(Refusal::new(552, "too large")),
            Ok(Err(e)) => return Err(Refusal::new(452, e.to_string())),
            Err(e) => return Err(Refusal::new(451, e.to_string())),
        }
        if is_part(&to) {
            return Self::open_part(to, offset, None).await;
        }
        if offset > 0 {
            return Err(Refusal::new(
                554,
                "only uploads to a .part name can be resumed",
            ));
        }
        let name = given.rsplit('/').next().unwrap_or(given);
        let short: String = name.chars().take(50).collect();
        let part = self
            .root
            .join(format!(".{short}.{:016x}.part", rand::random::<u64>()));
        Self::open_part(part, 0, Some(to)).await
    }

    async fn open_part(part: PathBuf, offset: u64, to: Option<PathBuf>) -> Result<Upload, Refusal> {
        match tokio::fs::symlink_metadata(&part).await {
            Ok(meta) if !meta.is_file() => return Err(Refusal::new(550, "not a file")),
            Ok(meta) if meta.len() < offset => {
                return Err(Refusal::new(554, "there is less than that to resume"));
            }
            Err(_) if offset > 0 => return Err(Refusal::new(554, "there is nothing to resume")),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&part)
            .await?;
        file.set_len(offset).await?;
        file.seek(SeekFrom::Start(offset)).await?;
        Ok(Upload {
            file,
            offset,
            part,
            publish_as: to,
        })
    }

    /// Renames an unfinished file: to another unfinished name, or, durably, to its finished one.
    pub(crate) async fn rename(&self, from: &str, to: &str) -> Result<(), Refusal> {
        let (from, to) = (self.path(from)?, self.path(to)?);
        if !is_part(&from) {
            return Err(Refusal::new(553, "a finished recording keeps its name"));
        }
        publish(from, to).await
    }

    /// Deletes an unfinished file.
    pub(crate) async fn delete(&self, given: &str) -> Result<(), Refusal> {
        let path = self.path(given)?;
        if !is_part(&path) {
            return Err(Refusal::new(
                550,
                "a finished recording is not deleted over FTP",
            ));
        }
        tokio::fs::remove_file(path).await?;
        Ok(())
    }

    /// Names of the finished recordings, with length and time.
    pub(crate) async fn list(&self) -> Result<Vec<folder::Found>, Refusal> {
        let root = self.root.clone();
        let listing = tokio::task::spawn_blocking(move || folder::list(&root)).await;
        Ok(listing.map_err(io::Error::other)??.recordings)
    }
}

impl Upload {
    /// The upload is whole: gives it its name, where it is to have one.
    pub(crate) async fn finish(self) -> Result<(), Refusal> {
        drop(self.file);
        match self.publish_as {
            None => Ok(()),
            Some(to) => {
                let part = self.part.clone();
                let published = publish(self.part, to).await;
                if published.is_err() {
                    // Its name is random, so nobody would ever resume it.
                    let _ = tokio::fs::remove_file(part).await;
                }
                published
            }
        }
    }
}

async fn publish(part: PathBuf, to: PathBuf) -> Result<(), Refusal> {
    tokio::task::spawn_blocking(move || publish_blocking(&part, &to))
        .await
        .map_err(io::Error::other)?
}

fn publish_blocking(part: &Path, to: &Path) -> Result<(), Refusal> {
    match folder::publish(part, to) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let (bytes, sha256) = folder::hash_file(part)?;
            let same = folder::compare(to, bytes, &sha256)?;
            if same == vmsync_core::vrl::ConfirmAnswer::Durable && part != to {
                vmsync_store::sync_file(to)?;
                vmsync_store::remove_file_durably(part)?;
                return Ok(());
            }
            Err(Refusal::new(
                553,
                "a recording of that name with other content is here; it is not replaced",
            ))
        }
        other => Ok(other?),
    }
}

fn same_folder(path: &str, location: &str) -> bool {
    let location = location.trim_end_matches('/');
    !location.is_empty() && (path == location || path == location.trim_start_matches('/'))
}

fn is_part(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "part")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(root: &Path) -> Files {
        Files {
            root: root.to_owned(),
            location: "/opt/vmpro/MM/VRL".to_owned(),
            max_bytes: 1_000_000,
            reserve: 0,
        }
    }

    #[test]
    fn the_location_is_the_folder() {
        let files = files(Path::new("/data/VRL"));
        for path in [
            "/",
            "",
            ".",
            "/opt/vmpro/MM/VRL",
            "/opt/vmpro/MM/VRL/",
            "opt/vmpro/MM/VRL",
            "/data/VRL",
        ] {
            assert!(files.is_root(path), "{path}");
        }
        for path in ["/opt", "/etc", "..", "/opt/vmpro/MM/VRL/x"] {
            assert!(!files.is_root(path), "{path}");
        }
        assert!(files.is_ancestor("/opt/vmpro"));
        assert!(!files.is_ancestor("/opt/vm"));
        let there = Path::new("/data/VRL/a.wav");
        for path in ["a.wav", "/a.wav", "./a.wav", "/opt/vmpro/MM/VRL/a.wav"] {
            assert_eq!(files.path(path).unwrap(), there, "{path}");
        }
        for path in [
            "../a",
            "/etc/passwd",
            "sub/a.wav",
            "..",
            "",
            "a/",
            "a\\b",
            "/opt/../a",
        ] {
            assert!(files.path(path).is_err(), "{path}");
        }
    }

    #[tokio::test]
    async fn a_finished_recording_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        std::fs::write(dir.path().join("a.wav"), b"old").unwrap();
        std::fs::write(dir.path().join("same.part"), b"old").unwrap();
        std::fs::write(dir.path().join("other.part"), b"new").unwrap();
        assert_eq!(files.delete("a.wav").await.unwrap_err().code, 550);
        assert_eq!(files.rename("a.wav", "b.wav").await.unwrap_err().code, 553);
        assert_eq!(
            files.rename("other.part", "a.wav").await.unwrap_err().code,
            553
        );
        files.rename("same.part", "a.wav").await.unwrap();
        assert!(!dir.path().join("same.part").exists());
        assert_eq!(std::fs::read(dir.path().join("a.wav")).unwrap(), b"old");
        files.rename("other.part", "third.part").await.unwrap();
        files.delete("third.part").await.unwrap();
    }
}
