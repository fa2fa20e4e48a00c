//! Whether a peer that is filled from nothing slows calls: callers leave messages at the node that
//! serves and seeds, first while it does so, then in quiet.

use std::{path::Path, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Work,
    backlog::deposit_all,
    content,
    pair::{PRIMARY, Pair, SECONDARY},
    report::{CallSteps, quantile_ms, rate},
};
use crate::client::{ApiClient, Body};

/// Calls begun a second.
const CALLS_S: u32 = 5;
/// How long a caller talks.
const TALK: Duration = Duration::from_millis(1500);
/// Bytes of what a caller leaves: 1.5 s of G.711.
const RECORDING: u32 = 12_044;
/// Calls in quiet, at most.
const QUIET: u32 = 100;
/// Operations kept in the serving node's log: the peer lacks what came before, and is seeded.
const LOG: u32 = 1_000;
/// Until the log is that short.
const PATIENCE: Duration = Duration::from_mins(1);

/// Fills a peer from nothing under calls, and then has as many calls without.
pub(super) async fn measure(dir: &Path, work: &Work) -> Result<CallSteps, String> {
    let mut pair = Pair::prepare(dir, "calls")?;
    pair.keep_log(PRIMARY, LOG)?;
    deposit_all(&mut pair, work).await?;
    let client = pair.client(PRIMARY)?;
    let seeds = work.messages > LOG;
    if seeds {
        log_to_be_short(&client).await?;
    }
    let done = CancellationToken::new();
    let callers = tokio::spawn(callers(client.clone(), None, done.clone()));
    let limit = Duration::from_mins(2) + Duration::from_secs(u64::from(work.messages / 5));
    let caught = pair.catch_up(PRIMARY, SECONDARY, limit).await;
    done.cancel();
    let mut busy = callers.await.map_err(|e| e.to_string())??;
    let caught = caught?;
    let mut quiet = self::callers(
        client,
        Some(QUIET.min(work.messages)),
        CancellationToken::new(),
    )
    .await?;
    let measured = CallSteps {
        calls_per_s: CALLS_S,
        calls_seeded: seeds,
        calls_files_s: rate(work.messages, caught.took),
        calls_busy_steps: busy.len(),
        calls_busy_p50_ms: quantile_ms(&mut busy, 0.50),
        calls_busy_p99_ms: quantile_ms(&mut busy, 0.99),
        calls_quiet_steps: quiet.len(),
        calls_quiet_p50_ms: quantile_ms(&mut quiet, 0.50),
        calls_quiet_p99_ms: quantile_ms(&mut quiet, 0.99),
    };
    pair.end().await?;
    Ok(measured)
}

/// Waits until the log of the node no longer reaches back to its beginning.
async fn log_to_be_short(client: &ApiClient) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let sync = client.get("/api/v1/sync").await;
        let sync = sync.map_err(|e| e.to_string())?;
        if sync["floor"].as_object().is_some_and(|f| !f.is_empty()) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err("the log was not shortened in time".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Calls at an even pace, until so many were begun or it is done; how long each step took.
async fn callers(
    client: ApiClient,
    most: Option<u32>,
    done: CancellationToken,
) -> Result<Vec<Duration>, String> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / CALLS_S);
    let (mut begun, mut calls) = (0, JoinSet::new());
    while most.is_none_or(|most| begun < most) {
        tokio::select! {
            () = done.cancelled() => break,
            _ = ticks.tick() => {}
        }
        calls.spawn(call(client.clone(), begun));
        begun += 1;
    }
    let mut steps = Vec::new();
    while let Some(call) = calls.join_next().await {
        steps.extend(call.map_err(|e| e.to_string())??);
    }
    Ok(steps)
}

/// One caller leaves a message: the call is answered, recorded, and its message kept.
async fn call(client: ApiClient, n: u32) -> Result<[Duration; 2], String> {
    let failed = |e: crate::client::ClientError| e.to_string();
    let mailbox = content::extension(n % 50)?;
    let begin = json!({"kind": "leave", "mailbox": mailbox, "caller_number": format!("556{n:07}")});
    let sent = Instant::now();
    let answer = client.post("/api/v1/calls", &begin).await.map_err(failed)?;
    let answered = sent.elapsed();
    let last = answer["actions"].as_array().and_then(|a| a.last());
    let (Some(id), Some(recording)) = (
        answer["id"].as_str(),
        last.and_then(|a| a["recording"].as_u64()),
    ) else {
        return Err(format!("a call does not record: {answer}"));
    };
    tokio::time::sleep(TALK).await;
    let mut wav = content::wav(0, RECORDING);
    content::renumber(&mut wav, n);
    let path = format!("/api/v1/calls/{id}/recording?recording={recording}");
    let sent = Instant::now();
    let body = Body::Audio("audio/wav", wav);
    let reply = client.ok(Method::POST, &path, &[], body).await;
    let over: Value = reply.map_err(failed)?.json();
    let kept = sent.elapsed();
    let ended = over["actions"].as_array().and_then(|a| a.last());
    if ended.is_none_or(|a| a["action"] != "disconnect") {
        return Err(format!("a call does not end: {over}"));
    }
    Ok([answered, kept])
}
