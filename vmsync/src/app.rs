//! What the fronts (HTTP, SMTP, heartbeats) share: the store, the node's handle, the event stream.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use utoipa::ToSchema;
use uuid::Uuid;
use vmsync_config::{
    Ack, Config,
    words::{Extension, GroupName, NodeId, UnixMillis, Vector},
};
use vmsync_core::{
    resilience::{Order, Ownership, Request, Serving, What},
    wire::Keys,
};
use vmsync_store::{EntityKey, Stamp, Store, StoreError, model::Message};

use crate::{
    alarms::{Alarms, INDEX_DAMAGED},
    calls::Calls,
    delivery::Board,
    events::EventHub,
    features::{FeatureStatus, Features, PhoneAdvice},
    keys::Tokens,
    node::{Command, OneSided},
    pair::FeatureAct,
    rights::RightsBook,
    smtp::Refusals,
    status::Status,
    topology::{Topology, TopologyCell},
    vrl::{self, VrlHandle, VrlStatus},
};

/// Everything a front needs. Shared as `Arc<App>`.
pub struct App {
    /// The checked configuration.
    pub config: Config,
    /// Mode, systems and groups in force: use [`App::topology`].
    pub topology: TopologyCell,
    /// The node's memory. Blocks: use [`App::store`].
    pub store: Store,
    /// Bearer tokens.
    pub tokens: Tokens,
    /// The pair's keys.
    pub keys: Keys,
    /// Who serves what; operators' requests.
    pub node: NodeHandle,
    /// The event stream.
    pub events: EventHub,
    /// Active calls.
    pub calls: Calls,
    /// Alarms.
    pub alarms: Alarms,
    /// What this node may do.
    pub rights: RightsBook,
    /// The other features of each system.
    pub features: Features,
    /// Recordings; on the secondary, where a remote is configured.
    pub vrl: Option<VrlHandle>,
    /// What is known of recordings beside that: use [`App::recordings`].
    pub vrl_board: vrl::Board,
    /// How delivery to users' e-mail addresses stands.
    pub delivery: Board,
    /// What the SMTP receiver has refused.
    pub smtp_refusals: Arc<Refusals>,
}

impl App {
    /// How recordings stand, what is kept of them included.
    pub fn recordings(&self) -> VrlStatus {
        vrl::board::status(self.vrl.as_ref())
    }

    /// Runs `work` on the store from a blocking thread.
    pub async fn store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.store.clone();
        let result = tokio::task::spawn_blocking(move || work(&store))
            .await
            .unwrap_or_else(|e| {
                Err(StoreError::Io {
                    doing: "running a store operation".to_owned(),
                    source: std::io::Error::other(e),
                })
            });
        if let Err(error @ StoreError::Damaged { .. }) = &result {
            self.damaged(error.to_string()).await;
        }
        result
    }

    /// The node goes on with what can still be read. Its next start looks at all of the index first.
    async fn damaged(&self, error: String) {
        let (store, why) = (self.store.clone(), error.clone());
        let noted = tokio::task::spawn_blocking(move || store.suspect(&why)).await;
        if let Ok(Err(error)) = noted {
            tracing::error!(%error, "that the index is damaged could not be noted");
        }
        let me = self.config.node.id.as_str();
        self.alarms.raise(INDEX_DAMAGED, me, &error);
    }

    /// Before a message that is durable here is acknowledged: with `ack = "both"` waits until the
    /// peer holds it too, or for `ack_limit`. How many nodes hold it then.
    pub async fn acknowledged(&self, message: &Message) -> u8 {
        if let Ack::Both = self.config.pair.ack {
            let limit = self.config.pair.ack_limit;
            self.node.covered(&message.stamp, limit).await;
        }
        self.copies(message.id, &message.stamp)
    }

    /// How many nodes hold the message that began with `stamp` durably, as far as is known: 1 or 2.
    /// One that was skipped counts as passed in the peer's vector, but the peer does not have it:
    /// it is under quarantine, here before the peer was told.
    pub fn copies(&self, id: Uuid, stamp: &Stamp) -> u8 {
        let covered = self.node.covers(stamp);
        let withheld = || self.store.is_quarantined(&EntityKey::Message(id));
        if covered && !withheld() { 2 } else { 1 }
    }

    /// Mode, systems and groups in force.
    pub fn topology(&self) -> Arc<Topology> {
        self.topology.get()
    }

    /// The group that a mailbox of `home_system` belongs to ([`Topology::group_of`]).
    pub fn group_of(&self, home_system: Option<&str>) -> GroupName {
        self.topology().group_of(home_system)
    }

    /// The group of a mailbox, read from the store; the primary's for one that does not exist.
    pub async fn group_of_mailbox(&self, ext: &Extension) -> Result<GroupName, StoreError> {
        if self.topology().groups().len() == 1 {
            return Ok(self.group_of(None));
        }
        let ext = ext.clone();
        let mailbox = self.store(move |s| s.mailbox(&ext)).await?;
        let system = mailbox.and_then(|m| m.home_system);
        Ok(self.group_of(
            system
                .as_ref()
                .map(vmsync_config::words::SystemName::as_str),
        ))
    }
}

