//! Channels: by which ways alarms (R-AL-1) and events (R-FO-6) reach people and programs. The decisions are those of
//! [`vmsync_core::alarm`]; here are the sockets, the records and the tasks.
//!
//! Order: whoever raises an alarm puts its notice into the queue of every channel that wants it, in memory, and
//! goes on; the writer of alarms makes alarm and notices durable as one; a task for each channel (`carrier`) sends
//! the oldest, and takes it out of queue and records once it was acknowledged, or sent where the way knows no
//! acknowledgement. So a channel that is down holds up neither a decision nor another channel, a restart loses
//! nothing that waited, and a notice is repeated only by a crash between its acknowledgement and the record.

mod carrier;
mod channel;
mod email;
mod feed;
mod snmp;
mod specs;
mod syslog;
mod webhook;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::SyncSender,
    },
};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vmsync_config::{
    Config,
    words::{GroupName, NodeId},
};
use vmsync_core::alarm::{self, Facts, Item, Notice, Queue, What, told_by};
use vmsync_store::{Store, StoreError};

use crate::{
    alarms::{Alarm, Write, kept},
    app::App,
    topology::Topology,
};
use channel::Records;
use specs::specs;

pub use channel::{Channel, View};
pub use specs::check_secrets;

/// A channel does not work.
pub const DOWN: &str = "alarm_channel_down";
/// Notices of a channel were dropped.
pub const DROPPED: &str = "alarm_channel_dropped";
/// An address of an e-mail channel is refused for good.
pub const REFUSED: &str = "alarm_address_refused";
/// Space of the notices that wait: `channel/number`.
pub(crate) const SPACE: &str = "notices";
/// Notices that may wait beyond the begin and end of every alarm that can be up: those under way, and events.
const BESIDE: usize = 500;

/// Subject of what concerns the pair as a whole.
const PAIR: &str = "pair";
/// Records removed as one.
const AT_ONCE: usize = 1_000;

/// All channels of a node. Cheap to clone.
#[derive(Clone)]
pub struct Channels {
    inner: Arc<Inner>,
}

struct Inner {
    /// None where there is no channel.
    me: Option<NodeId>,
    /// The pair's other node.
    peer: Option<NodeId>,
    /// Of each subject that both nodes know: who tells of it.
    tellers: Mutex<BTreeMap<String, NodeId>>,
    /// The other node is out of sight: what both list this one tells.
    peer_away: AtomicBool,
    list: Vec<Arc<Channel>>,
}

impl Channels {
    /// Nobody is told.
    pub(crate) fn none() -> Self {
        Self {
            inner: Arc::new(Inner {
                me: None,
                peer: None,
                tellers: Mutex::default(),
                peer_away: AtomicBool::new(false),
                list: Vec::new(),
            }),
        }
    }

    /// Those of `config`, with what waits in `store`. What waits for a channel that is configured no more is dropped.
    pub(crate) fn load(
        config: &Config,
        store: &Store,
        writer: &SyncSender<Write>,
    ) -> Result<Self, StoreError> {
        let mut waiting: BTreeMap<String, Vec<Item>> = BTreeMap::new();
        let mut orphans = Vec::new();
        let wanted = specs(&config.alarms);
        let limit = limit(config);
        for (key, value) in store.locals(SPACE)? {
            let name = key.split_once('/').map_or("", |(name, _)| name);
            let item = serde_json::from_slice::<Item>(&value);
            match (wanted.iter().any(|s| s.name == name), item) {
                (true, Ok(item)) => waiting.entry(name.to_owned()).or_default().push(item),
                _ => orphans.push(key),
            }
        }
        if !orphans.is_empty() {
            let count = orphans.len();
            tracing::warn!(
                count,
                "notices of channels that are configured no more are dropped"
            );
            let gone: Vec<_> = orphans.iter().map(|key| (key.as_str(), None)).collect();
            for some in gone.chunks(AT_ONCE) {
                store.put_locals(SPACE, some)?;
            }
        }
        let list = wanted.into_iter().map(|spec| {
            let left = waiting.remove(&spec.name).unwrap_or_default();
            Arc::new(Channel::new(spec, Queue::new(limit, left), writer.clone()))
        });
        Ok(Self {
            inner: Arc::new(Inner {
                me: Some(config.node.id.clone()),
                peer: Some(config.pair.peer_id.clone()),
                tellers: Mutex::new(tellers(&Topology::configured(config))),
                peer_away: AtomicBool::new(false),
                list: list.collect(),
            }),
        })
    }

