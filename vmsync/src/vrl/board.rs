//! How recordings stand, for everybody who is told: the status, events, alarms.
//!
//! Looks once a second; what is told follows from what is seen, so that nobody has to remember to tell.

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use vmsync_core::vrl::{DiskOutlook, Outlook};

use super::{
    VrlHandle,
    status::{VrlState, VrlStatus},
};
use crate::{alarms::Alarms, app::App, clock};

const EVERY: Duration = Duration::from_secs(1);
/// Between two looks at the disks.
const DISKS: Duration = Duration::from_secs(20);
/// A disk that does not answer is not waited for.
const DISK_ANSWER: Duration = Duration::from_secs(5);
/// How recordings move on is told so often at most; that something is different, at once.
const TELL: Duration = Duration::from_secs(10);
/// Recordings wait, may move, and nothing was achieved for so long.
pub const STALLED: Duration = Duration::from_mins(10);

/// What is counted beside the mover.
#[derive(Default)]
pub struct Board {
    failures: AtomicU64,
}

impl Board {
    /// Failures of the move seen since start: each counts once, however often it is tried again.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

/// How recordings stand.
pub(crate) fn status(mover: Option<&VrlHandle>) -> VrlStatus {
    let stays = || VrlStatus {
        why: "no remote is configured: recordings stay on this node".to_owned(),
        ..VrlStatus::default()
    };
    mover.map_or_else(stays, VrlHandle::status)
}

/// Where recordings are kept, here and in the archive.
fn folders(app: &App) -> Vec<PathBuf> {
    let archive = app.config.vrl_archive.as_ref().map(|a| a.folder.clone());
    std::iter::once(app.config.vrl.folder.clone())
        .chain(archive)
        .collect()
}

/// Tells until stopped.
pub(crate) async fn run(app: Arc<App>, stop: CancellationToken) {
    let mut news = News::default();
    let mut disks = Disks::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let now = clock::now();
        let status = app.recordings();
        if let Some(event) = news.look(&status, now.mono) {
            app.events.publish("vrl", event);
        }
        app.vrl_board
            .failures
            .fetch_add(std::mem::take(&mut news.failures), Ordering::Relaxed);
        let folder = app.config.vrl.folder.display().to_string();
        about_the_move(&app.alarms, &folder, &status);
        if now.mono >= disks.next {
            disks.next = now.mono.saturating_add(DISKS);
            let folders = folders(&app);
            let reserve = app.config.limits.min_free_bytes;
            disks.look(&app.alarms, free_of(folders).await, reserve, now.mono);
        }
    }
}

/// Alarms about the move, raised and ended.
fn about_the_move(alarms: &Alarms, folder: &str, status: &VrlStatus) {
    let stalled = status.stalled_s.filter(|s| *s >= STALLED.as_secs());
    if let Some(seconds) = stalled {
        let why = status.last_error.as_deref().unwrap_or("no reason is known");
        let text = format!(
            "{} recordings wait in {folder} and may move, but nothing was achieved for {} minutes: {why}; \"vmsync vrl test\" says at which step it fails",
            status.files_pending,
            seconds / 60
        );
        alarms.raise("vrl_stalled", folder, &text);
    } else {
        alarms.clear("vrl_stalled", folder);
    }
    if let Some(first) = status.unfit.first() {
        let others = match status.unfit.len() - 1 {
            0 => String::new(),
            n => format!(" (and {n} more)"),
        };
        let text = format!(
            "not moved, as their names can't be: {first}{others}; rename them, \"vmsync vrl\" lists them"
        );
        alarms.raise("vrl_unfit", folder, &text);
    } else {
        alarms.clear("vrl_unfit", folder);
    }
}

/// What was told last, so that only news are.
#[derive(Default)]
struct News {
    state: VrlState,
    error: Option<String>,
    unfit: usize,
    done: u64,
    at: Duration,
    /// Failures not yet counted.
    failures: u64,
}

