//! The session toward the peer, fed from the store and from what became of our mails.

use std::time::Duration;

use vmsync_config::{show_duration, words::Now};
use vmsync_core::{
    sync::{Blame, Event as SyncEvent},
    wire::Left,
};
use vmsync_store::EntityKey;

use super::{Node, outbox::Sent, proof};
use crate::{agreed::Agreed, alarms::INDEX_REBUILT, exchange};

const DIVERGED: &str = "both nodes hold the same operations but not the same state; keep both data folders and report it";

/// A mail of this many bytes is part of a backlog.
const BULK: u64 = 1024 * 1024;

const STORE_FAILED: &str = "store_failed";
/// Ended apart from [`STORE_FAILED`]: a store that can be read may still not take this.
const NOT_SETTLED: &str = "not_settled";

/// From so many origins on there is an alarm.
const MANY_ORIGINS: usize = 500;

/// Origins are never given up: each names operations for good.
fn origins_alarm(count: usize) -> Option<String> {
    let most = vmsync_store::MAX_ORIGINS;
    (count >= MANY_ORIGINS).then(|| {
        format!(
            "the pair's vector has {count} origins; from {most} on a node that lacks much is not filled in any more. One is added for good by each start of a node that takes something while it can't reach its peer: see that the nodes start within reach of one another, and report it"
        )
    })
}

impl Node {
    /// What the store says of itself beside its content: raised and ended in this one place.
    fn store_alarms(&self, ahead_ms: u64, free: u64) {
        let (alarms, config) = (&self.app.alarms, &self.app.config);
        let (me, peer) = (self.me().as_str(), config.pair.peer_id.as_str());
        alarms.clear(STORE_FAILED, me);
        let reserve = config.limits.min_free_bytes;
        if free < reserve {
            let text = format!(
                "{free} bytes are free where {} is, {reserve} are kept in reserve (limits.min_free_bytes): nothing new is taken; free some space",
                config.node.data_dir.display()
            );
            alarms.raise("disk_full", me, &text);
        } else {
            alarms.clear("disk_full", me);
        }
        if ahead_ms > vmsync_store::MAX_CLOCK_AHEAD_MS {
            let text = format!(
                "the clock of {peer} is {} s ahead of ours: set the clocks of both nodes (NTP); until then its changes win over ours",
                ahead_ms / 1000
            );
            alarms.raise("clock_ahead", peer, &text);
        } else {
            alarms.clear("clock_ahead", peer);
        }
    }

    /// Raised while mails don't get through to a peer that is there, whatever the reason.
    pub(super) fn stall_alarm(&self, now: Now) {
        let peer = self.app.config.pair.peer_id.as_str();
        let stalled = self.session.outgoing(now.mono).stalled;
        match stalled.filter(|_| self.peer.visible()) {
            Some((_, why)) => {
                let text = format!("mails to {peer} don't get through: {why}");
                self.app.alarms.raise("sync_stalled", peer, &text);
            }
            None => self.app.alarms.clear("sync_stalled", peer),
        }
    }

    pub(super) async fn sent(&mut self, sent: Sent, now: Now) {
        match sent {
            Sent::Packed { ticket, load } => self.session.packed(ticket, load, now.mono),
            Sent::Taken {
                ticket,
                bytes,
                released,
                took,
            } => {
                self.session.sent(ticket, now);
                self.rest_for_calls(bytes, took, now);
                self.released(&released).await;
                self.app
                    .alarms
                    .clear("sync_refused", self.app.config.pair.peer_id.as_str());
            }
            Sent::Failed { ticket, blame, why } => {
                tracing::debug!(%why, ?blame, "a mail to the peer was not taken");
                if blame == Blame::Setup {
                    let peer = self.app.config.pair.peer_id.as_str();
                    self.app.alarms.raise(
                        "sync_refused",
                        peer,
                        &format!("{peer} refuses our mails: {why}"),
                    );
                }
                self.session.failed(ticket, now, blame, &why);
            }
        }
    }

    /// A backlog leaves half of the time to calls while there are any: it rests as long as it took.
    fn rest_for_calls(&mut self, bytes: u64, took: Duration, now: Now) {
        if bytes >= BULK && self.app.calls.active() > 0 {
            self.session.rest(now.mono.saturating_add(took));
        }
    }

