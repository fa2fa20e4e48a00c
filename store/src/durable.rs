//! The only place of the program that renames and fsyncs.
//!
//! A file is durable when its bytes are (fsync of the file) *and* its name is (fsync of the
//! folder): `fsync(2)` says that the second does not follow from the first. A file that must be
//! there whole or not at all is therefore written under a temporary name, fsynced, renamed over
//! its own name (`rename(2)` is atomic), and the folder is fsynced.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use crate::chance;

/// One step by which something becomes durable, or is undone: what a simulated loss of power falls
/// between.
#[cfg_attr(
    not(feature = "simulate"),
    allow(dead_code, reason = "a simulated disk alone looks at them")
)]
pub(crate) enum Step<'a> {
    /// A file is written and its bytes are synced.
    Write(&'a Path, &'a [&'a [u8]]),
    /// The names in a folder are synced.
    Names(&'a Path),
    /// A file takes another name, in place of what has it.
    Rename(&'a Path, &'a Path),
    /// A file goes.
    Remove(&'a Path),
    /// A file's bytes are replaced in place and not synced.
    Overwrite(&'a Path),
}

/// Takes a step; in a simulated disk (see [`simulate`](crate::simulate)) it may be the last.
fn step<T>(step: &Step<'_>, take: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    #[cfg(feature = "simulate")]
    if let Some(disk) = step.disk() {
        return disk.step(step, take);
    }
    let _ = step;
    take()
}

#[cfg(feature = "simulate")]
impl Step<'_> {
    fn disk(&self) -> Option<crate::simulate::Disk> {
        let (Self::Write(path, _)
        | Self::Names(path)
        | Self::Rename(path, _)
        | Self::Remove(path)
        | Self::Overwrite(path)) = self;
        crate::simulate::Disk::of(path)
    }
}

/// Ends the name of a file being written; whatever bears it after a crash is rubbish.
pub(crate) const TEMPORARY: &str = ".tmp";

/// Writes a file so that it is there whole or not at all, and durable when this returns:
/// temporary name, fsync, rename, fsync of the folder. The only place for it in the program.
pub fn write_file_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_parts(path, &[bytes], 0o666)
}

/// As [`write_file_durably`], from several parts, with permissions `mode` (less the umask).
pub(crate) fn write_parts(path: &Path, parts: &[&[u8]], mode: u32) -> io::Result<()> {
    write_contents(path, parts, mode)?;
    sync_dir(parent(path))
}

/// As [`write_parts`], but the name is not durable yet: the caller calls [`sync_dir`], once for
/// many files, before anything else that is durable relies on it. Whatever is there under the
/// name, after a loss of power too, is whole.
pub(crate) fn write_contents(path: &Path, parts: &[&[u8]], mode: u32) -> io::Result<()> {
    let temporary = temporary_name(path)?;
    let write = || write_temporary(&temporary, parts, mode);
    let result =
        step(&Step::Write(&temporary, parts), write).and_then(|()| rename(&temporary, path));
    if result.is_err() {
        // Best effort: what stays is swept at the next start. The rename may have happened.
        let _ = fs::remove_file(&temporary);
    }
    result
}

fn write_temporary(path: &Path, parts: &[&[u8]], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    sync(&file)
}

/// `.NAME.RANDOM.tmp` in the same folder, so that two writers of one file do not meet.
fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} has no file name", path.display()),
        )
    })?;
    let unique = format!(
        ".{}.{:016x}{TEMPORARY}",
        name.to_string_lossy(),
        chance::number()
    );
    Ok(path.with_file_name(unique))
}

/// Copies a file that is not there yet; its bytes are durable, its name is not. What fails leaves
/// nothing behind.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut copy = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    let copied = io::copy(&mut source, &mut copy).and_then(|_| sync(&copy));
    if copied.is_err() {
        let _ = fs::remove_file(to);
    }
    copied
}

/// Makes an existing file and its folder entry durable.
pub fn sync_file(path: &Path) -> io::Result<()> {
    sync(&File::open(path)?)?;
    sync_dir(parent(path))
}

/// Removes a file; not yet durable.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    step(&Step::Remove(path), || fs::remove_file(path))
}

/// Writes over the beginning of an open file; not durable before the system cares to write it.
pub(crate) fn overwrite(file: &File, path: &Path, bytes: &[u8]) -> io::Result<()> {
    step(&Step::Overwrite(path), || file.write_all_at(bytes, 0))
}

/// Removes a file durably. That it is gone already is no error, so that it can be repeated.
pub fn remove_file_durably(path: &Path) -> io::Result<()> {
    match remove(path) {
        Ok(()) => sync_dir(parent(path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Bytes free to this process on the disk of `path`.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Makes the bytes of an open file durable.
#[allow(
    clippy::disallowed_methods,
    reason = "this module is where durability is decided"
)]
pub(crate) fn sync(file: &File) -> io::Result<()> {
    file.sync_all()
}

/// Makes the bytes of an open file durable, and its length; not its times, which nobody asks for,
/// and which would cost a commit of the file system's journal each time.
#[allow(
    clippy::disallowed_methods,
    reason = "this module is where durability is decided"
)]
pub(crate) fn sync_data(file: &File) -> io::Result<()> {
    file.sync_data()
}

/// Makes the names in a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    step(&Step::Names(dir), || sync(&File::open(dir)?))
}

/// Moves a file to another name at once; not yet durable.
#[allow(
    clippy::disallowed_methods,
    reason = "this module is where durability is decided"
)]
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    step(&Step::Rename(from, to), || fs::rename(from, to))
}

