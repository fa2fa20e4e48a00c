//! Whether an index is what its commits made it: read from end to end once, when it is opened.
//!
//! sled checks a page when it reads it. So a damaged page would be found only when somebody asks
//! for what is on it, perhaps months later, when the peer that could have filled the gap is gone
//! too. And pages it lost without noticing are missed by nobody. Read here: every page; and of what
//! it holds: that the records come to the digest kept, and that the logs have no holes.

use std::io;

use vmsync_config::words::{Origin, Vector};

use crate::{commit::Memory, digest::Buckets, index::Index, keys, operation::EntityKey};

/// Reads all of the index. Fails with [`io::ErrorKind::InvalidData`], in words, when it is damaged.
pub(crate) fn sound(index: &Index, memory: &Memory) -> io::Result<()> {
    let mut seen = Seen {
        memory,
        buckets: Buckets::default(),
        logs: Vector::default(),
    };
    index.each(|key, value| seen.take(key, value))?;
    seen.ends()
}

struct Seen<'a> {
    memory: &'a Memory,
    buckets: Buckets,
    /// The last entry of each log seen so far.
    logs: Vector,
}

impl Seen<'_> {
    fn take(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        match key.split_first() {
            Some((&keys::RECORD, entity)) => {
                self.record(&String::from_utf8_lossy(entity), value);
                Ok(())
            }
            Some((&keys::LOG, rest)) => self.entry(rest),
            _ => Ok(()),
        }
    }

    /// What is quarantined is not in the digest.
    fn record(&mut self, name: &str, value: &[u8]) {
        let quarantine = &self.memory.quarantine;
        let entity = || EntityKey::try_from(name.to_owned());
        if quarantine.is_empty() || !entity().is_ok_and(|e| quarantine.contains_key(&e)) {
            self.buckets.add(name, value);
        }
    }

    /// An entry of a log is the one after the entry before, or after the floor. Those that lie
    /// below it still are on their way out.
    fn entry(&mut self, rest: &[u8]) -> io::Result<()> {
        let (origin, seq) = parse(rest).ok_or_else(|| damaged("its log has a bad key"))?;
        let floor = self.memory.floor(&origin);
        if seq <= floor {
            return Ok(());
        }
        let next = self.logs.get(&origin).max(floor).saturating_add(1);
        if seq != next {
            return Err(damaged(format!(
                "its log lacks operation {next} of {origin}"
            )));
        }
        self.logs.raise(&origin, seq);
        Ok(())
    }

    fn ends(&self) -> io::Result<()> {
        for (origin, held) in self.memory.vector.iter() {
            let last = self.logs.get(origin).max(self.memory.floor(origin));
            if last != held {
                return Err(damaged(format!(
                    "its log ends with operation {last} of {origin}, and {held} are held"
                )));
            }
        }
        if self.buckets != self.memory.buckets {
            return Err(damaged("the records are not those of its digest"));
        }
        Ok(())
    }
}

fn parse(rest: &[u8]) -> Option<(Origin, u64)> {
    let (origin, seq) = rest.split_at_checked(rest.len().checked_sub(9)?)?;
    let seq = u64::from_be_bytes(seq.get(1..)?.try_into().ok()?);
    Some((std::str::from_utf8(origin).ok()?.parse().ok()?, seq))
}

fn damaged(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
