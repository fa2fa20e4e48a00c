//! Registrations a PBX saw: the evidence for an automatic failover (R-FO-1, R-FO-5).

use std::sync::Arc;

use axum::extract::State;
use utoipa_axum::{router::OpenApiRouter, routes};
use vmsync_config::words::{Extension, SystemName};

use super::{
    extract::{Json, Query},
    features,
    list::{Listed, Paging, after, limit, numbered},
    problem::Problem,
};
use crate::{
    app::{App, Registration, SeenPhone},
    clock,
    features::PhoneAdvice,
};

const KINDS: [&str; 4] = ["desk", "dect", "softphone", "webrtc"];

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list, report))
}

/// Phones seen, newest first: the last registration of each, of systems that are configured or not.
///
/// One that registers anew while you read pages is in front of the first; `GET /systems/{name}/phones`
/// goes by extension.
#[utoipa::path(
    get, path = "/phones", tag = "pair",
    params(Paging),
    responses((status = 200, body = Listed<SeenPhone>))
)]
async fn list(
    State(app): State<Arc<App>>,
    Query(paging): Query<Paging>,
) -> Result<axum::Json<Listed<SeenPhone>>, Problem> {
    let limit = limit(paging.limit)?;
    let before = after(paging.cursor.as_deref())?;
    let found = app.node.phones(before, limit + 1).await;
    Ok(axum::Json(numbered(found, limit)))
}

/// A phone has registered at a system, or what it does has changed.
///
/// The answer tells where it may be: its home, its backup, or for a while either (docs/features.md).
#[utoipa::path(
    post, path = "/phones", tag = "pair",
    request_body = Registration,
    responses((status = 200, body = SeenPhone, description = "As kept, and whether it counts as evidence"))
)]
async fn report(
    State(app): State<Arc<App>>,
    Json(registration): Json<Registration>,
) -> Result<axum::Json<SeenPhone>, Problem> {
    Extension::new(&registration.extension)?;
    let home_system = SystemName::new(&registration.home_system)?;
    let at_system = SystemName::new(&registration.at_system)?;
    let location = registration.location.as_deref();
    let location = location.map(SystemName::new).transpose()?;
    if !KINDS.contains(&registration.kind.as_str()) {
        return Err(Problem::invalid(format!(
            "kind is {:?}; it must be one of {}",
            registration.kind,
            KINDS.join(", ")
        )));
    }
    let Registration {
        extension,
        on_preserved_call,
        busy,
        restarted,
        ..
    } = registration.clone();
    let kind = serde_json::from_value(registration.kind.as_str().into());
    let kind = kind.map_err(|e| Problem::invalid(format!("kind: {e}")))?;
    let mut seen = app.node.phone(registration).await?;
    let phone = vmsync_core::features::Registration {
        extension,
        kind,
        home_system,
        at_system,
        on_preserved_call,
        idle: !busy,
        restarted,
        location,
    };
    let now = clock::now();
    let mut view = app.features.phone(&phone, now).map_err(features::problem)?;
    if view.is_some() && app.features.pending() {
        // What it brought about is decided, and so told with the answer.
        app.features.turn(&app).await;
        view = app
            .features
            .look(&phone.home_system, &phone.extension, clock::now());
    }
    seen.advice = view.map(|view| PhoneAdvice::of(&view.advice, now));
    Ok(axum::Json(seen))
}
