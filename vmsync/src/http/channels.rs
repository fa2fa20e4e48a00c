//! How alarms reach people: every channel, and a test of one (R-AL-1).

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use vmsync_config::words::UnixMillis;

use super::{
    extract::Path,
    problem::{Code, Problem},
};
use crate::{app::App, channels::Channel};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(test))
}

/// All channels.
#[derive(Debug, Serialize, ToSchema)]
struct ChannelsAnswer {
    /// In the order of the configuration.
    items: Vec<ChannelView>,
}

/// A channel and how it stands. Counts begin with the start of this node.
#[derive(Debug, Serialize, ToSchema)]
struct ChannelView {
    /// Its name.
    name: String,
    /// `email`, `syslog`, `snmp` or `webhook`.
    kind: &'static str,
    /// Where to.
    target: String,
    /// `idle`, `waiting` (notices wait) or `failing` (the last try failed).
    state: &'static str,
    /// Notices that wait.
    queued: usize,
    /// Notices sent.
    sent: u64,
    /// Notices dropped or given up.
    dropped: u64,
    /// When the last one was sent, RFC 3339.
    #[schema(value_type = Option<String>)]
    last_success: Option<UnixMillis>,
    /// What went wrong last.
    last_error: Option<String>,
    /// When that was, RFC 3339.
    #[schema(value_type = Option<String>)]
    last_error_at: Option<UnixMillis>,
    /// Tries that failed in a row.
    failures: u32,
    /// When the next try is, RFC 3339.
    #[schema(value_type = Option<String>)]
    retry_at: Option<UnixMillis>,
}

/// What became of a test.
#[derive(Debug, Serialize, ToSchema)]
struct TestAnswer {
    /// Whether the test alarm was taken (or, where the way knows no acknowledgement, sent).
    ok: bool,
    /// In words.
    outcome: String,
}

fn view(channel: &Channel) -> ChannelView {
    let view = channel.view();
    let state = match (view.failures, view.queued) {
        (0, 0) => "idle",
        (0, _) => "waiting",
        _ => "failing",
    };
    let (last_error_at, last_error) = view.last_error.unzip();
    ChannelView {
        name: channel.name.clone(),
        kind: channel.kind,
        target: channel.target.clone(),
        state,
        queued: view.queued,
        sent: view.sent,
        dropped: view.dropped,
        last_success: view.last_success,
        last_error,
        last_error_at,
        failures: view.failures,
        retry_at: view.retry_at,
    }
}

/// Every channel by which this node tells of alarms and events, and how it stands.
#[utoipa::path(
    get, path = "/alarms/channels", tag = "watching",
    responses((status = 200, body = ChannelsAnswer))
)]
async fn list(State(app): State<Arc<App>>) -> Json<ChannelsAnswer> {
    let channels = app.alarms.channels();
    let items = channels.list().iter().map(|c| view(c)).collect();
    Json(ChannelsAnswer { items })
}

/// Sends a test alarm now, beside what waits, and says what became of it. A channel that works again sends
/// what waits at once.
#[utoipa::path(
    post, path = "/alarms/channels/{name}/test", tag = "watching",
    params(("name" = String, Path)),
    responses((status = 200, body = TestAnswer))
)]
async fn test(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Json<TestAnswer>, Problem> {
    let channels = app.alarms.channels();
    let channel = channels.list().iter().find(|c| c.name == name);
    let channel = channel.ok_or_else(|| Problem::not_found(format_args!("channel {name}")))?;
    let Some(result) = channel.test().await else {
        let busy = "other tests of this channel wait already; try again in a minute";
        return Err(Problem::new(Code::Busy, busy).retry_after(60));
    };
    let to = format!("{} ({})", channel.target, channel.kind);
    Ok(Json(match result {
        Ok(()) => TestAnswer {
            ok: true,
            outcome: format!("a test alarm went to {to}"),
        },
        Err(why) => TestAnswer {
            ok: false,
            outcome: format!("no test alarm could be sent to {to}: {why}"),
        },
    }))
}
