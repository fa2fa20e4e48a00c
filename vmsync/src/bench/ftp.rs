//! How fast recordings move, beside what `curl` and `lftp` send to the same server in the same run.
//!
//! The peers only send. The node also reads each recording before and after, asks the primary's node twice,
//! journals, and removes its copy: its time ends when nothing is left at the backup.

use std::{
    fmt::Write as _,
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::{Map, Value, json};
use tokio::{process::Command, time::Instant};

use super::{
    Folder, blocking, bounded,
    pair::{PRIMARY, Pair, SECONDARY},
    print_figures, say,
};
use crate::{client::Body, clock};

/// Nothing that is waited for takes longer.
const PATIENCE: Duration = Duration::from_mins(10);

/// What `vmsync bench ftp` is asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct FtpWork {
    /// Recordings of the many.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub recordings: u32,
    /// Bytes of each of them.
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub bytes: u64,
    /// Bytes of the large one.
    #[arg(long, default_value_t = 2_000_000_000, value_parser = clap::value_parser!(u64).range(1..=20_000_000_000))]
    pub large: u64,
    /// `vrl.connections`, and as many for the peers; lftp is tried with one as well.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=8))]
    pub connections: u16,
    /// How often all are measured, one after the other.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub rounds: u32,
    /// Folder on the disk to measure; a new folder is made in it, and removed at the end. Default:
    /// the system's temporary folder.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Measures and prints.
pub(super) async fn run(work: FtpWork, out: &mut (impl Write + Send)) -> Result<(), String> {
    let folder = Folder::make(work.dir.as_deref())?;
    let figures = bounded(measure(&work, &folder.0)).await?;
    print_figures(&figures, work.json, out)
}

async fn measure(work: &FtpWork, dir: &Path) -> Result<Value, String> {
    let mut figures = Map::new();
    figures.insert("recordings".to_owned(), json!(work.recordings));
    figures.insert("bytes".to_owned(), json!(work.bytes));
    figures.insert("large".to_owned(), json!(work.large));
    figures.insert("connections".to_owned(), json!(work.connections));
    for encrypted in [false, true] {
        let way = if encrypted { "tls" } else { "plain" };
        let mut bench = Bench::start(work, dir, encrypted).await?;
        let many = Files::make(dir, &format!("{way}-many"), work.recordings, work.bytes).await?;
        bench
            .compare(work, &many, &mut figures, &format!("{way}_many"))
            .await?;
        many.remove().await?;
        let large = Files::make(dir, &format!("{way}-large"), 1, work.large).await?;
        bench
            .compare(work, &large, &mut figures, &format!("{way}_large"))
            .await?;
        large.remove().await?;
        for (node, name) in [(PRIMARY, "primary"), (SECONDARY, "backup")] {
            let mb = round(bench.pair.peak_of_mb(node));
            figures.insert(format!("{way}_{name}_rss_mb"), json!(mb));
        }
        bench.pair.end().await?;
    }
    Ok(Value::Object(figures))
}

/// The files to send.
struct Files {
    dir: PathBuf,
    count: u32,
    bytes: u64,
}

impl Files {
    async fn make(dir: &Path, name: &str, count: u32, bytes: u64) -> Result<Self, String> {
        let dir = dir.join(name);
        let made = dir.clone();
        blocking(move || {
            let failed = |e: std::io::Error| format!("{}: {e}", made.display());
            std::fs::create_dir(&made).map_err(failed)?;
            let piece: Vec<u8> = (0..1 << 20).map(|_| rand::random()).collect();
            for n in 0..count {
                let path = made.join(format!("{n}.wav"));
                let file = std::fs::File::create(&path).map_err(failed)?;
                let mut file = std::io::BufWriter::new(file);
                let mut left = bytes;
                while left > 0 {
                    // Each begins with its number, so that all differ.
                    let head = n.to_le_bytes();
                    let body = usize::try_from(left.min(piece.len() as u64)).unwrap_or(0);
                    let (head, body) = (head.get(..body.min(4)), piece.get(4..body.max(4)));
                    file.write_all(head.unwrap_or_default()).map_err(failed)?;
                    file.write_all(body.unwrap_or_default()).map_err(failed)?;
                    left -= left.min(piece.len() as u64);
                }
                file.flush().map_err(failed)?;
                vmsync_store::sync_bytes(&path).map_err(failed)?;
            }
            Ok(())
        })
        .await?;
        Ok(Self { dir, count, bytes })
    }

    /// The same files in a folder of their own, under names that begin with `prefix`.
    async fn linked(&self, to: &Path, prefix: &str) -> Result<Vec<PathBuf>, String> {
        let (from, to, prefix) = (self.dir.clone(), to.to_owned(), prefix.to_owned());
        let count = self.count;
        blocking(move || {
            let failed = |e: std::io::Error| format!("{}: {e}", to.display());
            std::fs::create_dir_all(&to).map_err(failed)?;
            let mut made = Vec::new();
            for n in 0..count {
                let path = to.join(format!("{prefix}{n}.wav"));
                std::fs::hard_link(from.join(format!("{n}.wav")), &path).map_err(failed)?;
                made.push(path);
            }
            Ok(made)
        })
        .await
    }

    async fn remove(self) -> Result<(), String> {
        let dir = self.dir;
        blocking(move || {
            std::fs::remove_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))
        })
        .await
    }
}

