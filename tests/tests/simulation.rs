//! The pair in virtual time, many seeds. More of them, or one with its trace:
//! `cargo run -p vmsync-tests --bin simulate -- --seeds 20000 --from 2000`, or `-- --seed 7`.

#![allow(
    clippy::panic,
    reason = "a failed expectation is the failure of the test"
)]

use vmsync_tests::sim::{Report, Sabotage, run, run_all};

/// Seeds of an ordinary run.
const SEEDS: u64 = 2_000;

#[test]
fn every_seed_ends_well() {
    let (total, failures) = run_all(0..SEEDS, None);
    if let Some(first) = failures.first() {
        panic!(
            "{} of {SEEDS} seeds failed. The first: {first}",
            failures.len()
        );
    }
    println!("{:#?}", total.counts);
    happened(&total);
}

/// Runs in which nothing happened would prove nothing.
fn happened(total: &Report) {
    for what in [
        "acknowledged",
        "crashes",
        "power losses at a step",
        "power losses while starting",
        "cuts",
        "cuts one way",
        "clock jumps",
        "restores",
        "both restored",
        "replacements",
        "mails of operations",
        "mails behind another",
        "mails cut inside DATA",
        "mails unanswered",
        "mails late",
        "mails twice",
        "mails put off",
        "mails refused",
        "mails not taken",
        "steps of seedings",
        "mails of items",
        "mails of records",
        "log entries compacted",
        "merge reports",
        "mails refused for what is in them",
        "mails narrowed",
        "skips mailed",
        "steps past a record",
        "quarantined",
        "quarantined, its audio unreadable",
        "releases mailed",
        "releases put off",
        "quarantines ended",
        "audio damaged",
        "audio mended",
        "audio damaged that mended the peer's",
        "audio unreadable for a time",
        "audio readable again",
        "requests refused",
        "failover-phones",
        "failover-visibility",
        "failover-operator",
        "failback-graceful",
        "failback-automatic-calls",
        "failback-automatic-timeout",
        "failback-operator",
        "failback-forced",
    ] {
        let times = total.counts.get(what).copied().unwrap_or(0);
        assert!(times > 0, "no seed had {what}; {:#?}", total.counts);
    }
}

#[test]
fn a_seed_replays() {
    for seed in [7, 77] {
        assert_eq!(run(seed, None), run(seed, None));
    }
}

/// An oracle that never complains proves nothing either.
#[test]
fn a_guarantee_broken_on_purpose_is_noticed() {
    for sabotage in Sabotage::ALL {
        let (_, failures) = run_all(0..60, Some(sabotage));
        println!("{sabotage:?}: noticed by {} of 60 seeds", failures.len());
        assert!(failures.len() >= 3, "{sabotage:?}: {failures:?}");
    }
}
