//! Audio in and out: what is taken, and how the exact bytes are handed back, whole or in part.

use std::{io::Read, ops::Range, sync::Arc};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use vmsync_core::audio::measure;
use vmsync_store::{AudioRef, EntityKey, StoreError};

use super::problem::{Code, Problem};
use crate::app::App;

/// Bytes read from the store at a time.
const CHUNK: usize = 64 * 1024;

/// Refuses a body that says itself it is no audio, before it is read.
pub(super) fn declared_audio(headers: &HeaderMap) -> Result<(), Problem> {
    let essence = essence(headers);
    let audio = essence.is_empty()
        || essence == "application/octet-stream"
        || essence == "application/ogg"
        || essence.starts_with("audio/");
    if audio {
        return Ok(());
    }
    let detail = format!(
        "Content-Type is {essence:?}; send audio/wav (G.711 or 16-bit PCM at 8 or 16 kHz) or audio/ogg (Opus)"
    );
    Err(Problem::new(Code::NotAudio, detail).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE))
}

/// Measures `bytes` and gives them an id of their own (R-MB-6). Blocks for the time of a hash.
pub(super) fn reference(headers: &HeaderMap, bytes: &[u8]) -> Result<AudioRef, Problem> {
    let measured = measure(bytes)?;
    Ok(AudioRef {
        blob: Uuid::now_v7(),
        sha256: hex::encode(Sha256::digest(bytes)),
        bytes: bytes.len() as u64,
        content_type: content_type(&essence(headers), measured.content_type),
        codec: measured.codec.to_owned(),
        duration_ms: measured.duration_ms,
    })
}

/// The type as it was sent where it is another name of what the bytes are; else what they are.
fn content_type(sent: &str, measured: &str) -> String {
    let same = match measured {
        "audio/wav" => matches!(
            sent,
            "audio/wav" | "audio/x-wav" | "audio/wave" | "audio/vnd.wave"
        ),
        "audio/ogg" => matches!(sent, "audio/ogg" | "audio/opus" | "application/ogg"),
        _ => false,
    };
    if same { sent } else { measured }.to_owned()
}

fn essence(headers: &HeaderMap) -> String {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    let essence = value.split(';').next().unwrap_or("").trim();
    essence
        .chars()
        .take(80)
        .collect::<String>()
        .to_ascii_lowercase()
}

/// Answers with the audio: 200, 206 for a single range, 304 where the asker has it, 416 beyond its end.
/// Several ranges at once are answered with the whole (RFC 9110 section 14.2 allows it).
pub(super) async fn answer(
    app: &Arc<App>,
    entity: EntityKey,
    audio: &AudioRef,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let etag = format!("\"{}\"", audio.sha256);
    if matches_tag(headers, header::IF_NONE_MATCH, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    let fresh =
        !headers.contains_key(header::IF_RANGE) || matches_tag(headers, header::IF_RANGE, &etag);
    let wanted = headers
        .get(header::RANGE)
        .filter(|_| fresh)
        .and_then(|v| v.to_str().ok());
    let part = match wanted.map_or(Part::Whole, |text| range(text, audio.bytes)) {
        Part::Beyond => return Err(beyond(audio.bytes)),
        Part::Whole => None,
        Part::Of(part) => Some(part),
    };
    let status = if part.is_some() {
        StatusCode::PARTIAL_CONTENT
    } else {
        StatusCode::OK
    };
    let span = part.clone().unwrap_or(0..audio.bytes);
    let name = match &entity {
        EntityKey::Message(id) => id.to_string(),
        EntityKey::Greeting(ext, kind) => format!("{ext}-{}", kind.as_str()),
        other => other.to_string().replace('/', "-"),
    };
    let body = match stream(app, audio.blob, span.clone()).await {
        Ok(body) => body,
        Err(error) => return Err(unreadable(app, entity, error).await),
    };
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    let mut set = |name, text: &str| {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    };
    set(header::CONTENT_TYPE, &audio.content_type);
    set(header::CONTENT_LENGTH, &(span.end - span.start).to_string());
    set(header::ACCEPT_RANGES, "bytes");
    set(header::ETAG, &etag);
    set(header::CACHE_CONTROL, "private, no-cache");
    let ending = if audio.content_type == "audio/ogg" {
        "ogg"
    } else {
        "wav"
    };
    set(
        header::CONTENT_DISPOSITION,
        &format!("inline; filename=\"{name}.{ending}\""),
    );
    if part.is_some() {
        let of = format!("bytes {}-{}/{}", span.start, span.end - 1, audio.bytes);
        set(header::CONTENT_RANGE, &of);
    }
    Ok(response)
}

/// The file can't be opened. If that is the file's fault, it is noted, and the peer asked for its copy.
async fn unreadable(app: &App, entity: EntityKey, error: StoreError) -> Problem {
    let of = entity.clone();
    match app.store(move |s| s.check_audio_of(&[of])).await {
        Ok(false) => {
            let detail = format!(
                "the audio of {entity} is missing or damaged on this node's disk; the peer is asked for its copy: try again in a few seconds, or ask the other node"
            );
            Problem::new(Code::AudioDamaged, detail).retry_after(5)
        }
        Ok(true) | Err(_) => error.into(),
    }
}

/// Streams a span of a stored file: one chunk in memory, read on a blocking thread when it is wanted.
async fn stream(app: &App, blob: Uuid, span: Range<u64>) -> Result<Body, StoreError> {
    let length = span.end - span.start;
    let reader = app.store(move |s| s.open_audio(blob, span.start)).await?;
    let chunks =
        futures_util::stream::try_unfold((reader, length), |(mut reader, left)| async move {
            if left == 0 {
                return Ok(None);
            }
            let read = tokio::task::spawn_blocking(move || {
                let mut chunk = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
                let count = reader.read(&mut chunk)?;
                chunk.truncate(count);
                std::io::Result::Ok((reader, Bytes::from(chunk)))
            });
            let (reader, chunk) = read.await.map_err(std::io::Error::other)??;
            if chunk.is_empty() {
                // The answer's length is promised already: only breaking it off tells the truth.
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
            }
            let left = left.saturating_sub(chunk.len() as u64);
            Ok(Some((chunk, (reader, left))))
        });
    Ok(Body::from_stream(chunks))
}

fn matches_tag(headers: &HeaderMap, name: header::HeaderName, etag: &str) -> bool {
    let value = headers
        .get(name)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    value
        .split(',')
        .map(|t| t.trim().trim_start_matches("W/"))
        .any(|t| t == etag || t == "*")
}

fn beyond(length: u64) -> Problem {
    let detail = format!("the audio has {length} bytes; ask for a range inside them");
    Problem::new(Code::RangeNotSatisfiable, detail)
        .with_header(header::CONTENT_RANGE, &format!("bytes */{length}"))
}

/// What a `Range` header asks for.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// All of it, also for what is no single range of bytes.
    Whole,
    /// This part; never empty.
    Of(Range<u64>),
    /// Nothing that is there.
    Beyond,
}

