//! Recordings: their part of the overview, and the two buttons of it.

use std::sync::Arc;

use axum::{
    extract::{Form, State, rejection::FormRejection},
    response::Redirect,
};
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    Console, SignedIn,
    actions::sent,
    layout::{Here, Oops, form_token, page},
    session::Session,
    words::{count, size, time},
};
use crate::{
    app::App,
    http::vrl::mover,
    vrl::{ArchiveStatus, Current, TestStep, VrlState, VrlStatus},
};

/// Recordings on their way, and files told of by name.
const SHOWN: usize = 8;

/// The part of the overview.
pub(super) fn panel(vrl: &VrlStatus, session: &Session) -> Markup {
    html! {
        section.panel aria-label="Recordings" {
            h2 { "Recordings" }
            dl.rows {
                div { dt { "Move to the primary" } dd { (vrl.state.as_str()) } }
                @if vrl.state != VrlState::Off {
                    div { dt { "To move" } dd.num { (count(vrl.files_pending, "file")) ", " (size(vrl.bytes_pending)) } }
                    div { dt { "Moved" } dd.num { (count(vrl.files_done, "file")) ", " (size(vrl.bytes_done)) } }
                    @if vrl.rate > 0 {
                        div { dt { "Rate" } dd.num { (size(vrl.rate)) "/s" @if let Some(left) = vrl.eta_s { ", " (span(left)) " left" } } }
                    }
                }
                @if let Some(archive) = &vrl.archive { (kept(archive)) }
            }
            @if vrl.state == VrlState::Waiting && !vrl.why.is_empty() { p.muted { "Waits: " (vrl.why) } }
            @if !vrl.on_the_way.is_empty() {
                ul.list.moving {
                    @for current in vrl.on_the_way.iter().take(SHOWN) { (on_the_way(current)) }
                }
            }
            @if let Some(stalled) = vrl.stalled_s.filter(|s| *s >= 60) {
                p.reason { "Nothing was achieved for " (span(stalled)) "." }
            }
            @if let Some(error) = &vrl.last_error { p.reason { (error) } }
            @let archive = vrl.archive.as_ref();
            @if let Some(error) = archive.and_then(|a| a.last_error.as_ref()) { p.reason { "Archive: " (error) } }
            (unfit("Can't be moved", &vrl.unfit))
            (unfit("Left alone in the archive", archive.map_or(&[], |a| &a.unfit)))
            @if vrl.state != VrlState::Off { (buttons(session)) }
        }
    }
}

fn on_the_way(current: &Current) -> Markup {
    html! {
        li {
            p { (current.name) }
            progress max=(current.bytes.max(1)) value=(current.sent) aria-label={ "Sent of " (current.name) } {}
            p.muted.num { (size(current.sent)) " of " (size(current.bytes)) }
        }
    }
}

fn kept(archive: &ArchiveStatus) -> Markup {
    html! {
        div { dt { "Kept here" } dd.num { (count(archive.files, "file")) ", " (size(archive.bytes)) } }
        @if let Some(oldest) = &archive.oldest { div { dt { "The oldest confirmed" } dd { (time(oldest)) } } }
    }
}

fn unfit(title: &str, files: &[String]) -> Markup {
    html! {
        @if !files.is_empty() {
            div.waiting {
                h3 { (title) }
                ul { @for file in files.iter().take(SHOWN) { li { (file) } } }
                @if files.len() > SHOWN { p.muted { "and " (files.len() - SHOWN) " more" } }
            }
        }
    }
}

fn buttons(session: &Session) -> Markup {
    let button = |action: &str, name: &str| {
        html! {
            @if session.admin {
                form method="post" action={ "/console/recordings/" (action) } {
                    (form_token(session))
                    button type="submit" id={ "recordings-" (action) } { (name) }
                }
            } @else {
                span.button aria-disabled="true" title="Sign in with an admin token" { (name) }
            }
        }
    };
    html! {
        div.actions {
            (button("transfer", "Move now"))
            (button("test", "Test Connection"))
        }
    }
}

fn span(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => format!("{seconds} s"),
        (0, m) => format!("{m} min"),
        (h, m) => format!("{h} h {m} min"),
    }
}

/// A form with nothing but its token.
#[derive(Debug, Deserialize)]
pub(super) struct Pressed {
    form_token: String,
}

/// Moves what is there now.
pub(super) async fn transfer(
    State(console): State<Arc<Console>>,
    signed_in: SignedIn,
    form: Result<Form<Pressed>, FormRejection>,
) -> Result<Redirect, Oops> {
    signed_in.may_act(&sent(form)?.form_token)?;
    mover(&console.app)?.kick();
    let status = console.app.recordings();
    let notice = match status.state {
        VrlState::Waiting if !status.why.is_empty() => {
            format!("Recordings are to move now. They wait: {}", status.why)
        }
        _ => "Recordings move now.".to_owned(),
    };
    console.sessions.notice(&signed_in.id, notice);
    Ok(Redirect::to("/"))
}

