//! How far the move of recordings is, for `GET /api/v1/vrl` and the console (R-VR-4).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::archive::ArchiveStatus;

/// What the mover is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VrlState {
    /// No remote is configured: recordings stay here.
    #[default]
    Off,
    /// Recordings are here and must wait; `why` says for what.
    Waiting,
    /// One is on its way.
    Transferring,
    /// Nothing is left to move.
    Done,
    /// The last try failed; it is tried again.
    Failed,
}

impl VrlState {
    /// All there are.
    pub const ALL: [Self; 5] = [
        Self::Off,
        Self::Waiting,
        Self::Transferring,
        Self::Done,
        Self::Failed,
    ];

    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Waiting => "waiting",
            Self::Transferring => "transferring",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// The recording on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Current {
    /// Its name here.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Bytes of it handed to the network.
    pub sent: u64,
}

/// How far the move is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct VrlStatus {
    /// What is going on.
    pub state: VrlState,
    /// Why, in words.
    pub why: String,
    /// Recordings to move, the one on its way included.
    pub files_pending: u64,
    /// Their bytes not yet sent.
    pub bytes_pending: u64,
    /// Recordings moved since start.
    pub files_done: u64,
    /// Their bytes.
    pub bytes_done: u64,
    /// The first of those on their way.
    pub current: Option<Current>,
    /// All that are on their way, one a connection.
    #[serde(default)]
    pub on_the_way: Vec<Current>,
    /// Seconds since something was achieved (a byte sent, a recording confirmed) while recordings
    /// wait and may move; `None` where nothing is to do, or must wait.
    #[serde(default)]
    pub stalled_s: Option<u64>,
    /// Bytes a second over the last seconds.
    pub rate: u64,
    /// Seconds left at that rate; `None` when nothing moves.
    pub eta_s: Option<u64>,
    /// The last failure, until the next success.
    pub last_error: Option<String>,
    /// Files in the folder that can't be moved, with the reason.
    pub unfit: Vec<String>,
    /// What is kept of recordings that were moved; null where nothing is (`[vrl.archive]`).
    #[serde(default)]
    pub archive: Option<ArchiveStatus>,
    /// Files put into the folder while this node may not record (R-VR-3): they stay, and move once it may. At
    /// most 100 of them.
    #[serde(default)]
    pub refused: Vec<String>,
}