/// The node loop as the fronts see it. Cheap to clone.
#[derive(Clone)]
pub struct NodeHandle {
    /// Number of this life of the process.
    pub boot: u64,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) status: watch::Receiver<Arc<Status>>,
    pub(crate) serving: watch::Receiver<Arc<Vec<(GroupName, Serving)>>>,
    pub(crate) calls_changed: Arc<Notify>,
    pub(crate) peer_have: watch::Receiver<Vector>,
    /// The peer's session whose meeting is noted.
    pub(crate) peer_session: watch::Receiver<Option<u64>>,
}

/// Conditions and words of an operator's request.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// Refuse unless this node owns the group now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_owner: Option<String>,
    /// Failback with calls active, or before the policy's conditions hold (R-FB-6).
    #[serde(default)]
    pub force: bool,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Why, in the operator's words; kept in the history. At most 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Not now but then, RFC 3339; at most 30 days ahead. It is void if the group moves before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

/// What came of a request.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Outcome {
    /// The group's ownership after it (or, for a dry run, as it would be).
    pub group: String,
    /// Node that serves it.
    pub owner: String,
    /// Epoch.
    pub epoch: u64,
    /// What happened or would happen, in words.
    pub what: String,
    /// True where nothing was changed.
    pub dry_run: bool,
    /// What a requested failback still waits for; empty when it is done.
    pub waiting_for: Vec<String>,
    /// It will be done later: the order that stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<OrderAnswer>,
    /// Of a dry run: what only one of the nodes holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_sided: Option<OneSidedAnswer>,
}

/// What only one of the nodes holds, as far as the answering node knows.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OneSidedAnswer {
    /// Here and not at the peer.
    pub here: OneSided,
    /// At the peer and not here; none while the peer can't be asked.
    pub there: Option<OneSided>,
}

/// An operator's request for later.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OrderAnswer {
    /// Names it.
    pub id: String,
    /// Which group.
    pub group: String,
    /// `activate-backup`, `failback` or `forced-failback`.
    pub what: String,
    /// Not before, RFC 3339.
    pub at: String,
    /// Not after, RFC 3339.
    pub until: String,
    /// The owner it expects, where one was named.
    pub expected_owner: Option<String>,
    /// The operator's words.
    pub reason: Option<String>,
    /// The epoch it is bound to.
    pub epoch: u64,
    /// The node that took it.
    pub by: String,
}

impl From<Order> for OrderAnswer {
    fn from(o: Order) -> Self {
        let what = match o.what {
            What::ActivateBackup => "activate-backup",
            What::Failback => "failback",
            What::ForcedFailback => "forced-failback",
        };
        Self {
            id: o.id,
            group: o.group.to_string(),
            what: what.to_owned(),
            at: rfc3339(o.at),
            until: rfc3339(o.until),
            expected_owner: o.expected_owner.map(|n| n.to_string()),
            reason: o.reason,
            epoch: o.epoch,
            by: o.by.to_string(),
        }
    }
}

