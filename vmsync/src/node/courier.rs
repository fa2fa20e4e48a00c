//! Hands mails to the peer's receiver, in the order they were packed, and tells what became of
//! each in the same order.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use vmsync_core::sync::Blame;

use super::outbox::{Letter, Sent};
use crate::{
    clock,
    smtp::{PeerSender, SendError, SendErrorKind},
};

/// The sending task.
pub(super) struct Courier {
    pub(super) sender: PeerSender,
    pub(super) letters: mpsc::Receiver<Letter>,
    pub(super) out: mpsc::Sender<Sent>,
    /// Gives up the mails under way.
    pub(super) abandon: Arc<Notify>,
}

impl Courier {
    /// Sends until stopped. The mail under way is finished first, within the sender's own limits.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let letter = tokio::select! {
                () = stop.cancelled() => return,
                letter = self.letters.recv() => letter,
            };
            let Some(letter) = letter else { return };
            let abandon = Arc::clone(&self.abandon);
            let sent = tokio::select! {
                sent = self.sender.send(&letter.from, &letter.to, &letter.mail) => {
                    sent.map_err(|e| (blame(&e), e.to_string()))
                }
                // The sender drops a connection whose mail is cut off, so no answer is mistaken.
                () = abandon.notified() => {
                    Err((Blame::Passing, "the peer went out of sight".to_owned()))
                }
            };
            if self.out.send(outcome(letter, sent)).await.is_err() {
                return;
            }
        }
    }
}

fn outcome(letter: Letter, sent: Result<(), (Blame, String)>) -> Sent {
    let ticket = letter.ticket;
    match sent {
        Ok(()) => Sent::Taken {
            ticket,
            operations: letter.operations,
            released: letter.released,
            bytes: u64::try_from(letter.mail.len()).unwrap_or(u64::MAX),
            took: clock::now().mono.saturating_sub(letter.begun),
        },
        Err((blame, why)) => Sent::Failed { ticket, blame, why },
    }
}

/// What to do about a refusal: 552 and 554 are about the mail itself (so is one too large to be
/// sent at all), any other 5xx about who the nodes are to each other.
fn blame(error: &SendError) -> Blame {
    match (error.kind, error.code) {
        (SendErrorKind::Permanent, None | Some(552 | 554)) => Blame::Content,
        (SendErrorKind::Permanent, Some(_)) => Blame::Setup,
        _ => Blame::Passing,
    }
}
