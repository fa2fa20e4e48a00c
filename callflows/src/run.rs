//! A call on its way through a flow: a pure step function (R-CF-7).
//!
//! ```text
//!  start ──answered──▶ walk: enter node after node, until one has to wait
//!                       │ waits for: digits · played · recording · transfer · an answer
//!                       ▼
//!          event taken by what it waits for ──▶ walk on        hung up ──▶ ended
//! ```
//! An event the run doesn't wait for changes nothing and gives no actions ([`Run::takes`] tells
//! before). A caller who hangs up while recording is not gone yet: the recording comes after,
//! and is kept. A step enters at most [`STEPS`] nodes; then the call is
//! disconnected with the reason.

mod keys;

use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::{Zoned, tz::TimeZone};

use crate::{
    event::{Action, Event, Kept, PinAnswer, Question},
    flow::{Act, Flow, Leave, NodeId, Test},
    mail::{List, State},
    text::Variables,
};

/// Most nodes entered in one step. A checked flow can't spin; this holds if a check is ever wrong.
const STEPS: usize = 1_000;
/// Most things to be heard in one step.
const HEARD: usize = 500;
/// Most digits of a PIN.
const PIN_DIGITS: usize = 15;
/// Most keys pressed ahead that are kept.
const TYPE_AHEAD: usize = 64;

/// What a run waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// [`Event::Answered`].
    Answer,
    /// Keys or silence.
    Digits,
    /// [`Event::Played`]; a key stops the playing.
    Played,
    /// [`Event::Recorded`].
    Recording,
    /// The recording of a caller who has hung up.
    LastRecording,
    /// The outcome of a transfer.
    Transfer,
    /// The host's answer to an [`Action::Ask`].
    Host,
    /// Nothing: the call is over.
    Ended,
}

/// One call in a flow.
pub struct Run {
    flow: Arc<Flow>,
    at: NodeId,
    waiting: Waiting,
    variables: Variables,
    /// The caller's time zone, as of the last step.
    zone: TimeZone,
    /// Keys pressed and not yet used; never shown.
    keys: String,
    /// Tries used up at the node where it is.
    tries: u32,
    /// How often each `loop` node went on.
    loops: BTreeMap<NodeId, u32>,
    list: List,
    recordings: u32,
    /// Something was played of which it is not known that it was heard.
    unheard: bool,
    /// The last thing to be played was not: the caller had pressed a key before.
    skipped: bool,
    /// The caller has hung up, the recording is still to come.
    gone: bool,
}

/// Where a node leads.
enum Way {
    To(NodeId),
    Wait(Waiting),
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at {}, waiting for {:?}",
            self.flow.name,
            self.node(),
            self.waiting
        )
    }
}

impl Run {
    /// A call that is about to enter `flow`. `given`: what the host knows (`mailbox`,
    /// `caller_number`, `caller_name`, `mailbox_name`, `has_pin`, `takes_messages`, the last two `yes` or `no`).
    pub fn start(flow: Arc<Flow>, given: Variables) -> Self {
        let mut variables = flow.variables.clone();
        variables.extend(given);
        let mut run = Self {
            at: flow.start,
            waiting: Waiting::Answer,
            variables,
            zone: TimeZone::UTC,
            keys: String::new(),
            tries: 0,
            loops: BTreeMap::new(),
            list: List::default(),
            recordings: 0,
            unheard: false,
            skipped: false,
            gone: false,
            flow,
        };
        run.list.describe(&mut run.variables);
        run
    }

    /// The node where it is.
    pub fn node(&self) -> &str {
        self.flow.nodes.get(self.at).map_or("", |node| &node.name)
    }
    /// The flow's name.
    pub fn flow(&self) -> &str {
        &self.flow.name
    }
    /// What it waits for.
    pub fn waiting(&self) -> Waiting {
        self.waiting
    }
    /// Number of the recording that is being made, or was made last; 0 before the first.
    pub fn recording(&self) -> u32 {
        self.recordings
    }
    /// Whether the call is over.
    pub fn ended(&self) -> bool {
        self.waiting == Waiting::Ended
    }

