//! The other features of each system (docs/features.md): what comes in, what is decided, what follows.
//!
//! The decisions are [`vmsync_core::features`]'s. Here is what feeds them: signs of life, polls and
//! registrations straight from the HTTP front, each one look-up under a short lock; sight of the
//! other node from the node loop's status. A task of its own looks at what is due: nothing here runs
//! in the node loop's turn, and no turn of it waits for this.
//!
//! Order of a turn: decide; make what changed durable (one batch); only then take it on, tell the
//! event stream, the alarms and the log. What could not be made durable has not happened and is
//! decided again. A sign of life is never written.

mod failback;
mod keep;
mod run;
mod view;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, watch};
use vmsync_config::{
    Config,
    words::{NodeId, SystemName},
};
use vmsync_core::{
    Now,
    features::{
        Decided, Feature, Limits, PhoneView, Refused, Registration, Setup, Subject, Told, Tracker,
    },
    resilience::Maintenance,
};
use vmsync_store::{Store, StoreError};

pub(crate) use failback::Ask;
pub(crate) use run::run;
pub use view::{FeatureStatus, PhoneAdvice, PhoneStatus, SystemStatus};

/// The tracker and what surrounds it. Shared by the fronts and the task.
pub struct Features {
    me: NodeId,
    inner: Mutex<Inner>,
    /// Something was touched: a turn is due.
    wake: Notify,
    /// One turn at a time: what is decided is durable before the next decision.
    turns: tokio::sync::Mutex<()>,
    /// Maintenance mode as the node loop last read it; handed over without a lock of this.
    maintenance: watch::Sender<Option<Maintenance>>,
    /// What this node's heartbeats tell of standings; all of it durable.
    told: watch::Sender<Arc<Vec<Told>>>,
    /// What the other node's last answer told of them.
    heard: watch::Sender<Arc<Vec<Told>>>,
}

struct Inner {
    tracker: Tracker,
    /// To be written with the next turn, by space and key.
    records: BTreeMap<(&'static str, String), Option<Vec<u8>>>,
}

/// Which features are asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted {
    /// Of this system alone, number in the configuration.
    pub(crate) system: Option<usize>,
    /// This feature alone.
    pub(crate) feature: Option<Feature>,
}

impl Features {
    /// What the configuration says, and what earlier lives of this process have decided.
    pub fn load(store: &Store, config: &Config, now: Now) -> Result<Self, StoreError> {
        let limits = Limits {
            phones: config.limits.phones,
        };
        let mut tracker = Tracker::new(
            config.node.id.clone(),
            Setup::all(&config.systems),
            &config.locations,
            config.features.clone(),
            limits,
            now,
        );
        keep::restore(store, &mut tracker, now)?;
        let told = Arc::new(tracker.tell());
        Ok(Self {
            me: config.node.id.clone(),
            inner: Mutex::new(Inner {
                tracker,
                records: BTreeMap::new(),
            }),
            wake: Notify::new(),
            turns: tokio::sync::Mutex::default(),
            maintenance: watch::Sender::new(None),
            told: watch::Sender::new(told),
            heard: watch::Sender::default(),
        })
    }

    /// A sign of life of a system, or the result of a poll of one of its parts.
    pub(crate) fn told(
        &self,
        system: &SystemName,
        subject: Subject,
        up: bool,
        now: Now,
    ) -> Result<(), Refused> {
        let mut inner = self.lock();
        if inner.tracker.told(system, subject, up, now)? {
            let (space, key) = keep::reports(system, subject);
            inner.records.insert((space, key), Some(b"1".to_vec()));
        }
        self.wake_if_due(&inner);
        Ok(())
    }

    /// Maintenance mode as the nodes agree on it; taken on with the next turn.
    pub(crate) fn maintenance(&self, agreed: Option<&Maintenance>) {
        let news = self.maintenance.send_if_modified(|known| {
            let news = known.as_ref() != agreed;
            if news {
                *known = agreed.cloned();
            }
            news
        });
        if news {
            self.wake.notify_one();
        }
    }

