//! What befalls the audio files of a node: one is gone, or a byte of it is another; or it can't be
//! read for a while, and then again.
//!
//! Never is the last copy of a file lost: what has befallen a node's file lasts only while the peer
//! holds a good one. As long as it alone has one (it was not sent yet, the peer's data folder is
//! replaced), its file comes back as it was.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use vmsync_config::words::Extension;
use vmsync_store::{AudioRef, EntityKey, GreetingKind, HeldRecord};

use super::{
    Sabotage,
    node::Node,
    trouble::MAILBOXES,
    world::{Event, World},
};

/// One file, once.
#[derive(Debug, Clone)]
pub(super) struct Damage {
    node: usize,
    entity: EntityKey,
    audio: AudioRef,
    /// The file as it was.
    good: Vec<u8>,
    /// As it is now; `None` = it is gone.
    bad: Option<Vec<u8>>,
    /// It will be as it was, whatever is done.
    passes: bool,
    /// The peer's copy has taken its place.
    mended: bool,
}

impl World {
    /// Both disks do, in a time of quiet: each file while the other node has a good copy.
    pub fn disks_go_bad(&mut self) -> Result<(), String> {
        for n in [0, 1, 1, 0] {
            if self.tempers.spoils {
                self.spoil(n)?;
            }
        }
        Ok(())
    }

    /// The disk of a node loses some audio files or spoils them.
    pub(super) fn disk_goes_bad(&mut self, n: usize) -> Result<(), String> {
        for _ in 0..=self.rng.below(4) {
            self.spoil(n)?;
        }
        Ok(())
    }

    fn spoil(&mut self, n: usize) -> Result<(), String> {
        let Some((entity, audio)) = self.victim(n)? else {
            return Ok(());
        };
        let blob = audio.blob;
        let is_open = |d: &Damage| d.audio.blob == blob && !d.mended;
        let Some(path) = file(&self.nodes[n].dir, blob) else {
            return Ok(());
        };
        let good = fs::read(&path).map_err(|e| e.to_string())?;
        if self.damages.iter().any(is_open) || !is_good(&good, &audio) {
            return Ok(());
        }
        let bad = self.spoilt(&good);
        let peer = &self.nodes[1 - n];
        let lasts = refers(peer, &entity, &audio) && has_good(&peer.dir, &audio);
        if !lasts && !self.troubled {
            return Ok(());
        }
        put(&path, bad.as_deref()).map_err(|e| e.to_string())?;
        let mended = |d: &Damage| d.node != n && d.audio.blob == blob && d.mended;
        if lasts && self.damages.iter().any(mended) {
            self.count("audio damaged that mended the peer's");
        }
        self.count(if lasts {
            "audio damaged"
        } else {
            "audio unreadable for a time"
        });
        self.note(&format!(
            "node {n}: the audio {blob} of {entity} is {}, for good: {lasts}",
            if bad.is_some() { "damaged" } else { "gone" }
        ));
        self.damages.retain(|d| d.node != n || d.audio.blob != blob);
        self.damages.push(Damage {
            node: n,
            entity,
            audio,
            good,
            bad,
            passes: false,
            mended: false,
        });
        if !lasts {
            self.passes_soon(n, Some(blob));
        }
        Ok(())
    }

    /// Some audio of a node: often what was mended at the peer just now, for then this is the copy
    /// it came from.
    fn victim(&mut self, n: usize) -> Result<Option<(EntityKey, AudioRef)>, String> {
        let again = self.rng.chance(40);
        let mended = self.damages.iter().rev().find(|d| d.node != n && d.mended);
        if let Some(mended) = mended.filter(|_| again) {
            return Ok(Some((mended.entity.clone(), mended.audio.clone())));
        }
        let Some(live) = &self.nodes[n].live else {
            return Ok(None);
        };
        let ext = self.rng.pick(&MAILBOXES).copied().unwrap_or("2001");
        let ext = Extension::new(ext).map_err(|e| e.to_string())?;
        let error = |e: vmsync_store::StoreError| e.to_string();
        if self.rng.chance(15) {
            let greeting = live.store.greeting(&ext, GreetingKind::Busy);
            let entity = EntityKey::Greeting(ext, GreetingKind::Busy);
            return Ok(greeting.map_err(error)?.map(|g| (entity, g.audio)));
        }
        let messages = live.store.messages(&ext, &[], None, 100).map_err(error)?;
        let message = self.rng.pick(&messages.items);
        Ok(message.map(|m| (EntityKey::Message(m.id), m.audio.clone())))
    }

