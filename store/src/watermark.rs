//! How far commits have come, kept beside the index, so that an index that fell back is noticed.
//!
//! sled drops a damaged end of its log without a word: what it opens then is sound, but older than
//! what was acknowledged, and looks like a store that never took the rest. So every group has a
//! number, which the index holds (`m` `commits`) and which, after the group is durable, is written
//! into `<data>/COMMITTED`. That file is not fsynced: it is one write of a few bytes, survives the
//! process at once and power a little later, and is never ahead of what is durable. An index
//! behind it has lost acknowledged commits.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::durable;

/// The file's name in the data folder.
pub(crate) const NAME: &str = "COMMITTED";

/// The file, open.
#[derive(Debug)]
pub(crate) struct Watermark {
    file: File,
    path: PathBuf,
}

impl Watermark {
    /// Opens or creates the file in the data folder; gives the number of the last commit it tells
    /// of, `None` when it is new or unreadable (it is a help, not a need).
    pub(crate) fn open(dir: &Path) -> io::Result<(Self, Option<u64>)> {
        let path = dir.join(NAME);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)?;
        let mut text = String::new();
        let told = match file.by_ref().take(256).read_to_string(&mut text) {
            Ok(_) => parse(&text),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => None,
            Err(e) => return Err(e),
        };
        Ok((Self { file, path }, told))
    }

    /// Commit `number` is durable. That it can't be told is no reason to fail the commit.
    pub(crate) fn raise(&self, number: u64) {
        if let Err(error) = durable::overwrite(&self.file, &self.path, line(number).as_bytes()) {
            tracing::debug!(file = %self.path.display(), %error, "the number of the last commit could not be kept");
        }
    }
}

fn line(number: u64) -> String {
    let text = format!("{number:020}");
    let check = Sha256::digest(text.as_bytes());
    let (check, _) = check.split_at(8);
    format!("{text} {}\n", hex::encode(check))
}

fn parse(text: &str) -> Option<u64> {
    let number = text.split(' ').next()?.parse().ok()?;
    (text == line(number)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_is_told_and_what_is_not_one_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let (watermark, told) = Watermark::open(dir.path()).unwrap();
        assert_eq!(told, None);
        watermark.raise(7);
        watermark.raise(1_000_000);
        assert_eq!(Watermark::open(dir.path()).unwrap().1, Some(1_000_000));
        for text in ["", "7\n", "\u{fffd}", "00000000000000000007 0000\n"] {
            std::fs::write(dir.path().join(NAME), text).unwrap();
            assert_eq!(Watermark::open(dir.path()).unwrap().1, None, "{text:?}");
        }
        std::fs::write(dir.path().join(NAME), [0xff; 40]).unwrap();
        assert_eq!(Watermark::open(dir.path()).unwrap().1, None);
    }
}
