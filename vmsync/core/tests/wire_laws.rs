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
use vmsync_config::words::{NodeId, Origin, UnixMillis, Vector};
use vmsync_core::wire::{
    BucketItems, Buckets, CarriedAudio, Form, Head, Item, Left, Mail, Record, SeedStep, Seeding,
    Skip, Transfer, Voice,
};
use wire_support::{EXAMPLES, Example, eml, example, peer, read, well_formed};

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

fn buckets(seed: u64) -> Option<Buckets> {
    let sums: Vec<_> = (0..256)
        .map(|n| format!("{:016x}", seed.rotate_left(n)))
        .collect();
    Buckets::new(&sums)
}

prop_compose! {
    fn any_head()(
        id in any::<u128>(), incarnation in any::<u32>(), session in any::<u64>(),
        answers in any::<Option<u64>>(), seq in any::<u64>(), digest in text(),
        sent_at in 0_u64..4_000_000_000_000, future in any_json(), minor in 0_u8..20,
        seeding in prop::option::of((any_vector(), prop::option::of(any_key()))), sums in prop::option::of(any::<u64>()),
        left in prop::option::of(any::<(u64, u64)>()), probe in any::<Option<u64>>(), echo in any::<Option<u64>>(),
    ) -> Head {
        let from = Origin { node: NodeId::new("vmpro1").expect("id"), incarnation };
        Head {
            version: format!("1.{minor}"), id: uuid::Uuid::from_u128(id), to: peer(), session, answers,
            have: [(from.clone(), seq)].into_iter().collect(), from, digest,
            sent_at: UnixMillis(sent_at), seeding: seeding.map(|(upto, after)| Seeding { upto, after }),
            buckets: sums.and_then(buckets), left: left.map(|(operations, bytes)| Left { operations, bytes }), probe, echo, asks: seq % 2 == 0, extra: [("future".to_owned(), future)].into(),
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

fn any_key() -> impl Strategy<Value = String> {
    prop_oneof!["(message|mailbox|greeting)/[a-z0-9]{1,9}", text()]
}

prop_compose! {
    fn any_vector()(seqs in prop::collection::btree_map(any::<u32>(), any::<u64>(), 0..4)) -> Vector {
        let node = NodeId::new("vmpro1").expect("id");
        let origin = |incarnation| Origin { node: node.clone(), incarnation };
        seqs.into_iter().map(|(incarnation, seq)| (origin(incarnation), seq)).collect()
    }
}

fn any_record() -> impl Strategy<Value = Record> {
    (any_key(), any_json()).prop_map(|(entity, record)| Record { entity, record })
}

prop_compose! {
    fn any_seed()(
        upto in any_vector(), beyond in any_vector(), after in prop::option::of(any_key()), through in prop::option::of(any_key()),
    ) -> SeedStep {
        SeedStep { upto, beyond, after, through }
    }
}

fn any_items() -> impl Strategy<Value = Vec<BucketItems>> {
    let item = (any_key(), text(), any::<bool>());
    let item = item.prop_map(|(entity, hash, lacks_audio)| Item {
        entity,
        hash,
        lacks_audio,
    });
    let buckets = prop::collection::btree_map(any::<u8>(), prop::collection::vec(item, 0..4), 0..4);
    buckets.prop_map(|all| {
        all.into_iter()
            .map(|(bucket, items)| BucketItems { bucket, items })
            .collect()
    })
}

fn any_skip() -> impl Strategy<Value = Skip> {
    (any::<u32>(), any::<u64>(), any_key(), text()).prop_map(|(incarnation, seq, entity, why)| {
        Skip {
            origin: Origin {
                node: NodeId::new("vmpro2").expect("id"),
                incarnation,
            },
            seq,
            entity,
            why,
        }
    })
}

prop_compose! {
    fn any_mail()(
        head in any_head(), operations in prop::collection::vec(any_json(), 0..5),
        audio in prop::collection::vec(any_audio(), 0..4),
        records in prop::collection::vec(any_record(), 0..4), seed in prop::option::of(any_seed()),
        items in any_items(), skips in prop::collection::vec(any_skip(), 0..3),
        release in prop::collection::vec(any_key(), 0..3),
    ) -> Mail {
        let operations = operations.into_iter().map(Into::into).collect();
        Mail { operations, audio, records, seed, items, skips, release, ..Mail::of(head) }
    }
}

prop_compose! {
    /// Mails of all forms; for a peer of version 1.0, without what it does not know.
    fn any_example()(
        mail in any_mail(), bare in any::<bool>(), old in any::<bool>(), binary in any::<bool>(),
        voices in prop::collection::vec(prop::option::of(any_voice()), 0..6),
    ) -> Example {
        let mail = if bare || old {
            Mail { operations: mail.operations, audio: mail.audio, ..Mail::of(mail.head) }
        } else {
            mail
        };
        let transfer = if binary { Transfer::Binary } else { Transfer::Base64 };
        let form = Form { transfer, peer_minor: u32::from(!old) };
        Example { mail, voices, form }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// What is written is well-formed, read back equal, and the same every time.
    #[test]
    fn what_is_written_is_read(example in any_example()) {
        let written = example.write().expect("encodes");
        if example.form.transfer == Transfer::Base64 || example.form.peer_minor == 0 {
            well_formed(&written);
        }
        prop_assert_eq!(&written, &example.write().expect("encodes"));
        let read = read(&written).expect("reads");
        prop_assert!(read.audio.iter().all(CarriedAudio::is_proved));
        prop_assert_eq!(read, example.mail);
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
            prop_assert_eq!(read, example(name).mail);
        }
    }

    /// No bytes make the reader panic.
    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..500), text in "(?s)(Content-Type: multipart/[a-z]{1,3}; ?boundary=\"?[-a=?']{0,4}\"?|--[-a=?']{1,4}|\r?\n|Vmsync-Signature:|.){0,40}") {
        prop_assert!(read(&bytes).is_err());
        prop_assert!(read(text.as_bytes()).is_err());
    }
}
