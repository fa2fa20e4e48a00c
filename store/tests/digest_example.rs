//! The digest's example, kept for other implementations (docs/wire-format.md sections 11 and 14): this program
//! makes the same records and the same digest of it.

#![allow(
    clippy::unwrap_used,
    reason = "a failed expectation is the failure of the test"
)]

mod common;

use common::node;
use serde_json::Value;
use vmsync_store::{EntityKey, Operation, PeerRecord, Store};

fn example() -> Value {
    serde_json::from_str(include_str!("data/digest/example.json")).unwrap()
}

fn key(entity: &Value) -> EntityKey {
    entity.as_str().unwrap().to_owned().try_into().unwrap()
}

fn digest(store: &Store) -> String {
    store.digest().1.0
}

#[test]
fn operations_in_either_order_make_the_records_items_and_digest_of_the_example() {
    let example = example();
    let given: Vec<Operation> = serde_json::from_value(example["operations"].clone()).unwrap();
    let (one, other): (Vec<_>, Vec<_>) = given
        .into_iter()
        .partition(|o| o.stamp.origin.to_string().starts_with("vmpro1"));
    for turns in [[&one, &other], [&other, &one]] {
        let (_dir, store) = node("vmpro3");
        assert_eq!(digest(&store), example["empty"]);
        for operations in turns {
            store.apply(operations).unwrap();
        }
        let records = example["records"].as_array().unwrap();
        for expected in records {
            let held = store.records_of(&[key(&expected["entity"])]).unwrap();
            let bytes: Value =
                serde_json::from_str(expected["canonical"].as_str().unwrap()).unwrap();
            assert_eq!(held[0].record, bytes, "{}", expected["entity"]);
            let bucket = u8::try_from(expected["bucket"].as_u64().unwrap()).unwrap();
            let items = store.items(&[bucket]).unwrap();
            let item = items[0]
                .items
                .iter()
                .find(|i| i.entity == key(&expected["entity"]));
            let hash = &item.unwrap().hash;
            assert_eq!(*hash, expected["item"].as_str().unwrap()[..16]);
        }
        assert_eq!(digest(&store), example["digest"]);
    }
}

#[test]
fn the_records_joined_are_the_same_state() {
    let example = example();
    let records = example["records"].as_array().unwrap().iter();
    let records: Vec<_> = records
        .map(|r| PeerRecord {
            entity: key(&r["entity"]),
            record: serde_json::from_str(r["canonical"].as_str().unwrap()).unwrap(),
        })
        .collect();
    let (_dir, store) = node("vmpro3");
    for half in [&records[..3], &records[..], &records[3..]] {
        store.join(half, None).unwrap();
    }
    assert_eq!(digest(&store), example["digest"]);
}
