//! What this node may do (R-FO-8, R-VR-3; docs/decisions/0017-features-and-rights.md): the decision is
//! [`vmsync_core::rights`]'s, here is what feeds it and what follows.
//!
//! The other node tells its rights in each heartbeat. They are kept durable when they change, when it
//! falls silent or speaks again, and now and then in between with the grace spent. After a crash the
//! grace counts from the last of these: it is never longer for it, and shorter by an hour at most.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use vmsync_config::{Config, Mode, Role, words::UnixMillis};
use vmsync_core::rights::{Lease, Lender, Right, Rights, Source, Standing, decide};
use vmsync_store::{Store, StoreError};

use crate::{
    app::{App, rfc3339},
    clock,
};

/// Where the lease is kept.
const SPACE: &str = "rights";
const KEY: &str = "peer";
/// Grace is counted and alarms are looked at so often, or oftener where little is left of it.
const TICK: Duration = Duration::from_secs(30);
/// And never oftener than this.
const REST: Duration = Duration::from_millis(20);
/// The lease is written so often while nothing but time changes it, or oftener where the grace is short.
const WRITTEN: Duration = Duration::from_hours(1);
/// But at least this lies between.
const SHORTEST: Duration = Duration::from_secs(1);
/// The source is out of reach and its rights end soon.
const GRACE: &str = "licence_grace";
/// There is no right to take voicemail.
const MISSING: &str = "licence_missing";

/// What this node knows of rights.
pub struct RightsBook {
    configured: vmsync_config::Rights,
    role: Role,
    /// `vrl.right`: false = it does not record, whatever its rights.
    may_record: bool,
    lease: Mutex<Option<Lease>>,
}

/// One right, as told in the status.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct RightStatus {
    /// Whether this node has it now.
    pub granted: bool,
    /// `own`, `peer`, `none` (the primary was never heard of) or `expired`.
    pub source: String,
    /// While its source can't be reached: when it ends, RFC 3339.
    pub grace_until: Option<String>,
}

/// All rights, as told in the status.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct RightsStatus {
    /// The voicemail licence.
    pub voicemail: RightStatus,
    /// The media-manager right, to record (R-VR-3).
    pub media_manager: RightStatus,
}

impl RightStatus {
    fn of(right: Right) -> Self {
        Self {
            granted: right.granted,
            source: match right.source {
                Source::Own => "own",
                Source::Peer => "peer",
                Source::None => "none",
                Source::Expired => "expired",
            }
            .to_owned(),
            grace_until: right.grace_until.map(rfc3339),
        }
    }

    /// In words, for people; empty where a node of an older release says nothing.
    pub(crate) fn words(&self) -> String {
        match (self.source.as_str(), self.granted) {
            ("own", true) => "its own".to_owned(),
            ("peer", true) => match &self.grace_until {
                None => "the primary's".to_owned(),
                Some(until) => {
                    format!("the primary's, which can't be reached: it ends on {until}")
                }
            },
            ("own", false) => "none".to_owned(),
            ("peer", false) => "none, for the primary has none".to_owned(),
            ("none", _) => "none, for the primary was never heard of".to_owned(),
            ("expired", _) => "ended: the primary was out of reach for the whole grace".to_owned(),
            _ => String::new(),
        }
    }
}

impl RightsStatus {
    /// Each right with its name, as people are told of them.
    pub(crate) fn named(&self) -> [(&'static str, &RightStatus); 2] {
        [
            ("Voicemail licence", &self.voicemail),
            ("Media-manager right", &self.media_manager),
        ]
    }
}

impl RightsBook {
    /// The configured rights, and the other node's as last heard.
    pub fn load(store: &Store, config: &Config) -> Result<Self, StoreError> {
        let kept = store.local(SPACE, KEY)?;
        Ok(Self {
            configured: config.rights,
            role: config.node.role,
            may_record: config.vrl.right,
            lease: Mutex::new(kept.and_then(|bytes| serde_json::from_slice(&bytes).ok())),
        })
    }

