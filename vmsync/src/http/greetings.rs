//! Greetings of a mailbox (R-MB-7).

use std::sync::Arc;

use axum::{
    Json,
    extract::{Extension as Layer, OriginalUri, Request, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use vmsync_config::words::{Extension, UnixMillis};
use vmsync_store::{EntityKey, GreetingKind, model::Greeting};

use super::{
    audio,
    body::Budget,
    extract::{Path, Query},
    mailboxes::existing,
    messages::blocking,
    problem::{Code, Problem},
    serving::mailbox_here,
};
use crate::app::App;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(set, listen, remove))
}

/// A greeting as set.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Greeting)]
struct GreetingView {
    /// Whose.
    mailbox: String,
    /// Which.
    kind: &'static str,
    /// Length in milliseconds.
    duration_ms: u64,
    /// Codec.
    codec: String,
    /// Length in bytes.
    bytes: u64,
    /// SHA-256 of the audio, hex.
    sha256: String,
    /// End of a temporary greeting, RFC 3339.
    #[schema(value_type = Option<String>)]
    until: Option<UnixMillis>,
    /// Versions that lost a conflict and are kept.
    conflicts: usize,
}

impl GreetingView {
    fn new(ext: &Extension, greeting: Greeting) -> Self {
        Self {
            mailbox: ext.to_string(),
            kind: greeting.kind.as_str(),
            duration_ms: greeting.audio.duration_ms,
            codec: greeting.audio.codec,
            bytes: greeting.audio.bytes,
            sha256: greeting.audio.sha256,
            until: greeting.until,
            conflicts: greeting.conflicts.len(),
        }
    }
}

/// How long it holds.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Term {
    /// End of a temporary greeting, RFC 3339; for kind `temporary` only.
    #[param(value_type = Option<String>)]
    until: Option<UnixMillis>,
}

/// Sets a greeting: the body is the audio.
#[utoipa::path(
    put, path = "/mailboxes/{ext}/greetings/{kind}", tag = "mailboxes",
    params(
        ("ext" = String, Path, description = "Extension"),
        ("kind" = String, Path, description = "`name`, `standard`, `busy`, `no-answer`, `out-of-hours` or `temporary`"),
        Term
    ),
    request_body(content((Vec<u8> = "audio/wav"), (Vec<u8> = "audio/ogg"))),
    responses((status = 200, body = GreetingView, description = "Durable on this node"))
)]
async fn set(
    State(app): State<Arc<App>>,
    Layer(budget): Layer<Budget>,
    Path((ext, kind)): Path<(String, String)>,
    OriginalUri(uri): OriginalUri,
    Query(term): Query<Term>,
    request: Request,
) -> Result<Json<GreetingView>, Problem> {
    let (ext, kind) = (Extension::new(ext)?, kind.parse::<GreetingKind>()?);
    mailbox_here(&app, &ext, &uri).await?;
    if term.until.is_some() && kind != GreetingKind::Temporary {
        return Err(Problem::invalid("until is for the temporary greeting only"));
    }
    let headers = request.headers().clone();
    audio::declared_audio(&headers)?;
    existing(&app, &ext).await?;
    let upload = budget
        .read(request, app.config.limits.message_bytes)
        .await?;
    let longest = app.config.limits.message_max;
    let of = ext.clone();
    let greeting = blocking(&app, move |store| {
        let audio = audio::reference(&headers, &upload.bytes)?;
        if u128::from(audio.duration_ms) > longest.as_millis() {
            let detail = format!(
                "the greeting is {} ms long; the longest taken is {} ms (limits.message_max)",
                audio.duration_ms,
                longest.as_millis()
            );
            return Err(Problem::new(Code::TooLong, detail));
        }
        Ok(store.set_greeting(&of, kind, audio, &upload.bytes, term.until)?)
    })
    .await?;
    Ok(Json(GreetingView::new(&ext, greeting)))
}

/// A greeting's audio, byte for byte; single ranges are served.
#[utoipa::path(
    get, path = "/mailboxes/{ext}/greetings/{kind}", tag = "mailboxes",
    params(
        ("ext" = String, Path, description = "Extension"),
        ("kind" = String, Path, description = "`name`, `standard`, `busy`, `no-answer`, `out-of-hours` or `temporary`")
    ),
    responses((status = 200, body = Vec<u8>, content_type = "audio/wav", headers(("ETag" = String))))
)]
async fn listen(
    State(app): State<Arc<App>>,
    Path((ext, kind)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (ext, kind) = (Extension::new(ext)?, kind.parse::<GreetingKind>()?);
    let of = ext.clone();
    let greeting = app
        .store(move |s| s.greeting(&of, kind))
        .await?
        .ok_or_else(|| {
            Problem::not_found(format_args!("greeting {} of mailbox {ext}", kind.as_str()))
        })?;
    let entity = EntityKey::Greeting(ext, kind);
    audio::answer(&app, entity, &greeting.audio, &headers).await
}

/// Removes a greeting.
#[utoipa::path(
    delete, path = "/mailboxes/{ext}/greetings/{kind}", tag = "mailboxes",
    params(
        ("ext" = String, Path, description = "Extension"),
        ("kind" = String, Path, description = "`name`, `standard`, `busy`, `no-answer`, `out-of-hours` or `temporary`")
    ),
    responses((status = 204))
)]
async fn remove(
    State(app): State<Arc<App>>,
    Path((ext, kind)): Path<(String, String)>,
    OriginalUri(uri): OriginalUri,
) -> Result<StatusCode, Problem> {
    let (ext, kind) = (Extension::new(ext)?, kind.parse::<GreetingKind>()?);
    mailbox_here(&app, &ext, &uri).await?;
    app.store(move |s| s.remove_greeting(&ext, kind)).await?;
    Ok(StatusCode::NO_CONTENT)
}
