//! Which files of a folder some process holds open for writing: a look through `/proc/*/fd`.
//!
//! A file is told apart by device and inode, not by path, so that writers in a container or behind a bind
//! mount are seen. What this process may not read it can't see: the answer says so.

use std::{collections::BTreeSet, fs, io, os::unix::fs::MetadataExt, path::Path, time::Duration};

use crate::clock;

/// Names of files open for writing, at most.
const MOST: usize = 4096;

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Files of the folder that are open for writing.
    pub(super) names: BTreeSet<String>,
    /// Every process could be read: what is not in `names` is not open.
    pub(super) complete: bool,
    /// Time or room ran out, so that not even every readable process was read.
    pub(super) cut: bool,
}

/// Looks at every process; blocks for about `limit` at most. `proc` is `/proc`.
pub(super) fn look(proc: &Path, folder: &Path, limit: Duration) -> Look {
    let mut look = Look {
        complete: true,
        ..Look::default()
    };
    let until = clock::now().mono.saturating_add(limit);
    let Ok(processes) = fs::read_dir(proc) else {
        look.complete = false;
        return look;
    };
    for process in processes.filter_map(Result::ok) {
        let is_process = process
            .file_name()
            .to_str()
            .is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
        if !is_process {
            continue;
        }
        if clock::now().mono >= until || look.names.len() >= MOST {
            (look.complete, look.cut) = (false, true);
            break;
        }
        match files_of(&process.path(), folder, until, &mut look.names) {
            Ok(true) => {}
            Ok(false) => (look.complete, look.cut) = (false, true),
            // The process ended meanwhile, and its files are closed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(_) => look.complete = false,
        }
    }
    look
}

/// Adds what one process has open; false when time or room ran out.
fn files_of(
    process: &Path,
    folder: &Path,
    until: Duration,
    names: &mut BTreeSet<String>,
) -> io::Result<bool> {
    for fd in fs::read_dir(process.join("fd"))?.filter_map(Result::ok) {
        if clock::now().mono >= until || names.len() >= MOST {
            return Ok(false);
        }
        // Sockets and pipes have no folder; a file closed meanwhile has no link.
        let Ok(target) = fs::read_link(fd.path()) else {
            continue;
        };
        let Some(name) = target.file_name().and_then(|n| n.to_str()) else {
            continue;
        };
        if !target.is_absolute() || names.contains(name) {
            continue;
        }
        let Ok(here) = fs::symlink_metadata(folder.join(name)) else {
            continue;
        };
        let same = here.is_file()
            && fs::metadata(fd.path())
                .is_ok_and(|open| (open.dev(), open.ino()) == (here.dev(), here.ino()));
        let info = || fs::read_to_string(process.join("fdinfo").join(fd.file_name()));
        if same && info().is_ok_and(|text| is_writing(&text)) {
            names.insert(name.to_owned());
        }
    }
    Ok(true)
}

/// Whether the text of a `/proc/PID/fdinfo/N` is of a file opened for writing (proc_pid_fdinfo(5): `flags`
/// are those of open(2), octal).
fn is_writing(fdinfo: &str) -> bool {
    const ACCESS: u32 = 0o3;
    const O_PATH: u32 = 0o10_000_000;
    let flags = fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok());
    flags.is_some_and(|flags| flags & O_PATH == 0 && matches!(flags & ACCESS, 1 | 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_say_whether_a_file_is_written() {
        let of =
            |flags: &str| is_writing(&format!("pos:\t0\nflags:\t{flags}\nmnt_id:\t29\nino:\t7\n"));
        assert!(of("0100001"), "O_WRONLY | O_LARGEFILE");
        assert!(of("02102002"), "O_RDWR | O_APPEND | O_CLOEXEC");
        assert!(!of("0100000"), "O_RDONLY");
        assert!(
            !of("012000001"),
            "O_PATH: nothing can be written through it"
        );
        for rubbish in [
            "",
            "flags",
            "flags:",
            "flags:\tx",
            "flags:\t777777777777777777",
            "pos: 1",
        ] {
            assert!(!is_writing(rubbish), "{rubbish:?}");
        }
    }

    #[test]
    fn files_this_process_writes_are_seen_and_those_it_reads_are_not() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["written.wav", "read.wav", "closed.wav"] {
            fs::write(dir.path().join(name), b"RIFF").unwrap();
        }
        let _written = fs::OpenOptions::new()
            .append(true)
            .open(dir.path().join("written.wav"))
            .unwrap();
        let _read = fs::File::open(dir.path().join("read.wav")).unwrap();
        let look = look(Path::new("/proc"), dir.path(), Duration::from_secs(10));
        assert_eq!(look.names, BTreeSet::from(["written.wav".to_owned()]));
        assert!(!look.cut);
    }

    #[test]
    fn it_ends_when_its_time_is_over_and_says_what_it_could_not_see() {
        let dir = tempfile::tempdir().unwrap();
        let none = look(Path::new("/proc"), dir.path(), Duration::ZERO);
        assert!(none.cut && !none.complete, "{none:?}");
        let nowhere = look(Path::new("/no/proc"), dir.path(), Duration::from_secs(1));
        assert!(!nowhere.complete && !nowhere.cut, "{nowhere:?}");
    }
}
