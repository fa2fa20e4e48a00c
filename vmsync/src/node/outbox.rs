//! The tasks that mail to the peer. The *packer* turns each plan of the session into a mail: reads
//! the store, encodes, signs. The *courier* (`courier.rs`) hands the mails over in that order and
//! tells what became of each. While one mail is on its way the next is being put together.
//!
//! A plan that is cut off at any point is simply planned again: the receiver skips what it holds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use vmsync_config::Config;
use vmsync_core::{
    sync::{Blame, Load, Plan, Ticket},
    wire::{Addresses, NODE_MAILBOX, Transfer},
};

use crate::{
    app::App,
    clock,
    exchange::{self, Content, Letterhead},
    smtp::{PeerSender, Timeouts},
};

/// Mails that are ready and wait for the courier.
pub(super) const READY: usize = 1;

/// What came of a plan.
pub(super) enum Sent {
    /// This is in a mail that is about to go out.
    Packed { ticket: Ticket, load: Load },
    /// 250: durable at the peer.
    Taken {
        ticket: Ticket,
        bytes: u64,
        released: Vec<String>,
        took: Duration,
    },
    /// Not taken.
    Failed {
        ticket: Ticket,
        blame: Blame,
        why: String,
    },
}

/// A mail that is ready to go.
pub(super) struct Letter {
    pub(super) ticket: Ticket,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) mail: Bytes,
    /// Bytes of it are not 7-bit lines (BINARYMIME).
    pub(super) binary: bool,
    /// Entities it releases from quarantine.
    pub(super) released: Vec<String>,
    /// When it was planned, monotonic.
    pub(super) begun: Duration,
}

/// The packing task.
pub(super) struct Packer {
    pub(super) app: Arc<App>,
    pub(super) plans: mpsc::Receiver<Plan>,
    pub(super) letters: mpsc::Sender<Letter>,
    pub(super) out: mpsc::Sender<Sent>,
    /// Whether the peer's receiver takes BINARYMIME; kept by the courier.
    pub(super) binary: Arc<AtomicBool>,
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

impl Packer {
    /// Packs until stopped, or nobody plans any more.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let plan = tokio::select! {
                () = stop.cancelled() => return,
                plan = self.plans.recv() => plan,
            };
            let Some(plan) = plan else { return };
            let ticket = plan.ticket;
            let told = match self.letter(plan).await {
                Ok(letter) => self.letters.send(letter).await.is_ok(),
                Err((blame, why)) => {
                    let failed = Sent::Failed { ticket, blame, why };
                    self.out.send(failed).await.is_ok()
                }
            };
            if !told {
                return;
            }
        }
    }

    async fn letter(&mut self, plan: Plan) -> Result<Letter, (Blame, String)> {
        let begun = clock::now().mono;
        let blame = exchange::blame_unread(&plan.kind);
        let here = |e: &dyn std::fmt::Display| (blame, format!("at this node: {e}"));
        let (asked, minor) = (plan.clone(), plan.minor);
        let read = self.app.store(move |store| Content::gather(store, &asked));
        let content = read.await.map_err(|e| here(&e))?;
        let (ticket, load) = (plan.ticket, content.load().clone());
        let released = content.released().to_vec();
        let _ = self.out.send(Sent::Packed { ticket, load }).await;
        let binary = minor >= 1 && self.binary.load(Ordering::Relaxed);
        let mail = self
            .encode(plan, content, binary)
            .await
            .map_err(|e| (Blame::Content, format!("at this node: {e}")))?;
        let Addresses { from, to } = self.addresses();
        Ok(Letter {
            ticket,
            from,
            to,
            mail,
            binary,
            released,
            begun,
        })
    }

    /// Encoding and signing megabytes is work for a blocking thread.
    async fn encode(&self, plan: Plan, content: Content, binary: bool) -> Result<Bytes, String> {
        let (to, addresses) = (self.app.config.pair.peer_id.clone(), self.addresses());
        let keys = self.app.keys.clone();
        let transfer = if binary {
            Transfer::Binary
        } else {
            Transfer::Base64
        };
        tokio::task::spawn_blocking(move || {
            let letterhead = Letterhead {
                id: uuid::Uuid::now_v7(),
                to,
                sent_at: clock::wall(),
                addresses: &addresses,
                transfer,
            };
            content.encode(&plan, letterhead, &keys)
        })
        .await
        .map_err(|e| e.to_string())?
        .map(Bytes::from)
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
