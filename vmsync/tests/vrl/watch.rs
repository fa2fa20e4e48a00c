//! The watched folder, with real files: what is told, what is still written, and what happens when events are lost
//! or the folder goes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test says what failed by panicking; recorders rename without fsync"
)]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use vmsync::vrl::{Changes, Watch, WatchTuning};

/// The next answer; fails after 20 s.
async fn next(watch: &mut Watch) -> Changes {
    tokio::time::timeout(Duration::from_secs(20), watch.changed())
        .await
        .expect("no answer within 20 s")
}

/// A watch whose first rescan is had.
async fn begun(folder: &Path, tuning: WatchTuning) -> Watch {
    let mut watch = Watch::tuned(folder, tuning);
    assert!(watch.still_written("anything"), "before the first look");
    assert!(matches!(next(&mut watch).await, Changes::Rescan(_)));
    assert!(!watch.still_written("anything"));
    watch
}

fn names(of: &[&str]) -> Changes {
    Changes::Names(of.iter().map(|n| (*n).to_owned()).collect())
}

/// Looks at what is told, as whoever moves recordings does, until all of `wanted` are known.
async fn learns(watch: &mut Watch, folder: &Path, wanted: &BTreeSet<String>) -> (usize, usize) {
    let (mut known, mut told, mut rescans) = (BTreeSet::new(), 0, 0);
    while !wanted.is_subset(&known) {
        match next(watch).await {
            Changes::Names(names) => {
                told += names.len();
                known.extend(names);
            }
            Changes::Rescan(_) => {
                rescans += 1;
                known.extend(listed(folder));
            }
        }
    }
    (told, rescans)
}

fn listed(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[tokio::test]
async fn a_slow_writer_is_told_of_when_it_closes_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut watch = begun(dir.path(), WatchTuning::default()).await;
    let mut file = fs::File::create(dir.path().join("call.wav")).unwrap();
    for _ in 0..5 {
        file.write_all(b"some audio").unwrap();
        let early = tokio::time::timeout(Duration::from_millis(100), watch.changed()).await;
        assert!(early.is_err(), "told while it is written: {early:?}");
        assert!(watch.still_written("call.wav"));
    }
    drop(file);
    assert_eq!(next(&mut watch).await, names(&["call.wav"]));
    assert!(!watch.still_written("call.wav"));
}

#[tokio::test]
async fn files_renamed_moved_and_linked_in_are_told_and_hidden_ones_are_not() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut watch = begun(dir.path(), WatchTuning::default()).await;
    let here = |name: &str| dir.path().join(name);
    fs::write(here(".a.part"), b"a").unwrap();
    fs::rename(here(".a.part"), here("a.wav")).unwrap();
    assert_eq!(next(&mut watch).await, names(&["a.wav"]));
    fs::write(elsewhere.path().join("b"), b"b").unwrap();
    fs::rename(elsewhere.path().join("b"), here("b.wav")).unwrap();
    assert_eq!(next(&mut watch).await, names(&["b.wav"]));
    fs::write(elsewhere.path().join("c"), b"c").unwrap();
    fs::hard_link(elsewhere.path().join("c"), here("c.wav")).unwrap();
    assert_eq!(next(&mut watch).await, names(&["c.wav"]));
    // Renamed before it is closed: told when it is closed.
    let file = fs::File::create(here(".d.part")).unwrap();
    fs::rename(here(".d.part"), here("d.wav")).unwrap();
    let early = tokio::time::timeout(Duration::from_millis(200), watch.changed()).await;
    assert!(early.is_err() && watch.still_written("d.wav"), "{early:?}");
    drop(file);
    assert_eq!(next(&mut watch).await, names(&["d.wav"]));
}

