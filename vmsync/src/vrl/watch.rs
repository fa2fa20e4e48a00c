//! Watches the folder of recordings: what was finished, what is still written, and when the whole folder must be
//! looked at (docs/vrl.md).
//!
//! inotify tells of a file when its writer closes it or it is renamed into place; a file that was created or modified
//! and not closed since is *still written*. Files that were open before the watch began are found in `/proc`.
//! Nothing rests on the events alone: whoever uses this looks at the folder when told to, which is
//! also every minute, and a recording's copy goes only if its content still is what was confirmed. Where a
//! watch can't be had, that minute is all there is, and it is said once.
//!
//! Not seen: what other machines write on a network file system (the minute finds it), and a file that two write of
//! whom one has closed it, until the other writes again.

mod marks;
mod open;

use std::{
    collections::BTreeSet,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use notify::{
    ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode},
};
use tokio::{sync::Notify, task::JoinHandle};

use self::{
    marks::{Marks, Seen},
    open::Look,
};
use crate::clock;

/// What may be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// These files were finished, or renamed into place; at most 4,096. Some may be gone again.
    Names(BTreeSet<String>),
    /// The whole folder; in words, why.
    Rescan(String),
}

/// What a watch is tuned by; tests shorten it.
#[derive(Debug, Clone, Copy)]
pub struct WatchTuning {
    /// Time between two rescans whatever happens. Default 60 s.
    pub rescan: Duration,
    /// Time between two tries to watch a folder that is not there. Default 1 s.
    pub retry: Duration,
    /// What happens within this time of one another is told at once. Default 20 ms.
    pub gather: Duration,
    /// The longest look through `/proc`. Default 2 s.
    pub look: Duration,
    /// Whether to ask for events at all. Default true.
    pub events: bool,
}

impl Default for WatchTuning {
    fn default() -> Self {
        Self {
            rescan: Duration::from_mins(1),
            retry: Duration::from_secs(1),
            gather: Duration::from_millis(20),
            look: Duration::from_secs(2),
            events: true,
        }
    }
}

/// A watched folder. Dropped, it stops.
pub struct Watch {
    folder: PathBuf,
    tuning: WatchTuning,
    shared: Arc<Shared>,
    watcher: Option<Watching>,
    /// What is being done on a blocking thread, and since when.
    work: Option<(JoinHandle<Worked>, Duration)>,
    trouble: Option<String>,
    /// The next rescan, and the next try to watch (monotonic).
    rescan_at: Duration,
    retry_at: Duration,
}

/// Tells which files are still written; cheap to clone.
#[derive(Clone)]
pub struct Writers(Arc<Shared>);

impl Writers {
    /// Nobody writes.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        let shared = Shared {
            marks: Mutex::default(),
            bell: Notify::new(),
        };
        shared.marks().looked = true;
        Self(Arc::new(shared))
    }

    /// As [`Watch::still_written`].
    pub fn still_write(&self, name: &str) -> bool {
        self.0.marks().still_written(name)
    }
}

/// What events and asker share.
struct Shared {
    marks: Mutex<Marks>,
    bell: Notify,
}

impl Shared {
    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A watcher, and the folder it was made for: device and inode.
struct Watching {
    _watcher: RecommendedWatcher,
    folder: (u64, u64),
}

/// What blocking work brought.
struct Worked {
    watcher: Option<Watching>,
    /// A watcher that is not the one before.
    fresh: bool,
    /// A rescan is due.
    rescan: bool,
    trouble: Option<Trouble>,
    look: Option<(Look, Duration)>,
}

/// Why a folder is not watched.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Trouble {
    /// It is not there.
    Missing,
    /// In words, with the remedy.
    Other(String),
}

impl Watch {
    /// Begins to watch `folder`, which need not be there yet. The first answer of [`Self::changed`] is a rescan.
    pub fn start(folder: &Path) -> Self {
        Self::tuned(folder, WatchTuning::default())
    }

