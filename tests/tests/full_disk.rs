//! A full disk: new messages are put off with words, and what was put off comes in later.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use vmsync_tests::{
    pair::{Folder, Node, ONE, Pair, TWO, soon},
    swaks::{Swaks, Transcript},
};

/// Room that a node must keep free, larger than what is free: its disk is as good as full.
struct Reserve(String);

impl Reserve {
    /// Twice what is free: nothing new fits, but what keeps the node working does.
    fn twice_what_is_free(node: &Node) -> Self {
        let disk = rustix::fs::statvfs(&node.data_dir).unwrap();
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        assert!(
            free < 500 << 30,
            "this test needs a temporary folder with less than 500 GiB free; set TMPDIR"
        );
        let reserve = Self(format!("min_free_bytes = \"{}MiB\"", (2 * free) >> 20));
        node.configure_more(&format!("[limits]\n{}", reserve.0));
        reserve
    }

    /// There is room from the node's next start on.
    async fn lower(self, node: &Node) {
        node.stop().await;
        node.configure(&self.0, "min_free_bytes = \"1MiB\"");
        node.start().await;
    }
}

async fn mail(pair: &Pair, node: &Node, id: &str) -> Transcript {
    let file = pair.file("one.wav", ONE);
    let mail = Swaks::mail(node, &format!("2001@{}", node.fqdn));
    mail.header("Message-Id", &format!("<{id}@pbx.demo.example>"))
        .recording(&file)
        .send()
        .await
}

#[tokio::test]
async fn a_node_with_a_full_disk_puts_messages_off() {
    let pair = Pair::laid_out().await;
    let reserve = Reserve::twice_what_is_free(&pair.primary);
    pair.start_both().await;
    let node = &pair.primary;
    let answer = node
        .deposit("2001", "1", TWO)
        .send()
        .await
        .problem(507, "disk_full", &["free"]);
    assert_eq!(answer.header("retry-after"), "60");
    mail(&pair, node, "once")
        .await
        .refused("452", "not enough storage");
    assert_eq!(node.messages("2001").await.len(), 0);

    // What it holds can still be heard and removed; and once there is room, all of it is taken.
    reserve.lower(node).await;
    let id = node.leave("2001", "1", TWO).await;
    mail(&pair, node, "once").await.taken();
    pair.in_step().await;
    pair.secondary.hears("2001", &id, TWO).await;
    assert_eq!(pair.secondary.messages("2001").await.len(), 2);
}

#[tokio::test]
async fn a_peer_with_a_full_disk_gets_everything_once_there_is_room() {
    let pair = Pair::laid_out().await;
    let reserve = Reserve::twice_what_is_free(&pair.secondary);
    pair.start_both().await;
    let (here, there) = (&pair.primary, &pair.secondary);
    let first = here.leave("2001", "1", ONE).await;
    let second = here.leave("2002", "2", TWO).await;
    there.alarm("disk_full").await;
    let why = soon("the primary to say why", async || {
        let sync = here.try_status().await?["sync"]["out"].clone();
        if sync["pending_ops"].as_u64() >= Some(2) && sync["reason"].is_string() {
            Ok(sync)
        } else {
            Err(sync.to_string())
        }
    })
    .await;
    assert!(why["reason"].as_str().unwrap().contains("452"), "{why}");
    there
        .lacks(&format!("/api/v1/mailboxes/2001/messages/{first}"))
        .await;

    reserve.lower(there).await;
    pair.in_step().await;
    there.hears("2001", &first, ONE).await;
    there.hears("2002", &second, TWO).await;
}

/// A small file system of its own; unmounted at the end.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None` where this user may not mount.
    fn mount(at: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=80m", "tmpfs"])
            .arg(at)
            .status();
        mounted
            .is_ok_and(|s| s.success())
            .then(|| Self(at.to_owned()))
    }

    /// Fills it but for `bytes`.
    fn leave_free(&self, bytes: u64) {
        let mut file = File::create(self.filler()).unwrap();
        let block = vec![0; 64 * 1024];
        while file.write_all(&block).is_ok() {}
        while file.write_all(b"0").is_ok() {}
        let full = file.metadata().unwrap().len();
        file.set_len(full - bytes).unwrap();
    }

    /// Gives all of it back.
    fn empty(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_disk_that_is_really_full_loses_nothing() {
    let folder = Folder::new();
    // Declared before the pair: unmounted after its processes have ended.
    let Some(disk) = Tmpfs::mount(&folder.path().join("disk")) else {
        println!("this user may not mount a file system: only the limit was tested");
        return;
    };
    let pair = Pair::laid_out().await;
    let (full, other) = (&pair.primary, &pair.secondary);
    let data = disk.0.join("data");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(&full.data_dir)
        .arg(&data)
        .status()
        .unwrap();
    assert!(copied.success());
    full.configure(
        "data_dir = \"data\"",
        &format!("data_dir = \"{}\"", data.display()),
    );
    full.configure_more("[limits]\nmin_free_bytes = \"4MiB\"");
    pair.start_both().await;
    let before = full.leave("2001", "1", ONE).await;
    other.hears("2001", &before, ONE).await;

    disk.leave_free(0);
    full.deposit("2002", "2", TWO)
        .send()
        .await
        .problem(507, "disk_full", &["free"]);
    mail(&pair, full, "to-the-full-node")
        .await
        .refused("452", "not enough storage");
    // The other node takes mail, but can't hand it on.
    mail(&pair, other, "to-the-other-node").await.taken();
    full.alarm("disk_full").await;
    full.hears("2001", &before, ONE).await;
    assert_eq!(full.messages("2001").await.len(), 1);

    // Started again without a byte to write, it says so; with a little, it works with all it held.
    full.kill().await;
    let ended = full.fails_to_start().await;
    assert!(ended.err.contains("is full: 0 bytes free"), "{}", ended.err);
    disk.leave_free(2 << 20);
    full.start().await;
    full.hears("2001", &before, ONE).await;
    full.deposit("2002", "2", TWO)
        .send()
        .await
        .problem(507, "disk_full", &["free"]);
    soon("the other node to say why it waits", async || {
        let sync = other.try_status().await?["sync"]["out"].clone();
        if sync["reason"].as_str().is_some_and(|r| r.contains("452")) {
            Ok(())
        } else {
            Err(sync.to_string())
        }
    })
    .await;

    disk.empty();
    mail(&pair, full, "to-the-full-node").await.taken();
    let after = full.leave("2002", "2", TWO).await;
    pair.in_step().await;
    for node in pair.nodes() {
        assert_eq!(node.messages("2001").await.len(), 3, "at {}", node.id);
        node.hears("2002", &after, TWO).await;
    }
}