#[tokio::test]
async fn none_of_20_000_files_written_at_once_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let mut watch = begun(dir.path(), WatchTuning::default()).await;
    let wanted: BTreeSet<_> = (0..20_000).map(|n| format!("{n}.wav")).collect();
    let (folder, files) = (dir.path().to_owned(), wanted.clone());
    let writing = tokio::task::spawn_blocking(move || {
        for name in files {
            fs::write(folder.join(name), b"x").unwrap();
        }
    });
    let (told, rescans) = learns(&mut watch, dir.path(), &wanted).await;
    writing.await.unwrap();
    println!("{told} told by name, {rescans} rescans");

    // And with nobody listening meanwhile: what is kept is bounded, and a rescan says so.
    let wanted: BTreeSet<_> = (0..20_000).map(|n| format!("again-{n}.wav")).collect();
    for name in &wanted {
        fs::write(dir.path().join(name), b"x").unwrap();
    }
    let (told, rescans) = learns(&mut watch, dir.path(), &wanted).await;
    println!("{told} told by name, {rescans} rescans");
    assert!(rescans > 0);
    let lost = wanted.iter().filter(|n| watch.still_written(n)).count();
    if lost > 0 {
        // Events were lost, of closings too: the look that follows an overflow finds that nobody writes.
        learns(&mut watch, dir.path(), &BTreeSet::new()).await;
        let _ = tokio::time::timeout(Duration::from_secs(8), async {
            while wanted.iter().any(|n| watch.still_written(n)) {
                watch.changed().await;
            }
        })
        .await;
    }
    assert!(!wanted.iter().any(|n| watch.still_written(n)));
}

#[tokio::test]
async fn a_folder_that_is_removed_and_made_again_is_watched_again() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("VRL");
    let tuning = WatchTuning {
        retry: Duration::from_millis(100),
        ..WatchTuning::default()
    };
    // It is not even there yet.
    let mut watch = begun(&folder, tuning).await;
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.wav"), b"a").unwrap();
    learns(&mut watch, &folder, &BTreeSet::from(["a.wav".to_owned()])).await;
    for how in ["removed", "renamed"] {
        if how == "removed" {
            fs::remove_dir_all(&folder).unwrap();
        } else {
            fs::rename(&folder, dir.path().join("old")).unwrap();
        }
        assert!(matches!(next(&mut watch).await, Changes::Rescan(_)));
        fs::create_dir(&folder).unwrap();
        assert!(matches!(next(&mut watch).await, Changes::Rescan(_)));
        // From here on by its events, not by looks at all of it.
        fs::write(folder.join("b.wav"), b"b").unwrap();
        assert_eq!(next(&mut watch).await, names(&["b.wav"]), "{how}");
        assert_eq!(watch.trouble(), None);
    }
}

#[tokio::test]
async fn a_writer_that_began_before_the_watch_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("idle.wav"), b"x").unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "exec 3>>call.wav; echo open; read end"])
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "open\n");
    // With events, and without any, as where the system has no watches left.
    let mut watch = begun(dir.path(), WatchTuning::default()).await;
    let tuning = WatchTuning {
        events: false,
        rescan: Duration::from_millis(300),
        ..WatchTuning::default()
    };
    let mut blind = begun(dir.path(), tuning).await;
    for w in [&watch, &blind] {
        assert!(w.still_written("call.wav") && !w.still_written("idle.wav"));
    }
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(next(&mut watch).await, names(&["call.wav"]));
    assert!(!watch.still_written("call.wav"));
    tokio::time::timeout(Duration::from_secs(10), async {
        while blind.still_written("call.wav") {
            assert!(matches!(
                blind.changed().await,
                Changes::Rescan(_) | Changes::Names(_)
            ));
        }
    })
    .await
    .expect("seen as finished without events");
}

#[tokio::test]
async fn the_folder_is_looked_at_in_any_case() {
    let dir = tempfile::tempdir().unwrap();
    let tuning = WatchTuning {
        rescan: Duration::from_millis(100),
        ..WatchTuning::default()
    };
    let mut watch = begun(dir.path(), tuning).await;
    for _ in 0..3 {
        assert!(matches!(next(&mut watch).await, Changes::Rescan(_)));
    }
}
