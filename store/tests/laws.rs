//! The laws of the pair: whatever two nodes and the link between them go through, operations,
//! compaction, seeding, repair, skips, restarts, a replaced disk or an index made anew in any mixture, both hold the
//! same in the end, no acknowledged message is lost, and nothing deleted comes back.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed expectation is the failure of the test"
)]

mod common;

use std::collections::BTreeSet;

use common::{
    act, ext,
    link::{self, assert_same, carry, next_step, try_send},
    open, options,
};
use proptest::prelude::*;
use uuid::Uuid;
use vmsync_config::words::Origin;
use vmsync_store::{
    CompactTo, EntityKey, PeerRecord, Skip, Store, StoreError, model::MessageState,
};

const STATES: [MessageState; 5] = [
    MessageState::New,
    MessageState::Unopened,
    MessageState::Old,
    MessageState::Saved,
    MessageState::Deleted,
];

/// Two nodes, and what their users were told.
struct Pair {
    stores: [Store; 2],
    /// Their folders, and those of disks that were replaced.
    dirs: Vec<tempfile::TempDir>,
    acknowledged: BTreeSet<Uuid>,
    deleted: BTreeSet<Uuid>,
}

fn messages(store: &Store) -> BTreeSet<Uuid> {
    let of = |digits| store.messages(&ext(digits), &STATES, None, 1_000).unwrap();
    let both = ["2001", "2002"].map(of).into_iter();
    both.flat_map(|page| page.items).map(|m| m.id).collect()
}

fn new_disk(id: &str) -> (tempfile::TempDir, Store) {
    common::node(id)
}

const NAMES: [&str; 2] = ["vmpro1", "vmpro2"];

impl Pair {
    fn new() -> Self {
        let [(left, a), (right, b)] = NAMES.map(new_disk);
        Self {
            stores: [a, b],
            dirs: vec![left, right],
            acknowledged: BTreeSet::new(),
            deleted: BTreeSet::new(),
        }
    }

    fn ends(&self, here: usize) -> (&Store, &Store) {
        (&self.stores[here], &self.stores[1 - here])
    }

    /// One thing that happens; `here` is where.
    fn step(&mut self, here: usize, what: u8, which: u8, n: usize) {
        let (from, to) = self.ends(here);
        match what {
            0..=14 => self.use_it(here, what, which, n),
            15..=18 => drop(self.operations(here, usize::from(which % 5))),
            19 => compact(from, to, which),
            20 | 21 => seed_step(from, to, usize::from(which % 4)),
            22 => {
                link::repair(from, to);
            }
            23 => {
                let some = from.items(&[which]).unwrap().remove(0).items;
                let some: Vec<_> = some.into_iter().map(|i| i.entity).collect();
                join(from, to, &some);
            }
            24 => self.skip_next(here),
            25 => self.settle_quarantine(),
            26 | 27 => self.restart(here),
            28 if which < 64 => self.replace_disk(here),
            29 if which < 64 => self.rebuild_index(here),
            _ => {}
        }
    }

    /// What users do.
    fn use_it(&mut self, here: usize, what: u8, which: u8, n: usize) {
        let store = &self.stores[here];
        let before = messages(store);
        act(store, what, which, n);
        let after = messages(store);
        self.acknowledged.extend(after.difference(&before));
        self.deleted.extend(before.difference(&after));
    }

