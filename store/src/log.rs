//! The value of a log entry: the operation, and running totals of its origin up to and with it.
//!
//! | bytes | |
//! |---|---|
//! | 1 | 2 (entries of format version 1 begin with `{`) |
//! | 8 | bytes of this origin's operations so far, audio included, big-endian |
//! | 8 | messages this origin's operations have created so far, big-endian |
//! | … | the operation, JSON |
//!
//! What lies between two entries is therefore one subtraction, however far they are apart
//! ([`Store::backlog`](crate::Store::backlog)). The totals are this store's own: they count from
//! the first operation it took of the origin, and are never compared between nodes.

use std::io;

use crate::{
    operation::{Effect, EntityKey, Operation},
    record::AUDIO,
};

/// First byte of an entry.
const TAG: u8 = 2;
/// Bytes before the operation.
const HEAD: usize = 1 + 2 * 8;

/// Running totals of one origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sums {
    /// JSON of operations and audio they name, in bytes.
    pub(crate) bytes: u64,
    /// Operations that create a message.
    pub(crate) messages: u64,
}

impl Sums {
    /// With `operation`, whose JSON has `length` bytes.
    pub(crate) fn plus(self, operation: &Operation, length: usize) -> Self {
        let mut sums = self;
        sums.bytes = sums.bytes.saturating_add(length as u64);
        if let Effect::Set(fields) = &operation.effect
            && let Some(audio) = fields.get(AUDIO).filter(|a| !a.is_null())
        {
            let audio = audio.get("bytes").and_then(serde_json::Value::as_u64);
            sums.bytes = sums.bytes.saturating_add(audio.unwrap_or(0));
            let message = matches!(operation.entity, EntityKey::Message(_));
            sums.messages = sums.messages.saturating_add(u64::from(message));
        }
        sums
    }

    /// What came after `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(earlier.bytes),
            messages: self.messages.saturating_sub(earlier.messages),
        }
    }

    fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let (left, right) = bytes.split_at_mut(8);
        left.copy_from_slice(&self.bytes.to_be_bytes());
        right.copy_from_slice(&self.messages.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (left, right) = bytes.split_at_checked(8)?;
        Some(Self {
            bytes: u64::from_be_bytes(left.try_into().ok()?),
            messages: u64::from_be_bytes(right.try_into().ok()?),
        })
    }
}

/// A place in the log of one origin: an operation, and the totals up to and with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    pub(crate) seq: u64,
    pub(crate) sums: Sums,
}

impl Mark {
    /// As stored: the number, then the totals, big-endian.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        [self.seq.to_be_bytes().as_slice(), &self.sums.to_bytes()].concat()
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    pub(crate) fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        let mark = || {
            let (seq, sums) = bytes.split_at_checked(8)?;
            Some(Self {
                seq: u64::from_be_bytes(seq.try_into().ok()?),
                sums: Sums::from_bytes(sums)?,
            })
        };
        mark().ok_or_else(|| damaged("the floor of a log has the wrong length"))
    }
}

/// Where the log of one origin begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ends {
    /// The last operation the log no longer has; 0 while it has all.
    pub(crate) floor: Mark,
    /// The totals at its end.
    pub(crate) last: Sums,
}

/// The value of an entry.
pub(crate) fn encode(sums: Sums, operation: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEAD + operation.len());
    value.push(TAG);
    value.extend_from_slice(&sums.to_bytes());
    value.extend_from_slice(operation);
    value
}

/// The totals and the JSON of the operation of an entry.
pub(crate) fn split(value: &[u8]) -> io::Result<(Sums, &[u8])> {
    let parts = || {
        let (&TAG, rest) = value.split_first()? else {
            return None;
        };
        let (sums, operation) = rest.split_at_checked(HEAD - 1)?;
        Some((Sums::from_bytes(sums)?, operation))
    };
    parts().ok_or_else(|| damaged("an entry of the log is not of this format version"))
}

/// The totals and the operation of an entry.
pub(crate) fn decode(value: &[u8]) -> io::Result<(Sums, Operation)> {
    let (sums, operation) = split(value)?;
    Ok((sums, serde_json::from_slice(operation)?))
}

/// Whether a value is one of format version 1: the operation and nothing else.
pub(crate) fn is_version_1(value: &[u8]) -> bool {
    value.first() == Some(&b'{')
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operation::{Hlc, Stamp};

    fn operation(key: &str, fields: serde_json::Value) -> Operation {
        Operation {
            stamp: Stamp {
                at: Hlc::default(),
                origin: "vmpro1.00000001".parse().unwrap(),
                seq: 1,
            },
            entity: key.to_owned().try_into().unwrap(),
            effect: Effect::Set(serde_json::from_value(fields).unwrap()),
            extra: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn an_entry_reads_back_with_its_totals_and_others_are_refused() {
        let sums = Sums {
            bytes: 7_000,
            messages: 3,
        };
        let op = operation("setting/x", json!({"value": 1}));
        let bytes = serde_json::to_vec(&op).unwrap();
        let value = encode(sums, &bytes);
        assert_eq!(decode(&value).unwrap(), (sums, op));
        assert!(is_version_1(&bytes) && !is_version_1(&value));
        assert!(decode(&bytes).is_err());
        assert!(decode(&value[..9]).is_err());
        assert!(decode(b"").is_err());
        let mark = Mark { seq: 9, sums };
        assert_eq!(Mark::from_bytes(&mark.to_bytes()).unwrap(), mark);
        assert!(Mark::from_bytes(b"short").is_err());
    }

    #[test]
    fn audio_counts_in_bytes_and_messages_are_counted_when_created() {
        let message = "message/01920000-0000-7000-8000-000000000001";
        let audio = json!({"audio": {"blob": "x", "bytes": 1_000}});
        let sums = Sums::default()
            .plus(&operation(message, audio.clone()), 100)
            .plus(&operation(message, json!({"state": "old"})), 50)
            .plus(&operation("greeting/2001/busy", audio), 100)
            .plus(&operation("greeting/2001/busy", json!({"audio": null})), 30);
        assert_eq!(
            sums,
            Sums {
                bytes: 2_280,
                messages: 1
            }
        );
        let huge = json!({"audio": {"bytes": u64::MAX}});
        assert_eq!(sums.plus(&operation(message, huge), 1).bytes, u64::MAX);
    }
}
