//! The event loop: one queue, one clock, two nodes.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    sync::Arc,
    time::Duration,
};

use vmsync::pair::Report;
use vmsync_config::{
    Group,
    words::{Now, UnixMillis},
};
use vmsync_core::wire::Keys;
use vmsync_store::{Quarantined, StoreError, simulate};

use super::{
    Report as Counts, Sabotage,
    beats::{Act, Cuts, Line},
    damage::Damage,
    judge::Judge,
    link::{Link, Refuser},
    mailing::{Mail, Reply},
    node::{Lengths, Live, Node, set_wall},
    operating::Talk,
    oracle::Oracle,
    rng::Rng,
    setting::{self, BEAT, Tempers},
    trouble::Copy,
};

/// The home is node 0, its backup node 1.
pub(super) const HOME: usize = 0;
pub(super) const BACKUP: usize = 1;
/// Both wall clocks are somewhere within a day of it. Long past: what the file system says of a
/// file's age is of today and must not matter.
const EPOCH: u64 = 1_600_000_000_000;
const TRACE: usize = 200;

#[derive(Debug)]
pub(super) enum Event {
    /// Every second a node asks its peer how it is, its mail server for a greeting, and the witness.
    Beat(usize),
    /// Something changed that the peer should know at once.
    Poke(usize),
    /// The question has come to this node, from that life of its peer.
    Asked(usize, u64, Box<Report>),
    /// The answer has come back to this node, in that life of it.
    Told(usize, u64, Box<Report>),
    /// What the peer's mail server said to this node, in that life of it.
    Greeted(usize, u64),
    /// A request of an operator is passed on.
    Act(Box<Act>),
    /// A call's PBX.
    Talk(u64),
    /// An operator puts in order what the troubles left.
    Tidy,
    /// A deadline.
    Wake(usize),
    Mail(usize, Box<Mail>),
    Reply(Reply),
    /// The sender finds that its connection is broken: node, its life, the connection.
    Broken(usize, u64, u64),
    Trouble,
    Restart(usize),
    Join(Line, usize),
    /// This audio file of the node can be read again.
    Readable(usize, uuid::Uuid),
}

/// The two nodes and everything around them.
pub struct World {
    pub(super) rng: Rng,
    pub(super) now: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    events: BTreeMap<u64, Event>,
    numbered: u64,
    pub(super) nodes: [Node; 2],
    pub(super) group: Group,
    /// How many times slower than usual everything but mails goes.
    pub(super) pace: u32,
    pub(super) lengths: Lengths,
    /// Records in one step of a seeding.
    pub(super) step: u64,
    pub(super) keys: Keys,
    pub(super) oracle: Oracle,
    pub(super) judge: Judge,
    /// What each wall clock is off, in ms, beyond a day behind.
    pub(super) skew: [u64; 2],
    /// What can't get through.
    pub(super) cuts: Cuts,
    /// Calls under way, by number; and the next.
    pub(super) talks: BTreeMap<u64, Talk>,
    pub(super) talked: u64,
    pub(super) link: Link,
    pub(super) troubled: bool,
    /// Old copies of the data folders.
    pub(super) copies: [Option<Copy>; 2],
    /// Who takes no mail with certain entities in it.
    pub(super) refusers: [Option<Refuser>; 2],
    /// Audio files that were lost or damaged.
    pub(super) damages: Vec<Damage>,
    /// What happens in this seed beside all else.
    pub(super) tempers: Tempers,
    pub(super) sabotage: Option<Sabotage>,
    /// When the data folder of each node was last replaced.
    pub(super) replaced: [Duration; 2],
    wakes: [Option<Duration>; 2],
    /// When the last answer to this node's mails comes.
    pub(super) answered: [Duration; 2],
    counts: BTreeMap<&'static str, u64>,
    trace: VecDeque<String>,
    traced: usize,
    _dir: tempfile::TempDir,
}

