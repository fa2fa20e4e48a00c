//! What the fronts ask of the loop.

use tokio::sync::oneshot;
use vmsync_config::words::{GroupName, Now};
use vmsync_core::{
    resilience::{Ownership, Request},
    wire::Head,
};

use crate::{
    app::{
        CertificateAnswer, Guard, OneSidedAnswer, OrderAnswer, Outcome, Refused, Registration,
        SeenPhone,
    },
    exchange::Applied,
    features::FeatureStatus,
    pair::{FeatureAct, Report},
};

/// One question or message to the loop. A dropped `answer` means that the node is stopping.
pub enum Command {
    /// The peer told of itself; it gets our report.
    Heartbeat {
        /// What it told.
        report: Report,
        /// When it came.
        at: Now,
        /// Where ours goes.
        answer: oneshot::Sender<Report>,
    },
    /// A mail of a session of the peer not heard of before brings content, which is about to be
    /// applied: what both held until then is noted first.
    Meets {
        /// What it says of its sender.
        head: Head,
        /// Told once that is durable.
        noted: oneshot::Sender<()>,
    },
    /// A mail of the peer was applied durably.
    Heard {
        /// What it says of its sender.
        head: Head,
        /// What followed from the rest of it.
        applied: Applied,
    },
    /// An operator's request.
    Request {
        /// For which group.
        group: GroupName,
        /// What.
        request: Request,
        /// Under which conditions.
        guard: Guard,
        /// It came from the peer: never forwarded again.
        forwarded: bool,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Outcome, Refused>>,
    },
    /// What only one of the nodes holds.
    OneSided {
        /// Where the answer goes.
        answer: oneshot::Sender<OneSidedAnswer>,
    },
    /// Cancel the order of a group.
    Cancel {
        /// Which.
        group: GroupName,
        /// What was cancelled, if there was an order.
        answer: oneshot::Sender<Result<Option<OrderAnswer>, Refused>>,
    },
    /// Transitions of a group.
    History {
        /// Which.
        group: GroupName,
        /// Where the answer goes.
        answer: oneshot::Sender<Vec<Ownership>>,
    },
    /// A phone registered.
    Phone {
        /// As reported.
        registration: Registration,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<SeenPhone, Refused>>,
    },
    /// Phones seen, newest first, with their numbers.
    Phones {
        /// Older than this number.
        before: Option<u64>,
        /// At most so many.
        most: usize,
        /// Where the answer goes.
        answer: oneshot::Sender<Vec<(u64, SeenPhone)>>,
    },
    /// An administrator's failback of a feature, to be carried out by the peer.
    PassOn {
        /// What.
        act: FeatureAct,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<FeatureStatus, Refused>>,
    },
    /// Exchange anew.
    Resync {
        /// Where the answer goes.
        answer: oneshot::Sender<()>,
    },
    /// What housekeeping waits for.
    Housekeeping {
        /// It is wanted now.
        run: bool,
        /// Where the answer goes.
        answer: oneshot::Sender<Vec<String>>,
    },
    /// Read all audio files now.
    CheckAudio {
        /// Where the answer goes.
        answer: oneshot::Sender<()>,
    },
    /// Last certificate.
    Certificate {
        /// Where the answer goes.
        answer: oneshot::Sender<CertificateAnswer>,
    },
}
