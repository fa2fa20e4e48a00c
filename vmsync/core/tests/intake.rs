//! Mails of PBXs: each file of `data/intake` against `data/intake/expected.txt`, and laws.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail their test"
)]

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

use proptest::prelude::*;
use vmsync_config::words::UnixMillis;
use vmsync_core::intake::{Incoming, IntakeError, read};

fn data(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(path)
}

fn mail(name: &str) -> Vec<u8> {
    fs::read(data(&format!("intake/{name}"))).expect(name)
}

fn arrival() -> UnixMillis {
    "2026-11-22T16:00:00Z".parse().expect("time")
}

/// The audio file of `data/audio` with these very bytes.
fn same_file(audio: &[u8]) -> &'static str {
    ["pcm16-8k.wav", "ulaw-8k.wav", "opus.ogg"]
        .into_iter()
        .find(|name| fs::read(data(&format!("audio/{name}"))).expect(name) == audio)
        .unwrap_or("none of them")
}

fn in_words(result: Result<Incoming, IntakeError>) -> String {
    let m = match result {
        Ok(message) => message,
        Err(why) => return format!("  554 {why}\n"),
    };
    let mut text = String::new();
    let caller: Vec<_> = [m.caller_name, m.caller_number]
        .into_iter()
        .flatten()
        .collect();
    if !caller.is_empty() {
        let _ = writeln!(text, "  caller: {}", caller.join(", "));
    }
    if let Some(called) = m.called_number {
        let _ = writeln!(text, "  called: {called}");
    }
    let _ = writeln!(text, "  received: {}", m.received_at);
    for (flag, name) in [(m.urgent, "urgent"), (m.private, "private")] {
        if flag {
            let _ = writeln!(text, "  {name}");
        }
    }
    let _ = writeln!(text, "  source: {}", m.source_id);
    let _ = writeln!(
        text,
        "  audio: {} {} {} {} ms, as data/audio/{}",
        m.file_name.unwrap_or_default(),
        m.content_type,
        m.measured.codec,
        m.measured.duration_ms,
        same_file(&m.audio)
    );
    text
}

/// R-MB-11: what was mailed to a user and comes back is not taken, however it was forwarded.
#[test]
fn a_voice_message_that_was_mailed_to_a_user_is_not_taken_again() {
    let mut back = b"Received: from a.relay\r\nVMSYNC-Delivery: 1\r\n".to_vec();
    let pbx = mail("asterisk.eml");
    back.extend(&pbx);
    assert_eq!(read(&back, arrival()), Err(IntakeError::OwnMail));
    assert!(read(&pbx, arrival()).is_ok());
}

#[test]
fn every_mail_becomes_what_the_table_says() {
    let table = String::from_utf8(mail("expected.txt")).expect("UTF-8");
    let mut expected: BTreeMap<String, String> = BTreeMap::new();
    let mut name = "";
    for line in table
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        if line.starts_with(' ') {
            let lines = expected.entry(name.to_owned()).or_default();
            lines.push_str(line);
            lines.push('\n');
        } else {
            name = line;
        }
    }
    let mut mails = fs::read_dir(data("intake"))
        .expect("folder")
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .filter(|name| {
            name.rsplit_once('.')
                .is_some_and(|(_, ending)| ending == "eml")
        })
        .collect::<Vec<_>>();
    mails.sort();
    for name in mails {
        let wanted = expected
            .remove(&name)
            .unwrap_or_else(|| panic!("{name} is not in the table"));
        assert_eq!(in_words(read(&mail(&name), arrival())), wanted, "{name}");
    }
    assert!(expected.is_empty(), "in the table only: {expected:?}");
}

/// `header` and a short recording, as one mail.
fn with_header(header: &str) -> Incoming {
    let mut mail = format!("{header}Content-Type: audio/wav\r\n\r\n").into_bytes();
    mail.extend(fs::read(data("audio/ulaw-8k.wav")).expect("audio"));
    read(&mail, arrival()).expect(header)
}

#[test]
fn callers_are_read_from_what_pbxs_write() {
    let cases = [
        (
            "Subject: Voicemail from \"Alice\" <5551234> 00:00:05",
            Some("Alice"),
            Some("5551234"),
        ),
        (
            "Subject: 5 sec Voicemail from Alice Example 5551234",
            Some("Alice Example"),
            Some("5551234"),
        ),
        (
            "Subject: New voicemail from +44 (20) 7946-0018",
            None,
            Some("+442079460018"),
        ),
        ("Subject: Voicemail from anonymous", None, None),
        (
            "Subject: Voicemail from \"5551234\" <5551234>",
            None,
            Some("5551234"),
        ),
        ("X-Asterisk-CallerID: alice", None, Some("alice")),
        ("X-Asterisk-CallerID: unknown", None, None),
        (
            "X-Asterisk-CallerID: sip:5551234@pbx.example.com",
            None,
            Some("5551234"),
        ),
        // The subject is about somebody else: names and numbers of two callers are not mixed.
        (
            "X-Asterisk-CallerID: 5551234\r\nSubject: Voicemail from \"Bob\" <5559999>",
            None,
            Some("5551234"),
        ),
        // A number in the address is a caller only if it isn't the mailbox itself.
        (
            "From: \"Alice\" <5551234@pbx.example.com>\r\nTo: 2001@vmpro1.example.com",
            Some("Alice"),
            Some("5551234"),
        ),
        (
            "From: \"Alice\" <2001@pbx.example.com>\r\nTo: 2001@vmpro1.example.com",
            None,
            None,
        ),
        (
            "From: \"Asterisk PBX\" <asterisk@pbx.example.com>",
            None,
            None,
        ),
    ];
    for (header, name, number) in cases {
        let m = with_header(&format!("{header}\r\n"));
        assert_eq!(
            (m.caller_name.as_deref(), m.caller_number.as_deref()),
            (name, number),
            "{header}"
        );
    }
}

