//! A call in progress over HTTP: start it, tell what happens, do what the answer says (R-CF-7).
//!
//! A call is started where its mailbox is served; from then on it stays on the node that has it,
//! whoever serves the group meanwhile (R-FB-6): what it records is durable here and replicates.
//! A recording answered 201 is durable. One whose answer was lost may be sent again under its
//! number, and is one message.

#[cfg(test)]
mod tests;
mod view;

use std::sync::Arc;

use axum::{
    extract::{Extension as Layer, OriginalUri, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;
use vmsync_callflows::{Digits, Event, is_flow_name};
use vmsync_config::{show_duration, words::Extension};
use vmsync_store::AudioRef;

use self::view::{CallAnswer, answer};
use super::{
    audio,
    body::Budget,
    extract::{Json, Path, Query},
    list::{Listed, Paging, limit},
    mailboxes::existing,
    messages::blocking,
    problem::{Code, Problem, ProblemBody},
    serving::group_here,
};
use crate::{
    app::App,
    calls::{
        Call, CallFacts, NewCall,
        flows::{NoFlow, playable},
        host::{self, Talk},
    },
    clock,
};

/// Longest fact about a caller, characters.
const FACT: usize = 200;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list, start))
        .routes(routes!(read, end))
        .routes(routes!(event))
        .routes(routes!(recording))
        .routes(routes!(keepalive))
}

/// A new call.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Start {
    /// `leave`, `collect`, or the name of another call flow.
    kind: String,
    /// Extension of the mailbox it is for.
    mailbox: String,
    /// Caller's number.
    caller_number: Option<String>,
    /// Caller's name.
    caller_name: Option<String>,
}

/// Starts a call; the answer says what to do first.
///
/// Do the actions in their order. The last says what is awaited: `gather` an event `digits` or
/// `timeout`, `await_played` an event `played`, `record` the recording, `transfer` an event
/// `hung_up` or `transfer_failed`; after `disconnect` the call is over.
#[utoipa::path(
    post, path = "/calls", tag = "calls",
    request_body = Start,
    responses(
        (status = 201, body = CallAnswer, headers(("Location" = String))),
        (status = 307, description = "The other node serves this mailbox", headers(("Location" = String))),
        (status = 404, description = "No such mailbox or call flow", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Too many calls, or the node is starting", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn start(
    State(app): State<Arc<App>>,
    OriginalUri(uri): OriginalUri,
    Json(start): Json<Start>,
) -> Result<Response, Problem> {
    let ext = Extension::new(&start.mailbox)?;
    let group = app.group_of_mailbox(&ext).await?;
    group_here(&app, &group, &uri)?;
    if !is_flow_name(&start.kind) {
        return Err(Problem::invalid(
            "kind must be leave, collect, or the name of a call flow: 1 to 63 lower-case letters, digits, underscores or inner hyphens",
        ));
    }
    let mailbox = existing(&app, &ext).await?;
    let new = NewCall {
        caller_number: fact("caller_number", start.caller_number)?,
        caller_name: fact("caller_name", start.caller_name)?,
        kind: start.kind,
        mailbox: ext,
        group,
    };
    let flow = {
        let (dir, name) = (app.config.callflows.dir.clone(), new.kind.clone());
        blocking(&app, move |store| {
            playable(store, &dir, &name).map_err(|e| no_flow(&name, e))
        })
        .await?
    };
    let run = host::begin(flow, &new, &mailbox);
    let call = app.calls.start(new, run, clock::now()).map_err(|full| {
        Problem::new(
            Code::Busy,
            format!("{full}; try again, or use the other node"),
        )
        .retry_after(5)
    })?;
    let mut talk = call.talk.lock().await;
    let actions = talk.advance(&app, &call.new, Event::Answered).await;
    let at = format!("/api/v1/calls/{}", call.id);
    let body = answer(&app, &call, &talk, actions).await;
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, at)],
        axum::Json(body),
    )
        .into_response())
}

/// Calls that have not ended, oldest first.
#[utoipa::path(
    get, path = "/calls", tag = "calls",
    params(Paging),
    responses((status = 200, body = Listed<CallFacts>))
)]
async fn list(
    State(app): State<Arc<App>>,
    Query(paging): Query<Paging>,
) -> Result<axum::Json<Listed<CallFacts>>, Problem> {
    let most = limit(paging.limit)?;
    let after = match paging.cursor {
        None => None,
        Some(text) => Some(text.parse::<Uuid>().map_err(|_| {
            Problem::invalid("cursor is not one of this list; hand back `next` as it came")
        })?),
    };
    let mut items = app.calls.list(after, most + 1);
    let more = items.len() > most;
    items.truncate(most);
    let next = items
        .last()
        .filter(|_| more)
        .map(|call| call.id.to_string());
    Ok(axum::Json(Listed { items, next }))
}

