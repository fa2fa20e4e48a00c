//! `vmsync bench`: what the pair does per second, measured on this machine in one run.
//!
//! Two real nodes with TLS on, started from this program in a fresh folder on the disk under test.
//! What a figure means depends on the disk, so every run measures its own *floor* (`floor`): the
//! same bytes written durably by one thread, before and after; ratios are against the mean of both.
//! Nothing is asserted: docs/bench.md tells what is measured and how to read it.
//!
//! | module | measures |
//! |---|---|
//! | `floor` | write, fsync, rename, fsync of the folder |
//! | `backlog` | deposits while the peer is away (intake), then the peer, empty, catching up |
//! | `calls` | steps of calls at a node that fills an empty peer, and in quiet |
//! | `changes` | small changes made while the peer was away, catching up |
//! | `lag` | from the acknowledgement at one node to the event at the other, under steady load |
//! | `failover` | an operator's request until the backup serves; the loss of the home until the decision |
//! | `ftp` | recordings moving to the primary, beside curl and lftp |
//! | `scale` | one node holding a million messages: start, memory, a list |
//! | `content`, `pair`, `events`, `report` | made-up content; the two processes; their event streams; what is printed |

mod backlog;
mod calls;
mod changes;
mod content;
mod events;
mod failover;
mod floor;
mod ftp;
mod lag;
mod pair;
mod report;
mod scale;

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

pub use failover::FailoverWork;
pub use ftp::FtpWork;
use report::Report;

/// A run that takes longer than this is given up.
const LIMIT: Duration = Duration::from_mins(30);

/// A part of `bench sync`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Messages deposited while the peer is away.
    Backlog,
    /// Small changes made while the peer is away.
    Changes,
    /// Calls while an empty peer is filled.
    Calls,
    /// How long after its acknowledgement a message is at the peer.
    Lag,
    /// A node that holds very many messages.
    Scale,
}

/// What `vmsync bench sync` and `vmsync bench intake` are asked for: the size of the work.
#[derive(Debug, Clone, clap::Args)]
pub struct Work {
    /// Messages of the backlog, and files of the floor.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub messages: u32,
    /// Bytes of audio of each message.
    #[arg(long, default_value_t = 240_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    pub bytes: u32,
    /// Folder on the disk to measure; a new folder is made in it, and removed at the end. Default:
    /// the system's temporary folder.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// What `vmsync bench sync` is asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct SyncWork {
    /// Size of messages and floor.
    #[command(flatten)]
    pub work: Work,
    /// Small changes made while the peer is away.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub changes: u32,
    /// Messages a second while the lag is measured.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rate: u32,
    /// How long the lag is measured, seconds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: u32,
    /// Messages in the large store (ten a mailbox).
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(10..=5_000_000))]
    pub scale: u32,
    /// Only these parts, joined by commas; default all.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Part>,
}

/// Runs `vmsync bench sync` and prints what was measured.
pub async fn sync(work: SyncWork, out: &mut (impl Write + Send)) -> Result<(), String> {
    let json = work.work.json;
    let folder = Folder::make(work.work.dir.as_deref())?;
    let report = bounded(measure_sync(&work, &folder)).await?;
    report.print(json, out).map_err(|e| e.to_string())
}

/// Runs `vmsync bench failover` and prints what was measured.
pub async fn failover(work: FailoverWork, out: &mut (impl Write + Send)) -> Result<(), String> {
    failover::run(work, out).await
}

/// Runs `vmsync bench ftp` and prints what was measured.
pub async fn ftp(work: FtpWork, out: &mut (impl Write + Send)) -> Result<(), String> {
    ftp::run(work, out).await
}

/// Runs `vmsync bench intake` and prints what was measured.
pub async fn intake(work: Work, out: &mut (impl Write + Send)) -> Result<(), String> {
    let folder = Folder::make(work.dir.as_deref())?;
    let measured = async {
        let mut report = Report::begin(&folder.0);
        report.floor_before(floor::measure(&folder.0, &work).await?);
        report.intake = Some(backlog::intake(&folder.0, &work).await?);
        report.floor_after(floor::measure(&folder.0, &work).await?);
        Ok(report)
    };
    let report = bounded(measured).await?;
    report.print(work.json, out).map_err(|e| e.to_string())
}

async fn measure_sync(asked: &SyncWork, folder: &Folder) -> Result<Report, String> {
    let (dir, work) = (&folder.0, &asked.work);
    let wanted = |part| asked.only.is_empty() || asked.only.contains(&part);
    let mut report = Report::begin(dir);
    say("floor");
    report.floor_before(floor::measure(dir, work).await?);
    if wanted(Part::Backlog) {
        say("backlog");
        let (intake, backlog) = backlog::measure(dir, work).await?;
        report.intake = Some(intake);
        report.backlog = Some(backlog);
    }
    if wanted(Part::Changes) {
        say("small changes");
        report.changes = Some(changes::measure(dir, asked.changes).await?);
    }
    if wanted(Part::Calls) {
        say("calls");
        report.calls = Some(calls::measure(dir, work).await?);
    }
    if wanted(Part::Lag) {
        say("lag");
        report.lag = Some(lag::measure(dir, asked).await?);
    }
    if wanted(Part::Scale) {
        say("scale");
        report.scale = Some(scale::measure(dir, asked.scale).await?);
    }
    say("floor");
    report.floor_after(floor::measure(dir, work).await?);
    Ok(report)
}

/// Gives up after [`LIMIT`], and at Ctrl-C. The nodes end with the future that holds them.
async fn bounded<T>(run: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::select! {
        biased;
        signal = crate::serve::stop_signal() => {
            Err(signal.map_or_else(|e| e.to_string(), |()| "stopped by a signal".to_owned()))
        }
        done = tokio::time::timeout(LIMIT, run) => {
            done.unwrap_or_else(|_| Err(format!("not done within {} minutes", LIMIT.as_secs() / 60)))
        }
    }
}

/// Prints figures as one JSON object, or one to a line.
fn print_figures(
    figures: &serde_json::Value,
    json: bool,
    out: &mut (impl Write + Send),
) -> Result<(), String> {
    let text = if json {
        figures.to_string()
    } else {
        let lines = figures.as_object().into_iter().flatten();
        let lines: Vec<_> = lines
            .map(|(name, value)| format!("{name:<28} {value}"))
            .collect();
        lines.join("\n")
    };
    writeln!(out, "{text}").map_err(|e| e.to_string())
}

/// Tells a person who waits what is going on; the figures go to standard output.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "measuring: {what} …");
}

/// The run's own folder; removed when it goes.
struct Folder(PathBuf);

impl Folder {
    fn make(parent: Option<&Path>) -> Result<Self, String> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let name = format!(
            "vmsync-bench-{}-{:08x}",
            std::process::id(),
            rand::random::<u32>()
        );
        let dir = parent.join(name);
        std::fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            let _ = writeln!(std::io::stderr(), "{} stays: {error}", self.0.display());
        }
    }
}

/// Runs `work` on a blocking thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| e.to_string())?
}
