//! Small changes made while the peer was away: states of messages, names of mailboxes.

use std::{path::Path, time::Duration};

use serde_json::json;
use vmsync_store::EntityKey;

use super::{
    blocking, content,
    pair::{PRIMARY, Pair, SECONDARY},
    report::{Changes, rate},
};

/// Messages and mailboxes both nodes hold already; the changes go round them.
const MESSAGES: u32 = 50_000;
/// Changes of a mailbox among changes of messages: one in so many.
const MAILBOX_EVERY: u32 = 10;
/// They were made a day after what they change, ms.
const LATER: u64 = 24 * 3_600_000;
const PATIENCE: Duration = Duration::from_mins(5);

/// Both nodes hold the same; then `changes` changes are written into the primary's store, and both start.
pub(super) async fn measure(dir: &Path, changes: u32) -> Result<Changes, String> {
    let mut pair = Pair::prepare(dir, "changes")?;
    let held = MESSAGES.min(changes.max(10));
    let nodes = [PRIMARY, SECONDARY].map(|n| pair.demo.node(n).clone());
    blocking(move || {
        for (n, node) in nodes.iter().enumerate() {
            let store = content::open(&node.data_dir, &node.id)?;
            content::fill(&store, held)?;
            if n == PRIMARY {
                change(&store, held, changes)?;
            }
        }
        Ok(())
    })
    .await?;
    pair.start(PRIMARY).await?;
    let caught = pair.catch_up(PRIMARY, SECONDARY, PATIENCE).await?;
    let measured = Changes {
        changes,
        changes_held: held,
        changes_took_s: caught.took.as_secs_f64(),
        changes_s: rate(changes, caught.took),
        changes_cpu_us: caught.cpu_s * 1e6 / f64::from(changes),
        changes_rss_mb: pair.peak_mb(),
    };
    pair.end().await?;
    Ok(measured)
}

fn change(store: &vmsync_store::Store, held: u32, changes: u32) -> Result<(), String> {
    let mut writer = content::Writer::new(store, "vmpro1.5eed0002", LATER)?;
    for n in 0..changes {
        let one = n % held;
        if n % MAILBOX_EVERY == 0 {
            let ext = content::extension(one / content::A_MAILBOX)?;
            writer.set(
                EntityKey::Mailbox(ext),
                json!({"name": format!("Name {n}")}),
            )?;
        } else {
            let state = ["old", "saved", "new"][(n / held % 3) as usize];
            let id = content::message_id(one);
            writer.set(EntityKey::Message(id), json!({"state": state}))?;
        }
    }
    writer.flush()
}
