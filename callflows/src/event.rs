//! What happens in a call, and what the engine wants done: the whole conversation between the
//! engine and a channel (HTTP, later a telephone).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::mail::{Heading, State};

/// Most digits taken in one event.
const MAX_DIGITS: usize = 32;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The call was answered; the first event of a run.
    Answered,
    /// Keys were pressed.
    Digits(Digits),
    /// No (further) key within the time given.
    Timeout,
    /// What was to be heard before [`Action::AwaitPlayed`] has been heard.
    Played,
    /// A recording ended with this many bytes of audio; 0 when there is nothing worth keeping.
    Recorded(u64),
    /// The transfer did not succeed; the caller is back. (One that succeeds ends in `HungUp`.)
    TransferFailed,
    /// The caller has gone.
    HungUp,
    /// Answer to [`Question::CheckPin`].
    PinChecked(PinAnswer),
    /// Answer to [`Question::ListMessages`], oldest first; `None` when they could not be read.
    Messages(Option<Vec<Heading>>),
    /// Answer to [`Question::KeepRecording`].
    Stored(Kept),
    /// Answer to [`Question::SetState`]: whether it was done.
    StateSet(bool),
}

/// Pressed keys. Not shown by `Debug`: they may be a PIN.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Digits(String);

/// What came of a PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinAnswer {
    /// Right.
    Right,
    /// Wrong.
    Wrong,
    /// Too many wrong tries (R-MB-14).
    Locked,
}

/// What came of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is durable.
    Durable,
    /// It can't be taken: mailbox full, disabled, gone.
    Refused,
}

/// What the channel is to do, in this order. The last of a step says what the run waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Play these one after the other; a key stops it and counts for the next `gather`.
    Play {
        /// What is to be heard.
        items: Vec<Item>,
    },
    /// Say [`Event::Played`] when everything before this has been heard.
    AwaitPlayed,
    /// Collect keys: report them as they come, or [`Event::Timeout`].
    Gather {
        /// Report at the latest with so many.
        max_digits: usize,
        /// Time for the first, and between two.
        timeout_seconds: u32,
    },
    /// Sound the tone and record; then [`Event::Recorded`].
    Record {
        /// Number of the recording in this call, from 1.
        recording: u32,
        /// Stop after this long.
        max_seconds: u32,
        /// Stop after this much silence; 0 = don't.
        silence_seconds: u32,
        /// Keys that end it.
        end_keys: String,
    },
    /// Connect the caller to this number and leave the call, or say [`Event::TransferFailed`].
    Transfer {
        /// The number.
        to: String,
    },
    /// Hang up: the run is over.
    Disconnect {
        /// `done`, or why the flow was cut short.
        reason: &'static str,
    },
    /// For the channel's host, not for the channel: answer by the event that belongs to it. Always the last of a step.
    #[serde(skip)]
    Ask(Question),
}

/// What the engine can't know or do itself.
#[derive(Clone, PartialEq, Eq)]
pub enum Question {
    /// Is this the PIN of the call's mailbox?
    CheckPin(String),
    /// Which messages has the mailbox?
    ListMessages,
    /// Keep the recording durably.
    KeepRecording {
        /// Its number in this call.
        recording: u32,
        /// Urgent.
        urgent: bool,
        /// Private.
        private: bool,
    },
    /// Give a message another state.
    SetState {
        /// Which.
        message: String,
        /// The state.
        state: State,
    },
}

/// One thing to be heard. In JSON a table with one entry, as in `{"prompt":"beep"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// A prompt by name.
    Prompt(String),
    /// Words.
    Text(String),
    /// A number as a quantity.
    Number(String),
    /// Digits one by one.
    Digits(String),
    /// The time of day of this RFC 3339 time.
    Time(String),
    /// The date of this RFC 3339 time.
    Date(String),
    /// The greeting of a mailbox that holds now; the host knows which.
    Greeting(String),
    /// The recorded name of a mailbox, or its digits.
    Name(String),
    /// A message's audio, by id.
    Message(String),
}

impl Digits {
    /// Takes 1 to 32 keys of `0123456789*#ABCD`.
    pub fn new(keys: &str) -> Result<Self, String> {
        let keys = keys.to_ascii_uppercase();
        let valid = keys
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'*' | b'#' | b'A'..=b'D'));
        if valid && (1..=MAX_DIGITS).contains(&keys.len()) {
            Ok(Self(keys))
        } else {
            Err(format!("digits are 1 to {MAX_DIGITS} of 0123456789*#ABCD"))
        }
    }

    /// The keys.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Digits {
    type Error = String;
    fn try_from(keys: String) -> Result<Self, String> {
        Self::new(&keys)
    }
}

impl fmt::Debug for Digits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} digits", self.0.len())
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Question {
    /// In words, as in the dialogues; never the PIN.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CheckPin(pin) => write!(f, "check a PIN of {} digits", pin.len()),
            Self::ListMessages => f.write_str("list the messages"),
            Self::KeepRecording {
                recording,
                urgent,
                private,
            } => {
                write!(f, "keep recording {recording}")?;
                if *urgent {
                    f.write_str(", urgent")?;
                }
                if *private {
                    f.write_str(", private")?;
                }
                Ok(())
            }
            Self::SetState { message, state } => write!(f, "mark message {message} {state}"),
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prompt(name) => f.write_str(name),
            Self::Text(text) => write!(f, "\"{text}\""),
            Self::Number(text) => write!(f, "number {text}"),
            Self::Digits(text) => write!(f, "digits {text}"),
            Self::Time(text) => write!(f, "time {text}"),
            Self::Date(text) => write!(f, "date {text}"),
            Self::Greeting(mailbox) => write!(f, "greeting of {mailbox}"),
            Self::Name(mailbox) => write!(f, "name of {mailbox}"),
            Self::Message(id) => write!(f, "message {id}"),
        }
    }
}

impl fmt::Display for Action {
    /// In words, as in the dialogues.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Play { items } => {
                f.write_str("play")?;
                for (n, item) in items.iter().enumerate() {
                    write!(f, "{} {item}", if n == 0 { "" } else { "," })?;
                }
                Ok(())
            }
            Self::AwaitPlayed => f.write_str("wait until it is heard"),
            Self::Gather {
                max_digits,
                timeout_seconds,
            } => {
                write!(f, "gather up to {max_digits} for {timeout_seconds} s")
            }
            Self::Record {
                recording,
                max_seconds,
                silence_seconds,
                end_keys,
            } => {
                write!(
                    f,
                    "record {recording} for up to {max_seconds} s, ended by {silence_seconds} s of silence or {end_keys}"
                )
            }
            Self::Transfer { to } => write!(f, "transfer to {to}"),
            Self::Disconnect { reason } => write!(f, "disconnect: {reason}"),
            Self::Ask(question) => write!(f, "ask: {question}"),
        }
    }
}
