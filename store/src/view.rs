//! Records read as what they are: mailboxes, messages, greetings, call flows. Pure.
//!
//! A record may come from a newer version of the program or be incomplete, because an operation
//! that changes an entity can arrive before the one that created it. What cannot be read as
//! expected is left out or takes its default; nothing here fails.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;
use vmsync_config::words::{EmailMode, Extension, UnixMillis};

use crate::{
    model::{Counts, Flow, Greeting, Mailbox, Message, MessageState},
    operation::{AudioRef, GreetingKind, Hlc, Stamp},
    record::{AUDIO, Record, Version, audio_of},
};

/// Fields of mailboxes and messages about e-mail (R-MB-11, R-MB-5).
pub(crate) const EMAIL_MODE: &str = "email_mode";
pub(crate) const EMAILED: &str = "emailed";
pub(crate) const EMAIL_FAILED: &str = "email_failed";

/// Versions that lost a conflict are shown up to this many, newest first.
const CONFLICTS_SHOWN: usize = 10;

/// What is kept per mailbox beside its record, so that listing reads one key: key `c/<ext>`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// The mailbox exists (is not deleted).
    pub(crate) alive: bool,
    /// Messages by state.
    pub(crate) counts: Counts,
    /// Greetings set.
    pub(crate) greetings: Vec<GreetingKind>,
    /// Messages that entered the pair later than this are to be e-mailed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) email_since: Option<Hlc>,
}

/// Field `email_mode` of a mailbox: one value, so that mode and time can't come from two changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EmailSetting {
    pub(crate) mode: EmailMode,
    /// Clock when the mode was `off` last: what entered the pair later is to be e-mailed.
    pub(crate) since: Hlc,
}

impl Summary {
    /// Whether there is anything to remember.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
    /// Whether the mailbox is shown: it exists, or messages its deletion had not seen remain.
    pub(crate) fn is_visible(&self) -> bool {
        self.alive || self.counts.total() > 0
    }
}

impl Counts {
    /// Messages in any state.
    pub fn total(&self) -> u64 {
        self.live() + self.deleted
    }
    /// Messages that count against the mailbox's limit: all but the deleted.
    pub fn live(&self) -> u64 {
        self.new + self.unopened + self.old + self.saved
    }
    /// The count of one state.
    pub(crate) fn of(&mut self, state: MessageState) -> &mut u64 {
        match state {
            MessageState::New => &mut self.new,
            MessageState::Unopened => &mut self.unopened,
            MessageState::Old => &mut self.old,
            MessageState::Saved => &mut self.saved,
            MessageState::Deleted => &mut self.deleted,
        }
    }
}

fn read<T: DeserializeOwned>(value: Option<&Value>) -> Option<T> {
    value.and_then(|v| T::deserialize(v).ok())
}

/// Whether the mailbox exists: see rule 2 in `merge`.
pub(crate) fn mailbox_exists(record: &Record) -> bool {
    record.get("created").is_some()
}

/// What of a mailbox is to be e-mailed; `None` = nothing, also where a newer version of the program
/// has set a mode that is unknown here.
pub(crate) fn email_setting(mailbox: &Record) -> Option<EmailSetting> {
    let setting: EmailSetting = mailbox.read(EMAIL_MODE)?;
    (mailbox_exists(mailbox) && setting.mode != EmailMode::Off).then_some(setting)
}

/// Whether the message waits to be e-mailed, for a mailbox whose summary says `since`.
pub(crate) fn is_unmailed(m: &Message, since: Option<Hlc>) -> bool {
    since.is_some_and(|since| m.stamp.at > since)
        && m.emailed.is_none()
        && m.email_failed.is_none()
        && m.state != MessageState::Deleted
}

