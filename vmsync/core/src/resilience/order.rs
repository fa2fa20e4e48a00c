//! Operators' requests that are carried out later: scheduled, or waiting for the node that decides.
//!
//! An order is replicated as a setting, so either node takes, shows and cancels it, also while the
//! other is down; only the group's backup carries it out. It is bound to the epoch it was made in:
//! once the group has moved otherwise, or once it was carried out and the node died before noting
//! that, it is void. What an order waits for is what a request of that moment would be refused for.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmsync_config::{
    Group,
    words::{GroupName, NodeId, Now, UnixMillis},
};

use super::{Ask, Decision, Ownership, Refused, Request};

/// How late a scheduled order is still carried out: the node may have been down at its time.
pub const LATE: Duration = Duration::from_mins(15);

/// A request for later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Random; names it when it is cancelled.
    pub id: String,
    /// Which group.
    pub group: GroupName,
    /// What.
    pub what: What,
    /// As in [`Ask`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_owner: Option<NodeId>,
    /// As in [`Ask`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Not before.
    pub at: UnixMillis,
    /// Not after.
    pub until: UnixMillis,
    /// The group's epoch when it was made.
    pub epoch: u64,
    /// When it was made.
    pub made: UnixMillis,
    /// The node that took it.
    pub by: NodeId,
    /// The order that had stood before, as far as that node knew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<String>,
}

/// What became of an order, kept in its place so that both nodes can tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// Its [`Order::id`].
    pub id: String,
    /// Which group.
    pub group: GroupName,
    /// When it was carried out, dropped or cancelled.
    pub at: UnixMillis,
    /// Whether it was carried out.
    pub done: bool,
    /// In words.
    pub outcome: String,
}

impl Closed {
    /// What is true instead, where this says that an order was not carried out and `history`, the group's
    /// transitions as the backup keeps them, bears it: it was cancelled at the home while the nodes could not
    /// hear one another and the backup had been quicker, or the group had moved on before it could be closed.
    pub fn corrected(&self, history: &[Ownership]) -> Option<Self> {
        let bears = |o: &&Ownership| o.order.as_ref() == Some(&self.id);
        let carried_out = history.iter().find(bears).filter(|_| !self.done)?;
        Some(Self {
            at: carried_out.since,
            done: true,
            outcome: format!(
                "{} (afterwards it was said of it: {})",
                carried_out.reason, self.outcome
            ),
            ..self.clone()
        })
    }
}

/// The replicated setting of a group: its order, or what became of the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// To be carried out.
    Open(Order),
    /// Over.
    Closed(Closed),
}

/// [`Request`] as it is written in an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// [`Request::ActivateBackup`].
    ActivateBackup,
    /// [`Request::Failback`].
    Failback,
    /// [`Request::Failback`], forced.
    ForcedFailback,
}

impl What {
    /// For histories and refusals.
    pub fn words(self) -> &'static str {
        match self {
            Self::ActivateBackup => "activate the backup",
            Self::Failback => "failback",
            Self::ForcedFailback => "forced failback",
        }
    }
}

impl From<Request> for What {
    fn from(request: Request) -> Self {
        match request {
            Request::ActivateBackup => Self::ActivateBackup,
            Request::Failback { force: false } => Self::Failback,
            Request::Failback { force: true } => Self::ForcedFailback,
        }
    }
}

impl From<What> for Request {
    fn from(what: What) -> Self {
        match what {
            What::ActivateBackup => Self::ActivateBackup,
            What::Failback => Self::Failback { force: false },
            What::ForcedFailback => Self::Failback { force: true },
        }
    }
}

/// What the group's backup does about an order now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doing {
    /// Nothing before then (monotonic).
    Wait(Duration),
    /// Ask the machine.
    Ask(Ask),
    /// Drop it; why, for the history.
    Drop(String),
}

/// What the group's backup knows of its peer's orders. The standing of a group is one replicated value, of
/// which the later stands: whoever writes it without knowing what the peer wrote may undo that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hearing {
    /// Nothing, for the peer can't be heard: an order is carried out, but none is dropped.
    Away,
    /// The same order stands there.
    Same,
    /// Another standing than here, or it is not known which: it is waited for.
    Other,
}

