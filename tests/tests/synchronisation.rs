//! Synchronisation beyond the ordinary: a peer that must be seeded, an operation that can't be sent,
//! two sides that were apart, both copies before the answer, probes (docs/decisions/0010-synchronisation.md).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use std::{fs, time::Duration};

use futures_util::{StreamExt as _, stream};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;
use vmsync_tests::pair::{Node, ONE, Pair, TWO, soon, wav};

/// Waits until `what` holds of `GET path`.
async fn until(node: &Node, path: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    soon(&format!("{what} at {}", node.id), async || {
        let answer = node.try_get(path).await?;
        if holds(&answer) {
            Ok(answer)
        } else {
            Err(answer.to_string().chars().take(600).collect())
        }
    })
    .await
}

async fn rename(node: &Node, mailbox: &str, name: &str) {
    let path = format!("/api/v1/mailboxes/{mailbox}");
    node.patch(&path, &json!({"name": name})).await.must_be(200);
}

/// So many small changes on `node`, the last of which names mailbox 2003 `name N`.
async fn changes(node: &Node, count: usize) {
    stream::iter(0..count)
        .for_each_concurrent(16, async |n| {
            rename(node, "2003", &format!("name {n}")).await;
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_empty_peer_is_seeded_while_the_other_serves() {
    let pair = Pair::laid_out().await;
    for node in pair.nodes() {
        node.configure_more("[limits]\nlog_operations = 1000");
    }
    pair.start_both().await;
    let (here, there) = (&pair.primary, &pair.secondary);
    let kept = here.leave("2001", "1", ONE).await;
    let played = here.leave("2001", "2", TWO).await;
    let gone = here.leave("2001", "3", ONE).await;
    let message = |id: &str| format!("/api/v1/mailboxes/2001/messages/{id}");
    here.patch(&message(&played), &json!({"state": "saved"}))
        .await
        .must_be(200);
    here.delete(&format!("{}?purge=true", message(&gone)))
        .await
        .must_be(204);
    changes(here, 1_200).await;
    rename(here, "2003", "the last name").await;
    until(here, "/api/v1/sync", "a log that was cut", |s| {
        s["floor"].as_object().is_some_and(|f| !f.is_empty())
    })
    .await;

    there.kill().await;
    fs::remove_dir_all(&there.data_dir).unwrap();
    there.launch().await;
    let while_seeding = here.leave("2002", "4", TWO).await;
    there.ready().await;
    pair.in_step().await;

    there.hears("2001", &kept, ONE).await;
    there.hears("2001", &played, TWO).await;
    there.shows("2001", &played, "state", "saved").await;
    there.lacks(&message(&gone)).await;
    there.hears("2002", &while_seeding, TWO).await;
    let mailbox = there.get("/api/v1/mailboxes/2003").await;
    assert_eq!(mailbox["name"], "the last name");
    let floor = there.get("/api/v1/sync").await["floor"].clone();
    assert!(
        !floor.as_object().unwrap().is_empty(),
        "it got state, not a thousand operations: {floor}"
    );

    // And it is a full member again: what it takes reaches the other, also after both started anew.
    here.kill().await;
    there.kill().await;
    pair.start_both().await;
    let after = here.leave("2001", "5", ONE).await;
    pair.in_step().await;
    there.hears("2001", &after, ONE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_sent_holds_up_nothing_and_is_not_forgotten() {
    let pair = Pair::start().await;
    let (here, there) = (&pair.primary, &pair.secondary);
    there.kill().await;
    here.leave("2001", "1", ONE).await;
    let bad = here.leave("2001", "2", TWO).await;
    let last = here.leave("2001", "3", ONE).await;
    let path = format!("/api/v1/mailboxes/2001/messages/{bad}");
    let file = here.audio_file(&here.get(&path).await);
    let sound = fs::read(&file).unwrap();
    let mut damaged = sound.clone();
    *damaged.last_mut().unwrap() ^= 0xff;
    fs::write(&file, &damaged).unwrap();

    there.start().await;
    pair.in_step().await;
    there.hears("2001", &last, ONE).await;
    for node in pair.nodes() {
        let sync = node.get("/api/v1/sync").await;
        let quarantine = sync["quarantine"].as_array().unwrap();
        assert_eq!(quarantine.len(), 1, "{}: {sync}", node.id);
        assert_eq!(quarantine[0]["entity"], format!("message/{bad}"));
        assert!(
            quarantine[0]["why"]
                .as_str()
                .unwrap()
                .contains("can't be read"),
            "{quarantine:?}"
        );
        node.alarm("quarantined").await;
    }

    // The file is mended, from a backup say.
    fs::write(&file, &sound).unwrap();
    here.post("/api/v1/sync/resync", &json!({}))
        .await
        .must_be(202);
    for node in pair.nodes() {
        until(node, "/api/v1/sync", "nothing quarantined", |s| {
            s["quarantine"] == json!([])
        })
        .await;
    }
    pair.in_step().await;
    there.hears("2001", &bad, TWO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_time_apart_both_report_what_was_kept_and_what_was_dropped() {
    let pair = Pair::start().await;
    let (here, there) = (&pair.primary, &pair.secondary);
    rename(here, "2001", "Ann").await;
    pair.in_step().await;
    there.kill().await;
    rename(here, "2001", "Anna").await;
    here.leave("2001", "1", ONE).await;
    here.kill().await;
    // Alone it answers: silence would be worse.
    there.start().await;
    soon("the other to answer alone", async || {
        let answer = there
            .request(Method::PATCH, "/api/v1/mailboxes/2001")
            .json(&json!({"name": "Annabel"}))
            .attempt()
            .await?;
        if answer.status == 200 {
            Ok(())
        } else {
            Err(answer.text())
        }
    })
    .await;
    here.start().await;
    pair.in_step().await;

    let mut reports = Vec::new();
    for node in pair.nodes() {
        assert_eq!(node.get("/api/v1/mailboxes/2001").await["name"], "Annabel");
        let found = until(node, "/api/v1/sync/reports", "a report of it", |r| {
            let newest = &r["items"][0];
            newest["conflicts"]
                .as_array()
                .is_some_and(|c| !c.is_empty())
        })
        .await;
        reports.push(found["items"][0].clone());
    }
    let [ours, theirs] = reports.as_slice() else {
        unreachable!("two nodes");
    };
    assert_eq!(ours["here"]["messages_taken"], 1, "{ours}");
    assert_eq!(ours["here"], theirs["there"], "each from its side");
    assert_eq!(ours["there"], theirs["here"]);
    assert_eq!(ours["conflicts"], theirs["conflicts"]);
    assert_eq!(ours["digest"], theirs["digest"]);
    let conflict = &ours["conflicts"][0];
    assert_eq!(conflict["entity"], "mailbox/2001");
    assert_eq!(conflict["field"], "name");
    assert_eq!(conflict["kept"]["value"], "Annabel");
    assert_eq!(conflict["dropped"][0]["value"], "Anna");
    assert_eq!(conflict["because"], "the later change stands");
}

/// What a merge report holds of an exchange that was cut off in the middle: all of it, as if it had
/// gone through at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_counts_what_was_exchanged_before_an_interruption() {
    let [ours, _] = reports_of_an_exchange_cut_off().await;
    assert_eq!(ours["here"]["messages_taken"], MESSAGES, "{ours}");
    assert_eq!(ours["there"]["messages_taken"], 0, "{ours}");
    assert_eq!(ours["incomplete"], json!(null), "{ours}");
}

#[tokio::test(flavor = "multi_thread")]
async fn so_does_the_report_of_the_node_that_receives() {
    let [_, theirs] = reports_of_an_exchange_cut_off().await;
    assert_eq!(theirs["there"]["messages_taken"], MESSAGES, "{theirs}");
    assert_eq!(theirs["incomplete"], json!(null), "{theirs}");
}

/// Of the node that held all of it, and of the one that lacked it.
async fn reports_of_an_exchange_cut_off() -> [Value; 2] {
    // On a busy machine all of it may have gone through before anybody looked.
    let mut tries = 0..5;
    let (pair, before) = loop {
        assert!(tries.next().is_some(), "it always went through at once");
        if let Some(cut_off) = cut_off_in_the_middle().await {
            break cut_off;
        }
    };
    pair.start_both().await;

    let mut made = Vec::new();
    for (node, before) in pair.nodes().into_iter().zip(before) {
        let found = until(node, "/api/v1/sync/reports", "a report of it", |r| {
            r["items"].as_array().is_some_and(|all| all.len() > before)
        })
        .await;
        assert_eq!(reports(node).await, before + 1, "one report: {found}");
        made.push(found["items"][0].clone());
    }
    made.try_into().unwrap()
}

/// Left at one node while the other is away, in the test of interruptions.
const MESSAGES: usize = 60;

async fn reports(node: &Node) -> usize {
    let answer = node.get("/api/v1/sync/reports").await;
    answer["items"].as_array().unwrap().len()
}

/// A pair whose nodes both ended while one was sending the other what it lacked, and how many reports
/// each had before. `None` where all of it had arrived.
async fn cut_off_in_the_middle() -> Option<(Pair, [usize; 2])> {
    let pair = Pair::start().await;
    let (here, there) = (&pair.primary, &pair.secondary);
    // Of the first start of the pair, where they have one.
    let before = [reports(here).await, reports(there).await];
    there.kill().await;
    // Several mails' worth: 60 of 480 kB.
    let long = wav(30);
    stream::iter(0..MESSAGES)
        .for_each_concurrent(8, async |n| {
            here.leave("2001", &n.to_string(), &long).await;
        })
        .await;
    there.start().await;
    let arrived = soon("the first messages to arrive", async || {
        match there.try_messages("2001").await?.len() {
            0 => Err("none yet".to_owned()),
            some => Ok(some),
        }
    })
    .await;
    // Both go in the middle of it, so that neither has it in memory alone.
    there.kill().await;
    here.kill().await;
    (arrived < MESSAGES).then_some((pair, before))
}

/// Architecture decision 5: before failback the certificate is recorded.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_failback_rested_on_is_known_after_a_restart() {
    const HISTORY: &str = "/api/v1/groups/primary/history";
    let pair = Pair::start().await;
    let (home, backup) = (&pair.primary, &pair.secondary);
    pair.fail_over().await;
    backup.leave("2001", "1", ONE).await;
    home.start().await;
    pair.in_step().await;
    soon("failback to be granted", async || {
        let path = "/api/v1/groups/primary/failback";
        let answer = backup.post(path, &json!({})).await;
        if answer.status == 202 || answer.json()["code"] == "already_there" {
            Ok(())
        } else {
            Err(answer.text())
        }
    })
    .await;
    pair.served_by(home).await;

    home.kill().await;
    backup.kill().await;
    backup.start().await;
    let history = backup.get(HISTORY).await;
    let transitions = history["items"].as_array().unwrap();
    let [.., failover, failback] = transitions.as_slice() else {
        panic!("{history}");
    };
    assert_eq!(failover["proof"], json!(null), "{history}");
    assert_eq!(failback["owner"], "vmpro1", "{history}");
    let proof = &failback["proof"];
    assert_eq!(proof["says"], "both nodes held the same", "{history}");
    let rested_on = &proof["certificate"];
    assert_eq!(rested_on["left_out"]["count"], 0);

    // And the certificate itself, although the other node is away.
    let certificate = backup.get("/api/v1/sync/certificate").await;
    assert_eq!(certificate["equal_now"], false);
    assert_eq!(certificate["digest"], rested_on["digest"], "{certificate}");
    assert_eq!(certificate["vector"], rested_on["vector"], "{certificate}");
    assert!(certificate["at"].is_string(), "{certificate}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_ack_both_the_answer_says_how_many_copies_there_are() {
    let pair = Pair::laid_out().await;
    pair.configure_both(
        "startup_grace = \"3s\"",
        "startup_grace = \"3s\"\nack = \"both\"\nack_limit = \"1500ms\"",
    );
    pair.start_both().await;
    let (here, there) = (&pair.primary, &pair.secondary);
    let taken = here.deposit("2001", "1", ONE).send().await.must_be(201);
    assert_eq!(taken.json()["copies"], 2);
    let id = taken.json()["id"].as_str().unwrap().to_owned();
    // Acknowledged means that it is there already: no waiting.
    let path = format!("/api/v1/mailboxes/2001/messages/{id}");
    assert_eq!(there.get(&path).await["id"], id.as_str());
    let first = path;

    there.kill().await;
    let begun = Instant::now();
    let taken = here.deposit("2001", "2", ONE).send().await.must_be(201);
    assert_eq!(taken.json()["copies"], 1, "taken, and said to be alone");
    assert!(begun.elapsed() >= Duration::from_millis(1_400));
    let id = taken.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/mailboxes/2001/messages/{id}");
    // Also when the peer is known to be away, and when this node starts without it.
    for _ in 0..2 {
        until(here, "/api/v1/status", "a peer out of sight", |s| {
            s["peer"]["visible"] == false && s["node"]["ready"] == true
        })
        .await;
        let sync = here.get("/api/v1/status").await["sync"].clone();
        assert_eq!(sync["single_copies"], 1, "{sync}");
        assert_eq!(sync["out"]["pending_ops"], 1, "{sync}");
        let bytes = sync["out"]["pending_bytes"].as_u64().unwrap();
        assert!(bytes >= ONE.len() as u64, "{sync}");
        assert_eq!(here.get(&path).await["copies"], 1);
        assert_eq!(here.get(&first).await["copies"], 2);
        here.stop().await;
        here.start().await;
    }

    there.start().await;
    pair.in_step().await;
    until(here, "/api/v1/status", "no single copy", |s| {
        s["sync"]["single_copies"] == 0
    })
    .await;
    assert_eq!(here.get(&path).await["copies"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_the_peer_refuses_for_good_is_said_to_have_one_copy() {
    let pair = Pair::laid_out().await;
    let (here, there) = (&pair.primary, &pair.secondary);
    here.configure(
        "startup_grace = \"3s\"",
        "startup_grace = \"3s\"\nack = \"both\"\nack_limit = \"5s\"",
    );
    there.configure_more("[limits]\nmessage_bytes = \"64KiB\"");
    pair.start_both().await;
    let taken = here.deposit("2001", "1", &wav(100)).send().await;
    let taken = taken.must_be(201).json();
    assert_eq!(taken["copies"], 1, "{taken}");
    pair.in_step().await;
    let path = format!(
        "/api/v1/mailboxes/2001/messages/{}",
        taken["id"].as_str().unwrap()
    );
    there.lacks(&path).await;
    assert_eq!(here.get(&path).await["copies"], 1);
    let sync = here.get("/api/v1/status").await["sync"].clone();
    assert_eq!(
        (&sync["quarantined"], &sync["single_copies"]),
        (&json!(1), &json!(1))
    );
    let other = here.deposit("2001", "2", ONE).send().await.must_be(201);
    assert_eq!(other.json()["copies"], 2, "it holds up nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lacks_an_operation_does_not_end_its_quarantine() {
    let pair = Pair::laid_out().await;
    let (here, there) = (&pair.primary, &pair.secondary);
    there.configure_more("[limits]\nmessage_bytes = \"64KiB\"");
    pair.start_both().await;
    let greeting = "/api/v1/mailboxes/2001/greetings/busy";
    let (small, large) = (wav(1), wav(100));
    for audio in [&small, &large] {
        let put = here.request(Method::PUT, greeting).wav(audio);
        assert!(put.send().await.status < 300);
        pair.in_step().await;
    }
    let quarantined = |count: u64| {
        move |s: &Value| s["sync"]["quarantined"] == count && s["sync"]["diverged"] == false
    };
    for node in pair.nodes() {
        until(node, "/api/v1/status", "one quarantined", quarantined(1)).await;
    }
    // Each tries again, the one with the stand-in first.
    for node in [there, here, there] {
        node.post("/api/v1/sync/resync", &json!({}))
            .await
            .must_be(202);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            for node in pair.nodes() {
                let status = node.get("/api/v1/status").await;
                assert!(quarantined(1)(&status), "{}: {}", node.id, status["sync"]);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    pair.in_step().await;
    // Once it takes the operation's content, the record of who holds it ends the quarantine.
    there.stop().await;
    there.configure("message_bytes = \"64KiB\"", "message_bytes = \"32MiB\"");
    there.start().await;
    for node in pair.nodes() {
        until(node, "/api/v1/status", "none quarantined", quarantined(0)).await;
    }
    pair.in_step().await;
    let heard = there.request(Method::GET, greeting);
    assert_eq!(heard.send().await.must_be(200).body, large);
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_show_that_mail_gets_through_and_alarm_when_it_does_not() {
    let pair = Pair::laid_out().await;
    pair.configure_both(
        "startup_grace = \"3s\"",
        "startup_grace = \"3s\"\nprobe = \"500ms\"",
    );
    pair.start_both().await;
    for node in pair.nodes() {
        let status = until(node, "/api/v1/status", "probes both ways", |s| {
            let probe = &s["sync"]["probe"];
            probe["out_age_ms"].is_u64() && probe["in_age_ms"].is_u64()
        })
        .await;
        let took = status["sync"]["probe"]["round_trip_ms"].as_u64().unwrap();
        assert!(took < 20_000, "{took} ms there and back");
    }
    // Heartbeats go on, mails don't: the sender's entry points to where nobody listens.
    let node = &pair.primary;
    node.stop().await;
    let text = fs::read_to_string(&node.config).unwrap();
    let port = pair.secondary.smtp.rsplit(':').next().unwrap();
    let wrong = text.replace(&format!("port = {port}"), "port = 9");
    assert_ne!(text, wrong);
    fs::write(&node.config, wrong).unwrap();
    node.start().await;
    let alarm = node.alarm("probe_late").await;
    assert!(alarm["text"].as_str().unwrap().contains("end to end"));
    node.stop().await;
    fs::write(&node.config, text).unwrap();
    node.start().await;
    soon("the alarm's end", async || {
        let alarms = node.try_get("/api/v1/alarms?active=true").await?;
        let up = alarms["items"].as_array().unwrap();
        if up.iter().all(|a| a["code"] != "probe_late") {
            Ok(())
        } else {
            Err(alarms.to_string())
        }
    })
    .await;
}
