//! `vmsync bench`, with next to no work: that it runs to its end and says what it measured. What it
//! measures depends on the machine, so no figure is judged.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::process::{Command, Output};

use serde_json::Value;

fn bench(arguments: &[&str], dir: &std::path::Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmsync"))
        .arg("bench")
        .args(arguments)
        .arg("--dir")
        .arg(dir)
        .output()
        .unwrap()
}

fn figures(output: &Output) -> Value {
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn bench_sync_measures_every_part_in_one_run_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let work =
        "sync --json --messages 8 --bytes 4044 --changes 40 --rate 20 --seconds 1 --scale 50";
    let arguments: Vec<_> = work.split(' ').collect();
    let figures = figures(&bench(&arguments, dir.path()));
    for name in [
        "floor_files_s",
        "intake_msgs_s",
        "intake_ratio",
        "backlog_files_s",
        "backlog_ratio",
        "changes_s",
        "calls_files_s",
        "calls_busy_p99_ms",
        "calls_quiet_p99_ms",
        "lag_p50_ms",
        "lag_p99_ms",
        "scale_ready_ms",
        "scale_rss_mb",
        "scale_list_p50_ms",
        "rss_mb",
    ] {
        let figure = figures[name].as_f64();
        assert!(figure.is_some_and(|f| f >= 0.0), "{name}: {figures}");
    }
    assert_eq!(figures["backlog_messages"], 8);
    assert_eq!(figures["scale_mailboxes"], 5);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn bench_intake_prints_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let output = bench(
        &["intake", "--messages", "4", "--bytes", "2000"],
        dir.path(),
    );
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{table}");
    for name in ["floor_files_s", "intake_msgs_s", "intake_ratio"] {
        assert!(table.lines().any(|l| l.starts_with(name)), "{table}");
    }
}
