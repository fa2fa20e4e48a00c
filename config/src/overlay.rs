//! Environment variables laid over the file: `VMSYNC__SECTION__KEY` sets `section.key`.
//!
//! The name is the dotted key in capitals with `__` for each dot; entries of a list are counted
//! from 0 (`VMSYNC__SYSTEMS__0__NAME`), and a variable may change an entry of the file or append
//! the next one. A list of plain values is one variable, separated by commas. Names that fit no
//! key are errors, found later when the tree is read, like unknown keys of the file.

use crate::{
    errors::Report,
    tree::{Item, Place, Table, Value},
};

/// What every variable of the configuration begins with.
pub(crate) const PREFIX: &str = "VMSYNC__";

/// No key lies deeper than `smtp.sender.0.auth.user`.
const MAX_DEPTH: usize = 6;

/// One part of a variable's name; numbers sort as numbers, so that entry 10 is appended after entry 9.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Index(usize),
    Key(String),
}

/// Lays those of `variables` that begin with [`PREFIX`] over `table`.
pub(crate) fn apply(
    table: &mut Table,
    variables: impl Iterator<Item = (String, String)>,
    report: &mut Report,
) {
    let mut ours: Vec<(Vec<Segment>, String, String)> = variables
        .filter_map(|(name, value)| {
            let path = name
                .strip_prefix(PREFIX)?
                .split("__")
                .map(segment)
                .collect();
            Some((path, name, value))
        })
        .collect();
    ours.sort();
    for (path, name, value) in ours {
        let place = Place::Variable(name.clone());
        if name.bytes().any(|b| b.is_ascii_lowercase()) {
            let message = format!("write it in capitals: {}", name.to_ascii_uppercase());
            report.error(&place, "", message);
        } else if name.split("__").any(str::is_empty) {
            let message = format!("is no key: write {PREFIX}SECTION__KEY");
            report.error(&place, "", message);
        } else if path.len() > MAX_DEPTH {
            report.error(&place, "", "is unknown: no key lies this deep");
        } else if let Err(message) = set(table, path, &place, value) {
            report.error(&place, "", message);
        }
    }
}

fn segment(text: &str) -> Segment {
    match text.parse() {
        // `007` or `+1` are no counts.
        Ok(n) if text == format!("{n}") => Segment::Index(n),
        _ => Segment::Key(text.to_ascii_lowercase()),
    }
}

fn set(table: &mut Table, path: Vec<Segment>, place: &Place, value: String) -> Result<(), String> {
    let mut path = path.into_iter().peekable();
    let Some(first) = path.next() else {
        return Ok(());
    };
    let first = match first {
        Segment::Key(key) => key,
        Segment::Index(n) => n.to_string(),
    };
    let mut done = first.clone();
    let empty = path.peek().map(Segment::container);
    let mut item = table.entry(first).or_insert_with(|| new(place, empty));
    while let Some(next) = path.next() {
        let empty = path.peek().map(Segment::container);
        item = descend(item, next, empty, place, &mut done)?;
    }
    if let Value::Table(_) = item.value {
        return Err(format!("{done} is a section: name one of its keys"));
    }
    *item = Item {
        place: place.clone(),
        value: Value::Text(value),
    };
    Ok(())
}

impl Segment {
    /// What must hold it.
    fn container(&self) -> Value {
        match self {
            Self::Index(_) => Value::List(Vec::new()),
            Self::Key(_) => Value::Table(Table::new()),
        }
    }
}

/// A new, still empty item; a leaf, when it holds nothing further.
fn new(place: &Place, value: Option<Value>) -> Item {
    Item {
        place: place.clone(),
        value: value.unwrap_or_else(|| Value::Text(String::new())),
    }
}

/// The item that `next` names within `item`; `done` is the dotted key so far.
fn descend<'t>(
    item: &'t mut Item,
    next: Segment,
    empty: Option<Value>,
    place: &Place,
    done: &mut String,
) -> Result<&'t mut Item, String> {
    match (&mut item.value, next) {
        (Value::Table(table), next) => {
            let key = match next {
                Segment::Key(key) => key,
                Segment::Index(n) => n.to_string(),
            };
            *done = format!("{done}.{key}");
            Ok(table.entry(key).or_insert_with(|| new(place, empty)))
        }
        (Value::List(list), Segment::Index(n)) => {
            let held = list.len();
            if n == held {
                list.push(new(place, empty));
            }
            let at = done.clone();
            *done = format!("{done}[{n}]");
            list.get_mut(n).ok_or_else(|| {
                format!("{at} are counted from 0 without gaps: the next to add is number {held}")
            })
        }
        (Value::List(_), Segment::Key(key)) => Err(format!(
            "{done} is a list: count its entries from 0, as in {PREFIX}{}__0__{}",
            done.to_ascii_uppercase().replace('.', "__"),
            key.to_ascii_uppercase(),
        )),
        (other, _) => Err(format!("{done} is {}, not a section", other.kind())),
    }
}