    fn spoilt(&mut self, good: &[u8]) -> Option<Vec<u8>> {
        let mut bad = good.to_vec();
        match self.rng.below(8) {
            0..2 => return None,
            2 => drop(bad.pop()),
            3 => flip(&mut bad, 20),
            _ => flip(&mut bad, good.len().saturating_sub(3)),
        }
        Some(bad)
    }

    /// What a 250 said is mended is mended still, after a loss of power too.
    pub(super) fn mended_stays(&self, n: usize) -> Result<(), String> {
        let node = &self.nodes[n];
        let mended = self.damages.iter().filter(|d| d.node == n && d.mended);
        for Damage { entity, audio, .. } in mended {
            let lost = !has_good(&node.dir, audio) && refers(node, entity, audio);
            if lost {
                return Err(format!(
                    "{}: the audio {} of {entity} was mended, and is as it was",
                    node.id, audio.blob
                ));
            }
        }
        Ok(())
    }

    /// After a mail was taken: which files of the node the peer's copies have mended.
    pub(super) fn look_for_mended(&mut self, n: usize) {
        let dir = self.nodes[n].dir.clone();
        for index in 0..self.damages.len() {
            let Some(damage) = self.damages.get(index) else {
                return;
            };
            if damage.node != n || damage.mended || damage.passes {
                continue;
            }
            let Some(path) = file(&dir, damage.audio.blob) else {
                continue;
            };
            let Ok(bytes) = fs::read(&path) else { continue };
            if !is_good(&bytes, &damage.audio) {
                continue;
            }
            if self.sabotage == Some(Sabotage::SpoilMended) {
                let mut bytes = bytes;
                flip(&mut bytes, damage.good.len().saturating_sub(1));
                // Where it can't be written it stays good, and nothing is noticed.
                let _ = put(&path, Some(&bytes));
                continue;
            }
            let told = format!("node {n}: the audio {} is mended", damage.audio.blob);
            if let Some(damage) = self.damages.get_mut(index) {
                damage.mended = true;
            }
            self.count("audio mended");
            self.note(&told);
            // What is mended must stay so: the copy it came from may be the next to go.
            if self.troubled && self.rng.chance(25) {
                self.crash(n);
            }
        }
    }

    /// The files of this node, or one of them, will be as they were.
    fn passes_soon(&mut self, n: usize, only: Option<Uuid>) {
        let mut blobs = Vec::new();
        for damage in &mut self.damages {
            let blob = damage.audio.blob;
            if damage.node == n && only.is_none_or(|only| only == blob) && !damage.passes {
                damage.passes = true;
                blobs.push(blob);
            }
        }
        for blob in blobs {
            let span = self.rng.millis(500, 60_000);
            self.schedule(span, Event::Readable(n, blob));
        }
    }

    /// Troubles are over: what was to pass has.
    pub(super) fn all_readable_soon(&mut self) {
        let passing = self.damages.iter().filter(|d| d.passes);
        let passing: Vec<_> = passing.map(|d| (d.node, d.audio.blob)).collect();
        for (n, blob) in passing {
            self.schedule(Duration::ZERO, Event::Readable(n, blob));
        }
    }

