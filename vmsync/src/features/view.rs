//! What PBXs and people are told: names fixed by outside tests; add to them freely.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vmsync_config::words::{NodeId, SystemName, UnixMillis};
use vmsync_core::{
    Now,
    features::{
        Advice, Decided, Feature, PhoneView, Return, Seen, Side, Subject, SystemView, Tracker,
        parameters,
    },
    resilience::PhoneKind,
};

use super::Wanted;
use crate::app::rfc3339;

/// How one feature of one system stands: the decision a PBX acts on.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FeatureStatus {
    /// The system it is about.
    pub system: String,
    /// `phones`, `users`, `hunt-groups`, `conferences`, `dect`, `dect-master` or `portal`.
    pub feature: String,
    /// `normal`, `pending`, `resilience` or `returning`. `pending` is told by the node that decides alone.
    pub state: String,
    /// The system that serves it now.
    pub served_by: String,
    /// The system that takes over.
    pub backup: Option<String>,
    /// Whether it is backed up at all.
    pub backed_up: bool,
    /// Raised by each failover and failback; of two answers act on the higher, and of equal ones on that
    /// of `decided_by`. While the nodes don't hear each other each goes on from what it knew.
    pub epoch: u64,
    /// Since when, RFC 3339; none = ever.
    pub since: Option<String>,
    /// Why.
    pub because: String,
    /// What the next change still needs, in words.
    pub waiting_for: Vec<String>,
    /// When time alone will change something, RFC 3339.
    pub deadline: Option<String>,
    /// What goes for it besides.
    pub note: String,
    /// The node that decides; where that is the other one, this one follows it a heartbeat later.
    pub decided_by: String,
}

/// A system as tracked.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SystemStatus {
    /// Its name.
    pub name: String,
    /// The node it stands at.
    pub home: String,
    /// The system that takes over for it.
    pub backup: Option<String>,
    /// What that takes over.
    pub backed_up: Vec<String>,
    /// Whether it is visible; none = not known yet.
    pub visible: Option<bool>,
    /// Since when, RFC 3339.
    pub since: Option<String>,
    /// Whether it reports itself; else it is as visible as the node it stands at.
    pub reports: bool,
    /// Its DECT as polled: `up`, `down`; none = never reported.
    pub dect: Option<String>,
    /// The active one of its mirrored DECT masters, likewise.
    pub mirror: Option<String>,
    /// Its portal, likewise.
    pub portal: Option<String>,
    /// Phones registered at it.
    pub phones_at_home: u32,
    /// Its phones registered elsewhere.
    pub phones_away: u32,
    /// `automatic` or `manual`.
    pub phone_failback: String,
    /// Until when its phones may be at either system, RFC 3339.
    pub homeless_until: Option<String>,
}

/// Where a phone may be, and where it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PhoneAdvice {
    /// Systems that may take its registration now.
    pub may_register: Vec<String>,
    /// Where it should go now; none = stay.
    pub move_to: Option<String>,
    /// Why, or what it waits for.
    pub because: String,
    /// Until when more than one system may take it, RFC 3339.
    pub until: Option<String>,
}

/// A phone as tracked.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PhoneStatus {
    /// Its extension.
    pub extension: String,
    /// `desk`, `dect`, `softphone` or `webrtc`.
    pub kind: String,
    /// The system it belongs to.
    pub home_system: String,
    /// The system it is registered at.
    pub at_system: String,
    /// The system it falls back to: its location's, else its home's backup.
    pub fallback: Option<String>,
    /// Where it stands.
    pub location: Option<String>,
    /// When it was last heard of, RFC 3339.
    pub at: String,
    /// Where it may be.
    #[serde(flatten)]
    pub advice: PhoneAdvice,
}

impl FeatureStatus {
    /// As it would be after `change`.
    pub(super) fn after(mut self, change: &Decided) -> Self {
        if let Some(next) = &change.outlook.standing {
            self.epoch = next.epoch;
            self.because.clone_from(&next.because);
            self.since = Some(rfc3339(next.since));
            if next.side == Side::Home {
                self.served_by.clone_from(&self.system);
            }
        }
        change.outlook.phase.as_str().clone_into(&mut self.state);
        self.waiting_for.clone_from(&change.outlook.waiting_for);
        self
    }
}

/// A feature of system number `n`.
pub(super) fn feature(
    tracker: &Tracker,
    me: &NodeId,
    n: usize,
    feature: Feature,
    now: Now,
) -> Option<FeatureStatus> {
    let (setup, standing, outlook) = tracker.stands(n, feature)?;
    let backup = setup.backup.as_ref().map(SystemName::to_string);
    let name = setup.name.to_string();
    let served_by = match standing.side {
        Side::Home => name.clone(),
        Side::Backup => backup.clone().unwrap_or_else(|| name.clone()),
    };
    let decided_by = if tracker.decides(n) {
        Some(me)
    } else {
        setup.decider.as_ref()
    };
    Some(FeatureStatus {
        system: name,
        feature: feature.as_str().to_owned(),
        state: outlook.phase.as_str().to_owned(),
        served_by,
        backup,
        backed_up: setup.backs_up(feature),
        epoch: standing.epoch,
        since: (standing.epoch > 0).then(|| rfc3339(standing.since)),
        because: standing.because.clone(),
        waiting_for: outlook.waiting_for,
        deadline: outlook.deadline.map(|at| rfc3339(wall_at(at, now))),
        note: parameters::row(feature).note.to_owned(),
        decided_by: decided_by.unwrap_or(me).to_string(),
    })
}

