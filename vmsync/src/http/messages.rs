//! Voice messages (R-MB-4 to R-MB-6, R-MB-8, R-IN-1).
//!
//! A deposit answers 201 only once audio and operation are durable. With an `Idempotency-Key` it may
//! be sent again after any doubt: the same message comes back with 200.

use std::sync::Arc;

use axum::{
    extract::{Extension as Layer, OriginalUri, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;
use vmsync_config::{
    Limits, show_duration,
    words::{Extension, UnixMillis},
};
use vmsync_store::{
    AudioRef, EntityKey,
    model::{Message, MessageFacts, MessageState},
};

use super::{
    audio,
    body::Budget,
    extract::{Json, Path, Query},
    list::{Listed, limit},
    mailboxes::existing,
    problem::{Code, Problem},
    serving::mailbox_here,
};
use crate::{app::App, clock};

/// Longest fact about a message, characters.
const FACT: usize = 200;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list, deposit))
        .routes(routes!(read, change, delete))
        .routes(routes!(listen))
}

/// A voice message.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Message)]
pub(super) struct MessageView {
    /// A UUID, the same on both nodes.
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    /// Whose.
    mailbox: String,
    /// `new`, `unopened`, `old`, `saved` or `deleted`.
    #[schema(value_type = String)]
    state: MessageState,
    /// Caller's number.
    caller_number: Option<String>,
    /// Caller's name.
    caller_name: Option<String>,
    /// Number that was called.
    called_number: Option<String>,
    /// When the caller spoke, RFC 3339.
    #[schema(value_type = Option<String>)]
    received_at: Option<UnixMillis>,
    /// Length of the audio in milliseconds, measured from the audio itself.
    duration_ms: u64,
    /// `pcm16`, `ulaw`, `alaw` or `opus`.
    codec: String,
    /// Media type of the audio as received.
    content_type: String,
    /// Length of the audio in bytes.
    bytes: u64,
    /// SHA-256 of the audio, hex.
    sha256: String,
    /// Urgent.
    urgent: bool,
    /// Private: must not be forwarded.
    private: bool,
    /// The node that took it.
    taken_by: Option<String>,
    /// When a mail server took it for the mailbox's e-mail address, RFC 3339; null = not yet, or not
    /// to be.
    #[schema(value_type = Option<String>)]
    emailed_at: Option<UnixMillis>,
    /// Why it will not be e-mailed.
    email_failed: Option<EmailFailedView>,
    /// How many nodes hold it durably, as far as this one knows: 1 or 2.
    copies: u8,
}

impl MessageView {
    pub(super) fn of(m: Message, app: &App) -> Self {
        let copies = app.copies(m.id, &m.stamp);
        Self::with(m, copies)
    }

    fn with(m: Message, copies: u8) -> Self {
        Self {
            copies,
            id: m.id,
            mailbox: m.mailbox.into(),
            state: m.state,
            caller_number: m.facts.caller_number,
            caller_name: m.facts.caller_name,
            called_number: m.facts.called_number,
            received_at: m.facts.received_at,
            duration_ms: m.audio.duration_ms,
            codec: m.audio.codec,
            content_type: m.audio.content_type,
            bytes: m.audio.bytes,
            sha256: m.audio.sha256,
            urgent: m.facts.urgent,
            private: m.facts.private,
            taken_by: m.facts.taken_by.map(Into::into),
            emailed_at: m.emailed,
            email_failed: m.email_failed.map(|failed| EmailFailedView {
                at: failed.at,
                to: failed.to,
                why: failed.why,
            }),
        }
    }
}

/// That a message could not be e-mailed, for good.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EmailFailed)]
struct EmailFailedView {
    /// When that was settled, RFC 3339.
    #[schema(value_type = String)]
    at: UnixMillis,
    /// For which address.
    to: String,
    /// In the mail server's own words, where it said any.
    why: String,
}

