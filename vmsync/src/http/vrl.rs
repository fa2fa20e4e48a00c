//! Call recordings (R-VR): how their move stands, Test Connection, handing one in, moving now.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Extension as Layer, OriginalUri, Request, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use vmsync_config::Mode;
use vmsync_core::resilience::Serving;

use super::{
    audio,
    body::Budget,
    extract::Query,
    problem::{Code, Problem, ProblemBody},
    serving::group_here,
};
use crate::{
    app::App,
    vrl::{Taken, TestStep, VrlHandle, VrlStatus, take},
};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(state))
        .routes(routes!(test))
        .routes(routes!(record))
        .routes(routes!(transfer))
}

/// Recordings of this node.
#[derive(Debug, Serialize, ToSchema)]
struct VrlAnswer {
    /// How far the move is.
    #[serde(flatten)]
    status: VrlStatus,
    /// Where this node keeps recordings.
    folder: String,
    /// Where they are moved to; null = they stay here.
    remote: Option<String>,
    /// This node may record (R-VR-3).
    right: bool,
    /// Why it may not, if so: what is handed in is refused with this, and what is put into the folder stays.
    refuses: Option<String>,
}

/// How far the move of recordings is.
#[utoipa::path(get, path = "/vrl", tag = "recordings", responses((status = 200, body = VrlAnswer)))]
async fn state(State(app): State<Arc<App>>) -> Json<VrlAnswer> {
    Json(answer(&app))
}

fn answer(app: &App) -> VrlAnswer {
    let config = &app.config.vrl;
    let refuses = app.rights.may_record(app).err();
    VrlAnswer {
        status: app.recordings(),
        folder: config.folder.display().to_string(),
        remote: config
            .remote
            .as_ref()
            .map(|r| format!("{}:{}{}", r.host, r.port, r.location)),
        right: refuses.is_none(),
        refuses,
    }
}

/// What Test Connection found.
#[derive(Debug, Serialize, ToSchema)]
struct Tested {
    /// Every step worked.
    ok: bool,
    /// The step that failed.
    failed: Option<String>,
    /// Each step; the first that fails is the last.
    steps: Vec<TestStep>,
}

/// Test Connection: checks the settings of the move end to end (R-VR-2).
#[utoipa::path(
    post, path = "/vrl/test", tag = "recordings",
    responses(
        (status = 200, body = Tested),
        (status = 409, description = "No remote is configured here", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn test(State(app): State<Arc<App>>) -> Result<Json<Tested>, Problem> {
    let steps = mover(&app)?.test().await;
    let failed = steps.iter().find(|s| !s.ok).map(|s| s.step.clone());
    Ok(Json(Tested {
        ok: failed.is_none() && !steps.is_empty(),
        failed,
        steps,
    }))
}

/// Starts the move now, without waiting for its turn.
#[utoipa::path(
    post, path = "/vrl/transfer", tag = "recordings",
    responses(
        (status = 202, body = VrlAnswer, description = "As it stands; `why` says what it waits for"),
        (status = 409, description = "No remote is configured here", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn transfer(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    mover(&app)?.kick();
    Ok((StatusCode::ACCEPTED, Json(answer(&app))).into_response())
}

/// Which recording.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Recording {
    /// File name, such as `2026-11-22-2001-3f.wav`.
    name: String,
    /// SHA-256 of the bytes, hex; checked where given.
    sha256: Option<String>,
}

/// Hands in a call recording: the body is the audio.
///
/// Taken by the node that serves; the other answers 307. The same name with other content is kept
/// beside the first under the name in the answer.
#[utoipa::path(
    post, path = "/vrl/recordings", tag = "recordings",
    params(Recording),
    request_body(content((Vec<u8> = "audio/wav"), (Vec<u8> = "audio/ogg"))),
    responses(
        (status = 201, body = Taken, description = "Durable in this node's folder"),
        (status = 200, body = Taken, description = "It was there already"),
        (status = 403, description = "`no_media_manager_right` (R-VR-3)", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn record(
    State(app): State<Arc<App>>,
    Layer(budget): Layer<Budget>,
    OriginalUri(uri): OriginalUri,
    Query(recording): Query<Recording>,
    request: Request,
) -> Result<Response, Problem> {
    may_record(&app, &uri)?;
    let headers = request.headers().clone();
    audio::declared_audio(&headers)?;
    let limits = &app.config.limits;
    let upload = budget.read(request, limits.message_bytes).await?;
    let longest = limits.recording_max.as_millis();
    let bytes = upload.bytes.clone();
    let length = tokio::task::spawn_blocking(move || audio::reference(&headers, &bytes))
        .await
        .map_err(|e| Problem::new(Code::Internal, e.to_string()))??
        .duration_ms;
    if u128::from(length) > longest {
        let detail = format!(
            "the recording is {length} ms long; the longest taken is {longest} ms (limits.recording_max)"
        );
        return Err(Problem::new(Code::TooLong, detail));
    }
    let (folder, reserve) = (&app.config.vrl.folder, limits.min_free_bytes);
    let bytes = upload.bytes.clone();
    let taken = take(
        folder,
        &recording.name,
        bytes,
        recording.sha256.as_deref(),
        reserve,
    )
    .await?;
    if let Some(mover) = &app.vrl {
        mover.taken(taken.clone());
    }
    let status = if taken.new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(taken)).into_response())
}

/// R-VR-1: whoever serves records. R-VR-3: in dual-active each node its own calls, given the right.
fn may_record(app: &App, uri: &Uri) -> Result<(), Problem> {
    app.rights
        .may_record(app)
        .map_err(|detail| Problem::new(Code::NoMediaManagerRight, detail))?;
    let topology = app.topology();
    let serves_one = topology.groups().iter().any(|g| {
        matches!(
            app.node.serving(&g.name),
            Serving::Yes | Serving::YesPartition
        )
    });
    match topology.mode {
        Mode::DualActive if serves_one => Ok(()),
        _ => group_here(app, &app.group_of(None), uri),
    }
}

pub(super) fn mover(app: &App) -> Result<&VrlHandle, Problem> {
    app.vrl.as_ref().ok_or_else(|| {
        Problem::new(
            Code::NoVrlRemote,
            "this node has no vrl.remote_host: its recordings stay where they are; ask the node that moves them",
        )
    })
}
