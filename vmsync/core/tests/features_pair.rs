//! The other features at both nodes together: two trackers that hear of each other's standings, as
//! heartbeats carry them, through restarts, cuts and healing.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "shared code of tests, outside #[test] functions"
)]

#[allow(
    dead_code,
    reason = "the examples' runner, of which only the clock and the timers are used here"
)]
mod features_script;

use std::{collections::BTreeMap, time::Duration};

use features_script::{at, timers};
use proptest::prelude::*;
use vmsync_config::words::{NodeId, SystemName};
use vmsync_core::{
    features::{
        Decided, Feature, Limits, MOST_TOLD, Registration, Return, Setup, Side, Standing, Subject,
        Told, Tracker,
    },
    resilience::PhoneKind,
};

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn system(name: &str) -> SystemName {
    SystemName::new(name).unwrap()
}

/// hq stands at vmpro1 and its backup branch at vmpro2, which so decides; the portal is manual.
fn hq() -> Setup {
    Setup {
        name: system("hq"),
        home: node("vmpro1"),
        backup: Some(system("branch")),
        decider: Some(node("vmpro2")),
        backed_up: Feature::ALL.to_vec(),
        phone_failback: Return::Automatic,
        prioritize_primary: true,
        portal_failback: Return::Manual,
    }
}

/// One node: its tracker while it runs, and what it keeps over a restart.
struct Node {
    me: NodeId,
    tracker: Option<Tracker>,
    disk: BTreeMap<Feature, Standing>,
    reports: Vec<Subject>,
    /// Takeovers and returns it decided itself.
    moves: Vec<(Feature, Side)>,
}

impl Node {
    fn new(me: &str) -> Self {
        Self {
            me: node(me),
            tracker: None,
            disk: BTreeMap::new(),
            reports: Vec::new(),
            moves: Vec::new(),
        }
    }

    fn take(&mut self, changes: &[Decided], now: Duration) {
        for change in changes {
            if let Some(next) = &change.outlook.standing {
                self.disk.insert(change.feature, next.clone());
                if next.by.is_none() {
                    self.moves.push((change.feature, next.side));
                }
            }
        }
        self.tracker.as_mut().unwrap().take(changes, at(now));
    }

    fn decide(&mut self, now: Duration) {
        for _ in 0..10 {
            let Some(tracker) = &mut self.tracker else {
                return;
            };
            if tracker.next_deadline().is_none_or(|due| due > now) {
                return;
            }
            let changes = tracker.decide(10, at(now));
            self.take(&changes, now);
        }
        unreachable!("{} never comes to rest", self.me);
    }

    /// Who serves `feature` as this node says, and at which epoch.
    fn says(&self, feature: Feature) -> (Side, u64) {
        let (_, standing, _) = self.tracker.as_ref().unwrap().stands(0, feature).unwrap();
        (standing.side, standing.epoch)
    }

    fn told(&self) -> Vec<Told> {
        self.tracker.as_ref().unwrap().tell()
    }
}

/// Both nodes, second by second.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each says of one thing whether it is well"
)]
struct Pair {
    nodes: [Node; 2],
    now: Duration,
    connected: bool,
    /// Whether heartbeats carry standings: an older release's do not.
    shares: bool,
    portal: bool,
    home: bool,
}

const DECIDER: usize = 1;
const STAND_IN: usize = 0;

impl Pair {
    fn new() -> Self {
        let mut pair = Self {
            nodes: [Node::new("vmpro1"), Node::new("vmpro2")],
            now: Duration::ZERO,
            connected: true,
            shares: true,
            portal: true,
            home: true,
        };
        pair.start(0);
        pair.start(1);
        pair.pass(10);
        pair
    }

    fn start(&mut self, which: usize) {
        let now = at(self.now);
        let node = &mut self.nodes[which];
        let limits = Limits { phones: 10 };
        let mut tracker = Tracker::new(node.me.clone(), [hq()], &[], timers(), limits, now);
        for (feature, standing) in &node.disk {
            tracker.restore(&system("hq"), *feature, standing.clone(), now);
        }
        for subject in &node.reports {
            tracker.restore_reports(&system("hq"), *subject, now);
        }
        node.tracker = Some(tracker);
        self.sight();
    }

    fn stop(&mut self, which: usize) {
        self.nodes[which].tracker = None;
        self.sight();
    }

    fn sight(&mut self) {
        let together = self.connected && self.nodes.iter().all(|n| n.tracker.is_some());
        for node in &mut self.nodes {
            if let Some(tracker) = &mut node.tracker {
                tracker.node_sight(if together {
                    Ok(self.now)
                } else {
                    Err(self.now)
                });
            }
        }
    }

    fn connect(&mut self, connected: bool) {
        if self.connected != connected {
            self.connected = connected;
            self.sight();
        }
    }

