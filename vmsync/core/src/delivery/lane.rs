//! When a mail server is tried, and when a message is given up.

use std::{collections::BTreeMap, time::Duration};

use uuid::Uuid;
use vmsync_config::words::{Extension, Now, UnixMillis};

use super::Answer;
use crate::vrl::{Backoff, Pace};

/// How long a message is tried, from when it entered the pair: at least four to five days are asked
/// for by RFC 5321 section 4.5.4.1.
pub const GIVE_UP: Duration = Duration::from_hours(5 * 24);
/// How long something must have failed in this life of the process before anything is given up for
/// it: a pair that was off for a week gives up nothing on its first try.
pub const PATIENCE: Duration = Duration::from_hours(1);
/// Mailboxes and messages whose waits are remembered, each. Beyond it they are tried more often than
/// they need be.
const REMEMBERED: usize = 10_000;
/// Failures in a row from which on an operator is told of a server that can't be reached.
const TOLD_FROM: u32 = 3;
/// The same of a mailbox whose mails a server puts off: one that greylists takes them after a few
/// minutes.
const DELAYED_FROM: u32 = 7;

/// A message to be mailed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Whose.
    pub mailbox: Extension,
    /// Which.
    pub message: Uuid,
    /// When it entered the pair.
    pub arrived: UnixMillis,
}

/// What becomes of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is mailed: mark it.
    Mailed,
    /// It goes on waiting.
    Later,
    /// It will not be mailed: mark it, with why.
    Failed(String),
}

/// Something that fails since some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Since when, by both clocks.
    pub since: Now,
    /// What was said last.
    pub why: String,
    /// An operator must settle it; else waiting may help.
    pub setup: bool,
    backoff: Backoff,
}

/// One entry of `[[smtp.sender]]`, or what no entry carries.
#[derive(Debug)]
pub struct Lane {
    pace: Pace,
    server: Option<Trouble>,
    mailboxes: BTreeMap<Extension, Trouble>,
    messages: BTreeMap<Uuid, Trouble>,
    name: String,
}

impl Trouble {
    fn new(now: Now) -> Self {
        Self {
            since: now,
            why: String::new(),
            setup: false,
            backoff: Backoff::default(),
        }
    }

    /// Tries that failed in a row.
    pub fn tries(&self) -> u32 {
        self.backoff.failures()
    }

    /// When it is tried again, monotonic; `None` = as soon as there is something.
    pub fn again(&self, now: Now) -> Option<Duration> {
        self.backoff.wait(now)
    }

    fn failed(&mut self, why: &str, setup: bool, now: Now, pace: &Pace, seed: &str) {
        why.clone_into(&mut self.why);
        self.setup = setup;
        self.backoff.failed(now, pace, seed);
    }

    fn lasts(&self, now: Now) -> Duration {
        now.mono.saturating_sub(self.since.mono)
    }
}

impl Lane {
    /// A lane named `name` (its domain), which goes by `pace`.
    pub fn new(name: impl Into<String>, pace: Pace) -> Self {
        Self {
            pace,
            server: None,
            mailboxes: BTreeMap::new(),
            messages: BTreeMap::new(),
            name: name.into(),
        }
    }

    /// Until when nothing is tried at all, monotonic; `None` = now.
    pub fn rests(&self, now: Now) -> Option<Duration> {
        self.server.as_ref()?.again(now)
    }

    /// Whether a message of `mailbox` may be tried now.
    pub fn mailbox_may(&self, mailbox: &Extension, now: Now) -> bool {
        let paused = self.mailboxes.get(mailbox);
        paused.is_none_or(|t| t.again(now).is_none())
    }

    /// Whether this message may be tried now, if its mailbox may.
    pub fn message_may(&self, message: Uuid, now: Now) -> bool {
        let paused = self.messages.get(&message);
        paused.is_none_or(|t| t.again(now).is_none())
    }

    /// When something that waits may be tried again at the earliest, monotonic.
    pub fn deadline(&self, now: Now) -> Option<Duration> {
        if let Some(at) = self.rests(now) {
            return Some(at);
        }
        let mailboxes = self.mailboxes.values();
        let waits = mailboxes.chain(self.messages.values());
        waits.filter_map(|t| t.again(now)).min()
    }

