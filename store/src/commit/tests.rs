//! A flush that fails, and concurrent writers.

use std::sync::{Arc, Mutex, atomic::Ordering};

use serde_json::json;
use vmsync_config::words::UnixMillis;

use crate::{
    error::StoreError,
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
