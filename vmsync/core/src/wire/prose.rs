//! The words of a mail: what a person reads who opens one.

use std::fmt::Write as _;

use serde_json::Value;
use vmsync_config::words::UnixMillis;

use super::{Mail, Voice, write::one_line};

/// Most changes listed by name; the rest is counted.
const LISTED: usize = 20;

/// The subject line.
pub(super) fn subject(mail: &Mail, voice: Option<&Voice>) -> String {
    let from = &mail.head.from.node;
    match voice {
        Some(v) => format!(
            "Voice message from {} for {}",
            caller(v),
            one_line(&v.mailbox, 40)
        ),
        None if !mail.operations.is_empty() => {
            format!(
                "vmsync: {} from {from}",
                count(mail.operations.len(), "change")
            )
        }
        None if !mail.audio.is_empty() => {
            format!(
                "vmsync: {} from {from}",
                count(mail.audio.len(), "audio file")
            )
        }
        None if !mail.is_bare() => format!("vmsync: state from {from}"),
        None if mail.head.answers.is_none() => format!("vmsync: hello from {from}"),
        None => format!("vmsync: status of {from}"),
    }
}

/// The text part.
pub(super) fn text(mail: &Mail, voice: Option<&Voice>) -> String {
    let mut text = String::new();
    if let Some(v) = voice {
        voice_text(&mut text, v);
    }
    let (from, to) = (&mail.head.from.node, &mail.head.to);
    if mail.is_bare() {
        let what = if mail.head.answers.is_none() {
            "asks what the other node holds"
        } else {
            "reports what it holds"
        };
        line(&mut text, &format!("Voicemail node {from} {what}."));
    } else if voice.is_none() {
        line(
            &mut text,
            &format!(
                "Voicemail node {from} passes {} and {} to {to}:",
                count(mail.operations.len(), "change"),
                count(mail.audio.len(), "audio file"),
            ),
        );
        text.push('\n');
        list(&mut text, &mail.operations);
    }
    text.push('\n');
    line(
        &mut text,
        "This mail goes between the two nodes of a voicemail pair; nobody needs to act",
    );
    line(
        &mut text,
        "on it. The part vmsync.json is for the receiving node.",
    );
    text
}

fn voice_text(text: &mut String, v: &Voice) {
    let seconds = duration_seconds(v.duration_ms);
    line(text, &format!("Voice message from {}", caller(v)));
    text.push('\n');
    let mut field = |name: &str, value: &str| {
        line(text, &format!("{:<10}{value}", format!("{name}:")));
    };
    field("For", &one_line(&v.mailbox, 40));
    if let Some(at) = v.received_at {
        field("Received", &at.to_string());
    }
    field(
        "Length",
        &count(usize::try_from(seconds).unwrap_or(usize::MAX), "second"),
    );
    if v.urgent {
        field("Priority", "urgent");
    }
    if v.private {
        field("Privacy", "private; do not forward");
    }
    text.push('\n');
    line(text, "The recording is attached.");
}

/// Which entities change, without their values: those may be secret.
fn list(text: &mut String, operations: &[Value]) {
    for operation in operations.iter().take(LISTED) {
        let entity = operation.get("entity").and_then(Value::as_str);
        let deleted = operation.get("effect").and_then(Value::as_str) == Some("delete");
        line(
            text,
            &format!(
                "- {}{}",
                one_line(entity.unwrap_or("(unnamed)"), 60),
                if deleted { " deleted" } else { "" }
            ),
        );
    }
    if operations.len() > LISTED {
        line(text, &format!("- and {} more", operations.len() - LISTED));
    }
}

/// Who called, in words.
pub(super) fn caller(v: &Voice) -> String {
    let clean = |t: &Option<String>| {
        t.as_deref()
            .map(|t| one_line(t, 60))
            .filter(|t| !t.is_empty())
    };
    match (clean(&v.caller_name), clean(&v.caller_number)) {
        (Some(name), Some(number)) if name != number => format!("{name} ({number})"),
        (_, Some(number)) => number,
        (Some(name), None) => name,
        (None, None) => "an unknown caller".into(),
    }
}

/// Whole seconds, begun ones counted: a message is never "0 seconds" long.
pub(super) fn duration_seconds(ms: u64) -> u64 {
    ms.div_ceil(1000)
}

/// `20261122T080000Z`, for file names.
pub(super) fn compact_time(at: UnixMillis) -> String {
    at.to_string()
        .chars()
        .filter(|c| !matches!(c, '-' | ':'))
        .scan(false, |fraction, c| {
            *fraction |= c == '.';
            Some(if *fraction && c != 'Z' { '\0' } else { c })
        })
        .filter(|c| *c != '\0')
        .collect()
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn line(text: &mut String, line: &str) {
    let _ = writeln!(text, "{line}");
}
