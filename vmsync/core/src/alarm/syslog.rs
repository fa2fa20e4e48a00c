//! An alarm as a syslog message (RFC 5424), and its frame on a stream (RFC 6587 section 3.4.1).

use super::{ENTERPRISE, Facts, Notice};
use vmsync_config::{Severity, words::UnixMillis};

/// Longest text, bytes: with its header and facts a message stays below the 2,048 bytes every receiver
/// should take (RFC 5424 section 6.1).
const TEXT: usize = 1_000;
/// Longest subject, characters.
const SUBJECT: usize = 100;
/// The bytes that say "UTF-8 follows" (RFC 5424 section 6.4).
const BOM: &str = "\u{feff}";

/// One message. `facility` is its number (RFC 5424 section 6.2.1, 0 to 23), `host` the node's name, `process` its
/// process id. Nothing is written of an event.
pub fn message(notice: &Notice, facility: u8, host: &str, process: u32) -> Option<String> {
    let facts = notice.facts()?;
    let word = notice.word();
    let severity = match word {
        "raised" => severity(facts.severity),
        _ => severity(Severity::Notice),
    };
    let priority = u16::from(facility.min(23)) * 8 + u16::from(severity);
    let at = notice.at;
    let host = printable(host);
    Some(format!(
        "<{priority}>1 {at} {host} vmsync {process} alarm-{word} {data} {BOM}{text}",
        data = data(notice, facts),
        text = text(facts, word),
    ))
}

/// The message as one frame on a TCP or TLS stream: its length in bytes, a space, the message.
pub fn framed(message: &str) -> String {
    format!("{} {message}", message.len())
}

fn severity(severity: Severity) -> u8 {
    match severity {
        Severity::Critical => 2,
        Severity::Error => 3,
        Severity::Warning => 4,
        Severity::Notice => 5,
    }
}

fn data(notice: &Notice, facts: &Facts) -> String {
    let short: String = facts.subject.chars().take(SUBJECT).collect();
    let since = |t: UnixMillis| t.to_string();
    format!(
        "[vmsyncAlarm@{ENTERPRISE} id=\"{}\" number=\"{}\" state=\"{}\" code=\"{}\" subject=\"{}\" severity=\"{}\" since=\"{}\"]",
        notice.id.simple(),
        facts.number,
        notice.word(),
        escaped(&facts.code),
        escaped(&short),
        facts.severity.as_str(),
        since(facts.since),
    )
}

/// RFC 5424 section 6.3.3.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' | ']' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

fn text(facts: &Facts, word: &str) -> String {
    let text = format!("{} {word}: {}: {}", facts.code, facts.subject, facts.text);
    let mut out = String::with_capacity(text.len().min(TEXT));
    for c in text.chars() {
        if out.len() + c.len_utf8() > TEXT {
            break;
        }
        out.push(if c.is_control() { ' ' } else { c });
    }
    out
}

/// PRINTUSASCII, or the nil value.
fn printable(text: &str) -> String {
    let host: String = text
        .chars()
        .filter(char::is_ascii_graphic)
        .take(255)
        .collect();
    if host.is_empty() {
        "-".to_owned()
    } else {
        host
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{super::What, *};

    fn facts(text: &str) -> Facts {
        Facts {
            number: 7,
            code: "voicemail_failover".to_owned(),
            subject: "branch".to_owned(),
            text: text.to_owned(),
            severity: Severity::Critical,
            since: UnixMillis(1_066_000_455_003),
        }
    }

    fn notice(what: What) -> Notice {
        Notice {
            id: Uuid::from_u128(1),
            at: UnixMillis(1_066_000_455_003),
            what,
        }
    }

    /// The form of RFC 5424 section 6.5, example 3: header, structured data, BOM, text.
    #[test]
    fn a_begin_as_rfc_5424_writes_it() {
        let raised = notice(What::Raised(facts(
            "voicemail of branch is served by vmpro2",
        )));
        let message = message(&raised, 20, "vmpro2.example.com", 4711).unwrap();
        assert_eq!(
            message,
            "<162>1 2003-10-12T23:14:15.003Z vmpro2.example.com vmsync 4711 alarm-raised \
             [vmsyncAlarm@32473 id=\"00000000000000000000000000000001\" number=\"7\" state=\"raised\" \
             code=\"voicemail_failover\" subject=\"branch\" severity=\"critical\" since=\"2003-10-12T23:14:15.003Z\"] \
             \u{feff}voicemail_failover raised: branch: voicemail of branch is served by vmpro2"
        );
        assert_eq!(framed("<34>1"), "5 <34>1");
        assert_eq!(framed("\u{feff}x"), "4 \u{feff}x", "bytes, not characters");
    }

    #[test]
    fn an_end_is_a_notice_of_the_same_facility() {
        let cleared = notice(What::Cleared(facts("")));
        let message = message(&cleared, 1, "h", 1).unwrap();
        assert!(
            message.starts_with("<13>1 ") && message.contains(" alarm-cleared "),
            "{message}"
        );
    }

    #[test]
    fn nothing_in_a_subject_ends_the_data_or_the_line() {
        let mut wild = facts("two\nlines\0");
        wild.subject = "a\"b\\c]d\ne".to_owned();
        let message = message(&notice(What::Raised(wild)), 16, "", 1).unwrap();
        assert!(
            message.contains("subject=\"a\\\"b\\\\c\\]d e\""),
            "{message}"
        );
        assert!(!message.contains(char::is_control) && message.contains("two lines"));
        assert!(
            message.contains("Z - vmsync "),
            "no host is the nil value: {message}"
        );
    }

    #[test]
    fn a_message_stays_below_what_every_receiver_takes() {
        let mut long = facts(&"ü".repeat(5_000));
        long.subject = "\"".repeat(200);
        let message = message(&notice(What::Raised(long)), 23, &"h".repeat(300), u32::MAX).unwrap();
        assert!(message.len() < 2_048, "{}", message.len());
    }
}
