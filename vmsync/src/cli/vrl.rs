//! `vmsync vrl`: how the move of recordings stands, Test Connection, moving now, handing recordings in.

mod progress;

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, IsTerminal as _, Read, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use self::progress::{Judge, Verdict, View, files, on_the_way, size, span};
use super::{
    Failure,
    remote::{Node, pretty, table, text, token},
    say,
};
use crate::{
    client::{ApiClient, Body},
    clock,
    vrl::{VrlState, VrlStatus},
};

/// Largest recording read into memory to be handed in, bytes; what a node takes is its `limits.message_bytes`.
const LARGEST: u64 = 1024 * 1024 * 1024;
/// Between two looks at the node.
const LOOK: Duration = Duration::from_millis(400);

#[derive(Args)]
pub(crate) struct VrlArgs {
    #[command(subcommand)]
    command: Option<VrlCommand>,
    #[command(flatten)]
    node: Node,
}

#[derive(Subcommand)]
enum VrlCommand {
    /// How far the move is: what waits, what is on its way, what is kept.
    Status {
        #[command(flatten)]
        node: Node,
    },
    /// Test Connection: check the settings of the move step by step. Exit code 1 when a step fails.
    Test {
        #[command(flatten)]
        node: Node,
    },
    /// Move what is there now, without waiting for the daily window or the next try.
    Transfer {
        /// Show the move until all is moved. Exit code 1 where it must wait, or fails and
        /// achieves nothing for a minute. Ctrl-C ends the showing, not the move.
        #[arg(long)]
        wait: bool,
        /// With --wait: no longer than this, such as 10m.
        #[arg(long, value_name = "TIME", requires = "wait", value_parser = vmsync_config::parse_duration)]
        timeout: Option<Duration>,
        #[command(flatten)]
        node: Node,
    },
    /// Hand recordings in, each with its SHA-256.
    Record {
        /// The files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[command(flatten)]
        node: Node,
    },
    /// Hash a password for the password file of the built-in FTP server: reads its line from standard
    /// input, prints an Argon2id hash. The secondary needs the password itself.
    HashPassword,
}

/// The first line of standard input.
const LONGEST_PASSWORD: u64 = 4096;

/// Asks and prints.
pub(super) async fn run(args: VrlArgs) -> Result<(), Failure> {
    match args.command {
        None => show(&args.node).await,
        Some(VrlCommand::Status { node }) => show(&node).await,
        Some(VrlCommand::Test { node }) => test(&node).await,
        Some(VrlCommand::Transfer {
            wait,
            timeout,
            node,
        }) => transfer(&node, wait, timeout).await,
        Some(VrlCommand::Record { files, node }) => record(&node, &files).await,
        Some(VrlCommand::HashPassword) => hash_password(std::io::stdin().lock()),
    }
}

fn hash_password(input: impl Read) -> Result<(), Failure> {
    if std::io::stdin().is_terminal() {
        let words = b"The password, then Enter; it is shown as you type:\n";
        let _ = std::io::stderr().write_all(words);
    }
    let mut line = Zeroizing::new(String::new());
    BufReader::new(input.take(LONGEST_PASSWORD))
        .read_line(&mut line)
        .map_err(|e| Failure::Usage(format!("the password can't be read: {e}")))?;
    let password = line.strip_suffix('\n').unwrap_or(&line);
    let password = password.strip_suffix('\r').unwrap_or(password);
    let hash = crate::vrl::server::hash_password(password).map_err(Failure::Usage)?;
    say(&hash)
}

fn client(node: &Node) -> Result<ApiClient, Failure> {
    Ok(ApiClient::new(&node.url, &token(node)?)?)
}

async fn show(node: &Node) -> Result<(), Failure> {
    let answer = client(node)?.get("/api/v1/vrl").await?;
    say(&if node.json {
        pretty(&answer)
    } else {
        status(&answer, &read(&answer)?)
    })
}

fn read(answer: &Value) -> Result<VrlStatus, Failure> {
    serde_json::from_value(answer.clone()).map_err(|e| {
        Failure::Failed(format!(
            "the node's answer can't be read: {e}; is it of another version?"
        ))
    })
}

async fn test(node: &Node) -> Result<(), Failure> {
    let answer = client(node)?.post("/api/v1/vrl/test", &json!({})).await?;
    say(&if node.json {
        pretty(&answer)
    } else {
        steps(&answer)
    })?;
    if answer["ok"] == json!(true) {
        return Ok(());
    }
    Err(Failure::Failed(match answer["failed"].as_str() {
        Some(step) => format!("step {step} failed"),
        None => "the test failed".to_owned(),
    }))
}

/// Each step of Test Connection in a row; what to do about the one that failed below.
fn steps(answer: &Value) -> String {
    let list = answer["steps"].as_array().map_or(&[][..], Vec::as_slice);
    let rows = list.iter().map(|s| {
        let ok = if s["ok"] == true { "ok" } else { "FAILED" };
        vec![
            text(&s["step"]),
            ok.to_owned(),
            format!("{} ms", text(&s["ms"])),
            text(&s["detail"]),
        ]
    });
    let mut lines = table(&["STEP", "", "TIME", "WHAT"], rows);
    for advice in list.iter().filter_map(|s| s["advice"].as_str()) {
        let _ = write!(lines, "\n\n{advice}");
    }
    lines
}

