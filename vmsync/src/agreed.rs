//! What the nodes agree upon by replicated settings: failback, maintenance mode, orders for later.
//!
//! A value that this version can't read is passed over, as if it were not set.

use std::collections::BTreeMap;

use serde_json::Value;
use vmsync_config::{
    Destination, Failback, Mode,
    words::{GroupName, NodeId, SystemName, UnixMillis},
};
use vmsync_core::resilience::{Maintenance, Standing};
use vmsync_store::model::Settings;

use crate::{http, topology::Switched};

/// Setting of maintenance mode: [`Maintenance`], or [`Ended`].
pub const MAINTENANCE: &str = "maintenance";
/// Settings of orders, each followed by the group's name: [`Standing`].
const ORDER: &str = "order.";
/// Setting of mode and destinations, one for both so that no node sees the one without the other:
/// `{"mode": "dual-active", "destinations": {"branch": "99998"}}`.
pub const TOPOLOGY: &str = "topology";

/// The settings in force.
#[derive(Debug, Clone)]
pub struct Agreed {
    /// Failback.
    pub failback: Failback,
    /// Maintenance mode, also one whose time is over.
    pub maintenance: Option<Maintenance>,
    /// How the last maintenance mode ended, where an operator ended it.
    pub ended: Option<Ended>,
    /// The order of each group, or what became of it.
    pub orders: BTreeMap<GroupName, Standing>,
    /// Mode and destinations switched live.
    pub switched: Switched,
}

/// Maintenance mode was ended by an operator.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ended {
    /// When.
    pub ended: UnixMillis,
    /// At which node.
    pub by: NodeId,
}

impl Agreed {
    /// The replicated `settings` over what is `configured`.
    pub fn read(configured: &Failback, settings: &Settings) -> Self {
        let maintenance = settings.get(MAINTENANCE).map(|(value, _)| value);
        let orders = settings.iter().filter_map(|(name, (value, _))| {
            let group = GroupName::new(name.strip_prefix(ORDER)?).ok()?;
            Some((group, read(value)?))
        });
        Self {
            failback: http::effective_failback(configured, settings),
            maintenance: maintenance.and_then(read),
            ended: maintenance.and_then(read),
            orders: orders.collect(),
            switched: switched(settings),
        }
    }

    /// The orders that stand, for heartbeats.
    pub fn standing_orders(&self) -> Vec<(GroupName, String)> {
        let open = self.orders.iter().filter_map(|(group, standing)| {
            let Standing::Open(order) = standing else {
                return None;
            };
            Some((group.clone(), order.id.clone()))
        });
        open.collect()
    }

    /// The configured values alone.
    pub fn configured(configured: &Failback) -> Self {
        Self::read(configured, &Settings::new())
    }
}

fn switched(settings: &Settings) -> Switched {
    let Some((value, _)) = settings.get(TOPOLOGY) else {
        return Switched::default();
    };
    let destinations = value["destinations"].as_object();
    let destinations = destinations.into_iter().flatten();
    Switched {
        mode: match value["mode"].as_str() {
            Some("single-active") => Some(Mode::SingleActive),
            Some("dual-active") => Some(Mode::DualActive),
            _ => None,
        },
        destinations: destinations
            .filter_map(|(name, number)| {
                let destination = match number.as_str()? {
                    "99999" => Destination::Primary,
                    "99998" => Destination::Secondary,
                    _ => return None,
                };
                Some((SystemName::new(name).ok()?, destination))
            })
            .collect(),
    }
}

/// Name of the setting that holds the order of `group`.
pub fn order_of(group: &GroupName) -> String {
    format!("{ORDER}{group}")
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> Option<T> {
    serde_json::from_value(value.clone()).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use vmsync_config::FailbackPolicy;
    use vmsync_store::{Hlc, Stamp};

    use super::*;

    #[test]
    fn what_a_newer_version_wrote_is_passed_over() {
        let configured = Failback {
            policy: FailbackPolicy::Graceful,
            timeout: Duration::from_mins(10),
            stable_for: Duration::ZERO,
            hold_off: Duration::ZERO,
        };
        let stamp = Stamp {
            at: Hlc::default(),
            origin: "vmpro1.00000001".parse().unwrap(),
            seq: 1,
        };
        let settings = [
            ("maintenance", serde_json::json!({"moon": "full"})),
            ("order.primary", serde_json::json!({"dance": {}})),
            ("order.not a name", Value::Null),
            (
                "topology",
                serde_json::json!({"mode": "triple-active", "destinations": {"HQ": "99997", "": 3}}),
            ),
        ];
        let settings = settings.map(|(n, v)| (n.to_owned(), (v, stamp.clone())));
        let agreed = Agreed::read(&configured, &settings.into_iter().collect());
        assert!(agreed.maintenance.is_none() && agreed.orders.is_empty());
        assert_eq!(agreed.switched, Switched::default());
    }
}
