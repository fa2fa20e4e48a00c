//! The demo: its story told, told again with nodes killed in the middle, and stopped by Ctrl-C.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use std::time::Duration;

use vmsync_tests::pair::{Folder, Ports, Process, nodes, run, vmsync};

/// Steps of the story.
const STEPS: u32 = 14;

async fn tell(kill: Option<&str>) {
    let (dir, ports) = (Folder::new(), Ports::reserve());
    let (layout, base) = (dir.path().join("demo"), ports.base.to_string());
    let layout = layout.to_string_lossy();
    let mut args = vec!["demo", "--script", "--dir", &layout, "--base-port", &base];
    if let Some(kill) = kill {
        args.extend(["--kill", kill]);
    }
    let told = run(vmsync(), &args, Duration::from_secs(150)).await.well();
    let steps = told
        .out
        .lines()
        .filter(|line| line.contains(". ok "))
        .count();
    assert_eq!(steps, STEPS as usize, "{}", told.out);
    assert!(
        told.out
            .contains("The whole story held. Both nodes stopped cleanly."),
        "{}",
        told.out
    );
}

#[tokio::test]
async fn the_story_holds_twice_in_a_row() {
    for _ in 0..2 {
        tell(None).await;
    }
}

/// The steps in which most is under way: mail taken, failover, work at the backup, the primary's
/// return, failback, recordings moving. `FULL=1` kills either node at every step.
#[tokio::test]
async fn the_story_holds_with_a_node_killed_at_any_step() {
    let mut kills: Vec<_> = [
        "3:vmpro1",
        "4:vmpro2",
        "8:vmpro2",
        "11:vmpro1",
        "13:vmpro2",
        "14:vmpro1",
    ]
    .map(str::to_owned)
    .into();
    if std::env::var("FULL").is_ok_and(|full| full == "1") {
        kills = (1..=STEPS)
            .flat_map(|step| ["vmpro1", "vmpro2"].map(|node| format!("{step}:{node}")))
            .collect();
    }
    for kill in kills {
        println!("killing {kill}");
        tell(Some(&kill)).await;
    }
}

#[tokio::test]
async fn ctrl_c_stops_both_nodes_and_the_folder_goes_on_from_there() {
    let (dir, ports) = (Folder::new(), Ports::reserve());
    let layout = dir.path().join("demo");
    let mut left = Vec::new();
    for start in 0..2 {
        let mut demo = Process::demo(&layout, &ports);
        demo.says("Ctrl-C stops both nodes").await;
        let [primary, secondary] = nodes(&layout);
        let pids = pids(&layout);
        if start == 0 {
            left.push(
                primary
                    .leave("2001", "5551234", vmsync_tests::pair::ONE)
                    .await,
            );
        }
        secondary
            .hears("2001", &left[0], vmsync_tests::pair::ONE)
            .await;
        demo.interrupt();
        demo.ends().await.well();
        for pid in pids {
            assert!(
                !std::path::Path::new(&format!("/proc/{pid}")).exists(),
                "process {pid} was left behind"
            );
        }
    }
}

/// Ctrl-C may come before the demo has told all it has to tell.
#[tokio::test]
async fn ctrl_c_during_the_start_leaves_no_process_behind() {
    let (dir, ports) = (Folder::new(), Ports::reserve());
    let layout = dir.path().join("demo");
    let demo = Process::demo(&layout, &ports);
    let log = layout.join("vmpro2").join("log.txt");
    vmsync_tests::pair::soon("the second node to be started", async || {
        if log.exists() {
            Ok(())
        } else {
            Err("no log".to_owned())
        }
    })
    .await;
    demo.interrupt();
    demo.ends().await.well();
    for log in ["vmpro1", "vmpro2"].map(|node| layout.join(node).join("log.txt")) {
        let text = std::fs::read_to_string(&log).unwrap();
        assert!(text.is_empty() || text.contains("stopping"), "{text}");
    }
    let mut again = Process::demo(&layout, &ports);
    again.says("Ctrl-C stops both nodes").await;
    again.interrupt();
    again.ends().await.well();
}

fn pids(layout: &std::path::Path) -> Vec<u64> {
    let text = std::fs::read_to_string(layout.join("demo.json")).unwrap();
    let demo: serde_json::Value = serde_json::from_str(&text).unwrap();
    let pids: Vec<_> = demo["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n["pid"].as_u64().unwrap())
        .collect();
    assert_eq!(pids.len(), 2);
    pids
}
