//! Mailboxes (R-MB-1 to R-MB-3) and their message waiting lights (R-MB-13).

use std::sync::Arc;

use axum::{
    extract::{OriginalUri, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use vmsync_config::words::{EmailMode, Extension, SystemName};
use vmsync_store::model::{Counts, Mailbox, MailboxPatch};

use super::{
    extract::{Json, Path, Query},
    list::{Listed, Paging, limit},
    problem::Problem,
    serving::{group_here, mailbox_here},
};
use crate::{app::App, delivery};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(read, change, delete))
        .routes(routes!(clear))
        .routes(routes!(mwi))
}

/// A mailbox.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Mailbox)]
pub(super) struct MailboxView {
    /// Digits.
    extension: String,
    /// Name of the user or hunt group.
    name: String,
    /// The system it belongs to.
    home_system: Option<String>,
    /// The service group it belongs to.
    group: String,
    /// Address for e-mail delivery.
    email: Option<String>,
    /// What happens to new messages by e-mail: `off`, `alert` (a notice), `copy` (attached, stays) or
    /// `forward` (attached, then deleted here) (R-MB-11).
    #[schema(value_type = String)]
    email_mode: EmailMode,
    /// Why its messages can't be mailed as things are, and what to do; null = they can, or are not
    /// to be.
    email_problem: Option<String>,
    /// Nothing new is accepted while false.
    enabled: bool,
    /// Most messages kept; null = no limit.
    max_messages: Option<u32>,
    /// Whether a PIN is set.
    has_pin: bool,
    /// Deleted, but shown for messages that came in elsewhere meanwhile.
    deleted: bool,
    /// Messages by state.
    counts: CountsView,
    /// Greetings set.
    greetings: Vec<&'static str>,
}

/// Messages of a mailbox by state.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Counts)]
pub(super) struct CountsView {
    /// Neither header nor body played.
    new: u64,
    /// Header played only.
    unopened: u64,
    /// Played.
    old: u64,
    /// Kept by the user.
    saved: u64,
    /// Recoverable until housekeeping takes them.
    deleted: u64,
    /// Audio bytes of all of them.
    bytes: u64,
}

impl From<Counts> for CountsView {
    fn from(c: Counts) -> Self {
        Self {
            new: c.new,
            unopened: c.unopened,
            old: c.old,
            saved: c.saved,
            deleted: c.deleted,
            bytes: c.bytes,
        }
    }
}

impl MailboxView {
    pub(super) fn new(app: &App, mailbox: Mailbox) -> Self {
        let group = app.group_of(mailbox.home_system.as_ref().map(AsRef::as_ref));
        let email_problem = delivery::problem(&app.config, &mailbox);
        Self {
            extension: mailbox.extension.into(),
            email_mode: mailbox.email_mode,
            email_problem,
            name: mailbox.name,
            home_system: mailbox.home_system.map(Into::into),
            group: group.into(),
            email: mailbox.email,
            enabled: mailbox.enabled,
            max_messages: mailbox.max_messages,
            has_pin: mailbox.has_pin,
            deleted: mailbox.deleted,
            counts: mailbox.counts.into(),
            greetings: mailbox.greetings.iter().map(|k| k.as_str()).collect(),
        }
    }
}

/// A mailbox to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewMailbox {
    /// 1 to 15 digits.
    extension: String,
    /// Name of the user or hunt group.
    name: Option<String>,
    /// Address for e-mail delivery.
    email: Option<String>,
    /// `off` (the default), `alert`, `copy` or `forward`; needs an address (R-MB-11).
    #[schema(value_type = Option<String>)]
    email_mode: Option<EmailMode>,
    /// A configured system.
    home_system: Option<String>,
    /// Whether it takes messages; default true.
    enabled: Option<bool>,
    /// Most messages kept; 0 = no limit, the default.
    max_messages: Option<u32>,
    /// 4 to 15 digits.
    pin: Option<String>,
}

