//! What is kept at the backup of recordings that the primary has confirmed, and for how long (`[vrl.archive]`).
//!
//! Pure: told what is recorded, what is there, and how old the archive is, [`plan`] says what goes and why. The
//! shell is `vmsync::vrl::archive`.
//!
//! Guarantees, held by the property tests below:
//! - Only what has a record of the primary's confirmation goes, and only while it is as long as recorded (the shell
//!   compares its SHA-256 as well, and tells of what differs as *spoiled*).
//! - A recording goes together with its side files: what was kept as one unit goes as one.
//! - The oldest go first; afterwards the limits hold, unless nothing is left that may go.
//!
//! Ages are not read off the wall clock, which may be set back, or leap years ahead and empty the archive at a stroke:
//! [`AgeClock`] counts the time this program runs, and of the time it does not run at most a day at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use vmsync_config::words::{Now, UnixMillis};

/// Recordings and side files kept at most, whatever the limits: each has a record in memory.
pub const MOST_KEPT: usize = 100_000;
/// Of the time between two runs of the program, so much counts at most.
const MOST_AWAY: Duration = Duration::from_hours(24);
/// Names told, at most.
const MOST_TOLD: usize = 100;

/// The record of one file in the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its name in the folder of recordings.
    pub name: String,
    /// Its name at the primary.
    pub remote_name: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its content, lower-case hex.
    pub sha256: String,
    /// When the primary confirmed that it holds it; for people, ages are not made from it.
    pub confirmed_at: UnixMillis,
    /// What the [`AgeClock`] said when it was kept, ms.
    pub kept_at: u64,
    /// What it was kept with: the name in the archive of the recording it belongs to, which may be its own.
    pub unit: String,
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeepLimits {
    /// No longer than this.
    pub max_age: Option<Duration>,
    /// The whole folder no larger than this, bytes.
    pub max_bytes: Option<u64>,
}

/// What is in the archive folder.
#[derive(Debug, Clone, Default)]
pub struct Present {
    /// Lengths of files that have a record.
    pub recorded: BTreeMap<String, u64>,
    /// Bytes of files that have none.
    pub foreign: u64,
    /// Files whose content was found not to be the recorded one, or that can't be removed.
    pub spoiled: BTreeSet<String>,
}

/// Why something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Older than `max_age`.
    Age,
    /// The folder is larger than `max_bytes`.
    Room,
    /// More than [`MOST_KEPT`] files.
    Count,
}

impl Why {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Age => "older than vrl.archive.max_age",
            Self::Room => "the archive is larger than vrl.archive.max_bytes",
            Self::Count => "more than 100000 files are kept",
        }
    }
}

/// A unit that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// Names in the archive.
    pub files: Vec<String>,
    /// Why.
    pub why: Why,
}

/// What to do, and what is left afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// What goes, oldest first.
    pub delete: Vec<Deletion>,
    /// Records whose file is not there any more.
    pub forget: Vec<String>,
    /// Recorded files that are not what was recorded, and stay; at most 100.
    pub changed: Vec<String>,
    /// Recorded files left.
    pub files: u64,
    /// Bytes left, foreign files included.
    pub bytes: u64,
    /// When the oldest of what is left was confirmed.
    pub oldest: Option<UnixMillis>,
}

/// A recording and its side files.
#[derive(Default)]
struct Unit<'a> {
    files: Vec<&'a str>,
    bytes: u64,
    kept_at: u64,
    confirmed_at: UnixMillis,
    /// Every file of it is as long as recorded, and nothing else was found against it.
    sound: bool,
}

/// Says what goes now. `records` by name in the archive; `lived_ms` from [`AgeClock::lived_ms`].
pub fn plan(
    records: &BTreeMap<String, Kept>,
    present: &Present,
    limits: &KeepLimits,
    lived_ms: u64,
) -> Plan {
    plan_at_most(records, present, limits, lived_ms, MOST_KEPT)
}