/// Test Connection (R-VR-2), step by step.
pub(super) async fn test(
    State(console): State<Arc<Console>>,
    signed_in: SignedIn,
    form: Result<Form<Pressed>, FormRejection>,
) -> Result<Markup, Oops> {
    signed_in.may_act(&sent(form)?.form_token)?;
    let steps = mover(&console.app)?.test().await;
    Ok(tested(&console.app, &signed_in.session, &steps))
}

fn tested(app: &App, session: &Session, steps: &[TestStep]) -> Markup {
    let body = html! {
        section.panel {
            p.label { "Recordings" }
            h1 { "Test Connection" }
            (steps_shown(steps))
            div.actions { a.button href="/" { "Back" } (buttons(session)) }
        }
    };
    page(
        app,
        Some(session),
        Here::Elsewhere,
        "Test Connection",
        &body,
    )
}

fn steps_shown(steps: &[TestStep]) -> Markup {
    let failed = steps.iter().find(|s| !s.ok);
    html! {
        p.lead role="status" {
            @match failed {
                Some(step) => { "Step " strong { (step.step) } " failed." }
                None => { "Every step worked." }
            }
        }
        table {
            thead { tr { th scope="col" { "Step" } th scope="col" { "" } th scope="col" { "Time" } th scope="col" { "What" } } }
            tbody {
                @for step in steps {
                    tr {
                        th scope="row" { (step.step) }
                        td { @if step.ok { "ok" } @else { strong { "failed" } } }
                        td.num { (step.ms) " ms" }
                        td { (step.detail) }
                    }
                }
            }
        }
        @if let Some(advice) = failed.and_then(|s| s.advice.as_ref()) {
            div.waiting.alert role="alert" { h3 { "What to do" } p { (advice) } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::session::Sessions, *};
    use crate::keys::Scope;
    use std::time::Duration;

    fn session(scope: Scope) -> Session {
        let sessions = Sessions::default();
        let id = sessions.begin(scope, Duration::ZERO).unwrap();
        sessions.find(&id, Duration::ZERO).unwrap()
    }

    fn moving() -> VrlStatus {
        VrlStatus {
            state: VrlState::Transferring,
            files_pending: 2,
            bytes_pending: 3 << 20,
            rate: 1 << 20,
            eta_s: Some(3),
            on_the_way: vec![Current {
                name: "<b>call.wav".to_owned(),
                bytes: 2_000,
                sent: 500,
            }],
            unfit: (0..10).map(|n| format!("file {n}")).collect(),
            ..VrlStatus::default()
        }
    }

    #[test]
    fn each_recording_on_its_way_has_its_bar_and_names_are_escaped() {
        let html = panel(&moving(), &session(Scope::Admin)).into_string();
        assert!(
            html.contains(r#"<progress max="2000" value="500""#),
            "{html}"
        );
        assert!(
            html.contains("&lt;b&gt;call.wav") && !html.contains("<b>call"),
            "{html}"
        );
        assert!(html.contains("1.0 MiB/s, 3 s left"), "{html}");
        assert!(html.contains("and 2 more"), "{html}");
        // The page's content security policy allows no styles of its own.
        assert!(!html.contains("style="), "{html}");
    }

    #[test]
    fn who_may_only_look_gets_no_buttons_to_press() {
        let html = panel(&moving(), &session(Scope::Read)).into_string();
        assert!(
            !html.contains("<form") && html.contains(r#"aria-disabled="true""#),
            "{html}"
        );
        let html = panel(&moving(), &session(Scope::Admin)).into_string();
        assert!(
            html.contains(r#"action="/console/recordings/transfer""#),
            "{html}"
        );
        let off = panel(&VrlStatus::default(), &session(Scope::Admin)).into_string();
        assert!(!off.contains("Move now"), "{off}");
    }

    #[test]
    fn a_failed_step_is_shown_with_what_to_do() {
        let step = |name: &str, ok| TestStep {
            step: name.to_owned(),
            ok,
            ms: 7,
            detail: "530 no".to_owned(),
            advice: (!ok).then(|| "check ftp_user".to_owned()),
        };
        let html = steps_shown(&[step("connect", true), step("login", false)]).into_string();
        assert!(
            html.contains("Step <strong>login</strong> failed."),
            "{html}"
        );
        assert!(html.contains("check ftp_user"), "{html}");
        let html = steps_shown(&[step("connect", true)]).into_string();
        assert!(html.contains("Every step worked."), "{html}");
    }
}
