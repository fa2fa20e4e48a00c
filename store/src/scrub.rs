//! Audio files looked at while the node works ("scrubbing"): whether each that a record refers to is
//! there, whole, and what its SHA-256 says.
//!
//! Digests prove that both nodes hold the same records; a disk can lose or spoil the files behind
//! them without a word. What is found wrong is noted (in memory: it is found again), counts as
//! audio that is *not here* when nodes compare what they hold ([`Store::items`]), so that the peer
//! sends its copy, and is replaced by that copy when it comes ([`Store::put_audios`]). Until then
//! the damaged file stays: most of a message is better than nothing of it.

use std::{
    collections::BTreeMap,
    io,
    sync::{Mutex, atomic::AtomicU64, atomic::Ordering},
};

use uuid::Uuid;
use vmsync_config::words::UnixMillis;

use crate::{
    blobs::NewAudio,
    commit::lock,
    digest,
    error::StoreError,
    join::audio_refs,
    keys,
    mailboxes::after,
    operation::{AudioRef, EntityKey},
    record::Record,
    store::Store,
};

/// Faults noted at once at most; what is beyond is found again once these are mended.
pub const MAX_AUDIO_FAULTS: usize = 10_000;
/// Records looked at in one call, so that it never takes long where few have audio.
const LOOK: usize = 20_000;
/// Records read from the index at once.
const STRIDE: usize = 256;

/// An audio file that is missing or damaged although a record refers to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioFault {
    /// Whose audio it is.
    pub entity: EntityKey,
    /// Which.
    pub blob: Uuid,
    /// What is wrong with it, in words.
    pub why: String,
    /// When it was found.
    pub since: UnixMillis,
    /// The bucket of the digest its entity is in: what to ask the peer about.
    pub bucket: u8,
}

/// Which files [`Store::scrub`] looks at.
#[derive(Debug, Clone, Copy)]
pub struct ScrubAsk<'a> {
    /// Those of records behind this key; `None` = from the first.
    pub after: Option<&'a str>,
    /// At most so many.
    pub files: u64,
    /// Fewer, but at least one, when they come to more bytes than this.
    pub bytes: u64,
    /// Whether to read each and compare it with its SHA-256, or only see whether it is there and
    /// as long as it should be.
    pub read: bool,
}

/// What a look came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scrubbed {
    /// Files looked at.
    pub files: u64,
    /// Their audio, bytes.
    pub bytes: u64,
    /// Go on behind this key; `None` = that was all.
    pub through: Option<String>,
}

/// The faults known now.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    by_blob: Mutex<BTreeMap<Uuid, AudioFault>>,
    /// Ever noted, so that news is noticed.
    noted: AtomicU64,
}

impl Faults {
    fn note(&self, fault: AudioFault) {
        let mut faults = lock(&self.by_blob);
        if faults.len() >= MAX_AUDIO_FAULTS || faults.contains_key(&fault.blob) {
            return;
        }
        tracing::error!(entity = %fault.entity, audio = %fault.blob, why = fault.why, "an audio file is missing or damaged");
        faults.insert(fault.blob, fault);
        self.noted.fetch_add(1, Ordering::Relaxed);
    }

    fn end(&self, blob: Uuid) -> bool {
        lock(&self.by_blob).remove(&blob).is_some()
    }

    fn contains(&self, blob: Uuid) -> bool {
        lock(&self.by_blob).contains_key(&blob)
    }
}

impl Store {
    /// Looks at the audio files of some records, in order of their keys, and notes what is wrong
    /// ([`audio_faults`](Self::audio_faults)). Those of quarantined records are left out: of them
    /// it is known. Holds nobody up but the disk.
    pub fn scrub(&self, ask: &ScrubAsk<'_>) -> Result<Scrubbed, StoreError> {
        let mut from = match ask.after {
            None => keys::records(""),
            Some(key) => after(keys::records(key)),
        };
        let end = keys::end_of(&keys::records(""));
        let mut done = Scrubbed {
            through: ask.after.map(str::to_owned),
            ..Scrubbed::default()
        };
        let mut looked = 0;
        loop {
            let found = self
                .inner
                .committer
                .read(|index| index.range(&from, &end, STRIDE))?;
            let last = found.len() < STRIDE;
            for (key, value) in found {
                let name = keys::entity_name(&key);
                let audio = Record::from_bytes(&value).map(|r| audio_refs(&r));
                // A record that can't be read is for those who look after the index.
                let audio = audio.unwrap_or_default();
                let size: u64 = audio.iter().map(|a| a.bytes).sum();
                let full = done.files + audio.len() as u64 > ask.files
                    || done.bytes.saturating_add(size) > ask.bytes;
                if full && done.files > 0 && !audio.is_empty() {
                    return Ok(done);
                }
                if let Ok(entity) = EntityKey::try_from(name.clone()) {
                    self.look_at(&entity, &audio, ask.read)?;
                }
                done.files += audio.len() as u64;
                done.bytes = done.bytes.saturating_add(size);
                done.through = Some(name);
                looked += 1;
                from = after(key);
            }
            if last {
                done.through = None;
                return Ok(done);
            }
            if looked >= LOOK {
                return Ok(done);
            }
        }
    }

