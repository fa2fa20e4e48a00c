//! The laws of the rule (any order, any duplication, same record) and its examples.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;
use vmsync_config::words::{Origin, UnixMillis, Vector};

use super::*;
use crate::operation::Hlc;

const KEYS: [&str; 6] = [
    "message/01920000-0000-7000-8000-000000000001",
    "mailbox/2001",
    "greeting/2001/busy",
    "flow/main",
    "setting/failback.policy",
    "fax/7",
];

fn origin(n: usize) -> Origin {
    [
        "vmpro1.00000001",
        "vmpro2.00000002",
        "vmpro1.00000003",
        "vmpro2.00000004",
    ][n]
        .parse()
        .unwrap()
}

fn stamp(at: u64, by: usize, seq: u64) -> Stamp {
    Stamp {
        at: Hlc {
            wall: UnixMillis(at),
            count: 0,
        },
        origin: origin(by),
        seq,
    }
}

fn set(key: &str, stamp: Stamp, fields: &[(&str, serde_json::Value)]) -> Operation {
    let fields = fields.iter().map(|(n, v)| ((*n).into(), v.clone()));
    Operation {
        stamp,
        entity: EntityKey::try_from(key.to_owned()).unwrap(),
        effect: Effect::Set(fields.collect()),
        extra: BTreeMap::new(),
    }
}

fn delete(key: &str, stamp: Stamp) -> Operation {
    Operation {
        effect: Effect::Delete,
        ..set(key, stamp, &[])
    }
}

fn merged<'a>(operations: impl IntoIterator<Item = &'a Operation>) -> BTreeMap<String, Record> {
    let mut records: BTreeMap<String, Record> = BTreeMap::new();
    for op in operations {
        merge(records.entry(op.entity.to_string()).or_default(), op);
    }
    records.retain(|_, r| !r.is_empty());
    records
}

/// A history of up to three origins: any entity, any field, clocks that disagree, any `based_on`.
fn history() -> impl Strategy<Value = Vec<Operation>> {
    let one = (
        0..3usize,
        0..KEYS.len(),
        1..20u64,
        0..4u8,
        proptest::collection::vec(0..12u64, 3),
        any::<u8>(),
    );
    proptest::collection::vec(one, 1..24).prop_map(|rows| {
        let mut next = [0u64; 3];
        rows.into_iter()
            .map(|(by, key, at, what, seen, value)| {
                next[by] += 1;
                let stamp = stamp(at, by, next[by]);
                let based_on: Vector = (0..3)
                    .filter(|o| *o != by)
                    .map(|o| (origin(o), seen[o]))
                    .collect();
                match what {
                    0 => delete(KEYS[key], stamp),
                    1 => set(KEYS[key], stamp, &[("name", json!(value))]),
                    _ => set(
                        KEYS[key],
                        stamp,
                        &[
                            ("state", json!(value)),
                            ("audio", json!({"blob": value})),
                            ("based_on", json!(based_on)),
                        ],
                    ),
                }
            })
            .collect()
    })
}

/// As [`history`], but with numbers given twice: equal stamps with different values.
fn faulty_history() -> impl Strategy<Value = Vec<Operation>> {
    history().prop_map(|mut operations| {
        for o in &mut operations {
            o.stamp.seq = o.stamp.seq.div_ceil(3);
            o.stamp.at.wall.0 = o.stamp.at.wall.0 / 7 + 1;
        }
        operations
    })
}

/// As [`history`], where nobody replaces what was not written yet, after an index was made anew:
/// first in the log of a fourth origin stands what audio files say.
fn history_after_a_rebuild() -> impl Strategy<Value = Vec<Operation>> {
    (history(), proptest::collection::vec(0..KEYS.len(), 0..4)).prop_map(|(mut ops, files)| {
        let mut written = Vector::default();
        for op in &mut ops {
            if let Effect::Set(fields) = &mut op.effect
                && let Some(based_on) = fields.get_mut(BASED_ON)
            {
                let seen: Vector = serde_json::from_value(based_on.clone()).unwrap();
                let seen = seen.iter().map(|(o, n)| (o.clone(), n.min(written.get(o))));
                *based_on = json!(seen.collect::<Vector>());
            }
            written.raise(&op.stamp.origin, op.stamp.seq);
        }
        let files = files.into_iter().zip(1..).map(|(key, seq)| {
            let stamp = Stamp::recovered(origin(3), seq);
            set(KEYS[key], stamp, &[("audio", json!({"blob": seq}))])
        });
        ops.extend(files);
        ops
    })
}

