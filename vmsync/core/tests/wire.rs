//! The wire format: example mails byte for byte, and what happens to mails that were touched.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail their test"
)]

mod wire_support;

use std::fs;

use bytes::Bytes;
use serde_json::json;
use vmsync_config::words::NodeId;
use vmsync_core::wire::{
    Addresses, BucketItems, CarriedAudio, Form, Item, Keys, MAX_ITEMS, MAX_JSON_DEPTH,
    MAX_OPERATIONS, MAX_RECORDS, MAX_RELEASED, Mail, Record, Transfer, WireError, decode, encode,
};
use wire_support::{
    EXAMPLES, Example, addresses, data, eml, example, keys, peer, read, well_formed,
    well_formed_but_for,
};

#[test]
fn examples_are_reproduced_byte_for_byte_and_read_back() {
    for name in EXAMPLES {
        let example = example(name);
        let written = example.write().expect(name);
        if std::env::var_os("VMSYNC_WRITE_EXAMPLES").is_some() {
            fs::write(data(&format!("wire/{name}.eml")), &written).expect(name);
        }
        assert!(
            written == eml(name),
            "{name}.eml differs from what encode writes"
        );
        assert_eq!(read(&eml(name)).expect(name), example.mail, "{name}");
        if example.form.transfer == Transfer::Binary {
            well_formed_but_for(&example.mail.audio, &written);
        } else {
            well_formed(&written);
        }
    }
}

/// Any mail program's parser finds words, a playable attachment and the IVM headers.
#[test]
fn a_voice_message_is_an_internet_voice_mail() {
    use mail_parser::{MessageParser, MimeHeaders as _};
    let raw = eml("voice-message");
    let mail = MessageParser::default().parse(&raw).expect("a mail");
    assert_eq!(
        mail.subject(),
        Some("Voice message from Jörg Schäfer (5551234) for 2001")
    );
    let header = |name| mail.header_raw(name).map(str::trim);
    assert_eq!(header("Message-Context"), Some("voice-message"));
    assert_eq!(header("Importance"), Some("high"));
    assert_eq!(header("Sensitivity"), Some("private"));
    let words = mail.body_text(0).expect("text");
    assert!(
        words.contains("Voice message from Jörg Schäfer (5551234)") && words.contains("2001"),
        "{words}"
    );
    let audio = mail.attachment(0).expect("audio");
    assert_eq!(
        audio.attachment_name(),
        Some("voice-2001-5551234-20261122T075950Z.wav")
    );
    assert!(audio.is_content_type("audio", "wav"));
    assert_eq!(
        audio.contents(),
        fs::read(data("audio/ulaw-8k.wav")).expect("audio")
    );
    let text = String::from_utf8(raw).expect("ASCII");
    assert!(text.contains("\r\nContent-Duration: 1\r\n"));
}

#[test]
fn subjects_say_what_a_mail_is() {
    let subject = |name: &str| {
        let text = String::from_utf8(eml(name)).expect("ASCII");
        let (_, rest) = text.split_once("\r\nSubject: ").expect("subject");
        rest.split_once("\r\n").expect("line").0.to_owned()
    };
    assert_eq!(subject("hello"), "vmsync: hello from vmpro1");
    assert_eq!(subject("status"), "vmsync: status of vmpro1");
    assert_eq!(subject("changes"), "vmsync: 4 changes from vmpro1");
    assert_eq!(subject("digest"), "vmsync: 3 voice messages from vmpro1");
    assert_eq!(subject("seed-step"), "vmsync: 3 records from vmpro1");
    assert_eq!(subject("items"), "vmsync: items of 2 buckets from vmpro1");
    assert_eq!(subject("skips"), "vmsync: 1 change from vmpro1");
}

// ---- keys ----

#[test]
fn key_files_are_read_and_their_mistakes_named() {
    let key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    let other = key.replace("00", "AB");
    assert!(Keys::parse(&format!("# pair\n\n  {key}  # made on Monday\r\n{other}\n")).is_ok());
    let mistakes = [
        (String::new(), "holds no key"),
        (
            "abc".into(),
            "line 1: expected 64 hexadecimal digits, found 3 characters",
        ),
        (format!("{key}\n{}", &key[2..]), "line 2: expected 64"),
        (format!("{key}\n{key}"), "line 2: this key is there already"),
        ("0".repeat(64), "all bytes of the key are the same"),
        (
            (1..=5)
                .map(|n| key.replace("00", &format!("f{n}")) + "\n")
                .collect(),
            "line 5: more than 4",
        ),
    ];
    for (text, expected) in mistakes {
        let why = Keys::parse(&text).expect_err(expected);
        assert!(why.contains(expected), "{why}");
        assert!(
            !why.contains("0102030405"),
            "the error shows the key: {why}"
        );
    }
    assert_eq!(format!("{:?}", keys()), "Keys(1 redacted)");
}

