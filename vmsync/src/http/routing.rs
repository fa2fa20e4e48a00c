//! Which node serves a mailbox or a system now (R-FO-6).

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, header},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use vmsync_config::words::{Extension, GroupName};
use vmsync_core::resilience::Serving;

use super::{extract::Query, problem::Problem};
use crate::app::App;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(route))
}

/// About whom; one of the two.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// A mailbox's extension.
    mailbox: Option<String>,
    /// A configured system's name.
    system: Option<String>,
}

/// Who serves it.
#[derive(Debug, Serialize, ToSchema)]
struct Route {
    /// The group it belongs to.
    group: String,
    /// The node that serves it.
    owner: String,
    /// That node's FQDN.
    fqdn: String,
    /// That node's HTTP address.
    url: String,
    /// The node answering this serves it.
    here: bool,
    /// `normal`, `pending`, `resilience` or `returning`.
    phase: String,
    /// Of the group's ownership; a higher one is newer.
    epoch: u64,
    /// Since when, RFC 3339.
    since: String,
    /// Until when at the latest, where that is known (the automatic failback's deadline), RFC 3339.
    until: Option<String>,
}

/// Which node serves a mailbox or a system now.
#[utoipa::path(
    get, path = "/route", tag = "pair",
    params(Wanted),
    responses((status = 200, body = Route))
)]
async fn route(
    State(app): State<Arc<App>>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Json<Route>, Problem> {
    let group = match (wanted.mailbox, wanted.system) {
        (Some(mailbox), None) => group_of_mailbox(&app, &mailbox).await?,
        (None, Some(system)) => group_of_system(&app, &system)?,
        _ => {
            return Err(Problem::invalid(
                "ask for one: ?mailbox=EXTENSION or ?system=NAME",
            ));
        }
    };
    let status = app.node.status();
    let seen = status
        .groups
        .iter()
        .find(|g| g.name == group.as_str())
        .ok_or_else(super::serving::starting)?;
    let serving = app.node.serving(&group);
    if serving == Serving::Starting {
        return Err(super::serving::starting());
    }
    // In a partition the owner can't be reached: who asks here is answered here.
    let here = matches!(serving, Serving::Yes | Serving::YesPartition);
    let (fqdn, url) = if here {
        (&app.config.node.fqdn, own_url(&app, &headers))
    } else {
        (
            &app.config.pair.peer,
            app.config
                .pair
                .peer_url
                .as_str()
                .trim_end_matches('/')
                .to_owned(),
        )
    };
    Ok(Json(Route {
        owner: seen.owner.clone(),
        fqdn: fqdn.to_string(),
        url,
        here,
        phase: seen.phase.clone(),
        epoch: seen.epoch,
        since: seen.since.clone(),
        until: seen.failback.deadline.clone(),
        group: group.into(),
    }))
}

async fn group_of_mailbox(app: &App, text: &str) -> Result<GroupName, Problem> {
    let ext = Extension::new(text)?;
    let wanted = ext.clone();
    let mailbox = app.store(move |s| s.mailbox(&wanted)).await?;
    let mailbox = mailbox.ok_or_else(|| Problem::not_found(format_args!("mailbox {ext}")))?;
    Ok(app.group_of(mailbox.home_system.as_ref().map(AsRef::as_ref)))
}

fn group_of_system(app: &App, name: &str) -> Result<GroupName, Problem> {
    if app.topology().system(name).is_some() {
        Ok(app.group_of(Some(name)))
    } else {
        Err(Problem::not_found(format_args!("system {name:?}")))
    }
}

/// This node as the asker reached it; the configuration knows only where it listens.
fn own_url(app: &App, headers: &HeaderMap) -> String {
    let asked = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    let host = asked.map_or_else(|| app.config.http.listen.to_string(), str::to_owned);
    format!("http://{host}")
}
