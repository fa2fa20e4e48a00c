//! The other features: examples as data files, and laws as properties.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "shared code of tests, outside #[test] functions"
)]

mod features_script;

use std::{collections::BTreeMap, time::Duration};

use features_script::{Script, timers};
use proptest::prelude::*;
use vmsync_core::features::{Feature, Side, Standing, parameters};

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/features");

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
    let mut moved = BTreeMap::new();
    for path in &files {
        let text = std::fs::read_to_string(path).expect("readable");
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        assert!(text.contains("expect "), "{name} expects nothing");
        match Script::run(&text) {
            Err(why) => failures.push(format!("{name}, {why}")),
            Ok(script) => {
                for (_, change) in script.moves {
                    let side = change.outlook.standing.map(|s| s.side == Side::Home);
                    *moved.entry((change.feature, side)).or_insert(0) += 1;
                }
            }
        }
    }
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
    assert_eq!(
        moved.len(),
        2 * Feature::ALL.len(),
        "each feature fails over and goes home in some example: {moved:?}"
    );
}

#[test]
fn the_documentation_shows_the_table_that_runs() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/features.md");
    let page = std::fs::read_to_string(page).unwrap_or_default();
    let table = parameters::table(&timers());
    assert!(
        page.contains(table.trim_end()),
        "docs/features.md must hold this table:\n{table}"
    );
}

/// What may happen in a random run.
#[derive(Debug, Clone)]
enum Event {
    Node(bool),
    Alive,
    Phone(&'static str, bool, bool),
    Part(&'static str, bool),
    Restart,
    Failback(&'static str),
}

fn events() -> impl Strategy<Value = Vec<(u64, Event)>> {
    let kind = prop::sample::select(vec!["desk", "softphone", "dect", "webrtc"]);
    let part = prop::sample::select(vec!["dect", "mirror", "portal"]);
    let feature = prop::sample::select(Feature::ALL.map(Feature::as_str).to_vec());
    let event = prop_oneof![
        3 => any::<bool>().prop_map(Event::Node),
        1 => Just(Event::Alive),
        4 => (kind, any::<bool>(), any::<bool>()).prop_map(|(k, at, p)| Event::Phone(k, at, p)),
        3 => (part, any::<bool>()).prop_map(|(p, up)| Event::Part(p, up)),
        1 => Just(Event::Restart),
        1 => feature.prop_map(Event::Failback),
    ];
    prop::collection::vec((0_u64..400, event), 1..40)
}

/// Runs random events; with `dense` it decides every second besides.
fn run(events: &[(u64, Event)], dense: bool) -> Script {
    let mut script = Script::new();
    let mut lines = vec![
        "system hq at vmpro1, backup branch, backs up phones users hunt-groups conferences dect dect-master portal, portal manual".to_owned(),
        "system branch at vmpro2".to_owned(),
    ];
    let mut now = 0;
    for (gap, event) in events {
        now += gap;
        let event = match event {
            Event::Node(true) => "vmpro1 visible".to_owned(),
            Event::Node(false) => "vmpro1 invisible".to_owned(),
            Event::Alive => "hq alive".to_owned(),
            Event::Phone(kind, away, preserved) => {
                let place = if *away { "branch" } else { "hq" };
                let preserved = if *preserved { " preserved" } else { "" };
                format!("phone 2001 {kind} of hq at {place}{preserved}")
            }
            Event::Part(part, up) => format!("{part} of hq {}", if *up { "up" } else { "down" }),
            Event::Restart => "vmpro2 restarts".to_owned(),
            Event::Failback(feature) => format!("administrator fails back {feature} of hq"),
        };
        lines.push(format!("at {now}s {event}"));
    }
    lines.push(format!("at {}s nothing", now + 3600));
    let mut second = 0;
    for line in lines {
        let at = line.strip_prefix("at ").and_then(|l| l.split_once('s'));
        if let Some(at) = at.and_then(|(n, _)| n.parse::<u64>().ok())
            && dense
        {
            while second < at {
                script.run_until(Duration::from_secs(second)).expect("time");
                script.decide();
                second += 1;
            }
        }
        script.line(&line).expect("a line");
    }
    script
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Asking at the deadlines it names is as good as asking every second.
    #[test]
    fn deadlines_are_right(events in events()) {
        let (sparse, dense) = (run(&events, false), run(&events, true));
        prop_assert_eq!(sparse.moves, dense.moves);
    }

    #[test]
    fn what_always_holds(events in events()) {
        let script = run(&events, false);
        let mut epochs = BTreeMap::new();
        let mut last: BTreeMap<Feature, Standing> = BTreeMap::new();
        for (_, change) in &script.moves {
            let standing = change.outlook.standing.clone().expect("a transition");
            let before = epochs.insert(change.feature, standing.epoch).unwrap_or(0);
            prop_assert_eq!(standing.epoch, before + 1, "epochs grow by one");
            let side = last.insert(change.feature, standing.clone()).map_or(Side::Home, |s| s.side);
            prop_assert_ne!(side, standing.side, "each transition is one");
        }
        // No desk phone at the backup, no failover of phones, users, hunt groups and conferences.
        let desk = events.iter().any(|(_, e)| matches!(e, Event::Phone("desk", true, false)));
        let by_phones = |f: Feature| matches!(f, Feature::Phones | Feature::Users | Feature::HuntGroups | Feature::Conferences);
        if !desk {
            prop_assert!(script.moves.iter().all(|(_, c)| !by_phones(c.feature)));
        }
    }

    /// Nothing that needs a stable home goes there before it was visible for ten minutes without a break.
    #[test]
    fn never_home_too_early(events in events()) {
        let script = run(&events, false);
        let mut now = 0;
        let mut lost = Vec::new();
        for (gap, event) in &events {
            now += gap;
            if matches!(event, Event::Node(false)) {
                lost.push(Duration::from_secs(now));
            }
        }
        let stable = timers().stable_for;
        for (at, change) in &script.moves {
            let home = change.outlook.standing.as_ref().is_some_and(|s| s.side == Side::Home);
            if home && change.feature == Feature::Users && !events.iter().any(|(_, e)| matches!(e, Event::Alive)) {
                let recent = lost.iter().any(|l| *l <= *at && *at < *l + stable);
                prop_assert!(!recent, "home at {:?}, lost at {:?}", at, lost);
            }
        }
    }
}
