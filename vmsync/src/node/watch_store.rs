//! What commits set in motion: the loop looks again, and the event stream tells of messages,
//! mailboxes and message waiting indicators (R-MB-13).
//!
//! An indicator is published by the serving node only, once per change of its counts. Which lights
//! this node has turned on is kept durably, written before the event goes out. When it begins to
//! serve (start, failover, failback) it asserts again every light that should be on, and every one
//! it once turned on: so a message that was played elsewhere, or just before the process ended,
//! leaves no light burning.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use vmsync_config::words::{Extension, GroupName, SystemName};
use vmsync_core::resilience::Serving;
use vmsync_store::{
    Committed, Effect, EntityKey, Operation, StoreError,
    model::{Counts, Mailbox},
};

use crate::app::App;

/// Commits waiting to be told of; beyond it their mailboxes are looked at all together.
const WAITING: usize = 4_096;
/// Operations in them at most, so that a backlog that comes in does not fill the memory.
const WAITING_OPERATIONS: usize = 10_000;
/// Lights this node has turned on, by mailbox.
const LIT: &str = "mwi";
/// How long to wait before what could not be read is looked at again.
const AGAIN: Duration = Duration::from_secs(1);
/// Mailboxes looked at together.
const PAGE: usize = 500;

/// Starts to watch: a notice that fires after every durable commit, and the task that tells of them.
pub(super) fn start(
    app: &Arc<App>,
    stop: CancellationToken,
) -> (Arc<Notify>, impl Future<Output = ()> + Send + use<>) {
    let notice = Arc::new(Notify::new());
    let (sender, commits) = mpsc::channel(WAITING);
    let due = Arc::new(Due::default());
    let waiting = Arc::new(AtomicUsize::new(0));
    let (wake, overflow) = (Arc::clone(&notice), Arc::clone(&due));
    let weight = Arc::clone(&waiting);
    app.store.on_commit(Box::new(move |committed: &Committed| {
        let operations = committed.operations.len();
        let before = weight.fetch_add(operations, Ordering::Relaxed);
        let room = before == 0 || before + operations <= WAITING_OPERATIONS;
        if !room || sender.try_send(committed.clone()).is_err() {
            weight.fetch_sub(operations, Ordering::Relaxed);
            overflow.look_at(None);
        }
        wake.notify_one();
    }));
    let teller = Teller {
        app: Arc::clone(app),
        due: Arc::clone(&due),
        waiting,
    };
    let lights = Lights {
        app: Arc::clone(app),
        shown: HashMap::new(),
        due,
    };
    let both = async move {
        tokio::join!(teller.run(commits, stop.clone()), lights.run(stop));
    };
    (notice, both)
}

/// Mailboxes whose lights are to be looked at: however long that takes, no event waits for it.
#[derive(Default)]
struct Due {
    mailboxes: Mutex<BTreeSet<Extension>>,
    /// Something was not told: everything is asserted again.
    missed: AtomicBool,
    more: Notify,
}

impl Due {
    /// `None`: which, is not known.
    fn look_at(&self, mailboxes: Option<&[Extension]>) {
        match mailboxes {
            Some(mailboxes) => self.lock().extend(mailboxes.iter().cloned()),
            None => self.missed.store(true, Ordering::Relaxed),
        }
        self.more.notify_one();
    }

