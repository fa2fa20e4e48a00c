//! A node whose data folder is put back from an old copy: it must not use a sequence number twice,
//! and gets back from its peer what the copy lacks (architecture decision 3).

#![allow(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::{fs, path::Path};

use vmsync_tests::pair::{Node, ONE, Pair, TWO, soon};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

async fn incarnation(node: &Node) -> String {
    let status = node.get("/api/v1/status").await;
    status["node"]["incarnation"].as_str().unwrap().to_owned()
}

async fn callers(node: &Node, mailbox: &str) -> Vec<String> {
    let messages = node.messages(mailbox).await;
    let callers = messages.iter().filter_map(|m| m["caller_number"].as_str());
    let mut callers: Vec<_> = callers.map(str::to_owned).collect();
    callers.sort();
    callers
}

async fn hold(pair: &Pair, mailbox: &str, wanted: &[&str]) {
    pair.in_step().await;
    for node in pair.nodes() {
        soon("the messages of all callers", || async {
            let found = callers(node, mailbox).await;
            if found == wanted {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_goes_on_as_a_new_incarnation_and_gets_back_what_it_lost() {
    let pair = Pair::start().await;
    let (node, old) = (&pair.primary, pair.dir().join("old"));
    node.leave("2001", "1", ONE).await;
    pair.in_step().await;
    node.stop().await;
    copy(&node.data_dir, &old);

    node.start().await;
    node.ready().await;
    let before = incarnation(node).await;
    for caller in ["2", "3"] {
        node.leave("2001", caller, TWO).await;
    }
    hold(&pair, "2001", &["1", "2", "3"]).await;

    node.stop().await;
    fs::remove_dir_all(&node.data_dir).unwrap();
    copy(&old, &node.data_dir);
    node.start().await;
    node.ready().await;
    assert_ne!(incarnation(node).await, before, "a new life of the store");
    node.leave("2001", "4", ONE).await;
    hold(&pair, "2001", &["1", "2", "3", "4"]).await;
}

/// The peer can't be asked: what is taken alone must not collide with what the peer holds.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_that_starts_alone_loses_nothing_either() {
    let pair = Pair::start().await;
    let (node, old) = (&pair.primary, pair.dir().join("old"));
    pair.in_step().await;
    node.stop().await;
    copy(&node.data_dir, &old);
    node.start().await;
    node.ready().await;
    for caller in ["1", "2"] {
        node.leave("2001", caller, ONE).await;
    }
    hold(&pair, "2001", &["1", "2"]).await;

    node.stop().await;
    pair.secondary.stop().await;
    fs::remove_dir_all(&node.data_dir).unwrap();
    copy(&old, &node.data_dir);
    node.start().await;
    node.ready().await;
    for caller in ["3", "4"] {
        node.leave("2001", caller, TWO).await;
    }
    pair.secondary.start().await;
    pair.secondary.ready().await;
    hold(&pair, "2001", &["1", "2", "3", "4"]).await;
}
