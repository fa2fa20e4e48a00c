//! The listener: how many connections, how long each may be silent, and how it ends.
//!
//! Order of a stop: no new connection is taken; idle ones close; running requests get
//! [`GRACE`] to end (event streams end at once); what is left then is dropped. Everything that was
//! acknowledged before is durable, so dropping loses nothing.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::Extension, middleware::from_fn};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{body, stall::Stall};
use crate::app::App;

/// Time for a request's head, and longest idle time of a connection.
const HEAD: Duration = Duration::from_secs(30);
/// Longest time a client may leave an answer unread.
const STALLED: Duration = Duration::from_secs(30);
/// Time for running requests once the node stops.
pub const GRACE: Duration = Duration::from_secs(5);
/// Largest request head, bytes.
const HEAD_BYTES: usize = 64 * 1024;

/// Told to long answers, so that they end when the node stops.
#[derive(Clone, Default)]
pub(super) struct Stopping(pub(super) CancellationToken);

/// Time-outs of a connection; [`Default`] is what a node runs with.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a request's head, and between two requests.
    pub head: Duration,
    /// For a client that does not read its answer.
    pub stalled: Duration,
    /// For a request's body.
    pub body: body::Timeouts,
    /// For running requests once the node stops.
    pub grace: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            head: HEAD,
            stalled: STALLED,
            body: body::Timeouts::default(),
            grace: GRACE,
        }
    }
}

/// Serves `app` on `listener` until `stop`; at most `limits.http_connections` at once.
pub async fn serve(listener: TcpListener, app: Arc<App>, stop: CancellationToken) {
    let most = app.config.limits.http_connections;
    let router = super::router(app);
    serve_router(listener, router, most, Patience::default(), stop).await;
}

/// Serves `router` on `listener` until `stop`: [`serve`] with its parts in the open.
pub async fn serve_router(
    listener: TcpListener,
    router: Router,
    connections: usize,
    patience: Patience,
    stop: CancellationToken,
) {
    let router = router
        .layer(from_fn(body::guard))
        .layer(Extension(patience.body))
        .layer(Extension(Stopping(stop.clone())));
    let room = Arc::new(Semaphore::new(connections.max(1)));
    let running = TaskTracker::new();
    loop {
        // Room first: beyond the limit connections wait in the kernel's bounded queue.
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = stop.cancelled() => break,
        };
        match (permit, accepted) {
            (Ok(permit), Ok((stream, _))) => {
                let one = connection(stream, router.clone(), patience, stop.clone(), permit);
                running.spawn(one);
            }
            (_, Err(error)) => {
                // Out of file descriptors, mostly: spinning would not free any.
                tracing::warn!(%error, "a connection could not be taken");
                sleep(Duration::from_millis(100)).await;
            }
            (Err(_), _) => break,
        }
    }
    drop(listener);
    running.close();
    running.wait().await;
}

async fn connection(
    stream: TcpStream,
    router: Router,
    patience: Patience,
    stop: CancellationToken,
    _room: OwnedSemaphorePermit,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let service = TowerToHyperService::new(router);
    let io = TokioIo::new(Stall::new(stream, patience.stalled));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(io, service);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => Some(ended),
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            timeout(patience.grace, served.as_mut()).await.ok()
        }
    };
    if let Some(Err(error)) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}
