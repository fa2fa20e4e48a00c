//! An upload: received piece by piece, written and hashed on the way, in bounded memory.
//!
//! The disk works in its own thread while the next piece comes. One upload at a time writes to an
//! unfinished file, and the newest wins: a client that lost its connection, and asks again before
//! this node noticed, is not kept waiting for its own past.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Seek as _, SeekFrom, Write as _},
    mem,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::FutureExt as _;
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::OwnedMutexGuard,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    data::Stream,
    files::{Refusal, publish_blocking},
};
use crate::vrl::{
    folder,
    recent::{recent, set_apart},
};

/// Bytes received before they are written; an upload holds two such pieces.
const PIECE: usize = 256 * 1024;
/// Bytes written before the free space is looked at again.
const LOOK_EVERY: u64 = 16 << 20;
/// What must have come within each [`WINDOW`]; who is slower only holds a place.
const LEAST: u64 = 4 * 1024;
const WINDOW: Duration = Duration::from_mins(1);
/// How long a former upload of the same file may take to end.
const TAKE_OVER_LIMIT: Duration = Duration::from_secs(10);

/// Who writes to which unfinished file.
#[derive(Debug, Default, Clone)]
pub(crate) struct Writers(Arc<Mutex<HashMap<PathBuf, Arc<Slot>>>>);

#[derive(Debug, Default)]
struct Slot {
    newest: Mutex<CancellationToken>,
    file: Arc<tokio::sync::Mutex<()>>,
}

/// The right to write to an unfinished file, to rename or to delete it; given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    taken_over: CancellationToken,
    _file: OwnedMutexGuard<()>,
    _slot: Arc<Slot>,
}

impl Writers {
    /// Ends the upload that writes to `part`, if there is one, and takes its turn.
    pub(crate) async fn turn(&self, part: &Path) -> Result<Turn, Refusal> {
        let slot = {
            let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
            Arc::clone(slots.entry(part.to_owned()).or_default())
        };
        let mine = CancellationToken::new();
        let former = {
            let mut newest = slot.newest.lock().unwrap_or_else(PoisonError::into_inner);
            mem::replace(&mut *newest, mine.clone())
        };
        former.cancel();
        let file = timeout(TAKE_OVER_LIMIT, Arc::clone(&slot.file).lock_owned()).await;
        match file {
            Ok(file) if !mine.is_cancelled() => Ok(Turn {
                taken_over: mine,
                _file: file,
                _slot: slot,
            }),
            Ok(_) => Err(Refusal::new(450, TAKEN_OVER)),
            Err(_) => Err(Refusal::new(
                450,
                "another upload of this file is ending; try again",
            )),
        }
    }
}

const TAKEN_OVER: &str = "a newer upload of this file took over";

/// What a new upload may do.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    /// The folder.
    pub(crate) root: PathBuf,
    /// Largest file, bytes.
    pub(crate) max_bytes: u64,
    /// Free bytes kept on the disk.
    pub(crate) reserve: u64,
}

impl Room {
    /// Refuses when so many bytes more touch the reserve, or are more than any file may have. Blocks.
    pub(crate) fn look(&self, bytes: u64) -> Result<(), Refusal> {
        if bytes > self.max_bytes {
            return Err(too_large(self.max_bytes));
        }
        folder::room_for(&self.root, bytes, self.reserve)
            .map_err(|e| Refusal::new(452, e.to_string()))
    }
}

/// An upload in progress: where it is written, and what becomes of it.
#[derive(Debug)]
pub(crate) struct Upload {
    file: File,
    part: PathBuf,
    /// The name it gets once whole; its `.part` then bears a random name that nobody can resume.
    publish_as: Option<PathBuf>,
    room: Room,
    /// Length of the file.
    bytes: u64,
    /// Of all that is in the file; none where it went on with what was there.
    hash: Option<Sha256>,
    unlooked: u64,
    /// Whether the `.part` stays when this is dropped.
    keep: bool,
    turn: Turn,
}

