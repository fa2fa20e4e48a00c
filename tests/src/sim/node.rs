//! A node as the shell runs it: the real store, the session, the resilience machine.

use std::{
    cell::Cell,
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use vmsync::exchange;
use vmsync_config::{
    Group,
    words::{NodeId, Now, UnixMillis, Vector},
};
use vmsync_core::{
    resilience::{
        Ask, Decision, Machine, Ownership, PhoneEvidence, PhoneKind, Place, Registration, Rules,
        Serving, Startup, View, adopt, serves,
    },
    sync::{Event, Session, Ticket},
    wire::Head,
};
use vmsync_store::{
    Committed, CompactTo, EntityKey, HeldRecord, Operation, Options, Quarantined, Reunion,
    ScrubAsk, Store, StoreError, simulate::Disk,
};

use super::Sabotage;

/// Without an answer to a heartbeat for this long the peer is invisible.
const INVISIBLE_AFTER: Duration = Duration::from_secs(5);
/// How long a starting node waits for its peer.
const GRACE: Duration = Duration::from_secs(10);
/// Time between two looks at the length of the log.
const COMPACT_EVERY: Duration = Duration::from_secs(10);
/// Time between two attempts to release what is quarantined.
const RELEASE_EVERY: Duration = Duration::from_mins(1);
/// Time between two steps of a course through the audio files.
const SCRUB_STEP: Duration = Duration::from_secs(10);
/// Steps of a course; and the least a step reads.
const SCRUB_STEPS: u64 = 6;
const LEAST_FILES: u64 = 20;
/// The peer is asked again for audio, and it is looked at again here.
const MEND_AGAIN: Duration = Duration::from_secs(30);
const OWNERSHIP: &str = "ownership";
/// Where the course is kept.
const SCRUB: (&str, &str) = ("audio_check", "course");

thread_local! {
    static WALL: Cell<u64> = const { Cell::new(0) };
}

/// The wall clock of the node whose turn it is on this thread.
fn wall() -> UnixMillis {
    UnixMillis(WALL.get())
}

/// Sets it.
pub fn set_wall(now: UnixMillis) {
    WALL.set(now.0);
}

/// What survives a crash, and what runs.
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its data folder.
    pub dir: PathBuf,
    /// The disk that is on.
    pub disk: Disk,
    /// What is surely on it, as the store told last.
    pub have: Vector,
    /// What is quarantined there, as it told last.
    pub quarantine: Quarantine,
    /// `None` while the process is down.
    pub live: Option<Live>,
    /// Starts so far; an outcome meant for an earlier life is dropped.
    pub boot: u64,
}

/// Entities under quarantine at a node, and what that holds of each all the same.
pub type Quarantine = BTreeMap<EntityKey, Option<HeldRecord>>;

/// What a node tells in a heartbeat.
#[derive(Debug, Clone)]
pub struct Report {
    boot: u64,
    seen: Vector,
    ownership: Ownership,
    ready: bool,
}

/// A mail under way.
pub struct Slip {
    /// As planned.
    pub ticket: Ticket,
    /// Entities whose quarantine ends with its 250.
    pub released: Vec<String>,
}

/// The connection over which mails go out.
#[derive(Default)]
pub struct Way {
    /// Which one.
    pub connection: u64,
    /// It is broken, but the sender does not know yet.
    pub broken: bool,
    /// When the last mail arrives: they arrive in order.
    pub arrives: Duration,
    /// In order.
    pub outstanding: VecDeque<Slip>,
}

/// What a crash takes.
pub struct Live {
    /// The store, open.
    pub store: Store,
    /// The sync session.
    pub session: Session,
    /// As durable.
    pub ownership: Ownership,
    /// Active calls of the group on this node.
    pub calls: u32,
    /// Outgoing mails.
    pub way: Way,
    /// The last decision's deadline.
    pub deadline: Option<Duration>,
    /// Committed since they were last looked at; whether the peer's.
    pub committed: Arc<Mutex<Vec<(Operation, bool)>>>,
    /// What this node does otherwise than it should.
    pub sabotage: Option<Sabotage>,
    startup: Startup,
    sight: Result<Duration, Duration>,
    last_heard: Duration,
    report: Option<Report>,
    remembers: bool,
    phones: PhoneEvidence,
    machine: Machine,
    reunion: Option<Reunion>,
    compact_at: Duration,
    release_at: Duration,
    scrub_at: Duration,
    look_again: Duration,
    mend_at: Duration,
    /// Audio faults noted when the peer was last asked.
    faults_asked_for: u64,
}

/// How long logs are, by seed.
#[derive(Debug, Clone, Copy)]
pub struct Lengths {
    /// Entries that stay although both hold them.
    pub keep: u64,
    /// Entries at most.
    pub most: u64,
}

