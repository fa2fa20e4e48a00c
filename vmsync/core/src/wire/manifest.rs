//! The machine part: what is signed. Written and read here, so that both sides hold one set of limits.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    BucketItems, Head, Json, MAX_ATTACHMENTS, MAX_ITEMS, MAX_JSON_DEPTH, MAX_OPERATIONS,
    MAX_RECORD_DEPTH, MAX_RECORDS, MAX_RELEASED, MAX_SKIPS, Mail, Record, SeedStep, Skip,
    WireError, minor,
};

/// The machine part's content type.
pub(super) const CONTENT_TYPE: &str = "application/vnd.vmsync.sync+json";

/// Buckets of a state, each at most once in a mail.
const MAX_BUCKETS: usize = 256;

/// What the machine part says. Fields this version does not know are skipped here at the top,
/// and kept in `head`, `operations`, `record` and `about`. What version 1.1 added is left out when
/// empty, so that a mail without it is what version 1.0 wrote.
#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub(super) head: Head,
    pub(super) operations: Vec<Json>,
    #[serde(default)]
    pub(super) records: Vec<Record>,
    #[serde(default)]
    pub(super) seed: Option<SeedStep>,
    #[serde(default)]
    pub(super) items: Vec<BucketItems>,
    #[serde(default)]
    pub(super) skips: Vec<Skip>,
    #[serde(default)]
    pub(super) release: Vec<String>,
    pub(super) attachments: Vec<Attachment>,
}

/// The same, as it is written.
#[derive(Serialize)]
struct Written<'a> {
    head: &'a Head,
    #[serde(flatten)]
    lists: &'a Lists<'a>,
}

/// All but the head.
#[derive(Serialize)]
struct Lists<'a> {
    operations: &'a [Json],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    records: &'a [Record],
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<&'a SeedStep>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    items: &'a [BucketItems],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    skips: &'a [Skip],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    release: &'a [String],
    attachments: &'a [Attachment],
}

/// One attachment as the manifest names it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Attachment {
    /// Its `Content-ID`, without angle brackets.
    pub(super) content_id: String,
    /// Its description: at least `blob`, `sha256`, `bytes`, `content_type`.
    pub(super) about: Value,
}

/// What the wire format itself needs of an attachment's description.
#[derive(Debug, Deserialize)]
pub(super) struct Essentials {
    pub(super) blob: uuid::Uuid,
    pub(super) sha256: String,
    pub(super) bytes: u64,
    pub(super) content_type: String,
}

/// How the manifest names the audio of `mail`.
pub(super) fn name(mail: &Mail) -> Vec<Attachment> {
    let (id, node) = (mail.head.id, &mail.head.from.node);
    (1..)
        .zip(&mail.audio)
        .map(|(n, audio)| Attachment {
            content_id: format!("audio-{n}.{id}@{node}"),
            about: audio.about().clone(),
        })
        .collect()
}

/// Writes the machine part, proving that [`Manifest::read`] takes it: what a node can't read would
/// be refused for ever and hold up everything behind it.
pub(super) fn write(mail: &Mail, attachments: &[Attachment]) -> Result<Vec<u8>, WireError> {
    let lists = Lists {
        operations: &mail.operations,
        records: &mail.records,
        seed: mail.seed.as_ref(),
        items: &mail.items,
        skips: &mail.skips,
        release: &mail.release,
        attachments,
    };
    // Of what is in the lists everything that can be written can be read; a head can hold a field
    // twice, or a time that has no date.
    let not_read = |e: serde_json::Error| WireError::Malformed(e.to_string());
    let head = serde_json::to_vec(&mail.head).map_err(not_read)?;
    known(&mail.head.version)?;
    serde_json::from_slice::<Head>(&head).map_err(not_read)?;
    let written = Written {
        head: &mail.head,
        lists: &lists,
    };
    let json = serde_json::to_vec(&written).map_err(not_read)?;
    lists.within_limits(depth(&json))?;
    Ok(json)
}

