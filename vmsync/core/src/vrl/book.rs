//! What waits in the folder to be moved: which recordings are whole, and in which order they go.
//!
//! A file is whole when two looks at it, at least [`Book::quiet`] apart by the monotonic clock, found
//! the same length and time of writing: the wall clock may be set, and a recorder may rest between
//! two writes (who knows that a file is still open for writing, leaves it out). A side file goes with
//! its recording; one that stands alone waits for its recording for a minute, then goes as it is.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::{Duration, SystemTime},
};

use super::name::RecordingName;

/// How long a side file waits for its recording.
const ALONE: Duration = Duration::from_mins(1);
/// When a file that is held is looked at again, unless it is told of before.
const HELD: Duration = Duration::from_mins(1);

/// When a recording whose side files are still written is looked at again, at the earliest.
const DEFERRED: Duration = Duration::from_secs(1);

/// A file found in the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: RecordingName,
    /// Its length.
    pub bytes: u64,
    /// When it was last written.
    pub modified: SystemTime,
}

/// A file that may still grow.
#[derive(Debug, Clone)]
struct Young {
    bytes: u64,
    modified: SystemTime,
    /// Since when it has been as it is (monotonic).
    since: Duration,
    /// How long it must stay so.
    quiet: Duration,
}

/// The recordings of the folder that are not on their way.
#[derive(Debug, Clone)]
pub struct Book {
    quiet: Duration,
    whole: VecDeque<Found>,
    young: BTreeMap<RecordingName, Young>,
    bytes: u64,
}