impl Node {
    /// A node that was never started.
    pub fn new(id: NodeId, dir: PathBuf, seed: u64) -> Self {
        let disk = Disk::new(&dir, seed);
        Self {
            id,
            dir,
            disk,
            have: Vector::default(),
            quarantine: Quarantine::default(),
            live: None,
            boot: 0,
        }
    }

    /// Starts the process.
    pub fn start(&mut self, group: &Group, nonce: u64, now: Now) -> Result<(), StoreError> {
        self.boot += 1;
        let options = Options {
            node: self.id.clone(),
            min_free_bytes: 0,
            clock: wall,
        };
        let store = Store::open(&self.dir, options)?;
        let kept = store.local(OWNERSHIP, group.name.as_str())?;
        let kept = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let committed: Arc<Mutex<Vec<_>>> = Arc::default();
        let told = Arc::clone(&committed);
        store.on_commit(Box::new(move |c: &Committed| {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            told.extend(c.operations.iter().map(|o| (o.clone(), c.remote)));
        }));
        let mut session = Session::new(store.origin(), nonce, nonce);
        session.local(exchange::local(&store), now);
        self.live = Some(Live {
            store,
            session,
            ownership: kept.unwrap_or_else(|| Ownership::initial(group, now.wall)),
            calls: 0,
            way: Way::default(),
            deadline: None,
            committed,
            sabotage: None,
            startup: Startup::new(now.mono, GRACE),
            sight: Err(now.mono),
            last_heard: Duration::ZERO,
            report: None,
            remembers: false,
            phones: PhoneEvidence::new(group, &[]),
            machine: Machine::new(group.clone()),
            reunion: None,
            compact_at: now.mono,
            release_at: now.mono,
            scrub_at: now.mono,
            look_again: now.mono + MEND_AGAIN,
            mend_at: now.mono,
            faults_asked_for: 0,
        });
        Ok(())
    }

    /// Looks at what is quarantined; what is so now that was not, and what no longer.
    pub fn look_at_quarantine(&mut self) -> (Vec<Quarantined>, Vec<EntityKey>) {
        let mut begun = Vec::new();
        let Some(live) = &self.live else {
            return (begun, Vec::new());
        };
        let quarantined = live.store.quarantined();
        if quarantined.is_empty() && self.quarantine.is_empty() {
            return (begun, Vec::new());
        }
        let keys: Vec<_> = quarantined.iter().map(|q| q.entity.clone()).collect();
        let mut before = std::mem::take(&mut self.quarantine);
        let held = live.store.records_of(&keys);
        for (key, why) in keys.into_iter().zip(quarantined) {
            let earlier = before.remove(&key);
            if earlier.is_none() {
                begun.push(why);
            }
            let record = match &held {
                Ok(held) => held.iter().find(|r| r.entity == key).cloned(),
                // The power is gone: what was held before is.
                Err(_) => earlier.flatten(),
            };
            self.quarantine.insert(key, record);
        }
        (begun, before.into_keys().collect())
    }

    /// Ends it, as `kill -9` or a loss of power does.
    pub fn crash(&mut self) {
        self.disk.lose_power();
        self.live = None;
    }

    /// Whether it answers requests of the group now.
    pub fn serving(&self, now: Now) -> Option<Serving> {
        let live = self.live.as_ref()?;
        let (visible, started) = (live.sight.is_ok(), live.started(now));
        Some(serves(Place {
            me: &self.id,
            ownership: &live.ownership,
            peer_answers: visible,
            peer_visible: visible,
            started,
            answering_first: true,
            witness: None,
        }))
    }

    /// What it tells in a heartbeat.
    pub fn report(&self, now: Now) -> Option<Report> {
        let live = self.live.as_ref()?;
        Some(Report {
            boot: self.boot,
            seen: live.store.seen(),
            ownership: live.ownership.clone(),
            ready: live.started(now),
        })
    }

    /// A phone of the home registers at this node's system.
    pub fn phone(&mut self, group: &Group, kind: PhoneKind, rules: &Rules, now: Now) {
        let (Some(live), Ok(home), Ok(at)) = (
            &mut self.live,
            group.home.as_str().parse(),
            self.id.as_str().parse(),
        ) else {
            return;
        };
        let phone = Registration {
            extension: "2001".to_owned(),
            kind,
            home_system: home,
            at_system: at,
        };
        let after = rules.failover_after;
        live.phones.registered(&phone, live.sight, after, now.mono);
    }

    /// When this node must be looked at again by time alone.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        let live = self.live.as_ref()?;
        let sync = live.session.next_deadline();
        let startup = live.startup.deadline(now);
        sync.into_iter().chain(live.deadline).chain(startup).min()
    }
}

impl Live {
    fn started(&self, now: Now) -> bool {
        self.remembers && self.startup.done(now.mono)
    }

