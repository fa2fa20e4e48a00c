//! E-mail of a PBX, read into a message (R-IN-2): what Asterisk (`attach=yes`), FreePBX and
//! FreeSWITCH send as "voicemail to e-mail", and anything that looks like it.
//!
//! Only the audio decides whether a mail is taken: it is the first part that is audio by its
//! type or file name, it is measured ([`audio::measure`]), and its bytes are kept as they are.
//! All other facts are read where they are found and left out where they aren't; a wrong guess
//! would be worse than none, so dates without a time zone and stated durations are not believed.

mod caller;

use sha2::{Digest as _, Sha256};
use vmsync_config::words::UnixMillis;

use crate::{
    audio::{self, Measured, NotAudio},
    delivery::DELIVERED,
    wire::mime::{self, Head, Leaf},
};

/// How much of the text part is looked at, bytes.
const TEXT: usize = 16 * 1024;
/// How far a sender's clock may be ahead before its `Date` is not believed: 1 h in ms.
const AHEAD: u64 = 3_600_000;
/// 2000-01-01, in seconds: a PBX without a clock sends dates before it.
const OLDEST: i64 = 946_684_800;

/// A voice message that came as e-mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Caller's number: digits, `+`, `*`, `#`, or a SIP user name.
    pub caller_number: Option<String>,
    /// Caller's name.
    pub caller_name: Option<String>,
    /// The mailbox number the PBX names; the mail's recipient, not this, says whose message it is.
    pub called_number: Option<String>,
    /// From the mail's `Date`; `now` where that is missing, older than 2000 or over an hour ahead.
    pub received_at: UnixMillis,
    /// Marked urgent by any of the usual headers.
    pub urgent: bool,
    /// `Sensitivity` is set: must not be forwarded (R-MB-5).
    pub private: bool,
    /// The `Message-ID` without brackets, else `sha256:` and a digest that a second try of the same mail has too.
    pub source_id: String,
    /// The recording, byte for byte.
    pub audio: Vec<u8>,
    /// What it is and how long it plays.
    pub measured: Measured,
    /// Its MIME type as received where that was an audio type, else the canonical one.
    pub content_type: String,
    /// The attachment's file name.
    pub file_name: Option<String>,
}

/// Why a mail is no voice message. The texts are ASCII, one line, for an SMTP reply 554 5.6.0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IntakeError {
    /// No part is audio.
    #[error(
        "the mail holds no audio attachment; send the recording with it (Asterisk: attach=yes)"
    )]
    NoAudio,
    /// There is an audio part, but not of a kind that is taken, or not whole.
    #[error("{0}")]
    BadAudio(#[from] NotAudio),
    /// A voice message that was mailed to a user's address has come back (a rule of his mail program,
    /// a wrong address): each round would make a new message of it.
    #[error(
        "this is a voice message mailed by a voicemail pair; taken again it would go round for ever"
    )]
    OwnMail,
    /// The mail itself is damaged or built to harm.
    #[error("malformed mail: {0}")]
    Malformed(String),
}

/// Reads `mail`; `now` is its time of arrival.
pub fn read(mail: &[u8], now: UnixMillis) -> Result<Incoming, IntakeError> {
    let split = mime::split(mail).map_err(IntakeError::Malformed)?;
    if !split.head.raw(DELIVERED).is_empty() {
        return Err(IntakeError::OwnMail);
    }
    let (leaf, part) = split
        .leaves
        .iter()
        .map(|leaf| (leaf, leaf.head()))
        .find(|(_, part)| is_audio(part))
        .ok_or(IntakeError::NoAudio)?;
    let bytes = leaf
        .decode()
        .map_err(|why| IntakeError::Malformed(format!("the audio attachment: {why}")))?;
    let measured = audio::measure(&bytes)?;
    let found = caller::find(&split.head, &words(&split.leaves));
    let given_type = part.content_type();
    Ok(Incoming {
        caller_number: found.number,
        caller_name: found.name,
        called_number: found.called,
        received_at: received_at(&split.head, now),
        urgent: is_urgent(&split.head),
        private: is_private(&split.head),
        source_id: source_id(&split.head, &bytes),
        content_type: if given_type.starts_with("audio/") && given_type.len() <= 80 {
            given_type
        } else {
            measured.content_type.to_owned()
        },
        file_name: part.file_name().map(|name| clean(&name)),
        measured,
        audio: bytes.into_owned(),
    })
}

