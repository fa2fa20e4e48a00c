//! Housekeeping (R-MB-9): the last pass, what keeps the next from running, and one now. How long
//! messages are kept in each state stands in the settings.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::problem::{Code, Problem};
use crate::{
    app::App,
    node::{self, Pass},
};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(read, run))
}

/// How housekeeping stands on this node.
#[derive(Debug, Serialize, ToSchema)]
struct HousekeepingAnswer {
    /// The last pass here; none before the first.
    last: Option<Pass>,
    /// What keeps it from running now, in words; empty = nothing.
    waiting_for: Vec<String>,
}

/// The last pass, and what the next waits for. It runs each hour, on the node that serves.
#[utoipa::path(
    get, path = "/housekeeping", tag = "pair",
    responses((status = 200, body = HousekeepingAnswer))
)]
async fn read(State(app): State<Arc<App>>) -> Result<Json<HousekeepingAnswer>, Problem> {
    Ok(Json(answer(&app, false).await?))
}

/// Runs it now, or as soon as nothing speaks against it.
#[utoipa::path(
    post, path = "/housekeeping", tag = "pair",
    responses((status = 202, body = HousekeepingAnswer, description = "Begun, or waits for what it says"))
)]
async fn run(
    State(app): State<Arc<App>>,
) -> Result<(StatusCode, Json<HousekeepingAnswer>), Problem> {
    Ok((StatusCode::ACCEPTED, Json(answer(&app, true).await?)))
}

async fn answer(app: &App, run: bool) -> Result<HousekeepingAnswer, Problem> {
    let last = app.store(node::last_pass).await?;
    let waiting_for = app.node.housekeeping(run).await.ok_or_else(|| {
        Problem::new(Code::Stopping, "the node is stopping; ask the other one").retry_after(1)
    })?;
    Ok(HousekeepingAnswer { last, waiting_for })
}
