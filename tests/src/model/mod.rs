//! Every behaviour of the pair within bounds, searched one by one: two nodes that lose and delay
//! heartbeats, lose single services, crash between any two writes, start again; operators, phones,
//! calls, a witness. Deciding is done by the functions of `vmsync_core::resilience` themselves.
//!
//! Time passes in ticks of 20 minutes, so that the cap of 60 minutes (R-FB-5) is three of them:
//! a peer is invisible after one tick without a sign, `failover_after` is three more. What is counted
//! saturates, so waiting leads back to a known state. Bounded are crashes, delayed heartbeats, acts
//! of operators and epochs ([`Bounds`]); losing heartbeats and greetings, in either direction, is not.
//!
//! | module | is |
//! |---|---|
//! | `state` | what is counted |
//! | `play` | one step: a node's turn, and the promises checked in it |
//! | `acts` | what may happen next |
//! | `search` | breadth first, the shortest way to a broken promise |
//! | `rest` | what must follow once all is well |
//!
//! Which promises, and what was found: docs/decisions/0015-model-check.md.

mod acts;
mod play;
mod rest;
mod search;
pub mod state;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use vmsync_config::{
    FailbackPolicy, Group, Trigger,
    words::{GroupName, NodeId, SystemName},
};
use vmsync_core::resilience::{Machine, PhoneEvidence, Rules};

pub use search::{Found, search, search_all};

/// The model's unit of time.
pub const TICK: Duration = Duration::from_mins(20);

/// A rule broken on purpose, to show that the search would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// The home takes its group back when its backup is out of sight, and raises the epoch for it.
    HomeTakesBack,
    /// What the peer says wins at equal epochs too.
    PrefersEqualEpochs,
    /// Nothing need be exchanged before a failback.
    NoFailbackGate,
    /// Any phone is evidence.
    CountsSoftphones,
    /// The failback timer begins anew whenever it is looked at.
    TimerBeginsAnew,
    /// Maintenance mode stops nobody.
    DecidesInMaintenance,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::HomeTakesBack,
        Self::PrefersEqualEpochs,
        Self::NoFailbackGate,
        Self::CountsSoftphones,
        Self::TimerBeginsAnew,
        Self::DecidesInMaintenance,
    ];
}

/// How much may befall the pair, and how far is searched.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Crashes and losses of power.
    pub crashes: u8,
    /// Heartbeats that come later than others sent after them.
    pub delays: u8,
    /// Acts of operators.
    pub acts: u8,
    /// States with a higher epoch are judged, and not followed.
    pub epoch: u8,
    /// Steps from the beginning.
    pub depth: u32,
    /// The search ends after so many states.
    pub states: usize,
}

impl Bounds {
    /// Those of `cargo test`: each kind of fault by itself, then all together.
    pub const TESTED: [Self; 5] = [
        Self::of(0, 0, 0, 3, 6_000),
        Self::of(1, 0, 0, 2, 6_000),
        Self::of(0, 1, 0, 2, 3_000),
        Self::of(0, 0, 1, 2, 3_000),
        Self::of(1, 1, 1, 2, 3_000),
    ];

    /// So many crashes, delays, acts and epochs, and at most so many states.
    pub const fn of(crashes: u8, delays: u8, acts: u8, epoch: u8, states: usize) -> Self {
        Self {
            crashes,
            delays,
            acts,
            epoch,
            depth: u32::MAX,
            states,
        }
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            crashes,
            delays,
            acts,
            epoch,
            ..
        } = self;
        write!(
            f,
            "crashes {crashes}, delays {delays}, acts {acts}, epochs {epoch}"
        )
    }
}

/// A pair with its rules.
#[derive(Debug, Clone)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent circumstances, each as it is"
)]
pub struct Setup {
    /// For people.
    pub name: String,
    /// Of every group.
    pub rules: Rules,
    /// One group, or two in dual-active.
    pub groups: Vec<Group>,
    /// A witness is configured.
    pub witness: bool,
    /// `resilience.answering_beats_consistency`.
    pub answering_first: bool,
    /// Ticks by which the secondary's clock is ahead.
    pub skew: i8,
    /// A data folder was copied: both own the group in one epoch.
    pub split: bool,
    /// It begins in resilience: the backup owns the first group, in epoch 1.
    pub away: bool,
    /// Failovers of the last hour, for flap damping.
    pub flaps: u8,
    /// Broken on purpose.
    pub mutant: Option<Mutant>,
    /// How far.
    pub bounds: Bounds,
    machines: Vec<Machine>,
    evidence: Vec<PhoneEvidence>,
    counted: Vec<Vec<(SystemName, String)>>,
}

