//! Alarms by every channel, between real nodes and real receivers: snmptrapd, rsyslog over UDP, TCP and TLS, a mail
//! server, and receivers of webhooks (R-AL-1, R-FO-6). A file for each channel.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what failed by panicking, and what it measured by printing"
)]

mod hanging;
mod hook;
mod mail;
mod many;
mod mib;
mod receivers;
mod story;
mod syslog;
mod webhooks;

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use vmsync_tests::pair::{Ended, Node, Pair, run, soon, vmsync};

/// A failover of both systems and its failback, both nodes up.
async fn there_and_back(pair: &Pair) {
    for (action, body) in [
        ("activate-backup", json!({})),
        ("failback", json!({"force": true})),
    ] {
        let path = format!("/api/v1/groups/primary/{action}");
        pair.secondary.post(&path, &body).await.must_be(202);
        let owner = if action == "failback" {
            &pair.primary
        } else {
            &pair.secondary
        };
        pair.served_by(owner).await;
    }
}

async fn channels(node: &Node) -> Result<Vec<Value>, String> {
    let answer = node.try_get("/api/v1/alarms/channels").await?;
    Ok(answer["items"].as_array().cloned().unwrap_or_default())
}

async fn up(node: &Node, code: &str) -> Result<usize, String> {
    let alarms = node.try_get("/api/v1/alarms?active=true").await?;
    let items = alarms["items"].as_array().cloned().unwrap_or_default();
    Ok(items.iter().filter(|a| a["code"] == code).count())
}

async fn command(node: &Node, args: &[&str]) -> Ended {
    let mut all = args.to_vec();
    all.extend(["--url", &node.http, "--token", &node.admin_token]);
    run(vmsync(), &all, Duration::from_secs(30)).await
}

/// One channel of a node.
async fn channel(node: &Node, name: &str) -> Result<Value, String> {
    let all = channels(node).await?;
    let found = all.into_iter().find(|c| c["name"] == name);
    found.ok_or_else(|| format!("no channel {name}"))
}

/// Maintenance mode is an alarm from its begin to its end, whenever a test wants one.
async fn maintenance(node: &Node, on: bool) {
    let path = "/api/v1/maintenance";
    let request = if on {
        node.request(Method::PUT, path)
            .json(&json!({"reason": "a new switch"}))
    } else {
        node.request(Method::DELETE, path)
    };
    request.send().await.must_be(200);
    soon("maintenance mode to change", async || {
        match up(node, "maintenance").await? {
            n if n == usize::from(on) => Ok(()),
            n => Err(n.to_string()),
        }
    })
    .await;
}
