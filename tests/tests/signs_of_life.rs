//! A node is judged by two independent signs, heartbeats in either direction and the greeting of its
//! SMTP receiver: one dead service, or one dead direction, is an alarm and no failover.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what failed by panicking, and how long it took"
)]

use std::time::Duration;

use Way::{Heartbeat, Smtp};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use vmsync_tests::pair::{Cut, Ledger, Net, Node, Pair, Watch, Way, soon};

/// Alarms about the other node that these tests know.
const SIGHT: [&str; 3] = ["heartbeat_lost", "peer_lost", "smtp_lost"];

/// Lines that are cut together, each as what runs over it and whether from the primary; and the
/// alarms expected at the primary and at the secondary.
struct Case {
    name: &'static str,
    lines: &'static [(Way, bool)],
    alarms: [&'static [&'static str]; 2],
}

const CASES: [Case; 9] = [
    Case {
        name: "heartbeats only",
        lines: &[(Heartbeat, true), (Heartbeat, false)],
        alarms: [&["heartbeat_lost"], &["heartbeat_lost"]],
    },
    Case {
        name: "SMTP only",
        lines: &[(Smtp, true), (Smtp, false)],
        alarms: [&["smtp_lost"], &["smtp_lost"]],
    },
    Case {
        name: "one way: the primary can't reach the secondary",
        lines: &[(Heartbeat, true), (Smtp, true)],
        alarms: [&["heartbeat_lost", "smtp_lost"], &[]],
    },
    Case {
        name: "one way: the secondary can't reach the primary",
        lines: &[(Heartbeat, false), (Smtp, false)],
        alarms: [&[], &["heartbeat_lost", "smtp_lost"]],
    },
    Case {
        name: "heartbeats of the primary",
        lines: &[(Heartbeat, true)],
        alarms: [&["heartbeat_lost"], &[]],
    },
    Case {
        name: "heartbeats of the secondary",
        lines: &[(Heartbeat, false)],
        alarms: [&[], &["heartbeat_lost"]],
    },
    Case {
        name: "SMTP of the primary",
        lines: &[(Smtp, true)],
        alarms: [&["smtp_lost"], &[]],
    },
    Case {
        name: "SMTP of the secondary",
        lines: &[(Smtp, false)],
        alarms: [&[], &["smtp_lost"]],
    },
    // The secondary still hears the primary greet, so it takes nothing; the primary hears nothing.
    Case {
        name: "all but SMTP of the secondary",
        lines: &[(Heartbeat, true), (Heartbeat, false), (Smtp, true)],
        alarms: [&["peer_lost"], &["heartbeat_lost"]],
    },
];

#[tokio::test]
async fn what_is_refused_is_an_alarm_and_no_failover() {
    all(Cut::Refused).await;
}

#[tokio::test]
async fn what_is_silent_is_an_alarm_and_no_failover() {
    all(Cut::Silent).await;
}

async fn all(cut: Cut) {
    let pair = Pair::laid_out().await;
    pair.fails_over_quickly();
    let net = Net::between(&pair);
    pair.start_both().await;
    let watch = Watch::over(&pair);
    let ledger = Ledger::default();
    for case in &CASES {
        one(case, cut, &pair, &net, &ledger).await;
    }
    watch.saw_nothing_wrong();
    for node in pair.nodes() {
        let moves = watch.moves(node, "primary");
        assert_eq!(
            moves,
            [(0, "vmpro1".to_owned())],
            "no failover at {}",
            node.id
        );
    }
}

