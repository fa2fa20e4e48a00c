//! Splits a mail into its parts, within limits, for both kinds of mail this program reads.
//!
//! The structure (lines, boundaries, nesting) is read here, because the size of what a parser
//! builds must follow from limits and not from the sender: a general parser makes a record of
//! every boundary and header line, so that 30 MB of three-byte lines become gigabytes. What a
//! header *means* (encoded words, parameters, addresses, dates) is `mail-parser`'s, given one
//! bounded header block at a time.

use std::borrow::Cow;

use mail_parser::{Message, MessageParser, MimeHeaders as _, parsers::MessageStream};
use memchr::{memchr, memmem};

use super::base64;

/// Most parts of a mail: the largest node mail, a digest of 256 voice messages, has 514.
const MAX_PARTS: usize = 600;
/// Deepest nesting of multiparts and messages; PBXs use 2, digests 4.
const MAX_DEPTH: usize = 8;
/// Longest header block of a mail or part, bytes.
const MAX_HEADER: usize = 64 * 1024;
/// Longest boundary taken; RFC 2046 section 5.1.1 allows 70.
const MAX_BOUNDARY: usize = 200;

/// A mail within a mail.
const MESSAGE: &str = "message/rfc822";

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

/// Splits `mail`; the error says what is wrong with its structure. A message within the mail is
/// one part.
pub(crate) fn split(mail: &[u8]) -> Result<Split<'_>, String> {
    Collector::default().split(mail)
}

/// The same, with the parts of the messages within the mail.
pub(super) fn split_messages(mail: &[u8]) -> Result<Split<'_>, String> {
    let opening = Collector {
        opens: true,
        ..Collector::default()
    };
    opening.split(mail)
}

#[derive(Default)]
struct Collector<'a> {
    /// Whether messages are opened.
    opens: bool,
    leaves: Vec<Leaf<'a>>,
}

impl<'a> Collector<'a> {
    fn split(mut self, mail: &'a [u8]) -> Result<Split<'a>, String> {
        self.collect(mail, 0, "")?;
        let (head, _) = split_head(mail)?;
        Ok(Split {
            head: Head::read(head),
            leaves: self.leaves,
        })
    }

    /// Takes `entity`, whose type is `default` where it names none.
    fn collect(&mut self, entity: &'a [u8], depth: usize, default: &str) -> Result<(), String> {
        let (head, body) = split_head(entity)?;
        let parsed = Head::read(head);
        let mut content_type = parsed.content_type();
        if content_type.is_empty() {
            default.clone_into(&mut content_type);
        }
        let multipart = content_type.starts_with("multipart/");
        let message = self.opens && content_type == MESSAGE;
        if !(multipart || message) {
            if self.leaves.len() == MAX_PARTS {
                return Err(format!("more than {MAX_PARTS} parts"));
            }
            self.leaves.push(Leaf { head, body });
            return Ok(());
        }
        if depth == MAX_DEPTH {
            return Err(format!("multiparts nested more than {MAX_DEPTH} deep"));
        }
        if message {
            return self.collect(body, depth + 1, "");
        }
        let boundary = parsed
            .parameter("boundary")
            .filter(|b| (1..=MAX_BOUNDARY).contains(&b.len()))
            .ok_or("a multipart without a usable boundary")?;
        // RFC 2046 section 5.1.5.
        let default = if content_type == "multipart/digest" {
            MESSAGE
        } else {
            ""
        };
        for part in Parts::of(body, &boundary) {
            self.collect(part, depth + 1, default)?;
        }
        Ok(())
    }
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
pub(super) fn line_end(bytes: &[u8]) -> usize {
    memchr(b'\n', bytes).map_or(bytes.len(), |i| i + 1)
}

/// The bodies between the boundaries of a multipart (RFC 2046 section 5.1).
struct Parts<'a> {
    rest: Option<&'a [u8]>,
    /// Looks for two hyphens and the boundary.
    finder: memmem::Finder<'static>,
    preamble: bool,
}

impl<'a> Parts<'a> {
    fn of(body: &'a [u8], boundary: &str) -> Self {
        Self {
            rest: Some(body),
            finder: memmem::Finder::new(&format!("--{boundary}")).into_owned(),
            preamble: true,
        }
    }

    /// What stands before the next delimiter, and what behind it unless that was the closing one.
    fn cut(&self, all: &'a [u8]) -> (&'a [u8], Option<&'a [u8]>) {
        let (mut before, mut rest) = all.split_at(0);
        while let Some(found) = self.finder.find(rest) {
            let at = before.len() + found;
            let (content, line_on) = all.split_at(at);
            let (line, after) = line_on.split_at(line_end(line_on));
            if matches!(content.last(), None | Some(b'\n'))
                && let Some(closing) = self.delimiter(line)
            {
                return (content, (!closing).then_some(after));
            }
            // Only the beginning of a line can be a delimiter.
            (before, rest) = all.split_at(at + line.len());
        }
        // A missing last delimiter ends the last part with the mail; its content tells whether
        // something is missing.
        (all, None)
    }

    /// Whether `line` is this multipart's delimiter; `Some(true)` for the closing one.
    fn delimiter(&self, line: &[u8]) -> Option<bool> {
        let rest = line.strip_prefix(self.finder.needle())?;
        let (rest, closing) = rest
            .strip_prefix(b"--")
            .map_or((rest, false), |rest| (rest, true));
        rest.trim_ascii().is_empty().then_some(closing)
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let all = self.rest.take()?;
            let (content, rest) = self.cut(all);
            self.rest = rest;
            if !std::mem::take(&mut self.preamble) {
                return Some(without_line_end(content));
            }
        }
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

    /// The body with its transfer encoding undone; borrowed when it has none.
    pub(crate) fn decode(&self) -> Result<Cow<'a, [u8]>, String> {
        let encoding = self.head().text("Content-Transfer-Encoding");
        match encoding.unwrap_or_default().to_ascii_lowercase().as_str() {
            "base64" => {
                let bytes = base64::read(self.body).map(Cow::Owned);
                bytes.ok_or_else(|| "its base64 is damaged".to_owned())
            }
            "quoted-printable" => {
                mail_parser::decoders::quoted_printable::quoted_printable_decode(self.body)
                    .map(Cow::Owned)
                    .ok_or_else(|| "its quoted-printable is damaged".to_owned())
            }
            "" | "7bit" | "8bit" | "binary" => Ok(Cow::Borrowed(self.body)),
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
