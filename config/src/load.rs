//! From a file, or a text, to a checked [`Config`].

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use crate::{
    check,
    checked::Config,
    errors::{ConfigErrors, Report},
    overlay::{self, PREFIX},
    shape::Root,
    tree::{self, Place},
};

/// Largest configuration file read, bytes: tens of thousands of systems.
pub const MAX_FILE_BYTES: u64 = 8 << 20;

/// Reads, overlays and checks a configuration file.
///
/// `env` holds name and value of environment variables, usually [`environment`]; those that do
/// not begin with `VMSYNC__` are passed over. Relative paths in the result are relative to the
/// file's folder and made absolute.
///
/// # Errors
/// Everything that is wrong, at once: a file that can't be read, broken TOML syntax, and otherwise
/// every unknown, missing or wrong key.
pub fn load(
    path: &Path,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigErrors> {
    let name = path.display().to_string();
    match read(path) {
        Ok(text) => {
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            build(&text, &name, &folder(&absolute), env)
        }
        Err(message) => {
            let mut report = Report::new(&name);
            report.error(&Place::Nowhere, "", message);
            Err(report.into_errors())
        }
    }
}

/// Like [`load`], from the text of a file; touches no file. `file_name` serves for messages, and
/// its folder for relative paths.
///
/// # Errors
/// As [`load`].
pub fn parse(
    text: &str,
    file_name: &str,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigErrors> {
    build(text, file_name, &folder(Path::new(file_name)), env)
}

/// The `VMSYNC__` variables of this process. Bytes that are not UTF-8 are replaced, so that
/// checking shows them, rather than panicking as [`std::env::vars`] would.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .map(|(name, value)| {
            let name = name.to_string_lossy().into_owned();
            (name, value.to_string_lossy().into_owned())
        })
        .filter(|(name, _)| name.starts_with(PREFIX))
}

fn build(
    text: &str,
    file_name: &str,
    folder: &Path,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigErrors> {
    let mut report = Report::new(file_name);
    // After broken syntax nothing of the file can be trusted, so nothing more is said.
    let Some(mut table) = tree::parse(text, &mut report) else {
        return Err(report.into_errors());
    };
    overlay::apply(&mut table, env, &mut report);
    let root = Root::of(table, &mut report);
    let config = check::config(&root, folder, &mut report);
    match config {
        Some(config) if report.is_empty() => Ok(config),
        _ => Err(report.into_errors()),
    }
}

fn folder(file: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).to_owned()
}

fn read(path: &Path) -> Result<String, String> {
    let read_failed =
        |e: std::io::Error| format!("can't be read: {e}; name a readable file with --config");
    let file = File::open(path).map_err(read_failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(read_failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!(
            "is longer than {MAX_FILE_BYTES} bytes: this is no configuration file"
        ));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        format!("is not UTF-8 text: the byte at offset {at} is part of no character")
    })
}
