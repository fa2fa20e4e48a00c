//! A TOML table read field by field: each value with its place, each mistake noted, none fatal.

use std::{collections::BTreeSet, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{error::Errors, short};

/// A value and where it stands.
pub(crate) type At<T> = (T, Range<usize>);

/// A table that is being read. [`Fields::finish`] reports what nobody asked for.
pub(crate) struct Fields<'t> {
    table: &'t DeTable<'t>,
    /// What the table is, in words (`node \`main\``).
    what: String,
    span: Range<usize>,
    asked: BTreeSet<&'static str>,
}

impl<'t> Fields<'t> {
    pub(crate) fn new(table: &'t DeTable<'t>, what: impl Into<String>, span: Range<usize>) -> Self {
        Self {
            table,
            what: what.into(),
            span,
            asked: BTreeSet::new(),
        }
    }

    pub(crate) fn span(&self) -> &Range<usize> {
        &self.span
    }

    /// The value of `key`, if it is there.
    pub(crate) fn get(&mut self, key: &'static str) -> Option<At<&'t DeValue<'t>>> {
        self.asked.insert(key);
        self.table
            .get(key)
            .map(|value| (value.get_ref(), value.span()))
    }

    /// Notes that `key` is missing.
    pub(crate) fn missing(&self, key: &str, why: &str, errors: &mut Errors<'_>) {
        errors.at(&self.span, format!("{} lacks `{key}`: {why}", self.what));
    }

    pub(crate) fn text(
        &mut self,
        key: &'static str,
        errors: &mut Errors<'_>,
    ) -> Option<At<&'t str>> {
        let (value, span) = self.get(key)?;
        let text = value.as_str();
        if text.is_none() {
            errors.at(&span, wrong_type(key, "a text in quotes", value));
        }
        Some((text?, span))
    }

    pub(crate) fn flag(&mut self, key: &'static str, errors: &mut Errors<'_>) -> bool {
        let Some((value, span)) = self.get(key) else {
            return false;
        };
        value.as_bool().unwrap_or_else(|| {
            errors.at(&span, wrong_type(key, "`true` or `false`", value));
            false
        })
    }

    /// A whole number in `range`; `default` where it is not given.
    pub(crate) fn number(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<u32>,
        default: u32,
        errors: &mut Errors<'_>,
    ) -> u32 {
        let Some((value, span)) = self.get(key) else {
            return default;
        };
        let number = value
            .as_integer()
            .and_then(|n| u32::from_str_radix(&n.as_str().replace('_', ""), n.radix()).ok())
            .filter(|n| range.contains(n));
        number.unwrap_or_else(|| {
            let expected = format!("a whole number from {} to {}", range.start(), range.end());
            errors.at(&span, wrong_type(key, &expected, value));
            default
        })
    }

    pub(crate) fn table(
        &mut self,
        key: &'static str,
        errors: &mut Errors<'_>,
    ) -> Option<At<&'t DeTable<'t>>> {
        let (value, span) = self.get(key)?;
        let table = value.as_table();
        if table.is_none() {
            errors.at(&span, wrong_type(key, "a table", value));
        }
        Some((table?, span))
    }

    /// Reports every key that nobody asked for.
    pub(crate) fn finish(self, errors: &mut Errors<'_>) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if !self.asked.contains(name) {
                let known: Vec<&str> = self.asked.iter().copied().collect();
                errors.at(
                    &key.span(),
                    format!(
                        "{} has no `{}`{}",
                        self.what,
                        short(name),
                        one_of(name, &known)
                    ),
                );
            }
        }
    }
}

/// The entries of a table in the order of the source.
pub(crate) fn in_order<'t>(table: &'t DeTable<'t>) -> Vec<(At<&'t str>, &'t Spanned<DeValue<'t>>)> {
    let mut entries: Vec<_> = table
        .iter()
        .map(|(key, value)| ((key.get_ref().as_ref(), key.span()), value))
        .collect();
    entries.sort_by_key(|((_, span), _)| span.start);
    entries
}

pub(crate) fn wrong_type(key: &str, expected: &str, found: &DeValue<'_>) -> String {
    let found = match found {
        DeValue::String(text) => format!("\"{}\"", short(text)),
        DeValue::Integer(n) => short(n.as_str()),
        other => format!("a value of type {}", other.type_str()),
    };
    format!("`{key}` must be {expected}, not {found}")
}

/// `; did you mean …?`, or all the names where none is near.
pub(crate) fn one_of(name: &str, known: &[&str]) -> String {
    let near = known
        .iter()
        .map(|k| (distance(name, k), *k))
        .filter(|(distance, k)| *distance <= 1 + k.len() / 4)
        .min();
    match near {
        Some((_, near)) => format!("; did you mean `{near}`?"),
        None if known.is_empty() || known.len() > 20 => String::new(),
        None => format!("; there are {}", known.join(", ")),
    }
}

/// Edits between two words (Levenshtein), for words of at most 40 bytes; else as far as can be.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 40 || b.len() > 40 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (to, above) in b.bytes().zip(row.iter().skip(1)) {
            left = (diagonal + usize::from(from != to))
                .min(above + 1)
                .min(left + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_offered() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(
            one_of("tiemout", &["timeout", "failed"]),
            "; did you mean `timeout`?"
        );
        assert_eq!(
            one_of("x", &["timeout", "failed"]),
            "; there are timeout, failed"
        );
    }
}