    /// Time passes: PBXs report to both nodes, and the nodes hear of each other each second.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            let (home, portal, now) = (self.home, self.portal, at(self.now));
            for node in &mut self.nodes {
                let Some(tracker) = &mut node.tracker else {
                    continue;
                };
                let mut told = vec![(Subject::Portal, portal)];
                if home {
                    told.push((Subject::Home, true));
                }
                for (subject, up) in told {
                    if tracker.told(&system("hq"), subject, up, now).unwrap() {
                        node.reports.push(subject);
                    }
                }
            }
            if self.connected && self.shares && self.nodes.iter().all(|n| n.tracker.is_some()) {
                let told = self.nodes.each_ref().map(Node::told);
                self.nodes[0].tracker.as_mut().unwrap().hear(&told[1]);
                self.nodes[1].tracker.as_mut().unwrap().hear(&told[0]);
            }
            self.nodes.iter_mut().for_each(|n| n.decide(self.now));
        }
    }

    fn phone_at_branch(&mut self) {
        let phone = Registration {
            extension: "2001".to_owned(),
            kind: PhoneKind::Desk,
            home_system: system("hq"),
            at_system: system("branch"),
            on_preserved_call: false,
            idle: true,
            restarted: false,
            location: None,
        };
        let now = at(self.now);
        for node in &mut self.nodes {
            if let Some(tracker) = &mut node.tracker {
                tracker.registered(&phone, now).unwrap();
            }
            node.decide(self.now);
        }
    }

    fn fail_back(&mut self, which: usize, feature: Feature) {
        let node = &mut self.nodes[which];
        let Some(tracker) = &mut node.tracker else {
            return;
        };
        if let Ok(change) = tracker.ask_failback(&system("hq"), feature, at(self.now)) {
            node.take(&[change], self.now);
        }
    }

    fn both_say(&self, feature: Feature) -> (Side, u64) {
        let says = self.nodes.each_ref().map(|n| n.says(feature));
        assert_eq!(says[0], says[1], "{} at both nodes", feature.as_str());
        says[0]
    }
}

/// The decider restarts while the portal is served by the backup: nothing else takes it over, and the
/// administrator's failback there is heard at both.
#[test]
fn a_restart_of_the_deciding_node_makes_no_second_takeover() {
    let mut pair = Pair::new();
    pair.portal = false;
    pair.pass(5);
    assert_eq!(pair.both_say(Feature::Portal), (Side::Backup, 1));
    pair.stop(DECIDER);
    pair.pass(5);
    pair.start(DECIDER);
    pair.pass(5);
    assert!(
        pair.nodes[STAND_IN].moves.is_empty(),
        "it took nothing over"
    );
    pair.portal = true;
    pair.pass(5);
    pair.fail_back(DECIDER, Feature::Portal);
    pair.pass(2);
    assert_eq!(pair.both_say(Feature::Portal), (Side::Home, 2));
}

/// A portal that goes down just while the decider restarts waits for it.
#[test]
fn a_short_absence_of_the_deciding_node_is_no_reason_to_take_over() {
    let mut pair = Pair::new();
    pair.stop(DECIDER);
    pair.pass(2);
    pair.portal = false;
    pair.pass(3);
    let stand_in = pair.nodes[STAND_IN].tracker.as_ref().unwrap();
    let (_, _, outlook) = stand_in.stands(0, Feature::Portal).unwrap();
    let waits = "vmpro2, which decides, to stay out of sight for 1m";
    assert_eq!(outlook.waiting_for, [waits]);
    pair.pass(54);
    assert!(pair.nodes[STAND_IN].moves.is_empty());
    pair.pass(3);
    assert_eq!(
        pair.nodes[STAND_IN].says(Feature::Portal),
        (Side::Backup, 1)
    );
    // Back, the decider follows what was decided in its stead, and decides on from there.
    pair.start(DECIDER);
    pair.pass(2);
    assert_eq!(pair.both_say(Feature::Portal), (Side::Backup, 1));
    assert!(pair.nodes[DECIDER].moves.is_empty());
    pair.portal = true;
    pair.pass(2);
    pair.fail_back(DECIDER, Feature::Portal);
    pair.pass(2);
    assert_eq!(pair.both_say(Feature::Portal), (Side::Home, 2));
}

