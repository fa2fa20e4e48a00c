//! An alarm as a mail: plain text, from a machine, the same every time it is sent.

use std::fmt::Write as _;

use super::{Item, What};
use crate::wire::{
    WireError,
    encode::{address, date},
    write::{header, text_body, text_header},
};

/// All there is to say.
#[derive(Debug, Clone, Copy)]
pub struct AlarmMail<'a> {
    /// What is told.
    pub item: &'a Item,
    /// The node that tells it.
    pub node: &'a str,
    /// Its name: the right-hand side of the Message-ID.
    pub fqdn: &'a str,
    /// From whom.
    pub from: &'a str,
    /// To whom.
    pub to: &'a str,
}

/// Writes the mail: CRLF lines of 7 bits. `None` of an event.
///
/// # Errors
/// One of the addresses is none.
pub fn write(mail: &AlarmMail<'_>) -> Result<Option<Vec<u8>>, WireError> {
    let notice = &mail.item.notice;
    let Some(facts) = notice.facts() else {
        return Ok(None);
    };
    let (from, to) = (address(mail.from)?, address(mail.to)?);
    let mut out = Vec::with_capacity(1024);
    let sent = date(notice.at).unwrap_or_else(|| "Thu, 1 Jan 1970 00:00:00 +0000".into());
    header(&mut out, "Date", &sent);
    header(&mut out, "From", &format!("vmsync {} <{from}>", mail.node));
    header(&mut out, "To", &format!("<{to}>"));
    let id = format!("<{}.alarm@{}>", notice.id.simple(), mail.fqdn);
    header(&mut out, "Message-ID", &id);
    let word = notice.word();
    let subject = format!(
        "[vmsync {}] {word}: {} {}",
        mail.node, facts.code, facts.subject
    );
    text_header(&mut out, "Subject", &subject);
    // No out-of-office answers to a machine (RFC 3834 section 5).
    header(&mut out, "Auto-Submitted", "auto-generated");
    header(
        &mut out,
        "Vmsync-Alarm",
        &format!("{word} {}", facts.number),
    );
    header(&mut out, "MIME-Version", "1.0");
    header(&mut out, "Content-Type", "text/plain; charset=utf-8");
    let mut text = format!("{}\r\n\r\n", facts.text);
    let mut line = |name: &str, value: &str| {
        let _ = write!(text, "{name:<9} {value}\r\n");
    };
    line("alarm", &facts.code);
    line("subject", &facts.subject);
    line("severity", facts.severity.as_str());
    line("node", mail.node);
    line("number", &facts.number.to_string());
    line("since", &facts.since.to_string());
    if matches!(notice.what, What::Cleared(_)) {
        line("ended", &notice.at.to_string());
    }
    if mail.item.missed > 0 {
        let missed = format!(
            "{} notices before this one were dropped; the list has the truth",
            mail.item.missed
        );
        line("missed", &missed);
    }
    text_body(&mut out, &text);
    Ok(Some(out))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;
    use vmsync_config::{Severity, words::UnixMillis};

    use super::{
        super::{Facts, Notice},
        *,
    };

    fn mail(what: fn(Facts) -> What, text: &str, to: &str) -> Result<Option<String>, WireError> {
        let item = Item {
            number: 1,
            missed: 2,
            notice: Arc::new(Notice {
                id: Uuid::from_u128(1),
                at: UnixMillis(1_066_000_455_003),
                what: what(Facts {
                    number: 7,
                    code: "voicemail_failover".to_owned(),
                    subject: "branch".to_owned(),
                    text: text.to_owned(),
                    severity: Severity::Critical,
                    since: UnixMillis(1_066_000_455_003),
                }),
            }),
        };
        let mail = write(&AlarmMail {
            item: &item,
            node: "vmpro1",
            fqdn: "vmpro1.example.com",
            from: "vmsync@vmpro1.example.com",
            to,
        })?;
        Ok(mail.map(|m| String::from_utf8(m).unwrap()))
    }

    #[test]
    fn a_begin_byte_for_byte() {
        let text = mail(
            What::Raised,
            "voicemail of branch is served by vmpro2",
            "noc@example.com",
        );
        assert_eq!(
            text.unwrap().unwrap(),
            "Date: Sun, 12 Oct 2003 23:14:15 +0000\r\n\
             From: vmsync vmpro1 <vmsync@vmpro1.example.com>\r\n\
             To: <noc@example.com>\r\n\
             Message-ID: <00000000000000000000000000000001.alarm@vmpro1.example.com>\r\n\
             Subject: [vmsync vmpro1] raised: voicemail_failover branch\r\n\
             Auto-Submitted: auto-generated\r\n\
             Vmsync-Alarm: raised 7\r\n\
             MIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: 7bit\r\n\r\n\
             voicemail of branch is served by vmpro2\r\n\r\n\
             alarm     voicemail_failover\r\n\
             subject   branch\r\n\
             severity  critical\r\n\
             node      vmpro1\r\n\
             number    7\r\n\
             since     2003-10-12T23:14:15.003Z\r\n\
             missed    2 notices before this one were dropped; the list has the truth\r\n"
        );
    }

    #[test]
    fn nothing_in_a_text_becomes_a_header_or_a_bare_line_end() {
        let text = mail(
            What::Cleared,
            "a\r\nBcc: x@example.com\n.\nü",
            "noc@example.com",
        );
        let text = text.unwrap().unwrap();
        let (head, _) = text.split_once("\r\n\r\n").unwrap();
        assert!(!head.contains("Bcc") && head.contains("base64"), "{text}");
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']));
        assert!(mail(What::Cleared, "", "two words").is_err());
    }
}
