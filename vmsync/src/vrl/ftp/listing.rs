//! What is in the folder: MLSD (RFC 3659), else LIST as Unix and Windows servers write it.

use std::time::Duration;

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    time::timeout,
};

use super::{
    Fault, FtpFailure, Session,
    data::Transfer,
    failure::{timed, timed_io},
};

/// One file or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its length, where the server says.
    pub bytes: Option<u64>,
    /// No folder, link or device.
    pub is_file: bool,
}

/// A folder, as far as it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// In the server's order, without `.` and `..`.
    pub entries: Vec<Entry>,
    /// Nothing was left out.
    pub whole: bool,
}

/// Most entries kept; a folder may hold any number.
const MOST_ENTRIES: usize = 100_000;
/// Longest line, bytes: a name has 255, the rest of a line some 150.
const LONGEST_LINE: u64 = 4096;
/// Time for all of it.
const LONGEST: Duration = Duration::from_secs(30);

impl Session {
    /// Lists the folder the session is in, hidden files too where the server shows them: at most 100,000 entries,
    /// for at most 30 s.
    pub async fn list(&mut self) -> Result<Listing, FtpFailure> {
        let doing = "listing the folder";
        self.awake().await?;
        if self.features().await?.has("MLST") || self.features().await?.has("MLSD") {
            return self.lines(doing, "MLSD", machine).await;
        }
        match self.lines(doing, "LIST -a", human).await {
            // Some take the switch for a name.
            Err(e) if matches!(e.fault, Fault::Refused(450 | 500..=504 | 550)) => {
                self.lines(doing, "LIST", human).await
            }
            listed => listed,
        }
    }

    async fn lines(
        &mut self,
        doing: &str,
        command: &str,
        parse: fn(&str) -> Option<Entry>,
    ) -> Result<Listing, FtpFailure> {
        let data = self.open_data(doing, Transfer::List(command), 0).await?;
        let mut lines = BufReader::new(data);
        let mut listing = Listing::default();
        let piece = self.limits.piece;
        let read = async {
            let mut line = Vec::new();
            while listing.entries.len() < MOST_ENTRIES {
                line.clear();
                let mut limited = (&mut lines).take(LONGEST_LINE);
                let n = timed_io(piece, doing, limited.read_until(b'\n', &mut line)).await?;
                if n == 0 {
                    return Ok(true);
                }
                if n as u64 == LONGEST_LINE && !line.ends_with(b"\n") {
                    break;
                }
                let text = String::from_utf8_lossy(&line);
                let entry = parse(text.trim_end_matches(['\r', '\n']));
                listing
                    .entries
                    .extend(entry.filter(|e| !matches!(&*e.name, "." | ".." | "")));
            }
            Ok(false)
        };
        // Late, or cut short: what was read stands, and the rest of the answer is never waited for.
        listing.whole = timeout(LONGEST, read).await.unwrap_or(Ok(false))?;
        if listing.whole {
            timed(self.limits.command, doing, lines.into_inner().finish()).await?;
            self.rest_is_over();
        } else {
            self.spent = true;
        }
        Ok(listing)
    }
}

/// `type=file;size=1000;modify=20260101120000; name`.
fn machine(line: &str) -> Option<Entry> {
    let (facts, name) = line.split_once(' ')?;
    let fact = |label: &str| {
        let facts = facts.split(';').filter_map(|f| f.split_once('='));
        let mut known = facts.filter(|(l, _)| l.eq_ignore_ascii_case(label));
        known.next().map(|(_, value)| value)
    };
    let kind = fact("type")?;
    if kind.eq_ignore_ascii_case("cdir") || kind.eq_ignore_ascii_case("pdir") {
        return None;
    }
    Some(Entry {
        name: name.to_owned(),
        bytes: fact("size").and_then(|s| s.parse().ok()),
        is_file: kind.eq_ignore_ascii_case("file"),
    })
}

fn human(line: &str) -> Option<Entry> {
    match line.as_bytes().first()? {
        b'0'..=b'9' => windows(line),
        b'-' | b'd' | b'l' | b'b' | b'c' | b'p' | b's' => unix(line),
        _ => None,
    }
}

