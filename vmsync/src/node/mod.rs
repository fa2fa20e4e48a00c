//! The node loop: one task that owns the decisions and is fed by everybody else.
//!
//! Order of a turn: something comes in (a command, a heartbeat, a mail's outcome, a commit, the
//! clock); every group decides; a new ownership is made durable; only then it is acted on, told to
//! the peer and answered to whoever asked. The decisions themselves are pure and live in
//! `vmsync_core`; here is only what feeds them and what follows from them.

mod command;
mod courier;
mod greeting;
mod groups;
mod holdings;
mod housekeeping;
mod one_sided;
mod orders;
mod outbox;
mod own;
mod peer;
mod phones;
mod proof;
mod publish;
mod requests;
mod run;
mod scrub;
mod signs;
mod switch;
mod sync;
mod upkeep;
mod watch_store;

use std::sync::Arc;

use rand::Rng;
use tokio::sync::{Notify, mpsc, watch};
use vmsync_config::words::{GroupName, Vector};
use vmsync_config::{Config, Destination, Mode};
use vmsync_core::resilience::Serving;

pub use command::Command;
pub use groups::{GroupState, Seen, history, keep_evidence, persist, rules};
pub(crate) use housekeeping::{Pass, last_pass};
pub use one_sided::OneSided;
pub(crate) use one_sided::one_sided;
pub(crate) use orders::{Line, journal};
pub use peer::Peer;
pub(crate) use proof::{FailbackProof, failback_proof};
pub use run::Node;
pub(crate) use scrub::{Course, course};
pub use signs::{WitnessSight, Witnessed};
pub(crate) use upkeep::{ReunionReport, reports};

use crate::{app::NodeHandle, status::Status};

/// Commands waiting for the loop; whoever sends more waits.
const WAITING: usize = 256;

/// The loop's ends of the channels behind [`NodeHandle`].
pub struct Seat {
    boot: u64,
    commands: mpsc::Receiver<Command>,
    status: watch::Sender<Arc<Status>>,
    serving: watch::Sender<Arc<Vec<(GroupName, Serving)>>>,
    calls_changed: Arc<Notify>,
    peer_have: watch::Sender<Vector>,
    peer_session: watch::Sender<Option<u64>>,
}

/// The handle the fronts use, and the seat of the loop behind it.
pub fn channel(config: &Config) -> (NodeHandle, Seat) {
    // Random rather than counted: it need not be remembered to be new. 53 bits survive any JSON.
    let boot = rand::rng().random::<u64>() >> 11;
    let (commands, received) = mpsc::channel(WAITING);
    let (status, status_seen) = watch::channel(Arc::new(publish::starting(config)));
    let (serving, serving_seen) = watch::channel(Arc::default());
    let calls_changed = Arc::new(Notify::new());
    let (peer_have, peer_have_seen) = watch::channel(Vector::default());
    let (peer_session, peer_session_seen) = watch::channel(None);
    let handle = NodeHandle {
        boot,
        commands,
        status: status_seen,
        serving: serving_seen,
        calls_changed: Arc::clone(&calls_changed),
        peer_have: peer_have_seen,
        peer_session: peer_session_seen,
    };
    (
        handle,
        Seat {
            boot,
            commands: received,
            status,
            serving,
            calls_changed,
            peer_have,
            peer_session,
        },
    )
}

/// `99999` or `99998` (R-TO-3).
pub fn destination_name(destination: Destination) -> &'static str {
    match destination {
        Destination::Primary => "99999",
        Destination::Secondary => "99998",
    }
}

/// `single-active` or `dual-active`.
pub fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::SingleActive => "single-active",
        Mode::DualActive => "dual-active",
    }
}
