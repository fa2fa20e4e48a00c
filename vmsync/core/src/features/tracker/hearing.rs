//! What the tracker is told: signs of life, polls, registrations.

use std::time::Duration;

use vmsync_config::words::{Now, SystemName};

use super::{
    super::{
        Away, MOST_TOLD, Refused, Registration, Side, Subject, Timers, Told,
        phones::Phone,
        system::{Theirs, Tracked},
    },
    Heard, Keep, Tracker, key,
    reading::fallback,
};
use crate::resilience::{Maintenance, PhoneKind, Verdict, in_words};

impl Tracker {
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

    /// Maintenance mode as agreed between the nodes: while it is on, nothing moves without an
    /// administrator.
    pub fn maintenance(&mut self, agreed: Option<Maintenance>) {
        if self.maintenance != agreed {
            self.maintenance = agreed;
            self.touched
                .extend((0_u32..).zip(&self.systems).map(|(n, _)| n));
        }
    }

    /// What the other node says of how features stand; what is later than what this one knows is
    /// followed, once it is durable. Of more than [`MOST_TOLD`] the rest is passed over.
    pub fn hear(&mut self, told: &[Told]) {
        for told in told.iter().take(MOST_TOLD) {
            let Some(&n) = self.index.get(&told.system) else {
                continue;
            };
            let tracked = &mut self.systems[n as usize];
            if tracked.setup.backup.is_none() && told.side == Side::Backup {
                continue;
            }
            let decider = tracked.setup.decider.as_ref();
            let decider_is_me = decider.is_none_or(|d| *d == self.me);
            let stands = &mut tracked.stands[told.feature as usize];
            stands.theirs = Some(Theirs {
                side: told.side,
                epoch: told.epoch,
                by: (told.by != self.me).then(|| told.by.clone()),
            });
            if stands.to_follow(decider_is_me).is_some() {
                self.touched.insert(n);
            }
        }
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
