//! The HTTP front: control API under `/api/v1`, the operator's console at `/`, and what machines ask
//! (`/healthz`, `/readyz`, `/metrics`). It decides nothing: it reads a request, asks the store or the
//! node loop, and writes the answer.
//!
//! A request passes, from outside in: connection limit and time-outs ([`serve`]) → body time-outs
//! ([`body::guard`]) → token (`auth`) → the handler, which for a write about a mailbox first asks
//! whether this node serves its group (`serving`) and only then reads the body → the store on a
//! blocking thread. 2xx is sent only after the store has returned, so only for what is durable.
//! Every error is a [`problem::Problem`].

mod alarms;
mod audio;
mod auth;
mod backups;
pub mod body;
pub mod callflows;
pub mod calls;
mod channels;
mod console;
mod email;
pub mod extract;
mod features;
mod greetings;
mod groups;
mod housekeeping;
mod list;
mod mailboxes;
mod maintenance;
mod messages;
mod metrics;
mod openapi;
mod phones;
pub mod problem;
mod routing;
mod server;
mod serving;
mod settings;
mod stall;
mod status;
mod stream;
mod synchronisation;
mod topology;
mod vrl;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::Extension,
    http::{HeaderName, HeaderValue, Method, Uri, header},
    middleware::{from_fn_with_state, map_response},
    response::Response,
    routing::get,
};
pub use server::{GRACE, Patience, serve, serve_router};
pub use settings::{effective as effective_failback, kept_hours};
use utoipa_axum::router::OpenApiRouter;

use self::problem::{Code, Problem};
use crate::{app::App, backups::Backups};

/// Everything people and programs ask of this node over HTTP. Serve it with [`serve_router`], which
/// puts the time-outs on; the peer's questions are `pair::router`'s.
pub fn router(app: Arc<App>) -> Router {
    let (api, document) = api_routes();
    let budget = body::Budget::new(app.config.limits.message_bytes);
    let followers = stream::Followers::new(app.config.limits.http_connections);
    let pages = console::routes(Arc::clone(&app), &document);
    let document = Arc::new(document);
    let api = api
        .route(
            "/api/v1/openapi.json",
            get(move || async move { Json((*document).clone()) }),
        )
        .route("/metrics", get(metrics::metrics))
        .layer(from_fn_with_state(Arc::clone(&app), serving::freshness))
        .layer(from_fn_with_state(Arc::clone(&app), auth::bearer))
        .with_state(Arc::clone(&app));
    let open = Router::new()
        .route("/healthz", get(status::healthz))
        .route("/readyz", get(status::readyz))
        .with_state(app);
    api.merge(open)
        .merge(pages)
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(map_response(hardened))
        .layer(Extension(followers))
        .layer(Extension(Arc::new(Backups::new())))
        .layer(Extension(budget))
}

/// The documented routes and their OpenAPI document.
fn api_routes() -> (Router<Arc<App>>, utoipa::openapi::OpenApi) {
    let v1 = OpenApiRouter::new()
        .merge(status::routes())
        .merge(groups::routes())
        .merge(maintenance::routes())
        .merge(topology::routes())
        .merge(settings::routes())
        .merge(housekeeping::routes())
        .merge(routing::routes())
        .merge(mailboxes::routes())
        .merge(greetings::routes())
        .merge(messages::routes())
        .merge(calls::routes())
        .merge(callflows::routes())
        .merge(phones::routes())
        .merge(features::routes())
        .merge(synchronisation::routes())
        .merge(email::routes())
        .merge(channels::routes())
        .merge(vrl::routes())
        .merge(alarms::routes())
        .merge(backups::routes())
        .merge(stream::routes());
    OpenApiRouter::with_openapi(openapi::document())
        .nest("/api/v1", v1)
        .split_for_parts()
}

async fn no_such_path(uri: Uri) -> Problem {
    Problem::not_found(format_args!("{}", uri.path()))
}

async fn no_such_method(method: Method, uri: Uri) -> Problem {
    let detail = format!(
        "{method} is not for {}; the Allow header lists what is",
        uri.path()
    );
    Problem::new(Code::MethodNotAllowed, detail)
}

/// Headers that hold for every answer, pages and JSON alike.
async fn hardened(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &'static str| {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    };
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::REFERRER_POLICY, "no-referrer");
    set(header::CACHE_CONTROL, "no-store");
    set(
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_tells_of_every_route_and_its_problems() {
        let (_, document) = api_routes();
        let json = serde_json::to_value(&document).unwrap();
        let paths = json["paths"].as_object().unwrap();
        for path in [
            "/api/v1/status",
            "/api/v1/groups/{group}/activate-backup",
            "/api/v1/mailboxes/{ext}/messages/{id}/audio",
            "/api/v1/events",
            "/api/v1/features",
            "/api/v1/systems/{name}/alive",
        ] {
            assert!(paths.contains_key(path), "{path} is missing");
        }
        for (path, methods) in paths {
            for (method, operation) in methods.as_object().unwrap() {
                assert!(
                    operation["summary"].as_str().is_some_and(|s| !s.is_empty()),
                    "{method} {path} has no summary"
                );
            }
        }
    }
}
