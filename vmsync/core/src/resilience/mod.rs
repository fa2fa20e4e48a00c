//! Who serves a group: the resilience machine (R-FO, R-FB) as a table of rows.

use serde::{Deserialize, Serialize};
use vmsync_config::{FailbackPolicy, Group, Trigger, words::{GroupName, NodeId, Now, UnixMillis}};

/// Who owns a group; durable on both nodes (architecture decision 2). The higher epoch wins when nodes meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    /// Which group.
    pub group: GroupName,
    /// Raised by each failover and failback; only grows.
    pub epoch: u64,
    /// The node that serves.
    pub owner: NodeId,
    /// Since when.
    pub since: UnixMillis,
    /// The *because* of the row that led here, or the operator's reason.
    pub reason: String,
}

/// Where a group stands, derived from ownership and what is seen now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Home serves and is visible.
    Normal,
    /// Home serves but is invisible: inside the timer or waiting for a phone.
    Pending,
    /// Backup serves, home invisible.
    Resilience,
    /// Backup serves, home visible: waiting for what failback needs.
    Returning,
}

/// What one node knows when it decides about one group.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// This node.
    pub me: NodeId,
    /// Since when the peer is visible (`Ok`) or invisible (`Err`), monotonic.
    pub peer: Result<std::time::Duration, std::time::Duration>,
    /// Desk phones of the home seen registering at the backup while the home was invisible, after the timer.
    pub desk_phones: u32,
    /// Both have exchanged what they hold since the home became visible (R-FB-1).
    pub sync_started: bool,
    /// Equal vectors and digests (R-FB-3).
    pub sync_finished: bool,
    /// Active calls of this group on the backup.
    pub calls: u32,
}

/// Rules in force for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// R-TO-6.
    pub backs_up_voicemail: bool,
    /// R-FO-1, R-FO-2.
    pub trigger: Trigger,
    /// R-FO-1.
    pub failover_after: std::time::Duration,
    /// R-FB-2 to R-FB-4.
    pub policy: FailbackPolicy,
    /// R-FB-5; capped at 60 min here too.
    pub timeout: std::time::Duration,
    /// R-FB-7.
    pub stable_for: std::time::Duration,
}

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// *Activate Backup Server* (R-FO-4).
    ActivateBackup,
    /// Failback; `force` with calls still active (R-FB-6).
    Failback {
        /// With calls active, or before the policy's conditions are met; R-FB-1 still holds.
        force: bool,
    },
}