fn joined(parts: &[BTreeMap<String, Record>]) -> BTreeMap<String, Record> {
    let mut records: BTreeMap<String, Record> = BTreeMap::new();
    for (key, record) in parts.iter().flatten() {
        let entity = EntityKey::try_from(key.clone()).unwrap();
        join(
            rule(&entity),
            records.entry(key.clone()).or_default(),
            record,
        );
    }
    records
}

/// What three nodes hold that took some of the operations each, several of them on more than one.
type Parts = [BTreeMap<String, Record>; 3];

fn parts(operations: &[Operation], masks: &[u8]) -> Parts {
    [1, 2, 4].map(|bit| {
        let taken = operations
            .iter()
            .zip(masks)
            .filter(|(_, m)| **m & bit != 0)
            .map(|(o, _)| o);
        merged(taken)
    })
}

fn three_nodes(
    history: impl Strategy<Value = Vec<Operation>>,
) -> impl Strategy<Value = (Vec<Operation>, Parts)> {
    history.prop_flat_map(|ops| {
        let masks = proptest::collection::vec(1..8u8, ops.len());
        masks.prop_map(move |masks| (ops.clone(), parts(&ops, &masks)))
    })
}

/// What two nodes of a newer version make of it: each record and version may bear members unknown
/// here, whose values need not agree.
fn of_a_newer_version(mut part: BTreeMap<String, Record>, say: &[u8]) -> BTreeMap<String, Record> {
    let mut say = say.iter().cycle();
    let mut member = |more: &mut BTreeMap<String, serde_json::Value>| {
        let n = say.next().copied().unwrap_or_default();
        if n % 4 > 0 {
            more.insert(format!("x{}", n % 4), json!([n % 3, {"y": n % 5}]));
        }
    };
    for record in part.values_mut() {
        member(&mut record.more);
        record.versions.iter_mut().for_each(|v| member(&mut v.more));
    }
    part
}

fn three_newer_nodes() -> impl Strategy<Value = Parts> {
    let say = proptest::collection::vec(any::<u8>(), 1..12);
    (
        three_nodes(faulty_history()),
        [say.clone(), say.clone(), say],
    )
        .prop_map(|((_, [a, b, c]), [x, y, z])| {
            [(a, x), (b, y), (c, z)].map(|(part, say)| of_a_newer_version(part, &say))
        })
}

