//! Every command of docs/recover.md, run as it stands there, in the situation it is for.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use vmsync_tests::pair::{Node, ONE, Pair, TWO, run, vmsync};

/// The page, and which of its sections were followed.
struct Page {
    text: String,
    followed: BTreeSet<String>,
}

impl Page {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recover.md");
        Self {
            text: fs::read_to_string(path).unwrap(),
            followed: BTreeSet::new(),
        }
    }

    /// The commands of each section that has any.
    fn commands(&self) -> Vec<(String, Vec<String>)> {
        let mut found: Vec<(String, Vec<String>)> = Vec::new();
        let mut inside = false;
        for line in self.text.lines() {
            if let Some(title) = line.strip_prefix("## ") {
                found.push((title.to_owned(), Vec::new()));
            } else if line.starts_with("```") {
                inside = line == "```sh";
            } else if inside {
                found.last_mut().unwrap().1.push(line.to_owned());
            }
        }
        found.retain(|(_, commands)| !commands.is_empty());
        found
    }

    /// Does what the section says, on the node; `backup` stands for the one the page names.
    async fn follow(&mut self, section: &str, node: &Node, backup: Option<&Path>) {
        let commands = self.commands();
        let (_, commands) = commands.iter().find(|(t, _)| t == section).unwrap();
        for command in commands {
            match command.as_str() {
                "systemctl stop vmsync" if !node.runs().await => {}
                "systemctl stop vmsync" => node.stop().await,
                "systemctl start vmsync" => node.start().await,
                "systemctl restart vmsync" => {
                    node.stop().await;
                    node.start().await;
                }
                other => {
                    let line = other.replace("/etc/vmsync/vmsync.toml", text(&node.config));
                    let line = match backup {
                        Some(path) => {
                            line.replace("/var/backups/vmsync/vmpro1-20261122T112431Z", text(path))
                        }
                        None => line,
                    };
                    assert!(!line.contains(" /etc") && !line.contains(" /var"), "{line}");
                    let mut words = line.split_whitespace();
                    assert_eq!(words.next(), Some("vmsync"), "{line}");
                    let mut args: Vec<_> = words.collect();
                    if args.first() == Some(&"sync") {
                        args.extend(["--url", &node.http, "--token", &node.admin_token]);
                    }
                    run(vmsync(), &args, Duration::from_mins(1)).await.well();
                }
            }
        }
        self.followed.insert(section.to_owned());
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The names in the data folder that begin with `start`.
fn set_aside(node: &Node, start: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(&node.data_dir).unwrap();
    let mut found: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
    found.retain(|p| p.file_name().unwrap().to_string_lossy().starts_with(start));
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_page_does_what_the_page_says() {
    let mut page = Page::read();
    let pair = Pair::laid_out().await;
    let (node, peer) = (&pair.primary, &pair.secondary);
    node.configure(
        "data_dir = \"data\"",
        "data_dir = \"data\"\nbackup_dir = \"backups\"",
    );
    pair.start_both().await;
    let one = node.leave("2001", "1", ONE).await;
    pair.in_step().await;

    page.follow("Before anything breaks", node, None).await;
    let backups = node.config.parent().unwrap().join("backups");
    let backup = fs::read_dir(&backups).unwrap().next().unwrap();
    let backup = backup.unwrap().path();
    assert!(backup.join("manifest.json").is_file());
    let two = node.leave("2001", "2", TWO).await;
    pair.in_step().await;

    page.follow("Is a store sound?", node, None).await;

    // Damage a running node has come upon; here it is too small to be noticed by itself.
    page.follow("The index is damaged", node, None).await;
    pair.in_step().await;

    page.follow("Audio files are damaged or missing", node, None)
        .await;
    assert_eq!(set_aside(node, "db.damaged-").len(), 1);
    pair.in_step().await;
    node.hears("2001", &two, TWO).await;

    node.kill().await;
    fs::remove_dir_all(&node.data_dir).unwrap();
    page.follow("A node is lost: its disk, or all of it", node, None)
        .await;
    pair.in_step().await;
    node.hears("2001", &one, ONE).await;
    node.hears("2001", &two, TWO).await;

    for lost in pair.nodes() {
        lost.kill().await;
        fs::remove_dir_all(&lost.data_dir).unwrap();
    }
    page.follow(
        "Putting a backup in the place of a store",
        node,
        Some(&backup),
    )
    .await;
    peer.start().await;
    pair.in_step().await;
    peer.hears("2001", &one, ONE).await;
    peer.lacks(&format!("/api/v1/mailboxes/2001/messages/{two}"))
        .await;

    let sections = page.commands().into_iter().map(|(title, _)| title);
    assert_eq!(page.followed, sections.collect(), "a section is not tested");
}
