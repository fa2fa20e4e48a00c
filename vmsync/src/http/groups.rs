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
use vmsync_core::resilience::{Ownership, Request, Standing};

use super::{
    extract::{Json, Path, Query},
    list::{Listed, Paging, page},
    problem::{Problem, ProblemBody},
};
use crate::{
    agreed::Agreed,
    app::{App, Guard, OrderAnswer, Outcome},
    node::{FailbackProof, Line, failback_proof, journal},
};

/// Longest reason, characters.
const REASON: usize = 200;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(activate_backup))
        .routes(routes!(failback))
        .routes(routes!(history))
        .routes(routes!(schedule, cancel))
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

/// An order that stands.
#[derive(Debug, Serialize, ToSchema)]
struct Schedule {
    /// None: nothing is scheduled.
    scheduled: Option<OrderAnswer>,
}

/// What is scheduled for a group.
#[utoipa::path(
    get, path = "/groups/{group}/schedule", tag = "pair",
    params(("group" = String, Path)),
    responses((status = 200, body = Schedule))
)]
async fn schedule(
    State(app): State<Arc<App>>,
    Path(group): Path<String>,
) -> Result<axum::Json<Schedule>, Problem> {
    let group = known(&app, &group)?;
    let settings = app.store(vmsync_store::Store::settings).await?;
    let agreed = Agreed::read(&app.config.failback, &settings);
    let scheduled = match agreed.orders.get(&group.name) {
        Some(Standing::Open(order)) => Some(order.clone().into()),
        _ => None,
    };
    Ok(axum::Json(Schedule { scheduled }))
}

/// Cancels what is scheduled for a group, at either node.
#[utoipa::path(
    delete, path = "/groups/{group}/schedule", tag = "pair",
    params(("group" = String, Path)),
    responses(
        (status = 200, body = Schedule, description = "Cancelled: this was scheduled"),
        (status = 404, description = "Nothing was", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn cancel(
    State(app): State<Arc<App>>,
    Path(group): Path<String>,
) -> Result<axum::Json<Schedule>, Problem> {
    let group = known(&app, &group)?;
    let name = group.name.clone();
    let cancelled = app.node.cancel(group.name).await?;
    let scheduled = cancelled
        .ok_or_else(|| Problem::not_found(format_args!("anything scheduled for group {name}")))?;
    Ok(axum::Json(Schedule {
        scheduled: Some(scheduled),
    }))
}

/// A transition of a group with its reason, or something else that happened about it.
#[derive(Debug, Serialize, ToSchema)]
struct Transition {
    /// Place in the history as it is kept now.
    number: u64,
    /// `failover`, `failback`, `settled` (between the nodes); `scheduled`, `carried-out`, `dropped`,
    /// `maintenance`, `maintenance-ended`.
    kind: String,
    /// Which group.
    group: String,
    /// Raised by each failover and failback; none for anything else.
    epoch: Option<u64>,
    /// The node that serves from then on; none for what is no transition.
    owner: Option<String>,
    /// The row of the machine that fired (`vmsync explain fsm`).
    row: Option<String>,
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

impl Transition {
    fn of(o: Ownership, group: &Group) -> Self {
        let kind = match &o.row {
            None => "settled",
            Some(_) if o.owner == group.home => "failback",
            Some(_) => "failover",
        };
        Self {
            number: 0,
            kind: kind.to_owned(),
            group: o.group.to_string(),
            epoch: Some(o.epoch),
            owner: Some(o.owner.to_string()),
            row: o.row,
            since: o.since,
            reason: o.reason,
            held: o.held,
            proof: None,
        }
    }

    fn other(line: Line, group: &Group) -> Self {
        Self {
            number: 0,
            kind: line.kind,
            group: group.name.to_string(),
            epoch: None,
            owner: None,
            row: None,
            since: line.at,
            reason: line.text,
            held: false,
            proof: None,
        }
    }
}

/// Transitions in the order of their epochs, and between them what else happened, by its time.
fn merged(transitions: Vec<Ownership>, lines: Vec<Line>, group: &Group) -> Vec<Transition> {
    let mut lines = lines.into_iter().peekable();
    let mut all = Vec::new();
    for transition in transitions {
        while let Some(line) = lines.next_if(|l| l.at < transition.since) {
            all.push(Transition::other(line, group));
        }
        all.push(Transition::of(transition, group));
    }
    all.extend(lines.map(|line| Transition::other(line, group)));
    for (number, item) in (1_u64..).zip(&mut all) {
        item.number = number;
    }
    all
}

/// Every failover and failback of a group with its reason, oldest first; and between them orders and
/// maintenance modes.
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
    let history = app.node.history(name.clone()).await;
    let lines = app.store(move |store| journal(store, &name)).await?;
    let all = merged(history, lines, &group).into_iter();
    let mut page = page(all, &paging, |t| t.number)?;
    let epochs: Vec<_> = page.items.iter().map(|t| t.epoch).collect();
    let proofs = app.store(move |store| {
        let proof = |epoch: Option<u64>| match epoch {
            Some(epoch) => failback_proof(store, &group.name, epoch),
            None => Ok(None),
        };
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
    let dry_run = guard.dry_run;
    let mut outcome = app.node.request(group.name, request, guard).await?;
    if dry_run {
        outcome.one_sided = app.node.one_sided().await;
    }
    Ok(outcome)
}

/// The configured group of that name.
pub(super) fn known(app: &App, name: &str) -> Result<Group, Problem> {
    let topology = app.topology();
    let groups = topology.groups();
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
