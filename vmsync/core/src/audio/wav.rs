//! RIFF/WAVE (Microsoft, "Multimedia Programming Interface and Data Specifications 1.0", and
//! the WAVE_FORMAT_EXTENSIBLE addition): chunks of {id, little-endian length, bytes, pad to even}.
//!
//! A writer that streams (a PBX recording, `sox` or `ffmpeg` into a pipe) can't know the length
//! when it writes the header. It leaves 0 or a huge number; then the samples reach to the end of
//! the file. Any other length that the file does not hold means that the file was cut off.

use super::{Measured, NotAudio, array};

/// Lengths from here up are place-holders of streaming writers (`ffmpeg` 0xFFFFFFFF, `sox`
/// 0x7FFFF000 and neighbours): far above any limit of this system.
const PLACEHOLDER: u32 = 0x7fff_0000;

const PCM: u16 = 1;
const ALAW: u16 = 6;
const ULAW: u16 = 7;
const EXTENSIBLE: u16 = 0xfffe;
/// Bytes 2..16 of a WAVE_FORMAT_EXTENSIBLE sub-format that stands for an ordinary format tag.
const TAG_GUID: [u8; 14] = [
    0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x80, 0x00, 0x00, 0xaa, 0x00, 0x38, 0x9b, 0x71,
];

/// What the `fmt ` chunk says.
struct Format {
    tag: u16,
    channels: u16,
    rate: u32,
    bits: u16,
}

/// Measures a file that begins with `RIFF`.
pub(super) fn measure(bytes: &[u8]) -> Result<Measured, NotAudio> {
    let Some(riff_len) = array(bytes, 4).map(u32::from_le_bytes) else {
        return NotAudio::new("the WAV file is truncated: it ends inside its first 12 bytes");
    };
    match array::<4>(bytes, 8) {
        Some(form) if form == *b"WAVE" => {}
        Some(_) => {
            return NotAudio::new("the file is RIFF but not WAVE audio (perhaps AVI or WebP)");
        }
        None => {
            return NotAudio::new("the WAV file is truncated: it ends inside its first 12 bytes");
        }
    }
    let chunks = find_chunks(bytes, riff_len)?;
    let Some(format) = chunks.format else {
        return NotAudio::new("the WAV file has no format chunk ('fmt '); it is damaged");
    };
    let (codec, frame) = codec(&format)?;
    let Some(data) = chunks.data else {
        return no_data(bytes.len(), riff_len);
    };
    let frames = data.len(bytes.len(), riff_len)? / frame;
    if frames == 0 {
        return NotAudio::new("the WAV file holds no sound (0 samples)");
    }
    Ok(Measured {
        codec,
        content_type: "audio/wav",
        sample_rate: format.rate,
        duration_ms: frames * 1000 / u64::from(format.rate),
    })
}

/// The `data` chunk: where its bytes begin and how many its header announces.
struct Data {
    start: usize,
    announced: u32,
}

impl Data {
    /// How many bytes of samples there really are.
    fn len(&self, file: usize, riff_len: u32) -> Result<u64, NotAudio> {
        let there = file.saturating_sub(self.start) as u64;
        let announced = u64::from(self.announced);
        // A length of 0 is true only in a file whose outer length is true as well.
        let streamed = self.announced >= PLACEHOLDER
            || (self.announced == 0 && !outer_length_fits(file, riff_len));
        if streamed {
            return Ok(there);
        }
        if announced > there {
            return truncated(announced - there, announced);
        }
        Ok(announced)
    }
}

struct Chunks {
    format: Option<Format>,
    data: Option<Data>,
}

/// Walks the chunks, in whatever order they come, until both wanted ones are found.
fn find_chunks(bytes: &[u8], riff_len: u32) -> Result<Chunks, NotAudio> {
    let mut found = Chunks {
        format: None,
        data: None,
    };
    let mut at = 12_usize;
    while let (Some(id), Some(len)) = (array::<4>(bytes, at), array(bytes, at + 4)) {
        let len = u32::from_le_bytes(len);
        let start = at + 8;
        match &id {
            b"fmt " if found.format.is_none() => {
                found.format = Some(read_format(bytes, start, len)?);
            }
            b"data" if found.data.is_none() => {
                found.data = Some(Data {
                    start,
                    announced: len,
                });
            }
            _ => {}
        }
        let streamed_data = id == *b"data"
            && (len >= PLACEHOLDER || (len == 0 && !outer_length_fits(bytes.len(), riff_len)));
        if streamed_data || (found.format.is_some() && found.data.is_some()) {
            break;
        }
        // Chunks are padded to an even length; the pad byte isn't counted.
        let padded = len as usize + (len as usize & 1);
        match start.checked_add(padded) {
            Some(next) => at = next,
            None => break,
        }
    }
    Ok(found)
}

