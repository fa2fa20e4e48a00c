//! Whether an index is what its commits made it: read from end to end, a slice at a time, while the
//! store is used.
//!
//! sled checks a page when it reads it. So a damaged page would be found only when somebody asks
//! for what is on it, perhaps months later, when the peer that could have filled the gap is gone
//! too. And pages it lost without noticing are missed by nobody. Read here: every page; and of what
//! it holds: that the records come to the digest kept, and that the logs have no holes.
//!
//! Opening looks at the first [`AT_OPEN`] entries, which is all of a small index; who runs the node
//! has the rest looked at by and by ([`Store::verify_more`]).
//!
//! *Records* are counted in the order of their keys, each slice under the writers' lock, as the next
//! writer would read them. How far that is ([`Counted`]) lies with what writers hold in memory: who
//! changes a record that is counted already changes its count too. So at the end the count is that
//! of the records as they are then, whatever was written meanwhile, and must be the digest.
//!
//! *All else* is read without any lock. A log may grow and be compacted while it is read: an entry
//! follows the one before it, or the floor its origin has by then.
//!
//! Where damage is noticed in a store that is open, a file says so ([`Store::suspect`]): the next
//! opening then reads all of the index before anything else.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use vmsync_config::words::{Origin, Vector};

use crate::{
    chance,
    commit::{Memory, lock},
    digest::{self, Buckets},
    disk::Disk,
    durable,
    error::StoreError,
    index::{Index, Overlay},
    keys,
    log::Mark,
    mailboxes::after,
    operation::EntityKey,
    quarantine::Notes,
    store::Store,
};

/// Entries looked at before an index counts as open: a tenth of a second.
pub(crate) const AT_OPEN: usize = 20_000;
/// Records counted while writers wait.
const SLICE: usize = 100;
/// Entries read at once without anybody waiting.
const STRIDE: usize = 500;
/// In the data folder: why the index is not trusted.
const SUSPECT: &str = "SUSPECT";
/// Before and behind all keys of records.
const RECORDS: (&[u8], &[u8]) = (&[keys::RECORD], &[keys::RECORD + 1]);
/// All other keys.
const OTHERS: [(&[u8], &[u8]); 2] = [(&[0], RECORDS.0), (RECORDS.1, &[0xff])];

/// What a look at some more of the index came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// So far it is sound, and there is more to look at.
    More {
        /// Entries looked at now.
        entries: usize,
        /// Commits made so far: who sees them grow may leave more room for them.
        commits: u64,
    },
    /// All of it was looked at, and is sound.
    Sound,
}

/// The records counted so far: part of what a writer holds in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counted {
    /// Which verification counts: one that finds another's, or none, begins anew.
    number: u64,
    /// The last name counted, and all before it.
    through: Vec<u8>,
    buckets: Buckets,
}

impl Counted {
    /// A record that is counted changes by what `change` does to the sums.
    pub(crate) fn change(this: &mut Option<Arc<Self>>, name: &str, change: &digest::Change) {
        if let Some(counted) = this
            && name.as_bytes() <= counted.through.as_slice()
        {
            Arc::make_mut(counted).buckets.apply(change);
        }
    }

    fn take(&mut self, key: &[u8], value: &[u8], quarantine: &Notes) {
        let name = keys::entity_name(key);
        // What is quarantined is not in the digest.
        let entity = || EntityKey::try_from(name.clone());
        if quarantine.is_empty() || !entity().is_ok_and(|e| quarantine.contains_key(&e)) {
            self.buckets.add(&name, value);
        }
    }
}

/// How far a verification is.
#[derive(Debug, Default)]
pub(crate) struct Place {
    /// Of this verification.
    number: u64,
    part: Part,
}

#[derive(Debug, Default)]
enum Part {
    #[default]
    Begin,
    /// Counting records, from this key on.
    Records(Vec<u8>),
    /// Reading all else.
    Others(Others),
    Done,
}

#[derive(Debug)]
struct Others {
    /// Which of [`OTHERS`], and from which key on.
    range: usize,
    from: Vec<u8>,
    /// What was held durably before the first entry was read.
    held: Vector,
    /// The last entry of each log seen so far.
    seen: Vector,
}