/// Which messages.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// States joined by commas; default all but `deleted`.
    state: Option<String>,
    /// Most items wanted, 1 to 1000; default 100.
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Messages of a mailbox, oldest first.
#[utoipa::path(
    get, path = "/mailboxes/{ext}/messages", tag = "messages",
    params(("ext" = String, Path, description = "Extension"), Wanted),
    responses((status = 200, body = Listed<MessageView>))
)]
async fn list(
    State(app): State<Arc<App>>,
    Path(ext): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Result<axum::Json<Listed<MessageView>>, Problem> {
    let ext = Extension::new(ext)?;
    let states = states(wanted.state.as_deref())?;
    let most = limit(wanted.limit)?;
    existing(&app, &ext).await?;
    let page = app
        .store(move |s| s.messages(&ext, &states, wanted.cursor.as_deref(), most))
        .await?;
    let view = |m| MessageView::of(m, &app);
    let items = page.items.into_iter().map(view).collect();
    Ok(axum::Json(Listed {
        items,
        next: page.next,
    }))
}

/// What is known of a message besides its audio.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Facts {
    /// Caller's number.
    caller_number: Option<String>,
    /// Caller's name.
    caller_name: Option<String>,
    /// Number that was called.
    called_number: Option<String>,
    /// When the caller spoke, RFC 3339; default now.
    #[param(value_type = Option<String>)]
    received_at: Option<UnixMillis>,
    /// Urgent; default false.
    #[serde(default)]
    urgent: bool,
    /// Private: must not be forwarded; default false.
    #[serde(default)]
    private: bool,
}

/// Leaves a message: the body is the audio.
///
/// WAV with G.711 or 16-bit PCM at 8 or 16 kHz, or Opus in Ogg; kept byte for byte. With an
/// `Idempotency-Key` header a repetition gives the first message back with 200.
#[utoipa::path(
    post, path = "/mailboxes/{ext}/messages", tag = "messages",
    params(
        ("ext" = String, Path, description = "Extension"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 200 visible ASCII characters"),
        Facts
    ),
    request_body(content((Vec<u8> = "audio/wav"), (Vec<u8> = "audio/ogg"))),
    responses(
        (status = 201, body = MessageView, description = "Durable on this node; with `ack = \"both\"` on both, or `copies` is 1", headers(("Location" = String))),
        (status = 200, body = MessageView, description = "It came before, with the same key"),
        (status = 307, description = "The other node serves this mailbox", headers(("Location" = String))),
        (status = 413, description = "Larger than limits.message_bytes", body = super::problem::ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "`not_audio`, `too_short` or `too_long`", body = super::problem::ProblemBody, content_type = "application/problem+json"),
        (status = 423, description = "The mailbox is disabled", body = super::problem::ProblemBody, content_type = "application/problem+json"),
        (status = 507, description = "The disk is full", body = super::problem::ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn deposit(
    State(app): State<Arc<App>>,
    Layer(budget): Layer<Budget>,
    Path(ext): Path<String>,
    OriginalUri(uri): OriginalUri,
    Query(facts): Query<Facts>,
    request: Request,
) -> Result<Response, Problem> {
    let ext = Extension::new(ext)?;
    mailbox_here(&app, &ext, &uri).await?;
    let headers = request.headers().clone();
    audio::declared_audio(&headers)?;
    let facts = checked(&app, facts, idempotency_key(&headers)?)?;
    // Before the body comes: nobody should send megabytes to learn that there is no such mailbox.
    let mailbox = existing(&app, &ext).await?;
    if !mailbox.enabled {
        return Err(vmsync_store::StoreError::Disabled(ext).into());
    }
    let upload = budget
        .read(request, app.config.limits.message_bytes)
        .await?;
    let limits = app.config.limits.clone();
    let (message, first) = blocking(&app, move |store| {
        let audio = audio::reference(&headers, &upload.bytes)?;
        length_allowed(&audio, &limits)?;
        let sha256 = audio.sha256.clone();
        let (message, first) = store.deposit(&ext, facts, audio, &upload.bytes)?;
        if !first && message.audio.sha256 != sha256 {
            return Err(key_reused(&message));
        }
        Ok((message, first))
    })
    .await?;
    let at = format!(
        "/api/v1/mailboxes/{}/messages/{}",
        message.mailbox, message.id
    );
    let status = if first {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let copies = app.acknowledged(&message).await;
    let body = axum::Json(MessageView::with(message, copies));
    Ok((status, [(header::LOCATION, at)], body).into_response())
}

/// One message.
#[utoipa::path(
    get, path = "/mailboxes/{ext}/messages/{id}", tag = "messages",
    params(("ext" = String, Path, description = "Extension"), ("id" = String, Path, description = "Message id, a UUID")),
    responses((status = 200, body = MessageView))
)]
async fn read(
    State(app): State<Arc<App>>,
    Path((ext, id)): Path<(String, Uuid)>,
) -> Result<axum::Json<MessageView>, Problem> {
    let message = existing_message(&app, &Extension::new(ext)?, id).await?;
    Ok(axum::Json(MessageView::of(message, &app)))
}

/// A message's new state.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StateChange {
    /// `new`, `unopened`, `old`, `saved` or `deleted`.
    #[schema(value_type = String)]
    state: MessageState,
}

/// Changes a message's state.
#[utoipa::path(
    patch, path = "/mailboxes/{ext}/messages/{id}", tag = "messages",
    params(("ext" = String, Path, description = "Extension"), ("id" = String, Path, description = "Message id, a UUID")),
    request_body = StateChange,
    responses((status = 200, body = MessageView))
)]
async fn change(
    State(app): State<Arc<App>>,
    Path((ext, id)): Path<(String, Uuid)>,
    OriginalUri(uri): OriginalUri,
    Json(change): Json<StateChange>,
) -> Result<axum::Json<MessageView>, Problem> {
    let ext = Extension::new(ext)?;
    mailbox_here(&app, &ext, &uri).await?;
    existing_message(&app, &ext, id).await?;
    let message = app
        .store(move |s| s.set_message_state(id, change.state))
        .await?;
    Ok(axum::Json(MessageView::of(message, &app)))
}

