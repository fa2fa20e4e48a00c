//! Ownership in this node: decided, made durable, and only then acted on (architecture decision 2).

use vmsync_config::{Mode, Role, words::Now};
use vmsync_core::resilience::{Ownership, Phase};
use vmsync_store::StoreError;

use super::{Node, groups, proof};
use crate::alarms::Later;

/// Voicemail of a system is served by its backup (R-AL-1).
pub(super) const VOICEMAIL_FAILOVER: &str = "voicemail_failover";

impl Node {
    /// Lets each group decide for itself.
    pub(super) async fn decide_all(&mut self, now: Now) {
        let seen = self.seen(now);
        let rules = self.rules();
        for index in 0..self.groups.len() {
            let calls = self.calls_on_owner(index);
            let decision = self.groups[index].decide(&seen, calls, &rules, None, now);
            if let Some(next) = decision.ownership.clone()
                && self.own(index, next, decision.row.is_some()).await.is_err()
            {
                // Not durable, so it has not happened: status and recordings go by what was before.
                continue;
            }
            self.groups[index].decision = decision;
        }
    }

    /// Makes a new ownership durable and takes it on. Nothing is acted on before that.
    pub(super) async fn own(
        &mut self,
        index: usize,
        next: Ownership,
        transition: bool,
    ) -> Result<(), StoreError> {
        let kept = next.clone();
        let before = self.groups[index].ownership.owner.clone();
        let life = if transition {
            self.peer.report.as_ref().map(|r| r.boot)
        } else {
            self.groups[index].held_life
        };
        let home = &self.groups[index].machine.group().home;
        let failback = transition && before != *home && next.owner == *home;
        let rests_on = failback.then(|| self.rests_on());
        if let Err(error) = self
            .app
            .store(move |s| {
                if let Some(proof) = &rests_on {
                    proof::keep_failback(s, &kept, proof)?;
                }
                groups::persist(s, &kept, life)
            })
            .await
        {
            self.app.alarms.raise(
                "ownership_not_kept",
                next.group.as_str(),
                &format!("{error}; nothing was changed"),
            );
            return Err(error);
        }
        self.app
            .alarms
            .clear("ownership_not_kept", next.group.as_str());
        if transition || before != next.owner {
            tracing::info!(group = %next.group, epoch = next.epoch, owner = %next.owner, "{}", next.reason);
            self.announce(index, &next);
        }
        self.groups[index].ownership = next;
        self.groups[index].held_life = life;
        self.progress.tell_peer = true;
        Ok(())
    }

    /// Phones that count as evidence are known after a restart as well.
    pub(super) async fn keep_evidence(&mut self) {
        for index in 0..self.groups.len() {
            let group = &self.groups[index];
            let Some(counted) = group.evidence_to_keep() else {
                continue;
            };
            let (name, wanted) = (group.name().clone(), counted.clone());
            let kept = self
                .app
                .store(move |s| groups::keep_evidence(s, &name, &wanted));
            if kept.await.is_ok() {
                self.groups[index].evidence_kept = counted;
            }
        }
    }

    /// Takes over what the peer knows better. False when that could not be made durable: it is not
    /// adopted then, and the next heartbeat tells it again.
    pub(super) async fn adopt(&mut self, theirs: &[Ownership]) -> bool {
        let mut adopted = true;
        for index in 0..self.groups.len() {
            if let Some(next) = self.groups[index].adopted(theirs) {
                adopted &= self.own(index, next, false).await.is_ok();
            }
        }
        adopted
    }

    /// Tells consumers (R-FO-6).
    fn announce(&self, index: usize, next: &Ownership) {
        let config = &self.app.config;
        let (fqdn, url) = if next.owner == config.node.id {
            (&config.node.fqdn, None)
        } else {
            let url = config.pair.peer_url.as_str().trim_end_matches('/');
            (&config.pair.peer, Some(url))
        };
        if let Ok(mut data) = serde_json::to_value(next) {
            data["fqdn"] = fqdn.as_str().into();
            // This node's own address is the one its reader uses already.
            data["url"] = url.into();
            self.app.events.publish("ownership", data);
        }
        self.failover_alarms(index, next);
    }

    /// One alarm per system whose voicemail is served by the backup, ended when it is home again
    /// (R-AL-1); one for the group where no systems are configured. Called at start too: the process
    /// may have ended between an ownership and its alarm.
    pub(super) fn failover_alarms(&self, index: usize, ownership: &Ownership) {
        let group = self.groups[index].machine.group();
        let topology = self.app.topology();
        let systems = topology.systems.iter();
        let mut subjects: Vec<_> = systems
            .filter(|s| *topology.group_of_system(s) == group.name)
            .map(|s| s.name.as_str())
            .collect();
        if subjects.is_empty() {
            subjects.push(group.name.as_str());
        }
        let alarm = |subject: &str| {
            let subject = subject.to_owned();
            if ownership.owner == group.backup {
                let Ownership { owner, reason, .. } = ownership;
                let text = format!("voicemail of {subject} is served by {owner}: {reason}");
                Later::Raise(VOICEMAIL_FAILOVER, subject, text)
            } else {
                Later::Clear(VOICEMAIL_FAILOVER, subject)
            }
        };
        let alarms = subjects.into_iter().map(alarm).collect();
        self.app.alarms.later(alarms);
    }

    /// Recordings move when the primary serves its own group again (R-VR-1); never in dual-active (R-VR-3).
    pub(super) fn vrl_allowed(&self) -> (bool, String) {
        let config = &self.app.config;
        let Some(group) = self.groups.first() else {
            return (false, "there is no group".to_owned());
        };
        let home = &group.machine.group().home;
        if self.app.topology().mode == Mode::DualActive {
            (
                false,
                "in dual-active recordings stay with the node that made them (R-VR-3)".to_owned(),
            )
        } else if config.node.role == Role::Primary {
            (
                false,
                "recordings are moved by the secondary (R-VR-1)".to_owned(),
            )
        } else if group.decision.phase == Phase::Normal && self.peer.visible() {
            (true, format!("{home} serves again"))
        } else {
            (false, format!("waiting for {home} to serve again (R-VR-1)"))
        }
    }
}
