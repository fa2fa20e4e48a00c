//! The machine prints itself (`vmsync explain fsm`).

use std::fmt::Write as _;

use vmsync_config::{FailbackPolicy, Trigger};

use super::{
    Phase, Request,
    conditions::Condition,
    rows::{Cause, GLANCES, ROWS, Row, Target, UNATTENDED_GATE},
};

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For a terminal.
    Text,
    /// A `stateDiagram-v2` for Markdown.
    Mermaid,
}

/// The whole machine, from the very rows it runs on.
pub fn explain(format: Format) -> String {
    match format {
        Format::Text => text(),
        Format::Mermaid => mermaid(),
    }
}

fn text() -> String {
    let mut out = String::from("Phases\n");
    for (phase, meaning) in PHASES {
        let _ = writeln!(out, "  {:<10} {meaning}", phase.as_str());
    }
    out.push_str("\nBy sight alone (the owner stays)\n");
    for g in &GLANCES {
        let _ = writeln!(
            out,
            "  {} -> {}: {}",
            g.from.as_str(),
            g.to.as_str(),
            g.because
        );
    }
    let _ = writeln!(
        out,
        "\nWithout an operator, in either direction\n  never unless {}",
        asked(&UNATTENDED_GATE)
    );
    for (title, target) in [
        ("\nFailover, decided by the backup", Target::Backup),
        ("\nFailback, decided by the backup", Target::Home),
    ] {
        let _ = writeln!(out, "{title}\n  never unless {}", asked(target.gate()));
        for row in ROWS.iter().filter(|r| r.target == target) {
            let from: Vec<&str> = row.from.iter().map(|p| p.as_str()).collect();
            let _ = writeln!(out, "\n  {} ({})", row.id, row.rule);
            let _ = writeln!(out, "    in       {}", from.join(", "));
            let _ = writeln!(out, "    by       {}", cause(row.cause));
            let _ = writeln!(out, "    when     {}", asked(row.conditions));
            let _ = writeln!(out, "    because  {}", sentence(row));
        }
    }
    out
}

fn mermaid() -> String {
    let mut out = String::from("stateDiagram-v2\n    [*] --> normal\n");
    for (phase, meaning) in PHASES {
        let _ = writeln!(out, "    {0}: {0}<br/>{meaning}", phase.as_str());
    }
    for g in &GLANCES {
        let _ = writeln!(
            out,
            "    {} --> {}: {}",
            g.from.as_str(),
            g.to.as_str(),
            g.because
        );
    }
    for row in &ROWS {
        for from in row.from {
            let to = row.to(*from).as_str();
            let _ = writeln!(
                out,
                "    {} --> {to}: {} ({})",
                from.as_str(),
                row.id,
                row.rule
            );
        }
    }
    out
}

const PHASES: [(Phase, &str); 4] = [
    (Phase::Normal, "the home serves and is visible"),
    (Phase::Pending, "the home owns but is invisible"),
    (
        Phase::Resilience,
        "the backup serves, the home is invisible",
    ),
    (Phase::Returning, "the backup serves, the home is visible"),
];

fn asked(conditions: &[&Condition]) -> String {
    if conditions.is_empty() {
        return "at once".to_owned();
    }
    let asks: Vec<&str> = conditions.iter().map(|c| c.asks).collect();
    asks.join(", and ")
}

fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Trigger(Trigger::Phones) => "trigger phones",
        Cause::Trigger(Trigger::Visibility) => "trigger visibility",
        Cause::Trigger(Trigger::Manual) => "trigger manual",
        Cause::Policy(FailbackPolicy::Manual) => "policy manual",
        Cause::Policy(FailbackPolicy::Graceful) => "policy graceful",
        Cause::Policy(FailbackPolicy::Automatic) => "policy automatic",
        Cause::Operator(Request::ActivateBackup) => "operator activates the backup",
        Cause::Operator(Request::Failback { force: false }) => "operator starts failback",
        Cause::Operator(Request::Failback { force: true }) => "operator forces failback",
    }
}

fn sentence(row: &Row) -> String {
    row.because
        .replace("{home}", "HOME")
        .replace("{backup}", "BACKUP")
        .replace("{failover_after}", "FAILOVER_AFTER")
        .replace("{timeout}", "TIMEOUT")
        .replace("{calls}", "N")
}
