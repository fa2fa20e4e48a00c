//! The words every crate shares: checked names, times and version vectors.
//!
//! They live in the lowest crate so that `store`, `callflows` and `core` can stay strangers to
//! one another (docs/decisions/0003-shared-words.md). Each is checked once, where it enters; a
//! value of such a type is valid by construction, so no later code checks it again.

use std::{
    borrow::Cow, cell::RefCell, collections::BTreeMap, fmt, marker::PhantomData, str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

/// Why a text is not a valid name; says what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a valid {what}: {rule}")]
pub struct InvalidWord {
    /// What the text should have been, in words (`node id`, `extension`).
    pub what: &'static str,
    /// The offending text, cut to 80 characters.
    pub value: String,
    /// The rule it breaks.
    pub rule: &'static str,
}

/// Reads a word from text as it lies in the input, without a copy of its own: operations hold several.
struct Parsed<T>(PhantomData<T>);

impl<T: FromStr<Err = InvalidWord>> serde::de::Visitor<'_> for Parsed<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! word {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr, $fold:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            #[doc = concat!("Checks `text`: ", $rule, ".")]
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidWord> {
                let text = text.as_ref();
                let fold: fn(&str) -> Cow<'_, str> = $fold;
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(Arc::from(&*fold(text))))
                } else {
                    Err(InvalidWord {
                        what: $what,
                        value: text.chars().take(80).collect(),
                        rule: $rule,
                    })
                }
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl FromStr for $name {
            type Err = InvalidWord;
            fn from_str(s: &str) -> Result<Self, InvalidWord> {
                Self::new(s)
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidWord;
            fn try_from(s: String) -> Result<Self, InvalidWord> {
                Self::new(s)
            }
        }
        impl From<$name> for String {
            fn from(w: $name) -> String {
                w.as_str().to_owned()
            }
        }
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                d.deserialize_str(Parsed(PhantomData))
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

/// A copy only where there is something to fold: these words are read with every operation.
fn lower_case(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

fn as_it_is(text: &str) -> Cow<'_, str> {
    Cow::Borrowed(text)
}

fn is_label(s: &str) -> bool {
    !s.is_empty()
        && s.len() <= 63
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !s.starts_with('-')
        && !s.ends_with('-')
}

word!(
    /// A node's short id, unique in the pair (`vmpro1`).
    NodeId,
    "node id",
    "1 to 63 letters, digits or inner hyphens",
    is_label,
    lower_case
);
word!(
    /// A fully qualified domain name, folded to lower case (`vmpro1.example.com`); the receiver's filter (R-SY-4).
    Fqdn,
    "fully qualified domain name",
    "two or more labels of letters, digits and hyphens joined by dots, at most 253 characters (RFC 1123 section 2.1)",
    |s| s.len() <= 253
        && s.contains('.')
        && s.split('.').all(is_label)
        && s.parse::<std::net::Ipv4Addr>().is_err(),
    lower_case
);
word!(
    /// A mailbox's extension: digits only (R-MB-1).
    Extension,
    "extension",
    "1 to 15 digits",
    |s| (1..=15).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit()),
    as_it_is
);
word!(
    /// A service group: all systems that share one home; the unit that fails over and back.
    GroupName,
    "group name",
    "1 to 63 letters, digits or inner hyphens",
    is_label,
    lower_case
);
word!(
    /// A PBX system's name, as configured.
    SystemName,
    "system name",
    "1 to 63 letters, digits, dots, underscores or hyphens",
    |s| (1..=63).contains(&s.len())
        && s.bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')),
    as_it_is
);

/// What happens to a mailbox's new messages by e-mail (R-MB-11). Serialised in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmailMode {
    /// Nothing. The default.
    #[default]
    Off,
    /// A notice without audio.
    Alert,
    /// The message attached; it stays.
    Copy,
    /// The message attached, and then deleted here once the mail server has taken it.
    Forward,
}

impl EmailMode {
    /// Whether nothing is mailed.
    #[allow(
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature serde calls"
    )]
    pub fn is_off(&self) -> bool {
        *self == Self::Off
    }

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Alert => "alert",
            Self::Copy => "copy",
            Self::Forward => "forward",
        }
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z; written as RFC 3339 in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMillis(pub u64);

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match i64::try_from(self.0).map(jiff::Timestamp::from_millisecond) {
            Ok(Ok(t)) => write!(f, "{t:.3}"),
            _ => write!(f, "{}ms", self.0),
        }
    }
}

impl FromStr for UnixMillis {
    type Err = InvalidWord;
    fn from_str(s: &str) -> Result<Self, InvalidWord> {
        s.parse::<jiff::Timestamp>()
            .ok()
            .and_then(|t| u64::try_from(t.as_millisecond()).ok())
            .map(Self)
            .ok_or_else(|| InvalidWord {
                what: "time",
                value: s.chars().take(80).collect(),
                rule: "an RFC 3339 time since 1970, such as 2026-11-22T08:00:00Z",
            })
    }
}

