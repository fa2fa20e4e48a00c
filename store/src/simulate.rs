//! Disks whose power is lost, for tests (feature `simulate`; the program never has it).
//!
//! The store runs as it is, with two things exchanged beneath it: the index lies in memory in
//! place of sled, as what is durable and what was only written; and of the files, which are real
//! ones in a temporary folder, it is remembered what was not synced. When the power is lost, every
//! call fails from there on. When it comes back, an arbitrary part of what was not made durable is
//! gone: of the index the last batches, each whole; of the names in folders the last changes, in
//! order, as a file system with a journal keeps them. A file being written is left half written.
//!
//! The steps by which things become durable are counted ([`Disk::steps`]), and the power can be
//! lost before or after any of them ([`Disk::fail`]). Everything follows from the seed: the
//! committer has no thread of its own here, and ids come from [`seed_chance`].
//!
//! What is simulated is the loss of power and no more: a page torn, a byte that rots, an fsync that
//! lies are not (docs/decisions/0012-simulation.md).

use std::{
    cell::Cell,
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use sled::IVec as Bytes;

use crate::{durable::Step, index::Batch};

/// Disks by their folder, for the store to find out that its own is one of them.
static DISKS: Mutex<BTreeMap<PathBuf, Weak<Mutex<State>>>> = Mutex::new(BTreeMap::new());

thread_local! {
    static CHANCE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on the ids a store chooses on this thread follow from this number.
pub fn seed_chance(seed: u64) {
    CHANCE.set(Some(seed));
}

/// The next number of this thread's sequence (SplitMix64); `None` when it has none.
pub(crate) fn chance() -> Option<u64> {
    let (number, next) = following(CHANCE.get()?);
    CHANCE.set(Some(next));
    Some(number)
}

fn following(state: u64) -> (u64, u64) {
    let next = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = next;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31), next)
}

type Index = BTreeMap<Bytes, Bytes>;

/// When the power is lost, by a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The step is not taken any more.
    Before,
    /// It is taken, and nobody is told.
    After,
}

/// A sabotage, to show that a test would notice: a disk that does not keep what it promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// The index says that it is durable and is not.
    Index,
    /// The names in folders are said to be durable and are not.
    Names,
}

/// The disk of one data folder.
#[derive(Debug, Clone)]
pub struct Disk(Arc<Mutex<State>>);

/// All that is in a data folder, as a copy of it has it.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Folders have no bytes.
    files: Vec<(PathBuf, Option<Vec<u8>>)>,
    index: Index,
}

#[derive(Debug)]
struct State {
    dir: PathBuf,
    durable: Index,
    written: Index,
    /// In `written`, not in `durable`.
    unsynced: Vec<Batch>,
    /// Changes of names that are not durable, oldest first.
    changes: Vec<Change>,
    steps: u64,
    fails: Option<(u64, When)>,
    down: bool,
    lie: Option<Lie>,
    chance: u64,
}

/// How to undo a change of names.
#[derive(Debug)]
struct Change {
    /// The file's name in its folder: changes of the same file become durable in order.
    name: PathBuf,
    folders: Vec<PathBuf>,
    undo: Undo,
}

#[derive(Debug)]
enum Undo {
    /// The file was not there, or was this.
    Put(PathBuf, Option<Vec<u8>>),
    /// The file had this name.
    Rename(PathBuf, PathBuf),
}

impl Disk {
    /// The disk of `dir`, which is empty or not there yet.
    pub fn new(dir: &Path, seed: u64) -> Self {
        let disk = Self(Arc::new(Mutex::new(State {
            dir: dir.to_owned(),
            durable: Index::new(),
            written: Index::new(),
            unsynced: Vec::new(),
            changes: Vec::new(),
            steps: 0,
            fails: None,
            down: false,
            lie: None,
            chance: seed,
        })));
        let mut disks = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
        disks.retain(|_, disk| disk.strong_count() > 0);
        disks.insert(dir.to_owned(), Arc::downgrade(&disk.0));
        disk
    }

