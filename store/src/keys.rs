//! The keys of the index: one letter says what kind, so that everything lies in one sled tree
//! and one batch changes all of it at once.
//!
//! | key | value |
//! |---|---|
//! | `r` entity | record, canonical JSON |
//! | `l` origin NUL seq | operation and running totals (see `log`) |
//! | `v` origin | last sequence number held |
//! | `f` origin | floor of its log, and the totals there (see `log`), 24 bytes; absent = 0 |
//! | `q` entity | why and since when it is under quarantine, JSON |
//! | `d` bucket | digest bucket, 32 bytes |
//! | `c` extension | summary of a mailbox, JSON |
//! | `i` extension NUL clock id | state of a message: the mailbox's messages in order of arrival |
//! | `s` extension NUL SHA-256 id | empty: messages by their source id |
//! | `e` extension NUL clock id | empty: messages that wait to be e-mailed, in order of arrival |
//! | `x` blob | empty: audio file to be removed |
//! | `n` space NUL key | node-local record |
//! | `m` name | `origin`, `clock`, `totals`, `seeding` (the one under way), `seen` (see `join`), `commits`, JSON; `format` |
//! | `p` id piece | part of a value too large for one key (see `index`) |
//!
//! Numbers are big-endian, so that the order of keys is the order of numbers.

use std::io;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use vmsync_config::words::{Extension, Origin};

use crate::operation::{EntityKey, Hlc};

pub(crate) const RECORD: u8 = b'r';
pub(crate) const LOG: u8 = b'l';
pub(crate) const VECTOR: u8 = b'v';
pub(crate) const FLOOR: u8 = b'f';
pub(crate) const QUARANTINE: u8 = b'q';
pub(crate) const DIGEST: u8 = b'd';
pub(crate) const SUMMARY: u8 = b'c';
pub(crate) const ARRIVAL: u8 = b'i';
pub(crate) const SOURCE: u8 = b's';
pub(crate) const UNMAILED: u8 = b'e';
pub(crate) const DOOMED: u8 = b'x';
pub(crate) const LOCAL: u8 = b'n';
pub(crate) const PIECE: u8 = b'p';

pub(crate) const ORIGIN: &[u8] = b"morigin";
pub(crate) const CLOCK: &[u8] = b"mclock";
pub(crate) const TOTALS: &[u8] = b"mtotals";
pub(crate) const SEEDING: &[u8] = b"mseeding";
/// Numbers seen beyond the vector.
pub(crate) const SEEN: &[u8] = b"mseen";
pub(crate) const FORMAT: &[u8] = b"mformat";
/// Number of the last group committed (see `watermark`).
pub(crate) const COMMITS: &[u8] = b"mcommits";

fn key(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|p| p.len()).sum::<usize>());
    key.push(kind);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

pub(crate) fn record(entity: &EntityKey) -> Vec<u8> {
    key(RECORD, &[entity.to_string().as_bytes()])
}

/// Start of the keys of all records of a kind (`mailbox/`).
pub(crate) fn records(kind: &str) -> Vec<u8> {
    key(RECORD, &[kind.as_bytes()])
}

pub(crate) fn log(origin: &Origin, seq: u64) -> Vec<u8> {
    key(
        LOG,
        &[origin.to_string().as_bytes(), &[0], &seq.to_be_bytes()],
    )
}

pub(crate) fn vector(origin: &Origin) -> Vec<u8> {
    key(VECTOR, &[origin.to_string().as_bytes()])
}

pub(crate) fn floor(origin: &Origin) -> Vec<u8> {
    key(FLOOR, &[origin.to_string().as_bytes()])
}

/// The origin of a key of kind `v` or `f`.
pub(crate) fn origin(key: &[u8]) -> io::Result<Origin> {
    let invalid =
        |e: Box<dyn std::error::Error + Send + Sync>| io::Error::new(io::ErrorKind::InvalidData, e);
    std::str::from_utf8(key.get(1..).unwrap_or_default())
        .map_err(|e| invalid(e.into()))?
        .parse()
        .map_err(|e: vmsync_config::words::InvalidWord| invalid(e.into()))
}

pub(crate) fn quarantine(entity: &EntityKey) -> Vec<u8> {
    key(QUARANTINE, &[entity.to_string().as_bytes()])
}

/// The entity of a key of kind `r` or `q`, as text.
pub(crate) fn entity_name(key: &[u8]) -> String {
    String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned()
}

