//! Commands about the store of a node, on its own machine: they read its configuration.
//!
//! Exit codes: 0 done, and nothing is wrong; 1 something is wrong with the store, or it failed;
//! 2 wrong usage or configuration, or the store can't be looked at now.

use std::{
    fmt::Write as _,
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Subcommand;
use serde_json::json;
use vmsync_config::Config;
use vmsync_store::{Progress, RestoreFrom, Store, StoreError};

use super::{Failure, load, remote::token_of, runtime, say};
use crate::{
    backups::{self, BackupList, BackupView},
    client::ApiClient,
    clock, serve,
};

/// Progress is told this often.
const EVERY: Duration = Duration::from_secs(2);
/// How often a running node is asked how far it is.
const ASK: Duration = Duration::from_millis(500);

#[derive(Subcommand)]
pub(crate) enum StoreCommand {
    /// Look for damage; the node must be stopped. Exit code 1 when there is any.
    Check {
        /// The node's configuration file.
        #[arg(long)]
        config: PathBuf,
        /// Look only whether each audio file is there and whole, not at all of its bytes.
        #[arg(long)]
        quick: bool,
        /// Print the findings as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Set the index and damaged audio files aside and make a new index from the others; the node
    /// must be stopped. What the files don't tell comes from the peer.
    Rebuild {
        /// The node's configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Make a backup, of a running or a stopped node.
    Backup {
        /// The node's configuration file.
        #[arg(long)]
        config: PathBuf,
        /// Folder for it; each backup gets a folder of its own there. A running node makes backups
        /// in `node.backup_dir` only, which is also the default.
        #[arg(long)]
        to: Option<PathBuf>,
        /// Afterwards remove all but the newest so many backups of this node.
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
        keep: Option<u16>,
    },
    /// Make a store from a backup; the node must be stopped.
    Restore {
        /// The node's configuration file.
        #[arg(long)]
        config: PathBuf,
        /// The backup's folder.
        #[arg(long)]
        from: PathBuf,
        /// Set aside the store that is there; it is kept in the data folder.
        #[arg(long)]
        force: bool,
        /// Leave out messages and greetings whose audio is damaged in the backup.
        #[arg(long)]
        leave_out_damaged: bool,
    },
}

/// Runs it.
pub(crate) fn run(command: StoreCommand) -> Result<(), Failure> {
    match command {
        StoreCommand::Check {
            config,
            quick,
            json,
        } => check(&load(&config)?, quick, json),
        StoreCommand::Rebuild { config } => rebuild(&load(&config)?),
        StoreCommand::Backup { config, to, keep } => {
            backup(&load(&config)?, to, keep.map(usize::from))
        }
        StoreCommand::Restore {
            config,
            from,
            force,
            leave_out_damaged,
        } => restore(&load(&config)?, &from, force, leave_out_damaged),
    }
}

/// What can't be looked at now is no damage.
fn not_now(error: StoreError) -> Failure {
    match error {
        StoreError::InUse(_) | StoreError::Conflict(_) => Failure::Usage(error.to_string()),
        other => Failure::Failed(other.to_string()),
    }
}

fn existing(config: &Config) -> Result<(), Failure> {
    let dir = &config.node.data_dir;
    if dir.join("FORMAT").exists() {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "{} holds no store: check node.data_dir",
        dir.display()
    )))
}

fn check(config: &Config, quick: bool, as_json: bool) -> Result<(), Failure> {
    existing(config)?;
    let options = serve::store_options(config);
    let store = match Store::open(&config.node.data_dir, options) {
        Err(StoreError::Damaged { why, .. }) => {
            let index = vec![format!("the index is damaged: {why}")];
            return findings(&index, &vmsync_store::AudioCheck::default(), as_json);
        }
        other => other.map_err(not_now)?,
    };
    let index = match store.verify() {
        Err(StoreError::Damaged { why, .. }) => vec![format!("the index is damaged: {why}")],
        Err(other) => return Err(not_now(other)),
        Ok(()) => store.check().map_err(not_now)?,
    };
    let mut told = Told::default();
    let audio = store.check_audio(!quick, &mut |files| {
        told.tell(|| format!("{files} audio files looked at"));
    });
    findings(&index, &audio.map_err(not_now)?, as_json)
}

/// Prints what was found, and what to do about it.
fn findings(
    index: &[String],
    audio: &vmsync_store::AudioCheck,
    as_json: bool,
) -> Result<(), Failure> {
    let sound = index.is_empty() && audio.problems.is_empty();
    if as_json {
        let found = json!({
            "sound": sound,
            "index": index,
            "audio": audio.problems,
            "audio_files": audio.files,
            "audio_bytes": audio.bytes,
            "unreferenced": audio.unreferenced,
        });
        say(&serde_json::to_string_pretty(&found)?)?;
    } else {
        for problem in index.iter().chain(&audio.problems) {
            say(problem)?;
        }
        let files = format!(
            "{} audio files are sound, {} bytes",
            audio.files, audio.bytes
        );
        say(&if sound {
            format!("the store is sound: {files}")
        } else {
            files
        })?;
        if audio.unreferenced > 0 {
            say(&format!(
                "{} audio files belong to nothing that is held; they do no harm",
                audio.unreferenced
            ))?;
        }
    }
    if sound {
        return Ok(());
    }
    Err(Failure::Failed(
        "the store is damaged; with the peer in step, run `vmsync store rebuild`: what is damaged is set aside, and the peer fills it in. Without a peer, see docs/recover.md".to_owned(),
    ))
}

fn rebuild(config: &Config) -> Result<(), Failure> {
    existing(config)?;
    let mut told = Told::default();
    let report = vmsync_store::rebuild(
        &config.node.data_dir,
        serve::store_options(config),
        "made anew by vmsync store rebuild",
        true,
        &mut |done, all| told.tell(|| format!("{done} of {all} audio files")),
    )
    .map_err(not_now)?;
    say(&report.words())
}

fn backup(config: &Config, to: Option<PathBuf>, keep: Option<usize>) -> Result<(), Failure> {
    existing(config)?;
    let to = to.map(std::path::absolute).transpose()?;
    let Some(into) = to.clone().or_else(|| config.node.backup_dir.clone()) else {
        return Err(Failure::Usage(
            "say where it goes: --to FOLDER, or node.backup_dir in the configuration".to_owned(),
        ));
    };
    let store = match Store::open(&config.node.data_dir, serve::store_options(config)) {
        Err(StoreError::InUse(_)) => return ask_the_node(config, to, keep),
        other => other.map_err(not_now)?,
    };
    let mut told = Told::default();
    let (made, removed) = backups::make(&store, &into, keep, &mut |at| {
        told.tell(|| at_words("written", at));
        true
    })
    .map_err(not_now)?;
    for gone in removed {
        say(&format!("removed {}", gone.display()))?;
    }
    say(&made_words(&into, &BackupView::of(&made)))
}

/// The node runs: it makes the backup itself, in the folder its configuration names.
fn ask_the_node(config: &Config, to: Option<PathBuf>, keep: Option<usize>) -> Result<(), Failure> {
    let own = config.node.backup_dir.as_deref();
    if let Some(to) = to.filter(|to| Some(to.as_path()) != own) {
        let own = own.map_or_else(|| "none is set".to_owned(), |d| d.display().to_string());
        return Err(Failure::Usage(format!(
            "the node runs, and makes backups in node.backup_dir only ({own}), not in {}: leave --to out, or stop the node",
            to.display()
        )));
    }
    let url = format!("http://{}", reachable(config.http.listen));
    let token = token_of(&config.http.tokens_file)?;
    runtime()?.block_on(async {
        let client = ApiClient::new(&url, &token)?;
        let path = "/api/v1/store/backups";
        let wish = keep.map_or_else(|| json!({}), |keep| json!({"keep": keep}));
        client.post(path, &wish).await?;
        let mut told = Told::default();
        loop {
            tokio::time::sleep(ASK).await;
            let list: BackupList = serde_json::from_value(client.get(path).await?)?;
            if let Some(now) = list.running {
                let at = Progress {
                    records: now.records,
                    audio_files: now.audio_files,
                };
                told.tell(|| at_words("written", at));
                continue;
            }
            if let Some(failed) = list.failed {
                return Err(Failure::Failed(failed.why));
            }
            return match list.items.last() {
                Some(made) => say(&made_words(Path::new(&list.dir), made)),
                None => Err(Failure::Failed(format!(
                    "the backup is not in {} any more",
                    list.dir
                ))),
            };
        }
    })
}

/// Where a listener of this machine is reached.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn restore(
    config: &Config,
    from: &Path,
    force: bool,
    leave_out_damaged: bool,
) -> Result<(), Failure> {
    let mut told = Told::default();
    let restored = vmsync_store::restore(
        RestoreFrom {
            backup: from,
            dir: &config.node.data_dir,
            options: serve::store_options(config),
            replace: force,
            leave_out_damaged,
        },
        &mut |what, at| told.tell(|| at_words(what, at)),
    )
    .map_err(not_now)?;
    if let Some(aside) = &restored.replaced {
        say(&format!("what was there is kept in {}", aside.display()))?;
    }
    for entity in &restored.left_out {
        say(&format!(
            "left out, because its audio is missing or damaged: {entity}"
        ))?;
    }
    say(&format!(
        "restored {} records of the backup of {} of {} into {}; it goes on as {}. What is newer comes from the peer once the node runs",
        restored.records,
        restored.backup.node,
        restored.backup.started,
        config.node.data_dir.display(),
        restored.origin
    ))
}