    /// A file is as it was before, if the node still refers to it.
    pub(super) fn readable(&mut self, n: usize, blob: Uuid) -> Result<(), String> {
        let of = |d: &Damage| d.node == n && d.audio.blob == blob && d.passes;
        let Some(damage) = self.damages.iter().find(|d| of(d)).cloned() else {
            return Ok(());
        };
        if self.nodes[n].live.is_none() {
            // What of it is there will be known when it has started.
            self.schedule(Duration::from_millis(500), Event::Readable(n, blob));
            return Ok(());
        }
        let entity = [damage.entity.clone()];
        let Some(held) = self.at(n, |live, _| live.store.records_of(&entity))? else {
            self.schedule(Duration::from_millis(500), Event::Readable(n, blob));
            return Ok(());
        };
        self.damages.retain(|d| !of(d));
        let refers = |r: &HeldRecord| r.audio.iter().chain(&r.missing).any(|a| a.blob == blob);
        if held.iter().any(refers) {
            let (settled, incoming) = places(&self.nodes[n].dir, blob);
            let found = file(&self.nodes[n].dir, blob);
            let is = |p: &Path| fs::read(p).ok() == damage.bad;
            let put = match found {
                None => put(&settled, Some(&damage.good)),
                Some(_) => [settled, incoming]
                    .iter()
                    .filter(|p| p.exists() && is(p))
                    .try_for_each(|p| put(p, Some(&damage.good))),
            };
            put.map_err(|e| e.to_string())?;
            self.count("audio readable again");
            self.note(&format!("node {n}: the audio {blob} can be read again"));
        }
        Ok(())
    }

    /// What has befallen the files of a node until now, for a copy of its folder.
    pub(super) fn damages_of(&self, n: usize) -> Vec<Damage> {
        let of = self.damages.iter().filter(|d| d.node == n);
        of.cloned().collect()
    }

    /// The data folder of a node was replaced by one with these damages: from here on nobody knows
    /// which copy was the last, so all come back.
    pub(super) fn replaced_files(&mut self, n: usize, damages: &[Damage]) {
        self.damages.retain(|d| d.node != n);
        let open = damages.iter().map(|d| Damage {
            passes: false,
            mended: false,
            ..d.clone()
        });
        self.damages.extend(open);
        self.passes_soon(n, None);
        self.passes_soon(1 - n, None);
    }

    /// Whether a node has, or will have again, all audio its records refer to. Where it has not, a
    /// record came under quarantine without its audio, and its peer alone has that: no operator
    /// replaces that one then (and if he did the message would be lost).
    pub(super) fn whole(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        let held = node.quarantine.values().flatten();
        let mut audio = held.flat_map(|r| r.audio.iter().chain(&r.missing));
        audio.all(|a| {
            let known = |d: &Damage| d.node == n && d.audio.blob == a.blob;
            self.damages.iter().any(known) || has_good(&node.dir, a)
        })
    }
}

fn places(dir: &Path, blob: Uuid) -> (PathBuf, PathBuf) {
    let [.., last] = *blob.as_bytes();
    let audio = dir.join("audio");
    let name = format!("{blob}.vma");
    let settled = audio.join(format!("{last:02x}")).join(&name);
    (settled, audio.join("incoming").join(name))
}

/// Where the file is that a store reads.
fn file(dir: &Path, blob: Uuid) -> Option<PathBuf> {
    let (settled, incoming) = places(dir, blob);
    [settled, incoming].into_iter().find(|p| p.is_file())
}

/// A file is a header, its SHA-256, and then the audio.
fn is_good(file: &[u8], audio: &AudioRef) -> bool {
    let length = usize::try_from(audio.bytes).unwrap_or(usize::MAX);
    let begin = file.len().saturating_sub(length);
    let (before, bytes) = file.split_at(begin);
    let sound = before
        .split_last_chunk::<32>()
        .is_some_and(|(header, check)| Sha256::digest(header).as_slice() == check);
    sound && hex::encode(Sha256::digest(bytes)) == audio.sha256
}

fn has_good(dir: &Path, audio: &AudioRef) -> bool {
    let bytes = file(dir, audio.blob).and_then(|path| fs::read(path).ok());
    bytes.is_some_and(|bytes| is_good(&bytes, audio))
}

/// Whether a node's record refers to this audio.
fn refers(node: &Node, entity: &EntityKey, audio: &AudioRef) -> bool {
    let Some(live) = &node.live else { return false };
    let held = live.store.records_of(std::slice::from_ref(entity));
    let refers = |r: &HeldRecord| r.audio.iter().chain(&r.missing).any(|a| a == audio);
    held.is_ok_and(|held| held.iter().any(refers))
}

fn flip(bytes: &mut [u8], at: usize) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 0x10;
    }
}

/// As a fault of the disk does it: nobody is asked, and no step is counted.
fn put(path: &Path, bytes: Option<&[u8]>) -> io::Result<()> {
    match bytes {
        Some(bytes) => fs::write(path, bytes),
        None => fs::remove_file(path),
    }
}
