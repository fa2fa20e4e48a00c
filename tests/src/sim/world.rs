//! The event loop: one queue, one clock, and the ways between the nodes.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    time::Duration,
};

use uuid::Uuid;
use vmsync_config::{
    FailbackPolicy, Group, Trigger,
    words::{GroupName, NodeId, Now, Origin, UnixMillis},
};
use vmsync_core::{
    resilience::{Ask, Ownership, Request, Rules},
    sync::{Blame, Kind, Load, Plan, Ticket},
    wire::Head,
};
use vmsync_store::Operation;

use super::{
    Report,
    link::{Fate, Link},
    node::Node,
    oracle::Oracle,
    rng::Rng,
    store::{Memory, Replica},
};

/// The home is node 0, its backup node 1.
pub(super) const BACKUP: usize = 1;
const BEAT: Duration = Duration::from_secs(1);
const GIVES_UP: Duration = Duration::from_secs(3);
const START: u64 = 1_795_000_000_000;
const TRACE: usize = 80;

/// A mail under way.
#[derive(Debug, Clone)]
pub(super) struct Mail {
    head: Head,
    operations: Vec<Operation>,
}

/// Who waits for a mail's answer: node, its boot, the ticket.
type Waiting = (usize, u64, Ticket);

#[derive(Debug)]
pub(super) enum Event {
    /// Every second a node tells its peer its ownership.
    Beat(usize),
    BeatArrives(usize, Ownership),
    /// A deadline.
    Wake(usize),
    Mail(usize, Box<Mail>, Option<Waiting>),
    Answer(Waiting, Result<(), String>),
    Flush(usize, u64),
    Trouble,
    Restart(usize),
    Join(usize),
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
    pub(super) oracle: Oracle,
    pub(super) skew: [u64; 2],
    /// The way from this node to the other is cut.
    pub(super) cut: [bool; 2],
    pub(super) link: Link,
    pub(super) troubled: bool,
    /// An old copy of a node's data folder.
    pub(super) copies: [Option<(Memory, Ownership)>; 2],
    counts: BTreeMap<&'static str, u64>,
    trace: VecDeque<String>,
}

impl World {
    /// A pair that has never spoken, with rules and a link of this seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let group = group();
        let skew = [rng.below(1_200_000), rng.below(1_200_000)];
        let rules = rules(&mut rng);
        let link = Link::new(&mut rng);
        let start = Now {
            mono: Duration::ZERO,
            wall: UnixMillis(START),
        };
        let node = |id: &NodeId| Node::new(id.clone(), &group, start);
        let mut world = Self {
            nodes: [node(&group.home), node(&group.backup)],
            rng,
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            numbered: 0,
            group,
            rules,
            oracle: Oracle::default(),
            skew,
            cut: [false; 2],
            link,
            troubled: true,
            copies: [None, None],
            counts: BTreeMap::new(),
            trace: VecDeque::new(),
        };
        for n in 0..2 {
            world.schedule(BEAT, Event::Beat(n));
            world.schedule(Duration::ZERO, Event::Restart(n));
        }
        world.schedule(BEAT, Event::Trouble);
        world
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
        for n in 0..2 {
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
        let away = self.nodes[BACKUP].ownership.owner == self.group.backup;
        let held = self.nodes[BACKUP].ownership.held;
        if away && !held && self.rules.policy != FailbackPolicy::Manual {
            return Err("no policy has brought the group home".to_owned());
        }
        if away {
            self.ask(Request::Failback { force: false })?;
        }
        if self.nodes[BACKUP].ownership.owner == self.group.home {
            Ok(())
        } else {
            Err("an administrator could not bring the group home".to_owned())
        }
    }

    /// The promises that hold at rest.
    pub fn check_rest(&self) -> Result<(), String> {
        let serving = [0, 1].map(|n| self.nodes[n].serving(self.clock(n)));
        self.oracle.at_rest(&self.nodes, &serving)
    }

    /// Mails sent so far.
    pub fn mails(&self) -> u64 {
        self.counts.get("mails").copied().unwrap_or(0)
    }

    /// What happened.
    pub fn report(&self) -> Report {
        let mut counts = self.counts.clone();
        counts.extend(self.oracle.rows.iter());
        let acknowledged = u64::try_from(self.oracle.acknowledged()).unwrap_or(u64::MAX);
        counts.insert("acknowledged", acknowledged);
        Report { counts }
    }

