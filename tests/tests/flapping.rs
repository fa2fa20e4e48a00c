//! Flap damping: a home that is lost again and again gets its group back only after it has stayed for its
//! hold-off; who answers is never delayed, everybody is told, and an administrator need not wait (R-FB-6).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use serde_json::{Value, json};
use vmsync_tests::pair::{Node, ONE, Pair, group_of, soon};

const FAILBACK: &str = "/api/v1/groups/primary/failback";

async fn flapping_alarm_ends(node: &Node) {
    soon(
        &format!("the end of the alarm at {}", node.id),
        async || {
            let alarms = node.try_get("/api/v1/alarms?active=true").await?;
            if alarms.to_string().contains("flapping") {
                Err(alarms.to_string())
            } else {
                Ok(())
            }
        },
    )
    .await;
}

/// Waits until the backup holds the home off; gives its group's status.
async fn held_off(backup: &Node, failovers: u64) -> Value {
    soon("the hold-off", async || {
        let group = group_of(&backup.try_status().await?, "primary");
        let counted = group["hold_off"]["failovers"] == failovers;
        let ends = group["hold_off"]["until"].is_string();
        let waits = group["failback"]["waiting_for"].to_string();
        let named = waits.contains(&format!("hold-off: it was lost {failovers} times"));
        (counted && ends && named && group["phase"] == "returning")
            .then_some(group.clone())
            .ok_or(group.to_string())
    })
    .await
}

#[tokio::test]
async fn a_home_that_is_lost_for_the_third_time_in_an_hour_is_held_off() {
    let pair = Pair::laid_out().await;
    pair.fails_over_quickly();
    pair.configure_both("hold_off = \"0s\"", "hold_off = \"5s\"");
    pair.configure_both("policy = \"graceful\"", "policy = \"automatic\"");
    pair.start_both().await;
    let (home, backup) = (&pair.primary, &pair.secondary);
    for _ in 0..2 {
        home.kill().await;
        backup.names_owner(backup).await;
        home.start().await;
        pair.served_by(home).await;
    }
    assert!(group_of(&backup.get("/api/v1/status").await, "primary")["hold_off"].is_null());

    home.kill().await;
    backup.names_owner(backup).await;
    // Only the way back is damped.
    backup.leave("2001", "5550100", ONE).await;
    home.start().await;
    held_off(backup, 3).await;
    let alarm = backup.alarm("flapping").await;
    assert_eq!(alarm["subject"], "primary", "{alarm}");
    // What the backup remembers of it outlives the backup, and so do the failovers at home.
    backup.kill().await;
    backup.start().await;
    let until = held_off(backup, 3).await["hold_off"]["until"].clone();
    pair.served_by(home).await;
    let now = vmsync_config::words::UnixMillis(vmsync::clock::wall().0).to_string();
    assert!(until.as_str().unwrap() <= now.as_str(), "{until} {now}");
    flapping_alarm_ends(backup).await;

    // Once more: held off for twice as long, but not for an administrator.
    home.kill().await;
    backup.names_owner(backup).await;
    home.start().await;
    held_off(backup, 4).await;
    soon("a failback that was asked for", async || {
        let answer = home.post(FAILBACK, &json!({})).await;
        (answer.status == 202).then_some(()).ok_or(answer.text())
    })
    .await;
    pair.served_by(home).await;
    flapping_alarm_ends(backup).await;
}