    /// As [`Self::start`], with other times.
    pub fn tuned(folder: &Path, tuning: WatchTuning) -> Self {
        Self {
            folder: std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()),
            tuning,
            shared: Arc::new(Shared {
                marks: Mutex::default(),
                bell: Notify::new(),
            }),
            watcher: None,
            work: None,
            trouble: None,
            rescan_at: Duration::ZERO,
            retry_at: Duration::ZERO,
        }
    }

    /// For those who ask about files while this waits.
    pub fn writers(&self) -> Writers {
        Writers(self.shared.clone())
    }

    /// Waits until there is something to look at. What happens meanwhile, or while nobody waits, is gathered.
    /// Nothing is lost when the future is dropped. Must be called within a tokio runtime.
    pub async fn changed(&mut self) -> Changes {
        loop {
            let sleep = self.begin_what_is_due();
            if let Some(changes) = self.shared.marks().take() {
                return changes;
            }
            let worked = async {
                match &mut self.work {
                    Some((work, _)) => work.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                worked = worked => {
                    let begun = self.work.take().map_or(Duration::ZERO, |(_, begun)| begun);
                    match worked {
                        Ok(worked) => self.worked(worked, begun),
                        Err(e) => {
                            self.retry_at = begun.saturating_add(self.tuning.rescan);
                            self.blind(&e.to_string());
                        }
                    }
                }
                () = self.shared.bell.notified() => tokio::time::sleep(self.tuning.gather).await,
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Whether somebody has the file open and is writing it, as far as can be seen. True for every name until the
    /// first [`Self::changed`] has answered.
    pub fn still_written(&self, name: &str) -> bool {
        self.shared.marks().still_written(name)
    }

    /// Why events are not seen, with the remedy; `None` while they are.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Starts blocking work that is due; returns how long to sleep at most.
    fn begin_what_is_due(&mut self) -> Duration {
        let now = clock::now().mono;
        let overdue = now >= self.rescan_at;
        if let Some((_, begun)) = &self.work {
            // A file system that hangs must not end the rescans.
            if overdue && now.saturating_sub(*begun) >= self.tuning.rescan {
                self.rescan_at = now.saturating_add(self.tuning.rescan);
                let mut marks = self.shared.marks();
                marks.looked = true;
                marks.rescan("looking at the folder takes very long");
                return Duration::ZERO;
            }
            return self.tuning.rescan;
        }
        let (doubts, lost, doubted_at) = {
            let mut marks = self.shared.marks();
            (marks.doubt(now), marks.lost, marks.doubted_at())
        };
        let unwatched = self.watcher.is_none() || lost;
        if overdue || doubts || (unwatched && now >= self.retry_at) {
            if overdue {
                self.rescan_at = now.saturating_add(self.tuning.rescan);
            }
            self.begin(doubts || unwatched, overdue, now);
            return self.tuning.rescan;
        }
        let mut next = self.rescan_at;
        if unwatched {
            next = next.min(self.retry_at);
        }
        next = next.min(doubted_at.unwrap_or(next));
        next.saturating_sub(now).max(Duration::from_millis(10))
    }

    /// Off the async threads: is the folder still the one watched? If not, watch what is there now. Then, if wanted, look.
    fn begin(&mut self, look: bool, rescan: bool, now: Duration) {
        let lost = std::mem::take(&mut self.shared.marks().lost);
        let had = self.watcher.take().filter(|_| !lost);
        let (folder, tuning, shared) = (self.folder.clone(), self.tuning, self.shared.clone());
        let work = tokio::task::spawn_blocking(move || {
            let had_one = had.is_some();
            let (watcher, trouble) = match watched(&folder, tuning, had, &shared) {
                Ok(watcher) => (watcher, None),
                Err(trouble) => (None, Some(trouble)),
            };
            let fresh = !had_one && watcher.is_some();
            // After the watch began, so that nothing is opened in between unseen.
            let begun = clock::now().mono;
            let look = (look || fresh || watcher.is_none())
                .then(|| (open::look(Path::new("/proc"), &folder, tuning.look), begun));
            Worked {
                watcher,
                fresh,
                rescan,
                trouble,
                look,
            }
        });
        self.work = Some((work, now));
    }

    fn worked(&mut self, worked: Worked, begun: Duration) {
        let now = clock::now().mono;
        self.watcher = worked.watcher;
        {
            let mut marks = self.shared.marks();
            if let Some((look, begun)) = &worked.look {
                marks.settle(look, *begun, now);
            }
            if worked.fresh {
                marks.rescan("the folder is watched from now on");
            } else if worked.rescan {
                marks.rescan("it is time for a look at all of it");
            }
        }
        let wait = match &worked.trouble {
            // Asking for what is not there costs next to nothing.
            Some(Trouble::Missing) => self.tuning.retry,
            None if self.watcher.is_some() => Duration::ZERO,
            _ => self.tuning.rescan,
        };
        self.retry_at = begun.saturating_add(wait);
        match worked.trouble {
            Some(Trouble::Other(words)) => self.blind(&words),
            Some(Trouble::Missing) | None => self.trouble = None,
        }
    }

    /// Says once that only the clock tells when to look.
    fn blind(&mut self, words: &str) {
        let seconds = self.tuning.rescan.as_secs();
        let folder = self.folder.display();
        let words =
            format!("{folder} is not watched, and is looked at every {seconds} s instead: {words}");
        if self.trouble.as_ref() != Some(&words) {
            tracing::warn!("recordings: {words}");
        }
        self.trouble = Some(words);
    }
}

/// The watcher there was, if it still watches what has the folder's name, else a new one.
fn watched(
    folder: &Path,
    tuning: WatchTuning,
    had: Option<Watching>,
    shared: &Arc<Shared>,
) -> Result<Option<Watching>, Trouble> {
    let identity = std::fs::metadata(folder)
        .map(|meta| (meta.dev(), meta.ino()))
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Trouble::Missing,
            _ => Trouble::Other(e.to_string()),
        })?;
    if !tuning.events {
        return Ok(None);
    }
    if let Some(had) = had.filter(|had| had.folder == identity) {
        return Ok(Some(had));
    }
    let (told, root) = (shared.clone(), folder.to_owned());
    let mut watcher = notify::recommended_watcher(move |event| tell(&told, &root, event))
        .map_err(|e| trouble(&e))?;
    watcher
        .watch(folder, RecursiveMode::NonRecursive)
        .map_err(|e| trouble(&e))?;
    Ok(Some(Watching {
        _watcher: watcher,
        folder: identity,
    }))
}

/// What a failure to watch means, and what to do.
fn trouble(e: &notify::Error) -> Trouble {
    // inotify_init1(2): EMFILE is the limit of instances, or of open files.
    const EMFILE: i32 = 24;
    match &e.kind {
        ErrorKind::PathNotFound => Trouble::Missing,
        ErrorKind::MaxFilesWatch => Trouble::Other(
            "the system allows no more watches; raise fs.inotify.max_user_watches (sysctl)".to_owned(),
        ),
        ErrorKind::Io(io) if io.kind() == io::ErrorKind::NotFound => Trouble::Missing,
        ErrorKind::Io(io) if io.raw_os_error() == Some(EMFILE) => Trouble::Other(
            "the system allows no more watchers or open files; raise fs.inotify.max_user_instances (sysctl) or LimitNOFILE".to_owned(),
        ),
        _ => Trouble::Other(e.to_string()),
    }
}

/// On the watcher's thread.
fn tell(shared: &Shared, root: &Path, event: notify::Result<Event>) {
    let now = clock::now().mono;
    let Ok(event) = event else {
        shared.marks().handle(Seen::Overflow, now);
        shared.bell.notify_one();
        return;
    };
    if event.need_rescan() {
        shared.marks().handle(Seen::Overflow, now);
        shared.bell.notify_one();
        return;
    }
    let Some(path) = event.paths.first() else {
        return;
    };
    let name = if path == root {
        None
    } else {
        // A name that is not UTF-8 is unfit to be moved; the rescan says so.
        match path.file_name().and_then(|n| n.to_str()) {
            Some(name) => Some(name),
            None => return,
        }
    };
    if let Some(seen) = meaning(event.kind, name, event.tracker())
        && shared.marks().handle(seen, now)
    {
        shared.bell.notify_one();
    }
}

/// What an event says of a file of the folder, or, without a name, of the folder.
fn meaning(kind: EventKind, name: Option<&str>, tracker: Option<usize>) -> Option<Seen<'_>> {
    let Some(name) = name else {
        let gone = matches!(
            kind,
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
        );
        return gone.then_some(Seen::FolderGone);
    };
    Some(match kind {
        EventKind::Create(CreateKind::Folder) => return None,
        EventKind::Create(_) => Seen::Created(name),
        EventKind::Modify(ModifyKind::Data(_)) => Seen::Modified(name),
        EventKind::Modify(ModifyKind::Name(RenameMode::From)) => Seen::MovedFrom(name, tracker),
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Seen::MovedTo(name, tracker),
        EventKind::Access(AccessKind::Open(_)) => Seen::Opened(name),
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Seen::Closed(name),
        EventKind::Remove(_) => Seen::Removed(name),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_to_watch_names_the_limit_to_raise() {
        let words = |e| match trouble(&e) {
            Trouble::Other(words) => words,
            Trouble::Missing => "missing".to_owned(),
        };
        let full = words(notify::Error::new(ErrorKind::MaxFilesWatch));
        assert!(full.contains("fs.inotify.max_user_watches"), "{full}");
        let many = words(notify::Error::io(io::Error::from_raw_os_error(24)));
        assert!(many.contains("fs.inotify.max_user_instances"), "{many}");
        let none = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(words(notify::Error::io(none)), "missing");
    }

    #[test]
    fn the_folder_itself_is_told_apart_from_its_files() {
        let gone = EventKind::Remove(notify::event::RemoveKind::Folder);
        assert_eq!(meaning(gone, None, None), Some(Seen::FolderGone));
        assert_eq!(meaning(gone, Some("sub"), None), Some(Seen::Removed("sub")));
        let touched = EventKind::Modify(ModifyKind::Metadata(notify::event::MetadataKind::Any));
        assert_eq!(meaning(touched, None, None), None);
        assert_eq!(meaning(touched, Some("a.wav"), None), None);
    }
}
