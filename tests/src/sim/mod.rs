//! The pair in virtual time: two nodes, each with the real store on a disk that loses power at any
//! step, the real session and real mails over a bad link; heartbeats, greetings and a witness, and
//! cuts of each of them, together, alone and in one direction; wall clocks that step; phones, calls,
//! operators, orders for later and maintenance mode; data folders replaced by old copies or by
//! nothing, receivers that will not have what is in some mails, audio files that are lost or can't be
//! read; everything from one seed.
//!
//! A run is a time of troubles, a healing, and a rest. During the troubles the [`oracle`] checks
//! what must never happen; after the rest it checks what must have happened: nothing acknowledged
//! is lost, both nodes hold the same (and know it), deletions stayed deleted, no sequence number
//! was used twice, exactly one node serves, epochs only grew, memory and logs are bounded, nothing
//! stayed quarantined, all audio can be read on both nodes, and the pair went quiet. The `judge`
//! does the same for failover and failback; its head lists the promises.
//!
//! | module | is |
//! |---|---|
//! | `setting` | what is fixed for a seed |
//! | `world` | the event loop |
//! | `beats` | heartbeats, greetings, the witness; the lines and their cuts |
//! | `node` | a node as the shell runs it: what survives a crash, what runs |
//! | `deciding`, `ordering` | its turn: sight, decisions, requests, orders |
//! | `syncing` | its synchronisation and upkeep |
//! | `mailing` | mails and the connections they go over |
//! | `link` | what becomes of one mail |
//! | `trouble` | what befalls the pair |
//! | `damage` | what befalls its audio files |
//! | `operating` | phones, calls, operators |
//! | `rest` | healing, and what is checked at rest |
//! | `oracle` | what must hold of mailboxes |
//! | `judge`, `deadlines` | what must hold of failover and failback, and what must come in time |
//!
//! A failing seed says how to replay it: `cargo run -p vmsync-tests --bin simulate -- --seed N`.

mod beats;
mod damage;
mod deadlines;
pub mod deciding;
mod judge;
pub mod link;
mod mailing;
pub mod node;
mod operating;
pub mod oracle;
pub mod ordering;
mod rest;
pub mod rng;
mod setting;
mod syncing;
mod trouble;
mod world;

use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

pub use world::World;

/// What happened in a run, so that a test can tell whether the runs were worth anything.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// Which promise.
    pub why: String,
    /// The last things that happened, oldest first.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, why, trace } = self;
        writeln!(f, "seed {seed}: {why}")?;
        for line in trace {
            writeln!(f, "  {line}")?;
        }
        write!(
            f,
            "replay: cargo run --locked -p vmsync-tests --bin simulate -- --seed {seed}"
        )
    }
}

/// A guarantee broken on purpose, to show that the oracle would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// The store answers before what it answers for is durable.
    AnswerBeforeDurable,
    /// The sender takes the end of a connection for the 250 that did not come.
    BelieveLostAnswers,
    /// The sender takes a refusal for a 250.
    BelieveRefusals,
    /// Phones that count as evidence are not kept.
    ForgetEvidence,
    /// The backup gives its group back before both have exchanged what they hold.
    HurryHome,
    /// Maintenance mode pauses nothing.
    IgnoreMaintenance,
    /// A receiver forgets that something was deleted.
    ForgetDeletions,
    /// Audio files are looked at, and not compared with their SHA-256.
    LookWithoutReading,
    /// What is quarantined is never tried again.
    NeverRelease,
    /// A home whose web server is dead counts as gone.
    OneSignIsAll,
    /// An order is not closed, and not bound to its epoch.
    RepeatOrders,
    /// A node restored from an old copy asks nobody what it has forgotten.
    ReuseNumbers,
    /// What takes the place of a damaged audio file is not what the peer sent.
    SpoilMended,
    /// The receiver answers 250 and does not keep what came.
    TakeNothing,
    /// The witness is seen whether it answers or not.
    TakeWitnessForGranted,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::AnswerBeforeDurable,
        Self::BelieveLostAnswers,
        Self::BelieveRefusals,
        Self::ForgetEvidence,
        Self::HurryHome,
        Self::IgnoreMaintenance,
        Self::ForgetDeletions,
        Self::LookWithoutReading,
        Self::NeverRelease,
        Self::OneSignIsAll,
        Self::RepeatOrders,
        Self::ReuseNumbers,
        Self::SpoilMended,
        Self::TakeNothing,
        Self::TakeWitnessForGranted,
    ];
}

/// Time of troubles.
const TROUBLES: Duration = Duration::from_secs(150);
/// Time to come to rest after healing. Longer than any retry pause and failback timer in use.
const REST: Duration = Duration::from_mins(2);
/// So long after healing some more audio files are lost or damaged: disks go bad in quiet times too.
const AUDIO_GOES_BAD: Duration = Duration::from_secs(30);
/// Time in which nothing may be mailed.
const QUIET: Duration = Duration::from_secs(40);

/// Runs one seed.
pub fn run(seed: u64, sabotage: Option<Sabotage>) -> Result<Report, Failure> {
    let failure = |why: String, trace| Failure { seed, why, trace };
    let mut world = World::new(seed, sabotage).map_err(|why| failure(why, Vec::new()))?;
    match story(&mut world) {
        Ok(()) => Ok(world.report()),
        Err(why) => Err(failure(why, world.trace())),
    }
}

/// The whole trace of one seed, and why it failed, if it did.
pub fn told(seed: u64) -> (Vec<String>, Option<String>) {
    match World::new(seed, None) {
        Ok(mut world) => {
            world.trace_all();
            let why = story(&mut world).err();
            if why.is_some() {
                world.note_sessions();
            }
            (world.trace(), why)
        }
        Err(why) => (Vec::new(), Some(why)),
    }
}

fn story(world: &mut World) -> Result<(), String> {
    world.run_at_pace(TROUBLES)?;
    world.heal()?;
    world.run(AUDIO_GOES_BAD)?;
    world.disks_go_bad()?;
    world.run_at_pace(REST.saturating_sub(AUDIO_GOES_BAD))?;
    world.bring_home()?;
    world.run(Duration::from_secs(30))?;
    world.check_rest()?;
    let mails = world.mails();
    world.run(QUIET)?;
    if world.mails() == mails {
        Ok(())
    } else {
        Err("the pair does not go quiet".to_owned())
    }
}

/// Runs seeds on all cores; gives what happened in all of them, and those that failed.
pub fn run_all(seeds: std::ops::Range<u64>, sabotage: Option<Sabotage>) -> (Report, Vec<Failure>) {
    let next = AtomicU64::new(seeds.start);
    let lanes = thread::available_parallelism().map_or(1, usize::from);
    let lane = || {
        let (mut total, mut failures) = (Report::default(), Vec::new());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return (total, failures);
            }
            match run(seed, sabotage) {
                Ok(report) => total.add(&report),
                Err(failure) => failures.push(failure),
            }
        }
    };
    let (mut total, mut failures) = (Report::default(), Vec::new());
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        for lane in lanes {
            if let Ok((report, failed)) = lane.join() {
                total.add(&report);
                failures.extend(failed);
            } else {
                failures.push(Failure {
                    seed: seeds.start,
                    why: "a run panicked".to_owned(),
                    trace: Vec::new(),
                });
            }
        }
    });
    failures.sort_by_key(|f| f.seed);
    (total, failures)
}
