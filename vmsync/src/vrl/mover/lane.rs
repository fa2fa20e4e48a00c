//! A lane: takes one recording as far as it goes.

use std::{io, sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use vmsync_core::vrl::{Found, Outcome, Part, RecordingName, State, Step, Transfer};

use super::{Context, steps::Performed};
use crate::vrl::{
    ftp::Session,
    journal::JournalError,
    stamp::{self, Stamp},
    status::Current,
};

/// What a lane is given.
#[derive(Debug)]
pub(super) enum Work {
    /// A recording found in the folder, whole.
    New(Found),
    /// One that was begun, or that failed.
    Again(Transfer),
}

impl Work {
    pub(super) fn name(&self) -> &RecordingName {
        match self {
            Self::New(found) => &found.name,
            Self::Again(transfer) => transfer.name(),
        }
    }

    /// Its length, as far as known.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::New(found) => found.bytes,
            Self::Again(transfer) => transfer.bytes(),
        }
    }
}

/// Why a lane stopped.
#[derive(Debug)]
pub(super) enum End {
    /// The transfer is over, or there was nothing to move.
    Over,
    /// The folder has to be looked at anew.
    Anew,
    /// It, or a side file of it, is still written.
    Young(Found),
    /// It waits, for a time or for better conditions.
    Waits {
        transfer: Box<Transfer>,
        until: Option<Duration>,
        why: String,
    },
    /// The way to the primary failed; no other recording would fare better now.
    Link {
        work: Work,
        words: String,
        /// The server refused one more session.
        opening: bool,
    },
}

/// What a lane leaves behind.
pub(super) struct Left {
    pub(super) name: RecordingName,
    /// Still good, and when it was used last (monotonic).
    pub(super) session: Option<(Session, Duration)>,
    pub(super) end: End,
    /// Every step of it that needed the way to the primary worked.
    pub(super) link_good: bool,
}

/// One recording on its way.
pub(super) struct Lane {
    pub(super) ctx: Arc<Context>,
    pub(super) name: RecordingName,
    pub(super) session: Option<Session>,
    /// How each file was when it was hashed; `None` = unknown, so it is hashed again before it goes.
    pub(super) stamps: Vec<Option<Stamp>>,
    /// What the journal holds of it, or will in a moment.
    saved: Option<Transfer>,
    /// A write of the journal that nothing waits for, but for the next.
    writing: Option<JoinHandle<Result<(), JournalError>>>,
    link_good: bool,
}

/// Runs a lane to its end.
pub(super) async fn run(ctx: Arc<Context>, session: Option<Session>, work: Work) -> Left {
    let mut lane = Lane {
        name: work.name().clone(),
        saved: match &work {
            Work::Again(transfer) => Some(transfer.clone()).filter(Transfer::has_begun),
            Work::New(_) => None,
        },
        stamps: Vec::new(),
        session,
        ctx,
        link_good: false,
        writing: None,
    };
    let end = lane.go(work).await;
    lane.written().await;
    let used = lane.ctx.now().mono;
    lane.ctx.shared.told().on_the_way.remove(&lane.name);
    Left {
        name: lane.name,
        session: lane.session.map(|session| (session, used)),
        end,
        link_good: lane.link_good,
    }
}

impl Lane {
    async fn go(&mut self, work: Work) -> End {
        let transfer = match work {
            Work::Again(transfer) => transfer,
            Work::New(found) => match self.begin(found).await {
                Ok(transfer) => transfer,
                Err(end) => return end,
            },
        };
        self.show(&transfer);
        self.drive(transfer).await
    }

    async fn begin(&mut self, found: Found) -> Result<Transfer, End> {
        match self.send_unhashed(&found).await? {
            Some(transfer) => Ok(transfer),
            None => self.plan(found).await,
        }
    }