/// The mailbox of a record; the caller checks that it is shown.
pub(crate) fn mailbox(extension: &Extension, record: &Record, summary: &Summary) -> Mailbox {
    let deleted = !mailbox_exists(record);
    // What changes that did not know of the deletion left behind is not shown.
    let empty = Record::default();
    let record = if deleted { &empty } else { record };
    Mailbox {
        extension: extension.clone(),
        name: record.read("name").unwrap_or_default(),
        home_system: record.read("home_system"),
        email: record.read("email"),
        email_mode: email_setting(record).map_or(EmailMode::Off, |s| s.mode),
        enabled: !deleted && record.read("enabled").unwrap_or(true),
        max_messages: record.read("max_messages"),
        has_pin: pin_hash(record).is_some(),
        deleted,
        counts: summary.counts,
        greetings: if deleted {
            Vec::new()
        } else {
            summary.greetings.clone()
        },
    }
}

/// The Argon2id hash of the mailbox's PIN.
pub(crate) fn pin_hash(mailbox: &Record) -> Option<String> {
    mailbox.read("pin_hash")
}

/// The message of a record; `None` while its creation has not arrived, and once it is deleted.
pub(crate) fn message(id: Uuid, record: &Record) -> Option<Message> {
    Some(Message {
        id,
        mailbox: record.read("mailbox")?,
        audio: record.read(AUDIO)?,
        state: state(record),
        facts: record.read("facts").unwrap_or_default(),
        stamp: record.stamp(AUDIO)?.clone(),
        emailed: record.read(EMAILED),
        email_failed: record.read(EMAIL_FAILED),
    })
}

/// Where a message is listed, and as what.
pub(crate) struct Listed {
    pub(crate) mailbox: Extension,
    pub(crate) at: Hlc,
    pub(crate) state: MessageState,
}

/// The same of a record that [`message`] gives a message of, without reading all of it.
pub(crate) fn listed(record: &Record) -> Option<Listed> {
    record.read::<AudioRef>(AUDIO)?;
    Some(Listed {
        mailbox: record.read("mailbox")?,
        at: record.stamp(AUDIO)?.at,
        state: state(record),
    })
}

/// The state of a message. One of a newer version is rather shown as new than lost from sight.
pub(crate) fn state(message: &Record) -> MessageState {
    message.read("state").unwrap_or(MessageState::New)
}

/// Whether nothing but the state differs between two records of a message, and it is deleted in both
/// or in neither: then it is listed where it was, under the same source id, and waits for e-mail as
/// before.
pub(crate) fn same_but_state(one: &Record, other: &Record) -> bool {
    let deleted = |record| state(record) == MessageState::Deleted;
    let rest = |(name, _): &(&String, _)| name.as_str() != "state";
    deleted(one) == deleted(other)
        && one
            .fields
            .iter()
            .filter(rest)
            .eq(other.fields.iter().filter(rest))
}

/// The greeting of a record; `None` when there is none.
pub(crate) fn greeting(kind: GreetingKind, record: &Record) -> Option<Greeting> {
    let mut standing = record
        .versions
        .iter()
        .filter_map(|v| Some((v, audio_of(v.get(AUDIO)?)?)));
    let (live, audio) = standing.next()?;
    Some(Greeting {
        kind,
        audio,
        until: read::<UnixMillis>(live.get("until")),
        stamp: live.stamp.clone(),
        conflicts: standing.take(CONFLICTS_SHOWN).map(|(_, a)| a).collect(),
    })
}

/// The call flow of a record; `None` when there is none.
pub(crate) fn flow(name: &str, record: &Record) -> Option<Flow> {
    fn source(v: &Version) -> Option<(&Stamp, String)> {
        Some((&v.stamp, v.get("source")?.as_str()?.to_owned()))
    }
    let mut standing = record.versions.iter().filter_map(source);
    let (stamp, live) = standing.next()?;
    Some(Flow {
        name: name.to_owned(),
        source: live,
        stamp: stamp.clone(),
        conflicts: standing.take(CONFLICTS_SHOWN).map(|(_, s)| s).collect(),
    })
}
