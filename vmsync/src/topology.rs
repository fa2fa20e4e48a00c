//! Who is home of what: the configured mode and systems, and over them what was switched live
//! (R-TO-1 to R-TO-3). Replicated as settings, so both nodes switch.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;
use vmsync_config::{
    Config, Destination, Group, Mode, Role, System,
    words::{GroupName, NodeId, SystemName},
};

/// What was switched live; both empty where nothing was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Switched {
    /// Over `pair.mode`.
    pub mode: Option<Mode>,
    /// Over `systems.destination`, of systems that are configured.
    pub destinations: BTreeMap<SystemName, Destination>,
}

/// Mode, systems and groups in force.
#[derive(Debug, Clone)]
pub struct Topology {
    /// Single- or dual-active.
    pub mode: Mode,
    /// With their destinations in force.
    pub systems: Vec<System>,
    groups: Vec<Group>,
}

impl Topology {
    /// As configured.
    pub fn configured(config: &Config) -> Self {
        Self::switched(config, &Switched::default())
    }

    /// With what was switched. In single-active every destination is the primary (R-TO-3); in
    /// dual-active a system's home is the node of its destination (R-TO-2).
    pub(crate) fn switched(config: &Config, switched: &Switched) -> Self {
        let mode = switched.mode.unwrap_or(config.pair.mode);
        let systems = config.systems.iter().map(|system| {
            let chosen = switched.destinations.get(&system.name);
            let destination = match mode {
                Mode::SingleActive => Destination::Primary,
                Mode::DualActive => chosen.copied().unwrap_or(system.destination),
            };
            let home = match mode {
                Mode::SingleActive => system.home.clone(),
                Mode::DualActive => node_of(config, destination).clone(),
            };
            System {
                destination,
                home,
                ..system.clone()
            }
        });
        Self {
            mode,
            systems: systems.collect(),
            groups: config.groups_in(mode),
        }
    }

    /// The groups: the primary's, in dual-active also the secondary's.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The system of that name.
    pub fn system(&self, name: &str) -> Option<&System> {
        self.systems.iter().find(|s| s.name.as_str() == name)
    }

    /// The group that a mailbox of `home_system` belongs to: its system's destination in
    /// dual-active; the primary's where nothing says otherwise (R-TO-1, R-TO-3).
    pub fn group_of(&self, home_system: Option<&str>) -> GroupName {
        let system = home_system.and_then(|name| self.system(name));
        match system {
            Some(system) => self.group_of_system(system).clone(),
            None => self.groups[0].name.clone(),
        }
    }

    /// The group of one of [`systems`](Self::systems).
    pub fn group_of_system(&self, system: &System) -> &GroupName {
        match (system.destination, self.groups.as_slice()) {
            (Destination::Secondary, [_, secondary]) => &secondary.name,
            (_, groups) => &groups[0].name,
        }
    }
}

fn node_of(config: &Config, destination: Destination) -> &NodeId {
    let own = matches!(
        (destination, config.node.role),
        (Destination::Primary, Role::Primary) | (Destination::Secondary, Role::Secondary)
    );
    if own {
        &config.node.id
    } else {
        &config.pair.peer_id
    }
}

/// The topology in force, changed by the node loop alone.
pub struct TopologyCell {
    now: watch::Sender<Arc<Topology>>,
    /// One switch at a time: each is made over the one before.
    pub(crate) switching: tokio::sync::Mutex<()>,
}

impl TopologyCell {
    /// The configured one.
    pub fn new(config: &Config) -> Self {
        Self {
            now: watch::Sender::new(Arc::new(Topology::configured(config))),
            switching: tokio::sync::Mutex::default(),
        }
    }

    /// The one in force now.
    pub fn get(&self) -> Arc<Topology> {
        Arc::clone(&self.now.borrow())
    }

    /// Follows it.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Topology>> {
        self.now.subscribe()
    }

    pub(crate) fn set(&self, topology: Topology) {
        self.now.send_replace(Arc::new(topology));
    }
}
