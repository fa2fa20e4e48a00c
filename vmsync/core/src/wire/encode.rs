//! Writes a mail between the nodes: an ordinary mail with words, audio and the signed machine part.
//!
//! A voice message is an Internet Voice Messaging mail: `multipart/mixed` (RFC 4239 takes
//! `multipart/voice-message` only between VPIM systems), `Message-Context: voice-message`
//! (RFC 3458), `Content-Duration` on the audio (RFC 3803), `Importance` and `Sensitivity`
//! (RFC 3801 section 4.2). The machine part is marked `handling=optional` (RFC 3204, RFC 3459):
//! a mail program that does not know it may leave it out.

use vmsync_config::words::UnixMillis;

use super::{
    Addresses, CarriedAudio, Keys, Mail, Voice, WireError,
    manifest::{self, CONTENT_TYPE, Essentials},
    prose,
    write::{base64_body, header, one_line, text_body, text_header},
};

/// How the bytes of a mail are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transfer {
    /// Base64, in 7-bit lines: passes every mail server.
    #[default]
    Base64,
    /// As they are (`Content-Transfer-Encoding: binary`), for a receiver that offers BINARYMIME (RFC 3030).
    Binary,
}

/// What the addressee understands. The default is what every node takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Form {
    /// How bytes are written.
    pub transfer: Transfer,
    /// The minor version the addressee speaks, [`Head::minor`](super::Head::minor) of its last
    /// mail; 0 while it is unknown. For 0 the mail is written as version 1.0 did (no digest form,
    /// base64), and what 1.0 does not know is refused.
    pub peer_minor: u32,
}

/// Writes `mail`. `voices` tells, for each of its audio in order, what a person reads of the voice
/// message it is; `None` (or a list too short) where it is none.
///
/// Fails on what the peer would refuse or leave out: audio that doesn't match its SHA-256, too many
/// operations, an address that is none, records for a peer that speaks 1.0.
pub fn encode(
    mail: &Mail,
    voices: &[Option<Voice>],
    addresses: &Addresses,
    keys: &Keys,
    form: Form,
) -> Result<Vec<u8>, WireError> {
    if let (0, Some(what)) = (form.peer_minor, mail.since_1_1()) {
        return Err(WireError::PeerTooOld {
            what,
            since: "1.1",
            peer: form.peer_minor,
        });
    }
    let voice = match voices {
        [voice] => voice.as_ref(),
        _ => None,
    };
    let attachments = manifest::name(mail);
    let json = manifest::write(mail, &attachments)?;
    let parts: Vec<_> = attachments
        .iter()
        .zip(&mail.audio)
        .map(|(named, audio)| {
            let essentials = named.essentials()?;
            audio.check(&essentials)?;
            Ok((&named.content_id, essentials, audio))
        })
        .collect::<Result<_, WireError>>()?;

    let audio: usize = mail.audio.iter().map(|a| a.bytes().len()).sum();
    let mut out = Vec::with_capacity((audio + json.len()) / 3 * 4 + audio / 50 + 8192);
    let boundary = format!("=_vmsync-{}", mail.head.id.simple());
    mail_header(&mut out, mail, voice, addresses)?;
    header(&mut out, "Vmsync-Signature", &keys.sign("mail", &json));
    header(
        &mut out,
        "Content-Type",
        &format!("multipart/mixed; boundary=\"{boundary}\""),
    );
    out.extend_from_slice(b"\r\n");

    delimiter(&mut out, &boundary);
    header(&mut out, "Content-Type", "text/plain; charset=utf-8");
    text_body(&mut out, &prose::text(mail, voice));
    for (n, (content_id, essentials, audio)) in (1..).zip(parts) {
        delimiter(&mut out, &boundary);
        audio_part(&mut out, n, content_id, &essentials, audio, voice);
    }
    delimiter(&mut out, &boundary);
    header(
        &mut out,
        "Content-Type",
        &format!("{CONTENT_TYPE}; version=\"{}\"", mail.head.version),
    );
    header(
        &mut out,
        "Content-Disposition",
        "attachment; filename=\"vmsync.json\"; handling=optional",
    );
    base64_body(&mut out, &json);
    out.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    Ok(out)
}