proptest! {
    #[test]
    fn members_of_a_newer_version_join_by_the_same_laws_and_none_is_lost([a, b, c] in three_newer_nodes()) {
        let both = |a: &_, b: &_| joined(&[BTreeMap::clone(a), BTreeMap::clone(b)]);
        let ab = both(&a, &b);
        prop_assert_eq!(&ab, &both(&b, &a));
        prop_assert_eq!(both(&ab, &c), both(&a, &both(&b, &c)));
        prop_assert_eq!(&both(&a, &a), &a);
        prop_assert_eq!(&both(&ab, &b), &ab);
        for (key, record) in a.iter().chain(&b) {
            for name in record.more.keys() {
                prop_assert!(ab[key].more.contains_key(name), "{} of {}", name, key);
            }
        }
    }

    #[test]
    fn joining_is_commutative_associative_and_idempotent((_, [a, b, c]) in three_nodes(faulty_history())) {
        let both = |a: &_, b: &_| joined(&[BTreeMap::clone(a), BTreeMap::clone(b)]);
        prop_assert_eq!(both(&a, &b), both(&b, &a));
        prop_assert_eq!(both(&both(&a, &b), &c), both(&a, &both(&b, &c)));
        prop_assert_eq!(&both(&a, &a), &a);
        prop_assert_eq!(&both(&both(&a, &b), &b), &both(&a, &b));
    }

    #[test]
    fn what_files_say_joins_in_any_order_too(
        (ops, [a, b, c]) in three_nodes(history_after_a_rebuild()), order in Just([0, 1, 2]).prop_shuffle()
    ) {
        let both = |a: &_, b: &_| joined(&[BTreeMap::clone(a), BTreeMap::clone(b)]);
        prop_assert_eq!(both(&a, &b), both(&b, &a));
        prop_assert_eq!(both(&both(&a, &b), &c), both(&a, &both(&b, &c)));
        let all = merged(&ops);
        prop_assert_eq!(&merged(ops.iter().rev()), &all);
        let parts = [a, b, c];
        prop_assert_eq!(&joined(&order.map(|n| parts[n].clone())), &all);
        // And nobody sees what files say beside what is known otherwise.
        let known = merged(ops.iter().filter(|o| !o.stamp.is_recovered()));
        for (key, record) in &known {
            if !record.versions.is_empty() {
                prop_assert_eq!(&all[key].versions, &record.versions);
            }
        }
    }

    #[test]
    fn operations_and_records_in_any_mixture_give_the_same(
        (ops, parts) in three_nodes(faulty_history()), order in Just([0, 1, 2]).prop_shuffle()
    ) {
        let all = merged(&ops);
        prop_assert_eq!(&joined(&order.map(|n| parts[n].clone())), &all);
        // Records of one node over operations taken one by one, and the other way round.
        let mut records = parts[0].clone();
        for op in ops.iter().rev() {
            merge(records.entry(op.entity.to_string()).or_default(), op);
        }
        prop_assert_eq!(&records, &all);
        prop_assert_eq!(&joined(&[all.clone(), parts[1].clone()]), &all);
    }

    #[test]
    fn records_beyond_a_vector_are_all_that_who_holds_it_lacks(
        ops in prop_oneof![history(), history_after_a_rebuild()],
        held in proptest::collection::vec(0..12u64, 4)
    ) {
        let vector: Vector = (0..4).map(|o| (origin(o), held[o])).collect();
        let covered = |o: &&Operation| o.stamp.seq <= vector.get(&o.stamp.origin);
        let there = merged(ops.iter().filter(covered));
        let here = merged(&ops);
        let mut sent = here.clone();
        sent.retain(|_, record| record.is_beyond(&vector));
        prop_assert_eq!(joined(&[there, sent]), here);
    }

    #[test]
    fn equal_stamps_with_different_values_end_alike_on_every_node(
        (ops, shuffled) in faulty_history().prop_flat_map(|ops| (Just(ops.clone()), Just(ops).prop_shuffle()))
    ) {
        prop_assert_eq!(merged(&ops), merged(&shuffled));
    }

    #[test]
    fn any_order_and_any_duplication_give_the_same_records(
        (ops, shuffled, again) in history().prop_flat_map(|ops| {
            let again = proptest::sample::subsequence(ops.clone(), 0..=ops.len());
            (Just(ops.clone()), Just(ops).prop_shuffle(), again)
        })
    ) {
        let once = merged(&ops);
        prop_assert_eq!(&once, &merged(&shuffled));
        prop_assert_eq!(&once, &merged(shuffled.iter().chain(&again).chain(&ops)));
    }

    #[test]
    fn two_replicas_that_took_different_parts_meet_in_the_same_records(
        (ops, split) in history().prop_flat_map(|ops| {
            let n = ops.len();
            (Just(ops), proptest::collection::vec(any::<bool>(), n))
        })
    ) {
        let side = |want: bool| ops.iter().zip(&split).filter(move |(_, s)| **s == want).map(|(o, _)| o);
        let left = merged(side(true).chain(side(false)));
        let right = merged(side(false).chain(side(true)));
        prop_assert_eq!(left, right);
    }

    #[test]
    fn at_most_one_version_per_origin_stands(ops in history()) {
        for record in merged(&ops).values() {
            prop_assert!(record.versions.len() <= 3);
        }
    }
}

#[test]
fn a_deleted_message_stays_deleted_whatever_comes_later() {
    let key = KEYS[0];
    let saved = set(key, stamp(99, 1, 1), &[("state", json!("saved"))]);
    let gone = delete(key, stamp(5, 0, 2));
    let records = merged([&saved, &gone]);
    assert_eq!(records[key].deleted, Some(stamp(5, 0, 2)));
    assert!(records[key].fields.is_empty());
}

#[test]
fn a_deleted_mailbox_comes_back_by_creation_only() {
    let key = "mailbox/2001";
    let created = |at, seq| {
        set(
            key,
            stamp(at, 0, seq),
            &[("created", json!(true)), ("name", json!("Ann"))],
        )
    };
    let gone = delete(key, stamp(20, 0, 2));
    let renamed_unaware = set(key, stamp(25, 1, 1), &[("name", json!("Anna"))]);
    let (first, second) = (created(10, 1), created(30, 3));
    let ops = [&first, &gone, &renamed_unaware];
    assert!(merged(ops)[key].get("created").is_none());
    let again = merged(ops.into_iter().chain([&second]));
    let name: Option<String> = again[key].read("name");
    assert_eq!(name.as_deref(), Some("Ann"));
    assert!(again[key].get("created").is_some());
}

