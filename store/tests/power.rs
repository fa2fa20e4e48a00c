//! The power is lost before and after every step by which anything becomes durable, one after the
//! other: what was acknowledged is there, what was not is there whole or not at all.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed expectation is the failure of the test"
)]

mod common;

use common::{assert_sound, audio, ext, from_source, named, options};
use vmsync_store::{
    CompactTo, EntityKey, GreetingKind, NewAudio, ScrubAsk, Store, StoreError,
    model::MessageState,
    simulate::{Disk, Lie, When, seed_chance},
};

struct Folder {
    disk: Disk,
    dir: tempfile::TempDir,
}

impl Folder {
    fn new(seed: u64) -> Self {
        seed_chance(seed);
        let dir = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let disk = Disk::new(dir.path(), seed);
        Self { disk, dir }
    }

    fn open(&self) -> Result<Store, StoreError> {
        Store::open(self.dir.path(), options("vmpro1"))
    }
}

type Act = fn(&Store) -> Result<(), StoreError>;

/// One thing after the other; says after each that it was acknowledged. The last is a purge.
const ACTS: [Act; 8] = [
    |s| s.create_mailbox(&ext("2001"), &named("Ann")).map(drop),
    |s| deposit(s, "first"),
    |s| deposit(s, "second"),
    |s| {
        let (e, kind) = (ext("2001"), GreetingKind::Busy);
        s.set_greeting(&e, kind, audio(b"busy"), b"busy", None)
            .map(drop)
    },
    |s| {
        let id = first(s)?;
        s.set_message_state(id, MessageState::Saved).map(drop)
    },
    |s| s.put_local("journal", "a", Some(&[7; 9000])),
    |s| s.compact(&CompactTo::default()).map(drop),
    |s| s.purge_message(first(s)?),
];

fn deposit(store: &Store, source: &str) -> Result<(), StoreError> {
    let bytes = source.as_bytes();
    let facts = from_source(source);
    store
        .deposit(&ext("2001"), facts, audio(bytes), bytes)
        .map(drop)
}

fn first(store: &Store) -> Result<uuid::Uuid, StoreError> {
    let all = store.messages(&ext("2001"), &[], None, 10)?.items;
    Ok(all.first().unwrap().id)
}

fn ids(store: &Store) -> Vec<uuid::Uuid> {
    let all = store.messages(&ext("2001"), &[], None, 10).unwrap().items;
    all.into_iter().map(|m| m.id).collect()
}

/// Whether what the act does is to be seen.
fn done(store: &Store, act: usize, purged: bool) -> bool {
    let mailbox = store.mailbox(&ext("2001")).unwrap();
    let Some(mailbox) = mailbox else { return false };
    let counts = mailbox.counts;
    let messages = if purged { 1 } else { 2 };
    match act {
        0 => true,
        1 => !ids(store).is_empty(),
        2 => ids(store).len() >= messages,
        3 => {
            let greeting = store.greeting(&ext("2001"), GreetingKind::Busy).unwrap();
            greeting.is_some_and(|g| store.read_audio(&g.audio).unwrap() == b"busy")
        }
        4 => purged || counts.saved == 1,
        5 => store.local("journal", "a").unwrap() == Some(vec![7; 9000]),
        6 => store.floor().get(&store.origin()) >= 5,
        _ => ids(store).len() == 1,
    }
}

/// Runs the acts until the power is lost; gives how many were acknowledged.
fn acknowledged(folder: &Folder) -> usize {
    let Ok(store) = folder.open() else { return 0 };
    ACTS.iter().take_while(|act| act(&store).is_ok()).count()
}

#[test]
fn what_was_acknowledged_survives_a_loss_of_power_at_every_step() {
    let whole = Folder::new(0);
    assert_eq!(acknowledged(&whole), ACTS.len());
    let steps = whole.disk.steps();
    assert!(steps > 20, "{steps}");
    for step in 1..=steps {
        for (when, seed) in [(When::Before, 1), (When::Before, 2), (When::After, 3)] {
            let folder = Folder::new(seed * 1_000 + step);
            folder.disk.fail(step, when);
            let kept = acknowledged(&folder);
            assert!(folder.disk.is_down(), "{when:?} {step}");
            folder.disk.restore_power().unwrap();
            let store = folder.open().unwrap();
            assert_sound(&store);
            let purged = ids(&store).len() < 2 && kept >= 7;
            for act in 0..kept {
                assert!(
                    done(&store, act, purged),
                    "act {act}, lost {when:?} step {step}"
                );
            }
            // It goes on from there.
            for message in store.messages(&ext("2001"), &[], None, 10).unwrap().items {
                store.read_audio(&message.audio).unwrap();
            }
            let again = store.create_mailbox(&ext("2002"), &named("Bo"));
            again.unwrap();
        }
    }
}

