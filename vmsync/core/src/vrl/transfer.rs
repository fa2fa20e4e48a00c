//! The machine of one recording: what is known of it, and what to do next.
//!
//! A recording is its audio and, where there are some, the side files of the same name. They move as
//! one: all are asked about, all are uploaded, then named (the audio last, so that whoever waits for
//! it at the primary finds the rest), and none goes here before all are confirmed (the audio last
//! again, so that a lost journal finds it and asks). Where one of them is taken at the primary, all
//! of them get the next name.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmsync_config::words::{Now, UnixMillis};

use super::{backoff::Pace, name::RecordingName};

/// How far a file of a recording has come. Serialised in lower case.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// In the folder, hashed, not begun.
    #[default]
    Planned,
    /// An upload was begun; some of it may be at the primary under the temporary name.
    Sending,
    /// The FTP server took all of it, under the temporary name.
    Sent,
    /// Length checked and renamed.
    Verified,
    /// The receiving node has hashed it, found it equal, and made it durable.
    Confirmed,
    /// The local copy is gone; nothing is left to do.
    Removed,
}

/// Whether recordings may be moved now, decided by the node: single-active, on the secondary,
/// with the primary owning its group again (R-VR-1, R-VR-3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conditions {
    /// Move now.
    pub allowed: bool,
    /// Why, or why not; shown to the operator.
    pub why: String,
}

/// What the receiving node says of a file in its folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "lowercase")]
pub enum ConfirmAnswer {
    /// There, equal in length and SHA-256, file and folder fsynced.
    Durable,
    /// No file of that name.
    Missing,
    /// A file of that name with other content.
    Different {
        /// Its length.
        bytes: u64,
        /// Its SHA-256, lower-case hex; empty when the length alone told them apart.
        sha256: String,
    },
}

/// What to do next for one recording. `part` counts its files: 0 is the audio, side files follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing now.
    Wait {
        /// Monotonic time at which to ask again; `None` = when conditions change.
        until: Option<Duration>,
        /// In words.
        why: String,
    },
    /// Ask the receiving node about a file.
    Confirm {
        /// Which.
        part: usize,
        /// Its name at the primary.
        remote_name: String,
    },
    /// Upload a local file.
    Upload {
        /// Which.
        part: usize,
        /// Name to upload to.
        temporary: String,
        /// Continue behind what the server already has of it; else from the start.
        resume: bool,
    },
    /// Check the length of the upload, then give it its name unless that name is taken.
    Verify {
        /// Which.
        part: usize,
        /// Name it has now.
        temporary: String,
        /// Name it gets.
        remote_name: String,
    },
    /// Remove the local copies, the audio last, each provided it still has the confirmed content.
    RemoveLocal,
    /// The transfer is over; forget it.
    Done,
    /// It is not what was planned any more; forget it, and look at the folder anew.
    Forget,
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// An upload is about to begin (journalled before the first byte).
    Begun,
    /// The server acknowledged the whole upload.
    Uploaded,
    /// Length right, renamed.
    Verified,
    /// The name is taken at the server, by whatever.
    Occupied,
    /// The server does not have the upload, or not in the right length.
    UploadLost(String),
    /// The receiving node answered.
    Answer(ConfirmAnswer),
    /// The local copies are removed.
    LocalRemoved,
    /// The local audio is not there any more: somebody else removed it.
    LocalGone,
    /// A local file has other content than planned, or a side file came or went.
    LocalChanged,
    /// The step failed; in words, with the server's own.
    Failed(String),
}

/// One file of a recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name here.
    pub name: RecordingName,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its content, lower-case hex.
    pub sha256: String,
    /// How far it has come.
    #[serde(default)]
    pub state: State,
    // Of this life of the process only: whether the peer was asked about its name there, and
    // whether an upload can't be gone on with.
    #[serde(skip)]
    asked: bool,
    #[serde(skip)]
    from_start: bool,
}

impl Part {
    /// A file found in the folder.
    pub fn new(name: RecordingName, bytes: u64, sha256: String) -> Self {
        Self {
            name,
            bytes,
            sha256,
            state: State::Planned,
            asked: false,
            from_start: false,
        }
    }

    /// The name of its unfinished upload.
    pub fn temporary(&self) -> String {
        self.name.temporary(&self.sha256)
    }
}

/// One recording on its way; the journal holds one record of it per name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// The audio, then its side files in order of name. Never empty.
    parts: Vec<Part>,
    /// Failures in a row.
    #[serde(default)]
    pub attempts: u32,
    /// The last failure, until the next success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Which of its names it gets at the primary: 0 is its own, the others are for when that is taken.
    #[serde(default)]
    candidate: usize,
    /// When it was found here.
    pub found_at: UnixMillis,
    #[serde(skip)]
    not_before: Option<Duration>,
    #[serde(skip)]
    over: Option<Over>,
}

