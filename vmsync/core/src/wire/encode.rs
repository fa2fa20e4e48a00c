//! Writes a mail between the nodes: an ordinary mail with words, audio and the signed machine part.
//!
//! A voice message is an Internet Voice Messaging mail: `multipart/mixed` (RFC 4239 takes
//! `multipart/voice-message` only between VPIM systems), `Message-Context: voice-message`
//! (RFC 3458), `Content-Duration` on the audio (RFC 3803), `Importance` and `Sensitivity`
//! (RFC 3801 section 4.2). Several voice messages are a `multipart/digest` of such mails
//! (RFC 2046 section 5.1.5). The machine part is marked `handling=optional` (RFC 3204, RFC 3459):
//! a mail program that does not know it may leave it out.

use vmsync_config::words::UnixMillis;

use super::{
    Addresses, Keys, Mail, Voice, WireError, base64,
    boundary::Boundaries,
    manifest::{self, CONTENT_TYPE},
    part::{Part, parts},
    prose,
    write::{body, header, one_line, text_body, text_header},
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
    let old = form.peer_minor == 0;
    if let (true, Some(what)) = (old, mail.since_1_1()) {
        return Err(WireError::PeerTooOld {
            what,
            since: "1.1",
            peer: form.peer_minor,
        });
    }
    let transfer = if old { Transfer::Base64 } else { form.transfer };
    let attachments = manifest::name(mail);
    let json = manifest::write(mail, &attachments)?;
    let parts = parts(mail, &attachments, voices)?;
    let raw = mail.audio.iter().map(|audio| &audio.bytes()[..]);
    let raw: Vec<_> = raw.chain([json.as_slice()]).collect();
    let boundaries = match transfer {
        Transfer::Base64 => Boundaries::of(mail.head.id, &[]),
        Transfer::Binary => Boundaries::of(mail.head.id, &raw),
    };
    let from = address(&addresses.from)?;
    let mut writer = Writer {
        out: Vec::with_capacity(room(&raw, parts.len(), transfer)),
        transfer,
        boundaries,
        mail,
        from,
        domain: from.rsplit('@').next().unwrap_or_default(),
        to: address(&addresses.to)?,
        sent_at: date(mail.head.sent_at).ok_or_else(|| {
            let at = mail.head.sent_at;
            WireError::Malformed(format!("sent_at {at} is no date of this calendar"))
        })?,
    };
    writer.mail(&parts, &json, &keys.sign("mail", &json), old);
    Ok(writer.out)
}

/// Enough for the whole mail, so that nothing is moved while it is written.
fn room(raw: &[&[u8]], parts: usize, transfer: Transfer) -> usize {
    let bodies: usize = raw
        .iter()
        .map(|bytes| match transfer {
            Transfer::Base64 => base64::written_len(bytes.len()),
            Transfer::Binary => bytes.len(),
        })
        .sum();
    bodies + parts * 2048 + 8192
}

struct Writer<'a> {
    out: Vec<u8>,
    transfer: Transfer,
    boundaries: Boundaries,
    mail: &'a Mail,
    from: &'a str,
    domain: &'a str,
    to: &'a str,
    /// As the `Date` field has it.
    sent_at: String,
}

