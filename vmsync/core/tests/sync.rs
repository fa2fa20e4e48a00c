//! Two sync sessions joined by a mail link, in virtual time.

#![allow(
    clippy::expect_used,
    reason = "shared code of tests, outside #[test] functions"
)]

use std::time::Duration;

use proptest::prelude::*;
use uuid::Uuid;
use vmsync_config::words::{NodeId, Now, Origin, UnixMillis, Vector};
use vmsync_core::{
    sync::{Event, Kind, Plan, Session, SyncState},
    wire::Head,
};

const SECOND: Duration = Duration::from_secs(1);
const LATENCY: Duration = Duration::from_millis(2);

fn origin(node: usize, incarnation: u32) -> Origin {
    Origin {
        node: NodeId::new(["vmpro1", "vmpro2"][node]).expect("an id"),
        incarnation,
    }
}

fn at(mono: Duration) -> Now {
    let wall = 1_795_000_000_000 + u64::try_from(mono.as_millis()).expect("short");
    Now {
        mono,
        wall: UnixMillis(wall),
    }
}

/// A node: a session, and a store reduced to its vector.
struct Node {
    session: Session,
    me: Origin,
    have: Vector,
    /// Mixed into the digest: a state that went wrong somewhere.
    damage: u32,
    link_up: bool,
}

impl Node {
    fn digest(&self) -> String {
        format!("{:?}/{}", self.have, self.damage)
    }
    fn tell(&mut self, now: Now) {
        let digest = self.digest();
        self.session.local(self.have.clone(), digest, now);
    }
    fn write(&mut self, count: u64, now: Now) {
        let seq = self.have.get(&self.me) + count;
        self.have.raise(&self.me.clone(), seq);
        self.tell(now);
    }
}

/// What a mail was, for the record of a test.
#[derive(Debug, Clone, PartialEq)]
struct Sent {
    from: usize,
    kind: Kind,
}

struct Duo {
    nodes: [Node; 2],
    now: Duration,
    mails: Vec<Sent>,
    nonces: u64,
}

