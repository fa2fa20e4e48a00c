//! Splits a mail into its parts, within limits, for both kinds of mail this program reads.
//!
//! The structure (lines, boundaries, nesting) is read here, because the size of what a parser
//! builds must follow from limits and not from the sender: a general parser makes a record of
//! every boundary and header line, so that 30 MB of three-byte lines become gigabytes. What a
//! header *means* (encoded words, parameters, addresses, dates) is `mail-parser`'s, given one
//! bounded header block at a time.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use mail_parser::{Message, MessageParser, MimeHeaders as _, parsers::MessageStream};

/// Most parts of a mail: the largest node mail has 258.
const MAX_PARTS: usize = 300;
/// Deepest nesting of multiparts; PBXs use 2.
const MAX_DEPTH: usize = 8;
/// Longest header block of a mail or part, bytes.
const MAX_HEADER: usize = 64 * 1024;
/// Longest boundary taken; RFC 2046 section 5.1.1 allows 70.
const MAX_BOUNDARY: usize = 200;

/// Some senders leave out padding or its bits; the content decides whether that was harmless.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A mail, split: its own header and its leaves (parts that aren't multiparts) in order.
pub(crate) struct Split<'a> {
    pub(crate) head: Head<'a>,
    pub(crate) leaves: Vec<Leaf<'a>>,
}

/// One part: header block and body as they stand in the mail.
pub(crate) struct Leaf<'a> {
    head: &'a [u8],
    pub(crate) body: &'a [u8],
}

/// A header block, read.
pub(crate) struct Head<'a>(Option<Message<'a>>);

/// Splits `mail`; the error says what is wrong with its structure.
pub(crate) fn split(mail: &[u8]) -> Result<Split<'_>, String> {
    let mut leaves = Vec::new();
    collect(mail, 0, &mut leaves)?;
    let (head, _) = split_head(mail)?;
    Ok(Split {
        head: Head::read(head),
        leaves,
    })
}

fn collect<'a>(entity: &'a [u8], depth: usize, leaves: &mut Vec<Leaf<'a>>) -> Result<(), String> {
    let (head, body) = split_head(entity)?;
    let parsed = Head::read(head);
    if !parsed.content_type().starts_with("multipart/") {
        if leaves.len() == MAX_PARTS {
            return Err(format!("more than {MAX_PARTS} parts"));
        }
        leaves.push(Leaf { head, body });
        return Ok(());
    }
    if depth == MAX_DEPTH {
        return Err(format!("multiparts nested more than {MAX_DEPTH} deep"));
    }
    let boundary = parsed
        .parameter("boundary")
        .filter(|b| (1..=MAX_BOUNDARY).contains(&b.len()))
        .ok_or("a multipart without a usable boundary")?;
    for part in (Parts {
        rest: Some(body),
        boundary: boundary.as_bytes(),
        preamble: true,
    }) {
        collect(part, depth + 1, leaves)?;
    }
    Ok(())
}

/// Header block (with its last line end) and body of an entity.
fn split_head(entity: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let mut at = 0;
    loop {
        if at > MAX_HEADER {
            return Err(format!("a header block of more than {MAX_HEADER} bytes"));
        }
        let rest = entity.get(at..).unwrap_or_default();
        let end = line_end(rest);
        let line = rest.get(..end).unwrap_or_default();
        if matches!(line, b"\r\n" | b"\n" | b"") {
            let (head, _) = entity.split_at(at);
            return Ok((head, rest.get(end..).unwrap_or_default()));
        }
        at += end;
    }
}

/// Length of the first line, its line feed included.
fn line_end(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .position(|b| *b == b'\n')
        .map_or(bytes.len(), |i| i + 1)
}

/// The bodies between the boundaries of a multipart (RFC 2046 section 5.1).
struct Parts<'a, 'b> {
    rest: Option<&'a [u8]>,
    boundary: &'b [u8],
    preamble: bool,
}

impl<'a> Iterator for Parts<'a, '_> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let all = self.rest.take()?;
            let mut at = 0;
            let delimiter = loop {
                let line = all.get(at..).filter(|rest| !rest.is_empty());
                let Some(line) = line.map(|rest| &rest[..line_end(rest)]) else {
                    break None;
                };
                if let Some(closing) = self.delimiter(line) {
                    break Some((at, line.len(), closing));
                }
                at += line.len();
            };
            // A missing last delimiter ends the last part with the mail; its content tells
            // whether something is missing.
            let content = all.get(..at).unwrap_or_default();
            if let Some((at, len, false)) = delimiter {
                self.rest = all.get(at + len..);
            }
            if !std::mem::take(&mut self.preamble) {
                return Some(without_line_end(content));
            }
        }
    }
}

