//! Commands that ask a running node over its API.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Failure, say};
use crate::{
    client::{ApiClient, Body},
    rights::RightsStatus,
};

#[derive(Args)]
pub(crate) struct Node {
    /// The node's address.
    #[arg(long, env = "VMSYNC_URL", default_value = "http://127.0.0.1:8080")]
    pub(super) url: String,
    /// File with the token (`admin TOKEN` or `read TOKEN` lines, or the bare token).
    #[arg(long)]
    pub(super) token_file: Option<PathBuf>,
    /// The token itself.
    #[arg(long, env = "VMSYNC_TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
    /// Print the answer as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Subcommand)]
pub(crate) enum RemoteCommand {
    /// Exit code 0 once a node is ready to serve; for health checks. Needs no token.
    Ready {
        /// The node's address.
        #[arg(long, env = "VMSYNC_URL", default_value = "http://127.0.0.1:8080")]
        url: String,
    },
    /// Who serves, since when and why; sync state; calls.
    Status {
        #[command(flatten)]
        node: Node,
    },
    /// Mailboxes with their counts.
    Mailboxes {
        #[command(flatten)]
        node: Node,
    },
    /// Messages of a mailbox.
    Messages {
        /// Its extension.
        extension: String,
        #[command(flatten)]
        node: Node,
    },
    /// E-mail to users.
    Email {
        #[command(subcommand)]
        command: EmailCommand,
    },
    /// Active calls.
    Calls {
        #[command(flatten)]
        node: Node,
    },
    /// Synchronisation: vectors, digests, what is left, quarantine, audio files.
    Sync {
        /// Read all audio files of the node now, each compared with its SHA-256; what is missing or
        /// damaged, the peer is asked for.
        #[arg(long)]
        check_audio: bool,
        #[command(flatten)]
        node: Node,
    },
    /// Who serves users, phones, hunt groups, conferences, DECT and the portal of each system.
    Features {
        /// Of this system alone, also what is not backed up.
        #[arg(long)]
        system: Option<String>,
        #[command(flatten)]
        node: Node,
    },
    /// Alarms, and by which ways people are told of them.
    #[command(args_conflicts_with_subcommands = true)]
    Alarms {
        #[command(subcommand)]
        command: Option<AlarmsCommand>,
        #[command(flatten)]
        node: Node,
    },
}

#[derive(Subcommand)]
pub(crate) enum AlarmsCommand {
    /// The channels, what waits for each, and its last error.
    Channels {
        #[command(flatten)]
        node: Node,
    },
    /// Send a test alarm by a channel, and say what became of it; exit code 1 where it could not be sent.
    Test {
        /// The channel's name.
        name: String,
        #[command(flatten)]
        node: Node,
    },
}

#[derive(Subcommand)]
pub(crate) enum EmailCommand {
    /// Mail again what could not be e-mailed for good, once its cause is mended.
    Resend {
        /// The mailbox's extension.
        extension: String,
        /// Only this message; default all of the mailbox that failed.
        #[arg(long)]
        message: Option<String>,
        #[command(flatten)]
        node: Node,
    },
}

/// Asks and prints.
pub(crate) async fn run(command: RemoteCommand) -> Result<(), Failure> {
    let (node, path, body, table): (_, String, _, fn(&Value) -> String) = match command {
        RemoteCommand::Ready { url } => {
            ApiClient::new(&url, "")?.get("/readyz").await?;
            return say("ready");
        }
        RemoteCommand::Status { node } => (node, "/api/v1/status".to_owned(), None, status),
        RemoteCommand::Mailboxes { node } => {
            (node, "/api/v1/mailboxes".to_owned(), None, mailboxes)
        }
        RemoteCommand::Messages { extension, node } => (
            node,
            format!("/api/v1/mailboxes/{extension}/messages"),
            None,
            messages,
        ),
        RemoteCommand::Email { command } => {
            let EmailCommand::Resend {
                extension,
                message,
                node,
            } = command;
            let mut body = json!({"mailbox": extension});
            if let Some(message) = message {
                body["message"] = json!(message);
            }
            (node, "/api/v1/email/resend".to_owned(), Some(body), resent)
        }
        RemoteCommand::Calls { node } => (node, "/api/v1/calls".to_owned(), None, calls),
        RemoteCommand::Sync {
            check_audio: false,
            node,
        } => (node, "/api/v1/sync".to_owned(), None, pretty),
        RemoteCommand::Sync {
            check_audio: true,
            node,
        } => {
            let path = "/api/v1/sync/audio-check".to_owned();
            (node, path, Some(json!({})), pretty)
        }
        RemoteCommand::Features { system, node } => {
            let of = system.map_or_else(String::new, |s| format!("?system={s}"));
            (node, format!("/api/v1/features{of}"), None, features)
        }
        RemoteCommand::Alarms { command, node } => match command {
            None => (node, "/api/v1/alarms".to_owned(), None, alarms),
            Some(AlarmsCommand::Channels { node }) => {
                (node, "/api/v1/alarms/channels".to_owned(), None, channels)
            }
            Some(AlarmsCommand::Test { name, node }) => {
                let path = format!("/api/v1/alarms/channels/{name}/test");
                (node, path, Some(json!({})), tested)
            }
        },
    };
    let client = ApiClient::new(&node.url, &token(&node)?)?;
    let method = if body.is_some() {
        Method::POST
    } else {
        Method::GET
    };
    let answers = all_pages(&client, method, &path, body.as_ref()).await?;
    say(&if node.json {
        pretty(&answers)
    } else {
        table(&answers)
    })?;
    // A test of a channel is an answer, and not what was hoped for.
    if answers["ok"] == json!(false) {
        return Err(Failure::Failed("the test failed".to_owned()));
    }
    Ok(())
}

/// One answer, or every page of a list joined.
async fn all_pages(
    client: &ApiClient,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, Failure> {
    let send = |path: String| {
        let body = body.map_or(Body::None, Body::Json);
        let method = method.clone();
        async move { client.ok(method, &path, &[], body).await.map(|r| r.json()) }
    };
    let mut answer = send(path.to_owned()).await?;
    let and = if path.contains('?') { '&' } else { '?' };
    while let Some(next) = answer["next"].as_str().map(str::to_owned) {
        let mut page = send(format!("{path}{and}cursor={next}")).await?;
        let more = page["items"]
            .as_array_mut()
            .map(std::mem::take)
            .unwrap_or_default();
        answer["next"] = page["next"].take();
        if let Some(items) = answer["items"].as_array_mut() {
            items.extend(more);
        }
    }
    Ok(answer)
}

pub(super) fn token(node: &Node) -> Result<String, Failure> {
    if let Some(token) = &node.token {
        return Ok(token.clone());
    }
    let Some(path) = &node.token_file else {
        return Err(Failure::Usage(
            "no token: give --token-file FILE, or the token in VMSYNC_TOKEN".to_owned(),
        ));
    };
    token_of(path)
}

/// The token of a tokens file that may do most.
pub(super) fn token_of(path: &std::path::Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Failure::Failed(format!("{}: {e}", path.display())))?;
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .collect();
    let admin = lines.iter().find_map(|l| l.strip_prefix("admin "));
    let read = lines.iter().find_map(|l| l.strip_prefix("read "));
    let bare = lines.first().copied();
    admin
        .or(read)
        .or(bare)
        .map(|t| t.trim().to_owned())
        .ok_or_else(|| Failure::Failed(format!("{} holds no token", path.display())))
}

pub(super) fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

pub(super) fn items(value: &Value) -> &[Value] {
    value["items"].as_array().map_or(&[], Vec::as_slice)
}

fn status(s: &Value) -> String {
    let mut lines = vec![format!(
        "{} {} ({}), {} pair; peer {} is {}",
        text(&s["node"]["role"]),
        text(&s["node"]["fqdn"]),
        text(&s["node"]["voicemail_type"]),
        text(&s["mode"]),
        text(&s["peer"]["fqdn"]),
        if s["peer"]["visible"] == true {
            "visible"
        } else {
            "INVISIBLE"
        },
    )];
    for g in s["groups"].as_array().map_or(&[][..], Vec::as_slice) {
        lines.push(format!(
            "group {}: {} serves ({}, epoch {}) since {}: {}",
            text(&g["name"]),
            text(&g["owner"]),
            text(&g["phase"]),
            text(&g["epoch"]),
            text(&g["since"]),
            text(&g["reason"]),
        ));
        for wait in g["failback"]["waiting_for"]
            .as_array()
            .map_or(&[][..], Vec::as_slice)
        {
            lines.push(format!("  failback waits for {}", text(wait)));
        }
    }
    for (name, d) in [
        ("to the peer", &s["sync"]["out"]),
        ("from the peer", &s["sync"]["in"]),
    ] {
        lines.push(format!(
            "sync {name}: {}, {} operations left",
            text(&d["state"]),
            text(&d["pending_ops"])
        ));
    }
    let rights: RightsStatus = serde_json::from_value(s["rights"].clone()).unwrap_or_default();
    for (name, right) in rights.named() {
        let words = right.words();
        if !words.is_empty() {
            lines.push(format!("{}: {words}", name.to_ascii_lowercase()));
        }
    }
    lines.push(format!(
        "{} mailboxes, {} messages, {} calls, {} alarms",
        text(&s["totals"]["mailboxes"]),
        text(&s["totals"]["messages"]),
        text(&s["calls"]),
        text(&s["alarms"]),
    ));
    lines.join("\n")
}

fn mailboxes(list: &Value) -> String {
    let rows = items(list).iter().map(|m| {
        let c = &m["counts"];
        vec![
            text(&m["extension"]),
            text(&m["name"]),
            text(&c["new"]),
            text(&c["unopened"]),
            text(&c["old"]),
            text(&c["saved"]),
            text(&c["deleted"]),
            match &m["email_problem"] {
                Value::String(_) => format!("{} (!)", text(&m["email_mode"])),
                _ => text(&m["email_mode"]),
            },
            if m["enabled"] == false {
                "disabled".to_owned()
            } else {
                String::new()
            },
        ]
    });
    table(
        &[
            "EXTENSION",
            "NAME",
            "NEW",
            "UNOPENED",
            "OLD",
            "SAVED",
            "DELETED",
            "E-MAIL",
            "",
        ],
        rows,
    )
}

fn messages(list: &Value) -> String {
    let rows = items(list).iter().map(|m| {
        let seconds = m["duration_ms"].as_f64().unwrap_or_default() / 1000.0;
        vec![
            text(&m["id"]),
            text(&m["state"]),
            text(&m["caller_number"]),
            text(&m["received_at"]),
            format!("{seconds:.1} s"),
            match &m["email_failed"]["why"] {
                Value::String(why) => format!("failed: {why}"),
                _ => text(&m["emailed_at"]),
            },
        ]
    });
    table(
        &["ID", "STATE", "CALLER", "RECEIVED", "LENGTH", "E-MAILED"],
        rows,
    )
}

fn resent(answer: &Value) -> String {
    let (again, mailbox) = (&answer["again"], text(&answer["mailbox"]));
    format!("{again} messages of mailbox {mailbox} wait to be e-mailed again")
}

fn calls(list: &Value) -> String {
    let rows = items(list).iter().map(|c| {
        vec![
            text(&c["id"]),
            text(&c["kind"]),
            text(&c["mailbox"]),
            text(&c["started"]),
        ]
    });
    table(&["ID", "KIND", "MAILBOX", "STARTED"], rows)
}

fn features(list: &Value) -> String {
    let rows = items(list).iter().map(|f| {
        let waits = f["waiting_for"].as_array().cloned().unwrap_or_default();
        let waits: Vec<String> = waits.iter().map(text).collect();
        vec![
            text(&f["system"]),
            text(&f["feature"]),
            text(&f["state"]),
            text(&f["served_by"]),
            text(&f["since"]),
            waits.join(", "),
        ]
    });
    table(
        &[
            "SYSTEM",
            "FEATURE",
            "STATE",
            "SERVED BY",
            "SINCE",
            "WAITING FOR",
        ],
        rows,
    )
}

fn channels(list: &Value) -> String {
    let names = [
        "name",
        "kind",
        "state",
        "queued",
        "sent",
        "last_success",
        "target",
        "last_error",
    ];
    let rows = items(list)
        .iter()
        .map(|c| names.map(|name| text(&c[name])).to_vec());
    let head = names.map(|name| name.to_ascii_uppercase().replace('_', " "));
    table(&head.each_ref().map(String::as_str), rows)
}

fn tested(answer: &Value) -> String {
    text(&answer["outcome"])
}

fn alarms(list: &Value) -> String {
    let rows = items(list).iter().map(|a| {
        let state = if a["cleared"].is_null() {
            "up"
        } else {
            "ended"
        };
        vec![
            text(&a["id"]),
            state.to_owned(),
            text(&a["since"]),
            text(&a["code"]),
            text(&a["subject"]),
            text(&a["text"]),
        ]
    });
    table(&["ID", "STATE", "SINCE", "CODE", "SUBJECT", "TEXT"], rows)
}

/// Columns as wide as their widest cell.
pub(super) fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head: Vec<String> = head.iter().map(|h| (*h).to_owned()).collect();
    let all: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let columns = all.first().map_or(0, Vec::len);
    let width = |c: usize| {
        all.iter()
            .filter_map(|r| r.get(c))
            .map(|t| t.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(t, w)| format!("{t:<w$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}
