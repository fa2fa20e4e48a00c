//! What is kept of recordings that the primary has confirmed: moved, found again after a crash anywhere, deleted when
//! it may be, and never anything else.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test says what failed by panicking, and puts files where a crash would leave them"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sha2::{Digest, Sha256};
use vmsync::vrl::{Archive, Confirmed, Keeping, archive::StoreRecords};
use vmsync_config::{
    VrlArchive,
    words::{NodeId, Now, UnixMillis},
};
use vmsync_core::vrl::RecordingName;
use vmsync_store::{Options, Store};

/// A backup: its recordings, its archive, its store.
struct Backup {
    dir: tempfile::TempDir,
    config: VrlArchive,
    archive: Option<Archive>,
}

impl Backup {
    fn new(max_age: Option<Duration>, max_bytes: Option<u64>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("moved");
        Self::on(dir, folder, max_age, max_bytes)
    }

    fn on(
        dir: tempfile::TempDir,
        folder: PathBuf,
        max_age: Option<Duration>,
        max_bytes: Option<u64>,
    ) -> Self {
        fs::create_dir(dir.path().join("VRL")).unwrap();
        let config = VrlArchive {
            folder,
            max_age,
            max_bytes,
        };
        let mut backup = Self {
            dir,
            config,
            archive: None,
        };
        backup.restart(hour(0));
        backup
    }

    /// As after a crash: only what is on disk counts.
    fn restart(&mut self, now: Now) {
        self.archive = None;
        let options = Options {
            node: NodeId::new("vmpro2").unwrap(),
            min_free_bytes: 0,
            clock: || UnixMillis(1_700_000_000_000),
        };
        let store = Store::open(&self.dir.path().join("store"), options).unwrap();
        let records = Arc::new(StoreRecords(store));
        self.archive = Some(Archive::open(&self.config, 0, records, now).unwrap());
    }

    fn archive(&self) -> &Archive {
        self.archive.as_ref().unwrap()
    }

    fn vrl(&self) -> PathBuf {
        self.dir.path().join("VRL")
    }

    /// Writes recordings into the folder; what the primary would confirm of them.
    fn recorded(&self, files: &[(&str, &str)]) -> Vec<Confirmed> {
        let write = |(name, content): &(&str, &str)| {
            fs::write(self.vrl().join(name), content).unwrap();
            confirmed(name, content)
        };
        files.iter().map(write).collect()
    }

    fn keep(&self, unit: &[Confirmed], now: Now) -> Keeping {
        self.archive().keep(&self.vrl(), unit, now).unwrap()
    }

    fn here(&self) -> Vec<String> {
        listed(&self.vrl())
    }

    fn kept(&self) -> Vec<String> {
        listed(&self.config.folder)
    }
}

fn confirmed(name: &str, content: &str) -> Confirmed {
    Confirmed {
        name: RecordingName::new(name).unwrap(),
        bytes: content.len() as u64,
        sha256: hex::encode(Sha256::digest(content)),
        remote_name: name.to_owned(),
        confirmed_at: UnixMillis(1_700_000_000_000),
    }
}

