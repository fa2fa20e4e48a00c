//! The mail a user gets: a notice, or the message itself as an Internet Voice Messaging mail
//! (RFC 4239), which any mail program plays.
//!
//! The same message gives the same mail every time, with the same Message-ID: a crash between the
//! server's 250 and the mark sends it once more, and whoever looks at Message-IDs drops the second.

use std::fmt::Write as _;

use bytes::Bytes;
use jiff::{Timestamp, tz::TimeZone};
use uuid::Uuid;
use vmsync_config::words::{EmailMode, UnixMillis};

use crate::wire::{
    Voice, WireError,
    encode::{address, date},
    part::{file_name, media_type, voice_stem},
    prose::{caller, duration_seconds},
    write::{body, encoded_words, header, one_line, text_body, text_header},
};

/// Header of every mail written here. A mail that bears it and comes back to a mailbox (by a rule of
/// the user's mail program, say) is refused, or it would go round for ever.
pub const DELIVERED: &str = "Vmsync-Delivery";
/// Longest name of a person in a header, characters.
const NAME: usize = 60;

/// All there is to say.
#[derive(Debug, Clone)]
pub struct Letter<'a> {
    /// The message's id.
    pub message: Uuid,
    /// How it is mailed; [`EmailMode::Off`] as a notice.
    pub mode: EmailMode,
    /// From whom (R-SY-3).
    pub from: &'a str,
    /// The user's address.
    pub to: &'a str,
    /// Name of the mailbox.
    pub name: &'a str,
    /// What was called, where known.
    pub called_number: Option<&'a str>,
    /// Mailbox, caller, length, priority.
    pub voice: &'a Voice,
    /// When the caller spoke.
    pub received_at: UnixMillis,
    /// The zone times are told in.
    pub zone: &'a TimeZone,
    /// Right-hand side of the Message-ID, the same on both nodes.
    pub id_domain: &'a str,
    /// The recording; left out of a notice.
    pub attachment: Option<Attachment>,
}

/// The recording as it was received.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// Its media type.
    pub content_type: String,
    /// Byte for byte.
    pub audio: Bytes,
}

/// Writes the mail: CRLF lines of 7 bits.
///
/// # Errors
/// One of the addresses is none.
pub fn write(letter: &Letter<'_>) -> Result<Vec<u8>, WireError> {
    let attachment = letter
        .attachment
        .as_ref()
        .filter(|_| matches!(letter.mode, EmailMode::Copy | EmailMode::Forward));
    let mut out = Vec::with_capacity(4096 + attachment.map_or(0, |a| a.audio.len() / 2 * 3));
    letter.envelope(&mut out, attachment.is_some())?;
    let Some(attachment) = attachment else {
        header(&mut out, "Content-Type", "text/plain; charset=utf-8");
        text_body(&mut out, &letter.text(None));
        return Ok(out);
    };
    let content_type = media_type(&attachment.content_type);
    let file = file_name(&voice_stem(letter.voice), content_type);
    // No line of base64 begins so, and a text with such a line is base64.
    let boundary = format!("=_voice_{}", letter.message.simple());
    let delimiter = |out: &mut Vec<u8>, end| {
        out.extend_from_slice(format!("--{boundary}{end}\r\n").as_bytes());
    };
    let mixed = format!("multipart/mixed; boundary=\"{boundary}\"");
    header(&mut out, "Content-Type", &mixed);
    out.extend_from_slice(b"\r\n");
    delimiter(&mut out, "");
    header(&mut out, "Content-Type", "text/plain; charset=utf-8");
    text_body(&mut out, &letter.text(Some(&file)));
    delimiter(&mut out, "");
    header(
        &mut out,
        "Content-Type",
        &format!("{content_type}; name=\"{file}\""),
    );
    let size = attachment.audio.len();
    header(
        &mut out,
        "Content-Disposition",
        &format!("attachment; filename=\"{file}\"; size={size}"),
    );
    let seconds = duration_seconds(letter.voice.duration_ms).min(9_999_999_999);
    header(&mut out, "Content-Duration", &seconds.to_string());
    body(&mut out, &attachment.audio, crate::wire::Transfer::Base64);
    delimiter(&mut out, "--");
    Ok(out)
}

