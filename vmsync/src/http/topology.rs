//! Switching live between single- and dual-active, and systems between the nodes (R-TO-1 to R-TO-3).
//!
//! Refused while a group is served by its backup: what is home and what is backup must not change
//! under a resilience. Replicated as settings, so both nodes switch.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json as Answer, extract::State};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use vmsync_config::{Config, Mode};

use super::{
    extract::Json,
    problem::{Code, Problem, ProblemBody},
    serving::settled,
};
use crate::{
    agreed::{Agreed, TOPOLOGY},
    app::App,
    node::{destination_name, mode_name},
    topology::{Switched, Topology},
};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(read, change))
}

/// Who is home of what.
#[derive(Debug, Serialize, ToSchema)]
struct TopologyAnswer {
    /// `single-active` or `dual-active`.
    mode: String,
    /// Every group with its home and backup.
    groups: Vec<GroupAnswer>,
    /// Every system with its destination and home.
    systems: Vec<SystemAnswer>,
}

/// A group.
#[derive(Debug, Serialize, ToSchema)]
struct GroupAnswer {
    /// Its name.
    name: String,
    /// Serves it in normal operation.
    home: String,
    /// Serves it in resilience.
    backup: String,
}

/// A system.
#[derive(Debug, Serialize, ToSchema)]
struct SystemAnswer {
    /// Its name.
    name: String,
    /// `99999` (the primary) or `99998` (the secondary).
    destination: String,
    /// The node it belongs to.
    home: String,
    /// Its group.
    group: String,
}

/// What to switch; what is not given stays.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Switch {
    /// `single-active` or `dual-active`.
    mode: Option<String>,
    /// System to `99999` or, in dual-active, `99998`.
    #[serde(default)]
    destinations: BTreeMap<String, String>,
}

/// Mode, groups and systems in force.
#[utoipa::path(get, path = "/topology", tag = "pair", responses((status = 200, body = TopologyAnswer)))]
async fn read(State(app): State<Arc<App>>) -> Answer<TopologyAnswer> {
    Answer(shown(&app.topology()))
}

/// Switches mode and destinations, on either node; both follow.
///
/// Refused with 409 `in_resilience` while a group is served by its backup, and with `peer_unreachable`
/// while the other node could not follow.
#[utoipa::path(
    put, path = "/topology", tag = "pair",
    request_body = Switch,
    responses(
        (status = 200, body = TopologyAnswer, description = "Durable; as it will be on both nodes"),
        (status = 409, description = "Refused; `code` and `detail` say why", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn change(
    State(app): State<Arc<App>>,
    Json(wanted): Json<Switch>,
) -> Result<Answer<TopologyAnswer>, Problem> {
    settled(&app)?;
    let _one_at_a_time = app.topology.switching.lock().await;
    let settings = app.store(vmsync_store::Store::settings).await?;
    let before = Agreed::read(&app.config.failback, &settings).switched;
    let value = checked(&app.config, &before, &wanted)?;
    in_normal_operation(&app)?;
    let settings = app.store(move |store| {
        store.set_setting(TOPOLOGY, value)?;
        store.settings()
    });
    let agreed = Agreed::read(&app.config.failback, &settings.await?);
    Ok(Answer(shown(&Topology::switched(
        &app.config,
        &agreed.switched,
    ))))
}

/// The whole topology as one value: what is in force, and over it what is wanted.
fn checked(config: &Config, before: &Switched, wanted: &Switch) -> Result<Value, Problem> {
    let now = Topology::switched(config, before);
    let mode = match wanted.mode.as_deref() {
        None => now.mode,
        Some("single-active") => Mode::SingleActive,
        Some("dual-active") => Mode::DualActive,
        Some(other) => {
            let detail = format!("mode is {other:?}; it must be single-active or dual-active");
            return Err(Problem::invalid(detail));
        }
    };
    if mode == Mode::DualActive && now.systems.is_empty() {
        return Err(Problem::invalid(
            "in dual-active each system must say which node serves it, and none is configured: write a [[systems]] for each on both nodes (R-TO-2)",
        ));
    }
    // What was chosen stays chosen, also while single-active makes everybody the primary's.
    let kept = config.systems.iter().map(|s| {
        let chosen = before.destinations.get(&s.name).copied();
        let number = destination_name(chosen.unwrap_or(s.destination));
        (s.name.to_string(), Value::from(number))
    });
    let mut destinations: Map<String, Value> = kept.collect();
    for (name, number) in &wanted.destinations {
        let known = now.system(name);
        let Some(system) = known else {
            let names: Vec<_> = now.systems.iter().map(|s| s.name.as_str()).collect();
            return Err(
                Problem::invalid(format!("there is no system {name:?}")).with("systems", names)
            );
        };
        match (number.as_str(), mode) {
            ("99999", _) | ("99998", Mode::DualActive) => {}
            _ => {
                return Err(Problem::invalid(format!(
                    "system {name} can't have {number:?} as voicemail destination: 99999 is the primary, and in dual-active 99998 the secondary (R-TO-3)"
                )));
            }
        }
        destinations.insert(system.name.to_string(), number.as_str().into());
    }
    Ok(json!({"mode": mode_name(mode), "destinations": destinations}))
}

fn in_normal_operation(app: &App) -> Result<(), Problem> {
    let status = app.node.status();
    if let Some(group) = status.groups.iter().find(|g| g.owner != g.home) {
        return Err(Problem::new(
            Code::Conflict,
            format!(
                "group {} is served by its backup {} ({}): fail it back first, then switch",
                group.name, group.owner, group.phase
            ),
        )
        .coded("in_resilience"));
    }
    let out = status.sync.out.state.as_str();
    let mails = status.peer.signs.greeting && !matches!(out, "idle" | "stalled");
    if !(status.peer.signs.answers && mails) {
        return Err(Problem::new(
            Code::Conflict,
            format!(
                "{} could not follow: switch when it answers heartbeats and mails to it pass",
                status.peer.id
            ),
        )
        .coded("peer_unreachable"));
    }
    Ok(())
}

fn shown(topology: &Topology) -> TopologyAnswer {
    let groups = topology.groups().iter().map(|g| GroupAnswer {
        name: g.name.to_string(),
        home: g.home.to_string(),
        backup: g.backup.to_string(),
    });
    let systems = topology.systems.iter().map(|s| SystemAnswer {
        name: s.name.to_string(),
        destination: destination_name(s.destination).to_owned(),
        home: s.home.to_string(),
        group: topology.group_of(Some(s.name.as_str())).to_string(),
    });
    TopologyAnswer {
        mode: mode_name(topology.mode).to_owned(),
        groups: groups.collect(),
        systems: systems.collect(),
    }
}
