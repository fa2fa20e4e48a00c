//! Channels: by which ways alarms (R-AL-1) and events (R-FO-6) reach people and programs. The decisions are those of
//! [`vmsync_core::alarm`]; here are the sockets, the records and the tasks.
//!
//! Order: whoever raises an alarm puts its notice into the queue of every channel that wants it, in memory, and
//! goes on; the writer of alarms makes alarm and notices durable as one; a task for each channel (`carrier`) sends
//! the oldest, and takes it out of queue and records once it was acknowledged, or sent where the way knows no
//! acknowledgement. So a channel that is down holds up neither a decision nor another channel, a restart loses
//! nothing that waited, and a notice is repeated only by a crash between its acknowledgement and the record.

mod carrier;
mod email;
mod feed;
mod snmp;
mod syslog;
mod webhook;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{SyncSender, TrySendError},
    },
};

use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vmsync_config::{
    Config,
    alarms::{self as configured, SnmpVersion, SyslogTransport},
    words::{GroupName, NodeId, UnixMillis},
};
use vmsync_core::alarm::{self, Change, Facts, Filter, Item, Notice, Queue, What, told_by};
use vmsync_store::{Store, StoreError};

use crate::{
    alarms::{Alarm, Write},
    app::App,
    topology::Topology,
};

/// A channel does not work.
pub const DOWN: &str = "alarm_channel_down";
/// Notices of a channel were dropped.
pub const DROPPED: &str = "alarm_channel_dropped";
/// Space of the notices that wait: `channel/number`.
pub(crate) const SPACE: &str = "notices";
/// Tests asked for and not begun.
const TESTS: usize = 4;

/// All channels of a node. Cheap to clone.
#[derive(Clone)]
pub struct Channels {
    inner: Arc<Inner>,
}

struct Inner {
    /// None where there is no channel.
    me: Option<NodeId>,
    /// Of each subject that both nodes know: who tells of it.
    tellers: Mutex<BTreeMap<String, NodeId>>,
    list: Vec<Arc<Channel>>,
}

/// One channel.
pub struct Channel {
    /// Its name.
    pub name: String,
    /// `email`, `syslog`, `snmp` or `webhook`.
    pub kind: &'static str,
    /// Where to, for people.
    pub target: String,
    filter: Filter,
    writer: SyncSender<Write>,
    state: Mutex<State>,
    news: Notify,
    asked: mpsc::Sender<Ask>,
    asks: Mutex<Option<mpsc::Receiver<Ask>>>,
}

type Ask = oneshot::Sender<Result<(), String>>;

struct State {
    queue: Queue,
    view: View,
}

/// How a channel stands.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Notices that wait.
    pub queued: usize,
    /// Notices sent since the start.
    pub sent: u64,
    /// Notices dropped or given up since the start.
    pub dropped: u64,
    /// When the last one was sent.
    pub last_success: Option<UnixMillis>,
    /// What went wrong last, and when.
    pub last_error: Option<(UnixMillis, String)>,
    /// Tries that failed in a row; 0 = it works, as far as known.
    pub failures: u32,
    /// When the next try is.
    pub retry_at: Option<UnixMillis>,
}

