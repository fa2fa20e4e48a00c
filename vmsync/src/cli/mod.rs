//! The command line. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.

mod operate;
mod remote;
mod store;
mod vrl;

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use vmsync_config::words::Fqdn;

use crate::{bench, clock, demo, keys, pki, serve};

/// Voicemail resilience: two servers that keep each other's mailboxes, in step over SMTP.
#[derive(Parser)]
#[command(name = "vmsync", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node.
    Serve(ServeArgs),
    /// Check a configuration and print every error in it.
    Check {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Run a whole pair on this machine, from nothing.
    Demo(DemoArgs),
    /// Measure the pair on this machine.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// The store of a node: check it, make it anew, back it up, restore it.
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// The pair's own certificates, keys and tokens.
    #[command(subcommand)]
    Pki(PkiCommand),
    /// Print what the program knows of itself.
    #[command(subcommand)]
    Explain(ExplainCommand),
    /// A third party for a pair: answers over HTTP that it is there, and nothing else.
    Witness {
        /// Where to answer.
        #[arg(long, default_value = "0.0.0.0:8090")]
        listen: std::net::SocketAddr,
    },
    /// Call recordings: how their move stands, test, move now, hand in.
    #[command(args_conflicts_with_subcommands = true)]
    Vrl(vrl::VrlArgs),
    #[command(flatten)]
    Operate(operate::OperateCommand),
    #[command(flatten)]
    Remote(remote::RemoteCommand),
}

#[derive(Args)]
struct ServeArgs {
    /// The configuration file.
    #[arg(long)]
    config: PathBuf,
    /// Stop when standard input ends: for programs that start a node and must not leave it behind.
    #[arg(long, hide = true)]
    stop_on_stdin_eof: bool,
}

#[derive(Args)]
struct DemoArgs {
    /// Tell the story of a failover step by step, check each step, and stop.
    #[arg(long)]
    script: bool,
    /// Folder for everything; an earlier demo's folder goes on from there.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Use five ports from this one on instead of free ones.
    #[arg(long)]
    base_port: Option<u16>,
    /// With --script: kill a node during a step and start it again (`STEP:NODE`, e.g. `8:vmpro2`).
    #[arg(long, requires = "script", value_parser = kill_at)]
    kill: Option<(usize, String)>,
}

/// The pair's signing key.
const PAIR_KEY: &str = "pair.key";
/// Password of the account that recordings are moved with.
const VRL_PASSWORD: &str = "vrl.password";

#[derive(Subcommand)]
enum PkiCommand {
    /// Make the pair's root CA, the key both nodes sign with, and the recordings' password.
    Init {
        /// Folder for them.
        #[arg(long)]
        dir: PathBuf,
        /// The pair's DNS domain (R-TO-5).
        #[arg(long)]
        domain: String,
    },
    /// Make all the files a node needs beside its configuration.
    Issue {
        /// Folder of the CA.
        #[arg(long)]
        dir: PathBuf,
        /// The node's name.
        #[arg(long)]
        fqdn: Fqdn,
        /// Where the node's files go.
        #[arg(long)]
        out: PathBuf,
    },
}

#[derive(Subcommand)]
enum BenchCommand {
    /// Backlog, small changes, lag and scale of two nodes, beside what the disk can do.
    Sync(bench::SyncWork),
    /// Messages a second that one node takes over HTTP, beside what the disk can do.
    Intake(bench::Work),
    /// How fast a failover is: asked for, and after the loss of the home.
    Failover(bench::FailoverWork),
    /// How fast recordings move to the primary, beside curl and lftp to the same server.
    Ftp(bench::FtpWork),
}

#[derive(Subcommand)]
enum ExplainCommand {
    /// The resilience machine, row by row.
    Fsm {
        /// As a Mermaid diagram.
        #[arg(long)]
        mermaid: bool,
    },
}

fn kill_at(text: &str) -> Result<(usize, String), String> {
    let (step, node) = text.split_once(':').ok_or("STEP:NODE, e.g. 8:vmpro2")?;
    let step = step.parse().map_err(|e| format!("step {step:?}: {e}"))?;
    Ok((step, node.to_owned()))
}

/// What a command ends with when it fails.
pub(crate) enum Failure {
    /// Exit code 1.
    Failed(String),
    /// Exit code 2.
    Usage(String),
}

