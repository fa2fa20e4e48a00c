//! A new index from the audio files, where the old one is damaged.
//!
//! Every audio file says whose it is. So messages and greetings come back from the files alone, and
//! can be heard, also while the peer is away; for a message whose mailbox nobody tells of, a bare
//! mailbox is made. What files don't hold (states, names, PINs, call flows, deletions) comes from
//! the peer. It is never overruled: what is made here are operations of a new incarnation whose
//! stamps are below all others ([`Stamp::is_recovered`](crate::Stamp::is_recovered)), so that
//! whatever else is known of an entity wins, and what was deleted stays deleted.
//!
//! Files that are damaged are set aside too (`audio.damaged-TIME`), so that the peer's take their
//! place. Only their headers and lengths are looked at when a node starts, all of them in
//! `vmsync store rebuild`.
//!
//! Order: the new index is built beside the old one (`db.rebuilding`), then the old one is set aside
//! (`db.damaged-TIME`), then the new one takes its place. Interrupted anywhere, the next try begins
//! anew: from its first step on the old index counts as damaged, and a missing one does anyway.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;
use vmsync_config::words::{Extension, UnixMillis};

use crate::{
    blobs::{Blobs, Header},
    commit::{Committer, INDEX},
    disk::{Disk, Purpose},
    durable,
    error::StoreError,
    format,
    messages::to_json,
    model::MessageState,
    operation::EntityKey,
    record::AUDIO,
    store::{Options, Store},
    transaction::Transaction,
    verify, view,
};

/// The new index while it is being built.
const BUILDING: &str = "db.rebuilding";
/// What a damaged index is set aside as, with the time.
const ASIDE: &str = "db.damaged-";
/// What damaged audio files are set aside in, with the time.
const AUDIO_ASIDE: &str = "audio.damaged-";
/// Folders of each that are kept.
const KEPT: usize = 3;
/// Files taken in one transaction.
const BATCH: usize = 256;
/// Room asked for one file's records, in bytes.
const PER_FILE: u64 = 4 * 1024;
/// Where the report is kept.
const SPACE: &str = "store";
const REPORT: &str = "rebuilt";

/// What came of a rebuild.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rebuilt {
    /// When.
    pub at: UnixMillis,
    /// What was found to be damaged, in words.
    pub why: String,
    /// Where the old index lies now; `None` when there was none.
    pub set_aside: Option<PathBuf>,
    /// Where damaged audio files lie now; `None` when there were none.
    #[serde(default)]
    pub audio_set_aside: Option<PathBuf>,
    /// What was set aside earlier and is removed now, because only the newest three are kept.
    pub removed: Vec<PathBuf>,
    /// Messages that came back.
    pub messages: u64,
    /// Greetings that came back.
    pub greetings: u64,
    /// Bare mailboxes made for them.
    pub mailboxes: u64,
    /// Sound files nothing was made of: the file does not say which mailbox its message is for
    /// (written by an early version), or a later file is for the same greeting. They stay where
    /// they are, and are used again when the peer tells what they belong to.
    pub held_aside: u64,
    /// Damaged files.
    pub unreadable: u64,
}

impl Rebuilt {
    /// All of it, for people.
    pub fn words(&self) -> String {
        let mut text = format!(
            "the index was damaged ({}) and was made anew from the audio files: {} messages and {} greetings are here, with {} mailboxes without name or PIN",
            self.why, self.messages, self.greetings, self.mailboxes
        );
        if self.held_aside > 0 {
            let _ = write!(
                text,
                "; {} files wait for the peer to tell whose they are",
                self.held_aside
            );
        }
        if let Some(aside) = &self.audio_set_aside {
            let _ = write!(
                text,
                "; {} files are damaged, and kept in {}",
                self.unreadable,
                aside.display()
            );
        }
        if let Some(aside) = &self.set_aside {
            let _ = write!(text, "; the old index is kept as {}", aside.display());
        }
        for gone in &self.removed {
            let _ = write!(text, "; set aside earlier, and removed: {}", gone.display());
        }
        text.push_str("; the rest comes from the peer");
        text
    }
}

