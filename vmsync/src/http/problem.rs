//! Every error of the control API: one type, one table of codes, one form (RFC 9457).
//!
//! A `code` is stable and for programs; `detail` is for people and says what to do. Handlers
//! return `Result<_, Problem>` and use `?`: what the store, the audio reader and the node loop
//! refuse is turned into an answer here and nowhere else.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use vmsync_config::words::InvalidWord;
use vmsync_core::audio::NotAudio;
use vmsync_store::StoreError;

use crate::{app::Refused, vrl::TakeError};

/// What went wrong, as the API's `code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// 400: not JSON, not a form, not a URL this API can read.
    Malformed,
    /// 401: no bearer token, or an unknown one.
    NoToken,
    /// 403: a `read` token where `admin` is needed.
    AdminNeeded,
    /// 403: recording needs the media-manager right (R-VR-3).
    NoMediaManagerRight,
    /// 403: a form of the console without its own token.
    NotThisForm,
    /// 404.
    NotFound,
    /// 405.
    MethodNotAllowed,
    /// 408: the body did not come in time.
    TooSlow,
    /// 409: exists already, or the state forbids it.
    Conflict,
    /// 409: an `Idempotency-Key` seen before came with other content.
    KeyReused,
    /// 409: this node has nowhere to move recordings to (R-VR-1).
    NoVrlRemote,
    /// 413: larger than the limit, which the answer names.
    TooLarge,
    /// 415 or 422: the body is no audio this system takes (R-MB-6).
    NotAudio,
    /// 416: the range is beyond the end.
    RangeNotSatisfiable,
    /// 422: a value out of its range, or an unknown field.
    Invalid,
    /// 422: the bytes are not those announced by their SHA-256.
    Damaged,
    /// 422: shorter than the shortest message kept (R-MB-8).
    TooShort,
    /// 422: longer than the longest message taken (R-MB-8).
    TooLong,
    /// 423: nothing new is accepted (R-MB-2).
    MailboxDisabled,
    /// 409: the mailbox has reached its limit of messages.
    MailboxFull,
    /// 307: another node serves the group; `Location` says where (R-FO-6).
    NotServing,
    /// 500.
    Internal,
    /// 503: the node asks its peer before it serves.
    Starting,
    /// 503: the node can't know that nobody else serves, and consistency was put first.
    Isolated,
    /// 503: the node is stopping.
    Stopping,
    /// 503: more at once than this node takes.
    Busy,
    /// 503: the audio is missing or damaged on this node's disk.
    AudioDamaged,
    /// 507: the disk is full or under its reserve.
    DiskFull,
}

