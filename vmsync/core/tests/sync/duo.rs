//! Two nodes, each a session and a store reduced to its vector, joined by a mail link in virtual time.

use std::time::Duration;

use uuid::Uuid;
use vmsync_config::words::{NodeId, Now, Origin, UnixMillis, Vector};
use vmsync_core::sync::{Blame, Event, Kind, Load, Local, Plan, Session, SyncState};
use vmsync_core::wire::Head;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) const LATENCY: Duration = Duration::from_millis(2);

pub(crate) fn origin(node: usize, incarnation: u32) -> Origin {
    Origin {
        node: NodeId::new(["vmpro1", "vmpro2"][node]).expect("an id"),
        incarnation,
    }
}

pub(crate) fn at(mono: Duration) -> Now {
    let wall = 1_795_000_000_000 + u64::try_from(mono.as_millis()).expect("short");
    Now {
        mono,
        wall: UnixMillis(wall),
    }
}

/// A node: a session, and a store reduced to its vector.
pub(crate) struct Node {
    pub(crate) session: Session,
    pub(crate) me: Origin,
    pub(crate) have: Vector,
    /// What its log no longer has.
    pub(crate) floor: Vector,
    /// Mixed into the digest: a state that went wrong somewhere.
    pub(crate) damage: u32,
    pub(crate) link_up: bool,
}

impl Node {
    pub(crate) fn digest(&self) -> String {
        format!("{:?}/{}", self.have, self.damage)
    }
    pub(crate) fn tell(&mut self, now: Now) {
        let local = Local {
            have: self.have.clone(),
            digest: self.digest(),
            floor: self.floor.clone(),
            seeding: None,
        };
        self.session.local(local, now);
    }
    pub(crate) fn write(&mut self, count: u64, now: Now) {
        let seq = self.have.get(&self.me) + count;
        self.have.raise(&self.me.clone(), seq);
        self.tell(now);
    }
}

/// Both held nothing when they met.
pub(crate) fn started() -> Event {
    Event::Started {
        ours: Vector::default(),
        theirs: Vector::default(),
    }
}

/// What a mail was, for the record of a test.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sent {
    pub(crate) from: usize,
    pub(crate) kind: Kind,
}

pub(crate) struct Duo {
    pub(crate) nodes: [Node; 2],
    pub(crate) now: Duration,
    pub(crate) mails: Vec<Sent>,
    pub(crate) nonces: u64,
}

impl Duo {
    pub(crate) fn new() -> Self {
        let node = |n: usize| Node {
            session: Session::new(origin(n, 1), 100 + n as u64, n as u64),
            me: origin(n, 1),
            have: Vector::default(),
            floor: Vector::default(),
            damage: 0,
            link_up: true,
        };
        let mut duo = Self {
            nodes: [node(0), node(1)],
            now: SECOND,
            mails: Vec::new(),
            nonces: 1000,
        };
        for n in 0..2 {
            duo.nodes[n].tell(at(SECOND));
        }
        duo
    }

    pub(crate) fn sight(&mut self, n: usize, visible: bool) {
        self.nonces += 1;
        let now = at(self.now);
        self.nodes[n].session.visible(visible, self.nonces, now);
    }

    pub(crate) fn meet(&mut self) {
        self.sight(0, true);
        self.sight(1, true);
    }

    pub(crate) fn write(&mut self, n: usize, count: u64) {
        let now = at(self.now);
        self.nodes[n].write(count, now);
    }

    /// Runs until nothing is due within `span`; every mail takes [`LATENCY`].
    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let next = self.nodes.iter().filter_map(|n| n.session.next_deadline());
            let Some(due) = next.min().filter(|due| *due <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(due);
            for n in 0..2 {
                while let Some(plan) = self.nodes[n].session.poll(self.now) {
                    self.carry(n, &plan);
                }
            }
        }
    }

    /// Packs at most 10 operations a range, delivers, and reports.
    pub(crate) fn carry(&mut self, from: usize, plan: &Plan) {
        self.mails.push(Sent {
            from,
            kind: plan.kind.clone(),
        });
        let operations = self.pack(from, plan);
        self.now += LATENCY;
        if self.nodes[from].link_up {
            let head = self.head(from, plan);
            self.deliver(1 - from, &head, &operations);
            self.nodes[from].session.sent(plan.ticket, at(self.now));
        } else {
            let why = "connection refused";
            self.nodes[from]
                .session
                .failed(plan.ticket, at(self.now), Blame::Passing, why);
        }
    }

    pub(crate) fn pack(&mut self, from: usize, plan: &Plan) -> Vec<(Origin, u64, u64)> {
        let batch: Vec<_> = match &plan.kind {
            Kind::Operations { ranges, most, .. } => ranges
                .iter()
                .map(|(o, after, upto)| (o.clone(), *after, (*upto).min(after + 10.min(*most))))
                .collect(),
            _ => Vec::new(),
        };
        let upto: Vector = batch
            .iter()
            .map(|(o, _, upto)| (o.clone(), *upto))
            .collect();
        let load = Load {
            operations: batch.iter().map(|(_, after, upto)| upto - after).sum(),
            upto,
            ..Load::default()
        };
        let now = self.now;
        self.nodes[from].session.packed(plan.ticket, load, now);
        batch
    }

    pub(crate) fn head(&self, from: usize, plan: &Plan) -> Head {
        let to = origin(1 - from, 1).node;
        plan.head(
            Uuid::nil(),
            self.nodes[from].me.clone(),
            to,
            at(self.now).wall,
            None,
        )
    }

    pub(crate) fn deliver(&mut self, to: usize, head: &Head, operations: &[(Origin, u64, u64)]) {
        let now = at(self.now);
        let node = &mut self.nodes[to];
        for (origin, after, upto) in operations {
            assert!(node.have.get(origin) >= *after, "a gap at {origin}");
            node.have.raise(origin, *upto);
        }
        node.tell(now);
        node.session.heard(head, now);
    }

    pub(crate) fn states(&self) -> [SyncState; 4] {
        let [a, b] = &self.nodes;
        [&a.session, &b.session]
            .map(|s| [s.outgoing(self.now).state, s.incoming(self.now).state])
            .concat()
            .try_into()
            .expect("four")
    }

    pub(crate) fn finished(&self) -> bool {
        self.nodes.iter().all(|n| n.session.finished())
    }

    pub(crate) fn events(&mut self, n: usize) -> Vec<Event> {
        std::iter::from_fn(|| self.nodes[n].session.next_event()).collect()
    }
}

/// A started pair in which mails go nowhere by themselves.
pub(crate) fn met() -> Duo {
    let mut duo = Duo::new();
    duo.meet();
    duo.run(SECOND);
    duo.mails.clear();
    duo.events(0);
    duo
}

pub(crate) fn ranges(plan: &Plan) -> Vec<(u64, u64)> {
    let Kind::Operations { ranges, .. } = &plan.kind else {
        panic!("not operations: {:?}", plan.kind);
    };
    ranges
        .iter()
        .map(|(_, after, upto)| (*after, *upto))
        .collect()
}