    /// The last things that happened.
    pub fn trace(&self) -> Vec<String> {
        self.trace.iter().cloned().collect()
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(super) fn note(&mut self, what: &str) {
        if self.trace.len() >= TRACE {
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

    /// Both clocks of a node; the wall clocks are wrong, each in its own way.
    pub(super) fn clock(&self, n: usize) -> Now {
        let millis = u64::try_from(self.now.as_millis()).unwrap_or(u64::MAX);
        Now {
            mono: self.now,
            wall: UnixMillis(START + self.skew[n] + millis),
        }
    }

    /// Mails under way from `n` are gone, as after the hours a restore takes.
    pub(super) fn forget_mails_of(&mut self, n: usize) {
        let id = &self.nodes[n].id;
        self.events
            .retain(|_, e| !matches!(e, Event::Mail(_, mail, _) if mail.head.from.node == *id));
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Beat(n) => self.beat(n),
            Event::BeatArrives(n, theirs) => {
                let (nonce, now) = (self.rng.number(), self.clock(n));
                self.nodes[n].beat(&self.group, &theirs, nonce, now);
                self.settle(n)
            }
            Event::Wake(n) => self.settle(n),
            Event::Mail(n, mail, waiting) => self.receive(n, &mail, waiting),
            Event::Answer(waiting, outcome) => self.answer(waiting, outcome),
            Event::Flush(n, boot) => self.flush(n, boot),
            Event::Trouble => self.trouble(),
            Event::Restart(n) => self.restart(n),
            Event::Join(n) => {
                self.cut[n] = false;
                Ok(())
            }
        }
    }

    fn beat(&mut self, n: usize) -> Result<(), String> {
        self.schedule(BEAT, Event::Beat(n));
        if self.nodes[n].live.is_none() {
            return Ok(());
        }
        let (nonce, now) = (self.rng.number(), self.clock(n));
        self.nodes[n].watch(nonce, now);
        if !self.cut[n] {
            let ownership = self.nodes[n].ownership.clone();
            let delay = self.rng.millis(1, 50);
            self.schedule(delay, Event::BeatArrives(1 - n, ownership));
        }
        self.settle(n)
    }

    /// After anything happened to a node: decide, act on events, send what is due.
    pub(super) fn settle(&mut self, n: usize) -> Result<(), String> {
        let incarnation = u32::try_from(self.rng.below(1 << 31)).unwrap_or(7);
        self.nodes[n].act(incarnation);
        self.decide(n, None)?;
        while let Some(plan) = self.due(n) {
            self.post(n, &plan);
        }
        if let Some(at) = self.nodes[n].deadline() {
            let after = at.saturating_sub(self.now);
            if !after.is_zero() && after < BEAT {
                self.schedule(after, Event::Wake(n));
            }
        }
        Ok(())
    }

    fn due(&mut self, n: usize) -> Option<Plan> {
        self.nodes[n].live.as_mut()?.session.poll(self.now)
    }

    /// An operator asks the backup; the home would pass it on.
    pub(super) fn ask(&mut self, request: Request) -> Result<(), String> {
        self.decide(BACKUP, Some(&Ask::from(request)))
    }

    fn decide(&mut self, n: usize, ask: Option<&Ask>) -> Result<(), String> {
        let now = self.clock(n);
        let decided = self.nodes[n].decide(&self.rules, ask, now);
        if let Some((view, decision)) = decided {
            if let Some(next) = &decision.ownership {
                // A crash may come before it is durable, or right after.
                if self.troubled && self.rng.chance(5) {
                    self.crash(n);
                    return Ok(());
                }
                self.oracle.fired(&self.group, &view, &decision)?;
                self.note(&format!("epoch {}: {}", next.epoch, next.reason));
                self.nodes[n].ownership = next.clone();
                if self.troubled && self.rng.chance(5) {
                    self.crash(n);
                }
            }
            if let Some(refused) = &decision.refused {
                self.count("requests refused");
                self.note(&format!("refused: {}", refused.reason));
            }
        }
        self.oracle.owns(n, &self.nodes[n].ownership)
    }

    fn post(&mut self, n: usize, plan: &Plan) {
        self.count("mails");
        let operations = self.pack(n, plan);
        let (from, to) = (self.nodes[n].store.origin().clone(), &self.nodes[1 - n].id);
        let head = plan.head(Uuid::nil(), from, to.clone(), self.clock(n).wall, None);
        let mail = Box::new(Mail { head, operations });
        let waiting = (n, self.nodes[n].boot, plan.ticket);
        let fate = if self.cut[n] {
            Fate::Lost
        } else {
            self.link.fate(&mut self.rng)
        };
        let give_up = |world: &mut Self| {
            let why = Err("time-out".to_owned());
            world.schedule(GIVES_UP, Event::Answer(waiting, why));
        };
        match fate {
            Fate::Arrives(delay) => {
                self.schedule(delay, Event::Mail(1 - n, mail, Some(waiting)));
            }
            Fate::Twice(first, second) => {
                self.count("mails twice");
                self.schedule(first, Event::Mail(1 - n, mail.clone(), Some(waiting)));
                self.schedule(second, Event::Mail(1 - n, mail, None));
            }
            Fate::Unanswered(delay) | Fate::Late(delay) => {
                self.count("mails unanswered");
                self.schedule(delay, Event::Mail(1 - n, mail, None));
                give_up(self);
            }
            Fate::Lost => give_up(self),
        }
    }

    fn pack(&mut self, n: usize, plan: &Plan) -> Vec<Operation> {
        let Kind::Operations { ranges, .. } = &plan.kind else {
            return Vec::new();
        };
        let mut room = 1 + usize::try_from(self.rng.below(12)).unwrap_or(0);
        let mut packed = Vec::new();
        for (origin, after, upto) in ranges {
            let some = self.nodes[n].store.operations(origin, *after, *upto, room);
            room -= some.len();
            packed.extend(some);
        }
        let last = |o: &Operation| -> (Origin, u64) { (o.stamp.origin.clone(), o.stamp.seq) };
        let load = Load {
            upto: packed.iter().map(last).collect(),
            operations: u64::try_from(packed.len()).unwrap_or(u64::MAX),
            ..Load::default()
        };
        let now = self.clock(n).mono;
        if let Some(live) = &mut self.nodes[n].live {
            live.session.packed(plan.ticket, load, now);
        }
        packed
    }

    fn receive(&mut self, n: usize, mail: &Mail, waiting: Option<Waiting>) -> Result<(), String> {
        let reached = self.nodes[n].live.is_some() && !self.cut[1 - n];
        if !reached || self.crashes(n) {
            self.reply(waiting, Err("connection refused".to_owned()));
            return Ok(());
        }
        let now = self.clock(n);
        let taken = self.nodes[n].receive(&mail.operations, now);
        if self.crashes(n) {
            self.reply(waiting, Err("connection closed".to_owned()));
            return Ok(());
        }
        if taken.is_ok() {
            self.nodes[n].hear(&mail.head, now);
        } else {
            self.count("gaps refused");
        }
        self.reply(waiting, taken);
        self.settle(n)
    }

    fn reply(&mut self, waiting: Option<Waiting>, outcome: Result<(), String>) {
        if let Some(waiting) = waiting {
            let delay = self.rng.millis(1, 5);
            self.schedule(delay, Event::Answer(waiting, outcome));
        }
    }

    fn answer(
        &mut self,
        (n, boot, ticket): Waiting,
        got: Result<(), String>,
    ) -> Result<(), String> {
        let now = self.clock(n);
        if self.nodes[n].boot != boot {
            return Ok(());
        }
        let Some(live) = &mut self.nodes[n].live else {
            return Ok(());
        };
        match got {
            Ok(()) => live.session.sent(ticket, now),
            Err(why) => live.session.failed(ticket, now, Blame::Passing, &why),
        }
        self.settle(n)
    }

    /// The durability point of a client's write: before it nothing happened, after it the write
    /// stands, acknowledged or not.
    fn flush(&mut self, n: usize, boot: u64) -> Result<(), String> {
        if self.nodes[n].boot != boot || self.nodes[n].live.is_none() || self.crashes(n) {
            return Ok(());
        }
        let written = self.nodes[n].store.flush();
        self.oracle.durable(&written)?;
        if self.crashes(n) {
            return Ok(());
        }
        self.oracle.acknowledge(written);
        let now = self.clock(n);
        self.nodes[n].tell(now);
        self.settle(n)
    }
}

#[allow(
    clippy::expect_used,
    reason = "the names are literals of this function"
)]
fn group() -> Group {
    let id = |name: &str| NodeId::new(name).expect("a valid node id");
    Group {
        name: GroupName::new("primary").expect("a valid group name"),
        home: id("vmpro1"),
        backup: id("vmpro2"),
    }
}

fn rules(rng: &mut Rng) -> Rules {
    use FailbackPolicy::{Automatic, Graceful, Manual};
    let triggers = [Trigger::Phones, Trigger::Visibility, Trigger::Manual];
    let policies = [Graceful, Graceful, Automatic, Manual];
    Rules {
        backs_up_voicemail: !rng.chance(10),
        trigger: rng.pick(&triggers).copied().unwrap_or(Trigger::Phones),
        failover_after: rng.millis(5_000, 60_000),
        policy: rng.pick(&policies).copied().unwrap_or(Graceful),
        timeout: rng.millis(5_000, 60_000),
        stable_for: rng.millis(0, 20_000),
    }
}
