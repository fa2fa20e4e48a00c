//! An upgrade node by node, from an older release to this program: neither node loses anything, and
//! each speaks to the other as it understands. Needs the older program: `tests/rolling-upgrade` builds
//! one and runs this; without it the test says so and does nothing.

#![allow(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use vmsync_tests::pair::{Node, ONE, Pair, TWO, soon, wav};

/// Leaves a message at a node that may have to notice first that it is alone.
async fn leave(node: &Node, caller: &str, wav: &[u8]) -> String {
    let answer = soon(&format!("{} to take a message", node.id), async || {
        let answer = node.deposit("2001", caller, wav).attempt().await?;
        if answer.status == 201 {
            Ok(answer)
        } else {
            Err(answer.text())
        }
    })
    .await;
    answer.json()["id"].as_str().unwrap().to_owned()
}

/// The program to upgrade from; none: there is nothing to run.
#[allow(clippy::print_stdout, reason = "a test says that it was skipped")]
fn older() -> Option<PathBuf> {
    let old = std::env::var_os("VMSYNC_OLD").map(PathBuf::from);
    if old.is_none() {
        println!("skipped: VMSYNC_OLD names no older program; run tests/rolling-upgrade");
    }
    old
}

/// A pair of two nodes of the older release.
async fn pair_of(old: &Path) -> Pair {
    let pair = Pair::laid_out().await;
    for node in pair.nodes() {
        // Made by this program, and so of no use to the older one.
        std::fs::remove_dir_all(&node.data_dir).unwrap();
        node.launch_with(old).await;
    }
    for node in pair.nodes() {
        node.ready().await;
    }
    let mailbox = json!({"extension": "2001"});
    let made = pair.primary.post("/api/v1/mailboxes", &mailbox);
    made.await.must_be(201);
    pair
}

/// A message whose audio file is damaged, and how to mend it.
struct Spoilt {
    id: String,
    audio: Vec<u8>,
    file: PathBuf,
    sound: Vec<u8>,
}

impl Spoilt {
    /// `seconds`: no two recordings alike, for the file is found by what it holds.
    async fn left_at(node: &Node, seconds: u32) -> Self {
        let audio = wav(seconds);
        let id = leave(node, "5551234", &audio).await;
        let path = format!("/api/v1/mailboxes/2001/messages/{id}");
        let file = node.audio_file(&node.get(&path).await);
        let sound = std::fs::read(&file).unwrap();
        let mut damaged = sound.clone();
        *damaged.last_mut().unwrap() ^= 0xff;
        std::fs::write(&file, damaged).unwrap();
        Self {
            id,
            audio,
            file,
            sound,
        }
    }

    /// Mended at `node`, which has it; then nothing stays in quarantine, and both can hear it.
    async fn mended_at(&self, node: &Node, pair: &Pair) {
        for node in pair.nodes() {
            until(node, "it quarantined", |q| q.to_string().contains(&self.id)).await;
        }
        std::fs::write(&self.file, &self.sound).unwrap();
        node.post("/api/v1/sync/resync", &json!({}))
            .await
            .must_be(202);
        for node in pair.nodes() {
            until(node, "nothing quarantined", |q| *q == json!([])).await;
        }
        pair.in_step().await;
        for node in pair.nodes() {
            node.hears("2001", &self.id, &self.audio).await;
        }
    }
}

/// Waits until that holds of what `node` has quarantined.
async fn until(node: &Node, what: &str, holds: impl Fn(&Value) -> bool) {
    // What was left in between takes two comparisons, a minute apart.
    let end = Instant::now() + Duration::from_secs(100);
    loop {
        let sync = node.get("/api/v1/sync").await;
        let quarantine = &sync["quarantine"];
        if holds(quarantine) {
            return;
        }
        let late = Instant::now() > end;
        assert!(!late, "waited for {what} at {}: {quarantine}", node.id);
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_newer_release_added_holds_nothing_up_between_the_two() {
    let Some(old) = older() else { return };
    let pair = pair_of(&old).await;
    let (primary, secondary) = (&pair.primary, &pair.secondary);
    pair.in_step().await;
    // Since wire format 1.1 both know quarantine.
    let quarantines = primary.get("/api/v1/sync").await["quarantine"].is_array();

    // The older program sends, and can't read an audio file.
    secondary.stop().await;
    let spoilt = if quarantines {
        Some(Spoilt::left_at(primary, 3).await)
    } else {
        None
    };
    let behind = primary.leave("2001", "2", ONE).await;
    secondary.start().await;
    pair.in_step().await;
    secondary.hears("2001", &behind, ONE).await;
    if let Some(spoilt) = spoilt {
        spoilt.mended_at(primary, &pair).await;
    }

    // The newer one does, and sets what the older one has never heard of.
    primary.kill().await;
    let last = leave(secondary, "3", TWO).await;
    let email = json!({"email": "ada@example.com", "email_mode": "copy"});
    let set = secondary.patch("/api/v1/mailboxes/2001", &email);
    set.await.must_be(200);
    let spoilt = if quarantines {
        Some(Spoilt::left_at(secondary, 5).await)
    } else {
        None
    };
    let waits = leave(secondary, "5", TWO).await;
    primary.launch_with(&old).await;
    primary.ready().await;
    pair.in_step().await;
    primary.hears("2001", &last, TWO).await;
    if let Some(spoilt) = spoilt {
        spoilt.mended_at(secondary, &pair).await;
    }

    // Nothing of that is lost on the way through the older one.
    primary.stop().await;
    primary.start().await;
    pair.in_step().await;
    for node in pair.nodes() {
        let mailbox = node.get("/api/v1/mailboxes/2001").await;
        assert_eq!(mailbox["email_mode"], "copy", "{mailbox}");
        node.hears("2001", &waits, TWO).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_after_the_other_becomes_the_newer_release_and_nothing_is_lost() {
    let Some(old) = older() else { return };
    let pair = pair_of(&old).await;
    let (primary, secondary) = (&pair.primary, &pair.secondary);
    let first = primary.leave("2001", "1", ONE).await;
    pair.in_step().await;

    // The secondary first: what was left meanwhile comes from the older program.
    secondary.stop().await;
    let second = primary.leave("2001", "2", TWO).await;
    secondary.start().await;
    pair.in_step().await;

    // Then the other way round: a backlog of the newer program for the older one.
    primary.kill().await;
    let third = leave(secondary, "3", TWO).await;
    let fourth = leave(secondary, "4", TWO).await;
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