impl<E: std::fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = run(cli.command);
    let (code, text) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Failed(text)) => (1, text),
        Err(Failure::Usage(text)) => (2, text),
    };
    // Nothing more can be said where standard error is gone.
    let _ = writeln!(std::io::stderr(), "vmsync: {text}");
    ExitCode::from(code)
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => {
            let config = load(&args.config)?;
            serve::init_logging();
            runtime()?.block_on(serve::run(config, args.stop_on_stdin_eof))?;
            Ok(())
        }
        Command::Check { config } => {
            let checked = load(&config)?;
            serve::check_files(&checked).map_err(Failure::Usage)?;
            let node = &checked.node;
            say(&format!(
                "{} is valid: {} {} of a {} pair with {}",
                config.display(),
                match node.role {
                    vmsync_config::Role::Primary => "primary",
                    vmsync_config::Role::Secondary => "secondary",
                },
                node.fqdn,
                crate::node::mode_name(checked.pair.mode),
                checked.pair.peer,
            ))
        }
        Command::Demo(args) => {
            let options = demo::DemoOptions {
                dir: args.dir,
                base_port: args.base_port,
                script: args.script,
                kill: args.kill,
            };
            runtime()?.block_on(demo::run(options, &mut std::io::stdout()))?;
            Ok(())
        }
        Command::Bench(BenchCommand::Sync(work)) => {
            runtime()?.block_on(bench::sync(work, &mut std::io::stdout()))?;
            Ok(())
        }
        Command::Bench(BenchCommand::Intake(work)) => {
            runtime()?.block_on(bench::intake(work, &mut std::io::stdout()))?;
            Ok(())
        }
        Command::Bench(BenchCommand::Failover(work)) => {
            runtime()?.block_on(bench::failover(work, &mut std::io::stdout()))?;
            Ok(())
        }
        Command::Bench(BenchCommand::Ftp(work)) => {
            runtime()?.block_on(bench::ftp(work, &mut std::io::stdout()))?;
            Ok(())
        }
        Command::Store(command) => store::run(command),
        Command::Pki(command) => pki_command(command),
        Command::Explain(ExplainCommand::Fsm { mermaid }) => {
            use vmsync_core::resilience::{Format, explain};
            let format = if mermaid {
                Format::Mermaid
            } else {
                Format::Text
            };
            say(explain(format).trim_end())
        }
        Command::Witness { listen } => {
            serve::init_logging();
            runtime()?.block_on(crate::witness::run(listen))?;
            Ok(())
        }
        Command::Vrl(args) => runtime()?.block_on(vrl::run(args)),
        Command::Operate(command) => runtime()?.block_on(operate::run(command)),
        Command::Remote(command) => runtime()?.block_on(remote::run(command)),
    }
}

fn pki_command(command: PkiCommand) -> Result<(), Failure> {
    match command {
        PkiCommand::Init { dir, domain } => {
            pki::init(&dir, &domain, clock::wall())?;
            keys::generate_key_file(&dir.join(PAIR_KEY))?;
            keys::generate_password_file(&dir.join(VRL_PASSWORD))?;
            say(&format!(
                "made in {d}: ca.pem, ca.key, {PAIR_KEY}, {VRL_PASSWORD}\nKeep this folder off the nodes: ca.key signs for the whole pair.\nNext, once a node: vmsync pki issue --dir {d} --fqdn NODE --out FOLDER",
                d = dir.display()
            ))
        }
        PkiCommand::Issue { dir, fqdn, out } => {
            pki::issue(&dir, fqdn.as_str(), &[], &out, clock::wall())?;
            keys::generate_tokens_file(&out.join("tokens"))?;
            for shared in ["ca.pem", PAIR_KEY, VRL_PASSWORD] {
                keys::copy_secret_file(&dir.join(shared), &out.join(shared))?;
            }
            say(&format!(
                "made in {o}: {fqdn}.pem, {fqdn}.key, tokens; copied there: ca.pem, {PAIR_KEY}, {VRL_PASSWORD}\nThis folder goes to {fqdn}, beside its vmsync.toml.",
                o = out.display()
            ))
        }
    }
}

fn load(path: &std::path::Path) -> Result<vmsync_config::Config, Failure> {
    vmsync_config::load(path, vmsync_config::environment())
        .map_err(|e| Failure::Usage(e.to_string()))
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}

/// Prints for the person (or script) that asked.
pub(crate) fn say(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(())
}