    /// What this node tells the other.
    pub(crate) fn own(&self, mode: Mode) -> Rights {
        let (voicemail, media_manager) = self.configured.own(self.role, mode);
        Rights {
            voicemail,
            media_manager: media_manager && self.may_record,
        }
    }

    /// The other node has answered. One of an older release says nothing of rights, and has them all.
    pub(crate) fn heard(&self, rights: Option<Rights>, now: UnixMillis) {
        let all = Rights {
            voicemail: true,
            media_manager: true,
        };
        *self.lock() = Some(Lease::heard(rights.unwrap_or(all), now));
    }

    /// `answers`: the other node does, and so could take its rights back.
    fn standing(&self, mode: Mode, answers: bool, now: UnixMillis) -> Standing {
        let lease = *self.lock();
        let borrows = vmsync_config::Rights::borrows(self.role, mode);
        let lender = borrows.then_some(Lender {
            lease: lease.as_ref(),
            answers,
            grace: self.configured.grace,
        });
        let mut standing = decide(self.own(mode), lender, now);
        if !self.may_record {
            standing.media_manager = Right {
                granted: false,
                source: Source::Own,
                grace_until: None,
            };
        }
        standing
    }

    /// Whether calls may be recorded here (R-VR-3); `Err` says why not.
    pub(crate) fn may_record(&self, app: &App) -> Result<(), String> {
        let answers = app.node.status().peer.signs.answers;
        let standing = self.standing(app.topology().mode, answers, clock::wall());
        let right = standing.media_manager;
        if right.granted {
            return Ok(());
        }
        Err(match right.source {
            Source::Own if !self.may_record => "vrl.right is false: this node has no media-manager right and refuses recordings (R-VR-3); hand it in at a node that has it",
            Source::Own => "rights.media_manager is false: this node has no media-manager right and refuses recordings (R-VR-3)",
            Source::Peer => "the primary has no media-manager right, so its backup refuses recordings too (R-VR-3, R-FO-8)",
            Source::None => "the primary was never heard of, so its media-manager right can't be honoured here (R-FO-8)",
            Source::Expired => "the primary was out of reach for the whole grace (rights.grace): its media-manager right has ended here; bring it back, or give this node a right of its own (R-FO-8)",
        }
        .to_owned())
    }

