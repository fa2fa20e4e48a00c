//! Alarms: the list and its acknowledgement (R-AL-1).

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::{Path, Query},
    list::{Listed, Paging, page_of},
    problem::Problem,
};
use crate::{alarms::Alarm, app::App};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(acknowledge))
}

/// Which alarms.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// `true`: only those not cleared; `false`: only cleared ones; default all.
    active: Option<bool>,
    /// Most items wanted, 1 to 1000; default 100.
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Alarms, oldest first: those that are up and as many of the last as make a thousand and two for each system.
#[utoipa::path(
    get, path = "/alarms", tag = "watching",
    params(Wanted),
    responses((status = 200, body = Listed<Alarm>))
)]
async fn list(
    State(app): State<Arc<App>>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Listed<Alarm>>, Problem> {
    let paging = Paging {
        limit: wanted.limit,
        cursor: wanted.cursor,
    };
    let asked = |a: &&Alarm| {
        let active = wanted.active;
        active.is_none_or(|active| a.cleared.is_none() == active)
    };
    let page = app
        .alarms
        .read(|all| page_of(all.filter(asked), &paging, |a| a.id));
    page.map(Json)
}

/// Acknowledges an alarm; doing it again changes nothing.
#[utoipa::path(
    post, path = "/alarms/{id}/ack", tag = "watching",
    params(("id" = u64, Path)),
    responses((status = 200, body = Alarm))
)]
async fn acknowledge(
    State(app): State<Arc<App>>,
    Path(id): Path<u64>,
) -> Result<Json<Alarm>, Problem> {
    let alarm = app.alarms.acknowledge(id);
    alarm
        .map(Json)
        .ok_or_else(|| Problem::not_found(format_args!("alarm {id}")))
}