/// By type, or, for what a mail system calls `application/octet-stream`, by file name.
fn is_audio(part: &Head<'_>) -> bool {
    const ENDINGS: [&str; 10] = [
        "wav", "wav49", "ogg", "oga", "opus", "gsm", "mp3", "ulaw", "alaw", "au",
    ];
    let content_type = part.content_type();
    if content_type.starts_with("audio/") || content_type == "application/ogg" {
        return true;
    }
    let ending = part.file_name().and_then(|name| {
        let (_, ending) = name.rsplit_once('.')?;
        Some(ending.to_ascii_lowercase())
    });
    content_type.starts_with("application/")
        && ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

/// The text a person would read: the first plain part, else the first HTML part.
fn words(leaves: &[Leaf<'_>]) -> String {
    let of_type = |wanted: &[&str]| {
        leaves
            .iter()
            .find(|leaf| wanted.contains(&leaf.head().content_type().as_str()))
            .map(|leaf| leaf.text(TEXT))
    };
    of_type(&["text/plain", ""])
        .or_else(|| of_type(&["text/html"]))
        .unwrap_or_default()
}

fn received_at(head: &Head<'_>, now: UnixMillis) -> UnixMillis {
    let original = head
        .text("X-Asterisk-VM-Orig-time")
        .and_then(|seconds| seconds.parse::<i64>().ok());
    [original, head.date()]
        .into_iter()
        .flatten()
        .filter(|seconds| *seconds >= OLDEST)
        .filter_map(|seconds| u64::try_from(seconds).ok()?.checked_mul(1000))
        .find(|ms| *ms <= now.0.saturating_add(AHEAD))
        .map_or(now, UnixMillis)
}

/// `Importance` (RFC 2156), `Priority`, and what Asterisk, FreeSWITCH and mail programs write.
fn is_urgent(head: &Head<'_>) -> bool {
    let says = |name: &str, words: &[&str]| {
        head.text(name).is_some_and(|value| {
            let value = value.to_ascii_lowercase();
            words.iter().any(|word| value.starts_with(word))
        })
    };
    says("Importance", &["high"])
        || says("Priority", &["urgent"])
        || says("X-Priority", &["1", "2"])
        || says("X-MSMail-Priority", &["high"])
        || says("X-Asterisk-VM-Flag", &["urgent"])
}

/// Any of the values of RFC 2156 section 5.3.5; each asks not to pass the mail on.
fn is_private(head: &Head<'_>) -> bool {
    head.text("Sensitivity").is_some_and(|value| {
        ["private", "personal", "company-confidential"]
            .contains(&value.to_ascii_lowercase().as_str())
    })
}

/// What makes a mail that is tried twice one message.
fn source_id(head: &Head<'_>, audio: &[u8]) -> String {
    let given: String = head
        .raw("Message-ID")
        .first()
        .map(|raw| String::from_utf8_lossy(raw))
        .unwrap_or_default()
        .chars()
        .filter(char::is_ascii_graphic)
        .collect();
    let given = given.trim_matches(['<', '>']);
    if (3..=250).contains(&given.len()) {
        return given.to_owned();
    }
    // Not over the whole mail: each relay on the way adds a line of its own.
    let mut digest = Sha256::new();
    for field in ["Date", "From", "To", "Subject"] {
        digest.update(head.raw(field).first().copied().unwrap_or_default());
        digest.update([0]);
    }
    digest.update(audio);
    format!("sha256:{}", hex::encode(digest.finalize()))
}

/// Text of the sender, fit to be stored and shown: no control characters, at most 128 characters.
fn clean(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).take(128).collect();
    text.trim().to_owned()
}
