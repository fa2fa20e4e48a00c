//! Registrations a PBX saw: the evidence for an automatic failover (R-FO-1, R-FO-5).

use std::sync::Arc;

use axum::extract::State;
use utoipa_axum::{router::OpenApiRouter, routes};
use vmsync_config::words::{Extension, SystemName};

use super::{
    extract::{Json, Query},
    list::{Listed, Paging, page},
    problem::Problem,
};
use crate::app::{App, Registration, SeenPhone};

const KINDS: [&str; 4] = ["desk", "dect", "softphone", "webrtc"];

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list, report))
}

/// Phones seen, newest first.
#[utoipa::path(
    get, path = "/phones", tag = "pair",
    params(Paging),
    responses((status = 200, body = Listed<SeenPhone>))
)]
async fn list(
    State(app): State<Arc<App>>,
    Query(paging): Query<Paging>,
) -> Result<axum::Json<Listed<SeenPhone>>, Problem> {
    let phones = (1_u64..).zip(app.node.phones().await).map(Numbered::from);
    let page = page(phones, &paging, |p| p.number)?;
    let items = page.items.into_iter().map(|p| p.phone).collect();
    Ok(axum::Json(Listed {
        items,
        next: page.next,
    }))
}

/// A phone has registered at a system.
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
    SystemName::new(&registration.home_system)?;
    SystemName::new(&registration.at_system)?;
    if !KINDS.contains(&registration.kind.as_str()) {
        return Err(Problem::invalid(format!(
            "kind is {:?}; it must be one of {}",
            registration.kind,
            KINDS.join(", ")
        )));
    }
    Ok(axum::Json(app.node.phone(registration).await?))
}

/// A phone and its place in the list, for paging.
#[derive(utoipa::ToSchema)]
struct Numbered {
    number: u64,
    phone: SeenPhone,
}

impl From<(u64, SeenPhone)> for Numbered {
    fn from((number, phone): (u64, SeenPhone)) -> Self {
        Self { number, phone }
    }
}
