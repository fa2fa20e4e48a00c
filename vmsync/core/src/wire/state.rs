//! What version 1.1 added: state in place of operations, and the words of seeding, repair and quarantine
//! (docs/decisions/0010-synchronisation.md).

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use vmsync_config::words::{Origin, Vector};

/// Buckets of a state's digest.
const BUCKETS: usize = 256;
/// Hexadecimal digits of one bucket's sum.
const DIGITS: usize = 16;
/// Longest reason kept with a skip, characters; it is for people.
const WHY: usize = 300;

/// How far the sender of a head has received a seeding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seeding {
    /// The vector the seeding leads to.
    pub upto: Vector,
    /// Key of the last entity up to which it is complete; `None` = nothing received yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// A step of a seeding: the mail's records are all there is between two keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedStep {
    /// The vector the seeding leads to; the same in each of its steps.
    pub upto: Vector,
    /// The receiver's vector that the records were chosen by: those without a stamp beyond it are
    /// left out. A receiver that does not cover it does not take the step.
    #[serde(default, skip_serializing_if = "Vector::is_empty")]
    pub beyond: Vector,
    /// Entities behind this key; `None` = from the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Entities up to and including this key; `None` = to the last: this step ends the seeding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<String>,
}

/// What a node holds of one entity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its key, `message/UUID` and so on.
    pub entity: String,
    /// The record as the store wrote it; opaque here.
    pub record: Value,
}

/// All items a node holds in one bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketItems {
    /// Which of the 256.
    pub bucket: u8,
    /// Every entity of the bucket that counts in the digest; none missing.
    pub items: Vec<Item>,
}

/// One entity in a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Its key.
    pub entity: String,
    /// Hash of its record; compared for equality only.
    pub hash: String,
    /// The record names audio that the node does not have.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lacks_audio: bool,
}

/// An operation that stays behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip {
    /// Where it was first recorded.
    pub origin: Origin,
    /// Its number there.
    pub seq: u64,
    /// The entity it is about, which is quarantined.
    pub entity: String,
    /// Why it can't be sent or taken, for people; cut after 300 characters.
    #[serde(deserialize_with = "short")]
    pub why: String,
}

fn short<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    let mut text = String::deserialize(d)?;
    if let Some((end, _)) = text.char_indices().nth(WHY) {
        text.truncate(end);
    }
    Ok(text)
}

/// What the sender of a head still has for its addressee.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Left {
    /// Operations the addressee lacks.
    pub operations: u64,
    /// Their bytes on the wire, audio included.
    pub bytes: u64,
}

/// The 256 sums of a state's digest, written as one text: 16 lower-case hexadecimal digits a
/// bucket, bucket 0 first. Valid by construction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Buckets(String);

impl Buckets {
    /// From the store's 256 sums of 16 lower-case hexadecimal digits; `None` for anything else.
    pub fn new<S: AsRef<str>>(sums: &[S]) -> Option<Self> {
        let right = sums.len() == BUCKETS && sums.iter().all(|s| s.as_ref().len() == DIGITS);
        let text = || sums.iter().map(AsRef::as_ref).collect::<String>();
        right.then(text).and_then(|text| Self::try_from(text).ok())
    }

    /// The sum of `bucket`, 16 hexadecimal digits.
    pub fn sum(&self, bucket: u8) -> &str {
        let at = usize::from(bucket) * DIGITS;
        self.0.get(at..at + DIGITS).unwrap_or_default()
    }

    /// The buckets whose sums differ, in ascending order.
    pub fn differing(&self, other: &Self) -> Vec<u8> {
        (0..=u8::MAX)
            .filter(|b| self.sum(*b) != other.sum(*b))
            .collect()
    }
}

impl TryFrom<String> for Buckets {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == BUCKETS * DIGITS && text.bytes().all(digit) {
            return Ok(Self(text));
        }
        Err(format!(
            "`buckets` is {} characters; it must be {} lower-case hexadecimal digits",
            text.chars().count(),
            BUCKETS * DIGITS
        ))
    }
}

impl From<Buckets> for String {
    fn from(buckets: Buckets) -> Self {
        buckets.0
    }
}
