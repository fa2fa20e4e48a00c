//! The node loop: one task that owns the decisions and is fed by everybody else.

use tokio::sync::oneshot;
use vmsync_config::words::GroupName;
use vmsync_core::resilience::{Ownership, Request};

use crate::app::{CertificateAnswer, Guard, Outcome, Refused, Registration, SeenPhone};

/// What the fronts ask of the loop.
pub enum Command {
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
    /// Phones seen.
    Phones {
        /// Where the answer goes.
        answer: oneshot::Sender<Vec<SeenPhone>>,
    },
    /// Exchange anew.
    Resync {
        /// Where the answer goes.
        answer: oneshot::Sender<()>,
    },
    /// Last certificate.
    Certificate {
        /// Where the answer goes.
        answer: oneshot::Sender<CertificateAnswer>,
    },
}
