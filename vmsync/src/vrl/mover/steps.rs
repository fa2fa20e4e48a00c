//! The steps of one transfer, performed.

use std::{path::PathBuf, sync::PoisonError, time::Duration};

use vmsync_core::vrl::{ConfirmAnswer, Outcome, RecordingName, Step, Transfer};

use super::{ConfirmError, Mover};
use crate::vrl::{
    folder::{self, Removal},
    ftp::{FtpFailure, Session},
};

/// What came of a step: the transfer's outcome, or a link that is down for all of them, or both.
struct Performed {
    outcome: Option<Outcome>,
    link: Option<String>,
}

impl From<Outcome> for Performed {
    fn from(outcome: Outcome) -> Self {
        Self {
            outcome: Some(outcome),
            link: None,
        }
    }
}

impl Performed {
    /// The link failed before this recording was touched.
    fn link(words: String) -> Self {
        Self {
            outcome: None,
            link: Some(words),
        }
    }

    fn unasked(name: &str, e: &ConfirmError) -> Self {
        let words = format!("asking the primary's node about {name}: {e}");
        match e {
            ConfirmError::Unreachable(_) => Self::link(words),
            ConfirmError::Failed(_) => Outcome::Failed(words).into(),
        }
    }

    /// The step failed; perhaps all others would too.
    fn failed(e: &FtpFailure) -> Self {
        Self {
            outcome: Some(Outcome::Failed(e.to_string())),
            link: e.is_about_link().then(|| e.to_string()),
        }
    }
}

impl Mover {
    /// Performs a step, tells the machine, journals. Returns why the link is down, if it is.
    pub(super) async fn step(&mut self, name: &RecordingName, step: Step) -> Option<String> {
        let transfer = self.transfers.get(name)?.clone();
        let performed = match step {
            Step::Confirm => self.ask(&transfer).await,
            Step::Upload { temporary, resume } => self.upload(&transfer, &temporary, resume).await,
            Step::Verify {
                temporary,
                remote_name,
            } => self.verify(&transfer, &temporary, &remote_name).await,
            Step::RemoveLocal => self.remove(&transfer).await,
            Step::Wait { .. } | Step::Done => return None,
        };
        if let Some(outcome) = performed.outcome {
            self.tell(name, outcome).await;
        }
        if performed.link.is_none() {
            self.link.succeeded();
        }
        performed.link
    }

    async fn tell(&mut self, name: &RecordingName, outcome: Outcome) {
        let now = self.now();
        let pace = self.setup.tuning.pace;
        let Some(transfer) = self.transfers.get_mut(name) else {
            return;
        };
        transfer.handle(outcome, now, &pace);
        let transfer = transfer.clone();
        match &transfer.last_error {
            Some(why) => self.complain(why),
            None => self.shared.told().status.last_error = None,
        }
        self.save(&transfer).await;
    }

    async fn ask(&mut self, t: &Transfer) -> Performed {
        match self
            .setup
            .confirm
            .confirm(&t.remote_name, t.bytes, &t.sha256)
            .await
        {
            Ok(answer) => Outcome::Answer(answer).into(),
            Err(e) => Performed::unasked(&t.remote_name, &e),
        }
    }

    async fn upload(&mut self, t: &Transfer, temporary: &str, resume: bool) -> Performed {
        let path = self.path(t);
        match tokio::fs::metadata(&path).await {
            Ok(meta) if meta.len() == t.bytes => {}
            Ok(_) => return self.changed(path).await,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Outcome::LocalGone.into(),
            Err(e) => return Outcome::Failed(format!("reading {}: {e}", path.display())).into(),
        }
        let mut session = match self.session().await {
            Ok(session) => session,
            Err(e) => return Performed::link(e.to_string()),
        };
        self.tell(&t.name, Outcome::Begun).await;
        match self.send(&mut session, t, temporary, resume).await {
            Ok(resumed) => {
                self.session = Some(session);
                if resumed {
                    self.check_resumed(t, temporary).await
                } else {
                    Outcome::Uploaded.into()
                }
            }
            Err(e) => Performed::failed(&e),
        }
    }