/// The algorithm, fixed: another implementation must get this very text.
#[test]
fn a_tag_is_what_the_format_says() {
    // HMAC-SHA-256 by Python's hmac module over b"vmsync-mac-1\0\0\0\x04mailHello".
    assert_eq!(
        keys().sign("mail", b"Hello"),
        "hmac-sha256; key=e0d3a33d; mac=n4tSUwU7piy0HrodJ72WeIgqiNNS/Qr2jSHCf7y//s4="
    );
}

#[test]
fn a_tag_holds_for_its_purpose_bytes_and_keys_only() {
    let old = keys();
    let both = Keys::parse(&format!(
        "{}\n000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "c0ffee00".repeat(8)
    ))
    .expect("keys");
    let tag = old.sign("mail", b"x");
    assert!(old.verify("mail", b"x", &tag));
    assert!(
        both.verify("mail", b"x", &tag),
        "the second key verifies too"
    );
    assert!(
        !old.verify("mail", b"x", &both.sign("mail", b"x")),
        "the first key signs"
    );
    assert!(!old.verify("heartbeat", b"x", &tag));
    assert!(!old.verify("mail", b"y", &tag));
    assert!(!old.verify("mail", b"x", ""));
    // Purpose and content can't be shifted into one another.
    assert!(!old.verify("mai", b"lx", &old.sign("mail", b"x")));
}

// ---- touched mails ----

/// Replaces the first `from` after `after`; panics when it is not there.
fn patched(mail: &[u8], after: &str, from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(mail.to_vec()).expect("ASCII");
    let start = text.find(after).expect(after);
    let (head, tail) = text.split_at(start);
    assert!(tail.contains(from), "{from}");
    (head.to_owned() + &tail.replacen(from, to, 1)).into_bytes()
}

#[test]
fn touched_mails_are_refused() {
    let mail = eml("voice-message");
    let refused = |mail: &[u8]| read(mail).expect_err("touched");
    let blob = "01935eff-1111-7000-8000-00000000a001".to_owned();
    // A bit of the signature, of its key id, of the manifest, of the audio.
    assert_eq!(
        refused(&patched(&mail, "mac=", "=\r\n", "A\r\n")),
        WireError::BadSignature
    );
    assert_eq!(
        refused(&patched(&mail, "hmac-sha256; key=", "key=", "key=f")),
        WireError::BadSignature
    );
    assert_eq!(
        refused(&patched(&mail, "vmsync.json", "\r\n\r\neyJ", "\r\n\r\neyI")),
        WireError::BadSignature
    );
    assert_eq!(
        refused(&patched(&mail, "\r\n\r\nUklGR", "UklGR", "UklGS")),
        WireError::Attachment(blob.clone())
    );
    assert_eq!(
        refused(&patched(
            &mail,
            "Content-ID: <audio-1",
            "audio-1",
            "audio-2"
        )),
        WireError::Attachment(blob)
    );
    // Nothing to check, or more than one thing that could be meant.
    assert_eq!(
        refused(&patched(&mail, "Vmsync-S", "Vmsync-S", "X-S")),
        WireError::Unsigned
    );
    assert_eq!(
        refused(&patched(
            &mail,
            "MIME-Version",
            "MIME-",
            "Vmsync-Signature: x\r\nMIME-"
        )),
        WireError::Unsigned
    );
    assert_eq!(
        refused(&patched(
            &mail,
            "application/vnd",
            "application/vnd",
            "application/x"
        )),
        WireError::Unsigned
    );
    assert_eq!(
        refused(b"Subject: hello\r\n\r\nhello\r\n"),
        WireError::Unsigned
    );
    assert_eq!(refused(b""), WireError::Unsigned);
    // Signed with another pair's key.
    let other = Keys::parse(&"c0ffee00".repeat(8)).expect("key");
    assert_eq!(
        decode(&Bytes::from(mail), &other, &peer()),
        Err(WireError::BadSignature)
    );
}

#[test]
fn mails_for_another_node_or_of_another_version_are_refused() {
    let mail = example("status").mail;
    let written = |mail: &Mail| Example::of(mail.clone()).write().expect("mail");
    assert_eq!(
        decode(
            &written(&mail).into(),
            &keys(),
            &NodeId::new("vmpro3").expect("id")
        ),
        Err(WireError::WrongNode {
            to: "vmpro2".into(),
            me: "vmpro3".into()
        })
    );
    let mut own = mail.clone();
    own.head.from.node = peer();
    assert!(matches!(read(&written(&own)), Err(WireError::Malformed(_))));
    // A later 1.x is read, its new fields kept; 2.x is not, and encode doesn't write it either.
    let mut later = mail.clone();
    later.head.version = "1.9".into();
    later
        .head
        .extra
        .insert("weather".into(), json!({"rain": true}));
    assert_eq!(read(&written(&later)), Ok(later.clone()));
    for version in ["2.0", "1", "", "1.x", "11.0"] {
        later.head.version = version.into();
        let refused = Example::of(later.clone()).write();
        assert_eq!(refused, Err(WireError::UnknownVersion(version.into())));
    }
}

