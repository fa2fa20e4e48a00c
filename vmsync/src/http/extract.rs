//! Reading requests: path, query and JSON whose every rejection is a [`Problem`] that names the field.

use axum::{
    extract::{
        FromRequest, FromRequestParts, OptionalFromRequest, Request, rejection::PathRejection,
    },
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use super::{
    body,
    problem::{Code, Problem},
};

/// Largest JSON body, bytes.
pub const JSON_BYTES: u64 = 256 * 1024;

/// Path parameters.
#[derive(Debug)]
pub struct Path<T>(pub T);

/// Query parameters; unknown names are refused where `T` denies them.
#[derive(Debug)]
pub struct Query<T>(pub T);

/// A JSON body, whatever its `Content-Type`: bearer tokens leave no room for cross-site forms.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        axum::extract::Path::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(value)| Self(value))
            .map_err(|rejection| match rejection {
                PathRejection::FailedToDeserializePathParams(e) => Problem::invalid(e.body_text()),
                other => Problem::new(Code::Malformed, other.body_text()),
            })
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|axum::extract::Query(value)| Self(value))
            .map_err(|e| Problem::invalid(format!("query: {}", deepest(&e))))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bytes = body::read(request, JSON_BYTES).await?;
        parse(&bytes).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned> OptionalFromRequest<S> for Json<T> {
    type Rejection = Problem;
    /// `None` for an empty body.
    async fn from_request(request: Request, _: &S) -> Result<Option<Self>, Problem> {
        let bytes = body::read(request, JSON_BYTES).await?;
        if bytes.is_empty() {
            return Ok(None);
        }
        parse(&bytes).map(|value| Some(Self(value)))
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        // serde names the field: "unknown field `colour`, expected one of …".
        serde_json::error::Category::Data => Problem::invalid(format!("body: {error}")),
        _ => Problem::new(Code::Malformed, format!("the body is not JSON: {error}")),
    })
}

/// The innermost cause: the outer ones only say that something failed.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(next) = error.source() {
        error = next;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Lamp {
        #[allow(dead_code, reason = "only its name matters here")]
        on: bool,
    }

    #[test]
    fn an_unknown_field_is_named() {
        let problem = parse::<Lamp>(br#"{"on": true, "colour": "red"}"#).unwrap_err();
        assert_eq!(problem.code(), "invalid");
        assert!(
            problem.detail().contains("`colour`"),
            "{}",
            problem.detail()
        );
    }

    #[test]
    fn what_is_not_json_is_malformed() {
        assert_eq!(parse::<Lamp>(b"on=true").unwrap_err().code(), "malformed");
    }
}
