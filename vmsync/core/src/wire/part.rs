//! The audio of a mail, as the parts that carry it.

use super::{
    CarriedAudio, Mail, Transfer, Voice, WireError,
    manifest::{Attachment, Essentials},
    prose,
    write::{body, header},
};

/// One audio file and all that its part says.
pub(super) struct Part<'a> {
    /// Its number in the mail, from 1.
    pub(super) n: usize,
    content_id: &'a str,
    essentials: Essentials,
    audio: &'a CarriedAudio,
    /// What a person reads, when it is a voice message.
    pub(super) voice: Option<&'a Voice>,
}

/// The parts of `mail`, each proved to be what its description says.
pub(super) fn parts<'a>(
    mail: &'a Mail,
    attachments: &'a [Attachment],
    voices: &'a [Option<Voice>],
) -> Result<Vec<Part<'a>>, WireError> {
    let voices = voices.iter().map(Option::as_ref);
    let voices = voices.chain(std::iter::repeat(None));
    (1..)
        .zip(&mail.audio)
        .zip(attachments)
        .zip(voices)
        .map(|(((n, audio), named), voice)| {
            let essentials = named.essentials()?;
            audio.check(&essentials)?;
            Ok(Part {
                n,
                content_id: &named.content_id,
                essentials,
                audio,
                voice,
            })
        })
        .collect()
}

impl Part<'_> {
    /// Writes header and body.
    pub(super) fn write(&self, out: &mut Vec<u8>, transfer: Transfer) {
        let content_type = media_type(&self.essentials.content_type);
        let name = self.file_name(content_type);
        header(
            out,
            "Content-Type",
            &format!("{content_type}; name=\"{name}\""),
        );
        header(out, "Content-ID", &format!("<{}>", self.content_id));
        let size = self.essentials.bytes;
        header(
            out,
            "Content-Disposition",
            &format!("attachment; filename=\"{name}\"; size={size}"),
        );
        let duration = self
            .voice
            .map(|v| v.duration_ms)
            .or_else(|| self.audio.about().get("duration_ms")?.as_u64());
        if let Some(ms) = duration {
            // At most ten digits (RFC 3803 section 3).
            let seconds = prose::duration_seconds(ms).min(9_999_999_999);
            header(out, "Content-Duration", &seconds.to_string());
        }
        body(out, self.audio.bytes(), transfer);
    }

    /// A name that says whose and when: `voice-2001-5551234-20261122T080000Z.wav`.
    fn file_name(&self, content_type: &str) -> String {
        let about = self.audio.about();
        let entity = about.get("entity").and_then(serde_json::Value::as_str);
        let stem = match (self.voice, entity) {
            (Some(v), _) => voice_stem(v),
            (None, Some(entity)) => entity.to_owned(),
            (None, None) => format!("audio-{}", self.n),
        };
        file_name(&stem, content_type)
    }
}

/// `stem` with the ending of its type, in letters, digits and hyphens.
pub(crate) fn file_name(stem: &str, content_type: &str) -> String {
    let stem: String = stem
        .chars()
        .take(80)
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let ending = match content_type {
        "audio/wav" | "audio/x-wav" | "audio/wave" | "audio/vnd.wave" => "wav",
        "audio/ogg" | "application/ogg" | "audio/opus" => "ogg",
        _ => "bin",
    };
    format!("{}.{ending}", stem.trim_matches('-'))
}

/// Whose and when: `voice-2001-5551234-20261122T080000Z`.
pub(crate) fn voice_stem(v: &Voice) -> String {
    let number = v.caller_number.as_deref().unwrap_or("unknown");
    let time = v.received_at.map(prose::compact_time).unwrap_or_default();
    format!("voice-{}-{number}-{time}", v.mailbox)
}

/// The type of the part; the manifest keeps the type as it was received.
pub(crate) fn media_type(given: &str) -> &str {
    let token = |t: &str| {
        (1..=60).contains(&t.len())
            && t.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-+.".contains(&b))
    };
    match given.split_once('/') {
        Some(("audio" | "application", sub)) if token(sub) => given,
        _ => "application/octet-stream",
    }
}
