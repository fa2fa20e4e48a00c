//! Two nodes that meet again after a time apart: which operations either had alone. Pure.
//!
//! What they exchange may be cut off and begun anew any number of times before they hold the same.
//! What either had alone is then told by what both held when they met *first*: later meetings show
//! what had crossed over meanwhile. To that comes what a node recorded itself between the meetings.

use serde::{Deserialize, Serialize};
use vmsync_config::words::{NodeId, Vector};

/// From the first meeting until both hold the same; kept as a local record meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reunion {
    ours: Vector,
    theirs: Vector,
    ours_last: Vector,
    theirs_last: Vector,
}

impl Reunion {
    /// They meet: this node holds `ours`, the peer `theirs`.
    pub fn new(ours: Vector, theirs: Vector) -> Self {
        Self {
            ours_last: ours.clone(),
            theirs_last: theirs.clone(),
            ours,
            theirs,
        }
    }

    /// They meet once more before they held the same.
    pub fn again(&mut self, ours: &Vector, theirs: &Vector) {
        self.ours_last.merge(ours);
        self.theirs_last.merge(theirs);
    }

    /// What both held from the first: the report needs the log behind it.
    #[must_use]
    pub fn both(&self) -> Vector {
        self.ours.meet(&self.theirs)
    }

    /// What `me`, this node, had alone: up to what, and from behind what, by origin.
    pub(crate) fn here(&self, me: &NodeId) -> (Vector, &Vector) {
        let upto = alone(&self.ours, &self.ours_last, |node| node == me);
        (upto, &self.theirs)
    }

    /// What the peer had alone.
    pub(crate) fn there(&self, me: &NodeId) -> (Vector, &Vector) {
        let upto = alone(&self.theirs, &self.theirs_last, |node| node != me);
        (upto, &self.ours)
    }
}

/// Of its own origins what a node held last; of the other's what it held first, because what came
/// since came from the other.
fn alone(first: &Vector, last: &Vector, own: impl Fn(&NodeId) -> bool) -> Vector {
    let mut upto = first.clone();
    for (origin, seq) in last.iter().filter(|(origin, _)| own(&origin.node)) {
        upto.raise(origin, seq);
    }
    upto
}