    /// Reads all audio of these entities; notes what is wrong and forgets what no longer is. True
    /// when all of it is sound, or nothing refers to it any more.
    pub fn check_audio_of(&self, entities: &[EntityKey]) -> Result<bool, StoreError> {
        let mut sound = true;
        for entity in entities {
            let audio = audio_refs(&self.record(entity)?);
            self.inner.faults.retain_of(entity, &audio);
            sound &= self.look_at(entity, &audio, true)?;
        }
        Ok(sound)
    }

    /// Audio files found missing or damaged, and not mended yet; [`MAX_AUDIO_FAULTS`] at most.
    pub fn audio_faults(&self) -> Vec<AudioFault> {
        lock(&self.inner.faults.by_blob).values().cloned().collect()
    }

    /// How many faults there are now, and how many were ever noted since the store was opened.
    pub fn audio_fault_counts(&self) -> (usize, u64) {
        let faults = &self.inner.faults;
        let now = lock(&faults.by_blob).len();
        (now, faults.noted.load(Ordering::Relaxed))
    }

    /// Whether the file is here and not known to be damaged.
    pub(crate) fn has_sound_audio(&self, blob: Uuid) -> bool {
        self.has_audio(blob) && !self.inner.faults.contains(blob)
    }

    /// Puts the peer's copy in the place of a file that is missing or damaged; false when it is
    /// neither.
    pub(crate) fn mend_fault(&self, new: &NewAudio<'_>, bytes: &[u8]) -> Result<bool, StoreError> {
        let blob = new.audio.blob;
        if !self.inner.faults.contains(blob) {
            return Ok(false);
        }
        // What our own record says of the file decides what it is to be.
        if !audio_refs(&self.record(&new.entity)?).contains(new.audio) {
            return Ok(false);
        }
        self.replace_audio(new.clone(), bytes)?;
        if self.inner.faults.end(blob) {
            tracing::info!(entity = %new.entity, audio = %blob, "a missing or damaged audio file was replaced by the peer's copy");
        }
        Ok(true)
    }

    fn look_at(
        &self,
        entity: &EntityKey,
        audio: &[AudioRef],
        read: bool,
    ) -> Result<bool, StoreError> {
        let mut sound = true;
        for reference in audio {
            let Err(error) = self.look_at_file(reference, read) else {
                if read {
                    self.inner.faults.end(reference.blob);
                }
                continue;
            };
            if is_of_the_process(&error) {
                let doing = format!("reading audio {}", reference.blob);
                return Err(self.inner.disk.error(doing, error));
            }
            // Read again: it may have gone because nothing refers to it any more.
            let held = audio_refs(&self.record(entity)?).contains(reference);
            if !held || self.is_quarantined(entity) {
                continue;
            }
            sound = false;
            let why = match error.kind() {
                io::ErrorKind::NotFound => "the file is missing".to_owned(),
                _ => error.to_string(),
            };
            self.inner.faults.note(AudioFault {
                bucket: digest::bucket(&entity.to_string()),
                entity: entity.clone(),
                blob: reference.blob,
                why,
                since: self.now(),
            });
        }
        Ok(sound)
    }

    fn look_at_file(&self, audio: &AudioRef, read: bool) -> io::Result<()> {
        if read {
            return self.inner.blobs.verify(audio);
        }
        let header = self.inner.blobs.header(audio.blob)?;
        if header.audio == *audio {
            Ok(())
        } else {
            let why = "it is another than its record says";
            Err(io::Error::new(io::ErrorKind::InvalidData, why))
        }
    }

    /// Whether an entity is under quarantine, durably. Asks the memory only.
    pub fn is_quarantined(&self, entity: &EntityKey) -> bool {
        let committer = &self.inner.committer;
        committer.held(|m| m.quarantine.contains_key(entity))
    }
}

/// Whether an error says something of this process rather than of the file: what can't be read for
/// any other reason can't be heard either.
fn is_of_the_process(error: &io::Error) -> bool {
    use rustix::io::Errno as E;
    let of_the_process = [E::MFILE, E::NFILE, E::NOMEM, E::NOBUFS, E::INTR, E::AGAIN];
    let raw = error.raw_os_error();
    of_the_process.iter().any(|e| raw == Some(e.raw_os_error()))
}

impl Faults {
    /// Forgets faults of `entity` in files its record refers to no more.
    fn retain_of(&self, entity: &EntityKey, audio: &[AudioRef]) {
        lock(&self.by_blob)
            .retain(|blob, f| f.entity != *entity || audio.iter().any(|a| a.blob == *blob));
    }
}
