//! The operator's console: pages made on the server, readable without scripts, kept live by a small
//! one. Signing in takes a token of the node's tokens file; what is kept in the browser is only a
//! random id in a cookie that scripts can't read and other sites can't send.

mod actions;
mod docs;
#[cfg(test)]
pub(crate) mod example;
mod layout;
mod mailboxes;
mod nodes;
mod overview;
mod proof;
mod recordings;
mod sentence;
mod session;
mod words;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{
        DefaultBodyLimit, Extension, Form, FromRequestParts, OptionalFromRequestParts, State,
        rejection::FormRejection,
    },
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;
use utoipa::openapi::OpenApi;

use self::{
    layout::{Here, Oops, page},
    overview::Overview,
    session::{IDLE, Session, Sessions},
};
use super::{
    auth,
    extract::Query,
    problem::{Code, Problem},
    server::Stopping,
    stream::{Followers, follow},
};
use crate::{app::App, clock};

/// Largest form, bytes.
const FORM_BYTES: usize = 16 * 1024;
/// An event stream of the console ends after this long; the browser comes back, its session is checked again.
const STREAM: Duration = Duration::from_mins(15);
/// How much of history, alarms and events the overview shows.
const SHOWN: usize = 8;
const EVENTS: usize = 12;

/// What the pages share.
pub(super) struct Console {
    app: Arc<App>,
    sessions: Sessions,
    document: Value,
}

/// Everything under `/` that is for people.
pub(super) fn routes(app: Arc<App>, document: &OpenApi) -> Router {
    let document = serde_json::to_value(document).unwrap_or_default();
    let console = Arc::new(Console {
        app,
        sessions: Sessions::default(),
        document,
    });
    Router::new()
        .route("/", get(overview_page))
        .route("/login", get(login_page).post(login))
        .route("/logout", post(actions::sign_out))
        .route("/console/fragment", get(fragment))
        .route("/console/events", get(events))
        .route(
            "/console/groups/{group}/{action}",
            get(actions::confirm).post(actions::act),
        )
        .route("/console/alarms/{id}/ack", post(actions::acknowledge))
        .route("/console/recordings/transfer", post(recordings::transfer))
        .route("/console/recordings/test", post(recordings::test))
        .route("/console/mailboxes", get(mailboxes::list))
        .route("/console/mailboxes/{ext}", get(mailboxes::read))
        .route(
            "/console/mailboxes/{ext}/messages/{id}/audio",
            get(mailboxes::listen),
        )
        .route("/console/proof", get(proof::show))
        .route("/api/docs", get(docs::docs))
        .route("/static/{file}", get(asset))
        .layer(DefaultBodyLimit::max(FORM_BYTES))
        .with_state(console)
}

/// The session of a request. Without one the asker is led to the login page.
pub(super) struct SignedIn {
    id: String,
    session: Session,
}

impl SignedIn {
    /// Whether this form may change something.
    fn may_act(&self, form_token: &str) -> Result<(), Problem> {
        self.own_form(form_token)?;
        if self.session.admin {
            return Ok(());
        }
        Err(Problem::new(
            Code::AdminNeeded,
            "you are signed in with a token of scope read; sign in with an admin token to change anything",
        ))
    }

    /// Whether this form was made for this session.
    fn own_form(&self, form_token: &str) -> Result<(), Problem> {
        if self.session.sent(form_token) {
            return Ok(());
        }
        Err(Problem::new(
            Code::NotThisForm,
            "the form was not made for this session; open the page again",
        ))
    }
}

impl FromRequestParts<Arc<Console>> for SignedIn {
    type Rejection = Redirect;
    async fn from_request_parts(
        parts: &mut Parts,
        console: &Arc<Console>,
    ) -> Result<Self, Redirect> {
        console
            .signed_in(&parts.headers)
            .ok_or_else(|| Redirect::to("/login"))
    }
}

impl OptionalFromRequestParts<Arc<Console>> for SignedIn {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(
        parts: &mut Parts,
        console: &Arc<Console>,
    ) -> Result<Option<Self>, Self::Rejection> {
        Ok(console.signed_in(&parts.headers))
    }
}

impl Console {
    /// One cookie a node: browsers don't tell ports apart, and two nodes may share a host.
    fn cookie_name(&self) -> String {
        format!("vmsync-{}", self.app.config.node.id)
    }

    fn signed_in(&self, headers: &HeaderMap) -> Option<SignedIn> {
        let name = self.cookie_name();
        let id = headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find_map(|(n, value)| (n == name).then(|| value.to_owned()))?;
        let session = self.sessions.find(&id, clock::now().mono)?;
        Some(SignedIn { id, session })
    }

    async fn parts(&self, session: &Session) -> Markup {
        let app = &self.app;
        let status = app.node.status();
        let mut history = Vec::new();
        for group in app.topology().groups() {
            history.extend(app.node.history(group.name.clone()).await);
        }
        history.sort_by_key(|o| std::cmp::Reverse((o.since, o.epoch)));
        history.truncate(SHOWN);
        // Those that are up first, newest of each kind first.
        let (mut alarms, ended) = app.alarms.read(|all| {
            let (mut up, mut ended) = (Vec::new(), Vec::new());
            for alarm in all.rev() {
                let place = match alarm.cleared {
                    None => &mut up,
                    Some(_) => &mut ended,
                };
                if place.len() < SHOWN {
                    place.push(alarm.clone());
                }
            }
            (up, ended)
        });
        alarms.extend(ended);
        alarms.truncate(SHOWN);
        let mut events = app.events.recent(EVENTS);
        events.reverse();
        Overview {
            status: &status,
            recordings: &app.recordings(),
            history: &history,
            alarms: &alarms,
            events: &events,
            session,
        }
        .render()
    }
}

