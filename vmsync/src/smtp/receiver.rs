//! The SMTP receiver: accepts connections and keeps each within its limits.
//!
//! Bounded are: connections (`gate`), memory of mails in progress (`room`), mails a minute (`rate`), every wait (the
//! session's deadlines; handshake, answers and the handler have their own), and how long stopping
//! takes. A connection that panics ends alone. Running out of file descriptors delays newcomers.

use std::{io, net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use vmsync_config::Limits;
use vmsync_core::smtp::{Policy, SmtpEvent};

use super::{
    MailHandler,
    connection::{self, Common},
    gate::Gate,
    rate::Rate,
    refusals::Refusals,
    room::Room,
};
use crate::clock;

/// How long mails in progress may take to end once the program stops; what isn't done then is
/// dropped unacknowledged, and its sender keeps it.
const STOP_GRACE: Duration = Duration::from_secs(15);
/// Pause after a failed accept: it is mostly a lack of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// All mails being received together may take this many times the largest one.
const MAILS_AT_ONCE: usize = 4;
/// And the peer's this many times more: one being made durable, one being read ahead.
const MAILS_OF_PEER: usize = 2;

/// Serves `listener` until `stop` is cancelled; then finishes the mails in progress and returns.
///
/// STARTTLS is offered where `tls` is given. Of `limits`, `smtp_connections` counts here; sizes and
/// time-outs of one session are `policy`'s. What is refused is counted in `refusals`.
pub async fn serve(
    listener: TcpListener,
    policy: Policy,
    tls: Option<Arc<ServerConfig>>,
    handler: Arc<dyn MailHandler>,
    limits: &Limits,
    refusals: Arc<Refusals>,
    stop: CancellationToken,
) {
    let largest = usize::try_from(policy.message_bytes).unwrap_or(usize::MAX);
    // Who the peer is can only be shown where it has to be.
    let proof = tls.is_some() && policy.tls_required;
    let common = Arc::new(Common {
        policy: Arc::new(policy),
        tls: tls.map(TlsAcceptor::from),
        handler,
        gate: Gate::new(limits.smtp_connections, proof),
        rate: Rate::default(),
        room: Room::new(
            largest.saturating_mul(MAILS_AT_ONCE),
            largest.saturating_mul(MAILS_OF_PEER),
        ),
        refusals,
        stop: stop.clone(),
    });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => admit(&common, &mut connections, stream, peer),
                Err(e) => pause(&e).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if timeout(STOP_GRACE, all_ended).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "mails still being received were dropped; their senders keep them"
        );
    }
}

/// One failed accept: a client that left at once is nothing; anything else takes a breath.
async fn pause(error: &io::Error) {
    if matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    ) {
        return;
    }
    tracing::warn!(%error, "SMTP connection could not be accepted (file descriptors or memory may be short); going on");
    sleep(ACCEPT_PAUSE).await;
}

fn admit(common: &Arc<Common>, connections: &mut JoinSet<()>, stream: TcpStream, peer: SocketAddr) {
    let pass = match common.gate.enter(peer.ip(), clock::now().mono) {
        Ok(pass) => pass,
        Err(full) => {
            // One try without waiting: a client that is turned away may cost nothing.
            // In the node's name (RFC 5321 section 4.2.2): to its peer that is a sign of life.
            let name = &common.policy.domain;
            let busy = format!("421 {name} too many connections, try again later\r\n");
            let _ = stream.try_write(busy.as_bytes());
            common.event(SmtpEvent::TooManyConnections {
                peer: peer.ip(),
                per_peer: full.per_peer,
            });
            return;
        }
    };
    // Answers are small and each is waited for (Nagle's algorithm would hold them for 40 ms).
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "TCP_NODELAY could not be set");
    }
    let common = Arc::clone(common);
    connections.spawn(async move {
        tracing::debug!(%peer, "SMTP client connected");
        let run = connection::run(Arc::clone(&common), stream, peer, pass);
        if let Ok(ended) = AssertUnwindSafe(run).catch_unwind().await {
            tracing::debug!(%peer, ended, "SMTP connection ended");
        } else {
            tracing::error!(%peer, "internal error while serving an SMTP client; its connection was closed");
            common.event(SmtpEvent::Panicked { peer: peer.ip() });
        }
    });
}
