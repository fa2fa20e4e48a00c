//! Bodies from outside: never more bytes than the limit, never slower than the time-outs, never
//! more in memory at once than the budget.
//!
//! Every request passes [`guard`]. It puts two time-outs on the body, and when a handler answers
//! without having read it (a redirect to the other node, a missing token), it takes the rest off
//! the wire first: a client that is still sending would else lose the answer to a reset connection.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, BodyDataStream, Bytes},
    extract::{Extension, Request},
    http::{HeaderMap, header},
    middleware::Next,
    response::Response,
};
use futures_util::{Stream, StreamExt as _};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep, timeout},
};

use super::problem::{Code, Problem};

/// Longest silence inside a body.
const IDLE: Duration = Duration::from_secs(30);
/// Longest time for one whole body.
const WHOLE: Duration = Duration::from_mins(5);
/// Longest time and most bytes for taking an unread body off the wire.
const DRAIN: Duration = Duration::from_secs(10);
const DRAIN_BYTES: usize = 64 << 20;
/// How long an upload waits for room in memory before it is told to come back.
const ROOM: Duration = Duration::from_secs(5);

/// Audio bodies that may be in memory at once, in KiB.
#[derive(Clone)]
pub struct Budget(Arc<Semaphore>);

/// An audio body in memory, with its share of the budget.
pub struct Upload {
    /// The bytes.
    pub bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Budget {
    /// Room for eight of the largest bodies, 256 MiB with the default limit.
    pub fn new(largest: u64) -> Self {
        Self(Arc::new(Semaphore::new(
            kib(largest).saturating_mul(8) as usize
        )))
    }

    /// Reads an audio body of at most `limit` bytes.
    pub async fn read(&self, request: Request, limit: u64) -> Result<Upload, Problem> {
        let expected = declared(request.headers()).unwrap_or(limit);
        if expected > limit {
            return Err(too_large(limit));
        }
        let room = Arc::clone(&self.0).acquire_many_owned(kib(expected));
        let room = timeout(ROOM, room)
            .await
            .ok()
            .and_then(Result::ok)
            .ok_or_else(|| {
                Problem::new(Code::Busy, "too many uploads at once; try again").retry_after(2)
            })?;
        let bytes = read(request, limit).await?;
        Ok(Upload { bytes, _room: room })
    }
}

/// Reads a whole body of at most `limit` bytes.
pub async fn read(request: Request, limit: u64) -> Result<Bytes, Problem> {
    if declared(request.headers()).is_some_and(|n| n > limit) {
        return Err(too_large(limit));
    }
    let mut stream = request.into_body().into_data_stream();
    let mut whole = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|e| broken(&e))?;
        if (whole.len() + chunk.len()) as u64 > limit {
            return Err(too_large(limit));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.into())
}

fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024).max(1)).unwrap_or(u32::MAX)
}

fn declared(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn too_large(limit: u64) -> Problem {
    let text = format!(
        "the body is larger than {limit} bytes, the most this address takes; send less, or raise limits.message_bytes where audio is meant"
    );
    Problem::new(Code::TooLarge, text).with("limit_bytes", limit)
}

fn broken(error: &axum::Error) -> Problem {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    match cause.downcast_ref::<std::io::Error>() {
        Some(e) if e.kind() == std::io::ErrorKind::TimedOut => {
            Problem::new(Code::TooSlow, "the body stopped coming; nothing was taken")
        }
        _ => Problem::new(
            Code::Malformed,
            format!("the body broke off: {cause}; nothing was taken"),
        ),
    }
}

/// Middleware around everything: see the module's head.
pub async fn guard(
    Extension(limits): Extension<Timeouts>,
    request: Request,
    next: Next,
) -> Response {
    // Who asked first whether to send has not sent: draining would invite the body.
    let asked_first = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let watched = Watched::new(body, limits);
    let mut rest = watched.clone();
    let response = next
        .run(Request::from_parts(parts, Body::from_stream(watched)))
        .await;
    if !asked_first && !rest.ended() {
        let drained = timeout(DRAIN, rest.drain(DRAIN_BYTES)).await;
        tracing::trace!(
            in_time = drained.is_ok(),
            "took an unread body off the wire"
        );
    }
    response
}

/// Time-outs of a body.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Longest silence.
    pub idle: Duration,
    /// Longest time for the whole.
    pub whole: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            idle: IDLE,
            whole: WHOLE,
        }
    }
}