    /// What the server's trouble is, while it lasts.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.server.as_ref()
    }

    /// The trouble an operator is to be told of: what only he can settle at once, the rest once it
    /// is more than a passing one.
    pub fn alarm(&self) -> Option<&Trouble> {
        let told = |t: &&Trouble| t.setup || t.tries() >= TOLD_FROM;
        self.server.as_ref().filter(told)
    }

    /// Mailboxes that wait by themselves, with why.
    pub fn waiting(&self) -> impl Iterator<Item = (&Extension, &Trouble)> {
        self.mailboxes.iter()
    }

    /// Mailboxes whose mails are put off for so long that an operator is to be told.
    pub fn delayed(&self) -> impl Iterator<Item = (&Extension, &Trouble)> {
        self.waiting().filter(|(_, t)| t.tries() >= DELAYED_FROM)
    }

    /// Why a message that waits behind the server's trouble is given up, if it is.
    pub fn given_up(&self, arrived: UnixMillis, now: Now) -> Option<String> {
        overdue(self.server.as_ref(), arrived, now)
    }

    /// Whether any message could be given up for the server's trouble now, however old: whoever asks
    /// need not look at each of them before.
    pub fn gives_up(&self, now: Now) -> bool {
        self.given_up(UnixMillis(0), now).is_some()
    }

    /// A try of `job` has ended.
    pub fn ended(&mut self, job: &Job, answer: Answer, now: Now) -> Verdict {
        let pace = self.pace;
        let trouble = match answer {
            Answer::Taken => {
                self.answered(job);
                self.mailboxes.remove(&job.mailbox);
                return Verdict::Mailed;
            }
            Answer::Refused(why) => {
                self.answered(job);
                return Verdict::Failed(why);
            }
            Answer::MailboxLater(why) => {
                self.answered(job);
                self.pause_mailbox(&job.mailbox, &why, now);
                self.mailboxes.get(&job.mailbox)
            }
            Answer::MessageLater(why) => {
                // The server was not asked.
                if let Some(trouble) = remembered(&mut self.messages, job.message, now) {
                    let seed = job.message.to_string();
                    trouble.failed(&why, false, now, &pace, &seed);
                }
                self.messages.get(&job.message)
            }
            Answer::NotNow {
                setup,
                with_mail,
                why,
            } => {
                if with_mail {
                    self.pause_mailbox(&job.mailbox, &why, now);
                }
                let server = self.server.get_or_insert_with(|| Trouble::new(now));
                server.failed(&why, setup, now, &pace, &self.name);
                self.server.as_ref()
            }
        };
        overdue(trouble, job.arrived, now).map_or(Verdict::Later, Verdict::Failed)
    }

    /// The server has said what it thinks of a mail: it works.
    fn answered(&mut self, job: &Job) {
        self.server = None;
        self.messages.remove(&job.message);
    }

    /// Nothing waits any more: what failed before is no longer known to.
    pub fn reset(&mut self) {
        self.server = None;
        self.mailboxes.clear();
        self.messages.clear();
    }

    /// Keeps the waits of those mailboxes only of which `still` says that something of them waits.
    pub fn retain(&mut self, still: impl Fn(&Extension) -> bool) {
        self.mailboxes.retain(|mailbox, _| still(mailbox));
    }

    fn pause_mailbox(&mut self, mailbox: &Extension, why: &str, now: Now) {
        let pace = self.pace;
        if let Some(trouble) = remembered(&mut self.mailboxes, mailbox.clone(), now) {
            trouble.failed(why, false, now, &pace, mailbox.as_str());
        }
    }
}

/// The trouble of `key`, new where there was none; `None` when no more are remembered. Those whose
/// wait is over make room.
fn remembered<K: Ord + Clone>(
    all: &mut BTreeMap<K, Trouble>,
    key: K,
    now: Now,
) -> Option<&mut Trouble> {
    if all.len() >= REMEMBERED && !all.contains_key(&key) {
        all.retain(|_, t| t.again(now).is_some());
        if all.len() >= REMEMBERED {
            return None;
        }
    }
    Some(all.entry(key).or_insert_with(|| Trouble::new(now)))
}

fn overdue(trouble: Option<&Trouble>, arrived: UnixMillis, now: Now) -> Option<String> {
    let trouble = trouble?;
    let age = Duration::from_millis(now.wall.0.saturating_sub(arrived.0));
    (age >= GIVE_UP && trouble.lasts(now) >= PATIENCE)
        .then(|| format!("given up after 5 days; last: {}", trouble.why))
}

#[cfg(test)]
mod tests;
