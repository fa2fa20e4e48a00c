//! Housekeeping (R-MB-9): messages are kept for so many hours in each state; then they are deleted,
//! and deleted ones go for good (R-MB-4). What is due is decided by one pure function; a message
//! somebody has changed meanwhile is looked at again within the transaction that would take it.

use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;
use vmsync_config::words::{Extension, SystemName, UnixMillis};

use crate::{
    disk::Purpose,
    error::StoreError,
    mailboxes::SMALL,
    model::{Counts, Mailbox, MessageState},
    operation::{EntityKey, Stamp},
    store::Store,
    view,
};

/// The field of a message that holds its state.
const STATE: &str = "state";
/// Messages taken in one transaction at most.
const GROUP: usize = 100;
/// Mailboxes read at once.
const MAILBOXES: usize = 100;
/// Messages read at once.
const MESSAGES: usize = 500;

/// How long messages are kept in each state, hours; 0 = for ever (R-MB-9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// Not played.
    pub new: u32,
    /// Header played only.
    pub unopened: u32,
    /// Played. Default 24.
    pub old: u32,
    /// Kept by the user.
    pub saved: u32,
    /// Deleted, recoverable until then. Default 24.
    pub deleted: u32,
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            new: 0,
            unopened: 0,
            old: 24,
            saved: 0,
            deleted: 24,
        }
    }
}

/// What is due for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// It becomes `deleted`: it can still be taken back.
    Delete,
    /// It goes for good.
    Purge,
}

/// What housekeeping has done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Housekept {
    /// Messages that became `deleted`.
    pub deleted: u64,
    /// Messages that went for good.
    pub purged: u64,
    /// Go on behind this mailbox; `None` = that were all.
    pub through: Option<Extension>,
}

impl Keep {
    fn hours(&self, state: MessageState) -> u32 {
        match state {
            MessageState::New => self.new,
            MessageState::Unopened => self.unopened,
            MessageState::Old => self.old,
            MessageState::Saved => self.saved,
            MessageState::Deleted => self.deleted,
        }
    }

    /// States that end.
    fn ending(&self) -> Vec<MessageState> {
        let ends = |state: &MessageState| self.hours(*state) > 0;
        MessageState::ALL.into_iter().filter(ends).collect()
    }

    /// What is due at `now` for a message that has been in `state` since the operation of `since`.
    fn due(&self, state: MessageState, since: &Stamp, now: UnixMillis) -> Option<Due> {
        let hours = self.hours(state);
        // A message found in its audio file alone has a state nobody gave it, at no known time.
        if hours == 0 || since.is_recovered() {
            return None;
        }
        let age = now.0.saturating_sub(since.at.wall.0);
        (age >= u64::from(hours) * 3_600_000).then_some(match state {
            MessageState::Deleted => Due::Purge,
            _ => Due::Delete,
        })
    }
}

impl Store {
    /// Does what is due in the mailboxes behind `after` whose system this node serves, until
    /// `most` messages were looked at or there are no more mailboxes. What it does is replicated as
    /// anything a user does; so it is for the serving node alone, and for a time at which nobody
    /// can have done something else at the peer.
    pub fn housekeep(
        &self,
        keep: &Keep,
        after: Option<&Extension>,
        most: usize,
        serves: &dyn Fn(Option<&SystemName>) -> bool,
    ) -> Result<Housekept, StoreError> {
        let ending = keep.ending();
        let mut done = Housekept::default();
        let (mut looked, mut cursor) = (0, after.map(ToString::to_string));
        loop {
            if ending.is_empty() {
                return Ok(done);
            }
            let page = self.mailboxes(cursor.as_deref(), MAILBOXES)?;
            for mailbox in &page.items {
                if any(&mailbox.counts, &ending) && serves(mailbox.home_system.as_ref()) {
                    looked += self.housekeep_mailbox(keep, mailbox, &ending, &mut done)?;
                }
                if looked >= most {
                    done.through = Some(mailbox.extension.clone());
                    return Ok(done);
                }
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok(done);
            }
        }
    }