/// A body shared by the handler and by [`guard`].
#[derive(Clone)]
struct Watched(Arc<Shared>);

struct Shared {
    ended: AtomicBool,
    inner: Mutex<Inner>,
}

struct Inner {
    stream: BodyDataStream,
    silence: Pin<Box<Sleep>>,
    end: Instant,
    limits: Timeouts,
}

impl Watched {
    fn new(body: Body, limits: Timeouts) -> Self {
        let ended = axum::body::HttpBody::is_end_stream(&body);
        let inner = Inner {
            stream: body.into_data_stream(),
            silence: Box::pin(sleep(limits.idle)),
            end: Instant::now() + limits.whole,
            limits,
        };
        Self(Arc::new(Shared {
            ended: AtomicBool::new(ended),
            inner: Mutex::new(inner),
        }))
    }

    fn ended(&self) -> bool {
        self.0.ended.load(Ordering::Relaxed)
    }

    async fn drain(&mut self, most: usize) {
        let mut taken = 0;
        while taken < most {
            match self.next().await {
                Some(Ok(chunk)) => taken += chunk.len(),
                Some(Err(_)) | None => return,
            }
        }
    }
}

impl Stream for Watched {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended() {
            return Poll::Ready(None);
        }
        let mut inner = self.0.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let next = ready!(inner.poll(cx));
        if !matches!(next, Some(Ok(_))) {
            self.0.ended.store(true, Ordering::Relaxed);
        }
        Poll::Ready(next)
    }
}

impl Inner {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, axum::Error>>> {
        let now = Instant::now();
        if now < self.end
            && let Poll::Ready(next) = self.stream.poll_next_unpin(cx)
        {
            self.silence
                .as_mut()
                .reset((now + self.limits.idle).min(self.end));
            return Poll::Ready(next);
        }
        ready!(self.silence.as_mut().poll(cx));
        let slow = std::io::Error::from(std::io::ErrorKind::TimedOut);
        Poll::Ready(Some(Err(axum::Error::new(slow))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: Body) -> Request {
        Request::new(body)
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_with_the_limit() {
        let problem = read(request(Body::from("12345")), 4).await.unwrap_err();
        assert_eq!(problem.code(), "too_large");
        assert!(problem.detail().contains("4 bytes"));
    }

    const QUICK: Timeouts = Timeouts {
        idle: Duration::from_millis(100),
        whole: Duration::from_millis(300),
    };

    #[tokio::test]
    async fn a_body_that_stops_coming_is_given_up() {
        let silent = futures_util::stream::pending::<Result<Bytes, axum::Error>>();
        let watched = Watched::new(Body::from_stream(silent), QUICK);
        let problem = read(request(Body::from_stream(watched)), 10)
            .await
            .unwrap_err();
        assert_eq!(problem.code(), "too_slow");
    }

    #[tokio::test]
    async fn a_trickle_ends_with_the_time_for_the_whole() {
        let trickle = futures_util::stream::unfold((), |()| async {
            sleep(Duration::from_millis(20)).await;
            Some((Ok::<_, axum::Error>(Bytes::from_static(b".")), ()))
        });
        let watched = Watched::new(Body::from_stream(trickle), QUICK);
        let problem = read(request(Body::from_stream(watched)), 100_000)
            .await
            .unwrap_err();
        assert_eq!(problem.code(), "too_slow");
    }
}