/// How a transfer ends before its files are removed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// The audio is gone.
    Gone,
    /// It is another recording now.
    Changed,
}

impl Transfer {
    /// Plans the transfer of a recording found in the folder.
    pub fn planned(audio: Part, sides: Vec<Part>, found_at: UnixMillis) -> Self {
        let mut parts = vec![audio];
        parts.extend(sides);
        Self {
            parts,
            attempts: 0,
            last_error: None,
            candidate: 0,
            found_at,
            not_before: None,
            over: None,
        }
    }

    /// What a journalled transfer is worth after a restart: nothing that was heard from the peer
    /// before counts any more, so it is asked first, and a confirmation is asked for again before
    /// the local copy goes (the primary may have lost its disk since). `None` for a record without
    /// a file, which nothing here writes.
    #[must_use]
    pub fn restored(mut self) -> Option<Self> {
        self.forget_answers();
        self.not_before = None;
        (!self.parts.is_empty()).then_some(self)
    }

    /// Its files: the audio, then the side files.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The name of the audio here.
    pub fn name(&self) -> &RecordingName {
        // Never empty: see `planned` and `restored`.
        &self.parts[0].name
    }

    /// The length of all its files.
    pub fn bytes(&self) -> u64 {
        self.parts
            .iter()
            .fold(0, |sum, part| sum.saturating_add(part.bytes))
    }

    /// How far its last file has come.
    pub fn state(&self) -> State {
        let states = self.parts.iter().map(|part| part.state);
        states.min().unwrap_or_default()
    }

    /// Whether something of it may be at the primary, so that it is worth a record in the journal.
    /// What was only planned is found again in the folder.
    pub fn has_begun(&self) -> bool {
        self.parts.iter().any(|part| part.state != State::Planned)
    }

    /// The name of the audio at the primary.
    pub fn remote_name(&self) -> String {
        self.remote_name_of(0)
    }

    /// The name of one of its files at the primary.
    pub fn remote_name_of(&self, part: usize) -> String {
        let audio = &self.parts[0];
        let name = match self.parts.get(part) {
            Some(side) if part > 0 => {
                audio
                    .name
                    .side_candidate(&side.name, self.candidate, &audio.sha256)
            }
            _ => audio.name.candidate(self.candidate, &audio.sha256),
        };
        // There is always one: `take_next_name` does not go beyond the last.
        name.unwrap_or_else(|| audio.name.as_str().to_owned())
    }

    /// What to do next.
    pub fn next(&self, conditions: &Conditions, now: Now) -> Step {
        match self.over {
            Some(Over::Gone) => return Step::Done,
            Some(Over::Changed) => return Step::Forget,
            None => {}
        }
        if self.all(State::Removed) {
            return Step::Done;
        }
        let due = self.not_before.is_none_or(|t| t <= now.mono);
        // The peer holds it durably: this needs no link and no permission.
        if self.all(State::Confirmed) && due {
            return Step::RemoveLocal;
        }
        if !conditions.allowed {
            return Step::Wait {
                until: None,
                why: conditions.why.clone(),
            };
        }
        if !due {
            return Step::Wait {
                until: self.not_before,
                why: self.last_error.clone().unwrap_or_default(),
            };
        }
        if let Some(part) = self.first(|p| !p.asked && p.state < State::Confirmed) {
            return self.confirm(part);
        }
        if let Some(part) = self.last(|p| p.state < State::Sent) {
            let file = &self.parts[part];
            return Step::Upload {
                part,
                temporary: file.temporary(),
                resume: file.state == State::Sending && !file.from_start,
            };
        }
        if let Some(part) = self.last(|p| p.state == State::Sent) {
            return Step::Verify {
                part,
                temporary: self.parts[part].temporary(),
                remote_name: self.remote_name_of(part),
            };
        }
        match self.first(|p| p.state == State::Verified) {
            Some(part) => self.confirm(part),
            None => Step::RemoveLocal,
        }
    }

    fn confirm(&self, part: usize) -> Step {
        Step::Confirm {
            part,
            remote_name: self.remote_name_of(part),
        }
    }

    fn all(&self, state: State) -> bool {
        self.parts.iter().all(|p| p.state >= state)
    }

    fn first(&self, is: impl Fn(&Part) -> bool) -> Option<usize> {
        self.parts.iter().position(is)
    }

    fn last(&self, is: impl Fn(&Part) -> bool) -> Option<usize> {
        self.parts.iter().rposition(is)
    }