/// What the group's backup does next about an order.
#[derive(Debug, Clone, PartialEq)]
pub enum Pursuit {
    /// Nothing; not before then (monotonic), or when something changes.
    Wait(Option<Duration>),
    /// Close it.
    Close {
        /// Whether it was carried out.
        done: bool,
        /// For the history.
        outcome: String,
    },
    /// Make this durable and act on it; only then close the order as carried out.
    Own {
        /// Bears the order's id where it is a transition.
        next: Box<Ownership>,
        /// A row fired; otherwise only a hold ended.
        transition: bool,
        /// For the history.
        outcome: String,
    },
}

impl Order {
    /// Takes an order of `ask`, made at `made.0` by the clock of node `made.1`, for the time from `span.0` to
    /// `span.1`. Nothing is checked but what can't change until then. `standing` is what stands for the
    /// group now; one order at a time, so that whoever cancels knows which.
    ///
    /// # Errors
    /// `stale_expected_owner`, `already_there`, `already_scheduled`.
    pub fn take(
        id: String,
        ask: &Ask,
        (group, ownership, standing): (&Group, &Ownership, Option<&Standing>),
        (at, until): (UnixMillis, UnixMillis),
        (made, by): (UnixMillis, &NodeId),
    ) -> Result<Self, Refused> {
        let Ownership {
            owner,
            since,
            epoch,
            ..
        } = ownership;
        let name = &group.name;
        let refused = |code, reason| Err(Refused { code, reason });
        if ask.expected_owner.as_ref().is_some_and(|e| e != owner) {
            let reason =
                format!("group {name} is served by {owner} since {since}; look again, then decide");
            return refused("stale_expected_owner", reason);
        }
        let target = match ask.request {
            Request::ActivateBackup => &group.backup,
            Request::Failback { .. } => &group.home,
        };
        if target == owner {
            let reason = format!("group {name} is served by {owner} already");
            return refused("already_there", reason);
        }
        if let Some(Standing::Open(stands)) = standing
            && stands.epoch == *epoch
            && made <= stands.until
        {
            let Self { what, at, by, .. } = stands;
            let what = what.words();
            let reason = format!("{what} stands for {at} (ordered at {by}): cancel it first");
            return refused("already_scheduled", reason);
        }
        let reason = ask.reason.as_ref();
        Ok(Self {
            id,
            group: name.clone(),
            what: ask.request.into(),
            expected_owner: ask.expected_owner.clone(),
            reason: reason.map(|r| r.chars().take(200).collect()),
            at,
            until,
            epoch: *epoch,
            made,
            by: by.clone(),
            follows: standing.map(|standing| standing.id().to_owned()),
        })
    }

    /// What the group's backup does about it now, given what it hears of its peer; `decide` asks the machine. Nothing happens twice: the
    /// ownership that came of it bears its id until the next transition, and has another epoch for ever.
    pub fn pursue(
        &self,
        ownership: &Ownership,
        now: Now,
        hearing: Hearing,
        decide: impl FnOnce(&Ask) -> Decision,
    ) -> Pursuit {
        if ownership.order.as_ref() == Some(&self.id) {
            // Carried out, and then the node ended before it could close it.
            return Pursuit::Close {
                done: true,
                outcome: ownership.reason.clone(),
            };
        }
        // The peer may have taken another order meanwhile, which this would undo.
        let dropped = |outcome| match hearing {
            Hearing::Same => Pursuit::Close {
                done: false,
                outcome,
            },
            Hearing::Away | Hearing::Other => Pursuit::Wait(None),
        };
        let ask = match self.doing(ownership, now) {
            Doing::Wait(due) => return Pursuit::Wait(Some(due)),
            Doing::Drop(why) => return dropped(why),
            // It may be cancelled there.
            Doing::Ask(_) if hearing == Hearing::Other => return Pursuit::Wait(None),
            Doing::Ask(ask) => ask,
        };
        let decision = decide(&ask);
        match (decision.refused, decision.ownership) {
            (Some(no), _) if self.outwaits(&no) => Pursuit::Wait(None),
            (Some(no), _) => dropped(no.reason),
            (None, None) => dropped("nothing would change".to_owned()),
            (None, Some(mut next)) => {
                let transition = decision.row.is_some();
                let outcome = if transition {
                    next.order = Some(self.id.clone());
                    next.reason.clone()
                } else {
                    "failback goes on by itself, as the policy says".to_owned()
                };
                Pursuit::Own {
                    next: Box::new(next),
                    transition,
                    outcome,
                }
            }
        }
    }