    fn housekeep_mailbox(
        &self,
        keep: &Keep,
        mailbox: &Mailbox,
        ending: &[MessageState],
        done: &mut Housekept,
    ) -> Result<usize, StoreError> {
        let (mut looked, mut due, mut cursor) = (0, Vec::new(), None);
        loop {
            let ext = &mailbox.extension;
            let page = self.messages(ext, ending, cursor.as_deref(), MESSAGES)?;
            looked += page.items.len();
            for message in page.items {
                let record = self.record(&EntityKey::Message(message.id))?;
                let since = record.stamp(STATE);
                if since.is_some_and(|s| keep.due(message.state, s, self.now()).is_some()) {
                    due.push(message.id);
                }
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        for group in due.chunks(GROUP) {
            let (deleted, purged) = self.take_due(keep, group)?;
            done.deleted += deleted;
            done.purged += purged;
        }
        Ok(looked)
    }

    /// Takes those of these messages that are due still.
    fn take_due(&self, keep: &Keep, ids: &[Uuid]) -> Result<(u64, u64), StoreError> {
        self.write(SMALL * ids.len() as u64, Purpose::Upkeep, |t| {
            let (mut deleted, mut purged) = (0, 0);
            for id in ids {
                let entity = EntityKey::Message(*id);
                let now = t.now();
                let record = t.record(&entity)?;
                let (Some(message), Some(since)) =
                    (view::message(*id, record), record.stamp(STATE))
                else {
                    continue;
                };
                let due = keep.due(message.state, since, now);
                // What waits to be e-mailed waits longer (R-MB-11).
                let email_since = t.summary(&message.mailbox)?.email_since;
                match due.filter(|_| !view::is_unmailed(&message, email_since)) {
                    Some(Due::Delete) => {
                        t.set(&entity, [(STATE, json!(MessageState::Deleted))])?;
                        deleted += 1;
                    }
                    Some(Due::Purge) => {
                        t.delete(&entity)?;
                        purged += 1;
                    }
                    None => {}
                }
            }
            Ok((deleted, purged))
        })
    }
}

/// Whether there is a message in any of these states.
fn any(counts: &Counts, states: &[MessageState]) -> bool {
    let mut counts = *counts;
    states.iter().any(|state| *counts.of(*state) > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Hlc;

    const HOUR: u64 = 3_600_000;
    const NOON: u64 = 1_795_000_000_000;

    fn since(wall: u64) -> Stamp {
        Stamp {
            at: Hlc {
                wall: UnixMillis(wall),
                count: 0,
            },
            origin: "vmpro1.00000001".parse().unwrap(),
            seq: 1,
        }
    }

    #[test]
    fn what_is_due_in_each_state() {
        use MessageState as S;
        let keep = Keep {
            new: 0,
            unopened: 72,
            old: 24,
            saved: 0,
            deleted: 2,
        };
        let table = [
            (S::New, 100_000, None),
            (S::Saved, 100_000, None),
            (S::Unopened, 71, None),
            (S::Unopened, 72, Some(Due::Delete)),
            (S::Old, 23, None),
            (S::Old, 24, Some(Due::Delete)),
            (S::Deleted, 1, None),
            (S::Deleted, 2, Some(Due::Purge)),
        ];
        for (state, hours, due) in table {
            let now = UnixMillis(NOON + hours * HOUR);
            assert_eq!(
                keep.due(state, &since(NOON), now),
                due,
                "{state:?} for {hours} h"
            );
        }
        // Its clock was ahead of ours; and nobody knows since when.
        assert_eq!(
            keep.due(S::Old, &since(NOON + HOUR), UnixMillis(NOON)),
            None
        );
        assert_eq!(keep.due(S::Old, &since(0), UnixMillis(NOON)), None);
    }

    #[test]
    fn by_default_nothing_goes_that_was_not_played_or_was_saved() {
        let ending = Keep::default().ending();
        assert_eq!(ending, [MessageState::Old, MessageState::Deleted]);
    }
}