impl World {
    /// A pair that has never spoken, with rules, lengths and a link of this seed.
    pub fn new(seed: u64, sabotage: Option<Sabotage>) -> Result<Self, String> {
        let mut rng = Rng::new(seed);
        simulate::seed_chance(rng.number());
        // The disks are simulated: the files may lie in memory.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let dir = dir.map_err(|e| format!("no folder for the data: {e}"))?;
        let group = setting::group()?;
        let pace = setting::pace(&mut rng);
        let tempers = Tempers::new(&mut rng);
        let configs = setting::configs(&mut rng, pace, tempers.flaps)?;
        let day = 86_400_000;
        let skew = [0, 1].map(|_| match rng.below(4) {
            0 => rng.below(2 * day),
            _ => day + rng.below(1_200_000),
        });
        let lengths = Lengths {
            keep: rng.below(12),
            most: 12 + rng.below(60),
        };
        let step = 1 + rng.below(6);
        let link = Link::new(&mut rng);
        let judge = Judge::new(&configs[BACKUP], &group);
        let nodes = configs.map(|config| {
            let folder = dir.path().join(config.node.id.as_str());
            Node::new(config, folder, rng.number())
        });
        let keys = Keys::parse(&"5ac3".repeat(16))?;
        let mut world = Self {
            nodes,
            rng,
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            numbered: 0,
            group,
            pace,
            lengths,
            step,
            keys,
            oracle: Oracle::default(),
            judge,
            skew,
            cuts: Cuts::default(),
            talks: BTreeMap::new(),
            talked: 0,
            link,
            troubled: true,
            copies: [None, None],
            refusers: [None, None],
            damages: Vec::new(),
            tempers,
            sabotage,
            replaced: [Duration::ZERO; 2],
            wakes: [None; 2],
            answered: [Duration::ZERO; 2],
            counts: BTreeMap::new(),
            trace: VecDeque::new(),
            traced: TRACE,
            _dir: dir,
        };
        for n in 0..2 {
            world.schedule(BEAT, Event::Beat(n));
            world.schedule(Duration::ZERO, Event::Restart(n));
        }
        world.schedule(BEAT, Event::Trouble);
        if pace > 1 {
            world.count("slow seeds");
        }
        Ok(world)
    }

    /// Lets `span` pass, or so much more as this seed is slower.
    pub fn run_at_pace(&mut self, span: Duration) -> Result<(), String> {
        self.run(span * self.pace)
    }

    /// Lets `span` pass.
    pub fn run(&mut self, span: Duration) -> Result<(), String> {
        let end = self.now + span;
        while let Some(Reverse((at, number))) = self.queue.peek().copied() {
            if at > end {
                break;
            }
            self.queue.pop();
            self.now = self.now.max(at);
            if let Some(event) = self.events.remove(&number) {
                self.handle(event)?;
            }
        }
        self.now = end;
        Ok(())
    }

    /// Mails sent so far.
    pub fn mails(&self) -> u64 {
        self.counts.get("mails").copied().unwrap_or(0)
    }

    /// What happened.
    pub fn report(&self) -> Counts {
        let mut counts = self.counts.clone();
        counts.extend(self.oracle.counts());
        counts.extend(self.judge.counts());
        Counts { counts }
    }

    /// Keeps the whole trace.
    pub fn trace_all(&mut self) {
        self.traced = usize::MAX;
    }

    /// Tells in the trace what both sessions believe.
    pub fn note_sessions(&mut self) {
        for n in 0..2 {
            let live = self.nodes[n].live.as_ref();
            let session = live.map(|l| (l.way.outstanding.len(), l.way.broken, &l.session));
            let told = format!("node {n}: under way, broken, session: {session:?}");
            self.note(&told);
        }
    }

    /// The last things that happened.
    pub fn trace(&self) -> Vec<String> {
        self.trace.iter().cloned().collect()
    }

    pub(super) fn count(&mut self, what: &'static str) {
        self.counts_up(what, 1);
    }

    pub(super) fn counts_up(&mut self, what: &'static str, by: u64) {
        *self.counts.entry(what).or_default() += by;
    }

    pub(super) fn note(&mut self, what: &str) {
        if self.trace.len() >= self.traced {
            self.trace.pop_front();
        }
        self.trace
            .push_back(format!("{:>9.3}s {what}", self.now.as_secs_f64()));
    }

    pub(super) fn schedule(&mut self, after: Duration, event: Event) {
        self.numbered += 1;
        self.events.insert(self.numbered, event);
        self.queue.push(Reverse((self.now + after, self.numbered)));
    }

    /// Both clocks of a node; the wall clocks are wrong, each in its own way. From here on its store
    /// reads that one.
    pub(super) fn clock(&self, n: usize) -> Now {
        let millis = u64::try_from(self.now.as_millis()).unwrap_or(u64::MAX);
        let wall = UnixMillis(EPOCH - 86_400_000 + self.skew[n] + millis);
        set_wall(wall);
        Now {
            mono: self.now,
            wall,
        }
    }

