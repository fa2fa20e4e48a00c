//! The machine part: what is signed. Written and read here, so that both sides hold one set of limits.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Head, MAX_ATTACHMENTS, MAX_JSON_DEPTH, MAX_OPERATIONS, Mail, WireError};

/// The machine part's content type.
pub(super) const CONTENT_TYPE: &str = "application/vnd.vmsync.sync+json";

/// What the machine part says. Fields this version does not know are skipped here at the top,
/// and kept in `head`, `operations` and `about`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) head: Head,
    pub(super) operations: Vec<Value>,
    pub(super) attachments: Vec<Attachment>,
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

impl Manifest {
    pub(super) fn of(mail: &Mail) -> Self {
        let id = mail.head.id;
        Self {
            head: mail.head.clone(),
            operations: mail.operations.clone(),
            attachments: (1..)
                .zip(&mail.audio)
                .map(|(n, audio)| Attachment {
                    content_id: format!("audio-{n}.{id}@{}", mail.head.from.node),
                    about: audio.about.clone(),
                })
                .collect(),
        }
    }

    /// Writes it, proving that [`Manifest::read`] takes it: what a node can't read would be
    /// refused for ever and hold up everything behind it.
    pub(super) fn write(&self) -> Result<Vec<u8>, WireError> {
        let json = serde_json::to_vec(self).map_err(|e| WireError::Malformed(e.to_string()))?;
        Self::read(&json)?;
        Ok(json)
    }

    /// Reads the machine part, its signature proved: version first, then limits, then the rest.
    pub(super) fn read(json: &[u8]) -> Result<Self, WireError> {
        if depth(json) > MAX_JSON_DEPTH {
            return malformed(format!("the manifest nests deeper than {MAX_JSON_DEPTH}"));
        }
        check_version(json)?;
        let manifest: Self = serde_json::from_slice(json)
            .map_err(|e| WireError::Malformed(format!("the manifest: {e}")))?;
        if manifest.operations.len() > MAX_OPERATIONS {
            return malformed(format!("more than {MAX_OPERATIONS} operations"));
        }
        if manifest.attachments.len() > MAX_ATTACHMENTS {
            return malformed(format!("more than {MAX_ATTACHMENTS} attachments"));
        }
        let ids: BTreeSet<_> = manifest.attachments.iter().map(|a| &a.content_id).collect();
        if ids.len() < manifest.attachments.len() {
            return malformed("two attachments have one Content-ID".into());
        }
        Ok(manifest)
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

/// A newer major version may look different everywhere but here.
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
    let known = head
        .version
        .split_once('.')
        .is_some_and(|(major, minor)| major == "1" && minor.parse::<u32>().is_ok());
    if known {
        return Ok(());
    }
    let shown = head.version.chars().filter(char::is_ascii_graphic).take(20);
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