/// Makes the bytes of a file durable, and not its name.
pub fn sync_bytes(path: &Path) -> io::Result<()> {
    sync(&File::open(path)?)
}

/// Moves a file to another name of its folder, in one step and never in place of another file:
/// `AlreadyExists` when the name is taken. Not durable before [`sync_names`].
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    step(&Step::Rename(from, to), || {
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).map_err(io::Error::from) {
            // The file system does not know the flag (NFS, some FUSE), or the system the call.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
                ) =>
            {
                link_new(from, to)
            }
            done => done,
        }
    })
}

/// [`rename_new`] by a hard link; a crash leaves both names or one, never none.
fn link_new(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to)?;
    sync_dir(parent(to))?;
    fs::remove_file(from)
}

/// Makes the names in a folder durable, as they are when this is called. Callers that come while
/// the folder is being synced for others share the next sync.
pub fn sync_names(dir: &Path) -> io::Result<()> {
    static FOLDERS: Mutex<BTreeMap<PathBuf, Arc<Shared>>> = Mutex::new(BTreeMap::new());
    /// Folders remembered; beyond it those nobody syncs are forgotten.
    const MOST: usize = 64;
    let shared = {
        let mut folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
        if folders.len() >= MOST {
            folders.retain(|_, shared| Arc::strong_count(shared) > 1);
        }
        Arc::clone(folders.entry(dir.to_owned()).or_default())
    };
    shared.run(|| sync_dir(dir))
}

/// Work that one caller does for all who came before it began.
#[derive(Default)]
struct Shared {
    state: Mutex<Rounds>,
    ended: Condvar,
}

#[derive(Default)]
struct Rounds {
    begun: u64,
    ended: u64,
    running: bool,
    /// The last round that failed, and how.
    failed: Option<(u64, io::ErrorKind, String)>,
}

impl Shared {
    /// Returns once a round of `work` that began after this call has ended, and what came of it.
    fn run(&self, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.lock();
        // One that runs already may have looked before this caller's names were there.
        let mine = state.begun + 1;
        while state.running && state.ended < mine {
            state = self
                .ended
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.ended < mine {
            state.begun += 1;
            state.running = true;
            let round = state.begun;
            drop(state);
            let result = work();
            state = self.lock();
            state.running = false;
            state.ended = round;
            if let Err(e) = &result {
                state.failed = Some((round, e.kind(), e.to_string()));
            }
            self.ended.notify_all();
            return result;
        }
        // A later round that failed counts too: what the disk lost then may be this caller's.
        match &state.failed {
            Some((round, kind, words)) if *round >= mine => {
                Err(io::Error::new(*kind, words.clone()))
            }
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rounds> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_leaves_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        write_file_durably(&path, b"first").unwrap();
        write_file_durably(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        sync_file(&path).unwrap();
        remove_file_durably(&path).unwrap();
        remove_file_durably(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        // A folder cannot be replaced by a file: the rename fails after the temporary was written.
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        assert!(write_file_durably(&path, b"x").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_new_name_is_taken_in_one_step_and_never_from_another_file() {
        for rename in [rename_new, link_new] {
            let dir = tempfile::tempdir().unwrap();
            let (from, to) = (dir.path().join("a.part"), dir.path().join("a"));
            fs::write(&from, b"new").unwrap();
            fs::write(&to, b"old").unwrap();
            let refused = rename(&from, &to).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(&to).unwrap(), b"old");
            fs::remove_file(&to).unwrap();
            rename(&from, &to).unwrap();
            sync_names(dir.path()).unwrap();
            assert_eq!(fs::read(&to).unwrap(), b"new");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
        assert!(sync_names(Path::new("/no/such/folder")).is_err());
    }

    #[test]
    fn rounds_are_shared_by_those_who_came_before_they_began() {
        use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
        let (shared, written, rounds) = (Shared::default(), AtomicU64::new(0), AtomicU64::new(0));
        let durable = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let mine = written.fetch_add(1, SeqCst) + 1;
                        let work = || {
                            rounds.fetch_add(1, SeqCst);
                            let seen = written.load(SeqCst);
                            std::thread::sleep(std::time::Duration::from_millis(1));
                            durable.fetch_max(seen, SeqCst);
                            Ok(())
                        };
                        shared.run(work).unwrap();
                        assert!(durable.load(SeqCst) >= mine, "said before it was done");
                    }
                });
            }
        });
        assert!(rounds.load(SeqCst) < 320, "no round was shared");
    }

    #[test]
    fn who_shares_a_failed_round_hears_of_it() {
        let shared = Shared::default();
        let full = || Err(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(
            shared.run(full).unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        shared.run(|| Ok(())).unwrap();
        std::thread::scope(|scope| {
            let (begun, wait) = std::sync::mpsc::channel();
            scope.spawn(|| {
                let slow = move || {
                    begun.send(()).unwrap();
                    std::thread::sleep(std::time::Duration::from_millis(50));
                    Ok(())
                };
                shared.run(slow).unwrap();
            });
            wait.recv().unwrap();
            // Both come while the first runs; one of them does the next round, for both.
            let late = || scope.spawn(|| shared.run(full).is_err());
            let both = [late(), late()];
            assert!(both.into_iter().all(|told| told.join().unwrap()));
        });
    }

    #[test]
    fn the_disk_under_a_folder_has_room() {
        assert!(free_bytes(Path::new(".")).unwrap() > 0);
        assert!(free_bytes(Path::new("/no/such/folder")).is_err());
    }
}
