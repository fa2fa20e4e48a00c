//! What commits set in motion: the loop looks again, and the event stream tells of messages,
//! mailboxes and message waiting indicators (R-MB-13).
//!
//! An indicator is published by the serving node only, once per change of its counts; all that are
//! on are asserted again when this node begins to serve (start, failover, failback).

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::json;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use vmsync_config::words::{Extension, GroupName};
use vmsync_core::resilience::Serving;
use vmsync_store::{
    Committed, Effect, EntityKey,
    model::{Counts, Mailbox},
};

use crate::app::App;

/// Commits waiting to be told of; beyond it their mailboxes are looked at all together.
const WAITING: usize = 4_096;
/// Mailboxes read at a time when all are asserted.
const PAGE: usize = 500;

/// Starts to watch; the returned notice fires after every durable commit.
pub(super) fn start(app: &Arc<App>, stop: CancellationToken) -> Arc<Notify> {
    let notice = Arc::new(Notify::new());
    let (sender, commits) = mpsc::channel(WAITING);
    let missed = Arc::new(AtomicBool::new(false));
    let (wake, overflow) = (Arc::clone(&notice), Arc::clone(&missed));
    app.store.on_commit(Box::new(move |committed: &Committed| {
        if sender.try_send(committed.clone()).is_err() {
            overflow.store(true, Ordering::Relaxed);
        }
        wake.notify_one();
    }));
    let teller = Teller {
        app: Arc::clone(app),
        shown: HashMap::new(),
        missed,
    };
    tokio::spawn(teller.run(commits, stop));
    notice
}

struct Teller {
    app: Arc<App>,
    /// Counts as last published, of mailboxes whose indicator was published.
    shown: HashMap<Extension, (bool, Counts)>,
    missed: Arc<AtomicBool>,
}

impl Teller {
    async fn run(mut self, mut commits: mpsc::Receiver<Committed>, stop: CancellationToken) {
        let mut status = self.app.node.watch();
        let mut served: Vec<GroupName> = Vec::new();
        loop {
            let now_served = self.served();
            let begins = now_served.iter().any(|g| !served.contains(g));
            served = now_served;
            if begins || self.missed.swap(false, Ordering::Relaxed) {
                self.assert_all().await;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = status.changed() => if changed.is_err() { return },
                commit = commits.recv() => {
                    let Some(commit) = commit else { return };
                    self.tell(&commit).await;
                }
            }
        }
    }

    fn served(&self) -> Vec<GroupName> {
        let groups = self.app.config.groups().into_iter();
        let serving = groups.filter(|g| self.app.node.serving(&g.name) == Serving::Yes);
        serving.map(|g| g.name).collect()
    }

    async fn tell(&mut self, commit: &Committed) {
        for operation in commit.operations.iter() {
            let kind = match &operation.entity {
                EntityKey::Message(_) => "message",
                EntityKey::Mailbox(_) => "mailbox",
                EntityKey::Greeting(..) => "greeting",
                EntityKey::Flow(_) | EntityKey::Setting(_) | EntityKey::Other(_) => continue,
            };
            let fields: Vec<_> = match &operation.effect {
                Effect::Set(fields) => fields.keys().filter(|f| *f != "pin_hash").collect(),
                Effect::Delete => Vec::new(),
            };
            self.app.events.publish(
                kind,
                json!({
                    "entity": operation.entity.to_string(),
                    "deleted": operation.effect == Effect::Delete,
                    "fields": fields,
                    "from_peer": commit.remote,
                }),
            );
        }
        let Some(mailboxes) = &commit.mailboxes else {
            return self.assert_all().await;
        };
        for extension in mailboxes.iter() {
            let ext = extension.clone();
            if let Ok(Some(mailbox)) = self.app.store(move |s| s.mailbox(&ext)).await {
                self.indicate(&mailbox, false);
            }
        }
    }

    /// Publishes the indicator of `mailbox` if its counts changed (or `anew`), where this node serves it.
    fn indicate(&mut self, mailbox: &Mailbox, anew: bool) {
        let system = mailbox
            .home_system
            .as_ref()
            .map(vmsync_config::words::SystemName::as_str);
        if self.app.node.serving(&self.app.group_of(system)) != Serving::Yes {
            self.shown.remove(&mailbox.extension);
            return;
        }
        let shown = (mailbox.counts.new > 0, mailbox.counts);
        let before = self.shown.insert(mailbox.extension.clone(), shown);
        // A mailbox never told of is taken to be dark.
        if anew || before.unwrap_or_default() != shown {
            let Counts {
                new,
                unopened,
                old,
                saved,
                ..
            } = mailbox.counts;
            self.app.events.publish(
                "mwi",
                json!({
                    "mailbox": mailbox.extension, "on": new > 0,
                    "new": new, "unopened": unopened, "old": old, "saved": saved,
                }),
            );
        }
    }

    async fn assert_all(&mut self) {
        let mut cursor: Option<String> = None;
        loop {
            let from = cursor.take();
            let page = self
                .app
                .store(move |s| s.mailboxes(from.as_deref(), PAGE))
                .await;
            let Ok(page) = page else { return };
            for mailbox in &page.items {
                let known = self.shown.contains_key(&mailbox.extension);
                if mailbox.counts.new > 0 || known {
                    self.indicate(mailbox, true);
                }
            }
            cursor = page.next;
            if cursor.is_none() {
                return;
            }
        }
    }
}