#[test]
fn greetings_set_apart_conflict_and_the_next_one_settles_it() {
    let key = "greeting/2001/busy";
    let version = |s: Stamp, text: &str, seen: &[(usize, u64)]| {
        let seen: Vector = seen.iter().map(|(o, n)| (origin(*o), *n)).collect();
        set(key, s, &[("audio", json!(text)), ("based_on", json!(seen))])
    };
    let first = version(stamp(1, 0, 1), "first", &[]);
    let left = version(stamp(2, 0, 2), "left", &[(0, 1)]);
    let right = version(stamp(3, 1, 1), "right", &[(0, 1)]);
    let texts = |ops: &[&Operation]| -> Vec<String> {
        merged(ops.iter().copied())[key]
            .versions
            .iter()
            .filter_map(|v| v.get("audio")?.as_str().map(str::to_owned))
            .collect()
    };
    assert_eq!(texts(&[&first, &left, &right]), ["right", "left"]);
    assert_eq!(texts(&[&right, &left, &first]), ["right", "left"]);

    let settled = version(stamp(4, 0, 3), "settled", &[(0, 2), (1, 1)]);
    assert_eq!(texts(&[&settled, &right, &first, &left]), ["settled"]);

    // A removal that had not seen `right` does not take it, although it is later.
    let mut removed = version(stamp(9, 0, 3), "", &[(0, 2)]);
    if let Effect::Set(fields) = &mut removed.effect {
        fields.insert("audio".into(), json!(null));
    }
    assert_eq!(texts(&[&first, &left, &right, &removed]), ["right"]);
}

#[test]
fn a_greeting_recovered_from_its_file_gives_way_to_any_other() {
    let key = "greeting/2001/busy";
    let blob = json!({"blob": 7});
    let recovered = set(
        key,
        Stamp::recovered(origin(3), 5),
        &[("audio", blob.clone())],
    );
    assert_eq!(
        merged([&recovered])[key].versions[0].get("audio"),
        Some(&blob)
    );
    // Its writer had not seen the recovered one; removed stays removed.
    for audio in [json!({"blob": 8}), json!(null)] {
        let other = set(key, stamp(9, 0, 3), &[("audio", audio.clone())]);
        for ops in [[&recovered, &other], [&other, &recovered]] {
            let versions = &merged(ops)[key].versions;
            assert_eq!(versions.len(), 1);
            assert_eq!(versions[0].fields["audio"], audio);
        }
    }
}

#[test]
fn joining_keeps_both_sides_of_a_conflict_and_drops_what_either_replaced() {
    let key = "flow/main";
    let version = |s: Stamp, text: &str, seen: &[(usize, u64)]| {
        let seen: Vector = seen.iter().map(|(o, n)| (origin(*o), *n)).collect();
        set(
            key,
            s,
            &[("source", json!(text)), ("based_on", json!(seen))],
        )
    };
    let first = version(stamp(1, 0, 1), "first", &[]);
    let left = version(stamp(2, 0, 2), "left", &[(0, 1)]);
    let right = version(stamp(3, 1, 1), "right", &[(0, 1)]);
    let here = merged([&first, &left]);
    let there = merged([&first, &right]);
    let both = joined(&[here.clone(), there]);
    let texts: Vec<_> = both[key]
        .versions
        .iter()
        .map(|v| &v.fields["source"])
        .collect();
    assert_eq!(texts, ["right", "left"]);
    // Who never heard of `left` and settles the conflict elsewhere does not bring `first` back.
    let settled = version(stamp(4, 1, 2), "settled", &[(0, 2), (1, 1)]);
    let both = joined(&[merged([&settled]), here, merged([&first])]);
    assert_eq!(both[key].versions.len(), 1);
    assert_eq!(both[key].versions[0].fields["source"], "settled");
}

#[test]
fn joining_never_brings_a_deleted_message_back() {
    let key = KEYS[0];
    let saved = set(key, stamp(99, 1, 1), &[("state", json!("saved"))]);
    let here = merged([&delete(key, stamp(5, 0, 2))]);
    let both = joined(&[merged([&saved]), here.clone()]);
    assert_eq!(both, here);
}

#[test]
fn what_stands_for_a_skipped_operation_says_nothing_of_its_entity() {
    for key in KEYS {
        let entity = EntityKey::try_from(key.to_owned()).unwrap();
        let skip = Operation::skip(origin(0), 7, entity, "audio unreadable");
        assert_eq!(skip.skipped(), Some("audio unreadable"));
        assert_eq!(merged([&skip]), BTreeMap::new());
    }
}