    /// The peer holds the records of these entities: they are quarantined no longer.
    async fn released(&mut self, entities: &[String]) {
        if entities.is_empty() {
            return;
        }
        let keys = entities.iter().cloned().map(EntityKey::try_from);
        let keys: Vec<_> = keys.filter_map(Result::ok).collect();
        if let Err(error) = self.app.store(move |s| s.release(&keys)).await {
            tracing::warn!(%error, "a quarantine could not be ended here; tried again later");
        }
    }

    /// Takes over what the last heartbeat brought.
    pub(super) async fn adopt_told(&mut self) {
        let theirs = std::mem::take(&mut self.progress.to_adopt);
        // Heard means adopted where it won, durably: a node that can't keep what its peer told
        // must not go on serving what it owned before.
        if !theirs.is_empty() && self.adopt(&theirs).await && self.remember().await {
            self.startup.heard();
        }
    }

    /// Tells the session what is durable now, and takes over what a heartbeat brought.
    pub(super) async fn refresh_store(&mut self, now: Now) {
        self.adopt_told().await;
        let configured = self.app.config.failback.clone();
        self.learn_what_the_peer_holds();
        let peer_have = self.progress.peer.have().clone();
        let read = self
            .app
            .store(move |store| {
                let settings = Agreed::read(&configured, &store.settings()?);
                let free = vmsync_store::free_bytes(&store.dir()).unwrap_or(u64::MAX);
                let facts = (store.origin(), store.seen(), store.clock_ahead_ms(), free);
                let local = exchange::local(store);
                let backlog = store.backlog(&peer_have)?;
                let troubles = (proof::left_out(store), store.audio_fault_counts());
                Ok((local, store.totals()?, settings, facts, backlog, troubles))
            })
            .await;
        match read {
            Ok((local, totals, agreed, (origin, seen, ahead_ms, free), backlog, troubles)) => {
                self.progress.origin = Some(origin);
                self.progress.seen = seen;
                self.store_alarms(self.peer.clock_ahead_ms(ahead_ms, now), free);
                self.progress.digest.clone_from(&local.digest);
                self.progress.have.clone_from(&local.have);
                (self.progress.left_out, self.progress.audio_faults) = troubles;
                self.quarantine_alarm();
                self.audio_alarm();
                let me = self.me().as_str();
                match origins_alarm(self.progress.have.iter().count()) {
                    Some(text) => self.app.alarms.raise("many_origins", me, &text),
                    None => self.app.alarms.clear("many_origins", me),
                }
                self.progress.backlog = backlog;
                self.session.left(Left {
                    operations: backlog.operations,
                    bytes: backlog.bytes,
                });
                self.progress.totals = totals;
                self.agree(agreed).await;
                self.session.local(local, now);
            }
            Err(error) => {
                self.app.alarms.raise(
                    STORE_FAILED,
                    self.app.config.node.id.as_str(),
                    &error.to_string(),
                );
            }
        }
    }

    fn quarantine_alarm(&self) {
        let (me, count) = (self.me().as_str(), self.progress.left_out.count);
        if count == 0 {
            self.app.alarms.clear("quarantined", me);
            return;
        }
        let text = format!(
            "{count} entities are quarantined: an operation about each could not be sent or taken and was left behind; everything else is synchronised. See `quarantine` in GET /api/v1/sync for which and why; they are tried again each hour, and at POST /api/v1/sync/resync"
        );
        self.app.alarms.raise("quarantined", me, &text);
    }

    /// Raised while no probe comes back from a peer that is there.
    pub(super) fn probe_alarm(&self, now: Now) {
        let (peer, every) = (
            self.app.config.pair.peer_id.as_str(),
            self.app.config.pair.probe,
        );
        let patience = every.saturating_mul(3);
        let seen = self.peer.sight().ok();
        let age = self.session.probe(now.mono).out_age;
        let since_seen = seen.map(|at| now.mono.saturating_sub(at));
        let late =
            since_seen.is_some_and(|seen| seen > patience && age.is_none_or(|a| a > patience));
        if late {
            let text = format!(
                "no probe mailed to {peer} has come back for {} (one goes out every {}): mail between the nodes does not get through end to end although heartbeats do",
                show_duration(age.unwrap_or(patience)),
                show_duration(every)
            );
            self.app.alarms.raise("probe_late", peer, &text);
        } else {
            self.app.alarms.clear("probe_late", peer);
        }
    }