fn delimiter(out: &mut Vec<u8>, boundary: &str) {
    out.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
}

fn mail_header(
    out: &mut Vec<u8>,
    mail: &Mail,
    voice: Option<&Voice>,
    addresses: &Addresses,
) -> Result<(), WireError> {
    let from = address(&addresses.from)?;
    let domain = from.rsplit('@').next().unwrap_or_default();
    header(out, "Date", &date(mail.head.sent_at)?);
    header(out, "From", &format!("<{from}>"));
    header(out, "To", &format!("<{}>", address(&addresses.to)?));
    header(out, "Message-ID", &format!("<{}@{domain}>", mail.head.id));
    text_header(out, "Subject", &prose::subject(mail, voice));
    // No out-of-office answers to a machine (RFC 3834 section 5).
    header(out, "Auto-Submitted", "auto-generated");
    header(out, "MIME-Version", "1.0");
    if let Some(voice) = voice {
        header(out, "Message-Context", "voice-message");
        if voice.urgent {
            header(out, "Importance", "high");
        }
        if voice.private {
            header(out, "Sensitivity", "private");
        }
    }
    Ok(())
}

fn audio_part(
    out: &mut Vec<u8>,
    n: usize,
    content_id: &str,
    essentials: &Essentials,
    audio: &CarriedAudio,
    voice: Option<&Voice>,
) {
    let voice = voice.filter(|_| n == 1);
    let content_type = media_type(&essentials.content_type);
    let name = file_name(n, content_type, audio, voice);
    header(
        out,
        "Content-Type",
        &format!("{content_type}; name=\"{name}\""),
    );
    header(out, "Content-ID", &format!("<{content_id}>"));
    header(
        out,
        "Content-Disposition",
        &format!("attachment; filename=\"{name}\"; size={}", essentials.bytes),
    );
    let duration = voice
        .map(|v| v.duration_ms)
        .or_else(|| audio.about().get("duration_ms")?.as_u64());
    if let Some(ms) = duration {
        // At most ten digits (RFC 3803 section 3).
        let seconds = prose::duration_seconds(ms).min(9_999_999_999);
        header(out, "Content-Duration", &seconds.to_string());
    }
    base64_body(out, audio.bytes());
}

/// A name that says whose and when: `voice-2001-5551234-20261122T080000Z.wav`.
fn file_name(n: usize, content_type: &str, audio: &CarriedAudio, voice: Option<&Voice>) -> String {
    let entity = audio
        .about()
        .get("entity")
        .and_then(serde_json::Value::as_str);
    let stem = match (voice, entity) {
        (Some(v), _) => {
            let number = v.caller_number.as_deref().unwrap_or("unknown");
            let time = v.received_at.map(prose::compact_time).unwrap_or_default();
            format!("voice-{}-{number}-{time}", v.mailbox)
        }
        (None, Some(entity)) => entity.to_owned(),
        (None, None) => format!("audio-{n}"),
    };
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

/// The type of the part; the manifest keeps the type as it was received.
fn media_type(given: &str) -> &str {
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

/// RFC 5322 section 3.3, always in UTC.
fn date(at: UnixMillis) -> Result<String, WireError> {
    i64::try_from(at.0)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map(|t| t.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string())
        .ok_or_else(|| WireError::Malformed(format!("sent_at {at} is no date of this calendar")))
}

fn address(text: &str) -> Result<&str, WireError> {
    let valid = text.len() <= 320
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"<>()\",;:\\".contains(&b))
        && text
            .split_once('@')
            .is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
    if valid {
        Ok(text)
    } else {
        Err(WireError::Malformed(format!(
            "{:?} is not a mail address",
            one_line(text, 80)
        )))
    }
}
