use mail_parser::{MessageParser, MimeHeaders as _};
use proptest::prelude::*;

use super::*;

/// Every byte value, also those that are line ends and dots.
fn audio() -> Bytes {
    (0..3000_u16).flat_map(u16::to_le_bytes).collect()
}

fn voice() -> Voice {
    Voice {
        mailbox: "2001".into(),
        caller_number: Some("5551234".into()),
        caller_name: Some("Charles Babbage".into()),
        duration_ms: 33_400,
        urgent: true,
        private: true,
        received_at: Some(UnixMillis(1_795_334_405_000)),
    }
}

fn letter<'a>(voice: &'a Voice, zone: &'a TimeZone, mode: EmailMode) -> Letter<'a> {
    Letter {
        message: Uuid::from_u128(7),
        mode,
        from: "voicemail@example.com",
        to: "anna@example.com",
        name: "Anna Berg",
        called_number: Some("555 99"),
        voice,
        received_at: UnixMillis(1_795_334_405_000),
        zone,
        id_domain: "vmpro1.example.com",
        attachment: Some(Attachment {
            content_type: "audio/x-wav".into(),
            audio: audio(),
        }),
    }
}

#[test]
fn a_copy_says_who_when_and_how_long_and_brings_the_audio_byte_for_byte() {
    let (voice, zone) = (voice(), TimeZone::fixed(jiff::tz::offset(1)));
    let mail = write(&letter(&voice, &zone, EmailMode::Copy)).unwrap();
    assert_eq!(
        mail,
        write(&letter(&voice, &zone, EmailMode::Copy)).unwrap()
    );
    let read = MessageParser::default().parse(&mail).unwrap();
    assert_eq!(
        read.subject(),
        Some("Voice message from Charles Babbage 5551234 (0:34) for 2001 Anna Berg")
    );
    let from = read.from().unwrap().first().unwrap();
    assert_eq!(from.name(), Some("Charles Babbage (5551234)"));
    assert_eq!(from.address(), Some("voicemail@example.com"));
    let to = read.to().unwrap().first().unwrap();
    assert_eq!(
        (to.name(), to.address()),
        (Some("Anna Berg"), Some("anna@example.com"))
    );
    assert_eq!(
        read.message_id(),
        Some("00000000-0000-0000-0000-000000000007.voicemail@vmpro1.example.com")
    );
    assert_eq!(read.date().unwrap().to_timestamp(), 1_795_334_405);
    let text = String::from_utf8(mail.clone()).unwrap();
    for line in [
        "Message-Context: voice-message\r\n",
        "Importance: high\r\n",
        "Sensitivity: private\r\n",
        "Auto-Submitted: auto-generated\r\n",
        "Content-Duration: 34\r\n",
        "\r\nReceived: Sunday, 22 November 2026, 09:00:05 +0100\r\n",
        "\r\nCalled:   555 99\r\n",
        "\r\nPrivacy:  private; please do not pass it on\r\n",
        "\r\nIt is in your mailbox as well.\r\n",
    ] {
        assert!(text.contains(line), "no {line:?} in\n{text:.2000}");
    }
    let attached = read.attachment(0).unwrap();
    assert_eq!(attached.contents(), audio());
    assert_eq!(
        attached.attachment_name(),
        Some("voice-2001-5551234-20261122T080005Z.wav")
    );
    let kind = attached.content_type().unwrap();
    assert_eq!((kind.ctype(), kind.subtype()), ("audio", Some("x-wav")));
}

#[test]
fn a_notice_has_no_audio_and_a_forwarded_message_says_it_is_gone() {
    let (voice, zone) = (voice(), TimeZone::UTC);
    let mail = write(&letter(&voice, &zone, EmailMode::Alert)).unwrap();
    let text = String::from_utf8(mail).unwrap();
    assert!(!text.contains("multipart") && !text.contains("Message-Context"));
    assert!(text.contains("call it to listen"));
    assert!(text.len() < 1500, "{}", text.len());
    let mail = write(&letter(&voice, &zone, EmailMode::Forward)).unwrap();
    let text = String::from_utf8(mail).unwrap();
    assert!(text.contains("It is deleted from your mailbox."));
}

#[test]
fn names_of_any_script_come_out_as_they_were() {
    let zone = TimeZone::get("Europe/Berlin").unwrap_or(TimeZone::UTC);
    let voice = Voice {
        caller_name: Some("Żółć 東京 Ünïcode \u{1f4de}".into()),
        caller_number: None,
        ..voice()
    };
    let mut letter = letter(&voice, &zone, EmailMode::Copy);
    letter.name = "Åsa \"Boss\" Müller, jr. <x@y>";
    let mail = write(&letter).unwrap();
    assert!(mail.is_ascii());
    let read = MessageParser::default().parse(&mail).unwrap();
    let from = read.from().unwrap().first().unwrap();
    assert_eq!(from.name(), Some("Żółć 東京 Ünïcode \u{1f4de}"));
    let to = read.to().unwrap().first().unwrap();
    assert_eq!(to.name(), Some("Åsa \"Boss\" Müller, jr. <x@y>"));
    assert_eq!(to.address(), Some("anna@example.com"));
    assert!(read.body_text(0).unwrap().contains("東京"));
}

#[test]
fn an_address_that_is_none_is_refused() {
    let (voice, zone) = (voice(), TimeZone::UTC);
    for bad in ["anna", "anna@x\r\nBcc: eve@y", "a b@x", "zoë@x", "<a@b>"] {
        let mut letter = letter(&voice, &zone, EmailMode::Copy);
        letter.to = bad;
        assert!(write(&letter).is_err(), "{bad}");
    }
}

proptest! {
    /// A caller chooses his name and number; no choice adds a header, a part or an address, or
    /// breaks a line rule.
    #[test]
    fn no_name_is_read_as_structure(
        name in "(?s).{0,80}", number in "(?s).{0,40}", mailbox_name in "(?s).{0,80}",
        kind in "(?s).{0,40}", called in "(?s).{0,40}",
    ) {
        let voice = Voice { caller_name: Some(name), caller_number: Some(number), ..voice() };
        let zone = TimeZone::UTC;
        let mut letter = letter(&voice, &zone, EmailMode::Copy);
        letter.name = &mailbox_name;
        letter.called_number = Some(&called);
        letter.attachment.as_mut().unwrap().content_type = kind;
        let mail = write(&letter).unwrap();
        prop_assert!(mail.is_ascii());
        for line in mail.split_inclusive(|b| *b == b'\n') {
            prop_assert!(line.ends_with(b"\r\n") && line.len() <= 1000);
            prop_assert!(!line[..line.len() - 2].contains(&b'\r') && !line.contains(&0));
        }
        let read = MessageParser::default().parse(&mail).unwrap();
        let names: Vec<_> = read.headers().iter().map(|h| h.name.as_str().to_owned()).collect();
        prop_assert_eq!(names, [
            "Date", "From", "To", "Message-ID", "Subject", "Auto-Submitted", "Vmsync-Delivery",
            "MIME-Version", "Message-Context", "Importance", "Sensitivity", "Content-Type",
        ]);
        let one = |addresses: &mail_parser::Address<'_>| {
            addresses.iter().map(|a| a.address().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        prop_assert_eq!(one(read.from().unwrap()), ["voicemail@example.com"]);
        prop_assert_eq!(one(read.to().unwrap()), ["anna@example.com"]);
        prop_assert_eq!(read.attachment_count(), 1);
        prop_assert_eq!(read.attachment(0).unwrap().contents(), audio());
    }
}
