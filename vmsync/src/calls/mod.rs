//! Calls in progress on this node: what holds failback (R-FB-3, R-FB-4), and what a call is at.
//!
//! A call is *active* from its start to its end. One without a sign of life for the configured time
//! turns *silent*: it no longer counts (R-FB-8), but is not thrown away, for a recording may still
//! come; any sign of life makes it active again. An *ended* call is remembered for a while, so that
//! a repeated request gets the answer it lost.
//!
//! ```text
//!  start ──▶ active ──idle──▶ silent ──FORGOTTEN──▶ gone
//!              │  ◀──a sign──   │
//!              └──── end ───────┴──▶ ended ──REMEMBERED──▶ gone
//! ```
//! Calls live in memory: they end with the process, as the channel they came by does. At most
//! [`MOST`] are kept; where there is no room, ended and then silent ones make it.

pub mod flows;
pub mod host;
mod pins;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;
use serde_json::json;
use tokio::sync::Notify;
use utoipa::ToSchema;
use uuid::Uuid;
use vmsync_callflows::{PinAnswer, Run};
use vmsync_config::words::{Extension, GroupName, NodeId, Now, UnixMillis};

use self::{host::Talk, pins::Pins};
use crate::events::EventHub;

/// Most calls kept at once.
pub const MOST: usize = 10_000;
/// A silent call is kept for the longest recording there is, and the same again (R-MB-8).
const FORGOTTEN: Duration = Duration::from_hours(2);
/// How long an ended call answers repetitions.
const REMEMBERED: Duration = Duration::from_mins(10);

/// The calls of this node. Cheap to clone.
#[derive(Clone)]
pub struct Calls {
    inner: Arc<Inner>,
}

struct Inner {
    events: EventHub,
    changed: Arc<Notify>,
    node: NodeId,
    most: usize,
    entries: Mutex<BTreeMap<Uuid, Entry>>,
    pins: Mutex<Pins>,
}

struct Entry {
    facts: CallFacts,
    /// Last sign of life, or the end; monotonic.
    last: Duration,
    call: Arc<Call>,
}

/// What is known of a new call.
#[derive(Debug, Clone)]
pub struct NewCall {
    /// `leave`, `collect`, or the name of a call flow.
    pub kind: String,
    /// Whose mailbox.
    pub mailbox: Extension,
    /// The group it counts for.
    pub group: GroupName,
    /// Caller's number.
    pub caller_number: Option<String>,
    /// Caller's name.
    pub caller_name: Option<String>,
}

/// A call and its conversation.
pub struct Call {
    /// Its id.
    pub id: Uuid,
    /// What it was started with.
    pub new: NewCall,
    /// Where it is. Locked for one event at a time.
    pub(crate) talk: tokio::sync::Mutex<Talk>,
}

/// What is told of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Call)]
pub struct CallFacts {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    pub id: Uuid,
    /// `leave`, `collect`, or the name of a call flow.
    pub kind: String,
    /// Whose mailbox.
    #[schema(value_type = String)]
    pub mailbox: Extension,
    /// The group it counts for.
    #[schema(value_type = String)]
    pub group: GroupName,
    /// The node that has it; it is finished there, whatever happens to the group (R-FB-6).
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Caller's number.
    pub caller_number: Option<String>,
    /// Caller's name.
    pub caller_name: Option<String>,
    /// When it began, RFC 3339.
    #[schema(value_type = String)]
    pub started: UnixMillis,
    /// Last sign of life, RFC 3339.
    #[schema(value_type = String)]
    pub last_sign: UnixMillis,
    /// `active` (counts), `silent` (no sign of life: doesn't count) or `ended`.
    #[schema(value_type = String)]
    pub state: CallState,
    /// Node of the call flow where it is.
    pub step: String,
}

/// Whether a call counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CallState {
    /// It counts.
    Active,
    /// No sign of life for too long: it doesn't count (R-FB-8).
    Silent,
    /// Over.
    Ended,
}

impl fmt::Display for CallFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({} for mailbox {})",
            self.id, self.kind, self.mailbox
        )
    }
}

/// There is no room for another call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} calls are active on this node, the most it takes")]
pub struct TooManyCalls(pub usize);

impl Calls {
    /// No calls yet. `changed` is woken whenever a call begins or stops counting.
    pub fn new(events: EventHub, changed: Arc<Notify>, node: NodeId) -> Self {
        Self::with_room(events, changed, node, MOST)
    }

    fn with_room(events: EventHub, changed: Arc<Notify>, node: NodeId, most: usize) -> Self {
        let (entries, pins) = (Mutex::default(), Mutex::default());
        Self {
            inner: Arc::new(Inner {
                events,
                changed,
                node,
                most,
                entries,
                pins,
            }),
        }
    }

    /// Active calls.
    pub fn active(&self) -> u32 {
        self.count(|_| true)
    }

    /// Active calls of `group`.
    pub fn active_in(&self, group: &GroupName) -> u32 {
        self.count(|facts| facts.group == *group)
    }

    fn count(&self, counts: impl Fn(&CallFacts) -> bool) -> u32 {
        let entries = self.lock();
        let active = entries
            .values()
            .map(|e| &e.facts)
            .filter(|f| f.state == CallState::Active);
        u32::try_from(active.filter(|f| counts(f)).count()).unwrap_or(u32::MAX)
    }

