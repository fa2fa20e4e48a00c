//! Call flows over HTTP: read, check, make live, remove (R-CF-4, R-CF-5).
//!
//! What is put is checked first and refused with every error, each as file:line:column; what passes
//! is live at once for new calls, here and, replicated, at the peer. A running call stays with the
//! text it began with. Either node takes it: edits apart are settled by the conflict rule (R-CF-6),
//! and the one that lost is under `versions`.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use vmsync_callflows::{Flow, FlowError, MAX_SOURCE, check, is_flow_name};
use vmsync_config::words::UnixMillis;
use vmsync_store::Stamp;

use super::{
    body,
    extract::{Path, Query},
    list::{Listed, Paging, limit},
    messages::blocking,
    problem::{Code, Problem, ProblemBody},
    serving::settled,
};
use crate::{
    app::App,
    calls::flows::{names, sources},
};

/// Where the source is from.
const FROM: HeaderName = HeaderName::from_static("callflow-from");
const TOML: &str = "application/toml";

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(read, put, remove))
        .routes(routes!(versions))
        .routes(routes!(try_out))
}

/// A call flow in a list.
#[derive(Debug, Serialize, ToSchema)]
struct Listing {
    /// Its name.
    name: String,
    /// `live` (made live over HTTP, the same on both nodes), `folder` (this node's) or `built-in`.
    from: &'static str,
}

/// All call flows, by name.
#[utoipa::path(
    get, path = "/callflows", tag = "callflows",
    params(Paging),
    responses((status = 200, body = Listed<Listing>))
)]
async fn list(
    State(app): State<Arc<App>>,
    Query(paging): Query<Paging>,
) -> Result<axum::Json<Listed<Listing>>, Problem> {
    let most = limit(paging.limit)?;
    let dir = app.config.callflows.dir.clone();
    let all = app.store(move |s| names(s, &dir)).await?;
    let after = all
        .into_iter()
        .filter(|(name, _)| paging.cursor.as_ref().is_none_or(|last| name > last));
    let mut items: Vec<Listing> = after
        .take(most + 1)
        .map(|(name, from)| Listing {
            name,
            from: from.as_str(),
        })
        .collect();
    let more = items.len() > most;
    items.truncate(most);
    let next = items.last().filter(|_| more).map(|item| item.name.clone());
    Ok(axum::Json(Listed { items, next }))
}

/// A call flow's source: the one that new calls walk through.
#[utoipa::path(
    get, path = "/callflows/{name}", tag = "callflows",
    params(("name" = String, Path, description = "`leave`, `collect`, or another flow's name")),
    responses((status = 200, body = String, content_type = "application/toml", headers(("Callflow-From" = String))))
)]
async fn read(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Response, Problem> {
    named(&name)?;
    let dir = app.config.callflows.dir.clone();
    let wanted = name.clone();
    let found = app.store(move |s| sources(s, &dir, &wanted)).await?;
    let source = found
        .into_iter()
        .next()
        .ok_or_else(|| Problem::not_found(format_args!("call flow {name}")))?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(TOML)),
        (FROM, HeaderValue::from_static(source.from.as_str())),
    ];
    Ok((headers, source.text).into_response())
}

/// A call flow that passed the check.
#[derive(Debug, Serialize, ToSchema)]
struct Checked {
    /// Its name.
    name: String,
    /// How many nodes it has.
    nodes: usize,
    /// When it was made live, RFC 3339; null where it was only checked.
    #[schema(value_type = Option<String>)]
    live_since: Option<UnixMillis>,
}