pub(crate) fn digest(bucket: u8) -> Vec<u8> {
    key(DIGEST, &[&[bucket]])
}

pub(crate) fn summary(ext: &Extension) -> Vec<u8> {
    key(SUMMARY, &[ext.as_str().as_bytes()])
}

/// Start of the keys of all messages of a mailbox, in order of arrival.
pub(crate) fn arrivals(ext: &Extension) -> Vec<u8> {
    key(ARRIVAL, &[ext.as_str().as_bytes(), &[0]])
}

pub(crate) fn arrival(ext: &Extension, place: &[u8]) -> Vec<u8> {
    key(ARRIVAL, &[ext.as_str().as_bytes(), &[0], place])
}

/// Start of the keys of the messages of a mailbox that wait to be e-mailed, in order of arrival.
pub(crate) fn unmailed_of(ext: &Extension) -> Vec<u8> {
    key(UNMAILED, &[ext.as_str().as_bytes(), &[0]])
}

pub(crate) fn unmailed(ext: &Extension, place: &[u8]) -> Vec<u8> {
    key(UNMAILED, &[ext.as_str().as_bytes(), &[0], place])
}

/// The mailbox of a key of kind `e`.
pub(crate) fn unmailed_mailbox(key: &[u8]) -> Option<Extension> {
    let end = key.len().checked_sub(PLACE + 1)?;
    let ext = std::str::from_utf8(key.get(1..end)?).ok()?;
    Extension::new(ext).ok()
}

/// Length of [`place`].
pub(crate) const PLACE: usize = 8 + 4 + 16;

/// A message's place in its mailbox: by its first stamp's clock, then by id.
pub(crate) fn place(at: Hlc, id: Uuid) -> Vec<u8> {
    let mut place = Vec::with_capacity(PLACE);
    place.extend_from_slice(&at.wall.0.to_be_bytes());
    place.extend_from_slice(&at.count.to_be_bytes());
    place.extend_from_slice(id.as_bytes());
    place
}

/// The id at the end of a key.
pub(crate) fn id_at_end(key: &[u8]) -> Option<Uuid> {
    Uuid::from_slice(key.get(key.len().checked_sub(16)?..)?).ok()
}

/// Start of the keys of the messages of a mailbox with this source id.
pub(crate) fn sources(ext: &Extension, source: &str) -> Vec<u8> {
    let hash = Sha256::digest(source.as_bytes());
    key(SOURCE, &[ext.as_str().as_bytes(), &[0], &hash])
}

pub(crate) fn source(ext: &Extension, source: &str, id: Uuid) -> Vec<u8> {
    let mut key = sources(ext, source);
    key.extend_from_slice(id.as_bytes());
    key
}

pub(crate) fn doomed(blob: Uuid) -> Vec<u8> {
    key(DOOMED, &[blob.as_bytes()])
}

/// Start of the keys of all local records of a space.
pub(crate) fn locals(space: &str) -> Vec<u8> {
    key(LOCAL, &[space.as_bytes(), &[0]])
}

pub(crate) fn local(space: &str, name: &str) -> Vec<u8> {
    key(LOCAL, &[space.as_bytes(), &[0], name.as_bytes()])
}

/// The first key after all that begin with `prefix`.
pub(crate) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    // Kinds are letters, so that no prefix consists of 0xff alone.
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            break;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use vmsync_config::words::UnixMillis;

    use super::*;

    #[test]
    fn keys_sort_as_numbers_and_prefixes_end_where_the_next_begins() {
        let origin: Origin = "vmpro1.00000001".parse().unwrap();
        assert!(log(&origin, 9) < log(&origin, 10));
        assert!(log(&origin, 255) < log(&origin, 256));
        assert_eq!(end_of(b"r\xff"), b"s");
        let (a, b): (Extension, Extension) = ("200".parse().unwrap(), "2001".parse().unwrap());
        assert!(!arrivals(&b).starts_with(&arrivals(&a)));
        let id = Uuid::from_u128(7);
        let place = place(
            Hlc {
                wall: UnixMillis(5),
                count: 1,
            },
            id,
        );
        assert_eq!(place.len(), PLACE);
        assert_eq!(id_at_end(&arrival(&a, &place)), Some(id));
        assert_eq!(id_at_end(b"short"), None);
    }
}
