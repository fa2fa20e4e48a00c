//! Audio files: each says of itself what it is, so that the index can be rebuilt from them.
//!
//! ```text
//! audio/incoming/<uuid>.vma   written, fsynced, not yet known to be in the index
//! audio/<2 hex>/<uuid>.vma    referred to by a record; the folder is the end of the id,
//!                             whose beginning is a time and would put all files in one
//! ```
//!
//! A file is written into `incoming`, its bytes durable before it has its name; then the committer
//! makes the names in `incoming` durable, once for all files of a group, and after that the index
//! that refers to them; then they are moved. A crash can leave a file in either place but never half a file; at start only
//! `incoming` needs to be looked through, however many files there are. A file is found in both.
//!
//! # One file
//! | bytes | |
//! |---|---|
//! | 8 | magic `vmaudio\n` |
//! | 4 | version, 1, little-endian |
//! | 4 | length of the header, little-endian |
//! | … | header, JSON: `entity`, `mailbox` (of a message), `audio`, `facts` |
//! | 32 | SHA-256 of all before |
//! | … | the audio, byte for byte as it came (R-MB-6) |

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use vmsync_config::words::Extension;

use crate::{
    durable, format,
    operation::{AudioRef, EntityKey},
};

const MAGIC: &[u8; 8] = b"vmaudio\n";
const VERSION: u32 = 1;
/// A header larger than this is none.
const MAX_HEADER: usize = 64 * 1024;
const EXTENSION: &str = "vma";

/// What an audio file in the store says of itself (its header), so that the index can be rebuilt.
#[derive(Debug, Clone)]
pub struct NewAudio<'a> {
    /// The entity the audio is for.
    pub entity: EntityKey,
    /// For a message, the mailbox it is for; `None` where it is not known. (The key of a greeting
    /// names its mailbox.)
    pub mailbox: Option<Extension>,
    /// Everything about the audio; `blob` is chosen by the caller (`Uuid::now_v7()`) or, for a replica, by the origin.
    pub audio: &'a AudioRef,
    /// For a message, its facts as JSON; for a greeting that ends, `until`; else null.
    pub facts: Value,
}

/// The header of an audio file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) entity: EntityKey,
    /// Not in files written before this field was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mailbox: Option<Extension>,
    pub(crate) audio: AudioRef,
    #[serde(default)]
    pub(crate) facts: Value,
}

/// The folder of audio files.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    dir: PathBuf,
}

impl Blobs {
    /// Opens or creates the folder in the data folder `data`.
    pub(crate) fn open(data: &Path) -> io::Result<Self> {
        let dir = data.join("audio");
        format::create_dir(&dir)?;
        let blobs = Self { dir };
        if !blobs.incoming_dir().is_dir() {
            for n in 0..=255u8 {
                let folder = blobs.dir.join(format!("{n:02x}"));
                fs::create_dir(&folder).or_else(
                    |e| {
                        if folder.is_dir() { Ok(()) } else { Err(e) }
                    },
                )?;
            }
            // Last, so that its presence says that the others are there.
            durable::sync_dir(&blobs.dir)?;
            format::create_dir(&blobs.incoming_dir())?;
        }
        Ok(blobs)
    }

