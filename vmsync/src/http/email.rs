//! How mail goes out: every entry of `[[smtp.sender]]` in order, what waits, what failed (R-SY-2).

use std::sync::Arc;

use axum::{
    Json,
    extract::{OriginalUri, State},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;
use vmsync_config::{
    Sender, SenderTls,
    words::{Extension, UnixMillis},
};
use vmsync_core::wire::NODE_MAILBOX;

use super::{extract, problem::Problem, serving::mailbox_here};
use crate::{
    app::App,
    delivery::{LaneState, Trouble},
};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(email))
        .routes(routes!(resend))
}

/// Mail out.
#[derive(Debug, Serialize, ToSchema)]
struct EmailAnswer {
    /// The entries in order; the first carries the traffic between the nodes.
    entries: Vec<EntryView>,
    /// Messages whose mailbox's domain no entry carries.
    uncarried: UncarriedView,
}

/// An entry of `[[smtp.sender]]`.
#[derive(Debug, Serialize, ToSchema)]
struct EntryView {
    /// Mail domain it carries; `*` = every domain no other entry names.
    domain: String,
    /// Where mails are handed over.
    server: String,
    /// Its port.
    port: u16,
    /// `nodes` (the first entry: traffic between the nodes, of which `GET /sync` tells) or `users`.
    carries: &'static str,
    /// From whom its mails are; blank in the configuration, what that comes to (R-SY-3).
    sender: String,
    /// `opportunistic`, `required` or `implicit`; null for the first, which follows `tls.require`.
    tls: Option<&'static str>,
    /// Whether it logs in.
    auth: bool,
    /// How delivery by it stands; null for the first.
    delivery: Option<DeliveryView>,
}

/// How delivery by an entry stands. Counts begin with the start of this node.
#[derive(Debug, Serialize, ToSchema)]
struct DeliveryView {
    /// `idle`, `waiting` (messages wait) or `failing` (the server takes nothing).
    state: &'static str,
    /// Messages that wait, whichever node is to mail them.
    pending: u64,
    /// Mails its server has taken.
    sent: u64,
    /// When the last one was, RFC 3339.
    #[schema(value_type = Option<String>)]
    last_sent_at: Option<UnixMillis>,
    /// Messages that will not be mailed; each bears why.
    failed: u64,
    /// The last error, in the server's own words where it said any.
    last_error: Option<ErrorView>,
    /// Since when the server takes nothing, RFC 3339.
    #[schema(value_type = Option<String>)]
    failing_since: Option<UnixMillis>,
    /// When it is tried again, RFC 3339.
    #[schema(value_type = Option<String>)]
    retry_at: Option<UnixMillis>,
    /// Tries of it that failed in a row.
    tries: u32,
    /// Mailboxes whose mails it puts off, at most 20.
    waiting: Vec<WaitingView>,
}

/// An error with its time.
#[derive(Debug, Serialize, ToSchema)]
struct ErrorView {
    /// RFC 3339.
    #[schema(value_type = String)]
    at: UnixMillis,
    /// In words.
    text: String,
}

/// A mailbox whose mails wait by themselves.
#[derive(Debug, Serialize, ToSchema)]
struct WaitingView {
    /// Its extension.
    mailbox: String,
    /// Why.
    why: String,
    /// When it is tried again, RFC 3339.
    #[schema(value_type = Option<String>)]
    retry_at: Option<UnixMillis>,
}

/// What no entry carries.
#[derive(Debug, Serialize, ToSchema)]
struct UncarriedView {
    /// Messages that wait.
    pending: u64,
    /// For which domains, and what to do.
    domains: Vec<DomainView>,
}

/// A domain no entry carries.
#[derive(Debug, Serialize, ToSchema)]
struct DomainView {
    /// Empty where a mailbox has a mode and no address.
    domain: String,
    /// What is wrong and what to do.
    why: String,
}

