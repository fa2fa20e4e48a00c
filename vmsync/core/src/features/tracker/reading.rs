//! How systems, features and phones stand.

use std::{collections::HashMap, time::Duration};

use vmsync_config::words::SystemName;

use super::{
    super::{
        Feature, MOST_TOLD, Outlook, PhoneView, Refused, Setup, Side, Standing, Subject,
        SystemView, Told,
        phones::{Phone, advice},
        system::Tracked,
    },
    Tracker, extension, key,
};

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

    /// What the other node is to hear: what ever moved, first what is away from home, then what moved
    /// last; at most [`MOST_TOLD`].
    pub fn tell(&self) -> Vec<Told> {
        let systems = self.systems.iter();
        let all = systems.flat_map(|s| Feature::ALL.into_iter().map(move |f| (s, f)));
        let mut moved: Vec<_> = all
            .map(|(system, feature)| (system, feature, &system.stands(feature).standing))
            .filter(|(_, _, standing)| standing.epoch > 0)
            .collect();
        moved.sort_by_key(|(_, _, s)| (s.side == Side::Home, std::cmp::Reverse(s.since)));
        let told = moved.into_iter().take(MOST_TOLD);
        told.map(|(system, feature, standing)| Told {
            system: system.name().clone(),
            feature,
            side: standing.side,
            epoch: standing.epoch,
            by: standing.by.as_ref().unwrap_or(&self.me).clone(),
        })
        .collect()
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

    pub(super) fn phone_view(&self, n: u32, key: u64, phone: &Phone, now: Duration) -> PhoneView {
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
pub(super) fn fallback<'a>(
    locations: &'a HashMap<SystemName, SystemName>,
    tracked: &'a Tracked,
    phone: &Phone,
) -> Option<&'a SystemName> {
    let location = phone.location.as_ref();
    let own = location.and_then(|l| locations.get(l));
    own.or(tracked.setup.backup.as_ref())
}