impl Serialize for UnixMillis {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for UnixMillis {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_str(Parsed(PhantomData))
    }
}

/// Where an operation was first recorded: a node and one life of its store.
///
/// A store that lost its memory takes a new incarnation, so that a sequence number is never
/// used twice for different content. Written `node.8hex`, e.g. `vmpro1.5f3a9c01`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The node.
    pub node: NodeId,
    /// The life of its store; random, so that it need not be remembered to be new.
    pub incarnation: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:08x}", self.node, self.incarnation)
    }
}
thread_local! {
    /// The origins this thread has read last: a pair has few, and every field of every record names one.
    static READ: RefCell<Vec<(Box<str>, Origin)>> = const { RefCell::new(Vec::new()) };
}
/// Origins remembered by each thread.
const REMEMBERED: usize = 4;

impl FromStr for Origin {
    type Err = InvalidWord;
    fn from_str(s: &str) -> Result<Self, InvalidWord> {
        let known = |read: &RefCell<Vec<(Box<str>, Self)>>| {
            let read = read.borrow();
            let found = read.iter().find(|(text, _)| **text == *s);
            found.map(|(_, origin)| origin.clone())
        };
        if let Some(origin) = READ.with(known) {
            return Ok(origin);
        }
        let origin = Self::parse(s)?;
        READ.with(|read| {
            let mut read = read.borrow_mut();
            read.truncate(REMEMBERED - 1);
            read.insert(0, (s.into(), origin.clone()));
        });
        Ok(origin)
    }
}

impl Origin {
    fn parse(s: &str) -> Result<Self, InvalidWord> {
        let invalid = || InvalidWord {
            what: "origin",
            value: s.chars().take(80).collect(),
            rule: "a node id, a dot and eight hexadecimal digits",
        };
        let (node, hex) = s.split_once('.').ok_or_else(invalid)?;
        if hex.len() != 8 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        Ok(Self {
            node: NodeId::new(node)?,
            incarnation: u32::from_str_radix(hex, 16).map_err(|_| invalid())?,
        })
    }
}
impl Serialize for Origin {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_str(Parsed(PhantomData))
    }
}
impl TryFrom<String> for Origin {
    type Error = InvalidWord;
    fn try_from(s: String) -> Result<Self, InvalidWord> {
        s.parse()
    }
}
impl From<Origin> for String {
    fn from(o: Origin) -> String {
        o.to_string()
    }
}

/// What a store holds: for each origin the number of its last operation, with none missing before it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Vector(BTreeMap<Origin, u64>);

impl Vector {
    /// The last sequence number held of `origin`; 0 when nothing is held (numbers start at 1).
    pub fn get(&self, origin: &Origin) -> u64 {
        self.0.get(origin).copied().unwrap_or(0)
    }
    /// Raises what is held of `origin` to `seq`; never lowers it.
    pub fn raise(&mut self, origin: &Origin, seq: u64) {
        match self.0.get_mut(origin) {
            Some(held) => *held = seq.max(*held),
            None if seq > 0 => {
                self.0.insert(origin.clone(), seq);
            }
            None => {}
        }
    }
    /// Raises every entry to at least `other`'s.
    pub fn merge(&mut self, other: &Vector) {
        for (o, s) in &other.0 {
            self.raise(o, *s);
        }
    }
    /// What both hold: of each origin the lower number.
    #[must_use]
    pub fn meet(&self, other: &Vector) -> Self {
        let lower = |(origin, seq): (&Origin, u64)| (origin.clone(), seq.min(other.get(origin)));
        self.iter().map(lower).filter(|(_, seq)| *seq > 0).collect()
    }
    /// Whether everything `other` holds is held here too.
    pub fn covers(&self, other: &Vector) -> bool {
        other.0.iter().all(|(o, s)| self.get(o) >= *s)
    }
    /// How many operations are held here that `other` lacks.
    pub fn ahead_of(&self, other: &Vector) -> u64 {
        self.0
            .iter()
            .map(|(o, s)| s.saturating_sub(other.get(o)))
            .sum()
    }
    /// The entries in order of origin.
    pub fn iter(&self) -> impl Iterator<Item = (&Origin, u64)> {
        self.0.iter().map(|(o, s)| (o, *s))
    }
    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(Origin, u64)> for Vector {
    fn from_iter<I: IntoIterator<Item = (Origin, u64)>>(iter: I) -> Self {
        let mut v = Self::default();
        for (o, s) in iter {
            v.raise(&o, s);
        }
        v
    }
}

/// The reading of both clocks at one moment, handed to every decision.
///
/// `mono` measures spans and never jumps; `wall` is for people and for stamps and may jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Time since the process started, by a clock that only moves forward.
    pub mono: std::time::Duration,
    /// The wall clock.
    pub wall: UnixMillis,
}
