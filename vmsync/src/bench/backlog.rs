//! Messages that pile up while the peer is away, and the peer, empty, catching up.

use std::{path::Path, sync::Arc, time::Duration};

use reqwest::Method;
use serde_json::json;
use tokio::{task::JoinSet, time::Instant};

use super::{
    Work, content,
    pair::{PRIMARY, Pair, SECONDARY},
    report::{Backlog, Intake, quantile_ms, rate},
};
use crate::client::{ApiClient, Body};

/// Mailboxes the messages go to, in turn.
const MAILBOXES: u32 = 50;
/// Deposits at once.
const AT_ONCE: u32 = 16;
/// The slowest pace, messages a second, that is waited for, and what is waited at least.
const SLOWEST: u32 = 5;
const PATIENCE: Duration = Duration::from_mins(2);

/// Intake alone.
pub(super) async fn intake(dir: &Path, work: &Work) -> Result<Intake, String> {
    let mut pair = Pair::prepare(dir, "intake")?;
    let measured = deposit_all(&mut pair, work).await?;
    pair.end().await?;
    Ok(measured)
}

/// Intake while the peer is away, and the peer catching up.
pub(super) async fn measure(dir: &Path, work: &Work) -> Result<(Intake, Backlog), String> {
    let mut pair = Pair::prepare(dir, "backlog")?;
    let intake = deposit_all(&mut pair, work).await?;
    let limit = PATIENCE + Duration::from_secs(u64::from(work.messages / SLOWEST));
    let caught = pair.catch_up(PRIMARY, SECONDARY, limit).await?;
    let status = pair.client(SECONDARY)?.get("/api/v1/status").await;
    let held = status.map_err(|e| e.to_string())?["totals"]["messages"].clone();
    if held != work.messages {
        return Err(format!(
            "the peer holds {held} messages of {}",
            work.messages
        ));
    }
    let backlog = Backlog {
        backlog_messages: work.messages,
        backlog_bytes: work.bytes,
        backlog_s: caught.took.as_secs_f64(),
        backlog_files_s: rate(work.messages, caught.took),
        backlog_ratio: 0.0,
        backlog_cpu_ms: caught.cpu_s * 1000.0 / f64::from(work.messages),
        backlog_rss_mb: pair.peak_mb(),
    };
    pair.end().await?;
    Ok((intake, backlog))
}

/// Starts the primary alone and deposits every message.
pub(super) async fn deposit_all(pair: &mut Pair, work: &Work) -> Result<Intake, String> {
    pair.start(PRIMARY).await?;
    let client = pair.client(PRIMARY)?;
    create_mailboxes(&client).await?;
    let audio = Arc::new(content::wav(0, work.bytes));
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for worker in 0..AT_ONCE {
        let (client, audio, messages) = (client.clone(), Arc::clone(&audio), work.messages);
        workers.spawn(async move {
            let mut took = Vec::new();
            for n in (worker..messages).step_by(AT_ONCE as usize) {
                let mut wav = audio.to_vec();
                content::renumber(&mut wav, n);
                let sent = Instant::now();
                deposit(&client, n, wav).await?;
                took.push(sent.elapsed());
            }
            Ok::<_, String>(took)
        });
    }
    let mut took = Vec::new();
    while let Some(done) = workers.join_next().await {
        took.extend(done.map_err(|e| e.to_string())??);
    }
    let whole = begun.elapsed();
    Ok(Intake {
        intake_messages: work.messages,
        intake_bytes: work.bytes,
        intake_at_once: AT_ONCE,
        intake_msgs_s: rate(work.messages, whole),
        intake_ratio: 0.0,
        intake_p50_ms: quantile_ms(&mut took, 0.50),
        intake_p99_ms: quantile_ms(&mut took, 0.99),
    })
}

/// The mailboxes that [`deposit`] leaves messages in.
pub(super) async fn create_mailboxes(client: &ApiClient) -> Result<(), String> {
    for n in 0..MAILBOXES {
        let body = json!({"extension": content::extension(n)?, "name": format!("Subscriber {n}")});
        client
            .post("/api/v1/mailboxes", &body)
            .await
            .map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Leaves message `n`; its id, once it is durable.
pub(super) async fn deposit(client: &ApiClient, n: u32, wav: Vec<u8>) -> Result<String, String> {
    let ext = content::extension(n % MAILBOXES)?;
    let path = format!("/api/v1/mailboxes/{ext}/messages?caller_number=555{n:07}");
    let key = format!("bench-{n}");
    let reply = client
        .ok(
            Method::POST,
            &path,
            &[("idempotency-key", &key)],
            Body::Audio("audio/wav", wav),
        )
        .await
        .map_err(|e| e.to_string())?;
    match reply.json()["id"].as_str() {
        Some(id) => Ok(id.to_owned()),
        None => Err("a deposit was answered without an id".to_owned()),
    }
}