impl Code {
    /// Status, text of `code`, and `title`.
    fn row(self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::Malformed => (S::BAD_REQUEST, "malformed", "The request can't be read"),
            Self::NoToken => (S::UNAUTHORIZED, "no_token", "A valid token is needed"),
            Self::AdminNeeded => (S::FORBIDDEN, "admin_needed", "An admin token is needed"),
            Self::NoMediaManagerRight => (
                S::FORBIDDEN,
                "no_media_manager_right",
                "This node may not record",
            ),
            Self::NotThisForm => (S::FORBIDDEN, "not_this_form", "The form is not from here"),
            Self::NotFound => (S::NOT_FOUND, "not_found", "Not found"),
            Self::MethodNotAllowed => (
                S::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "Method not allowed",
            ),
            Self::TooSlow => (S::REQUEST_TIMEOUT, "too_slow", "The body came too slowly"),
            Self::Conflict => (S::CONFLICT, "conflict", "The state forbids it"),
            Self::KeyReused => (
                S::CONFLICT,
                "idempotency_key_reused",
                "The Idempotency-Key belongs to other content",
            ),
            Self::NoVrlRemote => (
                S::CONFLICT,
                "no_vrl_remote",
                "This node moves no recordings",
            ),
            Self::TooLarge => (S::PAYLOAD_TOO_LARGE, "too_large", "Too large"),
            Self::NotAudio => (S::UNPROCESSABLE_ENTITY, "not_audio", "Not usable audio"),
            Self::RangeNotSatisfiable => (
                S::RANGE_NOT_SATISFIABLE,
                "range_not_satisfiable",
                "The range is beyond the end",
            ),
            Self::Invalid => (S::UNPROCESSABLE_ENTITY, "invalid", "A value is not valid"),
            Self::Damaged => (S::UNPROCESSABLE_ENTITY, "damaged", "Damaged on the way"),
            Self::TooShort => (S::UNPROCESSABLE_ENTITY, "too_short", "Message too short"),
            Self::TooLong => (S::UNPROCESSABLE_ENTITY, "too_long", "Message too long"),
            Self::MailboxDisabled => (S::LOCKED, "mailbox_disabled", "Mailbox disabled"),
            Self::MailboxFull => (S::CONFLICT, "mailbox_full", "Mailbox full"),
            Self::NotServing => (
                S::TEMPORARY_REDIRECT,
                "not_serving",
                "The other node serves this",
            ),
            Self::Internal => (S::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
            Self::Starting => (S::SERVICE_UNAVAILABLE, "starting", "The node is starting"),
            Self::Isolated => (S::SERVICE_UNAVAILABLE, "isolated", "The node is cut off"),
            Self::Stopping => (S::SERVICE_UNAVAILABLE, "stopping", "The node is stopping"),
            Self::Busy => (S::SERVICE_UNAVAILABLE, "busy", "Too much at once"),
            Self::AudioDamaged => (
                S::SERVICE_UNAVAILABLE,
                "audio_damaged",
                "The audio is missing or damaged here",
            ),
            Self::DiskFull => (S::INSUFFICIENT_STORAGE, "disk_full", "The disk is full"),
        }
    }
}

/// An error answer.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    code: String,
    title: &'static str,
    detail: String,
    more: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// The form of every error answer, `application/problem+json` (RFC 9457).
#[derive(Debug, ToSchema)]
#[schema(as = Problem)]
#[allow(dead_code, reason = "describes the JSON for the OpenAPI document")]
pub struct ProblemBody {
    /// `urn:vmsync:problem:` and the code.
    #[schema(rename = "type")]
    r#type: String,
    /// The code in words.
    title: String,
    /// HTTP status.
    status: u16,
    /// What is wrong here, and what to do.
    detail: String,
    /// Stable, for programs.
    code: String,
}

impl Problem {
    /// The same with a code of its own, where one of [`Code`] would say too little.
    #[must_use]
    pub(super) fn coded(mut self, code: &str) -> Self {
        code.clone_into(&mut self.code);
        self
    }

    /// A problem of `code`; `detail` says what, where, and what to do.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let (status, text, title) = code.row();
        Self {
            status,
            code: text.to_owned(),
            title,
            detail: detail.into(),
            more: Map::new(),
            headers: Vec::new(),
        }
    }

    /// Something that is not there; `what` names it (`mailbox 2009`).
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("{what} does not exist"))
    }

    /// A value that breaks its rule.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Code::Invalid, detail)
    }

    /// The same problem under another status (only where two statuses share a code).
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Adds a member to the JSON.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a header; a value that can't be one is left out.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    /// Says after how many seconds to try again.
    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        self.with_header(header::RETRY_AFTER, &seconds.to_string())
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The stable code.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// What is wrong, for people.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    fn json(&self) -> Value {
        let mut members = Map::new();
        let kind = format!("urn:vmsync:problem:{}", self.code);
        members.insert("type".to_owned(), kind.into());
        members.insert("title".to_owned(), self.title.into());
        members.insert("status".to_owned(), self.status.as_u16().into());
        members.insert("detail".to_owned(), self.detail.clone().into());
        members.insert("code".to_owned(), self.code.clone().into());
        members.extend(self.more.clone());
        Value::Object(members)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.json().to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        headers.extend(self.headers);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match error {
            StoreError::NotFound { .. } => Self::new(Code::NotFound, text),
            StoreError::Conflict(_) => Self::new(Code::Conflict, text),
            StoreError::Invalid(_) => Self::new(Code::Invalid, text),
            StoreError::Disabled(_) => Self::new(Code::MailboxDisabled, text),
            StoreError::MailboxFull(_) => Self::new(Code::MailboxFull, text),
            StoreError::Full { .. } => Self::new(Code::DiskFull, text).retry_after(60),
            // The operator finds path and cause in the log; a caller need not know the disk's layout.
            other => {
                tracing::error!(error = %other, "the store failed a request");
                Self::new(
                    Code::Internal,
                    "the store failed; nothing was taken; this node's log says why",
                )
            }
        }
    }
}