impl Book {
    /// An empty book; a file must be unchanged for `quiet` to count as whole.
    pub fn new(quiet: Duration) -> Self {
        Self {
            quiet,
            whole: VecDeque::new(),
            young: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// How long a file must be unchanged.
    pub fn quiet(&self) -> Duration {
        self.quiet
    }

    /// Takes in a look at the whole folder at `now` (monotonic). `busy` are on their way, and `held` are
    /// still written to, or may not move for another reason.
    pub fn scan(
        &mut self,
        listing: Vec<Found>,
        busy: impl Fn(&RecordingName) -> bool,
        held: impl Fn(&Found) -> bool,
        now: Duration,
    ) {
        let taken: HashSet<RecordingName> = {
            let names: HashSet<&str> = listing.iter().map(|f| f.name.as_str()).collect();
            let sides = listing.iter().filter(|f| f.name.side_base().is_none());
            sides
                .flat_map(|f| f.name.sides())
                .filter(|side| names.contains(side.as_str()))
                .filter_map(|side| RecordingName::new(&side).ok())
                .collect()
        };
        let whole: HashMap<RecordingName, Found> = std::mem::take(&mut self.whole)
            .into_iter()
            .map(|f| (f.name.clone(), f))
            .collect();
        let mut young = std::mem::take(&mut self.young);
        self.bytes = 0;
        for found in listing {
            if busy(&found.name) || taken.contains(&found.name) {
                continue;
            }
            if whole.get(&found.name) == Some(&found) && !held(&found) {
                self.bytes = self.bytes.saturating_add(found.bytes);
                self.whole.push_back(found);
                continue;
            }
            if let Some(known) = young.remove(&found.name) {
                self.bytes = self.bytes.saturating_add(known.bytes);
                self.young.insert(found.name.clone(), known);
            }
            let held = held(&found);
            self.judge(found, held, now);
        }
        self.whole
            .make_contiguous()
            .sort_by(|a, b| (a.modified, &a.name).cmp(&(b.modified, &b.name)));
    }

    /// Takes in a look at one file, which is not on its way. `held`: it is still written to, or may not move.
    pub fn see(&mut self, found: Found, held: bool, now: Duration) {
        self.forget(&found.name);
        self.judge(found, held, now);
    }

    fn judge(&mut self, found: Found, held: bool, now: Duration) {
        let before = self.young.get(&found.name);
        let same = before
            .filter(|y| y.bytes == found.bytes && y.modified == found.modified && !held)
            .map(|y| y.since);
        self.drop_young(&found.name);
        let quiet = match found.name.side_base() {
            Some(_) => self.quiet.max(ALONE),
            None if held => self.quiet.max(HELD),
            None => self.quiet,
        };
        self.bytes = self.bytes.saturating_add(found.bytes);
        let since = same.unwrap_or(now);
        if !held && now.saturating_sub(since) >= quiet && (same.is_some() || quiet.is_zero()) {
            self.whole.push_back(found);
            return;
        }
        let young = Young {
            bytes: found.bytes,
            modified: found.modified,
            since,
            quiet,
        };
        self.young.insert(found.name, young);
    }

    /// Puts back a recording whose side files are still written: to be looked at again in a while.
    pub fn defer(&mut self, found: Found, now: Duration) {
        self.gone(&found.name);
        self.bytes = self.bytes.saturating_add(found.bytes);
        let young = Young {
            bytes: found.bytes,
            modified: found.modified,
            since: now,
            quiet: self.quiet.max(DEFERRED),
        };
        self.young.insert(found.name, young);
    }

    /// Takes in a recording that is known to be whole.
    pub fn take(&mut self, found: Found) {
        self.forget(&found.name);
        self.drop_young(&found.name);
        self.bytes = self.bytes.saturating_add(found.bytes);
        self.whole.push_back(found);
    }

    /// A file is not there any more.
    pub fn gone(&mut self, name: &RecordingName) {
        self.forget(name);
        self.drop_young(name);
    }

    // Looks only where there may be one: events come one by one, and the queue may be long.
    fn forget(&mut self, name: &RecordingName) {
        if let Some(at) = self.whole.iter().rposition(|f| f.name == *name)
            && let Some(found) = self.whole.remove(at)
        {
            self.bytes = self.bytes.saturating_sub(found.bytes);
        }
    }

    fn drop_young(&mut self, name: &RecordingName) {
        if let Some(young) = self.young.remove(name) {
            self.bytes = self.bytes.saturating_sub(young.bytes);
        }
    }

    /// Files to look at again, `now` being late enough; at most `most` of them.
    pub fn due(&self, now: Duration, most: usize) -> Vec<RecordingName> {
        self.young
            .iter()
            .filter(|(_, y)| y.since.saturating_add(y.quiet) <= now)
            .map(|(name, _)| name.clone())
            .take(most)
            .collect()
    }

    /// When the next file is to be looked at again (monotonic).
    pub fn next_look(&self) -> Option<Duration> {
        self.young
            .values()
            .map(|y| y.since.saturating_add(y.quiet))
            .min()
    }

    /// The next recording to move, which leaves the book.
    pub fn pop(&mut self) -> Option<Found> {
        let found = self.whole.pop_front()?;
        self.bytes = self.bytes.saturating_sub(found.bytes);
        Some(found)
    }

    /// Puts back what was popped, to be the next again.
    pub fn put_back(&mut self, found: Found) {
        self.bytes = self.bytes.saturating_add(found.bytes);
        self.whole.push_front(found);
    }

    /// Whether a recording is ready to move.
    pub fn has_whole(&self) -> bool {
        !self.whole.is_empty()
    }

    /// Files in the book.
    pub fn files(&self) -> u64 {
        (self.whole.len() + self.young.len()) as u64
    }

    /// Their bytes, side files not counted.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUIET: Duration = Duration::from_secs(2);

    fn file(name: &str, bytes: u64, modified: u64) -> Found {
        Found {
            name: RecordingName::new(name).unwrap(),
            bytes,
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(modified),
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn scan(book: &mut Book, files: &[Found], now: u64) {
        book.scan(files.to_vec(), |_| false, |_| false, at(now));
    }

    fn popped(book: &mut Book) -> Vec<String> {
        std::iter::from_fn(|| book.pop())
            .map(|f| f.name.to_string())
            .collect()
    }

    #[test]
    fn a_file_is_whole_when_it_stayed_the_same_and_the_oldest_goes_first() {
        let mut book = Book::new(QUIET);
        let mut files = vec![file("new.wav", 5, 900), file("old.wav", 7, 100)];
        scan(&mut book, &files, 10);
        assert!(!book.has_whole(), "seen once only");
        assert_eq!((book.files(), book.bytes()), (2, 12));
        assert_eq!(book.next_look(), Some(at(12)));
        files[0].bytes = 6;
        scan(&mut book, &files, 12);
        assert_eq!(popped(&mut book), ["old.wav"]);
        scan(&mut book, &files[..1], 14);
        assert_eq!(popped(&mut book), ["new.wav"]);
        assert_eq!((book.files(), book.bytes()), (0, 0));
    }

    #[test]
    fn a_file_that_is_open_for_writing_waits_however_quiet_it_is() {
        let mut book = Book::new(QUIET);
        let found = file("call.wav", 5, 100);
        book.see(found.clone(), true, at(0));
        book.see(found.clone(), true, at(60));
        assert!(!book.has_whole());
        book.see(found.clone(), false, at(61));
        assert!(!book.has_whole(), "closed this moment");
        book.see(found, false, at(63));
        assert!(book.has_whole());
    }

    #[test]
    fn a_side_file_goes_with_its_recording_or_alone_after_a_minute() {
        let mut book = Book::new(QUIET);
        let files = [
            file("call.wav", 5, 100),
            file("call.xml", 1, 100),
            file("call.wav.json", 1, 100),
            file("alone.xml", 1, 100),
        ];
        scan(&mut book, &files, 0);
        scan(&mut book, &files, 2);
        assert_eq!(popped(&mut book), ["call.wav"]);
        scan(&mut book, &files[3..], 30);
        assert!(!book.has_whole());
        scan(&mut book, &files[3..], 60);
        assert_eq!(popped(&mut book), ["alone.xml"]);
    }

    #[test]
    fn what_is_on_its_way_or_gone_is_not_in_the_book() {
        let mut book = Book::new(QUIET);
        let files = [file("a.wav", 5, 1), file("b.wav", 5, 2)];
        scan(&mut book, &files, 0);
        let busy = files[0].name.clone();
        book.scan(files.to_vec(), |n| *n == busy, |_| false, at(2));
        assert_eq!(book.files(), 1);
        book.gone(&files[1].name);
        assert_eq!((book.files(), book.bytes()), (0, 0));
        book.take(files[0].clone());
        assert_eq!(popped(&mut book), ["a.wav"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// However files grow, come and go: nothing is taken that changed less than the quiet time
        /// before, and the sums are those of what is in the book.
        #[test]
        fn nothing_is_taken_while_it_grows(
            steps in prop::collection::vec((0_u64..4, prop::collection::vec((0_usize..5, 0_u64..3), 0..4)), 1..40),
        ) {
            let mut book = Book::new(QUIET);
            let mut files: BTreeMap<usize, (u64, Duration)> = BTreeMap::new();
            let mut now = Duration::ZERO;
            for (pass, changes) in steps {
                now += Duration::from_millis(pass * 700);
                for (n, by) in changes {
                    match by {
                        0 => drop(files.remove(&n)),
                        by => {
                            let old = files.get(&n).map_or(0, |(bytes, _)| *bytes);
                            files.insert(n, (old + by, now));
                        }
                    }
                }
                let listing = files.iter().map(|(n, (bytes, changed))| Found {
                    modified: SystemTime::UNIX_EPOCH + *changed,
                    ..file(&format!("{n}.wav"), *bytes, 0)
                });
                book.scan(listing.collect(), |_| false, |_| false, now);
                prop_assert_eq!(book.files(), files.len() as u64);
                prop_assert_eq!(book.bytes(), files.values().map(|(b, _)| *b).sum::<u64>());
                while let Some(found) = book.pop() {
                    let n: usize = found.name.as_str().trim_end_matches(".wav").parse().unwrap();
                    let (bytes, changed) = files.remove(&n).unwrap();
                    prop_assert_eq!(bytes, found.bytes);
                    prop_assert!(now.saturating_sub(changed) >= QUIET);
                }
            }
        }
    }
}
