//! What is wrong with a call flow, and where: file, line and column (R-CF-4).

use std::ops::Range;

use serde::Serialize;

/// One error of a call flow's source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct FlowError {
    /// The file, as it was named to [`crate::check`].
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong, and what to write instead.
    pub message: String,
}

/// A place in a source: line and column, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// Line.
    pub line: u32,
    /// Column in characters.
    pub column: u32,
}

/// Collects every error of one source.
pub(crate) struct Errors<'s> {
    source: &'s str,
    line_starts: Vec<usize>,
    found: Vec<(Place, String)>,
}

impl<'s> Errors<'s> {
    pub(crate) fn new(source: &'s str) -> Self {
        let starts = source.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            source,
            line_starts: std::iter::once(0).chain(starts).collect(),
            found: Vec::new(),
        }
    }

    /// Where byte `offset` is; the end of the source for an offset beyond it.
    pub(crate) fn place(&self, offset: usize) -> Place {
        let line = self
            .line_starts
            .partition_point(|start| *start <= offset)
            .max(1);
        let start = self.line_starts.get(line - 1).copied().unwrap_or(0);
        let before = self.source.get(start..offset).unwrap_or("");
        Place {
            line: number(line),
            column: number(before.chars().count() + 1),
        }
    }

    pub(crate) fn at(&mut self, span: &Range<usize>, message: impl Into<String>) {
        let place = self.place(span.start);
        self.at_place(place, message);
    }

    pub(crate) fn at_place(&mut self, place: Place, message: impl Into<String>) {
        self.found.push((place, message.into()));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The errors in the order of the source, each once.
    pub(crate) fn into_errors(mut self, file: &str) -> Vec<FlowError> {
        self.found.sort();
        self.found.dedup();
        self.found
            .into_iter()
            .map(|(place, message)| FlowError {
                file: file.to_owned(),
                line: place.line,
                column: place.column,
                message,
            })
            .collect()
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