async fn transfer(node: &Node, wait: bool, timeout: Option<Duration>) -> Result<(), Failure> {
    let client = client(node)?;
    let started = client.post("/api/v1/vrl/transfer", &json!({})).await?;
    if !wait {
        return say(&if node.json {
            pretty(&started)
        } else {
            begun(&read(&started)?)
        });
    }
    let mut view = View::new(node.json);
    let followed = tokio::select! {
        followed = follow(&client, &started, timeout, &mut view) => followed,
        _ = tokio::signal::ctrl_c() => Err(Failure::Failed(
            "no longer watched; the move goes on, and \"vmsync vrl\" says how far it is".to_owned(),
        )),
    };
    view.end()?;
    let last = followed?;
    say(&if node.json {
        pretty(&last)
    } else {
        let (before, after) = (read(&started)?, read(&last)?);
        format!(
            "all moved: {}, {}",
            files(after.files_done.saturating_sub(before.files_done)),
            size(after.bytes_done.saturating_sub(before.bytes_done))
        )
    })
}

/// What the answer to a start says.
fn begun(status: &VrlStatus) -> String {
    match status.state {
        VrlState::Waiting if !status.why.is_empty() => {
            format!("asked for; it waits: {}", status.why)
        }
        _ => format!(
            "asked for; {} to move, {}",
            files(status.files_pending),
            size(status.bytes_pending)
        ),
    }
}

/// Looks until all is moved; the last answer, or why it is not waited for any longer.
async fn follow(
    client: &ApiClient,
    started: &Value,
    timeout: Option<Duration>,
    view: &mut View,
) -> Result<Value, Failure> {
    let mut judge = Judge::new(&read(started)?, clock::now().mono, timeout);
    loop {
        tokio::time::sleep(LOOK).await;
        let answer = client.get("/api/v1/vrl").await?;
        let (status, now) = (read(&answer)?, clock::now().mono);
        view.show(&status, now)?;
        match judge.look(&status, now) {
            Verdict::GoOn => {}
            Verdict::Moved => return Ok(answer),
            Verdict::GiveUp(why) => return Err(Failure::Failed(why)),
        }
    }
}

/// Everything that is known, in lines.
fn status(answer: &Value, s: &VrlStatus) -> String {
    let mut lines = vec![format!(
        "{}{}",
        s.state.as_str(),
        if s.why.is_empty() {
            String::new()
        } else {
            format!(": {}", s.why)
        }
    )];
    lines.push(format!("folder {}", text(&answer["folder"])));
    if let Some(remote) = answer["remote"].as_str() {
        lines.push(format!("to {remote}"));
        lines.push(format!(
            "to move: {}, {}; moved since start: {}, {}",
            files(s.files_pending),
            size(s.bytes_pending),
            files(s.files_done),
            size(s.bytes_done)
        ));
    }
    for current in on_the_way(s) {
        lines.push(format!(
            "on its way: {}, {} of {}",
            current.name,
            size(current.sent),
            size(current.bytes)
        ));
    }
    if s.rate > 0 {
        let left = s
            .eta_s
            .map_or_else(String::new, |left| format!(", {} left", span(left)));
        lines.push(format!("{}/s{left}", size(s.rate)));
    }
    if let Some(stalled) = s.stalled_s.filter(|s| *s >= 60) {
        lines.push(format!("nothing was achieved for {}", span(stalled)));
    }
    if let Some(archive) = &s.archive {
        lines.push(format!(
            "kept in {}: {}, {}, the oldest confirmed {}",
            archive.folder,
            files(archive.files),
            size(archive.bytes),
            archive.oldest.as_deref().unwrap_or("-")
        ));
        lines.extend(archive.last_error.iter().map(|e| format!("archive: {e}")));
        lines.extend(archive.unfit.iter().map(|u| format!("archive: {u}")));
    }
    lines.extend(s.last_error.iter().map(|e| format!("last error: {e}")));
    lines.extend(s.unfit.iter().map(|u| format!("can't be moved: {u}")));
    lines.join("\n")
}

async fn record(node: &Node, paths: &[PathBuf]) -> Result<(), Failure> {
    let client = client(node)?;
    let (mut taken, mut failed) = (Vec::new(), Vec::new());
    for path in paths {
        match hand_in(&client, path).await {
            Ok(answer) => taken.push(answer),
            Err(Failure::Failed(why) | Failure::Usage(why)) => {
                failed.push(format!("{}: {why}", path.display()));
            }
        }
    }
    if node.json {
        say(&pretty(&Value::Array(taken)))?;
    } else if !taken.is_empty() {
        let rows = taken.iter().map(|t| {
            let state = if t["new"] == true {
                "taken"
            } else {
                "there already"
            };
            vec![
                text(&t["name"]),
                state.to_owned(),
                text(&t["bytes"]),
                text(&t["sha256"]),
            ]
        });
        say(&table(&["NAME", "", "BYTES", "SHA-256"], rows))?;
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(failed.join("\n")))
}

async fn hand_in(client: &ApiClient, path: &Path) -> Result<Value, Failure> {
    let name = path
        .file_name()
        .and_then(|n| n.to_str())
        .ok_or_else(|| Failure::Failed("has no name in UTF-8".to_owned()))?;
    let length = std::fs::metadata(path)?.len();
    if length > LARGEST {
        return Err(Failure::Failed(format!("{length} bytes are too large")));
    }
    let bytes = tokio::fs::read(path).await?;
    let sha256 = hex::encode(Sha256::digest(&bytes));
    let kind = match path.extension().and_then(|e| e.to_str()) {
        Some(e) if e.eq_ignore_ascii_case("ogg") || e.eq_ignore_ascii_case("opus") => "audio/ogg",
        _ => "audio/wav",
    };
    let query = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("name", name)
        .append_pair("sha256", &sha256)
        .finish();
    let path = format!("/api/v1/vrl/recordings?{query}");
    let reply = client
        .ok(Method::POST, &path, &[], Body::Audio(kind, bytes))
        .await?;
    Ok(reply.json())
}

#[cfg(test)]
mod tests;