/// Reads a `Range` header for a file of `length` bytes (RFC 9110 section 14.1.2).
fn range(text: &str, length: u64) -> Part {
    let Some(spec) = text.trim().strip_prefix("bytes=") else {
        return Part::Whole;
    };
    let Some((first, last)) = spec.split_once('-').filter(|_| !spec.contains(',')) else {
        return Part::Whole;
    };
    let (start, end) = match (first.trim(), last.trim()) {
        ("", suffix) => match suffix.parse::<u64>() {
            Ok(count) => (length.saturating_sub(count), length),
            Err(_) => return Part::Whole,
        },
        (first, "") => match first.parse() {
            Ok(start) => (start, length),
            Err(_) => return Part::Whole,
        },
        (first, last) => match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(start), Ok(last)) if start <= last => (start, last.saturating_add(1).min(length)),
            _ => return Part::Whole,
        },
    };
    if start < end {
        Part::Of(start..end)
    } else {
        Part::Beyond
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_rfc_9110_gives_them() {
        for (text, expected) in [
            ("bytes=0-499", Part::Of(0..500)),
            ("bytes=500-", Part::Of(500..1000)),
            ("bytes=-200", Part::Of(800..1000)),
            ("bytes=-5000", Part::Of(0..1000)),
            ("bytes=999-5000", Part::Of(999..1000)),
            ("bytes=1000-", Part::Beyond),
            ("bytes=-0", Part::Beyond),
            ("bytes=5-4", Part::Whole),
            ("bytes=0-1,5-6", Part::Whole),
            ("lines=1-2", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=0-18446744073709551615", Part::Of(0..1000)),
        ] {
            assert_eq!(range(text, 1000), expected, "{text}");
        }
        assert_eq!(range("bytes=0-", 0), Part::Beyond);
    }

    #[test]
    fn the_type_is_kept_as_sent_only_where_it_tells_the_truth() {
        assert_eq!(content_type("audio/x-wav", "audio/wav"), "audio/x-wav");
        assert_eq!(content_type("audio/mpeg", "audio/wav"), "audio/wav");
        assert_eq!(content_type("", "audio/ogg"), "audio/ogg");
    }

    #[test]
    fn what_says_it_is_no_audio_is_refused_unread() {
        let kind =
            |text| HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(text))]);
        assert_eq!(
            declared_audio(&kind("text/plain; charset=utf-8"))
                .unwrap_err()
                .status(),
            415
        );
        assert!(declared_audio(&kind("Audio/WAV")).is_ok());
        assert!(declared_audio(&HeaderMap::new()).is_ok());
    }
}
