//! A backup made while the store is in use, and a store restored from it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed expectation is the failure of the test"
)]

mod common;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use common::{
    assert_sound, audio, deposit, ext, files,
    link::{assert_same, repair, synchronise},
    mailbox, named, node, open, options,
};
use vmsync_store::{
    Backup, GreetingKind, RestoreFrom, Restored, Store, StoreError, backups, model::MessageState,
    prune_backups, restore,
};

fn made(store: &Store, into: &Path) -> Backup {
    store.backup(into, &mut |_| true).unwrap()
}

fn from<'a>(backup: &'a Path, dir: &'a Path) -> RestoreFrom<'a> {
    RestoreFrom {
        backup,
        dir,
        options: options("vmpro1"),
        replace: false,
        leave_out_damaged: false,
    }
}

fn restored(from: RestoreFrom<'_>) -> Result<Restored, StoreError> {
    restore(from, &mut |_, _| {})
}

/// Why it can't be restored.
fn refused(from: RestoreFrom<'_>) -> String {
    restored(from).unwrap_err().to_string()
}

/// A folder on a disk, where the stores of these tests lie in memory: no hard links between them.
fn elsewhere() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Something of everything.
fn furnished() -> (tempfile::TempDir, Store) {
    let (dir, store) = node("vmpro1");
    mailbox(&store, "2001");
    mailbox(&store, "2002");
    store.change_mailbox(&ext("2001"), &named("Zoë")).unwrap();
    let saved = deposit(&store, "2001", b"saved").id;
    store.set_message_state(saved, MessageState::Saved).unwrap();
    let gone = deposit(&store, "2001", b"gone").id;
    store.purge_message(gone).unwrap();
    let kind = GreetingKind::Busy;
    store
        .set_greeting(&ext("2002"), kind, audio(b"busy"), b"busy", None)
        .unwrap();
    store.set_flow("main", &"# long\n".repeat(3_000)).unwrap();
    store
        .set_setting("failback.policy", serde_json::json!("manual"))
        .unwrap();
    (dir, store)
}

#[test]
fn a_restored_store_holds_what_the_backup_held_and_goes_on_with_its_peer() {
    for into in [elsewhere(), tempfile::tempdir_in("/dev/shm").unwrap()] {
        let (_dir, store) = furnished();
        let backup = made(&store, into.path());
        let manifest = &backup.manifest;
        assert_eq!(manifest.vector, store.have());
        assert_eq!(manifest.digest.as_ref(), Some(&store.digest().1.0));
        assert_eq!((manifest.audio_files, manifest.without_audio), (2, 0));
        let later = deposit(&store, "2001", b"later").id;

        let fresh = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = fresh.path().join("data");
        let report = restored(from(&backup.path, &dir)).unwrap();
        assert_eq!(
            (report.records, report.left_out.len()),
            (manifest.records, 0)
        );
        let copy = open(&dir, "vmpro1");
        assert_sound(&copy);
        assert_eq!(copy.origin(), report.origin);
        assert_ne!(copy.origin(), store.origin(), "a new incarnation");
        assert_eq!(copy.have(), manifest.vector);
        assert_eq!(Some(copy.digest().1.0), manifest.digest);
        assert!(copy.message(later).unwrap().is_none());
        let greeting = copy.greeting(&ext("2002"), GreetingKind::Busy).unwrap();
        assert_eq!(copy.read_audio(&greeting.unwrap().audio).unwrap(), b"busy");

        // It writes, and gets from its peer what came after the backup.
        deposit(&copy, "2002", b"new");
        synchronise(&store, &copy);
        assert!(copy.message(later).unwrap().is_some());
        assert_same(&store, &copy);
    }
}

#[test]
fn a_backup_under_load_holds_all_that_was_acknowledged_before() {
    let (_dir, store) = node("vmpro1");
    mailbox(&store, "2001");
    let acknowledged = Mutex::new(BTreeSet::new());
    let stop = AtomicBool::new(false);
    let (into, fresh) = (elsewhere(), elsewhere());
    let (before, backup) = std::thread::scope(|s| {
        for writer in 0..4 {
            let (store, acknowledged, stop) = (&store, &acknowledged, &stop);
            s.spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let id = deposit(store, "2001", format!("{writer} {n}").as_bytes()).id;
                    if n % 3 == 0 {
                        // Its audio may go right under the backup's hands.
                        store.purge_message(id).unwrap();
                    } else {
                        acknowledged.lock().unwrap().insert(id);
                    }
                }
            });
        }
        while acknowledged.lock().unwrap().len() < 100 {
            std::thread::yield_now();
        }
        let before = acknowledged.lock().unwrap().clone();
        let backup = made(&store, into.path());
        stop.store(true, Ordering::Relaxed);
        (before, backup)
    });
    assert_eq!(backup.manifest.without_audio, 0);
    restored(from(&backup.path, fresh.path())).unwrap();
    let copy = open(fresh.path(), "vmpro1");
    assert_sound(&copy);
    for id in &before {
        let message = copy.message(*id).unwrap();
        let message = message.unwrap_or_else(|| panic!("{id} is lost"));
        copy.read_audio(&message.audio).unwrap();
    }
    // Read while others wrote, some records are newer than the vector says: the peer knows why.
    synchronise(&store, &copy);
    if store.digest() != copy.digest() {
        repair(&store, &copy);
    }
    assert_same(&store, &copy);
}

