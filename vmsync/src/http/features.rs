//! What PBXs tell of themselves, and the decisions they act on (docs/features.md).

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use vmsync_config::words::SystemName;
use vmsync_core::features::{Feature, Refused, Subject};

use super::{
    extract::{Json, Path, Query},
    list::{Listed, Paging, after, limit, numbered},
    problem::{Problem, ProblemBody},
};
use crate::{
    app::App,
    clock,
    features::{Ask, FeatureStatus, PhoneStatus, SystemStatus, Wanted},
};

/// Systems in one report.
const MOST: usize = 10_000;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(features))
        .routes(routes!(failback))
        .routes(routes!(systems))
        .routes(routes!(alive))
        .routes(routes!(all_alive))
        .routes(routes!(polls))
        .routes(routes!(phones))
}

/// Which features.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Of this system alone, also those that are not backed up.
    system: Option<String>,
    /// `phones`, `users`, `hunt-groups`, `conferences`, `dect`, `dect-master` or `portal` alone.
    feature: Option<String>,
    /// Most items wanted, 1 to 1000; default 100.
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Who serves which feature of which system, since when and why.
///
/// What is decided here a PBX acts on. Every change comes as an event `feature` too, with up to 100
/// of these as `decisions`.
#[utoipa::path(
    get, path = "/features", tag = "features",
    params(Which),
    responses((status = 200, body = Listed<FeatureStatus>))
)]
async fn features(
    State(app): State<Arc<App>>,
    Query(which): Query<Which>,
) -> Result<axum::Json<Listed<FeatureStatus>>, Problem> {
    let system = which
        .system
        .as_deref()
        .map(|s| number(&app, s))
        .transpose()?;
    let feature = which.feature.as_deref().map(named).transpose()?;
    let wanted = Wanted { system, feature };
    let limit = limit(which.limit)?;
    let after = after(which.cursor.as_deref())?;
    let found = app.features.list(wanted, after, limit + 1, clock::now());
    Ok(axum::Json(numbered(found, limit)))
}

/// Conditions of a failback.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Failback {
    /// Only say what would happen.
    #[serde(default)]
    dry_run: bool,
    /// Refuse unless this is the feature's epoch now.
    #[serde(default)]
    expected_epoch: Option<u64>,
}

/// Failback of what does not go home by itself: a manual portal, DECT without *prioritize primary*.
///
/// Either node takes it; the one that decides about the system carries it out, and the other too where
/// it took the feature over while that was away.
#[utoipa::path(
    post, path = "/features/{system}/{feature}/failback", tag = "features",
    params(("system" = String, Path), ("feature" = String, Path)),
    request_body = Failback,
    responses(
        (status = 202, body = FeatureStatus, description = "Done; as it stands now"),
        (status = 200, body = FeatureStatus, description = "Dry run: as it would stand"),
        (status = 409, description = "Refused; `code` and `detail` say why", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn failback(
    State(app): State<Arc<App>>,
    Path((system, feature)): Path<(String, String)>,
    conditions: Option<Json<Failback>>,
) -> Result<(StatusCode, axum::Json<FeatureStatus>), Problem> {
    let conditions = conditions.map(|Json(c)| c).unwrap_or_default();
    let (system, feature) = (SystemName::new(&system)?, named(&feature)?);
    let ask = Ask {
        dry_run: conditions.dry_run,
        expected_epoch: conditions.expected_epoch,
    };
    let done = app
        .features
        .failback_anywhere(&app, &system, feature, ask)
        .await?;
    let status = if ask.dry_run {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    Ok((status, axum::Json(done)))
}

/// All systems: whether they are visible, and where their phones are.
#[utoipa::path(
    get, path = "/systems", tag = "features",
    params(Paging),
    responses((status = 200, body = Listed<SystemStatus>))
)]
async fn systems(
    State(app): State<Arc<App>>,
    Query(paging): Query<Paging>,
) -> Result<axum::Json<Listed<SystemStatus>>, Problem> {
    let limit = limit(paging.limit)?;
    let after = after(paging.cursor.as_deref())?;
    let found = app.features.systems(after, limit + 1, clock::now());
    Ok(axum::Json(numbered(found, limit)))
}

/// A sign of life of a PBX.
///
/// From the first on it is judged by these, not by the node it stands at: send one every
/// `features.invisible_after` / 2 or oftener, to each node that can be reached.
#[utoipa::path(
    post, path = "/systems/{name}/alive", tag = "features",
    params(("name" = String, Path)),
    responses((status = 200, body = SystemStatus))
)]
async fn alive(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<axum::Json<SystemStatus>, Problem> {
    let (name, now) = (SystemName::new(&name)?, clock::now());
    app.features
        .told(&name, Subject::Home, true, now)
        .map_err(problem)?;
    shown(&app, &name)
}

/// Many signs of life at once, of somebody who watches PBXs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Alive {
    /// Names of systems that are alive, at most 10,000.
    systems: Vec<String>,
}

