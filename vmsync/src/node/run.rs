//! The loop: what comes in, what is decided, what follows.

use std::{sync::Arc, time::Duration};

use rand::Rng;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use vmsync_config::words::{NodeId, Now};
use vmsync_core::{
    resilience::{Place, Rules, Serving, Startup, serves},
    sync::{Blame, Plan, Session, WINDOW},
};

use super::{
    Command, Seat,
    courier::Courier,
    greeting::{Greeted, Greeter},
    groups::{self, GroupState, Seen},
    holdings::PeerHolds,
    outbox::{self, Packer, READY, Sent},
    peer::{Beat, Heartbeat, Peer},
    phones::Phones,
    proof::Kept,
    publish::{self, Progress},
    scrub::Scrubber,
    signs::{WitnessSight, Witnessed, ask_witness},
    upkeep::Upkeep,
    watch_store,
};
use crate::{
    agreed::Agreed,
    app::{App, OrderAnswer, Outcome, Refused},
    clock,
    pair::{PeerClient, Report},
    topology::Topology,
};

/// The loop looks at everything at least this often, whatever it was told.
const TICK: Duration = Duration::from_secs(1);
/// It never turns faster than this by its own deadlines.
const REST: Duration = Duration::from_millis(2);
/// No heartbeat is given less time for its answer.
const MOST_HASTY: Duration = Duration::from_millis(200);

/// The node loop's state. Made by [`Node::load`], consumed by [`Node::run`].
pub struct Node {
    pub(super) app: Arc<App>,
    pub(super) seat: Seat,
    pub(super) client: PeerClient,
    pub(super) groups: Vec<GroupState>,
    pub(super) peer: Peer,
    pub(super) session: Session,
    pub(super) phones: Phones,
    pub(super) agreed: Agreed,
    /// Whether what the settings say was told to the journal since the start.
    pub(super) journal_read: bool,
    pub(super) witness: Option<WitnessSight>,
    /// Since when the nodes are in different modes; a moment is usual when they are switched.
    pub(super) modes_differ: Option<Duration>,
    /// Since when, in this sight of the peer, both have exchanged what they hold; an exchange that is
    /// begun anew does not begin the failback's clock anew (R-FB-5).
    pub(super) exchanged: Option<Duration>,
    /// When the last turn decided: what fell due since is not slept over.
    decided_at: Duration,
    /// Until then the peer's silence may be this process's own: it was stopped, or its disk was.
    excused_until: Duration,
    pub(super) progress: Progress,
    pub(super) started_at: Now,
    pub(super) startup: Startup,
    /// Whether it is settled that this store has forgotten none of its own operations.
    pub(super) remembers: bool,
    pub(super) upkeep: Upkeep,
    pub(super) certificate: Kept,
    /// Wakes the helper that reads audio files.
    check_audio: Arc<Notify>,
    waiting: Waiting,
    tls: Option<Arc<rustls::ClientConfig>>,
}

/// What came of an operator's request, and where it goes.
type Answer = (
    oneshot::Sender<Result<Outcome, Refused>>,
    Result<Outcome, Refused>,
);

/// What is to be done once the decisions of this turn are durable.
#[derive(Default)]
struct Waiting {
    answers: Vec<Answer>,
    heartbeats: Vec<oneshot::Sender<Report>>,
}

/// What woke the loop.
enum Input {
    Command(Command),
    Beat(Beat),
    Greeted(Greeted),
    Witnessed(Witnessed),
    Sent(Sent),
    Tick,
    /// A helper ended, which only a fault makes it do.
    Ended,
    Stop,
}