impl Upload {
    /// Opens `part` to go on at `offset`, or at its end. Blocks.
    pub(crate) fn open(
        part: PathBuf,
        offset: Option<u64>,
        publish_as: Option<PathBuf>,
        room: Room,
        turn: Turn,
    ) -> Result<Self, Refusal> {
        let there = match fs::symlink_metadata(&part) {
            Ok(meta) if !meta.is_file() => return Err(Refusal::new(550, "not a file")),
            Ok(meta) => Some(meta.len()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e.into()),
        };
        let offset = offset.or(there).unwrap_or(0);
        if offset > room.max_bytes {
            return Err(too_large(room.max_bytes));
        }
        match there {
            Some(bytes) if bytes < offset => {
                return Err(Refusal::new(554, "there is less than that to resume"));
            }
            None if offset > 0 => return Err(Refusal::new(554, "there is nothing to resume")),
            _ => {}
        }
        room.look(0)?;
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            // A link that came since it was looked at is not followed.
            .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0))
            .open(&part)?;
        file.set_len(offset)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self {
            file,
            part,
            keep: publish_as.is_none(),
            publish_as,
            room,
            bytes: offset,
            hash: (offset == 0).then(Sha256::new),
            unlooked: 0,
            turn,
        })
    }

    /// Whether it is published at its end.
    pub(crate) fn gets_a_name(&self) -> bool {
        self.publish_as.is_some()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(length);
        if self.bytes > self.room.max_bytes {
            // Nobody could ever finish it.
            self.keep = false;
            return Err(too_large(self.room.max_bytes));
        }
        self.unlooked = self.unlooked.saturating_add(length);
        if self.unlooked >= LOOK_EVERY {
            self.unlooked = 0;
            self.room.look(0)?;
        }
        self.file.write_all(bytes)?;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        Ok(())
    }

    /// The upload is whole: its hash is remembered, and it gets its name, where it is to have one.
    fn finish(mut self) -> Result<(), Refusal> {
        if let Some(hash) = self.hash.take()
            && let Some(key) = set_apart(&self.file)?
        {
            recent().note(key, &hex::encode(hash.finalize()), None);
        }
        if let Some(to) = &self.publish_as {
            publish_blocking(&self.part, to)?;
            self.keep = true;
        }
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.keep {
            // The sweep takes what stays.
            let _ = fs::remove_file(&self.part);
        }
    }
}

fn too_large(max_bytes: u64) -> Refusal {
    Refusal::new(
        552,
        format!("larger than the {max_bytes} bytes allowed (vrl.server.max_bytes)"),
    )
}

/// A buffer and how much of it is filled.
struct Piece {
    bytes: Vec<u8>,
    filled: usize,
}

impl Piece {
    fn new() -> Self {
        Self {
            bytes: vec![0; PIECE],
            filled: 0,
        }
    }

    fn filled(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }
}

/// The disk's side: idle, or writing in its own thread.
enum Disk {
    Idle(Box<Upload>, Piece),
    Writing(JoinHandle<(Box<Upload>, Piece, Result<(), Refusal>)>),
}

impl Disk {
    /// Waits for what is being written.
    async fn idle(self) -> Result<(Box<Upload>, Piece), Refusal> {
        match self {
            Self::Idle(upload, piece) => Ok((upload, piece)),
            Self::Writing(work) => {
                let (upload, piece, written) = work.await.map_err(io::Error::other)?;
                written.map(|()| (upload, piece))
            }
        }
    }
}

/// Receives an upload until the client ends it. What arrived of a broken one stays in its `.part`.
pub(crate) async fn receive(
    stream: Stream,
    upload: Upload,
    idle: Duration,
) -> Result<Upload, Refusal> {
    let taken_over = upload.turn.taken_over.clone();
    tokio::select! {
        received = receive_all(stream, upload, idle) => received,
        () = taken_over.cancelled() => Err(Refusal::new(426, TAKEN_OVER)),
    }
}

/// Gives a received upload its name, where it is to have one.
pub(crate) async fn finish(upload: Upload) -> Result<(), Refusal> {
    tokio::task::spawn_blocking(move || upload.finish())
        .await
        .map_err(io::Error::other)?
}

async fn receive_all(
    mut stream: Stream,
    upload: Upload,
    idle: Duration,
) -> Result<Upload, Refusal> {
    let mut disk = Disk::Idle(Box::new(upload), Piece::new());
    let mut piece = Piece::new();
    let mut pace = Pace::new(Instant::now());
    loop {
        let end = fill(&mut stream, &mut piece, idle).await;
        let slow = pace.is_slow(piece.filled, Instant::now());
        let (mut upload, spare) = disk.idle().await?;
        let full = mem::replace(&mut piece, spare);
        piece.filled = 0;
        disk = Disk::Writing(tokio::task::spawn_blocking(move || {
            let written = upload.write(full.filled());
            (upload, full, written)
        }));
        match end {
            Ok(End::More) if slow => {
                disk.idle().await?;
                return Err(Refusal::new(426, "the upload is too slow"));
            }
            Ok(End::More) => {}
            Ok(End::Whole) => break,
            Err(refusal) => {
                disk.idle().await?;
                return Err(refusal);
            }
        }
    }
    let (upload, _) = disk.idle().await?;
    // Lets a TLS client see the end; it may be gone already.
    let _ = timeout(Duration::from_secs(1), stream.shutdown()).await;
    Ok(*upload)
}

enum End {
    More,
    Whole,
}

