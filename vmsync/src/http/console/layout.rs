//! The frame of every page, and the page of an error.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, html};

use super::session::Session;
use crate::{app::App, http::problem::Problem};

/// Which page is open, for the menu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Here {
    Overview,
    Mailboxes,
    Proof,
    Docs,
    Elsewhere,
}

/// A page for somebody signed in.
pub(super) fn page(
    app: &App,
    session: Option<&Session>,
    here: Here,
    title: &str,
    body: &Markup,
) -> Markup {
    let node = &app.config.node;
    let menu = [
        (Here::Overview, "/", "Overview"),
        (Here::Mailboxes, "/console/mailboxes", "Mailboxes"),
        (Here::Proof, "/console/proof", "Proof"),
        (Here::Docs, "/api/docs", "API"),
    ];
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · " (node.id) " · vmsync" }
                link rel="icon" href="/static/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/static/console.css";
                script src="/static/console.js" defer {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header.top {
                    a.brand href="/" {
                        b { "vmsync" }
                        span { (node.id) }
                    }
                    @if let Some(session) = session {
                        nav aria-label="Pages" {
                            @for (page, href, name) in menu {
                                a href=(href) aria-current=[(page == here).then_some("page")] { (name) }
                            }
                        }
                        form.signout method="post" action="/logout" {
                            (form_token(session))
                            button.quiet type="submit" { "Sign out" }
                        }
                    }
                }
                main #main tabindex="-1" { (body) }
                footer.foot {
                    (node.fqdn) " · vmsync " (env!("CARGO_PKG_VERSION"))
                    @if let Some(session) = session {
                        " · signed in with a token of scope "
                        @if session.admin { "admin" } @else { "read" }
                    }
                }
            }
        }
    }
}

/// The hidden field that every form carries.
pub(super) fn form_token(session: &Session) -> Markup {
    html! { input type="hidden" name="form_token" value=(session.form_token); }
}

/// An error on a page.
pub(super) struct Oops(pub(super) Problem);

impl<E: Into<Problem>> From<E> for Oops {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Oops {
    fn into_response(self) -> Response {
        let status = match self.0.status() {
            s if s.is_client_error() || s.is_server_error() => s,
            // A redirect to the other node makes no sense for a page of this one.
            _ => StatusCode::CONFLICT,
        };
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { "Not done · vmsync" }
                    link rel="stylesheet" href="/static/console.css";
                }
                body {
                    header.top { a.brand href="/" { b { "vmsync" } } }
                    main #main {
                        section.panel.narrow role="alert" {
                            h1 { "Not done" }
                            p { (self.0.detail()) }
                            p.muted { "Code " code { (self.0.code()) } ", HTTP " (self.0.status().as_u16()) }
                            p { a.button href="/" { "Back to the overview" } }
                        }
                    }
                }
            }
        };
        (status, page).into_response()
    }
}
