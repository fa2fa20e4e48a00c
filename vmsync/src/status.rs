//! What `GET /api/v1/status` answers: everything an operator wants to know, in one document.
//! Names are fixed by outside tests; add to them freely.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::OrderAnswer;

/// The whole status of one node.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// This node.
    pub node: NodeStatus,
    /// `single-active` or `dual-active`.
    pub mode: String,
    /// The other node as seen from here.
    pub peer: PeerStatus,
    /// Every service group.
    pub groups: Vec<GroupStatus>,
    /// Both directions of synchronisation.
    pub sync: SyncStatus,
    /// Every configured system with its link's colour (R-AL-2).
    #[schema(value_type = Vec<LinkStatus>)]
    pub links: Arc<Vec<LinkStatus>>,
    /// Maintenance mode, while it is on: automatic decisions pause.
    #[serde(default)]
    pub maintenance: Option<MaintenanceStatus>,
    /// The witness, where one is configured.
    #[serde(default)]
    pub witness: Option<WitnessStatus>,
    /// Active calls on this node.
    pub calls: u32,
    /// What the store holds.
    pub totals: TotalsStatus,
    /// Recordings.
    pub vrl: VrlSummary,
    /// Messages to users' e-mail addresses.
    #[serde(default)]
    pub email: EmailSummary,
    /// What this node may do, and by whose right (R-FO-8).
    #[serde(default)]
    pub rights: crate::rights::RightsStatus,
    /// Alarms that are not cleared.
    pub alarms: u32,
}

/// This node.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// Short id.
    pub id: String,
    /// Fully qualified domain name.
    pub fqdn: String,
    /// `primary` or `secondary`.
    pub role: String,
    /// Life of its store, 8 hexadecimal digits.
    pub incarnation: String,
    /// Voicemail type as the reference shows it: `local` where it serves, else `centralized` (R-TO-4).
    pub voicemail_type: String,
    /// Address of the backup as the reference shows it (R-TO-4).
    pub backup_address: Option<String>,
    /// Program version.
    pub version: String,
    /// When the process started, RFC 3339.
    pub started_at: String,
    /// False while it asks its peer before it serves.
    pub ready: bool,
}

/// The other node.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PeerStatus {
    /// Its id.
    pub id: String,
    /// Its FQDN.
    pub fqdn: String,
    /// Its HTTP address, for links.
    pub url: String,
    /// It gave any sign of life within `pair.invisible_after`.
    pub visible: bool,
    /// Which ones.
    #[serde(default)]
    pub signs: SignsStatus,
    /// Since when it is visible or invisible, RFC 3339.
    pub since: String,
    /// Last answered heartbeat, RFC 3339.
    pub last_seen: Option<String>,
    /// Why it does not answer heartbeats, in words.
    pub reason: Option<String>,
    /// Active calls there.
    pub calls: Option<u32>,
    /// What its store held at the last heartbeat.
    pub totals: Option<TotalsStatus>,
}

/// A service group.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct GroupStatus {
    /// Name.
    pub name: String,
    /// Home node.
    pub home: String,
    /// Backup node.
    pub backup: String,
    /// The node that serves it.
    pub owner: String,
    /// `normal`, `pending`, `resilience` or `returning`.
    pub phase: String,
    /// Raised by each failover and failback.
    pub epoch: u64,
    /// Since when, RFC 3339.
    pub since: String,
    /// Why.
    pub reason: String,
    /// Whether this node answers for it now: `yes`, `partition`, `no`, `starting` or `isolated`.
    pub serving_here: String,
    /// Why the other node may be answering callers of this group as well, so that what both take has
    /// to be merged; none = only one answers.
    #[serde(default)]
    pub both_may_serve: Option<String>,
    /// What failback does and waits for.
    pub failback: FailbackStatus,
    /// When the next thing it waits for is so by time alone, RFC 3339: `failover_after`, `stable_for`,
    /// the hold-off, the timeout, the end of maintenance mode.
    #[serde(default)]
    pub waiting_until: Option<String>,
    /// Active calls of this group on the owner.
    pub calls: u32,
    /// Registrations of desk phones refused as evidence because the home was visible (R-FO-5).
    pub phones_refused: u32,
    /// Desk phones that count as evidence now (R-FO-1).
    #[serde(default)]
    pub phones_counted: u32,
    /// Flap damping at work.
    #[serde(default)]
    pub hold_off: Option<HoldOffStatus>,
    /// An operator's request for later.
    #[serde(default)]
    pub scheduled: Option<OrderAnswer>,
}

/// Signs of life of the peer that are fresh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignsStatus {
    /// It answers our heartbeats.
    pub answers: bool,
    /// Its own heartbeats come to us.
    pub questions: bool,
    /// Its SMTP receiver greets.
    pub greeting: bool,
}