impl Manifest {
    /// Reads the machine part, its signature proved: depth, version, then the rest and its limits.
    pub(super) fn read(json: &[u8]) -> Result<Self, WireError> {
        let depth = depth(json);
        if depth > MAX_RECORD_DEPTH {
            return too_deep(MAX_RECORD_DEPTH);
        }
        let manifest: Self = serde_json::from_slice(json).map_err(|e| {
            // A newer major version may look different everywhere but there.
            let version = check_version(json).err();
            version.unwrap_or_else(|| WireError::Malformed(format!("the manifest: {e}")))
        })?;
        known(&manifest.head.version)?;
        manifest.lists().within_limits(depth)?;
        Ok(manifest)
    }

    fn lists(&self) -> Lists<'_> {
        Lists {
            operations: &self.operations,
            records: &self.records,
            seed: self.seed.as_ref(),
            items: &self.items,
            skips: &self.skips,
            release: &self.release,
            attachments: &self.attachments,
        }
    }
}

impl Lists<'_> {
    /// `depth`: how deep the whole manifest nests.
    fn within_limits(&self, depth: usize) -> Result<(), WireError> {
        let items = self.items.iter().map(|bucket| bucket.items.len()).sum();
        let counts = [
            (self.operations.len(), MAX_OPERATIONS, "operations"),
            (self.records.len(), MAX_RECORDS, "records"),
            (self.items.len(), MAX_BUCKETS, "buckets"),
            (items, MAX_ITEMS, "items"),
            (self.skips.len(), MAX_SKIPS, "skips"),
            (self.release.len(), MAX_RELEASED, "released entities"),
            (self.attachments.len(), MAX_ATTACHMENTS, "attachments"),
        ];
        for (count, most, what) in counts {
            if count > most {
                return malformed(format!("more than {most} {what}"));
            }
        }
        if depth > MAX_RECORD_DEPTH {
            return too_deep(MAX_RECORD_DEPTH);
        }
        // Within the manifest and its list.
        let deep = |operation: &Json| self::depth(operation.text().as_bytes()) > MAX_JSON_DEPTH - 2;
        if depth > MAX_JSON_DEPTH && (self.records.is_empty() || self.operations.iter().any(deep)) {
            return too_deep(MAX_JSON_DEPTH);
        }
        let buckets: BTreeSet<_> = self.items.iter().map(|b| b.bucket).collect();
        if buckets.len() < self.items.len() {
            return malformed("a bucket stands in `items` twice".into());
        }
        let ids: BTreeSet<_> = self.attachments.iter().map(|a| &a.content_id).collect();
        if ids.len() < self.attachments.len() {
            return malformed("two attachments have one Content-ID".into());
        }
        Ok(())
    }
}

impl Attachment {
    pub(super) fn essentials(&self) -> Result<Essentials, WireError> {
        Essentials::deserialize(&self.about)
            .map_err(|e| WireError::Malformed(format!("attachment {}: {e}", self.content_id)))
    }
}

fn malformed<T>(why: String) -> Result<T, WireError> {
    Err(WireError::Malformed(why))
}

fn too_deep<T>(most: usize) -> Result<T, WireError> {
    malformed(format!("the manifest nests deeper than {most}"))
}

/// The version alone, whatever the rest looks like.
fn check_version(json: &[u8]) -> Result<(), WireError> {
    #[derive(Deserialize)]
    struct OnlyHead {
        head: OnlyVersion,
    }
    #[derive(Deserialize)]
    struct OnlyVersion {
        version: String,
    }
    let OnlyHead { head } = serde_json::from_slice(json)
        .map_err(|e| WireError::Malformed(format!("the manifest: {e}")))?;
    known(&head.version)
}

fn known(version: &str) -> Result<(), WireError> {
    if minor(version).is_some() {
        return Ok(());
    }
    let shown = version.chars().filter(char::is_ascii_graphic).take(20);
    Err(WireError::UnknownVersion(shown.collect()))
}

/// How deep objects and arrays nest, brackets in strings not counted.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
