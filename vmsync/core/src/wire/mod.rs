//! The mails between the nodes, and the mails of a PBX.
//!
//! A mail between nodes has a head (version, who, session, vector, digest), operations or records
//! as JSON, and audio as ordinary attachments. One voice message is one Internet Voice Messaging
//! mail (RFC 4239) that any mail program can play, and a backlog a digest of such mails. The machine
//! part is signed with the pair's key and names the SHA-256 of every attachment, so that the
//! signature covers all of it.
//!
//! Reading order: [`encode()`] writes a mail, [`decode()`] reads one back, [`Keys`] signs;
//! [`Mail`] says what one carries, and [`Form`] for whom it is written. The format is told byte
//! for byte in docs/wire-format.md, so that another program can speak it.
//!
//! What is guaranteed: nothing of a mail is interpreted before its signature holds; equal input
//! gives equal bytes; whatever `encode` returns of audio that is what it is said to be, a peer with
//! the same key and of the version it was written for takes; and each byte of audio is hashed at
//! most once on either side.

mod audio;
mod base64;
mod boundary;
mod decode;
pub(crate) mod encode;
mod json;
mod keys;
mod manifest;
pub(crate) mod mime;
pub(crate) mod part;
pub(crate) mod prose;
mod state;
pub(crate) mod write;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vmsync_config::words::{NodeId, Origin, UnixMillis, Vector};

pub use self::{
    audio::CarriedAudio,
    decode::decode,
    encode::{Form, Transfer, encode},
    json::Json,
    keys::Keys,
    state::{BucketItems, Buckets, Item, Left, Record, SeedStep, Seeding, Skip},
};

/// The version this program writes; it reads any `1.x`.
pub const VERSION: &str = "1.1";
/// Local part of the address node mails go to (`vmsync@<peer fqdn>`).
pub const NODE_MAILBOX: &str = "vmsync";
/// Most operations in one mail.
pub const MAX_OPERATIONS: usize = 10_000;
/// Most attachments in one mail.
pub const MAX_ATTACHMENTS: usize = 256;
/// Most records in one mail.
pub const MAX_RECORDS: usize = 10_000;
/// Most items in one mail, over all its buckets.
pub const MAX_ITEMS: usize = 65_536;
/// Most skipped operations in one mail.
pub const MAX_SKIPS: usize = 1_000;
/// Most released entities in one mail.
pub const MAX_RELEASED: usize = 10_000;
/// Deepest nesting of objects and arrays in the manifest of a mail without records, and of an
/// operation in any.
pub const MAX_JSON_DEPTH: usize = 64;
/// Deepest nesting in the manifest of a mail with records: a record holds the values of operations
/// two levels deeper.
pub const MAX_RECORD_DEPTH: usize = 72;

/// What the sender says of itself, at the top of the machine part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// `1.1`, or what the sender speaks; [`Self::minor`] reads it.
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
    /// What the sender has received of a seeding so far; `None` when none is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeding: Option<Seeding>,
    /// The sums of the sender's state at `have`, to find where it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buckets: Option<Buckets>,
    /// What the sender still has for the addressee.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<Left>,
    /// Number of a probe that the addressee is asked to echo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<u64>,
    /// The last probe heard from the addressee.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echo: Option<u64>,
    /// The sender wants to be told what the addressee holds, whatever it was told before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks: bool,
    /// Fields of a newer minor version.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

impl Head {
    /// The minor version its sender speaks: `1.MINOR`; 0 for a version that is none.
    pub fn minor(&self) -> u32 {
        minor(&self.version).unwrap_or(0)
    }

    /// Whether its sender speaks `1.minor`, so that it may be sent what that version added.
    pub fn speaks(&self, minor: u32) -> bool {
        self.minor() >= minor
    }
}

/// The number after `1.`; `None` for what is no version 1.
fn minor(version: &str) -> Option<u32> {
    let digits = version.strip_prefix("1.")?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// A mail between the nodes, decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Mail {
    /// Who, when, what it holds.
    pub head: Head,
    /// Operations, in order per origin; JSON of the store's operations, opaque here. Empty for a hello or status.
    pub operations: Vec<Json>,
    /// State: what the sender holds of these entities, to be joined.
    pub records: Vec<Record>,
    /// Set when `records` are a step of a seeding.
    pub seed: Option<SeedStep>,
    /// All items of the buckets in which the two states differ.
    pub items: Vec<BucketItems>,
    /// Operations that stay behind: the entity is quarantined, the numbers count as held.
    pub skips: Vec<Skip>,
    /// Entities whose quarantine is over.
    pub release: Vec<String>,
    /// Audio the operations and records name.
    pub audio: Vec<CarriedAudio>,
}

impl Mail {
    /// A mail with `head` and nothing else: a hello or a status.
    pub fn of(head: Head) -> Self {
        Self {
            head,
            operations: Vec::new(),
            records: Vec::new(),
            seed: None,
            items: Vec::new(),
            skips: Vec::new(),
            release: Vec::new(),
            audio: Vec::new(),
        }
    }

    /// Whether it passes on nothing beside its head.
    pub fn is_bare(&self) -> bool {
        self.operations.is_empty() && self.audio.is_empty() && self.since_1_1().is_none()
    }

    /// The first member in it that a node of version 1.0 does not know and would leave out.
    fn since_1_1(&self) -> Option<&'static str> {
        [
            (!self.records.is_empty(), "records"),
            (self.seed.is_some(), "seed"),
            (!self.items.is_empty(), "items"),
            (!self.skips.is_empty(), "skips"),
            (!self.release.is_empty(), "release"),
        ]
        .into_iter()
        .find_map(|(there, name)| there.then_some(name))
    }
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
    /// Only when writing: the addressee is too old for it.
    #[error(
        "the peer speaks wire version 1.{peer} and would leave out `{what}`, which came with {since}"
    )]
    PeerTooOld {
        /// The member of the manifest.
        what: &'static str,
        /// The version that brought it.
        since: &'static str,
        /// The peer's minor version.
        peer: u32,
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
            Self::Malformed(_) | Self::Attachment(_) | Self::PeerTooOld { .. } => (554, "5.6.0"),
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
