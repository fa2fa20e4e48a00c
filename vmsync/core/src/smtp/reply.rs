//! Replies as they go over the wire (RFC 5321 section 4.2) with enhanced codes (RFC 3463).

/// Longest text of a reply; a line may have 512 octets (RFC 5321 section 4.5.3.1.5).
const MAX_TEXT: usize = 400;

/// A mail was taken and is durable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accepted {
    /// What the 250 says after the code, such as the id it was stored under. May be empty.
    pub text: String,
}

/// Why a recipient or a mail is not taken: what the client sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    code: u16,
    enhanced: &'static str,
    text: String,
}

/// The handler's answer about one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Mail for it is taken.
    Accept,
    /// It isn't, and why.
    Refuse(Refusal),
}

impl Refusal {
    /// Any refusal. A `code` outside 400–599 becomes 451; `enhanced` as in RFC 3463 (`5.1.1`).
    pub fn new(code: u16, enhanced: &'static str, text: impl Into<String>) -> Self {
        let (code, enhanced) = match code {
            400..=599 => (code, enhanced),
            _ => (451, "4.3.0"),
        };
        Self {
            code,
            enhanced,
            text: text.into(),
        }
    }
    /// 550: there is no such mailbox (R-IN-2).
    pub fn no_mailbox(extension: &str) -> Self {
        Self::new(550, "5.1.1", format!("there is no mailbox {extension}"))
    }
    /// 552: the mailbox takes nothing new (R-MB-2, R-IN-2).
    pub fn disabled(extension: &str) -> Self {
        Self::new(552, "5.2.1", format!("mailbox {extension} is disabled"))
    }
    /// 450: the mailbox is full; the client may try again once something was deleted (R-IN-2).
    pub fn full(extension: &str) -> Self {
        Self::new(450, "4.2.2", format!("mailbox {extension} is full"))
    }
    /// 452: no space on disk.
    pub fn no_space() -> Self {
        Self::new(452, "4.3.1", "not enough storage; try again later")
    }
    /// 451: something here failed that may work later.
    pub fn try_later(text: impl Into<String>) -> Self {
        Self::new(451, "4.3.0", text)
    }
    /// 550: who sent it may not (unsigned, badly signed, for another node).
    pub fn not_authorised(text: impl Into<String>) -> Self {
        Self::new(550, "5.7.1", text)
    }
    /// 554: the content can't be used (no audio, truncated audio, malformed).
    pub fn bad_content(text: impl Into<String>) -> Self {
        Self::new(554, "5.6.0", text)
    }
    /// The reply code, 400 to 599.
    pub fn code(&self) -> u16 {
        self.code
    }
    /// The enhanced code (RFC 3463), such as `5.1.1`.
    pub fn enhanced(&self) -> &'static str {
        self.enhanced
    }
    /// What the client reads.
    pub fn text(&self) -> &str {
        &self.text
    }
    /// Whether the same mail may be taken later.
    pub fn is_temporary(&self) -> bool {
        self.code < 500
    }
    pub(super) fn line(&self) -> Vec<u8> {
        coded(self.code, self.enhanced, &self.text)
    }
}

/// `code enhanced text`, with anything in `text` that could break the line taken out.
pub(super) fn coded(code: u16, enhanced: &str, text: &str) -> Vec<u8> {
    format!("{code} {enhanced} {}\r\n", printable(text)).into_bytes()
}

/// `code text`, for the few replies that bear no enhanced code (RFC 2034 section 4: 220, EHLO, 354).
pub(super) fn bare(code: u16, text: &str) -> Vec<u8> {
    format!("{code} {}\r\n", printable(text)).into_bytes()
}

/// EHLO's reply: our name, then one keyword a line.
pub(super) fn ehlo(domain: &str, keywords: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut lines = std::iter::once(domain)
        .chain(keywords.iter().map(String::as_str))
        .peekable();
    while let Some(line) = lines.next() {
        let sep = if lines.peek().is_some() { '-' } else { ' ' };
        out.extend_from_slice(format!("250{sep}{line}\r\n").as_bytes());
    }
    out
}

/// `text` on one line of printable ASCII, cut to length.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_TEXT)
        .map(|c| match c {
            ' '..='~' => c,
            c if c.is_whitespace() => ' ',
            _ => '?',
        })
        .collect()
}
