//! The way back at its edges: flap damping, a resync, a restart that is quicker than any time-out, a call
//! that outlives its PBX, a home that must be stable first (R-FB-1, R-FB-4, R-FB-5, R-FB-6, R-FB-7, R-FB-8).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;
use vmsync_config::words::UnixMillis;
use vmsync_tests::pair::{Cut, Net, Node, ONE, OpenCall, Pair, Way, group_of, soon};

const ACTIVATE: &str = "/api/v1/groups/primary/activate-backup";
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

/// Only the way back is damped: who answers is never delayed, everybody is told, and an administrator need
/// not wait (R-FB-6).
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
    let now = UnixMillis(vmsync::clock::wall().0).to_string();
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

/// The automatic failback's minutes begin once: an exchange that is begun anew, by an operator's resync or by
/// a mail that was lost, does not begin them anew (R-FB-5).
#[tokio::test]
async fn a_resync_does_not_put_off_the_automatic_failback() {
    let pair = Pair::laid_out().await;
    pair.fails_over_quickly();
    pair.configure_both("policy = \"graceful\"", "policy = \"automatic\"");
    pair.start_both().await;
    let (home, backup) = (&pair.primary, &pair.secondary);
    home.kill().await;
    backup.names_owner(backup).await;
    let mut call = OpenCall::to_leave(backup, "2001", "5550100").await;
    call.up_to_the_beep().await;
    home.start().await;
    let deadline = async || {
        soon("a deadline", async || {
            let group = group_of(&backup.try_status().await?, "primary");
            let deadline = group["failback"]["deadline"].as_str().map(str::to_owned);
            let at = deadline.and_then(|d| d.parse::<UnixMillis>().ok());
            at.ok_or(group.to_string())
        })
        .await
        .0
    };
    let first = deadline().await;
    for _ in 0..3 {
        sleep(Duration::from_secs(1)).await;
        backup.post("/api/v1/sync/resync", &json!({})).await;
        pair.in_step().await;
    }
    let last = deadline().await;
    assert!(
        first.abs_diff(last) < 500,
        "put off by {} ms",
        first.abs_diff(last)
    );
    call.ends().await;
    pair.served_by(home).await;
}

/// *Activate Backup Server* with the home still there holds the group until the home was away. A home that
/// is started anew was away, however quickly, and whichever of both can ask the other (R-FB-1).
#[tokio::test]
async fn a_restart_of_the_home_is_noticed_by_its_questions_alone() {
    let pair = Pair::laid_out().await;
    pair.configure_both("invisible_after = \"1500ms\"", "invisible_after = \"20s\"");
    let net = Net::between(&pair);
    pair.start_both().await;
    let (home, backup) = (&pair.primary, &pair.secondary);
    home.post(ACTIVATE, &json!({})).await.must_be(202);
    pair.served_by(backup).await;
    net.cut(Way::Heartbeat, backup, home, Cut::Refused);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(
        group_of(&backup.get("/api/v1/status").await, "primary")["owner"],
        "vmpro2",
        "held"
    );
    home.kill().await;
    home.launch().await;
    pair.served_by(home).await;
    let status = backup.get("/api/v1/status").await;
    assert_eq!(
        status["peer"]["signs"]["questions"], true,
        "{}",
        status["peer"]
    );
}

/// R-FB-8: a call whose PBX has gone silent can't hold the failback for ever; what it has recorded is kept
/// all the same, when the PBX comes back with it.
#[tokio::test]
async fn a_call_that_outlives_its_pbx_holds_nothing_up_and_loses_nothing() {
    let pair = Pair::laid_out().await;
    pair.fails_over_quickly();
    for node in pair.nodes() {
        node.configure("[http]", "[limits]\ncall_idle = \"4s\"\n\n[http]");
    }
    pair.start_both().await;
    let (home, backup) = (&pair.primary, &pair.secondary);
    home.kill().await;
    backup.names_owner(backup).await;
    let mut call = OpenCall::to_leave(backup, "2001", "5550100").await;
    call.up_to_the_beep().await;
    home.start().await;
    soon("the failback to wait for the call", async || {
        let group = group_of(&backup.try_status().await?, "primary");
        let words = group["failback"]["waiting_for"].to_string();
        words
            .contains("1 call on vmpro2 to end")
            .then_some(())
            .ok_or(words)
    })
    .await;
    // Nobody says a word any more.
    pair.served_by(home).await;
    let id = call.says(ONE).await;
    call.ends().await.must_be(204);
    for node in pair.nodes() {
        node.hears("2001", &id, ONE).await;
    }
}

/// R-FB-7: a home can be required to have been in sight for a while first.
#[tokio::test]
async fn a_home_must_be_stable_before_it_takes_over_again() {
    let pair = Pair::laid_out().await;
    let stable = "timeout = \"60m\"\nstable_for = \"5s\"";
    pair.configure_both("timeout = \"60m\"", stable);
    pair.start_both().await;
    pair.fail_over().await;
    pair.primary.launch().await;
    soon("failback to wait for the time", async || {
        let group = group_of(&pair.secondary.try_status().await?, "primary");
        let waits = group["failback"]["waiting_for"].to_string();
        let told = waits.contains("vmpro1 to stay visible for 5s");
        told.then_some(()).ok_or(waits)
    })
    .await;
    pair.primary.ready().await;
    pair.served_by(&pair.primary).await;
    let status = pair.secondary.get("/api/v1/status").await;
    let at = |time: &Value| -> u64 {
        let time: UnixMillis = serde_json::from_value(time.clone()).unwrap();
        time.0
    };
    let (seen, back) = (&status["peer"]["since"], &status["groups"][0]["since"]);
    // Both are told in wall-clock time, which may be off by a few milliseconds of what was measured.
    assert!(
        at(back) - at(seen) > 4_900,
        "in sight since {seen}, serves since {back}"
    );
}

/// A process that stood still (a paused machine, a disk that hung) has heard nobody: that is no absence of the
/// home, and no reason to undo what an operator decided.
#[tokio::test]
async fn a_backup_that_stood_still_does_not_take_that_for_an_absence_of_the_home() {
    let pair = Pair::start().await;
    let (home, backup) = (&pair.primary, &pair.secondary);
    home.post(ACTIVATE, &json!({})).await.must_be(202);
    pair.served_by(backup).await;
    let pid = backup.pid().await.to_string();
    for signal in ["-STOP", "-CONT"] {
        let sent = std::process::Command::new("kill")
            .args([signal, &pid])
            .status();
        assert!(sent.unwrap().success());
        sleep(Duration::from_secs(5)).await;
    }
    let group = group_of(&backup.get("/api/v1/status").await, "primary");
    assert_eq!(group["owner"], "vmpro2", "{group}");
    let waits = group["failback"]["waiting_for"].to_string();
    assert!(
        waits.contains("an administrator to start failback"),
        "{waits}"
    );
}