impl Letter<'_> {
    fn envelope(&self, out: &mut Vec<u8>, with_audio: bool) -> Result<(), WireError> {
        let (from, to) = (address(self.from)?, address(self.to)?);
        let voice = self.voice;
        let sent =
            date(self.received_at).unwrap_or_else(|| "Thu, 1 Jan 1970 00:00:00 +0000".into());
        header(out, "Date", &sent);
        person(out, "From", &caller(voice), from);
        person(out, "To", self.name, to);
        let id = self.message;
        header(
            out,
            "Message-ID",
            &format!("<{id}.voicemail@{}>", self.id_domain),
        );
        text_header(out, "Subject", &self.subject());
        // No out-of-office answers to a machine (RFC 3834 section 5).
        header(out, "Auto-Submitted", "auto-generated");
        header(out, DELIVERED, &id.to_string());
        header(out, "MIME-Version", "1.0");
        if with_audio {
            // RFC 3458; a notice is an ordinary mail.
            header(out, "Message-Context", "voice-message");
        }
        if voice.urgent {
            header(out, "Importance", "high");
        }
        if voice.private {
            header(out, "Sensitivity", "private");
        }
        Ok(())
    }

    /// `Voice message from 5551234 (0:34) for 2001 Anna Berg`.
    fn subject(&self) -> String {
        let clean = |t: &Option<String>| t.as_deref().map(|t| one_line(t, NAME));
        let caller = [
            clean(&self.voice.caller_name),
            clean(&self.voice.caller_number),
        ];
        let mut caller: Vec<_> = caller
            .into_iter()
            .flatten()
            .filter(|t| !t.is_empty())
            .collect();
        caller.dedup();
        let caller = if caller.is_empty() {
            "an unknown caller".to_owned()
        } else {
            caller.join(" ")
        };
        let length = length(self.voice.duration_ms);
        format!(
            "Voice message from {caller} ({length}) for {}",
            self.called()
        )
        .trim_end()
        .to_owned()
    }

    /// `2001 Anna Berg`.
    fn called(&self) -> String {
        let name = one_line(self.name, NAME);
        format!("{} {name}", self.voice.mailbox)
            .trim_end()
            .to_owned()
    }

    fn text(&self, file: Option<&str>) -> String {
        let voice = self.voice;
        let mut text = String::from("You have a new voice message.\n\n");
        let mut field = |name: &str, value: &str| {
            let _ = writeln!(text, "{:<10}{value}", format!("{name}:"));
        };
        field("From", &caller(voice));
        field("For", &self.called());
        let called = self.called_number.map(|n| one_line(n, NAME));
        if let Some(called) = called.filter(|n| !n.is_empty() && *n != voice.mailbox) {
            field("Called", &called);
        }
        field("Received", &spoken(self.received_at, self.zone));
        field("Length", &length(voice.duration_ms));
        if voice.urgent {
            field("Priority", "urgent");
        }
        if voice.private {
            field("Privacy", "private; please do not pass it on");
        }
        text.push('\n');
        let _ = match (file, self.mode) {
            (None, _) => writeln!(text, "It is in your mailbox: call it to listen."),
            (Some(file), EmailMode::Forward) => writeln!(
                text,
                "The recording is attached: {file}\nIt is deleted from your mailbox."
            ),
            (Some(file), _) => writeln!(
                text,
                "The recording is attached: {file}\nIt is in your mailbox as well."
            ),
        };
        text
    }
}

/// Writes an address field with a display name. A name of other than plain letters is quoted or
/// encoded, so that nothing in it is read as structure (RFC 5322 section 3.2.4, RFC 2047 section 5).
fn person(out: &mut Vec<u8>, field: &str, name: &str, address: &str) {
    let name = one_line(name, NAME);
    let phrase = if name.is_empty() {
        header(out, field, &format!("<{address}>"));
        return;
    } else if name.is_ascii() && !name.contains("=?") {
        format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        encoded_words(&name).join("\r\n ")
    };
    out.extend_from_slice(format!("{field}: {phrase}\r\n <{address}>\r\n").as_bytes());
}

/// `1:02:03` or `0:34`; begun seconds count.
fn length(ms: u64) -> String {
    let seconds = duration_seconds(ms);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

/// `Sunday, 22 November 2026, 09:00:05 +0100 (Europe/Berlin)`.
fn spoken(at: UnixMillis, zone: &TimeZone) -> String {
    let Some(time) = i64::try_from(at.0)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
    else {
        return "at an unknown time".into();
    };
    let time = time.to_zoned(zone.clone());
    let mut text = time.strftime("%A, %-d %B %Y, %H:%M:%S %z").to_string();
    if let Some(name) = zone.iana_name() {
        let _ = write!(text, " ({name})");
    }
    text
}

#[cfg(test)]
mod tests;