impl Channels {
    /// Nobody is told.
    pub(crate) fn none() -> Self {
        Self {
            inner: Arc::new(Inner {
                me: None,
                tellers: Mutex::default(),
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
            store.put_locals(SPACE, &gone)?;
        }
        let list = wanted.into_iter().map(|spec| {
            let left = waiting.remove(&spec.name).unwrap_or_default();
            Arc::new(Channel::new(
                spec,
                Queue::new(config.alarms.queue, left),
                writer.clone(),
            ))
        });
        Ok(Self {
            inner: Arc::new(Inner {
                me: Some(config.node.id.clone()),
                tellers: Mutex::new(tellers(&Topology::configured(config))),
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
        let ours = |subject: &str| channels.list().iter().any(|c| c.name == subject);
        for code in [DOWN, DROPPED] {
            for alarm in app.alarms.list() {
                if alarm.code == code && alarm.cleared.is_none() && !ours(&alarm.subject) {
                    app.alarms.clear(code, &alarm.subject);
                }
            }
        }
        let drivers = carrier::drivers(app)?;
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

    fn tellers(&self) -> MutexGuard<'_, BTreeMap<String, NodeId>> {
        let tellers = self.inner.tellers.lock();
        tellers.unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them, in the order of the configuration.
    pub fn list(&self) -> &[Arc<Channel>] {
        &self.inner.list
    }

    /// Puts the begin or end of an alarm into the queues; what is to be written comes back.
    pub(crate) fn alarm(
        &self,
        alarm: &Alarm,
        what: fn(Facts) -> What,
    ) -> Vec<(String, Option<Vec<u8>>)> {
        let teller = self.tellers().get(&alarm.subject).cloned();
        let ours = |me: &NodeId| told_by(me, &alarm.code, teller.as_ref());
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

    fn offer(&self, notice: Notice) -> Vec<(String, Option<Vec<u8>>)> {
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

impl Channel {
    fn new(spec: Spec, queue: Queue, writer: SyncSender<Write>) -> Self {
        let (asked, asks) = mpsc::channel(TESTS);
        Self {
            name: spec.name,
            kind: spec.kind,
            target: spec.target,
            filter: spec.filter,
            writer,
            state: Mutex::new(State {
                queue,
                view: View::default(),
            }),
            news: Notify::new(),
            asked,
            asks: Mutex::new(Some(asks)),
        }
    }

    /// How it stands.
    pub fn view(&self) -> View {
        let state = self.lock();
        View {
            queued: state.queue.len(),
            dropped: state.queue.dropped(),
            ..state.view.clone()
        }
    }

    /// Sends a test alarm now, beside the queue. The inner `Err` says in words why it was not taken.
    pub async fn test(&self) -> Option<Result<(), String>> {
        let (answer, answered) = oneshot::channel();
        self.asked.try_send(answer).ok()?;
        answered.await.ok()
    }

    fn push(&self, notice: Arc<Notice>) -> Vec<(String, Option<Vec<u8>>)> {
        let changes = self.lock().queue.push(notice);
        self.news.notify_one();
        self.records(changes)
    }

    fn records(&self, changes: Vec<Change>) -> Vec<(String, Option<Vec<u8>>)> {
        let key = |number: u64| format!("{}/{number:020}", self.name);
        let record = |change| match change {
            Change::Put(item) => {
                let bytes = serde_json::to_vec(&item).ok()?;
                Some((key(item.number), Some(bytes)))
            }
            Change::Remove(number) => Some((key(number), None)),
        };
        changes.into_iter().filter_map(record).collect()
    }

    /// In the background. What can't be written is sent all the same.
    fn write(&self, notices: Vec<(String, Option<Vec<u8>>)>) {
        if notices.is_empty() {
            return;
        }
        let write = Write {
            alarm: None,
            notices,
        };
        // Gone: the node is stopping.
        if let Err(TrySendError::Full(_)) = self.writer.try_send(write) {
            tracing::error!(
                channel = self.name,
                "the state of a notice is not kept over a restart: the writer does not keep up"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        let group = topology.group_of(Some(system.name.as_str()));
        Some((system.name.to_string(), backup(&group)?))
    });
    let pair = groups
        .first()
        .map(|g| ("pair".to_owned(), g.backup.clone()));
    let named = groups
        .iter()
        .map(|g| (g.name.to_string(), g.backup.clone()));
    pair.into_iter().chain(named).chain(systems).collect()
}

struct Spec {
    name: String,
    kind: &'static str,
    target: String,
    filter: Filter,
}

/// In the order in which [`carrier::drivers`] makes their drivers.
fn specs(config: &configured::Alarms) -> Vec<Spec> {
    let spec = |channel: &configured::Channel, kind, target, events: &[String]| Spec {
        name: channel.name.clone(),
        kind,
        target,
        filter: Filter {
            codes: channel.codes.clone(),
            severity: channel.severity,
            events: events.to_vec(),
        },
    };
    let email = config
        .email
        .iter()
        .map(|c| spec(&c.channel, "email", c.to.join(", "), &[]));
    let syslog = config.syslog.iter().map(|c| {
        let transport = match c.transport {
            SyslogTransport::Udp => "udp",
            SyslogTransport::Tcp => "tcp",
            SyslogTransport::Tls => "tls",
        };
        let target = format!("{}:{} ({transport})", c.server, c.port);
        spec(&c.channel, "syslog", target, &[])
    });
    let snmp = config.snmp.iter().map(|c| {
        let version = match c.version {
            SnmpVersion::V2c { .. } => "2c",
            SnmpVersion::V3(_) => "3",
        };
        let kind = if c.inform { "informs" } else { "traps" };
        let target = format!("{}:{} ({kind} of version {version})", c.server, c.port);
        spec(&c.channel, "snmp", target, &[])
    });
    let webhooks = config.webhooks.iter().map(|c| {
        // Without its query, which may hold a token.
        let mut shown = c.url.clone();
        shown.set_query(None);
        spec(&c.channel, "webhook", shown.to_string(), &c.events)
    });
    email.chain(syslog).chain(snmp).chain(webhooks).collect()
}

/// Checks what the files of secrets hold, beyond that they can be read.
///
/// # Errors
/// What is wrong, without the secret.
pub fn check_secrets(config: &configured::Alarms) -> Vec<String> {
    let line =
        |file: &std::path::Path| crate::keys::read_secret_line(file).map_err(|e| e.to_string());
    let webhooks = config.webhooks.iter().filter_map(|c| {
        let read = line(&c.secret_file).and_then(|secret| {
            let named = |e| format!("{}: {e}", c.secret_file.display());
            alarm::webhook::secret(&secret).map(drop).map_err(named)
        });
        read.err()
    });
    let users = config.snmp.iter().filter_map(|c| match &c.version {
        SnmpVersion::V3(user) => Some(user),
        SnmpVersion::V2c { .. } => None,
    });
    let files =
        users.flat_map(|u| std::iter::once(&u.auth_password_file).chain(&u.priv_password_file));
    let short = files.filter_map(|file| {
        let password = line(file).ok()?;
        let short = password.chars().count() < 8;
        short.then(|| format!("{}: {}", file.display(), alarm::BadPassword))
    });
    let unreadable = config
        .secret_files()
        .into_iter()
        .filter_map(|file| line(file).err());
    let mut all: Vec<String> = webhooks.chain(short).chain(unreadable).collect();
    all.dedup();
    all
}

#[cfg(test)]
mod tests;