    /// The disk `path` is on, if that is a simulated one.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let disks = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
        let disk = path.ancestors().find_map(|dir| disks.get(dir))?;
        disk.upgrade().map(Self)
    }

    fn with<T>(&self, run: impl FnOnce(&mut State) -> T) -> T {
        run(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.with(|s| s.steps)
    }

    /// Loses the power at a step: 1 = the next.
    pub fn fail(&self, step: u64, when: When) {
        self.with(|s| s.fails = Some((s.steps + step, when)));
    }

    /// Takes back [`fail`](Self::fail).
    pub fn hold(&self) {
        self.with(|s| s.fails = None);
    }

    /// The power is lost now.
    pub fn lose_power(&self) {
        self.with(|s| s.down = true);
    }

    /// Whether the power is lost.
    pub fn is_down(&self) -> bool {
        self.with(|s| s.down)
    }

    /// From now on the disk lies, or does no more.
    pub fn lie(&self, lie: Option<Lie>) {
        self.with(|s| s.lie = lie);
    }

    /// The power is back, after the store was dropped: some of what was not durable is gone.
    pub fn restore_power(&self) -> io::Result<()> {
        self.with(State::restore_power)
    }

    /// The process was killed and the power stayed: everything written is there, though what was not
    /// durable may still go with the power.
    pub fn restart(&self) {
        self.with(|s| {
            s.down = false;
            s.fails = None;
        });
    }

    /// A copy of the folder as it is: what was written and not synced is in it.
    pub fn image(&self) -> io::Result<Image> {
        self.with(|s| {
            let mut files = Vec::new();
            read_all(&s.dir, &s.dir, &mut files)?;
            let index = s.written.clone();
            Ok(Image { files, index })
        })
    }

    /// Replaces everything in the folder, durably. The store was dropped before.
    pub fn install(&self, image: &Image) -> io::Result<()> {
        self.with(|s| s.install(image))
    }

    pub(crate) fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.with(|s| s.powered().map(|()| s.written.get(key).cloned()))
    }

    pub(crate) fn range(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> io::Result<Vec<(Bytes, Bytes)>> {
        let some = |s: &mut State| {
            let entries = s
                .written
                .range::<[u8], _>((Bound::Included(from), Bound::Unbounded));
            let entries = entries.take_while(|(key, _)| to.is_none_or(|to| key.as_ref() < to));
            let entries = entries.take(limit);
            entries.map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        self.with(|s| s.powered().map(|()| some(s)))
    }

    /// Written, not durable: no step of its own, for it may be lost with the next as well.
    pub(crate) fn apply(&self, batch: Batch) -> io::Result<()> {
        self.with(|s| {
            s.powered()?;
            apply(&mut s.written, &batch);
            s.unsynced.push(batch);
            Ok(())
        })
    }

    pub(crate) fn flush(&self) -> io::Result<()> {
        self.with(|s| {
            s.taking(|s| {
                if s.lie != Some(Lie::Index) {
                    for batch in std::mem::take(&mut s.unsynced) {
                        apply(&mut s.durable, &batch);
                    }
                }
                Ok(())
            })
        })
    }

    pub(crate) fn step<T>(
        &self,
        step: &Step<'_>,
        take: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        self.with(|s| s.step(step, take))
    }
}

impl State {
    fn powered(&self) -> io::Result<()> {
        if self.down {
            return Err(io::Error::other("the power is lost"));
        }
        Ok(())
    }

    fn number(&mut self) -> u64 {
        let (number, next) = following(self.chance);
        self.chance = next;
        number
    }

    /// Of `count` changes that are not durable, how many stay.
    fn some_of(&mut self, count: usize) -> usize {
        let kept = self.number() % (count as u64 + 1);
        usize::try_from(kept).unwrap_or(0)
    }

    /// Counts a step and takes it, or loses the power before it or after it.
    fn taking<T>(&mut self, take: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        self.powered()?;
        self.steps += 1;
        let fails = self.fails.filter(|(at, _)| *at == self.steps);
        if let Some((_, When::Before)) = fails {
            self.down = true;
        }
        self.powered()?;
        let taken = take(self);
        self.down = fails.is_some();
        self.powered()?;
        taken
    }

    fn step<T>(&mut self, step: &Step<'_>, take: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let was_up = !self.down;
        let result = self.taking(|s| {
            let change = change(step);
            let taken = take()?;
            s.changes.extend(change);
            if let Step::Names(folder) = step
                && s.lie != Some(Lie::Names)
            {
                s.names_synced(folder);
            }
            Ok(taken)
        });
        if let (true, true, Step::Write(path, parts)) = (was_up, self.down, step) {
            half_written(path, parts)?;
        }
        result
    }

    /// Changes in `folder` are durable, and those of the same files before them.
    fn names_synced(&mut self, folder: &Path) {
        let synced = |c: &Change| c.folders.iter().any(|f| f == folder);
        for index in (0..self.changes.len()).rev() {
            let Some(name) = self.changes.get(index).filter(|c| synced(c)) else {
                continue;
            };
            let name = name.name.clone();
            let mut place = 0;
            self.changes.retain(|c| {
                place += 1;
                place > index + 1 || c.name != name
            });
        }
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "undone is what was not durable; the folder is a test's"
    )]
    fn restore_power(&mut self) -> io::Result<()> {
        let kept = self.some_of(self.unsynced.len());
        for batch in std::mem::take(&mut self.unsynced).iter().take(kept) {
            apply(&mut self.durable, batch);
        }
        self.written.clone_from(&self.durable);
        let kept = self.some_of(self.changes.len());
        let mut changes = std::mem::take(&mut self.changes);
        for change in changes.drain(kept..).rev() {
            match change.undo {
                Undo::Put(path, Some(bytes)) => fs::write(path, bytes)?,
                Undo::Put(path, None) => unless_gone(fs::remove_file(path))?,
                Undo::Rename(from, to) => unless_gone(fs::rename(to, from))?,
            }
        }
        self.down = false;
        self.fails = None;
        Ok(())
    }

    fn install(&mut self, image: &Image) -> io::Result<()> {
        unless_gone(fs::remove_dir_all(&self.dir))?;
        fs::create_dir_all(&self.dir)?;
        for (path, bytes) in &image.files {
            let path = self.dir.join(path);
            match bytes {
                Some(bytes) => fs::write(path, bytes)?,
                None => fs::create_dir_all(path)?,
            }
        }
        self.durable.clone_from(&image.index);
        self.written.clone_from(&image.index);
        self.unsynced.clear();
        self.changes.clear();
        self.down = false;
        self.fails = None;
        Ok(())
    }
}

