//! The task that mails to the peer: one plan of the session at a time, packed from the store,
//! encoded, sent, and its outcome told back. A plan that is cut off at any point is simply planned
//! again: the receiver skips what it holds.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use vmsync_config::{
    Config,
    words::{Origin, Vector},
};
use vmsync_core::{
    sync::{Kind, Plan, Ticket},
    wire::{self, Addresses, Form, Mail, NODE_MAILBOX},
};

use super::packing::{self, Packed};
use crate::{
    app::App,
    clock,
    smtp::{PeerSender, SendErrorKind, Timeouts},
};

/// What came of a plan.
pub(super) enum Sent {
    /// These operations are in a mail that is about to go out.
    Packed { ticket: Ticket, upto: Vector },
    /// 250: durable at the peer.
    Taken {
        ticket: Ticket,
        operations: u64,
        took: Duration,
    },
    /// Not taken.
    Failed {
        ticket: Ticket,
        temporary: bool,
        why: String,
    },
}

/// The sending task.
pub(super) struct Outbox {
    pub(super) app: Arc<App>,
    pub(super) sender: PeerSender,
    pub(super) plans: mpsc::Receiver<Plan>,
    pub(super) out: mpsc::Sender<Sent>,
    /// Gives up the mail under way.
    pub(super) abandon: Arc<Notify>,
}

/// The connection to the peer's receiver as the first sender entry says (R-SY-2).
pub(super) fn sender(
    config: &Config,
    tls: Option<Arc<rustls::ClientConfig>>,
) -> Result<PeerSender, String> {
    let entry = config.senders.first().ok_or("no [[smtp.sender]] entry")?;
    let tls = match tls {
        None => None,
        Some(tls) => {
            let name = rustls::pki_types::ServerName::try_from(config.pair.peer.to_string())
                .map_err(|e| format!("{}: {e}", config.pair.peer))?;
            Some((tls, name))
        }
    };
    Ok(PeerSender::new(
        &entry.server,
        entry.port,
        tls,
        config.tls.require,
        config.node.fqdn.as_str(),
        Timeouts::default(),
    ))
}

impl Outbox {
    /// Sends until stopped. The mail under way is finished first, within the sender's own limits.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let plan = tokio::select! {
                () = stop.cancelled() => return,
                plan = self.plans.recv() => plan,
            };
            let Some(plan) = plan else { return };
            let ticket = plan.ticket;
            let begun = clock::now().mono;
            let abandon = Arc::clone(&self.abandon);
            let sent = tokio::select! {
                sent = self.send(plan) => sent,
                // The sender drops a connection whose mail is cut off, so no answer is mistaken.
                () = abandon.notified() => Err((true, "the peer went out of sight".to_owned())),
            };
            let outcome = match sent {
                Ok(operations) => {
                    let took = clock::now().mono.saturating_sub(begun);
                    Sent::Taken {
                        ticket,
                        operations,
                        took,
                    }
                }
                Err((temporary, why)) => Sent::Failed {
                    ticket,
                    temporary,
                    why,
                },
            };
            if self.out.send(outcome).await.is_err() {
                return;
            }
        }
    }

    async fn send(&mut self, plan: Plan) -> Result<u64, (bool, String)> {
        let here = |e: &dyn std::fmt::Display| (true, format!("at this node: {e}"));
        let packed = match &plan.kind {
            Kind::Hello | Kind::Status => Packed::default(),
            Kind::Operations { ranges } => {
                let ranges = ranges.clone();
                self.app
                    .store(move |store| packing::pack(store, &ranges))
                    .await
                    .map_err(|e| here(&e))?
            }
        };
        let count = packed.count;
        let upto = packed.upto.clone();
        let _ = self
            .out
            .send(Sent::Packed {
                ticket: plan.ticket,
                upto,
            })
            .await;
        let origin = self
            .app
            .store(|store| Ok(store.origin()))
            .await
            .map_err(|e| here(&e))?;
        let mail = self
            .encode(&plan, origin, packed)
            .await
            .map_err(|e| here(&e))?;
        let Addresses { from, to } = self.addresses();
        self.sender.send(&from, &to, &mail).await.map_err(|e| {
            let temporary = e.kind != SendErrorKind::Permanent;
            (temporary, e.to_string())
        })?;
        Ok(count)
    }

    /// Encoding and signing megabytes is work for a blocking thread.
    async fn encode(&self, plan: &Plan, origin: Origin, packed: Packed) -> Result<Vec<u8>, String> {
        let config = &self.app.config;
        let head = plan.head(
            uuid::Uuid::now_v7(),
            origin,
            config.pair.peer_id.clone(),
            clock::wall(),
        );
        let Packed {
            operations,
            audio,
            voice,
            ..
        } = packed;
        let voices: Vec<_> = audio.iter().map(|_| voice.clone()).collect();
        let mail = Mail {
            operations,
            audio,
            ..Mail::of(head)
        };
        let addresses = self.addresses();
        let keys = self.app.keys.clone();
        tokio::task::spawn_blocking(move || {
            wire::encode(&mail, &voices, &addresses, &keys, Form::default())
        })
        .await
        .map_err(|e| e.to_string())?
        .map_err(|e| e.to_string())
    }

    /// R-SY-3: a blank sender is the node itself at its own mail domain.
    fn addresses(&self) -> Addresses {
        let config = &self.app.config;
        let entry = config.senders.first();
        let domain = entry.map_or(config.node.fqdn.as_str(), |e| e.domain.as_str());
        let from = entry
            .and_then(|e| e.sender.clone())
            .unwrap_or_else(|| format!("{NODE_MAILBOX}@{domain}"));
        Addresses {
            from,
            to: format!("{NODE_MAILBOX}@{}", config.pair.peer),
        }
    }
}
