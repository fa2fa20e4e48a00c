//! A partition in which nobody takes anything over: both nodes answer, both say how they stand, and
//! afterwards what both did is one, with a report of it (R-SY-6, R-FO-6).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what failed by panicking, and how long it took"
)]

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use vmsync_tests::pair::{
    Cut, Ledger, Net, Node, ONE, OpenCall, Pair, TWO, Watch, Way, group_of, soon,
};

const GROUP: &str = "primary";

/// Trigger `phones`, and no phone: the partition ends as it began, with one owner.
#[tokio::test]
async fn both_answer_both_say_so_and_afterwards_all_is_one() {
    let pair = Pair::laid_out().await;
    pair.fails_over_quickly();
    pair.configure_both("trigger = \"visibility\"", "trigger = \"phones\"");
    let net = Net::between(&pair);
    pair.start_both().await;
    let watch = Watch::over(&pair);
    let [primary, secondary] = pair.nodes();
    let shared = primary.leave("2001", "5550100", ONE).await;
    pair.in_step().await;

    net.cut_all(Cut::Silent);
    stands(primary, "yes", "normal").await;
    stands(secondary, "partition", "pending").await;
    for (node, other) in [(primary, "vmpro2"), (secondary, "vmpro1")] {
        let group = group_of(&node.get("/api/v1/status").await, GROUP);
        let why = group["both_may_serve"].as_str().unwrap_or_default();
        assert!(why.contains(other) && why.contains("merged"), "{group}");
    }
    let route = secondary.get("/api/v1/route?mailbox=2001").await;
    assert_eq!(
        (&route["owner"], &route["here"]),
        (&json!("vmpro1"), &json!(true))
    );

    // Callers, users and administrators on either side.
    let mut left = Vec::new();
    for (node, caller) in [(primary, "5550111"), (secondary, "5550222")] {
        let id = node.leave("2001", caller, TWO).await;
        node.hears("2001", &id, TWO).await;
        left.push(id);
        let mut call = OpenCall::to_leave(node, "2002", caller).await;
        call.up_to_the_beep().await;
        left.push(call.says(ONE).await);
        call.ends().await.must_be(204);
        let name = json!({"name": format!("Ada of {}", node.id)});
        node.patch("/api/v1/mailboxes/2003", &name)
            .await
            .must_be(200);
    }
    let path = format!("/api/v1/mailboxes/2001/messages/{shared}");
    primary
        .patch(&path, &json!({"state": "saved"}))
        .await
        .must_be(200);
    let greeting = "/api/v1/mailboxes/2001/greetings/busy";
    for (node, wav) in [(primary, ONE), (secondary, TWO)] {
        let put = node
            .request(reqwest::Method::PUT, greeting)
            .wav(wav)
            .send()
            .await;
        assert!(put.status < 300, "{}", put.text());
    }
    // Who decides can't be asked from here; it is said, not guessed.
    let ask = json!({"dry_run": true});
    let refused = primary
        .post("/api/v1/groups/primary/activate-backup", &ask)
        .await;
    assert_ne!(refused.status, 202, "{}", refused.text());

    net.heal();
    let (owner, took) = pair.one_owner(GROUP).await;
    println!("one owner {} ms after the return", took.as_millis());
    assert!(took < Duration::from_secs(5), "one owner within 5 s");
    assert_eq!(owner, "vmpro1");
    pair.in_step().await;
    for node in pair.nodes() {
        let group = group_of(&node.get("/api/v1/status").await, GROUP);
        assert!(group["both_may_serve"].is_null(), "{group}");
        let mailbox = node.get("/api/v1/mailboxes/2003").await;
        assert_eq!(mailbox["name"], "Ada of vmpro2", "the later change stands");
        assert_eq!(node.get(&path).await["state"], "saved");
        let greeting = node.request(reqwest::Method::GET, greeting).send().await;
        assert!(greeting.must_be(200).body == TWO, "the later greeting");
        assert_eq!(node.messages("2001").await.len(), 3);
        assert_eq!(node.messages("2002").await.len(), 2);
    }
    for (id, wav) in left.iter().zip([TWO, ONE, TWO, ONE]) {
        let mailbox = if wav == TWO { "2001" } else { "2002" };
        for node in pair.nodes() {
            node.hears(mailbox, id, wav).await;
        }
    }
    let [ours, theirs] = [report(primary).await, report(secondary).await];
    assert_eq!(ours["here"]["messages_taken"], 2, "{ours}");
    assert_eq!(ours["there"]["messages_taken"], 2, "{ours}");
    assert_eq!(ours["here"], theirs["there"]);
    assert_eq!(ours["conflicts"], theirs["conflicts"]);
    let of: Vec<_> = ours["conflicts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["entity"].to_string())
        .collect();
    assert!(of.iter().any(|e| e.contains("mailbox/2003")), "{of:?}");
    pair.calm().await;
    watch.saw_nothing_wrong();
    assert_eq!(
        watch.moves(secondary, GROUP),
        [(0, "vmpro1".to_owned())],
        "no failover"
    );
}

/// An operator on the backup's side of a partition takes the group over; the old owner hears of it
/// when the line is back, and hands over at once.
#[tokio::test]
async fn what_an_operator_decided_on_one_side_holds_for_both_afterwards() {
    let pair = Pair::laid_out().await;
    pair.fails_over_quickly();
    for (from, to) in [
        ("trigger = \"visibility\"", "trigger = \"manual\""),
        ("policy = \"graceful\"", "policy = \"manual\""),
    ] {
        pair.configure_both(from, to);
    }
    let net = Net::between(&pair);
    pair.start_both().await;
    let watch = Watch::over(&pair);
    let [primary, secondary] = pair.nodes();
    net.cut_all(Cut::Refused);
    stands(secondary, "partition", "pending").await;
    let ask = json!({"reason": "the site of the primary is dark"});
    let path = "/api/v1/groups/primary/activate-backup";
    secondary.post(path, &ask).await.must_be(202);
    stands(secondary, "yes", "resilience").await;
    stands(primary, "yes", "normal").await;
    let mut call = OpenCall::to_leave(primary, "2001", "5550111").await;
    call.up_to_the_beep().await;
    net.heal();
    let (owner, took) = pair.one_owner(GROUP).await;
    println!("one owner {} ms after the return", took.as_millis());
    assert_eq!(owner, "vmpro2");
    // The call that the old owner has is finished there; the next goes to the new one.
    let message = call.says(TWO).await;
    call.ends().await.must_be(204);
    secondary.hears("2001", &message, TWO).await;
    let sent_on = primary.deposit("2001", "5550112", ONE).send().await;
    let sent_on = sent_on.problem(307, "not_serving", &["vmpro2"]);
    assert!(
        sent_on
            .header("location")
            .starts_with(&net.url(primary, secondary))
    );
    stands(secondary, "yes", "returning").await;
    stands(primary, "no", "returning").await;
    watch.is_told(&pair, GROUP, 0).await;
    watch.saw_nothing_wrong();
}

/// A line that comes and goes: cuts of any length, some noticed and some not, with callers all
/// through it. `FULL=1` does it for ten times as long.
#[tokio::test]
async fn a_line_that_comes_and_goes_loses_nothing() {
    let pair = Pair::laid_out().await;
    pair.fails_over_quickly();
    let net = Net::between(&pair);
    pair.start_both().await;
    let watch = Watch::over(&pair);
    let ledger: Arc<Ledger> = Arc::default();
    let [primary, secondary] = pair.nodes();
    let callers = [
        ledger.calls_come_in([primary, secondary], "2001"),
        ledger.calls_come_in([secondary, primary], "2002"),
    ];
    let full = std::env::var("FULL").is_ok_and(|full| full == "1");
    let until = Instant::now() + Duration::from_secs(if full { 150 } else { 15 });
    let mut cuts = 0;
    while Instant::now() < until {
        // No two alike, and the same in each run.
        cuts += 1;
        let apart = 50 + cuts * 379 % 2_300;
        let together = 50 + cuts * 211 % 900;
        let cut = if cuts % 2 == 0 {
            Cut::Silent
        } else {
            Cut::Refused
        };
        match cuts % 4 {
            0 => net.cut_one_way(primary, secondary, cut),
            1 => net.cut_one_way(secondary, primary, cut),
            _ => net.cut_all(cut),
        }
        sleep(Duration::from_millis(apart)).await;
        net.heal();
        sleep(Duration::from_millis(together)).await;
    }
    let (_, took) = pair.one_owner(GROUP).await;
    for callers in callers {
        callers.hang_up().await;
    }
    pair.served_by(primary).await;
    pair.in_step().await;
    ledger.is_on_both(&pair).await;
    pair.calm().await;
    watch.saw_nothing_wrong();
    watch.is_told(&pair, GROUP, 0).await;
    println!(
        "{cuts} cuts, {} messages, {} moves; one owner {} ms after the last",
        ledger.len(),
        watch.moves(secondary, GROUP).len() - 1,
        took.as_millis()
    );
}

async fn stands(node: &Node, serving: &str, phase: &str) {
    soon(
        &format!("{} to be {serving}, {phase}", node.id),
        async || {
            let status = node.try_status().await?;
            let group = group_of(&status, GROUP);
            let alone = status["peer"]["visible"] == (phase == "returning");
            let fine = alone && group["serving_here"] == serving && group["phase"] == phase;
            fine.then_some(()).ok_or(group.to_string())
        },
    )
    .await;
}

/// The newest report of a reunion at `node`.
async fn report(node: &Node) -> Value {
    soon(&format!("a report at {}", node.id), async || {
        let newest = node.try_get("/api/v1/sync/reports").await?["items"][0].clone();
        let whole = newest["conflicts"]
            .as_array()
            .is_some_and(|c| !c.is_empty());
        whole.then_some(newest.clone()).ok_or(newest.to_string())
    })
    .await
}

/// All is cut but mails from the primary: it sees the secondary greet and knows nothing of a takeover; the
/// secondary sees no sign at all and takes its users over, while the primary's mails still come in. Both
/// answer and say so; afterwards there is one owner, and nothing is lost or there twice.
#[tokio::test]
async fn mails_alone_in_one_direction_keep_nothing_from_being_settled_afterwards() {
    let pair = Pair::laid_out().await;
    pair.fails_over_quickly();
    let net = Net::between(&pair);
    pair.start_both().await;
    let watch = Watch::over(&pair);
    let ledger = Ledger::default();
    let [primary, secondary] = pair.nodes();
    for (way, from, to) in [
        (Way::Heartbeat, primary, secondary),
        (Way::Heartbeat, secondary, primary),
        (Way::Smtp, secondary, primary),
    ] {
        net.cut(way, from, to, Cut::Silent);
    }
    stands(secondary, "yes", "resilience").await;
    for node in pair.nodes() {
        let status = node.get("/api/v1/status").await;
        let group = group_of(&status, GROUP);
        assert!(group["both_may_serve"].is_string(), "{group}");
        assert_eq!(group["serving_here"], "yes", "{group}");
        assert_eq!(status["peer"]["visible"], node.id == "vmpro1");
    }
    primary.alarm("heartbeat_lost").await;
    secondary.alarm("peer_lost").await;
    for node in pair.nodes() {
        ledger.leave(node, "2001").await;
        ledger.leave(node, "2002").await;
    }
    net.heal();
    let (_, took) = pair.one_owner(GROUP).await;
    println!("one owner {} ms after the return", took.as_millis());
    assert!(took < Duration::from_secs(5), "one owner within 5 s");
    pair.served_by(primary).await;
    pair.in_step().await;
    ledger.is_on_both(&pair).await;
    pair.calm().await;
    watch.saw_nothing_wrong();
}
