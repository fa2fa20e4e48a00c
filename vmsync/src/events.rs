//! The one event stream: what happened, in order, for the console, webhooks and applications.
//!
//! The last [`KEPT`] events can be asked for again by id, so that a reader that lost its
//! connection misses nothing; one that was away for longer is told so and reads the state anew.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use serde::Serialize;
use tokio::sync::broadcast;
use vmsync_config::words::UnixMillis;

use crate::clock;

/// How many events a reader may have missed.
pub const KEPT: usize = 1_000;

/// One event.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// Start of the process in milliseconds, a hyphen, and a number that grows by one.
    pub id: String,
    /// When.
    pub at: UnixMillis,
    /// What kind: `ownership`, `phase`, `feature`, `mwi`, `message`, `mailbox`, `greeting`, `call`, `alarm`, `sync`, `vrl`, `order`, `topology`.
    pub kind: &'static str,
    /// The facts.
    pub data: serde_json::Value,
}

/// Where events are published and followed. Cheap to clone.
#[derive(Clone)]
pub struct EventHub {
    inner: Arc<Inner>,
}

struct Inner {
    boot: u64,
    state: Mutex<State>,
    live: broadcast::Sender<Arc<Event>>,
    tap: OnceLock<Tap>,
}

/// Told of each event before the next is published. Must be quick, wait for nothing, and publish nothing.
pub(crate) type Tap = Box<dyn Fn(&Event) + Send + Sync>;

#[derive(Default)]
struct State {
    next: u64,
    kept: VecDeque<Arc<Event>>,
}

/// What a new reader gets.
pub struct Subscription {
    /// Events after the id it named, oldest first.
    pub missed: Vec<Arc<Event>>,
    /// True when some of what it missed is no longer kept: it must read the state anew.
    pub gap: bool,
    /// What comes from now on.
    pub live: broadcast::Receiver<Arc<Event>>,
}

impl Default for EventHub {
    fn default() -> Self {
        Self::new()
    }
}

impl EventHub {
    /// An empty stream.
    pub fn new() -> Self {
        Self {
            inner: Arc::new(Inner {
                boot: clock::wall().0,
                state: Mutex::default(),
                live: broadcast::channel(KEPT).0,
                tap: OnceLock::new(),
            }),
        }
    }

    /// Has `tap` told of each event from now on, in order. The first stays.
    pub(crate) fn tap(&self, tap: Tap) {
        let _ = self.inner.tap.set(tap);
    }

    /// Publishes one event.
    pub fn publish(&self, kind: &'static str, data: serde_json::Value) {
        let mut state = self.lock();
        let event = Arc::new(Event {
            id: format!("{}-{}", self.inner.boot, state.next),
            at: clock::wall(),
            kind,
            data,
        });
        state.next += 1;
        if state.kept.len() == KEPT {
            state.kept.pop_front();
        }
        state.kept.push_back(Arc::clone(&event));
        if let Some(tap) = self.inner.tap.get() {
            tap(&event);
        }
        // Sent under the lock, so that no subscriber sees an event twice or not at all.
        let _ = self.inner.live.send(event);
    }

    /// Follows the stream, from after event `last` where one is named.
    pub fn subscribe(&self, last: Option<&str>) -> Subscription {
        let state = self.lock();
        let live = self.inner.live.subscribe();
        let Some(last) = last else {
            return Subscription {
                missed: Vec::new(),
                gap: false,
                live,
            };
        };
        let number = last
            .split_once('-')
            .filter(|(boot, _)| boot.parse() == Ok(self.inner.boot))
            .and_then(|(_, n)| n.parse::<u64>().ok());
        let first_kept = state.next - state.kept.len() as u64;
        let Some(number) = number.filter(|n| n + 1 >= first_kept) else {
            let missed = state.kept.iter().cloned().collect();
            return Subscription {
                missed,
                gap: true,
                live,
            };
        };
        let skip = usize::try_from(number + 1 - first_kept).unwrap_or(usize::MAX);
        let missed = state.kept.iter().skip(skip).cloned().collect();
        Subscription {
            missed,
            gap: false,
            live,
        }
    }

    /// The last events, oldest first.
    pub fn recent(&self, most: usize) -> Vec<Arc<Event>> {
        let state = self.lock();
        let skip = state.kept.len().saturating_sub(most);
        state.kept.iter().skip(skip).cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_comes_back_gets_what_it_missed() {
        let hub = EventHub::new();
        for n in 0..5 {
            hub.publish("mwi", n.into());
        }
        let id = hub.recent(3)[0].id.clone();
        let again = hub.subscribe(Some(&id));
        assert!(!again.gap);
        let got: Vec<_> = again.missed.iter().map(|e| e.data.clone()).collect();
        assert_eq!(got, [3, 4]);
    }

    #[test]
    fn a_reader_that_was_away_too_long_is_told() {
        let hub = EventHub::new();
        hub.publish("mwi", 0.into());
        let id = hub.recent(1)[0].id.clone();
        for n in 0..=KEPT {
            hub.publish("mwi", n.into());
        }
        assert!(hub.subscribe(Some(&id)).gap);
        assert!(
            hub.subscribe(Some("1-1")).gap,
            "an id of an earlier process"
        );
    }
}
