//! Base64 in lines (RFC 2045 section 6.8), both ways, at the speed of the machine: most of what passes between
//! the nodes is audio in this form.

use std::sync::LazyLock;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use ::base64::engine::Simd as Codec;
use ::base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurposeConfig},
};
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use ::base64::{alphabet::STANDARD, engine::GeneralPurpose as Codec};

/// Longest line, without its line end.
const LINE: usize = 76;
/// Bytes in such a line.
const RAW: usize = LINE / 4 * 3;
/// Lines written at once; their digits stay in the nearest cache.
const LINES: usize = 64;

/// Some senders leave out padding or its bits; the content decides whether that was harmless.
static CODEC: LazyLock<Codec> = LazyLock::new(|| {
    let lenient = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    return Codec::standard(lenient);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return Codec::new(&STANDARD, lenient);
});

/// Length of what [`write`] writes of `bytes` bytes.
pub(super) fn written_len(bytes: usize) -> usize {
    let digits = bytes.div_ceil(3) * 4;
    digits + digits.div_ceil(LINE) * 2
}

/// Writes `bytes` in lines that end in CRLF.
pub(super) fn write(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut digits = [0; LINE * LINES];
    for block in bytes.chunks(RAW * LINES) {
        #[allow(
            clippy::expect_used,
            reason = "four digits for three bytes, and the room for them stands above"
        )]
        let used = CODEC
            .encode_slice(block, &mut digits)
            .expect("room for the digits");
        for line in digits.split_at(used).0.chunks(LINE) {
            out.extend_from_slice(line);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// The bytes that `text` stands for, white space in it left out; `None` when it is damaged.
pub(super) fn read(text: &[u8]) -> Option<Vec<u8>> {
    let mut digits = Vec::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let (line, after) = rest.split_at(super::mime::line_end(rest));
        digits.extend_from_slice(line.trim_ascii());
        rest = after;
    }
    CODEC.decode(&digits).ok().or_else(|| {
        // White space within a line: nobody should write it, and it harms nobody.
        digits.retain(|b| !b.is_ascii_whitespace());
        CODEC.decode(&digits).ok()
    })
}
