//! Names of recordings, and the names derived from them.
//!
//! A name crosses a file system, an FTP control connection and an HTTP body, so it is checked
//! once, here. Derived names are functions of the name and the content alone: whoever restarts,
//! on either node, arrives at the same ones.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Longest name of a recording, bytes of UTF-8. Leaves room for the derived names under the
/// 255 bytes that common file systems allow.
pub const MAX_NAME_BYTES: usize = 200;

/// Why a text can't be the name of a recording.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} can't be the name of a recording: {rule}")]
pub struct InvalidName {
    /// The text, cut to 80 characters.
    pub name: String,
    /// The rule it breaks.
    pub rule: &'static str,
}

/// Hexadecimal digits of the recording's SHA-256 in the names it may be kept under at the primary.
const DIGITS: [usize; 3] = [8, 16, 32];

/// Ends of the names of side files: what a recorder notes of the call beside its audio.
const SIDES: [&str; 4] = [".xml", ".json", ".XML", ".JSON"];

/// A checked name of a recording: one path component, fit for FTP. Unicode is welcome. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RecordingName(Arc<str>);

impl RecordingName {
    /// Checks `name`.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        match broken_rule(name) {
            None => Ok(Self(name.into())),
            Some(rule) => Err(InvalidName {
                name: name.chars().take(80).collect(),
                rule,
            }),
        }
    }

    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Names to try at the primary, in order. The first is the name itself; the others are for
    /// when the primary holds *other content* under the one before: `name~<hex>.ext` with the
    /// first 8, 16, then 32 hex digits of the content's SHA-256 (R-VR-4: neither is lost).
    ///
    /// More than one further name only matters when a file was damaged at the primary after it
    /// got its name.
    pub fn candidates(&self, sha256: &str) -> Vec<String> {
        (0..=DIGITS.len())
            .filter_map(|n| self.candidate(n, sha256))
            .collect()
    }

    /// Candidate number `n`, from 0; `None` when there are no more.
    pub fn candidate(&self, n: usize, sha256: &str) -> Option<String> {
        match n.checked_sub(1) {
            None => Some(self.0.to_string()),
            Some(n) => Some(self.with_hash(sha256, *DIGITS.get(n)?)),
        }
    }

    /// Candidate number `n` of a side file of this recording, `sha256` being the *recording's*: it is
    /// kept beside it under the same digits, `call.xml` as `call~<hex>.xml`, `call.wav.xml` as
    /// `call~<hex>.wav.xml`.
    pub fn side_candidate(&self, side: &Self, n: usize, sha256: &str) -> Option<String> {
        let kept = self.candidate(n, sha256)?;
        if let Some(end) = side.0.strip_prefix(&*self.0) {
            return Some(format!("{kept}{end}"));
        }
        let end = side.0.strip_prefix(self.stem()).unwrap_or(&side.0);
        let stem = kept
            .rsplit_once('.')
            .map_or(kept.as_str(), |(stem, _)| stem);
        Some(format!("{stem}{end}"))
    }

    /// The names that files beside this recording may have: `call.xml` and `call.wav.xml` beside
    /// `call.wav`, and so for JSON. None for a side file itself.
    pub fn sides(&self) -> Vec<String> {
        if self.side_base().is_some() {
            return Vec::new();
        }
        let stem = self.stem();
        let mut sides: Vec<_> = SIDES.iter().map(|end| format!("{stem}{end}")).collect();
        if stem != &*self.0 {
            sides.extend(SIDES.iter().map(|end| format!("{}{end}", self.0)));
        }
        sides
    }

    /// Of the name of a side file, what comes before its ending; `None` for others.
    pub fn side_base(&self) -> Option<&str> {
        SIDES
            .iter()
            .find_map(|end| self.0.strip_suffix(end))
            .filter(|base| !base.is_empty())
    }

    /// The name without its extension: what side files may go by.
    pub fn stem(&self) -> &str {
        match self.0.rsplit_once('.') {
            Some((stem, ext)) if !stem.is_empty() && !ext.is_empty() => stem,
            _ => &self.0,
        }
    }

    /// The name under which a recording is kept when its own name is taken: `name~<8 hex>.ext`.
    pub fn kept(&self, sha256: &str) -> String {
        self.with_hash(sha256, 8)
    }

    /// The name of the unfinished upload: hidden, ending in `.part`, bound to the content so
    /// that an upload is only ever resumed with the same bytes.
    pub fn temporary(&self, sha256: &str) -> String {
        format!(".{}.part", self.with_hash(sha256, 8))
    }

    fn with_hash(&self, sha256: &str, digits: usize) -> String {
        let hex: String = sha256
            .chars()
            .filter(char::is_ascii_hexdigit)
            .take(digits)
            .collect();
        match self.0.rsplit_once('.') {
            Some((stem, ext)) if !stem.is_empty() && !ext.is_empty() => {
                format!("{stem}~{hex}.{ext}")
            }
            _ => format!("{}~{hex}", self.0),
        }
    }
}

