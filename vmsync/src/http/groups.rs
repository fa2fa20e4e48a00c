//! Operators' requests: *Activate Backup Server*, *Failback*, and what happened before (R-FO-4, R-FB-6).
//!
//! Either node takes them: the node loop forwards a request to the node that decides.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use vmsync_config::{
    Group,
    words::{GroupName, UnixMillis},
};
use vmsync_core::resilience::{Ownership, Request};

use super::{
    extract::{Json, Path, Query},
    list::{Listed, Paging, page},
    problem::{Problem, ProblemBody},
};
use crate::{
    app::{App, Guard, Outcome},
    node::{FailbackProof, failback_proof},
};

/// Longest reason, characters.
const REASON: usize = 200;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(activate_backup))
        .routes(routes!(failback))
        .routes(routes!(history))
}

type Answer = Result<(StatusCode, axum::Json<Outcome>), Problem>;

/// Activate Backup Server: the backup takes the group over now.
///
/// At any time, home visible or not (R-FO-4). 409 with the reason where it can't be: resilience is off,
/// `expected_owner` is out of date, the backup serves already.
#[utoipa::path(
    post, path = "/groups/{group}/activate-backup", tag = "pair",
    params(("group" = String, Path, description = "`primary`, in dual-active also `secondary`")),
    request_body = Guard,
    responses(
        (status = 202, body = Outcome, description = "Done; the new state"),
        (status = 200, body = Outcome, description = "Dry run: what would happen"),
        (status = 409, description = "Refused; `code` and `detail` say why", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn activate_backup(
    State(app): State<Arc<App>>,
    Path(group): Path<String>,
    guard: Option<Json<Guard>>,
) -> Answer {
    let guard = guard.map(|Json(guard)| guard).unwrap_or_default();
    ask(&app, &group, Request::ActivateBackup, guard).await
}

/// Failback: the home takes the group back.
///
/// Only after both nodes have exchanged what they hold (R-FB-1). The answer lists what it still waits
/// for; `force` doesn't wait for calls (R-FB-6).
#[utoipa::path(
    post, path = "/groups/{group}/failback", tag = "pair",
    params(("group" = String, Path, description = "`primary`, in dual-active also `secondary`")),
    request_body = Guard,
    responses(
        (status = 202, body = Outcome, description = "Taken; the new state, and what it waits for"),
        (status = 200, body = Outcome, description = "Dry run: what would happen"),
        (status = 409, description = "Refused; `code` and `detail` say why", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn failback(
    State(app): State<Arc<App>>,
    Path(group): Path<String>,
    guard: Option<Json<Guard>>,
) -> Answer {
    let guard = guard.map(|Json(guard)| guard).unwrap_or_default();
    let request = Request::Failback { force: guard.force };
    ask(&app, &group, request, guard).await
}

/// A transition of a group with its reason.
#[derive(Debug, Serialize, ToSchema)]
struct Transition {
    /// Which group.
    group: String,
    /// Raised by each failover and failback.
    epoch: u64,
    /// The node that serves from then on.
    owner: String,
    /// Since when, RFC 3339.
    #[schema(value_type = String)]
    since: UnixMillis,
    /// Why.
    reason: String,
    /// Failback waits for an administrator, or for the home to go away and come back: the backup was
    /// activated while the home was visible.
    held: bool,
    /// Of a failback that this node decided: what it rested on. The other node has it for those it decided.
    proof: Option<FailbackProof>,
}

impl From<Ownership> for Transition {
    fn from(o: Ownership) -> Self {
        Self {
            group: o.group.to_string(),
            epoch: o.epoch,
            owner: o.owner.to_string(),
            since: o.since,
            reason: o.reason,
            held: o.held,
            proof: None,
        }
    }
}

/// Every failover and failback of a group with its reason, oldest first.
#[utoipa::path(
    get, path = "/groups/{group}/history", tag = "pair",
    params(("group" = String, Path), Paging),
    responses((status = 200, body = Listed<Transition>))
)]
async fn history(
    State(app): State<Arc<App>>,
    Path(group): Path<String>,
    Query(paging): Query<Paging>,
) -> Result<axum::Json<Listed<Transition>>, Problem> {
    let group = known(&app, &group)?;
    let name = group.name.clone();
    let history = app.node.history(group.name).await;
    let mut page = page(history.into_iter().map(Transition::from), &paging, |t| {
        t.epoch
    })?;
    let epochs: Vec<_> = page.items.iter().map(|t| t.epoch).collect();
    let proofs = app.store(move |store| {
        let proof = |epoch| failback_proof(store, &name, epoch);
        epochs.into_iter().map(proof).collect::<Result<Vec<_>, _>>()
    });
    for (transition, proof) in page.items.iter_mut().zip(proofs.await?) {
        transition.proof = proof;
    }
    Ok(axum::Json(page))
}

async fn ask(app: &App, group: &str, request: Request, guard: Guard) -> Answer {
    let (dry_run, outcome) = (guard.dry_run, operate(app, group, request, guard).await?);
    let status = if dry_run {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    Ok((status, axum::Json(outcome)))
}

/// Hands an operator's request to the node loop; the console's buttons come here too.
pub(super) async fn operate(
    app: &App,
    group: &str,
    request: Request,
    guard: Guard,
) -> Result<Outcome, Problem> {
    let group = known(app, group)?;
    if guard
        .reason
        .as_ref()
        .is_some_and(|r| r.chars().count() > REASON)
    {
        return Err(Problem::invalid(format!(
            "reason is longer than {REASON} characters"
        )));
    }
    Ok(app.node.request(group.name, request, guard).await?)
}

/// The configured group of that name.
pub(super) fn known(app: &App, name: &str) -> Result<Group, Problem> {
    let groups = app.config.groups();
    let wanted = GroupName::new(name)?;
    groups
        .iter()
        .find(|g| g.name == wanted)
        .cloned()
        .ok_or_else(|| {
            let names: Vec<_> = groups.iter().map(|g| g.name.as_str()).collect();
            Problem::not_found(format_args!("group {name}")).with("groups", names)
        })
}
