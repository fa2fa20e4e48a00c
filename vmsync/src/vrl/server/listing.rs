//! Listings of the folder: read and sent piece by piece, whatever it holds. In no order, as the
//! folder has none.

use std::{
    fs::{self, Metadata},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use tokio::sync::mpsc;

use super::{command::Form, files::is_part};

/// Bytes sent at once.
const CHUNK: usize = 64 * 1024;

/// A listing to send.
#[derive(Debug)]
pub(crate) enum Listing {
    /// The finished recordings of this folder.
    Folder(PathBuf, Form),
    /// These lines.
    Lines(String),
}

impl Listing {
    /// Starts reading. Reading ends when what this returns is dropped.
    pub(crate) fn chunks(self) -> mpsc::Receiver<io::Result<Vec<u8>>> {
        let (to, chunks) = mpsc::channel(2);
        tokio::task::spawn_blocking(move || {
            let end = match self {
                Self::Lines(lines) => to.blocking_send(Ok(lines.into_bytes())).is_ok(),
                Self::Folder(folder, form) => match read(&folder, form, &to) {
                    Ok(()) => true,
                    Err(e) => to.blocking_send(Err(e)).is_ok(),
                },
            };
            tracing::trace!(heard = end, "FTP listing read");
        });
        chunks
    }
}

fn read(folder: &Path, form: Form, to: &mpsc::Sender<io::Result<Vec<u8>>>) -> io::Result<()> {
    let mut chunk = Vec::with_capacity(CHUNK);
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // What is not UTF-8 can't be asked for either.
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if vmsync_core::vrl::is_ignored(&name) || !vmsync_core::vrl::is_file_name(&name) {
            continue;
        }
        // A file may go between the two calls; links are not followed.
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if !kind.is_file() {
            continue;
        }
        let line = if form == Form::Names {
            format!("{name}\r\n")
        } else {
            let Ok(meta) = entry.metadata() else { continue };
            file_line(form, &name, &meta)
        };
        chunk.extend_from_slice(line.as_bytes());
        if chunk.len() >= CHUNK - 1024 {
            let full = std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK));
            if to.blocking_send(Ok(full)).is_err() {
                return Ok(());
            }
        }
    }
    let _ = to.blocking_send(Ok(chunk));
    Ok(())
}

/// The line of a file.
pub(crate) fn file_line(form: Form, name: &str, meta: &Metadata) -> String {
    let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    match form {
        Form::Names => format!("{name}\r\n"),
        Form::Long => format!(
            "-r--r--r-- 1 vmsync vmsync {:>12} {} {name}\r\n",
            meta.len(),
            written(modified, "%b %d  %Y"),
        ),
        Form::Facts => format!("{} {name}\r\n", file_facts(Path::new(name), meta)),
    }
}

/// The line of a folder that only clients see.
pub(crate) fn folder_line(form: Form, name: &str) -> String {
    match form {
        Form::Names => format!("{name}\r\n"),
        Form::Long => format!("dr-xr-xr-x 1 vmsync vmsync            0 Jan 01  1970 {name}\r\n"),
        Form::Facts => format!("type=dir;perm=el; {name}\r\n"),
    }
}

/// Facts of a file (RFC 3659 section 7.5): what a client may do with it is `perm`.
pub(crate) fn file_facts(path: &Path, meta: &Metadata) -> String {
    let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let may = if is_part(path) { "adfrw" } else { "r" };
    format!(
        "type=file;size={};modify={};perm={may};",
        meta.len(),
        written(modified, "%Y%m%d%H%M%S"),
    )
}

/// A time as MDTM tells it.
pub(crate) fn stamp(time: SystemTime) -> String {
    written(time, "%Y%m%d%H%M%S")
}

fn written(time: SystemTime, form: &str) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime(form).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn listings_come_in_pieces_and_hold_finished_recordings_alone() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..3_000 {
            fs::write(dir.path().join(format!("call {n:04}; \"ü\".wav")), b"123").unwrap();
        }
        fs::write(dir.path().join(".a.part"), b"").unwrap();
        fs::write(dir.path().join("b.part"), b"").unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("link.wav")).unwrap();
        for form in [Form::Long, Form::Names, Form::Facts] {
            let mut chunks = Listing::Folder(dir.path().to_owned(), form).chunks();
            let (mut all, mut largest) = (String::new(), 0);
            while let Some(chunk) = chunks.recv().await {
                let chunk = chunk.unwrap();
                largest = largest.max(chunk.len());
                all.push_str(&String::from_utf8(chunk).unwrap());
            }
            assert!(largest <= CHUNK, "{largest}");
            let mut names: Vec<_> = all
                .lines()
                .map(|line| &line[line.find("call").unwrap()..])
                .collect();
            names.sort_unstable();
            assert_eq!(names.len(), 3_000);
            assert_eq!(names[7], "call 0007; \"ü\".wav");
            if form == Form::Facts {
                let first = all.lines().next().unwrap();
                assert!(first.starts_with("type=file;size=3;modify=2"), "{first}");
                assert!(first.contains(";perm=r; call "), "{first}");
            }
        }
        let missing = Listing::Folder(dir.path().join("missing"), Form::Long);
        assert!(missing.chunks().recv().await.unwrap().is_err());
    }
}