fn read_format(bytes: &[u8], start: usize, len: u32) -> Result<Format, NotAudio> {
    let (Some(tag), Some(channels), Some(rate), Some(bits)) = (
        array(bytes, start),
        array(bytes, start + 2),
        array(bytes, start + 4),
        array(bytes, start + 14),
    ) else {
        let missing = (start + 16).saturating_sub(bytes.len());
        return truncated(missing as u64, 16);
    };
    if len < 16 {
        return NotAudio::new(format!(
            "the WAV file's format chunk has {len} bytes; at least 16 are needed"
        ));
    }
    let mut format = Format {
        tag: u16::from_le_bytes(tag),
        channels: u16::from_le_bytes(channels),
        rate: u32::from_le_bytes(rate),
        bits: u16::from_le_bytes(bits),
    };
    if format.tag == EXTENSIBLE {
        match (array(bytes, start + 24), array::<14>(bytes, start + 26)) {
            (Some(tag), Some(guid)) if len >= 40 && guid == TAG_GUID => {
                format.tag = u16::from_le_bytes(tag);
            }
            _ => {
                return NotAudio::new(
                    "the WAV file has an extensible format that names no known codec",
                );
            }
        }
    }
    Ok(format)
}

/// Codec and bytes per sample, or which limit of R-MB-6 the format breaks.
fn codec(f: &Format) -> Result<(&'static str, u64), NotAudio> {
    let (codec, bits, rates): (_, _, &[u32]) = match f.tag {
        PCM => ("pcm16", 16, &[8000, 16000]),
        ALAW => ("alaw", 8, &[8000]),
        ULAW => ("ulaw", 8, &[8000]),
        0x31 => {
            return NotAudio::new(
                "the WAV file holds GSM 6.10 (wav49), which is not taken; set the PBX's voicemail format to 'wav'",
            );
        }
        other => {
            return NotAudio::new(format!(
                "the WAV file holds {} (format tag {other}), which is not taken; send G.711 or 16-bit PCM",
                tag_name(other)
            ));
        }
    };
    if f.channels != 1 {
        return NotAudio::new(format!(
            "the WAV file has {} channels; send mono (1 channel)",
            f.channels
        ));
    }
    if f.bits != bits {
        return NotAudio::new(format!(
            "the WAV file has {} bits per sample; {codec} needs {bits}",
            f.bits
        ));
    }
    if !rates.contains(&f.rate) {
        let wanted = if rates.len() == 1 {
            "8000"
        } else {
            "8000 or 16000"
        };
        return NotAudio::new(format!(
            "the WAV file has {} samples a second; {codec} is taken at {wanted}",
            f.rate
        ));
    }
    Ok((codec, u64::from(bits / 8)))
}

fn tag_name(tag: u16) -> &'static str {
    match tag {
        0x02 | 0x11 => "ADPCM",
        0x03 => "floating point samples",
        0x40 | 0x45 | 0x64 => "G.726",
        0x50 => "MPEG layer 1 or 2",
        0x55 => "MP3",
        _ => "an unknown codec",
    }
}

/// Whether the file is as long as its first header says (give or take the last pad byte).
fn outer_length_fits(file: usize, riff_len: u32) -> bool {
    (file as u64).abs_diff(u64::from(riff_len) + 8) <= 1
}

fn no_data<T>(file: usize, riff_len: u32) -> Result<T, NotAudio> {
    let whole = u64::from(riff_len) + 8;
    if riff_len < PLACEHOLDER && whole > file as u64 {
        return truncated(whole - file as u64, whole);
    }
    NotAudio::new("the WAV file has no data chunk; it holds no sound")
}

fn truncated<T>(missing: u64, of: u64) -> Result<T, NotAudio> {
    NotAudio::new(format!(
        "the WAV file is truncated: {missing} of {of} bytes are missing; send it again"
    ))
}
