//! JSON that passes through as the text it is.

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

/// A JSON value that is not interpreted here: kept as its text, which is written again byte for byte.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Json(Box<RawValue>);

impl Json {
    /// Takes `text`, which must be one JSON value.
    pub fn new(text: String) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text).map(Self)
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        self.0.get()
    }

    /// Reads it as what the caller takes it for.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.text())
    }

    /// As a value, to look into.
    pub fn value(&self) -> Value {
        // It was read as JSON before.
        self.read().unwrap_or_default()
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        // What a value is written as is JSON.
        Self::new(value.to_string()).unwrap_or_else(|_| Self(RawValue::NULL.to_owned()))
    }
}

/// Alike in text, or in meaning.
impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text() || self.value() == other.value()
    }
}
