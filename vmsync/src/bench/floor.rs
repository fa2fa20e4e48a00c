//! The floor: what writing the same bytes durably costs on this disk, without any program around it.

use std::{path::Path, time::Duration};

use super::{Work, blocking, content};
use crate::clock;

/// Files of the floor at most: more make it no truer.
const MOST: u32 = 2_000;

/// Files per second of one thread: write, fsync, rename, fsync of the folder, one after the other.
pub(super) async fn measure(dir: &Path, work: &Work) -> Result<f64, String> {
    let dir = dir.join(format!("floor-{:08x}", rand::random::<u32>()));
    let (files, bytes) = (work.messages.min(MOST), work.bytes);
    blocking(move || {
        let failed = |e: std::io::Error| format!("{}: {e}", dir.display());
        std::fs::create_dir(&dir).map_err(failed)?;
        let mut audio = content::wav(0, bytes);
        let begun = clock::now().mono;
        for n in 0..files {
            content::renumber(&mut audio, n);
            let path = dir.join(format!("{n}.wav"));
            vmsync_store::write_file_durably(&path, &audio).map_err(failed)?;
        }
        let took = clock::now().mono.saturating_sub(begun);
        std::fs::remove_dir_all(&dir).map_err(failed)?;
        Ok(f64::from(files) / took.as_secs_f64())
    })
    .await
}

/// How long each of `count` small records takes to be durable, the same way.
pub(super) fn records(dir: &Path, count: u32) -> Result<Vec<Duration>, String> {
    let failed = |e: std::io::Error| format!("{}: {e}", dir.display());
    std::fs::create_dir(dir).map_err(failed)?;
    let record = [b'x'; 400];
    let mut took = Vec::new();
    for n in 0..count {
        let begun = clock::now().mono;
        let path = dir.join(format!("{n}.json"));
        vmsync_store::write_file_durably(&path, &record).map_err(failed)?;
        took.push(clock::now().mono.saturating_sub(begun));
    }
    std::fs::remove_dir_all(dir).map_err(failed)?;
    Ok(took)
}
