//! Voice messages together in one mail, and bodies as they are.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail their test"
)]

mod wire_support;

use bytes::Bytes;
use mail_parser::{Message, MessageParser, PartType};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use vmsync_core::wire::{CarriedAudio, Form, MAX_ATTACHMENTS, Transfer, Voice, WireError, decode};
use wire_support::{Example, NOW, eml, example, keys, peer, read};

const BINARY: Form = Form {
    transfer: Transfer::Binary,
    ..NOW
};

fn audio(n: usize, bytes: Vec<u8>) -> CarriedAudio {
    let about = json!({
        "blob": uuid::Uuid::from_u128(n as u128), "sha256": hex::encode(Sha256::digest(&bytes)),
        "bytes": bytes.len(), "content_type": "audio/wav",
    });
    CarriedAudio::new(about, bytes)
}

/// The messages within a mail, as any mail program finds them.
fn messages<'m>(mail: &'m Message<'_>) -> Vec<&'m Message<'m>> {
    let nested = mail.parts.iter().filter_map(|part| match &part.body {
        PartType::Message(message) => Some(message),
        _ => None,
    });
    nested.collect()
}

#[test]
fn each_message_of_a_digest_is_an_internet_voice_mail() {
    for form in [NOW, BINARY] {
        let example = Example {
            form,
            ..example("digest")
        };
        let written = example.write().expect("digest");
        let mail = MessageParser::default().parse(&written).expect("a mail");
        assert_eq!(mail.subject(), Some("vmsync: 3 voice messages from vmpro1"));
        let text = mail.body_text(0).expect("text");
        assert!(text.contains("- Jörg Schäfer (5551234) for 2001"), "{text}");
        let messages = messages(&mail);
        assert_eq!(messages.len(), 3);
        for (message, audio) in messages.iter().zip(&example.mail.audio) {
            assert_eq!(
                message.header_raw("Message-Context").map(str::trim),
                Some("voice-message")
            );
            let carried = message.attachment(0).expect("a recording");
            assert_eq!(carried.contents(), audio.bytes());
            assert_eq!(message.attachment_count(), 1, "and no manifest");
            assert!(message.from().is_some() && message.to().is_some() && message.date().is_some());
        }
        let subjects: Vec<_> = messages.iter().filter_map(|m| m.subject()).collect();
        assert_eq!(
            subjects,
            [
                "Voice message from Jörg Schäfer (5551234) for 2001",
                "Voice message from 5559876 for 2002",
                "Voice message from Ann for 2001",
            ]
        );
        let urgent: Vec<_> = messages
            .iter()
            .map(|m| m.header_raw("Importance").is_some())
            .collect();
        assert_eq!(urgent, [false, true, false]);
        let ids: std::collections::BTreeSet<_> =
            messages.iter().filter_map(|m| m.message_id()).collect();
        assert_eq!(ids.len(), 3);
        assert_eq!(read(&written), Ok(example.mail));
    }
}

/// A digest where there is more than one piece of news, else the mail itself is the message.
#[test]
fn a_lone_voice_message_is_a_mail_and_one_among_other_news_is_in_a_digest() {
    let alone = example("voice-message");
    let among = |change: fn(&mut Example)| {
        let mut example = alone.clone();
        change(&mut example);
        let text = String::from_utf8(example.write().expect("writes")).expect("ASCII");
        (
            text.contains("multipart/digest"),
            text.matches("Message-Context: voice-message").count(),
        )
    };
    assert_eq!(among(|_| ()), (false, 1));
    let operation = |e: &mut Example| {
        e.mail
            .operations
            .push(json!({"entity": "mailbox/2001"}).into());
    };
    assert_eq!(among(operation), (true, 1));
    assert_eq!(among(|e| e.mail.audio.push(audio(7, vec![7]))), (true, 1));
    assert_eq!(among(|e| e.mail.release.push("x/1".into())), (true, 1));
    assert_eq!(among(|e| e.voices.clear()), (false, 0));
}

