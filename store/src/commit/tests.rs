//! A flush that fails, and concurrent writers.

use std::sync::{Arc, Mutex, atomic::Ordering};

use serde_json::json;
use vmsync_config::words::{Origin, UnixMillis, Vector};

use crate::{
    CompactTo, PeerRecord, SeedStep, Skip,
    error::StoreError,
    operation::EntityKey,
    store::{Options, Store},
};

fn open(dir: &std::path::Path) -> Store {
    let options = Options {
        node: "vmpro1".parse().unwrap(),
        min_free_bytes: 0,
        clock: || UnixMillis(1_790_000_000_000),
    };
    Store::open(dir, options).unwrap()
}

#[test]
fn after_a_failed_flush_the_writer_gets_the_error_and_the_next_write_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let heard = Arc::new(Mutex::new(Vec::new()));
    store.on_commit({
        let heard = heard.clone();
        Box::new(move |c| {
            heard
                .lock()
                .unwrap()
                .extend(c.operations.iter().map(|o| o.stamp.seq));
        })
    });
    store.set_setting("a", json!(1)).unwrap();
    let (have, digest) = store.digest();

    store
        .inner
        .committer
        .fail_next
        .store(true, Ordering::SeqCst);
    let failed = store.set_setting("b", json!(2));
    assert!(matches!(failed, Err(StoreError::Full { .. })), "{failed:?}");
    // What is not durable is not shown to the peer, by vector, digest or log.
    assert_eq!(store.digest(), (have.clone(), digest));
    assert_eq!(store.operations(&store.origin(), 0, 10).unwrap().len(), 1);

    store.set_setting("c", json!(3)).unwrap();
    let operations = store.operations(&store.origin(), 0, 10).unwrap();
    let settings = store.settings().unwrap();
    assert_eq!(settings["a"].0, 1);
    assert_eq!(settings["c"].0, 3);
    // Whether `b` was written before the flush failed is not known; but log, vector, listeners
    // and settings agree on it.
    let last = store.have().get(&store.origin());
    assert_eq!(operations.len() as u64, last);
    assert_eq!(settings.len() as u64, last);
    assert_eq!(*heard.lock().unwrap(), (1..=last).collect::<Vec<_>>());
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.have().get(&store.origin()), last);
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
}

#[test]
fn writers_that_fail_together_all_learn_it_and_nobody_waits_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let acknowledged = Mutex::new(Vec::new());
    std::thread::scope(|s| {
        for writer in 0..8 {
            let (store, acknowledged) = (&store, &acknowledged);
            s.spawn(move || {
                for n in 0..40 {
                    if writer == 0 && n % 10 == 5 {
                        store
                            .inner
                            .committer
                            .fail_next
                            .store(true, Ordering::SeqCst);
                    }
                    let name = format!("w{writer}.{n}");
                    if store.set_setting(&name, json!(n)).is_ok() {
                        acknowledged.lock().unwrap().push(name);
                    }
                }
            });
        }
    });
    let check = |store: &Store| {
        let settings = store.settings().unwrap();
        for name in acknowledged.lock().unwrap().iter() {
            assert!(settings.contains_key(name), "{name} is lost");
        }
        assert_eq!(store.check().unwrap(), Vec::<String>::new());
    };
    store
        .inner
        .committer
        .fail_next
        .store(false, Ordering::SeqCst);
    store.set_setting("last", json!(true)).unwrap();
    check(&store);
    drop(store);
    check(&open(dir.path()));
}

#[test]
fn a_panicking_listener_or_writer_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.on_commit(Box::new(|_| panic!("a listener's mistake")));
    store.set_setting("a", json!(1)).unwrap();
    let writer = store.clone();
    let panicked = std::thread::spawn(move || {
        writer.run(false, |_| -> Result<(), StoreError> {
            panic!("a writer's mistake")
        })
    })
    .join();
    assert!(panicked.is_err());
    store.set_setting("b", json!(2)).unwrap();
    assert_eq!(store.settings().unwrap().len(), 2);
}

#[test]
fn a_failed_flush_leaves_floor_seeding_and_quarantine_as_they_are_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..20 {
        store.set_setting(&format!("s{n}"), json!(n)).unwrap();
    }
    let peer: Origin = "vmpro2.00000002".parse().unwrap();
    let compact = |most| {
        let to = CompactTo {
            most,
            ..CompactTo::default()
        };
        store.compact(&to).map(drop)
    };
    let skip = |seq| {
        store.skip(&[Skip {
            origin: peer.clone(),
            seq,
            entity: EntityKey::Setting(format!("s{seq}")),
            why: "a test".into(),
        }])
    };
    let step = |through: Option<&str>, upto| {
        let record = json!({"f": {"value": [upto, format!("1790000000000.0@{peer}#{upto}")]}});
        let record = PeerRecord {
            entity: EntityKey::Setting("joined".into()),
            record,
        };
        let step = SeedStep {
            beyond: Vector::default(),
            upto: [(peer.clone(), upto)].into_iter().collect(),
            after: None,
            through: through.map(str::to_owned),
        };
        store.join(&[record], Some(&step)).map(drop)
    };
    let actions: [&dyn Fn() -> Result<(), StoreError>; 6] = [
        &|| compact(15),
        &|| skip(1),
        &|| step(Some("setting/x"), 7),
        &|| step(None, 9),
        &|| skip(10),
        &|| store.release(&[EntityKey::Setting("s10".into())]),
    ];
    let shown = |s: &Store| (s.digest(), s.floor(), s.seeding(), s.quarantined());
    for action in actions {
        let before = shown(&store);
        store
            .inner
            .committer
            .fail_next
            .store(true, Ordering::SeqCst);
        assert!(matches!(action(), Err(StoreError::Full { .. })));
        assert_eq!(shown(&store), before, "what is not durable is not shown");
        assert!(
            store
                .records_of(&[EntityKey::Setting("s1".into())])
                .is_err()
        );
        // Done again, whether or not it was on disk after all, it comes to the same.
        if let Err(error) = action() {
            assert!(matches!(error, StoreError::Gap { .. }), "{error}");
        }
        assert_eq!(store.check().unwrap(), Vec::<String>::new());
    }
    assert_eq!(store.floor().get(&store.origin()), 5);
    assert_eq!(store.have().get(&peer), 10);
    let listed: Vec<_> = store.quarantined().into_iter().map(|q| q.seq).collect();
    assert_eq!(listed, [1]);
    let shown_last = shown(&store);
    drop(store);
    let store = open(dir.path());
    assert_eq!(shown(&store), shown_last);
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
}