    /// Tells the session what is durable now.
    pub fn tell(&mut self, now: Now) {
        self.session.local(exchange::local(&self.store), now);
    }

    /// The peer's question came: who owns what, as it knows it.
    pub fn asked(&mut self, group: &Group, report: &Report) -> Result<(), StoreError> {
        match adopt(group, &self.ownership, &report.ownership) {
            Some(next) => self.own(next),
            None => Ok(()),
        }
    }

    /// The peer's answer to a heartbeat came.
    pub fn answered(
        &mut self,
        group: &Group,
        report: &Report,
        nonces: [u64; 2],
        now: Now,
    ) -> Result<(), StoreError> {
        if self.sight.is_ok() && self.report.as_ref().is_some_and(|r| r.boot != report.boot) {
            self.lose_sight(nonces[0], now);
        }
        self.last_heard = now.mono;
        if self.sight.is_err() {
            self.sight = Ok(now.mono);
            self.phones.sight(self.sight);
            self.session.visible(true, nonces[1], now);
        }
        self.report = Some(report.clone());
        self.asked(group, report)?;
        if self.remember(now)? {
            self.startup.heard();
        }
        Ok(())
    }

    /// Whether the peer has been silent for too long.
    pub fn watch(&mut self, nonce: u64, now: Now) {
        if self.sight.is_ok() && now.mono >= self.last_heard + INVISIBLE_AFTER {
            self.lose_sight(nonce, now);
        }
    }

    /// Mails under way are given up with the peer.
    fn lose_sight(&mut self, nonce: u64, now: Now) {
        self.sight = Err(now.mono);
        self.phones.sight(self.sight);
        self.session.visible(false, nonce, now);
        self.disconnect(now, "the peer went out of sight");
    }

    /// The connection is gone, and with it the answers that were awaited.
    pub fn disconnect(&mut self, now: Now, why: &str) {
        let passing = vmsync_core::sync::Blame::Passing;
        for slip in std::mem::take(&mut self.way.outstanding) {
            if self.sabotage == Some(Sabotage::BelieveLostAnswers) {
                self.session.sent(slip.ticket, now);
            } else {
                self.session.failed(slip.ticket, now, passing, why);
            }
        }
        self.way.connection += 1;
        self.way.broken = false;
    }

    /// Settles, before anything is written, that no sequence number can be used twice.
    fn remember(&mut self, now: Now) -> Result<bool, StoreError> {
        if !self.remembers {
            let origin = self.store.origin();
            let held = self.store.have().get(&origin);
            let known = self.report.as_ref().map(|r| r.seen.get(&origin));
            if !self.trusts() && exchange::must_begin_anew(held, known) {
                self.new_incarnation(now)?;
            }
            self.remembers = true;
        }
        Ok(true)
    }

    fn trusts(&self) -> bool {
        self.sabotage == Some(Sabotage::ReuseNumbers)
    }

    fn new_incarnation(&mut self, now: Now) -> Result<(), StoreError> {
        let origin = self.store.new_incarnation()?;
        self.session.rename(origin);
        self.tell(now);
        Ok(())
    }

