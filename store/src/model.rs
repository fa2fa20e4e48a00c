//! Typed views of what the store holds: what a mailbox, a message, a greeting *is* (R-MB).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vmsync_config::words::{EmailMode, Extension, NodeId, SystemName, UnixMillis};

use crate::operation::{AudioRef, GreetingKind, Stamp};

/// A mailbox (R-MB-1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mailbox {
    /// Digits.
    pub extension: Extension,
    /// Name of the user or hunt group.
    pub name: String,
    /// The system it belongs to, where known.
    pub home_system: Option<SystemName>,
    /// Address for e-mail delivery and for R-SY-3.
    pub email: Option<String>,
    /// What happens to new messages by e-mail (R-MB-11).
    #[serde(default, skip_serializing_if = "EmailMode::is_off")]
    pub email_mode: EmailMode,
    /// Nothing new is accepted while false (R-MB-2).
    pub enabled: bool,
    /// Most messages kept; `None` = no limit.
    pub max_messages: Option<u32>,
    /// Whether a PIN is set; the hash itself never leaves the store but by replication.
    pub has_pin: bool,
    /// Deleted, but messages the deletion had not seen keep it visible.
    pub deleted: bool,
    /// Messages by state, and their audio bytes.
    pub counts: Counts,
    /// Greetings set.
    pub greetings: Vec<GreetingKind>,
}

/// Messages of a mailbox by state (R-MB-3, R-MB-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Neither header nor body played.
    pub new: u64,
    /// Header played only.
    pub unopened: u64,
    /// Played.
    pub old: u64,
    /// Kept by the user.
    pub saved: u64,
    /// Recoverable until housekeeping takes them.
    pub deleted: u64,
    /// Audio bytes of all of them.
    pub bytes: u64,
}

/// State of a message (R-MB-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageState {
    /// Neither header nor body played.
    New,
    /// Header played only.
    Unopened,
    /// Played.
    Old,
    /// Kept by the user.
    Saved,
    /// Recoverable until housekeeping takes it.
    Deleted,
}

impl MessageState {
    /// All states, in the order in which a message goes through them.
    pub const ALL: [Self; 5] = [
        Self::New,
        Self::Unopened,
        Self::Old,
        Self::Saved,
        Self::Deleted,
    ];
}

/// A voice message (R-MB-5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Its id, the same on both nodes.
    pub id: Uuid,
    /// Whose.
    pub mailbox: Extension,
    /// Now in this state.
    pub state: MessageState,
    /// Facts given when it came in.
    #[serde(flatten)]
    pub facts: MessageFacts,
    /// The audio.
    pub audio: AudioRef,
    /// When and where the message entered the pair.
    pub stamp: Stamp,
    /// When a mail server took it for the mailbox's e-mail address (R-MB-5); `None` = not yet, or
    /// not to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emailed: Option<UnixMillis>,
    /// Why it will not be e-mailed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email_failed: Option<EmailFailed>,
}

/// That a message could not be e-mailed, for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmailFailed {
    /// When that was settled.
    pub at: UnixMillis,
    /// For which address.
    pub to: String,
    /// In the mail server's own words, where it said any.
    pub why: String,
}

/// What is known of a message besides its audio; every field may be missing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct MessageFacts {
    /// Caller's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller_number: Option<String>,
    /// Caller's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller_name: Option<String>,
    /// Number that was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub called_number: Option<String>,
    /// When the caller spoke; time of arrival where the source did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_at: Option<UnixMillis>,
    /// Urgent.
    #[serde(default)]
    pub urgent: bool,
    /// Private: must not be forwarded.
    #[serde(default)]
    pub private: bool,
    /// The node that took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_by: Option<NodeId>,
    /// Key that makes a repeated deposit the same message: Message-ID, Idempotency-Key, `msg_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_id: Option<String>,
}

/// A greeting as set (R-MB-7).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Greeting {
    /// Which.
    pub kind: GreetingKind,
    /// The audio.
    pub audio: AudioRef,
    /// End of a temporary greeting.
    pub until: Option<UnixMillis>,
    /// Who set it and when.
    pub stamp: Stamp,
    /// Versions that lost a conflict, newest first; retrievable by their blob id (R-SY-6).
    pub conflicts: Vec<AudioRef>,
}

/// A call flow as replicated: its source text (R-CF-5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// Name.
    pub name: String,
    /// TOML source.
    pub source: String,
    /// Who made it live and when.
    pub stamp: Stamp,
    /// Sources that lost a conflict, newest first (R-CF-6).
    pub conflicts: Vec<String>,
}

/// Totals over all mailboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Mailboxes that are not deleted.
    pub mailboxes: u64,
    /// Messages in any state.
    pub messages: u64,
    /// Audio bytes.
    pub bytes: u64,
}

/// Changes to a mailbox: only the fields given are set.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailboxPatch {
    /// Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// E-mail; empty text removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// What happens to new messages by e-mail. Those that are there already are not mailed, except
    /// for those that wait to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email_mode: Option<EmailMode>,
    /// Home system; empty text removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home_system: Option<String>,
    /// Enabled or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Most messages; 0 removes the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_messages: Option<u32>,
    /// New PIN, 4 to 15 digits; stored as an Argon2id hash; empty text removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<String>,
}

/// One page of a list and where the next begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Hand this back as `cursor` for the next page; `None` at the end.
    pub next: Option<String>,
}

/// Replicated settings by name (`failback.policy`, …) with the stamp of their last change.
pub type Settings = BTreeMap<String, (serde_json::Value, Stamp)>;
