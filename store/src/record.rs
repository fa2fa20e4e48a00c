//! What is held of one entity: the result of merging every operation about it.
//!
//! A record is stored as canonical JSON: keys sorted, no spaces, stamps in their short form
//! (`1790000000000.0@vmpro1.5f3a9c01#42`). The same bytes are what the digest is taken of, so
//! two nodes that hold the same record hold the same bytes.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, value::RawValue};
use uuid::Uuid;
use vmsync_config::words::Vector;

use crate::{
    object::{read_object, required},
    operation::{AudioRef, Stamp},
};

/// Field of messages and greetings that names their audio file.
pub(crate) const AUDIO: &str = "audio";

/// All that is known of one entity. In the order of the names they are stored under, which are those
/// of canonical JSON.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Record {
    /// `c`: up to which operation of each origin versions count as replaced.
    pub(crate) replaced: Vector,
    /// `d`: the latest deletion.
    pub(crate) deleted: Option<Stamp>,
    /// `f`: last value of each field and who wrote it (entities merged by field).
    pub(crate) fields: BTreeMap<String, Field>,
    /// `v`: versions nobody has replaced, newest first (entities merged by version).
    pub(crate) versions: Vec<Version>,
    /// Members of a newer version, kept and passed on. Where there are any they have to be sorted in
    /// among the others: [`Record::to_bytes`].
    pub(crate) more: BTreeMap<String, Value>,
}

read_object!(Record, "a record", {
    "c" => replaced: Vector,
    "d" => deleted: Short,
    "f" => fields: BTreeMap<String, Field>,
    "v" => versions: Vec<Version>,
}, more, Ok(Record {
    replaced: replaced.unwrap_or_default(),
    deleted: deleted.map(|Short(stamp)| stamp),
    fields: fields.unwrap_or_default(),
    versions: versions.unwrap_or_default(),
    more,
}));

/// A field's value and the stamp of the operation that set it. Written as an array of both.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field(pub(crate) Json, pub(crate) Stamp);

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let (value, Short(stamp)) = <(&RawValue, Short)>::deserialize(d)?;
        Ok(Self(Json(value.get().into()), stamp))
    }
}

/// A field's value: canonical JSON, kept as the text it is, since few changes look into it, and all
/// write it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Json(Arc<str>);

impl Json {
    pub(crate) fn of(value: &Value) -> Self {
        let text = String::from_utf8(canonical_bytes(value));
        // JSON is written in UTF-8.
        Self(text.unwrap_or_default().into())
    }

    /// As it is written; to compare values by, too.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// Read as what it should be; `None` when it is something else.
    pub(crate) fn read<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        serde_json::from_str(&self.0).ok()
    }

    pub(crate) fn value(&self) -> Value {
        // It was written from a value.
        self.read().unwrap_or_default()
    }

    fn is_null(&self) -> bool {
        &*self.0 == "null"
    }
}

/// A stamp as records have it.
#[derive(Deserialize)]
struct Short(#[serde(deserialize_with = "short_stamp::deserialize")] Stamp);

/// The same, to be written.
#[derive(Serialize)]
struct Written<'a>(#[serde(serialize_with = "short_stamp::serialize")] &'a Stamp);

/// One whole value of a greeting or call flow.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Version {
    #[serde(rename = "f", serialize_with = "canonical_map")]
    pub(crate) fields: BTreeMap<String, Value>,
    #[serde(rename = "s", serialize_with = "short_stamp::serialize")]
    pub(crate) stamp: Stamp,
    /// Members of a newer version, kept and passed on. Where there are any they have to be sorted in
    /// among the others: [`Record::to_bytes`].
    #[serde(flatten)]
    pub(crate) more: BTreeMap<String, Value>,
}

read_object!(Version, "a version", {
    "f" => fields: BTreeMap<String, Value>,
    "s" => stamp: Short,
}, more, Ok(Version {
    fields: required("f", fields)?,
    stamp: required("s", stamp)?.0,
    more,
}));

impl Version {
    /// The field's value, `None` also where it was set to null (removed).
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|v| !v.is_null())
    }
}

impl Record {
    /// Whether nothing at all is known: such a record is not stored and adds nothing to the digest.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The field's value, `None` also where it was set to null (removed).
    pub(crate) fn get(&self, name: &str) -> Option<&Json> {
        self.fields.get(name).map(|f| &f.0).filter(|v| !v.is_null())
    }

    /// The field's value read as what it should be; `None` also when it is something else.
    pub(crate) fn read<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Option<T> {
        self.get(name)?.read()
    }

    /// Stamp of the operation that last set the field.
    pub(crate) fn stamp(&self, name: &str) -> Option<&Stamp> {
        self.fields.get(name).map(|f| &f.1)
    }

    /// The latest stamp in it; a change made here must bear a later one to win.
    pub(crate) fn newest(&self) -> Option<&Stamp> {
        self.stamps().max()
    }