    /// Takes on an ownership once it is durable.
    pub fn own(&mut self, next: Ownership) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(&next).unwrap_or_default();
        self.store
            .put_local(OWNERSHIP, next.group.as_str(), Some(&bytes))?;
        self.ownership = next;
        Ok(())
    }

    /// Asks the machine; a transition is not applied yet. `None` while still starting.
    pub fn decide(
        &mut self,
        me: &NodeId,
        rules: &Rules,
        ask: Option<&Ask>,
        now: Now,
    ) -> Result<Option<(View, Decision)>, StoreError> {
        if !self.startup.done(now.mono) || !self.remember(now)? {
            return Ok(None);
        }
        let ready = self.report.as_ref().is_some_and(|r| r.ready);
        let view = View {
            me: me.clone(),
            peer: self.sight,
            desk_phones: self.phones.desk_phones(),
            sync_started: self.session.started().filter(|_| ready),
            sync_finished: self.session.finished(),
            pending_operations: self.session.pending_out() + self.session.pending_in(),
            calls: self.calls,
            speaks: self.sight.is_ok(),
            witness: None,
        };
        let decision = self.machine.decide(&self.ownership, &view, rules, ask, now);
        self.deadline = decision.deadline;
        Ok(Some((view, decision)))
    }

    /// The mail's head, once what it brought is durable.
    pub fn hear(&mut self, head: &Head, applied: exchange::Applied, now: Now) {
        self.tell(now);
        if applied.old_digest {
            self.session.heard_with_old_digest(head, now);
        } else {
            self.session.heard(head, now);
        }
        self.session.want(applied.wanted);
        self.session.release(applied.quarantined);
        if head.buckets.is_some() && self.session.diverged() {
            self.session.differs(exchange::differing(&self.store, head));
        }
    }

    /// Acts on what the session found.
    pub fn act(&mut self, now: Now) -> Result<Vec<&'static str>, StoreError> {
        let mut happened = Vec::new();
        while let Some(event) = self.session.next_event() {
            match event {
                Event::PeerKnowsMore { .. } if self.trusts() => {}
                Event::PeerKnowsMore { origin, .. } if origin == self.store.origin() => {
                    self.new_incarnation(now)?;
                    happened.push("forgotten operations found");
                }
                Event::Started { ours, theirs } => {
                    self.release_at = now.mono;
                    self.mend_at = now.mono;
                    if let Some(reunion) = &mut self.reunion {
                        reunion.again(&ours, &theirs);
                    } else if !(ours.covers(&theirs) && theirs.covers(&ours)) {
                        self.reunion = Some(Reunion::new(ours, theirs));
                    }
                }
                Event::Finished => {
                    if let Some(reunion) = self.reunion.take() {
                        self.store.merge_report(&reunion)?;
                        happened.push("merge reports");
                    }
                }
                Event::Seeding { .. } => happened.push("seedings"),
                Event::Skipping { .. } => happened.push("operations skipped"),
                Event::Diverged => happened.push("states that differed"),
                Event::PeerKnowsMore { .. } => {}
            }
        }
        Ok(happened)
    }

    /// Keeps the log short, and tries what is quarantined again.
    pub fn upkeep(&mut self, lengths: Lengths, now: Now) -> Result<u64, StoreError> {
        let mut gone = 0;
        if now.mono >= self.compact_at {
            self.compact_at = now.mono + COMPACT_EVERY;
            let heard = self.session.started().and(self.session.peer_have());
            gone = self.store.compact(&CompactTo {
                both: heard.cloned().unwrap_or_default(),
                keep: lengths.keep,
                most: lengths.most,
                never_past: self.reunion.as_ref().map(Reunion::both),
            })?;
            self.tell(now);
        }
        if self.session.started().is_some() && now.mono >= self.release_at {
            self.release_at = now.mono + RELEASE_EVERY;
            let quarantined = self.store.quarantined().into_iter();
            let entities = quarantined.map(|q| q.entity.to_string()).collect();
            if self.sabotage != Some(Sabotage::NeverRelease) {
                self.session.release(entities);
            }
        }
        Ok(gone)
    }

    /// Whether each audio file is there and whole, as a node looks once it has started.
    pub fn first_look(&mut self) -> Result<(), StoreError> {
        let mut after: Option<String> = None;
        loop {
            let step = self.store.scrub(&ScrubAsk {
                after: after.as_deref(),
                files: 1_000,
                bytes: u64::MAX,
                read: false,
            })?;
            after = step.through;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Reads some audio files, and asks the peer for those found missing or damaged.
    pub fn see_to_audio(&mut self, now: Now) -> Result<(), StoreError> {
        if now.mono >= self.look_again {
            self.look_again = now.mono + MEND_AGAIN;
            let faulty = self.store.audio_faults().into_iter().map(|f| f.entity);
            self.store.check_audio_of(&faulty.collect::<Vec<_>>())?;
        }
        if now.mono >= self.scrub_at {
            self.scrub_at = now.mono + SCRUB_STEP;
            let after = self.store.local(SCRUB.0, SCRUB.1)?;
            let after = after.and_then(|bytes| String::from_utf8(bytes).ok());
            let files = self.store.totals()?.messages.div_ceil(SCRUB_STEPS);
            let step = self.store.scrub(&ScrubAsk {
                after: after.as_deref(),
                files: files.max(LEAST_FILES),
                bytes: u64::MAX,
                read: self.sabotage != Some(Sabotage::LookWithoutReading),
            })?;
            let through = step.through.as_ref().map(String::as_bytes);
            self.store.put_local(SCRUB.0, SCRUB.1, through)?;
        }
        let (faults, noted) = self.store.audio_fault_counts();
        let asked = noted == self.faults_asked_for && now.mono < self.mend_at;
        if faults > 0 && self.session.started().is_some() && !asked {
            self.faults_asked_for = noted;
            self.mend_at = now.mono + MEND_AGAIN;
            let faults = self.store.audio_faults();
            self.session.lacks(faults.iter().map(|f| f.bucket));
        }
        Ok(())
    }

    /// The peer holds the records of these entities.
    pub fn released(&mut self, entities: &[String], now: Now) -> Result<(), StoreError> {
        let keys = entities.iter().cloned().map(EntityKey::try_from);
        let keys: Vec<_> = keys.filter_map(Result::ok).collect();
        self.store.release(&keys)?;
        self.tell(now);
        Ok(())
    }

    /// What was committed since this was last asked; whether the peer's.
    pub fn committed(&self) -> Vec<(Operation, bool)> {
        let mut committed = self
            .committed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut committed)
    }
}
