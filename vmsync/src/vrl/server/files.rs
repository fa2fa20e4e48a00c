//! The folder as FTP clients may use it.
//!
//! Flat: the configured location and `/` are the folder, and there is nothing below it. A client
//! may write, rename and delete *unfinished* files (`.part`); a finished recording it may read,
//! and never replace, rename or delete. A file gets a finished name only whole, durably, and
//! only if that name is free or holds the same content already.

use std::{
    collections::BTreeSet,
    fs::Metadata,
    io::{self, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{
    fs::{File, OpenOptions},
    io::AsyncSeekExt,
    sync::Semaphore,
};

use super::{
    command::Form,
    listing::{self, Listing},
    upload::{Room, Upload, Writers},
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
        match e.kind() {
            io::ErrorKind::NotFound => Self::new(550, "there is no such file"),
            io::ErrorKind::PermissionDenied => Self::new(550, e.to_string()),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::new(
                452,
                format!("the disk of this server is full: {e}; free some space, then try again"),
            ),
            _ => Self::new(451, e.to_string()),
        }
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
    /// Who writes to what.
    pub(crate) writers: Writers,
    /// Files hashed at once for HASH.
    pub(crate) hashing: Arc<Semaphore>,
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

    /// What the disk knows of a file; links and folders are none.
    pub(crate) async fn meta(&self, given: &str) -> Result<Metadata, Refusal> {
        let meta = tokio::fs::symlink_metadata(self.path(given)?).await?;
        if !meta.is_file() {
            return Err(Refusal::new(550, "not a file"));
        }
        Ok(meta)
    }

    /// Opens a file for reading from `offset`.
    pub(crate) async fn read(&self, given: &str, offset: u64) -> Result<File, Refusal> {
        if offset > self.meta(given).await?.len() {
            return Err(Refusal::new(554, "there is less than that"));
        }
        let mut file = OpenOptions::new()
            .read(true)
            // A link that came since it was looked at is not followed.
            .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0))
            .open(self.path(given)?)
            .await?;
        file.seek(SeekFrom::Start(offset)).await?;
        Ok(file)
    }

    /// What uploads may take.
    pub(crate) fn room(&self) -> Room {
        Room {
            root: self.root.clone(),
            max_bytes: self.max_bytes,
            reserve: self.reserve,
        }
    }

    /// Begins an upload at `offset`, or at the end of what is there (`None`). To a finished name it
    /// goes by way of a hidden `.part`, of which a broken upload leaves nothing.
    pub(crate) async fn begin(&self, given: &str, offset: Option<u64>) -> Result<Upload, Refusal> {
        let to = self.path(given)?;
        let (part, offset, publish_as) = if is_part(&to) {
            (to, offset, None)
        } else {
            if offset.is_some_and(|offset| offset > 0) {
                return Err(Refusal::new(
                    554,
                    "only uploads to a .part name can be resumed",
                ));
            }
            if offset.is_none() && tokio::fs::symlink_metadata(&to).await.is_ok() {
                return Err(Refusal::new(553, "a finished recording stays as it is"));
            }
            let name = given.rsplit('/').next().unwrap_or(given);
            let short: String = name.chars().take(50).collect();
            let hidden = format!(".{short}.{:016x}.part", rand::random::<u64>());
            (self.root.join(hidden), Some(0), Some(to))
        };
        let turn = self.writers.turn(&part).await?;
        let room = self.room();
        tokio::task::spawn_blocking(move || Upload::open(part, offset, publish_as, room, turn))
            .await
            .map_err(io::Error::other)?
    }

    /// Renames an unfinished file: to another unfinished name, or, durably, to its finished one.
    pub(crate) async fn rename(&self, from: &str, to: &str) -> Result<(), Refusal> {
        let (from, to) = (self.path(from)?, self.path(to)?);
        if !is_part(&from) {
            return Err(Refusal::new(553, "a finished recording keeps its name"));
        }
        let turn = self.writers.turn(&from).await?;
        let publish = move || {
            let _turn = turn;
            publish_blocking(&from, &to)
        };
        tokio::task::spawn_blocking(publish)
            .await
            .map_err(io::Error::other)?
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
        let _turn = self.writers.turn(&path).await?;
        tokio::fs::remove_file(path).await?;
        Ok(())
    }

    /// What LIST, NLST or MLSD of `path` shows. Only finished recordings are in the folder's.
    pub(crate) async fn listing(&self, path: &str, form: Form) -> Result<Listing, Refusal> {
        if self.is_root(path) {
            return Ok(Listing::Folder(self.root.clone(), form));
        }
        if self.is_ancestor(path) {
            let lines = self.below(path).into_iter();
            let lines = lines.map(|name| listing::folder_line(form, name));
            return Ok(Listing::Lines(lines.collect()));
        }
        if form == Form::Facts {
            return Err(Refusal::new(501, "MLSD is for folders; MLST is for files"));
        }
        let meta = self.meta(path).await?;
        let name = path.rsplit('/').next().unwrap_or(path);
        Ok(Listing::Lines(listing::file_line(form, name, &meta)))
    }

    /// The folders in a folder on the way to the folder.
    fn below(&self, path: &str) -> BTreeSet<&str> {
        let above = format!("{}/", path.trim_matches('/'));
        self.locations()
            .filter_map(|l| l.trim_start_matches('/').strip_prefix(&above))
            .filter_map(|rest| rest.split('/').next())
            .collect()
    }

    /// The facts that MLST tells of a file or folder.
    pub(crate) async fn facts(&self, path: &str) -> Result<String, Refusal> {
        if self.is_root(path) {
            return Ok("type=dir;perm=celmp;".to_owned());
        }
        if self.is_ancestor(path) {
            return Ok("type=dir;perm=el;".to_owned());
        }
        Ok(listing::file_facts(
            &self.path(path)?,
            &self.meta(path).await?,
        ))
    }

    /// Length and SHA-256 (lower-case hex) of a file; read only if it changed since it was written
    /// or read last. Two at a time: a client that asks and goes can't keep the disk busy.
    pub(crate) async fn hash(&self, given: &str) -> Result<(u64, String), Refusal> {
        let bytes = self.meta(given).await?.len();
        let path = self.path(given)?;
        let permit = Arc::clone(&self.hashing).acquire_owned();
        let permit = permit.await.map_err(io::Error::other)?;
        let hash = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            folder::hash_known(&path)
        });
        let (_, sha256) = hash.await.map_err(io::Error::other)??;
        Ok((bytes, sha256))
    }

    /// Whether there is room for so many bytes more.
    pub(crate) async fn has_room(&self, bytes: u64) -> Result<(), Refusal> {
        let room = self.room();
        tokio::task::spawn_blocking(move || room.look(bytes))
            .await
            .map_err(io::Error::other)?
    }
}

