//! A mail as MailHog shows it. Field names are MailHog's.

use std::collections::BTreeMap;

use mail_parser::{MessageParser, MessagePart};
use serde::{Deserialize, Serialize};

/// One mail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Item {
    /// Unique id.
    #[serde(rename = "ID")]
    pub id: String,
    /// Envelope sender.
    pub from: Path,
    /// Envelope recipients.
    pub to: Vec<Path>,
    /// Headers and body.
    pub content: Content,
    /// When it was taken, RFC 3339.
    pub created: String,
    /// Its parts, where it is a multipart.
    #[serde(rename = "MIME")]
    pub mime: Option<Mime>,
    /// As it came.
    pub raw: Raw,
}

/// An address of the envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Path {
    /// Source route; always empty nowadays.
    pub relays: Option<Vec<String>>,
    /// Before the `@`.
    pub mailbox: String,
    /// After the `@`.
    pub domain: String,
    /// Parameters of the command.
    pub params: String,
}

/// Headers and body of a mail or a part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Content {
    /// Header name to its values, in order.
    pub headers: BTreeMap<String, Vec<String>>,
    /// The body as it came, not decoded.
    pub body: String,
    /// Bytes of headers and body.
    pub size: usize,
    /// Parts of a part.
    #[serde(rename = "MIME")]
    pub mime: Option<Mime>,
}

/// Parts of a multipart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Mime {
    /// In order.
    pub parts: Vec<Content>,
}

/// A mail as it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Raw {
    /// Envelope sender.
    pub from: String,
    /// Envelope recipients.
    pub to: Vec<String>,
    /// Headers and body.
    pub data: String,
    /// What the client called itself.
    pub helo: String,
}

impl Path {
    /// Splits an address.
    pub fn parse(address: &str) -> Self {
        let (mailbox, domain) = address.rsplit_once('@').unwrap_or((address, ""));
        Self {
            relays: None,
            mailbox: mailbox.to_owned(),
            domain: domain.to_owned(),
            params: String::new(),
        }
    }
}

impl Item {
    /// Reads a mail that was taken as `raw` at `created`.
    pub fn new(id: String, raw: Raw, created: String) -> Self {
        let message = MessageParser::default().parse(raw.data.as_bytes());
        let (content, mime) = message.map_or_else(
            || (plain(&raw.data), None),
            |m| {
                let content = content(m.root_part(), &m.parts, raw.data.as_bytes());
                let mime = content.mime.clone();
                (
                    Content {
                        mime: None,
                        ..content
                    },
                    mime,
                )
            },
        );
        Self {
            id,
            from: Path::parse(&raw.from),
            to: raw.to.iter().map(|t| Path::parse(t)).collect(),
            content,
            created,
            mime,
            raw,
        }
    }

    /// First value of header `name`, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.content.headers.iter();
        let (_, values) = headers.find(|(n, _)| n.eq_ignore_ascii_case(name))?;
        values.first().map(String::as_str)
    }
}

fn plain(data: &str) -> Content {
    Content {
        headers: BTreeMap::new(),
        body: data.to_owned(),
        size: data.len(),
        mime: None,
    }
}

fn content(part: &MessagePart<'_>, all: &[MessagePart<'_>], raw: &[u8]) -> Content {
    let slice = |from: u32, to: u32| raw.get(from as usize..to as usize).unwrap_or_default();
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for header in &part.headers {
        let value = String::from_utf8_lossy(slice(header.offset_start, header.offset_end));
        let unfolded: Vec<_> = value.lines().map(str::trim).collect();
        headers
            .entry(header.name.as_str().to_owned())
            .or_default()
            .push(unfolded.join(" ").trim().to_owned());
    }
    let children = part.sub_parts().unwrap_or_default();
    let parts: Vec<_> = children
        .iter()
        .filter_map(|id| all.get(*id as usize))
        .map(|p| content(p, all, raw))
        .collect();
    Content {
        headers,
        body: String::from_utf8_lossy(slice(part.offset_body, part.offset_end)).into_owned(),
        size: (part.offset_end.saturating_sub(part.offset_header)) as usize,
        mime: (!parts.is_empty()).then_some(Mime { parts }),
    }
}
