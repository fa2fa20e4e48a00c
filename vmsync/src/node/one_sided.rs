//! What only this node holds: told before a failover or failback is done (`dry_run`).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vmsync_config::words::Vector;
use vmsync_store::{EntityKey, Store, StoreError};

/// Messages named; the rest is counted.
const NAMED: usize = 50;
/// Operations looked at to find them.
const LOOK: usize = 5_000;

/// What a node holds that the other lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OneSided {
    /// Operations.
    pub operations: u64,
    /// Messages of which this is the only copy.
    pub messages: u64,
    /// The first 50 of them, by id.
    pub ids: Vec<String>,
}

/// What `store` holds beyond `held`.
pub(crate) fn one_sided(store: &Store, held: &Vector) -> Result<OneSided, StoreError> {
    let backlog = store.backlog(held)?;
    let mut found = OneSided {
        operations: backlog.operations,
        messages: backlog.messages,
        ids: Vec::new(),
    };
    if backlog.below_floor || backlog.messages == 0 {
        return Ok(found);
    }
    let mut left = LOOK;
    for (origin, last) in store.have().iter() {
        let mut after = held.get(origin);
        while after < last && left > 0 && found.ids.len() < NAMED {
            let operations = store.operations(origin, after, left.min(500))?;
            let Some(end) = operations.last().map(|o| o.stamp.seq) else {
                break;
            };
            for operation in &operations {
                let EntityKey::Message(id) = &operation.entity else {
                    continue;
                };
                let only = store.message(*id)?.is_some_and(|m| {
                    m.stamp.origin == operation.stamp.origin && m.stamp.seq == operation.stamp.seq
                });
                if only && found.ids.len() < NAMED {
                    found.ids.push(id.to_string());
                }
            }
            left = left.saturating_sub(operations.len());
            after = end;
        }
    }
    Ok(found)
}
