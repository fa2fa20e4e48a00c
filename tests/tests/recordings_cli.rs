//! `vmsync vrl`: what an administrator types, against a running pair.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use std::{process::Stdio, time::Duration};

use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};
use vmsync_tests::pair::{Ended, Node, Pair, run, soon, vmsync, wav};

async fn vrl(node: &Node, args: &[&str]) -> Ended {
    let mut all = vec!["vrl"];
    all.extend(args);
    all.extend(["--url", &node.http, "--token", &node.admin_token]);
    run(vmsync(), &all, Duration::from_mins(1)).await
}

fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.out).unwrap_or_else(|e| panic!("{e}: {}", ended.out))
}

/// R-VR-1, R-VR-2, R-VR-4.
#[tokio::test]
async fn recordings_are_handed_in_tested_moved_and_watched_from_the_command_line() {
    let pair = Pair::start().await;
    let backup = &pair.secondary;
    let tested = vrl(backup, &["test"]).await.well();
    for step in ["resolve", "login", "rename", "delete"] {
        let line = tested.out.lines().find(|l| l.starts_with(step));
        assert!(
            line.is_some_and(|l| l.contains("ok") && l.contains(" ms")),
            "{step}: {}",
            tested.out
        );
    }

    pair.fail_over().await;
    let files: Vec<_> = (0..3)
        .map(|n| pair.file(&format!("call {n}.wav"), wav(20 + n)))
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    let mut args = vec!["record"];
    args.extend(files.iter().map(String::as_str));
    let taken = vrl(backup, &args).await.well();
    assert_eq!(
        taken.out.lines().filter(|l| l.contains("taken")).count(),
        3,
        "{}",
        taken.out
    );
    args.push("/no/such/file.wav");
    let again = vrl(backup, &args).await;
    assert_eq!(
        again.code,
        Some(1),
        "a file that is not there is told, the others are handed in"
    );
    assert_eq!(
        again.out.matches("there already").count(),
        3,
        "{}",
        again.out
    );
    assert!(again.err.contains("/no/such/file.wav"), "{}", again.err);

    // While the backup serves they must wait, which is said and not waited for.
    let waits = vrl(backup, &["transfer", "--wait"]).await;
    assert_eq!(waits.code, Some(1));
    assert!(waits.err.contains("it must wait"), "{}", waits.err);

    ctrl_c(backup).await;

    pair.primary.start().await;
    pair.served_by(&pair.primary).await;
    let moved = vrl(backup, &["transfer", "--wait", "--timeout", "50s"])
        .await
        .well();
    assert!(moved.out.contains("all moved"), "{}", moved.out);
    assert!(
        !moved.err.contains('\u{1b}'),
        "escape codes without a terminal: {:?}",
        moved.err
    );
    for n in 0..3 {
        let name = format!("call {n}.wav");
        assert!(
            !backup.vrl_dir.join(&name).exists(),
            "{name} is still at the backup"
        );
        assert!(std::fs::read(pair.primary.vrl_dir.join(&name)).unwrap() == wav(20 + n));
    }
    let status = json(&vrl(backup, &["--json"]).await.well());
    assert_eq!(
        (&status["state"], &status["files_pending"]),
        (&"done".into(), &0.into())
    );
    let status = vrl(backup, &[]).await.well();
    assert!(
        status.out.starts_with("done") && status.out.contains("moved since start: 3 files"),
        "{}",
        status.out
    );

    // The primary has nothing to move.
    let none = vrl(&pair.primary, &["transfer"]).await;
    assert_eq!(none.code, Some(1));
    assert!(none.err.contains("no_vrl_remote"), "{}", none.err);
}

/// Ctrl-C ends the showing, and says that it ends no more than that.
async fn ctrl_c(node: &Node) {
    let mut child = Command::new(vmsync())
        .args(["vrl", "transfer", "--wait", "--url", &node.http])
        .args(["--token", &node.admin_token])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let limit = Duration::from_secs(20);
    let first = timeout(limit, said.next_line()).await.unwrap().unwrap();
    assert!(first.is_some_and(|l| l.contains("files")), "how it stands");
    let pid = child
        .id()
        .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    kill_process(pid.unwrap(), Signal::INT).unwrap();
    let last = timeout(limit, said.next_line()).await.unwrap().unwrap();
    let last = last.unwrap_or_default();
    assert!(last.contains("the move goes on"), "{last}");
    let ended = timeout(limit, child.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(1));
}

/// What can't be moved is an alarm, an event and a number, and over once it is mended.
#[tokio::test]
async fn a_name_that_cannot_be_moved_is_told_until_it_is_gone() {
    let pair = Pair::start().await;
    let backup = &pair.secondary;
    let file = backup.vrl_dir.join("two..dots.wav");
    std::fs::write(&file, wav(1)).unwrap();
    vrl(backup, &["transfer"]).await.well();
    unfit(backup, 1).await;
    let status = vrl(backup, &["status"]).await.well();
    assert!(
        status.out.contains("can't be moved") && status.out.contains("two..dots.wav"),
        "{}",
        status.out
    );
    std::fs::remove_file(&file).unwrap();
    vrl(backup, &["transfer"]).await.well();
    unfit(backup, 0).await;
}

/// Alarm and metrics tell of so many.
async fn unfit(node: &Node, files: usize) {
    soon(&format!("{files} unfit files to be told"), async || {
        let up = node.try_get("/api/v1/alarms?active=true").await?;
        let alarms = up["items"].as_array().cloned().unwrap_or_default();
        let alarms = alarms.iter().filter(|a| a["code"] == "vrl_unfit").count();
        let metrics = node
            .request(Method::GET, "/metrics")
            .attempt()
            .await?
            .text();
        let line = format!("vmsync_vrl_unfit_files {files}");
        if alarms == files && metrics.lines().any(|l| l == line) {
            Ok(())
        } else {
            Err(up.to_string())
        }
    })
    .await;
}
