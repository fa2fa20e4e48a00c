//! The SHA-256 of files that were written or read lately, so that the peer's question right after an
//! upload is answered without reading the recording again.
//!
//! A hash is remembered under everything that changes with a file: device, inode, length, and the
//! times of its last change. A time alone is no proof, as the kernel's clock for files ticks every
//! 1 to 10 ms: two writes within a tick bear the same time. So a file is remembered only once its
//! times are [`TICK`] old ([`Key::is_settled`]), or under a time that no write can give it
//! ([`set_apart`]).

use std::{
    collections::{HashMap, VecDeque},
    fs::{File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Files remembered; beyond it the oldest is forgotten.
const MOST: usize = 512;

/// Longer than the clock for files takes to tick, on any kernel.
pub(crate) const TICK: Duration = Duration::from_millis(20);

/// What a file is known by; any change to it changes this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Key {
    pub(crate) fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether a write from now on gets another time than those of this key. `now_ms`: wall clock,
    /// milliseconds of Unix time. False for times to come, and for some seconds where the file
    /// system knows whole seconds alone.
    pub(crate) fn is_settled(&self, now_ms: u64) -> bool {
        let (seconds, nanoseconds) = self.modified.max(self.changed);
        let coarse = self.modified.1 == 0 || self.changed.1 == 0;
        let margin = if coarse { 3_000 } else { TICK.as_millis() };
        let then = i128::from(seconds) * 1_000 + i128::from(nanoseconds) / 1_000_000;
        let margin = i128::try_from(margin).unwrap_or(i128::MAX);
        i128::from(now_ms) >= then.saturating_add(margin)
    }

    /// Whether this is the same file with the same content under another name: all but the time of
    /// the rename.
    fn is_renamed_of(&self, earlier: &Self) -> bool {
        Self {
            changed: earlier.changed,
            ..*self
        } == *earlier
    }
}

/// Gives a file that was just written a time of change that no later write can give it, being
/// [`TICK`] before the one it has; its key then. `None` where the file system keeps whole seconds:
/// such a file is not remembered.
pub(crate) fn set_apart(file: &File) -> io::Result<Option<Key>> {
    let modified = file.metadata()?.modified()?;
    let Some(apart) = modified.checked_sub(TICK) else {
        return Ok(None);
    };
    file.set_modified(apart)?;
    let key = Key::of(&file.metadata()?);
    Ok((key.modified.1 != 0).then_some(key))
}

#[derive(Debug, Clone)]
struct Known {
    sha256: String,
    /// The name under which it is durable, by this process' own doing.
    durable_as: Option<PathBuf>,
}

/// What is remembered. One for the process: [`recent`].
#[derive(Debug, Default)]
pub(crate) struct Recent {
    known: HashMap<Key, Known>,
    order: VecDeque<Key>,
}

/// The memory of this process.
pub(crate) fn recent() -> MutexGuard<'static, Recent> {
    static RECENT: LazyLock<Mutex<Recent>> = LazyLock::new(Mutex::default);
    RECENT.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recent {
    /// Remembers the SHA-256 (lower-case hex) of the file that had this key.
    pub(crate) fn note(&mut self, key: Key, sha256: &str, durable_as: Option<&Path>) {
        let known = Known {
            sha256: sha256.to_owned(),
            durable_as: durable_as.map(Path::to_owned),
        };
        if self.known.insert(key, known).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > MOST {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    /// The SHA-256 of the file with this key, if it is known.
    pub(crate) fn sha256(&self, key: &Key) -> Option<String> {
        self.known.get(key).map(|known| known.sha256.clone())
    }

    /// Whether the file with this key was made durable under `name` by this process.
    pub(crate) fn is_durable(&self, key: &Key, name: &Path) -> bool {
        let known = self.known.get(key).and_then(|k| k.durable_as.as_deref());
        known == Some(name)
    }

    /// The file known as `before` has another name, and is durable under it: takes over its hash.
    pub(crate) fn renamed(&mut self, before: &Key, after: Key, name: &Path) {
        if !after.is_renamed_of(before) {
            return;
        }
        if let Some(known) = self.known.remove(before) {
            self.order.retain(|key| key != before);
            self.note(after, &known.sha256, Some(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(inode: u64) -> Key {
        Key {
            device: 1,
            inode,
            bytes: 3,
            modified: (100, 5_000_000),
            changed: (100, 7_000_000),
        }
    }

    #[test]
    fn any_change_of_the_file_is_another_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wav");
        std::fs::write(&path, b"one").unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let first = set_apart(&file).unwrap().unwrap();
        let now = || Key::of(&std::fs::metadata(&path).unwrap());
        assert_eq!(now(), first);
        // Other bytes of the same length, at once: within the same tick of the clock for files.
        std::fs::write(&path, b"two").unwrap();
        assert_ne!(now(), first);
        let second = set_apart(&file).unwrap().unwrap();
        std::fs::write(&path, b"longer").unwrap();
        assert_ne!(now(), second);
        // The same bytes in a file of its own.
        std::fs::write(dir.path().join("c.wav"), b"longer").unwrap();
        let last = now();
        assert_ne!(
            Key::of(&std::fs::metadata(dir.path().join("c.wav")).unwrap()),
            last
        );
    }

    #[test]
    fn times_within_a_tick_prove_nothing() {
        let fine = key(1);
        for (now, settled) in [
            (100_007, false),
            (100_026, false),
            (100_027, true),
            (99_000, false),
        ] {
            assert_eq!(fine.is_settled(now), settled, "{now}");
        }
        let coarse = Key {
            modified: (100, 0),
            changed: (100, 0),
            ..fine
        };
        assert!(!coarse.is_settled(102_000));
        assert!(coarse.is_settled(103_000));
    }

    #[test]
    fn a_rename_keeps_the_hash_and_a_change_does_not() {
        let (mut recent, name) = (Recent::default(), Path::new("/vrl/a.wav"));
        recent.note(key(1), "aa", None);
        assert!(!recent.is_durable(&key(1), name));
        let after = Key {
            changed: (200, 0),
            ..key(1)
        };
        recent.renamed(&key(1), after, name);
        assert_eq!(recent.sha256(&after).as_deref(), Some("aa"));
        assert!(recent.is_durable(&after, name));
        assert!(!recent.is_durable(&after, Path::new("/vrl/b.wav")));
        assert_eq!(recent.sha256(&key(1)), None);
        let written = Key {
            modified: (200, 0),
            changed: (201, 0),
            ..key(1)
        };
        recent.renamed(&after, written, name);
        assert_eq!(recent.sha256(&written), None);
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut recent = Recent::default();
        for n in 0..5_000 {
            recent.note(key(n), "aa", None);
            recent.renamed(
                &key(n),
                Key {
                    changed: (300, 1),
                    ..key(n)
                },
                Path::new("a"),
            );
        }
        assert_eq!((recent.known.len(), recent.order.len()), (MOST, MOST));
        assert!(recent.sha256(&key(0)).is_none());
    }
}