#[test]
fn only_what_is_new_is_copied_again() {
    let (_dir, store) = furnished();
    let into = elsewhere();
    assert_eq!(made(&store, into.path()).manifest.copied, 2);
    deposit(&store, "2001", b"new");
    let second = made(&store, into.path());
    assert_eq!(second.manifest.copied, 1);
    assert_eq!(files(&second.path.join("audio")).len(), 3);
    // The first may go without the second losing anything.
    let removed = prune_backups(into.path(), &store.origin().node, 1).unwrap();
    assert_eq!(removed.len(), 1);
    let fresh = elsewhere();
    restored(from(&second.path, fresh.path())).unwrap();
    let copy = open(fresh.path(), "vmpro1");
    assert_eq!(copy.digest().1, store.digest().1);
}

#[test]
fn what_is_cut_off_is_no_backup_and_the_oldest_go_first() {
    let (_dir, store) = furnished();
    let into = elsewhere();
    let me = store.origin().node;
    let mut told = 0;
    let stopped = store.backup(into.path(), &mut |_| {
        told += 1;
        told < 3
    });
    assert!(stopped.unwrap_err().to_string().contains("stopped"));
    assert_eq!(backups(into.path(), &me).unwrap(), []);
    let left = into.path().join("vmpro1-20200101T000000Z.partial");
    let others = into.path().join("vmpro2-20200101T000000Z.partial");
    for partial in [&left, &others] {
        fs::create_dir(partial).unwrap();
        fs::write(partial.join("manifest.json"), b"{}").unwrap();
    }
    let all: Vec<_> = (0..4).map(|_| made(&store, into.path())).collect();
    assert!(!left.exists() && others.exists());
    assert_eq!(backups(into.path(), &me).unwrap(), all);
    let removed = prune_backups(into.path(), &me, 2).unwrap();
    let oldest: Vec<PathBuf> = all[..2].iter().map(|b| b.path.clone()).collect();
    assert_eq!(removed, oldest);
    assert_eq!(backups(into.path(), &me).unwrap(), all[2..]);
    prune_backups(into.path(), &me, 0).unwrap();
    assert_eq!(backups(into.path(), &me).unwrap().len(), 1, "never none");
}

#[test]
fn a_damaged_backup_is_refused_in_words() {
    let (_dir, store) = furnished();
    let (into, fresh) = (elsewhere(), elsewhere());
    let backup = made(&store, into.path());
    let records = backup.path.join("records.jsonl");
    let sound = fs::read(&records).unwrap();
    let harms: [(&str, Vec<u8>); 4] = [
        ("cut", sound[..sound.len() - 20].to_vec()),
        ("a line less", {
            let first = sound.iter().position(|b| *b == b'\n').unwrap();
            sound[first + 1..].to_vec()
        }),
        ("another value", {
            let text = String::from_utf8(sound.clone()).unwrap();
            text.replace("Zoë", "Zoe").into_bytes()
        }),
        ("more after the end", [sound.as_slice(), b"{}\n"].concat()),
    ];
    for (how, bytes) in harms {
        fs::write(&records, bytes).unwrap();
        let why = refused(from(&backup.path, fresh.path()));
        assert!(why.contains("records.jsonl"), "{how}: {why}");
    }
    fs::write(&records, &sound).unwrap();

    let manifest = backup.path.join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"version\": 1", "\"version\": 9")).unwrap();
    assert!(refused(from(&backup.path, fresh.path())).contains("version 9"));
    fs::remove_file(&manifest).unwrap();
    assert!(refused(from(&backup.path, fresh.path())).contains("is no backup"));
    fs::write(&manifest, text).unwrap();

    let name = &files(&backup.path.join("audio"))[0];
    let file = backup.path.join("audio").join(&name[34..36]).join(name);
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();
    let why = refused(from(&backup.path, fresh.path()));
    assert!(
        why.contains("SHA-256") && why.contains("--leave-out-damaged"),
        "{why}"
    );
    let rest = restored(RestoreFrom {
        leave_out_damaged: true,
        ..from(&backup.path, fresh.path())
    });
    assert_eq!(rest.unwrap().left_out.len(), 1);
    // The peer knows what was left out.
    let copy = open(fresh.path(), "vmpro1");
    assert_sound(&copy);
    synchronise(&store, &copy);
    repair(&store, &copy);
    assert_same(&store, &copy);
}

