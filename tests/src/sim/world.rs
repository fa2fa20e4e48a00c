//! The event loop: one queue, one clock, two nodes.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    sync::Arc,
    time::Duration,
};

use vmsync_config::{
    FailbackPolicy, Group, Trigger,
    words::{GroupName, NodeId, Now, UnixMillis},
};
use vmsync_core::{
    resilience::{Ask, Request, Rules},
    wire::Keys,
};
use vmsync_store::{Quarantined, StoreError, simulate};

use super::{
    Report as Counts, Sabotage,
    damage::Damage,
    link::{Link, Refuser},
    mailing::{Mail, Reply},
    node::{Lengths, Live, Node, Report, set_wall},
    oracle::Oracle,
    rng::Rng,
    trouble::Copy,
};

/// The home is node 0, its backup node 1.
pub(super) const BACKUP: usize = 1;
const BEAT: Duration = Duration::from_secs(1);
/// Both wall clocks are somewhere within a day of it. Long past: what the file system says of a
/// file's age is of today and must not matter.
const EPOCH: u64 = 1_600_000_000_000;
const TRACE: usize = 200;

#[derive(Debug)]
pub(super) enum Event {
    /// Every second a node asks its peer how it is.
    Beat(usize),
    /// The question has come to this node.
    Asked(usize, Box<Report>),
    /// The answer has come back to this node, in that life of it.
    Told(usize, u64, Box<Report>),
    /// A deadline.
    Wake(usize),
    Mail(usize, Box<Mail>),
    Reply(Reply),
    /// The sender finds that its connection is broken: node, its life, the connection.
    Broken(usize, u64, u64),
    Trouble,
    Restart(usize),
    Join(usize),
    /// This audio file of the node can be read again.
    Readable(usize, uuid::Uuid),
}