fn apply(index: &mut Index, batch: &Batch) {
    for (key, value) in batch {
        match value {
            Some(value) => index.insert(key.clone(), value.clone()),
            None => index.remove(key),
        };
    }
}

/// What a step changes that is not durable with it.
fn change(step: &Step<'_>) -> Option<Change> {
    let (path, other) = match step {
        // Whatever is under a temporary name is swept at the next start.
        Step::Write(..) | Step::Names(_) => return None,
        Step::Rename(from, to) => (*to, Some(*from)),
        Step::Remove(path) | Step::Overwrite(path) => (*path, None),
    };
    let undo = match (other, fs::read(path)) {
        (Some(from), Err(_)) if !is_temporary(from) => Undo::Rename(from.into(), path.into()),
        (_, before) => Undo::Put(path.into(), before.ok()),
    };
    let folders = [Some(path), other].into_iter().flatten();
    Some(Change {
        name: path.file_name().unwrap_or_default().into(),
        folders: folders.filter_map(Path::parent).map(Into::into).collect(),
        undo,
    })
}

fn is_temporary(path: &Path) -> bool {
    path.extension() == Some(OsStr::new("tmp"))
}

fn half_written(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let whole = parts.concat();
    let (half, _) = whole.split_at(whole.len() / 2);
    fs::write(path, half)
}

fn unless_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn read_all(
    root: &Path,
    dir: &Path,
    files: &mut Vec<(PathBuf, Option<Vec<u8>>)>,
) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let Ok(name) = path.strip_prefix(root) else {
            continue;
        };
        if path.is_dir() {
            files.push((name.to_owned(), None));
            read_all(root, &path, files)?;
        } else {
            files.push((name.to_owned(), Some(fs::read(&path)?)));
        }
    }
    Ok(())
}
