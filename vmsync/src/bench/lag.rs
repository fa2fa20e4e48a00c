//! How long after its acknowledgement at one node a message is known at the other, under steady load.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

use super::{
    SyncWork,
    backlog::{create_mailboxes, deposit},
    content,
    events::Events,
    pair::{PRIMARY, Pair, SECONDARY},
    report::{Lag, quantile_ms},
};

/// Deposits under way at most; beyond it the load is more than the node takes.
const AT_ONCE: usize = 64;
/// After the last deposit.
const PATIENCE: Duration = Duration::from_mins(1);

/// Deposits `rate` messages a second for `seconds` at the primary; the secondary's event stream tells
/// when each is readable there (its events come after the commit).
pub(super) async fn measure(dir: &Path, asked: &SyncWork) -> Result<Lag, String> {
    let mut pair = Pair::prepare(dir, "lag")?;
    pair.start(PRIMARY).await?;
    let client = pair.client(PRIMARY)?;
    create_mailboxes(&client).await?;
    pair.catch_up(PRIMARY, SECONDARY, PATIENCE).await?;
    let mut events = Events::follow(pair.demo.node(SECONDARY), "message").await?;

    let audio = content::wav(0, asked.work.bytes);
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / asked.rate);
    let mut deposits = JoinSet::new();
    let begun = Instant::now();
    for n in 0..asked.rate * asked.seconds {
        ticks.tick().await;
        let place = Arc::clone(&room)
            .acquire_owned()
            .await
            .map_err(|e| e.to_string())?;
        let (client, mut wav) = (client.clone(), audio.clone());
        deposits.spawn(async move {
            content::renumber(&mut wav, n);
            let sent = Instant::now();
            let id = deposit(&client, n, wav).await?;
            drop(place);
            Ok::<_, String>((id, sent, Instant::now()))
        });
    }
    let mut taken = Vec::new();
    while let Some(done) = deposits.join_next().await {
        taken.push(done.map_err(|e| e.to_string())??);
    }
    let offered = begun.elapsed();
    let seen = collect(&mut events, taken.len()).await?;
    let (mut lags, mut whole) = (Vec::new(), Vec::new());
    for (id, sent, acknowledged) in &taken {
        let there = seen
            .get(id)
            .ok_or_else(|| format!("message {id} is not at the peer"))?;
        lags.push(there.saturating_duration_since(*acknowledged));
        whole.push(there.saturating_duration_since(*sent));
    }
    let measured = Lag {
        lag_messages: asked.rate * asked.seconds,
        lag_bytes: asked.work.bytes,
        lag_offered_s: f64::from(asked.rate * asked.seconds) / offered.as_secs_f64(),
        lag_p50_ms: quantile_ms(&mut lags, 0.50),
        lag_p99_ms: quantile_ms(&mut lags, 0.99),
        lag_max_ms: quantile_ms(&mut lags, 1.0),
        lag_whole_p50_ms: quantile_ms(&mut whole, 0.50),
        lag_whole_p99_ms: quantile_ms(&mut whole, 0.99),
        lag_rss_mb: pair.peak_mb(),
    };
    pair.end().await?;
    Ok(measured)
}

/// When each of so many new messages was told of.
async fn collect(events: &mut Events, messages: usize) -> Result<HashMap<String, Instant>, String> {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = HashMap::new();
    while seen.len() < messages {
        let event = tokio::time::timeout_at(deadline, events.next()).await;
        let Ok(Some(event)) = event else {
            return Err(format!(
                "only {} of {messages} messages came to the peer",
                seen.len()
            ));
        };
        if let Some(id) = event.data["entity"]
            .as_str()
            .and_then(|e| e.strip_prefix("message/"))
        {
            seen.entry(id.to_owned()).or_insert(event.at);
        }
    }
    Ok(seen)
}
