//! Operators' requests (R-FO-4, R-FB-6): decided here, or forwarded to the node that decides.

use std::sync::Arc;

use tokio::sync::oneshot;
use vmsync_config::words::{GroupName, NodeId, Now};
use vmsync_core::resilience::{Ask, Ownership, Request};

use super::{Node, one_sided};
use crate::{
    app::{Guard, OneSidedAnswer, Outcome, Refused},
    clock,
    features::FeatureStatus,
    pair::{Act, FeatureAct, PeerError},
};

impl Node {
    /// Decides a request. `None`: the peer decides it, forward it.
    pub(super) async fn request(
        &mut self,
        name: &GroupName,
        request: Request,
        guard: &Guard,
        forwarded: bool,
        now: Now,
    ) -> Option<Result<Outcome, Refused>> {
        if !self.started(now) {
            return Some(Err(refused(
                "starting",
                "this node is asking its peer before it decides; try again in a second",
            )));
        }
        let Some(index) = self.groups.iter().position(|g| g.name() == name) else {
            let known: Vec<_> = self.groups.iter().map(|g| g.name().as_str()).collect();
            return Some(Err(refused(
                "not_found",
                &format!("there is no group {name}; there is {}", known.join(" and ")),
            )));
        };
        let ask = match ask(request, guard) {
            Ok(ask) => ask,
            Err(refused) => return Some(Err(refused)),
        };
        if let Some(at) = &guard.at {
            let at = match at.parse() {
                Ok(at) => at,
                Err(e) => return Some(Err(refused("invalid", &format!("at: {e}")))),
            };
            return Some(self.schedule(index, request, guard, at, now).await);
        }
        let calls = self.calls_on_owner(index);
        let decision =
            self.groups[index].decide(&self.seen(now), calls, &self.rules(), Some(&ask), now);
        if let Some(no) = decision.refused {
            if no.code == "not_backup" && !forwarded {
                if self.peer.answers(now) {
                    return None;
                }
                return Some(self.queue(index, request, guard, now).await);
            }
            return Some(Err(refused(no.code, &no.reason)));
        }
        let Some(next) = decision.ownership.clone() else {
            return Some(Err(refused("nothing_to_do", "nothing would change")));
        };
        let transition = decision.row.is_some();
        if !guard.dry_run
            && let Err(error) = self.own(index, next.clone(), transition).await
        {
            return Some(Err(refused(
                "not_durable",
                &format!("{error}; nothing was changed"),
            )));
        }
        let Ownership { owner, epoch, .. } = &next;
        let what = if transition {
            format!("{owner} serves group {name}: {}", next.reason)
        } else {
            format!("failback of group {name} goes on by itself, as the policy says")
        };
        Some(Ok(Outcome {
            group: name.to_string(),
            owner: owner.to_string(),
            epoch: *epoch,
            what,
            dry_run: guard.dry_run,
            waiting_for: decision.waiting_for.clone(),
            scheduled: None,
            one_sided: None,
        }))
    }

    /// Tells what only one of the nodes holds; the peer is asked where it answers.
    pub(super) fn tell_one_sided(&self, answer: oneshot::Sender<OneSidedAnswer>, now: Now) {
        let (app, client) = (Arc::clone(&self.app), self.client.clone());
        let (theirs, ours) = (
            self.progress.peer.have().clone(),
            self.progress.have.clone(),
        );
        let answers = self.peer.answers(now);
        tokio::spawn(async move {
            let here = app.store(move |s| one_sided(s, &theirs)).await;
            let there = if answers {
                client.one_sided(ours).await.ok()
            } else {
                None
            };
            if let Ok(here) = here {
                let _ = answer.send(OneSidedAnswer { here, there });
            }
        });
    }

    /// Hands a request to the peer and its answer back, without holding up the loop.
    pub(super) fn forward(
        &self,
        group: GroupName,
        request: Request,
        guard: Guard,
        answer: oneshot::Sender<Result<Outcome, Refused>>,
    ) {
        let peer = self.app.config.pair.peer_id.clone();
        let boot = self
            .peer
            .report
            .as_ref()
            .filter(|_| self.peer.answers(clock::now()))
            .map(|r| r.boot);
        let client = self.client.clone();
        let act = Act {
            group,
            request: name(request).to_owned(),
            guard,
        };
        tokio::spawn(async move {
            let result = match boot {
                None => Err(unreachable_peer(&peer, "it is out of sight")),
                Some(boot) => match client.act(boot, &act).await {
                    Ok(acted) => acted,
                    Err(PeerError::Silent { why, .. }) => Err(refused(
                        "peer_silent",
                        &format!(
                            "{peer} was asked and has given no answer ({why}): it may have been done; look at who serves before you ask again"
                        ),
                    )),
                    Err(error) => Err(unreachable_peer(&peer, &error.to_string())),
                },
            };
            let _ = answer.send(result);
        });
    }
}

impl Node {
    /// Hands an administrator's failback of a feature to the peer, and its answer back, likewise.
    pub(super) fn pass_on(
        &self,
        act: FeatureAct,
        answer: oneshot::Sender<Result<FeatureStatus, Refused>>,
    ) {
        let peer = self.app.config.pair.peer_id.clone();
        let report = self.peer.report.as_ref();
        let answers = self.peer.answers(clock::now());
        let boot = report.filter(|_| answers).map(|r| r.boot);
        let client = self.client.clone();
        tokio::spawn(async move {
            let about = format!("{} of {}", act.feature.as_str(), act.system);
            let unreachable = |why: &str| {
                refused(
                    "peer_unreachable",
                    &format!("{peer} decides about {about} and can't be asked: {why}"),
                )
            };
            let result = match boot {
                None => Err(unreachable("it is out of sight")),
                Some(boot) => match client.feature(boot, &act).await {
                    Ok(acted) => acted,
                    Err(error) => Err(unreachable(&error.to_string())),
                },
            };
            let _ = answer.send(result);
        });
    }
}

pub(super) fn ask(request: Request, guard: &Guard) -> Result<Ask, Refused> {
    let expected_owner = guard.expected_owner.as_ref().map(NodeId::new).transpose();
    Ok(Ask {
        request,
        expected_owner: expected_owner
            .map_err(|e| refused("invalid", &format!("expected_owner: {e}")))?,
        reason: guard.reason.clone(),
    })
}

fn name(request: Request) -> &'static str {
    match request {
        Request::ActivateBackup => "activate-backup",
        Request::Failback { .. } => "failback",
    }
}

fn unreachable_peer(peer: &NodeId, why: &str) -> Refused {
    refused(
        "peer_unreachable",
        &format!("{peer} decides about this group and can't be asked: {why}"),
    )
}

pub(super) fn refused(code: &str, reason: &str) -> Refused {
    Refused {
        code: code.to_owned(),
        reason: reason.to_owned(),
    }
}
