//! Events for webhooks: from the stream into the queues, as they are published, so that an event comes before the
//! alarms that follow from it.
//!
//! When the node is ready it tells `started` with who owns what, so that an event that was published and not yet
//! durable in a queue when the process ended is made up for.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vmsync_core::alarm::Notice;

use crate::{app::App, clock};

/// From now on events go into the queues.
pub(super) fn tap(app: &App) {
    let channels = app.alarms.channels().clone();
    app.events.tap(Box::new(move |event| {
        // Alarms are told as such.
        if event.kind != "alarm" && channels.want_event(event.kind) {
            let id = Some(event.id.clone());
            let data = event.data.clone();
            channels.event(Notice::event(
                Uuid::new_v4(),
                event.at,
                event.kind,
                id,
                data,
            ));
        }
    }));
}

/// Tells `started` once the node is ready.
pub(super) async fn started(app: Arc<App>, stop: CancellationToken) {
    let mut status = app.node.watch();
    tokio::select! {
        () = stop.cancelled() => return,
        seen = status.wait_for(|s| s.node.ready) => {
            if let Ok(status) = seen {
                let groups = serde_json::json!({"groups": status.groups});
                let notice = Notice::event(Uuid::new_v4(), clock::wall(), "started", None, groups);
                app.alarms.channels().event(notice);
            }
        }
    }
    // A part that ends by itself would stop the node.
    stop.cancelled().await;
}