#[test]
fn the_largest_digest_is_taken_and_a_larger_one_not_written() {
    let mut example = example("digest");
    example.mail.audio = (0..MAX_ATTACHMENTS).map(|n| audio(n, vec![1; n])).collect();
    example.voices = vec![Some(Voice::default()); MAX_ATTACHMENTS];
    for form in [NOW, BINARY] {
        example.form = form;
        let written = example.write().expect("writes");
        assert_eq!(read(&written).expect("reads"), example.mail);
    }
    example.mail.audio.push(audio(999, vec![]));
    assert!(example.write().is_err());
}

/// RFC 2046 section 5.1.5: in a digest a part without a type is a message.
#[test]
fn messages_of_a_digest_need_no_type() {
    let text = String::from_utf8(eml("digest")).expect("ASCII");
    let bare = text.replace("Content-Type: message/rfc822\r\n", "");
    assert_ne!(bare, text);
    assert_eq!(read(bare.as_bytes()), Ok(example("digest").mail));
}

#[test]
fn a_damaged_message_of_a_digest_is_named() {
    let example = example("digest");
    let mut written = example.write().expect("writes");
    let at = written.windows(4).position(|w| w == b"T2dn").expect("OggS");
    written[at + 8] ^= 1;
    let blob = example.mail.audio[1].about()["blob"]
        .as_str()
        .expect("blob");
    assert_eq!(read(&written), Err(WireError::Attachment(blob.into())));
}

// ---- binary ----

/// Every byte, every line end, nothing, and what looks like a part of the mail.
#[test]
fn any_bytes_pass_as_they_are() {
    let id = example("status").mail.head.id;
    let every: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let boundary = format!("\r\n--=_vmsync-{}--\r\n", id.simple());
    let bodies: [&[u8]; 8] = [
        &every,
        b"",
        b"\n",
        b"\r",
        b"\r\n",
        b"\r\n.\r\n",
        b"--",
        boundary.as_bytes(),
    ];
    let mut example = Example {
        form: BINARY,
        ..example("status")
    };
    example.mail.audio = (1..)
        .zip(bodies)
        .map(|(n, b)| audio(n, b.to_vec()))
        .collect();
    example.voices = vec![Some(Voice::default()), None, Some(Voice::default())];
    let written = example.write().expect("writes");
    assert_eq!(read(&written), Ok(example.mail));
    let text = written.escape_ascii().to_string();
    assert!(text.contains(&format!("boundary=\\\"=_vmsync-{}.1\\\"", id.simple())));
}

#[test]
fn binary_audio_is_read_without_a_copy() {
    let example = example("voice-message-binary");
    let mail = Bytes::from(example.write().expect("writes"));
    let read = decode(&mail, &keys(), &peer()).expect("reads");
    let within = mail.as_ptr_range();
    for audio in &read.audio {
        assert!(audio.is_proved());
        let range = audio.bytes().as_ptr_range();
        assert!(within.start <= range.start && range.end <= within.end);
    }
    assert_eq!(read, example.mail);
}

/// Proof is of bytes and description together; who only says so is believed.
#[test]
fn audio_is_hashed_unless_it_was_vouched_for() {
    let mut example = example("voice-message");
    let about = example.mail.audio[0].about().clone();
    let mut bytes = example.mail.audio[0].bytes().to_vec();
    bytes[100] ^= 1;
    example.mail.audio[0] = CarriedAudio::new(about.clone(), bytes.clone());
    assert!(matches!(example.write(), Err(WireError::Attachment(_))));
    example.mail.audio[0] = CarriedAudio::vouched(about.clone(), bytes.clone());
    let written = example.write().expect("believed");
    assert!(
        matches!(read(&written), Err(WireError::Attachment(_))),
        "the receiver hashes it whatever the sender believed"
    );
    bytes.pop();
    example.mail.audio[0] = CarriedAudio::vouched(about, bytes);
    assert!(example.write().is_err(), "the length is compared always");
}
