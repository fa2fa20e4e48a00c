//! Rights with real processes: what the backup may do by the primary's right, how long without it,
//! and what each node of a dual-active pair may do by its own (R-FO-8, R-VR-3).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use vmsync_tests::pair::{Answer, Node, ONE, Pair, TWO, group_of, run, soon, vmsync};

/// Hands in a call recording.
async fn record(node: &Node, name: &str) -> Answer {
    let path = format!("/api/v1/vrl/recordings?name={name}");
    node.request(Method::POST, &path).wav(ONE).send().await
}

/// Waits until the status of `node` tells of its rights what `is` looks for.
async fn rights(node: &Node, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    soon(&format!("{what} at {}", node.id), async || {
        let rights = node.try_status().await?["rights"].clone();
        if is(&rights) {
            Ok(rights)
        } else {
            Err(rights.to_string())
        }
    })
    .await
}

/// Waits until no alarm of `code` is up.
async fn no_alarm(node: &Node, code: &str) {
    soon(&format!("the end of {code} at {}", node.id), async || {
        let up = node.try_get("/api/v1/alarms?active=true").await?;
        let still = up["items"]
            .as_array()
            .is_none_or(|up| up.iter().any(|a| a["code"] == code));
        if still { Err(up.to_string()) } else { Ok(()) }
    })
    .await;
}

/// What an operator reads on a terminal.
async fn on_a_terminal(node: &Node) -> String {
    let args = ["status", "--url", &node.http, "--token", &node.read_token];
    let said = run(vmsync(), &args, Duration::from_secs(20)).await.well();
    said.out
}

/// What an operator reads in a browser.
async fn in_the_console(node: &Node) -> String {
    let form = format!("token={}", node.read_token);
    let login = node.stranger(Method::POST, "/login");
    let login = login.body("application/x-www-form-urlencoded", form);
    let login = login.send().await.must_be(303);
    let cookie = login
        .header("set-cookie")
        .split(';')
        .next()
        .unwrap_or_default();
    let page = node.stranger(Method::GET, "/").header("Cookie", cookie);
    page.send().await.must_be(200).text()
}

/// R-FO-8: borrowed in resilience, for 30 days without the primary, whatever happens to the backup's
/// process meanwhile; then recordings are refused and callers still heard; and all is well when the
/// primary is back.
#[tokio::test]
async fn the_backup_honours_the_primarys_rights_until_the_grace_has_ended() {
    let pair = Pair::laid_out().await;
    pair.fails_over_quickly();
    pair.start_both().await;
    let backup = &pair.secondary;
    let own = rights(&pair.primary, "its own rights", |r| {
        r["media_manager"]["granted"] == true
    })
    .await;
    assert_eq!(own["voicemail"]["source"], "own", "{own}");
    for right in ["voicemail", "media_manager"] {
        let borrowed = rights(backup, "the primary's rights", |r| {
            r[right]["granted"] == true
        })
        .await;
        assert_eq!(
            borrowed[right],
            json!({"granted": true, "source": "peer", "grace_until": null})
        );
    }

    // The primary is gone: its rights hold here, and end in 30 days.
    let gone = vmsync::clock::wall();
    pair.fail_over().await;
    let lent = rights(backup, "the end of the grace", |r| {
        r["media_manager"]["grace_until"].is_string()
    })
    .await;
    let until = lent["media_manager"]["grace_until"].as_str().unwrap();
    assert_eq!(lent["voicemail"]["grace_until"], until);
    let day = |days: u64| vmsync_config::words::UnixMillis(gone.0 + days * 86_400_000).to_string();
    assert!(
        (day(29).as_str()..day(31).as_str()).contains(&until),
        "{until}"
    );
    record(backup, "one.wav").await.must_be(201);
    let alarm = backup.alarm("licence_grace").await;
    assert!(alarm["text"].as_str().unwrap().contains(until), "{alarm}");
    let said = on_a_terminal(backup).await;
    assert!(said.contains(&format!("it ends on {until}")), "{said}");
    let page = in_the_console(backup).await;
    assert!(page.contains(&format!("it ends on {until}")), "{page}");

    // It does not begin anew with the process.
    for _ in 0..2 {
        backup.kill().await;
        backup.start().await;
        let kept = backup.get("/api/v1/status").await["rights"].clone();
        assert_eq!(kept, lent, "after kill -9");
    }
    record(backup, "two.wav").await.must_be(201);

    // Nobody waits a month: by a grace of a second it has ended long ago, before this start.
    backup.kill().await;
    backup.configure_more("[rights]\ngrace = \"1s\"");
    backup.start().await;
    let ended = backup.get("/api/v1/status").await["rights"].clone();
    for right in ["voicemail", "media_manager"] {
        assert_eq!(
            ended[right],
            json!({"granted": false, "source": "expired", "grace_until": null})
        );
    }
    let refused = record(backup, "three.wav").await;
    refused.problem(403, "no_media_manager_right", &["rights.grace", "R-FO-8"]);
    let alarm = backup.alarm("licence_missing").await;
    let text = alarm["text"].as_str().unwrap();
    assert!(text.contains("recordings are refused"), "{text}");
    no_alarm(backup, "licence_grace").await;
    let said = on_a_terminal(backup).await;
    assert!(said.contains("media-manager right: ended"), "{said}");
    // A caller can't help the licence.
    let id = backup.leave("2001", "1", TWO).await;

    // The primary is back, and with it its rights.
    pair.primary.start().await;
    pair.served_by(&pair.primary).await;
    rights(backup, "the rights again", |r| {
        let right = &r["media_manager"];
        right["granted"] == true && right["source"] == "peer" && right["grace_until"].is_null()
    })
    .await;
    no_alarm(backup, "licence_missing").await;
    pair.primary.hears("2001", &id, TWO).await;
    pair.calm().await;

    // And once more, while it runs: the second passes, and the rights with it.
    pair.fail_over().await;
    rights(backup, "the end", |r| {
        r["media_manager"]["source"] == "expired"
    })
    .await;
    backup.alarm("licence_missing").await;
    record(backup, "four.wav")
        .await
        .problem(403, "no_media_manager_right", &[]);
}