impl From<Refused> for Problem {
    /// The node loop's codes are passed on as they are: 409, but for those that mean something else.
    fn from(refused: Refused) -> Self {
        let code = match refused.code.as_str() {
            "not_found" | "unknown_group" | "unknown_system" => Code::NotFound,
            "invalid" => Code::Invalid,
            "starting" => Code::Starting,
            "stopping" | "peer_unreachable" | "peer_silent" => Code::Stopping,
            "too_many_phones" => Code::Busy,
            "not_durable" => Code::Internal,
            _ => Code::Conflict,
        };
        let problem = Self {
            code: refused.code,
            ..Self::new(code, refused.reason)
        };
        match code {
            Code::Starting | Code::Stopping => problem.retry_after(1),
            _ => problem,
        }
    }
}

impl From<TakeError> for Problem {
    fn from(error: TakeError) -> Self {
        let text = error.to_string();
        match error {
            TakeError::Name(_) => Self::new(Code::Invalid, format!("name: {text}")),
            TakeError::Damaged { .. } => Self::new(Code::Damaged, text),
            TakeError::Full { .. } => Self::new(Code::DiskFull, text).retry_after(60),
            TakeError::Io { .. } => {
                tracing::error!(error = %error, "a recording could not be taken in");
                Self::new(
                    Code::Internal,
                    "the recording could not be written; nothing was taken; this node's log says why",
                )
            }
        }
    }
}

impl From<NotAudio> for Problem {
    fn from(error: NotAudio) -> Self {
        Self::new(Code::NotAudio, error.to_string())
    }
}

impl From<InvalidWord> for Problem {
    fn from(error: InvalidWord) -> Self {
        Self::invalid(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_the_members_of_rfc_9457_and_a_code() {
        let problem = Problem::new(Code::TooLarge, "the body is larger than 10 bytes")
            .with("limit_bytes", 10);
        let json = problem.json();
        assert_eq!(json["type"], "urn:vmsync:problem:too_large");
        assert_eq!(json["status"], 413);
        assert_eq!(json["code"], "too_large");
        assert_eq!(json["limit_bytes"], 10);
    }

    #[test]
    fn what_the_node_refuses_keeps_its_own_code() {
        let refused = |code: &str| Refused {
            code: code.to_owned(),
            reason: "because".to_owned(),
        };
        let stale = Problem::from(refused("stale_expected_owner"));
        assert_eq!(
            (stale.status().as_u16(), stale.code()),
            (409, "stale_expected_owner")
        );
        let stopping = Problem::from(refused("stopping"));
        assert_eq!(
            (stopping.status().as_u16(), stopping.code()),
            (503, "stopping")
        );
    }

    #[test]
    fn a_full_disk_is_507_and_asks_to_come_back() {
        let full = StoreError::Full {
            path: "data".into(),
            free: 1,
            reserve: 2,
        };
        let response = Problem::from(full).into_response();
        assert_eq!(response.status(), StatusCode::INSUFFICIENT_STORAGE);
        assert!(response.headers().contains_key(header::RETRY_AFTER));
    }
}
