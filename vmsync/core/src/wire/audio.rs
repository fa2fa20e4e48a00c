//! Audio that travels with a mail, and whether it was proved to be what its description says.

use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{WireError, manifest::Essentials};

/// One audio file carried by a mail.
///
/// Bytes and description can't be changed once they are together, so that a proof made of them
/// stays true: what [`decode`](super::decode()) returns was hashed once and need not be hashed
/// again by who keeps it.
#[derive(Debug, Clone)]
pub struct CarriedAudio {
    about: Value,
    bytes: Bytes,
    proved: bool,
}

impl CarriedAudio {
    /// Audio as read from a disk or made: [`encode`](super::encode()) hashes it.
    ///
    /// `about` is its description as the store gave it: at least `blob`, `sha256`, `bytes` and
    /// `content_type`, plus entity and facts; opaque here but for those four.
    pub fn new(about: Value, bytes: impl Into<Bytes>) -> Self {
        Self {
            about,
            bytes: bytes.into(),
            proved: false,
        }
    }

    /// Audio whose bytes the caller has itself just hashed and compared with `about`'s `sha256`:
    /// [`encode`](super::encode()) does not hash it again.
    pub fn vouched(about: Value, bytes: impl Into<Bytes>) -> Self {
        Self {
            proved: true,
            ..Self::new(about, bytes)
        }
    }

    /// Its description.
    pub fn about(&self) -> &Value {
        &self.about
    }

    /// The audio itself.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether the bytes are known to have the length and SHA-256 that `about` names: always so
    /// for audio from [`decode`](super::decode()).
    pub fn is_proved(&self) -> bool {
        self.proved
    }

    /// Whether it is what `essentials` say; hashed only where that was not proved before.
    pub(super) fn check(&self, essentials: &Essentials) -> Result<(), WireError> {
        let holds = essentials.bytes == self.bytes.len() as u64
            && (self.proved || essentials.sha256 == hex::encode(Sha256::digest(&self.bytes)));
        if holds {
            Ok(())
        } else {
            Err(WireError::Attachment(essentials.blob.to_string()))
        }
    }

    /// The same, and kept as a proof.
    pub(super) fn prove(self, essentials: &Essentials) -> Result<Self, WireError> {
        self.check(essentials)?;
        Ok(Self {
            proved: true,
            ..self
        })
    }
}

/// Equal when they carry the same; a proof adds nothing.
impl PartialEq for CarriedAudio {
    fn eq(&self, other: &Self) -> bool {
        self.about == other.about && self.bytes == other.bytes
    }
}