async fn one(case: &Case, cut: Cut, pair: &Pair, net: &Net, ledger: &Ledger) {
    let [primary, secondary] = pair.nodes();
    for (way, of_primary) in case.lines {
        let (from, to) = ends(pair, *of_primary);
        net.cut(*way, from, to, cut);
    }
    let begun = Instant::now();
    for (node, wanted) in pair.nodes().into_iter().zip(case.alarms) {
        alarms_are(node, case.name, wanted).await;
    }
    let told = begun.elapsed();
    // Far longer than a failover takes: 600 ms and a second.
    sleep(Duration::from_millis(2200)).await;
    for (node, wanted) in pair.nodes().into_iter().zip(case.alarms) {
        alarms_are(node, case.name, wanted).await;
        let status = node.get("/api/v1/status").await;
        let visible = !wanted.contains(&"peer_lost");
        assert_eq!(
            status["peer"]["visible"], visible,
            "{}: {}",
            case.name, node.id
        );
        assert_eq!(
            status["groups"][0]["owner"], "vmpro1",
            "{}: {}",
            case.name, node.id
        );
        let alive = signs(case, node.id == primary.id);
        assert_eq!(status["peer"]["signs"], alive, "{}: {}", case.name, node.id);
    }
    // Callers are sent on only to a node that answers.
    let is_cut = |way: Way, of_primary: bool| case.lines.contains(&(way, of_primary));
    let there = secondary.get("/api/v1/status").await["groups"][0]["serving_here"].clone();
    let wanted = if is_cut(Heartbeat, false) {
        "partition"
    } else {
        "no"
    };
    assert_eq!(there, wanted, "{}", case.name);
    // And where that makes two of them, both say so.
    for node in pair.nodes() {
        let group = node.get("/api/v1/status").await["groups"][0].clone();
        let both = group["both_may_serve"].is_string();
        assert_eq!(both, is_cut(Heartbeat, false), "{}: {group}", case.name);
    }
    let id = ledger.leave(primary, "2001").await;
    if is_cut(Smtp, true) {
        sleep(Duration::from_millis(300)).await;
        assert_eq!(
            secondary.messages("2001").await.len(),
            ledger.len() - 1,
            "{}",
            case.name
        );
    } else {
        ledger.is_heard(&id, secondary).await;
    }

    net.heal();
    let begun = Instant::now();
    pair.in_step().await;
    let caught_up = begun.elapsed();
    pair.calm().await;
    ledger.is_on_both(pair).await;
    println!(
        "{cut:?}, {}: told after {} ms; healed: in step after {} ms, no alarm after {} ms",
        case.name,
        told.as_millis(),
        caught_up.as_millis(),
        begun.elapsed().as_millis()
    );
}

fn ends(pair: &Pair, of_primary: bool) -> (&Node, &Node) {
    let [primary, secondary] = pair.nodes();
    if of_primary {
        (primary, secondary)
    } else {
        (secondary, primary)
    }
}

/// What the primary, or else the secondary, still sees of the other. A question is a sign only as
/// long as its asker gets answers to learn challenges from.
fn signs(case: &Case, primary: bool) -> Value {
    let open = |way: Way, of_primary: bool| !case.lines.contains(&(way, of_primary));
    json!({
        "answers": open(Heartbeat, primary),
        "questions": open(Heartbeat, !primary),
        "greeting": open(Smtp, primary),
    })
}

/// Waits until the alarms about the other node at `node` are `wanted`, and each says which it is.
async fn alarms_are(node: &Node, case: &str, wanted: &[&str]) {
    soon(
        &format!("{case}: alarms {wanted:?} at {}", node.id),
        async || {
            let list = node.try_get("/api/v1/alarms?active=true").await?;
            let up = list["items"].as_array().into_iter().flatten();
            let about: Vec<_> = up
                .filter(|a| SIGHT.iter().any(|code| a["code"] == *code))
                .collect();
            let mut codes: Vec<_> = about.iter().filter_map(|a| a["code"].as_str()).collect();
            codes.sort_unstable();
            let named = about.iter().all(|a| a["subject"] != node.id.as_str());
            (codes == wanted && named)
                .then_some(())
                .ok_or(list.to_string())
        },
    )
    .await;
}

/// However long mails did not get through, they do as soon as the receiver greets again: the pauses
/// between tries grow to half a minute, but a greeting is news.
#[tokio::test]
async fn mails_go_on_as_soon_as_the_receiver_greets_again() {
    let pair = Pair::laid_out().await;
    pair.fails_over_quickly();
    let net = Net::between(&pair);
    pair.start_both().await;
    let [primary, secondary] = pair.nodes();
    net.cut(Smtp, primary, secondary, Cut::Refused);
    let ledger = Ledger::default();
    ledger.leave(primary, "2001").await;
    primary.alarm("sync_stalled").await;
    sleep(Duration::from_secs(8)).await;
    net.heal();
    let begun = Instant::now();
    pair.in_step().await;
    println!(
        "in step {} ms after 8 s without mails",
        begun.elapsed().as_millis()
    );
    ledger.is_on_both(&pair).await;
    pair.calm().await;
}
