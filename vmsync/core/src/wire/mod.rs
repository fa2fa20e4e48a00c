//! The mails between the nodes, and the mails of a PBX.
//!
//! A mail between nodes has a head (version, who, session, vector, digest), operations as JSON,
//! and audio as ordinary attachments. One voice message is one Internet Voice Messaging mail
//! (RFC 4239) that any mail program can play. The machine part is signed with the pair's key and
//! names the SHA-256 of every attachment, so that the signature covers all of it.

//!
//! Reading order: [`encode()`] writes a mail, [`decode()`] reads one back, [`Keys`] signs. The
//! format is told byte for byte in docs/wire-format.md, so that another program can speak it.
//! What is guaranteed: nothing of a mail is interpreted before its signature holds; equal input
//! gives equal bytes; and whatever `encode` returns, a peer with the same key takes.

mod decode;
mod encode;
mod keys;
mod manifest;
pub(crate) mod mime;
mod prose;
mod write;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vmsync_config::words::{NodeId, Origin, UnixMillis, Vector};

pub use self::{decode::decode, encode::encode, keys::Keys};

/// The version this program writes; it reads any `1.x`.
pub const VERSION: &str = "1.0";
/// Local part of the address node mails go to (`vmsync@<peer fqdn>`).
pub const NODE_MAILBOX: &str = "vmsync";
/// Most operations in one mail.
pub const MAX_OPERATIONS: usize = 10_000;
/// Most attachments in one mail.
pub const MAX_ATTACHMENTS: usize = 256;
/// Deepest nesting of objects and arrays in the manifest; an operation's field value begins at depth 7.
pub const MAX_JSON_DEPTH: usize = 64;

/// What the sender says of itself, at the top of the machine part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// `1.0`.
    pub version: String,
    /// Unique id of this mail (also in its Message-ID).
    pub id: Uuid,
    /// Sender's origin now.
    pub from: Origin,
    /// Whom it is for.
    pub to: NodeId,
    /// The sender's session nonce; new whenever it starts or has lost sight of the peer.
    pub session: u64,
    /// The peer's session nonce as last heard; `None` = not heard in this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<u64>,
    /// What the sender holds durably.
    pub have: Vector,
    /// Digest of its state at `have`.
    pub digest: String,
    /// Sender's wall clock.
    pub sent_at: UnixMillis,
    /// Fields of a newer minor version.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

/// One audio file carried by a mail.
#[derive(Debug, Clone, PartialEq)]
pub struct CarriedAudio {
    /// Its description as the store gave it: at least `blob`, `sha256`, `bytes`, `content_type`; plus entity and facts. Opaque here but for those four.
    pub about: serde_json::Value,
    /// The audio itself.
    pub bytes: Bytes,
}

/// A mail between the nodes, decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Mail {
    /// Who, when, what it holds.
    pub head: Head,
    /// Operations, in order per origin; JSON of the store's operations, opaque here. Empty for a hello or status.
    pub operations: Vec<serde_json::Value>,
    /// Audio the operations name.
    pub audio: Vec<CarriedAudio>,
}

/// What a person reads in the mail of a voice message.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Voice {
    /// Mailbox it is for.
    pub mailbox: String,
    /// Caller's number.
    pub caller_number: Option<String>,
    /// Caller's name.
    pub caller_name: Option<String>,
    /// Duration in ms (`Content-Duration` in seconds, RFC 3803).
    pub duration_ms: u64,
    /// `Importance: high`.
    pub urgent: bool,
    /// `Sensitivity: private`.
    pub private: bool,
    /// When the caller spoke.
    pub received_at: Option<UnixMillis>,
}

/// Addresses of a node mail.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// Envelope and header sender (R-SY-3).
    pub from: String,
    /// `vmsync@<peer fqdn>`.
    pub to: String,
}

/// Why a mail that claims to be of the pair is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// No machine part or no signature: 550.
    #[error("the mail is not signed with the pair's key")]
    Unsigned,
    /// Signature of no key of ours: 550, alarm.
    #[error(
        "the mail's signature fits none of the pair's keys; the same key file must be on both nodes"
    )]
    BadSignature,
    /// Written by a newer major version: 451, alarm.
    #[error("the mail has wire version {0}; this node reads 1.x; upgrade this node")]
    UnknownVersion(String),
    /// For another node: 550.
    #[error("the mail is for {to}, not for {me}")]
    WrongNode {
        /// Named in the mail.
        to: String,
        /// This node.
        me: String,
    },
    /// Does not parse; which part and why: 554.
    #[error("malformed node mail: {0}")]
    Malformed(String),
    /// An attachment is missing or its SHA-256 differs: 554.
    #[error("attachment {0} is missing or damaged")]
    Attachment(String),
}

impl WireError {
    /// The SMTP reply's code and enhanced code (RFC 5321 section 4.2, RFC 3463) for this refusal.
    pub fn reply(&self) -> (u16, &'static str) {
        match self {
            Self::Unsigned | Self::BadSignature => (550, "5.7.1"),
            Self::WrongNode { .. } => (550, "5.1.1"),
            // The sender keeps the mail until this node is upgraded.
            Self::UnknownVersion(_) => (451, "4.5.0"),
            Self::Malformed(_) | Self::Attachment(_) => (554, "5.6.0"),
        }
    }

    /// Whether an alarm is due: somebody forges, or the pair's keys or versions differ.
    pub fn alarms(&self) -> bool {
        matches!(
            self,
            Self::Unsigned | Self::BadSignature | Self::UnknownVersion(_)
        )
    }
}
