//! The state of the pair, small enough to count: time in ticks and relative to now, so that waiting
//! longer than any rule asks leads back to a state seen before.

use vmsync_core::resilience::{PhoneKind, Request, What};

/// Ages are counted up to this many ticks; beyond it no rule tells them apart.
pub const OLD: u8 = 4;

/// A group's ownership as far as it decides anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Owned {
    /// Its epoch.
    pub epoch: u8,
    /// The backup owns it.
    pub backup: bool,
    /// The hold.
    pub held: bool,
    /// The last row fired without an operator, towards the backup.
    pub by_itself: bool,
    /// Failovers that flap damping counts; all of the last hour here.
    pub flaps: u8,
}

/// What a node keeps about a group, durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Kept {
    /// Who owns it.
    pub owned: Owned,
    /// The home's life in which the backup was activated; 0 = none.
    pub held_life: u8,
    /// A desk phone counts as evidence.
    pub evidence: bool,
}

/// An order for later. Times are in ticks from now, by a right clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Open {
    /// Which one.
    pub id: u8,
    /// What; see [`asked`].
    pub what: u8,
    /// Not before.
    pub at: i8,
    /// Kept beyond its time, as one that waits for the node that decides.
    pub queued: bool,
    /// The epoch it was made in.
    pub epoch: u8,
}

/// A replicated setting of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Set<T> {
    /// The later one wins; the node's number in its lowest bit.
    pub stamp: u8,
    /// Its value.
    pub value: Option<T>,
}

/// Maintenance mode: ends in so many ticks, or when an operator ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Paused {
    /// By a right clock.
    pub left: Option<i8>,
}

/// What the last answer of the peer told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Told {
    /// Its process's life.
    pub life: u8,
    /// It decides and serves.
    pub ready: bool,
    /// Its challenge is of this tick.
    pub fresh: bool,
}

/// What a crash takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run {
    /// Ticks since it started.
    pub age: u8,
    /// Its peer has told what it owns.
    pub heard: bool,
    /// Since how many ticks the peer is visible, or not.
    pub sight: Result<u8, u8>,
    /// Answer, question, greeting: fresh.
    pub signs: [bool; 3],
    /// The peer's last answer.
    pub told: Option<Told>,
    /// Ticks since both have exchanged what they hold.
    pub sync: Option<u8>,
    /// Both hold the same.
    pub finished: bool,
    /// A call of that group is active here.
    pub calls: [bool; 2],
    /// A desk phone counts.
    pub evidence: [bool; 2],
    /// The witness answers.
    pub witness: bool,
}

/// A node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Node {
    /// Starts so far.
    pub life: u8,
    /// By group.
    pub kept: [Kept; 2],
    /// The order of the first group.
    pub order: Set<Open>,
    /// Maintenance mode.
    pub paused: Set<Paused>,
    /// `None` while it is down.
    pub run: Option<Run>,
}

/// A heartbeat on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Late {
    /// To which node.
    pub to: u8,
    /// Whether it is an answer, and to which life.
    pub answer_to: Option<u8>,
    /// What it says of the groups.
    pub owned: [Owned; 2],
    /// The life of its sender.
    pub life: u8,
    /// The sender decides and serves.
    pub ready: bool,
    /// It repeats a challenge that the receiver gave in this tick and in this life.
    pub echo: bool,
    /// What the asker's question said, where this is its answer.
    pub asked: [Owned; 2],
}

/// What may still befall the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Left {
    /// Ends of processes and losses of power.
    pub crashes: u8,
    /// Delayed heartbeats.
    pub delays: u8,
    /// Acts of operators.
    pub acts: u8,
}

/// What is watched from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Watched {
    /// A physical desk phone came after the home had been gone long enough, by group.
    pub desk: [bool; 2],
    /// Orders carried out, by id.
    pub done: [bool; 4],
    /// Ticks for which nothing but the timeout stood between a group and its home, by group.
    pub due: [u8; 2],
    /// Orders made.
    pub orders: u8,
}

/// Both nodes and what is between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    /// The primary, the secondary.
    pub nodes: [Node; 2],
    /// At most one heartbeat is delayed at a time.
    pub late: Option<Late>,
    /// Watched.
    pub watched: Watched,
    /// Left.
    pub left: Left,
}

/// How far a heartbeat gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Beat {
    /// Lost.
    Lost,
    /// The question arrives, the answer does not.
    Question,
    /// Both.
    Both,
}

/// What may happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Time passes, with these heartbeats and greetings in it, by the node that asks.
    Tick([Beat; 2], [bool; 2]),
    /// A heartbeat of this node.
    Beat(usize, Beat),
    /// A question of this node is delayed; an answer to this node is.
    Delay(usize, bool),
    /// The delayed heartbeat arrives.
    Arrives,
    /// This node's process ends.
    Crash(usize),
    /// It is started.
    Start(usize),
    /// This node learns that both have exchanged what they hold.
    SyncStarts(usize),
    /// This node finds that both hold the same, or no longer.
    SyncFinished(usize, bool),
    /// A call of the group begins or ends on this node.
    Call(usize, usize, bool),
    /// A phone of the group's home registers at the system of its backup.
    Phone(usize, PhoneKind),
    /// This node sees the witness, or not.
    Witness(usize, bool),
    /// An operator asks this node about the group.
    Ask(usize, usize, Request),
    /// An operator orders it for the next tick.
    Order(usize, Request),
    /// An operator cancels the order.
    Cancel(usize),
    /// An operator begins maintenance mode (until then), or ends it.
    Maintain(usize, Option<Paused>),
    /// The settings of this node come to the other.
    Replicate(usize),
}

/// An act, and whether the power of a node fails within: after so many of its writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// What happens.
    pub act: Act,
    /// Node and writes that are still durable.
    pub power: Option<(usize, u8)>,
}

/// What of an order, by number.
pub fn asked(what: u8) -> What {
    match what {
        0 => What::ActivateBackup,
        1 => What::Failback,
        _ => What::ForcedFailback,
    }
}

/// The number of a request in an order.
pub fn number(request: Request) -> u8 {
    match request {
        Request::ActivateBackup => 0,
        Request::Failback { force: false } => 1,
        Request::Failback { force: true } => 2,
    }
}

/// Counts on, up to [`OLD`].
pub fn older(age: u8) -> u8 {
    age.saturating_add(1).min(OLD)
}