    /// What became of it.
    pub fn closed(&self, done: bool, outcome: String, at: UnixMillis) -> Closed {
        Closed {
            id: self.id.clone(),
            group: self.group.clone(),
            at,
            done,
            outcome,
        }
    }

    /// What to do about it. `now` by the clock of the node that decides.
    pub fn doing(&self, ownership: &Ownership, now: Now) -> Doing {
        if ownership.epoch != self.epoch {
            return Doing::Drop(format!(
                "void: the group has moved since it was made (epoch {}: {})",
                ownership.epoch, ownership.reason
            ));
        }
        if now.wall < self.at {
            let left = Duration::from_millis(self.at.0 - now.wall.0);
            return Doing::Wait(now.mono.saturating_add(left));
        }
        if now.wall > self.until {
            return Doing::Drop(format!(
                "missed: it could not be carried out until {}",
                self.until
            ));
        }
        Doing::Ask(Ask {
            request: self.what.into(),
            expected_owner: self.expected_owner.clone(),
            reason: self.reason.clone(),
        })
    }

    /// Whether `refused` is something that passes; the order is kept until its end for that.
    pub fn outwaits(&self, refused: &Refused) -> bool {
        matches!(
            refused.code,
            "home_invisible" | "home_silent" | "sync_not_started" | "calls_active"
        )
    }
}

impl Standing {
    /// The order's [`Order::id`].
    pub fn id(&self) -> &str {
        match self {
            Self::Open(order) => &order.id,
            Self::Closed(closed) => &closed.id,
        }
    }