    /// Whether the run waits for such an event.
    pub fn takes(&self, event: &Event) -> bool {
        let act = self.act();
        match (self.waiting, event) {
            (Waiting::Ended, _) => false,
            (_, Event::HungUp)
            | (Waiting::Answer, Event::Answered)
            | (Waiting::Digits, Event::Digits(_) | Event::Timeout)
            | (Waiting::Played, Event::Played | Event::Digits(_))
            | (Waiting::Recording | Waiting::LastRecording, Event::Recorded(_))
            | (Waiting::Transfer, Event::TransferFailed) => true,
            (Waiting::Host, Event::PinChecked(_)) => matches!(act, Some(Act::Pin(_))),
            (Waiting::Host, Event::Messages(_)) => matches!(act, Some(Act::Messages { .. })),
            (Waiting::Host, Event::Stored(_)) => matches!(act, Some(Act::Leave(_))),
            (Waiting::Host, Event::StateSet(_)) => matches!(act, Some(Act::Mark { .. })),
            _ => false,
        }
    }

    /// Takes `event` at `now` (whose time zone is the caller's) and says what to do next.
    pub fn step(&mut self, event: Event, now: &Zoned) -> Vec<Action> {
        if !self.takes(&event) {
            return Vec::new();
        }
        self.zone = now.time_zone().clone();
        self.variables
            .insert("now".to_owned(), now.timestamp().to_string());
        let mut out = Vec::new();
        match event {
            Event::HungUp => self.hang_up(),
            event => {
                let way = self.on(event, &mut out);
                self.walk(way, &mut out, now);
            }
        }
        out
    }

    fn act(&self) -> Option<&Act> {
        self.flow.nodes.get(self.at).map(|node| &node.act)
    }

    fn hang_up(&mut self) {
        self.waiting = match self.waiting {
            Waiting::Recording | Waiting::LastRecording => Waiting::LastRecording,
            // A recording that is being kept: the answer ends the call.
            Waiting::Host if matches!(self.act(), Some(Act::Leave(_))) => Waiting::Host,
            _ => Waiting::Ended,
        };
        self.gone = true;
    }

    /// Where `event` leads from the node that waited for it.
    fn on(&mut self, event: Event, out: &mut Vec<Action>) -> Way {
        let flow = Arc::clone(&self.flow);
        let Some(act) = flow.nodes.get(self.at).map(|node| &node.act) else {
            return Way::Wait(Waiting::Ended);
        };
        match (act, event) {
            (_, Event::Digits(digits)) => {
                self.unheard = false;
                self.keys.push_str(digits.as_str());
                self.keys = self.keys.chars().take(TYPE_AHEAD).collect();
                match act {
                    Act::Menu(_) | Act::Gather(_) | Act::Pin(_) => self.keyed(act, false, out),
                    // Playing was stopped by a key; the node goes on, the key is kept for the next question.
                    _ => Way::To(self.at),
                }
            }
            (_, Event::Timeout) => {
                self.unheard = false;
                self.keyed(act, true, out)
            }
            (_, Event::Played) => {
                self.unheard = false;
                Way::To(self.at)
            }
            (Act::Pin(pin), Event::PinChecked(answer)) => match answer {
                PinAnswer::Right => Way::To(pin.ok),
                PinAnswer::Locked => Way::To(pin.locked),
                PinAnswer::Wrong => self.again(
                    &pin.say_wrong,
                    &pin.say,
                    pin.patience,
                    PIN_DIGITS,
                    pin.failed,
                    out,
                ),
            },
            (
                Act::Messages {
                    newest_first,
                    some,
                    none,
                    failed,
                },
                Event::Messages(headings),
            ) => {
                let Some(headings) = headings else {
                    return Way::To(*failed);
                };
                self.list = List::new(headings, *newest_first);
                self.list.describe(&mut self.variables);
                Way::To(if self.list.is_empty() { *none } else { *some })
            }
            (Act::Leave(leave), Event::Recorded(bytes)) => self.recorded(leave, bytes, out),
            (Act::Leave(leave), Event::Stored(kept)) => match kept {
                _ if self.gone => Way::Wait(Waiting::Ended),
                Kept::Durable => Way::To(leave.next),
                Kept::Refused => Way::To(leave.failed),
            },
            (
                Act::Mark {
                    state,
                    next,
                    failed,
                },
                Event::StateSet(done),
            ) => {
                if done {
                    self.list.changed(*state);
                    self.list.describe(&mut self.variables);
                }
                Way::To(if done { *next } else { *failed })
            }
            (Act::Transfer { failed, .. }, Event::TransferFailed) => Way::To(*failed),
            // Only `Answered` is left: `takes` let nothing else through.
            _ => Way::To(self.at),
        }
    }

