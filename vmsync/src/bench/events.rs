//! A node's event stream, read as server-sent events.

use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Duration, Instant, timeout},
};

use crate::demo::layout::DemoNode;

/// How long the stream may take to begin.
const BEGIN: Duration = Duration::from_secs(10);
/// A line longer than this is none of ours.
const LINE: usize = 1 << 20;

/// An event, and when it was read.
pub(super) struct Seen {
    pub(super) at: Instant,
    pub(super) data: Value,
}

/// A stream being followed; ends when dropped.
pub(super) struct Events {
    seen: mpsc::UnboundedReceiver<Seen>,
    reader: JoinHandle<()>,
}

impl Drop for Events {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Events {
    /// Follows events of `kinds` of `node`, from now on.
    pub(super) async fn follow(node: &DemoNode, kinds: &str) -> Result<Self, String> {
        let failed = |e: reqwest::Error| format!("the event stream of {}: {e}", node.id);
        let http = reqwest::Client::builder()
            .no_proxy()
            .build()
            .map_err(failed)?;
        let request = http
            .get(format!("{}/api/v1/events?kinds={kinds}", node.http))
            .bearer_auth(&node.admin_token);
        let response = timeout(BEGIN, request.send())
            .await
            .map_err(|_| format!("the event stream of {} did not begin", node.id))?
            .and_then(reqwest::Response::error_for_status)
            .map_err(failed)?;
        // Bounded by what a run makes, all of which must be kept anyway.
        let (out, seen) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read(response, out));
        Ok(Self { seen, reader })
    }

    /// The next event; `None` when the stream has ended.
    pub(super) async fn next(&mut self) -> Option<Seen> {
        self.seen.recv().await
    }
}

async fn read(response: reqwest::Response, out: mpsc::UnboundedSender<Seen>) {
    let mut bytes = response.bytes_stream();
    let mut held = Vec::new();
    while let Some(Ok(chunk)) = bytes.next().await {
        let at = Instant::now();
        held.extend_from_slice(&chunk);
        let Some(end) = held.iter().rposition(|b| *b == b'\n') else {
            if held.len() > LINE {
                return;
            }
            continue;
        };
        for line in held.drain(..=end).as_slice().split(|b| *b == b'\n') {
            let Some(json) = line.strip_prefix(b"data: ") else {
                continue;
            };
            let Ok(event) = serde_json::from_slice::<Value>(json) else {
                return;
            };
            let data = event["data"].clone();
            if out.send(Seen { at, data }).is_err() {
                return;
            }
        }
    }
}
