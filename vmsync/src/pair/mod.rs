//! What the two nodes say to each other over HTTP: heartbeats, forwarded requests, confirmations
//! of recordings. Never mailbox data: that goes over SMTP alone (R-SY-1).
//!
//! Every exchange is signed with the pair's key in both directions. A question carries a fresh
//! nonce which the answer repeats, so an old answer can't be played again; an *answer*
//! is a sign of life, and a question that repeats a fresh challenge of an answer. A question that acts ([`ACT`]) also names the life of the process it is
//! meant for, and each nonce is taken once in that life.

mod client;
mod confirm;
mod routes;

pub use client::{PeerClient, PeerError};
pub use routes::router;

use serde::{Deserialize, Serialize};
use vmsync_config::{
    Feature,
    words::{GroupName, NodeId, Origin, SystemName, UnixMillis, Vector},
};
use vmsync_core::{
    features::Told,
    resilience::{Hearing, Order, Ownership},
    rights::Rights,
    wire::Keys,
};

use crate::{
    app::{Guard, Outcome, Refused},
    features::{Ask, FeatureStatus},
    status::TotalsStatus,
};

/// Heartbeat.
pub const HEARTBEAT: &str = "/pair/v1/heartbeat";
/// A request that acts: an operator's request reaching the node that doesn't decide.
pub const ACT: &str = "/pair/v1/act";
/// A failback of a feature that acts, likewise.
pub const FEATURE: &str = "/pair/v1/feature";
/// Asks what the answerer holds beyond a vector: counted, and message ids; no mailbox data.
pub const ONE_SIDED: &str = "/pair/v1/one-sided";
/// Asks whether a recording is here, whole and durable.
pub const CONFIRM: &str = "/pair/v1/vrl/confirm";
/// Header with the signature.
pub const SIGNATURE: &str = "vmsync-signature";
/// Largest question or answer in bytes: room for the vector of a pair that was started tens of
/// thousands of times.
pub const LARGEST: usize = 1024 * 1024;

/// What a node tells of itself in each heartbeat.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Who.
    pub node: NodeId,
    /// Which life of its process.
    pub boot: u64,
    /// Its wall clock.
    pub at: UnixMillis,
    /// Ownership of every group as it knows it.
    pub groups: Vec<Ownership>,
    /// Active calls there, by group.
    pub calls: Vec<(GroupName, u32)>,
    /// What its store holds.
    pub totals: TotalsStatus,
    /// What its store holds durably: origin to sequence.
    pub have: Vector,
    /// The last operation of each origin it knows to have been recorded, held or not. A node that
    /// starts learns from it whether it has forgotten operations of its own. (Empty from an older
    /// release, which knows of those it holds alone.)
    #[serde(default)]
    pub seen: Vector,
    /// False while it does not serve yet.
    pub ready: bool,
    /// `single-active` or `dual-active`, as it is in force there. (None from an older release.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// What it may do (R-FO-8); nothing is said by an older release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rights: Option<Rights>,
    /// How features that ever moved stand there (docs/features.md), at most 1,000. (None from an
    /// older release.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<Told>>,
    /// Whether that node takes over for its peer (R-TO-6). (None from an older release.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backs_up: Option<bool>,
    /// The orders that stand there: group and id ([`vmsync_core::resilience::Order`]). (None from an older
    /// release.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orders: Option<Vec<(GroupName, String)>>,
    /// In an answer: what the asker's next question has to repeat to count as a sign of life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<u64>,
    /// In a question: the challenge of the last answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echo: Option<u64>,
}

impl Report {
    /// What a group's backup knows of its peer's orders from this, its last report, where that was heard
    /// lately; `by_mails` is whether the mails have brought all that it said it holds.
    pub fn hearing(&self, order: &Order, by_mails: bool) -> Hearing {
        let same = match &self.orders {
            Some(stand) => stand
                .iter()
                .any(|(group, id)| *group == order.group && *id == order.id),
            None => by_mails,
        };
        if same { Hearing::Same } else { Hearing::Other }
    }

    /// The last operation of `origin` the peer knows to have been recorded.
    pub fn knows(&self, origin: &Origin) -> u64 {
        self.have.get(origin).max(self.seen.get(origin))
    }
}

