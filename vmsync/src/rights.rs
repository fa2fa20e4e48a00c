//! What this node may do (R-FO-8, R-VR-3; docs/decisions/0017-features-and-rights.md): the decision is
//! [`vmsync_core::rights`]'s, here is what feeds it and what follows.
//!
//! The other node tells its rights in each heartbeat. They are kept durable when they change, and once
//! an hour with the grace spent; at most an hour of it is forgotten by a crash.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use vmsync_config::{Config, Mode, Role, words::UnixMillis};
use vmsync_core::rights::{Lease, Rights, Source, Standing, decide};
use vmsync_store::{Store, StoreError};

use crate::{
    app::{App, rfc3339},
    clock,
};

/// Where the lease is kept.
const SPACE: &str = "rights";
const KEY: &str = "peer";
/// Grace is counted and alarms are looked at so often.
const TICK: Duration = Duration::from_secs(30);
/// The lease is written so often while nothing but time changes it.
const WRITTEN: Duration = Duration::from_hours(1);
/// The source is out of reach and its rights end soon.
const GRACE: &str = "licence_grace";
/// There is no right to take voicemail.
const MISSING: &str = "licence_missing";

/// What this node knows of rights.
pub struct RightsBook {
    own: Rights,
    /// Whether this node is the one that borrows where the pair is single-active.
    secondary: bool,
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

impl RightsBook {
    /// The configured rights, and the other node's as last heard.
    pub fn load(store: &Store, config: &Config) -> Result<Self, StoreError> {
        let kept = store.local(SPACE, KEY)?;
        Ok(Self {
            own: Rights {
                voicemail: config.rights.voicemail_licence,
                media_manager: config.rights.media_manager && config.vrl.right,
            },
            secondary: config.node.role == Role::Secondary,
            lease: Mutex::new(kept.and_then(|bytes| serde_json::from_slice(&bytes).ok())),
        })
    }

    /// What this node tells the other.
    pub(crate) fn own(&self) -> Rights {
        self.own
    }

    /// The other node has answered. One of an older release says nothing of rights, and has them all.
    pub(crate) fn heard(&self, rights: Option<Rights>, now: UnixMillis) {
        let all = Rights {
            voicemail: true,
            media_manager: true,
        };
        *self.lock() = Some(Lease::heard(rights.unwrap_or(all), now));
    }

    fn standing(&self, mode: Mode, reachable: bool, now: UnixMillis) -> Standing {
        let borrows = self.secondary && mode == Mode::SingleActive;
        decide(self.own, borrows, self.lock().as_ref(), reachable, now)
    }

    /// Whether calls may be recorded here (R-VR-3); `Err` says why not.
    pub(crate) fn may_record(&self, app: &App) -> Result<(), String> {
        if !app.config.vrl.right {
            return Err(
                "vrl.right is false: this node has no media-manager right and refuses recordings (R-VR-3); hand it in at a node that has it".to_owned(),
            );
        }
        let reachable = app.node.status().peer.visible;
        let standing = self.standing(app.topology().mode, reachable, clock::wall());
        if standing.rights.media_manager {
            return Ok(());
        }
        Err(match standing.source {
            Source::Own => "rights.media_manager is false: this node has no media-manager right and refuses recordings (R-VR-3)",
            Source::Peer => "the primary has no media-manager right, so its backup refuses recordings too (R-VR-3, R-FO-8)",
            Source::None => "the primary was never heard of, so its media-manager right can't be honoured here (R-FO-8)",
            Source::Expired => "the primary was not heard of for 30 days: its media-manager right has ended here (R-FO-8)",
        }
        .to_owned())
    }

    /// For the status document.
    pub(crate) fn status(&self, mode: Mode, reachable: bool) -> RightsStatus {
        let standing = self.standing(mode, reachable, clock::wall());
        let source = match standing.source {
            Source::Own => "own",
            Source::Peer => "peer",
            Source::None => "none",
            Source::Expired => "expired",
        };
        let right = |granted| RightStatus {
            granted,
            source: source.to_owned(),
            grace_until: standing.grace_until.map(rfc3339),
        };
        RightsStatus {
            voicemail: right(standing.rights.voicemail),
            media_manager: right(standing.rights.media_manager),
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
    let mut written: Option<(Duration, Option<Rights>)> = None;
    loop {
        let (now, reachable) = (clock::now(), app.node.status().peer.visible);
        let lease = {
            let mut lease = app.rights.lock();
            *lease = lease.map(|l| if reachable { l } else { l.count(now.wall) });
            *lease
        };
        let rights = lease.map(|l| l.rights);
        let due = written.is_none_or(|(at, of)| of != rights || now.mono >= at + WRITTEN);
        if let Some(lease) = lease.filter(|_| due)
            && let Ok(bytes) = serde_json::to_vec(&lease)
        {
            let kept = app
                .store(move |s| s.put_local(SPACE, KEY, Some(&bytes)))
                .await;
            if let Err(error) = kept {
                tracing::warn!(%error, "the rights last heard of were not kept");
            } else {
                written = Some((now.mono, rights));
            }
        }
        alarms(&app, reachable);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
            gone = status.wait_for(|s| s.peer.visible != reachable) => if gone.is_err() { return },
        }
    }
}

fn alarms(app: &App, reachable: bool) {
    let me = app.config.node.id.as_str();
    let standing = app
        .rights
        .standing(app.topology().mode, reachable, clock::wall());
    match standing.grace_until {
        Some(until) => app.alarms.raise(
            GRACE,
            me,
            &format!("the primary, whose licence rights are honoured here, can't be reached: they end on {until} (R-FO-8)"),
        ),
        None => app.alarms.clear(GRACE, me),
    }
    // A secondary that was never in touch with its primary serves nobody yet.
    if standing.rights.voicemail || standing.source == Source::None {
        app.alarms.clear(MISSING, me);
    } else {
        app.alarms.raise(
            MISSING,
            me,
            "there is no voicemail licence here: messages are still taken, nothing a caller says is lost; bring the primary back or license this node (R-FO-8)",
        );
    }
}
