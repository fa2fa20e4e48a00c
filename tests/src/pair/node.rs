//! One node: its process, its configuration, and what an operator or a PBX asks of it.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use serde_json::Value;
use tokio::sync::Mutex;

use super::{Ended, Process, run, soon, vmsync};

/// One node of a pair.
pub struct Node {
    /// `vmpro1` or `vmpro2`.
    pub id: String,
    /// Its full name.
    pub fqdn: String,
    /// `http://127.0.0.1:P`.
    pub http: String,
    /// `127.0.0.1:P`.
    pub smtp: String,
    /// `127.0.0.1:P`; the primary's only.
    pub ftp: Option<String>,
    /// Token with all rights.
    pub admin_token: String,
    /// Token that may read.
    pub read_token: String,
    /// Its store.
    pub data_dir: PathBuf,
    /// Its recordings.
    pub vrl_dir: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    log: PathBuf,
    /// The network namespace its process runs in, where not the test's own.
    space: OnceLock<String>,
    process: Mutex<Option<Process>>,
    pub(super) client: reqwest::Client,
}

impl Node {
    /// The node that an entry of `demo.json` tells of; not running.
    pub fn new(entry: &Value) -> Self {
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let path = |name: &str| PathBuf::from(text(name));
        Self {
            id: text("id"),
            fqdn: text("fqdn"),
            http: text("http"),
            smtp: text("smtp"),
            ftp: entry["ftp"].as_str().map(str::to_owned),
            admin_token: text("admin_token"),
            read_token: text("read_token"),
            data_dir: path("data_dir"),
            vrl_dir: path("vrl_dir"),
            config: path("config"),
            log: path("log"),
            space: OnceLock::new(),
            process: Mutex::new(None),
            client: super::api::client(),
        }
    }

    /// The same node for somebody who only asks it things: its process is not his.
    pub(super) fn seen_by_another(&self) -> Self {
        Self {
            id: self.id.clone(),
            fqdn: self.fqdn.clone(),
            http: self.http.clone(),
            smtp: self.smtp.clone(),
            ftp: self.ftp.clone(),
            admin_token: self.admin_token.clone(),
            read_token: self.read_token.clone(),
            data_dir: self.data_dir.clone(),
            vrl_dir: self.vrl_dir.clone(),
            config: self.config.clone(),
            log: self.log.clone(),
            space: OnceLock::new(),
            process: Mutex::new(None),
            client: super::api::client(),
        }
    }

    /// Starts its process and waits until it serves or stands by.
    pub async fn start(&self) {
        self.launch().await;
        self.ready().await;
    }

    /// Waits until it serves or stands by.
    pub async fn ready(&self) {
        soon(&format!("{} to be ready", self.id), async || {
            let mut process = self.process.lock().await;
            let ended = process.as_mut().is_none_or(Process::has_ended);
            assert!(
                !ended,
                "{} has ended by itself:\n{}",
                self.id,
                self.last_words()
            );
            let status = self.try_status().await?;
            if status["node"]["ready"] == true {
                Ok(())
            } else {
                Err("it asks its peer".to_owned())
            }
        })
        .await;
    }

    /// Starts its process without waiting.
    pub async fn launch(&self) {
        self.launch_with(&vmsync()).await;
    }

    /// Starts another program as this node, an older release say, without waiting.
    pub async fn launch_with(&self, program: &Path) {
        let process = match self.space.get() {
            None => Process::serve_with(program, &self.config, &self.log),
            Some(space) => Process::serve_in(space, program, &self.config, &self.log),
        };
        let before = self.process.lock().await.replace(process);
        assert!(before.is_none(), "{} runs already", self.id);
    }

    /// From its next start on it runs in the network namespace `space`.
    pub(super) fn lives_in(&self, space: &str) {
        let set = self.space.set(space.to_owned());
        assert_eq!(set, Ok(()), "{} lives somewhere else", self.id);
    }

    /// `kill -9`.
    pub async fn kill(&self) {
        self.running().await.kill().await;
    }

    /// Stops it in order; it must end well.
    pub async fn stop(&self) {
        let ended = self.running().await.stop().await;
        assert_eq!(
            ended.code,
            Some(0),
            "{} ended badly:\n{}",
            self.id,
            self.last_words()
        );
    }

