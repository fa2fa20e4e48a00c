//! A notice as a webhook in the form of the Standard Webhooks specification 1.0.0: the JSON, its signature,
//! and what an answer means.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use vmsync_config::words::{NodeId, UnixMillis};

use super::{Item, What};

/// How such secrets are written: this, then base64.
const PREFIX: &str = "whsec_";
/// Bytes of a secret: 192 bits at least, 512 at most.
const SECRET: std::ops::RangeInclusive<usize> = 24..=64;

/// Reads a secret as the file has it: `whsec_` and base64, or the text itself. `Err` says what is wrong, without it.
pub fn secret(line: &str) -> Result<Vec<u8>, String> {
    let bytes = match line.strip_prefix(PREFIX) {
        Some(coded) => STANDARD
            .decode(coded.trim())
            .map_err(|_| format!("what follows {PREFIX} is not base64"))?,
        None => line.as_bytes().to_vec(),
    };
    if SECRET.contains(&bytes.len()) {
        return Ok(bytes);
    }
    Err(format!(
        "the secret has {} bytes: write {PREFIX} and base64 of {} to {} random ones",
        bytes.len(),
        SECRET.start(),
        SECRET.end()
    ))
}

/// The `webhook-id`: the same for every try, and without a full stop.
pub fn id(item: &Item) -> String {
    format!("msg_{}", item.notice.id.simple())
}

/// The body.
pub fn body(item: &Item, node: &NodeId) -> String {
    let notice = &item.notice;
    let kind = match &notice.what {
        What::Event { kind, .. } => kind.clone(),
        _ => format!("alarm.{}", notice.word()),
    };
    let data = match (&notice.what, notice.facts()) {
        (What::Event { data, .. }, _) => data.clone(),
        (_, None) => Value::Null,
        (what, Some(facts)) => json!({
            "id": facts.number,
            "code": facts.code,
            "subject": facts.subject,
            "text": facts.text,
            "severity": facts.severity.as_str(),
            "since": facts.since,
            "cleared": matches!(what, What::Cleared(_)).then_some(notice.at),
        }),
    };
    let mut whole = json!({
        "type": kind,
        "timestamp": notice.at,
        "node": node,
        "sequence": item.number,
        "missed": item.missed,
        "data": data,
    });
    if let What::Event {
        event: Some(event), ..
    } = &notice.what
    {
        whole["event"] = json!(event);
    }
    whole.to_string()
}

/// The `webhook-signature` of a try at `now`.
pub fn signature(secret: &[u8], id: &str, now: UnixMillis, body: &str) -> String {
    // HMAC takes a key of any length, so this is never the other.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else {
        return String::new();
    };
    mac.update(format!("{id}.{}.", seconds(now)).as_bytes());
    mac.update(body.as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// The `webhook-timestamp`: seconds since 1970.
pub fn seconds(now: UnixMillis) -> u64 {
    now.0 / 1000
}

/// What an answer's status means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Taken.
    Taken,
    /// Not taken; to be tried again.
    Again,
    /// Never to be tried again: 410 Gone.
    Gone,
}

/// 2xx has taken it; 410 wants it never; all else (a redirection, too: the signed body goes where the configuration
/// says and nowhere else) is tried again.
pub fn answer(status: u16) -> Answer {
    match status {
        200..=299 => Answer::Taken,
        410 => Answer::Gone,
        _ => Answer::Again,
    }
}

/// How long a `Retry-After` of seconds asks to wait (RFC 9110 section 10.2.3). `None` of anything else, a date too: the
/// pace of tries goes on by itself.
pub fn retry_after(value: &str) -> Option<Duration> {
    value.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;
    use vmsync_config::Severity;

    use super::{
        super::{Facts, Notice},
        *,
    };

    /// The example of the specification's own libraries.
    #[test]
    fn the_signature_is_that_of_the_specification() {
        let secret = secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = signature(
            &secret,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            UnixMillis(1_614_265_330_000),
            "{\"test\": 2432232314}",
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_is_long_enough() {
        assert!(secret("short").is_err() && secret("whsec_c2hvcnQ=").is_err());
        let wrong = secret("whsec_*****************************").unwrap_err();
        assert!(wrong.contains("base64") && !wrong.contains("***"));
        assert_eq!(secret(&"x".repeat(24)).unwrap().len(), 24);
    }

    #[test]
    fn the_body_of_a_begin_and_of_an_event() {
        let facts = Facts {
            number: 7,
            code: "voicemail_failover".to_owned(),
            subject: "branch".to_owned(),
            text: "words".to_owned(),
            severity: Severity::Critical,
            since: UnixMillis(1000),
        };
        let item = |what| Item {
            number: 3,
            missed: 0,
            notice: Arc::new(Notice {
                id: Uuid::from_u128(1),
                at: UnixMillis(2000),
                what,
            }),
        };
        let node: NodeId = "vmpro2".parse().unwrap();
        let read = |what| serde_json::from_str::<Value>(&body(&item(what), &node)).unwrap();
        assert_eq!(
            id(&item(What::Raised(facts.clone()))),
            "msg_00000000000000000000000000000001"
        );
        assert_eq!(
            read(What::Cleared(facts)),
            json!({
                "type": "alarm.cleared", "timestamp": "1970-01-01T00:00:02.000Z", "node": "vmpro2",
                "sequence": 3, "missed": 0,
                "data": {
                    "id": 7, "code": "voicemail_failover", "subject": "branch", "text": "words",
                    "severity": "critical", "since": "1970-01-01T00:00:01.000Z",
                    "cleared": "1970-01-01T00:00:02.000Z",
                },
            })
        );
        let event = What::Event {
            kind: "ownership".to_owned(),
            event: Some("1-2".to_owned()),
            data: json!({"group": "primary"}),
        };
        let event = read(event);
        assert_eq!(
            (&event["type"], &event["event"]),
            (&json!("ownership"), &json!("1-2"))
        );
        assert_eq!(event["data"]["group"], "primary");
    }

    #[test]
    fn a_receiver_says_how_long_to_wait_in_seconds() {
        assert_eq!(retry_after(" 125 "), Some(Duration::from_secs(125)));
        for other in ["", "-1", "1.5", "Wed, 21 Oct 2015 07:28:00 GMT"] {
            assert_eq!(retry_after(other), None, "{other}");
        }
    }

    #[test]
    fn what_an_answer_means() {
        assert_eq!(
            [200, 204, 302, 404, 410, 429, 503].map(answer),
            [
                Answer::Taken,
                Answer::Taken,
                Answer::Again,
                Answer::Again,
                Answer::Gone,
                Answer::Again,
                Answer::Again,
            ]
        );
    }
}
