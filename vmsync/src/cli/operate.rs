//! Commands that move a group, now or later, and what was done before.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{
    Failure,
    remote::{Node, items, pretty, text, token},
    say,
};
use crate::client::{ApiClient, Body};

/// Conditions and words of a request.
#[derive(Args)]
pub(crate) struct Conditions {
    /// Only say what would happen, and which messages are on one node only.
    #[arg(long)]
    dry_run: bool,
    /// Refuse unless this node owns the group now.
    #[arg(long, value_name = "NODE")]
    expected_owner: Option<String>,
    /// Why; kept in the history.
    #[arg(long)]
    reason: Option<String>,
    /// Not now but then, such as 2026-11-22T03:00:00Z.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
}

#[derive(Subcommand)]
pub(crate) enum OperateCommand {
    /// Let the backup take a group over (*Activate Backup Server*).
    ActivateBackup {
        /// The group, e.g. `primary`.
        group: String,
        #[command(flatten)]
        conditions: Conditions,
        #[command(flatten)]
        node: Node,
    },
    /// Give a group back to its home.
    Failback {
        /// The group.
        group: String,
        /// Even with calls active; they are finished where they are.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        conditions: Conditions,
        #[command(flatten)]
        node: Node,
    },
    /// What is scheduled for a group.
    Schedule {
        /// The group.
        group: String,
        /// Cancel it.
        #[arg(long)]
        cancel: bool,
        #[command(flatten)]
        node: Node,
    },
    /// Every failover and failback of a group with its reason.
    History {
        /// The group.
        group: String,
        #[command(flatten)]
        node: Node,
    },
    /// Maintenance mode: nothing fails over or back without an operator.
    Maintenance {
        #[command(subcommand)]
        command: MaintenanceCommand,
    },
}

#[derive(Subcommand)]
pub(crate) enum MaintenanceCommand {
    /// Begin it, on both nodes.
    On {
        /// Why; shown on both nodes.
        #[arg(long, default_value = "")]
        reason: String,
        /// It ends by itself after this time, such as 2h; else an operator ends it.
        #[arg(long = "for", value_name = "TIME")]
        length: Option<String>,
        #[command(flatten)]
        node: Node,
    },
    /// End it.
    Off {
        #[command(flatten)]
        node: Node,
    },
    /// Whether it is on.
    Show {
        #[command(flatten)]
        node: Node,
    },
}

/// A command as a request, and how its answer is printed.
type Asking = (Node, Method, String, Option<Value>, fn(&Value) -> String);

/// Asks and prints.
pub(crate) async fn run(command: OperateCommand) -> Result<(), Failure> {
    let (node, method, path, body, table): Asking = match command {
        OperateCommand::ActivateBackup {
            group,
            conditions,
            node,
        } => {
            let path = format!("/api/v1/groups/{group}/activate-backup");
            (
                node,
                Method::POST,
                path,
                Some(guard(conditions, false)),
                outcome,
            )
        }
        OperateCommand::Failback {
            group,
            force,
            conditions,
            node,
        } => {
            let path = format!("/api/v1/groups/{group}/failback");
            (
                node,
                Method::POST,
                path,
                Some(guard(conditions, force)),
                outcome,
            )
        }
        OperateCommand::Schedule {
            group,
            cancel,
            node,
        } => {
            let path = format!("/api/v1/groups/{group}/schedule");
            if cancel {
                (node, Method::DELETE, path, None, cancelled)
            } else {
                (node, Method::GET, path, None, scheduled)
            }
        }
        OperateCommand::History { group, node } => {
            let path = format!("/api/v1/groups/{group}/history?limit=1000");
            (node, Method::GET, path, None, history)
        }
        OperateCommand::Maintenance { command } => {
            let path = "/api/v1/maintenance".to_owned();
            match command {
                MaintenanceCommand::On {
                    reason,
                    length,
                    node,
                } => {
                    let mut body = json!({"reason": reason});
                    if let Some(length) = length {
                        body["for"] = length.into();
                    }
                    (node, Method::PUT, path, Some(body), maintenance)
                }
                MaintenanceCommand::Off { node } => (node, Method::DELETE, path, None, maintenance),
                MaintenanceCommand::Show { node } => (node, Method::GET, path, None, maintenance),
            }
        }
    };
    let client = ApiClient::new(&node.url, &token(&node)?)?;
    let body = body.as_ref().map_or(Body::None, Body::Json);
    let answer = client.ok(method, &path, &[], body).await?.json();
    say(&if node.json {
        pretty(&answer)
    } else {
        table(&answer)
    })
}