    /// Whether its process was started and not stopped since.
    pub async fn runs(&self) -> bool {
        self.process.lock().await.is_some()
    }

    /// Its process.
    pub async fn pid(&self) -> u32 {
        let process = self.process.lock().await;
        let running = process.as_ref();
        running.map_or_else(|| panic!("{} does not run", self.id), Process::pid)
    }

    /// Memory its process has in use, KiB.
    pub async fn resident_kib(&self) -> u64 {
        let process = self.process.lock().await;
        let pid = process.as_ref().map_or(0, Process::pid);
        let text = read(Path::new(&format!("/proc/{pid}/status")));
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("{} does not run: {text}", self.id))
    }

    async fn running(&self) -> Process {
        let process = self.process.lock().await.take();
        process.unwrap_or_else(|| panic!("{} does not run", self.id))
    }

    /// Runs `vmsync serve` where it is expected to end by itself, with words.
    pub async fn fails_to_start(&self) -> Ended {
        let config = self.config.to_string_lossy();
        let ended = run(
            vmsync(),
            &["serve", "--config", &config],
            Duration::from_secs(20),
        )
        .await;
        assert_ne!(ended.code, Some(0), "{} should not have started", self.id);
        ended
    }

    /// Replaces text of its configuration file; it must be there.
    pub fn configure(&self, from: &str, to: &str) {
        let text = read(&self.config);
        assert!(
            text.contains(from),
            "{} does not say {from:?}",
            self.config.display()
        );
        write(&self.config, &text.replace(from, to));
    }

    /// Replaces what stands between two texts of its configuration file; both must be there.
    pub fn configure_between(&self, after: &str, before: &str, with: &str) {
        let text = read(&self.config);
        let rest = text.split_once(after);
        let Some((head, (_, tail))) = rest.and_then(|(h, t)| Some((h, t.split_once(before)?)))
        else {
            panic!("{} lacks {after:?} or {before:?}", self.config.display())
        };
        write(&self.config, &format!("{head}{after}{with}{before}{tail}"));
    }

    /// Adds lines to the end of its configuration file.
    pub fn configure_more(&self, lines: &str) {
        write(&self.config, &format!("{}\n{lines}\n", read(&self.config)));
    }

    /// The file of a message's audio in its data folder; `message` as the API tells it.
    pub fn audio_file(&self, message: &Value) -> PathBuf {
        fn walk(dir: &Path) -> Vec<PathBuf> {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries
                .map(|entry| entry.path())
                .flat_map(|p| if p.is_dir() { walk(&p) } else { vec![p] })
                .collect()
        }
        let sha256 = message["sha256"].as_str().unwrap_or("no sha256");
        let says = |path: &PathBuf| {
            let bytes = std::fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(sha256)
        };
        let found = walk(&self.data_dir.join("audio")).into_iter().find(says);
        found.unwrap_or_else(|| panic!("{} has no audio file of {message}", self.id))
    }

    /// The last lines of its log.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Waits until it names `owner` as the node that serves everybody; gives its status.
    pub async fn names_owner(&self, owner: &Node) -> Value {
        soon(
            &format!("{} to serve, as {} sees it", owner.id, self.id),
            async || {
                let status = self.try_status().await?;
                let group = &status["groups"][0];
                if group["owner"] == owner.id.as_str() {
                    Ok(status)
                } else {
                    Err(group.to_string())
                }
            },
        )
        .await
    }

    /// Waits for an alarm of `code` that is up.
    pub async fn alarm(&self, code: &str) -> Value {
        soon(&format!("the alarm {code} at {}", self.id), async || {
            let alarms = self.try_get("/api/v1/alarms?active=true").await?;
            let found = alarms["items"]
                .as_array()
                .and_then(|all| all.iter().find(|a| a["code"] == code).cloned());
            found.ok_or_else(|| alarms.to_string())
        })
        .await
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn write(path: &Path, text: &str) {
    if let Err(e) = std::fs::write(path, text) {
        panic!("{}: {e}", path.display());
    }
}