    /// For this node's heartbeats.
    pub(crate) fn standings(&self) -> Vec<Told> {
        self.told.borrow().to_vec()
    }

    /// What the other node's answer told of standings; taken on with the next turn.
    pub(crate) fn hear(&self, told: Vec<Told>) {
        let news = self.heard.send_if_modified(|known| {
            let news = **known != told;
            if news {
                *known = Arc::new(told);
            }
            news
        });
        if news {
            self.wake.notify_one();
        }
    }

    /// A phone has registered, or what it does has changed. `None` for a phone of a system that is
    /// not configured: nothing is decided about it.
    pub(crate) fn phone(
        &self,
        phone: &Registration,
        now: Now,
    ) -> Result<Option<PhoneView>, Refused> {
        let mut inner = self.lock();
        if inner.tracker.number(&phone.home_system).is_none() {
            return Ok(None);
        }
        let heard = inner.tracker.registered(phone, now)?;
        if let Some((place, value)) = keep::phone(&phone.home_system, &phone.extension, &heard.keep)
        {
            inner.records.insert(place, value);
        }
        self.wake_if_due(&inner);
        Ok(Some(heard.view))
    }

    /// A phone as it is now.
    pub(crate) fn look(&self, system: &SystemName, extension: &str, now: Now) -> Option<PhoneView> {
        self.lock().tracker.phone(system, extension, now.mono)
    }

    /// Whether decisions wait to be taken.
    pub(crate) fn pending(&self) -> bool {
        is_due(&self.lock())
    }

    fn wake_if_due(&self, inner: &Inner) {
        if is_due(inner) || !inner.records.is_empty() {
            self.wake.notify_one();
        }
    }

    /// Features after number `after`, at most `most`, with their numbers; of all systems those that
    /// are backed up.
    pub(crate) fn list(
        &self,
        wanted: Wanted,
        after: Option<u64>,
        most: usize,
        now: Now,
    ) -> Vec<(u64, FeatureStatus)> {
        view::features(&self.lock().tracker, &self.me, wanted, after, most, now)
    }

    /// Systems after number `after`, at most `most`, with their numbers.
    pub(crate) fn systems(
        &self,
        after: Option<u64>,
        most: usize,
        now: Now,
    ) -> Vec<(u64, SystemStatus)> {
        view::systems(&self.lock().tracker, after, most, now)
    }

    /// One system.
    pub(crate) fn system(&self, system: &SystemName, now: Now) -> Option<SystemStatus> {
        let inner = self.lock();
        let number = inner.tracker.number(system)?;
        let (_, view) = inner.tracker.systems(number).next()?;
        Some(view::system(&view, now))
    }

    /// Its number in the configuration.
    pub(crate) fn number(&self, system: &SystemName) -> Option<usize> {
        self.lock().tracker.number(system)
    }

    /// Phones of a system after extension `after`, at most `most`.
    pub(crate) fn phones(
        &self,
        system: &SystemName,
        after: Option<&str>,
        most: usize,
        now: Now,
    ) -> Result<Vec<PhoneStatus>, Refused> {
        let inner = self.lock();
        let phones = inner.tracker.phones(system, after, most, now.mono)?;
        Ok(phones.iter().map(|p| view::phone(p, now)).collect())
    }

    /// How many systems and phones are tracked.
    pub(crate) fn counts(&self) -> (usize, usize) {
        self.lock().tracker.counts()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_due(inner: &Inner) -> bool {
    let due = inner.tracker.next_deadline();
    due.is_some_and(|due| due.is_zero())
}

/// What is to be told of `changes`.
fn told_of(changes: &[Decided]) -> impl Iterator<Item = &Decided> {
    changes.iter().filter(|c| c.announce)
}