/// One call.
#[utoipa::path(
    get, path = "/calls/{id}", tag = "calls",
    params(("id" = String, Path, format = "uuid")),
    responses((status = 200, body = CallFacts))
)]
async fn read(
    State(app): State<Arc<App>>,
    Path(id): Path<Uuid>,
) -> Result<axum::Json<CallFacts>, Problem> {
    app.calls
        .facts(id)
        .map(axum::Json)
        .ok_or_else(|| no_call(id))
}

/// What happened in a call.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Told {
    /// What.
    event: What,
    /// With `digits`: 1 to 32 of 0123456789*#ABCD.
    digits: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum What {
    /// Keys were pressed.
    Digits,
    /// No (further) key came within the time of `gather`.
    Timeout,
    /// All before `await_played` was heard.
    Played,
    /// The recording ended with nothing in it.
    NothingRecorded,
    /// The transfer failed; the caller is still there.
    TransferFailed,
    /// The caller has gone. While recording, send the recording too: it is kept.
    HungUp,
}

/// Tells what happened; the answer says what to do next.
#[utoipa::path(
    post, path = "/calls/{id}/events", tag = "calls",
    params(("id" = String, Path, format = "uuid")),
    request_body = Told,
    responses(
        (status = 200, body = CallAnswer),
        (status = 404, description = "Not on this node", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The call waits for something else, or is over", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn event(
    State(app): State<Arc<App>>,
    Path(id): Path<Uuid>,
    Json(told): Json<Told>,
) -> Result<axum::Json<CallAnswer>, Problem> {
    let call = app.calls.get(id).ok_or_else(|| no_call(id))?;
    let event = read_event(told)?;
    to_the_end(async move {
        let mut talk = call.talk.lock().await;
        expects(&app, &call, &talk, &event)?;
        let actions = match event {
            Event::Recorded(_) => {
                let why = "nothing was recorded".to_owned();
                talk.nothing_recorded(&app, &call.new, why).await.actions
            }
            event => talk.advance(&app, &call.new, event).await,
        };
        Ok(axum::Json(answer(&app, &call, &talk, actions).await))
    })
    .await
}

/// Which recording.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Number of the recording as `record` gave it; makes the request safe to repeat.
    recording: Option<u32>,
}

/// Hands in what was recorded; the body is the audio.
///
/// 201: a message was kept, durably. 200: it was not (silence, mailbox full); the answer says why. Both say what to do next.
#[utoipa::path(
    post, path = "/calls/{id}/recording", tag = "calls",
    params(("id" = String, Path, format = "uuid"), Which),
    request_body(content((Vec<u8> = "audio/wav"), (Vec<u8> = "audio/ogg"))),
    responses(
        (status = 201, body = CallAnswer, description = "The message is durable on this node"),
        (status = 200, body = CallAnswer, description = "No message was kept; `refused` says why"),
        (status = 409, description = "The call waits for something else, or is over", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "`not_audio` or `too_long`; the call still waits", body = ProblemBody, content_type = "application/problem+json"),
        (status = 507, description = "The disk is full; the call still waits", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn recording(
    State(app): State<Arc<App>>,
    Layer(budget): Layer<Budget>,
    Path(id): Path<Uuid>,
    Query(which): Query<Which>,
    request: Request,
) -> Result<Response, Problem> {
    let call = app.calls.get(id).ok_or_else(|| no_call(id))?;
    let headers = request.headers().clone();
    audio::declared_audio(&headers)?;
    // Uploading is a sign of life, however long it takes.
    app.calls.keepalive(id, clock::now());
    let upload = budget
        .read(request, app.config.limits.message_bytes)
        .await?;
    to_the_end(async move {
        let mut talk = call.talk.lock().await;
        if let Some((number, settled)) = talk.settled.clone()
            && which.recording == Some(number)
        {
            return Ok(recorded(&app, &call, &talk, settled).await);
        }
        expects(&app, &call, &talk, &Event::Recorded(0))?;
        if let Some(number) = which.recording.filter(|n| *n != talk.run.recording()) {
            let wanted = talk.run.recording();
            let detail = format!("the call waits for recording {wanted}, not {number}");
            return Err(Problem::new(Code::Conflict, detail));
        }
        let settled = match measured(&app, headers, upload).await? {
            Measured::Nothing(why) => talk.nothing_recorded(&app, &call.new, why).await,
            Measured::Message(audio, bytes) => talk.record(&app, &call, audio, bytes).await?,
        };
        Ok(recorded(&app, &call, &talk, settled).await)
    })
    .await
}

/// Says that the call is still there; without it, or an event, it stops counting after limits.call_idle (R-FB-8).
#[utoipa::path(
    post, path = "/calls/{id}/keepalive", tag = "calls",
    params(("id" = String, Path, format = "uuid")),
    responses(
        (status = 200, body = CallFacts),
        (status = 404, description = "Over, or not on this node", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn keepalive(
    State(app): State<Arc<App>>,
    Path(id): Path<Uuid>,
) -> Result<axum::Json<CallFacts>, Problem> {
    app.calls
        .keepalive(id, clock::now())
        .map(axum::Json)
        .ok_or_else(|| no_call(id))
}

/// Ends a call at once; a recording that was not handed in is given up.
#[utoipa::path(
    delete, path = "/calls/{id}", tag = "calls",
    params(("id" = String, Path, format = "uuid")),
    responses((status = 204), (status = 404, body = ProblemBody, content_type = "application/problem+json"))
)]
async fn end(State(app): State<Arc<App>>, Path(id): Path<Uuid>) -> Result<StatusCode, Problem> {
    let ended = app.calls.end(id, "ended by its channel", clock::now());
    ended
        .map(|_| StatusCode::NO_CONTENT)
        .ok_or_else(|| no_call(id))
}

/// Does `work` whether or not the channel still waits for the answer: a connection that breaks in
/// the middle of a step must not leave the call between two steps.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    tokio::spawn(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a step of a call broke off");
        Err(Problem::new(
            Code::Internal,
            "the step broke off; this node's log says why",
        ))
    })
}

