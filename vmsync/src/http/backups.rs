//! Backups of this node, in the folder its configuration names (`node.backup_dir`): a token can ask
//! for one, but not choose where it goes.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Extension as Layer, State},
    http::StatusCode,
};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract,
    problem::{Code, Problem},
};
use crate::{
    app::App,
    backups::{BackupList, Backups, NotBegun},
};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list, begin))
}

/// How a backup is made.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Wish {
    /// Afterwards remove all but the newest so many, 1 to 1000; without it none is removed.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1000)]
    keep: Option<usize>,
}

/// Backups of this node, and the one under way.
#[utoipa::path(
    get, path = "/store/backups", tag = "store",
    responses((status = 200, body = BackupList))
)]
async fn list(
    State(app): State<Arc<App>>,
    Layer(backups): Layer<Arc<Backups>>,
) -> Result<Json<BackupList>, Problem> {
    Ok(Json(backups.list(&app).await?))
}

/// Begins a backup of this node, while it goes on serving.
#[utoipa::path(
    post, path = "/store/backups", tag = "store",
    request_body = Wish,
    responses((status = 202, body = BackupList, description = "Begun; GET tells how far it is"))
)]
async fn begin(
    State(app): State<Arc<App>>,
    Layer(backups): Layer<Arc<Backups>>,
    wish: Option<extract::Json<Wish>>,
) -> Result<(StatusCode, Json<BackupList>), Problem> {
    let wish = wish.map(|extract::Json(wish)| wish).unwrap_or_default();
    if wish.keep.is_some_and(|n| !(1..=1000).contains(&n)) {
        return Err(Problem::invalid("keep: 1 to 1000 backups"));
    }
    backups.begin(&app, wish.keep)?;
    Ok((StatusCode::ACCEPTED, Json(backups.list(&app).await?)))
}

impl From<NotBegun> for Problem {
    fn from(error: NotBegun) -> Self {
        match error {
            NotBegun::Store(error) => error.into(),
            other => Self::new(Code::Conflict, other.to_string()),
        }
    }
}
