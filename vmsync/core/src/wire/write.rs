//! Writes MIME: strict CRLF, 7-bit lines of at most 76 characters but for bodies written as they are, nothing that
//! depends on time or chance.
//!
//! By hand and not with `mail-builder`, because these bytes are kept as examples of the format
//! and must not change with a library's version; it also takes time and a random boundary where
//! none is given, and passes a bare CR in text through, which our own receiver refuses.

use ::base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{Transfer, base64};

/// Writes `Name: value`; the value must be one ASCII line already.
pub(crate) fn header(out: &mut Vec<u8>, name: &str, value: &str) {
    let value = value.replace(|c: char| c.is_control() || !c.is_ascii(), "?");
    out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
}

/// Writes a header of free text, as encoded words (RFC 2047) where it isn't plain ASCII or is long.
pub(crate) fn text_header(out: &mut Vec<u8>, name: &str, text: &str) {
    let text = one_line(text, 200);
    // "=?" in plain text would be read as an encoded word.
    if text.is_ascii() && text.len() + name.len() < 76 && !text.contains("=?") {
        header(out, name, &text);
    } else {
        header_words(out, name, &text);
    }
}

fn header_words(out: &mut Vec<u8>, name: &str, text: &str) {
    let words = encoded_words(text);
    out.extend_from_slice(format!("{name}: {}\r\n", words.join("\r\n ")).as_bytes());
}

/// `text` as encoded words (RFC 2047), each of which fits a line with a short name before it.
pub(crate) fn encoded_words(text: &str) -> Vec<String> {
    // An encoded word has at most 75 characters (RFC 2047 section 2): 12 of frame and base64 of 36 bytes.
    let mut words = vec![String::new()];
    for c in text.chars() {
        match words.last_mut() {
            Some(word) if word.len() + c.len_utf8() <= 36 => word.push(c),
            _ => words.push(c.to_string()),
        }
    }
    words
        .iter()
        .map(|word| format!("=?utf-8?B?{}?=", STANDARD.encode(word)))
        .collect()
}

/// Writes the end of a header block and `bytes`.
pub(crate) fn body(out: &mut Vec<u8>, bytes: &[u8], transfer: Transfer) {
    match transfer {
        Transfer::Base64 => {
            out.extend_from_slice(b"Content-Transfer-Encoding: base64\r\n\r\n");
            base64::write(out, bytes);
        }
        Transfer::Binary => {
            out.extend_from_slice(b"Content-Transfer-Encoding: binary\r\n\r\n");
            out.extend_from_slice(bytes);
            // Belongs to the delimiter that follows.
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Writes the end of a header block and `text`: plain where 7-bit lines allow it, else base64.
pub(crate) fn text_body(out: &mut Vec<u8>, text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    // A line that begins like a delimiter could be one.
    let plain = |line: &&str| {
        line.len() <= 78
            && line.bytes().all(|b| (b' '..=b'~').contains(&b))
            && !line.starts_with("--")
    };
    if lines.iter().all(plain) {
        out.extend_from_slice(b"Content-Transfer-Encoding: 7bit\r\n\r\n");
        for line in lines {
            out.extend_from_slice(format!("{line}\r\n").as_bytes());
        }
    } else {
        body(out, lines.join("\r\n").as_bytes(), Transfer::Base64);
    }
}

/// `text` on one line without control characters, cut to `most` characters.
pub(crate) fn one_line(text: &str, most: usize) -> String {
    let text: String = text.chars().take(most).collect();
    text.replace(char::is_control, " ").trim().to_owned()
}