/// A recording as it came.
enum Measured {
    Nothing(String),
    Message(AudioRef, Arc<[u8]>),
}

async fn measured(
    app: &App,
    headers: HeaderMap,
    upload: super::body::Upload,
) -> Result<Measured, Problem> {
    if upload.bytes.is_empty() {
        return Ok(Measured::Nothing("nothing was recorded".to_owned()));
    }
    let limits = app.config.limits.clone();
    blocking(app, move |_| {
        let audio = audio::reference(&headers, &upload.bytes)?;
        let length = u128::from(audio.duration_ms);
        if length == 0 || length < limits.message_min.as_millis() {
            let min = show_duration(limits.message_min);
            return Ok(Measured::Nothing(format!("{length} ms were recorded; the shortest kept is {min} (limits.message_min)")));
        }
        // A second more than `record` allows: no channel stops to the millisecond.
        if length > limits.message_max.as_millis() + 1_000 {
            let max = show_duration(limits.message_max);
            let detail = format!("{length} ms were recorded; `record` allowed {max} (limits.message_max); send at most that much of it");
            return Err(Problem::new(Code::TooLong, detail).with("duration_ms", audio.duration_ms));
        }
        Ok(Measured::Message(audio, Arc::from(&upload.bytes[..])))
    })
    .await
}

async fn recorded(app: &App, call: &Call, talk: &Talk, settled: host::Settled) -> Response {
    let status = if settled.message.is_some() {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let mut body = answer(app, call, talk, settled.actions).await;
    body.message = settled.message;
    body.refused = settled.refused;
    (status, axum::Json(body)).into_response()
}

fn read_event(told: Told) -> Result<Event, Problem> {
    match (told.event, told.digits) {
        (What::Digits, Some(digits)) => Digits::new(&digits)
            .map(Event::Digits)
            .map_err(Problem::invalid),
        (What::Digits, None) => Err(Problem::invalid(
            "digits is missing: the keys that were pressed",
        )),
        (_, Some(_)) => Err(Problem::invalid(
            "digits belongs to the event `digits` only",
        )),
        (What::Timeout, None) => Ok(Event::Timeout),
        (What::Played, None) => Ok(Event::Played),
        (What::NothingRecorded, None) => Ok(Event::Recorded(0)),
        (What::TransferFailed, None) => Ok(Event::TransferFailed),
        (What::HungUp, None) => Ok(Event::HungUp),
    }
}

/// Passes when the call goes on and waits for such an event.
fn expects(app: &App, call: &Call, talk: &Talk, event: &Event) -> Result<(), Problem> {
    let facts = app.calls.facts(call.id).ok_or_else(|| no_call(call.id))?;
    let over = talk.run.ended() || facts.state == crate::calls::CallState::Ended;
    let wanted = match event {
        Event::Recorded(_) => talk.wants_recording(),
        event => talk.run.takes(event),
    };
    if !over && wanted {
        return Ok(());
    }
    let waits = view::waits_for(talk);
    let detail = if over {
        format!("call {} is over", call.id)
    } else {
        format!(
            "call {} waits for {waits} at `{}`",
            call.id,
            talk.run.node()
        )
    };
    Err(Problem::new(Code::Conflict, detail)
        .with("waiting_for", if over { "nothing" } else { waits }))
}

fn no_call(id: Uuid) -> Problem {
    Problem::new(
        Code::NotFound,
        format!(
            "call {id} is not on this node: it is long over, is the other node's, or this node was restarted; a recording still in hand can be left with POST /api/v1/mailboxes/EXTENSION/messages"
        ),
    )
}

fn no_flow(name: &str, why: NoFlow) -> Problem {
    match why {
        NoFlow::Unknown => Problem::not_found(format_args!("call flow {name}")),
        NoFlow::Broken(errors) => super::callflows::with_errors(&errors),
        NoFlow::Store(error) => error.into(),
    }
}

fn fact(name: &str, text: Option<String>) -> Result<Option<String>, Problem> {
    match text {
        Some(t) if t.chars().count() > FACT || t.chars().any(char::is_control) => {
            Err(Problem::invalid(format!(
                "{name} must be at most {FACT} characters without control characters"
            )))
        }
        text => Ok(text.filter(|t| !t.is_empty())),
    }
}
