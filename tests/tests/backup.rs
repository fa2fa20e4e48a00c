//! Backups of a node, running or stopped; stores restored from them, with the peer there and with
//! both nodes lost; and what `vmsync store check` and `rebuild` do (docs/recover.md).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};
use vmsync_tests::pair::{Ended, GREETING, Node, ONE, Pair, TWO, run, soon, vmsync};

/// `vmsync store WHAT --config …` on the node's machine.
async fn store(node: &Node, what: &str, more: &[&str]) -> Ended {
    let config = node.config.to_string_lossy();
    let mut args = vec!["store", what, "--config", &config];
    args.extend(more);
    run(vmsync(), &args, Duration::from_mins(1)).await
}

/// Lets the node make backups in a folder of its own; gives the folder.
fn with_backups(node: &Node) -> PathBuf {
    let dir = node.config.parent().unwrap().join("backups");
    node.configure(
        "data_dir = \"data\"",
        "data_dir = \"data\"\nbackup_dir = \"backups\"",
    );
    dir
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap();
    let mut found: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
    found.sort();
    found
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Everything of the three demo mailboxes that anybody may read.
async fn seen(node: &Node) -> Value {
    let mut all = Vec::new();
    for mailbox in ["2001", "2002", "2003"] {
        let path = format!("/api/v1/mailboxes/{mailbox}");
        all.push(node.get(&path).await);
        all.push(node.get(&format!("{path}/messages")).await["items"].clone());
    }
    json!(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_both_nodes_lost_a_backup_made_under_load_brings_back_all_it_was_promised() {
    let pair = Pair::laid_out().await;
    let backups = with_backups(&pair.primary);
    pair.start_both().await;
    let node = &pair.primary;
    let greeting = "/api/v1/mailboxes/2002/greetings/busy";
    node.request(Method::PUT, greeting)
        .wav(GREETING)
        .send()
        .await
        .must_be(200);
    let saved = node.leave("2001", "1", TWO).await;
    let path = format!("/api/v1/mailboxes/2001/messages/{saved}");
    node.patch(&path, &json!({"state": "saved"}))
        .await
        .must_be(200);

    // Callers go on while the backup is made.
    let stop = Arc::new(AtomicBool::new(false));
    let deposits = async {
        let (mut before, mut n) = (Vec::new(), 0);
        while !stop.load(Ordering::Relaxed) {
            n += 1;
            let id = node.leave("2003", &format!("{n}"), ONE).await;
            before.push(id);
        }
        before
    };
    let backup = async {
        soon("some messages to be there", async || {
            let held = node.try_messages("2003").await?.len();
            if held >= 5 {
                Ok(())
            } else {
                Err(held.to_string())
            }
        })
        .await;
        let held = node.messages("2003").await;
        let made = store(node, "backup", &[]).await.well();
        stop.store(true, Ordering::Relaxed);
        (held, made)
    };
    let (_, (held, made)) = tokio::join!(deposits, backup);
    let made_here = folders(&backups);
    assert_eq!(made_here.len(), 1, "{made_here:?}");
    let folder = &made_here[0];
    assert!(made.out.contains(text(folder)), "{}", made.out);

    // Both machines burn down. The backup was on a third.
    for node in pair.nodes() {
        node.kill().await;
        fs::remove_dir_all(&node.data_dir).unwrap();
    }
    let restored = store(node, "restore", &["--from", text(folder)])
        .await
        .well();
    assert!(
        restored.out.contains("goes on as vmpro1."),
        "{}",
        restored.out
    );
    node.start().await;
    let ids = |list: &[Value]| -> Vec<String> {
        let ids = list.iter().map(|m| m["id"].as_str().unwrap().to_owned());
        ids.collect()
    };
    let back = ids(&node.messages("2003").await);
    for id in ids(&held) {
        assert!(back.contains(&id), "{id} is lost");
        node.hears("2003", &id, ONE).await;
    }
    node.shows("2001", &saved, "state", "saved").await;
    node.request(Method::GET, greeting)
        .send()
        .await
        .must_be(200);

    // The other one is replaced by an empty one, and filled.
    pair.secondary.start().await;
    pair.in_step().await;
    pair.secondary.hears("2001", &saved, TWO).await;
    assert_eq!(seen(node).await, seen(&pair.secondary).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_backup_gets_everything_newer_from_the_peer() {
    let pair = Pair::laid_out().await;
    let backups = with_backups(&pair.primary);
    pair.start_both().await;
    let (node, peer) = (&pair.primary, &pair.secondary);
    let kept = node.leave("2001", "1", ONE).await;
    let removed = node.leave("2001", "2", ONE).await;
    pair.in_step().await;
    node.stop().await;
    store(node, "backup", &[]).await.well();
    let folder = folders(&backups).remove(0);
    node.start().await;
    pair.in_step().await;

    // Life goes on: things come, change and go.
    let new = node.leave("2002", "3", TWO).await;
    let path = format!("/api/v1/mailboxes/2001/messages/{removed}?purge=true");
    node.delete(&path).await.must_be(204);
    let path = format!("/api/v1/mailboxes/2001/messages/{kept}");
    node.patch(&path, &json!({"state": "saved"}))
        .await
        .must_be(200);
    pair.in_step().await;
    let before = seen(peer).await;

    node.kill().await;
    let refused = store(node, "restore", &["--from", text(&folder)]).await;
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    assert!(refused.err.contains("--force"), "{}", refused.err);
    store(node, "restore", &["--from", text(&folder), "--force"])
        .await
        .well();
    node.start().await;
    pair.in_step().await;
    assert_eq!(seen(node).await, before);
    assert_eq!(
        seen(peer).await,
        before,
        "nothing old won over anything new"
    );
    node.hears("2002", &new, TWO).await;
    // What the node held before is kept, and no part of the store any more.
    let aside = folders(&node.data_dir);
    let aside = aside
        .iter()
        .find(|p| text(p).contains("replaced-"))
        .unwrap();
    assert!(aside.join("db").is_dir() && aside.join("audio").is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_node_makes_backups_only_where_its_configuration_says() {
    let pair = Pair::laid_out().await;
    let node = &pair.primary;
    let elsewhere = pair.dir().join("elsewhere");
    node.launch().await;
    node.ready().await;
    node.leave("2001", "1", ONE).await;
    let route = "/api/v1/store/backups";
    node.post(route, &json!({}))
        .await
        .problem(409, "conflict", &["node.backup_dir"]);
    let refused = store(node, "backup", &["--to", text(&elsewhere)]).await;
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    assert!(
        refused.err.contains("node.backup_dir only") && refused.err.contains("stop the node"),
        "{}",
        refused.err
    );
    node.stop().await;

    // Stopped, it may go anywhere.
    let made = store(node, "backup", &["--to", text(&elsewhere)])
        .await
        .well();
    assert!(made.out.contains("1 audio files"), "{}", made.out);
    assert_eq!(folders(&elsewhere).len(), 1);

    let backups = with_backups(node);
    node.start().await;
    for _ in 0..3 {
        store(node, "backup", &["--keep", "2"]).await.well();
    }
    assert_eq!(folders(&backups).len(), 2);
    let list = node.get(route).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    assert_eq!(list["items"][0]["audio_files"], 1);
    assert_eq!(list["running"], Value::Null);
    // Whoever may only read can look, but not make one; nobody can say where it goes.
    let post = || node.stranger(Method::POST, route);
    post()
        .token(&node.read_token)
        .send()
        .await
        .problem(403, "admin_needed", &[]);
    post().send().await.problem(401, "no_token", &[]);
    let to = json!({"to": "/etc"});
    node.post(route, &to).await.problem(422, "invalid", &["to"]);
    let many = json!({"keep": 0});
    node.post(route, &many)
        .await
        .problem(422, "invalid", &["keep"]);
    assert_eq!(folders(&backups).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_damage_and_rebuild_lets_the_peer_mend_it() {
    let pair = Pair::start().await;
    let (node, peer) = (&pair.secondary, &pair.primary);
    let id = peer.leave("2001", "1", ONE).await;
    let kept = peer.leave("2001", "2", TWO).await;
    pair.in_step().await;
    let busy = store(node, "check", &[]).await;
    assert_eq!(busy.code, Some(2));
    assert!(busy.err.contains("in use by another"), "{}", busy.err);
    let busy = store(node, "rebuild", &[]).await;
    assert_eq!(busy.code, Some(2));

    node.stop().await;
    let sound = store(node, "check", &[]).await.well();
    assert!(sound.out.contains("sound: 2 audio files"), "{}", sound.out);
    // A byte of the audio itself goes bad: only reading it shows that.
    let sound_of_it = ONE.len();
    let file = files(&node.data_dir.join("audio"))
        .into_iter()
        .find(|f| {
            let length = usize::try_from(fs::metadata(f).unwrap().len()).unwrap();
            length > sound_of_it && length < sound_of_it + 2_000
        })
        .unwrap();
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();
    store(node, "check", &["--quick"]).await.well();
    let found = store(node, "check", &["--json"]).await;
    assert_eq!(found.code, Some(1));
    let json: Value = serde_json::from_str(&found.out).unwrap();
    assert_eq!(json["sound"], false);
    assert_eq!(json["audio_files"], 1);
    let problem = json["audio"][0].as_str().unwrap();
    assert!(
        problem.contains(&id) && problem.contains("damaged"),
        "{problem}"
    );
    assert!(found.err.contains("vmsync store rebuild"), "{}", found.err);
    // A damaged index is told too, and not touched.
    let db = node.data_dir.join("db/db");
    let whole = fs::read(&db).unwrap();
    fs::write(&db, b"").unwrap();
    let found = store(node, "check", &[]).await;
    assert_eq!(found.code, Some(1));
    assert!(found.out.contains("index is damaged"), "{}", found.out);
    fs::write(&db, whole).unwrap();

    let rebuilt = store(node, "rebuild", &[]).await.well();
    assert!(rebuilt.out.contains("1 messages"), "{}", rebuilt.out);
    assert!(rebuilt.out.contains("audio.damaged-"), "{}", rebuilt.out);
    node.start().await;
    pair.in_step().await;
    node.hears("2001", &id, ONE).await;
    node.hears("2001", &kept, TWO).await;
    node.stop().await;
    store(node, "check", &[]).await.well();
}

fn files(dir: &Path) -> Vec<PathBuf> {
    folders(dir)
        .into_iter()
        .flat_map(|p| if p.is_dir() { files(&p) } else { vec![p] })
        .collect()
}

/// What the last program of format version 1 left behind is served, and given to an empty peer.
#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_of_version_1_is_served_and_fills_the_peer() {
    let pair = Pair::laid_out().await;
    let node = &pair.primary;
    for node in pair.nodes() {
        fs::remove_dir_all(&node.data_dir).unwrap();
    }
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("../store/tests/data/v1");
    let archive = old.join("data.tar.gz");
    // It holds one folder, `data`.
    let home = node.data_dir.parent().unwrap();
    let unpacked = ["-xzf", text(&archive), "-C", text(home)];
    run("tar", &unpacked, Duration::from_secs(20)).await.well();
    let format = fs::read_to_string(node.data_dir.join("FORMAT")).unwrap();
    assert!(format.contains("version 1"), "{format}");
    // Its local record of that space is a store's example, not what a node keeps there.
    let index = sled::open(node.data_dir.join("db")).unwrap();
    let example = index.remove(b"nownership\0primary").unwrap();
    assert!(example.is_some());
    index.flush().unwrap();
    drop(index);
    let expected = fs::read(old.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();

    node.start().await;
    let format = fs::read_to_string(node.data_dir.join("FORMAT")).unwrap();
    assert!(format.contains("version 2"), "{format}");
    pair.secondary.start().await;
    pair.in_step().await;
    for node in pair.nodes() {
        let all = "new,unopened,old,saved,deleted";
        let path = format!("/api/v1/mailboxes/2001/messages?state={all}");
        let held = node.get(&path).await;
        let state = |list: &Value| -> Vec<(String, String)> {
            let pair = |m: &Value| {
                let text = |name: &str| m[name].as_str().unwrap().to_owned();
                (text("id"), text("state"))
            };
            list.as_array().unwrap().iter().map(pair).collect()
        };
        assert_eq!(state(&held["items"]), state(&expected["messages"]));
        let flow = node.request(Method::GET, "/api/v1/callflows/main");
        let flow = flow.send().await.must_be(200).text();
        assert_eq!(flow, expected["flow"]["source"].as_str().unwrap());
        let greeting = "/api/v1/mailboxes/2001/greetings/busy";
        node.request(Method::GET, greeting)
            .send()
            .await
            .must_be(200);
    }
    node.stop().await;
    store(node, "check", &[]).await.well();
}
