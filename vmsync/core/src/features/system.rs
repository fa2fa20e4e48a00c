//! One system as tracked: what was heard of it, and how its features stand.

use std::time::Duration;

use vmsync_config::words::{NodeId, SystemName};

use super::{
    Feature, Phase, Return, Seen, Setup, Side, Standing, Subject, Timers, parameters::ROWS,
    signs::Watch,
};

/// One system and all that is known of it.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) setup: Setup,
    watches: [Watch; 4],
    /// How each feature stands, in the order of [`Feature::ALL`].
    pub(super) stands: [Stands; 7],
    /// What the home looked like when evidence was last counted.
    home: Seen,
    /// Number of the absence that evidence belongs to: a new one forgets all of the last.
    pub(super) absence: u32,
    /// Desk phones that count.
    pub(super) desk_phones: u32,
    /// Phones registered at home, and elsewhere.
    pub(super) at_home: u32,
    pub(super) away: u32,
    /// Until when its phones may be at either system.
    pub(super) homeless_until: Option<Duration>,
    /// Its place in the tracker's order of deadlines.
    pub(super) deadline: Option<Duration>,
}

/// One feature of one system.
#[derive(Debug)]
pub(super) struct Stands {
    pub(super) standing: Standing,
    /// As the other node last told of it.
    pub(super) theirs: Option<Theirs>,
    pub(super) phase: Phase,
    pub(super) waiting_for: Vec<String>,
    pub(super) deadline: Option<Duration>,
}

/// What the other node says of one feature of one system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Theirs {
    pub(super) side: Side,
    pub(super) epoch: u64,
    /// The node that decided it; `None` = this one.
    pub(super) by: Option<NodeId>,
}

impl Stands {
    /// What the other node says, where that is to be followed: what is later, and of two takeovers
    /// of one epoch, which were decided out of each other's sight, that of the node that decides.
    pub(super) fn to_follow(&self, decider_is_me: bool) -> Option<&Theirs> {
        let ours = &self.standing;
        self.theirs.as_ref().filter(|theirs| {
            let both_took_over = theirs.epoch == ours.epoch
                && theirs.side == Side::Backup
                && theirs.by.is_some()
                && theirs.by != ours.by;
            theirs.epoch > ours.epoch || (both_took_over && !decider_is_me)
        })
    }
}

/// What a system looks like from outside.
#[derive(Debug, Clone)]
pub struct SystemView {
    /// As configured.
    pub setup: Setup,
    /// Since when it is visible, or not; `None` = not known yet.
    pub home: Seen,
    /// Whether it reports itself; else it is as visible as the node it stands at.
    pub reports: bool,
    /// Its DECT, its active mirror, its portal: as polled.
    pub polled: [(Subject, Seen); 3],
    /// Phones registered at home, and elsewhere.
    pub phones: (u32, u32),
    /// Until when its phones may be at either system (homeless prevention, monotonic).
    pub homeless_until: Option<Duration>,
}

impl Tracked {
    pub(super) fn new(setup: Setup) -> Self {
        let stands = || Stands {
            standing: Standing::initial(),
            theirs: None,
            phase: Phase::Normal,
            waiting_for: Vec::new(),
            deadline: None,
        };
        Self {
            setup,
            watches: Default::default(),
            stands: std::array::from_fn(|_| stands()),
            home: None,
            absence: 0,
            desk_phones: 0,
            at_home: 0,
            away: 0,
            homeless_until: None,
            deadline: None,
        }
    }

    pub(super) fn watch(&mut self, subject: Subject) -> &mut Watch {
        &mut self.watches[subject as usize]
    }

    /// It reported in an earlier life of this process.
    pub(super) fn remember(&mut self, subject: Subject, now: Duration) {
        let watching = ROWS.iter().zip(&self.stands);
        let well = watching
            .filter(|(row, _)| row.watches == subject)
            .all(|(_, stands)| stands.standing.side == Side::Home);
        *self.watch(subject) = Watch::remembered(well, now);
    }

    /// What `subject` looks like. `node`: the node the system stands at, for a system that does not
    /// report itself.
    pub(super) fn seen(&self, subject: Subject, node: Seen) -> Seen {
        let watch = &self.watches[subject as usize];
        match subject {
            Subject::Home if !watch.reports() => node,
            _ => watch.seen(),
        }
    }

    pub(super) fn reports(&self, subject: Subject) -> bool {
        self.watches[subject as usize].reports()
    }

    /// Brings what is seen up to `now`, and forgets evidence of an absence that is over (R-FO-3).
    pub(super) fn refresh(&mut self, node: Seen, timers: &Timers, now: Duration) {
        for subject in Subject::ALL {
            self.watch(subject).refresh(silence(subject, timers), now);
        }
        let home = self.seen(Subject::Home, node);
        if home != self.home {
            self.home = home;
            self.absence = self.absence.wrapping_add(1);
            self.desk_phones = 0;
        }
    }

    /// When silence will next mean something.
    pub(super) fn silence_due(&self, timers: &Timers) -> Option<Duration> {
        let dues = Subject::ALL.iter().zip(&self.watches);
        dues.filter_map(|(subject, watch)| watch.due(silence(*subject, timers)))
            .min()
    }

    pub(super) fn stands(&self, feature: Feature) -> &Stands {
        &self.stands[feature as usize]
    }

    pub(super) fn name(&self) -> &SystemName {
        &self.setup.name
    }

    /// Manual mode: phones go home only when they register anew.
    pub(super) fn phones_wait(&self) -> bool {
        self.setup.phone_failback == Return::Manual
    }

    pub(super) fn view(&self, node: Seen) -> SystemView {
        let polled = [Subject::Dect, Subject::Mirror, Subject::Portal];
        SystemView {
            setup: self.setup.clone(),
            home: self.seen(Subject::Home, node),
            reports: self.reports(Subject::Home),
            polled: polled.map(|subject| (subject, self.seen(subject, node))),
            phones: (self.at_home, self.away),
            homeless_until: self.homeless_until,
        }
    }
}

/// How long a subject that reports may be silent.
fn silence(subject: Subject, timers: &Timers) -> Option<Duration> {
    match subject {
        Subject::Home => Some(timers.invisible_after),
        // A poll may be late by half of its time.
        Subject::Dect => Some(timers.dect_poll.saturating_mul(3) / 2),
        Subject::Portal => Some(timers.portal_detection),
        // Told of when it is lost; nothing polls it.
        Subject::Mirror => None,
    }
}
