//! Values read for a writer's next part. The index can't be read while a group is written to it, so a
//! writer of several parts reads what the next needs before it lets go of the last, and works it out
//! while the last is written.

use std::{collections::HashMap, sync::PoisonError};

use super::{Committer, State};

/// See the head of this module.
#[derive(Default)]
pub(crate) struct ReadAhead {
    /// Of the state they were read in; in any other they may be outdated.
    generation: u64,
    values: HashMap<Vec<u8>, Option<Vec<u8>>>,
}

impl ReadAhead {
    /// The value of a key; `None` = it was not read.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        self.values.get(key)
    }

    /// Whether nothing was laid over the index since.
    pub(super) fn is_true_of(&self, state: &State) -> bool {
        self.generation == state.generation
    }
}

impl Committer {
    /// Reads these for the next part of whoever writes now.
    pub(super) fn read_ahead(&self, state: &State, keys: &[Vec<u8>]) -> ReadAhead {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let value = |key: &Vec<u8>| {
            let writing = state.writing.as_ref().map(|w| &*w.overlay);
            let layers = [Some(&state.pending.overlay), writing];
            let laid = layers.into_iter().flatten().find_map(|l| l.get(key));
            // What can't be read now is read, or its failure told, by who needs it.
            let value = match laid {
                Some(laid) => laid.clone(),
                None => index.as_ref()?.get(key).ok()?,
            };
            Some((key.clone(), value))
        };
        ReadAhead {
            generation: state.generation,
            values: keys.iter().filter_map(value).collect(),
        }
    }
}