impl Duo {
    fn new() -> Self {
        let node = |n: usize| Node {
            session: Session::new(origin(n, 1), 100 + n as u64, n as u64),
            me: origin(n, 1),
            have: Vector::default(),
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

    fn sight(&mut self, n: usize, visible: bool) {
        self.nonces += 1;
        let now = at(self.now);
        self.nodes[n].session.visible(visible, self.nonces, now);
    }

    fn meet(&mut self) {
        self.sight(0, true);
        self.sight(1, true);
    }

    fn write(&mut self, n: usize, count: u64) {
        let now = at(self.now);
        self.nodes[n].write(count, now);
    }

    /// Runs until nothing is due within `span`; every mail takes [`LATENCY`].
    fn run(&mut self, span: Duration) {
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
    fn carry(&mut self, from: usize, plan: &Plan) {
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
                .failed(plan.ticket, at(self.now), true, why);
        }
    }

    fn pack(&mut self, from: usize, plan: &Plan) -> Vec<(Origin, u64, u64)> {
        let Kind::Operations { ranges } = &plan.kind else {
            return Vec::new();
        };
        let batch: Vec<_> = ranges
            .iter()
            .map(|(o, after, upto)| (o.clone(), *after, (*upto).min(after + 10)))
            .collect();
        let upto = batch
            .iter()
            .map(|(o, _, upto)| (o.clone(), *upto))
            .collect();
        self.nodes[from].session.packed(plan.ticket, &upto);
        batch
    }

    fn head(&self, from: usize, plan: &Plan) -> Head {
        let to = origin(1 - from, 1).node;
        plan.head(
            Uuid::nil(),
            self.nodes[from].me.clone(),
            to,
            at(self.now).wall,
        )
    }

    fn deliver(&mut self, to: usize, head: &Head, operations: &[(Origin, u64, u64)]) {
        let now = at(self.now);
        let node = &mut self.nodes[to];
        for (origin, after, upto) in operations {
            assert!(node.have.get(origin) >= *after, "a gap at {origin}");
            node.have.raise(origin, *upto);
        }
        node.tell(now);
        node.session.heard(head, now);
    }

    fn states(&self) -> [SyncState; 4] {
        let [a, b] = &self.nodes;
        [&a.session, &b.session]
            .map(|s| [s.outgoing(self.now).state, s.incoming(self.now).state])
            .concat()
            .try_into()
            .expect("four")
    }

    fn finished(&self) -> bool {
        self.nodes.iter().all(|n| n.session.finished())
    }

    fn events(&mut self, n: usize) -> Vec<Event> {
        std::iter::from_fn(|| self.nodes[n].session.next_event()).collect()
    }
}

#[test]
fn a_new_pair_says_hello_and_goes_quiet() {
    let mut duo = Duo::new();
    assert_eq!(duo.states(), [SyncState::Idle; 4]);
    duo.meet();
    duo.run(Duration::from_hours(1));
    assert_eq!(duo.states(), [SyncState::Finished; 4]);
    assert!(duo.mails.len() <= 4, "{:?}", duo.mails);
    assert_eq!(duo.events(0), [Event::Started, Event::Finished]);
}

#[test]
fn one_change_costs_two_mails() {
    let mut duo = Duo::new();
    duo.meet();
    duo.run(SECOND);
    duo.mails.clear();
    duo.write(0, 1);
    assert_eq!(duo.nodes[0].session.outgoing(duo.now).pending, 1);
    duo.run(Duration::from_hours(1));
    let kinds: Vec<_> = duo.mails.iter().map(|m| (m.from, &m.kind)).collect();
    assert!(
        matches!(
            kinds.as_slice(),
            [(0, Kind::Operations { .. }), (1, Kind::Status)]
        ),
        "{kinds:?}"
    );
    assert!(duo.finished());
}

#[test]
fn operations_wait_until_both_have_exchanged_what_they_hold() {
    let mut duo = Duo::new();
    duo.write(0, 3);
    duo.sight(0, true);
    duo.nodes[0].link_up = false;
    duo.run(5 * SECOND);
    let hellos = duo.mails.iter().all(|m| m.kind == Kind::Hello);
    assert!(hellos && duo.mails.len() > 3, "{:?}", duo.mails);
    assert_eq!(duo.nodes[0].session.started(), None);
}

#[test]
fn a_backlog_goes_both_ways_in_batches() {
    let mut duo = Duo::new();
    duo.write(0, 35);
    duo.write(1, 4);
    duo.meet();
    duo.run(SECOND);
    let batches = |from| {
        let of = |m: &&Sent| m.from == from && matches!(m.kind, Kind::Operations { .. });
        duo.mails.iter().filter(of).count()
    };
    assert_eq!((batches(0), batches(1)), (4, 1));
    assert!(duo.finished());
    let certificate = duo.nodes[1].session.certificate().expect("a certificate");
    assert_eq!(certificate.vector, duo.nodes[0].have);
}

#[test]
fn losing_sight_must_start_anew() {
    let mut duo = Duo::new();
    duo.meet();
    duo.run(SECOND);
    assert!(duo.nodes[0].session.started().is_some());
    duo.sight(0, false);
    assert_eq!(duo.nodes[0].session.started(), None);
    assert!(!duo.nodes[0].session.finished());
    assert_eq!(duo.states()[0], SyncState::Stalled);
    duo.write(0, 1);
    duo.run(60 * SECOND);
    assert_eq!(
        duo.nodes[1].have.get(&origin(0, 1)),
        0,
        "nothing is sent blindly"
    );
    // Only one side had lost sight; the other learns of the new session by its hello.
    duo.sight(0, true);
    duo.run(SECOND);
    assert!(duo.finished());
}

#[test]
fn a_lost_250_costs_a_repetition_and_nothing_else() {
    let mut duo = Duo::new();
    duo.meet();
    duo.run(SECOND);
    duo.write(0, 2);
    let plan = duo.nodes[0].session.poll(duo.now).expect("operations");
    let operations = duo.pack(0, &plan);
    let head = duo.head(0, &plan);
    duo.deliver(1, &head, &operations);
    duo.nodes[0]
        .session
        .failed(plan.ticket, at(duo.now), true, "time-out");
    duo.run(10 * SECOND);
    assert!(duo.finished());
    assert_eq!(duo.nodes[1].have.get(&origin(0, 1)), 2);
}

#[test]
fn stalled_says_since_when_and_why() {
    let mut duo = Duo::new();
    duo.meet();
    duo.run(SECOND);
    let broken = duo.now;
    duo.nodes[0].link_up = false;
    duo.write(0, 1);
    duo.run(SECOND);
    let out = duo.nodes[0].session.outgoing(duo.now);
    assert_eq!((out.state, out.pending), (SyncState::Stalled, 1));
    let (since, why) = out.stalled.expect("why");
    assert!(why.contains("connection refused") && since <= broken + LATENCY);
    assert_eq!(
        duo.nodes[0].session.incoming(duo.now).state,
        SyncState::Started
    );
    duo.mails.clear();
    duo.run(Duration::from_mins(10));
    assert!((20..60).contains(&duo.mails.len()), "{}", duo.mails.len());
    duo.nodes[0].link_up = true;
    duo.run(31 * SECOND);
    assert!(duo.finished());
}

#[test]
fn a_refused_signature_is_stalled_at_once_and_tried_again() {
    let mut duo = Duo::new();
    duo.meet();
    let plan = duo.nodes[0].session.poll(duo.now).expect("a hello");
    let why = "550 5.7.1 the mail's signature fits none of the pair's keys";
    duo.nodes[0]
        .session
        .failed(plan.ticket, at(duo.now), false, why);
    let out = duo.nodes[0].session.outgoing(duo.now);
    assert_eq!(out.state, SyncState::Stalled);
    let again = duo.nodes[0].session.next_deadline().expect("a retry");
    assert!(again >= duo.now + 15 * SECOND && again <= duo.now + 30 * SECOND);
}

#[test]
fn a_peer_that_never_answers_is_stalled_after_half_a_minute() {
    let mut duo = Duo::new();
    duo.sight(0, true);
    let start = duo.now;
    let state = |duo: &Duo, after| duo.nodes[0].session.outgoing(start + after).state;
    assert_eq!(state(&duo, 29 * SECOND), SyncState::Idle);
    assert_eq!(state(&duo, 30 * SECOND), SyncState::Stalled);
    let why = duo.nodes[0].session.outgoing(start + 30 * SECOND).stalled;
    assert!(why.expect("why").1.contains("does not answer over SMTP"));
}

#[test]
fn equal_vectors_with_different_digests_are_an_alarm_not_a_finish() {
    let mut duo = Duo::new();
    duo.meet();
    duo.run(SECOND);
    duo.events(0);
    let now = at(duo.now);
    duo.nodes[1].damage = 7;
    duo.nodes[1].tell(now);
    duo.run(Duration::from_hours(1));
    assert!(duo.nodes[0].session.diverged() && !duo.nodes[0].session.finished());
    assert_eq!(duo.events(0), [Event::Diverged]);
    assert_eq!(duo.states()[0], SyncState::Started);
    let now = at(duo.now);
    duo.nodes[1].damage = 0;
    duo.nodes[1].tell(now);
    duo.run(SECOND);
    assert!(duo.finished(), "repaired");
}

#[test]
fn a_restored_store_takes_a_new_incarnation_and_gets_back_what_it_lost() {
    let mut duo = Duo::new();
    duo.write(0, 9);
    duo.meet();
    duo.run(SECOND);
    // The first node comes back from an old copy that holds 5 of its 9 operations.
    let node = &mut duo.nodes[0];
    node.session = Session::new(origin(0, 1), 555, 0);
    node.have = [(origin(0, 1), 5)].into_iter().collect();
    node.tell(at(duo.now));
    duo.sight(0, true);
    duo.run(SECOND);
    let expected = Event::PeerKnowsMore {
        origin: origin(0, 1),
        held: 5,
        theirs: 9,
    };
    assert!(duo.events(0).contains(&expected));
    let node = &mut duo.nodes[0];
    node.me = origin(0, 2);
    node.session.rename(origin(0, 2));
    duo.write(0, 1);
    duo.run(SECOND);
    assert!(duo.finished());
    let expected: Vector = [(origin(0, 1), 9), (origin(0, 2), 1)].into_iter().collect();
    assert_eq!(duo.nodes[0].have, expected);
    assert_eq!(duo.nodes[1].have, expected);
}

#[test]
fn a_mail_of_a_session_long_gone_is_corrected() {
    let mut duo = Duo::new();
    duo.sight(0, true);
    let plan = duo.nodes[0].session.poll(duo.now).expect("a hello");
    let late = duo.head(0, &plan);
    duo.nodes[0]
        .session
        .failed(plan.ticket, at(duo.now), true, "time-out");
    duo.sight(0, false);
    duo.meet();
    duo.run(SECOND);
    assert!(duo.finished());
    duo.deliver(1, &late, &[]);
    assert!(!duo.finished(), "it must be asked");
    duo.mails.clear();
    duo.run(Duration::from_hours(1));
    assert!(duo.finished());
    assert!(duo.mails.len() <= 4, "{:?}", duo.mails);
}

#[test]
fn a_250_from_before_a_restart_of_the_peer_proves_nothing() {
    let mut duo = Duo::new();
    duo.meet();
    duo.run(SECOND);
    duo.write(0, 1);
    let plan = duo.nodes[0].session.poll(duo.now).expect("operations");
    duo.pack(0, &plan);
    // The peer took the mail, then came back from a copy that does not hold it.
    let node = &mut duo.nodes[1];
    node.session = Session::new(origin(1, 1), 777, 1);
    node.tell(at(duo.now));
    duo.sight(1, true);
    let hello = duo.nodes[1].session.poll(duo.now).expect("a hello");
    let head = duo.head(1, &hello);
    duo.deliver(0, &head, &[]);
    duo.nodes[1].session.sent(hello.ticket, at(duo.now));
    duo.nodes[0].session.sent(plan.ticket, at(duo.now));
    duo.run(SECOND);
    assert!(duo.finished());
    assert_eq!(duo.nodes[1].have.get(&origin(0, 1)), 1);
}

/// Something that may happen to the pair.
#[derive(Debug, Clone)]
enum Happening {
    Write(usize, u64),
    Sight(usize, bool),
    Link(usize, bool),
    Restart(usize),
    Late(usize),
    Run(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let node = || 0..2_usize;
    prop_oneof![
        3 => (node(), 1..30_u64).prop_map(|(n, c)| Happening::Write(n, c)),
        2 => (node(), any::<bool>()).prop_map(|(n, v)| Happening::Sight(n, v)),
        2 => (node(), any::<bool>()).prop_map(|(n, v)| Happening::Link(n, v)),
        1 => node().prop_map(Happening::Restart),
        1 => node().prop_map(Happening::Late),
        3 => (0..20_000_u64).prop_map(Happening::Run),
    ]
}

impl Duo {
    fn happens(&mut self, what: &Happening, late: &mut Vec<(usize, Head)>) {
        match what {
            Happening::Write(n, count) => self.write(*n, *count),
            Happening::Sight(n, visible) => self.sight(*n, *visible),
            Happening::Link(n, up) => self.nodes[*n].link_up = *up,
            Happening::Restart(n) => {
                self.nonces += 1;
                let (nonce, now) = (self.nonces, at(self.now));
                let node = &mut self.nodes[*n];
                node.session = Session::new(node.me.clone(), nonce, nonce);
                node.tell(now);
            }
            Happening::Late(n) => {
                if let Some(plan) = self.nodes[*n].session.poll(self.now) {
                    self.pack(*n, &plan);
                    late.push((1 - n, self.head(*n, &plan)));
                    let now = at(self.now);
                    let session = &mut self.nodes[*n].session;
                    session.failed(plan.ticket, now, true, "time-out");
                } else if let Some((to, head)) = late.pop() {
                    self.deliver(to, &head, &[]);
                }
            }
            Happening::Run(millis) => self.run(Duration::from_millis(*millis)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happened_a_healed_pair_finishes_and_goes_quiet(
        story in prop::collection::vec(happening(), 1..40),
    ) {
        let mut duo = Duo::new();
        let mut late = Vec::new();
        for what in &story {
            duo.happens(what, &mut late);
        }
        for n in 0..2 {
            duo.nodes[n].link_up = true;
            duo.sight(n, true);
        }
        for (to, head) in late {
            duo.deliver(to, &head, &[]);
        }
        duo.run(Duration::from_mins(2));
        prop_assert!(duo.finished(), "{:?}", duo.states());
        prop_assert_eq!(&duo.nodes[0].have, &duo.nodes[1].have);
        duo.mails.clear();
        duo.run(Duration::from_hours(24));
        prop_assert!(duo.mails.is_empty(), "not quiet: {:?}", duo.mails);
    }
}