/// Waits for some bytes, and takes what else is there already.
async fn fill(stream: &mut Stream, piece: &mut Piece, idle: Duration) -> Result<End, Refusal> {
    let broke = |e: io::Error| Refusal::new(426, format!("the upload broke: {e}"));
    loop {
        let rest = piece.bytes.get_mut(piece.filled..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(End::More);
        }
        let read = if piece.filled == 0 {
            match timeout(idle, stream.read(rest)).await {
                Ok(read) => read,
                Err(_) => return Err(Refusal::new(426, "the upload stalled")),
            }
        } else {
            match stream.read(rest).now_or_never() {
                Some(read) => read,
                None => return Ok(End::More),
            }
        };
        match read.map_err(broke)? {
            0 => return Ok(End::Whole),
            n => piece.filled += n,
        }
    }
}

/// Whether enough comes, looked at once a [`WINDOW`].
struct Pace {
    since: Instant,
    bytes: u64,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            bytes: 0,
        }
    }

    fn is_slow(&mut self, bytes: usize, now: Instant) -> bool {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if now.saturating_duration_since(self.since) < WINDOW {
            return false;
        }
        let slow = self.bytes < LEAST;
        *self = Self::new(now);
        slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_reserve_is_looked_at_while_an_upload_runs_and_what_came_stays() {
        // A disk of its own where there is one, so that others don't fill or free it meanwhile.
        let shm = Path::new("/dev/shm");
        let dir = if shm.is_dir() {
            tempfile::tempdir_in(shm).unwrap()
        } else {
            tempfile::tempdir().unwrap()
        };
        let free = vmsync_store::free_bytes(dir.path()).unwrap();
        let room = Room {
            root: dir.path().to_owned(),
            max_bytes: 1 << 30,
            reserve: free.saturating_sub(LOOK_EVERY),
        };
        let part = dir.path().join(".a.part");
        let turn = Writers::default().turn(&part).await.unwrap();
        let mut upload = Upload::open(part.clone(), Some(0), None, room, turn).unwrap();
        let (piece, mut written) = (vec![1_u8; 1 << 20], 0);
        let refused = loop {
            match upload.write(&piece) {
                Ok(()) => written += piece.len() as u64,
                Err(refused) => break refused,
            }
            assert!(written < 10 * LOOK_EVERY, "the reserve is gone");
        };
        assert_eq!(refused.code, 452);
        assert!(refused.words.contains("in reserve"), "{}", refused.words);
        assert!(written >= LOOK_EVERY - (1 << 20), "{written}");
        drop(upload);
        assert_eq!(fs::metadata(&part).unwrap().len(), written);
    }

    #[tokio::test]
    async fn what_can_never_be_finished_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room {
            root: dir.path().to_owned(),
            max_bytes: 10,
            reserve: 0,
        };
        let (part, whole) = (dir.path().join(".a.part"), dir.path().join("a.wav"));
        let (named, plain) = (Some(whole), None);
        for (publish_as, bytes, stays) in [
            (plain.clone(), &[0; 10][..], true),
            (plain, &[0; 11], false),
            (named, &[0; 10], false),
        ] {
            let turn = Writers::default().turn(&part).await.unwrap();
            let room = room.clone();
            let mut upload = Upload::open(part.clone(), Some(0), publish_as, room, turn).unwrap();
            let written = upload.write(bytes);
            assert_eq!(written.is_ok(), bytes.len() <= 10);
            drop(upload);
            assert_eq!(part.exists(), stays, "{} bytes", bytes.len());
        }
    }

    #[test]
    fn who_sends_a_byte_now_and_then_is_too_slow() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut pace = Pace::new(start);
        assert!(!pace.is_slow(1, at(59)));
        assert!(pace.is_slow(1, at(61)));
        assert!(!pace.is_slow(3000, at(100)));
        assert!(!pace.is_slow(3000, at(130)), "enough in this window");
    }

    #[tokio::test]
    async fn the_newest_upload_of_a_file_takes_over() {
        let writers = Writers::default();
        let (a, b) = (Path::new("/vrl/.a.part"), Path::new("/vrl/.b.part"));
        let first = writers.turn(a).await.unwrap();
        let other = writers.turn(b).await.unwrap();
        let former = first.taken_over.clone();
        let ends = tokio::spawn(async move {
            first.taken_over.cancelled().await;
            drop(first);
        });
        let second = writers.turn(a).await.unwrap();
        ends.await.unwrap();
        assert!(former.is_cancelled());
        assert!(!second.taken_over.is_cancelled() && !other.taken_over.is_cancelled());
        drop((second, other));
        let _last = writers.turn(b).await.unwrap();
        assert_eq!(writers.0.lock().unwrap().len(), 1, "turns are forgotten");
    }
}
