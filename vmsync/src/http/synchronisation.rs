//! How synchronisation stands: vectors, digests, what is left, and the last certificate (R-SY-5).

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use vmsync_config::words::Vector;

use super::problem::{Code, Problem};
use crate::{
    app::{App, CertificateAnswer},
    status::SyncStatus,
};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(sync))
        .routes(routes!(resync))
        .routes(routes!(certificate))
}

/// Synchronisation in full.
#[derive(Debug, Serialize, ToSchema)]
struct SyncAnswer {
    /// Both directions.
    #[serde(flatten)]
    status: SyncStatus,
    /// This store's origin: node and life.
    origin: String,
    /// What this node holds durably: origin to the number of its last operation.
    have: BTreeMap<String, u64>,
    /// What it held when `digest_now` was taken.
    digest_at: BTreeMap<String, u64>,
    /// Digest of its state, read for this answer.
    digest_now: String,
}

/// Vectors, digests and what is left to exchange.
#[utoipa::path(get, path = "/sync", tag = "watching", responses((status = 200, body = SyncAnswer)))]
async fn sync(State(app): State<Arc<App>>) -> Result<Json<SyncAnswer>, Problem> {
    let (origin, have, (at, digest)) = app
        .store(|s| Ok((s.origin(), s.have(), s.digest())))
        .await?;
    Ok(Json(SyncAnswer {
        status: app.node.status().sync.clone(),
        origin: origin.to_string(),
        have: entries(&have),
        digest_at: entries(&at),
        digest_now: digest.0,
    }))
}

/// Starts the exchange of what both hold anew.
#[utoipa::path(
    post, path = "/sync/resync", tag = "watching",
    responses((status = 202, body = SyncStatus, description = "Begun"))
)]
async fn resync(State(app): State<Arc<App>>) -> (StatusCode, Json<SyncStatus>) {
    app.node.resync().await;
    (StatusCode::ACCEPTED, Json(app.node.status().sync.clone()))
}

/// The last proof that both nodes held the same (architecture decision 5).
#[utoipa::path(
    get, path = "/sync/certificate", tag = "watching",
    responses((status = 200, body = CertificateAnswer))
)]
async fn certificate(State(app): State<Arc<App>>) -> Result<Json<CertificateAnswer>, Problem> {
    let certificate = app.node.certificate().await.ok_or_else(|| {
        Problem::new(Code::Stopping, "the node is stopping; ask the other one").retry_after(1)
    })?;
    Ok(Json(certificate))
}

fn entries(vector: &Vector) -> BTreeMap<String, u64> {
    vector
        .iter()
        .map(|(origin, seq)| (origin.to_string(), seq))
        .collect()
}
