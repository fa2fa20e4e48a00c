//! The pair in virtual time, many seeds. `SEEDS=n` runs more; `SEED=n` replays one and tells its story.

use vmsync_tests::sim::{Failure, Report, run};

/// Seeds of an ordinary run.
const SEEDS: u64 = 300;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn told(failure: &Failure) -> String {
    let Failure { seed, why, trace } = failure;
    let story = trace.join("\n  ");
    format!(
        "seed {seed}: {why}\n  {story}\nreplay: SEED={seed} cargo test -p vmsync-tests --test simulation -- --nocapture"
    )
}

#[test]
fn every_seed_ends_well() {
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(SEEDS),
    };
    let one = seeds.end - seeds.start == 1;
    let mut total = Report::default();
    for seed in seeds {
        match run(seed) {
            Ok(report) => total.add(&report),
            Err(failure) => panic!("{}", told(&failure)),
        }
    }
    println!("{:#?}", total.counts);
    if !one {
        happened(&total);
    }
}

/// Runs in which nothing happened would prove nothing.
fn happened(total: &Report) {
    for what in [
        "acknowledged",
        "crashes",
        "cuts",
        "clock jumps",
        "restores",
        "gaps refused",
        "mails twice",
        "mails unanswered",
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
    let (first, second) = (run(7), run(7));
    let counts = |r: Result<Report, Failure>| r.map(|r| r.counts).map_err(|f| told(&f));
    assert_eq!(counts(first), counts(second));
}
