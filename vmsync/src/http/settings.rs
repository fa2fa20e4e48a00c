//! Replicated settings: what an operator changes here holds on both nodes (R-SY-1).
//!
//! The configuration file gives the starting values; once changed over HTTP, the replicated value
//! counts. [`effective`] is the one place that lays the one over the other.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use vmsync_config::{Failback, FailbackPolicy, parse_duration, show_duration, words::UnixMillis};
use vmsync_core::resilience::TIMEOUT_CAP;
use vmsync_store::{Keep, model::Settings};

use super::{extract::Json, problem::Problem, serving::settled};
use crate::app::App;

const POLICY: &str = "failback.policy";
const TIMEOUT: &str = "failback.timeout_minutes";
const STABLE_FOR: &str = "failback.stable_for";
/// `housekeeping.STATE`: hours (R-MB-9).
const HOUSEKEEPING: &str = "housekeeping.";
/// Ten years.
const MOST_HOURS: u32 = 87_600;
/// R-FB-5.
const MINUTES: std::ops::RangeInclusive<u64> = 1..=60;
/// Longest `stable_for`: the machine's own cap, since it delays the automatic failback.
const STABLE_MOST: Duration = TIMEOUT_CAP;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(read, change))
}

/// Settings in force.
#[derive(Debug, Serialize, ToSchema)]
struct SettingsAnswer {
    /// Failback.
    failback: FailbackAnswer,
    /// Hours messages are kept in each state; 0 = for ever (R-MB-9).
    housekeeping: Hours,
    /// Settings that were changed over HTTP, on either node: when and where.
    changed: BTreeMap<String, Changed>,
}

/// Hours messages are kept in each state; 0 = for ever (R-MB-9).
#[derive(Debug, Serialize, ToSchema)]
struct Hours {
    /// Not played. 0 by default.
    new: u32,
    /// Header played only. 0 by default.
    unopened: u32,
    /// Played; then they become `deleted`. 24 by default.
    old: u32,
    /// Kept by the user. 0 by default.
    saved: u32,
    /// Deleted; then they go for good. 24 by default.
    deleted: u32,
}

/// Failback in force.
#[derive(Debug, Serialize, ToSchema)]
struct FailbackAnswer {
    /// `manual`, `graceful` or `automatic`.
    policy: String,
    /// 1 to 60 (R-FB-5).
    timeout_minutes: u64,
    /// How long the home must have been visible, such as `90s` (R-FB-7).
    stable_for: String,
}

/// The last change of a setting.
#[derive(Debug, Serialize, ToSchema)]
struct Changed {
    /// When.
    #[schema(value_type = String)]
    at: UnixMillis,
    /// On which node.
    by: String,
}

/// Settings to change; what is not given stays.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SettingsChange {
    /// Failback.
    #[serde(default)]
    failback: FailbackChange,
    /// Housekeeping.
    #[serde(default)]
    housekeeping: HoursChange,
}

/// Hours to change; 0 = for ever, at most 87600 (R-MB-9).
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct HoursChange {
    /// Not played.
    new: Option<u32>,
    /// Header played only.
    unopened: Option<u32>,
    /// Played.
    old: Option<u32>,
    /// Kept by the user.
    saved: Option<u32>,
    /// Deleted.
    deleted: Option<u32>,
}

/// Failback settings to change.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct FailbackChange {
    /// `manual`, `graceful` or `automatic`.
    policy: Option<String>,
    /// 1 to 60 (R-FB-5).
    timeout_minutes: Option<u64>,
    /// Such as `90s`; at most `60m` (R-FB-7).
    stable_for: Option<String>,
}