impl Setup {
    /// Single-active or dual-active under these rules.
    pub fn new(
        trigger: Trigger,
        policy: FailbackPolicy,
        dual: bool,
        bounds: Bounds,
    ) -> Result<Self, String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let node = |name: &str| NodeId::new(name).map_err(|e| text(&e));
        let group = |home: &str, backup: &str, name: &str| {
            let name = GroupName::new(name).map_err(|e| text(&e))?;
            Ok::<_, String>(Group {
                name,
                home: node(home)?,
                backup: node(backup)?,
            })
        };
        let mut groups = vec![group("vmpro1", "vmpro2", "primary")?];
        if dual {
            groups.push(group("vmpro2", "vmpro1", "secondary")?);
        }
        let counted = |g: &Group| {
            let system = SystemName::new(g.home.as_str()).map_err(|e| text(&e))?;
            Ok::<_, String>(vec![(system, "2001".to_owned())])
        };
        Ok(Self {
            name: format!(
                "{}, {trigger:?}, {policy:?}",
                if dual { "dual-active" } else { "single-active" }
            ),
            rules: Rules {
                backs_up_voicemail: true,
                trigger,
                failover_after: TICK * 3,
                policy,
                // Both beyond the cap of three ticks.
                timeout: TICK * 5,
                stable_for: TICK * 5,
                hold_off: TICK,
                maintenance: None,
            },
            machines: groups.iter().cloned().map(Machine::new).collect(),
            evidence: groups.iter().map(|g| PhoneEvidence::new(g, &[])).collect(),
            counted: groups.iter().map(counted).collect::<Result<_, _>>()?,
            groups,
            witness: false,
            answering_first: true,
            skew: 0,
            split: false,
            away: false,
            flaps: 0,
            mutant: None,
            bounds,
        })
    }

    /// The pairs that `cargo test` searches: every trigger with every policy, and what goes beside.
    pub fn all(bounds: Bounds) -> Result<Vec<Self>, String> {
        use FailbackPolicy::{Automatic, Graceful, Manual};
        let mut all = Vec::new();
        for trigger in [Trigger::Phones, Trigger::Visibility, Trigger::Manual] {
            for policy in [Graceful, Automatic, Manual] {
                let setup = Self::new(trigger, policy, false, bounds)?;
                all.push(setup.with_timers(1, 0));
            }
        }
        let plain = |policy| Self::new(Trigger::Visibility, policy, false, bounds);
        all.push(plain(Automatic)?.named("timers beyond the cap"));
        let mut flapping = plain(Automatic)?.with_timers(1, 0).named("flapping");
        flapping.flaps = 2;
        all.push(flapping);
        let mut skewed = plain(Graceful)?.with_timers(1, 0).named("a clock ahead");
        skewed.skew = 1;
        all.push(skewed);
        let mut split = plain(Graceful)?
            .with_timers(1, 0)
            .named("a copied data folder");
        split.split = true;
        all.push(split);
        let mut witness = plain(Graceful)?
            .with_timers(1, 0)
            .named("a witness, consistency first");
        (witness.witness, witness.answering_first) = (true, false);
        all.push(witness);
        for policy in [Graceful, Automatic, Manual] {
            let mut away = plain(policy)?
                .with_timers(1, 0)
                .named("begun in resilience");
            away.away = true;
            all.push(away);
        }
        let mut off = plain(Graceful)?
            .with_timers(1, 0)
            .named("resilience turned off");
        off.rules.backs_up_voicemail = false;
        all.push(off);
        all.push(Self::new(Trigger::Visibility, Graceful, true, bounds)?.with_timers(1, 0));
        all.push(Self::new(Trigger::Phones, Automatic, true, bounds)?.with_timers(1, 0));
        Ok(all)
    }

    fn with_timers(mut self, timeout: u32, stable: u32) -> Self {
        (self.rules.timeout, self.rules.stable_for) = (TICK * timeout, TICK * stable);
        self
    }

    fn named(mut self, what: &str) -> Self {
        self.name = format!("{}, {what}", self.name);
        self
    }

    fn me(&self, n: usize) -> NodeId {
        let Group { home, backup, .. } = &self.groups[0];
        if n == 0 { home.clone() } else { backup.clone() }
    }
}

/// The node that decides about a group.
fn backup(g: usize) -> usize {
    1 - g
}

/// What happened in a search, so that a test can tell whether it was worth anything.
#[derive(Debug, Default)]
pub struct Tally {
    /// Rows that fired, orders, refusals, by name.
    pub happened: BTreeMap<&'static str, u64>,
    /// Row and condition where that alone was missing.
    pub missing: BTreeSet<(&'static str, &'static str)>,
    /// Refusals of operators' requests, by code.
    pub refused: BTreeSet<&'static str>,
    wants_missing: bool,
}

impl Tally {
    fn happened(&mut self, what: &'static str) {
        *self.happened.entry(what).or_default() += 1;
    }

    fn missing(&mut self, row: &'static str, code: &'static str) {
        self.missing.insert((row, code));
    }

    fn refused(&mut self, code: &'static str) {
        self.refused.insert(code);
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        for (what, times) in &other.happened {
            *self.happened.entry(what).or_default() += times;
        }
        self.missing.extend(&other.missing);
        self.refused.extend(&other.refused);
    }
}
