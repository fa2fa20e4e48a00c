//! Two sync sessions joined by a mail link, in virtual time.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "shared code of tests, outside #[test] functions"
)]

use std::time::Duration;

use proptest::prelude::*;
use uuid::Uuid;
use vmsync_config::words::{NodeId, Now, Origin, UnixMillis, Vector};
use vmsync_core::{
    sync::{Blame, Event, Kind, Load, Local, Plan, Session, SyncState},
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
    /// What its log no longer has.
    floor: Vector,
    /// Mixed into the digest: a state that went wrong somewhere.
    damage: u32,
    link_up: bool,
}

impl Node {
    fn digest(&self) -> String {
        format!("{:?}/{}", self.have, self.damage)
    }
    fn tell(&mut self, now: Now) {
        let local = Local {
            have: self.have.clone(),
            digest: self.digest(),
            floor: self.floor.clone(),
            seeding: None,
        };
        self.session.local(local, now);
    }
    fn write(&mut self, count: u64, now: Now) {
        let seq = self.have.get(&self.me) + count;
        self.have.raise(&self.me.clone(), seq);
        self.tell(now);
    }
}

/// Both held nothing when they met.
fn started() -> Event {
    Event::Started {
        ours: Vector::default(),
        theirs: Vector::default(),
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
                .failed(plan.ticket, at(self.now), Blame::Passing, why);
        }
    }

    fn pack(&mut self, from: usize, plan: &Plan) -> Vec<(Origin, u64, u64)> {
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

    fn head(&self, from: usize, plan: &Plan) -> Head {
        let to = origin(1 - from, 1).node;
        plan.head(
            Uuid::nil(),
            self.nodes[from].me.clone(),
            to,
            at(self.now).wall,
            None,
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
    assert_eq!(duo.events(0), [started(), Event::Finished]);
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
        .failed(plan.ticket, at(duo.now), Blame::Passing, "time-out");
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
        .failed(plan.ticket, at(duo.now), Blame::Setup, why);
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
        .failed(plan.ticket, at(duo.now), Blame::Passing, "time-out");
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
                    session.failed(plan.ticket, now, Blame::Passing, "time-out");
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

/// A started pair in which mails go nowhere by themselves.
fn met() -> Duo {
    let mut duo = Duo::new();
    duo.meet();
    duo.run(SECOND);
    duo.mails.clear();
    duo.events(0);
    duo
}

fn ranges(plan: &Plan) -> Vec<(u64, u64)> {
    let Kind::Operations { ranges, .. } = &plan.kind else {
        panic!("not operations: {:?}", plan.kind);
    };
    ranges
        .iter()
        .map(|(_, after, upto)| (*after, *upto))
        .collect()
}

#[test]
fn four_mails_are_under_way_each_from_where_the_last_ends() {
    let mut duo = met();
    duo.write(0, 6000);
    let first = duo.nodes[0].session.poll(duo.now).expect("operations");
    assert!(
        duo.nodes[0].session.poll(duo.now).is_none(),
        "the next is not planned before it is known where this one ends"
    );
    let mut plans = vec![first];
    duo.pack(0, &plans[0].clone());
    while let Some(plan) = duo.nodes[0].session.poll(duo.now) {
        duo.pack(0, &plan);
        plans.push(plan);
    }
    let begun: Vec<_> = plans.iter().map(|p| ranges(p)[0].0).collect();
    assert_eq!(
        begun,
        [0, 10, 20, 30],
        "window of four, ten operations each"
    );

    // The second is not taken; the two behind it come out of order and fail with it: one failure.
    duo.nodes[0].session.sent(plans[0].ticket, at(duo.now));
    for plan in &plans[1..] {
        let session = &mut duo.nodes[0].session;
        session.failed(plan.ticket, at(duo.now), Blame::Passing, "451 later");
    }
    let again = duo.nodes[0].session.next_deadline().expect("a retry");
    assert!(again <= duo.now + Duration::from_millis(100), "first pause");
    let plan = duo.nodes[0].session.poll(again).expect("operations");
    assert_eq!(ranges(&plan)[0].0, 10, "from where the 250s end");
}

#[test]
fn with_mails_under_way_small_changes_wait_a_moment_for_company() {
    let mut duo = met();
    duo.write(0, 1);
    let first = duo.nodes[0].session.poll(duo.now).expect("at once");
    duo.pack(0, &first);
    duo.write(0, 1);
    assert!(duo.nodes[0].session.poll(duo.now).is_none());
    duo.now += Duration::from_millis(2);
    duo.write(0, 1);
    let due = duo.nodes[0].session.next_deadline().expect("soon");
    assert!(due <= duo.now + Duration::from_millis(3));
    let second = duo.nodes[0].session.poll(due).expect("both together");
    assert_eq!(ranges(&second), [(1, 3)]);
}

/// The peer of node 0 refuses operation `bad` for good, whatever it comes with.
fn refuses(duo: &mut Duo, bad: u64) -> Vec<u64> {
    let mut skipped = Vec::new();
    for _ in 0..200 {
        let Some(due) = duo.nodes[0].session.next_deadline() else {
            break;
        };
        duo.now = duo.now.max(due);
        let Some(plan) = duo.nodes[0].session.poll(duo.now) else {
            continue;
        };
        let operations = duo.pack(0, &plan);
        let skip = matches!(&plan.kind, Kind::Operations { skip: Some(_), .. });
        let has_bad = operations
            .iter()
            .any(|(_, a, u)| (a + 1..=*u).contains(&bad));
        let now = at(duo.now);
        if has_bad && !skip {
            let why = "554 5.6.0 operation 7: a field's name is too long";
            duo.nodes[0]
                .session
                .failed(plan.ticket, now, Blame::Content, why);
            continue;
        }
        if skip {
            skipped.extend(operations.iter().map(|(_, after, _)| after + 1));
        }
        let head = duo.head(0, &plan);
        duo.deliver(1, &head, &operations);
        duo.nodes[0].session.sent(plan.ticket, now);
    }
    skipped
}

#[test]
fn one_operation_the_peer_refuses_is_skipped_and_the_rest_goes_on_within_seconds() {
    let mut duo = met();
    let begun = duo.now;
    duo.write(0, 40);
    assert_eq!(refuses(&mut duo, 7), [7]);
    assert_eq!(duo.nodes[1].have.get(&origin(0, 1)), 40);
    assert!(duo.now < begun + 5 * SECOND, "{:?}", duo.now);
    let skipping = Event::Skipping {
        origin: origin(0, 1),
        seq: 7,
        why: "554 5.6.0 operation 7: a field's name is too long".to_owned(),
    };
    assert_eq!(duo.events(0), [skipping]);
    duo.run(SECOND);
    assert!(duo.finished());
}

#[test]
fn a_peer_of_version_1_0_is_sent_no_skip() {
    let mut duo = met();
    duo.write(0, 1);
    let old = |plan: &Plan, duo: &Duo| Head {
        version: "1.0".to_owned(),
        ..duo.head(1, plan)
    };
    duo.nodes[1].write(1, at(duo.now));
    let plan = duo.nodes[1].session.poll(duo.now).expect("operations");
    let operations = duo.pack(1, &plan);
    let head = old(&plan, &duo);
    duo.deliver(0, &head, &operations);
    for _ in 0..10 {
        duo.now = duo.nodes[0]
            .session
            .next_deadline()
            .expect("a retry")
            .max(duo.now);
        let plan = duo.nodes[0].session.poll(duo.now).expect("operations");
        assert_eq!(plan.minor, 0);
        assert!(matches!(&plan.kind, Kind::Operations { skip: None, .. }));
        duo.pack(0, &plan);
        let session = &mut duo.nodes[0].session;
        session.failed(plan.ticket, at(duo.now), Blame::Content, "554 no");
    }
    let out = duo.nodes[0].session.outgoing(duo.now);
    assert_eq!(out.state, SyncState::Stalled, "but not silently");
}

#[test]
fn a_peer_that_lacks_what_the_log_lost_is_seeded_step_by_step() {
    let mut duo = Duo::new();
    let me = origin(0, 1);
    duo.write(0, 100);
    duo.nodes[0].floor.raise(&me, 60);
    duo.nodes[0].tell(at(duo.now));
    duo.meet();
    // Hellos and what the peer says.
    for _ in 0..4 {
        for n in 0..2 {
            let now = duo.now;
            if let Some(plan) = duo.nodes[n].session.poll(now)
                && matches!(plan.kind, Kind::Hello | Kind::Status)
            {
                duo.carry(n, &plan);
            } else if n == 0 && duo.nodes[0].session.started().is_some() {
                break;
            }
        }
    }
    duo.nodes[0].session = Session::new(me.clone(), 4242, 0);
    duo.nodes[0].tell(at(duo.now));
    duo.sight(0, true);
    let mut seen = Vec::new();
    for _ in 0..60 {
        let sessions = duo.nodes.iter().filter_map(|n| n.session.next_deadline());
        duo.now = sessions.min().unwrap_or(duo.now).max(duo.now);
        if let Some(plan) = duo.nodes[1].session.poll(duo.now) {
            duo.carry(1, &plan);
        }
        let Some(plan) = duo.nodes[0].session.poll(duo.now) else {
            continue;
        };
        let Kind::Seed { upto, after, .. } = &plan.kind else {
            duo.carry(0, &plan);
            continue;
        };
        assert_eq!(upto.get(&me), 100);
        seen.push(after.clone());
        let through = match after.as_deref() {
            None => Some("message/1"),
            Some("message/1") => Some("message/2"),
            _ => None,
        };
        let load = Load {
            through: through.map(str::to_owned),
            ..Load::default()
        };
        let now = duo.now;
        duo.nodes[0].session.packed(plan.ticket, load, now);
        if seen.len() == 2 {
            // Not taken the first time: the same step again.
            let session = &mut duo.nodes[0].session;
            session.failed(plan.ticket, at(now), Blame::Passing, "451 later");
            continue;
        }
        if through.is_none() {
            let node = &mut duo.nodes[1];
            node.have.merge(&upto.clone());
            node.floor = node.have.clone();
            node.tell(at(now));
        }
        let head = duo.head(0, &plan);
        duo.deliver(1, &head, &[]);
        duo.nodes[0].session.sent(plan.ticket, at(now));
    }
    let steps: Vec<_> = seen.iter().map(|s| s.as_deref().unwrap_or("-")).collect();
    assert_eq!(steps, ["-", "message/1", "message/1", "message/2"]);
    duo.run(SECOND);
    assert!(duo.finished());
    assert!(
        duo.mails
            .iter()
            .all(|m| !matches!(m.kind, Kind::Operations { .. }))
    );
}

#[test]
fn a_difference_is_repaired_bucket_by_bucket() {
    let mut duo = met();
    duo.nodes[1].damage = 7;
    duo.nodes[1].tell(at(duo.now));
    duo.run(SECOND);
    assert!(duo.nodes[0].session.diverged());
    let plan = {
        duo.now += Duration::from_mins(1);
        duo.nodes[0]
            .session
            .poll(duo.now)
            .expect("the sums of the buckets")
    };
    assert!(plan.buckets && plan.kind == Kind::Status);
    let head = duo.head(0, &plan);
    duo.deliver(1, &head, &[]);
    duo.nodes[0].session.sent(plan.ticket, at(duo.now));
    // The shell of node 1 has compared them with its own.
    duo.nodes[1].session.differs([3, 250]);
    let plan = duo.nodes[1].session.poll(duo.now).expect("items");
    assert_eq!(
        plan.kind,
        Kind::Items {
            buckets: vec![3, 250]
        }
    );
    let now = duo.now;
    duo.nodes[1]
        .session
        .packed(plan.ticket, Load::default(), now);
    duo.nodes[1].session.sent(plan.ticket, at(now));
    // The shell of node 0 has compared the items: the peer needs this record.
    duo.nodes[0].session.want(["message/a".to_owned()]);
    let plan = duo.nodes[0].session.poll(duo.now).expect("records");
    let records = Kind::Records {
        entities: vec!["message/a".to_owned()],
        release: false,
    };
    assert_eq!(plan.kind, records);
    let load = Load {
        operations: 1,
        ..Load::default()
    };
    duo.nodes[0].session.packed(plan.ticket, load, now);
    duo.nodes[0].session.sent(plan.ticket, at(now));
    duo.nodes[1].damage = 0;
    duo.nodes[1].tell(at(now));
    duo.run(SECOND);
    assert!(duo.finished());
}

#[test]
fn probes_come_back_and_tell_their_age() {
    let mut duo = met();
    for n in 0..2 {
        duo.nodes[n].session.probe_every(Some(30 * SECOND));
    }
    duo.run(Duration::from_mins(10));
    for n in 0..2 {
        let view = duo.nodes[n].session.probe(duo.now);
        assert!(view.out_age.expect("one came back") <= 31 * SECOND);
        assert!(view.in_age.expect("one came") <= 31 * SECOND);
        assert!(view.round_trip.expect("measured") < SECOND);
    }
    assert!((20..90).contains(&duo.mails.len()), "{}", duo.mails.len());
    let cut = duo.now;
    duo.nodes[0].link_up = false;
    duo.run(Duration::from_mins(10));
    let age = duo.nodes[0]
        .session
        .probe(duo.now)
        .out_age
        .expect("the last");
    assert!(
        age >= duo.now.saturating_sub(cut),
        "it ages while mails don't get through"
    );
    let heard = duo.nodes[1]
        .session
        .probe(duo.now)
        .in_age
        .expect("the last");
    assert!(
        heard + LATENCY >= duo.now.saturating_sub(cut),
        "at the other end too"
    );
}

#[test]
fn a_backlog_rests_in_favour_of_calls_and_a_fresh_message_does_not() {
    let mut duo = met();
    let rest = duo.now + 10 * SECOND;
    duo.nodes[0].session.rest(rest);
    duo.write(0, 1);
    duo.run(SECOND);
    assert!(duo.finished(), "one message does not wait");
    duo.write(0, 100);
    duo.run(5 * SECOND);
    assert_eq!(duo.nodes[1].have.get(&origin(0, 1)), 1, "a backlog does");
    duo.run(10 * SECOND);
    assert!(duo.finished());
}

#[test]
fn what_both_held_apart_is_told_as_of_their_first_words() {
    let mut duo = Duo::new();
    duo.write(0, 3);
    duo.write(1, 2);
    duo.meet();
    // The first node hears the second answer, so that its operations come before the second has started.
    let hello = duo.nodes[0].session.poll(duo.now).expect("a hello");
    duo.carry(0, &hello);
    let answer = duo.nodes[1].session.poll(duo.now).expect("an answer");
    duo.carry(1, &answer);
    let operations = duo.nodes[0].session.poll(duo.now).expect("operations");
    assert!(matches!(operations.kind, Kind::Operations { .. }));
    duo.carry(0, &operations);
    let expected = Event::Started {
        ours: [(origin(1, 1), 2)].into_iter().collect(),
        theirs: [(origin(0, 1), 3)].into_iter().collect(),
    };
    assert_eq!(duo.events(1).first(), Some(&expected));
}
