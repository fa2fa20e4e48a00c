//! Going through the archive: what is there, what goes, what is told.

use std::{collections::BTreeMap, fs, io};

use vmsync_config::words::Now;
use vmsync_core::vrl::{
    ConfirmAnswer, is_ignored,
    retention::{self, Kept, Present},
};

use super::{Archive, Held, SWEEP};
use crate::{app::rfc3339, vrl::folder};

/// Files told as unfit, at most.
const MOST_TOLD: usize = 100;

impl Archive {
    /// Goes through the archive, and deletes what may not be kept any longer.
    pub fn sweep(&self, now: Now) -> io::Result<()> {
        self.sweep_held(&mut self.held(), now)
    }

    pub(super) fn sweep_held(&self, held: &mut Held, now: Now) -> io::Result<()> {
        self.told().next = now.mono.saturating_add(SWEEP);
        let mut told = Vec::new();
        let swept = self.sweep_once(held, now, &mut told);
        let mut status = self.told();
        status.status.last_error = swept.as_ref().err().map(ToString::to_string);
        status.status.unfit = told;
        swept
    }

    fn sweep_once(&self, held: &mut Held, now: Now, told: &mut Vec<String>) -> io::Result<()> {
        self.records
            .put_age(held.age.save(now))
            .map_err(io::Error::other)?;
        let mut present = self.look(&held.kept, told)?;
        let lived = held.age.lived_ms(now);
        loop {
            let plan = retention::plan(&held.kept, &present, &self.limits, lived);
            let mut gone: Vec<String> = plan.forget.clone();
            let mut spoiled = Vec::new();
            for deletion in &plan.delete {
                match self.delete(&deletion.files, &held.kept) {
                    Ok(()) => {
                        tracing::info!(files = ?deletion.files, why = deletion.why.words(), "deleted from the archive of recordings");
                        self.told().status.deleted += deletion.files.len() as u64;
                        gone.extend_from_slice(&deletion.files);
                    }
                    Err((name, why)) => {
                        tell(told, || format!("{name}: {why}"));
                        spoiled.push(name);
                    }
                }
            }
            let records: Vec<_> = gone.iter().map(|name| (name.as_str(), None)).collect();
            if !records.is_empty() {
                self.records.put(&records).map_err(io::Error::other)?;
            }
            for name in &gone {
                held.kept.remove(name);
                present.recorded.remove(name);
            }
            // Without what turned out not to be what was recorded, others may have to go.
            if !spoiled.is_empty() {
                present.spoiled.extend(spoiled);
                continue;
            }
            for name in plan
                .changed
                .iter()
                .filter(|n| !present.spoiled.contains(*n))
            {
                tell(told, || {
                    format!("{name} is not as long as when it was kept; it is left alone")
                });
            }
            held.bytes = plan.bytes;
            let mut told = self.told();
            (told.status.files, told.status.bytes) = (plan.files, plan.bytes);
            told.status.oldest = plan.oldest.map(rfc3339);
            return Ok(());
        }
    }

    /// What is in the folder.
    fn look(&self, kept: &BTreeMap<String, Kept>, told: &mut Vec<String>) -> io::Result<Present> {
        let mut present = Present::default();
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            // Perhaps not mounted: that is no reason to forget what is in it.
            Err(e) if e.kind() == io::ErrorKind::NotFound && kept.is_empty() => return Ok(present),
            Err(e) => {
                return Err(io::Error::new(
                    e.kind(),
                    format!("reading {}: {e}", self.folder.display()),
                ));
            }
        };
        for entry in entries {
            let entry = entry?;
            let Ok(meta) = entry.metadata() else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            if kept.contains_key(&name) && meta.is_file() {
                present.recorded.insert(name, meta.len());
                continue;
            }
            present.foreign =
                present
                    .foreign
                    .saturating_add(if meta.is_file() { meta.len() } else { 0 });
            if !is_ignored(&name) {
                tell(told, || {
                    format!(
                        "{name:?} in the archive is not known to be confirmed; it is left alone"
                    )
                });
            }
        }
        if present.recorded.is_empty() && !kept.is_empty() {
            let why = format!(
                "none of the {} files kept is in {}: is its disk mounted?",
                kept.len(),
                self.folder.display()
            );
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        Ok(present)
    }

    /// Removes the files of a unit, each compared with its record first; or says which could not go, and why. None
    /// is touched before all were compared.
    fn delete(
        &self,
        files: &[String],
        kept: &BTreeMap<String, Kept>,
    ) -> Result<(), (String, String)> {
        for name in files {
            let Some(record) = kept.get(name) else {
                return Err((name.clone(), "nothing is recorded of it".to_owned()));
            };
            match folder::compare(&self.folder.join(name), record.bytes, &record.sha256) {
                Ok(ConfirmAnswer::Durable | ConfirmAnswer::Missing) => {}
                Ok(ConfirmAnswer::Different { .. }) => {
                    let why = "its content is not what was kept; it is left alone";
                    return Err((name.clone(), why.to_owned()));
                }
                Err(e) => return Err((name.clone(), e.to_string())),
            }
        }
        for name in files {
            vmsync_store::remove_file_durably(&self.folder.join(name))
                .map_err(|e| (name.clone(), e.to_string()))?;
        }
        Ok(())
    }
}

fn tell(told: &mut Vec<String>, words: impl FnOnce() -> String) {
    if told.len() < MOST_TOLD {
        told.push(words());
    }
}
