//! Many alarms at once, beside the decision they follow from: where ten thousand systems fail over, the node loop goes on
//! and the alarms follow at a pace that readers of the event stream keep up with.

use std::{
    sync::{
        Weak,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use vmsync_store::StoreError;

use super::{Alarms, Inner};
use crate::topology::Topology;

/// Lots that may wait: a failover of all systems is one.
const LOTS: usize = 64;
/// So many are done, then there is a rest.
const AT_ONCE: usize = 50;
const REST: Duration = Duration::from_millis(2);

/// One thing to do.
#[derive(Debug, Clone)]
pub(crate) enum Later {
    /// Raise code, subject, text.
    Raise(&'static str, String, String),
    /// End code, subject.
    Clear(&'static str, String),
    /// From here on who tells goes by this.
    Follow(Box<Topology>),
}

pub(super) fn queue() -> (SyncSender<Vec<Later>>, Receiver<Vec<Later>>) {
    sync_channel(LOTS)
}

/// Ends with the list.
pub(super) fn start(list: Weak<Inner>, lots: Receiver<Vec<Later>>) -> Result<(), StoreError> {
    let thread = std::thread::Builder::new().name("alarms-later".to_owned());
    let started = thread.spawn(move || {
        while let Ok(lot) = lots.recv() {
            for some in lot.chunks(AT_ONCE) {
                let Some(inner) = list.upgrade() else { return };
                let alarms = Alarms { inner };
                for order in some {
                    follow(&alarms, order);
                }
                drop(alarms);
                if some.len() == AT_ONCE {
                    std::thread::sleep(REST);
                }
            }
        }
    });
    started.map(drop).map_err(|source| StoreError::Io {
        doing: "starting the thread of alarms".to_owned(),
        source,
    })
}

fn follow(alarms: &Alarms, order: &Later) {
    match order {
        Later::Raise(code, subject, text) => alarms.raise(code, subject, text),
        Later::Clear(code, subject) => alarms.clear(code, subject),
        Later::Follow(topology) => alarms.channels().follow(topology),
    }
}