/// The next word, and what follows it.
fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches(' ');
    let end = text.find(' ')?;
    Some(text.split_at(end))
}

/// `-rw-r--r--   1 owner group   1000 Nov 23 03:39 name`, with or without a group, also with `2026-11-23 03:39`.
fn unix(line: &str) -> Option<Entry> {
    const MONTHS: [&str; 12] = [
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ];
    let (_rights, mut rest) = word(line)?;
    let mut before = None;
    // Links, owner, group, length, at most: then the date.
    for _ in 0..6 {
        let (this, after) = word(rest)?;
        let words = if MONTHS.contains(&this.to_ascii_lowercase().as_str()) {
            2 // day, and time or year
        } else if this.len() == 10 && this.as_bytes()[4] == b'-' {
            1 // time
        } else {
            (before, rest) = (Some(this), after);
            continue;
        };
        let mut name = after;
        for _ in 0..words {
            (_, name) = word(name)?;
        }
        return Some(Entry {
            // One space ends the date; more belong to the name.
            name: name.strip_prefix(' ')?.to_owned(),
            bytes: before.and_then(|b| b.parse().ok()),
            is_file: line.starts_with('-'),
        });
    }
    None
}

/// `11-23-26  03:39AM                 1000 name`, or `<DIR>` for the length.
fn windows(line: &str) -> Option<Entry> {
    let (_date, rest) = word(line)?;
    let (_time, rest) = word(rest)?;
    let (length, name) = word(rest)?;
    let bytes = length.parse().ok();
    Some(Entry {
        name: name.trim_start().to_owned(),
        bytes,
        is_file: bytes.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, bytes: u64) -> Entry {
        Entry {
            name: name.to_owned(),
            bytes: Some(bytes),
            is_file: true,
        }
    }

    #[test]
    fn a_line_of_mlsd() {
        let line = "modify=20260101120000;Size=1000;type=FILE;UNIX.mode=0644;  two; words=.wav";
        assert_eq!(machine(line), Some(file(" two; words=.wav", 1000)));
        assert_eq!(machine("type=cdir; ."), None);
        assert!(!machine("type=dir;sizd=4096; more").unwrap().is_file);
        assert_eq!(machine("no facts"), None);
    }

    #[test]
    fn a_line_of_list() {
        let vsftpd = "-rw-r--r--    1 1        1            1000 Nov 23 03:39  a b.wav";
        assert_eq!(human(vsftpd), Some(file(" a b.wav", 1000)));
        let old = "-rw-r--r-- 1 ftp ftp 12 Jan  1  2020 Gespräch.wav";
        assert_eq!(human(old), Some(file("Gespräch.wav", 12)));
        let no_group = "-rw-r--r-- 1 ftp 12 Jan  1  2020 a.wav";
        assert_eq!(human(no_group), Some(file("a.wav", 12)));
        let iso = "-rw-r--r-- 1 ftp ftp 12 2020-01-01 12:00 a.wav";
        assert_eq!(human(iso), Some(file("a.wav", 12)));
        assert_eq!(
            human("11-23-26  03:39AM                 1000 a b.wav"),
            Some(file("a b.wav", 1000))
        );
        assert!(
            !human("11-23-26  03:39AM       <DIR>          more")
                .unwrap()
                .is_file
        );
        assert!(
            !human("drwxr-xr-x 2 ftp ftp 4096 Nov 23 03:39 more")
                .unwrap()
                .is_file
        );
        assert!(
            !human("lrwxrwxrwx 1 ftp ftp 5 Nov 23 03:39 a -> b")
                .unwrap()
                .is_file
        );
    }

    #[test]
    fn what_is_no_entry_is_none() {
        for line in [
            "total 12",
            "",
            " ",
            "-",
            "- - - - - - - - - -",
            "d",
            "1",
            "-rw Nov",
            "äöü äöü äöü äöü äöü äöü ä",
        ] {
            assert_eq!(human(line), None, "{line}");
            assert_eq!(machine(line), None, "{line}");
        }
        // Ten bytes that are not ten characters.
        assert_eq!(human("-rw ääääää ä ä ä"), None);
    }
}