impl News {
    /// An event, if there is something new at `now` (monotonic).
    fn look(&mut self, status: &VrlStatus, now: Duration) -> Option<serde_json::Value> {
        if status.last_error.is_some() && status.last_error != self.error {
            self.failures += 1;
        }
        let different = status.state != self.state
            || status.last_error != self.error
            || status.unfit.len() != self.unfit;
        let further = status.files_done != self.done && now.saturating_sub(self.at) >= TELL;
        if !different && !further {
            return None;
        }
        let moved = status.files_done.saturating_sub(self.done);
        self.state = status.state;
        self.error.clone_from(&status.last_error);
        self.unfit = status.unfit.len();
        self.done = status.files_done;
        self.at = now;
        let mut event = json!({
            "state": status.state.as_str(),
            "moved": moved,
            "files_done": status.files_done,
            "bytes_done": status.bytes_done,
            "files_pending": status.files_pending,
            "bytes_pending": status.bytes_pending,
        });
        if !status.why.is_empty() {
            event["why"] = json!(status.why);
        }
        if let Some(error) = &status.last_error {
            event["error"] = json!(error);
        }
        if !status.unfit.is_empty() {
            event["unfit"] = json!(status.unfit.len());
        }
        Some(event)
    }
}

/// The disks of recordings, each once.
#[derive(Default)]
struct Disks {
    next: Duration,
    watched: BTreeMap<PathBuf, DiskOutlook>,
}

impl Disks {
    /// `free`: bytes free, by folder.
    fn look(&mut self, alarms: &Alarms, free: Vec<(PathBuf, u64)>, reserve: u64, now: Duration) {
        self.watched
            .retain(|folder, _| free.iter().any(|(f, _)| f == folder));
        for (folder, free) in free {
            let subject = folder.display().to_string();
            let outlook = self.watched.entry(folder).or_default();
            let Some(outlook) = outlook.look(free, reserve, now) else {
                alarms.clear("vrl_disk", &subject);
                continue;
            };
            let left = format!(
                "{free} bytes are free on the disk of {subject}, {reserve} of them in reserve (limits.min_free_bytes)"
            );
            let text = match outlook {
                Outlook::Low => format!("{left}: recordings are refused soon; make some room"),
                Outlook::Filling(left_time) => format!(
                    "{left}: the way it fills, the reserve is reached in {} minutes, and recordings are refused then; make some room",
                    left_time.as_secs() / 60
                ),
            };
            alarms.raise("vrl_disk", &subject, &text);
        }
    }
}