impl Parts<'_, '_> {
    /// Whether `line` is this multipart's delimiter; `Some(true)` for the closing one.
    fn delimiter(&self, line: &[u8]) -> Option<bool> {
        let rest = line.strip_prefix(b"--")?.strip_prefix(self.boundary)?;
        let (rest, closing) = rest
            .strip_prefix(b"--")
            .map_or((rest, false), |rest| (rest, true));
        rest.trim_ascii().is_empty().then_some(closing)
    }
}

/// The line end before a delimiter belongs to the delimiter.
fn without_line_end(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

impl<'a> Leaf<'a> {
    pub(crate) fn head(&self) -> Head<'a> {
        Head::read(self.head)
    }

    /// The body with its transfer encoding undone.
    pub(crate) fn decode(&self) -> Result<Vec<u8>, String> {
        let encoding = self.head().text("Content-Transfer-Encoding");
        match encoding.unwrap_or_default().to_ascii_lowercase().as_str() {
            "base64" => {
                let digits: Vec<u8> = self
                    .body
                    .iter()
                    .copied()
                    .filter(|b| !b.is_ascii_whitespace())
                    .collect();
                LENIENT
                    .decode(digits)
                    .map_err(|_| "its base64 is damaged".to_owned())
            }
            "quoted-printable" => {
                mail_parser::decoders::quoted_printable::quoted_printable_decode(self.body)
                    .ok_or_else(|| "its quoted-printable is damaged".to_owned())
            }
            "" | "7bit" | "8bit" | "binary" => Ok(self.body.to_vec()),
            other => Err(format!(
                "its transfer encoding '{}' is unknown",
                other
                    .chars()
                    .take(40)
                    .flat_map(char::escape_default)
                    .collect::<String>()
            )),
        }
    }

    /// The body of a text part as text, at most its first `limit` bytes.
    pub(crate) fn text(&self, limit: usize) -> String {
        let body = self
            .body
            .get(..limit.min(self.body.len()))
            .unwrap_or_default();
        let part = [self.head, b"\r\n", body].concat();
        MessageParser::default()
            .parse(&part)
            .and_then(|message| message.body_text(0).map(std::borrow::Cow::into_owned))
            .unwrap_or_default()
    }
}

impl<'a> Head<'a> {
    fn read(block: &'a [u8]) -> Self {
        Self(MessageParser::default().parse_headers(block))
    }

    /// `type/subtype` in lower case; empty when there is none.
    pub(crate) fn content_type(&self) -> String {
        let Some(ct) = self.0.as_ref().and_then(|m| m.content_type()) else {
            return String::new();
        };
        format!("{}/{}", ct.ctype(), ct.subtype().unwrap_or_default()).to_ascii_lowercase()
    }

    /// A parameter of the content type.
    fn parameter(&self, name: &str) -> Option<String> {
        let ct = self.0.as_ref()?.content_type()?;
        ct.attribute(name).map(str::to_owned)
    }

    /// The file name of an attachment (RFC 2183, else the `name` of the content type).
    pub(crate) fn file_name(&self) -> Option<String> {
        self.0.as_ref()?.attachment_name().map(str::to_owned)
    }

    /// The content id without its angle brackets.
    pub(crate) fn content_id(&self) -> Option<String> {
        let id = self.0.as_ref()?.content_id()?;
        Some(id.trim_matches(['<', '>']).to_owned())
    }

    /// The first address of a field such as `From`: display name and address.
    pub(crate) fn addresses(&self, from: bool) -> Vec<(Option<String>, String)> {
        let message = self.0.as_ref();
        let field = if from {
            message.and_then(Message::from)
        } else {
            message.and_then(Message::to)
        };
        field.map_or_else(Vec::new, |addresses| {
            addresses
                .iter()
                .filter_map(|a| Some((a.name().map(str::to_owned), a.address()?.to_owned())))
                .take(16)
                .collect()
        })
    }

    /// The `Date` field in seconds since 1970.
    pub(crate) fn date(&self) -> Option<i64> {
        let date = self.0.as_ref()?.date()?;
        date.is_valid().then(|| date.to_timestamp())
    }

    /// All values of field `name` as they stand, unfolded and trimmed.
    pub(crate) fn raw(&self, name: &str) -> Vec<&[u8]> {
        let Some(message) = self.0.as_ref() else {
            return Vec::new();
        };
        message
            .headers()
            .iter()
            .filter(|h| h.name.as_str().eq_ignore_ascii_case(name))
            .filter_map(|h| {
                let range = h.offset_start as usize..h.offset_end as usize;
                Some(message.raw_message().get(range)?.trim_ascii())
            })
            .collect()
    }

    /// The first value of field `name` as text: encoded words decoded, control characters and
    /// surrounding space gone. `None` when absent or empty.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        let raw = *self.raw(name).first()?;
        // The field parser wants the line end it stops at.
        let line = [raw, b"\r\n"].concat();
        let text = MessageStream::new(&line)
            .parse_unstructured()
            .into_text()?
            .into_owned();
        let text = text.replace(char::is_control, " ").trim().to_owned();
        (!text.is_empty()).then_some(text)
    }
}