fn made_words(dir: &Path, made: &BackupView) -> String {
    let mut text = format!(
        "{}: {} records, {} audio files",
        dir.join(&made.name).display(),
        made.records,
        made.audio_files
    );
    if made.without_audio > 0 {
        let _ = write!(
            text,
            "; the audio of {} records is missing or damaged in the store: run `vmsync store check`",
            made.without_audio
        );
    }
    text
}

fn at_words(what: &str, at: Progress) -> String {
    format!(
        "{what}: {} records, {} audio files",
        at.records, at.audio_files
    )
}

/// Tells a person how far it is, now and then, beside what is printed for programs.
#[derive(Default)]
struct Told {
    next: Option<Duration>,
}

impl Told {
    fn tell(&mut self, words: impl FnOnce() -> String) {
        let now = clock::now().mono;
        if self.next.is_some_and(|next| now >= next) {
            // Nobody may be there to read it.
            let _ = writeln!(std::io::stderr(), "{}", words());
        }
        if self.next.is_none_or(|next| now >= next) {
            self.next = Some(now + EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_reached_on_loopback() {
        let at = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(at("0.0.0.0:8080"), "127.0.0.1:8080");
        assert_eq!(at("[::]:8080"), "[::1]:8080");
        assert_eq!(at("192.0.2.1:80"), "192.0.2.1:80");
    }
}
