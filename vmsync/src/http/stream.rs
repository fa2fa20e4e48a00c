//! The event stream as server-sent events (HTML standard section 9.2).
//!
//! Each event's `event:` is its kind, its `data:` the whole event as JSON, its `id:` goes into
//! `Last-Event-ID` when the reader comes back. A reader that missed more than is kept gets an event
//! `gap` first: it must read the state anew. So does one that is too slow to follow.

use std::{collections::HashSet, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{Extension, State},
    http::HeaderMap,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event as Frame, KeepAlive},
    },
};
use futures_util::{Stream, StreamExt as _, stream};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::Query,
    problem::{Code, Problem},
    server::Stopping,
};
use crate::{
    app::App,
    events::{Event, EventHub},
};

/// Most readers at once. Each holds a connection, and requests need some too: a quarter is theirs.
const MOST: usize = 64;
/// A comment line now and then shows both sides that the other is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A stream ends after this long; its reader comes back with `Last-Event-ID`, and its token is checked again.
const LONGEST: Duration = Duration::from_hours(1);

/// Places for readers of the stream.
#[derive(Clone)]
pub(super) struct Followers(Arc<Semaphore>);

impl Followers {
    /// Places on a node that takes so many connections.
    pub(super) fn new(connections: usize) -> Self {
        Self(Arc::new(Semaphore::new((connections / 4).clamp(1, MOST))))
    }
}

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(events))
}

/// Which events.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// Kinds joined by commas (`mwi,ownership`); default all.
    kinds: Option<String>,
}

/// What happens, as it happens.
///
/// Server-sent events. `Last-Event-ID` resumes after that event; an event `gap` says that some were
/// missed and the state must be read anew.
#[utoipa::path(
    get, path = "/events", tag = "watching",
    params(Wanted, ("Last-Event-ID" = Option<String>, Header, description = "The last event read")),
    responses((status = 200, content_type = "text/event-stream", body = String))
)]
async fn events(
    State(app): State<Arc<App>>,
    Extension(followers): Extension<Followers>,
    stopping: Option<Extension<Stopping>>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let kinds = wanted
        .kinds
        .map(|k| k.split(',').map(|k| k.trim().to_owned()).collect());
    let last = headers.get("last-event-id").and_then(|v| v.to_str().ok());
    let stopping = stopping.map(|Extension(s)| s).unwrap_or_default();
    follow(&app.events, last, kinds, &followers, stopping, LONGEST)
}

/// Answers with the stream, from after event `last`, for at most `longest`.
pub(super) fn follow(
    hub: &EventHub,
    last: Option<&str>,
    kinds: Option<HashSet<String>>,
    followers: &Followers,
    stopping: Stopping,
    longest: Duration,
) -> Result<Response, Problem> {
    let place = Arc::clone(&followers.0).try_acquire_owned().map_err(|_| {
        Problem::new(
            Code::Busy,
            format!("{MOST} readers follow the stream already"),
        )
        .retry_after(5)
    })?;
    let end = async move {
        tokio::select! {
            () = stopping.0.cancelled() => {}
            () = tokio::time::sleep(longest) => {}
        }
    };
    let frames = frames(hub, last, kinds, place).take_until(Box::pin(end));
    Ok(Sse::new(frames)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response())
}

fn frames(
    hub: &EventHub,
    last: Option<&str>,
    kinds: Option<HashSet<String>>,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Frame, Infallible>> + use<> {
    let subscription = hub.subscribe(last);
    // A first comment: the reader knows at once that it is connected.
    let hello = Frame::default()
        .comment("connected")
        .retry(Duration::from_secs(1));
    let first = stream::iter([hello].into_iter().chain(subscription.gap.then(gap)));
    let missed = stream::iter(subscription.missed).map(Ok);
    let live = BroadcastStream::new(subscription.live);
    let events = missed.chain(live).filter_map(move |event| {
        let _ = &place;
        std::future::ready(frame(event, kinds.as_ref()))
    });
    first.chain(events).map(Ok)
}

fn frame(
    event: Result<Arc<Event>, BroadcastStreamRecvError>,
    kinds: Option<&HashSet<String>>,
) -> Option<Frame> {
    let Ok(event) = event else {
        return Some(gap());
    };
    if kinds.is_some_and(|k| !k.contains(event.kind)) {
        return None;
    }
    let json = serde_json::to_string(&*event).ok()?;
    Some(Frame::default().id(&event.id).event(event.kind).data(json))
}

fn gap() -> Frame {
    Frame::default()
        .event("gap")
        .data(r#"{"kind":"gap","data":{"text":"events were missed; read the state anew"}}"#)
}
