//! The steps of one transfer, performed.

use std::{io, sync::Arc};

use vmsync_core::vrl::{ConfirmAnswer, Outcome, Part, State, Step, Transfer};

use super::{ConfirmError, lane::Lane};
use crate::vrl::{
    archive::{Archive, Confirmed, Keeping},
    folder::{self, Removal},
    foreign::{self, VerifyBy},
    ftp::{FtpFailure, Session},
};

/// What came of a step: the transfer's outcome, or a way to the primary that is down for all of them,
/// or both.
pub(super) struct Performed {
    pub(super) part: usize,
    pub(super) outcome: Option<Outcome>,
    /// In words, and whether the server refused one more session.
    pub(super) link: Option<(String, bool)>,
}

impl Performed {
    fn came(part: usize, outcome: Outcome) -> Self {
        Self {
            part,
            outcome: Some(outcome),
            link: None,
        }
    }

    /// The way failed before this recording was touched.
    fn unopened(part: usize, e: &FtpFailure) -> Self {
        Self {
            part,
            outcome: None,
            link: Some((e.to_string(), e.is_too_many())),
        }
    }

    fn unasked(part: usize, name: &str, e: &ConfirmError) -> Self {
        let words = format!("asking the primary's node about {name}: {e}");
        match e {
            ConfirmError::Unreachable(_) => Self {
                part,
                outcome: None,
                link: Some((words, false)),
            },
            ConfirmError::Failed(_) => Self::came(part, Outcome::Failed(words)),
        }
    }

    /// The step failed; perhaps all others would too.
    fn failed(part: usize, e: &FtpFailure) -> Self {
        Self {
            part,
            outcome: Some(Outcome::Failed(e.to_string())),
            link: e.is_about_link().then(|| (e.to_string(), false)),
        }
    }
}

/// What came of sending a file.
enum Sent {
    /// All of it, from the start.
    Whole,
    /// What was missing of it.
    Resumed,
    /// Not what was planned: it changed while it was sent.
    Changed,
}

impl Lane {
    /// Performs a step. The session is given back only after success.
    pub(super) async fn perform(&mut self, t: &mut Transfer, step: Step) -> Performed {
        match step {
            Step::Confirm { part, remote_name } => self.ask(t, part, &remote_name).await,
            Step::Upload {
                part,
                temporary,
                resume,
            } => self.upload(t, part, &temporary, resume).await,
            Step::Verify {
                part,
                temporary,
                remote_name,
            } => self.name(t, part, &temporary, &remote_name).await,
            // The others are the lane's own.
            _ => self.remove(t).await,
        }
    }

    /// Asks whether the primary holds `remote_name`, equal to the file.
    async fn ask(&mut self, t: &Transfer, part: usize, remote_name: &str) -> Performed {
        match self.holds(part, &t.parts()[part], remote_name).await {
            Ok(answer) => Performed::came(part, Outcome::Answer(answer)),
            Err(performed) => performed,
        }
    }

    /// Whether the primary holds `name`, equal to the file: its node's word, or, where there is none, what its
    /// FTP server can tell.
    async fn holds(
        &mut self,
        part: usize,
        file: &Part,
        name: &str,
    ) -> Result<ConfirmAnswer, Performed> {
        let Some(how) = VerifyBy::configured(self.ctx.account.remote.verify) else {
            let confirm = &self.ctx.setup.confirm;
            let answer = confirm.confirm(name, file.bytes, &file.sha256).await;
            return answer.map_err(|e| Performed::unasked(part, name, &e));
        };
        let mut session = match self.session().await {
            Ok(session) => session,
            Err(e) => return Err(Performed::unopened(part, &e)),
        };
        let local = self.path(file);
        match foreign::check(&mut session, how, &local, name, file.bytes, &file.sha256).await {
            Ok(answer) => {
                self.session = Some(session);
                Ok(answer)
            }
            Err(e) => Err(Performed::failed(part, &e)),
        }
    }

