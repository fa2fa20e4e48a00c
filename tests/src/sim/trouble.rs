//! What befalls the pair: clients, phones, operators, crashes, cuts, clocks and restored folders.

use std::{collections::BTreeMap, time::Duration};

use uuid::Uuid;
use vmsync_core::resilience::{Ownership, PhoneKind, Request, Serving};
use vmsync_store::{Effect, EntityKey};

use super::{
    store::Replica,
    world::{BACKUP, Event, World},
};

impl World {
    /// Something happens, and something else a little later.
    pub(super) fn trouble(&mut self) -> Result<(), String> {
        if !self.troubled {
            return Ok(());
        }
        let pause = self.rng.millis(10, 4_000);
        self.schedule(pause, Event::Trouble);
        let n = self.rng.node();
        match self.rng.below(100) {
            0..58 => self.client(n),
            58..71 => self.phone(),
            71..75 => self.calls(),
            75..81 => return self.operator(),
            81..86 => self.cut(n),
            86..91 => self.crash(n),
            91..95 => self.wrong_clock(n),
            95..98 => self.copy(n),
            _ => self.restore(n),
        }
        self.settle(n)
    }

    /// A client asks one node, and goes where it is sent.
    fn client(&mut self, n: usize) {
        let at = match self.nodes[n].serving(self.clock(n)) {
            Some(Serving::Yes | Serving::YesPartition) => n,
            Some(Serving::No { .. }) => 1 - n,
            Some(Serving::Starting) | None => return,
        };
        let serves = self.nodes[at].serving(self.clock(at));
        if matches!(serves, Some(Serving::Yes | Serving::YesPartition)) {
            for _ in 0..=self.rng.below(5) {
                self.write(at);
            }
            let (boot, delay) = (self.nodes[at].boot, self.rng.millis(0, 30));
            self.schedule(delay, Event::Flush(at, boot));
        }
    }

    fn write(&mut self, n: usize) {
        let now = self.clock(n).wall;
        let known: Vec<_> = self.nodes[n].store.messages(false).into_iter().collect();
        let (entity, effect) = match (self.rng.pick(&known), self.rng.below(10)) {
            (Some(message), 0..4) => (message.clone(), set("state", self.rng.number())),
            (Some(message), 4) => (message.clone(), Effect::Delete),
            _ => {
                let id = u128::from(self.rng.number()) << 64 | u128::from(self.rng.number());
                let message = EntityKey::Message(Uuid::from_u128(id));
                (message, set("caller", self.rng.number()))
            }
        };
        self.nodes[n].store.write(entity, effect, now);
    }

    fn phone(&mut self) {
        let kinds = [PhoneKind::Desk, PhoneKind::Desk, PhoneKind::Softphone];
        let kind = self.rng.pick(&kinds).copied();
        let now = self.clock(BACKUP);
        self.nodes[BACKUP].phone(
            &self.group,
            kind.unwrap_or(PhoneKind::Dect),
            &self.rules,
            now,
        );
    }

    fn calls(&mut self) {
        let calls = u32::try_from(self.rng.below(3)).unwrap_or(0);
        if let Some(live) = &mut self.nodes[BACKUP].live {
            live.calls = calls;
        }
    }

    fn operator(&mut self) -> Result<(), String> {
        let request = match self.rng.below(4) {
            0 | 1 => Request::ActivateBackup,
            2 => Request::Failback { force: false },
            _ => Request::Failback { force: true },
        };
        self.note(&format!("operator: {request:?}"));
        self.ask(request)
    }

    fn cut(&mut self, n: usize) {
        self.count("cuts");
        let both = self.rng.chance(70);
        self.note(&format!("the way from node {n} is cut, both ways: {both}"));
        for side in [n, 1 - n].into_iter().take(if both { 2 } else { 1 }) {
            self.cut[side] = true;
            let span = self.rng.millis(100, 90_000);
            self.schedule(span, Event::Join(side));
        }
    }

    pub(super) fn crash(&mut self, n: usize) {
        if self.nodes[n].live.is_none() {
            return;
        }
        self.count("crashes");
        self.note(&format!("node {n} crashes"));
        self.nodes[n].crash();
        let span = self.rng.millis(500, 90_000);
        self.schedule(span, Event::Restart(n));
    }

    /// Now and then a node crashes exactly here.
    pub(super) fn crashes(&mut self, n: usize) -> bool {
        let crashes = self.troubled && self.rng.below(1000) < 15;
        if crashes {
            self.crash(n);
        }
        crashes
    }

    pub(super) fn restart(&mut self, n: usize) -> Result<(), String> {
        if self.nodes[n].live.is_none() {
            let (nonce, now) = (self.rng.number(), self.clock(n));
            self.nodes[n].start(&self.group, nonce, now);
            self.note(&format!("node {n} starts"));
        }
        self.settle(n)
    }

    /// A wall clock jumps; the hybrid clock must bear it.
    fn wrong_clock(&mut self, n: usize) {
        self.count("clock jumps");
        self.skew[n] = self.rng.below(2_400_000);
    }

    /// A data folder is copied while its node runs: what is durable now is in the copy.
    fn copy(&mut self, n: usize) {
        let mut store = self.nodes[n].store.clone();
        store.crash();
        self.copies[n] = Some((store, self.nodes[n].ownership.clone()));
    }

    /// The node's disk dies and the old copy takes its place. Half of the time the operator says
    /// so and the store takes a new incarnation at once; otherwise the peer must find it out.
    fn restore(&mut self, n: usize) {
        let Some((mut store, ownership)) = self.copies[n].take() else {
            return;
        };
        self.count("restores");
        self.crash(n);
        self.forget_mails_of(n);
        let noticed = self.rng.chance(50);
        self.note(&format!(
            "node {n} is restored from a copy, noticed: {noticed}"
        ));
        let peer = &self.nodes[1 - n].store;
        let Ownership { epoch, .. } = ownership;
        self.oracle.restored(n, &store, peer, epoch);
        if noticed {
            let incarnation = u32::try_from(self.rng.below(1 << 31)).unwrap_or(3);
            store.new_incarnation(incarnation);
        }
        let node = &mut self.nodes[n];
        node.store = store;
        node.ownership = ownership;
        node.restored_unnoticed = !noticed;
        let span = self.rng.millis(1_000, 60_000);
        self.schedule(span, Event::Restart(n));
        self.schedule(span + Duration::from_millis(1), Event::Wake(n));
    }
}

fn set(field: &str, value: u64) -> Effect {
    Effect::Set(BTreeMap::from([(field.to_owned(), value.into())]))
}