/// Makes a call flow live on both nodes; the body is its TOML source.
#[utoipa::path(
    put, path = "/callflows/{name}", tag = "callflows",
    params(("name" = String, Path)),
    request_body(content = String, content_type = "application/toml"),
    responses(
        (status = 200, body = Checked),
        (status = 422, description = "`errors` holds every one: `file`, `line`, `column`, `message`; what was live goes on", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn put(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<axum::Json<Checked>, Problem> {
    named(&name)?;
    settled(&app)?;
    let source = body::read(request, MAX_SOURCE as u64).await?;
    let live = blocking(&app, move |store| {
        let flow = checked(&source, &name)?;
        // `checked` has seen that it is UTF-8.
        let live = store.set_flow(&name, &String::from_utf8_lossy(&source))?;
        Ok(Checked {
            nodes: flow.nodes().len(),
            name,
            live_since: Some(live.stamp.at.wall),
        })
    });
    Ok(axum::Json(live.await?))
}

/// Takes a live call flow away on both nodes; the folder's, or the built-in one, counts again.
#[utoipa::path(
    delete, path = "/callflows/{name}", tag = "callflows",
    params(("name" = String, Path)),
    responses((status = 204))
)]
async fn remove(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    named(&name)?;
    settled(&app)?;
    app.store(move |s| s.remove_flow(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// One text of a call flow.
#[derive(Debug, Serialize, ToSchema)]
struct Version {
    /// `live`, or `conflict`: made live on the other node at the same time, and not taken.
    state: &'static str,
    /// When it was made live, RFC 3339; null where that is not kept.
    #[schema(value_type = Option<String>)]
    at: Option<UnixMillis>,
    /// The node that made it live; null where that is not kept.
    node: Option<String>,
    /// TOML.
    source: String,
}

/// The live text of a call flow, and those that lost a conflict (R-CF-6), newest first.
#[utoipa::path(
    get, path = "/callflows/{name}/versions", tag = "callflows",
    params(("name" = String, Path)),
    responses((status = 200, body = Listed<Version>))
)]
async fn versions(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<axum::Json<Listed<Version>>, Problem> {
    named(&name)?;
    let wanted = name.clone();
    let flow = app.store(move |s| s.flow(&wanted)).await?;
    let flow = flow.ok_or_else(|| {
        Problem::new(
            Code::NotFound,
            format!(
                "no call flow {name} was made live; GET /api/v1/callflows/{name} shows what is used"
            ),
        )
    })?;
    let Stamp { at, origin, .. } = flow.stamp;
    let live = Version {
        state: "live",
        at: Some(at.wall),
        node: Some(origin.node.to_string()),
        source: flow.source,
    };
    let lost = flow.conflicts.into_iter().map(|source| Version {
        state: "conflict",
        at: None,
        node: None,
        source,
    });
    let items = std::iter::once(live).chain(lost).collect();
    Ok(axum::Json(Listed { items, next: None }))
}

/// What a source is checked as.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct As {
    /// The flow's name; default `callflow`.
    name: Option<String>,
}

/// Checks a call flow without making it live; the body is its TOML source.
#[utoipa::path(
    post, path = "/callflows/check", tag = "callflows",
    params(As),
    request_body(content = String, content_type = "application/toml"),
    responses(
        (status = 200, body = Checked),
        (status = 422, description = "`errors` holds every one: `file`, `line`, `column`, `message`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn try_out(Query(like): Query<As>, request: Request) -> Result<axum::Json<Checked>, Problem> {
    let name = like.name.unwrap_or_else(|| "callflow".to_owned());
    named(&name)?;
    let source = body::read(request, MAX_SOURCE as u64).await?;
    let flow = checked(&source, &name)?;
    Ok(axum::Json(Checked {
        name,
        nodes: flow.nodes().len(),
        live_since: None,
    }))
}

fn checked(source: &[u8], name: &str) -> Result<Flow, Problem> {
    check(source, &format!("{name}.toml")).map_err(|errors| with_errors(&errors))
}

/// The answer to a call flow with errors: all of them, and the first ones in words.
pub(super) fn with_errors(errors: &[FlowError]) -> Problem {
    let lines: Vec<String> = errors.iter().take(5).map(ToString::to_string).collect();
    let more = errors.len().saturating_sub(lines.len());
    let and = if more > 0 {
        format!("; and {more} more")
    } else {
        String::new()
    };
    let list = serde_json::to_value(errors).unwrap_or_default();
    Problem::invalid(format!("{}{and}", lines.join("; "))).with("errors", list)
}

fn named(name: &str) -> Result<(), Problem> {
    if is_flow_name(name) {
        return Ok(());
    }
    Err(Problem::invalid(
        "a call flow's name is 1 to 63 lower-case letters, digits, underscores or inner hyphens",
    ))
}
