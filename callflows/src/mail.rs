//! The messages of a mailbox as a call sees them: order of playing, the current one, its state.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{flow::Step, text::Variables};

/// State of a message (R-MB-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Neither header nor body played.
    New,
    /// Header played only.
    Unopened,
    /// Played.
    Old,
    /// Kept by the user.
    Saved,
    /// Recoverable until housekeeping takes it.
    Deleted,
}

/// What a flow can know of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heading {
    /// Its id, as the host names it.
    pub id: String,
    /// Its state.
    pub state: State,
    /// Caller's number; empty when unknown.
    pub caller: String,
    /// When the caller spoke, RFC 3339; empty when unknown.
    pub received: String,
    /// Length in milliseconds.
    pub duration_ms: u64,
    /// Urgent.
    pub urgent: bool,
}

/// The list a call works on, and where in it the caller is.
#[derive(Debug, Default)]
pub(crate) struct List {
    headings: Vec<Heading>,
    at: Option<usize>,
}

impl State {
    /// All states, as they are written in flows.
    pub(crate) const NAMES: [(&'static str, Self); 5] = [
        ("new", Self::New),
        ("unopened", Self::Unopened),
        ("old", Self::Old),
        ("saved", Self::Saved),
        ("deleted", Self::Deleted),
    ];

    /// Place in the order of playing: new, then saved, then old (R-MB-10).
    fn rank(self) -> u8 {
        match self {
            Self::New | Self::Unopened => 0,
            Self::Saved => 1,
            Self::Old => 2,
            Self::Deleted => 3,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES
            .iter()
            .find(|(_, state)| state == self)
            .map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

impl List {
    /// Takes the messages in the order of playing; before the first one.
    pub(crate) fn new(mut headings: Vec<Heading>, newest_first: bool) -> Self {
        headings.retain(|h| h.state != State::Deleted);
        // The host hands them over oldest first; equal ranks keep that order.
        if newest_first {
            headings.reverse();
        }
        headings.sort_by_key(|h| h.state.rank());
        Self { headings, at: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.headings.is_empty()
    }

    pub(crate) fn current(&self) -> Option<&Heading> {
        self.headings.get(self.at?)
    }

    /// Moves to a message that is not deleted; false, and where it was, when there is none.
    pub(crate) fn go(&mut self, step: Step) -> bool {
        let live = |at: &usize| {
            self.headings
                .get(*at)
                .is_some_and(|h| h.state != State::Deleted)
        };
        let after = |at: usize| (at..self.headings.len()).find(live);
        let found = match (step, self.at) {
            (Step::First, _) | (Step::Next, None) => after(0),
            (Step::Next, Some(at)) => after(at + 1),
            (Step::Previous, at) => (0..at.unwrap_or(0)).rev().find(live),
        };
        if found.is_some() {
            self.at = found;
        }
        found.is_some()
    }

    /// The current message's id where setting `state` would change it: what was played never
    /// becomes unopened again, and playing a saved message doesn't unsave it.
    pub(crate) fn change(&self, state: State) -> Option<String> {
        let heading = self.current()?;
        let changes = match state {
            State::Unopened => heading.state == State::New,
            State::Old => matches!(heading.state, State::New | State::Unopened),
            State::New | State::Saved | State::Deleted => heading.state != state,
        };
        changes.then(|| heading.id.clone())
    }

    /// Notes that the current message has a new state.
    pub(crate) fn changed(&mut self, state: State) {
        if let Some(heading) = self.at.and_then(|at| self.headings.get_mut(at)) {
            heading.state = state;
        }
    }

    /// Sets the variables that tell of the list and the current message.
    pub(crate) fn describe(&self, variables: &mut Variables) {
        let count = |rank| {
            self.headings
                .iter()
                .filter(|h| h.state.rank() == rank)
                .count()
        };
        let total = self.headings.len() - count(State::Deleted.rank());
        let mut set = |name: &str, value: String| variables.insert(name.to_owned(), value);
        set("new", count(State::New.rank()).to_string());
        set("saved", count(State::Saved.rank()).to_string());
        set("old", count(State::Old.rank()).to_string());
        set("total", total.to_string());
        if let Some((at, h)) = self.at.and_then(|at| Some((at, self.headings.get(at)?))) {
            set("message_number", (at + 1).to_string());
            set("message_caller", h.caller.clone());
            set("message_received", h.received.clone());
            set("message_state", h.state.to_string());
            set("message_seconds", (h.duration_ms / 1000).to_string());
            set(
                "message_urgent",
                if h.urgent { "yes" } else { "no" }.to_owned(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(states: &[State], newest_first: bool) -> List {
        let headings = states.iter().enumerate().map(|(n, state)| Heading {
            id: n.to_string(),
            state: *state,
            caller: String::new(),
            received: String::new(),
            duration_ms: 1_000,
            urgent: false,
        });
        List::new(headings.collect(), newest_first)
    }

    fn walk(mut list: List, step: Step) -> Vec<String> {
        let mut ids = Vec::new();
        while list.go(step) {
            ids.extend(list.current().map(|h| h.id.clone()));
        }
        ids
    }

    #[test]
    fn new_comes_before_saved_before_old() {
        let states = [
            State::Old,
            State::New,
            State::Saved,
            State::Deleted,
            State::Unopened,
        ];
        assert_eq!(walk(list(&states, false), Step::Next), ["1", "4", "2", "0"]);
        assert_eq!(walk(list(&states, true), Step::Next), ["4", "1", "2", "0"]);
    }

    #[test]
    fn deleted_messages_are_stepped_over() {
        let mut list = list(&[State::New, State::New, State::New], false);
        assert!(list.go(Step::First) && list.go(Step::Next));
        list.changed(State::Deleted);
        assert!(list.go(Step::Next) && list.go(Step::Previous));
        assert_eq!(list.current().map(|h| h.id.as_str()), Some("0"));
        assert!(!list.go(Step::Previous), "stays at the first");
        assert!(list.current().is_some());
    }

    #[test]
    fn a_saved_message_stays_saved_when_played() {
        for (is, set, changes) in [
            (State::New, State::Unopened, true),
            (State::Old, State::Unopened, false),
            (State::Unopened, State::Old, true),
            (State::Saved, State::Old, false),
            (State::Saved, State::New, true),
            (State::Saved, State::Saved, false),
        ] {
            let mut list = list(&[is], false);
            list.go(Step::First);
            assert_eq!(list.change(set).is_some(), changes, "{is} to {set}");
        }
    }
}
