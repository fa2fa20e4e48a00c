//! All systems and phones: what comes in touches one system, and only touched and due ones are
//! looked at.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use vmsync_config::words::{NodeId, Now, SystemName};

use super::{
    Away, Feature, Location, Outlook, PhoneView, Refused, Registration, Seen, Setup, Side, Sight,
    Standing, Subject, SystemView, Timers,
    decide::{decide, may_fail_back},
    parameters::{ROWS, row},
    phones::{Phone, advice},
    system::Tracked,
};
use crate::resilience::{Phase, PhoneKind, Verdict, in_words};

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

    /// What the other node looks like from here, once that is known.
    pub fn node_sight(&mut self, peer: Result<Duration, Duration>) {
        if self.peer == Some(peer) {
            return;
        }
        self.peer = Some(peer);
        let concerned = (0_u32..).zip(&self.systems).filter(|(_, s)| {
            let seen_by_node = s.setup.home != self.me && !s.reports(Subject::Home);
            seen_by_node || s.setup.decider.as_ref() != Some(&self.me)
        });
        self.touched.extend(concerned.map(|(n, _)| n));
    }

    /// A sign of life, or the result of a poll. `Ok(true)` when it is the first ever: remember then
    /// that it reports.
    pub fn told(
        &mut self,
        system: &SystemName,
        subject: Subject,
        up: bool,
        now: Now,
    ) -> Result<bool, Refused> {
        let n = self.find(system)?;
        let tracked = &mut self.systems[n as usize];
        let first = !tracked.reports(subject);
        if tracked.watch(subject).told(up, now.mono) {
            self.touched.insert(n);
        }
        Ok(first)
    }

    /// A phone has registered, or what it does has changed.
    pub fn registered(&mut self, phone: &Registration, now: Now) -> Result<Heard, Refused> {
        let n = self.find(&phone.home_system)?;
        let key = key(&phone.extension).ok_or_else(|| Refused {
            code: "invalid",
            reason: format!("extension {:?} is not 1 to 15 digits", phone.extension),
        })?;
        let known = self.phones.remove(&(n, key));
        if known.is_none() && self.phones.len() >= self.limits.phones {
            return Err(Refused {
                code: "too_many_phones",
                reason: format!(
                    "{} phones are tracked already: raise limits.phones",
                    self.limits.phones
                ),
            });
        }
        let node = self.node_of(n);
        let tracked = &mut self.systems[n as usize];
        tracked.refresh(node, &self.timers, now.mono);
        if let Some(before) = &known {
            uncount(tracked, before);
        }
        let mut kept = Phone {
            kind: phone.kind,
            at: phone.at_system.clone(),
            location: phone
                .location
                .clone()
                .or_else(|| known.as_ref().and_then(|k| k.location.clone())),
            on_preserved_call: phone.on_preserved_call,
            idle: phone.idle && !phone.on_preserved_call,
            restarted: phone.restarted,
            heard: now.wall,
            counted: 0,
        };
        let fallback = fallback(&self.locations, tracked, &kept);
        let gone = tracked.seen(Subject::Home, node).and_then(Result::err);
        let verdict = evidence(tracked, &kept, fallback, gone, &self.timers, now.mono);
        let away = kept.at != *tracked.name();
        if away {
            tracked.away += 1;
        } else {
            tracked.at_home += 1;
        }
        if verdict == Verdict::Counts {
            kept.counted = tracked.absence;
            tracked.desk_phones += 1;
            self.touched.insert(n);
        }
        let was_away = known.as_ref().map(|k| (&k.at, &k.location));
        let moved = if away {
            was_away != Some((&kept.at, &kept.location))
        } else {
            known.as_ref().is_some_and(|k| k.at != *tracked.name())
        };
        let keep = match (moved, away) {
            (false, _) => Keep::AsIs,
            (true, false) => Keep::Nothing,
            (true, true) => Keep::Away(Away {
                kind: kept.kind,
                at_system: kept.at.clone(),
                location: kept.location.clone(),
                since: now.wall,
            }),
        };
        let view = self.phone_view(n, key, &kept, now.mono);
        self.phones.insert((n, key), kept);
        Ok(Heard {
            verdict,
            view,
            keep,
        })
    }

    /// Looks at what was touched and what is due, at most `most` systems; [`Self::next_deadline`]
    /// tells whether more wait. What changed must be handed to [`Self::take`] or [`Self::retry`].
    pub fn decide(&mut self, most: usize, now: Now) -> Vec<Decided> {
        while let Some(&(due, n)) = self.dues.first().filter(|(due, _)| *due <= now.mono) {
            self.dues.remove(&(due, n));
            self.systems[n as usize].deadline = None;
            self.touched.insert(n);
        }
        let mut changes = Vec::new();
        for _ in 0..most {
            let Some(n) = self.touched.pop_first() else {
                break;
            };
            self.decide_one(n, now, &mut changes);
        }
        changes
    }

    fn decide_one(&mut self, n: u32, now: Now, changes: &mut Vec<Decided>) {
        let node = self.node_of(n);
        let mine = self.decides(n as usize);
        let tracked = &mut self.systems[n as usize];
        tracked.refresh(node, &self.timers, now.mono);
        let mut deadline = tracked.silence_due(&self.timers);
        let mut phones = tracked.stands(Feature::Phones).standing.side;
        for row in &ROWS {
            let sight = Sight {
                setup: &tracked.setup,
                row,
                timers: &self.timers,
                seen: tracked.seen(row.watches, node),
                desk_phones: tracked.desk_phones,
                phones,
                asked: false,
                now,
            };
            let stands = tracked.stands(row.feature);
            // What this node took over it brings home, whoever decides by then.
            let outlook = if mine || stands.standing.side == Side::Backup {
                decide(&stands.standing, &sight)
            } else {
                Outlook::left_to_the_other()
            };
            if let (Feature::Phones, Some(next)) = (row.feature, &outlook.standing) {
                phones = next.side;
            }
            deadline = deadline.into_iter().chain(outlook.deadline).min();
            let news = outlook.standing.is_some()
                || outlook.phase != stands.phase
                || outlook.waiting_for != stands.waiting_for;
            if news {
                changes.push(Decided {
                    system: tracked.name().clone(),
                    feature: row.feature,
                    announce: tracked.setup.backs_up(row.feature)
                        || stands.standing.side == Side::Backup,
                    outlook,
                });
            } else {
                tracked.stands[row.feature as usize].deadline = outlook.deadline;
            }
        }
        self.schedule(n, deadline);
    }

    fn schedule(&mut self, n: u32, deadline: Option<Duration>) {
        let tracked = &mut self.systems[n as usize];
        if let Some(old) = std::mem::replace(&mut tracked.deadline, deadline) {
            self.dues.remove(&(old, n));
        }
        if let Some(due) = deadline {
            self.dues.insert((due, n));
        }
    }

    /// Takes on changes that are durable.
    pub fn take(&mut self, changes: &[Decided], now: Now) {
        for change in changes {
            let Some(&n) = self.index.get(&change.system) else {
                continue;
            };
            let tracked = &mut self.systems[n as usize];
            if let Some(next) = &change.outlook.standing {
                let stands = &mut tracked.stands[change.feature as usize];
                if next.epoch <= stands.standing.epoch {
                    continue;
                }
                stands.standing = next.clone();
                if change.feature == Feature::Phones {
                    let window = now.mono.saturating_add(self.timers.homeless_prevention);
                    tracked.homeless_until = (next.side == Side::Home).then_some(window);
                }
            }
            let stands = &mut tracked.stands[change.feature as usize];
            stands.phase = change.outlook.phase;
            stands.waiting_for.clone_from(&change.outlook.waiting_for);
            stands.deadline = change.outlook.deadline;
        }
    }

    /// Changes that could not be made durable have not happened: they are decided again at `at`.
    pub fn retry(&mut self, changes: &[Decided], at: Duration) {
        for change in changes {
            if let Some(&n) = self.index.get(&change.system) {
                self.schedule(n, Some(at));
            }
        }
    }

    /// What an administrator's failback would change; make it durable and [`Self::take`] it, or
    /// leave it for a dry run.
    pub fn ask_failback(
        &mut self,
        system: &SystemName,
        feature: Feature,
        now: Now,
    ) -> Result<Decided, Refused> {
        let n = self.find(system)?;
        let node = self.node_of(n);
        let tracked = &mut self.systems[n as usize];
        tracked.refresh(node, &self.timers, now.mono);
        let row = row(feature);
        let sight = Sight {
            setup: &tracked.setup,
            row,
            timers: &self.timers,
            seen: tracked.seen(row.watches, node),
            desk_phones: tracked.desk_phones,
            phones: tracked.stands(Feature::Phones).standing.side,
            asked: true,
            now,
        };
        let standing = &tracked.stands(feature).standing;
        may_fail_back(standing, &sight)?;
        Ok(Decided {
            system: system.clone(),
            feature,
            outlook: decide(standing, &sight),
            announce: true,
        })
    }

    /// When [`Self::decide`] is to be called again (monotonic); in the past when something waits.
    pub fn next_deadline(&self) -> Option<Duration> {
        if !self.touched.is_empty() {
            return Some(Duration::ZERO);
        }
        self.dues.first().map(|(due, _)| *due)
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

/// Reading.
impl Tracker {
    /// How many systems and phones are tracked.
    pub fn counts(&self) -> (usize, usize) {
        (self.systems.len(), self.phones.len())
    }

    /// The systems from number `from` on, with their numbers.
    pub fn systems(&self, from: usize) -> impl Iterator<Item = (usize, SystemView)> {
        let rest = self.systems.iter().enumerate().skip(from);
        rest.map(|(n, s)| (n, s.view(self.node_of(u32::try_from(n).unwrap_or(0)))))
    }

    /// The number of a system, in the order of the configuration.
    pub fn number(&self, system: &SystemName) -> Option<usize> {
        self.index.get(system).map(|n| *n as usize)
    }

    /// How a feature of system number `n` stands: standing, phase, what it waits for, deadline.
    pub fn stands(&self, n: usize, feature: Feature) -> Option<(&Setup, &Standing, Outlook)> {
        let tracked = self.systems.get(n)?;
        let stands = tracked.stands(feature);
        let outlook = Outlook {
            standing: None,
            phase: stands.phase,
            waiting_for: stands.waiting_for.clone(),
            deadline: stands.deadline,
        };
        Some((&tracked.setup, &stands.standing, outlook))
    }

    /// Whether a feature of system number `n` is backed up, and who serves it.
    pub fn stands_at(&self, n: usize, feature: Feature) -> Option<(bool, Side)> {
        let tracked = self.systems.get(n)?;
        let side = tracked.stands(feature).standing.side;
        Some((tracked.setup.backs_up(feature), side))
    }

    /// Phones of `system` after extension `after`, at most `most`.
    pub fn phones(
        &self,
        system: &SystemName,
        after: Option<&str>,
        most: usize,
        now: Duration,
    ) -> Result<Vec<PhoneView>, Refused> {
        let n = self.find(system)?;
        let from = after.and_then(key).map_or(0, |key| key + 1);
        let range = self.phones.range((n, from)..=(n, u64::MAX));
        let views = range
            .take(most)
            .map(|((_, key), phone)| self.phone_view(n, *key, phone, now));
        Ok(views.collect())
    }

    /// One phone.
    pub fn phone(&self, system: &SystemName, extension: &str, now: Duration) -> Option<PhoneView> {
        let (n, key) = (*self.index.get(system)?, key(extension)?);
        let phone = self.phones.get(&(n, key))?;
        Some(self.phone_view(n, key, phone, now))
    }

    fn phone_view(&self, n: u32, key: u64, phone: &Phone, now: Duration) -> PhoneView {
        let tracked = &self.systems[n as usize];
        let fallback = fallback(&self.locations, tracked, phone);
        let seen = tracked.seen(Subject::Home, self.node_of(n));
        let gone = seen.and_then(Result::err);
        PhoneView {
            extension: extension(key),
            kind: phone.kind,
            home_system: tracked.name().clone(),
            at_system: phone.at.clone(),
            fallback: fallback.cloned(),
            location: phone.location.clone(),
            heard: phone.heard,
            advice: advice(tracked, phone, fallback, gone, &self.timers, now),
        }
    }
}

/// The system a phone falls back to: its location's, else its home's backup (location override).
fn fallback<'a>(
    locations: &'a HashMap<SystemName, SystemName>,
    tracked: &'a Tracked,
    phone: &Phone,
) -> Option<&'a SystemName> {
    let location = phone.location.as_ref();
    let own = location.and_then(|l| locations.get(l));
    own.or(tracked.setup.backup.as_ref())
}

