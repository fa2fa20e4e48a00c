//! Runs the examples of the other features in `tests/data/features/*.txt` in virtual time.
//!
//! An example is a list of lines; `#` begins a comment. Time only moves forward, and on its way the
//! tracker is asked exactly at the deadlines it named: an example that passes also shows that the
//! deadlines are right. Seen from `vmpro2`, which is told of everything.

use std::{collections::BTreeMap, time::Duration};

use vmsync_config::words::{NodeId, Now, SystemName, UnixMillis};
use vmsync_core::{
    features::{
        Away, Decided, Feature, Keep, Limits, Location, PhoneView, Refused, Registration, Return,
        Setup, Standing, Subject, Timers, Tracker, parameters,
    },
    resilience::{Maintenance, PhoneKind, Verdict},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

/// The defaults of the configuration.
pub(crate) fn timers() -> Timers {
    Timers {
        failover_after: 3 * MINUTE,
        stable_for: 10 * MINUTE,
        homeless_prevention: 5 * MINUTE,
        invisible_after: MINUTE,
        dect_poll: 30 * SECOND,
        dect_lost_after: 2 * MINUTE,
        portal_detection: MINUTE,
    }
}

/// What outlives the process, as the shell keeps it.
#[derive(Default)]
struct Disk {
    standings: BTreeMap<(String, Feature), Standing>,
    phones: BTreeMap<(String, String), Away>,
    reports: Vec<(SystemName, Subject)>,
}

/// One example while it runs.
pub(crate) struct Script {
    systems: Vec<Setup>,
    locations: Vec<Location>,
    timers: Timers,
    tracker: Option<Tracker>,
    disk: Disk,
    peer: Result<Duration, Duration>,
    now: Duration,
    maintenance: Option<Maintenance>,
    verdict: Option<Verdict>,
    refused: Option<Refused>,
    /// Transitions so far.
    pub(crate) moves: Vec<(Duration, Decided)>,
}

pub(crate) fn at(mono: Duration) -> Now {
    let ms = u64::try_from(mono.as_millis()).unwrap();
    Now {
        mono,
        wall: UnixMillis(1_700_000_000_000 + ms),
    }
}

fn name(text: &str) -> Result<SystemName, String> {
    SystemName::new(text).map_err(|e| e.to_string())
}

fn feature(text: &str) -> Result<Feature, String> {
    Feature::named(text).ok_or_else(|| format!("{text} is no feature"))
}

pub(crate) fn span(text: &str) -> Result<Duration, String> {
    vmsync_config::parse_duration(text).map_err(|e| e.to_string())
}

impl Script {
    /// Both nodes up, no systems yet.
    pub(crate) fn new() -> Self {
        Self {
            systems: Vec::new(),
            locations: Vec::new(),
            timers: timers(),
            tracker: None,
            disk: Disk::default(),
            peer: Ok(Duration::ZERO),
            now: Duration::ZERO,
            maintenance: None,
            verdict: None,
            refused: None,
            moves: Vec::new(),
        }
    }

    /// Runs all lines; the error names the line.
    pub(crate) fn run(text: &str) -> Result<Self, String> {
        let mut script = Self::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                script
                    .line(line)
                    .map_err(|why| format!("line {}: {line}\n    {why}", number + 1))?;
            }
        }
        Ok(script)
    }

    pub(crate) fn line(&mut self, line: &str) -> Result<(), String> {
        let (verb, rest) = line.split_once(' ').ok_or("one word is no statement")?;
        match verb {
            "system" => self.system(rest),
            "location" => {
                let (place, fallback) = rest
                    .split_once(" falls back to ")
                    .ok_or("location NAME falls back to SYSTEM")?;
                self.locations.push(Location {
                    name: name(place)?,
                    fallback_system: name(fallback)?,
                });
                Ok(())
            }
            "timer" => self.timer(rest),
            "at" => {
                let (at, event) = rest.split_once(' ').ok_or("at TIME EVENT")?;
                self.run_until(span(at)?)?;
                self.event(event)?;
                self.decide();
                Ok(())
            }
            "expect" => self.expect(rest),
            _ => Err("a line begins with system, location, timer, at or expect".to_owned()),
        }
    }

    /// `system NAME at NODE[, backup SYSTEM][, backs up A B C][, phones manual][, dect manual][, portal manual]`
    fn system(&mut self, rest: &str) -> Result<(), String> {
        let mut parts = rest.split(", ");
        let (system, node) = parts
            .next()
            .and_then(|p| p.split_once(" at "))
            .ok_or("system NAME at NODE")?;
        let mut setup = Setup {
            name: name(system)?,
            home: NodeId::new(node).map_err(|e| e.to_string())?,
            backup: None,
            decider: None,
            backed_up: Vec::new(),
            phone_failback: Return::Automatic,
            prioritize_primary: true,
            portal_failback: Return::Automatic,
        };
        for part in parts {
            let words: Vec<&str> = part.split_whitespace().collect();
            match words.as_slice() {
                ["backup", backup] => setup.backup = Some(name(backup)?),
                ["backs", "up", features @ ..] => {
                    let features = features.iter().map(|f| feature(f));
                    setup.backed_up = features.collect::<Result<_, _>>()?;
                }
                ["phones", "manual"] => setup.phone_failback = Return::Manual,
                ["dect", "manual"] => setup.prioritize_primary = false,
                ["portal", "manual"] => setup.portal_failback = Return::Manual,
                _ => return Err(format!("{part} is nothing of a system")),
            }
        }
        self.systems.push(setup);
        Ok(())
    }

    fn timer(&mut self, rest: &str) -> Result<(), String> {
        let (timer, value) = rest.split_once(' ').ok_or("timer NAME SPAN")?;
        let value = span(value)?;
        let timer = match timer {
            "failover_after" => &mut self.timers.failover_after,
            "stable_for" => &mut self.timers.stable_for,
            "homeless_prevention" => &mut self.timers.homeless_prevention,
            "invisible_after" => &mut self.timers.invisible_after,
            "dect_poll" => &mut self.timers.dect_poll,
            "dect_lost_after" => &mut self.timers.dect_lost_after,
            "portal_detection" => &mut self.timers.portal_detection,
            _ => return Err("no such timer".to_owned()),
        };
        *timer = value;
        Ok(())
    }

    pub(crate) fn tracker(&mut self) -> &mut Tracker {
        let (systems, locations) = (&self.systems, &self.locations);
        let (timers, now, peer) = (&self.timers, at(self.now), self.peer);
        let (disk, maintenance) = (&self.disk, &self.maintenance);
        self.tracker.get_or_insert_with(|| {
            let me = NodeId::new("vmpro2").unwrap();
            let limits = Limits { phones: 100 };
            let setups = decided(systems);
            let mut tracker = Tracker::new(me, setups, locations, timers.clone(), limits, now);
            for ((system, feature), standing) in &disk.standings {
                tracker.restore(&name(system).unwrap(), *feature, standing.clone(), now);
            }
            for (system, subject) in &disk.reports {
                tracker.restore_reports(system, *subject, now);
            }
            for ((system, extension), away) in &disk.phones {
                tracker.restore_phone(&name(system).unwrap(), extension, away.clone());
            }
            tracker.maintenance(maintenance.clone());
            tracker.node_sight(peer);
            tracker
        })
    }

    /// Lets time pass, deciding at each deadline on the way.
    pub(crate) fn run_until(&mut self, until: Duration) -> Result<(), String> {
        if until < self.now {
            return Err("time only moves forward".to_owned());
        }
        while let Some(due) = self.tracker().next_deadline().filter(|due| *due <= until) {
            if due <= self.now && !due.is_zero() {
                return Err(format!("a deadline at {due:?} has passed already"));
            }
            self.now = due.max(self.now);
            self.decide();
        }
        self.now = until;
        Ok(())
    }

    pub(crate) fn decide(&mut self) {
        let now = at(self.now);
        let changes = self.tracker().decide(2, now);
        self.made_durable(&changes);
        self.tracker().take(&changes, now);
        let more = self.tracker().next_deadline();
        if more.is_some_and(|due| due.is_zero()) {
            self.decide();
        }
    }

    fn made_durable(&mut self, changes: &[Decided]) {
        for change in changes {
            if let Some(standing) = &change.outlook.standing {
                let key = (change.system.to_string(), change.feature);
                let before = self.disk.standings.insert(key, standing.clone());
                assert!(before.is_none_or(|b| b.epoch < standing.epoch));
                self.moves.push((self.now, change.clone()));
            }
        }
    }

    fn event(&mut self, event: &str) -> Result<(), String> {
        let now = at(self.now);
        let words: Vec<&str> = event.split_whitespace().collect();
        match words.as_slice() {
            ["nothing"] => {}
            ["vmpro1", "invisible"] => {
                self.peer = Err(self.now);
                let peer = self.peer;
                self.tracker().node_sight(peer);
            }
            ["vmpro1", "visible"] => {
                self.peer = Ok(self.now);
                let peer = self.peer;
                self.tracker().node_sight(peer);
            }
            ["vmpro2", "restarts"] => {
                self.tracker = None;
                if self.peer.is_err() {
                    self.peer = Err(self.now);
                }
            }
            [system, "moves", "to", node] => {
                let system = name(system)?;
                let mut moved = self.systems.iter_mut().filter(|s| s.name == system);
                moved.next().ok_or("no such system")?.home =
                    NodeId::new(node).map_err(|e| e.to_string())?;
                let setups = decided(&self.systems);
                self.tracker().follow(setups);
            }
            ["maintenance", "off"] => {
                self.maintenance = None;
                self.tracker().maintenance(None);
            }
            ["maintenance", "on", rest @ ..] => {
                let until = match rest {
                    [] => None,
                    ["for", time] => Some(at(self.now + span(time)?).wall),
                    _ => return Err("maintenance on [for TIME]".to_owned()),
                };
                let on = Maintenance {
                    since: now.wall,
                    until,
                    reason: "new switch".to_owned(),
                    by: NodeId::new("vmpro1").unwrap(),
                };
                self.maintenance = Some(on.clone());
                self.tracker().maintenance(Some(on));
            }
            [system, "alive"] => self.told(system, Subject::Home, true, now)?,
            [subject, "of", system, state @ ("up" | "down")] => {
                let subject = match *subject {
                    "dect" => Subject::Dect,
                    "mirror" => Subject::Mirror,
                    "portal" => Subject::Portal,
                    _ => return Err("dect, mirror or portal".to_owned()),
                };
                self.told(system, subject, *state == "up", now)?;
            }
            ["phone", rest @ ..] => self.phone(rest, now)?,
            ["administrator", "fails", "back", what, "of", system] => {
                let (system, feature) = (name(system)?, feature(what)?);
                self.refused = None;
                match self.tracker().ask_failback(&system, feature, now) {
                    Ok(change) => {
                        let changes = [change];
                        self.made_durable(&changes);
                        self.tracker().take(&changes, now);
                    }
                    Err(refused) => self.refused = Some(refused),
                }
            }
            _ => return Err("no such event".to_owned()),
        }
        Ok(())
    }

    pub(crate) fn told(
        &mut self,
        system: &str,
        subject: Subject,
        up: bool,
        now: Now,
    ) -> Result<(), String> {
        let system = name(system)?;
        let first = self
            .tracker()
            .told(&system, subject, up, now)
            .map_err(|e| e.to_string())?;
        if first {
            self.disk.reports.push((system, subject));
        }
        Ok(())
    }

    /// `phone 2001 desk of HOME at SYSTEM [preserved|busy|restarted|in LOCATION]…`
    fn phone(&mut self, words: &[&str], now: Now) -> Result<(), String> {
        let [extension, kind, "of", home, "at", place, more @ ..] = words else {
            return Err("phone EXTENSION KIND of SYSTEM at SYSTEM …".to_owned());
        };
        let kind: PhoneKind = serde_json::from_value((*kind).into()).map_err(|e| e.to_string())?;
        let mut phone = Registration {
            extension: (*extension).to_owned(),
            kind,
            home_system: name(home)?,
            at_system: name(place)?,
            on_preserved_call: false,
            idle: true,
            restarted: false,
            location: None,
        };
        let mut more = more.iter();
        while let Some(word) = more.next() {
            match *word {
                "preserved" => phone.on_preserved_call = true,
                "busy" => phone.idle = false,
                "restarted" => phone.restarted = true,
                "in" => phone.location = Some(name(more.next().ok_or("in LOCATION")?)?),
                _ => return Err("preserved, busy, restarted or in LOCATION".to_owned()),
            }
        }
        self.refused = None;
        match self.tracker().registered(&phone, now) {
            Ok(heard) => {
                let key = (phone.home_system.to_string(), phone.extension.clone());
                match heard.keep {
                    Keep::AsIs => {}
                    Keep::Away(away) => drop(self.disk.phones.insert(key, away)),
                    Keep::Nothing => drop(self.disk.phones.remove(&key)),
                }
                self.verdict = Some(heard.verdict);
            }
            Err(refused) => self.refused = Some(refused),
        }
        Ok(())
    }

    fn expect(&mut self, rest: &str) -> Result<(), String> {
        let words: Vec<&str> = rest.split_whitespace().collect();
        match words.as_slice() {
            ["evidence", "counts"] => same(self.verdict.as_ref(), Some(&Verdict::Counts)),
            ["evidence", "elsewhere"] => same(self.verdict.as_ref(), Some(&Verdict::Elsewhere)),
            ["evidence", "refused", ..] => {
                let why = quoted(rest)?.to_owned();
                same(self.verdict.as_ref(), Some(&Verdict::Refused(why)))
            }
            ["refused", code] => same(self.refused.as_ref().map(|r| r.code), Some(*code)),
            ["phone", extension, "of", system, what @ ..] => {
                self.expect_phone(extension, system, what, rest)
            }
            [what, "of", system, rule @ ..] => self.expect_feature(what, system, rule, rest),
            _ => Err("nothing to expect".to_owned()),
        }
    }

    fn expect_feature(
        &mut self,
        what: &str,
        system: &str,
        rule: &[&str],
        rest: &str,
    ) -> Result<(), String> {
        let feature = feature(what)?;
        let system = name(system)?;
        let tracker = self.tracker();
        let n = tracker.number(&system).ok_or("no such system")?;
        let (setup, standing, outlook) = tracker.stands(n, feature).ok_or("no such system")?;
        match rule {
            ["served", "by", who, because @ ..] => {
                let serves = match standing.side {
                    vmsync_core::features::Side::Home => Some(&setup.name),
                    vmsync_core::features::Side::Backup => setup.backup.as_ref(),
                };
                same(serves.map(SystemName::as_str), Some(*who))?;
                if because.is_empty() {
                    return Ok(());
                }
                same(standing.because.as_str(), quoted(rest)?)
            }
            ["note", ..] => same(parameters::row(feature).note, quoted(rest)?),
            ["epoch", n] => same(standing.epoch.to_string().as_str(), *n),
            ["phase", phase] => same(outlook.phase.as_str(), *phase),
            ["waiting", "for", "nothing"] => same(outlook.waiting_for, Vec::<String>::new()),
            ["waiting", "for", ..] => {
                let wanted: Vec<&str> = rest.split('"').skip(1).step_by(2).collect();
                same(
                    outlook.waiting_for.iter().map(String::as_str).collect(),
                    wanted,
                )
            }
            _ => Err("served by, epoch, phase, note or waiting for".to_owned()),
        }
    }

    fn expect_phone(
        &mut self,
        extension: &str,
        system: &str,
        what: &[&str],
        rest: &str,
    ) -> Result<(), String> {
        let (system, now) = (name(system)?, self.now);
        let phones = self
            .tracker()
            .phones(&system, None, 100, now)
            .map_err(|e| e.to_string())?;
        let phone: PhoneView = phones
            .into_iter()
            .find(|p| p.extension == extension)
            .ok_or("no such phone")?;
        match what {
            ["is", "at", place] => same(phone.at_system.as_str(), *place),
            ["may", "register", "at", places @ ..] => {
                let may = phone.advice.may_register.iter().map(SystemName::as_str);
                same(may.collect::<Vec<_>>(), places.to_vec())
            }
            ["moves", "to", place] => same(
                phone.advice.move_to.as_ref().map(SystemName::as_str),
                Some(*place),
            ),
            ["stays"] => same(phone.advice.move_to, None),
            ["stays", "because", ..] => {
                same(phone.advice.move_to, None)?;
                same(phone.advice.because.as_str(), quoted(rest)?)
            }
            _ => Err("is at, may register at, moves to or stays".to_owned()),
        }
    }
}

/// The systems, each with the node that decides about it.
fn decided(systems: &[Setup]) -> Vec<Setup> {
    let homes: BTreeMap<_, _> = systems.iter().map(|s| (&s.name, &s.home)).collect();
    let setups = systems.iter().cloned().map(|mut setup| {
        let home = setup.backup.as_ref().and_then(|b| homes.get(b));
        setup.decider = home.map(|home| (*home).clone());
        setup
    });
    setups.collect()
}

fn quoted(text: &str) -> Result<&str, String> {
    text.split('"')
        .nth(1)
        .ok_or_else(|| "\"in quotes\"".to_owned())
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "reads better where it is called"
)]
fn same<T: PartialEq + std::fmt::Debug>(got: T, wanted: T) -> Result<(), String> {
    if got == wanted {
        Ok(())
    } else {
        Err(format!("it is {got:?}, not {wanted:?}"))
    }
}
