//! An administrator's failback, asked at either node.

use std::sync::Arc;

use vmsync_config::words::SystemName;
use vmsync_core::{
    Now,
    features::{Feature, Refused, Side},
};

use super::{FeatureStatus, Features, view};
use crate::{
    app::{self, App},
    clock,
    pair::FeatureAct,
};

/// Conditions of an administrator's failback.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ask {
    /// Only say what would happen.
    pub(crate) dry_run: bool,
    /// Refuse where it has moved since.
    pub(crate) expected_epoch: Option<u64>,
}

impl From<Refused> for app::Refused {
    fn from(refused: Refused) -> Self {
        let code = match refused.code {
            "no_such_system" => "unknown_system",
            code => code,
        };
        Self {
            code: code.to_owned(),
            reason: refused.reason,
        }
    }
}

impl Features {
    /// Carried out by the node that decides about the system, here or there. Either node may have
    /// taken the feature over while the other was away: what it took over it brings home, too.
    pub(crate) async fn failback_anywhere(
        &self,
        app: &Arc<App>,
        system: &SystemName,
        feature: Feature,
        ask: Ask,
    ) -> Result<FeatureStatus, app::Refused> {
        let (decides, taken_over_here) = self.place(system, feature)?;
        // The epoch that is expected is that of the node that decides.
        let also = Ask {
            expected_epoch: None,
            ..ask
        };
        if decides {
            let done = self
                .failback(app, system, feature, ask, clock::now())
                .await?;
            if !ask.dry_run && app.node.status().peer.signs.answers {
                let (app, act) = (Arc::clone(app), FeatureAct::new(system, feature, also));
                tokio::spawn(async move {
                    if let Err(no) = app.node.pass_on(act).await {
                        tracing::debug!(
                            reason = no.reason,
                            "the other node has nothing to bring home"
                        );
                    }
                });
            }
            return Ok(done);
        }
        let act = FeatureAct::new(system, feature, ask);
        let theirs = app.node.pass_on(act).await;
        let agreed = match &theirs {
            Ok(_) => true,
            Err(no) => no.code == "already_there",
        };
        if !taken_over_here || !agreed {
            return theirs;
        }
        let ours = self
            .failback(app, system, feature, also, clock::now())
            .await;
        theirs.or(ours.map_err(app::Refused::from))
    }

    /// Whether this node decides about a system, and whether it took the feature over itself.
    fn place(&self, system: &SystemName, feature: Feature) -> Result<(bool, bool), Refused> {
        let inner = self.lock();
        let tracker = &inner.tracker;
        let number = tracker.number(system);
        let stands = number.and_then(|n| Some((n, tracker.stands(n, feature)?.1)));
        let (number, standing) = stands.ok_or_else(|| unknown(system))?;
        let taken_over_here = standing.side == Side::Backup && standing.by.is_none();
        Ok((tracker.decides(number), taken_over_here))
    }

    /// An administrator's failback at this node: what it would be, and done unless it is a dry run.
    pub(crate) async fn failback(
        &self,
        app: &App,
        system: &SystemName,
        feature: Feature,
        ask: Ask,
        now: Now,
    ) -> Result<FeatureStatus, Refused> {
        let _turn = self.turns.lock().await;
        let change = {
            let mut inner = self.lock();
            let (number, epoch) = inner
                .tracker
                .number(system)
                .and_then(|n| Some((n, inner.tracker.stands(n, feature)?.1.epoch)))
                .ok_or_else(|| unknown(system))?;
            if ask.expected_epoch.is_some_and(|expected| expected != epoch) {
                return Err(Refused {
                    code: "stale_expected_epoch",
                    reason: format!(
                        "{} of {system} is at epoch {epoch} by now",
                        feature.as_str()
                    ),
                });
            }
            let change = inner.tracker.ask_failback(system, feature, now)?;
            if ask.dry_run {
                let shown = view::feature(&inner.tracker, &self.me, number, feature, now);
                return shown
                    .map(|status| status.after(&change))
                    .ok_or_else(stopping);
            }
            change
        };
        self.follow(app, vec![change], now)
            .await
            .map_err(|reason| Refused {
                code: "not_durable",
                reason,
            })?;
        let inner = self.lock();
        let number = inner.tracker.number(system).unwrap_or_default();
        view::feature(&inner.tracker, &self.me, number, feature, now).ok_or_else(stopping)
    }
}

fn unknown(system: &SystemName) -> Refused {
    Refused {
        code: "unknown_system",
        reason: format!("{system} is none of [[systems]]"),
    }
}

fn stopping() -> Refused {
    Refused {
        code: "stopping",
        reason: "the node is stopping; ask the other one".to_owned(),
    }
}