fn plan_at_most(
    records: &BTreeMap<String, Kept>,
    present: &Present,
    limits: &KeepLimits,
    lived_ms: u64,
    most: usize,
) -> Plan {
    let mut plan = Plan::default();
    let units = units(records, present, &mut plan);
    plan.bytes = units.iter().fold(present.foreign, |sum, (_, unit)| {
        sum.saturating_add(unit.bytes)
    });
    let mut files: usize = units.iter().map(|(_, unit)| unit.files.len()).sum();
    let most_age = limits.max_age.map_or(u64::MAX, |age| {
        u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
    });
    for (_, unit) in &units {
        let too_old = lived_ms.saturating_sub(unit.kept_at) > most_age;
        let too_much = limits.max_bytes.is_some_and(|most| plan.bytes > most);
        let why = match (unit.sound, too_old, too_much) {
            (true, true, _) => Why::Age,
            (true, false, true) => Why::Room,
            (true, false, false) if files > most => Why::Count,
            _ => {
                let oldest = plan.oldest.unwrap_or(unit.confirmed_at);
                plan.oldest = Some(oldest.min(unit.confirmed_at));
                continue;
            }
        };
        plan.bytes = plan.bytes.saturating_sub(unit.bytes);
        files -= unit.files.len();
        plan.delete.push(Deletion {
            files: unit.files.iter().map(|name| (*name).to_owned()).collect(),
            why,
        });
    }
    plan.files = files as u64;
    plan
}

/// Units, oldest first. Notes what is gone and what is changed.
fn units<'a>(
    records: &'a BTreeMap<String, Kept>,
    present: &Present,
    plan: &mut Plan,
) -> Vec<(&'a str, Unit<'a>)> {
    let mut units: BTreeMap<&str, Unit<'_>> = BTreeMap::new();
    for (name, kept) in records {
        let Some(bytes) = present.recorded.get(name) else {
            plan.forget.push(name.clone());
            continue;
        };
        let unit = units.entry(&kept.unit).or_insert_with(|| Unit {
            sound: true,
            confirmed_at: kept.confirmed_at,
            ..Unit::default()
        });
        unit.files.push(name);
        unit.bytes = unit.bytes.saturating_add(*bytes);
        // As young as the youngest of its files.
        unit.kept_at = unit.kept_at.max(kept.kept_at);
        unit.confirmed_at = unit.confirmed_at.min(kept.confirmed_at);
        if *bytes != kept.bytes || present.spoiled.contains(name) {
            unit.sound = false;
            if plan.changed.len() < MOST_TOLD {
                plan.changed.push(name.clone());
            }
        }
    }
    let mut units: Vec<_> = units.into_iter().collect();
    units.sort_by_key(|(name, unit)| (unit.kept_at, *name));
    units
}

/// What an [`AgeClock`] stood at when it was last written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedAge {
    /// What it said, ms.
    pub lived_ms: u64,
    /// The wall clock then.
    pub wall: UnixMillis,
}

/// Counts the time an archive has lived, by the monotonic clock; from one run of the program to the next by the
/// wall clock, of which at most a day is believed. Whatever the wall clock does, nothing ages by more than that.
#[derive(Debug, Clone, Copy)]
pub struct AgeClock {
    lived_ms: u64,
    since: Duration,
}

impl AgeClock {
    /// Goes on from where it stood, or begins.
    pub fn begin(saved: Option<SavedAge>, now: Now) -> Self {
        let lived_ms = saved.map_or(0, |saved| {
            let away = now.wall.0.saturating_sub(saved.wall.0);
            saved.lived_ms.saturating_add(away.min(millis(MOST_AWAY)))
        });
        Self {
            lived_ms,
            since: now.mono,
        }
    }

    /// How long the archive has lived, ms. Never less than before.
    pub fn lived_ms(&self, now: Now) -> u64 {
        let passed = millis(now.mono.saturating_sub(self.since));
        self.lived_ms.saturating_add(passed)
    }

    /// What to write down; at least as often as what may be lost of an age.
    pub fn save(&self, now: Now) -> SavedAge {
        SavedAge {
            lived_ms: self.lived_ms(now),
            wall: now.wall,
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
