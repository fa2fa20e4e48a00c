//! The words of a mail: what a person reads who opens one.

use std::fmt::Write as _;

use serde::Deserialize;
use vmsync_config::words::UnixMillis;

use super::{Json, Mail, Voice, write::one_line};

/// Most changes listed by name; the rest is counted.
const LISTED: usize = 20;

/// The subject line of `mail`, which is the voice message `voice` or brings `voices`.
pub(super) fn subject(mail: &Mail, voice: Option<&Voice>, voices: &[&Voice]) -> String {
    if let Some(voice) = voice {
        return voice_subject(voice);
    }
    let buckets = count(mail.items.len(), "bucket");
    let news = [
        (voices.len(), count(voices.len(), "voice message")),
        (
            mail.operations.len(),
            count(mail.operations.len(), "change"),
        ),
        (mail.records.len(), count(mail.records.len(), "record")),
        (mail.audio.len(), count(mail.audio.len(), "audio file")),
        (mail.items.len(), format!("items of {buckets}")),
        (mail.skips.len(), count(mail.skips.len(), "skipped change")),
        (usize::from(!mail.is_bare()), "state".to_owned()),
    ];
    let from = &mail.head.from.node;
    match news.into_iter().find(|(n, _)| *n > 0) {
        Some((_, what)) => format!("vmsync: {what} from {from}"),
        None if mail.head.answers.is_none() => format!("vmsync: hello from {from}"),
        None => format!("vmsync: status of {from}"),
    }
}

/// The subject line of a voice message.
pub(super) fn voice_subject(v: &Voice) -> String {
    format!(
        "Voice message from {} for {}",
        caller(v),
        one_line(&v.mailbox, 40)
    )
}

/// The text part of `mail`, which is the voice message `voice` or brings `voices`.
pub(super) fn text(mail: &Mail, voice: Option<&Voice>, voices: &[&Voice]) -> String {
    let mut text = voice.map(voice_text).unwrap_or_default();
    let (from, to) = (&mail.head.from.node, &mail.head.to);
    if mail.is_bare() {
        let what = if mail.head.answers.is_none() {
            "asks what the other node holds"
        } else {
            "reports what it holds"
        };
        line(&mut text, &format!("Voicemail node {from} {what}."));
    } else if voice.is_none() {
        let (passes, list) = (passes(mail, voices), list(mail, voices));
        let end = if list.is_empty() { "." } else { ":\n" };
        line(
            &mut text,
            &format!("Voicemail node {from} passes {passes} to {to}{end}"),
        );
        text.push_str(&list);
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

/// What a mail brings, counted: `3 changes, 1 record and 1 audio file`.
fn passes(mail: &Mail, voices: &[&Voice]) -> String {
    // Each voice message is a change or record and an audio file itself.
    let changes = mail.operations.len();
    let others = if changes > voices.len() { changes } else { 0 };
    let files = mail.audio.len().saturating_sub(voices.len());
    let always = voices.is_empty() && mail.since_1_1().is_none();
    let items = mail.items.iter().map(|b| b.items.len()).sum();
    let counts = [
        (voices.len(), "voice message", false),
        (others, "change", always),
        (mail.records.len(), "record", false),
        (files, "audio file", always),
        (items, "item", !mail.items.is_empty()),
        (mail.skips.len(), "skipped change", false),
        (mail.release.len(), "release", false),
    ];
    let counted: Vec<_> = counts
        .into_iter()
        .filter(|(n, _, always)| *n > 0 || *always)
        .map(|(n, what, _)| count(n, what))
        .collect();
    match counted.as_slice() {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        [one] => one.clone(),
        _ => "a step of its state".to_owned(),
    }
}

/// The text of the voice message `v`.
pub(super) fn voice_text(v: &Voice) -> String {
    let mut text = String::new();
    write_voice(&mut text, v);
    text
}

fn write_voice(text: &mut String, v: &Voice) {
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

/// What is read of an operation to tell what it is about.
#[derive(Default, Deserialize)]
struct About {
    entity: Option<String>,
    effect: Option<Json>,
}

/// What it is about, without the values: those may be secret.
fn list(mail: &Mail, voices: &[&Voice]) -> String {
    let mut text = String::new();
    let voices = voices
        .iter()
        .map(|v| format!("{} for {}", caller(v), one_line(&v.mailbox, 40)));
    // A voice message's own change is told by its line.
    let operations: &[Json] = if mail.operations.len() > voices.len() {
        &mail.operations
    } else {
        &[]
    };
    let all = voices.len()
        + operations.len()
        + mail.records.len()
        + mail.skips.len()
        + mail.release.len();
    let operations = operations.iter().map(|operation| {
        let About { entity, effect } = operation.read().unwrap_or_default();
        let deleted = effect.and_then(|e| e.read::<String>().ok());
        let deleted = if deleted.as_deref() == Some("delete") {
            " deleted"
        } else {
            ""
        };
        one_line(entity.as_deref().unwrap_or("(unnamed)"), 60) + deleted
    });
    let records = mail.records.iter().map(|r| one_line(&r.entity, 60));
    let skips = mail.skips.iter().map(|s| {
        let (entity, why) = (one_line(&s.entity, 60), one_line(&s.why, 70));
        format!("{entity} left out:\n  {why}")
    });
    let release = mail
        .release
        .iter()
        .map(|entity| format!("{} is whole again", one_line(entity, 60)));
    let lines = voices
        .chain(operations)
        .chain(records)
        .chain(skips)
        .chain(release);
    for one in lines.take(LISTED) {
        line(&mut text, &format!("- {one}"));
    }
    let more = all.saturating_sub(LISTED);
    if more > 0 {
        line(&mut text, &format!("- and {more} more"));
    }
    text
}

/// Who called, in words.
pub(crate) fn caller(v: &Voice) -> String {
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
pub(crate) fn duration_seconds(ms: u64) -> u64 {
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