/// Whether a file of this name in the folder is nobody's recording: hidden or unfinished.
pub fn is_ignored(name: &str) -> bool {
    name.starts_with('.') || name.strip_suffix(".part").is_some()
}

/// Whether a text may name any file of the folder, derived and unfinished ones included: one
/// path component of at most 255 bytes that can't leave the folder or a command line.
pub fn is_file_name(name: &str) -> bool {
    name.len() <= 255 && unsafe_rule(name).is_none()
}

fn broken_rule(name: &str) -> Option<&'static str> {
    if name.len() > MAX_NAME_BYTES {
        Some("it is longer than 200 bytes")
    } else if is_ignored(name) {
        Some("names beginning with a dot or ending in .part are for unfinished files")
    } else {
        unsafe_rule(name)
    }
}

fn unsafe_rule(name: &str) -> Option<&'static str> {
    if name.is_empty() || name == "." {
        Some("it is empty")
    } else if name.chars().any(|c| matches!(c, '/' | '\\')) {
        Some("it holds a path separator")
    } else if name.contains("..") {
        Some("it holds two dots in a row")
    } else if name.chars().any(char::is_control) {
        Some("it holds a control character")
    } else if name.trim() != name {
        Some("it begins or ends with a space")
    } else {
        None
    }
}

impl fmt::Display for RecordingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl FromStr for RecordingName {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        Self::new(s)
    }
}
impl TryFrom<String> for RecordingName {
    type Error = InvalidName;
    fn try_from(s: String) -> Result<Self, InvalidName> {
        Self::new(&s)
    }
}
impl From<RecordingName> for String {
    fn from(n: RecordingName) -> String {
        n.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn a_side_file_goes_by_the_name_of_its_recording() {
        let name = |text| RecordingName::new(text).unwrap();
        let call = name("call.7.wav");
        for (side, kept) in [
            ("call.7.xml", "call.7~9f86d081.xml"),
            ("call.7.wav.json", "call.7~9f86d081.wav.json"),
        ] {
            assert!(call.sides().contains(&side.to_owned()), "{side}");
            assert_eq!(call.side_candidate(&name(side), 0, SHA).unwrap(), side);
            assert_eq!(call.side_candidate(&name(side), 1, SHA).unwrap(), kept);
        }
        assert_eq!(call.side_candidate(&name("call.7.xml"), 4, SHA), None);
        let bare = name("call");
        assert!(bare.sides().contains(&"call.xml".to_owned()));
        assert_eq!(
            bare.side_candidate(&name("call.xml"), 1, SHA).unwrap(),
            "call~9f86d081.xml"
        );
        assert!(name("call.xml").sides().is_empty());
        assert_eq!(name("call.wav.json").side_base(), Some("call.wav"));
        assert_eq!(name("call.wav").side_base(), None);
    }

    #[test]
    fn unicode_and_spaces_inside_are_fine() {
        for name in [
            "call.wav",
            "Gespräch mit Jörg 3.wav",
            "通話.wav",
            "no-extension",
            "a~b.wav",
        ] {
            assert_eq!(RecordingName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn what_could_leave_the_folder_or_the_command_line_is_refused() {
        let long = "x".repeat(201);
        for name in [
            "",
            "..",
            "../x",
            "a/b",
            "a\\b",
            "a..b",
            "a\r\nDELE b",
            "a\0",
            ".hidden",
            "x.part",
            " x",
            "x ",
            long.as_str(),
        ] {
            assert!(RecordingName::new(name).is_err(), "{name:?} was accepted");
        }
    }

    #[test]
    fn derived_names_are_stable_and_fit_a_file_system() {
        let name = RecordingName::new("call 7.wav").unwrap();
        assert_eq!(name.kept(SHA), "call 7~9f86d081.wav");
        assert_eq!(name.temporary(SHA), ".call 7~9f86d081.wav.part");
        assert_eq!(
            name.candidates(SHA),
            [
                "call 7.wav",
                "call 7~9f86d081.wav",
                "call 7~9f86d081884c7d65.wav",
                "call 7~9f86d081884c7d659a2feaa0c55ad015.wav"
            ]
        );
        assert_eq!(
            RecordingName::new("call").unwrap().kept(SHA),
            "call~9f86d081"
        );
        let longest = RecordingName::new(&"x".repeat(MAX_NAME_BYTES)).unwrap();
        assert!(longest.candidates(SHA).iter().all(|n| n.len() <= 255));
        assert!(longest.temporary(SHA).len() <= 255);
    }
}