/// Mail out: every entry of `[[smtp.sender]]`, what waits and what failed.
#[utoipa::path(get, path = "/email", tag = "watching", responses((status = 200, body = EmailAnswer)))]
async fn email(State(app): State<Arc<App>>) -> Json<EmailAnswer> {
    let lanes = app.delivery.lanes();
    let entries = app.config.senders.iter().zip(&lanes).enumerate();
    let entries = entries.map(|(place, (entry, lane))| view(place, entry, lane));
    let uncarried = lanes.first().cloned().unwrap_or_default();
    let domains = uncarried.uncarried.into_iter();
    Json(EmailAnswer {
        entries: entries.collect(),
        uncarried: UncarriedView {
            pending: uncarried.pending,
            domains: domains
                .map(|(domain, why)| DomainView { domain, why })
                .collect(),
        },
    })
}

fn view(place: usize, entry: &Sender, lane: &LaneState) -> EntryView {
    let users = place > 0;
    let blank = if users {
        "the mailbox's own address".to_owned()
    } else {
        format!("{NODE_MAILBOX}@{}", entry.domain)
    };
    let tls = match entry.tls {
        SenderTls::Opportunistic => "opportunistic",
        SenderTls::Required => "required",
        SenderTls::Implicit => "implicit",
    };
    EntryView {
        domain: entry.domain.clone(),
        server: entry.server.clone(),
        port: entry.port,
        carries: if users { "users" } else { "nodes" },
        sender: entry.sender.clone().unwrap_or(blank),
        tls: users.then_some(tls),
        auth: entry.auth.is_some(),
        delivery: users.then(|| delivery(lane)),
    }
}

fn delivery(lane: &LaneState) -> DeliveryView {
    let lane = lane.clone();
    let state = match (&lane.trouble, lane.pending) {
        (Some(_), _) => "failing",
        (None, 0) => "idle",
        (None, _) => "waiting",
    };
    let trouble = lane.trouble.as_ref();
    let waiting = lane.waiting.into_iter();
    DeliveryView {
        state,
        pending: lane.pending,
        sent: lane.sent,
        last_sent_at: lane.last_sent,
        failed: lane.failed,
        last_error: lane.last_error.map(|(at, text)| ErrorView { at, text }),
        failing_since: trouble.map(|t| t.since),
        retry_at: trouble.and_then(|t| t.again),
        tries: trouble.map_or(0, |t: &Trouble| t.tries),
        waiting: waiting
            .map(|(mailbox, why, retry_at)| WaitingView {
                mailbox,
                why,
                retry_at,
            })
            .collect(),
    }
}

/// Which messages are to be mailed again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Resend {
    /// Extension of the mailbox.
    mailbox: String,
    /// Only this one; default all of the mailbox whose e-mail failed.
    #[schema(value_type = Option<String>, format = "uuid")]
    message: Option<Uuid>,
}

/// What came of it.
#[derive(Debug, Serialize, ToSchema)]
struct ResendAnswer {
    /// Extension of the mailbox.
    mailbox: String,
    /// Messages that wait to be mailed again.
    again: u64,
}

/// Mails again what could not be e-mailed for good, to the mailbox's present address.
#[utoipa::path(
    post, path = "/email/resend", tag = "messages",
    request_body = Resend,
    responses(
        (status = 200, body = ResendAnswer, description = "So many wait now; none where none had failed"),
        (status = 307, description = "The other node serves this mailbox", headers(("Location" = String))),
        (status = 409, description = "The mailbox has no e-mail mode, or this message would not be mailed", body = super::problem::ProblemBody, content_type = "application/problem+json"),
    )
)]
async fn resend(
    State(app): State<Arc<App>>,
    OriginalUri(uri): OriginalUri,
    extract::Json(wanted): extract::Json<Resend>,
) -> Result<Json<ResendAnswer>, Problem> {
    let ext = Extension::new(wanted.mailbox)?;
    mailbox_here(&app, &ext, &uri).await?;
    let of = ext.clone();
    let again = app.store(move |s| s.email_again(&of, wanted.message));
    Ok(Json(ResendAnswer {
        again: again.await?,
        mailbox: ext.into(),
    }))
}
