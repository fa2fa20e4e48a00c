//! A large recording leaves while it is hashed: reading it once before would take as long as sending it.
//!
//! Until its hash is known it has a temporary name of its own, made of its name and its stamp, so that a break is
//! gone on with. Then it gets the temporary name that belongs to its content, and its way is that of any other:
//! nothing of it has a finished name before the primary was asked about that.

use std::{io, path::Path, sync::PoisonError, time::Duration};

use sha2::{Digest, Sha256};
use vmsync_core::vrl::{ConfirmAnswer, Found, Part, State, Transfer};

use super::lane::{End, Lane, Work};
use crate::vrl::{
    folder,
    foreign::VerifyBy,
    ftp::FtpFailure,
    stamp::{self, Stamp},
};

/// Recordings of at least this length are sent while they are hashed.
const LARGE: u64 = 16 << 20;

/// What was sent.
struct Sent {
    sha256: String,
    /// Some of it was there before: only the receiving node can tell whether it is right.
    resumed: bool,
}

impl Lane {
    /// Sends a large recording that has no side files. `Ok(None)`: it goes the usual way.
    pub(super) async fn send_unhashed(&mut self, found: &Found) -> Result<Option<Transfer>, End> {
        let node_verifies = VerifyBy::configured(self.ctx.account.remote.verify).is_none();
        if found.bytes < LARGE || !node_verifies {
            return Ok(None);
        }
        let Some(stamp) = self.lone(found).await else {
            return Ok(None);
        };
        // Without a hash it can't say that it has it, but that it has nothing like it.
        let confirm = &self.ctx.setup.confirm;
        match confirm.confirm(found.name.as_str(), found.bytes, "").await {
            Ok(ConfirmAnswer::Missing) => {}
            Ok(ConfirmAnswer::Different { sha256, .. }) if sha256.is_empty() => {}
            _ => return Ok(None),
        }
        let path = self.ctx.setup.vrl.folder.join(found.name.as_str());
        let opening = self.session.is_none();
        match self.send_ahead(found, &stamp, &path).await {
            Ok(Some(sent)) => {
                let mut part = Part::new(found.name.clone(), found.bytes, sent.sha256);
                part.state = if sent.resumed {
                    State::Sending
                } else {
                    State::Sent
                };
                self.stamps = vec![Some(stamp)];
                let found_at = self.ctx.now().wall;
                Ok(Some(Transfer::planned(part, Vec::new(), found_at)))
            }
            Ok(None) => Err(End::Young(found.clone())),
            Err(e) if e.is_about_link() => Err(End::Link {
                work: Work::New(found.clone()),
                words: e.to_string(),
                opening: opening && e.is_too_many(),
            }),
            // What the server has against this file it says again on the usual way, where its tries are counted.
            Err(e) => {
                self.ctx.shared.complain(&e.to_string());
                Ok(None)
            }
        }
    }

    /// The stamp of a recording that has no side files and that nobody writes.
    async fn lone(&self, found: &Found) -> Option<Stamp> {
        let (folder, name) = (self.ctx.setup.vrl.folder.clone(), found.name.clone());
        let (writers, wall) = (self.ctx.writers.clone(), self.ctx.now().wall);
        let lone = tokio::task::spawn_blocking(move || -> io::Result<Option<Stamp>> {
            let side = name
                .sides()
                .into_iter()
                .any(|side| folder.join(side).exists());
            if side || writers.still_write(name.as_str()) {
                return Ok(None);
            }
            stamp::of(&folder.join(name.as_str()), wall)
        });
        // Where it can't be looked at, the usual way says why.
        let stamp = lone.await.ok()?.ok()?;
        stamp.filter(|stamp| stamp.bytes() == found.bytes)
    }

    /// Sends what is missing of it; `None` when it changed meanwhile.
    async fn send_ahead(
        &mut self,
        found: &Found,
        stamp: &Stamp,
        path: &Path,
    ) -> Result<Option<Sent>, FtpFailure> {
        let key = hex::encode(Sha256::digest(format!("{} {stamp:?}", found.name)));
        let ahead = found.name.temporary(&key);
        let mut session = self.session().await?;
        let there = session.size(&ahead).await?;
        let offset = there.filter(|n| *n <= found.bytes).unwrap_or(0);
        if offset == 0 {
            session.announce(found.bytes).await?;
        }
        {
            let mut told = self.ctx.shared.told();
            if let Some(current) = told.on_the_way.get_mut(&self.name) {
                current.sent = offset;
            }
        }
        let read = if offset == found.bytes {
            None
        } else {
            let sent = |piece: &[u8]| self.piece_sent(piece.len() as u64);
            session.upload(path, &ahead, offset, sent).await?
        };
        let reading = |e: &io::Error| FtpFailure::local(format!("reading {}", path.display()), e);
        let sha256 = match read {
            Some(sha256) => sha256,
            // Only the end of it was read, or nothing.
            None => hashed(path).await.map_err(|e| reading(&e))?,
        };
        let unchanged = stamp.is_of(path).map_err(|e| reading(&e))?;
        if unchanged {
            let temporary = found.name.temporary(&sha256);
            session.rename(&ahead, &temporary).await?;
        } else {
            // Nobody will ever ask for what was sent.
            session.delete(&ahead).await?;
        }
        self.session = Some(session);
        Ok(unchanged.then_some(Sent {
            sha256,
            resumed: offset > 0,
        }))
    }

    /// Counts bytes that left; how long to rest for the others on the line.
    pub(super) fn piece_sent(&self, n: u64) -> Duration {
        let now = self.ctx.now();
        self.ctx.shared.told().sent(&self.name, n, now);
        self.ctx.limit.as_ref().map_or(Duration::ZERO, |limit| {
            let mut limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
            limit.sent(n, now.mono)
        })
    }
}

async fn hashed(path: &Path) -> io::Result<String> {
    let path = path.to_owned();
    let hash = tokio::task::spawn_blocking(move || folder::hash_file(&path));
    let (_, sha256) = hash.await.map_err(io::Error::other)??;
    Ok(sha256)
}