#[test]
fn what_was_missing_already_is_told_and_does_not_hold_up_the_rest() {
    let (dir, store) = furnished();
    let (into, fresh) = (elsewhere(), elsewhere());
    let lost = deposit(&store, "2001", b"lost");
    let name = format!("{}.vma", lost.audio.blob);
    fs::remove_file(dir.path().join("audio").join(&name[34..36]).join(&name)).unwrap();
    let backup = made(&store, into.path());
    let entity = format!("message/{}", lost.id);
    assert_eq!(
        backup.manifest.without_audio_named,
        std::slice::from_ref(&entity)
    );
    let report = restored(from(&backup.path, fresh.path())).unwrap();
    assert_eq!(report.left_out, [entity]);
    assert_sound(&open(fresh.path(), "vmpro1"));
}

#[test]
fn a_folder_that_holds_a_store_is_set_aside_only_when_asked() {
    let (_dir, store) = furnished();
    let into = elsewhere();
    let backup = made(&store, into.path());
    let (old, used) = furnished();
    let kept = deposit(&used, "2002", b"only here").id;
    let busy = restored(from(&backup.path, old.path()));
    assert!(matches!(busy, Err(StoreError::InUse(_))), "{busy:?}");
    drop(used);
    assert!(refused(from(&backup.path, old.path())).contains("--force"));
    assert!(open(old.path(), "vmpro1").message(kept).unwrap().is_some());

    let report = restored(RestoreFrom {
        replace: true,
        ..from(&backup.path, old.path())
    });
    let aside = report.unwrap().replaced.unwrap();
    let copy = open(old.path(), "vmpro1");
    assert!(copy.message(kept).unwrap().is_none());
    assert_eq!(copy.digest().1, store.digest().1);
    // What was there is whole, for who needs it.
    let copied = open(&aside, "vmpro1");
    assert!(copied.message(kept).unwrap().is_some());
}

#[test]
fn a_restore_cut_off_anywhere_can_be_run_again_and_no_node_starts_meanwhile() {
    let (_dir, store) = furnished();
    let into = elsewhere();
    let backup = made(&store, into.path());
    let whole = elsewhere();
    restored(from(&backup.path, whole.path())).unwrap();
    let digest = open(whole.path(), "vmpro1").digest().1;
    assert_eq!(digest, store.digest().1);

    // Before it was whole.
    let early = elsewhere();
    fs::create_dir_all(early.path().join("restoring/db")).unwrap();
    fs::write(early.path().join("restoring/db/db"), b"half").unwrap();
    let refused = Store::open(early.path(), options("vmpro1")).unwrap_err();
    assert!(refused.to_string().contains("was cut off"), "{refused}");
    restored(from(&backup.path, early.path())).unwrap();
    assert_eq!(open(early.path(), "vmpro1").digest().1, digest);

    // Between any two of the last moves: `READY` is written, some is in its place.
    let ready = serde_json::to_vec(&Restored {
        backup: backup.manifest.clone(),
        origin: store.origin(),
        records: backup.manifest.records,
        left_out: Vec::new(),
        replaced: None,
    })
    .unwrap();
    for moved in 0..=4 {
        let cut = elsewhere();
        let order = ["audio", "db", "COMMITTED", "FORMAT"];
        for (n, name) in order.iter().enumerate() {
            let to = if n < moved {
                cut.path().to_owned()
            } else {
                cut.path().join("restoring")
            };
            copy(&whole.path().join(name), &to.join(name));
        }
        fs::create_dir_all(cut.path().join("restoring")).unwrap();
        fs::write(cut.path().join("restoring/READY"), &ready).unwrap();
        assert!(Store::open(cut.path(), options("vmpro1")).is_err());
        // Also where what it was made of is out of reach by now.
        restored(from(&into.path().join("gone"), cut.path())).unwrap();
        let copy = open(cut.path(), "vmpro1");
        assert_eq!(copy.digest().1, digest, "{moved} moved");
        assert_sound(&copy);
        assert!(!cut.path().join("restoring").exists());
    }
}

fn copy(from: &Path, to: &Path) {
    if !from.is_dir() {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
        return;
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        copy(&entry.path(), &to.join(entry.file_name()));
    }
}

#[test]
fn an_empty_store_and_the_other_node_can_be_restored_too() {
    let (_dir, store) = node("vmpro1");
    let (into, fresh) = (elsewhere(), elsewhere());
    let empty = made(&store, into.path());
    restored(from(&empty.path, &fresh.path().join("a"))).unwrap();
    assert!(open(&fresh.path().join("a"), "vmpro1").have().is_empty());
    mailbox(&store, "2001");
    let backup = made(&store, into.path());
    let report = restored(RestoreFrom {
        options: options("vmpro2"),
        ..from(&backup.path, &fresh.path().join("b"))
    });
    assert_eq!(report.unwrap().origin.node.as_str(), "vmpro2");
    let other = open(&fresh.path().join("b"), "vmpro2");
    assert!(other.mailbox(&ext("2001")).unwrap().is_some());
}
