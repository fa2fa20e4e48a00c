//! The resilience machine: examples by R-number as data files, and laws as properties.

#![allow(
    clippy::expect_used,
    reason = "shared code of tests, outside #[test] functions"
)]

mod resilience_script;

use std::time::Duration;

use proptest::prelude::*;
use resilience_script::{Script, group, wall};
use vmsync_config::{FailbackPolicy, Group, Trigger, words::NodeId};
use vmsync_core::resilience::{
    Ask, Format, Machine, Maintenance, Ownership, Phase, PhoneEvidence, PhoneKind, Place,
    Registration, Request, Rules, Serving, Startup, TIMEOUT_CAP, View, adopt, explain, serves,
};

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/resilience");

#[test]
fn every_example_holds() {
    let mut files: Vec<_> = std::fs::read_dir(DATA)
        .expect("the examples")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    assert!(files.len() >= 20, "examples are missing from {DATA}");
    let mut failures = Vec::new();
    for path in &files {
        let text = std::fs::read_to_string(path).expect("readable");
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        assert!(text.contains("expect "), "{name} expects nothing");
        if let Err(why) = Script::run(&text) {
            failures.push(format!("{name}, {why}"));
        }
    }
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
}

#[test]
fn the_documentation_shows_the_machine_that_runs() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/resilience.md");
    let page = std::fs::read_to_string(page).expect("docs/resilience.md");
    let diagram = explain(Format::Mermaid);
    assert!(
        page.contains(diagram.trim_end()),
        "docs/resilience.md must hold this diagram:\n{diagram}"
    );
}

#[test]
fn the_text_names_every_row_and_gate() {
    let text = explain(Format::Text);
    for row in &vmsync_core::resilience::rows::ROWS {
        assert!(text.contains(row.id), "{} is missing", row.id);
    }
    assert!(text.contains("never unless resilience of voicemail is turned on (R-TO-6)"));
    assert!(text.contains("synchronisation has started (R-FB-1)"));
}

#[test]
fn the_home_sends_requests_to_the_backup() {
    let machine = Machine::new(group());
    let mut view = View::new(group().home, Duration::ZERO);
    view.peer = Ok(Duration::ZERO);
    let ownership = Ownership::initial(&group(), wall(Duration::ZERO).wall);
    let ask = Ask::from(Request::ActivateBackup);
    let rules = resilience_script::rules();
    let now = wall(Duration::ZERO);
    let decision = machine.decide(&ownership, &view, &rules, Some(&ask), now);
    assert_eq!(decision.refused.expect("refused").code, "not_backup");
    assert_eq!(decision.ownership, None);
    view.peer = Err(Duration::ZERO);
    let alone = machine.decide(&ownership, &view, &rules, None, now);
    assert_eq!(alone.phase, Phase::Normal, "a home sees itself");
}

/// Columns: me, the peer answers or not, started or not, what is put first, the witness if there is one.
#[test]
fn who_answers() {
    let no = || Serving::No {
        owner: group().home,
    };
    let isolated = || Serving::Isolated {
        owner: group().home,
    };
    let table = [
        ("home   answers started  answering", Serving::Yes),
        ("home   silent  started  answering", Serving::Yes),
        ("home   silent  started  answering unseen", Serving::Yes),
        ("home   answers starting answering", Serving::Starting),
        ("home   silent  starting answering", Serving::Starting),
        ("backup answers started  answering", no()),
        ("backup silent  started  answering", Serving::YesPartition),
        (
            "backup silent  started  answering unseen",
            Serving::YesPartition,
        ),
        ("backup silent  starting answering", Serving::Starting),
        // resilience.answering_beats_consistency = false
        ("home   answers started  consistency unseen", Serving::Yes),
        ("home   silent  started  consistency", Serving::Yes),
        ("home   silent  started  consistency seen", Serving::Yes),
        ("home   silent  started  consistency unseen", isolated()),
        (
            "home   silent  started  consistency unseen greets",
            Serving::Yes,
        ),
        ("backup answers started  consistency seen", no()),
        ("backup silent  started  consistency seen", isolated()),
        ("backup silent  started  consistency", isolated()),
        ("backup silent  starting consistency", Serving::Starting),
    ];
    let owned = Ownership::initial(&group(), wall(Duration::ZERO).wall);
    for (row, expected) in table {
        let has = |word| row.split_whitespace().any(|w| w == word);
        let Group { home, backup, .. } = &group();
        let place = Place {
            me: if has("home") { home } else { backup },
            ownership: &owned,
            peer_answers: has("answers"),
            peer_visible: has("answers") || has("greets"),
            started: has("started"),
            answering_first: has("answering"),
            witness: has("seen")
                .then_some(true)
                .or(has("unseen").then_some(false)),
        };
        assert_eq!(serves(place), expected, "{row}");
    }
}

