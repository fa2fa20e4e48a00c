//! The two processes under measurement, and what the system tells about them.

use std::{fmt::Write as _, path::Path, time::Duration};

use tokio::time::Instant;

use super::events::Events;
use crate::{
    client::ApiClient,
    demo::{Demo, layout::DemoNode},
};

pub(super) const PRIMARY: usize = 0;
pub(super) const SECONDARY: usize = 1;
/// A start takes no longer.
pub(super) const START: Duration = Duration::from_mins(2);
/// How often a status is asked for.
const EVERY: Duration = Duration::from_millis(20);

/// Two nodes in a folder of their own; they end when this goes.
pub(super) struct Pair {
    pub(super) demo: Demo,
}

/// When a session of the pair began and when both nodes were equal.
pub(super) struct Caught {
    pub(super) took: Duration,
    /// User and system time both processes used meanwhile, seconds.
    pub(super) cpu_s: f64,
}

impl Pair {
    /// Makes configurations, keys and certificates in `dir/name`; nothing runs yet.
    pub(super) fn prepare(dir: &Path, name: &str) -> Result<Self, String> {
        let demo = Demo::prepare(&dir.join(name), None)?;
        for node in &demo.file.nodes {
            without_grace(node)?;
        }
        Ok(Self { demo })
    }

    /// The node keeps so many operations in its log and no more, whoever lacks them.
    pub(super) fn keep_log(&self, node: usize, operations: u32) -> Result<(), String> {
        let config = &self.demo.node(node).config;
        let failed = |e: std::io::Error| format!("{}: {e}", config.display());
        let mut text = std::fs::read_to_string(config).map_err(failed)?;
        let _ = write!(text, "\n[limits]\nlog_operations = {operations}\n");
        std::fs::write(config, text).map_err(failed)
    }

    pub(super) fn client(&self, node: usize) -> Result<ApiClient, String> {
        self.demo.client(node)
    }

    /// Starts one node and waits until it is ready; how long that took.
    pub(super) async fn start(&mut self, node: usize) -> Result<Duration, String> {
        let begun = Instant::now();
        self.demo.start(node)?;
        self.demo.wait_ready(node, START).await?;
        Ok(begun.elapsed())
    }

    /// Starts `other` while `node` runs and waits until both hold the same: from the moment both
    /// have exchanged what they hold (the session's start) until the last of it is known to be equal.
    pub(super) async fn catch_up(
        &mut self,
        node: usize,
        other: usize,
        limit: Duration,
    ) -> Result<Caught, String> {
        let mut events = Events::follow(self.demo.node(node), "sync").await?;
        self.demo.start(other)?;
        let deadline = Instant::now() + limit;
        let begun = self.session(&mut events, "started", deadline).await?;
        let cpu = self.cpu_s();
        let ended = self.session(&mut events, "finished", deadline).await?;
        let cpu_s = self.cpu_s() - cpu;
        self.equal(deadline).await?;
        Ok(Caught {
            took: ended.saturating_duration_since(begun),
            cpu_s,
        })
    }

    async fn session(
        &mut self,
        events: &mut Events,
        what: &str,
        deadline: Instant,
    ) -> Result<Instant, String> {
        loop {
            let waited = tokio::time::timeout_at(deadline, events.next()).await;
            match waited {
                Ok(Some(seen)) if seen.data["what"] == what => return Ok(seen.at),
                Ok(Some(seen)) if seen.data["what"] == "diverged" => {
                    return Err("the nodes diverged".to_owned());
                }
                Ok(Some(_)) => {}
                ended => {
                    for node in [PRIMARY, SECONDARY] {
                        self.demo.check_alive(node)?;
                    }
                    let why = if ended.is_err() {
                        "it took too long"
                    } else {
                        "the event stream ended"
                    };
                    return Err(format!("waiting for the session to be {what}: {why}"));
                }
            }
        }
    }

    /// Waits until both nodes say of both directions that they are finished, and have one digest.
    pub(super) async fn equal(&mut self, deadline: Instant) -> Result<(), String> {
        let clients = [self.client(PRIMARY)?, self.client(SECONDARY)?];
        loop {
            let mut digests = Vec::new();
            for client in &clients {
                let status = client.get("/api/v1/status").await;
                let Ok(status) = status else { continue };
                let sync = &status["sync"];
                let finished = ["out", "in"]
                    .iter()
                    .all(|d| sync[*d]["state"] == "finished");
                if let (true, Some(digest)) = (finished, sync["digest"].as_str()) {
                    digests.push(digest.to_owned());
                }
            }
            if digests.len() == 2 && digests[0] == digests[1] {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err("the nodes did not become equal in time".to_owned());
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    pub(super) async fn stop(&mut self) -> Result<(), String> {
        self.demo.stop().await
    }

    /// Stops both nodes and removes the pair's folder, so that the next part has the disk to itself.
    pub(super) async fn end(mut self) -> Result<(), String> {
        self.stop().await?;
        let dir = self.demo.dir.clone();
        super::blocking(move || {
            std::fs::remove_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))
        })
        .await
    }

    /// Most memory either process has used so far (`VmHWM`), MiB.
    pub(super) fn peak_mb(&self) -> f64 {
        self.most("VmHWM:")
    }

    /// Most memory one of the processes has used so far (`VmHWM`), MiB.
    pub(super) fn peak_of_mb(&self, node: usize) -> f64 {
        memory_mb(self.demo.node(node).pid, "VmHWM:").unwrap_or(0.0)
    }

    /// Memory the larger of the processes uses now (`VmRSS`), MiB.
    pub(super) fn resident_mb(&self) -> f64 {
        self.most("VmRSS:")
    }

    fn most(&self, field: &str) -> f64 {
        let running = [PRIMARY, SECONDARY]
            .into_iter()
            .filter(|n| self.demo.is_running(*n));
        running
            .filter_map(|n| memory_mb(self.demo.node(n).pid, field))
            .fold(0.0, f64::max)
    }

    fn cpu_s(&self) -> f64 {
        let running = [PRIMARY, SECONDARY]
            .into_iter()
            .filter(|n| self.demo.is_running(*n));
        running.filter_map(|n| cpu_s(self.demo.node(n).pid)).sum()
    }
}

/// Nothing measured here waits for a peer that is not there.
fn without_grace(node: &DemoNode) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", node.config.display());
    let text = std::fs::read_to_string(&node.config).map_err(failed)?;
    let text = text.replace("startup_grace = \"3s\"", "startup_grace = \"0s\"");
    std::fs::write(&node.config, text).map_err(failed)
}

/// A line of `/proc/PID/status` in MiB (proc(5)).
fn memory_mb(pid: u32, field: &str) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix(field))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}

/// User and system time of a process, from `/proc/PID/stat` (proc(5)).
fn cpu_s(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; after it come the state and the numbers.
    let (_, numbers) = stat.rsplit_once(')')?;
    let mut ticks = numbers.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (ticks.next()?.parse().ok()?, ticks.next()?.parse().ok()?);
    // Clock ticks of this interface are a hundredth of a second on every Linux (USER_HZ, time(7)).
    Some((user + system) / 100.0)
}
