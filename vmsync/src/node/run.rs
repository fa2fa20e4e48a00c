//! The loop: what comes in, what is decided, what follows.

use std::{sync::Arc, time::Duration};

use rand::Rng;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use vmsync_config::{
    Failback, Mode, Role,
    words::{NodeId, Now},
};
use vmsync_core::{
    resilience::{Ownership, Phase, Rules, Serving, Startup, serves},
    sync::{Event as SyncEvent, Plan, Session},
};
use vmsync_store::StoreError;

use super::{
    Command, Seat,
    groups::{self, GroupState, Seen},
    outbox::{self, Outbox, Sent},
    peer::{Beat, Heartbeat, Peer},
    phones::Phones,
    publish::{self, Progress},
    watch_store,
};
use crate::{
    app::{App, CertificateAnswer, Outcome, Refused},
    clock, http,
    pair::{PeerClient, Report},
};

/// The loop looks at everything at least this often, whatever it was told.
const TICK: Duration = Duration::from_secs(1);
const DIVERGED: &str = "both nodes hold the same operations but not the same state; keep both data folders and report it";

/// The node loop's state. Made by [`Node::load`], consumed by [`Node::run`].
pub struct Node {
    pub(super) app: Arc<App>,
    pub(super) seat: Seat,
    pub(super) client: PeerClient,
    pub(super) groups: Vec<GroupState>,
    pub(super) peer: Peer,
    pub(super) session: Session,
    pub(super) phones: Phones,
    pub(super) failback: Failback,
    pub(super) progress: Progress,
    pub(super) started_at: Now,
    startup: Startup,
    waiting: Waiting,
    tls: Option<Arc<rustls::ClientConfig>>,
}

/// What is to be done once the decisions of this turn are durable.
#[derive(Default)]
struct Waiting {
    answers: Vec<(
        oneshot::Sender<Result<Outcome, Refused>>,
        Result<Outcome, Refused>,
    )>,
    heartbeats: Vec<oneshot::Sender<Report>>,
}

/// What woke the loop.
enum Input {
    Command(Command),
    Beat(Beat),
    Sent(Sent),
    Tick,
    Stop,
}

/// The loop's helpers: their channels.
struct Lines {
    beats: mpsc::Receiver<Beat>,
    sent: mpsc::Receiver<Sent>,
    plans: mpsc::Sender<Plan>,
    report: watch::Sender<Arc<Report>>,
    poke: Arc<Notify>,
    committed: Arc<Notify>,
}

impl Node {
    /// Reads what the node knew last.
    pub async fn load(
        app: Arc<App>,
        seat: Seat,
        client: PeerClient,
        tls: Option<Arc<rustls::ClientConfig>>,
    ) -> Result<Self, String> {
        let now = clock::now();
        let loaded = Arc::clone(&app);
        let (groups, failback) = app
            .store(move |store| {
                let config = &loaded.config;
                let groups = config.groups().into_iter();
                let groups = groups.map(|g| GroupState::load(store, config, g, now));
                let groups = groups.collect::<Result<Vec<_>, _>>()?;
                Ok((
                    groups,
                    http::effective_failback(&config.failback, &store.settings()?),
                ))
            })
            .await
            .map_err(|e| e.to_string())?;
        let mut random = rand::rng();
        let session = Session::new(app.store.origin(), nonce(), random.random());
        Ok(Self {
            peer: Peer::new(app.config.pair.invisible_after, now),
            startup: Startup::new(now.mono, app.config.pair.startup_grace),
            session,
            groups,
            failback,
            phones: Phones::default(),
            progress: Progress::default(),
            started_at: now,
            waiting: Waiting::default(),
            app,
            seat,
            client,
            tls,
        })
    }

