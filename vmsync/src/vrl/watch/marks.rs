//! What the events mean, without any I/O: which files are still written, which may be looked at, and when
//! nothing less than a look at the whole folder will do.
//!
//! A mark is set by *created* and *modified* and goes with *closed after writing*. Marks that nothing happens to
//! are doubted (a lost event, a hard link, truncate(2) by path): a look through `/proc` decides, or, where that can't
//! see every process, ten minutes without an event.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use vmsync_core::vrl::is_ignored;

use super::{Changes, open::Look};

/// Names kept until they are asked for; more become a rescan.
pub(super) const MOST_NAMES: usize = 4096;
/// Files still written, at most; more are found out by looks through `/proc`.
pub(super) const MOST_MARKS: usize = 4096;
/// open(2) tells *created* and *opened* in one breath; a hard link is created and never opened.
const LINKED: Duration = Duration::from_secs(1);
/// A mark without events is doubted after this, doubling up to [`SLOWEST`].
const DOUBTED: Duration = Duration::from_secs(5);
const SLOWEST: Duration = Duration::from_mins(1);
/// Where not every process can be seen, a file that nothing happened to for so long is finished.
const LAPSED: Duration = Duration::from_mins(10);

/// One thing the system told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen<'a> {
    Created(&'a str),
    Opened(&'a str),
    Modified(&'a str),
    /// Closed by somebody who could write.
    Closed(&'a str),
    MovedFrom(&'a str, Option<usize>),
    MovedTo(&'a str, Option<usize>),
    Removed(&'a str),
    /// Removed, or moved away: what happens under its name is not seen any more.
    FolderGone,
    /// Events were lost.
    Overflow,
}

#[derive(Debug, Clone)]
struct Mark {
    /// The last event (monotonic).
    last: Duration,
    /// When it is doubted next.
    check: Duration,
    doubts: u32,
    /// False for what was only created so far.
    opened: bool,
    /// A look has seen it open: that its writer is not seen any more means something.
    visible: bool,
}

impl Mark {
    fn new(now: Duration, opened: bool) -> Self {
        let check = now.saturating_add(if opened { DOUBTED } else { LINKED });
        Self {
            last: now,
            check,
            doubts: 0,
            opened,
            visible: false,
        }
    }

    fn doubted(&mut self, now: Duration) {
        self.doubts = self.doubts.saturating_add(1).min(8);
        let wait = DOUBTED.saturating_mul(1 << self.doubts).min(SLOWEST);
        self.check = now.saturating_add(wait);
    }
}

/// Everything that is known of a folder between two answers. Bounded.
#[derive(Debug, Default)]
pub(super) struct Marks {
    written: BTreeMap<String, Mark>,
    names: BTreeSet<String>,
    rescan: Option<String>,
    /// Events were lost: marks are to be compared with a look.
    pub(super) overflowed: bool,
    /// The folder that was watched is not there any more.
    pub(super) lost: bool,
    /// A look was had: before that anything may be open.
    pub(super) looked: bool,
    /// The last *moved from*: its cookie, and whether the file was still written.
    moving: Option<(usize, bool)>,
}

impl Marks {
    /// Takes in an event; whether whoever sleeps should look up.
    pub(super) fn handle(&mut self, seen: Seen<'_>, now: Duration) -> bool {
        match seen {
            Seen::Created(name) => self.mark(name, now, false),
            Seen::Modified(name) => self.mark(name, now, true),
            Seen::Opened(name) => {
                if let Some(mark) = self.written.get_mut(name).filter(|m| !m.opened) {
                    *mark = Mark::new(now, true);
                }
                false
            }
            Seen::Closed(name) => {
                self.written.remove(name);
                self.tell(name)
            }
            Seen::MovedFrom(name, cookie) => {
                let written = self.written.remove(name).is_some();
                self.moving = cookie.map(|cookie| (cookie, written));
                false
            }
            Seen::MovedTo(name, cookie) => {
                // Renamed while it is written: it is closed under its new name.
                let from = self.moving.take();
                let written = from.is_some_and(|(c, written)| cookie == Some(c) && written);
                self.written.remove(name);
                if written {
                    return self.mark(name, now, true);
                }
                self.tell(name)
            }
            Seen::Removed(name) => {
                self.written.remove(name);
                self.names.remove(name);
                false
            }
            Seen::FolderGone => {
                self.lost = true;
                self.rescan("the folder was removed or moved away");
                true
            }
            Seen::Overflow => {
                self.overflowed = true;
                self.rescan("more happened in the folder than the system could tell");
                true
            }
        }
    }

    fn mark(&mut self, name: &str, now: Duration, opened: bool) -> bool {
        if let Some(mark) = self.written.get_mut(name) {
            let opened = mark.opened || opened;
            *mark = Mark::new(now, opened);
            return false;
        }
        if self.written.len() < MOST_MARKS {
            self.written.insert(name.to_owned(), Mark::new(now, opened));
            // Nothing to tell yet, but something to doubt in time.
            return true;
        }
        self.handle(Seen::Overflow, now)
    }

    /// A file is ready to be looked at.
    fn tell(&mut self, name: &str) -> bool {
        if is_ignored(name) || self.rescan.is_some() {
            return false;
        }
        self.names.insert(name.to_owned());
        if self.names.len() > MOST_NAMES {
            self.rescan("very many files were written at once");
        }
        true
    }

    /// The whole folder must be looked at. The first reason stays.
    pub(super) fn rescan(&mut self, why: &str) {
        self.names.clear();
        self.rescan.get_or_insert_with(|| why.to_owned());
    }

    /// When the next mark is doubted.
    pub(super) fn doubted_at(&self) -> Option<Duration> {
        self.written.values().map(|m| m.check).min()
    }

    /// Forgets the marks of hard links; whether a look is wanted for others.
    pub(super) fn doubt(&mut self, now: Duration) -> bool {
        self.drop_marks(|m| !m.opened && m.check <= now);
        self.overflowed || self.written.values().any(|m| m.check <= now)
    }

    /// Takes in a look begun at `begun` (monotonic): what it saw is written, and of the rest, that of which
    /// nothing was heard since, nothing that it could have seen is.
    pub(super) fn settle(&mut self, look: &Look, begun: Duration, now: Duration) {
        self.looked = true;
        self.overflowed = false;
        for name in &look.names {
            if self.written.len() >= MOST_MARKS && !self.written.contains_key(name) {
                break;
            }
            let mark = self
                .written
                .entry(name.clone())
                .or_insert_with(|| Mark::new(now, true));
            (mark.opened, mark.visible) = (true, true);
            mark.doubted(now);
        }
        let finished = |name: &str, m: &Mark| {
            let would_be_seen = look.complete || (m.visible && !look.cut);
            let lapsed = now.saturating_sub(m.last) >= LAPSED;
            !look.names.contains(name) && m.last < begun && (would_be_seen || lapsed)
        };
        let gone: Vec<_> = (self.written.iter().filter(|(name, m)| finished(name, m)))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.written.remove(&name);
            self.tell(&name);
        }
        for mark in self.written.values_mut().filter(|m| m.check <= now) {
            mark.doubted(now);
        }
    }

    fn drop_marks(&mut self, is_finished: impl Fn(&Mark) -> bool) {
        let gone: Vec<_> = (self.written.iter().filter(|(_, m)| is_finished(m)))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.written.remove(&name);
            self.tell(&name);
        }
    }

    /// What there is to tell, which is forgotten with that.
    pub(super) fn take(&mut self) -> Option<Changes> {
        if let Some(why) = self.rescan.take() {
            return Some(Changes::Rescan(why));
        }
        (!self.names.is_empty()).then(|| Changes::Names(std::mem::take(&mut self.names)))
    }

    /// See [`super::Watch::still_written`].
    pub(super) fn still_written(&self, name: &str) -> bool {
        !self.looked || self.written.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn looked() -> Marks {
        Marks {
            looked: true,
            ..Marks::default()
        }
    }

    fn names(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(|n| (*n).to_owned()).collect()
    }

    fn saw(of: &[&str], complete: bool) -> Look {
        Look {
            names: names(of),
            complete,
            cut: false,
        }
    }

    #[test]
    fn a_file_is_still_written_until_its_writer_closes_it() {
        let mut marks = looked();
        for (at, seen) in [
            (1, Seen::Created("a.wav")),
            (1, Seen::Opened("a.wav")),
            (1, Seen::Modified("a.wav")),
            (300, Seen::Modified("a.wav")),
        ] {
            marks.handle(seen, s(at));
            assert!(marks.still_written("a.wav"));
            assert_eq!(marks.take(), None);
        }
        assert!(marks.handle(Seen::Closed("a.wav"), s(301)));
        assert!(!marks.still_written("a.wav"));
        assert_eq!(marks.take(), Some(Changes::Names(names(&["a.wav"]))));
        assert_eq!(marks.take(), None);
    }

    #[test]
    fn what_is_renamed_while_written_is_written_on_under_its_new_name() {
        let mut marks = looked();
        marks.handle(Seen::Modified(".a.part"), s(1));
        marks.handle(Seen::MovedFrom(".a.part", Some(7)), s(2));
        marks.handle(Seen::MovedTo("a.wav", Some(7)), s(2));
        assert!(marks.still_written("a.wav") && !marks.still_written(".a.part"));
        marks.handle(Seen::Closed("a.wav"), s(3));
        // Finished under a hidden name, then renamed; and moved in from another folder.
        marks.handle(Seen::Modified(".b.part"), s(4));
        marks.handle(Seen::Closed(".b.part"), s(4));
        marks.handle(Seen::MovedFrom(".b.part", Some(8)), s(4));
        marks.handle(Seen::MovedTo("b.wav", Some(8)), s(4));
        marks.handle(Seen::MovedTo("c.wav", Some(9)), s(4));
        let all = names(&["a.wav", "b.wav", "c.wav"]);
        assert_eq!(marks.take(), Some(Changes::Names(all)));
    }

    #[test]
    fn a_hard_link_is_whole_a_moment_after_it_appears() {
        let mut marks = looked();
        marks.handle(Seen::Created("a.wav"), s(1));
        assert!(!marks.doubt(s(1)) && marks.still_written("a.wav"));
        assert!(!marks.doubt(s(2)) && !marks.still_written("a.wav"));
        assert_eq!(marks.take(), Some(Changes::Names(names(&["a.wav"]))));
    }

    #[test]
    fn a_silent_file_is_looked_up_ever_more_seldom() {
        let mut marks = looked();
        marks.handle(Seen::Modified("a.wav"), s(0));
        let mut looks = Vec::new();
        for now in 0..200 {
            if marks.doubt(s(now)) {
                looks.push(now);
                marks.settle(&saw(&["a.wav"], true), s(now), s(now));
            }
        }
        assert_eq!(looks, [5, 15, 35, 75, 135, 195]);
        assert!(marks.still_written("a.wav"));
        marks.settle(&saw(&[], true), s(200), s(200));
        assert!(!marks.still_written("a.wav"));
        assert_eq!(marks.take(), Some(Changes::Names(names(&["a.wav"]))));
    }

    #[test]
    fn what_a_look_cannot_see_lapses_after_ten_minutes() {
        let mut marks = looked();
        marks.handle(Seen::Modified("a.wav"), s(0));
        marks.settle(&saw(&[], false), s(599), s(599));
        assert!(marks.still_written("a.wav"));
        marks.settle(&saw(&[], false), s(600), s(600));
        assert!(!marks.still_written("a.wav"));
        // What an earlier look did see needs no such patience, but for a look cut short.
        marks.settle(&saw(&["b.wav"], false), s(700), s(700));
        let cut = Look {
            cut: true,
            ..saw(&[], false)
        };
        marks.settle(&cut, s(701), s(701));
        assert!(marks.still_written("b.wav"));
        marks.settle(&saw(&[], false), s(702), s(702));
        assert!(!marks.still_written("b.wav"));
    }

    #[test]
    fn what_happens_during_a_look_is_newer_than_the_look() {
        let mut marks = looked();
        marks.handle(Seen::Modified("a.wav"), s(10));
        marks.settle(&saw(&[], true), s(9), s(11));
        assert!(marks.still_written("a.wav"));
    }

    #[test]
    fn it_stays_bounded_and_says_rescan_instead() {
        let mut marks = looked();
        for n in 0..20_000 {
            marks.handle(Seen::MovedTo(&format!("{n}.wav"), None), s(1));
            assert!(marks.names.len() <= MOST_NAMES);
        }
        assert!(matches!(marks.take(), Some(Changes::Rescan(_))));
        assert_eq!(marks.take(), None);
        for n in 0..20_000 {
            marks.handle(Seen::Modified(&format!("{n}.wav")), s(2));
        }
        assert_eq!(marks.written.len(), MOST_MARKS);
        assert!(marks.doubt(s(2)), "a look is wanted");
        assert!(matches!(marks.take(), Some(Changes::Rescan(_))));
    }

    #[test]
    fn before_the_first_look_anything_may_be_open() {
        let mut marks = Marks::default();
        assert!(marks.still_written("a.wav"));
        marks.settle(&saw(&["b.wav"], true), s(1), s(1));
        assert!(!marks.still_written("a.wav") && marks.still_written("b.wav"));
    }
}