/// Takes a phone out of its system's counts.
fn uncount(tracked: &mut Tracked, phone: &Phone) {
    if phone.at == *tracked.name() {
        tracked.at_home = tracked.at_home.saturating_sub(1);
    } else {
        tracked.away = tracked.away.saturating_sub(1);
    }
    if phone.counted != 0 && phone.counted == tracked.absence {
        tracked.desk_phones = tracked.desk_phones.saturating_sub(1);
    }
}

/// What a registration is worth (R-FO-1, R-FO-5), `gone`: since when the home is invisible.
fn evidence(
    tracked: &Tracked,
    phone: &Phone,
    fallback: Option<&SystemName>,
    gone: Option<Duration>,
    timers: &Timers,
    now: Duration,
) -> Verdict {
    if fallback != Some(&phone.at) || phone.at == *tracked.name() {
        return Verdict::Elsewhere;
    }
    let home = tracked.name();
    let after = timers.failover_after;
    match gone {
        _ if phone.kind != PhoneKind::Desk => Verdict::Refused(
            "only a physical desk phone is evidence that its home is gone (R-FO-1)".to_owned(),
        ),
        None => Verdict::Refused(format!("{home} is visible (R-FO-5)")),
        Some(since) if now < since.saturating_add(after) => Verdict::Refused(format!(
            "{home} has not been invisible for {} yet (R-FO-1)",
            in_words(after)
        )),
        Some(_) if phone.on_preserved_call => {
            Verdict::Refused("it is on a preserved call: it counts after that call".to_owned())
        }
        Some(_) => Verdict::Counts,
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