    /// Runs until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut lines = match self.lines(&stop) {
            Ok(lines) => lines,
            Err(error) => {
                tracing::error!(%error, "the node loop can't start");
                return;
            }
        };
        self.refresh_store(clock::now()).await;
        loop {
            self.turn(&lines).await;
            match self.next(&mut lines, &stop).await {
                Input::Stop => return,
                Input::Tick => {}
                Input::Command(command) => self.command(command, clock::now()).await,
                Input::Beat(beat) => self.beat(beat, clock::now()).await,
                Input::Sent(sent) => self.sent(sent, clock::now()),
            }
            self.refresh_store(clock::now()).await;
        }
    }

    /// Starts the loop's helpers.
    fn lines(&mut self, stop: &CancellationToken) -> Result<Lines, String> {
        let pair = &self.app.config.pair;
        let (beats_in, beats) = mpsc::channel(4);
        let (sent_in, sent) = mpsc::channel(4);
        let (plans, plans_out) = mpsc::channel(1);
        let (report, report_out) = watch::channel(Arc::new(self.report(clock::now())));
        let poke = Arc::new(Notify::new());
        let heartbeat = Heartbeat {
            client: self.client.clone(),
            every: pair.heartbeat,
            limit: pair.invisible_after.min(Duration::from_secs(5)),
            report: report_out,
            poke: Arc::clone(&poke),
            out: beats_in,
        };
        let sender = outbox::sender(&self.app.config, self.tls.take())?;
        let outbox = Outbox {
            app: Arc::clone(&self.app),
            sender,
            plans: plans_out,
            out: sent_in,
        };
        tokio::spawn(heartbeat.run(stop.clone()));
        tokio::spawn(outbox.run(stop.clone()));
        let committed = watch_store::start(&self.app, stop.clone());
        Ok(Lines {
            beats,
            sent,
            plans,
            report,
            poke,
            committed,
        })
    }

    async fn next(&mut self, lines: &mut Lines, stop: &CancellationToken) -> Input {
        let now = clock::now().mono;
        let rest = self.deadline(now).saturating_sub(now).min(TICK);
        tokio::select! {
            () = stop.cancelled() => Input::Stop,
            command = self.seat.commands.recv() => command.map_or(Input::Stop, Input::Command),
            Some(beat) = lines.beats.recv() => Input::Beat(beat),
            Some(sent) = lines.sent.recv() => Input::Sent(sent),
            () = lines.committed.notified() => Input::Tick,
            () = self.seat.calls_changed.notified() => Input::Tick,
            () = tokio::time::sleep(rest) => Input::Tick,
        }
    }

    fn deadline(&self, now: Duration) -> Duration {
        let groups = self.groups.iter().filter_map(|g| g.decision.deadline);
        groups
            .chain(self.peer.deadline())
            .chain(self.startup.deadline(now))
            .chain(self.session.next_deadline())
            .min()
            .unwrap_or(Duration::MAX)
    }

    /// Decides, makes it durable, acts, publishes.
    async fn turn(&mut self, lines: &Lines) {
        let now = clock::now();
        if self.peer.vanished(now) {
            tracing::warn!(peer = %self.app.config.pair.peer_id, why = self.peer.reason.as_deref(), "the peer is out of sight");
            self.out_of_sight(now);
        }
        self.expire_calls(now);
        let mut changed = false;
        if self.startup.done(now.mono) {
            changed = self.decide_all(now).await;
        }
        self.sync_events().await;
        while let Some(plan) = self.session.poll(now.mono) {
            let ticket = plan.ticket;
            if lines.plans.try_send(plan).is_err() {
                self.session.failed(ticket, now, true, "the outbox is busy");
                break;
            }
        }
        self.publish(now);
        lines.report.send_replace(Arc::new(self.report(now)));
        if changed {
            lines.poke.notify_one();
        }
        self.answer(now);
    }

    /// Lets each group decide for itself. True when an ownership changed.
    async fn decide_all(&mut self, now: Now) -> bool {
        let seen = self.seen();
        let rules = self.rules();
        let mut changed = false;
        for index in 0..self.groups.len() {
            let calls = self.calls_on_owner(index);
            let decision = self.groups[index].decide(&seen, calls, &rules, None, now);
            let next = decision.ownership.clone();
            let automatic = decision.row.is_some();
            self.groups[index].decision = decision;
            if let Some(next) = next {
                changed |= self.own(index, next, automatic).await.is_ok();
            }
        }
        changed
    }

    /// Makes a new ownership durable and takes it on. Nothing is acted on before that.
    pub(super) async fn own(
        &mut self,
        index: usize,
        next: Ownership,
        transition: bool,
    ) -> Result<(), StoreError> {
        let kept = next.clone();
        let before = self.groups[index].ownership.owner.clone();
        let life = if transition {
            self.peer.report.as_ref().map(|r| r.boot)
        } else {
            self.groups[index].held_life
        };
        if let Err(error) = self
            .app
            .store(move |s| groups::persist(s, &kept, life))
            .await
        {
            self.app.alarms.raise(
                "ownership_not_kept",
                next.group.as_str(),
                &format!("{error}; nothing was changed"),
            );
            return Err(error);
        }
        self.app
            .alarms
            .clear("ownership_not_kept", next.group.as_str());
        if transition || before != next.owner {
            tracing::info!(group = %next.group, epoch = next.epoch, owner = %next.owner, "{}", next.reason);
            self.announce(index, &next);
        }
        self.groups[index].ownership = next;
        self.groups[index].held_life = life;
        Ok(())
    }

    async fn command(&mut self, command: Command, now: Now) {
        match command {
            Command::Heartbeat { report, answer } => {
                self.adopt(&report.groups, now).await;
                self.waiting.heartbeats.push(answer);
            }
            Command::Heard { head } => {
                // What the mail brought is in the store by now; the session hears of that first.
                self.refresh_store(now).await;
                self.session.heard(&head, now);
            }
            Command::Request {
                group,
                request,
                guard,
                forwarded,
                answer,
            } => {
                if let Some(result) = self.request(&group, request, &guard, forwarded, now).await {
                    self.waiting.answers.push((answer, result));
                } else {
                    self.forward(group, request, guard, answer);
                }
            }
            Command::History { group, answer } => {
                let lines = self.app.store(move |s| groups::history(s, &group)).await;
                let _ = answer.send(lines.unwrap_or_default());
            }
            Command::Phone {
                registration,
                answer,
            } => {
                let after = self.app.config.resilience.failover_after;
                let seen = self.phones.registered(
                    registration,
                    &mut self.groups,
                    self.peer.sight,
                    after,
                    now,
                );
                let _ = answer.send(seen);
            }
            Command::Phones { answer } => drop(answer.send(self.phones.list())),
            Command::Resync { answer } => {
                let visible = self.peer.visible();
                self.session.visible(false, nonce(), now);
                self.session.visible(visible, nonce(), now);
                let _ = answer.send(());
            }
            Command::Certificate { answer } => drop(answer.send(self.certificate())),
        }
    }

    async fn beat(&mut self, beat: Beat, now: Now) {
        match beat.result {
            Err(error) => self.peer.missed(&error),
            Ok(report) => {
                let outlived = self.groups.iter().any(|g| g.outlived(&report));
                if self.peer.restarted(&report) || outlived {
                    tracing::info!(peer = %self.app.config.pair.peer_id, "the peer was started anew");
                    self.peer.lost(now);
                    self.out_of_sight(now);
                    if self.started(now) {
                        self.decide_all(now).await;
                    }
                }
                let groups = report.groups.clone();
                if self.peer.answered(report, now) {
                    tracing::info!(peer = %self.app.config.pair.peer_id, "the peer is in sight");
                    self.session.visible(true, nonce(), now);
                    self.sight_changed();
                }
                self.progress.to_adopt = groups;
            }
        }
    }

    /// Takes over what the peer knows better; then this node may serve.
    async fn adopt(&mut self, theirs: &[Ownership], _now: Now) {
        for index in 0..self.groups.len() {
            if let Some(next) = self.groups[index].adopted(theirs) {
                // Not kept: not adopted. The next heartbeat tells it again.
                let _ = self.own(index, next, false).await;
            }
        }
    }

    fn sent(&mut self, sent: Sent, now: Now) {
        match sent {
            Sent::Packed { ticket, upto } => self.session.packed(ticket, &upto),
            Sent::Taken {
                ticket,
                operations,
                took,
            } => {
                self.progress.taken(operations, took, now);
                self.session.sent(ticket, now);
                self.app
                    .alarms
                    .clear("sync_refused", self.app.config.pair.peer_id.as_str());
            }
            Sent::Failed {
                ticket,
                temporary,
                why,
            } => {
                tracing::debug!(%why, temporary, "a mail to the peer was not taken");
                if !temporary {
                    let peer = self.app.config.pair.peer_id.as_str();
                    self.app.alarms.raise(
                        "sync_refused",
                        peer,
                        &format!("{peer} refuses our mails: {why}"),
                    );
                }
                self.session.failed(ticket, now, temporary, &why);
            }
        }
    }

    /// Tells the session what is durable now, and takes over what a heartbeat brought.
    async fn refresh_store(&mut self, now: Now) {
        let theirs = std::mem::take(&mut self.progress.to_adopt);
        if !theirs.is_empty() {
            self.adopt(&theirs, now).await;
            self.startup.heard();
        }
        let configured = self.app.config.failback.clone();
        let read = self
            .app
            .store(move |store| {
                let settings = http::effective_failback(&configured, &store.settings()?);
                Ok((store.digest(), store.totals()?, settings))
            })
            .await;
        match read {
            Ok(((have, digest), totals, failback)) => {
                self.progress.digest.clone_from(&digest.0);
                self.progress.totals = totals;
                self.failback = failback;
                self.session.local(have, digest.0, now);
            }
            Err(error) => {
                self.app.alarms.raise(
                    "store_failed",
                    self.app.config.node.id.as_str(),
                    &error.to_string(),
                );
            }
        }
    }

    async fn sync_events(&mut self) {
        let peer = self.app.config.pair.peer_id.to_string();
        while let Some(event) = self.session.next_event() {
            let what = match event {
                SyncEvent::Started => {
                    tracing::info!(%peer, "synchronisation started: both have exchanged what they hold");
                    "started"
                }
                SyncEvent::Finished => {
                    self.app.alarms.clear("diverged", &peer);
                    "finished"
                }
                SyncEvent::Diverged => {
                    self.app.alarms.raise("diverged", &peer, DIVERGED);
                    "diverged"
                }
                SyncEvent::PeerKnowsMore {
                    origin,
                    held,
                    theirs,
                } => {
                    let origin = origin.to_string();
                    self.new_incarnation(&origin, held, theirs).await;
                    "restored"
                }
            };
            let data = serde_json::json!({"peer": peer, "what": what});
            self.app.events.publish("sync", data);
        }
    }

    /// This store was restored from an old copy: its sequence numbers must not be used twice.
    async fn new_incarnation(&mut self, origin: &str, held: u64, theirs: u64) {
        match self.app.store(vmsync_store::Store::new_incarnation).await {
            Ok(next) => {
                self.app.alarms.raise(
                    "restored",
                    origin,
                    &format!("the peer holds operations up to {theirs} of {origin}, this store only up to {held}: it was restored from an old copy; it goes on as {next} and gets back from the peer what it lost"),
                );
                self.session.rename(next);
            }
            Err(error) => {
                self.app
                    .alarms
                    .raise("restored", origin, &format!("no new incarnation: {error}"))
            }
        }
    }

    fn expire_calls(&mut self, now: Now) {
        for call in self.app.calls.expire(now, self.app.config.limits.call_idle) {
            tracing::warn!(call = %call, "a call without sign of life no longer counts (R-FB-8)");
        }
    }

    fn out_of_sight(&mut self, now: Now) {
        self.session.visible(false, nonce(), now);
        self.sight_changed();
    }

    fn sight_changed(&mut self) {
        for group in &mut self.groups {
            group.evidence.sight(self.peer.sight);
        }
    }

    pub(super) fn seen(&self) -> Seen {
        Seen {
            me: self.me().clone(),
            peer: self.peer.sight,
            sync_started: self.session.started(),
            sync_finished: self.session.finished(),
            pending_operations: self.session.pending_out() + self.session.pending_in(),
        }
    }

    pub(super) fn rules(&self) -> Rules {
        groups::rules(&self.app.config, &self.failback)
    }

    pub(super) fn me(&self) -> &NodeId {
        &self.app.config.node.id
    }

    /// Active calls of a group on the node that owns it: ours, or what the peer told.
    pub(super) fn calls_on_owner(&self, index: usize) -> u32 {
        let group = &self.groups[index];
        if group.ownership.owner == *self.me() {
            return self.app.calls.active_in(group.name());
        }
        let report = self.peer.report.as_ref();
        let told = report.and_then(|r| r.calls.iter().find(|(g, _)| g == group.name()));
        told.map_or(0, |(_, calls)| *calls)
    }

    pub(super) fn started(&self, now: Now) -> bool {
        self.startup.done(now.mono)
    }

    pub(super) fn serving(&self, index: usize, now: Now) -> Serving {
        serves(
            self.me(),
            &self.groups[index].ownership,
            self.peer.visible(),
            self.started(now),
        )
    }

    pub(super) fn report(&self, now: Now) -> Report {
        Report {
            node: self.me().clone(),
            boot: self.seat.boot,
            at: now.wall,
            groups: self.groups.iter().map(|g| g.ownership.clone()).collect(),
            calls: self
                .groups
                .iter()
                .map(|g| (g.name().clone(), self.app.calls.active_in(g.name())))
                .collect(),
            totals: publish::totals(self.progress.totals),
            ready: self.started(now),
        }
    }

    /// Tells consumers, alarms, and the mover of recordings (R-FO-6, R-AL-1, R-VR-1).
    fn announce(&self, index: usize, next: &Ownership) {
        let group = self.groups[index].machine.group();
        if let Ok(data) = serde_json::to_value(next) {
            self.app.events.publish("ownership", data);
        }
        let failed_over = next.owner == group.backup;
        let systems = self.app.config.systems.iter();
        for system in systems.filter(|s| self.app.group_of(Some(s.name.as_str())) == group.name) {
            let name = system.name.as_str();
            if failed_over {
                let text = format!(
                    "voicemail of {name} is served by {}: {}",
                    next.owner, next.reason
                );
                self.app.alarms.raise("voicemail_failover", name, &text);
            } else {
                self.app.alarms.clear("voicemail_failover", name);
            }
        }
    }

    fn answer(&mut self, now: Now) {
        for answer in std::mem::take(&mut self.waiting.heartbeats) {
            let _ = answer.send(self.report(now));
        }
        for (answer, result) in std::mem::take(&mut self.waiting.answers) {
            let _ = answer.send(result);
        }
    }

    fn certificate(&self) -> CertificateAnswer {
        let certificate = self.session.certificate();
        CertificateAnswer {
            at: certificate.map(|c| c.at.to_string()),
            digest: certificate.map(|c| c.digest.clone()),
            vector: certificate.map_or(serde_json::Value::Null, |c| {
                serde_json::to_value(&c.vector).unwrap_or_default()
            }),
            equal_now: self.session.finished(),
        }
    }

    /// Recordings move when the primary serves its own group again (R-VR-1); never in dual-active (R-VR-3).
    pub(super) fn vrl_allowed(&self) -> (bool, String) {
        let config = &self.app.config;
        let Some(group) = self.groups.first() else {
            return (false, "there is no group".to_owned());
        };
        let home = &group.machine.group().home;
        if config.pair.mode == Mode::DualActive {
            (
                false,
                "in dual-active recordings stay with the node that made them (R-VR-3)".to_owned(),
            )
        } else if config.node.role == Role::Primary {
            (
                false,
                "recordings are moved by the secondary (R-VR-1)".to_owned(),
            )
        } else if group.decision.phase == Phase::Normal && self.peer.visible() {
            (true, format!("{home} serves again"))
        } else {
            (false, format!("waiting for {home} to serve again (R-VR-1)"))
        }
    }
}

/// A session nonce; 53 bits survive any JSON.
fn nonce() -> u64 {
    rand::rng().random::<u64>() >> 11
}