/// Sets the index of the data folder `dir` aside and makes a new one, of a new incarnation, from
/// the audio files; see the head of this module. `why` is what was found damaged. With `read_all`
/// every audio file is read through. `progress` is told the files looked at, and how many there
/// are.
///
/// # Errors
/// As [`Store::open`], and [`StoreError::Io`] when a folder can't be moved.
#[allow(
    clippy::needless_pass_by_value,
    reason = "as `Store::open`, whose place it takes"
)]
pub fn rebuild(
    dir: &Path,
    options: Options,
    why: &str,
    read_all: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Rebuilt, StoreError> {
    let lock = format::lock(dir)?;
    format::check(dir, &options.node)?;
    let disk = Disk {
        dir: dir.to_owned(),
        reserve: options.min_free_bytes,
    };
    let failed = |e| disk.error(format!("making a new index in {}", dir.display()), e);
    let blobs = Blobs::open(dir).map_err(failed)?;
    let files = blobs.list().map_err(failed)?;
    remove_folder(&dir.join(BUILDING)).map_err(failed)?;
    let all = files.len() as u64;
    disk.room_for(all.saturating_mul(PER_FILE), Purpose::Upkeep)?;

    let committer = Committer::create(disk.clone(), &blobs, BUILDING, &options.node)?;
    let at = (options.clock)();
    let held = lock.try_clone().map_err(failed)?;
    let store = Store::of(held, disk.clone(), blobs, committer, options.clock)?;
    let mut rebuilding = Rebuilding {
        store: &store,
        read_all,
        greetings: BTreeMap::new(),
        damaged: Vec::new(),
        report: Rebuilt {
            at,
            why: why.to_owned(),
            ..Rebuilt::default()
        },
    };
    for (n, batch) in files.chunks(BATCH).enumerate() {
        progress((n * BATCH) as u64, all);
        rebuilding.messages(batch)?;
    }
    rebuilding.greetings()?;
    progress(all, all);
    let (mut report, damaged) = (rebuilding.report, rebuilding.damaged);

    let index = dir.join(INDEX);
    report.set_aside = index.exists().then(|| aside(dir, ASIDE, at));
    report.audio_set_aside = (!damaged.is_empty()).then(|| aside(dir, AUDIO_ASIDE, at));
    for (kind, one_more) in [
        (ASIDE, report.set_aside.is_some()),
        (AUDIO_ASIDE, report.audio_set_aside.is_some()),
    ] {
        let old = surplus(dir, kind, one_more).map_err(failed)?;
        report.removed.extend(old);
    }
    let bytes = to_json(&report)?.to_string();
    store.put_local(SPACE, REPORT, Some(bytes.as_bytes()))?;
    if let Some(aside) = &report.audio_set_aside {
        format::create_dir(aside).map_err(failed)?;
        for blob in damaged {
            store.inner.blobs.set_aside(blob, aside).map_err(failed)?;
        }
        durable::sync_dir(aside).map_err(failed)?;
    }
    drop(store);

    if let Some(aside) = &report.set_aside {
        durable::rename(&index, aside).map_err(failed)?;
    }
    durable::rename(&dir.join(BUILDING), &index).map_err(failed)?;
    durable::sync_dir(dir).map_err(failed)?;
    verify::trust(&disk)?;
    for gone in &report.removed {
        tracing::warn!(folder = %gone.display(), "what was set aside earlier is removed: only the newest {KEPT} are kept");
        remove_folder(gone).map_err(failed)?;
    }
    tracing::warn!("{}", report.words());
    Ok(report)
}

impl Store {
    /// What came of the rebuild this index is from, until [`forget_rebuilt`](Self::forget_rebuilt).
    pub fn rebuilt(&self) -> Result<Option<Rebuilt>, StoreError> {
        let report = self.local(SPACE, REPORT)?;
        // A report that can't be read is one nobody needs to be told of.
        Ok(report.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// The peer has filled in what was missing: the rebuild is history.
    pub fn forget_rebuilt(&self) -> Result<(), StoreError> {
        self.put_local(SPACE, REPORT, None)
    }
}

struct Rebuilding<'a> {
    store: &'a Store,
    read_all: bool,
    /// The newest file of each greeting.
    greetings: BTreeMap<EntityKey, Uuid>,
    damaged: Vec<Uuid>,
    report: Rebuilt,
}

impl Rebuilding<'_> {
    /// Makes messages of their files, and notes the files of greetings.
    fn messages(&mut self, batch: &[Uuid]) -> Result<(), StoreError> {
        let mut messages = Vec::new();
        for blob in batch {
            let Some(header) = self.header(*blob) else {
                continue;
            };
            match (&header.entity, &header.mailbox) {
                (EntityKey::Message(_), Some(mailbox)) => {
                    messages.push((mailbox.clone(), header));
                }
                (EntityKey::Greeting(..), _) => {
                    // Ids grow with time, and files come in the order of their ids.
                    if self.greetings.insert(header.entity, *blob).is_some() {
                        self.report.held_aside += 1;
                    }
                }
                _ => self.report.held_aside += 1,
            }
        }
        let report = self.report.clone();
        self.report = self.store.run(false, |t| {
            let mut report = report;
            for (mailbox, header) in messages {
                if t.record(&header.entity)?.is_empty() {
                    need_mailbox(t, &mailbox, &mut report)?;
                    t.recover(&header.entity, message(&mailbox, &header)?)?;
                    report.messages += 1;
                } else {
                    report.held_aside += 1;
                }
            }
            Ok(report)
        })?;
        Ok(())
    }

    fn greetings(&mut self) -> Result<(), StoreError> {
        for (entity, blob) in std::mem::take(&mut self.greetings) {
            let EntityKey::Greeting(mailbox, _) = &entity else {
                continue;
            };
            let Some(header) = self.header(blob) else {
                continue;
            };
            let report = self.report.clone();
            self.report = self.store.run(false, |t| {
                let mut report = report;
                need_mailbox(t, mailbox, &mut report)?;
                let until = header.facts.get("until").cloned().unwrap_or(Value::Null);
                t.recover(
                    &entity,
                    [(AUDIO, to_json(&header.audio)?), ("until", until)],
                )?;
                report.greetings += 1;
                Ok(report)
            })?;
        }
        Ok(())
    }

    /// What the file says of itself, if it is whole.
    fn header(&mut self, blob: Uuid) -> Option<Header> {
        let blobs = &self.store.inner.blobs;
        let read = blobs.header(blob).and_then(|header| {
            if self.read_all {
                blobs.verify(&header.audio)?;
            }
            Ok(header)
        });
        match read {
            Ok(header) => Some(header),
            Err(error) => {
                tracing::warn!(%blob, %error, "an audio file can't be used for the new index");
                self.report.unreadable += 1;
                self.damaged.push(blob);
                None
            }
        }
    }
}

fn message(mailbox: &Extension, header: &Header) -> Result<[(&'static str, Value); 4], StoreError> {
    Ok([
        ("mailbox", json!(mailbox)),
        ("state", json!(MessageState::New)),
        ("facts", header.facts.clone()),
        (AUDIO, to_json(&header.audio)?),
    ])
}

fn need_mailbox(
    t: &mut Transaction<'_>,
    ext: &Extension,
    report: &mut Rebuilt,
) -> Result<(), StoreError> {
    let entity = EntityKey::Mailbox(ext.clone());
    if !view::mailbox_exists(t.record(&entity)?) {
        t.recover(&entity, [("created", json!(true))])?;
        report.mailboxes += 1;
    }
    Ok(())
}

/// A name for what is to be set aside that is not taken.
fn aside(dir: &Path, kind: &str, at: UnixMillis) -> PathBuf {
    let time = format::in_a_name(at);
    (1..1_000_000)
        .map(|n| match n {
            1 => dir.join(format!("{kind}{time}")),
            n => dir.join(format!("{kind}{time}-{n}")),
        })
        .find(|path| !path.exists())
        .unwrap_or_else(|| dir.join(kind))
}

/// The oldest of what was set aside, beyond that to be kept when `one_more` comes.
fn surplus(dir: &Path, kind: &str, one_more: bool) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(kind) {
            found.push(entry.path());
        }
    }
    // Their names are times.
    found.sort();
    found.truncate((found.len() + usize::from(one_more)).saturating_sub(KEPT));
    Ok(found)
}

/// Removes a folder and all in it; that it is not there is no error.
pub(crate) fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