    /// Takes a call that walks through `run`.
    pub fn start(&self, new: NewCall, run: Run, now: Now) -> Result<Arc<Call>, TooManyCalls> {
        let mut entries = self.lock();
        if entries.len() >= self.inner.most && !make_room(&mut entries) {
            return Err(TooManyCalls(entries.len()));
        }
        let id = Uuid::now_v7();
        let facts = CallFacts {
            id,
            kind: new.kind.clone(),
            mailbox: new.mailbox.clone(),
            group: new.group.clone(),
            node: self.inner.node.clone(),
            caller_number: new.caller_number.clone(),
            caller_name: new.caller_name.clone(),
            started: now.wall,
            last_sign: now.wall,
            state: CallState::Active,
            step: run.node().to_owned(),
        };
        let call = Arc::new(Call {
            id,
            new,
            talk: tokio::sync::Mutex::new(Talk::new(run)),
        });
        let entry = Entry {
            facts: facts.clone(),
            last: now.mono,
            call: Arc::clone(&call),
        };
        entries.insert(id, entry);
        drop(entries);
        self.tell("started", &facts, None);
        Ok(call)
    }

    /// The call, also one that is silent or ended a short while ago.
    pub fn get(&self, id: Uuid) -> Option<Arc<Call>> {
        self.lock().get(&id).map(|e| Arc::clone(&e.call))
    }

    /// What is known of the call.
    pub fn facts(&self, id: Uuid) -> Option<CallFacts> {
        self.lock().get(&id).map(|e| e.facts.clone())
    }

    /// Calls that have not ended, after call `after`, oldest first; at most `most`.
    pub fn list(&self, after: Option<Uuid>, most: usize) -> Vec<CallFacts> {
        let entries = self.lock();
        let facts = entries.values().map(|e| &e.facts);
        let live = facts.filter(|f| f.state != CallState::Ended && after.is_none_or(|a| f.id > a));
        live.take(most).cloned().collect()
    }

    /// A sign of life; a silent call counts again. `None` when there is no such call, or it is over.
    pub fn keepalive(&self, id: Uuid, now: Now) -> Option<CallFacts> {
        self.alive(id, None, now)
    }

    /// The call has come to `step` of its flow, which is a sign of life too.
    pub fn at(&self, id: Uuid, step: &str, now: Now) -> Option<CallFacts> {
        self.alive(id, Some(step), now)
    }

    fn alive(&self, id: Uuid, step: Option<&str>, now: Now) -> Option<CallFacts> {
        let mut entries = self.lock();
        let entry = entries
            .get_mut(&id)
            .filter(|e| e.facts.state != CallState::Ended)?;
        entry.last = now.mono;
        entry.facts.last_sign = now.wall;
        if let Some(step) = step {
            step.clone_into(&mut entry.facts.step);
        }
        let was = std::mem::replace(&mut entry.facts.state, CallState::Active);
        let facts = entry.facts.clone();
        drop(entries);
        if was == CallState::Silent {
            self.tell("returned", &facts, None);
        }
        Some(facts)
    }

    /// The call is over. `None` when there is no such call; ending twice changes nothing.
    pub fn end(&self, id: Uuid, reason: &str, now: Now) -> Option<CallFacts> {
        let mut entries = self.lock();
        let entry = entries.get_mut(&id)?;
        let was = std::mem::replace(&mut entry.facts.state, CallState::Ended);
        if was != CallState::Ended {
            entry.last = now.mono;
        }
        let facts = entry.facts.clone();
        drop(entries);
        if was != CallState::Ended {
            self.tell("ended", &facts, Some(reason));
        }
        Some(facts)
    }

    /// Calls without sign of life for `idle` stop counting (R-FB-8); returned are those that stop
    /// now. Forgets what was silent or over for long.
    pub fn expire(&self, now: Now, idle: Duration) -> Vec<CallFacts> {
        let mut entries = self.lock();
        let mut silent = Vec::new();
        entries.retain(|_, entry| {
            let quiet = now.mono.saturating_sub(entry.last);
            match entry.facts.state {
                CallState::Active if quiet >= idle => {
                    entry.facts.state = CallState::Silent;
                    silent.push(entry.facts.clone());
                    true
                }
                CallState::Active => true,
                CallState::Silent => quiet < idle.saturating_add(FORGOTTEN),
                CallState::Ended => quiet < REMEMBERED,
            }
        });
        drop(entries);
        for facts in &silent {
            self.tell(
                "silent",
                facts,
                Some("no sign of life; it no longer holds failback"),
            );
        }
        silent
    }

    /// Whether another PIN may be tried for the mailbox now (R-MB-14).
    pub(crate) fn pin_open(&self, mailbox: &Extension, now: Now) -> bool {
        !self.pins().locked(mailbox, now.mono)
    }

    /// Notes what came of a PIN; the answer is what the caller is told.
    pub(crate) fn pin_tried(&self, mailbox: &Extension, right: bool, now: Now) -> PinAnswer {
        let mut pins = self.pins();
        if right {
            pins.right(mailbox);
            PinAnswer::Right
        } else if pins.wrong(mailbox, now.mono) {
            PinAnswer::Locked
        } else {
            PinAnswer::Wrong
        }
    }

    fn tell(&self, what: &str, facts: &CallFacts, reason: Option<&str>) {
        tracing::info!(call = %facts.id, kind = facts.kind, mailbox = %facts.mailbox, reason, "call {what}");
        let data = json!({ "what": what, "reason": reason, "call": facts });
        self.inner.events.publish("call", data);
        self.inner.changed.notify_one();
    }

    fn pins(&self) -> MutexGuard<'_, Pins> {
        self.inner
            .pins
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Uuid, Entry>> {
        self.inner
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops the ended, else silent, call that was heard of least recently.
fn make_room(entries: &mut BTreeMap<Uuid, Entry>) -> bool {
    let idle = entries
        .values()
        .filter(|e| e.facts.state != CallState::Active);
    let oldest = idle
        .min_by_key(|e| (e.facts.state != CallState::Ended, e.last))
        .map(|e| e.facts.id);
    oldest.is_some_and(|id| entries.remove(&id).is_some())
}

#[cfg(test)]
mod tests;