impl Writer<'_> {
    fn mail(&mut self, parts: &[Part<'_>], json: &[u8], signature: &str, old: bool) {
        let voices: Vec<&Voice> = parts.iter().filter_map(|part| part.voice).collect();
        let only_news = self.mail.operations.len() <= 1 && self.mail.since_1_1().is_none();
        let voice = match voices.as_slice() {
            [voice] if old || (only_news && parts.len() == 1) => Some(*voice),
            _ => None,
        };
        // Version 1.0 does not look for attachments inside messages.
        let digest = voice.is_none() && !voices.is_empty() && !old;
        let listed = if digest { voices.as_slice() } else { &[] };
        let boundary = self.boundaries.mail();
        let id = self.mail.head.id.to_string();
        let subject = prose::subject(self.mail, voice, listed);
        self.field("Date", &self.sent_at.clone());
        self.envelope(&id, &subject, voice);
        self.field("Vmsync-Signature", signature);
        self.multipart("mixed", &boundary);

        self.text(&boundary, &prose::text(self.mail, voice, listed));
        if digest {
            self.digest(&boundary, parts);
        }
        for part in parts {
            if !(digest && part.voice.is_some()) {
                self.delimiter(&boundary);
                part.write(&mut self.out, self.transfer);
            }
        }
        self.manifest(&boundary, json);
        self.close(&boundary);
    }

    /// The fields of a mail that follow its date.
    fn envelope(&mut self, id: &str, subject: &str, voice: Option<&Voice>) {
        self.field("From", &format!("<{}>", self.from));
        self.field("To", &format!("<{}>", self.to));
        self.field("Message-ID", &format!("<{id}@{}>", self.domain));
        text_header(&mut self.out, "Subject", subject);
        // No out-of-office answers to a machine (RFC 3834 section 5).
        self.field("Auto-Submitted", "auto-generated");
        self.field("MIME-Version", "1.0");
        if let Some(voice) = voice {
            self.field("Message-Context", "voice-message");
            if voice.urgent {
                self.field("Importance", "high");
            }
            if voice.private {
                self.field("Sensitivity", "private");
            }
        }
    }

    /// The voice messages, each a mail of its own.
    fn digest(&mut self, outer: &str, parts: &[Part<'_>]) {
        let boundary = self.boundaries.digest();
        self.delimiter(outer);
        self.multipart("digest", &boundary);
        for part in parts {
            if let Some(voice) = part.voice {
                self.message(&boundary, part, voice);
            }
        }
        self.close(&boundary);
    }

    fn message(&mut self, outer: &str, part: &Part<'_>, voice: &Voice) {
        let boundary = self.boundaries.message(part.n);
        self.delimiter(outer);
        self.field("Content-Type", "message/rfc822");
        self.transfer();
        self.out.extend_from_slice(b"\r\n");
        let received = voice.received_at.and_then(date);
        self.field("Date", received.as_ref().unwrap_or(&self.sent_at.clone()));
        let id = format!("message-{}.{}", part.n, self.mail.head.id);
        self.envelope(&id, &prose::voice_subject(voice), Some(voice));
        self.multipart("mixed", &boundary);
        self.text(&boundary, &prose::voice_text(voice));
        self.delimiter(&boundary);
        part.write(&mut self.out, self.transfer);
        self.close(&boundary);
    }

    fn manifest(&mut self, outer: &str, json: &[u8]) {
        self.delimiter(outer);
        let version = &self.mail.head.version;
        self.field(
            "Content-Type",
            &format!("{CONTENT_TYPE}; version=\"{version}\""),
        );
        self.field(
            "Content-Disposition",
            "attachment; filename=\"vmsync.json\"; handling=optional",
        );
        body(&mut self.out, json, self.transfer);
    }

    fn text(&mut self, outer: &str, text: &str) {
        self.delimiter(outer);
        self.field("Content-Type", "text/plain; charset=utf-8");
        text_body(&mut self.out, text);
    }

    /// Ends a header block with the type of a multipart.
    fn multipart(&mut self, kind: &str, boundary: &str) {
        self.field(
            "Content-Type",
            &format!("multipart/{kind}; boundary=\"{boundary}\""),
        );
        self.transfer();
        self.out.extend_from_slice(b"\r\n");
    }

    /// What holds binary parts is binary itself (RFC 2045 section 6.4).
    fn transfer(&mut self) {
        if self.transfer == Transfer::Binary {
            self.field("Content-Transfer-Encoding", "binary");
        }
    }

    fn field(&mut self, name: &str, value: &str) {
        header(&mut self.out, name, value);
    }

    fn delimiter(&mut self, boundary: &str) {
        self.out
            .extend_from_slice(format!("--{boundary}\r\n").as_bytes());
    }

    fn close(&mut self, boundary: &str) {
        self.out
            .extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    }
}

/// RFC 5322 section 3.3, always in UTC; `None` for what is no date of this calendar.
pub(crate) fn date(at: UnixMillis) -> Option<String> {
    let ms = i64::try_from(at.0).ok()?;
    let time = jiff::Timestamp::from_millisecond(ms).ok()?;
    Some(time.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string())
}

pub(crate) fn address(text: &str) -> Result<&str, WireError> {
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