    /// The order that stood in `self` and no longer stands in `next`, though nobody closed it: another,
    /// taken at the other node while neither could hear the other, has its place.
    pub fn displaced_by<'a>(&'a self, next: &Self) -> Option<&'a Order> {
        let Self::Open(order) = self else { return None };
        let follows = match next {
            Self::Open(next) => next.follows.as_deref() == Some(order.id.as_str()),
            Self::Closed(_) => false,
        };
        (order.id != next.id() && !follows).then_some(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        Order {
            id: "1".to_owned(),
            group: GroupName::new("primary").unwrap(),
            what: What::Failback,
            expected_owner: None,
            reason: Some("after the update".to_owned()),
            at: UnixMillis(1_000_000),
            until: UnixMillis(1_900_000),
            epoch: 7,
            made: UnixMillis(500_000),
            by: NodeId::new("vmpro1").unwrap(),
            follows: None,
        }
    }

    fn owned(epoch: u64) -> Ownership {
        Ownership {
            group: GroupName::new("primary").unwrap(),
            epoch,
            owner: NodeId::new("vmpro2").unwrap(),
            since: UnixMillis(0),
            reason: "an operator activated the backup vmpro2".to_owned(),
            held: false,
            row: None,
            failovers: Vec::new(),
            order: None,
        }
    }

    fn at(wall: u64) -> Now {
        Now {
            mono: Duration::from_millis(wall),
            wall: UnixMillis(wall),
        }
    }

    #[test]
    fn it_waits_for_its_time_and_is_asked_for_until_its_end() {
        let (order, owned) = (order(), owned(7));
        let wait = Doing::Wait(Duration::from_secs(1000));
        assert_eq!(order.doing(&owned, at(600_000)), wait);
        for now in [1_000_000, 1_900_000] {
            let Doing::Ask(ask) = order.doing(&owned, at(now)) else {
                panic!("due at {now}");
            };
            assert_eq!(ask.request, Request::Failback { force: false });
            assert_eq!(ask.reason.as_deref(), Some("after the update"));
        }
        let Doing::Drop(why) = order.doing(&owned, at(1_900_001)) else {
            panic!("too late");
        };
        assert!(why.starts_with("missed"), "{why}");
    }

    /// Carried out, and the node died before it was noted; or another operator was faster.
    #[test]
    fn it_is_void_once_the_group_has_moved() {
        let Doing::Drop(why) = order().doing(&owned(8), at(1_000_000)) else {
            panic!("the group has moved");
        };
        assert!(why.contains("epoch 8"), "{why}");
    }

    /// Carried out at the backup, and cancelled at the home while neither heard the other.
    #[test]
    fn what_was_carried_out_does_not_stay_cancelled() {
        let cancelled = order().closed(false, "cancelled".to_owned(), UnixMillis(1_500_000));
        let bears = Ownership {
            order: Some("1".to_owned()),
            since: UnixMillis(1_000_000),
            ..owned(8)
        };
        let history = [owned(7), bears, owned(9)];
        let corrected = cancelled.corrected(&history).unwrap();
        assert!(corrected.done && corrected.at == UnixMillis(1_000_000));
        assert!(corrected.outcome.contains("cancelled"), "{corrected:?}");
        assert_eq!(corrected.corrected(&history), None, "said once");
        assert_eq!(cancelled.corrected(&[owned(7), owned(8)]), None);
    }

    /// Each may hide what the peer wrote meanwhile.
    #[test]
    fn an_order_is_dropped_only_where_the_peer_says_that_the_same_stands_there() {
        let table = [
            // (now, epoch, what is heard, what follows)
            (2_000_000, 7, Hearing::Same, "close"),
            (2_000_000, 7, Hearing::Away, "wait"),
            (2_000_000, 7, Hearing::Other, "wait"),
            (1_500_000, 8, Hearing::Same, "close"),
            (1_500_000, 8, Hearing::Away, "wait"),
            (1_500_000, 7, Hearing::Same, "ask"),
            (1_500_000, 7, Hearing::Away, "ask"),
            (1_500_000, 7, Hearing::Other, "wait"),
            (900_000, 7, Hearing::Away, "wait"),
        ];
        for (now, epoch, hearing, wanted) in table {
            let mut asked = false;
            let decide = |_: &Ask| {
                asked = true;
                Decision {
                    ownership: None,
                    row: None,
                    refused: Some(Refused {
                        code: "calls_active",
                        reason: String::new(),
                    }),
                    phase: super::super::Phase::Returning,
                    waiting_for: Vec::new(),
                    deadline: None,
                    failback_deadline: None,
                    hold_off: None,
                }
            };
            let pursuit = order().pursue(&owned(epoch), at(now), hearing, decide);
            let found = match pursuit {
                _ if asked => "ask",
                Pursuit::Wait(_) => "wait",
                Pursuit::Close { .. } => "close",
                Pursuit::Own { .. } => "own",
            };
            assert_eq!(found, wanted, "{now} {epoch} {hearing:?}");
        }
    }

    #[test]
    fn an_order_is_displaced_by_one_that_did_not_know_of_it() {
        let named = |id: &str, follows: Option<&str>| {
            Standing::Open(Order {
                id: id.to_owned(),
                follows: follows.map(str::to_owned),
                ..order()
            })
        };
        let first = named("1", None);
        let closed = |id: &str| {
            let Standing::Open(order) = named(id, None) else {
                unreachable!()
            };
            Standing::Closed(order.closed(false, "cancelled".to_owned(), UnixMillis(0)))
        };
        assert!(first.displaced_by(&named("2", None)).is_some());
        assert!(first.displaced_by(&named("2", Some("0"))).is_some());
        assert!(first.displaced_by(&closed("2")).is_some());
        assert!(first.displaced_by(&named("2", Some("1"))).is_none());
        assert!(first.displaced_by(&closed("1")).is_none());
        assert!(first.displaced_by(&first).is_none());
        assert!(closed("1").displaced_by(&named("2", None)).is_none());
    }

    #[test]
    fn it_reads_back_as_it_was_written() {
        let text = serde_json::to_string(&order()).unwrap();
        assert!(text.contains(r#""what":"failback""#), "{text}");
        assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), order());
    }
}