#[test]
fn the_power_may_be_lost_again_while_the_store_is_opened() {
    let mut cut = 0;
    for seed in 0..40 {
        let folder = Folder::new(seed);
        let half = 12 + seed;
        folder.disk.fail(half, When::Before);
        let kept = acknowledged(&folder);
        for step in 1..30 {
            folder.disk.restore_power().unwrap();
            folder.disk.fail(step, When::After);
            if folder.open().is_ok() {
                break;
            }
            cut += 1;
        }
        folder.disk.restore_power().unwrap();
        let store = folder.open().unwrap();
        assert_sound(&store);
        assert!((0..kept).all(|act| done(&store, act, kept >= 7)));
    }
    assert!(cut > 20, "{cut}");
}

/// The 250 to a mail that brings the peer's copy says that it is here: the peer's own may be the next
/// to go.
#[test]
fn audio_replaced_by_the_peers_copy_stays_so() {
    for seed in 0..40 {
        let folder = Folder::new(seed);
        let store = folder.open().unwrap();
        store.create_mailbox(&ext("2001"), &named("Ann")).unwrap();
        let bytes = b"what a caller said";
        let (message, _) = store
            .deposit(&ext("2001"), from_source("1"), audio(bytes), bytes)
            .unwrap();
        let name = format!("{}.vma", message.audio.blob);
        let place = folder.dir.path().join("audio").join(&name[34..36]);
        if seed % 2 == 0 {
            std::fs::remove_file(place.join(&name)).unwrap();
        } else {
            std::fs::write(place.join(&name), b"no audio file at all").unwrap();
        }
        let all = ScrubAsk {
            after: None,
            files: u64::MAX,
            bytes: u64::MAX,
            read: true,
        };
        // A missing file may be brought again before anybody has noticed that it is missing.
        let noticed = seed % 4 != 0;
        if noticed {
            store.scrub(&all).unwrap();
            assert_eq!(store.audio_faults().len(), 1);
        }
        let copy = NewAudio {
            entity: EntityKey::Message(message.id),
            mailbox: Some(ext("2001")),
            audio: &message.audio,
            facts: serde_json::Value::Null,
        };
        store.put_audios(&[(copy, bytes)]).unwrap();
        assert_eq!(store.audio_faults(), []);
        folder.disk.lose_power();
        drop(store);
        folder.disk.restore_power().unwrap();
        let store = folder.open().unwrap();
        let read = store.read_audio(&message.audio);
        assert_eq!(read.unwrap(), bytes, "seed {seed}");
    }
}

/// The test would notice a store that answers too early.
#[test]
fn a_disk_that_lies_is_found_out() {
    for lie in [Lie::Index, Lie::Names] {
        let lost = (0..40).filter(|seed| {
            let folder = Folder::new(*seed);
            drop(folder.open().unwrap());
            folder.disk.lie(Some(lie));
            let kept = acknowledged(&folder);
            assert_eq!(kept, ACTS.len());
            folder.disk.lose_power();
            folder.disk.restore_power().unwrap();
            let Ok(store) = folder.open() else {
                return true;
            };
            let message = ids(&store)
                .first()
                .map(|id| store.message(*id).unwrap().unwrap());
            message.is_none_or(|m| store.read_audio(&m.audio).is_err())
        });
        assert!(lost.count() > 5, "{lie:?}");
    }
}

/// The process was killed while it took the peer's copy; the peer, which had no 250, brings it again. The
/// file is there by then, but its name need not be durable.
#[test]
fn audio_brought_again_after_a_crash_is_as_durable_as_the_first_time() {
    for step in 1..=8 {
        let folder = Folder::new(step);
        let store = folder.open().unwrap();
        store.create_mailbox(&ext("2001"), &named("Ann")).unwrap();
        let bytes = b"what a caller said";
        let (message, _) = store
            .deposit(&ext("2001"), from_source("1"), audio(bytes), bytes)
            .unwrap();
        let name = format!("{}.vma", message.audio.blob);
        let place = folder.dir.path().join("audio").join(&name[34..36]);
        std::fs::remove_file(place.join(&name)).unwrap();
        let bring = |store: &Store| {
            let copy = NewAudio {
                entity: EntityKey::Message(message.id),
                mailbox: Some(ext("2001")),
                audio: &message.audio,
                facts: serde_json::Value::Null,
            };
            store.put_audios(&[(copy, bytes)])
        };
        folder.disk.fail(step, When::Before);
        let whole = bring(&store).is_ok();
        folder.disk.hold();
        drop(store);
        folder.disk.restart();
        let store = folder.open().unwrap();
        bring(&store).unwrap();
        folder.disk.lose_power();
        drop(store);
        folder.disk.restore_power().unwrap();
        let store = folder.open().unwrap();
        let read = store.read_audio(&message.audio);
        assert_eq!(read.unwrap(), bytes, "killed before step {step}");
        if whole {
            return;
        }
    }
    panic!("the peer's copy was never taken whole");
}
