//! What the tests of the wire format share: the example mails and their key.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::{fs, path::PathBuf};

use bytes::Bytes;
use serde_json::Value;
use vmsync_config::words::NodeId;
use vmsync_core::wire::{
    Addresses, CarriedAudio, Form, Keys, Mail, Transfer, Voice, WireError, decode, encode,
};

pub(crate) const EXAMPLES: [&str; 12] = [
    "hello",
    "status",
    "probe",
    "voice-message",
    "voice-message-binary",
    "changes",
    "digest",
    "seed-step",
    "items",
    "records",
    "skips",
    "release",
];

/// Mails as version 1.0 wrote them.
pub(crate) const OLD_EXAMPLES: [&str; 4] = [
    "v1.0/hello",
    "v1.0/status",
    "v1.0/voice-message",
    "v1.0/changes",
];

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

/// A mail, and what else `encode` is told.
#[derive(Debug, Clone)]
pub(crate) struct Example {
    pub(crate) mail: Mail,
    pub(crate) voices: Vec<Option<Voice>>,
    pub(crate) form: Form,
}

impl Example {
    pub(crate) fn of(mail: Mail) -> Self {
        Self {
            mail,
            voices: Vec::new(),
            form: NOW,
        }
    }

    pub(crate) fn write(&self) -> Result<Vec<u8>, WireError> {
        encode(&self.mail, &self.voices, &addresses(), &keys(), self.form)
    }
}

/// For a peer of this version, through any server.
pub(crate) const NOW: Form = Form {
    transfer: Transfer::Base64,
    peer_minor: 1,
};

/// Input of an example mail, from its JSON.
pub(crate) fn example(name: &str) -> Example {
    let text = fs::read_to_string(data(&format!("wire/{name}.json"))).expect(name);
    let input: Value = serde_json::from_str(&text).expect(name);
    let list = |list: &Value| list.as_array().cloned().unwrap_or_default();
    let mail = &input["mail"];
    let mail = Mail {
        operations: list(&mail["operations"])
            .into_iter()
            .map(Into::into)
            .collect(),
        records: part(&mail["records"]),
        seed: part(&mail["seed"]),
        items: part(&mail["items"]),
        skips: part(&mail["skips"]),
        release: part(&mail["release"]),
        audio: list(&mail["audio"]).iter().map(audio).collect(),
        ..Mail::of(serde_json::from_value(mail["head"].clone()).expect("head"))
    };
    let transfer = match input["transfer"].as_str() {
        Some("binary") => Transfer::Binary,
        _ => Transfer::Base64,
    };
    let voices = match input.get("voice") {
        Some(one) => vec![voice(one)],
        None => list(&input["voices"]).iter().map(voice).collect(),
    };
    Example {
        mail,
        voices,
        form: Form { transfer, ..NOW },
    }
}

fn part<T: serde::de::DeserializeOwned + Default>(value: &Value) -> T {
    if value.is_null() {
        T::default()
    } else {
        serde_json::from_value(value.clone()).expect("a part of the example")
    }
}

fn audio(audio: &Value) -> CarriedAudio {
    let file = audio["file"].as_str().expect("file");
    let bytes = fs::read(data(&format!("audio/{file}"))).expect("audio file");
    CarriedAudio::new(audio["about"].clone(), bytes)
}

fn voice(v: &Value) -> Option<Voice> {
    let text = |v: &Value| v.as_str().map(str::to_owned);
    Some(Voice {
        mailbox: text(&v["mailbox"])?,
        caller_number: text(&v["caller_number"]),
        caller_name: text(&v["caller_name"]),
        duration_ms: v["duration_ms"].as_u64().expect("duration_ms"),
        urgent: v["urgent"] == true,
        private: v["private"] == true,
        received_at: text(&v["received_at"]).map(|t| t.parse().expect("received_at")),
    })
}

/// `bytes` as node `vmpro2` reads them.
pub(crate) fn read(bytes: &[u8]) -> Result<Mail, WireError> {
    decode(&Bytes::copy_from_slice(bytes), &keys(), &peer())
}

pub(crate) fn eml(name: &str) -> Vec<u8> {
    fs::read(data(&format!("wire/{name}.eml"))).expect(name)
}

/// RFC 5321 section 4.5.3.1.6 and RFC 5322 section 2.1.1, and 7 bits only.
pub(crate) fn well_formed(mail: &[u8]) {
    assert!(mail.ends_with(b"\r\n"));
    for line in mail.split_inclusive(|b| *b == b'\n') {
        well_formed_line(line);
    }
}

/// The same of a mail with binary bodies: of all that is neither audio nor the manifest.
pub(crate) fn well_formed_but_for(bodies: &[CarriedAudio], mail: &[u8]) {
    let mut rest = mail.to_vec();
    for body in bodies.iter().map(CarriedAudio::bytes) {
        let found = rest.windows(body.len().max(1)).position(|w| w == body);
        if let Some(at) = found.filter(|_| !body.is_empty()) {
            rest.splice(at..at + body.len(), *b"audio");
        }
    }
    for line in rest.split_inclusive(|b| *b == b'\n') {
        if !line.starts_with(b"{\"head\"") {
            well_formed_line(line);
        }
    }
}

fn well_formed_line(line: &[u8]) {
    let text = line.strip_suffix(b"\r\n").expect("CRLF ends each line");
    assert!(text.len() <= 998, "a line of {} bytes", text.len());
    assert!(
        text.iter().all(|b| (b' '..=b'~').contains(b)),
        "{:?}",
        line.escape_ascii().to_string()
    );
}