#[test]
fn a_starting_node_waits_for_its_peer_but_not_for_ever() {
    let at = Duration::from_secs;
    let mut start = Startup::new(at(5), at(10));
    assert!(!start.done(at(14)));
    assert_eq!(start.deadline(at(14)), Some(at(15)));
    assert!(start.done(at(15)), "alone for the whole grace");
    start.heard();
    assert!(start.done(at(6)), "the peer has spoken");
    assert_eq!(start.deadline(at(6)), None);
}

fn owned(epoch: u64, owner: &NodeId) -> Ownership {
    Ownership {
        epoch,
        owner: owner.clone(),
        ..Ownership::initial(&group(), wall(Duration::ZERO).wall)
    }
}

#[test]
fn when_nodes_meet() {
    let (home, backup) = (group().home, group().backup);
    let meet = |mine: &Ownership, theirs: &Ownership| adopt(&group(), mine, theirs);
    let low = owned(3, &home);
    let high = owned(4, &backup);
    assert_eq!(
        meet(&low, &high),
        Some(high.clone()),
        "the higher epoch wins"
    );
    assert_eq!(meet(&high, &low), None);
    assert_eq!(meet(&high, &high), None, "nothing new");

    let clash = owned(3, &backup);
    let (here, there) = (meet(&low, &clash), meet(&clash, &low));
    assert_eq!(here, there, "both nodes settle it alike");
    let settled = here.expect("settled");
    assert_eq!((settled.epoch, &settled.owner), (4, &home));
    assert!(
        settled
            .reason
            .contains("both owned group primary in epoch 3")
    );

    let damaged = owned(u64::MAX, &backup);
    assert_eq!(meet(&low, &damaged), None, "no real epoch");
    let stranger = NodeId::new("vmpro9").expect("an id");
    assert_eq!(meet(&low, &owned(9, &stranger)), None, "not of the group");

    let held = Ownership {
        held: true,
        ..high.clone()
    };
    assert_eq!(
        meet(&held, &high),
        Some(high.clone()),
        "held only ever ends"
    );
    assert_eq!(meet(&high, &held), None);
}

/// Something that may happen to a pair.
#[derive(Debug, Clone)]
enum Happening {
    Invisible,
    Visible,
    SyncStarts,
    SyncFinishes,
    Calls(u32),
    Phone(PhoneKind),
    Ask(Request),
    Minutes(u64),
    Speaks(bool),
    Witness(bool),
    /// For so many minutes, 0 = until it is ended.
    Maintenance(u64),
    MaintenanceEnds,
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening as H;
    let kind = prop_oneof![
        Just(PhoneKind::Desk),
        Just(PhoneKind::Dect),
        Just(PhoneKind::Softphone),
        Just(PhoneKind::Webrtc)
    ];
    let request = prop_oneof![
        Just(Request::ActivateBackup),
        any::<bool>().prop_map(|force| Request::Failback { force })
    ];
    prop_oneof![
        2 => Just(H::Invisible),
        2 => Just(H::Visible),
        2 => Just(H::SyncStarts),
        1 => Just(H::SyncFinishes),
        1 => (0..3_u32).prop_map(H::Calls),
        3 => kind.prop_map(H::Phone),
        1 => request.prop_map(H::Ask),
        3 => (1..90_u64).prop_map(H::Minutes),
        1 => any::<bool>().prop_map(H::Speaks),
        1 => any::<bool>().prop_map(H::Witness),
        1 => (0..90_u64).prop_map(H::Maintenance),
        1 => Just(H::MaintenanceEnds),
    ]
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let trigger = prop_oneof![
        Just(Trigger::Phones),
        Just(Trigger::Visibility),
        Just(Trigger::Manual)
    ];
    let policy = prop_oneof![
        Just(FailbackPolicy::Manual),
        Just(FailbackPolicy::Graceful),
        Just(FailbackPolicy::Automatic)
    ];
    let minutes = |most: u64| (0..most).prop_map(Duration::from_mins);
    let spans = (minutes(300), minutes(300), minutes(300));
    (any::<bool>(), trigger, policy, spans).prop_map(
        |(on, trigger, policy, (timeout, stable_for, hold_off))| Rules {
            hold_off,
            backs_up_voicemail: on,
            trigger,
            policy,
            timeout,
            stable_for,
            ..resilience_script::rules()
        },
    )
}

