//! Both nodes asked for their status all the time, by somebody who can see both: what must never be.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::{task::JoinSet, time::sleep};

use super::{Node, Pair};

/// Between two looks at a node.
const EVERY: Duration = Duration::from_millis(40);

/// The part of a status about one group; null where there is none.
pub fn group_of(status: &Value, name: &str) -> Value {
    let groups = status["groups"].as_array().into_iter().flatten();
    let mut named = groups.filter(|g| g["name"] == name);
    named.next().cloned().unwrap_or_default()
}

/// Looks on until it is dropped.
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    _looking: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    /// By node and group: each epoch with its owner, in the order they were seen in.
    moves: BTreeMap<(String, String), Vec<(u64, String)>>,
    /// By group and epoch: who owned it.
    owners: BTreeMap<(String, u64), String>,
    wrong: Vec<String>,
}

impl Watch {
    /// Begins.
    pub fn over(pair: &Pair) -> Self {
        let seen = Arc::default();
        let mut looking = JoinSet::new();
        for node in pair.nodes() {
            let (seen, node) = (Arc::clone(&seen), node.seen_by_another());
            looking.spawn(look(node, seen));
        }
        Self {
            seen,
            _looking: looking,
        }
    }

    /// Fails the test if a node's epoch ever went down, or an epoch had two owners.
    pub fn saw_nothing_wrong(&self) {
        let seen = self.seen.lock().unwrap_or_else(|e| panic!("{e}"));
        assert!(seen.wrong.is_empty(), "{:#?}", seen.wrong);
    }

    /// Fails the test unless each move that a node was seen to know is in its history, with a reason;
    /// and unless the backup's history of `group` since `epoch` has no gap, for it decides.
    pub async fn is_told(&self, pair: &Pair, group: &str, epoch: u64) {
        for node in pair.nodes() {
            let path = format!("/api/v1/groups/{group}/history?limit=1000");
            let list = node.get(&path).await;
            let told: BTreeMap<u64, (String, String)> = list["items"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|t| {
                    let text = |name: &str| t[name].as_str().unwrap_or_default().to_owned();
                    let epoch = t["epoch"].as_u64().unwrap_or_default();
                    (epoch, (text("owner"), text("reason")))
                })
                .collect();
            for (moved, owner) in self.moves(node, group) {
                let told = told.get(&moved);
                let fine = told.is_some_and(|(o, reason)| *o == owner && !reason.is_empty());
                assert!(
                    fine || moved == 0,
                    "{} does not tell that {owner} took {group} in epoch {moved}: {list}",
                    node.id
                );
            }
            let status = group_of(&node.get("/api/v1/status").await, group);
            if status["backup"] == node.id.as_str() {
                let now = status["epoch"].as_u64().unwrap_or_default();
                let missing: Vec<_> = (epoch + 1..=now)
                    .filter(|e| !told.contains_key(e))
                    .collect();
                assert!(missing.is_empty(), "{}: {missing:?}: {list}", node.id);
            }
        }
    }

    /// Each epoch of `group` that `node` was seen in, with its owner.
    pub fn moves(&self, node: &Node, group: &str) -> Vec<(u64, String)> {
        let seen = self.seen.lock().unwrap_or_else(|e| panic!("{e}"));
        let key = (node.id.clone(), group.to_owned());
        seen.moves.get(&key).cloned().unwrap_or_default()
    }
}

async fn look(node: Node, seen: Arc<Mutex<Seen>>) {
    loop {
        if let Ok(status) = node.try_status().await
            && let Ok(mut seen) = seen.lock()
        {
            for group in status["groups"].as_array().into_iter().flatten() {
                seen.takes(&node.id, group);
            }
        }
        sleep(EVERY).await;
    }
}

impl Seen {
    fn takes(&mut self, node: &str, group: &Value) {
        let text = |name: &str| group[name].as_str().unwrap_or_default().to_owned();
        let (name, owner) = (text("name"), text("owner"));
        let epoch = group["epoch"].as_u64().unwrap_or_default();
        let moves = self
            .moves
            .entry((node.to_owned(), name.clone()))
            .or_default();
        match moves.last() {
            Some((last, _)) if *last == epoch => {}
            last => {
                if let Some((last, _)) = last.filter(|(last, _)| *last > epoch) {
                    let wrong = format!("{node}: {name} went from epoch {last} to {epoch}");
                    self.wrong.push(wrong);
                }
                moves.push((epoch, owner.clone()));
            }
        }
        let of = self.owners.entry((name.clone(), epoch));
        let first = of.or_insert_with(|| owner.clone());
        if *first != owner {
            let wrong = format!("{name} has {first} and {owner} as owners in epoch {epoch}");
            self.wrong.push(wrong);
        }
    }
}
