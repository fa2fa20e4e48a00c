//! Maintenance mode: automatic failover and failback pause on both nodes; operators' requests do not.

use std::{sync::Arc, time::Duration};

use axum::{Json as Answer, extract::State};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use vmsync_config::{parse_duration, words::UnixMillis};
use vmsync_core::resilience::Maintenance;

use super::{extract::Json, problem::Problem, serving::settled};
use crate::{
    agreed::{Agreed, Ended, MAINTENANCE},
    app::{App, rfc3339},
    clock,
    status::MaintenanceStatus,
};

/// Longest time it may be set for: 30 days.
const MOST: Duration = Duration::from_hours(30 * 24);
/// Longest reason, characters.
const REASON: usize = 200;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(read, begin, end))
}

/// Maintenance mode, on or off.
#[derive(Debug, serde::Serialize, ToSchema)]
struct MaintenanceAnswer {
    /// None: it is off.
    maintenance: Option<MaintenanceStatus>,
}

/// Maintenance mode to begin.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Begin {
    /// Why, at most 200 characters; shown on both nodes and kept in the history.
    #[serde(default)]
    reason: String,
    /// It ends by itself after this time, such as `2h`, at most 30 days; without it an operator ends it.
    #[serde(rename = "for")]
    length: Option<String>,
}

/// Whether maintenance mode is on.
#[utoipa::path(get, path = "/maintenance", tag = "pair", responses((status = 200, body = MaintenanceAnswer)))]
async fn read(State(app): State<Arc<App>>) -> Result<Answer<MaintenanceAnswer>, Problem> {
    let settings = app.store(vmsync_store::Store::settings).await?;
    let agreed = Agreed::read(&app.config.failback, &settings);
    let on = agreed.maintenance.filter(|m| m.is_on(clock::wall()));
    Ok(Answer(MaintenanceAnswer {
        maintenance: on.map(|m| MaintenanceStatus {
            since: rfc3339(m.since),
            until: m.until.map(rfc3339),
            reason: m.reason,
            by: m.by.to_string(),
        }),
    }))
}

/// Begins maintenance mode, on either node; it replicates.
///
/// Nothing fails over or back without an operator until it ends. Asked again, the new words and time count.
#[utoipa::path(
    put, path = "/maintenance", tag = "pair",
    request_body = Begin,
    responses((status = 200, body = MaintenanceAnswer, description = "Durable; as it is now"))
)]
async fn begin(
    State(app): State<Arc<App>>,
    wanted: Option<Json<Begin>>,
) -> Result<Answer<MaintenanceAnswer>, Problem> {
    let Begin { reason, length } = wanted.map(|Json(w)| w).unwrap_or_default();
    if reason.chars().count() > REASON || reason.chars().any(char::is_control) {
        return Err(Problem::invalid(format!(
            "reason is at most {REASON} characters, no control characters"
        )));
    }
    let since = clock::wall();
    let length = length.map(|text| {
        let span = parse_duration(&text).map_err(|e| Problem::invalid(format!("for: {e}")))?;
        if span.is_zero() || span > MOST {
            return Err(Problem::invalid(format!(
                "for is {text}; it must be more than 0 and at most 30 days"
            )));
        }
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Ok(UnixMillis(since.0.saturating_add(millis)))
    });
    let maintenance = Maintenance {
        since,
        until: length.transpose()?,
        reason,
        by: app.config.node.id.clone(),
    };
    set(&app, &maintenance).await?;
    read(State(app)).await
}

/// Ends maintenance mode, on either node.
#[utoipa::path(
    delete, path = "/maintenance", tag = "pair",
    responses((status = 200, body = MaintenanceAnswer, description = "Durable; as it is now"))
)]
async fn end(State(app): State<Arc<App>>) -> Result<Answer<MaintenanceAnswer>, Problem> {
    let Answer(now) = read(State(Arc::clone(&app))).await?;
    if now.maintenance.is_none() {
        return Ok(Answer(now));
    }
    let ended = Ended {
        ended: clock::wall(),
        by: app.config.node.id.clone(),
    };
    set(&app, &ended).await?;
    read(State(app)).await
}

async fn set<T: serde::Serialize>(app: &App, value: &T) -> Result<(), Problem> {
    settled(app)?;
    let value = serde_json::to_value(value)
        .map_err(|e| Problem::new(super::problem::Code::Internal, e.to_string()))?;
    app.store(move |store| store.set_setting(MAINTENANCE, value))
        .await?;
    Ok(())
}
