//! Operations: what changed, where and when it was first recorded.
//!
//! Everything a pair shares is an *entity* with named *fields*. An operation sets some fields of
//! one entity or deletes it. This shape, rather than an enum of every change, lets an older
//! program store, digest and pass on fields and kinds it does not know (docs/decisions/0004-operations.md).

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vmsync_config::words::{Extension, InvalidWord, Origin, UnixMillis};

use crate::object::{read_object, required};

/// A hybrid logical clock reading: wall milliseconds and a counter for what shares one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Hlc {
    /// Wall clock part.
    pub wall: UnixMillis,
    /// Counter within the same millisecond.
    #[serde(default)]
    pub count: u32,
}

/// Who wrote something and when; totally ordered: later clock wins, ties by origin, then by sequence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// When, by the origin's hybrid clock. First, so that the derived order is the conflict rule's.
    pub at: Hlc,
    /// Where.
    pub origin: Origin,
    /// The origin's sequence number, from 1 without gaps.
    pub seq: u64,
}

/// What an operation is about. Written `kind/id`, e.g. `mailbox/2001`, `greeting/2001/busy`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum EntityKey {
    /// A mailbox.
    Mailbox(Extension),
    /// A voice message, by its id.
    Message(uuid::Uuid),
    /// A greeting of a mailbox.
    Greeting(Extension, GreetingKind),
    /// A call flow, by name.
    Flow(String),
    /// A replicated setting, by name.
    Setting(String),
    /// A kind this version does not know: kept and passed on as it is.
    Other(String),
}

/// Greetings of a mailbox (R-MB-7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GreetingKind {
    /// The recorded name.
    Name,
    /// Standard.
    Standard,
    /// Line busy.
    Busy,
    /// No answer.
    NoAnswer,
    /// Outside office hours.
    OutOfHours,
    /// Temporary, with an end time.
    Temporary,
}

/// What an operation does to its entity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Sets these fields; others stay.
    Set(BTreeMap<String, Value>),
    /// Deletes the entity; final for messages.
    Delete,
}

/// One durable change, the unit of replication.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Operation {
    /// Who and when.
    pub stamp: Stamp,
    /// What it is about.
    pub entity: EntityKey,
    /// What it does.
    pub effect: Effect,
    /// Fields of a newer version, kept and passed on.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

read_object!(Operation, "an operation", {
    "stamp" => stamp: Stamp,
    "entity" => entity: EntityKey,
    "effect" => effect: Effect,
}, extra, Ok(Operation {
    stamp: required("stamp", stamp)?,
    entity: required("entity", entity)?,
    effect: required("effect", effect)?,
    extra,
}));

/// Member of an operation that stands for one that was skipped; it says why.
const SKIPPED: &str = "skipped";

impl Operation {
    /// What stands in the log for an operation that could not be sent or taken, and says nothing
    /// of its entity but that (docs/decisions/0010-synchronisation.md, quarantine).
    pub fn skip(origin: Origin, seq: u64, entity: EntityKey, why: &str) -> Self {
        let at = Hlc::default();
        Self {
            stamp: Stamp { at, origin, seq },
            entity,
            effect: Effect::Set(BTreeMap::new()),
            extra: BTreeMap::from([(SKIPPED.to_owned(), why.into())]),
        }
    }

    /// Why the operation this one stands for was skipped; `None` for an ordinary operation.
    pub fn skipped(&self) -> Option<&str> {
        self.extra.get(SKIPPED)?.as_str()
    }
}

/// A stored audio file, as the fields `audio` of messages and greetings name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AudioRef {
    /// Id of the file in the store; new for every upload, never reused.
    pub blob: uuid::Uuid,
    /// SHA-256 of the audio bytes, lower-case hex.
    pub sha256: String,
    /// Length of the audio in bytes.
    pub bytes: u64,
    /// MIME type as received (`audio/wav`).
    pub content_type: String,
    /// Codec in words (`pcm16`, `ulaw`, `alaw`, `opus`).
    pub codec: String,
    /// Length in milliseconds, measured from the audio itself (R-MB-6).
    pub duration_ms: u64,
}

impl Stamp {
    /// The stamp of what an audio file says of itself, where the index is made anew from the files:
    /// of the clock's first millisecond, which no operation of a user's bears. All bear the same,
    /// so that messages follow one another by their ids, which begin with the time they came.
    pub(crate) fn recovered(origin: Origin, seq: u64) -> Self {
        let at = Hlc::default();
        Self { at, origin, seq }
    }

    /// Whether it is that of something recovered from an audio file alone.
    pub fn is_recovered(&self) -> bool {
        self.at.wall == Hlc::default().wall
    }
}

impl GreetingKind {
    /// All kinds, in the order they are shown.
    pub const ALL: [Self; 6] = [
        Self::Name,
        Self::Standard,
        Self::Busy,
        Self::NoAnswer,
        Self::OutOfHours,
        Self::Temporary,
    ];
    /// The name in routes and keys (`no-answer`).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Standard => "standard",
            Self::Busy => "busy",
            Self::NoAnswer => "no-answer",
            Self::OutOfHours => "out-of-hours",
            Self::Temporary => "temporary",
        }
    }
}

impl FromStr for GreetingKind {
    type Err = InvalidWord;
    fn from_str(s: &str) -> Result<Self, InvalidWord> {
        Self::ALL
            .into_iter()
            .find(|k| k.as_str() == s)
            .ok_or_else(|| InvalidWord {
                what: "greeting kind",
                value: s.chars().take(80).collect(),
                rule: "one of name, standard, busy, no-answer, out-of-hours, temporary",
            })
    }
}

impl fmt::Display for EntityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mailbox(e) => write!(f, "mailbox/{e}"),
            Self::Message(id) => write!(f, "message/{id}"),
            Self::Greeting(e, k) => write!(f, "greeting/{e}/{}", k.as_str()),
            Self::Flow(n) => write!(f, "flow/{n}"),
            Self::Setting(n) => write!(f, "setting/{n}"),
            Self::Other(s) => f.write_str(s),
        }
    }
}

impl TryFrom<String> for EntityKey {
    type Error = InvalidWord;
    fn try_from(s: String) -> Result<Self, InvalidWord> {
        let invalid = |rule| InvalidWord {
            what: "entity key",
            value: s.chars().take(80).collect(),
            rule,
        };
        if s.len() > 200 || s.chars().any(char::is_control) {
            return Err(invalid("at most 200 characters and no control characters"));
        }
        let (kind, rest) = s
            .split_once('/')
            .ok_or_else(|| invalid("a kind, a slash and an id"))?;
        Ok(match kind {
            "mailbox" => Self::Mailbox(Extension::new(rest)?),
            "message" => Self::Message(rest.parse().map_err(|_| invalid("a UUID as message id"))?),
            "greeting" => {
                let (ext, kind) = rest
                    .split_once('/')
                    .ok_or_else(|| invalid("greeting/EXTENSION/KIND"))?;
                // A newer version may know more kinds; those are kept, not refused.
                match kind.parse() {
                    Ok(kind) => Self::Greeting(Extension::new(ext)?, kind),
                    Err(_) => Self::Other(s),
                }
            }
            "flow" => Self::Flow(rest.to_owned()),
            "setting" => Self::Setting(rest.to_owned()),
            _ => Self::Other(s),
        })
    }
}
impl From<EntityKey> for String {
    fn from(k: EntityKey) -> String {
        k.to_string()
    }
}
