//! The largest values the store takes, each checked where it enters.

use vmsync_config::words::{EmailMode, SystemName};

use crate::{
    error::StoreError,
    model::{MailboxPatch, MessageFacts},
};

/// Name of a mailbox, in characters.
const NAME: usize = 200;
/// E-mail address, in characters (RFC 5321 section 4.5.3.1.3, less the angle brackets).
const EMAIL: usize = 254;
/// Each text of a message's facts, in characters.
const FACT: usize = 200;
/// Key of a repeated deposit: a Message-ID may fill a line (RFC 5322 section 2.1.1).
const SOURCE_ID: usize = 998;
/// Name of a call flow or setting, in characters.
const LABEL: usize = 100;
/// Source text of a call flow, in bytes.
const FLOW_SOURCE: usize = 256 * 1024;
/// A setting's value as JSON, in bytes.
const SETTING: usize = 16 * 1024;
/// An operation of the peer as JSON, in bytes: above all of these, with room for newer versions.
pub(crate) const OPERATION: usize = 1024 * 1024;
/// A record of the peer as JSON, in bytes: several operations of the largest size.
pub(crate) const RECORD: usize = 16 * 1024 * 1024;
/// Origins in a vector of the peer: each is an incarnation of one of two nodes under which something
/// was written. A peer that holds more can't be told what is lacking, nor seeded.
pub const MAX_ORIGINS: usize = 1_000;
/// Name of a field of an operation, in bytes.
pub(crate) const FIELD: usize = 200;
/// A node-local record, in bytes.
const LOCAL: usize = 1024 * 1024;

fn invalid(text: impl Into<String>) -> StoreError {
    StoreError::Invalid(text.into())
}

fn text(what: &str, value: &str, most: usize) -> Result<(), StoreError> {
    if value.chars().count() > most {
        return Err(invalid(format!(
            "{what} is longer than {most} characters; shorten it"
        )));
    }
    if value.chars().any(char::is_control) {
        return Err(invalid(format!(
            "{what} holds a control character; remove it"
        )));
    }
    Ok(())
}

pub(crate) fn mailbox_patch(patch: &MailboxPatch) -> Result<(), StoreError> {
    if let Some(name) = &patch.name {
        text("the mailbox's name", name, NAME)?;
    }
    if let Some(email) = patch.email.as_deref().filter(|e| !e.is_empty()) {
        text("the e-mail address", email, EMAIL)?;
        let whole = email
            .rsplit_once('@')
            .is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
        if !whole || email.contains(char::is_whitespace) {
            return Err(invalid(format!(
                "{email:?} is not an e-mail address: expected user@domain"
            )));
        }
    }
    if let Some(system) = patch.home_system.as_deref().filter(|s| !s.is_empty()) {
        SystemName::new(system).map_err(|e| invalid(e.to_string()))?;
    }
    if let Some(pin) = patch.pin.as_deref().filter(|p| !p.is_empty()) {
        // The PIN itself is never repeated in an error.
        if !(4..=15).contains(&pin.len()) || !pin.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid("a PIN has 4 to 15 digits"));
        }
    }
    Ok(())
}

/// Checks that mails can be addressed to a mailbox that is to get them. What is asked beyond
/// [`mailbox_patch`] is what SMTP without its extension for other scripts (RFC 6531) can carry.
pub(crate) fn mailable(mode: EmailMode, email: Option<&str>) -> Result<(), StoreError> {
    let mode = mode.as_str();
    let Some(email) = email else {
        return Err(invalid(format!(
            "e-mail mode {mode} needs an e-mail address: set email too, or set email_mode to off first"
        )));
    };
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    let word = |w: &str| {
        !w.is_empty()
            && w.bytes()
                .all(|b| b.is_ascii_graphic() && !b"<>()[]\\,;:\"@".contains(&b))
    };
    // RFC 5321 section 4.5.3.1: 64 characters before the @, 254 in all.
    let sound = email.rsplit_once('@').is_some_and(|(local, domain)| {
        local.len() <= 64
            && local.split('.').all(word)
            && domain.len() <= 253
            && domain.split('.').all(label)
    });
    if sound {
        return Ok(());
    }
    Err(invalid(format!(
        "{email:?} can't be mailed to (e-mail mode {mode}): plain user@domain is needed, letters of other scripts in the domain as xn--"
    )))
}

