//! A pair of real processes on loopback, as a test sees it: from outside, over HTTP, SMTP and files.
//!
//! `vmsync demo` makes the folder (certificates, keys, ports, configurations, mailboxes 2001 to
//! 2003) and is stopped; from then on the test runs the two nodes itself, so that it can kill one,
//! change its configuration, and start it again. Everything has a time limit. The processes end
//! with the test; the folder is removed unless the test fails, and then its path is printed.
#![allow(
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::return_self_not_must_use,
    reason = "a test says what failed by panicking"
)]

mod api;
mod call;
mod cuts;
mod ledger;
mod node;
mod ports;
mod process;
mod spaces;
mod wait;
mod watch;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

pub use api::{Answer, Call, client};
pub use call::OpenCall;
pub use cuts::{Cut, Net, Way};
pub use ledger::{Callers, Ledger};
pub use node::Node;
pub use ports::Ports;
pub use process::{Ended, Process, installed, run, vmsync};
pub use spaces::Cable;
pub use wait::{LIMIT, soon};
pub use watch::{Watch, group_of};

/// Spoken audio: 16-bit PCM at 8 kHz, 3.7 s.
pub const ONE: &[u8] = include_bytes!("../../../vmsync/assets/voice/one.wav");
/// Spoken audio, other words.
pub const TWO: &[u8] = include_bytes!("../../../vmsync/assets/voice/two.wav");
/// A spoken greeting.
pub const GREETING: &[u8] = include_bytes!("../../../vmsync/assets/voice/greeting.wav");

/// A WAV of `seconds`, 16-bit PCM at 8 kHz: 16,000 bytes a second.
pub fn wav(seconds: u32) -> Vec<u8> {
    let data = seconds * 16_000;
    let mut out = Vec::with_capacity(data as usize + 44);
    out.extend_from_slice(b"RIFF");
    out.extend_from_slice(&(data + 36).to_le_bytes());
    out.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    out.extend_from_slice(&8_000_u32.to_le_bytes());
    out.extend_from_slice(&16_000_u32.to_le_bytes());
    out.extend_from_slice(b"\x02\0\x10\0data");
    out.extend_from_slice(&data.to_le_bytes());
    // A saw-tooth: no two samples nearby are alike, so that a swapped or lost block shows.
    out.extend(
        (0..data / 2).flat_map(|n| u16::try_from(n * 37 % 65_521).unwrap_or(0).to_le_bytes()),
    );
    out
}

/// Two nodes in a folder of their own.
pub struct Pair {
    /// `vmpro1`, home of all.
    pub primary: Node,
    /// `vmpro2`, its backup.
    pub secondary: Node,
    // Dropped after the nodes, whose processes write to it.
    dir: Folder,
    ports: Ports,
}

impl Pair {
    /// A pair that runs and is in step.
    pub async fn start() -> Self {
        let pair = Self::laid_out().await;
        pair.start_both().await;
        pair
    }

    /// A pair whose files are made; neither node runs yet.
    pub async fn laid_out() -> Self {
        let ports = Ports::reserve();
        let dir = Folder::new();
        let layout = dir.path().join("pair");
        let mut demo = Process::demo(&layout, &ports);
        demo.says("Ctrl-C stops both nodes").await;
        demo.interrupt();
        demo.ends().await.well();
        let [primary, secondary] = nodes(&layout);
        Self {
            primary,
            secondary,
            dir,
            ports,
        }
    }

    /// Starts both nodes and waits until they are in step.
    pub async fn start_both(&self) {
        for node in self.nodes() {
            node.launch().await;
        }
        for node in self.nodes() {
            node.ready().await;
        }
        self.in_step().await;
    }

    /// Both nodes, primary first.
    pub fn nodes(&self) -> [&Node; 2] {
        [&self.primary, &self.secondary]
    }

    /// A folder for files of the test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The folder of certificates, keys and nodes as `vmsync demo` made it.
    pub fn layout(&self) -> PathBuf {
        self.dir.path().join("pair")
    }

