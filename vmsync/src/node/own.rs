//! Ownership in this node: decided, made durable, and only then acted on (architecture decision 2).

use vmsync_config::{Mode, Role, words::Now};
use vmsync_core::resilience::{Ownership, Phase};
use vmsync_store::StoreError;

use super::{Node, groups};

impl Node {
    /// Lets each group decide for itself. True when an ownership changed.
    pub(super) async fn decide_all(&mut self, now: Now) -> bool {
        let seen = self.seen();
        let rules = self.rules();
        let mut changed = false;
        for index in 0..self.groups.len() {
            let calls = self.calls_on_owner(index);
            let decision = self.groups[index].decide(&seen, calls, &rules, None, now);
            let next = decision.ownership.clone();
            let automatic = decision.row.is_some();
            self.groups[index].decision = decision;
            if let Some(next) = next {
                changed |= self.own(index, next, automatic).await.is_ok();
            }
        }
        changed
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
        if let Err(error) = self
            .app
            .store(move |s| groups::persist(s, &kept, life))
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
        Ok(())
    }

    /// Takes over what the peer knows better; then this node may serve.
    pub(super) async fn adopt(&mut self, theirs: &[Ownership], _now: Now) {
        for index in 0..self.groups.len() {
            if let Some(next) = self.groups[index].adopted(theirs) {
                // Not kept: not adopted. The next heartbeat tells it again.
                let _ = self.own(index, next, false).await;
            }
        }
    }

    /// Tells consumers, alarms, and the mover of recordings (R-FO-6, R-AL-1, R-VR-1).
    fn announce(&self, index: usize, next: &Ownership) {
        let group = self.groups[index].machine.group();
        if let Ok(data) = serde_json::to_value(next) {
            self.app.events.publish("ownership", data);
        }
        let failed_over = next.owner == group.backup;
        let systems = self.app.config.systems.iter();
        for system in systems.filter(|s| self.app.group_of(Some(s.name.as_str())) == group.name) {
            let name = system.name.as_str();
            if failed_over {
                let text = format!(
                    "voicemail of {name} is served by {}: {}",
                    next.owner, next.reason
                );
                self.app.alarms.raise("voicemail_failover", name, &text);
            } else {
                self.app.alarms.clear("voicemail_failover", name);
            }
        }
    }

    /// Recordings move when the primary serves its own group again (R-VR-1); never in dual-active (R-VR-3).
    pub(super) fn vrl_allowed(&self) -> (bool, String) {
        let config = &self.app.config;
        let Some(group) = self.groups.first() else {
            return (false, "there is no group".to_owned());
        };
        let home = &group.machine.group().home;
        if config.pair.mode == Mode::DualActive {
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
