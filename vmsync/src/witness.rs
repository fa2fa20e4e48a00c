//! `vmsync witness`: the third party of a pair (docs/resilience.md). It answers that it is there, and
//! knows nothing: no state, no secret, no configuration.

use std::net::SocketAddr;

use axum::{Router, routing::get};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{http, serve::stop_signal};

/// What it answers; for `witness.expect`.
pub(crate) const ANSWER: &str = "vmsync witness\n";
/// Connections at once.
const CONNECTIONS: usize = 256;

/// Answers at `listen` until SIGINT or SIGTERM.
pub(crate) async fn run(listen: SocketAddr) -> Result<(), String> {
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|e| format!("{listen}: {e}; choose another with --listen"))?;
    let bound = listener.local_addr().map_err(|e| e.to_string())?;
    tracing::info!("witness at http://{bound}/");
    let stop = CancellationToken::new();
    let router = Router::new()
        .route("/", get(async || ANSWER))
        .route("/healthz", get(async || ANSWER));
    let patience = http::Patience::default();
    let served = http::serve_router(listener, router, CONNECTIONS, patience, stop.clone());
    tokio::select! {
        () = served => Ok(()),
        signal = stop_signal() => {
            stop.cancel();
            signal.map_err(|e| e.to_string())
        }
    }
}
