//! A verification beside writers, and what it finds.

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use vmsync_config::words::{Origin, UnixMillis};

use super::*;
use crate::{CompactTo, Options, Skip};

fn open(dir: &Path) -> Store {
    let options = Options {
        node: "vmpro1".parse().unwrap(),
        min_free_bytes: 0,
        clock: || UnixMillis(1_790_000_000_000),
    };
    Store::open(dir, options).unwrap()
}

/// A store of so many settings, whose verification has not begun.
fn settings(count: usize) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let store = open(dir.path());
    for n in 0..count {
        store.set_setting(&name(n), json!(n)).unwrap();
    }
    anew(&store);
    (dir, store)
}

fn name(n: usize) -> String {
    format!("s{n:04}")
}

fn anew(store: &Store) {
    *lock(&store.inner.verifying) = Place::default();
}

/// Writes below the store's own rules, as a disk that goes bad would.
fn behind_its_back(store: &Store, key: Vec<u8>, value: Option<Vec<u8>>) {
    let written = store.inner.committer.begin(UnixMillis(0), false, |t| {
        t.put(key, value);
        Ok(())
    });
    store.finish(written.unwrap().1).unwrap();
}

fn found(store: &Store) -> String {
    match store.verify() {
        Err(StoreError::Damaged { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn whatever_is_written_meanwhile_a_sound_index_is_found_sound() {
    let (_dir, store) = settings(450);
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        anew(&store);
        let mut steps = 0;
        while store.verify_more().unwrap() != Verified::Sound {
            steps += 1;
            assert!(steps < 200, "it does not end");
            for _ in 0..random.random_range(0..8) {
                write(&store, &mut random);
            }
        }
        assert!(steps > 4, "it was done slice by slice");
    }
    assert_eq!(store.check().unwrap(), Vec::<String>::new());
}

/// Changes, new records before and behind what is counted, quarantine, its end, a shorter log.
fn write(store: &Store, random: &mut StdRng) {
    let one = name(random.random_range(0..500));
    let entity = || EntityKey::Setting(one.clone());
    match random.random_range(0..10) {
        0 => {
            let skip = Skip {
                origin: store.origin(),
                seq: 1,
                entity: entity(),
                why: "a test".to_owned(),
            };
            store.skip(&[skip]).unwrap();
        }
        1 => {
            let quarantined = store.quarantined().into_iter().map(|q| q.entity);
            store.release(&quarantined.collect::<Vec<_>>()).unwrap();
        }
        2 => {
            let to = CompactTo {
                both: store.have(),
                keep: 100,
                most: 1_000,
                never_past: None,
            };
            store.compact(&to).unwrap();
        }
        3 => {
            let fresh = format!("{one}-{}", random.random::<u32>());
            store.set_setting(&fresh, json!("new")).unwrap();
        }
        // A value so large that it lies in pieces.
        4 => store.set_setting(&one, json!("x".repeat(9_000))).unwrap(),
        _ => store
            .set_setting(&one, json!(random.random::<u32>()))
            .unwrap(),
    }
}

#[test]
fn after_the_index_was_opened_again_it_begins_anew_and_ends() {
    let (_dir, store) = settings(450);
    for _ in 0..3 {
        store.verify_more().unwrap();
    }
    let fail = &store.inner.committer.fail_next;
    fail.store(true, std::sync::atomic::Ordering::SeqCst);
    store.set_setting("s0001", json!("lost")).unwrap_err();
    assert!(store.verify_more().is_err(), "the index is closed");
    store.set_setting("s0002", json!("kept")).unwrap();
    store.verify().unwrap();
}

#[test]
fn a_record_that_is_not_what_was_written_is_found() {
    let (_dir, store) = settings(250);
    let record = keys::record(&EntityKey::Setting(name(240)));
    let held = store.inner.committer.read(|index| index.get(&record));
    let mut bytes = held.unwrap().unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    behind_its_back(&store, record.clone(), Some(bytes));
    assert!(found(&store).contains("digest"));
    behind_its_back(&store, record, None);
    assert!(found(&store).contains("digest"), "one that is gone");
}

#[test]
fn a_hole_in_a_log_and_a_missing_end_are_found() {
    let (_dir, store) = settings(250);
    let origin: Origin = store.origin();
    let entry = |seq| keys::log(&origin, seq);
    let last = store.inner.committer.read(|index| index.get(&entry(250)));
    behind_its_back(&store, entry(250), None);
    assert!(found(&store).contains("ends with operation 249"));
    behind_its_back(&store, entry(250), last.unwrap());
    store.verify().unwrap();
    behind_its_back(&store, entry(100), None);
    anew(&store);
    assert!(found(&store).contains("lacks operation 100"));
}

#[test]
fn what_was_noticed_while_open_has_all_of_it_read_at_the_next_opening() {
    let (dir, store) = settings(250);
    let record = keys::record(&EntityKey::Setting(name(240)));
    behind_its_back(&store, record.clone(), None);
    drop(store);

    // Of an index larger than this only the beginning would be read.
    let store = open_unverified(dir.path());
    store.verify_at_open(100).unwrap();
    store.suspect("somebody saw it").unwrap();
    store.suspect("and again").unwrap();
    anew(&store);
    let found = store.verify_at_open(100).unwrap_err().to_string();
    assert!(found.contains("digest"), "{found}");
    assert_eq!(suspected(dir.path()).as_deref(), Some("somebody saw it"));

    // Where it turns out to be sound, it is trusted again.
    let (dir, store) = settings(150);
    store.suspect("somebody saw something else").unwrap();
    drop(store);
    drop(open(dir.path()));
    assert_eq!(suspected(dir.path()), None);
}

fn open_unverified(dir: &Path) -> Store {
    let node = "vmpro1".parse().unwrap();
    let disk = Disk {
        dir: dir.to_owned(),
        reserve: 0,
    };
    let lock = crate::format::lock(dir).unwrap();
    let blobs = crate::blobs::Blobs::open(dir).unwrap();
    let committer = crate::commit::Committer::open(disk.clone(), &blobs, &node).unwrap();
    Store::of(lock, disk, blobs, committer, || UnixMillis(0)).unwrap()
}