/// Both took the phones over, out of each other's sight: one of the two goes on telling the alarm
/// (R-AL-1), the decider; both are home in the end.
#[test]
fn of_two_takeovers_one_is_handed_over() {
    let mut pair = Pair::new();
    pair.connect(false);
    pair.home = false;
    pair.pass(300);
    pair.phone_at_branch();
    let by = |node: &Node| {
        let tracker = node.tracker.as_ref().unwrap();
        let (_, standing, _) = tracker.stands(0, Feature::Phones).unwrap();
        (standing.side, standing.by.clone())
    };
    for node in &pair.nodes {
        assert_eq!(by(node), (Side::Backup, None), "each decided it itself");
    }
    pair.connect(true);
    pair.pass(2);
    assert_eq!(by(&pair.nodes[DECIDER]), (Side::Backup, None));
    let follows = (Side::Backup, Some(node("vmpro2")));
    assert_eq!(by(&pair.nodes[STAND_IN]), follows);
    pair.stop(STAND_IN);
    pair.start(STAND_IN);
    assert_eq!(by(&pair.nodes[STAND_IN]), follows, "kept over a restart");
    pair.home = true;
    pair.pass(660);
    for feature in Feature::ALL {
        assert_eq!(pair.both_say(feature).0, Side::Home);
    }
}

/// An older release tells nothing: what a node took over for the other it brings home itself.
#[test]
fn with_an_older_peer_each_node_brings_home_what_it_took_over() {
    let mut pair = Pair::new();
    pair.shares = false;
    pair.stop(DECIDER);
    pair.home = false;
    pair.pass(300);
    pair.phone_at_branch();
    assert_eq!(
        pair.nodes[STAND_IN].says(Feature::Phones),
        (Side::Backup, 1)
    );
    pair.start(DECIDER);
    pair.home = true;
    pair.pass(660);
    assert_eq!(pair.nodes[STAND_IN].says(Feature::Phones), (Side::Home, 2));
}

/// However much has moved, a heartbeat stays small, and tells of what is away from home first.
#[test]
fn what_is_told_is_bounded() {
    let setups = (0..2_000).map(|n| Setup {
        name: system(&format!("branch-{n}")),
        ..hq()
    });
    let (now, limits) = (at(Duration::from_secs(9)), Limits { phones: 1 });
    let mut tracker = Tracker::new(node("vmpro2"), setups, &[], timers(), limits, now);
    for n in 0..2_000_u64 {
        let standing = Standing {
            epoch: if n == 1_999 { 1 } else { 2 },
            side: if n == 1_999 { Side::Backup } else { Side::Home },
            since: vmsync_config::words::UnixMillis(10_000 - n),
            because: String::new(),
            by: None,
        };
        tracker.restore(
            &system(&format!("branch-{n}")),
            Feature::Portal,
            standing,
            now,
        );
    }
    let told = tracker.tell();
    assert_eq!(told.len(), MOST_TOLD);
    assert_eq!(told[0].system, system("branch-1999"));
    assert_eq!(told[1].system, system("branch-0"), "then what moved last");
}

#[derive(Debug, Clone)]
enum Event {
    Connected(bool),
    Stop(usize),
    Start(usize),
    Portal(bool),
    Home(bool),
    Phone,
    FailBack(usize),
}

fn events() -> impl Strategy<Value = Vec<(u64, Event)>> {
    let event = prop_oneof![
        any::<bool>().prop_map(Event::Connected),
        (0_usize..2).prop_map(Event::Stop),
        (0_usize..2).prop_map(Event::Start),
        any::<bool>().prop_map(Event::Portal),
        any::<bool>().prop_map(Event::Home),
        Just(Event::Phone),
        (0_usize..2).prop_map(Event::FailBack),
    ];
    let gap = prop_oneof![0_u64..10, 60_u64..250];
    prop::collection::vec((gap, event), 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Restarts, cuts and losses in any order: once all is well both nodes say the same, and after
    /// one failback by hand of the manual portal nothing is away from home.
    #[test]
    fn in_the_end_both_say_the_same_and_all_is_home(events in events()) {
        let mut pair = Pair::new();
        for (gap, event) in events {
            match event {
                Event::Connected(connected) => pair.connect(connected),
                Event::Stop(which) => pair.stop(which),
                Event::Start(which) => {
                    if pair.nodes[which].tracker.is_none() {
                        pair.start(which);
                    }
                }
                Event::Portal(up) => pair.portal = up,
                Event::Home(up) => pair.home = up,
                Event::Phone => pair.phone_at_branch(),
                Event::FailBack(which) => pair.fail_back(which, Feature::Portal),
            }
            pair.pass(gap);
        }
        (pair.home, pair.portal) = (true, true);
        pair.connect(true);
        for which in 0..2 {
            if pair.nodes[which].tracker.is_none() {
                pair.start(which);
            }
        }
        pair.pass(700);
        for feature in Feature::ALL {
            let (side, epoch) = pair.both_say(feature);
            prop_assert!(side == Side::Home || feature == Feature::Portal, "{:?}", feature);
            prop_assert_eq!(side == Side::Backup, epoch % 2 == 1);
        }
        pair.fail_back(DECIDER, Feature::Portal);
        pair.pass(3);
        prop_assert_eq!(pair.both_say(Feature::Portal).0, Side::Home);
    }
}
