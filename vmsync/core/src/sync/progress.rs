//! How far each direction is, in the words of R-SY-5.

use std::time::Duration;

use super::{Blame, Direction, Session, SyncState};
use crate::wire::{Left, Seeding};

/// Failures in a row after which a direction is stalled.
const FAILURES: u32 = 3;
/// Time without progress after which a direction is stalled.
const PATIENCE: Duration = Duration::from_secs(30);

impl Session {
    /// From this node to its peer.
    pub fn outgoing(&self, now: Duration) -> Direction {
        let pending = self.pending_out();
        let stuck = self.trouble(now).or_else(|| {
            let since = self.progress_out;
            let late = pending > 0 && now >= since.saturating_add(PATIENCE);
            late.then(|| (since, format!("{} takes no operations", self.peer_name())))
        });
        let bytes = self.left_now().map_or(0, |l| l.bytes);
        let step = self.peer.as_ref().and_then(|p| p.seeding.as_ref());
        self.direction((pending, bytes), self.eta_out.rest(), step, stuck)
    }

    /// What is left for the peer. Of a seeding the store counts all that is held: less what has
    /// gone. (What went in an earlier session is counted again.)
    pub(super) fn left_now(&self) -> Option<Left> {
        let mut left = self.left?;
        if self
            .peer
            .as_ref()
            .is_some_and(|p| self.lacks_what_the_log_lost(&p.have))
        {
            left.bytes = left.bytes.saturating_sub(self.seeded_bytes);
        }
        Some(left)
    }

    /// Reads how much is left in each direction, for the estimates.
    pub(super) fn read_progress(&mut self, now: Duration) {
        let (out, incoming) = (self.outgoing(now), self.incoming(now));
        self.eta_out.read(now, out.bytes.max(out.pending));
        self.eta_in.read(now, incoming.bytes.max(incoming.pending));
    }

    /// From the peer to this node, as far as the peer has told.
    pub fn incoming(&self, now: Duration) -> Direction {
        let pending = self.pending_in();
        let stuck = self.silence(now).or_else(|| {
            let since = self.progress_in;
            let late = pending > 0 && now >= since.saturating_add(PATIENCE);
            late.then(|| (since, format!("{} sends no operations", self.peer_name())))
        });
        let left = self.peer.as_ref().and_then(|p| p.left.as_ref());
        let bytes = left.filter(|_| pending > 0).map_or(0, |l| l.bytes);
        self.direction(
            (pending, bytes),
            self.eta_in.rest(),
            self.seeding.as_ref(),
            stuck,
        )
    }

    /// The digest the peer last told, in this session.
    pub fn peer_digest(&self) -> Option<&str> {
        self.peer.as_ref().map(|p| p.said.digest.as_str())
    }

    /// Operations held here that the peer is not known to hold.
    pub fn pending_out(&self) -> u64 {
        let theirs = self.peer.as_ref().map(|p| &p.have);
        theirs.map_or(0, |theirs| self.local.have.ahead_of(theirs))
    }

    /// Operations the peer has said to hold that are lacking here.
    pub fn pending_in(&self) -> u64 {
        let theirs = self.peer.as_ref().map(|p| &p.have);
        theirs.map_or(0, |theirs| theirs.ahead_of(&self.local.have))
    }

    fn direction(
        &self,
        (pending, bytes): (u64, u64),
        rest: Option<Duration>,
        step: Option<&Seeding>,
        stalled: Option<(Duration, String)>,
    ) -> Direction {
        let state = if stalled.is_some() {
            SyncState::Stalled
        } else if self.started.is_none() {
            SyncState::Idle
        } else if pending > 0 {
            SyncState::Syncing
        } else if self.finished() {
            SyncState::Finished
        } else {
            SyncState::Started
        };
        Direction {
            state,
            pending,
            bytes,
            rest: rest.filter(|_| state == SyncState::Syncing),
            seeding: step.map(|s| s.after.clone().unwrap_or_default()),
            stalled,
        }
    }

    /// Our mails don't get through, or the peer is silent.
    fn trouble(&self, now: Duration) -> Option<(Duration, String)> {
        let failing = self.trouble.as_ref().filter(|t| {
            t.blame == Blame::Setup
                || self.failures() >= FAILURES
                || now >= t.since.saturating_add(PATIENCE)
        });
        let failing = failing.map(|t| (t.since, t.why.clone()));
        failing
            .or_else(|| self.too_old(now))
            .or_else(|| self.silence(now))
    }

    /// Only a seeding would help, and the peer does not know what that is.
    fn too_old(&self, now: Duration) -> Option<(Duration, String)> {
        let since = self.started.unwrap_or(now);
        self.too_old_to_seed().then(|| {
            let peer = self.peer_name();
            let why = format!(
                "{peer} lacks operations that are not in the log any more, and its version can't take state instead: upgrade {peer}"
            );
            (since, why)
        })
    }

    /// The peer was spoken with and is gone, or is there and does not answer.
    fn silence(&self, now: Duration) -> Option<(Duration, String)> {
        let since = self.begun;
        if !self.visible {
            // Not spoken with since start is idle, not stalled.
            let known = self.peer_node.is_some();
            return known.then(|| (since, format!("{} is not visible", self.peer_name())));
        }
        let late = self.started.is_none() && now >= since.saturating_add(PATIENCE);
        late.then(|| {
            let peer = self.peer_name();
            (since, format!("{peer} does not answer over SMTP"))
        })
    }

    fn peer_name(&self) -> &str {
        let node = self.peer_node.as_ref();
        node.map_or("the peer", |node| node.as_str())
    }
}
