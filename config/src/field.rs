//! Keys as read: absent, wrong (already reported) or given, each knowing its name and place.
//!
//! The third state keeps one mistake from causing a second message: a key whose value is wrong
//! is neither missing nor replaced by its default, and checks across keys pass it over.

use crate::{
    defaults::{Amount, Setting},
    errors::{Report, printable},
    nearest::nearest,
    tree::{Item, Place, Table, Value},
    value::FromItem,
};

/// The part of the tree a section is read from.
pub(crate) enum Source {
    Absent,
    /// Not a section at all; reported.
    Wrong,
    Given(Table),
}

/// Something that can be read from a key of a section.
pub(crate) trait Read: Sized {
    /// Takes `key` out of `from`; `path` is the dotted name to report, `section` the section's place.
    fn read(
        from: &mut Source,
        key: &str,
        path: String,
        section: &Place,
        report: &mut Report,
    ) -> Self;
    /// Appends the dotted names of all keys below `path`; a list is written `path[]`.
    fn keys(path: &str, into: &mut Vec<String>);
}

#[derive(Debug, Clone)]
enum State<T> {
    Absent,
    Wrong,
    Given(T),
}

/// One key.
#[derive(Debug, Clone)]
pub(crate) struct Field<T> {
    path: String,
    place: Place,
    state: State<T>,
}

impl<T: Clone> Field<T> {
    /// The value, if one was given and is right so far.
    pub(crate) fn get(&self) -> Option<T> {
        match &self.state {
            State::Given(value) => Some(value.clone()),
            State::Absent | State::Wrong => None,
        }
    }

    /// Whether nothing was written, right or wrong.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self.state, State::Absent)
    }

    /// The value or, when nothing was written, `default`.
    pub(crate) fn or(&self, default: T) -> Option<T> {
        if self.is_absent() {
            Some(default)
        } else {
            self.get()
        }
    }

    /// The value or, when nothing was written, `default`, where that is known.
    pub(crate) fn or_else(&self, default: impl FnOnce() -> Option<T>) -> Option<T> {
        if self.is_absent() {
            default()
        } else {
            self.get()
        }
    }

    /// The value; an error when nothing was written.
    pub(crate) fn require(&self, report: &mut Report) -> Option<T> {
        if self.is_absent() {
            self.error(report, "is missing, and has no default");
        }
        self.get()
    }

    /// Notes an error about this key at its place.
    pub(crate) fn error(&self, report: &mut Report, message: impl Into<String>) {
        report.error(&self.place, &self.path, message);
    }

    /// The same key, wrong from now on where `rule` finds fault with the value.
    pub(crate) fn check(
        mut self,
        report: &mut Report,
        rule: impl FnOnce(&T) -> Result<(), String>,
    ) -> Self {
        if let State::Given(value) = &self.state
            && let Err(message) = rule(value)
        {
            self.error(report, message);
            self.state = State::Wrong;
        }
        self
    }

    /// An amount within its range, or its default.
    pub(crate) fn within(&self, setting: &Setting<T>, report: &mut Report) -> Option<T>
    where
        T: Amount,
    {
        self.clone()
            .check(report, |value| setting.check(value))
            .or(setting.default.clone())
    }
}

impl<T: FromItem> Read for Field<T> {
    fn read(
        from: &mut Source,
        key: &str,
        path: String,
        section: &Place,
        report: &mut Report,
    ) -> Self {
        let (place, state) = match from {
            Source::Wrong => (section.clone(), State::Wrong),
            Source::Absent => (section.clone(), State::Absent),
            Source::Given(table) => match table.remove(key) {
                None => (section.clone(), State::Absent),
                Some(item) => match T::from_item(&item) {
                    Ok(value) => (item.place, State::Given(value)),
                    Err(message) => {
                        report.error(&item.place, &path, message);
                        (item.place, State::Wrong)
                    }
                },
            },
        };
        Self { path, place, state }
    }

    fn keys(path: &str, into: &mut Vec<String>) {
        into.push(path.to_owned());
    }
}

/// Where a section stands and whether it was written at all.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) path: String,
    pub(crate) place: Place,
    pub(crate) given: bool,
}