    /// The files in the folder `dir` of a backup; nothing is created.
    pub(crate) fn at(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    fn incoming_dir(&self) -> PathBuf {
        self.dir.join("incoming")
    }

    fn incoming(&self, blob: Uuid) -> PathBuf {
        self.incoming_dir().join(format!("{blob}.{EXTENSION}"))
    }

    fn settled(&self, blob: Uuid) -> PathBuf {
        let [.., last] = *blob.as_bytes();
        let folder = self.dir.join(format!("{last:02x}"));
        folder.join(format!("{blob}.{EXTENSION}"))
    }

    /// Writes a file into `incoming`, its bytes durably; its name becomes durable with the commit
    /// that first refers to it ([`sync_incoming`](Self::sync_incoming)).
    pub(crate) fn write(&self, new: NewAudio<'_>, bytes: &[u8]) -> io::Result<()> {
        let path = self.incoming(new.audio.blob);
        durable::write_contents(&path, &[&head(new)?, bytes], 0o600)
    }

    /// Makes the names of all files in `incoming` durable.
    pub(crate) fn sync_incoming(&self) -> io::Result<()> {
        durable::sync_dir(&self.incoming_dir())
    }

    /// Bytes a file takes beside the audio itself, at most.
    pub(crate) const OVERHEAD: u64 = MAX_HEADER as u64;

    /// Where the file is. Looked for in the order in which it moves, and once more at the end.
    pub(crate) fn find(&self, blob: Uuid) -> Option<PathBuf> {
        [self.settled(blob), self.incoming(blob), self.settled(blob)]
            .into_iter()
            .find(|p| p.is_file())
    }

    /// The index refers to the file: moves it to its place. Repeatable; at worst done at next start.
    pub(crate) fn settle(&self, blob: Uuid) -> io::Result<()> {
        match durable::rename(&self.incoming(blob), &self.settled(blob)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// As [`settle`](Self::settle), and durable in its place with this: nothing is committed after it
    /// that would see to that.
    pub(crate) fn settle_durably(&self, blob: Uuid) -> io::Result<()> {
        self.settle(blob)?;
        let place = self.settled(blob);
        place.parent().map_or(Ok(()), durable::sync_dir)
    }

    /// Removes the file, wherever it is. Repeatable.
    pub(crate) fn remove(&self, blob: Uuid) -> io::Result<()> {
        for path in [self.incoming(blob), self.settled(blob)] {
            match durable::remove(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes a file nothing refers to, if it is still in `incoming`.
    pub(crate) fn discard(&self, blob: Uuid) {
        // Best effort: what stays is swept at a later start.
        let _ = durable::remove(&self.incoming(blob));
    }

    /// Opens a file, its header read and checked; the file stands at the first byte of audio.
    pub(crate) fn open_file(&self, blob: Uuid) -> io::Result<(File, Header)> {
        let mut file = self.handle(blob)?;
        let header = read_head(&mut file)?;
        Ok((file, header))
    }

    fn handle(&self, blob: Uuid) -> io::Result<File> {
        let find = || {
            let found = self.find(blob);
            found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        };
        match File::open(find()?) {
            // It was settled between the two steps. A file moves once: now it is there, or gone.
            Err(e) if e.kind() == io::ErrorKind::NotFound => File::open(find()?),
            opened => opened,
        }
    }

    /// The header of a file that is as long as it says; the audio itself is not read.
    pub(crate) fn header(&self, blob: Uuid) -> io::Result<Header> {
        let (mut file, header) = self.open_file(blob)?;
        let expected = file.stream_position()?.saturating_add(header.audio.bytes);
        let length = file.metadata()?.len();
        if header.audio.blob != blob {
            return Err(damaged("its name is not the one it gives itself"));
        }
        if length != expected {
            return Err(damaged(&format!(
                "it has {length} bytes where it should have {expected}"
            )));
        }
        Ok(header)
    }

    /// Opens a file for reading from `offset` of the audio.
    pub(crate) fn open_at(&self, blob: Uuid, offset: u64) -> io::Result<io::Take<File>> {
        let (mut file, header) = self.open_file(blob)?;
        let offset = offset.min(header.audio.bytes);
        let forward = i64::try_from(offset).map_err(io::Error::other)?;
        file.seek(SeekFrom::Current(forward))?;
        Ok(file.take(header.audio.bytes - offset))
    }

    /// A whole file, its length and SHA-256 checked against `audio`.
    pub(crate) fn read(&self, audio: &AudioRef) -> io::Result<Vec<u8>> {
        let (file, header) = self.open_file(audio.blob)?;
        let mut bytes = Vec::new();
        // One byte more than expected shows a file that is too long.
        file.take(header.audio.bytes.saturating_add(1))
            .read_to_end(&mut bytes)?;
        if matches(audio, &bytes) {
            Ok(bytes)
        } else {
            Err(damaged("the audio is not what its SHA-256 says"))
        }
    }

    /// The folders files lie in: `incoming` first, because files move from there to the others.
    fn folders(&self) -> impl Iterator<Item = PathBuf> {
        let settled = (0..=255u8).map(|n| self.dir.join(format!("{n:02x}")));
        std::iter::once(self.incoming_dir()).chain(settled)
    }

    /// Takes over file `blob`, which lies at `from`, into its place: as a hard link where the file
    /// system allows it (to `earlier`, the same file in an earlier backup, where it does not allow
    /// one to `from`), else as a copy, made durable. True when it was copied. The folders are made
    /// durable by [`sync_folders`](Self::sync_folders).
    pub(crate) fn take_over(
        &self,
        blob: Uuid,
        from: &Path,
        earlier: Option<&Path>,
    ) -> io::Result<bool> {
        let to = self.settled(blob);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        if fs::hard_link(from, &to).is_ok() {
            return Ok(false);
        }
        let length = fs::metadata(from)?.len();
        if let Some(earlier) = earlier
            && fs::metadata(earlier).is_ok_and(|m| m.len() == length)
            && fs::hard_link(earlier, &to).is_ok()
        {
            return Ok(false);
        }
        durable::copy(from, &to)?;
        Ok(true)
    }

    /// Moves a file out of the way, into the folder `aside`. Repeatable.
    pub(crate) fn set_aside(&self, blob: Uuid, aside: &Path) -> io::Result<()> {
        while let Some(path) = self.find(blob) {
            durable::rename(&path, &aside.join(format!("{blob}.{EXTENSION}")))?;
        }
        Ok(())
    }

    /// Makes the names of all files durable.
    pub(crate) fn sync_folders(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            durable::sync_dir(&entry?.path())?;
        }
        durable::sync_dir(&self.dir)
    }

    /// Reads all of a file: whether it is what `audio` says.
    pub(crate) fn verify(&self, audio: &AudioRef) -> io::Result<()> {
        let header = self.header(audio.blob)?;
        if header.audio != *audio {
            return Err(damaged("it is another than its record says"));
        }
        let (mut file, _) = self.open_file(audio.blob)?;
        let mut hash = Sha256::new();
        let mut block = vec![0; 64 * 1024];
        loop {
            match file.read(&mut block)? {
                0 => break,
                n => hash.update(block.get(..n).unwrap_or_default()),
            }
        }
        if hex::encode(hash.finalize()) == audio.sha256 {
            Ok(())
        } else {
            Err(damaged("the audio is not what its SHA-256 says"))
        }
    }

    /// The ids of all files, in order (for ids of version 7: of time).
    pub(crate) fn list(&self) -> io::Result<Vec<Uuid>> {
        let mut found = Vec::new();
        for folder in self.folders() {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                let known = path.extension().is_some_and(|e| e == EXTENSION);
                let id = path.file_stem().map(|s| s.to_string_lossy().parse());
                if let (true, Some(Ok(id))) = (known, id) {
                    found.push(id);
                }
            }
        }
        found.sort_unstable();
        // One may have been seen before and after it was moved.
        found.dedup();
        Ok(found)
    }

    /// Whether there is no file at all.
    pub(crate) fn is_empty(&self) -> io::Result<bool> {
        for folder in self.folders() {
            if fs::read_dir(folder)?.next().is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What a start finds in `incoming`: unfinished files are removed, whole ones are returned
    /// with the time they were written, in ms since 1970.
    pub(crate) fn left_over(&self) -> io::Result<Vec<(Uuid, u64)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.incoming_dir())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.ends_with(durable::TEMPORARY) {
                durable::remove(&path)?;
                continue;
            }
            let id = path
                .file_stem()
                .and_then(|s| s.to_string_lossy().parse().ok());
            if let Some(id) = id {
                let written = path
                    .metadata()?
                    .modified()?
                    .duration_since(std::time::UNIX_EPOCH)
                    .map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
                found.push((id, written));
            }
        }
        Ok(found)
    }
}

/// Whether `bytes` are what `audio` says: length and SHA-256.
pub(crate) fn matches(audio: &AudioRef, bytes: &[u8]) -> bool {
    u64::try_from(bytes.len()) == Ok(audio.bytes)
        && hex::encode(Sha256::digest(bytes)) == audio.sha256
}

/// All that comes before the audio.
fn head(new: NewAudio<'_>) -> io::Result<Vec<u8>> {
    framed(&Header {
        entity: new.entity,
        mailbox: new.mailbox,
        audio: new.audio.clone(),
        facts: new.facts,
    })
}

fn framed(header: &impl Serialize) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(header)?;
    let length = u32::try_from(json.len())
        .ok()
        .filter(|_| json.len() <= MAX_HEADER - 256)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the facts are too large"))?;
    let mut head = Vec::with_capacity(json.len() + 48);
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&length.to_le_bytes());
    head.extend_from_slice(&json);
    let check = Sha256::digest(&head);
    head.extend_from_slice(&check);
    Ok(head)
}

fn read_head(file: &mut impl Read) -> io::Result<Header> {
    let mut start = [0; 16];
    file.read_exact(&mut start)?;
    let (magic, numbers) = start.split_at(8);
    let (version, length) = numbers.split_at(4);
    if magic != MAGIC {
        return Err(damaged("it does not begin as an audio file of this store"));
    }
    let version = little_endian(version);
    if version > VERSION {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "the file has version {version}; this program reads up to {VERSION}: install a later release"
            ),
        ));
    }
    let length = usize::try_from(little_endian(length)).unwrap_or(usize::MAX);
    if length > MAX_HEADER {
        return Err(damaged("its header is too long"));
    }
    let mut json = vec![0; length];
    file.read_exact(&mut json)?;
    let mut check = [0; 32];
    file.read_exact(&mut check)?;
    let mut hash = Sha256::new();
    hash.update(start);
    hash.update(&json);
    if hash.finalize().as_slice() != check {
        return Err(damaged("its header is not what its SHA-256 says"));
    }
    serde_json::from_slice(&json).map_err(io::Error::from)
}

