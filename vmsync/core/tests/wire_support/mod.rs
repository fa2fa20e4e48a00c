//! What the tests of the wire format share: the example mails and their key.

use std::{fs, path::PathBuf};

use bytes::Bytes;
use serde_json::Value;
use vmsync_config::words::NodeId;
use vmsync_core::wire::{
    Addresses, CarriedAudio, Form, Keys, Mail, Voice, WireError, decode, encode,
};

pub(crate) const EXAMPLES: [&str; 4] = ["hello", "status", "voice-message", "changes"];

pub(crate) fn data(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(path)
}

pub(crate) fn keys() -> Keys {
    Keys::parse(&fs::read_to_string(data("wire/pair.key")).expect("key file")).expect("keys")
}

pub(crate) fn peer() -> NodeId {
    NodeId::new("vmpro2").expect("id")
}

pub(crate) fn addresses() -> Addresses {
    Addresses {
        from: "vmsync@vmpro1.example.com".into(),
        to: "vmsync@vmpro2.example.com".into(),
    }
}

/// Input of an example mail, from its JSON.
pub(crate) fn example(name: &str) -> (Mail, Option<Voice>, Addresses) {
    let text = fs::read_to_string(data(&format!("wire/{name}.json"))).expect(name);
    let input: Value = serde_json::from_str(&text).expect(name);
    let text = |v: &Value| v.as_str().map(str::to_owned);
    let mail = Mail {
        operations: input["mail"]["operations"]
            .as_array()
            .expect("operations")
            .clone(),
        audio: input["mail"]["audio"]
            .as_array()
            .expect("audio")
            .iter()
            .map(|audio| {
                let file = audio["file"].as_str().expect("file");
                let bytes = fs::read(data(&format!("audio/{file}"))).expect("audio file");
                CarriedAudio::new(audio["about"].clone(), bytes)
            })
            .collect(),
        ..Mail::of(serde_json::from_value(input["mail"]["head"].clone()).expect("head"))
    };
    let voice = input.get("voice").map(|v| Voice {
        mailbox: text(&v["mailbox"]).expect("mailbox"),
        caller_number: text(&v["caller_number"]),
        caller_name: text(&v["caller_name"]),
        duration_ms: v["duration_ms"].as_u64().expect("duration_ms"),
        urgent: v["urgent"] == true,
        private: v["private"] == true,
        received_at: text(&v["received_at"]).map(|t| t.parse().expect("received_at")),
    });
    let addresses = Addresses {
        from: text(&input["addresses"]["from"]).expect("from"),
        to: text(&input["addresses"]["to"]).expect("to"),
    };
    (mail, voice, addresses)
}

/// `bytes` as node `vmpro2` reads them.
pub(crate) fn read(bytes: &[u8]) -> Result<Mail, WireError> {
    decode(&Bytes::copy_from_slice(bytes), &keys(), &peer())
}

/// Written for a peer of this version.
pub(crate) fn write(mail: &Mail, voice: Option<&Voice>) -> Result<Vec<u8>, WireError> {
    let form = Form {
        peer_minor: 1,
        ..Form::default()
    };
    encode(mail, &[voice.cloned()], &addresses(), &keys(), form)
}

pub(crate) fn eml(name: &str) -> Vec<u8> {
    fs::read(data(&format!("wire/{name}.eml"))).expect(name)
}

/// RFC 5321 section 4.5.3.1.6 and RFC 5322 section 2.1.1, and 7 bits only.
pub(crate) fn well_formed(mail: &[u8]) {
    assert!(mail.ends_with(b"\r\n"));
    for line in mail.split_inclusive(|b| *b == b'\n') {
        let text = line.strip_suffix(b"\r\n").expect("CRLF ends each line");
        assert!(text.len() <= 998, "a line of {} bytes", text.len());
        assert!(
            text.iter().all(|b| (b' '..=b'~').contains(b)),
            "{:?}",
            line.escape_ascii().to_string()
        );
    }
}