/// A section with known keys. Made by the `section!` macro of `shape`.
pub(crate) trait Section: Sized {
    const KEYS: &'static [&'static str];
    /// Reads the known keys; what is left in `from` is unknown.
    fn fields(from: &mut Source, head: Head, report: &mut Report) -> Self;
    fn subkeys(path: &str, into: &mut Vec<String>);

    /// Reads a whole section: its keys, then a complaint about each unknown one.
    fn whole(mut from: Source, head: Head, report: &mut Report) -> Self {
        let path = head.path.clone();
        let section = Self::fields(&mut from, head, report);
        if let Source::Given(rest) = from {
            for (key, item) in rest {
                unknown::<Self>(&path, &key, &item.place, report);
            }
        }
        section
    }
}

impl<S: Section> Read for S {
    fn read(
        from: &mut Source,
        key: &str,
        path: String,
        section: &Place,
        report: &mut Report,
    ) -> Self {
        let (source, place, given) = match from {
            Source::Wrong => (Source::Wrong, section.clone(), false),
            Source::Absent => (Source::Absent, section.clone(), false),
            Source::Given(table) => match table.remove(key) {
                None => (Source::Absent, Place::Nowhere, false),
                Some(item) => {
                    let place = item.place.clone();
                    (as_section(item, &path, report), place, true)
                }
            },
        };
        S::whole(source, Head { path, place, given }, report)
    }

    fn keys(path: &str, into: &mut Vec<String>) {
        S::subkeys(path, into);
    }
}

/// A list of sections, `[[path]]`.
#[derive(Debug)]
pub(crate) struct List<S> {
    pub(crate) path: String,
    pub(crate) place: Place,
    pub(crate) entries: Vec<S>,
    /// Whether nothing was written.
    pub(crate) absent: bool,
    /// Whether what was written is no list; reported.
    pub(crate) wrong: bool,
}

impl<S: Section> Read for List<S> {
    fn read(
        from: &mut Source,
        key: &str,
        path: String,
        section: &Place,
        report: &mut Report,
    ) -> Self {
        let mut list = Self {
            path,
            place: section.clone(),
            entries: Vec::new(),
            absent: false,
            wrong: matches!(from, Source::Wrong),
        };
        let item = match from {
            Source::Given(table) => table.remove(key),
            Source::Absent | Source::Wrong => None,
        };
        let Some(item) = item else {
            list.absent = !list.wrong;
            return list;
        };
        list.place = item.place;
        if let Value::List(items) = item.value {
            let entry = |(n, item)| list_entry(format!("{}[{n}]", list.path), item, report);
            list.entries = items.into_iter().enumerate().map(entry).collect();
        } else {
            let message = format!("is {}: write it as [[{}]]", item.value.kind(), list.path);
            report.error(&list.place, &list.path, message);
            list.wrong = true;
        }
        list
    }

    fn keys(path: &str, into: &mut Vec<String>) {
        S::subkeys(&format!("{path}[]"), into);
    }
}

fn list_entry<S: Section>(path: String, item: Item, report: &mut Report) -> S {
    let place = item.place.clone();
    let source = as_section(item, &path, report);
    let head = Head {
        path,
        place,
        given: true,
    };
    S::whole(source, head, report)
}

fn as_section(item: Item, path: &str, report: &mut Report) -> Source {
    match item.value {
        Value::Table(table) => Source::Given(table),
        other => {
            let message = format!("is {}: it must be a section of keys", other.kind());
            report.error(&item.place, path, message);
            Source::Wrong
        }
    }
}

/// Reports a key that section `S` does not know, with the key that was probably meant: one of
/// its own, unless another section has a key of exactly this name. The value is not repeated.
fn unknown<S: Section>(path: &str, key: &str, place: &Place, report: &mut Report) {
    let mut elsewhere = Vec::new();
    crate::shape::Root::keys("", &mut elsewhere);
    let same_name = elsewhere
        .iter()
        .find(|known| known.rsplit('.').next() == Some(key));
    let own = nearest(key, S::KEYS.iter().copied()).map(|near| join(path, near));
    let meant = same_name.cloned().or(own).unwrap_or_default();
    let field = join(path, &printable(key));
    report.error(
        place,
        &field,
        format!("is unknown; the nearest known key is {meant}"),
    );
}

/// `path.key`, or `key` at the top.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}