/// Why a request was refused.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// Stable code (`resilience_off`, `sync_not_started`, `stale_expected_owner`, …).
    pub code: String,
    /// In words, with what to do.
    pub reason: String,
}

/// A phone's registration as a PBX reports it (R-FO-1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// The phone's extension, digits.
    pub extension: String,
    /// `desk`, `dect`, `softphone` or `webrtc`.
    pub kind: String,
    /// System it belongs to.
    pub home_system: String,
    /// System it has registered at.
    pub at_system: String,
    /// It is on a call that its home has left it with: it counts, and moves, after that call.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_preserved_call: bool,
    /// It is on a call: it goes home after that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub busy: bool,
    /// It has restarted or logged in anew, rather than refreshed its registration.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restarted: bool,
    /// Where it stands, one of `[[locations]]`; once told it is remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
}

/// A registration as kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SeenPhone {
    /// As reported.
    #[serde(flatten)]
    pub registration: Registration,
    /// When, RFC 3339.
    pub at: String,
    /// Whether it counts as failover evidence for voicemail; and why not.
    pub evidence: String,
    /// Where it may be, for a phone of a configured system.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub advice: Option<PhoneAdvice>,
}

/// The last certificate of equality, kept over restarts (architecture decision 5).
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CertificateAnswer {
    /// When both were last seen equal, RFC 3339; none = never yet.
    pub at: Option<String>,
    /// The digest both had.
    pub digest: Option<String>,
    /// What both held then: origin to sequence.
    pub vector: serde_json::Value,
    /// Whether they are equal now.
    pub equal_now: bool,
    /// What the certificate says nothing of: what was under quarantine then.
    pub left_out: LeftOut,
    /// Audio files this node knew to be missing or damaged on its disk then.
    pub audio_faults: u64,
}

/// Entities under quarantine: left out of the digest of both nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftOut {
    /// How many.
    pub count: u64,
    /// The first 50 of them, `message/UUID` or the like.
    pub entities: Vec<String>,
}

impl NodeHandle {
    /// A handle to whatever answers `commands` and keeps `status` and `serving` up to date: the
    /// node loop, or in a test of a front something simpler.
    pub fn new(
        boot: u64,
        commands: mpsc::Sender<Command>,
        status: watch::Receiver<Arc<Status>>,
        serving: watch::Receiver<Arc<Vec<(GroupName, Serving)>>>,
        calls_changed: Arc<Notify>,
        peer_have: watch::Receiver<Vector>,
        peer_session: watch::Receiver<Option<u64>>,
    ) -> Self {
        Self {
            boot,
            commands,
            status,
            serving,
            calls_changed,
            peer_have,
            peer_session,
        }
    }

    /// Whether what the peer is known to hold covers the operation of `stamp`. It may have been
    /// skipped: see [`App::copies`].
    fn covers(&self, stamp: &Stamp) -> bool {
        self.peer_have.borrow().get(&stamp.origin) >= stamp.seq
    }

    /// Waits until it does, at most for `limit`.
    async fn covered(&self, stamp: &Stamp, limit: Duration) {
        let mut peer_have = self.peer_have.clone();
        let covered = peer_have.wait_for(|have| have.get(&stamp.origin) >= stamp.seq);
        let _ = tokio::time::timeout(limit, covered).await;
    }

