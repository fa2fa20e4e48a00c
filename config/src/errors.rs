//! What is wrong with a configuration, all of it at once.

use std::fmt;

use crate::tree::Place;

/// One thing to put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file as it was named to [`crate::load`], or the environment variable that holds the value.
    pub file: String,
    /// Line in the file, from 1; `None` for a variable and for what stands in no line.
    pub line: Option<usize>,
    /// The key, dotted (`failback.timeout`, `systems[2].home`, counted from 0); empty when the
    /// error is about the whole file.
    pub field: String,
    /// What is wrong and what to do; one line.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Every error of a configuration, in the order of the file, then what stands in no line, then
/// environment variables. Never empty. Displayed one a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects errors while a configuration is read and checked.
pub(crate) struct Report {
    file: String,
    errors: Vec<(Place, ConfigError)>,
}

impl Report {
    pub(crate) fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            errors: Vec::new(),
        }
    }

    /// Notes that `field`, set at `place`, is wrong.
    pub(crate) fn error(&mut self, place: &Place, field: &str, message: impl Into<String>) {
        let (file, line) = match place {
            Place::Line(line) => (self.file.clone(), Some(*line)),
            Place::Nowhere => (self.file.clone(), None),
            Place::Variable(name) => (printable(name), None),
        };
        let error = ConfigError {
            file,
            line,
            field: field.to_owned(),
            message: message.into(),
        };
        self.errors.push((place.clone(), error));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// The errors in the order promised by [`ConfigErrors`].
    pub(crate) fn into_errors(mut self) -> ConfigErrors {
        self.errors.sort_by(|(a, _), (b, _)| a.cmp(b));
        ConfigErrors(self.errors.into_iter().map(|(_, e)| e).collect())
    }
}

/// Outside text for a message: one line, no control characters, at most 80 characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}
