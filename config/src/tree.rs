//! The file as a tree in which every value knows where it was set.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use crate::errors::Report;

/// Where a value was set. The derived order is the order in which errors are shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// A line of the file, from 1.
    Line(usize),
    /// Nowhere: it is missing.
    Nowhere,
    /// An environment variable.
    Variable(String),
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// What TOML can hold.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Text(String),
    Integer(i128),
    Flag(bool),
    /// Floats and dates, which no key takes: only the name of the kind.
    Other(&'static str),
    List(Vec<Item>),
    Table(Table),
}

pub(crate) type Table = BTreeMap<String, Item>;

impl Value {
    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "a number",
            Self::Flag(_) => "true or false",
            Self::Other(kind) => kind,
            Self::List(_) => "a list",
            Self::Table(_) => "a section",
        }
    }
}

/// Parses TOML. `None` when its syntax is broken; what is wrong is then in `report`, with line and column.
pub(crate) fn parse(text: &str, report: &mut Report) -> Option<Table> {
    let lines = Lines::of(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let (line, column) = lines.position(error.span().map_or(0, |s| s.start));
        let message = format!("TOML syntax, column {column}: {}", error.message());
        report.error(&Place::Line(line), "", message.replace('\n', " "));
    }
    errors
        .is_empty()
        .then(|| table(document.into_inner(), &lines))
}

fn table(from: DeTable<'_>, lines: &Lines<'_>) -> Table {
    from.into_iter()
        .map(|(key, value)| {
            let place = lines.place(key.span().start);
            let value = self::value(value.into_inner(), lines);
            (key.into_inner().into_owned(), Item { place, value })
        })
        .collect()
}

fn value(from: DeValue<'_>, lines: &Lines<'_>) -> Value {
    match from {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(n) => i128::from_str_radix(n.as_str(), n.radix())
            .map_or(Value::Other("a number out of range"), Value::Integer),
        DeValue::Boolean(flag) => Value::Flag(flag),
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Datetime(_) => Value::Other("a date or time"),
        DeValue::Table(from) => Value::Table(table(from, lines)),
        DeValue::Array(items) => Value::List(
            items
                .into_iter()
                .map(|item| Item {
                    place: lines.place(item.span().start),
                    value: value(item.into_inner(), lines),
                })
                .collect(),
        ),
    }
}

/// Turns byte offsets into lines and columns.
struct Lines<'t> {
    text: &'t str,
    /// Offset at which each line begins.
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn of(text: &'t str) -> Self {
        let after_breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            text,
            starts: std::iter::once(0).chain(after_breaks).collect(),
        }
    }

    /// Line and column, both from 1; the column counts characters.
    fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(start..offset).unwrap_or("");
        (line, before.chars().count() + 1)
    }

    fn place(&self, offset: usize) -> Place {
        Place::Line(self.position(offset).0)
    }
}
