//! A node as the shell runs it: the real store, the session, the group with its machine, what is seen
//! of the peer. What survives a crash, and what runs.

use std::{
    cell::Cell,
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use vmsync::{
    agreed::Agreed,
    calls::Calls,
    events::EventHub,
    exchange,
    node::{GroupState, Peer, WitnessSight},
    pair::Report,
};
use vmsync_config::{
    Config, Group,
    words::{NodeId, Now, UnixMillis, Vector},
};
use vmsync_core::{
    resilience::{Ownership, Place, Serving, Startup, serves},
    sync::{Session, Ticket},
};
use vmsync_store::{
    Committed, EntityKey, HeldRecord, Operation, Options, Quarantined, Reunion, Store, StoreError,
    simulate::Disk,
};

use super::{Sabotage, deciding::Happening, rng::Rng, syncing::MEND_AGAIN};

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
    /// As its file says.
    pub config: Arc<Config>,
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
    /// As its file says.
    pub config: Arc<Config>,
    /// The store, open.
    pub store: Store,
    /// The sync session.
    pub session: Session,
    /// The group: its machine, its ownership as durable, its evidence.
    pub group: GroupState,
    /// What is seen of the peer.
    pub peer: Peer,
    /// What is seen of the witness.
    pub witness: Option<WitnessSight>,
    /// The replicated settings in force.
    pub agreed: Agreed,
    /// Its calls.
    pub calls: Calls,
    /// Outgoing mails.
    pub way: Way,
    /// Committed since they were last looked at; whether the peer's.
    pub committed: Arc<Mutex<Vec<(Operation, bool)>>>,
    /// What this node does otherwise than it should.
    pub sabotage: Option<Sabotage>,
    /// What it decided and saw, to be looked at from outside.
    pub happened: Vec<Happening>,
    /// Its heartbeat is under way, until then at most; another waits for it.
    pub asking: Option<Duration>,
    /// Something changed that the peer should know at once.
    pub poked: bool,
    /// Which life of the process.
    pub boot: u64,
    /// When it began.
    pub since: Duration,
    pub(super) startup: Startup,
    /// Since when, in this sight of the peer, both have exchanged what they hold.
    pub(super) exchanged: Option<Duration>,
    pub(super) remembers: bool,
    pub(super) to_adopt: Vec<Ownership>,
    pub(super) was_ready: bool,
    pub(super) decided_at: Duration,
    pub(super) settings_changed: Arc<AtomicBool>,
    pub(super) rng: Rng,
    pub(super) reunion: Option<Reunion>,
    pub(super) compact_at: Duration,
    pub(super) release_at: Duration,
    pub(super) scrub_at: Duration,
    pub(super) look_again: Duration,
    pub(super) mend_at: Duration,
    /// Audio faults noted when the peer was last asked.
    pub(super) faults_asked_for: u64,
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
    pub fn new(config: Config, dir: PathBuf, seed: u64) -> Self {
        let disk = Disk::new(&dir, seed);
        Self {
            id: config.node.id.clone(),
            config: Arc::new(config),
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
        let config = Arc::clone(&self.config);
        let agreed = Agreed::read(&config.failback, &store.settings()?);
        let state = GroupState::load(&store, &config, &config.systems, group.clone(), now)?;
        let (committed, settings_changed) = listen(&store);
        let mut session = Session::new(store.origin(), nonce, nonce);
        session.local(exchange::local(&store), now);
        let pair = &config.pair;
        self.live = Some(Live {
            peer: Peer::new(pair.invisible_after, true, now),
            witness: config.witness.as_ref().map(|w| WitnessSight::new(w, now)),
            startup: Startup::new(now.mono, pair.startup_grace),
            calls: Calls::new(EventHub::new(), Arc::default(), self.id.clone()),
            store,
            session,
            group: state,
            agreed,
            way: Way::default(),
            committed,
            sabotage: None,
            happened: Vec::new(),
            asking: None,
            poked: false,
            boot: self.boot,
            since: now.mono,
            exchanged: None,
            remembers: false,
            to_adopt: Vec::new(),
            was_ready: false,
            decided_at: now.mono,
            settings_changed,
            rng: Rng::new(nonce),
            reunion: None,
            compact_at: now.mono,
            release_at: now.mono,
            scrub_at: now.mono,
            look_again: now.mono + MEND_AGAIN,
            mend_at: now.mono,
            faults_asked_for: 0,
            config,
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
        Some(serves(Place {
            me: &self.id,
            ownership: &live.group.ownership,
            peer_answers: live.peer.answers(now) && live.peer.takes(live.group.name(), &self.id),
            peer_visible: live.peer.visible(),
            started: live.started(now),
            answering_first: self.config.resilience.answering_beats_consistency,
            witness: live.witness(now),
        }))
    }

    /// When this node must be looked at again by time alone.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        let live = self.live.as_ref()?;
        let decided = live.decided_at;
        let decision = live.group.decision.deadline.filter(|at| *at > decided);
        let witness = live.witness.as_ref().and_then(|w| w.deadline(decided));
        let sync = live.session.next_deadline().into_iter();
        sync.chain(decision)
            .chain(live.peer.deadline(decided))
            .chain(witness)
            .chain(live.group.order_due)
            .chain(live.startup.deadline(now))
            .min()
    }
}

impl Live {
    /// What it tells in a heartbeat.
    pub fn report(&self, now: Now) -> Report {
        let group = self.group.name().clone();
        Report {
            node: self.config.node.id.clone(),
            boot: self.boot,
            at: now.wall,
            groups: vec![self.group.ownership.clone()],
            calls: vec![(group.clone(), self.calls.active_in(&group))],
            totals: vmsync::status::TotalsStatus::default(),
            have: self.store.have(),
            seen: self.store.seen(),
            ready: self.started(now),
            mode: None,
            rights: None,
            features: None,
            backs_up: Some(self.config.resilience.backs_up_voicemail),
            orders: Some(self.agreed.standing_orders()),
            challenge: None,
            echo: self.peer.report.as_ref().and_then(|r| r.challenge),
        }
    }

    /// The answer to a heartbeat: it bears a challenge.
    pub fn answer(&mut self, now: Now) -> Report {
        Report {
            challenge: Some(self.peer.challenge(now)),
            ..self.report(now)
        }
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

type CommitLog = Arc<Mutex<Vec<(Operation, bool)>>>;

/// Hears of commits: what they were, and whether a setting was among them.
fn listen(store: &Store) -> (CommitLog, Arc<AtomicBool>) {
    let (committed, changed) = (CommitLog::default(), Arc::<AtomicBool>::default());
    let (told, flag) = (Arc::clone(&committed), Arc::clone(&changed));
    store.on_commit(Box::new(move |c: &Committed| {
        let of_operations = c.operations.iter().map(|o| &o.entity);
        let mut entities = of_operations.chain(c.joined.iter().map(|(entity, _)| entity));
        let unknown = c.operations.is_empty() && c.joined.is_empty();
        if unknown || entities.any(|e| matches!(e, EntityKey::Setting(_))) {
            flag.store(true, Ordering::Relaxed);
        }
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        told.extend(c.operations.iter().map(|o| (o.clone(), c.remote)));
    }));
    (committed, changed)
}