impl Store {
    /// Looks at some hundred entries more of the index. To be called again and again, at leisure,
    /// until it says [`Verified::Sound`]; after that it says so at once.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where the index is damaged: the caller tells people, and
    /// [`suspect`](Self::suspect)s it. After any error the next call begins anew.
    pub fn verify_more(&self) -> Result<Verified, StoreError> {
        let mut place = lock(&self.inner.verifying);
        let Place { number, part } = &mut *place;
        let stepped = match std::mem::take(part) {
            Part::Begin => {
                *number = chance::number();
                self.count(*number, RECORDS.0)
            }
            Part::Records(from) => self.count(*number, &from),
            Part::Others(others) => self.read_others(others),
            Part::Done => Ok((Part::Done, 0)),
        };
        let (next, entries) = stepped?;
        *part = next;
        Ok(match part {
            Part::Done => Verified::Sound,
            _ => Verified::More {
                entries,
                commits: self.inner.committer.held(|m| m.commits),
            },
        })
    }

    /// Looks at all of the index.
    pub fn verify(&self) -> Result<(), StoreError> {
        while self.verify_more()? != Verified::Sound {}
        Ok(())
    }

    /// The beginning of a verification, when the store is opened: so many entries; all of it where
    /// damage was noticed before.
    pub(crate) fn verify_at_open(&self, entries: usize) -> Result<(), StoreError> {
        let dir = &self.inner.disk.dir;
        if let Some(why) = suspected(dir) {
            tracing::warn!(%why, "all of the index is read, because damage was noticed before");
            self.verify()?;
            return trust(&self.inner.disk);
        }
        let mut looked = 0;
        while looked < entries {
            match self.verify_more()? {
                Verified::More { entries, .. } => looked += entries,
                Verified::Sound => break,
            }
        }
        Ok(())
    }

    /// Notes durably that the index may be damaged, so that the next opening reads all of it first.
    /// `why` is for people.
    pub fn suspect(&self, why: &str) -> Result<(), StoreError> {
        let path = path(&self.inner.disk.dir);
        if path.exists() {
            return Ok(());
        }
        durable::write_file_durably(&path, why.as_bytes()).map_err(|e| {
            self.inner
                .disk
                .error(format!("writing {}", path.display()), e)
        })
    }

    /// Counts the next records.
    fn count(&self, number: u64, from: &[u8]) -> Result<(Part, usize), StoreError> {
        let committer = &self.inner.committer;
        // Read once before the lock is held, so that writers don't wait for the disk.
        let ahead = committer.read(|index| index.keys(from, RECORDS.1, SLICE))?;
        let begins = from == RECORDS.0;
        let counted = committer.with_state(|index, layers, memory| {
            count(index, layers, memory, (number, begins), from)
        })?;
        let held = || committer.held(|m| m.vector.clone());
        Ok(match counted {
            Step::Next(from) => (Part::Records(from), ahead.len()),
            // The index was opened again meanwhile: what is counted is gone.
            Step::Lost => (Part::Begin, ahead.len()),
            Step::All => (
                Part::Others(Others {
                    range: 0,
                    from: OTHERS[0].0.to_vec(),
                    held: held(),
                    seen: Vector::default(),
                }),
                ahead.len(),
            ),
        })
    }

    /// Reads the next entries that are no records.
    fn read_others(&self, mut others: Others) -> Result<(Part, usize), StoreError> {
        let Some((_, end)) = OTHERS.get(others.range) else {
            return Ok((Part::Done, 0));
        };
        let (seen, from) = (&mut others.seen, &others.from);
        let (last, entries) = self.inner.committer.read(|index| {
            let mut entries = 0;
            let last = index.walk(from, end, STRIDE, |key, _| {
                entries += 1;
                match key.split_first() {
                    Some((&keys::LOG, rest)) => entry(index, seen, rest),
                    _ => Ok(()),
                }
            })?;
            if last.is_none() && others.range + 1 == OTHERS.len() {
                ends(index, seen, &others.held)?;
            }
            Ok((last, entries))
        })?;
        if let Some(last) = last {
            others.from = after(last);
            return Ok((Part::Others(others), entries));
        }
        others.range += 1;
        let Some((begin, _)) = OTHERS.get(others.range) else {
            return Ok((Part::Done, entries));
        };
        others.from = begin.to_vec();
        Ok((Part::Others(others), entries))
    }
}

/// What a slice of records came to.
pub(crate) enum Step {
    /// To go on from here.
    Next(Vec<u8>),
    All,
    Lost,
}