pub(super) fn features(
    tracker: &Tracker,
    me: &NodeId,
    wanted: Wanted,
    after: Option<u64>,
    most: usize,
    now: Now,
) -> Vec<(u64, FeatureStatus)> {
    let all = Feature::ALL.len();
    let from = after.map_or(0, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let systems = match wanted.system {
        Some(n) => n..n + 1,
        None => from / all..tracker.counts().0,
    };
    let places = systems.flat_map(|n| Feature::ALL.into_iter().map(move |f| (n, f)));
    let places = places.map(|(n, f)| (n * all + f as usize + 1, n, f));
    places
        .filter(|(number, _, f)| *number > from && wanted.feature.is_none_or(|w| w == *f))
        .filter(|(_, n, f)| {
            let stands = tracker.stands_at(*n, *f);
            wanted.system.is_some() || stands.is_some_and(|(on, side)| on || side == Side::Backup)
        })
        .take(most)
        .filter_map(|(number, n, f)| Some((number as u64, feature(tracker, me, n, f, now)?)))
        .collect()
}

pub(super) fn systems(
    tracker: &Tracker,
    after: Option<u64>,
    most: usize,
    now: Now,
) -> Vec<(u64, SystemStatus)> {
    let from = after.map_or(0, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let views = tracker.systems(from).take(most);
    views
        .map(|(n, view)| (n as u64 + 1, system(&view, now)))
        .collect()
}

pub(super) fn system(view: &SystemView, now: Now) -> SystemStatus {
    let setup = &view.setup;
    let part = |subject| {
        let (_, seen) = view.polled.iter().find(|(s, _)| *s == subject)?;
        seen.map(|seen| if seen.is_ok() { "up" } else { "down" }.to_owned())
    };
    SystemStatus {
        name: setup.name.to_string(),
        home: setup.home.to_string(),
        backup: setup.backup.as_ref().map(SystemName::to_string),
        backed_up: setup
            .backed_up
            .iter()
            .map(|f| f.as_str().to_owned())
            .collect(),
        visible: view.home.map(|seen| seen.is_ok()),
        since: since(view.home).map(|at| rfc3339(wall_at(at, now))),
        reports: view.reports,
        dect: part(Subject::Dect),
        mirror: part(Subject::Mirror),
        portal: part(Subject::Portal),
        phones_at_home: view.phones.0,
        phones_away: view.phones.1,
        phone_failback: match setup.phone_failback {
            Return::Automatic => "automatic",
            Return::Manual => "manual",
        }
        .to_owned(),
        homeless_until: view
            .homeless_until
            .filter(|until| *until > now.mono)
            .map(|until| rfc3339(wall_at(until, now))),
    }
}

fn since(seen: Seen) -> Option<Duration> {
    seen.map(|seen| seen.unwrap_or_else(|since| since))
}

pub(super) fn phone(view: &PhoneView, now: Now) -> PhoneStatus {
    PhoneStatus {
        extension: view.extension.clone(),
        kind: match view.kind {
            PhoneKind::Desk => "desk",
            PhoneKind::Dect => "dect",
            PhoneKind::Softphone => "softphone",
            PhoneKind::Webrtc => "webrtc",
        }
        .to_owned(),
        home_system: view.home_system.to_string(),
        at_system: view.at_system.to_string(),
        fallback: view.fallback.as_ref().map(SystemName::to_string),
        location: view.location.as_ref().map(SystemName::to_string),
        at: rfc3339(view.heard),
        advice: PhoneAdvice::of(&view.advice, now),
    }
}

impl PhoneAdvice {
    /// As it is told.
    pub(crate) fn of(advice: &Advice, now: Now) -> Self {
        Self {
            may_register: advice
                .may_register
                .iter()
                .map(SystemName::to_string)
                .collect(),
            move_to: advice.move_to.as_ref().map(SystemName::to_string),
            because: advice.because.clone(),
            until: advice.until.map(|at| rfc3339(wall_at(at, now))),
        }
    }
}

/// The wall clock's reading at a moment of the monotonic one, past or to come.
fn wall_at(at: Duration, now: Now) -> UnixMillis {
    let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(0);
    let wall = now.wall.0.saturating_add(ms(at.saturating_sub(now.mono)));
    UnixMillis(wall.saturating_sub(ms(now.mono.saturating_sub(at))))
}
