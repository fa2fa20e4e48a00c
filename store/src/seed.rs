//! Where a seeding is: which step comes next, and which one came before. Pure.
//!
//! A seeding gives a store whose vector the peer's log no longer reaches the peer's state: records
//! in order of their keys, in steps, each complete from one key (`after`, left out) to another
//! (`through`, included; `None` = the end). `upto` is the peer's vector from before it read the
//! first of them. The receiver remembers durably how far it is complete, so that a seeding goes on
//! there after any interruption, from any store whose own vector covers `upto`: every record is
//! then read at a state that holds all of `upto`, whoever sends it.

use serde::{Deserialize, Serialize};
use vmsync_config::words::Vector;

/// A seeding under way at its receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seeding {
    /// The vector it leads to.
    pub upto: Vector,
    /// Key of the entity up to which (included) it is complete; `None` = nothing yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// One step: what the sender says of the records it sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedStep {
    /// The vector the seeding leads to: the sender's own when it began. The same in each step.
    pub upto: Vector,
    /// The vector the records were chosen by: those without a stamp beyond it were left out, so
    /// only a receiver that covers it is complete with them.
    pub beyond: Vector,
    /// The records are complete from behind this key; `None` = from the first.
    pub after: Option<String>,
    /// The records are complete through this key; `None` = to the last: this step ends the seeding.
    pub through: Option<String>,
}

impl SeedStep {
    /// Whether this step carries the seeding on at a receiver that holds `vector` and remembers
    /// `current`: it reaches further, nothing before it is missing, and what it leaves out is
    /// held. Any other is one taken before, or whose end is held already, or out of order, or made
    /// for a store that held more: its records are as good as any, but they say nothing of others.
    pub(crate) fn moves(&self, vector: &Vector, current: Option<&Seeding>) -> bool {
        let reached = current
            .filter(|c| c.upto == self.upto)
            .and_then(|c| c.after.as_deref());
        // `None` is the beginning, before every key; as an end it is behind every key.
        let follows = self.after.as_deref() <= reached;
        let further = self.through.is_none() || self.through.as_deref() > reached;
        let complete = vector.covers(&self.beyond);
        follows && further && complete && !vector.covers(&self.upto)
    }

    /// What the receiver remembers once the step is taken; `None` after the last.
    pub(crate) fn taken(&self) -> Option<Seeding> {
        self.through.as_ref().map(|through| Seeding {
            upto: self.upto.clone(),
            after: Some(through.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(seq: u64) -> Vector {
        [("vmpro1.00000001".parse().unwrap(), seq)]
            .into_iter()
            .collect()
    }

    fn step(upto: u64, after: Option<&str>, through: Option<&str>) -> SeedStep {
        SeedStep {
            upto: vector(upto),
            beyond: Vector::default(),
            after: after.map(str::to_owned),
            through: through.map(str::to_owned),
        }
    }

    #[test]
    fn steps_follow_one_another_and_repeats_are_passed_over() {
        let none = Vector::default();
        let mut current: Option<Seeding> = None;
        let steps = [
            step(9, None, Some("flow/a")),
            step(9, Some("flow/a"), Some("message/4")),
            step(9, Some("message/4"), None),
        ];
        assert!(!steps[1].moves(&none, current.as_ref()));
        for (n, next) in steps.iter().enumerate() {
            assert!(next.moves(&none, current.as_ref()));
            for earlier in &steps[..n] {
                assert!(!earlier.moves(&none, current.as_ref()));
            }
            current = next.taken();
        }
        assert_eq!(current, None);
        for step in &steps {
            assert!(!step.moves(&vector(9), None));
        }
    }

    #[test]
    fn steps_cut_elsewhere_may_overlap_but_leave_no_gap() {
        let none = Vector::default();
        let current = step(9, None, Some("message/4")).taken();
        let moves = |step: SeedStep| step.moves(&none, current.as_ref());
        assert!(moves(step(9, Some("flow/a"), Some("message/6"))));
        assert!(moves(step(9, None, None)));
        assert!(!moves(step(9, Some("message/5"), None)));
    }

    /// A step for who holds much leaves out what an empty store needs: its disk was replaced since.
    #[test]
    fn a_step_made_for_a_receiver_that_holds_more_is_none_for_this_one() {
        let made_for = |held: u64, after, through| SeedStep {
            beyond: vector(held),
            ..step(9, after, through)
        };
        let none = Vector::default();
        assert!(!made_for(5, None, None).moves(&none, None));
        assert!(!made_for(5, None, None).moves(&vector(4), None));
        assert!(made_for(5, None, None).moves(&vector(5), None));
        let current = step(9, None, Some("message/4")).taken();
        let later = made_for(5, Some("message/4"), None);
        assert!(!later.moves(&none, current.as_ref()));
    }

    #[test]
    fn another_vector_begins_anew() {
        let none = Vector::default();
        let current = step(9, None, Some("message/4")).taken();
        let moves = |step: SeedStep| step.moves(&none, current.as_ref());
        assert!(moves(step(10, None, Some("flow/a"))));
        assert!(!moves(step(10, Some("message/4"), None)));
    }
}