    /// Everything a new version written here replaces: what was replaced, and what is live.
    pub(crate) fn context(&self) -> Vector {
        let mut context = self.replaced.clone();
        for v in &self.versions {
            context.raise(&v.stamp.origin, v.stamp.seq);
        }
        context
    }

    /// The audio files it refers to.
    pub(crate) fn audio(&self) -> Vec<Uuid> {
        #[derive(Deserialize)]
        struct Named {
            blob: Uuid,
        }
        let field = self.read(AUDIO).map(|Named { blob }| blob).into_iter();
        let versions = self.versions.iter().filter_map(|v| v.get(AUDIO));
        field.chain(versions.filter_map(blob_of)).collect()
    }

    /// Whether both name the same audio files, in the same words.
    pub(crate) fn has_audio_of(&self, other: &Self) -> bool {
        let field = |r: &Self| r.get(AUDIO).cloned();
        field(self) == field(other) && self.versions == other.versions
    }

    /// Whether a deletion has left nothing of it.
    pub(crate) fn is_deleted(&self) -> bool {
        self.deleted.is_some() && self.fields.is_empty() && self.versions.is_empty()
    }

    /// Whether it bears something of an operation that `vector` does not cover. If not, who holds
    /// that vector holds all that this record says.
    ///
    /// What an operation outside the vector left behind is either its stamp, or, where its version
    /// does not stand any more, a number in what counts as replaced: its own, or the one before it.
    /// Only a deletion of a greeting or call flow (which this program does not write) may take a
    /// version without a trace.
    pub(crate) fn is_beyond(&self, vector: &Vector) -> bool {
        let mut replaced = self.replaced.iter();
        self.stamps().any(|s| s.seq > vector.get(&s.origin))
            || replaced.any(|(origin, seq)| seq >= vector.get(origin))
            || (self.deleted.is_some() && !self.replaced.is_empty())
    }

    /// Every stamp in it.
    pub(crate) fn stamps(&self) -> impl Iterator<Item = &Stamp> {
        let fields = self.fields.values().map(|f| &f.1);
        let versions = self.versions.iter().map(|v| &v.stamp);
        fields.chain(versions).chain(&self.deleted)
    }

    /// Canonical JSON.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut known = Vec::with_capacity(1024);
        self.write_known(&mut known)?;
        if self.more.is_empty() && self.versions.iter().all(|v| v.more.is_empty()) {
            return Ok(known);
        }
        let mut value: Value = serde_json::from_slice(&known)?;
        if let Value::Object(members) = &mut value {
            let more = self.more.iter().map(|(n, v)| (n.clone(), v.clone()));
            members.extend(more);
        }
        Ok(canonical_bytes(&value))
    }

    /// The members known here, in the order of their names. Those of versions come as they are.
    fn write_known(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        fn member(name: &str, out: &mut Vec<u8>) {
            let before = if out.len() == 1 { "" } else { "," };
            out.extend([before, "\"", name, "\":"].iter().flat_map(|s| s.bytes()));
        }
        out.push(b'{');
        if !self.replaced.is_empty() {
            member("c", out);
            serde_json::to_writer(&mut *out, &self.replaced)?;
        }
        if let Some(deleted) = &self.deleted {
            member("d", out);
            serde_json::to_writer(&mut *out, &Written(deleted))?;
        }
        if !self.fields.is_empty() {
            member("f", out);
            let mut separator = b'{';
            for (name, Field(value, stamp)) in &self.fields {
                out.push(separator);
                separator = b',';
                serde_json::to_writer(&mut *out, name)?;
                out.extend_from_slice(b":[");
                out.extend_from_slice(value.text().as_bytes());
                out.push(b',');
                serde_json::to_writer(&mut *out, &Written(stamp))?;
                out.push(b']');
            }
            out.push(b'}');
        }
        if !self.versions.is_empty() {
            member("v", out);
            serde_json::to_writer(&mut *out, &self.versions)?;
        }
        out.push(b'}');
        Ok(())
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Reads a record as another program may have written it.
    pub(crate) fn from_value(value: &Value) -> Result<Self, serde_json::Error> {
        Self::from_bytes(&canonical_bytes(value))
    }
}

/// The file an `audio` field names.
pub(crate) fn blob_of(audio: &Value) -> Option<Uuid> {
    audio.get("blob")?.as_str()?.parse().ok()
}

/// The `audio` field read as what it should be; `None` when it is something else.
pub(crate) fn audio_of(audio: &Value) -> Option<AudioRef> {
    AudioRef::deserialize(audio).ok()
}

/// Canonical JSON of a part of a record, to compare it by; JSON that was read is always writable.
pub(crate) fn canonical_bytes<'a>(value: impl Into<Part<'a>>) -> Vec<u8> {
    serde_json::to_vec(&value.into()).unwrap_or_default()
}