/// Changes to a mailbox; what is not given stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MailboxChange {
    /// Name of the user or hunt group.
    name: Option<String>,
    /// Address for e-mail delivery; empty text removes it.
    email: Option<String>,
    /// `off`, `alert`, `copy` or `forward`; messages that are there already are not mailed (R-MB-11).
    #[schema(value_type = Option<String>)]
    email_mode: Option<EmailMode>,
    /// A configured system; empty text removes it.
    home_system: Option<String>,
    /// Whether it takes messages.
    enabled: Option<bool>,
    /// Most messages kept; 0 = no limit.
    max_messages: Option<u32>,
    /// 4 to 15 digits; empty text removes it.
    pin: Option<String>,
}

impl MailboxChange {
    fn patch(self, app: &App) -> Result<MailboxPatch, Problem> {
        known_system(app, self.home_system.as_deref())?;
        foreign_address(app, self.email.as_deref())?;
        Ok(MailboxPatch {
            name: self.name,
            email: self.email,
            email_mode: self.email_mode,
            home_system: self.home_system,
            enabled: self.enabled,
            max_messages: self.max_messages,
            pin: self.pin,
        })
    }
}

/// Mailboxes in order of extension.
#[utoipa::path(
    get, path = "/mailboxes", tag = "mailboxes",
    params(Paging),
    responses((status = 200, body = Listed<MailboxView>))
)]
async fn list(
    State(app): State<Arc<App>>,
    Query(paging): Query<Paging>,
) -> Result<axum::Json<Listed<MailboxView>>, Problem> {
    let most = limit(paging.limit)?;
    let page = app
        .store(move |s| s.mailboxes(paging.cursor.as_deref(), most))
        .await?;
    let items = page
        .items
        .into_iter()
        .map(|m| MailboxView::new(&app, m))
        .collect();
    Ok(axum::Json(Listed {
        items,
        next: page.next,
    }))
}

/// Creates a mailbox.
#[utoipa::path(
    post, path = "/mailboxes", tag = "mailboxes",
    request_body = NewMailbox,
    responses(
        (status = 201, body = MailboxView, headers(("Location" = String))),
        (status = 409, description = "It exists", body = super::problem::ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn create(
    State(app): State<Arc<App>>,
    OriginalUri(uri): OriginalUri,
    Json(new): Json<NewMailbox>,
) -> Result<Response, Problem> {
    let ext = Extension::new(&new.extension)?;
    let change = MailboxChange {
        name: new.name,
        email: new.email,
        email_mode: new.email_mode,
        home_system: new.home_system,
        enabled: new.enabled,
        max_messages: new.max_messages,
        pin: new.pin,
    };
    let patch = change.patch(&app)?;
    group_here(&app, &app.group_of(patch.home_system.as_deref()), &uri)?;
    let mailbox = app.store(move |s| s.create_mailbox(&ext, &patch)).await?;
    let at = format!("/api/v1/mailboxes/{}", mailbox.extension);
    let body = axum::Json(MailboxView::new(&app, mailbox));
    Ok((StatusCode::CREATED, [(header::LOCATION, at)], body).into_response())
}

/// One mailbox with its counts.
#[utoipa::path(
    get, path = "/mailboxes/{ext}", tag = "mailboxes",
    params(("ext" = String, Path, description = "Extension")),
    responses((status = 200, body = MailboxView))
)]
async fn read(
    State(app): State<Arc<App>>,
    Path(ext): Path<String>,
) -> Result<axum::Json<MailboxView>, Problem> {
    let mailbox = existing(&app, &Extension::new(ext)?).await?;
    Ok(axum::Json(MailboxView::new(&app, mailbox)))
}

/// Changes a mailbox: the fields given are set, the others stay.
#[utoipa::path(
    patch, path = "/mailboxes/{ext}", tag = "mailboxes",
    params(("ext" = String, Path, description = "Extension")),
    request_body = MailboxChange,
    responses((status = 200, body = MailboxView))
)]
async fn change(
    State(app): State<Arc<App>>,
    Path(ext): Path<String>,
    OriginalUri(uri): OriginalUri,
    Json(change): Json<MailboxChange>,
) -> Result<axum::Json<MailboxView>, Problem> {
    let ext = Extension::new(ext)?;
    mailbox_here(&app, &ext, &uri).await?;
    let patch = change.patch(&app)?;
    let mailbox = app.store(move |s| s.change_mailbox(&ext, &patch)).await?;
    Ok(axum::Json(MailboxView::new(&app, mailbox)))
}

