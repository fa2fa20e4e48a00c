//! The machine of one recording: what is known of it, and what to do next.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmsync_config::words::{Now, UnixMillis};

use super::{backoff::Pace, name::RecordingName};

/// How far a recording has come. Serialised in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// In the folder, hashed, not begun.
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

/// What to do next for one recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing now.
    Wait {
        /// Monotonic time at which to ask again; `None` = when conditions change.
        until: Option<Duration>,
        /// In words.
        why: String,
    },
    /// Ask the receiving node about [`Transfer::remote_name`].
    Confirm,
    /// Upload the local file.
    Upload {
        /// Name to upload to.
        temporary: String,
        /// Continue behind what the server already has of it; else from the start.
        resume: bool,
    },
    /// Check the length of the upload, then give it its name unless that name is taken.
    Verify {
        /// Name it has now.
        temporary: String,
        /// Name it gets.
        remote_name: String,
    },
    /// Remove the local copy, provided it still has the confirmed content.
    RemoveLocal,
    /// The transfer is over; forget it.
    Done,
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
    /// The name is taken at the server.
    Occupied,
    /// The server does not have the upload, or not in the right length.
    UploadLost(String),
    /// The receiving node answered.
    Answer(ConfirmAnswer),
    /// The local copy is removed, durably.
    LocalRemoved,
    /// The local file is not there any more: somebody else removed it.
    LocalGone,
    /// The local file has other content than planned: it grew, or was replaced.
    LocalChanged {
        /// Its length now.
        bytes: u64,
        /// Its SHA-256 now.
        sha256: String,
    },
    /// The step failed; in words, with the server's own.
    Failed(String),
}

/// One recording on its way; the journal holds one record of it per name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Its name here.
    pub name: RecordingName,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its content, lower-case hex.
    pub sha256: String,
    /// How far it has come.
    pub state: State,
    /// Failures in a row.
    #[serde(default)]
    pub attempts: u32,
    /// The last failure, until the next success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Its name at the primary: its own, or a stable other one when that is taken there.
    pub remote_name: String,
    /// When it was found here.
    pub found_at: UnixMillis,
    // Of this life of the process only: whether the peer was asked about `remote_name`, and until when to wait.
    #[serde(skip)]
    asked: bool,
    #[serde(skip)]
    not_before: Option<Duration>,
    #[serde(skip)]
    from_start: bool,
}

impl Transfer {
    /// Plans the transfer of a recording found in the folder.
    pub fn planned(name: RecordingName, bytes: u64, sha256: String, found_at: UnixMillis) -> Self {
        Self {
            remote_name: name.as_str().to_owned(),
            name,
            bytes,
            sha256,
            state: State::Planned,
            attempts: 0,
            last_error: None,
            found_at,
            asked: false,
            not_before: None,
            from_start: false,
        }
    }

    /// What a journalled transfer is worth after a restart: nothing that was heard from the peer
    /// before counts any more, so it is asked first, and a confirmation is asked for again before
    /// the local copy goes (the primary may have lost its disk since).
    #[must_use]
    pub fn restored(mut self) -> Self {
        self.asked = false;
        self.not_before = None;
        if self.state == State::Confirmed {
            self.state = State::Verified;
        }
        self
    }

    /// What to do next.
    pub fn next(&self, conditions: &Conditions, now: Now) -> Step {
        match self.state {
            State::Removed => return Step::Done,
            // The peer holds it durably: this needs no link and no permission.
            State::Confirmed if self.not_before.is_none_or(|t| t <= now.mono) => {
                return Step::RemoveLocal;
            }
            _ => {}
        }
        if !conditions.allowed {
            return Step::Wait {
                until: None,
                why: conditions.why.clone(),
            };
        }
        if let Some(until) = self.not_before.filter(|t| *t > now.mono) {
            return Step::Wait {
                until: Some(until),
                why: self.last_error.clone().unwrap_or_default(),
            };
        }
        if !self.asked {
            return Step::Confirm;
        }
        let temporary = self.name.temporary(&self.sha256);
        match self.state {
            State::Planned | State::Sending => Step::Upload {
                temporary,
                resume: self.state == State::Sending && !self.from_start,
            },
            State::Sent => Step::Verify {
                temporary,
                remote_name: self.remote_name.clone(),
            },
            State::Verified => Step::Confirm,
            State::Confirmed => Step::RemoveLocal,
            State::Removed => Step::Done,
        }
    }