    /// Starts the tasks of all channels.
    ///
    /// # Errors
    /// A certificate that is needed can't be read.
    pub fn start(
        app: &Arc<App>,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) -> Result<(), String> {
        let channels = app.alarms.channels();
        let named = |subject: &String| channels.list().iter().any(|c| c.name == *subject);
        let mailed = app.config.alarms.email.iter().flat_map(|c| &c.to);
        let mailed: BTreeSet<_> = mailed.collect();
        for code in [DOWN, DROPPED, REFUSED] {
            for subject in app.alarms.up_of(code) {
                let ours = match code {
                    REFUSED => mailed.contains(&subject),
                    _ => named(&subject),
                };
                if !ours {
                    app.alarms.clear(code, &subject);
                }
            }
        }
        let drivers = carrier::drivers(&app.config, &app.store)?;
        for (channel, driver) in channels.list().iter().zip(drivers) {
            let asks = channel
                .asks
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            let Some(asks) = asks else { continue };
            let task = carrier::Carrier::new(
                Arc::clone(channel),
                app.alarms.clone(),
                driver,
                app.config.node.demo,
            );
            tasks.spawn(task.run(asks, stop.clone()));
        }
        if channels.list().iter().any(|c| !c.filter.events.is_empty()) {
            feed::tap(app);
            tasks.spawn(feed::started(Arc::clone(app), stop.clone()));
        }
        Ok(())
    }

    /// From now on goes by `topology`, which was switched live.
    pub(crate) fn follow(&self, topology: &Topology) {
        *self.tellers() = tellers(topology);
    }

    /// Whether the other node is out of sight, so that this one tells what both list.
    pub(crate) fn peer_away(&self, away: bool) {
        self.inner.peer_away.store(away, Ordering::Relaxed);
    }

    /// Maintenance mode was begun at node `by`, which tells of it.
    pub(crate) fn maintenance_by(&self, by: &NodeId) {
        // A node that is none of the pair any more tells nobody: then the backup does.
        if [&self.inner.me, &self.inner.peer]
            .iter()
            .any(|node| node.as_ref() == Some(by))
        {
            self.tellers().insert(PAIR.to_owned(), by.clone());
        }
    }

    fn tellers(&self) -> MutexGuard<'_, BTreeMap<String, NodeId>> {
        let tellers = self.inner.tellers.lock();
        tellers.unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them, in the order of the configuration.
    pub fn list(&self) -> &[Arc<Channel>] {
        &self.inner.list
    }

    /// Puts the begin or end of an alarm into the queues; what is to be written comes back.
    pub(crate) fn alarm(&self, alarm: &Alarm, what: fn(Facts) -> What) -> Records {
        let teller = self.tellers().get(&alarm.subject).cloned();
        let away = self.inner.peer_away.load(Ordering::Relaxed);
        let ours = |me: &NodeId| told_by(me, &alarm.code, teller.as_ref(), away);
        if !self.inner.me.as_ref().is_some_and(ours) {
            return Vec::new();
        }
        let facts = Facts {
            number: alarm.id,
            code: alarm.code.clone(),
            subject: alarm.subject.clone(),
            text: alarm.text.clone(),
            severity: alarm::severity(&alarm.code),
            since: alarm.since,
        };
        self.offer(Notice {
            id: Uuid::new_v4(),
            at: alarm.cleared.unwrap_or(alarm.since),
            what: what(facts),
        })
    }

    fn offer(&self, notice: Notice) -> Records {
        let notice = Arc::new(notice);
        let wanted = self
            .inner
            .list
            .iter()
            .filter(|c| c.filter.wants(&c.name, &notice));
        wanted
            .flat_map(|channel| channel.push(Arc::clone(&notice)))
            .collect()
    }

    fn want_event(&self, kind: &str) -> bool {
        self.inner.list.iter().any(|c| c.filter.wants_event(kind))
    }

    /// Puts an event into the queues of those that want it.
    fn event(&self, notice: Notice) {
        let records = self.offer(notice);
        if let Some(first) = self.inner.list.first() {
            first.write(records);
        }
    }
}

/// Notices that may wait for one channel: as configured, and never fewer than the begin and the end of each alarm that can
/// be up, so that there is always one that is over to drop first.
fn limit(config: &Config) -> usize {
    let all = kept(config.systems.len());
    let least = all.saturating_mul(2).saturating_add(BESIDE);
    config.alarms.queue.max(least)
}

/// Who tells what both nodes list: the backup of the group that the subject, a system or a group, belongs to; of the
/// pair as a whole the backup of the first.
fn tellers(topology: &Topology) -> BTreeMap<String, NodeId> {
    let groups = topology.groups();
    let backup = |name: &GroupName| {
        let group = groups.iter().find(|g| g.name == *name);
        group.map(|g| g.backup.clone())
    };
    let systems = topology.systems.iter().filter_map(|system| {
        let group = topology.group_of_system(system);
        Some((system.name.to_string(), backup(group)?))
    });
    let pair = groups.first().map(|g| (PAIR.to_owned(), g.backup.clone()));
    let named = groups
        .iter()
        .map(|g| (g.name.to_string(), g.backup.clone()));
    pair.into_iter().chain(named).chain(systems).collect()
}

#[cfg(test)]
mod tests;
