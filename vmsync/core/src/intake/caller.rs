//! Who called, from what a PBX writes about it. Sources in order of trust:
//!
//! 1. Asterisk's headers (`X-Asterisk-CallerID`, `X-Asterisk-CallerIDName`; with IMAP storage `X-Asterisk-VM-Caller-ID-*`);
//! 2. a line `From: …` of the text (FreePBX, FreeSWITCH);
//! 3. Asterisk's sentence, "… in mailbox 2001 from CALLER, on Sunday …";
//! 4. the subject, "Voicemail from CALLER 00:00:05";
//! 5. the mail's `From`, where its local part is a number other than the mailbox.
//!
//! A later source fills in what an earlier one left out, but never mixes two callers.

use super::clean;
use crate::wire::mime::Head;

/// What was found out.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) number: Option<String>,
    pub(super) name: Option<String>,
    pub(super) called: Option<String>,
}

/// A caller as one source has it.
#[derive(Debug, Default, PartialEq)]
struct Caller {
    number: Option<String>,
    name: Option<String>,
}

/// Looks through header and text of a mail.
pub(super) fn find(head: &Head<'_>, text: &str) -> Found {
    let subject = head.text("Subject").unwrap_or_default();
    let called = called(head, &subject, text);
    let sources = [
        from_headers(head),
        labelled(text, "from").map(parse).unwrap_or_default(),
        from_sentence(text).map(|t| parse(&t)).unwrap_or_default(),
        from_subject(&subject).map(parse).unwrap_or_default(),
        from_sender(head, called.as_deref()),
    ];
    let mut found = Found {
        called,
        ..Found::default()
    };
    for source in sources {
        let another =
            source.number.is_some() && found.number.is_some() && source.number != found.number;
        if another {
            continue;
        }
        found.number = found.number.or(source.number);
        found.name = found.name.or(source.name);
    }
    found
}

fn from_headers(head: &Head<'_>) -> Caller {
    let first = |names: [&str; 2]| names.iter().find_map(|name| head.text(name));
    let number = first(["X-Asterisk-CallerID", "X-Asterisk-VM-Caller-ID-Num"]);
    let name = first(["X-Asterisk-CallerIDName", "X-Asterisk-VM-Caller-ID-Name"]);
    Caller {
        number: number.as_deref().and_then(number_of),
        name: name.as_deref().and_then(name_of),
    }
}

/// The rest of the first line `LABEL: …`.
fn labelled<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim()
            .eq_ignore_ascii_case(label)
            .then(|| value.trim())
    })
}

fn from_sentence(text: &str) -> Option<String> {
    let text = text
        .split_whitespace()
        .take(400)
        .collect::<Vec<_>>()
        .join(" ");
    let (_, rest) = split_at(&text, "in mailbox ")?;
    let (_, rest) = split_at(rest, " from ")?;
    let (caller, _) = split_at(rest, ", on ")?;
    (caller.len() <= 200).then(|| caller.to_owned())
}

fn from_subject(subject: &str) -> Option<&str> {
    let (_, caller) = split_at(subject, "from ")?;
    let caller = caller.trim_end();
    // FreeSWITCH ends its subject with the length.
    let without_length = caller.rsplit_once(' ').filter(|(_, last)| {
        last.contains(':') && last.bytes().all(|b| b.is_ascii_digit() || b == b':')
    });
    Some(without_length.map_or(caller, |(caller, _)| caller))
}

fn from_sender(head: &Head<'_>, called: Option<&str>) -> Caller {
    let Some((name, address)) = head.addresses(true).into_iter().next() else {
        return Caller::default();
    };
    let local = address.split('@').next().unwrap_or_default();
    let own = Some(local) == called
        || head
            .addresses(false)
            .iter()
            .any(|(_, to)| to.split('@').next() == Some(local));
    match phone_number(local) {
        Some(number) if !own => Caller {
            number: Some(number),
            name: name.as_deref().and_then(name_of),
        },
        _ => Caller::default(),
    }
}

/// The mailbox the PBX names.
fn called(head: &Head<'_>, subject: &str, text: &str) -> Option<String> {
    let account = || {
        labelled(text, "account")
            .and_then(|a| a.split('@').next())
            .map(str::to_owned)
    };
    let after_word = |text: &str| {
        let (_, rest) = split_at(text, "mailbox ")?;
        rest.split(|c: char| !c.is_ascii_digit())
            .next()
            .map(str::to_owned)
    };
    let spaced = || {
        text.split_whitespace()
            .take(400)
            .collect::<Vec<_>>()
            .join(" ")
    };
    [
        head.text("X-Asterisk-VM-Extension"),
        account(),
        after_word(subject),
        after_word(&spaced()),
    ]
    .into_iter()
    .flatten()
    .find_map(|number| phone_number(&number))
}

/// Reads `"Name" <number>`, `Name <number>`, `Name number`, `number` or `Name`.
fn parse(text: &str) -> Caller {
    let text = text.trim();
    if let Some((name, rest)) = text.split_once('<') {
        let number = rest.split('>').next().unwrap_or_default();
        return Caller {
            number: number_of(number),
            name: name_of(name),
        };
    }
    if let Some(number) = phone_number(text) {
        return Caller {
            number: Some(number),
            name: None,
        };
    }
    if let Some((name, last)) = text.rsplit_once(' ')
        && let Some(number) = phone_number(last)
    {
        return Caller {
            number: Some(number),
            name: name_of(name),
        };
    }
    Caller {
        number: None,
        name: name_of(text),
    }
}

/// A number between brackets or in a header: a phone number, else a SIP user.
fn number_of(text: &str) -> Option<String> {
    let text = text.trim().trim_matches('"');
    let text = ["tel:", "sip:", "sips:"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme))
        .unwrap_or(text);
    let user = text.split('@').next().unwrap_or_default();
    phone_number(user).or_else(|| {
        name_of(user).filter(|user| user.len() <= 64 && user.bytes().all(|b| b.is_ascii_graphic()))
    })
}

/// Digits with `+`, `*`, `#`; what people put between them is left out.
fn phone_number(text: &str) -> Option<String> {
    let number: String = text
        .chars()
        .filter(|c| !matches!(c, ' ' | '-' | '.' | '(' | ')' | '/' | '"'))
        .take(33)
        .collect();
    let (plus, digits) = number
        .strip_prefix('+')
        .map_or((false, number.as_str()), |digits| (true, digits));
    let valid = (1..=32).contains(&number.len())
        && digits.bytes().any(|b| b.is_ascii_digit())
        && digits
            .bytes()
            .all(|b| b.is_ascii_digit() || (!plus && matches!(b, b'*' | b'#')));
    valid.then_some(number)
}

/// A name, unless it only says that there is none.
fn name_of(text: &str) -> Option<String> {
    const NOBODY: [&str; 9] = [
        "unknown",
        "an unknown caller",
        "unknown caller",
        "unavailable",
        "anonymous",
        "private",
        "withheld",
        "restricted",
        "asterisk",
    ];
    let name = clean(text.trim().trim_matches('"'));
    let nobody = name.is_empty()
        || NOBODY.contains(&name.to_ascii_lowercase().as_str())
        || phone_number(&name).is_some();
    (!nobody).then_some(name)
}

/// Splits around the first `pattern` (ASCII), whatever its case.
fn split_at<'a>(text: &'a str, pattern: &str) -> Option<(&'a str, &'a str)> {
    let at = text.to_ascii_lowercase().find(pattern)?;
    Some((text.get(..at)?, text.get(at + pattern.len()..)?))
}