fn guard(conditions: Conditions, force: bool) -> Value {
    let mut guard = Map::new();
    guard.insert("force".to_owned(), force.into());
    guard.insert("dry_run".to_owned(), conditions.dry_run.into());
    let words = [
        ("expected_owner", conditions.expected_owner),
        ("reason", conditions.reason),
        ("at", conditions.at),
    ];
    for (name, word) in words {
        if let Some(word) = word {
            guard.insert(name.to_owned(), word.into());
        }
    }
    Value::Object(guard)
}

fn outcome(o: &Value) -> String {
    let dry = if o["dry_run"] == true {
        "would happen: "
    } else {
        ""
    };
    let mut line = format!(
        "{dry}{} (group {}, owner {}, epoch {})",
        text(&o["what"]),
        text(&o["group"]),
        text(&o["owner"]),
        text(&o["epoch"])
    );
    for wait in o["waiting_for"].as_array().map_or(&[][..], Vec::as_slice) {
        line.push_str("\n  waits for ");
        line.push_str(&text(wait));
    }
    if o["one_sided"].is_object() {
        for (where_, held) in [
            ("only on the node asked", &o["one_sided"]["here"]),
            ("only on its peer", &o["one_sided"]["there"]),
        ] {
            let told = if held.is_null() {
                "not known, it can't be asked".to_owned()
            } else {
                let (messages, operations) = (text(&held["messages"]), text(&held["operations"]));
                format!("{messages} messages ({operations} operations)")
            };
            let _ = write!(line, "\n  {where_}: {told}");
            for id in held["ids"].as_array().map_or(&[][..], Vec::as_slice) {
                let _ = write!(line, "\n    {}", text(id));
            }
        }
    }
    line
}

fn order(o: &Value) -> String {
    let expected = match o["expected_owner"].as_str() {
        Some(owner) => format!(", if {owner} owns it then"),
        None => String::new(),
    };
    let reason = o["reason"].as_str().unwrap_or("no reason given");
    format!(
        "{} of group {} at {}, at the latest {}{expected}: {reason} (ordered at {})",
        text(&o["what"]),
        text(&o["group"]),
        text(&o["at"]),
        text(&o["until"]),
        text(&o["by"])
    )
}

fn scheduled(answer: &Value) -> String {
    if answer["scheduled"].is_null() {
        "nothing is scheduled".to_owned()
    } else {
        order(&answer["scheduled"])
    }
}

fn cancelled(answer: &Value) -> String {
    format!("cancelled: {}", order(&answer["scheduled"]))
}

fn history(answer: &Value) -> String {
    let lines = items(answer).iter().map(|t| {
        let (epoch, owner) = (&t["epoch"], &t["owner"]);
        let who = if epoch.is_null() {
            String::new()
        } else {
            format!("epoch {}, {} serves: ", text(epoch), text(owner))
        };
        let (since, kind, reason) = (text(&t["since"]), text(&t["kind"]), text(&t["reason"]));
        format!("{since}  {kind}: {who}{reason}")
    });
    let lines: Vec<_> = lines.collect();
    if lines.is_empty() {
        "nothing has happened yet".to_owned()
    } else {
        lines.join("\n")
    }
}

fn maintenance(answer: &Value) -> String {
    let m = &answer["maintenance"];
    if m.is_null() {
        return "maintenance mode is off".to_owned();
    }
    let until = m["until"].as_str().unwrap_or("an operator ends it");
    format!(
        "maintenance mode is on since {}, until {until}, begun at {}: {}",
        text(&m["since"]),
        text(&m["by"]),
        m["reason"].as_str().unwrap_or_default()
    )
}
