//! Bearer tokens (RFC 6750): reading needs scope `read`, everything else `admin`.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::problem::{Code, Problem};
use crate::{
    app::App,
    keys::{Scope, Tokens},
};

/// What a wrong token costs before its answer: guessing stays hopeless, a typing error cheap.
pub(super) const FAILED: Duration = Duration::from_millis(250);

/// Middleware of everything under `/api/v1` and of `/metrics`.
pub(super) async fn bearer(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match allowed(&app.tokens, request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => {
            if problem.code() == "no_token" && request.headers().contains_key(header::AUTHORIZATION)
            {
                tokio::time::sleep(FAILED).await;
            }
            problem.into_response()
        }
    }
}

fn allowed(tokens: &Tokens, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    let scope = token(headers).and_then(|t| tokens.check(t));
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match scope {
        Some(Scope::Admin) => Ok(()),
        Some(Scope::Read) if reads => Ok(()),
        Some(Scope::Read) => Err(Problem::new(
            Code::AdminNeeded,
            "this token has scope read; changing anything needs one with scope admin from the node's tokens file",
        )),
        None => Err(Problem::new(
            Code::NoToken,
            "send Authorization: Bearer and a token of the node's tokens file (http.tokens_file)",
        )
        .with_header(header::WWW_AUTHENTICATE, "Bearer realm=\"vmsync\"")),
    }
}

/// Whether the request carries a token that may read.
pub(super) fn reads(tokens: &Tokens, headers: &HeaderMap) -> bool {
    allowed(tokens, &Method::GET, headers).is_ok()
}

/// The bearer token of a request; the scheme's name in any case (RFC 9110 section 11.1).
fn token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn with(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))])
    }

    #[test]
    fn the_token_follows_the_scheme() {
        assert_eq!(token(&with("Bearer abc")), Some("abc"));
        assert_eq!(token(&with("bearer  abc ")), Some("abc"));
        assert_eq!(token(&with("Basic abc")), None);
        assert_eq!(token(&with("abc")), None);
    }
}
