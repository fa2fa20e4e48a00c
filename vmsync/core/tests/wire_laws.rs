//! Laws of the wire format, over any mails and any damage.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail their test"
)]

mod wire_support;

use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use vmsync_config::words::{NodeId, UnixMillis};
use vmsync_core::wire::{CarriedAudio, Head, Mail, Voice};
use wire_support::{EXAMPLES, eml, example, peer, read, well_formed, write};

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9 ]{0,12}",
        "\\PC{0,80}",
        "(?s).{0,30}",
        Just("=?utf-8?Q?x?=\r\n--=_".to_owned())
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(text(), inner, 0..4).prop_map(Value::from_iter),
        ]
    })
}

fn any_audio() -> impl Strategy<Value = CarriedAudio> {
    let bytes = prop::collection::vec(any::<u8>(), 0..400);
    (any::<u128>(), bytes, text(), any_json()).prop_map(|(blob, bytes, content_type, facts)| CarriedAudio::new(
        json!({
            "blob": uuid::Uuid::from_u128(blob), "sha256": hex::encode(Sha256::digest(&bytes)),
            "bytes": bytes.len(), "content_type": content_type, "facts": facts, "entity": "greeting/2001/name",
        }),
        bytes,
    ))
}

prop_compose! {
    fn any_head()(
        id in any::<u128>(), incarnation in any::<u32>(), session in any::<u64>(),
        answers in any::<Option<u64>>(), seq in any::<u64>(), digest in text(),
        sent_at in 0_u64..4_000_000_000_000, future in any_json(), minor in 0_u8..20,
    ) -> Head {
        let from = vmsync_config::words::Origin { node: NodeId::new("vmpro1").expect("id"), incarnation };
        Head {
            version: format!("1.{minor}"), id: uuid::Uuid::from_u128(id), to: peer(), session, answers,
            have: [(from.clone(), seq)].into_iter().collect(), from, digest,
            sent_at: UnixMillis(sent_at), seeding: None, buckets: None, left: None, probe: None, echo: None, extra: [("future".to_owned(), future)].into(),
        }
    }
}

prop_compose! {
    fn any_voice()(
        mailbox in text(), caller_number in prop::option::of(text()), caller_name in prop::option::of(text()),
        duration_ms in any::<u64>(), urgent in any::<bool>(), private in any::<bool>(),
        received_at in prop::option::of((0_u64..).prop_map(UnixMillis)),
    ) -> Voice {
        Voice { mailbox, caller_number, caller_name, duration_ms, urgent, private, received_at }
    }
}

prop_compose! {
    fn any_mail()(
        head in any_head(), operations in prop::collection::vec(any_json(), 0..5),
        audio in prop::collection::vec(any_audio(), 0..4),
    ) -> Mail {
        Mail { operations, audio, ..Mail::of(head) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// What is written is well-formed, read back equal, and the same every time.
    #[test]
    fn what_is_written_is_read(mail in any_mail(), voice in prop::option::of(any_voice())) {
        let written = write(&mail, voice.as_ref()).expect("encodes");
        well_formed(&written);
        prop_assert_eq!(&written, &write(&mail, voice.as_ref()).expect("encodes"));
        prop_assert_eq!(read(&written), Ok(mail));
    }

    /// Whatever is done to a mail on its way, it is refused or means the same as before.
    #[test]
    fn no_change_gives_another_mail(
        name in prop::sample::select(EXAMPLES.to_vec()), at in any::<prop::sample::Index>(),
        cut in 0_usize..40, put in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut mail = eml(name);
        let at = at.index(mail.len());
        mail.splice(at..(at + cut).min(mail.len()), put);
        if let Ok(read) = read(&mail) {
            prop_assert_eq!(read, example(name).0);
        }
    }

    /// No bytes make the reader panic.
    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..500), text in "(?s)(Content-Type: multipart/[a-z]{1,3}; ?boundary=\"?[-a=?']{0,4}\"?|--[-a=?']{1,4}|\r?\n|Vmsync-Signature:|.){0,40}") {
        prop_assert!(read(&bytes).is_err());
        prop_assert!(read(text.as_bytes()).is_err());
    }
}
