//! What commits set in motion: the loop looks again, and the event stream tells of messages,
//! mailboxes and message waiting indicators (R-MB-13).
//!
//! An indicator is published by the serving node only, once per change of its counts. Which lights
//! this node has turned on is kept durably, written before the event goes out. When it begins to
//! serve (start, failover, failback) it asserts again every light that should be on, and every one
//! it once turned on: so a message that was played elsewhere, or just before the process ended,
//! leaves no light burning.

use std::{
    collections::HashMap,
    sync::{
        Arc,
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
    Committed, Effect, EntityKey, Operation,
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
/// Mailboxes read at a time when all are asserted.
const PAGE: usize = 500;

/// Starts to watch: a notice that fires after every durable commit, and the task that tells of them.
pub(super) fn start(
    app: &Arc<App>,
    stop: CancellationToken,
) -> (Arc<Notify>, impl Future<Output = ()> + Send + use<>) {
    let notice = Arc::new(Notify::new());
    let (sender, commits) = mpsc::channel(WAITING);
    let missed = Arc::new(AtomicBool::new(false));
    let waiting = Arc::new(AtomicUsize::new(0));
    let (wake, overflow) = (Arc::clone(&notice), Arc::clone(&missed));
    let weight = Arc::clone(&waiting);
    app.store.on_commit(Box::new(move |committed: &Committed| {
        let operations = committed.operations.len();
        let before = weight.fetch_add(operations, Ordering::Relaxed);
        let room = before == 0 || before + operations <= WAITING_OPERATIONS;
        if !room || sender.try_send(committed.clone()).is_err() {
            weight.fetch_sub(operations, Ordering::Relaxed);
            overflow.store(true, Ordering::Relaxed);
        }
        wake.notify_one();
    }));
    let teller = Teller {
        app: Arc::clone(app),
        shown: HashMap::new(),
        missed,
        waiting,
    };
    (notice, teller.run(commits, stop))
}

struct Teller {
    app: Arc<App>,
    /// Counts as last published, of mailboxes whose indicator was published.
    shown: HashMap<Extension, (bool, Counts)>,
    /// Something was not told: everything is asserted again.
    missed: Arc<AtomicBool>,
    /// Operations in the commits that wait.
    waiting: Arc<AtomicUsize>,
}

impl Teller {
    async fn run(mut self, mut commits: mpsc::Receiver<Committed>, stop: CancellationToken) {
        let mut status = self.app.node.watch();
        let mut served: Vec<GroupName> = Vec::new();
        self.remember_lit().await;
        loop {
            let now_served = self.served();
            let begins = now_served.iter().any(|g| !served.contains(g));
            served = now_served;
            if (begins || self.missed.swap(false, Ordering::Relaxed)) && !self.assert_all().await {
                self.missed.store(true, Ordering::Relaxed);
                tokio::time::sleep(AGAIN).await;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = status.changed() => if changed.is_err() { return },
                commit = commits.recv() => {
                    let Some(commit) = commit else { return };
                    let operations = commit.operations.len();
                    self.tell(&commit).await;
                    self.waiting.fetch_sub(operations, Ordering::Relaxed);
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
        let groups = self.app.config.groups().into_iter();
        let serving = groups.filter(|g| self.app.node.serving(&g.name) == Serving::Yes);
        serving.map(|g| g.name).collect()
    }

    async fn tell(&mut self, commit: &Committed) {
        for operation in commit.operations.iter() {
            self.tell_operation(operation, commit.remote);
        }
        for (entity, deleted) in commit.joined.iter() {
            self.tell_change(entity, *deleted, &[], commit.remote);
        }
        let Some(mailboxes) = &commit.mailboxes else {
            self.missed.store(true, Ordering::Relaxed);
            return;
        };
        for ext in mailboxes.iter() {
            if !self.look_at(ext).await {
                self.missed.store(true, Ordering::Relaxed);
            }
        }
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

    /// Reads a mailbox and shows its light as it should be. False when it could not be read.
    async fn look_at(&mut self, extension: &Extension) -> bool {
        let ext = extension.clone();
        match self.app.store(move |s| s.mailbox(&ext)).await {
            Ok(Some(mailbox)) => self.indicate(&mailbox, false).await,
            // Gone with all its messages.
            Ok(None) => self.show(extension, Counts::default(), false).await,
            Err(_) => false,
        }
    }

    /// Shows the light of `mailbox`, where this node serves it.
    async fn indicate(&mut self, mailbox: &Mailbox, anew: bool) -> bool {
        let system = mailbox.home_system.as_ref().map(SystemName::as_str);
        if self.app.node.serving(&self.app.group_of(system)) != Serving::Yes {
            return true;
        }
        self.show(&mailbox.extension, mailbox.counts, anew).await
    }

    /// Publishes the indicator if its counts changed (or `anew`). False when a light that turns on
    /// could not be noted: it is not published then, but tried again.
    async fn show(&mut self, ext: &Extension, counts: Counts, anew: bool) -> bool {
        let on = counts.new > 0;
        // A mailbox never told of is taken to be dark.
        let before = self.shown.get(ext).copied().unwrap_or_default();
        if !anew && before == (on, counts) {
            return true;
        }
        if on != before.0 && !self.note(ext, on).await {
            return false;
        }
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
            self.shown.insert(ext.clone(), (on, counts));
        } else {
            self.shown.remove(ext);
        }
        true
    }

    async fn note(&self, ext: &Extension, on: bool) -> bool {
        let key = ext.to_string();
        let noted = self
            .app
            .store(move |s| s.put_local(LIT, &key, on.then_some(b"on".as_slice())))
            .await;
        noted.is_ok()
    }

    /// Asserts every light that should be on, and every one this node knows of.
    async fn assert_all(&mut self) -> bool {
        let mut known: Vec<_> = self.shown.keys().cloned().collect();
        let mut cursor: Option<String> = None;
        loop {
            let from = cursor.take();
            let page = self
                .app
                .store(move |s| s.mailboxes(from.as_deref(), PAGE))
                .await;
            let Ok(page) = page else { return false };
            for mailbox in &page.items {
                let lit = mailbox.counts.new > 0 || self.shown.contains_key(&mailbox.extension);
                if lit && !self.indicate(mailbox, true).await {
                    return false;
                }
            }
            known.retain(|ext| !page.items.iter().any(|m| m.extension == *ext));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        // Those that are no longer there.
        for ext in known {
            if !self.look_at(&ext).await {
                return false;
            }
        }
        true
    }
}