    /// Sends what is missing; returns whether some was there already.
    async fn send(
        &self,
        session: &mut Session,
        t: &Transfer,
        temporary: &str,
        resume: bool,
    ) -> Result<bool, FtpFailure> {
        let there = if resume {
            session.size(temporary).await?
        } else {
            None
        };
        let offset = there.filter(|n| *n <= t.bytes).unwrap_or(0);
        self.current(t, offset);
        if offset == t.bytes && offset > 0 {
            return Ok(true);
        }
        let mut sent = offset;
        session
            .upload(&self.path(t), temporary, offset, |n| {
                sent += n;
                let now = (self.setup.now)();
                let mut told = self.shared.told();
                told.meter.add(now, n);
                if let Some(current) = &mut told.status.current {
                    current.sent = sent;
                }
                self.limit.as_ref().map_or(Duration::ZERO, |limit| {
                    let mut limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
                    limit.sent(n, now.mono)
                })
            })
            .await?;
        Ok(offset > 0)
    }

    /// A resumed upload is only as good as what was there before: after a power cut it may have
    /// its length and not its bytes. The receiving node hashes it before it gets its name.
    async fn check_resumed(&self, t: &Transfer, temporary: &str) -> Performed {
        match self
            .setup
            .confirm
            .confirm(temporary, t.bytes, &t.sha256)
            .await
        {
            Ok(ConfirmAnswer::Durable) => Outcome::Uploaded.into(),
            Ok(answer) => Outcome::UploadLost(format!(
                "the resumed upload of {} is not what was sent ({answer:?}); it starts anew",
                t.name
            ))
            .into(),
            Err(e) => Performed::unasked(temporary, &e),
        }
    }

    async fn verify(&mut self, t: &Transfer, temporary: &str, remote_name: &str) -> Performed {
        let mut session = match self.session().await {
            Ok(session) => session,
            Err(e) => return Performed::link(e.to_string()),
        };
        match name_it(&mut session, t, temporary, remote_name).await {
            Ok(outcome) => {
                self.session = Some(session);
                outcome.into()
            }
            Err(e) => Performed::failed(&e),
        }
    }

    async fn remove(&mut self, t: &Transfer) -> Performed {
        let (folder, name) = (self.setup.vrl.folder.clone(), t.name.clone());
        let (bytes, sha256) = (t.bytes, t.sha256.clone());
        let removed = tokio::task::spawn_blocking(move || {
            folder::remove_if_same(&folder, &name, bytes, &sha256)
        })
        .await
        .unwrap_or_else(|e| Err(std::io::Error::other(e)));
        match removed {
            Ok(Removal::Removed) => Outcome::LocalRemoved.into(),
            Ok(Removal::Gone) => Outcome::LocalGone.into(),
            Ok(Removal::Changed { bytes, sha256 }) => {
                Outcome::LocalChanged { bytes, sha256 }.into()
            }
            Err(e) => Outcome::Failed(format!("removing {} here: {e}", t.name)).into(),
        }
    }

    async fn changed(&self, path: PathBuf) -> Performed {
        let shown = path.display().to_string();
        match tokio::task::spawn_blocking(move || folder::hash_file(&path)).await {
            Ok(Ok((bytes, sha256))) => Outcome::LocalChanged { bytes, sha256 }.into(),
            Ok(Err(e)) => Outcome::Failed(format!("reading {shown}: {e}")).into(),
            Err(e) => Outcome::Failed(format!("reading {shown}: {e}")).into(),
        }
    }

    /// The kept session, or a new one. It is given back only after success.
    async fn session(&mut self) -> Result<Session, FtpFailure> {
        match self.session.take() {
            Some(session) => Ok(session),
            None => Session::open(&self.account).await,
        }
    }

    fn path(&self, t: &Transfer) -> PathBuf {
        self.setup.vrl.folder.join(t.name.as_str())
    }
}

/// Checks the length, then renames, unless the name is taken: most servers would replace the
/// file of that name without a word.
async fn name_it(
    session: &mut Session,
    t: &Transfer,
    temporary: &str,
    remote_name: &str,
) -> Result<Outcome, FtpFailure> {
    match session.size(temporary).await? {
        Some(n) if n == t.bytes => {}
        Some(n) => {
            let why = format!(
                "the server has {n} bytes of {}, not {}; it is sent again",
                t.name, t.bytes
            );
            return Ok(Outcome::UploadLost(why));
        }
        None => {
            let why = format!(
                "the server has lost the upload of {}; it is sent again",
                t.name
            );
            return Ok(Outcome::UploadLost(why));
        }
    }
    if session.size(remote_name).await?.is_some() {
        return Ok(Outcome::Occupied);
    }
    session.rename(temporary, remote_name).await?;
    Ok(Outcome::Verified)
}
