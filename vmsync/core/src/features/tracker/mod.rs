//! All systems and phones: what comes in touches one system, and only touched and due ones are
//! looked at. Its parts: what it hears ([`hearing`]), what it decides ([`deciding`]), what it shows
//! ([`reading`]).

mod deciding;
mod hearing;
mod reading;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use vmsync_config::words::{NodeId, Now, SystemName};

use super::{
    Away, Feature, Location, Outlook, PhoneView, Refused, Seen, Setup, Side, Standing, Subject,
    Timers, phones::Phone, system::Tracked,
};
use crate::resilience::{Maintenance, Phase, Verdict};

/// What bounds the tracker's memory; systems are bounded by the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Phones.
    pub phones: usize,
}

/// All systems and phones.
#[derive(Debug)]
pub struct Tracker {
    me: NodeId,
    timers: Timers,
    start: Duration,
    systems: Vec<Tracked>,
    index: HashMap<SystemName, u32>,
    locations: HashMap<SystemName, SystemName>,
    /// What the other node looks like; not known before this one is ready.
    peer: Seen,
    maintenance: Option<Maintenance>,
    phones: BTreeMap<(u32, u64), Phone>,
    limits: Limits,
    touched: BTreeSet<u32>,
    dues: BTreeSet<(Duration, u32)>,
}

/// A change of one feature of one system: make its standing durable where there is one, then hand
/// it to [`Tracker::take`], then publish it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Whose.
    pub system: SystemName,
    /// Which.
    pub feature: Feature,
    /// What follows.
    pub outlook: Outlook,
    /// Whether anybody is to hear of it: what is not backed up only ever waits to be turned on.
    pub announce: bool,
}

/// What a registration was worth and where the phone may be now.
#[derive(Debug)]
pub struct Heard {
    /// As failover evidence (R-FO-1, R-FO-5).
    pub verdict: Verdict,
    /// The phone.
    pub view: PhoneView,
    /// What to keep of it over a restart.
    pub keep: Keep,
}

/// What is kept of a phone over a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// What is kept already.
    AsIs,
    /// Nothing: it is home.
    Nothing,
    /// That it is away.
    Away(Away),
}

impl Tracker {
    /// Everything as configured, nothing heard yet.
    pub fn new(
        me: NodeId,
        systems: impl IntoIterator<Item = Setup>,
        locations: &[Location],
        timers: Timers,
        limits: Limits,
        now: Now,
    ) -> Self {
        let systems: Vec<Tracked> = systems.into_iter().map(Tracked::new).collect();
        let index = (0_u32..).zip(&systems);
        let index = index.map(|(n, s)| (s.name().clone(), n)).collect();
        let locations = locations.iter();
        Self {
            me,
            timers,
            start: now.mono,
            systems,
            index,
            locations: locations
                .map(|l| (l.name.clone(), l.fallback_system.clone()))
                .collect(),
            peer: None,
            maintenance: None,
            phones: BTreeMap::new(),
            limits,
            touched: BTreeSet::new(),
            dues: BTreeSet::new(),
        }
    }

    /// A standing of an earlier life of this process. Before anything else is told.
    pub fn restore(&mut self, system: &SystemName, feature: Feature, standing: Standing, now: Now) {
        let Some(&n) = self.index.get(system) else {
            return;
        };
        let ago = Duration::from_millis(now.wall.0.saturating_sub(standing.since.0));
        let tracked = &mut self.systems[n as usize];
        if feature == Feature::Phones && standing.side == Side::Home && standing.epoch > 0 {
            let left = self.timers.homeless_prevention.saturating_sub(ago);
            tracked.homeless_until = Some(now.mono.saturating_add(left));
        }
        let stands = &mut tracked.stands[feature as usize];
        if standing.side == Side::Backup {
            stands.phase = Phase::Resilience;
        }
        stands.standing = standing;
        self.touched.insert(n);
    }

    /// That a system or one of its parts reported in an earlier life. After its standings.
    pub fn restore_reports(&mut self, system: &SystemName, subject: Subject, now: Now) {
        if let Some(&n) = self.index.get(system) {
            self.systems[n as usize].remember(subject, now.mono);
            self.touched.insert(n);
        }
    }

    /// A phone that was away from home in an earlier life.
    pub fn restore_phone(&mut self, system: &SystemName, extension: &str, away: Away) {
        let key = self.index.get(system).copied().zip(key(extension));
        if let Some((n, key)) = key
            && self.phones.len() < self.limits.phones
        {
            let phone = Phone {
                kind: away.kind,
                at: away.at_system,
                location: away.location,
                on_preserved_call: false,
                idle: true,
                restarted: false,
                heard: away.since,
                counted: 0,
            };
            if self.phones.insert((n, key), phone).is_none() {
                self.systems[n as usize].away += 1;
            }
        }
    }

    /// Systems have moved between the nodes (a live switch of the mode or of destinations): who
    /// stands where, and so who decides, is as in `systems` from now on. What is known of each
    /// stays, and its standing goes on; those that `systems` does not name stay as they are, for
    /// which systems there are is the configuration's.
    pub fn follow(&mut self, systems: impl IntoIterator<Item = Setup>) {
        for setup in systems {
            let Some(&n) = self.index.get(&setup.name) else {
                continue;
            };
            let tracked = &mut self.systems[n as usize];
            if tracked.setup != setup {
                tracked.setup = setup;
                self.touched.insert(n);
            }
        }
    }

    fn find(&self, system: &SystemName) -> Result<u32, Refused> {
        self.index.get(system).copied().ok_or_else(|| Refused {
            code: "no_such_system",
            reason: format!("{system} is none of [[systems]]"),
        })
    }

    /// Whether this node decides about system number `n`: the node its backup stands at does, and
    /// while that is out of sight the other one.
    pub fn decides(&self, n: usize) -> bool {
        let decider = self.systems.get(n).and_then(|s| s.setup.decider.as_ref());
        decider.is_none_or(|d| *d == self.me) || matches!(self.peer, Some(Err(_)))
    }

    /// What the node looks like at which system `n` stands.
    fn node_of(&self, n: u32) -> Seen {
        if self.systems[n as usize].setup.home == self.me {
            Some(Ok(self.start))
        } else {
            self.peer
        }
    }
}

/// An extension as a number in the order of extensions of one length; leading zeros count.
fn key(extension: &str) -> Option<u64> {
    let digits = (1..=15).contains(&extension.len());
    if !digits || !extension.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    format!("1{extension}").parse().ok()
}

fn extension(key: u64) -> String {
    key.to_string().split_off(1)
}
