//! How synchronisation stands: vectors, digests, what is left, and the last certificate (R-SY-5).

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use vmsync_config::words::{UnixMillis, Vector};
use vmsync_store::{AudioFault, Quarantined, Store, StoreError};

use super::problem::{Code, Problem};
use crate::{
    app::{App, CertificateAnswer},
    node::{self, Course},
    status::SyncStatus,
};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(sync))
        .routes(routes!(resync))
        .routes(routes!(certificate))
        .routes(routes!(reports))
        .routes(routes!(check_audio))
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
    /// Up to where the log is kept as state only.
    floor: BTreeMap<String, u64>,
    /// What is quarantined, and why.
    quarantine: Vec<QuarantineView>,
    /// How this node's audio files fare.
    audio: AudioView,
}

/// The audio files: read through once in `limits.audio_check`.
#[derive(Debug, Serialize, ToSchema)]
struct AudioView {
    /// How far the reading has come; none before it began.
    check: Option<Course>,
    /// Files found missing or damaged, until the peer's copies have taken their place.
    faults: Vec<AudioFaultView>,
}

/// A file that is missing or damaged.
#[derive(Debug, Serialize, ToSchema)]
struct AudioFaultView {
    /// `message/UUID` or `greeting/EXTENSION/KIND`.
    entity: String,
    /// The file's id.
    audio: String,
    /// What is wrong with it.
    why: String,
    /// When it was found, RFC 3339.
    #[schema(value_type = String)]
    since: UnixMillis,
}

/// An entity about which an operation could not be sent or taken; everything else goes on.
#[derive(Debug, Serialize, ToSchema)]
struct QuarantineView {
    /// `message/UUID` or the like.
    entity: String,
    /// Where the operation was first recorded.
    origin: String,
    /// Its number there; 0 where it was no operation but the record itself.
    seq: u64,
    /// What is wrong with it.
    why: String,
    /// Since when, RFC 3339.
    #[schema(value_type = String)]
    since: UnixMillis,
}

/// Vectors, digests and what is left to exchange.
#[utoipa::path(get, path = "/sync", tag = "watching", responses((status = 200, body = SyncAnswer)))]
async fn sync(State(app): State<Arc<App>>) -> Result<Json<SyncAnswer>, Problem> {
    let (origin, have, (at, digest), floor, quarantined) = app
        .store(|s| Ok((s.origin(), s.have(), s.digest(), s.floor(), s.quarantined())))
        .await?;
    let audio = app.store(audio).await?;
    let view = |q: Quarantined| QuarantineView {
        entity: q.entity.to_string(),
        origin: q.origin.to_string(),
        seq: q.seq,
        why: q.why,
        since: q.since,
    };
    Ok(Json(SyncAnswer {
        status: app.node.status().sync.clone(),
        origin: origin.to_string(),
        have: entries(&have),
        digest_at: entries(&at),
        digest_now: digest.0,
        floor: entries(&floor),
        quarantine: quarantined.into_iter().map(view).collect(),
        audio,
    }))
}

fn audio(store: &Store) -> Result<AudioView, StoreError> {
    let view = |f: AudioFault| AudioFaultView {
        entity: f.entity.to_string(),
        audio: f.blob.to_string(),
        why: f.why,
        since: f.since,
    };
    Ok(AudioView {
        check: node::course(store)?,
        faults: store.audio_faults().into_iter().map(view).collect(),
    })
}

/// Reads all audio files of this node now and compares each with its SHA-256, little by little;
/// `audio` in `GET /sync` tells how far it is. What is missing or damaged, the peer is asked for.
#[utoipa::path(
    post, path = "/sync/audio-check", tag = "watching",
    responses((status = 202, body = AudioView, description = "Begun"))
)]
async fn check_audio(
    State(app): State<Arc<App>>,
) -> Result<(StatusCode, Json<AudioView>), Problem> {
    app.node.check_audio().await;
    Ok((StatusCode::ACCEPTED, Json(app.store(audio).await?)))
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

/// What reunions came to, newest first: after each time apart, what each side held alone, and of
/// what both had changed, what was kept, what was dropped and why (R-SY-6).
#[utoipa::path(
    get, path = "/sync/reports", tag = "watching",
    responses((status = 200, body = ReportsAnswer))
)]
async fn reports(State(app): State<Arc<App>>) -> Result<Json<ReportsAnswer>, Problem> {
    let items = app.store(node::reports).await?;
    let items = items
        .iter()
        .filter_map(|report| serde_json::to_value(report).ok())
        .collect();
    Ok(Json(ReportsAnswer { items }))
}

/// Reports of reunions.
#[derive(Debug, Serialize, ToSchema)]
struct ReportsAnswer {
    /// The newest hundred: `id`, `met_at`, `equal_at`, `digest`, `here` and `there` (counts of what
    /// each side held alone), `conflicts` (`entity`, `field`, `kept`, `dropped`, `retrievable`,
    /// `because`), `more`, `incomplete`.
    items: Vec<serde_json::Value>,
}

fn entries(vector: &Vector) -> BTreeMap<String, u64> {
    vector
        .iter()
        .map(|(origin, seq)| (origin.to_string(), seq))
        .collect()
}