/// Failback settings in force: the replicated ones over the configured.
///
/// A replicated value that this version can't read is passed over; the timeout is capped at 60
/// minutes whatever was stored (R-FB-5).
pub fn effective(configured: &Failback, settings: &Settings) -> Failback {
    let value = |name: &str| settings.get(name).map(|(value, _)| value);
    Failback {
        policy: value(POLICY)
            .and_then(|v| FailbackPolicy::deserialize(v).ok())
            .unwrap_or(configured.policy),
        timeout: value(TIMEOUT)
            .and_then(Value::as_u64)
            .map(|n| n.clamp(*MINUTES.start(), *MINUTES.end()))
            .map_or(configured.timeout, |n| Duration::from_secs(n * 60)),
        stable_for: value(STABLE_FOR)
            .and_then(Value::as_str)
            .and_then(|text| parse_duration(text).ok())
            .map_or(configured.stable_for, |span| span.min(STABLE_MOST)),
        hold_off: configured.hold_off,
    }
}

/// Hours messages are kept in each state: the replicated ones over the default. One that this version
/// can't read is passed over.
pub fn kept_hours(settings: &Settings) -> Keep {
    let hours = |state: &str, default: u32| {
        let set = settings.get(&format!("{HOUSEKEEPING}{state}"));
        let set = set.and_then(|(value, _)| value.as_u64());
        set.and_then(|hours| u32::try_from(hours).ok())
            .unwrap_or(default)
    };
    let default = Keep::default();
    Keep {
        new: hours("new", default.new),
        unopened: hours("unopened", default.unopened),
        old: hours("old", default.old),
        saved: hours("saved", default.saved),
        deleted: hours("deleted", default.deleted),
    }
}

/// Settings in force on both nodes.
#[utoipa::path(get, path = "/settings", tag = "pair", responses((status = 200, body = SettingsAnswer)))]
async fn read(State(app): State<Arc<App>>) -> Result<axum::Json<SettingsAnswer>, Problem> {
    let settings = app.store(vmsync_store::Store::settings).await?;
    Ok(axum::Json(answer(
        &effective(&app.config.failback, &settings),
        &settings,
    )))
}

/// Changes settings, on either node; they replicate.
#[utoipa::path(
    put, path = "/settings", tag = "pair",
    request_body = SettingsChange,
    responses((status = 200, body = SettingsAnswer, description = "Durable; as they are now"))
)]
async fn change(
    State(app): State<Arc<App>>,
    Json(change): Json<SettingsChange>,
) -> Result<axum::Json<SettingsAnswer>, Problem> {
    let mut values = checked(change.failback)?;
    values.extend(checked_hours(&change.housekeeping)?);
    settled(&app)?;
    app.store(move |store| {
        values
            .into_iter()
            .try_for_each(|(name, value)| store.set_setting(&name, value))
    })
    .await?;
    read(State(app)).await
}

/// Checks all before any is set.
fn checked(change: FailbackChange) -> Result<Vec<(String, Value)>, Problem> {
    let mut values = Vec::new();
    if let Some(policy) = change.policy {
        let value = Value::from(policy.clone());
        if FailbackPolicy::deserialize(&value).is_err() {
            return Err(Problem::invalid(format!(
                "failback.policy is {policy:?}; it must be manual, graceful or automatic"
            )));
        }
        values.push((POLICY.to_owned(), value));
    }
    if let Some(minutes) = change.timeout_minutes {
        if !MINUTES.contains(&minutes) {
            return Err(Problem::invalid(format!(
                "failback.timeout_minutes is {minutes}; it must be 1 to 60 (R-FB-5)"
            )));
        }
        values.push((TIMEOUT.to_owned(), minutes.into()));
    }
    if let Some(text) = change.stable_for {
        let span = parse_duration(&text)
            .map_err(|e| Problem::invalid(format!("failback.stable_for: {e}")))?;
        if span > STABLE_MOST {
            return Err(Problem::invalid(format!(
                "failback.stable_for is {text}; it must be at most 60m"
            )));
        }
        values.push((STABLE_FOR.to_owned(), show_duration(span).into()));
    }
    Ok(values)
}

