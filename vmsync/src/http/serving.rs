//! Which node answers: writes about a mailbox belong to the node that serves its group (R-FO-6).

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, Uri, header},
    middleware::Next,
    response::Response,
};
use vmsync_config::words::{Extension, GroupName};
use vmsync_core::resilience::Serving;

use super::problem::{Code, Problem};
use crate::app::App;

/// The node that answered.
const SERVED_BY: HeaderName = HeaderName::from_static("served-by");
/// How far behind its peer that node is, in milliseconds.
const SYNC_LAG: HeaderName = HeaderName::from_static("sync-lag-ms");

/// Passes where this node serves the mailbox `ext`; else says where to go.
pub(super) async fn mailbox_here(app: &App, ext: &Extension, uri: &Uri) -> Result<(), Problem> {
    let group = app.group_of_mailbox(ext).await?;
    group_here(app, &group, uri)
}

/// Passes where this node serves `group`; else says where to go.
///
/// In a partition both nodes may serve: an answer beats silence (architecture decision 2).
pub(super) fn group_here(app: &App, group: &GroupName, uri: &Uri) -> Result<(), Problem> {
    match app.node.serving(group) {
        Serving::Yes | Serving::YesPartition => Ok(()),
        Serving::Starting => Err(starting()),
        Serving::Isolated { owner } => Err(isolated(&owner)),
        Serving::No { owner } => {
            let path = uri.path_and_query().map_or("/", |p| p.as_str());
            let base = app.config.pair.peer_url.as_str().trim_end_matches('/');
            let detail = format!("{owner} serves group {group}; send the same request to Location");
            Err(Problem::new(Code::NotServing, detail)
                .with("owner", owner.as_str())
                .with("group", group.as_str())
                .with_header(header::LOCATION, &format!("{base}{path}")))
        }
    }
}

/// Passes once this node has settled with its peer what it holds; before that nothing is written,
/// so that no sequence number is used twice.
pub(super) fn settled(app: &App) -> Result<(), Problem> {
    if app.node.status().node.ready {
        Ok(())
    } else {
        Err(starting())
    }
}

/// The node is cut off, and `resilience.answering_beats_consistency` is off.
fn isolated(owner: &vmsync_config::words::NodeId) -> Problem {
    let detail = format!(
        "{owner} owned this group last and this node can't make sure that nobody else answers for it (resilience.answering_beats_consistency = false); ask the other node"
    );
    Problem::new(Code::Isolated, detail).retry_after(5)
}

/// The node doesn't know yet whom it serves.
pub(super) fn starting() -> Problem {
    Problem::new(
        Code::Starting,
        "this node is asking its peer before it serves; try again in a second, or ask the other node",
    )
    .retry_after(1)
}

/// Middleware: every answer to a reader names its node and how old the answer may be.
pub(super) async fn freshness(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(app.config.node.id.as_str()) {
        headers.insert(SERVED_BY, id);
    }
    if reads {
        let lag = app.node.status().sync.incoming.lag_ms;
        headers.insert(SYNC_LAG, HeaderValue::from(lag));
    }
    response
}