    /// Mails under way from `n` are gone, as after the hours a restore takes.
    pub(super) fn forget_mails_of(&mut self, n: usize) {
        self.events
            .retain(|_, e| !matches!(e, Event::Mail(to, _) if *to == 1 - n));
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        let n = match event {
            Event::Beat(n) => return self.beat(n),
            Event::Poke(n) => {
                self.ask_peer(n);
                return Ok(());
            }
            Event::Asked(n, boot, report) => return self.asked(n, boot, &report),
            Event::Told(n, boot, report) => return self.told(n, boot, &report),
            Event::Greeted(n, boot) => return self.greeted(n, boot),
            Event::Act(act) => return self.passed_on(*act),
            Event::Talk(key) => return self.talk(key),
            Event::Tidy => return self.tidy_up(false),
            Event::Wake(n) => {
                if self.wakes[n].is_some_and(|at| at <= self.now) {
                    self.wakes[n] = None;
                }
                n
            }
            Event::Mail(n, mail) => {
                self.receive(n, &mail)?;
                n
            }
            Event::Reply(reply) => {
                let n = reply.to();
                self.reply(reply)?;
                n
            }
            Event::Broken(n, boot, connection) => {
                self.broken(n, boot, connection);
                n
            }
            Event::Trouble => return self.trouble(),
            Event::Restart(n) => {
                self.restart(n)?;
                n
            }
            Event::Join(line, n) => {
                self.cuts.of(line)[n] = false;
                return Ok(());
            }
            Event::Readable(n, blob) => return self.readable(n, blob),
        };
        self.settle(n)
    }

    /// Does something at a node that is up. An error of its store is its end if the disk is down,
    /// and none that may happen otherwise.
    pub(super) fn at<T>(
        &mut self,
        n: usize,
        run: impl FnOnce(&mut Live, Now) -> Result<T, StoreError>,
    ) -> Result<Option<T>, String> {
        let now = self.clock(n);
        let Some(live) = &mut self.nodes[n].live else {
            return Ok(None);
        };
        let result = run(live, now);
        self.looked_at(n)?;
        match result {
            Ok(value) => Ok(self.nodes[n].live.is_some().then_some(value)),
            Err(_) if self.nodes[n].live.is_none() => Ok(None),
            Err(error) => Err(format!("the store of node {n}: {error}")),
        }
    }

    /// After anything that touched a node's store: what it committed is known, and if its power was
    /// lost on the way, it is down.
    pub(super) fn looked_at(&mut self, n: usize) -> Result<(), String> {
        self.watch(n)?;
        if let Some(live) = &self.nodes[n].live {
            self.nodes[n].have = live.store.have();
            self.oracle.durable(&live.committed())?;
        }
        let (begun, ended) = self.nodes[n].look_at_quarantine();
        for Quarantined { entity, why, .. } in begun {
            self.count("quarantined");
            if why.contains("its audio can't be read") {
                self.count("quarantined, its audio unreadable");
            }
            self.note(&format!("node {n}: {entity} is quarantined: {why}"));
        }
        for entity in ended {
            self.count("quarantines ended");
            self.note(&format!("node {n}: {entity} is quarantined no longer"));
        }
        if self.nodes[n].live.is_some() && self.nodes[n].disk.is_down() {
            self.count("power losses at a step");
            self.crash(n);
        }
        Ok(())
    }

    /// After anything happened to a node: decide, act on events, send what is due.
    pub(super) fn settle(&mut self, n: usize) -> Result<(), String> {
        let turned = self.at(n, Live::turn)?;
        if turned == Some(true) {
            self.schedule(Duration::ZERO, Event::Poke(n));
        }
        self.judge_turn(n)?;
        if let Some(happened) = self.at(n, Live::act)? {
            for what in happened {
                self.count(what);
                self.note(&format!("node {n}: {what}"));
            }
        }
        let lengths = self.lengths;
        let gone = self.at(n, |live, now| live.upkeep(lengths, now))?;
        self.counts_up("log entries compacted", gone.unwrap_or(0));
        if self.tempers.spoils {
            self.at(n, Live::see_to_audio)?;
        }
        let peer = (&self.nodes[1 - n].have, self.replaced[1 - n]);
        self.oracle.at_any_time(&self.nodes[n], peer)?;
        while let Some(plan) = self.due(n) {
            self.post(n, &plan)?;
        }
        self.wake(n);
        Ok(())
    }

    fn wake(&mut self, n: usize) {
        let Some(at) = self.nodes[n].deadline(self.now) else {
            return;
        };
        let sooner = self.wakes[n].is_none_or(|wake| at < wake || wake <= self.now);
        if at > self.now && at < self.now + BEAT * self.pace && sooner {
            self.wakes[n] = Some(at);
            self.schedule(at.saturating_sub(self.now), Event::Wake(n));
        }
    }

    fn due(&mut self, n: usize) -> Option<vmsync_core::sync::Plan> {
        self.nodes[n].live.as_mut()?.session.poll(self.now)
    }
}

/// The ids of mails and audio files.
pub(super) fn id(rng: &mut Rng) -> uuid::Uuid {
    let number = u128::from(rng.number()) << 64 | u128::from(rng.number());
    uuid::Uuid::from_u128(number)
}

/// Bytes of a mail, shared by its copies.
pub(super) type Bytes = Arc<[u8]>;
