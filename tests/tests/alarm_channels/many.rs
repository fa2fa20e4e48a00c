//! Thousands of systems fail over at once, and each is told of (R-AL-1).

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;
use vmsync_tests::pair::{LIMIT, Node, Pair};

use crate::{
    channels,
    receivers::{CHANNELS, Receivers},
    there_and_back,
};

/// What takes little time for each.
const QUICK: [&str; 4] = ["tcp", "tls", "hook", "noc"];
/// Datagrams that nobody acknowledges: what the receiver's buffer can't hold is lost.
const UNACKNOWLEDGED: [&str; 4] = ["udp", "v2c-trap", "v3-sha256", "v3-sha1"];

async fn all_alarms(node: &Node) -> Vec<serde_json::Value> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = node
            .get(&format!("/api/v1/alarms?limit=1000{cursor}"))
            .await;
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 1_000);
        all.extend(items.iter().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

/// Waits until each of `which` has sent that many, or the time is over.
async fn sent(node: &Node, which: &[&str], each: usize, limit: Duration) -> Vec<(String, f64)> {
    let begun = Instant::now();
    let mut done: Vec<(String, f64)> = Vec::new();
    while done.len() < which.len() {
        let all = channels(node).await.unwrap();
        for channel in &all {
            let name = channel["name"].as_str().unwrap();
            let asked = which.contains(&name) && channel["sent"] == each;
            if asked && done.iter().all(|(n, _)| n != name) {
                done.push((name.to_owned(), begun.elapsed().as_secs_f64()));
            }
        }
        assert!(begun.elapsed() < limit, "{done:?} of {all:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    done
}

async fn fail_over(systems: usize, which: &[&str], limit: Duration) {
    let pair = Pair::laid_out().await;
    let names: Vec<String> = (2..systems).map(|n| format!("s{n:05}")).collect();
    let system = |name: &String| {
        format!("[[systems]]\nname = \"{name}\"\nhome = \"vmpro1\"\ndestination = \"99999\"\n")
    };
    let more: String = names.iter().map(system).collect();
    for node in pair.nodes() {
        node.configure_more(&more);
    }
    let mut receivers = Receivers::laid_out(&pair);
    receivers.start(&pair).await;
    pair.start_both().await;
    let node = &pair.secondary;
    let before = node.resident_kib().await;
    let begun = Instant::now();
    there_and_back(&pair).await;
    let back = begun.elapsed();
    let done = sent(node, which, 2 * systems, limit).await;
    let after = node.resident_kib().await;
    println!(
        "{systems} systems: there and back in {back:?}, all told after that in {done:?} s; {before} KiB, then {after} KiB resident"
    );

    let alarms = all_alarms(node).await;
    let of = alarms.iter().filter(|a| a["code"] == "voicemail_failover");
    let over: BTreeSet<_> = of
        .filter(|a| a["cleared"].is_string())
        .map(|a| a["subject"].as_str().unwrap())
        .collect();
    assert_eq!(over.len(), systems, "each is listed, begun and ended");
    let order = ["headquarters".to_owned(), "branch".to_owned()];
    let order = || order.iter().chain(&names);
    let story: Vec<_> = ["raised", "cleared"]
        .iter()
        .flat_map(|word| order().map(move |name| format!("{word} {name}")))
        .collect();
    for &channel in which {
        let told = receivers.told(channel, "vmpro2");
        if UNACKNOWLEDGED.contains(&channel) {
            println!("{channel}: {} of {} arrived", told.len(), story.len());
        } else if channel != "noc" || story.len() <= vmsync_tests::mailhog::KEPT {
            assert!(
                told == story,
                "{channel}: each begin and each end, in order"
            );
        }
    }
}

#[tokio::test]
async fn each_of_more_systems_than_a_thousand_is_told_of() {
    fail_over(1_100, &QUICK, 2 * LIMIT).await;
}

/// `tests/run --test alarm_channels -- --ignored --nocapture ten_thousand`
#[tokio::test]
#[ignore = "a measurement of minutes"]
async fn ten_thousand_systems() {
    fail_over(10_000, &CHANNELS, Duration::from_mins(20)).await;
}