/// Deletes a mailbox with every message and greeting this node knows of.
#[utoipa::path(
    delete, path = "/mailboxes/{ext}", tag = "mailboxes",
    params(("ext" = String, Path, description = "Extension")),
    responses((status = 204))
)]
async fn delete(
    State(app): State<Arc<App>>,
    Path(ext): Path<String>,
    OriginalUri(uri): OriginalUri,
) -> Result<StatusCode, Problem> {
    let ext = Extension::new(ext)?;
    mailbox_here(&app, &ext, &uri).await?;
    app.store(move |s| s.delete_mailbox(&ext)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Clears a mailbox: all messages and greetings go, the PIN stays (R-MB-2).
#[utoipa::path(
    post, path = "/mailboxes/{ext}/clear", tag = "mailboxes",
    params(("ext" = String, Path, description = "Extension")),
    responses((status = 200, body = MailboxView))
)]
async fn clear(
    State(app): State<Arc<App>>,
    Path(ext): Path<String>,
    OriginalUri(uri): OriginalUri,
) -> Result<axum::Json<MailboxView>, Problem> {
    let ext = Extension::new(ext)?;
    mailbox_here(&app, &ext, &uri).await?;
    let cleared = ext.clone();
    app.store(move |s| s.clear_mailbox(&cleared)).await?;
    let mailbox = existing(&app, &ext).await?;
    Ok(axum::Json(MailboxView::new(&app, mailbox)))
}

/// The message waiting light.
#[derive(Debug, Serialize, ToSchema)]
struct Mwi {
    /// Whose.
    mailbox: String,
    /// On while there is a new message (R-MB-13).
    on: bool,
    /// New messages.
    new: u64,
    /// Played or kept messages.
    old: u64,
}

/// Whether the message waiting light is on, and why.
#[utoipa::path(
    get, path = "/mailboxes/{ext}/mwi", tag = "mailboxes",
    params(("ext" = String, Path, description = "Extension")),
    responses((status = 200, body = Mwi))
)]
async fn mwi(
    State(app): State<Arc<App>>,
    Path(ext): Path<String>,
) -> Result<axum::Json<Mwi>, Problem> {
    let mailbox = existing(&app, &Extension::new(ext)?).await?;
    let counts = mailbox.counts;
    Ok(axum::Json(Mwi {
        mailbox: mailbox.extension.into(),
        on: counts.new > 0,
        new: counts.new,
        old: counts.unopened + counts.old + counts.saved,
    }))
}

/// The mailbox, or 404.
pub(super) async fn existing(app: &App, ext: &Extension) -> Result<Mailbox, Problem> {
    let wanted = ext.clone();
    let mailbox = app.store(move |s| s.mailbox(&wanted)).await?;
    mailbox.ok_or_else(|| Problem::not_found(format_args!("mailbox {ext}")))
}

/// A home system must be configured: its destination decides who serves the mailbox (R-TO-3).
fn known_system(app: &App, name: Option<&str>) -> Result<(), Problem> {
    let Some(name) = name.filter(|n| !n.is_empty()) else {
        return Ok(());
    };
    let name = SystemName::new(name)?;
    if app.config.systems.iter().any(|s| s.name == name) {
        return Ok(());
    }
    let known: Vec<_> = app.config.systems.iter().map(|s| s.name.as_str()).collect();
    let detail = format!("home_system {name} is not among the configured systems");
    Err(Problem::invalid(detail).with("systems", known))
}

/// A mail to one of the nodes becomes a message, which would be mailed again.
fn foreign_address(app: &App, email: Option<&str>) -> Result<(), Problem> {
    let domain = email.and_then(|e| e.rsplit_once('@')).map(|(_, d)| d);
    match domain.filter(|domain| app.config.is_own_domain(domain)) {
        None => Ok(()),
        Some(domain) => Err(Problem::invalid(format!(
            "email: {domain} is this pair itself, whose mails become voice messages: give the user's own address"
        ))),
    }
}