    async fn upload(
        &mut self,
        t: &mut Transfer,
        part: usize,
        temporary: &str,
        resume: bool,
    ) -> Performed {
        let file = t.parts()[part].clone();
        let path = self.path(&file);
        match tokio::fs::metadata(&path).await {
            Ok(meta) if meta.len() == file.bytes => {}
            Ok(_) => return Performed::came(part, Outcome::LocalChanged),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let outcome = if part == 0 {
                    Outcome::LocalGone
                } else {
                    Outcome::LocalChanged
                };
                return Performed::came(part, outcome);
            }
            Err(e) => {
                let words = format!("reading {}: {e}", path.display());
                return Performed::came(part, Outcome::Failed(words));
            }
        }
        let mut session = match self.session().await {
            Ok(session) => session,
            Err(e) => return Performed::unopened(part, &e),
        };
        self.tell(t, part, Outcome::Begun).await;
        self.at(t);
        match self.send(&mut session, &file, temporary, resume).await {
            Ok(sent) => {
                self.session = Some(session);
                match sent {
                    Sent::Whole => Performed::came(part, Outcome::Uploaded),
                    Sent::Resumed => self.check_resumed(part, &file, temporary).await,
                    Sent::Changed => Performed::came(part, Outcome::LocalChanged),
                }
            }
            Err(e) => Performed::failed(part, &e),
        }
    }

    /// Shows what of the recording is at the primary by now.
    fn at(&self, t: &Transfer) {
        let there = t.parts().iter().filter(|p| p.state >= State::Sent);
        let sent = there.fold(0_u64, |sum, p| sum.saturating_add(p.bytes));
        let mut told = self.ctx.shared.told();
        if let Some(current) = told.on_the_way.get_mut(&self.name) {
            current.sent = sent;
        }
    }

    /// Sends what is missing.
    async fn send(
        &self,
        session: &mut Session,
        file: &Part,
        temporary: &str,
        resume: bool,
    ) -> Result<Sent, FtpFailure> {
        let there = if resume {
            session.size(temporary).await?
        } else {
            None
        };
        let offset = there.filter(|n| *n <= file.bytes).unwrap_or(0);
        if offset > 0 {
            let mut told = self.ctx.shared.told();
            if let Some(current) = told.on_the_way.get_mut(&self.name) {
                current.sent = current.sent.saturating_add(offset);
            }
        }
        if offset == file.bytes && offset > 0 {
            return Ok(Sent::Resumed);
        }
        if offset == 0 {
            session.announce(file.bytes).await?;
        }
        let read = session
            .upload(&self.path(file), temporary, offset, |piece| {
                self.piece_sent(piece.len() as u64)
            })
            .await?;
        match read {
            None => return Ok(Sent::Resumed),
            Some(sha256) if sha256 == file.sha256 => return Ok(Sent::Whole),
            Some(_) => {}
        }
        // Nobody will ever ask for what was sent.
        session.delete(temporary).await?;
        Ok(Sent::Changed)
    }

    /// A resumed upload is only as good as what was there before: after a power cut it may have
    /// its length and not its bytes. It is compared before it gets its name.
    async fn check_resumed(&mut self, part: usize, file: &Part, temporary: &str) -> Performed {
        match self.holds(part, file, temporary).await {
            Ok(ConfirmAnswer::Durable) => Performed::came(part, Outcome::Uploaded),
            Ok(answer) => Performed::came(
                part,
                Outcome::UploadLost(format!(
                    "the resumed upload of {} is not what was sent ({answer:?}); it starts anew",
                    file.name
                )),
            ),
            Err(performed) => performed,
        }
    }

    async fn name(
        &mut self,
        t: &Transfer,
        part: usize,
        temporary: &str,
        remote_name: &str,
    ) -> Performed {
        let mut session = match self.session().await {
            Ok(session) => session,
            Err(e) => return Performed::unopened(part, &e),
        };
        if !self.is_unchanged(t, part).await {
            // Nobody will ever ask for what was sent.
            return match session.delete(temporary).await {
                Ok(()) => {
                    self.session = Some(session);
                    Performed::came(part, Outcome::LocalChanged)
                }
                Err(e) => Performed::failed(part, &e),
            };
        }
        match name_it(&mut session, &t.parts()[part], temporary, remote_name).await {
            Ok(outcome) => {
                self.session = Some(session);
                Performed::came(part, outcome)
            }
            Err(e) => Performed::failed(part, &e),
        }
    }

    /// Whether a file still is what was sent: it gets no name at the primary if it went on growing here. One that
    /// is gone is as it was.
    async fn is_unchanged(&self, t: &Transfer, part: usize) -> bool {
        let stamp = self.stamps.get(part).copied().flatten();
        let (file, path) = (t.parts()[part].clone(), self.path(&t.parts()[part]));
        let unchanged = tokio::task::spawn_blocking(move || match stamp {
            Some(stamp) => stamp.is_of(&path),
            None => folder::compare(&path, file.bytes, &file.sha256)
                .map(|answer| !matches!(answer, ConfirmAnswer::Different { .. })),
        });
        match unchanged.await {
            Ok(Ok(unchanged)) => unchanged,
            // What can't be looked at now is looked at before it is removed.
            _ => true,
        }
    }

    /// Puts the local files into the archive, where there is one.
    async fn keep(&mut self, t: &Transfer, archive: Arc<Archive>) -> Performed {
        let now = self.ctx.now();
        let folder = self.ctx.setup.vrl.folder.clone();
        let parts = t.parts().iter().enumerate();
        let unit: Vec<_> = parts
            .map(|(n, part)| Confirmed {
                name: part.name.clone(),
                bytes: part.bytes,
                sha256: part.sha256.clone(),
                remote_name: t.remote_name_of(n),
                confirmed_at: now.wall,
            })
            .collect();
        let kept = tokio::task::spawn_blocking(move || archive.keep(&folder, &unit, now)).await;
        let outcome = match kept.unwrap_or_else(|e| Err(io::Error::other(e))) {
            Ok(Keeping::Kept(_)) => Outcome::LocalRemoved,
            Ok(Keeping::Gone) => Outcome::LocalGone,
            Ok(Keeping::Changed { .. }) => Outcome::LocalChanged,
            Err(e) => Outcome::Failed(format!("keeping {} in the archive: {e}", self.name)),
        };
        Performed::came(0, outcome)
    }

    /// Removes the local files, the audio last: found again without its side files, it asks the
    /// primary under its own name.
    async fn remove(&mut self, t: &Transfer) -> Performed {
        // Who has one of them open may go on in what nobody would ever see.
        let mut parts = t.parts().iter();
        if parts.any(|part| self.ctx.writers.still_write(part.name.as_str())) {
            return Performed::came(0, Outcome::LocalChanged);
        }
        if let Some(archive) = self.ctx.setup.archive.clone() {
            return self.keep(t, archive).await;
        }
        let folder = self.ctx.setup.vrl.folder.clone();
        let stamps = self.stamps.clone();
        let parts = t.parts().to_vec();
        let outcome = tokio::task::spawn_blocking(move || {
            for (n, part) in parts.iter().enumerate().rev() {
                let stamp = stamps.get(n).copied().flatten();
                match folder::remove_if_same(&folder, part, stamp) {
                    Ok(Removal::Removed) => {}
                    Ok(Removal::Gone) if n > 0 => {}
                    Ok(Removal::Gone) => return Outcome::LocalGone,
                    Ok(Removal::Changed) => return Outcome::LocalChanged,
                    Err(e) => return Outcome::Failed(format!("removing {} here: {e}", part.name)),
                }
            }
            // Before the journal forgets it: what a power cut brings back may have been fetched from the
            // primary meanwhile. Shared with what others remove at the moment.
            match vmsync_store::sync_names(&folder) {
                Ok(()) => Outcome::LocalRemoved,
                Err(e) => Outcome::Failed(format!("syncing {}: {e}", folder.display())),
            }
        })
        .await
        .unwrap_or_else(|e| Outcome::Failed(format!("removing {} here: {e}", self.name)));
        Performed::came(0, outcome)
    }

    /// The kept session, or a new one. It is given back only after success.
    pub(super) async fn session(&mut self) -> Result<Session, FtpFailure> {
        match self.session.take() {
            Some(session) => Ok(session),
            None => Session::open(&self.ctx.account).await,
        }
    }
}

/// Checks the length, then renames, unless the name is taken: most servers would replace the
/// file of that name without a word.
async fn name_it(
    session: &mut Session,
    file: &Part,
    temporary: &str,
    remote_name: &str,
) -> Result<Outcome, FtpFailure> {
    let lost = |what: String| Outcome::UploadLost(format!("{what}; it is sent again"));
    match session.size(temporary).await? {
        Some(n) if n == file.bytes => {}
        Some(n) => {
            let (name, bytes) = (&file.name, file.bytes);
            return Ok(lost(format!(
                "the server has {n} bytes of {name}, not {bytes}"
            )));
        }
        None => {
            return Ok(lost(format!(
                "the server has lost the upload of {}",
                file.name
            )));
        }
    }
    if session.size(remote_name).await?.is_some() {
        return Ok(Outcome::Occupied);
    }
    session.rename(temporary, remote_name).await?;
    Ok(Outcome::Verified)
}