    /// Writes a file of the test.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir().join(name);
        if let Err(e) = std::fs::write(&path, content) {
            panic!("{}: {e}", path.display());
        }
        path
    }

    /// A change of both nodes' configurations.
    pub fn configure_both(&self, from: &str, to: &str) {
        for node in self.nodes() {
            node.configure(from, to);
        }
    }

    /// Short times, and failover by sight alone: out of sight after 600 ms, failed over a second
    /// later; a node that starts alone waits 1.5 s. To be said before the nodes are started.
    pub fn fails_over_quickly(&self) {
        for (from, to) in [
            ("heartbeat = \"250ms\"", "heartbeat = \"100ms\""),
            (
                "invisible_after = \"1500ms\"",
                "invisible_after = \"600ms\"",
            ),
            ("startup_grace = \"3s\"", "startup_grace = \"1500ms\""),
            ("trigger = \"phones\"", "trigger = \"visibility\""),
            ("failover_after = \"3m\"", "failover_after = \"1s\""),
            // A home that is lost again and again is what these tests are about.
            ("timeout = \"60m\"", "timeout = \"60m\"\nhold_off = \"0s\""),
        ] {
            self.configure_both(from, to);
        }
    }

    /// Starts a witness for both nodes, which are not started yet; it ends with what is returned.
    pub fn has_a_witness(&self) -> Process {
        let listen = self.witness();
        for node in self.nodes() {
            node.configure_more(&format!(
                "[witness]\nurl = \"http://{listen}/\"\nexpect = \"vmsync witness\"\nevery = \"100ms\"\nunseen_after = \"500ms\""
            ));
        }
        self.starts_witness()
    }

    /// Starts the witness again.
    pub fn starts_witness(&self) -> Process {
        let log = self.dir().join("witness.log");
        let args = ["witness", "--listen", &self.witness()];
        Process::program(&vmsync().to_string_lossy(), &args, &log)
    }

    fn witness(&self) -> String {
        format!("127.0.0.1:{}", self.ports.witness())
    }

    /// Both serve: `headquarters` is the primary's, `branch` the secondary's (R-TO-2). To be said
    /// before the nodes are started.
    pub fn is_dual_active(&self) {
        let branch = "name = \"branch\"\nhome = ";
        for node in self.nodes() {
            node.configure("mode = \"single-active\"", "mode = \"dual-active\"");
            node.configure(
                &format!("{branch}\"vmpro1\"\ndestination = \"99999\""),
                &format!("{branch}\"vmpro2\"\ndestination = \"99998\""),
            );
            // Recordings stay where they are made, so nothing moves them (R-VR-3).
            node.configure_between("folder = \"VRL\"\n", "\n[[systems]]", "");
        }
    }

    /// Waits until both say of both directions that they have finished, and the digests are equal.
    pub async fn in_step(&self) {
        soon("both nodes to hold the same", async || {
            let here = self.primary.try_status().await?;
            let there = self.secondary.try_status().await?;
            for status in [&here, &there] {
                let sync = &status["sync"];
                let finished =
                    sync["out"]["state"] == "finished" && sync["in"]["state"] == "finished";
                if !finished || sync["digest"] != sync["peer_digest"] {
                    return Err(format!("{}: {sync}", status["node"]["id"]));
                }
            }
            let digests = [&here, &there].map(|s| s["sync"]["digest"].clone());
            // A status may be older than the last change; what the store holds is not.
            let here = self.primary.try_get("/api/v1/sync").await?;
            let there = self.secondary.try_get("/api/v1/sync").await?;
            let same = ["digest_now", "have"].map(|f| here[f] == there[f]);
            if digests[0] == digests[1] && same == [true, true] {
                Ok(())
            } else {
                Err(format!("digests differ: {digests:?}"))
            }
        })
        .await;
    }

    /// Waits until both name `owner` as the node that serves everybody.
    pub async fn served_by(&self, owner: &Node) {
        for node in self.nodes() {
            node.names_owner(owner).await;
        }
    }

    /// Waits until both are in sight of one another and name the same owner of `group`, which alone
    /// serves it; gives its id and how long that took.
    pub async fn one_owner(&self, group: &str) -> (String, Duration) {
        let begun = Instant::now();
        let owner = soon(&format!("one owner of {group}"), async || {
            let here = self.primary.try_status().await?;
            let there = self.secondary.try_status().await?;
            let of = [&here, &there].map(|status| group_of(status, group));
            let same = of[0]["owner"] == of[1]["owner"] && of[0]["epoch"] == of[1]["epoch"];
            let in_sight = [&here, &there].iter().all(|s| s["peer"]["visible"] == true);
            let serves = [&here, &there].map(|s| {
                let owner = group_of(s, group)["owner"] == s["node"]["id"];
                group_of(s, group)["serving_here"] == if owner { "yes" } else { "no" }
            });
            if same && in_sight && serves == [true, true] {
                Ok(of[0]["owner"].as_str().unwrap_or_default().to_owned())
            } else {
                Err(format!("{} / {}", of[0], of[1]))
            }
        })
        .await;
        (owner, begun.elapsed())
    }

    /// Waits until neither node has an alarm up.
    pub async fn calm(&self) {
        for node in self.nodes() {
            soon(&format!("no alarm at {}", node.id), async || {
                let alarms = node.try_get("/api/v1/alarms?active=true").await?;
                match alarms["items"].as_array() {
                    Some(up) if up.is_empty() => Ok(()),
                    _ => Err(alarms["items"].to_string()),
                }
            })
            .await;
        }
    }

    /// Kills the primary (`kill -9`) and activates the backup: resilience begins.
    pub async fn fail_over(&self) {
        self.primary.kill().await;
        self.secondary
            .post(
                "/api/v1/groups/primary/activate-backup",
                &serde_json::json!({}),
            )
            .await
            .must_be(202);
        self.secondary.names_owner(&self.secondary).await;
    }
}

/// The nodes a demo's `demo.json` tells of, primary first.
pub fn nodes(layout: &Path) -> [Node; 2] {
    let path = layout.join("demo.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let demo: Value =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    [0, 1].map(|n| Node::new(&demo["nodes"][n]))
}

/// A temporary folder that outlives a failed test.
pub struct Folder(Option<TempDir>);

impl Folder {
    /// A fresh one.
    #[allow(clippy::new_without_default, reason = "it makes a folder on disk")]
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("vmsync-pair-").tempdir();
        Self(Some(
            dir.unwrap_or_else(|e| panic!("no temporary folder: {e}")),
        ))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.as_ref().map_or_else(|| Path::new(""), TempDir::path)
    }
}

impl Drop for Folder {
    #[allow(
        clippy::print_stderr,
        reason = "so that it stands with the failed test's output"
    )]
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(kept) = self.0.take()
        {
            let path: PathBuf = kept.keep();
            eprintln!(
                "logs and data of the failed test are kept in {}",
                path.display()
            );
        }
    }
}