    fn operations(&self, here: usize, max: usize) -> Result<(), StoreError> {
        let (from, to) = self.ends(here);
        for (origin, _) in from.have().iter() {
            match try_send(from, to, origin, max) {
                Ok(_) | Err(StoreError::BelowFloor { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next operation the other lacks is one that can't be sent.
    fn skip_next(&self, here: usize) {
        let (from, to) = self.ends(here);
        for (origin, _) in from.have().iter() {
            let held = to.have().get(origin);
            let next = from.operations(origin, held, 1).unwrap_or_default();
            if let Some(operation) = next.first() {
                let skip = Skip {
                    origin: Origin::clone(origin),
                    seq: operation.stamp.seq,
                    entity: operation.entity.clone(),
                    why: "a test".into(),
                };
                to.skip(std::slice::from_ref(&skip)).unwrap();
                from.skip(&[skip]).unwrap();
                return;
            }
        }
    }

    /// Each node sends what it has under quarantine; then it ends where it can.
    fn settle_quarantine(&self) {
        for here in [0, 1] {
            let (from, to) = self.ends(here);
            let listed: Vec<_> = from.quarantined().into_iter().map(|q| q.entity).collect();
            for entity in listed {
                let both =
                    [&from, &to].map(|s| s.records_of(std::slice::from_ref(&entity)).unwrap());
                join(to, from, std::slice::from_ref(&entity));
                join(from, to, std::slice::from_ref(&entity));
                for store in [to, from] {
                    store
                        .release(std::slice::from_ref(&entity))
                        .unwrap_or_else(|e| panic!("{e}: {both:?}"));
                }
            }
        }
    }

    fn restart(&mut self, here: usize) {
        let dir = self.stores[here].dir();
        self.stores[here] = self.stores[1 - here].clone();
        self.stores[here] = open(&dir, NAMES[here]);
    }

    /// Everything is brought over; then one disk is replaced by an empty one.
    fn replace_disk(&mut self, here: usize) {
        self.synchronise();
        let (dir, empty) = new_disk(NAMES[here]);
        self.dirs.push(dir);
        self.stores[here] = empty;
    }

    /// Everything is brought over; then one index is made anew from its audio files.
    fn rebuild_index(&mut self, here: usize) {
        self.synchronise();
        let dir = self.stores[here].dir();
        self.stores[here] = self.stores[1 - here].clone();
        vmsync_store::rebuild(&dir, options(NAMES[here]), "a test", true, &mut |_, _| ()).unwrap();
        self.stores[here] = open(&dir, NAMES[here]);
    }

    fn synchronise(&self) {
        let [a, b] = &self.stores;
        link::synchronise(a, b);
        self.settle_quarantine();
    }
}

fn compact(store: &Store, peer: &Store, which: u8) {
    let have = store.have();
    let both = have
        .iter()
        .map(|(o, n)| (o.clone(), n.min(peer.have().get(o))));
    let to = CompactTo {
        both: both.collect(),
        keep: u64::from(which % 7),
        most: u64::from(which / 8),
        never_past: None,
    };
    store.compact(&to).unwrap();
    let entries: u64 = have.iter().map(|(o, n)| n - store.floor().get(o)).sum();
    assert!(entries <= to.most.max(to.keep));
}

/// A step of a seeding, whether it is needed or not.
fn seed_step(from: &Store, to: &Store, max: usize) {
    // A store that has not its disk's old name is told before what is under quarantine.
    if let Some((records, step)) = next_step(from, to, max) {
        for quarantined in from.quarantined() {
            let skip = Skip {
                origin: quarantined.origin,
                seq: 0,
                entity: quarantined.entity,
                why: quarantined.why,
            };
            to.skip(&[skip]).unwrap();
        }
        to.join(&carry(from, to, records), Some(&step)).unwrap();
    }
}

fn join(from: &Store, to: &Store, entities: &[EntityKey]) {
    let records: Vec<PeerRecord> = carry(from, to, from.records_of(entities).unwrap());
    match to.join(&records, None) {
        // It has it not itself, under quarantine.
        Err(StoreError::MissingAudio(_)) => {}
        other => drop(other.unwrap()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_both_hold_the_same_and_nothing_acknowledged_is_lost(
        steps in proptest::collection::vec((0..2usize, 0..30u8, any::<u8>()), 1..80)
    ) {
        let mut pair = Pair::new();
        for (n, (here, what, which)) in steps.into_iter().enumerate() {
            pair.step(here, what, which, n);
        }
        pair.synchronise();
        let [a, b] = &pair.stores;
        assert_same(a, b);
        assert!(a.quarantined().is_empty() && b.quarantined().is_empty());
        for store in &pair.stores {
            for id in pair.acknowledged.difference(&pair.deleted) {
                let message = store.message(*id).unwrap();
                let message = message.unwrap_or_else(|| panic!("{id} is lost"));
                store.read_audio(&message.audio).unwrap();
            }
            for id in &pair.deleted {
                assert!(store.message(*id).unwrap().is_none(), "{id} came back");
            }
        }
    }
}