#[test]
fn encode_refuses_what_the_peer_would() {
    let voice_mail = example("voice-message").mail;
    let refused = |mail: &Mail| Example::of(mail.clone()).write().expect_err("refused");
    let mut wrong_sound = voice_mail.clone();
    let about = wrong_sound.audio[0].about().clone();
    wrong_sound.audio[0] = CarriedAudio::new(about, &b"other"[..]);
    assert!(matches!(refused(&wrong_sound), WireError::Attachment(_)));
    let mut no_sha = voice_mail.clone();
    let about = json!({"blob": "01935eff-1111-7000-8000-00000000a001"});
    no_sha.audio[0] = CarriedAudio::new(about, no_sha.audio[0].bytes().clone());
    assert!(refused(&no_sha).to_string().contains("sha256"));
    let mut many = voice_mail.clone();
    many.operations = vec![json!({}).into(); MAX_OPERATIONS + 1];
    assert!(refused(&many).to_string().contains("10000 operations"));
    let mut many = voice_mail.clone();
    many.release = vec!["mailbox/2001".into(); MAX_RELEASED + 1];
    assert!(refused(&many).to_string().contains("10000 released"));
    let item = Item {
        entity: "mailbox/2001".into(),
        hash: String::new(),
        lacks_audio: false,
    };
    let bucket = |bucket, count| BucketItems {
        bucket,
        items: vec![item.clone(); count],
    };
    let mut many = voice_mail.clone();
    many.items = vec![bucket(1, MAX_ITEMS), bucket(2, 1)];
    assert!(refused(&many).to_string().contains("65536 items"));
    many.items = vec![bucket(1, 1), bucket(1, 1)];
    assert!(refused(&many).to_string().contains("twice"));
    let mut many = voice_mail.clone();
    many.records = vec![
        Record {
            entity: "mailbox/2001".into(),
            record: json!({})
        };
        MAX_RECORDS + 1
    ];
    assert!(refused(&many).to_string().contains("10000 records"));
    let mut crowded = voice_mail.clone();
    crowded.audio = vec![crowded.audio[0].clone(); 257];
    assert!(refused(&crowded).to_string().contains("256 attachments"));
    let mut deep = voice_mail.clone();
    deep.operations = vec![
        (0..MAX_JSON_DEPTH)
            .fold(json!(1), |inner, _| json!([inner]))
            .into(),
    ];
    assert!(refused(&deep).to_string().contains("deeper than 64"));
    // What just fits into an operation fits into the record it makes.
    let nested = |levels| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    let record = |levels| Record {
        entity: "flow/main".into(),
        record: json!({"v": [{"f": {"source": nested(levels)}}]}),
    };
    let operation = |levels| json!({"effect": {"set": {"source": nested(levels)}}});
    deep.operations = vec![operation(59).into()];
    deep.records = vec![record(59)];
    assert!(Example::of(deep.clone()).write().is_ok());
    deep.operations = vec![operation(60).into()];
    assert!(refused(&deep).to_string().contains("deeper than 64"));
    deep.operations.clear();
    deep.records = vec![record(66)];
    assert!(refused(&deep).to_string().contains("deeper than 72"));
    let mut clash = voice_mail.clone();
    clash.head.extra.insert("version".into(), json!("1.0"));
    assert!(matches!(refused(&clash), WireError::Malformed(_)));
    for bad in ["", "vmsync", "a@b>\r\nBcc: <c@d", "a b@c.example", "@"] {
        let addresses = Addresses {
            from: bad.into(),
            ..addresses()
        };
        assert!(
            encode(&voice_mail, &[], &addresses, &keys(), Form::default()).is_err(),
            "{bad:?}"
        );
    }
}

#[test]
fn refusals_have_their_reply_codes() {
    let wrong = WireError::WrongNode {
        to: "a".into(),
        me: "b".into(),
    };
    let codes = [
        (WireError::Unsigned, 550, true),
        (WireError::BadSignature, 550, true),
        (wrong, 550, false),
        (WireError::UnknownVersion("2.0".into()), 451, true),
        (WireError::Malformed("x".into()), 554, false),
        (WireError::Attachment("x".into()), 554, false),
    ];
    for (error, code, alarm) in codes {
        assert_eq!((error.reply().0, error.alarms()), (code, alarm), "{error}");
        assert!(
            error
                .reply()
                .1
                .starts_with(if code < 500 { '4' } else { '5' })
        );
    }
}

/// A mail of three-byte lines, boundaries or headers must not become gigabytes of records.
#[test]
fn bombs_are_refused_early() {
    let bomb = |header: &str, line: &str| {
        let mut mail = header.to_owned();
        mail.push_str(&line.repeat(2_000_000 / line.len()));
        read(mail.as_bytes()).expect_err("bomb").to_string()
    };
    let multipart = "Content-Type: multipart/mixed; boundary=b\r\n\r\n";
    assert!(bomb(multipart, "--b\n\n").contains("more than 600 parts"));
    assert!(bomb("", "a:\n").contains("header block"));
    let nested = (0..20).fold(String::new(), |s, n| {
        s + &format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n")
    });
    assert!(bomb(&nested, "x\n").contains("nested more than 8 deep"));
}
