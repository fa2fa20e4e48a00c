//! The pair in virtual time: two cores, two stores that crash at their durability point, a bad
//! mail link, cuts, wrong clocks, restored data folders; everything from one seed.
//!
//! A run is a time of troubles, a healing, and a rest. During the troubles the [`oracle`] checks
//! what must never happen; after the rest it checks what must have happened: nothing acknowledged
//! is lost, both nodes hold the same (and know it), deletions stayed deleted, no sequence number
//! was used twice, exactly one node serves, epochs only grew, and the pair went quiet.
//!
//! A failing seed replays: `SEED=n cargo test -p vmsync-tests --test simulation -- --nocapture`.

pub mod link;
pub mod node;
pub mod oracle;
pub mod rng;
pub mod store;
mod trouble;
mod world;

use std::{collections::BTreeMap, time::Duration};

pub use world::World;

/// What happened in a run, so that a test can tell whether the runs were worth anything.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// Events by name: mails, crashes, cuts, restores, failovers by row…
    pub counts: BTreeMap<&'static str, u64>,
}

impl Report {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        for (name, count) in &other.counts {
            *self.counts.entry(name).or_default() += count;
        }
    }
}

/// A run that broke a promise.
#[derive(Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// Which promise.
    pub why: String,
    /// The last things that happened, oldest first.
    pub trace: Vec<String>,
}

/// Time of troubles.
const TROUBLES: Duration = Duration::from_mins(6);
/// Time to come to rest after healing. Longer than any retry pause and failback timer in use.
const REST: Duration = Duration::from_mins(3);
/// Time in which nothing may be mailed.
const QUIET: Duration = Duration::from_mins(2);

/// Runs one seed.
pub fn run(seed: u64) -> Result<Report, Failure> {
    let mut world = World::new(seed);
    match story(&mut world) {
        Ok(()) => Ok(world.report()),
        Err(why) => Err(Failure {
            seed,
            why,
            trace: world.trace(),
        }),
    }
}

fn story(world: &mut World) -> Result<(), String> {
    world.run(TROUBLES)?;
    world.heal();
    world.run(REST)?;
    world.bring_home()?;
    world.run(Duration::from_mins(1))?;
    world.check_rest()?;
    let mails = world.mails();
    world.run(QUIET)?;
    if world.mails() == mails {
        Ok(())
    } else {
        Err("the pair does not go quiet".to_owned())
    }
}