#[test]
fn urgent_and_private_are_read_from_any_usual_header() {
    let flags = |header: &str| {
        let m = with_header(&format!("{header}\r\n"));
        (m.urgent, m.private)
    };
    for urgent in [
        "Importance: High",
        "Priority: urgent",
        "X-Priority: 1 (Highest)",
        "X-Priority: 2",
        "X-MSMail-Priority: High",
    ] {
        assert_eq!(flags(urgent), (true, false), "{urgent}");
    }
    for private in [
        "Sensitivity: Private",
        "Sensitivity: personal",
        "sensitivity: Company-Confidential",
    ] {
        assert_eq!(flags(private), (false, true), "{private}");
    }
    for neither in [
        "Importance: normal",
        "X-Priority: 3 (Normal)",
        "Sensitivity: none",
        "X-Priority: 5",
    ] {
        assert_eq!(flags(neither), (false, false), "{neither}");
    }
}

#[test]
fn an_unlikely_date_is_not_believed() {
    let at = |header: &str| {
        with_header(&format!("{header}\r\n"))
            .received_at
            .to_string()
    };
    assert_eq!(
        at("Date: Sun, 22 Nov 2026 16:30:00 +0000"),
        "2026-11-22T16:30:00.000Z"
    );
    for unlikely in [
        "Date: Sun, 22 Nov 2026 17:30:00 +0000",
        "Date: Thu, 01 Jan 1970 00:00:03 +0000",
        "Date: yesterday",
        "X-Nothing: 1",
    ] {
        assert_eq!(at(unlikely), "2026-11-22T16:00:00.000Z", "{unlikely}");
    }
}

/// A relay adds a header on each try; that doesn't make it another message.
#[test]
fn the_same_mail_tried_twice_has_one_source() {
    let first =
        with_header("Subject: Voicemail from 5551234\r\nDate: Sun, 22 Nov 2026 08:00:00 +0000\r\n");
    let again = with_header(
        "Received: by relay\r\nSubject: Voicemail from 5551234\r\nDate: Sun, 22 Nov 2026 08:00:00 +0000\r\n",
    );
    let later =
        with_header("Subject: Voicemail from 5551234\r\nDate: Sun, 22 Nov 2026 08:00:01 +0000\r\n");
    assert!(first.source_id.starts_with("sha256:"));
    assert_eq!(first.source_id, again.source_id);
    assert_ne!(first.source_id, later.source_id);
}

#[test]
fn bombs_are_refused_early() {
    let refused = |mail: String| {
        read(mail.as_bytes(), arrival())
            .expect_err("bomb")
            .to_string()
    };
    let parts =
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n".to_owned() + &"--b\n\n".repeat(400_000);
    assert!(refused(parts).contains("more than 600 parts"));
    assert!(refused("a:\n".repeat(600_000)).contains("header block"));
    let nested = (0..12).fold(String::new(), |s, n| {
        s + &format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n")
    });
    assert!(refused(nested).contains("nested more than 8 deep"));
    assert!(
        refused("Content-Type: multipart/mixed\r\n\r\nx".into())
            .contains("without a usable boundary")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Damage anywhere is survived; what is still read holds whole audio.
    #[test]
    fn damaged_mails_are_answered(
        name in prop::sample::select(vec!["asterisk.eml", "freepbx.eml", "freeswitch.eml", "nested-multiparts.eml"]),
        at in any::<prop::sample::Index>(), cut in 0_usize..60, put in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let mut mail = mail(name);
        let at = at.index(mail.len());
        mail.splice(at..(at + cut).min(mail.len()), put);
        match read(&mail, arrival()) {
            Ok(m) => prop_assert!(m.measured.duration_ms > 0 && !m.source_id.is_empty()),
            Err(why) => {
                let text = why.to_string();
                prop_assert!(text.len() < 400 && text.bytes().all(|b| (b' '..=b'~').contains(&b)), "{text:?}");
            }
        }
    }

    /// Any header text is survived and comes out fit to be shown.
    #[test]
    fn any_header_is_answered(value in "\\PC{0,60}", bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        for name in ["Subject", "From", "X-Asterisk-CallerIDName", "X-Asterisk-CallerID", "Message-ID", "Date"] {
            let wav = fs::read(data("audio/ulaw-8k.wav")).expect("audio");
            for value in [value.as_bytes(), &bytes] {
                let mail = [name.as_bytes(), b": from ", value, b"\r\nContent-Type: audio/wav\r\n\r\n", &wav].concat();
                if let Ok(m) = read(&mail, arrival()) {
                    for text in [m.caller_name, m.caller_number, m.called_number, Some(m.source_id)].into_iter().flatten() {
                        prop_assert!(!text.is_empty() && text.len() <= 520 && !text.contains(char::is_control), "{text:?}");
                    }
                }
            }
        }
    }
}