/// A question between the nodes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Question<T> {
    /// Fresh for each.
    pub(crate) nonce: uuid::Uuid,
    /// Who asks.
    pub(crate) from: NodeId,
    /// The life of the process it is meant for; needed where it acts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) to_boot: Option<u64>,
    /// What.
    pub(crate) body: T,
}

/// An answer between the nodes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer<T> {
    /// That of the question.
    pub(crate) nonce: uuid::Uuid,
    /// What.
    pub(crate) body: T,
}

/// An operator's request, forwarded.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Act {
    /// Which group.
    pub(crate) group: GroupName,
    /// `activate-backup` or `failback`.
    pub(crate) request: String,
    /// Conditions.
    pub(crate) guard: Guard,
}

/// An administrator's failback of a feature, passed on (docs/features.md).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FeatureAct {
    /// Of which system.
    pub system: SystemName,
    /// `portal`, `dect` or another.
    pub feature: Feature,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Refuse unless this is its epoch at the answerer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_epoch: Option<u64>,
}

impl FeatureAct {
    pub(crate) fn new(system: &SystemName, feature: Feature, ask: Ask) -> Self {
        Self {
            system: system.clone(),
            feature,
            dry_run: ask.dry_run,
            expected_epoch: ask.expected_epoch,
        }
    }
}

/// What came of it.
pub(crate) type FeatureActed = Result<FeatureStatus, Refused>;

/// What came of it.
pub(crate) type Acted = Result<Outcome, Refused>;

/// Which recording to confirm.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ConfirmQuestion {
    /// File name.
    pub(crate) name: String,
    /// Length in bytes.
    pub(crate) bytes: u64,
    /// SHA-256, hex.
    pub(crate) sha256: String,
}

pub(crate) fn sign_question(keys: &Keys, path: &str, bytes: &[u8]) -> String {
    keys.sign(&format!("question:{path}"), bytes)
}
pub(crate) fn question_is_signed(keys: &Keys, path: &str, bytes: &[u8], tag: &str) -> bool {
    keys.verify(&format!("question:{path}"), bytes, tag)
}
pub(crate) fn sign_answer(keys: &Keys, path: &str, bytes: &[u8]) -> String {
    keys.sign(&format!("answer:{path}"), bytes)
}
pub(crate) fn answer_is_signed(keys: &Keys, path: &str, bytes: &[u8], tag: &str) -> bool {
    keys.verify(&format!("answer:{path}"), bytes, tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: &[u8] = include_bytes!("../../tests/data/heartbeat/question.json");
    const ANSWER: &[u8] = include_bytes!("../../tests/data/heartbeat/answer.json");

    fn keys() -> Keys {
        Keys::parse(include_str!("../../core/tests/data/wire/pair.key")).unwrap()
    }

    /// docs/heartbeat.md: kept for other implementations.
    #[test]
    fn the_example_heartbeat_is_what_a_node_writes_and_signs() {
        let question: Question<Report> = serde_json::from_slice(QUESTION).unwrap();
        let answer: Answer<Report> = serde_json::from_slice(ANSWER).unwrap();
        assert_eq!(question.nonce, answer.nonce);
        assert_eq!(answer.body.boot, u64::MAX);
        assert_eq!(serde_json::to_vec(&question).unwrap(), QUESTION);
        assert_eq!(serde_json::to_vec(&answer).unwrap(), ANSWER);
        let signature = include_str!("../../tests/data/heartbeat/question.signature").trim_end();
        assert_eq!(sign_question(&keys(), HEARTBEAT, QUESTION), signature);
        assert!(!answer_is_signed(&keys(), HEARTBEAT, QUESTION, signature));
        let signature = include_str!("../../tests/data/heartbeat/answer.signature").trim_end();
        assert_eq!(sign_answer(&keys(), HEARTBEAT, ANSWER), signature);
    }

    /// A node that only synchronises has nothing to tell of groups and calls.
    #[test]
    fn a_report_may_be_short() {
        let short = r#"{"node":"vmpro2","boot":1,"at":"2026-11-22T08:00:00.257Z","groups":[],"calls":[],
            "totals":{"mailboxes":0,"messages":0,"bytes":0},"have":{},"ready":true,"mood":"a field of a later version"}"#;
        let report: Report = serde_json::from_str(short).unwrap();
        let own = "vmpro1.5f3a9c01".parse().unwrap();
        assert_eq!(report.knows(&own), 0);
    }
}
