//! Call flows: what a caller hears and what the keys do (R-CF).
//!
//! A call flow is a TOML text: named *nodes*, each with one action, joined by the names of the
//! nodes that follow. [`check`] turns a text into a [`Flow`], a graph in which every target exists,
//! every node can be reached, and no loop goes on without the caller; or into every error of it
//! at once, each with its line. [`Run`] walks a flow as a pure step function: an [`Event`] in,
//! [`Action`]s out, `now` an argument. It does nothing itself: what it needs to know or have done
//! (a PIN checked, a message kept) is an [`Action::Ask`], answered by the next event.
//! So the same engine serves HTTP, tests and any telephone channel.
//!
//! Order in here: `error` and `text` and `when` (words) → `fields` (TOML with places) →
//! `flow` (the graph) → `read` (TOML to graph) → `check` (rules of the whole graph) →
//! `event` → `run`. Guarantees: no panic whatever the bytes, and every step ends.

mod check;
mod error;
mod event;
mod fields;
mod flow;
mod mail;
mod read;
mod run;
mod text;
mod when;

pub use check::{MAX_SOURCE, check};
pub use error::{FlowError, Place};
pub use event::{Action, Digits, Event, Item, Kept, PinAnswer, Question};
pub use flow::{Flow, Node, StartPoint, is_flow_name};
pub use mail::{Heading, State};
pub use run::{Run, Waiting};
pub use text::Variables;

/// The flows that come with the program, by name and source: used where there is none of that name.
pub const BUILT_IN: [(&str, &str); 2] = [
    ("collect", include_str!("../flows/collect.toml")),
    ("leave", include_str!("../flows/leave.toml")),
];

/// The source of the built-in flow `name`.
pub fn built_in(name: &str) -> Option<&'static str> {
    BUILT_IN
        .iter()
        .find(|(n, _)| *n == name)
        .map(|(_, source)| *source)
}

/// Outside text as it is quoted in a message: at most 40 characters.
fn short(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