/// How to delete.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Deletion {
    /// For good, at once; default false.
    #[serde(default)]
    purge: bool,
}

/// Deletes a message: state `deleted`, recoverable; with `purge=true`, or when it is deleted already, for good.
#[utoipa::path(
    delete, path = "/mailboxes/{ext}/messages/{id}", tag = "messages",
    params(("ext" = String, Path, description = "Extension"), ("id" = String, Path, description = "Message id, a UUID"), Deletion),
    responses(
        (status = 200, body = MessageView, description = "Recoverable: its state is `deleted` now"),
        (status = 204, description = "Gone for good"),
    )
)]
async fn delete(
    State(app): State<Arc<App>>,
    Path((ext, id)): Path<(String, Uuid)>,
    OriginalUri(uri): OriginalUri,
    Query(deletion): Query<Deletion>,
) -> Result<Response, Problem> {
    let ext = Extension::new(ext)?;
    mailbox_here(&app, &ext, &uri).await?;
    let message = existing_message(&app, &ext, id).await?;
    if deletion.purge || message.state == MessageState::Deleted {
        app.store(move |s| s.purge_message(id)).await?;
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let message = app
        .store(move |s| s.set_message_state(id, MessageState::Deleted))
        .await?;
    Ok(axum::Json(MessageView::of(message, &app)).into_response())
}

/// The audio, byte for byte as it came; single ranges are served.
#[utoipa::path(
    get, path = "/mailboxes/{ext}/messages/{id}/audio", tag = "messages",
    params(
        ("ext" = String, Path, description = "Extension"), ("id" = String, Path, description = "Message id, a UUID"),
        ("Range" = Option<String>, Header, description = "Such as `bytes=0-999`")
    ),
    responses(
        (status = 200, body = Vec<u8>, content_type = "audio/wav", headers(("ETag" = String))),
        (status = 206, body = Vec<u8>, content_type = "audio/wav", headers(("Content-Range" = String))),
        (status = 416, description = "Beyond the end", body = super::problem::ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn listen(
    State(app): State<Arc<App>>,
    Path((ext, id)): Path<(String, Uuid)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let message = existing_message(&app, &Extension::new(ext)?, id).await?;
    audio::answer(&app, EntityKey::Message(id), &message.audio, &headers).await
}

/// The message, if it is one of that mailbox; else 404.
pub(super) async fn existing_message(
    app: &App,
    ext: &Extension,
    id: Uuid,
) -> Result<Message, Problem> {
    let message = app.store(move |s| s.message(id)).await?;
    message
        .filter(|m| m.mailbox == *ext)
        .ok_or_else(|| Problem::not_found(format_args!("message {id} of mailbox {ext}")))
}

/// Runs `work` on a blocking thread, for steps that hash and store.
pub(super) async fn blocking<T: Send + 'static>(
    app: &App,
    work: impl FnOnce(&vmsync_store::Store) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    app.store(move |store| Ok(work(store))).await?
}

fn states(text: Option<&str>) -> Result<Vec<MessageState>, Problem> {
    let Some(text) = text else {
        return Ok(Vec::new());
    };
    text.split(',')
        .map(|word| {
            MessageState::deserialize(
                serde::de::value::StrDeserializer::<serde::de::value::Error>::new(word.trim()),
            )
            .map_err(|e| Problem::invalid(format!("state: {e}")))
        })
        .collect()
}

/// The key that makes a repeated deposit the same message, as `source_id`.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    value
        .to_str()
        .ok()
        .map(str::trim)
        .filter(|key| (1..=200).contains(&key.len()))
        .map(|key| Some(format!("http:{key}")))
        .ok_or_else(|| {
            Problem::invalid("Idempotency-Key must be 1 to 200 visible ASCII characters")
        })
}

fn checked(app: &App, facts: Facts, key: Option<String>) -> Result<MessageFacts, Problem> {
    let short = |name: &str, text: Option<String>| match text {
        Some(t) if t.chars().count() > FACT || t.chars().any(char::is_control) => {
            Err(Problem::invalid(format!(
                "{name} must be at most {FACT} characters without control characters"
            )))
        }
        text => Ok(text.filter(|t| !t.is_empty())),
    };
    Ok(MessageFacts {
        caller_number: short("caller_number", facts.caller_number)?,
        caller_name: short("caller_name", facts.caller_name)?,
        called_number: short("called_number", facts.called_number)?,
        received_at: Some(facts.received_at.unwrap_or_else(clock::wall)),
        urgent: facts.urgent,
        private: facts.private,
        taken_by: Some(app.config.node.id.clone()),
        source_id: key,
    })
}

/// R-MB-8.
fn length_allowed(audio: &AudioRef, limits: &Limits) -> Result<(), Problem> {
    let (min, max) = (
        limits.message_min.as_millis(),
        limits.message_max.as_millis(),
    );
    let length = u128::from(audio.duration_ms);
    if length < min {
        let detail = format!(
            "the message is {length} ms long and was dropped; the shortest kept is {} (limits.message_min)",
            show_duration(limits.message_min)
        );
        return Err(Problem::new(Code::TooShort, detail).with("duration_ms", audio.duration_ms));
    }
    if length > max {
        let detail = format!(
            "the message is {length} ms long; the longest taken is {} (limits.message_max)",
            show_duration(limits.message_max)
        );
        return Err(Problem::new(Code::TooLong, detail).with("duration_ms", audio.duration_ms));
    }
    Ok(())
}

fn key_reused(first: &Message) -> Problem {
    let detail = format!(
        "this Idempotency-Key belongs to message {} with other audio; use a new key for a new message",
        first.id
    );
    Problem::new(Code::KeyReused, detail).with("message", first.id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_and_unknown_ones_named() {
        let two = states(Some("new, old")).unwrap();
        assert_eq!(two, [MessageState::New, MessageState::Old]);
        assert!(states(None).unwrap().is_empty());
        let problem = states(Some("fresh")).unwrap_err();
        assert!(problem.detail().contains("fresh"), "{}", problem.detail());
    }

    #[test]
    fn a_key_must_be_there_and_short() {
        let with = |v: &str| {
            HeaderMap::from_iter([(
                header::HeaderName::from_static("idempotency-key"),
                v.parse().unwrap(),
            )])
        };
        assert_eq!(idempotency_key(&with("a1")).unwrap().unwrap(), "http:a1");
        assert_eq!(idempotency_key(&HeaderMap::new()).unwrap(), None);
        assert!(idempotency_key(&with(" ")).is_err());
        assert!(idempotency_key(&with(&"x".repeat(201))).is_err());
    }
}