    /// Takes in what came of a step, at the file `part` of it.
    pub fn handle(&mut self, part: usize, outcome: Outcome, now: Now, pace: &Pace) {
        match outcome {
            Outcome::Begun => self.reach(part, State::Sending),
            Outcome::Uploaded => {
                self.reach(part, State::Sent);
                self.set_from_start(part, false);
            }
            Outcome::Verified => self.reach(part, State::Verified),
            Outcome::Occupied => {
                // What has the name may well be the same: the receiving node is asked again, and
                // the next name taken where it says so.
                let name = self.remote_name_of(part);
                let why =
                    format!("the FTP server has a file named {name} by now; asking what it is");
                self.fail(why, now, pace);
            }
            Outcome::UploadLost(why) => {
                self.reach(part, State::Planned);
                self.set_from_start(part, true);
                self.fail(why, now, pace);
            }
            Outcome::Answer(answer) => self.answered(part, &answer, now, pace),
            Outcome::LocalRemoved => {
                for part in 0..self.parts.len() {
                    self.reach(part, State::Removed);
                }
                self.succeed();
            }
            Outcome::LocalGone => {
                if self.all(State::Confirmed) {
                    return self.handle(part, Outcome::LocalRemoved, now, pace);
                }
                self.over = Some(Over::Gone);
                self.last_error = Some(format!(
                    "{} was removed from the folder by somebody else before the primary had confirmed it",
                    self.name()
                ));
            }
            Outcome::LocalChanged => self.over = Some(Over::Changed),
            Outcome::Failed(why) => self.fail(why, now, pace),
        }
    }

    /// Forgets the wait after failures: an operator asked to try now.
    pub fn kick(&mut self) {
        self.not_before = None;
    }

    fn reach(&mut self, part: usize, state: State) {
        if let Some(part) = self.parts.get_mut(part) {
            part.state = state;
        }
    }

    fn set_from_start(&mut self, part: usize, from_start: bool) {
        if let Some(part) = self.parts.get_mut(part) {
            part.from_start = from_start;
        }
    }

    fn answered(&mut self, part: usize, answer: &ConfirmAnswer, now: Now, pace: &Pace) {
        let Some(file) = self.parts.get_mut(part) else {
            return;
        };
        // Named by us, and asked about since: the answer is about our own upload.
        let ours = file.state == State::Verified && file.asked;
        file.asked = true;
        match answer {
            ConfirmAnswer::Durable => {
                file.state = State::Confirmed;
                if self.all(State::Confirmed) {
                    self.succeed();
                }
            }
            ConfirmAnswer::Missing if ours => {
                file.state = State::Planned;
                file.from_start = true;
                let why = format!(
                    "the FTP server took {} but the primary's node does not find it in its VRL folder; \
                     remote_location must be the primary's [vrl] folder",
                    self.remote_name_of(part)
                );
                self.fail(why, now, pace);
            }
            ConfirmAnswer::Missing => {
                // Restored, and gone from the primary meanwhile: from the start.
                if file.state == State::Verified {
                    file.state = State::Planned;
                }
            }
            ConfirmAnswer::Different { .. } => {
                file.from_start |= file.state == State::Verified;
                self.take_next_name(
                    "the primary holds another recording of that name",
                    now,
                    pace,
                );
            }
        }
    }

    fn take_next_name(&mut self, why: &str, now: Now, pace: &Pace) {
        let taken = self.remote_name();
        for part in &mut self.parts {
            // What has the old name there is sent once more under the new one.
            if part.state > State::Sent {
                part.state = State::Planned;
            }
            part.asked = false;
        }
        self.candidate += 1;
        let audio = &self.parts[0];
        if audio
            .name
            .candidate(self.candidate, &audio.sha256)
            .is_none()
        {
            self.candidate = 0;
            let why = format!(
                "{why}, and so for every other name kept for it, the last {taken}; move those files away on the primary"
            );
            self.fail(why, now, pace);
        }
    }

    fn succeed(&mut self) {
        self.attempts = 0;
        self.last_error = None;
        self.not_before = None;
    }

    /// What the primary said before counts no more: time has passed.
    fn forget_answers(&mut self) {
        for part in &mut self.parts {
            part.asked = false;
            if part.state == State::Confirmed {
                part.state = State::Verified;
            }
        }
    }

    fn fail(&mut self, why: String, now: Now, pace: &Pace) {
        self.attempts = self.attempts.saturating_add(1);
        self.last_error = Some(why);
        self.forget_answers();
        let delay = pace.delay(self.attempts, self.name().as_str());
        self.not_before = Some(now.mono.saturating_add(delay));
    }
}

#[cfg(test)]
mod tests;
