//! Hands mails to the peer's receiver, in the order they were packed, and tells what became of
//! each in the same order. Where the receiver offers CHUNKING and PIPELINING several are under way
//! at once over one connection; else one at a time.
//!
//! A connection that fails leaves what was outstanding on it unknown: taken or not. Such mails are
//! told as failed; what was taken all the same the peer skips when it comes again.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, mpsc};
use vmsync_core::sync::{Blame, Ticket};

use super::outbox::{Letter, Sent};
use crate::{
    clock, exchange,
    smtp::{PeerSender, SendError, SendErrorKind},
};

/// The sending task.
pub(super) struct Courier {
    pub(super) sender: PeerSender,
    pub(super) letters: mpsc::Receiver<Letter>,
    pub(super) out: mpsc::Sender<Sent>,
    /// Gives up the mails under way.
    pub(super) abandon: Arc<Notify>,
    /// Whether the receiver takes BINARYMIME, for the packer.
    pub(super) binary: Arc<AtomicBool>,
}

/// What is remembered of a mail under way.
struct Slip {
    ticket: Ticket,
    bytes: u64,
    released: Vec<String>,
    begun: Duration,
}

type Outcome = Result<(), (Blame, String)>;

enum Next {
    Answered,
    Letter(Box<Letter>),
    Abandon,
    Ended,
}

impl Courier {
    /// Sends until the packer ends. Mails under way are finished first, within the sender's own limits.
    pub(super) async fn run(mut self) {
        let mut under_way = VecDeque::new();
        loop {
            let outcomes = match self.next(!under_way.is_empty()).await {
                Next::Letter(letter) => self.hand_over(*letter, &mut under_way).await,
                Next::Abandon => {
                    // The sender drops a connection with mails outstanding, so that no answer is mistaken.
                    self.sender.close().await;
                    let why = || (Blame::Passing, "the peer went out of sight".to_owned());
                    under_way.drain(..).map(|slip| (slip, Err(why()))).collect()
                }
                Next::Ended if under_way.is_empty() => return,
                Next::Answered | Next::Ended => self.collect(&mut under_way).await,
            };
            for (slip, outcome) in outcomes {
                if self.out.send(told(slip, outcome)).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn next(&mut self, waits: bool) -> Next {
        let room = self.sender.outstanding() < self.sender.window();
        let Self {
            sender,
            letters,
            abandon,
            ..
        } = self;
        tokio::select! {
            biased;
            () = abandon.notified(), if waits => Next::Abandon,
            () = sender.answered(), if waits => Next::Answered,
            letter = letters.recv(), if room => {
                letter.map_or(Next::Ended, |letter| Next::Letter(Box::new(letter)))
            }
        }
    }

    /// The outcome of the oldest mail; of all, if they are lost with their connection.
    async fn collect(&mut self, under_way: &mut VecDeque<Slip>) -> Vec<(Slip, Outcome)> {
        let outcome = self.sender.next_reply().await;
        let mut outcomes = Vec::new();
        if let Some(slip) = under_way.pop_front() {
            outcomes.push((slip, outcome.map_err(|e| (blame(&e), e.to_string()))));
        }
        self.lost(under_way, &mut outcomes);
        outcomes
    }

    /// Whatever the sender no longer knows of is lost.
    fn lost(&self, under_way: &mut VecDeque<Slip>, outcomes: &mut Vec<(Slip, Outcome)>) {
        while under_way.len() > self.sender.outstanding() {
            let Some(slip) = under_way.pop_front() else {
                return;
            };
            let why = "the connection ended before the answer".to_owned();
            outcomes.push((slip, Err((Blame::Passing, why))));
        }
    }

    async fn hand_over(
        &mut self,
        letter: Letter,
        under_way: &mut VecDeque<Slip>,
    ) -> Vec<(Slip, Outcome)> {
        let slip = Slip {
            ticket: letter.ticket,
            bytes: u64::try_from(letter.mail.len()).unwrap_or(u64::MAX),
            released: letter.released.clone(),
            begun: letter.begun,
        };
        let abandon = Arc::clone(&self.abandon);
        let submitted = tokio::select! {
            submitted = self.submit(letter) => submitted,
            () = abandon.notified() => Err((Blame::Passing, "the peer went out of sight".to_owned())),
        };
        let mut outcomes = Vec::new();
        match submitted {
            Ok(()) => under_way.push_back(slip),
            Err(error) => {
                self.lost(under_way, &mut outcomes);
                outcomes.push((slip, Err(error)));
            }
        }
        outcomes
    }

    async fn submit(&mut self, letter: Letter) -> Outcome {
        let failed = |e: SendError| (blame(&e), e.to_string());
        let offers = self.sender.offers().await.map_err(failed)?;
        self.binary.store(offers.binarymime, Ordering::Relaxed);
        if letter.binary && !offers.binarymime {
            let why = "the peer no longer offers BINARYMIME; packed anew".to_owned();
            return Err((Blame::Passing, why));
        }
        let Letter {
            from,
            to,
            mail,
            binary,
            ..
        } = letter;
        let submitted = self.sender.submit(&from, &to, mail, binary).await;
        submitted.map_err(failed)
    }
}

fn told(slip: Slip, outcome: Outcome) -> Sent {
    let ticket = slip.ticket;
    match outcome {
        Ok(()) => Sent::Taken {
            ticket,
            bytes: slip.bytes,
            released: slip.released,
            took: clock::now().mono.saturating_sub(slip.begun),
        },
        Err((blame, why)) => Sent::Failed { ticket, blame, why },
    }
}

/// One too large to be sent at all is refused for its content.
fn blame(error: &SendError) -> Blame {
    match (error.kind, error.code) {
        (SendErrorKind::Permanent, None) => Blame::Content,
        (SendErrorKind::Permanent, Some(code)) => exchange::blame(code),
        _ => Blame::Passing,
    }
}