pub(crate) fn facts(facts: &MessageFacts) -> Result<(), StoreError> {
    for (what, value, most) in [
        ("the caller's number", &facts.caller_number, FACT),
        ("the caller's name", &facts.caller_name, FACT),
        ("the called number", &facts.called_number, FACT),
        ("the source id", &facts.source_id, SOURCE_ID),
    ] {
        if let Some(value) = value {
            text(what, value, most)?;
        }
    }
    Ok(())
}

/// Checks the name of a call flow or setting; `what` is said in the error.
pub(crate) fn label(what: &str, name: &str) -> Result<(), StoreError> {
    if name.is_empty() {
        return Err(invalid(format!("{what} is empty")));
    }
    text(what, name, LABEL)
}

pub(crate) fn flow_source(source: &str) -> Result<(), StoreError> {
    if source.len() > FLOW_SOURCE {
        return Err(invalid(format!(
            "the call flow has {} bytes; at most {FLOW_SOURCE} are taken",
            source.len()
        )));
    }
    Ok(())
}

pub(crate) fn setting(name: &str, value: &serde_json::Value) -> Result<(), StoreError> {
    label("the setting's name", name)?;
    let size = value.to_string().len();
    if size > SETTING {
        return Err(invalid(format!(
            "the value of setting {name} has {size} bytes; at most {SETTING} are taken"
        )));
    }
    Ok(())
}

pub(crate) fn local(space: &str, key: &str, value: Option<&[u8]>) -> Result<(), StoreError> {
    let sound = |s: &str| !s.is_empty() && s.len() <= 200 && !s.contains('\0');
    if !sound(space) || key.len() > 512 {
        return Err(invalid(format!(
            "local record {space:?}/{key:?}: the space has 1 to 200 bytes without NUL, the key at most 512"
        )));
    }
    if value.is_some_and(|v| v.len() > LOCAL) {
        return Err(invalid(format!(
            "local record {space}/{key} is larger than {LOCAL} bytes"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(change: impl FnOnce(&mut MailboxPatch)) -> Result<(), StoreError> {
        let mut patch = MailboxPatch::default();
        change(&mut patch);
        mailbox_patch(&patch)
    }

    #[test]
    fn what_a_mailbox_may_be_given() {
        assert!(patch(|p| p.name = Some("Zoë Reception".into())).is_ok());
        assert!(patch(|p| p.name = Some("x".repeat(201))).is_err());
        assert!(patch(|p| p.email = Some("zoe@example.com".into())).is_ok());
        assert!(patch(|p| p.email = Some(String::new())).is_ok());
        assert!(patch(|p| p.email = Some("zoe".into())).is_err());
        assert!(patch(|p| p.email = Some("zoe @example.com".into())).is_err());
        assert!(patch(|p| p.pin = Some("1234".into())).is_ok());
        assert!(patch(|p| p.pin = Some(String::new())).is_ok());
        assert!(patch(|p| p.home_system = Some("Sydney/1".into())).is_err());
    }

    #[test]
    fn a_refused_pin_is_not_repeated() {
        for pin in ["123", "1234567890123456", "12a4"] {
            let error = patch(|p| p.pin = Some(pin.into())).unwrap_err().to_string();
            assert!(!error.contains(pin), "{error}");
        }
    }

    #[test]
    fn large_values_are_refused_by_name() {
        let big = serde_json::Value::String("x".repeat(SETTING));
        assert!(
            setting("failback.policy", &big)
                .unwrap_err()
                .to_string()
                .contains("failback.policy")
        );
        assert!(flow_source(&"x".repeat(FLOW_SOURCE + 1)).is_err());
        assert!(label("the call flow's name", "").is_err());
        assert!(
            facts(&MessageFacts {
                caller_name: Some("x".repeat(201)),
                ..MessageFacts::default()
            })
            .is_err()
        );
        assert!(local("phones", "2001", Some(&vec![0; LOCAL + 1])).is_err());
    }
}