struct Bench {
    pair: Pair,
    dir: PathBuf,
    encrypted: bool,
    connections: u16,
}

impl Bench {
    async fn start(work: &FtpWork, dir: &Path, encrypted: bool) -> Result<Self, String> {
        let way = if encrypted { "tls" } else { "plain" };
        say(&format!("two nodes, {way}"));
        let mut pair = Pair::prepare(dir, way)?;
        configure(&pair, work, encrypted)?;
        for node in [PRIMARY, SECONDARY] {
            pair.start(node).await?;
        }
        pair.equal(Instant::now() + PATIENCE).await?;
        Ok(Self {
            pair,
            dir: dir.to_owned(),
            encrypted,
            connections: work.connections,
        })
    }

    /// All send the same files, round by round; into `figures` go the means, and the ratio to the best peer.
    async fn compare(
        &mut self,
        work: &FtpWork,
        files: &Files,
        figures: &mut Map<String, Value>,
        what: &str,
    ) -> Result<(), String> {
        let several = self.connections > 1 && files.count > 1;
        let mut took: Vec<(&str, Duration)> = Vec::new();
        for round in 0..work.rounds {
            say(&format!("{what}, round {} of {}", round + 1, work.rounds));
            let connections = if several { self.connections } else { 1 };
            // One connection of curl takes very long where there are many.
            took.push(("curl", self.curl(files, connections).await?));
            took.push(("vmsync", self.vmsync(files).await?));
            took.push(("lftp", self.lftp(files, connections).await?));
            if several {
                took.push(("lftp_one", self.lftp(files, 1).await?));
            }
            for (name, took) in took.iter().skip(took.len() - if several { 4 } else { 3 }) {
                say(&format!("{name}: {took:?}"));
            }
        }
        let (amount, unit) = if files.count > 1 {
            (f64::from(files.count), "files_s")
        } else {
            (megabytes(files.bytes), "mb_s")
        };
        let mut best = 0.0_f64;
        let mut own = 0.0;
        for name in ["vmsync", "curl", "lftp", "lftp_one"] {
            let rounds: Vec<_> = took.iter().filter(|(n, _)| *n == name).collect();
            if rounds.is_empty() {
                continue;
            }
            let all: f64 = rounds.iter().map(|(_, t)| t.as_secs_f64()).sum();
            let rate = amount * f64::from(work.rounds) / all;
            if name == "vmsync" {
                own = rate;
            } else {
                best = best.max(rate);
            }
            figures.insert(format!("{what}_{name}_{unit}"), json!(round(rate)));
        }
        figures.insert(format!("{what}_ratio"), json!(hundredths(own / best)));
        Ok(())
    }