    /// Reads the recording and what is beside it. Nothing of it is at the primary yet, so nothing is
    /// journalled.
    async fn plan(&mut self, found: Found) -> Result<Transfer, End> {
        let folder = self.ctx.setup.vrl.folder.clone();
        let quiet = self.ctx.setup.tuning.quiet;
        let (wall, name) = (self.ctx.now().wall, found.name.clone());
        let writers = self.ctx.writers.clone();
        let read = tokio::task::spawn_blocking(move || {
            stamp::read_unit(&folder, &name, &writers, quiet, wall)
        });
        let read = read.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        match read {
            Ok(Some(files)) => {
                let mut parts = Vec::new();
                for (part, stamp) in files {
                    parts.push(part);
                    self.stamps.push(stamp);
                }
                let audio = parts.remove(0);
                Ok(Transfer::planned(audio, parts, self.ctx.now().wall))
            }
            Ok(None) => Err(End::Young(found)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(End::Over),
            // Tried again with the next look at the whole folder, which may find that it can be read.
            Err(e) => {
                let words = format!("{} or a side file of it can't be read: {e}", self.name);
                self.ctx.shared.complain(&words);
                self.ctx.shared.told().unfit(words);
                Err(End::Over)
            }
        }
    }

    fn show(&self, transfer: &Transfer) {
        let there = transfer.parts().iter().filter(|p| p.state >= State::Sent);
        let current = Current {
            name: transfer.name().as_str().to_owned(),
            bytes: transfer.bytes(),
            sent: there.fold(0, |sum, p| sum.saturating_add(p.bytes)),
        };
        let mut told = self.ctx.shared.told();
        told.on_the_way.insert(self.name.clone(), current);
    }

    async fn drive(&mut self, mut transfer: Transfer) -> End {
        let mut begun = false;
        loop {
            // The window is for what is begun in it: what is under way when it closes is finished.
            let (conditions, opens) = if begun {
                (self.ctx.allowed.borrow().clone(), None)
            } else {
                self.ctx.conditions()
            };
            let performed = match transfer.next(&conditions, self.ctx.now()) {
                Step::Wait { until, why } => {
                    return End::Waits {
                        transfer: Box::new(transfer),
                        until: until.or(opens),
                        why,
                    };
                }
                Step::Done => {
                    self.forget().await;
                    self.finished(&transfer);
                    return End::Over;
                }
                Step::Forget => {
                    self.forget().await;
                    return End::Anew;
                }
                step => {
                    begun = true;
                    self.perform(&mut transfer, step).await
                }
            };
            let Performed {
                part,
                outcome,
                link,
            } = performed;
            if let Some(outcome) = outcome {
                self.tell(&mut transfer, part, outcome).await;
            }
            match link {
                None => self.link_good = true,
                Some((words, opening)) => {
                    return End::Link {
                        work: Work::Again(transfer),
                        words,
                        opening,
                    };
                }
            }
        }
    }

    /// Tells the machine what came of a step, and journals it where that says something new.
    pub(super) async fn tell(&mut self, transfer: &mut Transfer, part: usize, outcome: Outcome) {
        let now = self.ctx.now();
        transfer.handle(part, outcome, now, &self.ctx.setup.tuning.pace);
        if let Some(why) = &transfer.last_error {
            self.ctx.shared.complain(why);
        } else {
            let mut told = self.ctx.shared.told();
            told.status.last_error = None;
            told.achieve(now);
        }
        if !transfer.has_begun() && self.saved.is_none() {
            return;
        }
        let worth = transfer.clone().restored();
        if worth != self.saved {
            self.save(transfer).await;
            self.saved = worth;
        }
    }

    /// Journals a transfer. Only that an upload begins is waited for: a later step whose record is lost is found
    /// out by asking, so its write goes on beside the next step.
    async fn save(&mut self, transfer: &Transfer) {
        self.written().await;
        let journal = self.ctx.setup.journal.clone();
        let record = transfer.clone();
        self.writing = Some(tokio::task::spawn_blocking(move || journal.save(&record)));
        if transfer.state() < State::Sent {
            self.written().await;
        }
    }

    /// Waits for the write of the journal under way, so that writes come in order.
    async fn written(&mut self) {
        let Some(writing) = self.writing.take() else {
            return;
        };
        // Not fatal for safety: without its record a transfer is planned anew, and the peer asked first.
        match writing.await {
            Ok(Err(e)) => self.ctx.shared.complain(&e.to_string()),
            Err(e) => self.ctx.shared.complain(&e.to_string()),
            Ok(Ok(())) => {}
        }
    }

    async fn forget(&mut self) {
        if self.saved.take().is_none() {
            return;
        }
        self.written().await;
        let journal = self.ctx.setup.journal.clone();
        let gone = self.name.clone();
        if let Ok(Err(e)) = tokio::task::spawn_blocking(move || journal.remove(&gone)).await {
            // Not fatal: restored, it finds the local file gone and ends again.
            tracing::warn!(recording = %self.name, error = %e, "the journal record of a moved recording stays");
        }
    }

    fn finished(&self, transfer: &Transfer) {
        let mut told = self.ctx.shared.told();
        told.status.last_error.clone_from(&transfer.last_error);
        if let Some(why) = &transfer.last_error {
            tracing::error!(recording = %self.name, "{why}");
            return;
        }
        told.status.files_done += 1;
        told.status.bytes_done = told.status.bytes_done.saturating_add(transfer.bytes());
        told.achieve(self.ctx.now());
        drop(told);
        tracing::info!(recording = %self.name, remote_name = transfer.remote_name(), bytes = transfer.bytes(), files = transfer.parts().len(), "recording moved to the primary");
    }

    /// The file a part stands for.
    pub(super) fn path(&self, part: &Part) -> std::path::PathBuf {
        self.ctx.setup.vrl.folder.join(part.name.as_str())
    }
}