/// What [`canonical_bytes`] is asked for: a value, or the fields of a version.
pub(crate) enum Part<'a> {
    Value(&'a Value),
    Fields(&'a BTreeMap<String, Value>),
}

impl<'a> From<&'a Value> for Part<'a> {
    fn from(value: &'a Value) -> Self {
        Self::Value(value)
    }
}

impl<'a> From<&'a BTreeMap<String, Value>> for Part<'a> {
    fn from(fields: &'a BTreeMap<String, Value>) -> Self {
        Self::Fields(fields)
    }
}

impl Serialize for Part<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => canonical(value, s),
            Self::Fields(fields) => canonical_map(fields, s),
        }
    }
}

/// A value with its keys sorted, whatever map type `serde_json` was built with.
fn canonical<S: Serializer>(value: &Value, s: S) -> Result<S::Ok, S::Error> {
    match value {
        Value::Object(map) if map.keys().is_sorted() => {
            s.collect_map(map.iter().map(|(key, value)| (key, Part::Value(value))))
        }
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            let sorted = sorted.into_iter();
            s.collect_map(sorted.map(|(key, value)| (key, Part::Value(value))))
        }
        Value::Array(items) => s.collect_seq(items.iter().map(Part::Value)),
        plain => plain.serialize(s),
    }
}

fn canonical_map<S: Serializer>(fields: &BTreeMap<String, Value>, s: S) -> Result<S::Ok, S::Error> {
    s.collect_map(
        fields
            .iter()
            .map(|(name, value)| (name, Part::Value(value))),
    )
}

/// Stamps in records: `WALL_MS.COUNT@ORIGIN#SEQ`, a third of the length of their JSON.
mod short_stamp {
    use std::fmt;

    use serde::{Deserializer, Serializer, de};
    use vmsync_config::words::UnixMillis;

    use crate::operation::{Hlc, Stamp};

    struct Reader;

    impl de::Visitor<'_> for Reader {
        type Value = Stamp;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a stamp")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Stamp, E> {
            parse(text).ok_or_else(|| E::custom(format_args!("{text:?} is not a stamp")))
        }
    }

    fn parse(text: &str) -> Option<Stamp> {
        let (at, by) = text.split_once('@')?;
        let (wall, count) = at.split_once('.')?;
        let (origin, seq) = by.split_once('#')?;
        Some(Stamp {
            at: Hlc {
                wall: UnixMillis(wall.parse().ok()?),
                count: count.parse().ok()?,
            },
            origin: origin.parse().ok()?,
            seq: seq.parse().ok()?,
        })
    }

    pub(super) fn serialize<S: Serializer>(stamp: &Stamp, s: S) -> Result<S::Ok, S::Error> {
        let Stamp { at, origin, seq } = stamp;
        s.collect_str(&format_args!("{}.{}@{origin}#{seq}", at.wall.0, at.count))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Stamp, D::Error> {
        d.deserialize_str(Reader)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use vmsync_config::words::UnixMillis;

    use super::*;
    use crate::operation::Hlc;

    #[test]
    fn a_record_reads_back_from_its_canonical_bytes() {
        let stamp = Stamp {
            at: Hlc {
                wall: UnixMillis(1_790_000_000_000),
                count: 3,
            },
            origin: "vmpro1.5f3a9c01".parse().unwrap(),
            seq: 42,
        };
        let mut record = Record {
            deleted: Some(stamp.clone()),
            ..Record::default()
        };
        record.fields.insert(
            "facts".into(),
            Field(
                Json::of(&json!({"z": 1.5, "a": [true, null]})),
                stamp.clone(),
            ),
        );
        record.replaced.raise(&stamp.origin, 41);
        let bytes = record.to_bytes().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            r#"{"c":{"vmpro1.5f3a9c01":41},"d":"1790000000000.3@vmpro1.5f3a9c01#42","f":{"facts":[{"a":[true,null],"z":1.5},"1790000000000.3@vmpro1.5f3a9c01#42"]}}"#
        );
        assert_eq!(Record::from_bytes(&bytes).unwrap(), record);
        assert!(Record::from_bytes(br#"{"d":"yesterday"}"#).is_err());
    }

    #[test]
    fn members_of_a_newer_version_are_kept_in_their_places() {
        let text = br#"{"a":[1],"f":{"x":[1,"5.0@vmpro1.5f3a9c01#1"]},"v":[{"f":{"y":2},"s":"6.0@vmpro1.5f3a9c01#2","t":{"b":null}}],"z":"later"}"#;
        let record = Record::from_bytes(text).unwrap();
        assert_eq!(record.more["z"], "later");
        assert_eq!(record.versions[0].more["t"], json!({"b": null}));
        assert_eq!(record.to_bytes().unwrap(), text);
    }
}