/// Counts up to [`SLICE`] records from the key `from` on, as they are with what is on its way into
/// the index (`layers`, newest first). `begins` is a new verification.
fn count(
    index: &Index,
    layers: &[Option<&Overlay>],
    memory: &mut Memory,
    (number, begins): (u64, bool),
    from: &[u8],
) -> io::Result<Step> {
    let mut counted = match memory.verifying.take() {
        Some(counted) if counted.number == number && !begins => counted,
        _ if begins => Arc::new(Counted {
            number,
            ..Counted::default()
        }),
        _ => return Ok(Step::Lost),
    };
    let found = index.range(from, RECORDS.1, SLICE)?;
    let last = found.last().map(|(key, _)| key.clone());
    let end = last.clone().map_or(RECORDS.1.to_vec(), after);
    let mut records: std::collections::BTreeMap<_, _> = found.into_iter().collect();
    for layer in layers.iter().rev().flatten() {
        for (key, value) in layer.range(from.to_vec()..end.clone()) {
            match value {
                Some(value) => records.insert(key.clone(), value.clone()),
                None => records.remove(key),
            };
        }
    }
    let sums = Arc::make_mut(&mut counted);
    for (key, value) in &records {
        sums.take(key, value, &memory.quarantine);
    }
    if let Some(last) = last {
        sums.through = last.get(1..).unwrap_or_default().to_vec();
        memory.verifying = Some(counted);
        return Ok(Step::Next(end));
    }
    if counted.buckets == memory.buckets {
        Ok(Step::All)
    } else {
        Err(damaged("the records are not those of its digest"))
    }
}

/// An entry of a log is the one after the entry before, or after the floor. Those that lie below it
/// still are on their way out.
fn entry(index: &Index, seen: &mut Vector, rest: &[u8]) -> io::Result<()> {
    let (origin, seq) = parse(rest).ok_or_else(|| damaged("its log has a bad key"))?;
    let before = seen.get(&origin);
    if seq == before.saturating_add(1) && before > 0 {
        seen.raise(&origin, seq);
        return Ok(());
    }
    let floor = floor(index, &origin)?;
    if seq <= floor {
        return Ok(());
    }
    let next = before.max(floor).saturating_add(1);
    if seq != next {
        return Err(damaged(format!(
            "its log lacks operation {next} of {origin}"
        )));
    }
    seen.raise(&origin, seq);
    Ok(())
}

/// Every log reached as far as it did when its first entry was read.
fn ends(index: &Index, seen: &Vector, held: &Vector) -> io::Result<()> {
    for (origin, held) in held.iter() {
        let last = seen.get(origin);
        if last < held && floor(index, origin)? < held {
            return Err(damaged(format!(
                "its log ends with operation {last} of {origin}, and {held} are held"
            )));
        }
    }
    Ok(())
}

/// The floor as it is in the index now: it is raised in the batch that removes entries.
fn floor(index: &Index, origin: &Origin) -> io::Result<u64> {
    let stored = index.get(&keys::floor(origin))?;
    let mark = stored.map(|bytes| Mark::from_bytes(&bytes)).transpose()?;
    Ok(mark.unwrap_or_default().seq)
}

fn parse(rest: &[u8]) -> Option<(Origin, u64)> {
    let (origin, seq) = rest.split_at_checked(rest.len().checked_sub(9)?)?;
    let seq = u64::from_be_bytes(seq.get(1..)?.try_into().ok()?);
    Some((std::str::from_utf8(origin).ok()?.parse().ok()?, seq))
}

fn damaged(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn path(dir: &Path) -> PathBuf {
    dir.join(SUSPECT)
}

/// Why the index in the data folder is not trusted; `None` when it is.
fn suspected(dir: &Path) -> Option<String> {
    match fs::read(path(dir)) {
        Ok(why) => Some(String::from_utf8_lossy(&why).chars().take(500).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => Some(e.to_string()),
    }
}

/// The index is sound, or another: whatever was noticed is over.
pub(crate) fn trust(disk: &Disk) -> Result<(), StoreError> {
    let path = path(&disk.dir);
    if !path.exists() {
        return Ok(());
    }
    durable::remove_file_durably(&path)
        .map_err(|e| disk.error(format!("removing {}", path.display()), e))
}

#[cfg(test)]
mod tests;