    /// For the status document.
    pub(crate) fn status(&self, mode: Mode, answers: bool) -> RightsStatus {
        let standing = self.standing(mode, answers, clock::wall());
        RightsStatus {
            voicemail: RightStatus::of(standing.voicemail),
            media_manager: RightStatus::of(standing.media_manager),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Lease>> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts the grace, keeps the lease, raises and ends the alarms, until the node stops.
pub(crate) async fn run(app: Arc<App>, stop: CancellationToken) {
    let mut status = app.node.watch();
    tokio::select! {
        () = stop.cancelled() => return,
        ready = status.wait_for(|s| s.node.ready) => if ready.is_err() { return },
    }
    let often = WRITTEN.min(app.config.rights.grace / 30).max(SHORTEST);
    let mut written: Option<(Duration, Option<Rights>, bool)> = None;
    loop {
        let now = clock::now();
        let (answers, told) = {
            let status = status.borrow_and_update();
            (status.peer.signs.answers, status.rights.clone())
        };
        let lease = {
            let mut lease = app.rights.lock();
            *lease = lease.map(|l| if answers { l } else { l.count(now.wall) });
            *lease
        };
        let rights = lease.map(|l| l.rights);
        let due = written
            .is_none_or(|(at, of, then)| (of, then) != (rights, answers) || now.mono >= at + often);
        if let Some(lease) = lease.filter(|_| due)
            && let Ok(bytes) = serde_json::to_vec(&lease)
        {
            let kept = app
                .store(move |s| s.put_local(SPACE, KEY, Some(&bytes)))
                .await;
            if let Err(error) = kept {
                tracing::warn!(%error, "the rights last heard of were not kept");
            } else {
                written = Some((now.mono, rights, answers));
            }
        }
        let standing = alarms(&app, answers);
        let end = standing.grace_until();
        let left = end.map(|end| Duration::from_millis(end.0.saturating_sub(clock::wall().0)));
        let rest = TICK.min(often).min(left.unwrap_or(TICK)).max(REST);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
            // Silence and words of the primary, other rights, another mode.
            gone = status.wait_for(|s| s.peer.signs.answers != answers || s.rights != told) => if gone.is_err() { return },
        }
    }
}

fn alarms(app: &App, answers: bool) -> Standing {
    let me = app.config.node.id.as_str();
    let standing = app
        .rights
        .standing(app.topology().mode, answers, clock::wall());
    match standing.grace_until() {
        Some(until) => app.alarms.raise(
            GRACE,
            me,
            &format!("the primary, whose licence rights are honoured here, can't be reached: they end on {until} (R-FO-8)"),
        ),
        None => app.alarms.clear(GRACE, me),
    }
    match missing(&standing) {
        Some(text) => app.alarms.raise(MISSING, me, text),
        None => app.alarms.clear(MISSING, me),
    }
    standing
}

/// What an operator has to know of rights that are not there.
fn missing(standing: &Standing) -> Option<&'static str> {
    let (voicemail, recording) = (standing.voicemail, standing.media_manager);
    let ended = recording.source == Source::Expired;
    match voicemail.source {
        // A secondary that was never in touch with its primary serves nobody yet.
        _ if voicemail.granted && !ended => None,
        Source::None => None,
        _ if voicemail.granted => Some(
            "the primary was out of reach for the whole grace, and its media-manager right has ended here: recordings are refused; bring the primary back or give this node a right of its own (R-FO-8, R-VR-3)",
        ),
        _ if ended => Some(
            "the primary was out of reach for the whole grace, and its rights have ended here: recordings are refused, messages are still taken, nothing a caller says is lost; bring the primary back or license this node (R-FO-8)",
        ),
        _ => Some(
            "there is no voicemail licence here: messages are still taken, nothing a caller says is lost; bring the primary back or license this node (R-FO-8)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(granted: bool, source: Source) -> Right {
        Right {
            granted,
            source,
            grace_until: None,
        }
    }

    /// R-FO-8: voicemail, recording; what the alarm says.
    #[test]
    fn the_alarm_says_which_right_is_missing() {
        use Source::{Expired, None as Unknown, Own, Peer};
        let table = [
            (right(true, Own), right(true, Own), None),
            // A node without the right to record was bought that way.
            (right(true, Own), right(false, Own), None),
            (right(true, Peer), right(false, Peer), None),
            (right(false, Unknown), right(false, Unknown), None),
            (
                right(true, Own),
                right(false, Expired),
                Some("recordings are refused"),
            ),
            (
                right(false, Expired),
                right(false, Expired),
                Some("rights have ended"),
            ),
            (
                right(false, Own),
                right(true, Own),
                Some("no voicemail licence"),
            ),
            (
                right(false, Peer),
                right(false, Peer),
                Some("no voicemail licence"),
            ),
        ];
        for (voicemail, media_manager, says) in table {
            let standing = Standing {
                voicemail,
                media_manager,
            };
            let text = missing(&standing);
            let fits = match (text, says) {
                (Some(text), Some(says)) => text.contains(says),
                (text, says) => text == says,
            };
            assert!(fits, "{standing:?}: {text:?}");
        }
    }

    #[test]
    fn people_are_told_when_a_right_ends() {
        let borrowed = Right {
            grace_until: Some(UnixMillis(1_763_769_600_000)),
            ..right(true, Source::Peer)
        };
        let words = RightStatus::of(borrowed).words();
        assert!(words.contains("ends on 2025-11-22T00:00:00"), "{words}");
        assert_eq!(RightStatus::default().words(), "");
    }
}