/// R-VR-3, R-FO-8: each node of a dual-active pair records by its own right and lends none; a backup
/// in single-active has what its primary has and no more. Switched live, the other rule holds at once.
#[tokio::test]
async fn in_dual_active_each_node_needs_its_own_right_to_record() {
    let pair = Pair::laid_out().await;
    pair.fails_over_quickly();
    let (first, second) = (&pair.primary, &pair.secondary);
    first.configure_more("[rights]\nmedia_manager = false");
    pair.start_both().await;
    // Single-active: the secondary has none of its own, and the primary none to lend.
    let none = rights(second, "that there is nothing to borrow", |r| {
        r["voicemail"]["granted"] == true
    })
    .await;
    assert_eq!(
        none["media_manager"],
        json!({"granted": false, "source": "peer", "grace_until": null})
    );
    let reason = "the primary has no media-manager right";
    record(second, "a.wav")
        .await
        .problem(403, "no_media_manager_right", &[reason]);

    let dual = json!({"mode": "dual-active", "destinations": {"branch": "99998"}});
    let put = first.request(Method::PUT, "/api/v1/topology").json(&dual);
    put.send().await.must_be(200);
    rights(second, "a right of its own", |r| {
        r["media_manager"]["granted"] == true && r["media_manager"]["source"] == "own"
    })
    .await;
    record(second, "b.wav").await.must_be(201);
    let reason = "rights.media_manager is false";
    record(first, "c.wav")
        .await
        .problem(403, "no_media_manager_right", &[reason]);

    // Not even while it serves the other's callers, and nothing is lent or runs out.
    second.kill().await;
    soon("the branch to be served by the primary", async || {
        let group = group_of(&first.try_status().await?, "secondary");
        if group["owner"] == first.id.as_str() {
            Ok(())
        } else {
            Err(group.to_string())
        }
    })
    .await;
    record(first, "d.wav")
        .await
        .problem(403, "no_media_manager_right", &[reason]);
    let own = first.get("/api/v1/status").await["rights"].clone();
    assert_eq!(
        own["voicemail"],
        json!({"granted": true, "source": "own", "grace_until": null})
    );
    first.leave("2001", "1", ONE).await;

    // Given the right, it records from its next start on.
    first.kill().await;
    first.configure("media_manager = false", "media_manager = true");
    first.start().await;
    record(first, "d.wav").await.must_be(201);
    no_alarm(first, "licence_grace").await;
    no_alarm(first, "licence_missing").await;
}
