//! The session toward the peer, fed from the store and from what became of our mails.

use vmsync_config::words::Now;
use vmsync_core::sync::Event as SyncEvent;

use super::{Node, outbox::Sent};
use crate::{app::CertificateAnswer, http};

const DIVERGED: &str = "both nodes hold the same operations but not the same state; keep both data folders and report it";

impl Node {
    pub(super) fn sent(&mut self, sent: Sent, now: Now) {
        match sent {
            Sent::Packed { ticket, upto } => self.session.packed(ticket, &upto),
            Sent::Taken {
                ticket,
                operations,
                took,
            } => {
                self.progress.taken(operations, took, now);
                self.session.sent(ticket, now);
                self.app
                    .alarms
                    .clear("sync_refused", self.app.config.pair.peer_id.as_str());
            }
            Sent::Failed {
                ticket,
                temporary,
                why,
            } => {
                tracing::debug!(%why, temporary, "a mail to the peer was not taken");
                if !temporary {
                    let peer = self.app.config.pair.peer_id.as_str();
                    self.app.alarms.raise(
                        "sync_refused",
                        peer,
                        &format!("{peer} refuses our mails: {why}"),
                    );
                }
                self.session.failed(ticket, now, temporary, &why);
            }
        }
    }

    /// Tells the session what is durable now, and takes over what a heartbeat brought.
    pub(super) async fn refresh_store(&mut self, now: Now) {
        let theirs = std::mem::take(&mut self.progress.to_adopt);
        if !theirs.is_empty() {
            self.adopt(&theirs, now).await;
            if self.remember().await {
                self.startup.heard();
            }
        }
        let configured = self.app.config.failback.clone();
        let read = self
            .app
            .store(move |store| {
                let settings = http::effective_failback(&configured, &store.settings()?);
                Ok((store.digest(), store.totals()?, settings))
            })
            .await;
        match read {
            Ok(((have, digest), totals, failback)) => {
                self.progress.digest.clone_from(&digest.0);
                self.progress.have.clone_from(&have);
                self.progress.totals = totals;
                self.failback = failback;
                self.session.local(have, digest.0, now);
            }
            Err(error) => {
                self.app.alarms.raise(
                    "store_failed",
                    self.app.config.node.id.as_str(),
                    &error.to_string(),
                );
            }
        }
    }

    pub(super) async fn sync_events(&mut self) {
        let peer = self.app.config.pair.peer_id.to_string();
        while let Some(event) = self.session.next_event() {
            let what = match event {
                SyncEvent::Started => {
                    tracing::info!(%peer, "synchronisation started: both have exchanged what they hold");
                    "started"
                }
                SyncEvent::Finished => {
                    self.app.alarms.clear("diverged", &peer);
                    "finished"
                }
                SyncEvent::Diverged => {
                    self.app.alarms.raise("diverged", &peer, DIVERGED);
                    "diverged"
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

    /// This store was restored from an old copy: its sequence numbers must not be used twice.
    async fn new_incarnation(&mut self, origin: &str, held: u64, theirs: u64) {
        match self.app.store(vmsync_store::Store::new_incarnation).await {
            Ok(next) => {
                self.app.alarms.raise(
                    "restored",
                    origin,
                    &format!("the peer holds operations up to {theirs} of {origin}, this store only up to {held}: it was restored from an old copy; it goes on as {next} and gets back from the peer what it lost"),
                );
                self.session.rename(next);
            }
            Err(error) => {
                self.app
                    .alarms
                    .raise("restored", origin, &format!("no new incarnation: {error}"));
            }
        }
    }

    /// Settles, before anything is written here, that no sequence number can be used twice. A store
    /// restored from an old copy does not know that it is one; but its peer knows better, and where
    /// the peer can't be asked, a new incarnation is always safe. False when it could not be settled.
    pub(super) async fn remember(&mut self) -> bool {
        if self.remembers {
            return true;
        }
        let origin = self.app.store.origin();
        let held = self.app.store.have().get(&origin);
        let theirs = self.peer.report.as_ref().map(|r| r.have.get(&origin));
        match theirs {
            Some(theirs) if theirs > held => {
                self.new_incarnation(&origin.to_string(), held, theirs)
                    .await;
            }
            None if held > 0 => match self.app.store(vmsync_store::Store::new_incarnation).await {
                Ok(next) => {
                    tracing::info!(%origin, %next, "the peer can't be asked what it holds of this store: a new incarnation");
                    self.session.rename(next);
                }
                Err(error) => {
                    tracing::warn!(%error, "no new incarnation: nothing is taken yet");
                    return false;
                }
            },
            _ => {}
        }
        self.remembers =
            theirs.is_none_or(|theirs| theirs <= held) || self.app.store.origin() != origin;
        self.remembers
    }

    pub(super) fn certificate(&self) -> CertificateAnswer {
        let certificate = self.session.certificate();
        CertificateAnswer {
            at: certificate.map(|c| c.at.to_string()),
            digest: certificate.map(|c| c.digest.clone()),
            vector: certificate.map_or(serde_json::Value::Null, |c| {
                serde_json::to_value(&c.vector).unwrap_or_default()
            }),
            equal_now: self.session.finished(),
        }
    }
}