/// The backup in virtual time, with every law checked at every decision.
struct Watched {
    machine: Machine,
    rules: Rules,
    ownership: Ownership,
    view: View,
    phones: PhoneEvidence,
    now: Duration,
    desk_since_lost: bool,
}

impl Watched {
    fn new(rules: Rules) -> Self {
        let mut view = View::new(group().backup, Duration::ZERO);
        view.peer = Ok(Duration::ZERO);
        Self {
            machine: Machine::new(group()),
            rules,
            ownership: Ownership::initial(&group(), wall(Duration::ZERO).wall),
            view,
            phones: PhoneEvidence::new(&group(), &[]),
            now: Duration::ZERO,
            desk_since_lost: false,
        }
    }

    fn happens(&mut self, what: &Happening) -> Result<(), TestCaseError> {
        let mut ask = None;
        match what {
            Happening::Invisible if self.view.peer.is_ok() => {
                self.view.peer = Err(self.now);
                self.view.speaks = false;
                self.view.sync_started = None;
                self.view.sync_finished = false;
                self.desk_since_lost = false;
            }
            Happening::Visible if self.view.peer.is_err() => {
                self.view.peer = Ok(self.now);
                self.view.speaks = true;
            }
            Happening::Speaks(speaks) if self.view.peer.is_ok() => self.view.speaks = *speaks,
            Happening::Witness(seen) => self.view.witness = Some(*seen),
            Happening::Maintenance(minutes) => {
                let end = self.now + Duration::from_mins(*minutes);
                self.rules.maintenance = Some(Maintenance {
                    since: wall(self.now).wall,
                    until: (*minutes > 0).then(|| wall(end).wall),
                    reason: String::new(),
                    by: group().home,
                });
            }
            Happening::MaintenanceEnds => self.rules.maintenance = None,
            Happening::SyncStarts if self.view.peer.is_ok() => {
                self.view.sync_started.get_or_insert(self.now);
            }
            Happening::SyncFinishes => self.view.sync_finished = self.view.sync_started.is_some(),
            Happening::Calls(n) => self.view.calls = *n,
            Happening::Phone(kind) => self.phone(*kind),
            Happening::Ask(request) => ask = Some(Ask::from(*request)),
            Happening::Minutes(n) => return self.pass(Duration::from_mins(*n)),
            _ => {}
        }
        self.phones.sight(self.view.peer);
        self.decide(ask.as_ref())?;
        // `Machine::decide` wants to be asked again after each change of ownership; a request may be one.
        self.decide(None).map(|_| ())
    }

    fn phone(&mut self, kind: PhoneKind) {
        self.desk_since_lost |= kind == PhoneKind::Desk;
        let system = |n: &NodeId| n.as_str().parse().expect("a system name");
        let phone = Registration {
            extension: "2001".to_owned(),
            kind,
            home_system: system(&group().home),
            at_system: system(&group().backup),
        };
        let after = self.rules.failover_after;
        self.phones
            .registered(&phone, self.view.peer, after, self.now);
    }

    /// Lets time pass, deciding only at the deadlines the machine named.
    fn pass(&mut self, span: Duration) -> Result<(), TestCaseError> {
        let end = self.now + span;
        for _ in 0..100 {
            let Some(due) = self.decide(None)?.filter(|due| *due <= end) else {
                self.now = end;
                return self.decide(None).map(|_| ());
            };
            prop_assert!(due > self.now, "a deadline in the past");
            self.now = due;
        }
        Err(TestCaseError::fail("deadlines never end"))
    }