    /// Enters nodes until one waits.
    fn walk(&mut self, mut way: Way, out: &mut Vec<Action>, now: &Zoned) {
        let flow = Arc::clone(&self.flow);
        for _ in 0..STEPS {
            let to = match way {
                Way::Wait(waiting) => {
                    self.waiting = waiting;
                    return;
                }
                Way::To(to) => to,
            };
            let Some(node) = flow.nodes.get(to) else {
                break;
            };
            self.at = to;
            self.tries = 0;
            way = self.enter(to, &node.act, out, now);
        }
        out.push(Action::Disconnect {
            reason: "the call flow went in a circle",
        });
        self.waiting = Waiting::Ended;
    }

    fn enter(&mut self, id: NodeId, act: &Act, out: &mut Vec<Action>, now: &Zoned) -> Way {
        match act {
            Act::Play { say, next } => {
                // A caller who has pressed a key already knows what they want.
                self.skipped = !self.keys.is_empty();
                if !self.skipped {
                    self.say(say, out);
                }
                Way::To(*next)
            }
            Act::Menu(menu) => self.ask(act, &menu.say, menu.patience, menu.longest(), out),
            Act::Gather(gather) => {
                self.ask(act, &gather.say, gather.patience, gather.max_digits, out)
            }
            Act::Pin(pin) => self.ask(act, &pin.say, pin.patience, PIN_DIGITS, out),
            Act::Leave(leave) => self.record(leave, out),
            Act::Messages { .. } => ask_host(Question::ListMessages, out),
            Act::Message { step, next, none } => {
                let found = self.list.go(*step);
                self.list.describe(&mut self.variables);
                Way::To(if found { *next } else { *none })
            }
            Act::Mark { state, next, .. } => self.mark(*state, *next, out),
            Act::Transfer { to, .. } => {
                out.push(Action::Transfer {
                    to: to.fill(&self.variables),
                });
                Way::Wait(Waiting::Transfer)
            }
            Act::Condition {
                tests,
                then,
                otherwise,
            } => {
                let holds = tests.iter().all(|test| self.holds(test, now));
                Way::To(if holds { *then } else { *otherwise })
            }
            Act::Set { values, next } => {
                for (name, value) in values {
                    let value = value.fill(&self.variables);
                    self.variables.insert(name.clone(), value);
                }
                Way::To(*next)
            }
            Act::Loop { times, next, done } => {
                let count = self.loops.entry(id).or_default();
                *count += 1;
                Way::To(if *count <= *times { *next } else { *done })
            }
            Act::Goto { to } => Way::To(*to),
            Act::Disconnect { say } => {
                self.say(say, out);
                out.push(Action::Disconnect { reason: "done" });
                Way::Wait(Waiting::Ended)
            }
        }
    }

    /// Marks the current message; only after what was played before has been heard, so that a
    /// message whose caller hung up in the middle, or skipped it, is not taken for played.
    fn mark(&mut self, state: State, next: NodeId, out: &mut Vec<Action>) -> Way {
        let by_playing = matches!(state, State::Unopened | State::Old);
        let change = self.list.change(state);
        let Some(message) = change.filter(|_| !(by_playing && self.skipped)) else {
            return Way::To(next);
        };
        if self.unheard {
            out.push(Action::AwaitPlayed);
            return Way::Wait(Waiting::Played);
        }
        ask_host(Question::SetState { message, state }, out)
    }

    fn record(&mut self, leave: &Leave, out: &mut Vec<Action>) -> Way {
        self.say(&leave.say, out);
        self.unheard = false;
        self.keys.clear();
        self.recordings += 1;
        out.push(Action::Record {
            recording: self.recordings,
            max_seconds: leave.max_seconds,
            silence_seconds: leave.silence_seconds,
            end_keys: leave.end_keys.clone(),
        });
        Way::Wait(Waiting::Recording)
    }

    fn recorded(&mut self, leave: &Leave, bytes: u64, out: &mut Vec<Action>) -> Way {
        match bytes {
            0 if self.gone => Way::Wait(Waiting::Ended),
            0 => Way::To(leave.empty),
            _ => ask_host(
                Question::KeepRecording {
                    recording: self.recordings,
                    urgent: leave.urgent,
                    private: leave.private,
                },
                out,
            ),
        }
    }

    fn holds(&self, test: &Test, now: &Zoned) -> bool {
        match test {
            Test::Time(span) => span.holds(now),
            Test::Days(days) => days.hold(now),
            Test::Dates(dates) => dates.hold(now),
            Test::Equal(value, wanted) => {
                let value = value.fill(&self.variables);
                wanted.iter().any(|w| w.fill(&self.variables) == value)
            }
        }
    }
}

fn ask_host(question: Question, out: &mut Vec<Action>) -> Way {
    out.push(Action::Ask(question));
    Way::Wait(Waiting::Host)
}
