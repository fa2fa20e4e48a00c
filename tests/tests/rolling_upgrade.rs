//! An upgrade node by node, from an older release to this program: neither node loses anything, and
//! each speaks to the other as it understands. Needs the older program: `tests/rolling-upgrade` builds
//! one and runs this; without it the test says so and does nothing.

#![allow(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::path::PathBuf;

use vmsync_tests::pair::{Node, ONE, Pair, TWO, soon};

/// Leaves a message at a node that may have to notice first that it is alone.
async fn leave(node: &Node, caller: &str) -> String {
    let answer = soon(&format!("{} to take a message", node.id), async || {
        let answer = node.deposit("2001", caller, TWO).attempt().await?;
        if answer.status == 201 {
            Ok(answer)
        } else {
            Err(answer.text())
        }
    })
    .await;
    answer.json()["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_after_the_other_becomes_the_newer_release_and_nothing_is_lost() {
    let Some(old) = std::env::var_os("VMSYNC_OLD").map(PathBuf::from) else {
        println!("skipped: VMSYNC_OLD names no older program; run tests/rolling-upgrade");
        return;
    };
    let pair = Pair::laid_out().await;
    let (primary, secondary) = (&pair.primary, &pair.secondary);
    for node in pair.nodes() {
        // Made by this program, and so of no use to the older one.
        std::fs::remove_dir_all(&node.data_dir).unwrap();
        node.launch_with(&old).await;
    }
    for node in pair.nodes() {
        node.ready().await;
    }
    let mailbox = serde_json::json!({"extension": "2001"});
    primary
        .post("/api/v1/mailboxes", &mailbox)
        .await
        .must_be(201);
    let first = primary.leave("2001", "1", ONE).await;
    pair.in_step().await;

    // The secondary first: what was left meanwhile comes from the older program.
    secondary.stop().await;
    let second = primary.leave("2001", "2", TWO).await;
    secondary.start().await;
    pair.in_step().await;

    // Then the other way round: a backlog of the newer program for the older one.
    primary.kill().await;
    let third = leave(secondary, "3").await;
    let fourth = leave(secondary, "4").await;
    primary.launch_with(&old).await;
    primary.ready().await;
    pair.in_step().await;
    primary.hears("2001", &fourth, TWO).await;

    primary.stop().await;
    primary.start().await;
    pair.in_step().await;
    let fifth = primary.leave("2001", "5", ONE).await;
    pair.in_step().await;
    for node in pair.nodes() {
        for (id, wav) in [
            (&first, ONE),
            (&second, TWO),
            (&third, TWO),
            (&fourth, TWO),
            (&fifth, ONE),
        ] {
            node.hears("2001", id, wav).await;
        }
        let alarms = node.get("/api/v1/alarms").await;
        assert!(!alarms.to_string().contains("wire_version"), "{alarms}");
    }
}
