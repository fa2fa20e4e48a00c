//! How fast a failover is: from an operator's request until the backup serves, and from the loss of
//! the home until the decision, against the time that was configured.
//!
//! The floor is what the disk needs to keep one small record: an ownership is durable before it is
//! acted on.

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;
use vmsync_config::words::UnixMillis;

use super::{
    Folder, blocking, bounded,
    pair::{PRIMARY, Pair, SECONDARY},
    print_figures,
    report::quantile_ms,
    say,
};
use crate::client::{ApiClient, ClientError};

/// Heartbeats come this often, and are missed after [`INVISIBLE_AFTER`].
const HEARTBEAT: &str = "1s";
const INVISIBLE_AFTER: Duration = Duration::from_secs(5);
const FAILOVER_AFTER: Duration = Duration::from_secs(2);
/// Nothing that is waited for takes longer.
const PATIENCE: Duration = Duration::from_mins(1);

/// What `vmsync bench failover` is asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct FailoverWork {
    /// Requests at each node.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub requests: u32,
    /// How often the home is killed.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub losses: u32,
    /// Folder on the disk to measure; a new folder is made in it, and removed at the end. Default:
    /// the system's temporary folder.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Measures and prints.
pub(super) async fn run(work: FailoverWork, out: &mut (impl Write + Send)) -> Result<(), String> {
    let folder = Folder::make(work.dir.as_deref())?;
    let figures = bounded(measure(&work, &folder.0)).await?;
    print_figures(&figures, work.json, out)
}

async fn measure(work: &FailoverWork, dir: &Path) -> Result<Value, String> {
    say("floor");
    let floor = floor(dir, work.requests).await?;
    let mut pair = Pair::prepare(dir, "failover")?;
    for node in [PRIMARY, SECONDARY] {
        configure(&pair.demo.node(node).config)?;
    }
    for node in [PRIMARY, SECONDARY] {
        pair.start(node).await?;
    }
    pair.equal(Instant::now() + PATIENCE).await?;
    let (home, backup) = (pair.client(PRIMARY)?, pair.client(SECONDARY)?);
    say("requests at the backup");
    let at_backup = requests(&backup, &backup, work.requests).await?;
    say("requests at the home");
    let at_home = requests(&home, &backup, work.requests).await?;
    let mut late = Vec::new();
    for n in 0..work.losses {
        say(&format!("loss of the home {} of {}", n + 1, work.losses));
        late.push(loss(&mut pair, &backup).await?);
    }
    pair.end().await?;
    let mut measured = [floor, at_backup, at_home];
    let mut ms = |which: usize, part: f64| quantile_ms(&mut measured[which], part);
    Ok(json!({
        "requests": work.requests,
        "floor_p50_ms": ms(0, 0.5), "floor_p99_ms": ms(0, 0.99),
        "backup_p50_ms": ms(1, 0.5), "backup_p99_ms": ms(1, 0.99),
        "home_p50_ms": ms(2, 0.5), "home_p99_ms": ms(2, 0.99),
        "configured_ms": millis(INVISIBLE_AFTER + FAILOVER_AFTER),
        "decision_late_ms": late,
    }))
}

/// One small record, durable: written, synced, renamed, the folder synced.
async fn floor(dir: &Path, records: u32) -> Result<Vec<Duration>, String> {
    let dir = dir.join("floor-records");
    blocking(move || super::floor::records(&dir, records)).await
}

fn configure(config: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", config.display());
    let mut text = std::fs::read_to_string(config).map_err(failed)?;
    let changes = [
        (
            "heartbeat = \"250ms\"",
            format!("heartbeat = \"{HEARTBEAT}\""),
        ),
        (
            "invisible_after = \"1500ms\"",
            format!("invisible_after = \"{}s\"", INVISIBLE_AFTER.as_secs()),
        ),
        (
            "trigger = \"phones\"",
            "trigger = \"visibility\"".to_owned(),
        ),
        (
            "failover_after = \"3m\"",
            format!("failover_after = \"{}s\"", FAILOVER_AFTER.as_secs()),
        ),
    ];
    for (from, to) in changes {
        if !text.contains(from) {
            return Err(format!("{} does not say {from}", config.display()));
        }
        text = text.replace(from, &to);
    }
    // The losses must not make a flapping home.
    text = text.replace("[failback]\n", "[failback]\nhold_off = \"0s\"\n");
    std::fs::write(config, text).map_err(failed)
}

/// Activates the backup, asked at `asked`, and waits until it says that it serves; then back.
async fn requests(
    asked: &ApiClient,
    backup: &ApiClient,
    count: u32,
) -> Result<Vec<Duration>, String> {
    let mut took = Vec::new();
    for _ in 0..count {
        let begun = Instant::now();
        post(asked, "activate-backup", &json!({}))
            .await
            .map_err(|e| e.to_string())?;
        let route = backup.get("/api/v1/route?system=branch").await;
        let route = route.map_err(|e| e.to_string())?;
        if route["here"] != true {
            return Err(format!(
                "the backup does not serve after its answer: {route}"
            ));
        }
        took.push(begun.elapsed());
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = post(backup, "failback", &json!({"force": true})).await {
            if Instant::now() > deadline {
                return Err(error.to_string());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // The home, asked next, must have heard.
        home_again(asked, deadline).await?;
    }
    Ok(took)
}

async fn post(client: &ApiClient, what: &str, body: &Value) -> Result<(), ClientError> {
    let path = format!("/api/v1/groups/primary/{what}");
    let body = crate::client::Body::Json(body);
    client
        .ok(reqwest::Method::POST, &path, &[], body)
        .await
        .map(|_| ())
}

async fn home_again(client: &ApiClient, deadline: Instant) -> Result<Value, String> {
    loop {
        let status = client
            .get("/api/v1/status")
            .await
            .map_err(|e| e.to_string())?;
        let group = &status["groups"][0];
        if group["owner"] == group["home"] {
            return Ok(status);
        }
        if Instant::now() > deadline {
            return Err(format!("the group did not go home: {group}"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Kills the home; how many milliseconds after the configured time the backup took over.
async fn loss(pair: &mut Pair, backup: &ApiClient) -> Result<i64, String> {
    pair.demo.kill(PRIMARY).await?;
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        let status = backup
            .get("/api/v1/status")
            .await
            .map_err(|e| e.to_string())?;
        let group = &status["groups"][0];
        if group["owner"] == group["backup"] {
            break status;
        }
        if Instant::now() > deadline {
            return Err(format!("no failover: {group}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let time = |value: &Value| -> Result<i64, String> {
        let text = value.as_str().ok_or("no time in the status")?;
        let at: UnixMillis = text.parse().map_err(|e| format!("{e}"))?;
        i64::try_from(at.0).map_err(|e| e.to_string())
    };
    let due = time(&status["peer"]["last_seen"])? + millis(INVISIBLE_AFTER + FAILOVER_AFTER);
    let late = time(&status["groups"][0]["since"])? - due;
    pair.start(PRIMARY).await?;
    home_again(backup, Instant::now() + PATIENCE).await?;
    pair.equal(Instant::now() + PATIENCE).await?;
    Ok(late)
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}