/// Troubles that not every seed has: without them the others come further.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tempers {
    /// Receivers refuse for good what is in some mails.
    pub(super) refuses: bool,
    /// Disks lose audio files, or spoil them.
    pub(super) spoils: bool,
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
    pub(super) rules: Rules,
    pub(super) lengths: Lengths,
    /// Records in one step of a seeding.
    pub(super) step: u64,
    pub(super) keys: Keys,
    pub(super) oracle: Oracle,
    /// What each wall clock is off, in ms, beyond a day behind.
    pub(super) skew: [u64; 2],
    /// The way from this node to the other is cut.
    pub(super) cut: [bool; 2],
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
        let group = group()?;
        let day = 86_400_000;
        let skew = [0, 1].map(|_| match rng.below(4) {
            0 => rng.below(2 * day),
            _ => day + rng.below(1_200_000),
        });
        let rules = rules(&mut rng);
        let lengths = Lengths {
            keep: rng.below(12),
            most: 12 + rng.below(60),
        };
        let step = 1 + rng.below(6);
        let link = Link::new(&mut rng);
        let tempers = Tempers {
            refuses: rng.chance(40),
            spoils: rng.chance(45),
        };
        let mut node = |id: &NodeId| {
            let folder = dir.path().join(id.as_str());
            Node::new(id.clone(), folder, rng.number())
        };
        let nodes = [node(&group.home), node(&group.backup)];
        let keys = Keys::parse(&"5ac3".repeat(16))?;
        let mut world = Self {
            nodes,
            rng,
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            numbered: 0,
            group,
            rules,
            lengths,
            step,
            keys,
            oracle: Oracle::default(),
            skew,
            cut: [false; 2],
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
        Ok(world)
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

    /// Ends all troubles: links whole, nodes up, calls over.
    pub fn heal(&mut self) {
        self.note("healed");
        self.troubled = false;
        self.cut = [false; 2];
        self.link = Link::healed();
        self.refusers = [None, None];
        self.all_readable_soon();
        for n in 0..2 {
            self.nodes[n].disk.hold();
            if self.nodes[n].live.is_none() {
                self.schedule(Duration::ZERO, Event::Restart(n));
            }
            if let Some(live) = &mut self.nodes[n].live {
                live.calls = 0;
            }
        }
    }

    /// An administrator brings the group home, where no policy has.
    pub fn bring_home(&mut self) -> Result<(), String> {
        let owned = |world: &Self| {
            world.nodes[BACKUP]
                .live
                .as_ref()
                .map(|l| l.ownership.clone())
        };
        let Some(ownership) = owned(self) else {
            return Err("the backup is down".to_owned());
        };
        let away = ownership.owner == self.group.backup;
        if away && !ownership.held && self.rules.policy != FailbackPolicy::Manual {
            return Err("no policy has brought the group home".to_owned());
        }
        if away {
            self.ask(Request::Failback { force: false })?;
        }
        if owned(self).is_some_and(|o| o.owner == self.group.home) {
            Ok(())
        } else {
            Err("an administrator could not bring the group home".to_owned())
        }
    }

    /// The promises that hold at rest.
    pub fn check_rest(&mut self) -> Result<(), String> {
        let serving = [0, 1].map(|n| self.nodes[n].serving(self.clock(n)));
        self.oracle.at_rest(&self.nodes, &serving, self.lengths)
    }

    /// Mails sent so far.
    pub fn mails(&self) -> u64 {
        self.counts.get("mails").copied().unwrap_or(0)
    }

    /// What happened.
    pub fn report(&self) -> Counts {
        let mut counts = self.counts.clone();
        counts.extend(self.oracle.counts());
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
            Event::Beat(n) => {
                self.beat(n);
                n
            }
            Event::Asked(n, report) => {
                self.asked(n, &report)?;
                n
            }
            Event::Told(n, boot, report) => {
                self.told(n, boot, &report)?;
                n
            }
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
            Event::Join(n) => {
                self.cut[n] = false;
                return Ok(());
            }
            Event::Readable(n, blob) => return self.readable(n, blob),
        };
        self.settle(n)
    }

    fn beat(&mut self, n: usize) {
        self.schedule(BEAT, Event::Beat(n));
        let (nonce, now) = (self.rng.number(), self.clock(n));
        if let Some(live) = &mut self.nodes[n].live {
            live.watch(nonce, now);
        }
        if let Some(report) = self.nodes[n].report(now).filter(|_| !self.cut[n]) {
            let delay = self.rng.millis(1, 50);
            self.schedule(delay, Event::Asked(1 - n, Box::new(report)));
        }
    }

    fn asked(&mut self, n: usize, report: &Report) -> Result<(), String> {
        let group = self.group.clone();
        self.at(n, |live, _| live.asked(&group, report))?;
        let now = self.clock(n);
        if let Some(report) = self.nodes[n].report(now).filter(|_| !self.cut[n]) {
            let (delay, boot) = (self.rng.millis(1, 50), self.nodes[1 - n].boot);
            self.schedule(delay, Event::Told(1 - n, boot, Box::new(report)));
        }
        Ok(())
    }

    fn told(&mut self, n: usize, boot: u64, report: &Report) -> Result<(), String> {
        if self.nodes[n].boot != boot {
            return Ok(());
        }
        let nonces = [self.rng.number(), self.rng.number()];
        let group = self.group.clone();
        self.at(n, |live, now| live.answered(&group, report, nonces, now))?;
        Ok(())
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
        if let Some(happened) = self.at(n, Live::act)? {
            for what in happened {
                self.count(what);
                self.note(&format!("node {n}: {what}"));
            }
        }
        self.decide(n, None)?;
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
        if at > self.now && at < self.now + BEAT && sooner {
            self.wakes[n] = Some(at);
            self.schedule(at.saturating_sub(self.now), Event::Wake(n));
        }
    }

    fn due(&mut self, n: usize) -> Option<vmsync_core::sync::Plan> {
        self.nodes[n].live.as_mut()?.session.poll(self.now)
    }

    /// An operator asks the backup; the home would pass it on.
    pub(super) fn ask(&mut self, request: Request) -> Result<(), String> {
        self.decide(BACKUP, Some(&Ask::from(request)))
    }

    fn decide(&mut self, n: usize, ask: Option<&Ask>) -> Result<(), String> {
        let (me, rules) = (self.nodes[n].id.clone(), self.rules.clone());
        let decided = self.at(n, |live, now| live.decide(&me, &rules, ask, now))?;
        if let Some((view, decision)) = decided.flatten() {
            if let Some(next) = &decision.ownership {
                self.oracle.fired(&self.group, &view, &decision)?;
                self.note(&format!("epoch {}: {}", next.epoch, next.reason));
                let next = next.clone();
                self.at(n, |live, _| live.own(next))?;
            }
            if let Some(refused) = &decision.refused {
                self.count("requests refused");
                self.note(&format!("refused: {}", refused.reason));
            }
        }
        match &self.nodes[n].live {
            Some(live) => self.oracle.owns(n, &live.ownership),
            None => Ok(()),
        }
    }
}

/// The ids of mails and audio files.
pub(super) fn id(rng: &mut Rng) -> uuid::Uuid {
    let number = u128::from(rng.number()) << 64 | u128::from(rng.number());
    uuid::Uuid::from_u128(number)
}

/// Bytes of a mail, shared by its copies.
pub(super) type Bytes = Arc<[u8]>;

fn group() -> Result<Group, String> {
    let id = |name: &str| NodeId::new(name).map_err(|e| e.to_string());
    Ok(Group {
        name: GroupName::new("primary").map_err(|e| e.to_string())?,
        home: id("vmpro1")?,
        backup: id("vmpro2")?,
    })
}

fn rules(rng: &mut Rng) -> Rules {
    use FailbackPolicy::{Automatic, Graceful, Manual};
    let triggers = [Trigger::Phones, Trigger::Visibility, Trigger::Manual];
    let policies = [Graceful, Graceful, Automatic, Manual];
    Rules {
        backs_up_voicemail: !rng.chance(10),
        trigger: rng.pick(&triggers).copied().unwrap_or(Trigger::Phones),
        failover_after: rng.millis(5_000, 30_000),
        policy: rng.pick(&policies).copied().unwrap_or(Graceful),
        timeout: rng.millis(5_000, 40_000),
        stable_for: rng.millis(0, 15_000),
        hold_off: rng.millis(0, 10_000),
        maintenance: None,
    }
}