fn little_endian(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |n, b| (n << 8) | u32::from(*b))
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUDIO: &[u8] = b"RIFF....WAVE and then some";

    fn audio() -> AudioRef {
        AudioRef {
            blob: Uuid::from_u128(0xABCD),
            sha256: hex::encode(Sha256::digest(AUDIO)),
            bytes: AUDIO.len() as u64,
            content_type: "audio/wav".into(),
            codec: "ulaw".into(),
            duration_ms: 10,
        }
    }

    fn written() -> (tempfile::TempDir, Blobs) {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let new = NewAudio {
            entity: "message/01920000-0000-7000-8000-000000000001"
                .to_owned()
                .try_into()
                .unwrap(),
            mailbox: Some("2001".parse().unwrap()),
            audio: &audio(),
            facts: serde_json::json!({"caller_number": "5551234"}),
        };
        blobs.write(new, AUDIO).unwrap();
        (dir, blobs)
    }

    #[test]
    fn a_file_can_be_read_while_it_is_being_settled() {
        let (_dir, blobs) = written();
        for _ in 0..300 {
            std::thread::scope(|scope| {
                let settling = scope.spawn(|| blobs.settle(audio().blob));
                while !settling.is_finished() {
                    assert_eq!(blobs.read(&audio()).unwrap(), AUDIO);
                }
            });
            let (from, to) = (blobs.settled(audio().blob), blobs.incoming(audio().blob));
            durable::rename(&from, &to).unwrap();
        }
    }

    #[test]
    fn a_file_tells_what_it_is_before_and_after_it_is_settled() {
        let (_dir, blobs) = written();
        let id = audio().blob;
        for _ in 0..2 {
            let (_, header) = blobs.open_file(id).unwrap();
            assert_eq!(header.audio, audio());
            assert_eq!(header.mailbox, Some("2001".parse().unwrap()));
            assert_eq!(header.facts["caller_number"], "5551234");
            assert_eq!(blobs.read(&audio()).unwrap(), AUDIO);
            let mut rest = Vec::new();
            blobs
                .open_at(id, 4)
                .unwrap()
                .read_to_end(&mut rest)
                .unwrap();
            assert_eq!(rest, &AUDIO[4..]);
            assert_eq!(blobs.open_at(id, 9999).unwrap().limit(), 0);
            blobs.settle(id).unwrap();
        }
        assert!(blobs.find(id).unwrap().parent().unwrap().ends_with("cd"));
        assert!(blobs.left_over().unwrap().is_empty());
        blobs.remove(id).unwrap();
        blobs.remove(id).unwrap();
        assert!(blobs.find(id).is_none());
    }

    #[test]
    fn any_flipped_byte_is_noticed() {
        let (_dir, blobs) = written();
        let path = blobs.find(audio().blob).unwrap();
        let sound = fs::read(&path).unwrap();
        for at in (0..sound.len()).step_by(7) {
            let mut flipped = sound.clone();
            flipped[at] ^= 0x20;
            fs::write(&path, &flipped).unwrap();
            assert!(blobs.read(&audio()).is_err(), "byte {at}");
        }
        fs::write(&path, &sound[..sound.len() - 1]).unwrap();
        assert!(blobs.read(&audio()).is_err());
        fs::write(&path, [sound.as_slice(), b"x"].concat()).unwrap();
        assert!(blobs.read(&audio()).is_err());
    }

    #[test]
    fn a_file_written_before_mailboxes_were_named_is_read() {
        let (_dir, blobs) = written();
        let path = blobs.find(audio().blob).unwrap();
        let json = serde_json::json!({
            "entity": "message/01920000-0000-7000-8000-000000000001",
            "audio": audio(),
            "facts": {"caller_number": "5551234"},
        });
        fs::write(&path, [framed(&json).unwrap().as_slice(), AUDIO].concat()).unwrap();
        let (_, header) = blobs.open_file(audio().blob).unwrap();
        assert_eq!(header.mailbox, None);
        assert_eq!(blobs.read(&audio()).unwrap(), AUDIO);
    }

    #[test]
    fn a_file_of_a_newer_version_says_so() {
        let (_dir, blobs) = written();
        let path = blobs.find(audio().blob).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[8] = 9;
        fs::write(&path, bytes).unwrap();
        let error = blobs.read(&audio()).unwrap_err().to_string();
        assert!(error.contains("version 9"), "{error}");
    }

    #[test]
    fn temporaries_go_at_start_and_whole_files_are_reported() {
        let (dir, blobs) = written();
        let half = dir.path().join("audio/incoming/.x.vma.00.tmp");
        fs::write(&half, b"half").unwrap();
        let left = blobs.left_over().unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].0, audio().blob);
        assert!(!half.exists());
    }
}