fn checked_hours(change: &HoursChange) -> Result<Vec<(String, Value)>, Problem> {
    let states = [
        ("new", change.new),
        ("unopened", change.unopened),
        ("old", change.old),
        ("saved", change.saved),
        ("deleted", change.deleted),
    ];
    let mut values = Vec::new();
    for (state, hours) in states {
        let Some(hours) = hours else { continue };
        if hours > MOST_HOURS {
            return Err(Problem::invalid(format!(
                "housekeeping.{state} is {hours} hours; it must be 0 (for ever) to {MOST_HOURS} (R-MB-9)"
            )));
        }
        values.push((format!("{HOUSEKEEPING}{state}"), hours.into()));
    }
    Ok(values)
}

fn answer(failback: &Failback, settings: &Settings) -> SettingsAnswer {
    let changed = settings
        .iter()
        .map(|(name, (_, stamp))| {
            let by = stamp.origin.node.to_string();
            (
                name.clone(),
                Changed {
                    at: stamp.at.wall,
                    by,
                },
            )
        })
        .collect();
    let keep = kept_hours(settings);
    SettingsAnswer {
        housekeeping: Hours {
            new: keep.new,
            unopened: keep.unopened,
            old: keep.old,
            saved: keep.saved,
            deleted: keep.deleted,
        },
        failback: FailbackAnswer {
            policy: policy_name(failback.policy).to_owned(),
            timeout_minutes: failback.timeout.as_secs() / 60,
            stable_for: show_duration(failback.stable_for),
        },
        changed,
    }
}

fn policy_name(policy: FailbackPolicy) -> &'static str {
    match policy {
        FailbackPolicy::Manual => "manual",
        FailbackPolicy::Graceful => "graceful",
        FailbackPolicy::Automatic => "automatic",
    }
}

#[cfg(test)]
mod tests {
    use vmsync_config::words::Origin;
    use vmsync_store::{Hlc, Stamp};

    use super::*;

    fn configured() -> Failback {
        Failback {
            policy: FailbackPolicy::Graceful,
            timeout: Duration::from_mins(10),
            stable_for: Duration::ZERO,
            hold_off: Duration::ZERO,
        }
    }

    fn stored(values: &[(&str, Value)]) -> Settings {
        let origin: Origin = "vmpro1.00000001".parse().unwrap();
        let stamp = Stamp {
            at: Hlc::default(),
            origin,
            seq: 1,
        };
        values
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (v.clone(), stamp.clone())))
            .collect()
    }

    #[test]
    fn what_was_changed_counts_over_the_file() {
        let settings = stored(&[
            (POLICY, "automatic".into()),
            (TIMEOUT, 5.into()),
            (STABLE_FOR, "90s".into()),
        ]);
        let now = effective(&configured(), &settings);
        assert_eq!(now.policy, FailbackPolicy::Automatic);
        assert_eq!(now.timeout, Duration::from_mins(5));
        assert_eq!(now.stable_for, Duration::from_secs(90));
        assert_eq!(effective(&configured(), &Settings::new()), configured());
    }

    #[test]
    fn no_stored_value_lifts_the_cap_of_60_minutes() {
        let now = effective(&configured(), &stored(&[(TIMEOUT, 61.into())]));
        assert_eq!(now.timeout, Duration::from_hours(1));
    }

    #[test]
    fn hours_are_those_set_over_the_default() {
        assert_eq!(kept_hours(&Settings::new()), Keep::default());
        let settings = stored(&[
            ("housekeeping.old", 0.into()),
            ("housekeeping.saved", 720.into()),
            ("housekeeping.deleted", "a while".into()),
        ]);
        let expected = Keep {
            old: 0,
            saved: 720,
            ..Keep::default()
        };
        assert_eq!(kept_hours(&settings), expected);
        let change = HoursChange {
            old: Some(87_601),
            ..HoursChange::default()
        };
        let refused = checked_hours(&change).unwrap_err();
        assert!(
            refused.detail().contains("housekeeping.old"),
            "{}",
            refused.detail()
        );
    }

    #[test]
    fn what_a_newer_version_wrote_is_passed_over() {
        let settings = stored(&[(POLICY, "by-moonlight".into()), (TIMEOUT, "soon".into())]);
        assert_eq!(effective(&configured(), &settings), configured());
    }
}