    /// The latest status.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status.borrow())
    }
    /// Waits while the nodes exchange what one of them lacks, for at most `patience`: for work that
    /// anything else goes before.
    pub(crate) async fn calm(&self, patience: Duration) {
        let mut status = self.watch();
        let calm = |s: &Arc<Status>| {
            let directions = [&s.sync.out, &s.sync.incoming];
            directions.iter().all(|d| d.pending_ops == 0)
        };
        // Out of patience, or stopping: either way it is not worth waiting for.
        let _ = tokio::time::timeout(patience, status.wait_for(calm)).await;
    }
    /// Follows the status.
    pub fn watch(&self) -> watch::Receiver<Arc<Status>> {
        self.status.clone()
    }
    /// Whether this node answers for `group` now.
    pub fn serving(&self, group: &GroupName) -> Serving {
        let table = self.serving.borrow();
        table
            .iter()
            .find(|(g, _)| g == group)
            .map_or(Serving::Starting, |(_, s)| s.clone())
    }
    /// What wakes the loop when calls begin or end; for the registry of calls.
    pub fn calls_notify(&self) -> Arc<Notify> {
        Arc::clone(&self.calls_changed)
    }
    /// Tells the loop that calls began or ended.
    pub fn calls_changed(&self) {
        self.calls_changed.notify_one();
    }
    /// An operator's request; forwarded to the node that decides where that is the peer.
    pub async fn request(
        &self,
        group: GroupName,
        request: Request,
        guard: Guard,
    ) -> Result<Outcome, Refused> {
        self.ask(|answer| Command::Request {
            group,
            request,
            guard,
            forwarded: false,
            answer,
        })
        .await
        .unwrap_or_else(|| Err(stopping()))
    }
    /// What only one of the nodes holds.
    pub async fn one_sided(&self) -> Option<OneSidedAnswer> {
        self.ask(|answer| Command::OneSided { answer }).await
    }
    /// Cancels the order of `group`; `None` when there is none.
    pub async fn cancel(&self, group: GroupName) -> Result<Option<OrderAnswer>, Refused> {
        self.ask(|answer| Command::Cancel { group, answer })
            .await
            .unwrap_or_else(|| Err(stopping()))
    }
    /// Every transition of `group`, oldest first.
    pub async fn history(&self, group: GroupName) -> Vec<Ownership> {
        self.ask(|answer| Command::History { group, answer })
            .await
            .unwrap_or_default()
    }
    /// A phone has registered somewhere.
    pub async fn phone(&self, registration: Registration) -> Result<SeenPhone, Refused> {
        self.ask(|answer| Command::Phone {
            registration,
            answer,
        })
        .await
        .unwrap_or_else(|| Err(stopping()))
    }
    /// Phones seen before number `before`, newest first, at most `most`, with their numbers.
    pub async fn phones(&self, before: Option<u64>, most: usize) -> Vec<(u64, SeenPhone)> {
        self.ask(|answer| Command::Phones {
            before,
            most,
            answer,
        })
        .await
        .unwrap_or_default()
    }
    /// Has the peer carry out an administrator's failback of a feature.
    pub(crate) async fn pass_on(&self, act: FeatureAct) -> Result<FeatureStatus, Refused> {
        self.ask(|answer| Command::PassOn { act, answer })
            .await
            .unwrap_or_else(|| Err(stopping()))
    }
    /// Starts the exchange of what both hold anew.
    pub async fn resync(&self) {
        let _ = self.ask(|answer| Command::Resync { answer }).await;
    }
    /// What housekeeping waits for; with `run` it is done as soon as that is over.
    pub async fn housekeeping(&self, run: bool) -> Option<Vec<String>> {
        self.ask(|answer| Command::Housekeeping { run, answer })
            .await
    }
    /// Has all audio files read now, little by little.
    pub async fn check_audio(&self) {
        let _ = self.ask(|answer| Command::CheckAudio { answer }).await;
    }
    /// The last certificate.
    pub async fn certificate(&self) -> Option<CertificateAnswer> {
        self.ask(|answer| Command::Certificate { answer }).await
    }

    pub(crate) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.ok()?;
        answered.await.ok()
    }
}

fn stopping() -> Refused {
    Refused {
        code: "stopping".to_owned(),
        reason: "the node is stopping; ask the other one".to_owned(),
    }
}

/// Formats a time for status documents.
pub fn rfc3339(t: UnixMillis) -> String {
    t.to_string()
}

/// The other node's id in a pair configuration.
pub fn peer_of<'a>(config: &'a Config, node: &NodeId) -> &'a NodeId {
    if *node == config.node.id {
        &config.pair.peer_id
    } else {
        &config.node.id
    }
}
