//! How much the tracker costs: `cargo test --release --workspace --test features_scale -- --ignored --nocapture`.
//! Figures are printed, not asserted; docs/bench.md tells them.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measurement, which reads a clock"
)]

#[allow(
    dead_code,
    reason = "the examples' runner, of which only the clock and the timers are used here"
)]
mod features_script;

use std::time::{Duration, Instant};

use features_script::{at, timers};
use vmsync_config::words::{NodeId, SystemName};
use vmsync_core::{
    features::{Feature, Limits, Registration, Return, Setup, Subject, Tracker},
    resilience::PhoneKind,
};

const SYSTEMS: u32 = 10_000;
const PHONES: u32 = 100_000;
const HOUR: u64 = 3_600;

fn name(n: u32) -> SystemName {
    SystemName::new(format!("branch-{n:05}")).unwrap()
}

fn setup(n: u32) -> Setup {
    let node = |n: u32| {
        NodeId::new(if n.is_multiple_of(2) {
            "vmpro1"
        } else {
            "vmpro2"
        })
        .unwrap()
    };
    let backup = (n + 1) % SYSTEMS;
    Setup {
        name: name(n),
        home: node(n),
        backup: Some(name(backup)),
        decider: Some(NodeId::new("vmpro2").unwrap()),
        backed_up: Feature::ALL.to_vec(),
        phone_failback: Return::Automatic,
        prioritize_primary: true,
        portal_failback: Return::Automatic,
    }
}

fn phone(n: u32) -> Registration {
    Registration {
        extension: format!("{}", 200_000 + n),
        kind: PhoneKind::Desk,
        home_system: name(n % SYSTEMS),
        at_system: name(n % SYSTEMS),
        on_preserved_call: false,
        idle: true,
        restarted: false,
        location: None,
    }
}

/// Decides and takes until nothing is due; the number of changes.
fn settle(tracker: &mut Tracker, now: Duration) -> usize {
    let mut changes = 0;
    while tracker.next_deadline().is_some_and(|due| due <= now) {
        let decided = tracker.decide(500, at(now));
        changes += decided.len();
        tracker.take(&decided, at(now));
    }
    changes
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kb = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    kb.unwrap_or(0)
}

#[test]
#[ignore = "a measurement"]
fn ten_thousand_systems_and_a_hundred_thousand_phones() {
    let before = resident_kb();
    let mut tracker = Tracker::new(
        NodeId::new("vmpro2").unwrap(),
        (0..SYSTEMS).map(setup),
        &[],
        timers(),
        Limits { phones: 200_000 },
        at(Duration::ZERO),
    );
    tracker.node_sight(Ok(Duration::ZERO));
    let registrations: Vec<_> = (0..PHONES).map(phone).collect();
    let names: Vec<_> = (0..SYSTEMS).map(name).collect();
    let begun = Instant::now();
    for phone in &registrations {
        tracker.registered(phone, at(Duration::ZERO)).unwrap();
    }
    println!("a registration: {:?}", begun.elapsed() / PHONES);
    for system in &names {
        tracker
            .told(system, Subject::Home, true, at(Duration::ZERO))
            .unwrap();
    }
    settle(&mut tracker, Duration::ZERO);
    println!("memory: {} KB", resident_kb().saturating_sub(before));

    // An hour of signs of life, every system every 30 s; nothing else happens.
    let begun = Instant::now();
    for second in 1..=HOUR {
        let now = Duration::from_secs(second);
        let slot = usize::try_from(second % 30).unwrap();
        for system in names.iter().skip(slot).step_by(30) {
            tracker.told(system, Subject::Home, true, at(now)).unwrap();
        }
        assert_eq!(settle(&mut tracker, now), 0);
    }
    let idle = begun.elapsed();
    println!(
        "idle, signs of life every 30 s: {:.4} % of a core",
        share(idle)
    );

    // The same, each phone refreshing its registration every 5 minutes as well.
    let begun = Instant::now();
    for second in HOUR + 1..=2 * HOUR {
        let now = Duration::from_secs(second);
        let slot = usize::try_from(second % 30).unwrap();
        for system in names.iter().skip(slot).step_by(30) {
            tracker.told(system, Subject::Home, true, at(now)).unwrap();
        }
        let slot = usize::try_from(second % 300).unwrap();
        for phone in registrations.iter().skip(slot).step_by(300) {
            tracker.registered(phone, at(now)).unwrap();
        }
        settle(&mut tracker, now);
    }
    println!(
        "with registrations every 5 min: {:.4} % of a core",
        share(begun.elapsed())
    );

    // Everything falls silent: every system becomes pending.
    let now = Duration::from_secs(2 * HOUR + 120);
    let begun = Instant::now();
    let changes = settle(&mut tracker, now);
    println!(
        "all systems lost at once: {changes} changes in {:?}",
        begun.elapsed()
    );
}

fn share(spent: Duration) -> f64 {
    spent.as_secs_f64() * 100.0 / Duration::from_secs(HOUR).as_secs_f64()
}