    pub(super) async fn sync_events(&mut self, now: Now) {
        let peer = self.app.config.pair.peer_id.to_string();
        while let Some(event) = self.session.next_event() {
            let what = match event {
                SyncEvent::Started { ours, theirs } => {
                    self.met(ours, theirs, now).await;
                    tracing::info!(%peer, "synchronisation started: both have exchanged what they hold");
                    "started"
                }
                SyncEvent::Finished => {
                    self.app.alarms.clear("diverged", &peer);
                    // What was lost with the old copy is here again.
                    self.app.alarms.clear_all("restored");
                    self.equal_again(now);
                    self.filled_in().await;
                    "finished"
                }
                SyncEvent::Diverged => {
                    self.app.alarms.raise("diverged", &peer, DIVERGED);
                    "diverged"
                }
                SyncEvent::Skipping { origin, seq, why } => {
                    tracing::warn!(%origin, seq, %why, "an operation the peer refuses is being skipped");
                    "skipping"
                }
                SyncEvent::Seeding { upto } => {
                    tracing::info!(%peer, ?upto, "the peer lacks what the log no longer has: it is sent the state");
                    "seeding"
                }
                SyncEvent::PeerKnowsMore {
                    origin,
                    held,
                    theirs,
                } => {
                    let origin = origin.to_string();
                    self.new_incarnation(&origin, held, theirs).await;
                    "restored"
                }
            };
            let data = serde_json::json!({"peer": peer, "what": what});
            self.app.events.publish("sync", data);
        }
    }

    /// Whatever an index made anew lacked has come from the peer.
    async fn filled_in(&self) {
        self.app.alarms.clear_all(INDEX_REBUILT);
        let forgotten = self.app.store(|store| match store.rebuilt()? {
            Some(_) => store.forget_rebuilt(),
            None => Ok(()),
        });
        if let Err(error) = forgotten.await {
            tracing::warn!(%error, "the report of the rebuild stays: it is told again at the next start");
        }
    }

    /// This store was restored from an old copy: its sequence numbers must not be used twice.
    async fn new_incarnation(&mut self, origin: &str, held: u64, theirs: u64) -> bool {
        let text = match self.app.store(vmsync_store::Store::new_incarnation).await {
            Ok(next) => {
                let text = format!(
                    "the peer holds operations up to {theirs} of {origin}, this store only up to {held}: it was restored from an old copy; it goes on as {next} and gets back from the peer what it lost"
                );
                self.session.rename(next);
                Ok(text)
            }
            Err(error) => Err(format!("no new incarnation: {error}")),
        };
        let (Ok(words) | Err(words)) = &text;
        self.app.alarms.raise("restored", origin, words);
        text.is_ok()
    }

    /// Settles, before anything is written here, that no sequence number can be used twice. A store
    /// restored from an old copy does not know that it is one; but its peer knows better, and where
    /// the peer can't be asked, a new incarnation is always safe. False when it could not be settled.
    pub(super) async fn remember(&mut self) -> bool {
        if self.remembers {
            return true;
        }
        let read = self
            .app
            .store(|store| Ok((store.origin(), store.have())))
            .await;
        let Ok((origin, have)) = read else {
            return false;
        };
        let held = have.get(&origin);
        let known = self.peer.report.as_ref().map(|r| r.knows(&origin));
        self.remembers = match known {
            _ if !exchange::must_begin_anew(held, known) => true,
            Some(theirs) if theirs > held => {
                self.new_incarnation(&origin.to_string(), held, theirs)
                    .await
            }
            _ => self.begin_anew(&origin.to_string()).await,
        };
        if self.remembers {
            self.app.alarms.clear(NOT_SETTLED, self.me().as_str());
        }
        self.remembers
    }

    async fn begin_anew(&mut self, origin: &str) -> bool {
        match self.app.store(vmsync_store::Store::new_incarnation).await {
            Ok(next) => {
                tracing::info!(%origin, %next, "the peer does not know what this store holds, or can't be asked: a new incarnation");
                self.session.rename(next);
                true
            }
            Err(error) => {
                let text = format!("{error}; nothing is taken before that works");
                self.app
                    .alarms
                    .raise(NOT_SETTLED, self.me().as_str(), &text);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_before_there_are_too_many_origins_somebody_is_told() {
        assert_eq!(origins_alarm(499), None);
        let text = origins_alarm(500).unwrap();
        assert!(text.contains("500 origins; from 1000 on"), "{text}");
    }
}
