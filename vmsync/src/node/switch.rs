//! Switching live between single- and dual-active, and systems between the nodes.
//!
//! Both nodes hear of it as a setting. A group that is there before and after keeps everything; one
//! that begins takes up the ownership it had last; one that ends is no longer decided about, its
//! record stays. Whoever asked made sure that every group was at home (`http/topology.rs`); should a
//! failover have come in between, the group's owner still stands, and nothing is lost by it.

use super::{Node, groups::GroupState, own::VOICEMAIL_FAILOVER};
use crate::{
    alarms::Later,
    clock,
    topology::{Switched, Topology},
};

/// Alarms about a group that its node looks at again and again, which ends with the group.
const ALARMS_OF_GROUPS: [&str; 2] = ["flapping", "order_overdue"];

impl Node {
    /// Takes on what the settings say.
    pub(super) async fn switch(&mut self) {
        let switched: Switched = self.agreed.switched.clone();
        let topology = Topology::switched(&self.app.config, &switched);
        let now = clock::now();
        let (app, wanted) = (self.app.clone(), topology.clone());
        let loaded = self.app.store(move |store| {
            let groups = wanted.groups().iter().cloned();
            let groups =
                groups.map(|g| GroupState::load(store, &app.config, &wanted.systems, g, now));
            groups.collect::<Result<Vec<_>, _>>()
        });
        let loaded = match loaded.await {
            Ok(loaded) => loaded,
            Err(error) => {
                // The settings are read again with the next commit.
                tracing::error!(%error, "the mode could not be switched; tried again");
                self.agreed.switched = Switched {
                    mode: Some(self.app.topology().mode),
                    ..Switched::default()
                };
                return;
            }
        };
        let systems = topology
            .systems
            .iter()
            .map(|system| system.name.to_string());
        let groups = self.groups.iter().map(|group| group.name().to_string());
        let over = systems.chain(groups);
        let mut alarms: Vec<_> = over
            .map(|subject| Later::Clear(VOICEMAIL_FAILOVER, subject))
            .collect();
        let kept = |name: &str| topology.groups().iter().any(|g| g.name.as_str() == name);
        let ended = self.groups.iter().map(|group| group.name().to_string());
        for name in ended.filter(|name| !kept(name)) {
            alarms.extend(ALARMS_OF_GROUPS.map(|code| Later::Clear(code, name.clone())));
        }
        alarms.push(Later::Follow(Box::new(topology.clone())));
        self.app.alarms.later(alarms);
        tracing::info!(
            mode = super::mode_name(topology.mode),
            "mode and systems as switched live"
        );
        self.app.topology.set(topology);
        self.groups = loaded;
        self.sight_changed();
        for index in 0..self.groups.len() {
            self.failover_alarms(index, &self.groups[index].ownership);
        }
        self.app.events.publish(
            "topology",
            serde_json::json!({"mode": super::mode_name(self.app.topology().mode)}),
        );
    }
}
