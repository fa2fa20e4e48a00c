//! Whether this node lives, is ready, and all it knows: `/healthz`, `/readyz`, `/api/v1/status`.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{problem::Problem, serving};
use crate::{app::App, status::Status};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(status))
}

/// The process answers; says nothing of whether it serves.
pub(super) async fn healthz() -> Json<Value> {
    Json(json!({"status": "alive"}))
}

/// 200 once the node knows whom it serves; 503 while it asks its peer.
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    if app.node.status().node.ready {
        Ok(Json(json!({"status": "ready"})))
    } else {
        Err(serving::starting())
    }
}

/// Everything an operator wants to know, in one document.
#[utoipa::path(get, path = "/status", tag = "pair", responses((status = 200, body = Status)))]
async fn status(State(app): State<Arc<App>>) -> Json<Status> {
    Json((*app.node.status()).clone())
}