    fn decide(&mut self, ask: Option<&Ask>) -> Result<Option<Duration>, TestCaseError> {
        self.view.desk_phones = self.phones.desk_phones();
        let now = wall(self.now);
        let d = self
            .machine
            .decide(&self.ownership, &self.view, &self.rules, ask, now);
        prop_assert!(d.row.is_none() || d.refused.is_none());
        let Some(next) = d.ownership else {
            self.never_late()?;
            return Ok(d.deadline);
        };
        match d.row {
            None => prop_assert_eq!(
                Ownership {
                    held: true,
                    ..next.clone()
                },
                self.ownership.clone(),
                "without a row only `held` may end"
            ),
            Some(row) => {
                prop_assert_eq!(
                    next.epoch,
                    self.ownership.epoch + 1,
                    "epochs only grow, by one"
                );
                prop_assert!(next.owner != self.ownership.owner);
                let maintenance = self.rules.maintenance.as_ref();
                prop_assert!(
                    ask.is_some() || !maintenance.is_some_and(|m| m.is_on(now.wall)),
                    "nothing is decided by itself in maintenance: {}",
                    row
                );
                prop_assert!(
                    ask.is_some() || next.owner == group().home || self.view.witness != Some(false),
                    "cut off from the witness: {}",
                    row
                );
                if next.owner == group().home {
                    prop_assert!(self.view.peer.is_ok(), "R-FB-1: {}", row);
                    prop_assert!(self.view.speaks, "R-FB-1: {}", row);
                    prop_assert!(self.view.sync_started.is_some(), "R-FB-1: {}", row);
                } else {
                    prop_assert!(self.rules.backs_up_voicemail, "R-TO-6: {}", row);
                    prop_assert!(
                        row != "failover-phones" || self.desk_since_lost,
                        "only a desk phone is evidence"
                    );
                }
            }
        }
        self.ownership = next;
        Ok(d.deadline)
    }

    /// R-FB-5: 60 minutes after its clock began, an automatic failback has happened.
    fn never_late(&self) -> Result<(), TestCaseError> {
        let backed_up = self.ownership.owner == group().backup && !self.ownership.held;
        let maintenance = self.rules.maintenance.as_ref();
        let paused = maintenance.is_some_and(|m| m.is_on(wall(self.now).wall));
        let automatic = self.rules.policy == FailbackPolicy::Automatic;
        if !automatic || !backed_up || paused || !self.view.speaks {
            return Ok(());
        }
        if let (Ok(visible), Some(started)) = (self.view.peer, self.view.sync_started) {
            let began = visible.max(started);
            prop_assert!(
                self.now < began + TIMEOUT_CAP,
                "the backup kept the group too long"
            );
        }
        Ok(())
    }
}

/// The hold was all that stood in the way: an administrator ends it after the 60 minutes, a call still goes on,
/// and the group goes home with the next look at it, before anybody can ask for anything else.
#[test]
fn a_hold_that_ends_late_ends_in_a_failback_at_once() {
    let rules = Rules {
        backs_up_voicemail: true,
        trigger: Trigger::Phones,
        failover_after: Duration::from_mins(3),
        policy: FailbackPolicy::Automatic,
        timeout: Duration::ZERO,
        stable_for: Duration::ZERO,
        hold_off: Duration::ZERO,
        maintenance: None,
    };
    let mut pair = Watched::new(rules);
    let story = [
        Happening::Invisible,
        Happening::Visible,
        Happening::SyncStarts,
        Happening::Calls(1),
        Happening::Minutes(60),
        Happening::Ask(Request::ActivateBackup),
        Happening::Ask(Request::Failback { force: false }),
    ];
    for what in &story {
        pair.happens(what).unwrap();
    }
    assert_eq!(pair.ownership.owner, group().home);
    let row = pair.ownership.row.as_deref();
    assert_eq!(row, Some("failback-automatic-timeout"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn laws_hold_whatever_happens(
        rules in any_rules(),
        story in prop::collection::vec(happening(), 1..60),
    ) {
        let mut pair = Watched::new(rules);
        for what in &story {
            pair.happens(what)?;
        }
    }
}