/// Gives an unfinished file its name. That the name holds the same content already is success.
pub(crate) fn publish_blocking(part: &Path, to: &Path) -> Result<(), Refusal> {
    match folder::publish(part, to) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && part != to => {
            if !is_same(part, to)? {
                return Err(Refusal::new(
                    553,
                    "a recording of that name with other content is here; it is not replaced",
                ));
            }
            vmsync_store::sync_file(to)?;
            vmsync_store::remove_file_durably(part)?;
            Ok(())
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => Ok(other?),
    }
}

/// Whether two files hold the same; links and folders count as other content.
fn is_same(a: &Path, b: &Path) -> io::Result<bool> {
    let (a_meta, b_meta) = (std::fs::symlink_metadata(a)?, std::fs::symlink_metadata(b)?);
    Ok(a_meta.is_file()
        && b_meta.is_file()
        && a_meta.len() == b_meta.len()
        && folder::hash_known(a)?.1 == folder::hash_known(b)?.1)
}

fn same_folder(path: &str, location: &str) -> bool {
    let location = location.trim_end_matches('/');
    !location.is_empty() && (path == location || path == location.trim_start_matches('/'))
}

pub(crate) fn is_part(path: &Path) -> bool {
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
            writers: Writers::default(),
            hashing: Arc::new(Semaphore::new(2)),
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
        files.rename("other.part", "other.part").await.unwrap();
        files.rename("other.part", "third.part").await.unwrap();
        files.delete("third.part").await.unwrap();
    }
}
