//! The pair in virtual time, many seeds. More of them, or one with its trace:
//! `cargo run -p vmsync-tests --bin simulate -- --seeds 20000 --from 2000`, or `-- --seed 7`.

#![allow(
    clippy::panic,
    reason = "a failed expectation is the failure of the test"
)]

use vmsync_tests::sim::{Report, Sabotage, run, run_all};

/// Seeds of an ordinary run.
const SEEDS: u64 = 2_000;
/// Seeds with a broken guarantee: so many at a time, and at most.
const STEP: u64 = 20;
const MOST_SABOTAGED: u64 = 400;

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
        "flaps",
        "cuts of HTTP",
        "cuts of HTTP one way",
        "cuts of SMTP",
        "cuts of SMTP one way",
        "dead services that were no failover",
        "witness out of reach of both",
        "witness out of reach of one",
        "failovers with the witness in sight",
        "looks at a node that fell silent",
        "clock steps ahead",
        "clock steps back",
        "slow seeds",
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
        "phones that count",
        "phones refused as evidence",
        "evidence kept over a restart",
        "calls",
        "calls that outlive their PBX",
        "failbacks with calls left to end",
        "failbacks after a hold-off",
        "timeouts cut to 60 minutes",
        "maintenance begun",
        "maintenance ended",
        "requests granted",
        "requests refused",
        "requests tried",
        "requests passed on",
        "requests that came too late",
        "activations that reach nobody",
        "orders scheduled",
        "orders noted for a node that is away",
        "orders refused for another",
        "orders cancelled",
        "orders carried out",
        "orders dropped",
        "orders said to be cancelled set right",
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
        let (mut noticed, mut seeds) = (Vec::new(), 0);
        while noticed.len() < 3 && seeds < MOST_SABOTAGED {
            let (_, failures) = run_all(seeds..seeds + STEP, Some(sabotage));
            noticed.extend(failures);
            seeds += STEP;
        }
        println!(
            "{sabotage:?}: noticed by {} of {seeds} seeds",
            noticed.len()
        );
        let first = noticed.first().map(|f| &f.why);
        println!("  {}", first.map_or("", String::as_str));
        assert!(noticed.len() >= 3, "{sabotage:?}: {noticed:?}");
    }
}
