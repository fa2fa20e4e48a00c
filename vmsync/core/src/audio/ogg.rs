//! Opus in Ogg (RFC 3533, RFC 7845): one stream, from its first page to its marked end.
//!
//! The length is the last page's granule position less the pre-skip, at 48 kHz whatever the
//! coder's own rate (RFC 7845 section 4). A page whose checksum fails or whose number is out of
//! order, and a stream without its end mark, are refused: the sound would not be whole.

use super::{Measured, NotAudio, array};

const HEADER: usize = 27;
const FIRST: u8 = 0x02;
const LAST: u8 = 0x04;

struct Page<'a> {
    flags: u8,
    /// -1 when no packet ends on this page.
    granule: i64,
    serial: u32,
    number: u32,
    body: &'a [u8],
    /// All of the page, for the next one's place.
    len: usize,
}

/// Measures a file that begins with `OggS`.
pub(super) fn measure(bytes: &[u8]) -> Result<Measured, NotAudio> {
    let first = page(bytes, 0)?;
    if first.flags & FIRST == 0 {
        return NotAudio::new(
            "the Ogg file does not begin with a first page; its beginning is missing",
        );
    }
    let pre_skip = opus_head(first.body)?;
    let (mut at, mut number, mut ended) = (first.len, first.number, first.flags & LAST != 0);
    let mut granule = 0_i64;
    while !ended {
        if at >= bytes.len() {
            return NotAudio::new(
                "the Ogg file is truncated: its end-of-stream page is missing; send it again",
            );
        }
        let next = page(bytes, at)?;
        if next.serial != first.serial {
            return NotAudio::new("the Ogg file holds more than one stream; send one Opus stream");
        }
        number = number.wrapping_add(1);
        if next.number != number {
            return NotAudio::new(format!(
                "the Ogg file is damaged: page {number} is missing; send it again"
            ));
        }
        if next.granule >= 0 {
            granule = granule.max(next.granule);
        }
        ended = next.flags & LAST != 0;
        at += next.len;
    }
    if at < bytes.len() {
        return NotAudio::new("the Ogg file goes on after its end of stream; send one Opus stream");
    }
    let samples = u64::try_from(granule)
        .unwrap_or(0)
        .saturating_sub(u64::from(pre_skip));
    if samples == 0 {
        return NotAudio::new("the Ogg file holds no sound (0 samples)");
    }
    Ok(Measured {
        codec: "opus",
        content_type: "audio/ogg",
        sample_rate: 48_000,
        duration_ms: samples / 48,
    })
}

/// The page at `at`, its checksum proved.
fn page(bytes: &[u8], at: usize) -> Result<Page<'_>, NotAudio> {
    let rest = bytes.get(at..).unwrap_or_default();
    if !rest.starts_with(b"OggS") {
        return NotAudio::new(format!(
            "the Ogg file is damaged: no page begins at byte {at}; send it again"
        ));
    }
    let (Some(granule), Some(serial), Some(number), Some(crc), Some(&segments)) = (
        array(rest, 6),
        array(rest, 14),
        array(rest, 18),
        array(rest, 22),
        rest.get(HEADER - 1),
    ) else {
        return truncated(HEADER - rest.len().min(HEADER));
    };
    let body_at = HEADER + usize::from(segments);
    let Some(lacing) = rest.get(HEADER..body_at) else {
        return truncated(body_at - rest.len());
    };
    let len = body_at + lacing.iter().map(|n| usize::from(*n)).sum::<usize>();
    let Some(body) = rest.get(body_at..len) else {
        return truncated(len - rest.len());
    };
    if checksum(rest.get(..len).unwrap_or_default()) != u32::from_le_bytes(crc) {
        return NotAudio::new(format!(
            "the Ogg file is damaged: the page at byte {at} fails its checksum; send it again"
        ));
    }
    Ok(Page {
        flags: rest.get(5).copied().unwrap_or(0),
        granule: i64::from_le_bytes(granule),
        serial: u32::from_le_bytes(serial),
        number: u32::from_le_bytes(number),
        body,
        len,
    })
}

/// The pre-skip of an `OpusHead` packet (RFC 7845 section 5.1).
fn opus_head(packet: &[u8]) -> Result<u16, NotAudio> {
    if !packet.starts_with(b"OpusHead") {
        let found = if packet.starts_with(b"\x01vorbis") {
            "Vorbis"
        } else if packet.starts_with(b"Speex") {
            "Speex"
        } else {
            "something else"
        };
        return NotAudio::new(format!("the Ogg file holds {found}, not Opus; send Opus"));
    }
    match (packet.get(8), packet.get(9), array(packet, 10)) {
        // The upper half of the version is the incompatible one.
        (Some(version), Some(1 | 2), Some(skip)) if version >> 4 == 0 => {
            Ok(u16::from_le_bytes(skip))
        }
        (Some(_), Some(_), Some(_)) => NotAudio::new(
            "the Ogg file has an Opus header of an unknown version or more than 2 channels",
        ),
        _ => NotAudio::new("the Ogg file's Opus header is cut off; it is damaged"),
    }
}

fn truncated<T>(missing: usize) -> Result<T, NotAudio> {
    NotAudio::new(format!(
        "the Ogg file is truncated: at least {missing} bytes are missing; send it again"
    ))
}

/// CRC-32 of a page, its own four bytes taken as zero (RFC 3533 section 6: polynomial 0x04C11DB7,
/// most significant bit first, start and final value 0).
fn checksum(page: &[u8]) -> u32 {
    page.iter().enumerate().fold(0, |crc, (i, byte)| {
        let byte = if (22..26).contains(&i) { 0 } else { *byte };
        (crc << 8) ^ TABLE[usize::from((crc >> 24) as u8 ^ byte)]
    })
}

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i: u32 = 0;
    while i < 256 {
        let mut crc = i << 24;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000_0000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x04c1_1db7
            };
            bit += 1;
        }
        table[i as usize] = crc;
        i += 1;
    }
    table
}
