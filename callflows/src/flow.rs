//! The graph of a checked call flow. Made only by [`crate::check`], so every target in it exists.

use std::collections::BTreeMap;

use crate::{
    error::Place,
    mail::State,
    text::Template,
    when::{Dates, Days, TimeSpan},
};

/// Index of a node in its flow.
pub(crate) type NodeId = usize;

/// Where a flow is used (R-CF-2); its name says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartPoint {
    /// `leave`: a caller reached a mailbox.
    Leave,
    /// `collect`: a user listens to their messages.
    Collect,
    /// Any other name: started by that name.
    Module,
}

/// A valid call flow.
#[derive(Debug, Clone)]
pub struct Flow {
    pub(crate) name: String,
    pub(crate) nodes: Vec<Node>,
    pub(crate) start: NodeId,
    pub(crate) variables: BTreeMap<String, String>,
}

/// A named action.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name in the source.
    pub name: String,
    /// Where it is in the source.
    pub place: Place,
    pub(crate) act: Act,
}

/// What a node does, and which node follows.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    Play {
        say: Vec<Say>,
        next: NodeId,
    },
    Menu(Menu),
    Gather(Gather),
    Pin(Pin),
    Leave(Leave),
    Messages {
        newest_first: bool,
        some: NodeId,
        none: NodeId,
        failed: NodeId,
    },
    Message {
        step: Step,
        next: NodeId,
        none: NodeId,
    },
    Mark {
        state: State,
        next: NodeId,
        failed: NodeId,
    },
    Transfer {
        to: Template,
        failed: NodeId,
    },
    Condition {
        tests: Vec<Test>,
        then: NodeId,
        otherwise: NodeId,
    },
    Set {
        values: Vec<(String, Template)>,
        next: NodeId,
    },
    Loop {
        times: u32,
        next: NodeId,
        done: NodeId,
    },
    Goto {
        to: NodeId,
    },
    Disconnect {
        say: Vec<Say>,
    },
}

/// Waits for one of its keys.
#[derive(Debug, Clone)]
pub(crate) struct Menu {
    pub say: Vec<Say>,
    pub say_invalid: Vec<Say>,
    /// No key begins another.
    pub keys: Vec<(String, NodeId)>,
    pub patience: Patience,
    pub timeout: Option<NodeId>,
    pub invalid: Option<NodeId>,
    /// After the last try; the check makes sure there is one where it is needed.
    pub failed: Option<NodeId>,
}

/// Takes digits into a variable.
#[derive(Debug, Clone)]
pub(crate) struct Gather {
    pub say: Vec<Say>,
    pub into: String,
    pub min_digits: usize,
    pub max_digits: usize,
    pub patience: Patience,
    pub next: NodeId,
    pub failed: NodeId,
}

/// Asks the PIN of the call's mailbox.
#[derive(Debug, Clone)]
pub(crate) struct Pin {
    pub say: Vec<Say>,
    pub say_wrong: Vec<Say>,
    pub patience: Patience,
    pub ok: NodeId,
    pub failed: NodeId,
    pub locked: NodeId,
}

/// How long and how often digits are asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub timeout_seconds: u32,
    pub tries: u32,
}

/// Records a message.
#[derive(Debug, Clone)]
pub(crate) struct Leave {
    pub say: Vec<Say>,
    pub max_seconds: u32,
    pub silence_seconds: u32,
    pub end_keys: String,
    pub urgent: bool,
    pub private: bool,
    pub next: NodeId,
    pub empty: NodeId,
    pub failed: NodeId,
}

/// One thing to be heard.
#[derive(Debug, Clone)]
pub(crate) enum Say {
    Prompt(String),
    Text(Template),
    Number(Template),
    Digits(Template),
    Time(Template),
    Date(Template),
    Greeting(Template),
    Name(Template),
    /// The current message's audio.
    Message,
}

/// How to move in the list of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    First,
    Next,
    Previous,
}

/// One test of a condition.
#[derive(Debug, Clone)]
pub(crate) enum Test {
    Time(TimeSpan),
    Days(Days),
    Dates(Dates),
    Equal(Template, Vec<Template>),
}

/// A way from one node to another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Edge {
    pub to: NodeId,
    /// Taken only a bounded number of times without the caller pressing a key.
    pub bounded: bool,
}

/// Whether `name` can name a flow: 1 to 63 lower-case letters, digits, underscores, inner hyphens.
pub fn is_flow_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
        && !name.starts_with('-')
        && !name.ends_with('-')
}

impl Flow {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Where it is used.
    pub fn start_point(&self) -> StartPoint {
        match self.name.as_str() {
            "leave" => StartPoint::Leave,
            "collect" => StartPoint::Collect,
            _ => StartPoint::Module,
        }
    }
    /// Its nodes, in the order of the source.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
}

impl Act {
    /// Every way out of the node.
    pub(crate) fn edges(&self) -> Vec<Edge> {
        let free = |to: &NodeId| Edge {
            to: *to,
            bounded: false,
        };
        let bounded = |to: &NodeId| Edge {
            to: *to,
            bounded: true,
        };
        match self {
            Self::Play { next, .. } | Self::Set { next, .. } => vec![free(next)],
            Self::Menu(menu) => {
                let keys = menu.keys.iter().map(|(_, to)| bounded(to));
                let invalid = menu.invalid.iter().map(bounded);
                let others = menu.timeout.iter().chain(&menu.failed).map(free);
                keys.chain(invalid).chain(others).collect()
            }
            Self::Gather(gather) => vec![bounded(&gather.next), free(&gather.failed)],
            Self::Pin(pin) => vec![bounded(&pin.ok), free(&pin.failed), bounded(&pin.locked)],
            Self::Leave(leave) => [&leave.next, &leave.empty, &leave.failed]
                .map(free)
                .to_vec(),
            Self::Messages {
                some, none, failed, ..
            } => [some, none, failed].map(free).to_vec(),
            Self::Message { next, none, .. } => [next, none].map(free).to_vec(),
            Self::Mark { next, failed, .. } => [next, failed].map(free).to_vec(),
            Self::Transfer { failed, .. } => vec![free(failed)],
            Self::Condition {
                then, otherwise, ..
            } => [then, otherwise].map(free).to_vec(),
            Self::Loop { next, done, .. } => vec![bounded(next), free(done)],
            Self::Goto { to } => vec![free(to)],
            Self::Disconnect { .. } => Vec::new(),
        }
    }
}
