//! Copies between file systems.

use std::{fs, io, path::Path};

/// Content, permissions and time of writing.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    if let Ok(modified) = fs::metadata(from).and_then(|meta| meta.modified()) {
        // A nicety: not every file system takes it, and a file without right to write refuses it.
        let _ = fs::File::options()
            .append(true)
            .open(to)
            .and_then(|file| file.set_modified(modified));
    }
    Ok(())
}
