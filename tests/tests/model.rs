//! Every behaviour of the pair within bounds (docs/decisions/0015-model-check.md). More of it:
//! `cargo run --release -p vmsync-tests --bin modelcheck -- --crashes 2 --acts 2 --states 2000000`.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed expectation is the failure of the test"
)]

use vmsync_core::resilience::rows::ROWS;
use vmsync_tests::model::{Bounds, Mutant, Setup, Tally, search, search_all};

/// R-FB-1, R-FB-4, R-FB-5, R-FO-1, R-FO-2, R-TO-2, R-TO-6 among them; the decision lists all.
#[test]
fn every_promise_holds_in_every_state() {
    let setups = Bounds::TESTED.map(|bounds| Setup::all(bounds).unwrap());
    let all = search_all(&setups.concat());
    let mut tally = Tally::default();
    for found in &all {
        println!("{found}");
        tally.add(&found.tally);
    }
    let states: usize = all.iter().map(|f| f.states).sum();
    let steps: u64 = all.iter().map(|f| f.steps).sum();
    let complete = all.iter().filter(|f| f.complete).count();
    println!(
        "{states} states, {steps} steps; {complete} of {} searches complete",
        all.len()
    );
    for found in &all {
        assert!(found.broken.is_none(), "{found}");
    }
    happened(&tally);
}

/// A search in which nothing happened would prove nothing: each row fired, and each condition was
/// once all that some row waited for.
fn happened(tally: &Tally) {
    println!("{:#?}", tally.happened);
    let missing = |code: &str| tally.missing.iter().any(|(_, missing)| *missing == code);
    for row in &ROWS {
        assert!(
            tally.happened.contains_key(row.id),
            "{} never fired",
            row.id
        );
        for condition in row.conditions {
            assert!(
                missing(condition.code),
                "nothing waited for {} alone",
                condition.code
            );
        }
    }
    for gate in [
        "maintenance",
        "resilience_off",
        "home_silent",
        "sync_not_started",
    ] {
        assert!(missing(gate), "nothing waited for {gate} alone");
    }
    for what in [
        "an order scheduled",
        "an order queued",
        "an order carried out",
    ] {
        assert!(tally.happened.contains_key(what), "never {what}");
    }
    for code in [
        "calls_active",
        "home_invisible",
        "stale_expected_owner",
        "sync_not_started",
    ] {
        assert!(tally.refused.contains(code), "never refused: {code}");
    }
}

/// A search that never complains proves nothing either.
#[test]
fn a_rule_broken_on_purpose_is_noticed() {
    for mutant in Mutant::ALL {
        let [quiet, _, _, acts, _] = Bounds::TESTED;
        let mut setups = [quiet, acts]
            .into_iter()
            .flat_map(|b| Setup::all(b).unwrap());
        let found = setups.find_map(|mut setup| {
            setup.mutant = Some(mutant);
            let found = search(&setup);
            found.broken.is_some().then_some(found)
        });
        let found = found.unwrap_or_else(|| panic!("{mutant:?}: nothing was found"));
        println!("{mutant:?}:\n{found}");
    }
}