fn listed(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The program runs for so long, and the wall clock goes with it.
fn hour(hours: u64) -> Now {
    at(hours, hours)
}

fn at(mono: u64, wall: u64) -> Now {
    Now {
        mono: Duration::from_hours(mono),
        wall: UnixMillis(1_700_000_000_000 + wall * 3_600_000),
    }
}

fn kept(names: &[&str]) -> Keeping {
    Keeping::Kept(names.iter().map(|n| (*n).to_owned()).collect())
}

const DAY: Option<Duration> = Some(Duration::from_hours(24));

#[test]
fn a_confirmed_recording_moves_with_its_side_file_and_goes_with_it() {
    let backup = Backup::new(DAY, None);
    let call = backup.recorded(&[("call.wav", "audio"), ("call.xml", "<call/>")]);
    let other = backup.recorded(&[("other.wav", "more audio")]);
    assert_eq!(backup.keep(&call, hour(1)), kept(&["call.wav", "call.xml"]));
    assert_eq!(backup.keep(&other, hour(20)), kept(&["other.wav"]));
    assert_eq!(backup.here(), [""; 0]);
    let status = backup.archive().status(hour(20));
    assert_eq!((status.files, status.bytes), (3, 22));
    backup.archive().sweep(hour(25)).unwrap();
    assert_eq!(backup.kept(), ["call.wav", "call.xml", "other.wav"]);
    backup.archive().sweep(hour(26)).unwrap();
    assert_eq!(backup.kept(), ["other.wav"]);
    let status = backup.archive().status(hour(26));
    assert_eq!((status.files, status.bytes, status.deleted), (1, 10, 2));
    assert_eq!((status.next_sweep_s, status.unfit), (3600, Vec::new()));
}

#[test]
fn the_oldest_make_room_as_soon_as_there_is_too_much() {
    let content = "x".repeat(300_000);
    let backup = Backup::new(None, Some(1 << 20));
    for n in 0..10 {
        let name = format!("{n}.wav");
        let unit = backup.recorded(&[(&name, &content)]);
        backup.keep(&unit, hour(n));
        let bytes: u64 = backup.kept().len() as u64 * 300_000;
        assert!(bytes <= (1 << 20) + (1 << 14), "{bytes}");
    }
    assert_eq!(backup.kept(), ["7.wav", "8.wav", "9.wav"]);
}

#[test]
fn a_taken_name_is_kept_beside_what_has_it_and_all_of_a_unit_alike() {
    let backup = Backup::new(DAY, None);
    backup.keep(&backup.recorded(&[("call.wav", "first")]), hour(1));
    let unit = backup.recorded(&[("call.wav", "second"), ("call.xml", "<call/>")]);
    let hex = &unit[0].sha256[..8];
    let names = [format!("call~{hex}.wav"), format!("call~{hex}.xml")];
    assert_eq!(backup.keep(&unit, hour(2)), kept(&[&names[0], &names[1]]));
    // The very same once more is no other.
    let again = backup.recorded(&[("call.wav", "second"), ("call.xml", "<call/>")]);
    assert_eq!(backup.keep(&again, hour(2)), kept(&[&names[0], &names[1]]));
    assert_eq!(backup.kept().len(), 3);
    assert_eq!(
        fs::read(backup.config.folder.join("call.wav")).unwrap(),
        b"first"
    );
    // And they go together.
    backup.archive().sweep(hour(26)).unwrap();
    assert_eq!(backup.kept(), names);
}

#[test]
fn what_is_cut_anywhere_is_finished_by_the_next_try() {
    // As a crash leaves it: after the record alone, the side file moved, or both files in both places.
    for cut in 0..4 {
        let mut backup = Backup::new(DAY, None);
        let unit = backup.recorded(&[("call.wav", "audio"), ("call.xml", "<call/>")]);
        let (vrl, moved) = (backup.vrl(), backup.config.folder.clone());
        fs::create_dir_all(&moved).unwrap();
        match cut {
            0 => {}
            1 => fs::rename(vrl.join("call.xml"), moved.join("call.xml")).unwrap(),
            2 => {
                fs::copy(vrl.join("call.xml"), moved.join("call.xml")).unwrap();
                fs::copy(vrl.join("call.wav"), moved.join("call.wav")).unwrap();
            }
            _ => {
                // The unfinished copy to another disk.
                let part = unit[0].name.temporary(&unit[0].sha256);
                fs::write(moved.join(part), "au").unwrap();
            }
        }
        backup.restart(hour(1));
        assert_eq!(
            backup.keep(&unit, hour(1)),
            kept(&["call.wav", "call.xml"]),
            "cut {cut}"
        );
        assert_eq!(backup.here(), [""; 0], "cut {cut}");
        // And once more, as when the journal was not written any more.
        backup.restart(hour(2));
        assert_eq!(
            backup.keep(&unit, hour(2)),
            kept(&["call.wav", "call.xml"]),
            "cut {cut}"
        );
        assert_eq!(fs::read(moved.join("call.wav")).unwrap(), b"audio");
        backup.archive().sweep(hour(30)).unwrap();
        let left: Vec<_> = backup
            .kept()
            .into_iter()
            .filter(|n| !n.starts_with('.'))
            .collect();
        assert_eq!(left, [""; 0], "cut {cut}");
    }
}

#[test]
fn what_changed_since_it_was_confirmed_stays_where_it_is() {
    let backup = Backup::new(DAY, None);
    let unit = backup.recorded(&[("call.wav", "audio"), ("call.xml", "<call/>")]);
    fs::write(backup.vrl().join("call.xml"), "<call/> ").unwrap();
    let Keeping::Changed { name, bytes, .. } = backup.keep(&unit, hour(1)) else {
        panic!("it was kept");
    };
    assert_eq!((name.as_str(), bytes), ("call.xml", 8));
    assert_eq!((backup.here().len(), backup.kept().len()), (2, 0));
    fs::remove_file(backup.vrl().join("call.xml")).unwrap();
    fs::remove_file(backup.vrl().join("call.wav")).unwrap();
    assert_eq!(backup.keep(&unit, hour(1)), Keeping::Gone);
}

#[test]
fn nothing_goes_that_is_not_known_to_be_confirmed_as_it_is() {
    let mut backup = Backup::new(DAY, Some(1 << 20));
    backup.keep(&backup.recorded(&[("same-length.wav", "audio")]), hour(1));
    backup.keep(&backup.recorded(&[("longer.wav", "audio")]), hour(1));
    backup.keep(&backup.recorded(&[("good.wav", "audio")]), hour(1));
    let put =
        |name: &str, content: &str| fs::write(backup.config.folder.join(name), content).unwrap();
    put("same-length.wav", "AUDIO");
    put("longer.wav", "audio and more");
    put("somebody-elses.wav", &"x".repeat(2 << 20));
    put(".hidden", "x");
    backup.restart(hour(0));
    backup.archive().sweep(hour(90)).unwrap();
    assert_eq!(
        backup.kept(),
        [
            ".hidden",
            "longer.wav",
            "same-length.wav",
            "somebody-elses.wav"
        ]
    );
    let mut unfit = backup.archive().status(hour(90)).unfit;
    unfit.sort();
    assert_eq!(unfit.len(), 3, "{unfit:?}");
    for (told, name) in
        unfit
            .iter()
            .zip(["\"somebody-elses.wav\"", "longer.wav", "same-length.wav"])
    {
        assert!(told.starts_with(name), "{told}");
    }
}

#[test]
fn no_leap_of_the_clock_empties_the_archive() {
    let mut backup = Backup::new(Some(Duration::from_hours(72)), None);
    backup.keep(&backup.recorded(&[("call.wav", "audio")]), hour(1));
    // Years ahead while it runs, then over a restart.
    backup.archive().sweep(at(2, 90_000)).unwrap();
    backup.restart(at(0, 180_000));
    backup.archive().sweep(at(1, 180_001)).unwrap();
    assert_eq!(backup.kept(), ["call.wav"]);
    // Set back again: it goes when three days have passed in which the program ran, a day's leap less.
    backup.restart(at(0, 3));
    backup.archive().sweep(at(45, 48)).unwrap();
    assert_eq!(backup.kept(), ["call.wav"]);
    backup.archive().sweep(at(48, 51)).unwrap();
    assert_eq!(backup.kept(), [""; 0]);
}

#[test]
fn a_disk_that_is_not_mounted_is_no_reason_to_forget() {
    let mut backup = Backup::new(DAY, None);
    backup.keep(&backup.recorded(&[("call.wav", "audio")]), hour(1));
    let elsewhere = backup.dir.path().join("elsewhere");
    fs::rename(&backup.config.folder, &elsewhere).unwrap();
    for empty in [false, true] {
        if empty {
            fs::create_dir(&backup.config.folder).unwrap();
        }
        let failed = backup.archive().sweep(hour(2)).unwrap_err();
        let told = backup.archive().status(hour(2)).last_error.unwrap();
        assert_eq!(told, failed.to_string());
    }
    fs::remove_dir(&backup.config.folder).unwrap();
    fs::rename(&elsewhere, &backup.config.folder).unwrap();
    backup.restart(hour(0));
    backup.archive().sweep(hour(30)).unwrap();
    assert_eq!(backup.kept(), [""; 0]);
    assert_eq!(backup.archive().status(hour(30)).last_error, None);
}

/// Between two file systems there is no renaming.
#[test]
fn an_archive_on_another_disk_takes_copies() {
    let shm = Path::new("/dev/shm");
    let Ok(other) = tempfile::tempdir_in(shm) else {
        println!("no {}: not tried", shm.display());
        return;
    };
    let mut backup = Backup::on(
        tempfile::tempdir().unwrap(),
        other.path().join("moved"),
        DAY,
        None,
    );
    let content = "x".repeat(3 << 20);
    let unit = backup.recorded(&[("call.wav", &content), ("call.xml", "<call/>")]);
    let modified = |path: PathBuf| fs::metadata(path).unwrap().modified().unwrap();
    let before = modified(backup.vrl().join("call.wav"));
    // Left by a crash in the middle of the copy.
    fs::create_dir_all(&backup.config.folder).unwrap();
    let part = backup
        .config
        .folder
        .join(unit[0].name.temporary(&unit[0].sha256));
    fs::write(&part, "xx").unwrap();
    assert_eq!(backup.keep(&unit, hour(1)), kept(&["call.wav", "call.xml"]));
    assert_eq!(
        (backup.here(), backup.kept()),
        (vec![], vec!["call.wav".to_owned(), "call.xml".to_owned()])
    );
    assert_eq!(modified(backup.config.folder.join("call.wav")), before);
    backup.restart(hour(0));
    backup.archive().sweep(hour(26)).unwrap();
    assert_eq!(backup.kept(), [""; 0]);
}