async fn overview_page(
    State(console): State<Arc<Console>>,
    SignedIn { id, session }: SignedIn,
) -> Markup {
    let notice = console.sessions.take_notice(&id);
    let body = html! {
        @if let Some(notice) = notice { p.notice role="status" { (notice) } }
        p.offline hidden role="alert" { "This node no longer answers. What you see may be out of date." }
        div #live { (console.parts(&session).await) }
    };
    page(
        &console.app,
        Some(&session),
        Here::Overview,
        "Overview",
        &body,
    )
}

async fn fragment(
    State(console): State<Arc<Console>>,
    SignedIn { session, .. }: SignedIn,
) -> Markup {
    console.parts(&session).await
}

async fn events(
    State(console): State<Arc<Console>>,
    _: SignedIn,
    Extension(followers): Extension<Followers>,
    stopping: Option<Extension<Stopping>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let last = headers.get("last-event-id").and_then(|v| v.to_str().ok());
    let stopping = stopping.map(|Extension(s)| s).unwrap_or_default();
    follow(
        &console.app.events,
        last,
        None,
        &followers,
        stopping,
        STREAM,
    )
}

/// Where to go after signing in.
#[derive(Debug, Deserialize)]
struct Next {
    next: Option<String>,
}

async fn login_page(State(console): State<Arc<Console>>, Query(next): Query<Next>) -> Markup {
    login_form(&console, next.next.as_deref(), None)
}

fn login_form(console: &Console, next: Option<&str>, error: Option<&str>) -> Markup {
    let node = &console.app.config.node;
    let body = html! {
        section.panel.narrow.login {
            p.label { (node.fqdn) }
            h1 { "Sign in" }
            @if let Some(error) = error { p.reason role="alert" id="error" { (error) } }
            form.stack method="post" action="/login" {
                @if let Some(next) = next { input type="hidden" name="next" value=(next); }
                label for="token" { "Token" }
                input id="token" name="token" type="password" required autofocus autocomplete="current-password" aria-describedby="hint";
                p.muted id="hint" { "From this node's tokens file. A " code { "read" } " token looks; an " code { "admin" } " token may press the buttons." }
                button.primary type="submit" { "Sign in" }
            }
        }
    };
    page(&console.app, None, Here::Elsewhere, "Sign in", &body)
}

/// What the login form sends.
#[derive(Deserialize)]
struct Login {
    token: String,
    next: Option<String>,
}

async fn login(
    State(console): State<Arc<Console>>,
    headers: HeaderMap,
    form: Result<Form<Login>, FormRejection>,
) -> Result<Response, Oops> {
    let form = actions::sent(form)?;
    let Some(scope) = console.app.tokens.check(form.token.trim()) else {
        tokio::time::sleep(auth::FAILED).await;
        let page = login_form(
            &console,
            form.next.as_deref(),
            Some("This is not a token of this node."),
        );
        return Ok((StatusCode::UNAUTHORIZED, page).into_response());
    };
    let id = console
        .sessions
        .begin(scope, clock::now().mono)
        .ok_or_else(|| {
            Problem::new(
                Code::Internal,
                "the system gives no random bytes; nobody can sign in",
            )
        })?;
    let to = form
        .next
        .filter(|n| own_path(n))
        .unwrap_or_else(|| "/".to_owned());
    // Behind a proxy that ends TLS the cookie must not travel in the clear either.
    let https = headers
        .get("x-forwarded-proto")
        .is_some_and(|v| v == "https");
    let cookie = format!(
        "{}={id}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{}",
        console.cookie_name(),
        IDLE.as_secs(),
        if https { "; Secure" } else { "" }
    );
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to(&to)).into_response())
}

/// Only paths of this node: a login must not lead elsewhere.
fn own_path(next: &str) -> bool {
    next.starts_with('/')
        && !next.starts_with("//")
        && next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
}

async fn asset(
    axum::extract::Path(file): axum::extract::Path<String>,
) -> Result<Response, Problem> {
    let (kind, text) = match file.as_str() {
        "console.css" => (
            "text/css; charset=utf-8",
            include_str!("../static/console.css"),
        ),
        "console.js" => (
            "text/javascript; charset=utf-8",
            include_str!("../static/console.js"),
        ),
        "icon.svg" => ("image/svg+xml", include_str!("../static/icon.svg")),
        _ => return Err(Problem::not_found(format_args!("/static/{file}"))),
    };
    Ok((
        [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, "no-cache"),
        ],
        text,
    )
        .into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_leads_only_to_this_node() {
        assert!(own_path("/api/docs"));
        for elsewhere in [
            "//evil.example",
            "https://evil.example",
            "/\\evil.example",
            "/a\r\nb",
            "",
        ] {
            assert!(!own_path(elsewhere), "{elsewhere}");
        }
    }
}