/// The loop's helpers: their channels.
struct Lines {
    beats: mpsc::Receiver<Beat>,
    greetings: mpsc::Receiver<Greeted>,
    witnessed: mpsc::Receiver<Witnessed>,
    sent: mpsc::Receiver<Sent>,
    plans: mpsc::Sender<Plan>,
    report: watch::Sender<Arc<Report>>,
    poke: Arc<Notify>,
    /// Gives up the mail under way: the peer is out of sight, and a hello must not wait behind it.
    abandon: Arc<Notify>,
    committed: Arc<Notify>,
    helpers: JoinSet<()>,
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
        let (groups, agreed, origin, peer_holds, upkeep, certificate) = app
            .store(move |store| {
                let config = &loaded.config;
                let agreed = Agreed::read(&config.failback, &store.settings()?);
                let topology = Topology::switched(config, &agreed.switched);
                let groups = topology.groups().iter().cloned();
                let groups =
                    groups.map(|g| GroupState::load(store, config, &topology.systems, g, now));
                let groups = groups.collect::<Result<Vec<_>, _>>()?;
                Ok((
                    groups,
                    agreed,
                    store.origin(),
                    PeerHolds::load(store)?,
                    Upkeep::load(store)?,
                    Kept::load(store)?,
                ))
            })
            .await
            .map_err(|e| e.to_string())?;
        let topology = Topology::switched(&app.config, &agreed.switched);
        app.alarms.channels().follow(&topology);
        app.topology.set(topology);
        let mut random = rand::rng();
        let mut session = Session::new(origin, nonce(), random.random());
        session.probe_every(Some(app.config.pair.probe));
        Ok(Self {
            peer: Peer::new(app.config.pair.invisible_after, true, now),
            remembers: false,
            startup: Startup::new(now.mono, app.config.pair.startup_grace),
            session,
            groups,
            agreed,
            journal_read: false,
            modes_differ: None,
            exchanged: None,
            decided_at: now.mono,
            excused_until: Duration::ZERO,
            witness: app
                .config
                .witness
                .as_ref()
                .map(|w| WitnessSight::new(w, now)),
            phones: Phones::new(app.config.limits.phones),
            progress: Progress::new(peer_holds),
            started_at: now,
            upkeep,
            certificate,
            check_audio: Arc::default(),
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
        for index in 0..self.groups.len() {
            self.failover_alarms(index, &self.groups[index].ownership);
        }
        loop {
            self.turn(&mut lines).await;
            match self.next(&mut lines, &stop).await {
                Input::Stop => break,
                Input::Tick => {}
                Input::Command(command) => self.command(command, clock::now()).await,
                Input::Beat(beat) => self.beat(beat).await,
                Input::Greeted(greeted) => self.greeted(greeted),
                Input::Witnessed(answer) => self.witnessed(answer),
                Input::Ended if stop.is_cancelled() => break,
                Input::Ended => {
                    tracing::error!("a part of the node loop ended by itself");
                    break;
                }
                Input::Sent(sent) => self.sent(sent, clock::now()).await,
            }
            self.refresh_store(clock::now()).await;
        }
        // The mail under way is finished, within the sender's own limits.
        drop(lines.plans);
        while lines.helpers.join_next().await.is_some() {}
    }

    /// Starts the loop's helpers.
    fn lines(&mut self, stop: &CancellationToken) -> Result<Lines, String> {
        let pair = &self.app.config.pair;
        let (beats_in, beats) = mpsc::channel(4);
        let (greetings_in, greetings) = mpsc::channel(4);
        let (witnessed_in, witnessed) = mpsc::channel(4);
        let (sent_in, sent) = mpsc::channel(4);
        let (plans, plans_out) = mpsc::channel(WINDOW);
        let (report, report_out) = watch::channel(Arc::new(self.report(clock::now())));
        let poke = Arc::new(Notify::new());
        // Short enough for a second try before the peer counts as invisible: one late answer
        // must not.
        let limit = (pair.invisible_after.saturating_sub(pair.heartbeat) / 2).max(MOST_HASTY);
        let greeter = Greeter::new(&self.app.config, limit, greetings_in);
        let heartbeat = Heartbeat {
            client: self.client.clone(),
            every: pair.heartbeat,
            limit,
            report: report_out,
            poke: Arc::clone(&poke),
            out: beats_in,
        };
        let abandon = Arc::new(Notify::new());
        let sender = outbox::sender(&self.app.config, self.tls.take())?;
        let (letters_in, letters) = mpsc::channel(READY);
        let binary = Arc::default();
        let packer = Packer {
            app: Arc::clone(&self.app),
            plans: plans_out,
            letters: letters_in,
            out: sent_in.clone(),
            binary: Arc::clone(&binary),
        };
        let courier = Courier {
            sender,
            letters,
            out: sent_in,
            abandon: Arc::clone(&abandon),
            binary,
        };
        let scrubber = Scrubber {
            app: Arc::clone(&self.app),
            asked: Arc::clone(&self.check_audio),
        };
        let mut helpers = JoinSet::new();
        helpers.spawn(scrubber.run(stop.clone()));
        helpers.spawn(heartbeat.run(stop.clone()));
        if let Some(witness) = self.app.config.witness.clone() {
            helpers.spawn(ask_witness(witness, witnessed_in, stop.clone()));
        }
        if let Some(greeter) = greeter {
            helpers.spawn(greeter.run(stop.clone()));
        }
        helpers.spawn(packer.run(stop.clone()));
        helpers.spawn(courier.run());
        let (committed, teller) = watch_store::start(&self.app, stop.clone());
        helpers.spawn(teller);
        Ok(Lines {
            beats,
            greetings,
            witnessed,
            sent,
            plans,
            report,
            poke,
            abandon,
            committed,
            helpers,
        })
    }

    async fn next(&mut self, lines: &mut Lines, stop: &CancellationToken) -> Input {
        let now = clock::now().mono;
        let rest = self.deadline(now).saturating_sub(now).clamp(REST, TICK);
        tokio::select! {
            () = stop.cancelled() => Input::Stop,
            command = self.seat.commands.recv() => command.map_or(Input::Stop, Input::Command),
            Some(beat) = lines.beats.recv() => Input::Beat(beat),
            Some(greeted) = lines.greetings.recv() => Input::Greeted(greeted),
            Some(answer) = lines.witnessed.recv() => Input::Witnessed(answer),
            Some(sent) = lines.sent.recv() => Input::Sent(sent),
            Some(_) = lines.helpers.join_next() => Input::Ended,
            () = lines.committed.notified() => Input::Tick,
            () = self.seat.calls_changed.notified() => Input::Tick,
            () = tokio::time::sleep(rest) => Input::Tick,
        }
    }

    fn deadline(&self, now: Duration) -> Duration {
        let groups = self.groups.iter().filter_map(|g| g.decision.deadline);
        groups
            // One that had passed then was acted on, or can't be before something else happens.
            .filter(|at| *at > self.decided_at)
            .chain(self.peer.deadline(self.decided_at))
            .chain(
                self.witness
                    .as_ref()
                    .and_then(|w| w.deadline(self.decided_at)),
            )
            .chain(Some(self.excused_until).filter(|at| *at > self.decided_at))
            .chain(self.groups.iter().filter_map(|g| g.order_due))
            .chain(self.startup.deadline(now))
            .chain(self.session.next_deadline())
            .min()
            .unwrap_or(Duration::MAX)
    }

    /// Decides, makes it durable, acts, publishes.
    async fn turn(&mut self, lines: &mut Lines) {
        // Answers that wait already are heard before anybody is called absent.
        while let Ok(beat) = lines.beats.try_recv() {
            self.beat(beat).await;
        }
        while let Ok(answer) = lines.witnessed.try_recv() {
            self.witnessed(answer);
        }
        while let Ok(greeted) = lines.greetings.try_recv() {
            self.greeted(greeted);
        }
        self.adopt_told().await;
        let now = clock::now();
        self.excuse(now);
        self.decided_at = now.mono;
        if now.mono >= self.excused_until && self.peer.vanished(now) {
            tracing::warn!(peer = %self.app.config.pair.peer_id, why = self.peer.reason.as_deref(), "the peer is out of sight");
            self.out_of_sight(now);
        }
        if !self.peer.visible() {
            lines.abandon.notify_waiters();
        }
        self.exchanged = self.exchanged.or(self.session.started());
        self.expire_calls(now);
        if self.startup.done(now.mono) && self.remember().await {
            self.decide_all(now).await;
            self.carry_out(now).await;
        }
        self.keep_evidence().await;
        self.sync_events(now).await;
        self.keep_certificate(now).await;
        self.upkeep(now).await;
        self.mend_audio(now).await;
        self.housekeep(now);
        self.stall_alarm(now);
        self.probe_alarm(now);
        self.compare_modes(now);
        self.sight_alarms(now);
        self.app.alarms.expire(now.wall);
        while let Some(plan) = self.session.poll(now.mono) {
            let ticket = plan.ticket;
            if lines.plans.try_send(plan).is_err() {
                self.session
                    .failed(ticket, now, Blame::Passing, "the outbox is busy");
                break;
            }
        }
        self.publish(now);
        lines.report.send_replace(Arc::new(self.report(now)));
        // That this node is ready now is news to the peer as well: failback may wait for it.
        let ready = self.started(now);
        let news = std::mem::replace(&mut self.progress.was_ready, ready) != ready;
        if std::mem::take(&mut self.progress.tell_peer) || news {
            lines.poke.notify_one();
        }
        self.answer(now);
    }

    async fn command(&mut self, command: Command, now: Now) {
        match command {
            Command::Heartbeat { report, at, answer } => {
                // As of when it came: the loop's own delay makes nothing fresher.
                let now = at;
                self.adopt(&report.groups).await;
                if self.peer.counts(&report, now) {
                    self.restarted(&report, now).await;
                    if self.peer.asked(report, now) {
                        self.in_sight(now);
                    }
                }
                self.waiting.heartbeats.push(answer);
            }
            Command::Meets { head, noted } => {
                if self.session.peer_session() != Some(head.session) {
                    self.refresh_store(now).await;
                    let ours = self.progress.have.clone();
                    self.note_meeting(ours, head.have, now).await;
                }
                let _ = noted.send(());
            }
            Command::Heard { head, applied } => {
                // What the mail brought is in the store by now; the session hears of that first.
                self.refresh_store(now).await;
                if applied.old_digest {
                    self.session.heard_with_old_digest(&head, now);
                } else {
                    self.session.heard(&head, now);
                }
                if let Some((ours, theirs)) = self.session.meeting() {
                    let (ours, theirs) = (ours.clone(), theirs.clone());
                    self.note_meeting(ours, theirs, now).await;
                }
                self.session.want(applied.wanted);
                self.session.release(applied.quarantined);
                self.compare_buckets(&head).await;
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
            Command::OneSided { answer } => self.tell_one_sided(answer, now),
            Command::Cancel { group, answer } => {
                let cancelled = self.cancel(&group, now).await;
                let _ = answer.send(cancelled.map(|order| order.map(OrderAnswer::from)));
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
                    &registration,
                    &mut self.groups,
                    self.peer.sight(),
                    after,
                    now,
                );
                // What is said to count is known after a restart.
                self.keep_evidence().await;
                let _ = answer.send(seen);
            }
            Command::Phones {
                before,
                most,
                answer,
            } => drop(answer.send(self.phones.list(before, most))),
            Command::PassOn { act, answer } => self.pass_on(act, answer),
            Command::Resync { answer } => {
                let visible = self.peer.visible();
                self.session.visible(false, nonce(), now);
                self.session.visible(visible, nonce(), now);
                self.upkeep.release_now(now);
                let _ = answer.send(());
            }
            Command::Housekeeping { run, answer } => {
                if run {
                    self.upkeep.housekeeping.run_now(now);
                }
                let _ = answer.send(self.housekeeping_waits_for(now));
            }
            Command::CheckAudio { answer } => {
                self.check_audio.notify_one();
                let _ = answer.send(());
            }
            Command::Certificate { answer } => drop(answer.send(self.certificate())),
        }
    }

    async fn beat(&mut self, beat: Beat) {
        let now = beat.at;
        match beat.result {
            Err(error) => self.peer.missed(&error),
            Ok(mut report) => {
                self.app.rights.heard(report.rights, now.wall);
                self.app
                    .features
                    .hear(report.features.take().unwrap_or_default());
                self.restarted(&report, now).await;
                let groups = report.groups.clone();
                if self.peer.answered(report, now) {
                    self.in_sight(now);
                }
                self.progress.to_adopt = groups;
            }
        }
    }

    fn greeted(&mut self, greeted: Greeted) {
        match greeted.result {
            Ok(()) => {
                let again = self.peer.greeting.is_some();
                if self.peer.greeted(greeted.at) {
                    self.in_sight(greeted.at);
                }
                if again {
                    self.session.reachable(greeted.at);
                }
            }
            Err(why) => self.peer.greeting = Some(why),
        }
    }

    fn witnessed(&mut self, answer: Witnessed) {
        if let Some(witness) = &mut self.witness {
            witness.heard(answer);
        }
    }

    fn in_sight(&mut self, now: Now) {
        tracing::info!(peer = %self.app.config.pair.peer_id, "the peer is in sight");
        self.session.visible(true, nonce(), now);
        self.sight_changed();
    }

    /// Another life of the peer means that it went away and came back, however quickly.
    async fn restarted(&mut self, report: &Report, now: Now) {
        // While starting nothing is decided, so a hold can't end yet: the next beat ends it.
        let outlived = self.started(now) && self.groups.iter().any(|g| g.outlived(report));
        if self.peer.restarted(report) || outlived {
            tracing::info!(peer = %self.app.config.pair.peer_id, "the peer was started anew");
            self.peer.lost(now);
            self.out_of_sight(now);
            if self.started(now) {
                self.decide_all(now).await;
            }
        }
    }

    /// A turn that comes far too late says that this process stood still, not that the peer did: what the
    /// peer said meanwhile may not have been heard yet. It gets a round of heartbeats before it counts as gone.
    fn excuse(&mut self, now: Now) {
        let invisible_after = self.app.config.pair.invisible_after;
        let late = now.mono.saturating_sub(self.decided_at);
        if late > (invisible_after / 2).max(TICK + TICK / 2) {
            tracing::warn!(ms = late.as_millis(), "this process stood still");
            self.excused_until = now.mono.saturating_add(invisible_after);
        }
    }

    fn expire_calls(&mut self, now: Now) {
        for call in self.app.calls.expire(now, self.app.config.limits.call_idle) {
            tracing::warn!(call = %call, "a call without sign of life no longer counts (R-FB-8)");
        }
    }

    fn out_of_sight(&mut self, now: Now) {
        self.exchanged = None;
        self.session.visible(false, nonce(), now);
        self.sight_changed();
    }

    pub(super) fn sight_changed(&mut self) {
        for group in &mut self.groups {
            group.evidence.sight(self.peer.sight());
        }
    }

    pub(super) fn seen(&self, now: Now) -> Seen {
        // A home that does not serve yet is not there to be given anything.
        let ready = self.peer.report.as_ref().is_some_and(|r| r.ready);
        Seen {
            me: self.me().clone(),
            peer: self.peer.sight(),
            speaks: self.peer.speaks(now),
            witness: self.witness(now),
            sync_started: self
                .session
                .started()
                .filter(|_| ready)
                .map(|now| self.exchanged.unwrap_or(now)),
            sync_finished: self.session.finished(),
            pending_operations: self.session.pending_out() + self.session.pending_in(),
        }
    }

    pub(super) fn rules(&self) -> Rules {
        groups::rules(&self.app.config, &self.agreed)
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
        self.remembers && self.startup.done(now.mono)
    }

    pub(super) fn serving(&self, index: usize, now: Now) -> Serving {
        serves(Place {
            me: self.me(),
            ownership: &self.groups[index].ownership,
            peer_answers: self.peer.answers(now)
                && self.peer.takes(self.groups[index].name(), self.me()),
            peer_visible: self.peer.visible(),
            started: self.started(now),
            answering_first: self.app.config.resilience.answering_beats_consistency,
            witness: self.witness(now),
        })
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
            have: self.progress.have.clone(),
            seen: self.progress.seen.clone(),
            ready: self.started(now),
            mode: Some(super::mode_name(self.app.topology().mode).to_owned()),
            backs_up: Some(self.app.config.resilience.backs_up_voicemail),
            rights: Some(self.app.rights.own(self.app.topology().mode)),
            orders: Some(self.agreed.standing_orders()),
            features: Some(self.app.features.standings()),
            challenge: None,
            echo: self.peer.report.as_ref().and_then(|r| r.challenge),
        }
    }

    fn answer(&mut self, now: Now) {
        for answer in std::mem::take(&mut self.waiting.heartbeats) {
            let challenge = Some(self.peer.challenge(now));
            let _ = answer.send(Report {
                challenge,
                ..self.report(now)
            });
        }
        for (answer, result) in std::mem::take(&mut self.waiting.answers) {
            let _ = answer.send(result);
        }
    }
}

/// A session nonce; 53 bits survive any JSON.
fn nonce() -> u64 {
    rand::rng().random::<u64>() >> 11
}