    /// Takes in what came of a step.
    pub fn handle(&mut self, outcome: Outcome, now: Now, pace: &Pace) {
        match outcome {
            Outcome::Begun => self.state = State::Sending,
            Outcome::Uploaded => {
                self.from_start = false;
                self.state = State::Sent;
            }
            Outcome::Verified => self.state = State::Verified,
            Outcome::Occupied => {
                self.take_next_name("the name is taken at the primary", now, pace);
            }
            Outcome::UploadLost(why) => {
                self.state = State::Planned;
                self.from_start = true;
                self.fail(why, now, pace);
            }
            Outcome::Answer(answer) => self.answered(&answer, now, pace),
            Outcome::LocalRemoved => self.succeed(State::Removed),
            Outcome::LocalGone => {
                let confirmed = self.state == State::Confirmed;
                self.succeed(State::Removed);
                if !confirmed {
                    self.last_error = Some(format!(
                        "{} was removed from the folder by somebody else before the primary had confirmed it",
                        self.name
                    ));
                }
            }
            Outcome::LocalChanged { bytes, sha256 } => {
                *self = Self::planned(self.name.clone(), bytes, sha256, self.found_at);
            }
            Outcome::Failed(why) => self.fail(why, now, pace),
        }
    }

    /// Forgets the wait after failures: an operator asked to try now.
    pub fn kick(&mut self) {
        self.not_before = None;
    }

    fn answered(&mut self, answer: &ConfirmAnswer, now: Now, pace: &Pace) {
        match answer {
            ConfirmAnswer::Durable => self.succeed(State::Confirmed),
            ConfirmAnswer::Missing if self.state == State::Verified && self.asked => {
                self.state = State::Planned;
                self.from_start = true;
                self.fail(
                    format!(
                        "the FTP server took {} but the primary's node does not find it in its VRL folder; \
                         remote_location must be the primary's [vrl] folder",
                        self.remote_name
                    ),
                    now,
                    pace,
                );
            }
            ConfirmAnswer::Missing => {
                // Restored, and gone from the primary meanwhile: from the start.
                if self.state == State::Verified {
                    self.state = State::Planned;
                }
                self.asked = true;
            }
            ConfirmAnswer::Different { .. } => {
                if self.state == State::Verified {
                    self.state = State::Planned;
                    self.from_start = true;
                }
                self.take_next_name(
                    "the primary holds another recording of that name",
                    now,
                    pace,
                );
            }
        }
    }

    fn take_next_name(&mut self, why: &str, now: Now, pace: &Pace) {
        let candidates = self.name.candidates(&self.sha256);
        let next = candidates
            .iter()
            .skip_while(|n| **n != self.remote_name)
            .nth(1);
        if let Some(next) = next {
            self.remote_name.clone_from(next);
            self.asked = false;
        } else {
            let why = format!(
                "{why}, and so for every other name kept for it, the last {}; move those files away on the primary",
                self.remote_name
            );
            self.remote_name = self.name.as_str().to_owned();
            self.fail(why, now, pace);
        }
    }

    fn succeed(&mut self, state: State) {
        self.state = state;
        self.attempts = 0;
        self.last_error = None;
        self.not_before = None;
    }

    fn fail(&mut self, why: String, now: Now, pace: &Pace) {
        self.attempts = self.attempts.saturating_add(1);
        self.last_error = Some(why);
        self.asked = false;
        if self.state == State::Confirmed {
            // Time passes: what the primary confirmed before a failure is asked for again.
            self.state = State::Verified;
        }
        let delay = pace.delay(self.attempts, self.name.as_str());
        self.not_before = Some(now.mono.saturating_add(delay));
    }
}

#[cfg(test)]
mod tests;
