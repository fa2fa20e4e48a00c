//! The two buttons and the acknowledgement of alarms. A button leads to a page that says what would
//! happen, as the node's own dry run tells it; only its form acts, and only while the owner is still
//! the one the page named.

use std::sync::Arc;

use axum::{
    extract::{Form, State, rejection::FormRejection},
    response::Redirect,
};
use maud::{Markup, html};
use serde::Deserialize;
use vmsync_core::resilience::Request;

use super::{
    Console, SignedIn,
    layout::{Here, Oops, form_token, page},
};
use crate::{
    app::Guard,
    http::{
        extract::Path,
        groups::{known, operate},
        problem::{Code, Problem},
    },
};

/// One of the buttons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Activate,
    Failback,
}

impl Action {
    fn read(name: &str) -> Result<Self, Problem> {
        match name {
            "activate-backup" => Ok(Self::Activate),
            "failback" => Ok(Self::Failback),
            other => Err(Problem::not_found(format_args!("action {other:?}"))),
        }
    }

    /// As in the address.
    fn path(self) -> &'static str {
        match self {
            Self::Activate => "activate-backup",
            Self::Failback => "failback",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Activate => "Activate Backup Server",
            Self::Failback => "Failback",
        }
    }

    /// What the list of an outcome is about.
    fn waits(self) -> &'static str {
        match self {
            Self::Activate => "Failback will then wait for",
            Self::Failback => "It will wait for",
        }
    }

    fn request(self, force: bool) -> Request {
        match self {
            Self::Activate => Request::ActivateBackup,
            Self::Failback => Request::Failback { force },
        }
    }
}

/// The page before the deed.
pub(super) async fn confirm(
    State(console): State<Arc<Console>>,
    SignedIn { session, .. }: SignedIn,
    Path((group, action)): Path<(String, String)>,
) -> Result<Markup, Oops> {
    let app = &console.app;
    let action = Action::read(&action)?;
    let configured = known(app, &group)?;
    let status = app.node.status();
    let seen = status
        .groups
        .iter()
        .find(|g| g.name == configured.name.as_str())
        .ok_or_else(crate::http::serving::starting)?;
    let would = Guard {
        dry_run: true,
        expected_owner: Some(seen.owner.clone()),
        ..Guard::default()
    };
    let would = operate(app, &group, action.request(false), would).await;
    let (from, to) = match action {
        Action::Activate => (&seen.owner, &seen.backup),
        Action::Failback => (&seen.owner, &seen.home),
    };
    let body = html! {
        section.panel.narrow {
            p.label { "Group " (seen.name) }
            h1 { (action.title()) }
            p.lead { strong { (to) } " takes voicemail over from " strong { (from) } "." }
            @match &would {
                Ok(outcome) => {
                    p.muted { "The history will say: " (outcome.what) "." }
                    @if !outcome.waiting_for.is_empty() {
                        div.waiting {
                            h3 { (action.waits()) }
                            ul { @for what in &outcome.waiting_for { li { (what) } } }
                        }
                    }
                }
                Err(problem) => div.waiting.alert role="alert" {
                    h3 { "Not possible now" }
                    p { (problem.detail()) }
                }
            }
            form.stack method="post" action={ "/console/groups/" (seen.name) "/" (action.path()) } {
                (form_token(&session))
                input type="hidden" name="expected_owner" value=(seen.owner);
                label for="reason" { "Reason, for the history" }
                input id="reason" name="reason" type="text" maxlength="200" autocomplete="off" placeholder="optional";
                @if action == Action::Failback {
                    label.check { input type="checkbox" name="force" value="true"; " Don't wait for active calls: they are finished where they are" }
                }
                p.muted { "Refused if " (seen.owner) " no longer serves the group when you confirm." }
                div.actions {
                    button.primary type="submit" disabled[!session.admin] { (action.title()) }
                    a.button href="/" { "Cancel" }
                }
            }
        }
    };
    Ok(page(
        app,
        Some(&session),
        Here::Elsewhere,
        action.title(),
        &body,
    ))
}

/// What the form sends.
#[derive(Debug, Deserialize)]
pub(super) struct Deed {
    form_token: String,
    expected_owner: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    force: bool,
}

/// The deed.
pub(super) async fn act(
    State(console): State<Arc<Console>>,
    signed_in: SignedIn,
    Path((group, action)): Path<(String, String)>,
    form: Result<Form<Deed>, FormRejection>,
) -> Result<Redirect, Oops> {
    let action = Action::read(&action)?;
    let deed = sent(form)?;
    signed_in.may_act(&deed.form_token)?;
    let reason = Some(deed.reason.trim().to_owned()).filter(|r| !r.is_empty());
    let guard = Guard {
        expected_owner: Some(deed.expected_owner),
        force: deed.force,
        reason,
        ..Guard::default()
    };
    let outcome = operate(&console.app, &group, action.request(deed.force), guard).await?;
    let mut notice = outcome.what;
    if !outcome.waiting_for.is_empty() {
        notice = format!(
            "{notice}. {} {}",
            action.waits(),
            outcome.waiting_for.join("; ")
        );
    }
    console.sessions.notice(&signed_in.id, notice);
    Ok(Redirect::to("/"))
}

/// A form with nothing but its token.
#[derive(Debug, Deserialize)]
pub(super) struct Bare {
    form_token: String,
}

/// Acknowledges an alarm.
pub(super) async fn acknowledge(
    State(console): State<Arc<Console>>,
    signed_in: SignedIn,
    Path(id): Path<u64>,
    form: Result<Form<Bare>, FormRejection>,
) -> Result<Redirect, Oops> {
    signed_in.may_act(&sent(form)?.form_token)?;
    let alarm = console.app.alarms.acknowledge(id);
    alarm.ok_or_else(|| Problem::not_found(format_args!("alarm {id}")))?;
    Ok(Redirect::to("/"))
}

/// Ends the session.
pub(super) async fn sign_out(
    State(console): State<Arc<Console>>,
    signed_in: SignedIn,
    form: Result<Form<Bare>, FormRejection>,
) -> Result<Redirect, Oops> {
    signed_in.own_form(&sent(form)?.form_token)?;
    console.sessions.end(&signed_in.id);
    Ok(Redirect::to("/login"))
}

pub(super) fn sent<T>(form: Result<Form<T>, FormRejection>) -> Result<T, Problem> {
    form.map(|Form(form)| form)
        .map_err(|e| Problem::new(Code::Malformed, e.body_text()))
}