/// What was taken of them.
#[derive(Debug, Serialize, ToSchema)]
struct Taken {
    /// How many.
    taken: usize,
    /// Names that are no system's.
    unknown: Vec<String>,
}

/// Signs of life of many PBXs.
#[utoipa::path(
    post, path = "/systems/alive", tag = "features",
    request_body = Alive,
    responses((status = 200, body = Taken))
)]
async fn all_alive(
    State(app): State<Arc<App>>,
    Json(alive): Json<Alive>,
) -> Result<axum::Json<Taken>, Problem> {
    if alive.systems.len() > MOST {
        return Err(Problem::invalid(format!(
            "systems holds {} names; send at most {MOST} at once",
            alive.systems.len()
        )));
    }
    let now = clock::now();
    let (mut taken, mut unknown) = (0, Vec::new());
    for name in alive.systems {
        let told = SystemName::new(&name)
            .is_ok_and(|name| app.features.told(&name, Subject::Home, true, now).is_ok());
        if told {
            taken += 1;
        } else {
            unknown.push(name);
        }
    }
    Ok(axum::Json(Taken { taken, unknown }))
}

/// Results of polls, each `up` or `down`; what is left out was not polled.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Polls {
    /// The system's DECT, to be told every `features.dect_poll`.
    #[serde(default)]
    dect: Option<Poll>,
    /// The active one of its mirrored DECT masters, to be told when it changes.
    #[serde(default)]
    mirror: Option<Poll>,
    /// Its portal, to be told oftener than `features.portal_detection`.
    #[serde(default)]
    portal: Option<Poll>,
}

/// How a poll went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Poll {
    /// It answered.
    Up,
    /// It did not.
    Down,
}

/// How a system's DECT, DECT master and portal are, as polled by it or by its backup.
#[utoipa::path(
    post, path = "/systems/{name}/polls", tag = "features",
    params(("name" = String, Path)),
    request_body = Polls,
    responses((status = 200, body = SystemStatus))
)]
async fn polls(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Json(polls): Json<Polls>,
) -> Result<axum::Json<SystemStatus>, Problem> {
    let (name, now) = (SystemName::new(&name)?, clock::now());
    let parts = [
        (Subject::Dect, polls.dect),
        (Subject::Mirror, polls.mirror),
        (Subject::Portal, polls.portal),
    ];
    for (subject, poll) in parts {
        if let Some(poll) = poll {
            app.features
                .told(&name, subject, poll == Poll::Up, now)
                .map_err(problem)?;
        }
    }
    shown(&app, &name)
}

/// The phones of a system: where each is, where it may be, and whether it should move.
#[utoipa::path(
    get, path = "/systems/{name}/phones", tag = "features",
    params(("name" = String, Path), Paging),
    responses((status = 200, body = Listed<PhoneStatus>))
)]
async fn phones(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Query(paging): Query<Paging>,
) -> Result<axum::Json<Listed<PhoneStatus>>, Problem> {
    let name = SystemName::new(&name)?;
    let limit = limit(paging.limit)?;
    let after = paging.cursor.as_deref();
    let mut items = app
        .features
        .phones(&name, after, limit + 1, clock::now())
        .map_err(problem)?;
    let more = items.len() > limit;
    items.truncate(limit);
    let last = items.last().map(|p| p.extension.clone());
    let next = last.filter(|_| more);
    Ok(axum::Json(Listed { items, next }))
}

fn shown(app: &App, name: &SystemName) -> Result<axum::Json<SystemStatus>, Problem> {
    let status = app.features.system(name, clock::now());
    let missing = || Problem::not_found(format_args!("system {name}"));
    status.map(axum::Json).ok_or_else(missing)
}

fn number(app: &App, system: &str) -> Result<usize, Problem> {
    let name = SystemName::new(system)?;
    let number = app.features.number(&name);
    number.ok_or_else(|| Problem::not_found(format_args!("system {name}")))
}

fn named(feature: &str) -> Result<Feature, Problem> {
    let names = Feature::ALL.map(Feature::as_str);
    Feature::named(feature).ok_or_else(|| {
        Problem::not_found(format_args!("feature {feature:?}")).with("features", names.to_vec())
    })
}

/// What the tracker refuses, as the node loop's refusals are told.
pub(super) fn problem(refused: Refused) -> Problem {
    crate::app::Refused::from(refused).into()
}