    /// From the order until nothing is left at the backup.
    async fn vmsync(&mut self, files: &Files) -> Result<Duration, String> {
        let node = self.pair.demo.node(SECONDARY);
        let folder = node.vrl_dir.clone();
        let client = self.pair.client(SECONDARY)?;
        let linked = files.linked(&folder, "node-").await?;
        let deadline = Instant::now() + PATIENCE;
        let before = client.get("/api/v1/vrl").await.map_err(|e| e.to_string())?;
        // Found, quiet, and waiting for the window, which is not now.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let begun = Instant::now();
        let order = Body::Json(&Value::Null);
        client
            .ok(reqwest::Method::POST, "/api/v1/vrl/transfer", &[], order)
            .await
            .map_err(|e| e.to_string())?;
        let wanted = before["files_done"].as_u64().unwrap_or(0) + u64::from(files.count);
        loop {
            let status = client.get("/api/v1/vrl").await.map_err(|e| e.to_string())?;
            if status["files_done"].as_u64() >= Some(wanted) {
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("the recordings do not move: {status}"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let took = begun.elapsed();
        for path in linked {
            if path.exists() {
                return Err(format!("{} is still at the backup", path.display()));
            }
        }
        self.clear(files, "node-").await?;
        Ok(took)
    }

    async fn curl(&self, files: &Files, connections: u16) -> Result<Duration, String> {
        let linked = files.linked(&self.dir.join("curl"), "curl-").await?;
        let mut config = String::new();
        for path in &linked {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let url = format!("ftp://{}/{name}", self.server()?);
            let _ = writeln!(
                config,
                "upload-file = \"{}\"\nurl = \"{url}\"",
                path.display()
            );
        }
        let file = self.dir.join("curl.conf");
        std::fs::write(&file, config).map_err(|e| e.to_string())?;
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--user"])
            .arg(format!("vrl:{}", self.password()?));
        if self.encrypted {
            curl.arg("--ssl-reqd").arg("--cacert").arg(self.ca());
        }
        if connections > 1 {
            curl.args(["--parallel", "--parallel-immediate", "--parallel-max"])
                .arg(connections.to_string());
        }
        curl.arg("--config").arg(&file);
        let took = timed(curl).await?;
        self.clear(files, "curl-").await?;
        Ok(took)
    }

    async fn lftp(&self, files: &Files, connections: u16) -> Result<Duration, String> {
        let from = self.dir.join("lftp");
        files.linked(&from, "lftp-").await?;
        let tls = if self.encrypted {
            format!(
                "set ssl:ca-file {}; set ftp:ssl-force true; set ftp:ssl-protect-data true;",
                self.ca().display()
            )
        } else {
            "set ftp:ssl-allow false;".to_owned()
        };
        let script = format!(
            "set cmd:fail-exit true; set net:max-retries 2; {tls} open -u vrl,{} ftp://{}; lcd {}; mput -P {connections} *.wav; bye",
            self.password()?,
            self.server()?,
            from.display()
        );
        let mut lftp = Command::new("lftp");
        lftp.arg("-c").arg(script);
        let took = timed(lftp).await?;
        self.clear(files, "lftp-").await?;
        Ok(took)
    }

    fn server(&self) -> Result<&str, String> {
        let ftp = self.pair.demo.node(PRIMARY).ftp.as_deref();
        ftp.ok_or_else(|| "the primary has no FTP server".to_owned())
    }

    fn ca(&self) -> PathBuf {
        self.pair.demo.dir.join("pki/ca.pem")
    }

    fn password(&self) -> Result<String, String> {
        let file = self.pair.demo.dir.join("ftp.password");
        let text = std::fs::read_to_string(&file).map_err(|e| e.to_string())?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    /// Checks that all arrived, and makes room.
    async fn clear(&self, files: &Files, prefix: &str) -> Result<(), String> {
        let folder = self.pair.demo.node(PRIMARY).vrl_dir.clone();
        let (count, bytes) = (files.count, files.bytes);
        let (prefix, dir) = (prefix.to_owned(), self.dir.clone());
        blocking(move || {
            for n in 0..count {
                let path = folder.join(format!("{prefix}{n}.wav"));
                let failed = |e: std::io::Error| format!("{}: {e}", path.display());
                let there = std::fs::metadata(&path).map_err(failed)?.len();
                if there != bytes {
                    return Err(format!("{} has {there} bytes", path.display()));
                }
                std::fs::remove_file(&path).map_err(failed)?;
            }
            for peer in ["curl", "lftp"] {
                // Not there after the node's own turn.
                let _ = std::fs::remove_dir_all(dir.join(peer));
            }
            Ok(())
        })
        .await
    }
}

async fn timed(mut command: Command) -> Result<Duration, String> {
    let program = command
        .as_std()
        .get_program()
        .to_string_lossy()
        .into_owned();
    command.stdin(Stdio::null()).kill_on_drop(true);
    let begun = Instant::now();
    let ended = command
        .output()
        .await
        .map_err(|e| format!("{program}: {e}; install it: the bench compares with it"))?;
    let took = begun.elapsed();
    if !ended.status.success() {
        let words = String::from_utf8_lossy(&ended.stderr)
            .chars()
            .take(500)
            .collect::<String>();
        return Err(format!("{program} failed: {words}"));
    }
    Ok(took)
}

/// Recordings wait until they are asked for; the server takes what is asked for.
fn configure(pair: &Pair, work: &FtpWork, encrypted: bool) -> Result<(), String> {
    let hour = clock::local_second(clock::wall()) / 3600;
    let window = format!("{:02}:00-{:02}:00", (hour + 10) % 24, (hour + 11) % 24);
    for node in [PRIMARY, SECONDARY] {
        let config = &pair.demo.node(node).config;
        let failed = |e: std::io::Error| format!("{}: {e}", config.display());
        let mut text = std::fs::read_to_string(config).map_err(failed)?;
        let tls = if encrypted { "required" } else { "off" };
        text = text.replace(
            "ftp_password_file = \"../ftp.password\"\ntls = \"required\"\n",
            &format!(
                "ftp_password_file = \"../ftp.password\"\ntls = \"{tls}\"\nwindow = \"{window}\"\nconnections = {}\n",
                work.connections
            ),
        );
        if !encrypted {
            text = text.replace("require = true", "require = false");
        }
        std::fs::write(config, text).map_err(failed)?;
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "a figure to read")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
