//! What an audio file is and how long it plays, read from its own bytes (R-MB-6). Bytes are never changed.
//!
//! Taken: WAV with G.711 u-law/A-law at 8 kHz or 16-bit PCM at 8 or 16 kHz, one channel, and Opus in Ogg.
//! Everything else is refused with a text that says what was found and what to do; the texts
//! are plain ASCII without line ends, so that they fit an SMTP reply (554) and a problem detail
//! (415, 422) alike. No input makes this module panic or allocate.

mod ogg;
mod wav;

/// What was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// `pcm16`, `ulaw`, `alaw` or `opus`.
    pub codec: &'static str,
    /// Canonical MIME type (`audio/wav`, `audio/ogg`).
    pub content_type: &'static str,
    /// Samples a second.
    pub sample_rate: u32,
    /// Length in milliseconds, from the audio itself.
    pub duration_ms: u64,
}

/// Why audio was refused; the text says what and what to do. ASCII, one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAudio(pub String);

impl NotAudio {
    fn new<T>(text: impl Into<String>) -> Result<T, Self> {
        Err(Self(text.into()))
    }
}

/// Recognises and measures `bytes`. A truncated file is an error that says how much is missing.
pub fn measure(bytes: &[u8]) -> Result<Measured, NotAudio> {
    if bytes.is_empty() {
        return NotAudio::new("the audio is empty (0 bytes)");
    }
    if bytes.starts_with(b"RIFF") {
        return wav::measure(bytes);
    }
    if bytes.starts_with(b"OggS") {
        return ogg::measure(bytes);
    }
    let found = FOREIGN
        .iter()
        .find(|(magic, _)| bytes.starts_with(magic))
        .map_or("not a known audio file", |(_, name)| name);
    NotAudio::new(format!(
        "the audio is {found}; send WAV (G.711 or 16-bit PCM, 8 or 16 kHz, mono) or Opus in Ogg"
    ))
}

/// First bytes of what people send by mistake, so that the refusal names it.
const FOREIGN: [(&[u8], &str); 11] = [
    (b"RIFX", "a big-endian WAV file (RIFX)"),
    (b"RF64", "a 64-bit WAV file (RF64)"),
    (b"ID3", "an MP3 file"),
    (&[0xff, 0xfb], "an MP3 file"),
    (&[0xff, 0xf3], "an MP3 file"),
    (&[0xff, 0xf1], "an AAC file"),
    (b"fLaC", "a FLAC file"),
    (b"#!AMR", "an AMR file"),
    (b".snd", "a Sun audio file (.au)"),
    (b"FORM", "an AIFF file"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM file"),
];

/// `n` bytes at `at`, if they are there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}