/// Bytes free on the disk of each folder, one folder a disk; none of a disk that does not answer.
async fn free_of(folders: Vec<PathBuf>) -> Vec<(PathBuf, u64)> {
    let asked = tokio::task::spawn_blocking(move || {
        let mut disks = BTreeMap::new();
        for folder in folders {
            let Ok(meta) = std::fs::metadata(&folder) else {
                continue;
            };
            if let Ok(free) = vmsync_store::free_bytes(&folder) {
                disks.entry(meta.dev()).or_insert((folder, free));
            }
        }
        disks.into_values().collect()
    });
    match tokio::time::timeout(DISK_ANSWER, asked).await {
        Ok(Ok(free)) => free,
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use vmsync_config::words::{NodeId, UnixMillis};
    use vmsync_store::{Options, Store};

    use super::*;
    use crate::events::EventHub;

    fn alarms() -> (tempfile::TempDir, Alarms) {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            node: NodeId::new("vmpro2").unwrap(),
            min_free_bytes: 0,
            clock: || UnixMillis(1_700_000_000_000),
        };
        let store = Store::open(dir.path(), options).unwrap();
        (dir, Alarms::load(store, EventHub::new()).unwrap())
    }

    fn up(alarms: &Alarms) -> Vec<String> {
        alarms.read(|all| {
            let up = all.filter(|a| a.cleared.is_none());
            up.map(|a| format!("{} {}: {}", a.code, a.subject, a.text))
                .collect()
        })
    }

    #[test]
    fn a_move_that_achieves_nothing_for_ten_minutes_is_an_alarm_until_something_moves() {
        let (_dir, alarms) = alarms();
        let mut status = VrlStatus {
            files_pending: 3,
            last_error: Some("530 no".to_owned()),
            stalled_s: Some(599),
            ..VrlStatus::default()
        };
        about_the_move(&alarms, "/vrl", &status);
        assert_eq!(up(&alarms), [""; 0]);
        status.stalled_s = Some(600);
        about_the_move(&alarms, "/vrl", &status);
        let told = up(&alarms);
        assert!(
            told.len() == 1 && told[0].starts_with("vrl_stalled /vrl: 3 recordings"),
            "{told:?}"
        );
        assert!(told[0].contains("10 minutes: 530 no"), "{told:?}");
        // Something moves; or it must wait, which is no stall.
        for over in [Some(0), None] {
            status.stalled_s = Some(700);
            about_the_move(&alarms, "/vrl", &status);
            status.stalled_s = over;
            about_the_move(&alarms, "/vrl", &status);
            assert_eq!(up(&alarms), [""; 0]);
        }
    }

    #[test]
    fn files_whose_names_cannot_be_moved_are_an_alarm_until_they_are_renamed() {
        let (_dir, alarms) = alarms();
        let mut status = VrlStatus {
            unfit: vec!["\"a..b\" holds two dots".to_owned(), "another".to_owned()],
            ..VrlStatus::default()
        };
        about_the_move(&alarms, "/vrl", &status);
        let told = up(&alarms);
        assert!(
            told[0].contains("a..b") && told[0].contains("(and 1 more)"),
            "{told:?}"
        );
        status.unfit.clear();
        about_the_move(&alarms, "/vrl", &status);
        assert_eq!(up(&alarms), [""; 0]);
    }

    #[test]
    fn a_disk_that_will_be_full_is_an_alarm_until_there_is_room() {
        let (_dir, alarms) = alarms();
        let mut disks = Disks::default();
        let mut look = |free: u64, minutes: u64| {
            let free = vec![(PathBuf::from("/vrl"), free)];
            disks.look(&alarms, free, 1_000, Duration::from_mins(minutes));
            up(&alarms)
        };
        assert_eq!(look(50_000, 0), [""; 0]);
        let filling = look(48_000, 4);
        assert_eq!(filling, [""; 0], "94 minutes");
        let filling = look(40_000, 8);
        assert!(filling[0].contains("reached in 31 minutes"), "{filling:?}");
        let low = look(1_500, 9);
        assert_eq!(low.len(), 1);
        assert_eq!(look(90_000, 30), [""; 0]);
        assert!(look(1_500, 60)[0].contains("refused soon"));
    }

    #[test]
    fn an_event_tells_what_is_different_at_once_and_how_it_goes_on_now_and_then() {
        let mut news = News::default();
        let s = Duration::from_secs;
        let mut status = VrlStatus::default();
        assert_eq!(news.look(&status, s(1)), None);
        status.state = VrlState::Transferring;
        status.files_pending = 9;
        let event = news.look(&status, s(2)).unwrap();
        assert_eq!(
            (&event["state"], &event["files_pending"]),
            (&json!("transferring"), &json!(9))
        );
        status.files_done = 4;
        assert_eq!(news.look(&status, s(11)), None);
        assert_eq!(news.look(&status, s(12)).unwrap()["moved"], 4);
        // The same failure again and again is one.
        for (error, failures) in [
            (Some("425"), 1),
            (Some("425"), 1),
            (None, 1),
            (Some("425"), 2),
        ] {
            status.last_error = error.map(str::to_owned);
            news.look(&status, s(13));
            assert_eq!(news.failures, failures);
        }
    }
}
