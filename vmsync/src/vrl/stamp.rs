//! What a file looked like when it was read, so that it need not be read again to know it is the same.

use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    os::unix::fs::MetadataExt,
    path::Path,
    time::Duration,
};

use sha2::{Digest, Sha256};
use vmsync_config::words::UnixMillis;
use vmsync_core::vrl::{Part, RecordingName};

use super::watch::Writers;

/// Device, inode, length, time of writing, time of change. The last can't be set by anybody, so a file
/// with an equal stamp has equal content, provided the content was read well after the last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A change this recent may be followed by another with the same time (the kernel counts in ticks).
const TICKS: Duration = Duration::from_millis(100);

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// The file's length.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the file at `path` still has this stamp. Links are not followed.
    pub(crate) fn is_of(&self, path: &Path) -> io::Result<bool> {
        let meta = std::fs::symlink_metadata(path)?;
        Ok(meta.is_file() && Self::of(&meta) == *self)
    }

    fn changed_at(&self) -> UnixMillis {
        let (seconds, nanos) = self.changed;
        let ms = seconds
            .saturating_mul(1000)
            .saturating_add(nanos / 1_000_000);
        UnixMillis(u64::try_from(ms).unwrap_or(0))
    }

    // Only a change before `wall` by some ticks tells of every later one.
    fn is_settled(&self, wall: UnixMillis) -> bool {
        let ticks = u64::try_from(TICKS.as_millis()).unwrap_or(0);
        self.changed_at().0.saturating_add(ticks) <= wall.0
    }
}

/// The stamp of a file, where it is worth something. Links are not followed.
pub(crate) fn of(path: &Path, wall: UnixMillis) -> io::Result<Option<Stamp>> {
    let meta = std::fs::symlink_metadata(path)?;
    let stamp = Stamp::of(&meta);
    Ok(Some(stamp).filter(|stamp| meta.is_file() && stamp.is_settled(wall)))
}

/// A file's length and SHA-256 (lower-case hex), with its stamp where that is worth something.
pub(crate) fn read(path: &Path, wall: UnixMillis) -> io::Result<(u64, String, Option<Stamp>)> {
    let mut file = File::open(path)?;
    let before = Stamp::of(&file.metadata()?);
    let mut hash = Sha256::new();
    let mut buffer = vec![0_u8; 256 * 1024];
    let mut bytes = 0_u64;
    loop {
        let n = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        hash.update(buffer.get(..n).unwrap_or_default());
        bytes += n as u64;
    }
    let after = Stamp::of(&file.metadata()?);
    let stamp = Some(after).filter(|after| *after == before && after.is_settled(wall));
    Ok((bytes, hex::encode(hash.finalize()), stamp))
}

/// A file as it was read.
pub(crate) type Read = (Part, Option<Stamp>);

/// A recording with the side files that are beside it, each with its stamp: the audio first. `None`
/// when one of them is still written, or a side file was written to within `quiet`: it may still grow.
pub(crate) fn read_unit(
    folder: &Path,
    name: &RecordingName,
    writers: &Writers,
    quiet: Duration,
    wall: UnixMillis,
) -> io::Result<Option<Vec<Read>>> {
    let mut names = vec![name.clone()];
    for side in name.sides() {
        let path = folder.join(&side);
        let meta = match std::fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() => meta,
            Ok(_) => continue,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let written = meta.modified()?;
        let now = std::time::UNIX_EPOCH + Duration::from_millis(wall.0);
        // The two clocks may be some way apart.
        let apart = now
            .duration_since(written)
            .unwrap_or_else(|ahead| ahead.duration());
        if apart < quiet {
            return Ok(None);
        }
        // A name that is too long is told as unfit by the listing.
        names.extend(RecordingName::new(&side));
    }
    names.sort_by_key(|n| (n != name, n.clone()));
    if names.iter().any(|name| writers.still_write(name.as_str())) {
        return Ok(None);
    }
    let mut files = Vec::new();
    for name in names {
        let (bytes, sha256, stamp) = read(&folder.join(name.as_str()), wall)?;
        files.push((Part::new(name, bytes, sha256), stamp));
    }
    Ok(Some(files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_change_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("call.wav");
        std::fs::write(&path, b"one").unwrap();
        let late = UnixMillis(crate::clock::wall().0 + 60_000);
        let stamp = || read(&path, late).unwrap().2.unwrap();
        let first = stamp();
        assert!(first.is_of(&path).unwrap());
        // The same length and, with some effort, the same time of writing.
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        std::fs::write(&path, b"two").unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(modified).unwrap();
        assert!(!first.is_of(&path).unwrap());
        let second = stamp();
        std::thread::sleep(Duration::from_millis(20));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"two").unwrap();
        assert!(!second.is_of(&path).unwrap());
    }

    #[test]
    fn a_change_of_this_moment_gives_no_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("call.wav");
        std::fs::write(&path, b"one").unwrap();
        let (bytes, sha256, stamp) = read(&path, crate::clock::wall()).unwrap();
        assert_eq!((bytes, sha256.len(), stamp), (3, 64, None));
    }

    #[test]
    fn a_unit_is_the_audio_and_what_is_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["call.wav", "call.xml", "call.wav.json", "other.xml"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let name = RecordingName::new("call.wav").unwrap();
        let writers = Writers::none();
        let unit =
            |quiet| read_unit(dir.path(), &name, &writers, quiet, crate::clock::wall()).unwrap();
        let names: Vec<_> = unit(Duration::ZERO)
            .unwrap()
            .into_iter()
            .map(|(part, _)| part.name.to_string())
            .collect();
        assert_eq!(names, ["call.wav", "call.wav.json", "call.xml"]);
        assert!(unit(Duration::from_mins(1)).is_none(), "still warm");
    }
}