    /// The next mailboxes.
    fn take(&self) -> Vec<Extension> {
        let mut all = self.lock();
        let mut taken = Vec::new();
        while taken.len() < PAGE
            && let Some(ext) = all.pop_first()
        {
            taken.push(ext);
        }
        if !all.is_empty() {
            self.more.notify_one();
        }
        taken
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Extension>> {
        self.mailboxes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells of changes, in order.
struct Teller {
    app: Arc<App>,
    due: Arc<Due>,
    /// Operations in the commits that wait.
    waiting: Arc<AtomicUsize>,
}

impl Teller {
    async fn run(self, mut commits: mpsc::Receiver<Committed>, stop: CancellationToken) {
        loop {
            let commit = tokio::select! {
                () = stop.cancelled() => return,
                commit = commits.recv() => commit,
            };
            let Some(commit) = commit else { return };
            self.tell(&commit);
            let operations = commit.operations.len();
            self.waiting.fetch_sub(operations, Ordering::Relaxed);
        }
    }

    fn tell(&self, commit: &Committed) {
        for operation in commit.operations.iter() {
            self.tell_operation(operation, commit.remote);
        }
        for (entity, deleted) in commit.joined.iter() {
            self.tell_change(entity, *deleted, &[], commit.remote);
        }
        self.due.look_at(commit.mailboxes.as_deref());
    }

    fn tell_operation(&self, operation: &Operation, remote: bool) {
        let fields: Vec<_> = match &operation.effect {
            Effect::Set(fields) => fields.keys().filter(|f| *f != "pin_hash").collect(),
            Effect::Delete => Vec::new(),
        };
        let deleted = operation.effect == Effect::Delete;
        self.tell_change(&operation.entity, deleted, &fields, remote);
    }

    /// Where state was joined, which of its fields changed is not told.
    fn tell_change(&self, entity: &EntityKey, deleted: bool, fields: &[&String], remote: bool) {
        let kind = match entity {
            EntityKey::Message(_) => "message",
            EntityKey::Mailbox(_) => "mailbox",
            EntityKey::Greeting(..) => "greeting",
            EntityKey::Flow(_) | EntityKey::Setting(_) | EntityKey::Other(_) => return,
        };
        let data = json!({
            "entity": entity.to_string(),
            "deleted": deleted,
            "fields": fields,
            "from_peer": remote,
        });
        self.app.events.publish(kind, data);
    }
}

/// Shows the lights.
struct Lights {
    app: Arc<App>,
    /// Counts as last published, of mailboxes whose indicator was published.
    shown: HashMap<Extension, (bool, Counts)>,
    due: Arc<Due>,
}

impl Lights {
    async fn run(mut self, stop: CancellationToken) {
        let mut status = self.app.node.watch();
        let mut served: Vec<GroupName> = Vec::new();
        self.remember_lit().await;
        loop {
            let now_served = self.served();
            let begins = now_served.iter().any(|g| !served.contains(g));
            served = now_served;
            let missed = self.due.missed.swap(false, Ordering::Relaxed);
            if (begins || missed) && !self.assert_all().await {
                self.due.missed.store(true, Ordering::Relaxed);
                tokio::time::sleep(AGAIN).await;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = status.changed() => if changed.is_err() { return },
                () = self.due.more.notified() => {
                    let due = self.due.take();
                    if !self.look_at(due).await {
                        self.due.missed.store(true, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// The lights that an earlier life of this process has turned on.
    async fn remember_lit(&mut self) {
        let lit = self.app.store(|s| s.locals(LIT)).await.unwrap_or_default();
        let lit = lit.iter().filter_map(|(ext, _)| Extension::new(ext).ok());
        self.shown = lit.map(|ext| (ext, (true, Counts::default()))).collect();
    }

    fn served(&self) -> Vec<GroupName> {
        let topology = self.app.topology();
        let groups = topology.groups().iter();
        let serving = groups.filter(|g| self.app.node.serving(&g.name) == Serving::Yes);
        serving.map(|g| g.name.clone()).collect()
    }

    /// Reads mailboxes and shows their lights as they should be. False when they could not be read.
    async fn look_at(&mut self, mailboxes: Vec<Extension>) -> bool {
        if mailboxes.is_empty() {
            return true;
        }
        let read = self.app.store(move |s| {
            let read = mailboxes.into_iter().map(|ext| {
                let mailbox = s.mailbox(&ext)?;
                Ok((ext, mailbox))
            });
            read.collect::<Result<Vec<_>, StoreError>>()
        });
        let Ok(read) = read.await else {
            return false;
        };
        let light = |(ext, mailbox): &(Extension, Option<Mailbox>)| match mailbox {
            Some(mailbox) => self.light_of(mailbox),
            // Gone with all its messages.
            None => Some((ext.clone(), Counts::default())),
        };
        let lights = read.iter().filter_map(light).collect();
        self.show(lights, false).await
    }

    /// The light of `mailbox`, where this node serves it.
    fn light_of(&self, mailbox: &Mailbox) -> Option<(Extension, Counts)> {
        let system = mailbox.home_system.as_ref().map(SystemName::as_str);
        let group = self.app.group_of(system);
        let mine = self.app.node.serving(&group) == Serving::Yes;
        mine.then(|| (mailbox.extension.clone(), mailbox.counts))
    }

    /// Publishes the indicators whose counts changed (or all, `anew`). False when lights that turn on or
    /// off could not be noted: none is published then, but tried again.
    async fn show(&mut self, lights: Vec<(Extension, Counts)>, anew: bool) -> bool {
        // A mailbox never told of is taken to be dark.
        let before = |ext: &Extension| self.shown.get(ext).copied().unwrap_or_default();
        let news = lights.into_iter();
        let news = news.filter(|(ext, counts)| anew || before(ext) != (is_on(counts), *counts));
        let news: Vec<_> = news.collect();
        let turned = news.iter();
        let turned = turned.filter(|(ext, counts)| before(ext).0 != is_on(counts));
        let turned: Vec<_> = turned.map(|(e, c)| (e.to_string(), is_on(c))).collect();
        if !self.note(turned).await {
            return false;
        }
        for (ext, counts) in news {
            self.publish(ext, counts);
        }
        true
    }

    fn publish(&mut self, ext: Extension, counts: Counts) {
        let on = is_on(&counts);
        let Counts {
            new,
            unopened,
            old,
            saved,
            ..
        } = counts;
        let data = json!({
            "mailbox": ext, "on": on,
            "new": new, "unopened": unopened, "old": old, "saved": saved,
        });
        self.app.events.publish("mwi", data);
        if on || counts != Counts::default() {
            self.shown.insert(ext, (on, counts));
        } else {
            self.shown.remove(&ext);
        }
    }

    /// Notes lights as on or off, all of them with one fsync.
    async fn note(&self, lights: Vec<(String, bool)>) -> bool {
        if lights.is_empty() {
            return true;
        }
        let noted = self.app.store(move |s| {
            let records: Vec<_> = lights
                .iter()
                .map(|(ext, on)| (ext.as_str(), on.then_some(b"on".as_slice())))
                .collect();
            s.put_locals(LIT, &records)
        });
        noted.await.is_ok()
    }

    /// Asserts every light that should be on, and every one this node knows of.
    async fn assert_all(&mut self) -> bool {
        let mut known: BTreeSet<_> = self.shown.keys().cloned().collect();
        let mut cursor: Option<String> = None;
        loop {
            let from = cursor.take();
            let page = self
                .app
                .store(move |s| s.mailboxes(from.as_deref(), PAGE))
                .await;
            let Ok(page) = page else { return false };
            let lit = |m: &&Mailbox| m.counts.new > 0 || self.shown.contains_key(&m.extension);
            let lights = page.items.iter().filter(lit);
            let lights = lights.filter_map(|m| self.light_of(m)).collect();
            if !self.show(lights, true).await {
                return false;
            }
            for mailbox in &page.items {
                known.remove(&mailbox.extension);
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        // Those that are no longer there.
        self.look_at(known.into_iter().collect()).await
    }
}

fn is_on(counts: &Counts) -> bool {
    counts.new > 0
}