/// The home was lost again and again: the way back is held off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HoldOffStatus {
    /// Failovers without an operator within the last hour.
    pub failovers: u32,
    /// When the home has been visible for long enough, RFC 3339.
    pub until: Option<String>,
}

/// Maintenance mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MaintenanceStatus {
    /// Since when, RFC 3339.
    pub since: String,
    /// It ends by itself then, RFC 3339; none: when an operator ends it.
    pub until: Option<String>,
    /// The operator's words.
    pub reason: String,
    /// The node where it was begun.
    pub by: String,
}

/// The witness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WitnessStatus {
    /// Its address.
    pub url: String,
    /// Whether it is seen from here.
    pub seen: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// Failback of a group.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FailbackStatus {
    /// `manual`, `graceful` or `automatic`.
    pub policy: String,
    /// 1 to 60.
    pub timeout_minutes: u32,
    /// When the automatic policy fails back at the latest, RFC 3339.
    pub deadline: Option<String>,
    /// What it waits for, in words; empty in normal operation.
    pub waiting_for: Vec<String>,
}

/// Synchronisation, both directions.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SyncStatus {
    /// From here to the peer.
    pub out: DirectionStatus,
    /// From the peer to here.
    #[serde(rename = "in")]
    pub incoming: DirectionStatus,
    /// This store's digest.
    pub digest: String,
    /// The peer's digest as last told.
    pub peer_digest: Option<String>,
    /// Vectors equal, digests not: an alarm; it is being repaired.
    pub diverged: bool,
    /// Messages that only this node holds, as far as it knows: with the peer away, beyond what it held last.
    #[serde(default)]
    pub single_copies: u64,
    /// Entities about which an operation could not be sent or taken.
    #[serde(default)]
    pub quarantined: u64,
    /// Audio files missing or damaged on this node's disk, as far as found.
    #[serde(default)]
    pub audio_faults: u64,
    /// Probes mailed to the peer and back.
    #[serde(default)]
    pub probe: ProbeStatus,
}

/// How the probes fare that each node mails the other (end to end: packing, TLS, SMTP, the other's
/// mailroom and loop).
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ProbeStatus {
    /// How long ago the last probe that came back was sent, milliseconds; none = none has yet.
    pub out_age_ms: Option<u64>,
    /// How long that one took, there and back, milliseconds.
    pub round_trip_ms: Option<u64>,
    /// How long ago the peer's last probe came, milliseconds.
    pub in_age_ms: Option<u64>,
}

/// One direction.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DirectionStatus {
    /// `idle`, `started`, `syncing`, `finished` or `stalled` (R-SY-5).
    pub state: String,
    /// Operations left.
    pub pending_ops: u64,
    /// Bytes left, audio included.
    pub pending_bytes: u64,
    /// A seeding (state in place of operations) under way has come to this entity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeding: Option<String>,
    /// Time since it was last finished; 0 while finished.
    pub lag_ms: u64,
    /// Estimated seconds left.
    pub eta_s: Option<u64>,
    /// Why it is stalled.
    pub reason: Option<String>,
    /// Since when it is in this state, RFC 3339.
    pub since: Option<String>,
}

/// A system's link.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LinkStatus {
    /// The system.
    pub system: String,
    /// `red`, `light-green`, `white`, `yellow`, `orange` or `dark-green` (R-AL-2).
    pub colour: String,
    /// The colour's meaning in words.
    pub meaning: String,
    /// Its voicemail destination, `99999` or `99998`.
    pub destination: String,
}

/// Totals of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TotalsStatus {
    /// Mailboxes.
    pub mailboxes: u64,
    /// Messages.
    pub messages: u64,
    /// Audio bytes.
    pub bytes: u64,
}

/// Delivery to users' e-mail addresses in short; `GET /email` tells it by entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EmailSummary {
    /// Messages that wait to be mailed.
    pub pending: u64,
    /// Messages that will not be, since this node was started.
    pub failed: u64,
}

/// Recordings in short.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct VrlSummary {
    /// `off`, `waiting`, `transferring`, `done` or `failed`.
    pub state: String,
    /// Files to move.
    pub files_pending: u64,
    /// Bytes to move.
    pub bytes_pending: u64,
    /// Files moved since start.
    pub files_done: u64,
    /// Recordings on their way now.
    #[serde(default)]
    pub on_the_way: u64,
    /// Bytes a second over the last seconds.
    #[serde(default)]
    pub rate: u64,
    /// Seconds left at that rate; null when nothing moves.
    #[serde(default)]
    pub eta_s: Option<u64>,
    /// Seconds since something was achieved while recordings wait and may move; null where nothing is to do, or must wait.
    #[serde(default)]
    pub stalled_s: Option<u64>,
    /// The last error in words.
    pub last_error: Option<String>,
}
