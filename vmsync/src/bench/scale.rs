//! One node that holds very many messages: how soon it is ready, what memory it takes, how fast a
//! mailbox is listed.

use std::{path::Path, time::Duration};

use rand::Rng;
use tokio::time::Instant;

use super::{
    blocking, content,
    pair::{PRIMARY, Pair},
    report::{Scale, quantile_ms},
};
use crate::{clock, demo::layout::DemoNode};

/// Mailboxes listed.
const LISTS: u32 = 200;
/// Memory is looked at once the node has settled for so long.
const SETTLED: Duration = Duration::from_secs(2);

/// Fills the primary's store with `messages` messages and starts it, alone.
pub(super) async fn measure(dir: &Path, messages: u32) -> Result<Scale, String> {
    let mut pair = Pair::prepare(dir, "scale")?;
    let node = pair.demo.node(PRIMARY).clone();
    let (build_s, opened_ms) = blocking(move || build(&node, messages)).await?;
    let ready = pair.start(PRIMARY).await?;
    let client = pair.client(PRIMARY)?;
    tokio::time::sleep(SETTLED).await;
    let settled = pair.resident_mb();
    let mut took = Vec::new();
    for _ in 0..LISTS {
        let mailbox = rand::rng().random_range(0..messages.div_ceil(content::A_MAILBOX));
        let path = format!(
            "/api/v1/mailboxes/{}/messages",
            content::extension(mailbox)?
        );
        let begun = Instant::now();
        let list = client.get(&path).await.map_err(|e| e.to_string())?;
        took.push(begun.elapsed());
        if list["items"].as_array().is_none_or(Vec::is_empty) {
            return Err(format!("{path} is empty"));
        }
    }
    let data = pair.demo.node(PRIMARY).data_dir.clone();
    let bytes = blocking(move || Ok(size_of(&data.join("db")))).await?;
    let measured = Scale {
        scale_messages: messages,
        scale_mailboxes: messages.div_ceil(content::A_MAILBOX),
        scale_build_s: build_s,
        scale_open_ms: opened_ms,
        scale_ready_ms: ready.as_secs_f64() * 1000.0,
        scale_rss_mb: settled,
        scale_peak_mb: pair.peak_mb(),
        scale_list_p50_ms: quantile_ms(&mut took, 0.50),
        scale_list_p99_ms: quantile_ms(&mut took, 0.99),
        scale_disk_mb: f64::from(u32::try_from(bytes >> 10).unwrap_or(u32::MAX)) / 1024.0,
    };
    pair.end().await?;
    Ok(measured)
}

/// How long it took to write, in seconds; and to open again, in milliseconds.
fn build(node: &DemoNode, messages: u32) -> Result<(f64, f64), String> {
    let begun = clock::now().mono;
    let store = content::open(&node.data_dir, &node.id)?;
    content::fill(&store, messages)?;
    drop(store);
    let built = clock::now().mono;
    let store = content::open(&node.data_dir, &node.id)?;
    let opened = clock::now().mono;
    let held = store.totals().map_err(|e| e.to_string())?.messages;
    if held != u64::from(messages) {
        return Err(format!("the store holds {held} messages of {messages}"));
    }
    Ok((
        built.saturating_sub(begun).as_secs_f64(),
        opened.saturating_sub(built).as_secs_f64() * 1000.0,
    ))
}

/// Bytes of all files in a folder.
fn size_of(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(m) if m.is_dir() => size_of(&entry.path()),
        Ok(m) => m.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
