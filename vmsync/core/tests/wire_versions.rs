//! The wire format across versions: old mails are read, newer ones too, and an old peer is sent nothing
//! that it would leave out.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail their test"
)]

mod wire_support;

use serde_json::{Value, json};
use vmsync_core::wire::{Form, Mail, Transfer, WireError};
use wire_support::{EXAMPLES, Example, NOW, OLD_EXAMPLES, eml, example, keys, read, well_formed};

const OLD: Form = Form {
    transfer: Transfer::Binary,
    peer_minor: 0,
};

#[test]
fn mails_of_version_1_0_are_read() {
    for name in OLD_EXAMPLES {
        let mail = read(&eml(name)).expect(name);
        assert_eq!(mail, example(name).mail, "{name}");
        assert_eq!(mail.head.version, "1.0");
        assert!(!mail.head.speaks(1), "{name}");
    }
}

/// Equal bytes but for the version: so a 1.0 peer reads what it always read.
#[test]
fn a_peer_of_version_1_0_is_written_what_1_0_wrote() {
    for name in OLD_EXAMPLES {
        let old = Example {
            form: OLD,
            ..example(name)
        };
        assert!(old.write().expect(name) == eml(name), "{name}");
    }
}

#[test]
fn a_peer_of_version_1_0_is_never_sent_what_it_would_leave_out() {
    let unknown = [
        ("seed-step", "records"),
        ("items", "items"),
        ("records", "records"),
        ("skips", "skips"),
        ("release", "records"),
    ];
    for name in EXAMPLES {
        let old = Example {
            form: OLD,
            ..example(name)
        };
        let written = old.write();
        if let Some((_, member)) = unknown.iter().find(|(n, _)| *n == name) {
            let Err(WireError::PeerTooOld { what, since, peer }) = written else {
                panic!("{name} was written for a 1.0 peer");
            };
            assert_eq!((what, since, peer), (*member, "1.1", 0));
            continue;
        }
        let written = written.expect(name);
        assert_eq!(read(&written).expect(name), old.mail, "{name}");
        well_formed(&written);
        let text = String::from_utf8(written).expect("ASCII");
        assert!(
            !text.contains("message/rfc822") && !text.contains("binary"),
            "{name}"
        );
    }
    // What no example has alone.
    let status = example("status").mail;
    let seed = Mail {
        seed: example("seed-step").mail.seed,
        ..status.clone()
    };
    let release = Mail {
        release: vec!["mailbox/2001".into()],
        ..status
    };
    for (mail, member) in [(seed, "seed"), (release, "release")] {
        let old = Example {
            form: OLD,
            ..Example::of(mail)
        };
        let error = old.write().expect_err(member).to_string();
        assert!(error.contains(&format!("`{member}`")), "{error}");
    }
}

/// `manifest` signed, as any program would mail it that knows this page.
fn mailed(manifest: &Value) -> Vec<u8> {
    let json = manifest.to_string();
    let signature = keys().sign("mail", json.as_bytes());
    format!(
        "Vmsync-Signature: {signature}\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
         --b\r\nContent-Type: application/vnd.vmsync.sync+json\r\n\r\n{json}\r\n--b--\r\n"
    )
    .into_bytes()
}

fn later() -> Value {
    json!({
        "head": {
            "version": "1.7", "id": "01935f00-0000-7000-8000-000000000003", "from": "vmpro1.5f3a9c01", "to": "vmpro2",
            "session": 7001, "have": {}, "digest": "x", "sent_at": "2026-11-22T08:00:00.250Z",
            "mood": {"of": "the day"}, "left": {"operations": 1, "bytes": 2, "minutes": 3},
        },
        "operations": [{"entity": "fax/1", "effect": {"fold": 3}, "colour": "blue"}],
        "records": [{"entity": "fax/1", "record": {"z": [1]}, "weight": 5}],
        "telegrams": ["STOP"],
        "attachments": [],
    })
}

#[test]
fn a_mail_of_a_later_version_is_read_and_what_it_adds_is_kept() {
    let mail = read(&mailed(&later())).expect("version 1.7");
    assert!(mail.head.speaks(7) && !mail.head.speaks(8));
    assert_eq!(mail.head.extra["mood"], json!({"of": "the day"}));
    let operation = mail.operations[0].value();
    assert_eq!(operation["colour"], "blue");
    assert_eq!(operation["effect"], json!({"fold": 3}));
    assert_eq!(mail.records[0].record, json!({"z": [1]}));
    assert_eq!(mail.head.left.map(|l| l.bytes), Some(2));
    // Passed on: what was kept is written again.
    let again = read(&Example::of(mail.clone()).write().expect("writes")).expect("reads");
    assert_eq!(again, mail);
}

#[test]
fn what_is_there_must_be_what_the_page_says() {
    let with = |path: &str, value: Value| {
        let mut manifest = later();
        *manifest.pointer_mut(path).expect(path) = value;
        read(&mailed(&manifest)).expect_err(path).to_string()
    };
    assert!(with("/head/version", json!("2.0")).contains("wire version 2.0"));
    assert!(with("/head/version", json!("1.+1")).contains("wire version 1.+1"));
    assert!(with("/head/session", json!("many")).contains("manifest"));
    assert!(with("/records", json!([{"entity": "fax/1"}])).contains("record"));
    let mut sums = later();
    for (text, fine) in [
        ("0".repeat(4096), true),
        ("0".repeat(4095), false),
        ("A".repeat(4096), false),
    ] {
        sums["head"]["buckets"] = json!(text);
        assert_eq!(read(&mailed(&sums)).is_ok(), fine, "{} digits", text.len());
    }
    // A reason may be of any length; what is kept of it is not.
    let mut skips = later();
    let skip =
        json!({"origin": "vmpro1.5f3a9c01", "seq": 1, "entity": "fax/1", "why": "ä".repeat(1000)});
    skips["skips"] = json!([skip]);
    let mail = read(&mailed(&skips)).expect("skips");
    assert_eq!(mail.skips[0].why, "ä".repeat(300));
}

#[test]
fn a_version_says_what_its_sender_speaks() {
    let mut head = example("hello").mail.head;
    for (version, minor) in [
        ("1.0", 0),
        ("1.1", 1),
        ("1.12", 12),
        ("2.5", 0),
        ("1.", 0),
        ("", 0),
    ] {
        head.version = version.into();
        assert_eq!(head.minor(), minor, "{version:?}");
        assert!(head.speaks(minor) && !head.speaks(minor + 1));
    }
    assert_eq!(NOW.peer_minor, example("hello").mail.head.minor());
}
