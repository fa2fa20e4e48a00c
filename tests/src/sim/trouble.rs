//! What befalls the pair: clients, phones, operators, losses of power, cuts, clocks, and data folders
//! replaced by old copies or by nothing.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use vmsync_config::words::{Extension, Vector};
use vmsync_core::resilience::Serving;
use vmsync_store::{
    AudioRef, GreetingKind, Operation, Store, StoreError,
    model::{MailboxPatch, MessageFacts, MessageState},
    simulate::{Image, Lie, When},
};

use super::{
    Sabotage,
    beats::Line,
    damage::Damage,
    link::Refuser,
    node::Quarantine,
    oracle::Numbers,
    rng::Rng,
    world::{BACKUP, Event, World, id},
};

pub(super) const MAILBOXES: [&str; 3] = ["2001", "2002", "2003"];

/// An old copy of a data folder, and what is known of it.
#[derive(Debug, Clone)]
pub(super) struct Copy {
    image: Image,
    have: Vector,
    numbers: Numbers,
    quarantine: Quarantine,
    damages: Vec<Damage>,
    epoch: u64,
}

impl World {
    /// Something happens, and something else a little later.
    pub(super) fn trouble(&mut self) -> Result<(), String> {
        if !self.troubled {
            return Ok(());
        }
        let calm = if self.tempers.calm { 4 } else { 1 };
        let pause = self.rng.millis(10, 2_000) * self.pace * calm;
        self.schedule(pause, Event::Trouble);
        let n = self.rng.node();
        match self.rng.below(1000) {
            0..20 if self.tempers.refuses => self.refuse(n),
            20..60 if self.tempers.spoils => self.disk_goes_bad(n)?,
            60..100 if self.tempers.flaps => self.flap(),
            0..600 => self.client(n)?,
            600..680 => self.phone()?,
            680..720 => self.call(n)?,
            720..765 => self.operator(n)?,
            765..785 => self.maintenance(n)?,
            785..850 => self.cut(n),
            850..880 => {
                self.count("crashes");
                self.crash(n);
            }
            880..930 => self.power_fails_soon(n),
            930..955 if self.tempers.steps => self.wrong_clock(n),
            955..980 => self.copy(n)?,
            980..992 if self.tempers.restores => self.restore(n),
            992..994 if self.tempers.restores => {
                self.count("both restored");
                self.restore(n);
                self.restore(1 - n);
            }
            994..998 if self.tempers.restores => self.replace(n),
            _ => self.count("nothing"),
        }
        self.settle(n)
    }

    /// A client asks one node, and goes where it is sent.
    fn client(&mut self, n: usize) -> Result<(), String> {
        let at = match self.nodes[n].serving(self.clock(n)) {
            Some(Serving::Yes | Serving::YesPartition) => n,
            Some(Serving::No { .. }) => 1 - n,
            Some(Serving::Starting | Serving::Isolated { .. }) | None => return Ok(()),
        };
        for _ in 0..=self.rng.below(5) {
            let serves = self.nodes[at].serving(self.clock(at));
            if !matches!(serves, Some(Serving::Yes | Serving::YesPartition)) {
                return Ok(());
            }
            self.write(at)?;
        }
        self.settle(at)
    }

    /// One write of a client: acknowledged when the store answers and its node still lives.
    fn write(&mut self, n: usize) -> Result<(), String> {
        let mut rng = self.rng.clone();
        self.rng.number();
        let act = rng.below(100);
        let lies = self.sabotage == Some(Sabotage::AnswerBeforeDurable);
        self.nodes[n].disk.lie(lies.then_some(Lie::Index));
        let now = self.clock(n);
        let Some(live) = &mut self.nodes[n].live else {
            return Ok(());
        };
        let written = client_acts(&live.store, act, &mut rng);
        live.tell(now);
        let committed = live.committed();
        self.oracle.durable(&committed)?;
        let survives = !self.nodes[n].disk.is_down();
        match written {
            Ok(()) if survives => {
                self.oracle.acknowledge(&committed);
                if let Some((operation, _)) = committed.last() {
                    let Operation { stamp, entity, .. } = operation;
                    let (seq, origin) = (stamp.seq, &stamp.origin);
                    self.note(&format!("{origin} acknowledges {seq}, {entity}"));
                }
            }
            // Refused by the rules of mailboxes; or the power is gone.
            _ => {}
        }
        self.looked_at(n)
    }

    /// Lines are cut for a while: all that goes out from a node, or what opens a connection to one
    /// service of its peer, which may as well be dead.
    fn cut(&mut self, n: usize) {
        let (line, both, what) = match self.rng.below(100) {
            0..26 => (Line::Packets, true, "cuts"),
            26..34 => (Line::Packets, false, "cuts one way"),
            34..48 => (Line::Http, true, "cuts of HTTP"),
            48..60 => (Line::Http, false, "cuts of HTTP one way"),
            60..70 => (Line::Smtp, true, "cuts of SMTP"),
            70..78 => (Line::Smtp, false, "cuts of SMTP one way"),
            78..90 => (Line::Witness, true, "witness out of reach of both"),
            _ => (Line::Witness, false, "witness out of reach of one"),
        };
        self.count(what);
        self.note(&format!("node {n}: {what}"));
        for side in [n, 1 - n].into_iter().take(if both { 2 } else { 1 }) {
            self.cuts.of(line)[side] = true;
            let span = self.rng.millis(100, 60_000) * self.pace;
            self.schedule(span, Event::Join(line, side));
        }
        self.look_for_ways();
    }

    /// Both are apart for just so long that the home is given up, and then together for a moment.
    fn flap(&mut self) {
        self.count("flaps");
        self.note("the line is gone for a moment");
        let after = self.nodes[BACKUP].config.resilience.failover_after;
        let gone = self.nodes[BACKUP].config.pair.invisible_after + after;
        let span = gone + self.rng.millis(1_000, 5_000) * self.pace;
        for side in 0..2 {
            self.cuts.packets[side] = true;
            self.schedule(span, Event::Join(Line::Packets, side));
        }
        self.look_for_ways();
    }

    /// A node begins to refuse for good what is in some mails.
    fn refuse(&mut self, n: usize) {
        let until = self.now + self.rng.millis(3_000, 90_000);
        self.refusers[n] = Some(Refuser::new(&mut self.rng, until));
        self.count("refusers");
        self.note(&format!("node {n} refuses some content until {until:?}"));
    }

    /// A process ends, by `kill -9` or with the power of its machine.
    pub(super) fn crash(&mut self, n: usize) {
        if self.nodes[n].live.is_none() {
            return;
        }
        let killed = !self.nodes[n].disk.is_down() && self.rng.chance(50);
        self.note(&format!("node {n} ends, killed: {killed}"));
        self.nodes[n].crash();
        self.judge.ends(n);
        self.look_for_ways();
        if killed {
            self.nodes[n].disk.restart();
        }
        self.reset_connections_to(n);
        let span = self.rng.millis(200, 45_000) * self.pace;
        self.schedule(span, Event::Restart(n));
    }

    /// The power of a node fails before or after one of the next steps by which anything becomes durable.
    fn power_fails_soon(&mut self, n: usize) {
        let when = if self.rng.chance(50) {
            When::Before
        } else {
            When::After
        };
        let step = 1 + self.rng.below(15);
        self.nodes[n].disk.fail(step, when);
    }

    pub(super) fn restart(&mut self, n: usize) -> Result<(), String> {
        if self.nodes[n].live.is_some() {
            return Ok(());
        }
        let (nonce, now) = (self.rng.number(), self.clock(n));
        let disk = &self.nodes[n].disk;
        let back = if disk.is_down() {
            disk.restore_power()
        } else {
            Ok(())
        };
        back.map_err(|e| format!("the disk of node {n}: {e}"))?;
        if self.troubled && self.rng.chance(10) {
            self.power_fails_soon(n);
        }
        let started = self.nodes[n].start(&self.group, nonce, now);
        if let Err(error) = started {
            self.nodes[n].live = None;
            if !self.nodes[n].disk.is_down() {
                return Err(format!("node {n} does not start: {error}"));
            }
            self.count("power losses while starting");
            let span = self.rng.millis(200, 5_000);
            self.schedule(span, Event::Restart(n));
            return Ok(());
        }
        if let Some(live) = &mut self.nodes[n].live {
            live.sabotage = self.sabotage;
            self.judge.starts(n, live)?;
        }
        self.note(&format!("node {n} starts"));
        self.found(n)?;
        self.looked_at(n)?;
        self.mended_stays(n)?;
        if self.tempers.spoils {
            self.at(n, |live, _| live.first_look())?;
        }
        Ok(())
    }

    /// What a loss of power has left of writes that nobody was told of is as good as any.
    fn found(&mut self, n: usize) -> Result<(), String> {
        let Some(live) = &self.nodes[n].live else {
            return Ok(());
        };
        for (origin, upto) in live.store.have().iter() {
            let before = self.nodes[n].have.get(origin);
            if upto > before
                && let Ok(found) = live.store.operations(origin, before, usize::MAX)
            {
                let found: Vec<_> = found.into_iter().map(|o| (o, true)).collect();
                self.oracle.durable(&found)?;
            }
        }
        Ok(())
    }

    /// A wall clock steps, by minutes or by up to a day, either way; the hybrid clock must bear it, and
    /// no timer but that of an order or of maintenance mode may notice.
    fn wrong_clock(&mut self, n: usize) {
        let day = 86_400_000;
        let before = self.skew[n];
        self.skew[n] = match self.rng.below(4) {
            0 => self.rng.below(2 * day),
            1 => day + self.rng.below(2_400_000),
            2 => before.saturating_sub(self.rng.below(5_400_000)),
            _ => (before + self.rng.below(5_400_000)).min(2 * day),
        };
        let ahead = self.skew[n] >= before;
        self.count(if ahead {
            "clock steps ahead"
        } else {
            "clock steps back"
        });
        self.judge.stepped |= n == BACKUP;
        let by = self.skew[n].abs_diff(before);
        self.note(&format!(
            "the clock of node {n} steps by {by} ms, ahead: {ahead}"
        ));
    }

    /// A data folder is copied.
    fn copy(&mut self, n: usize) -> Result<(), String> {
        let node = &self.nodes[n];
        let Some(live) = &node.live else {
            return Ok(());
        };
        if !self.whole(n) {
            self.count("copies put off");
            return Ok(());
        }
        let image = node.disk.image().map_err(|e| e.to_string())?;
        self.copies[n] = Some(Copy {
            image,
            have: live.store.have(),
            numbers: self.oracle.numbers(),
            quarantine: node.quarantine.clone(),
            damages: self.damages_of(n),
            epoch: live.group.ownership.epoch,
        });
        self.count("copies");
        let held = self.copies[n].as_ref().map(|c| shown(&c.have));
        self.note(&format!("node {n} is copied, {}", held.unwrap_or_default()));
        Ok(())
    }

    /// The node's disk dies and the old copy takes its place. Nobody tells the node.
    fn restore(&mut self, n: usize) {
        if let Some(copy) = self.copies[n].clone().filter(|_| self.whole(1 - n)) {
            self.count("restores");
            self.note(&format!(
                "node {n} is restored from a copy, {}",
                shown(&copy.have)
            ));
            self.put_in_place(n, &copy);
        }
    }

    /// The node's disk dies and an empty one takes its place.
    fn replace(&mut self, n: usize) {
        if !self.whole(1 - n) {
            return;
        }
        self.count("replacements");
        self.note(&format!("node {n} is replaced by an empty one"));
        let copy = Copy {
            image: Image::default(),
            have: Vector::default(),
            numbers: Numbers::default(),
            quarantine: Quarantine::default(),
            damages: Vec::new(),
            epoch: 0,
        };
        self.put_in_place(n, &copy);
    }

    fn put_in_place(&mut self, n: usize, copy: &Copy) {
        self.crash(n);
        self.judge.replaced(n);
        self.forget_mails_of(n);
        let Copy {
            have,
            numbers,
            quarantine,
            ..
        } = copy;
        let peer = (&self.nodes[1 - n].have, &self.nodes[1 - n].quarantine);
        self.oracle
            .replaced(n, (have, numbers, quarantine), peer, copy.epoch);
        let put = self.nodes[n].disk.install(&copy.image);
        self.nodes[n].have.clone_from(have);
        self.nodes[n].quarantine.clone_from(quarantine);
        self.replaced_files(n, &copy.damages);
        self.replaced[n] = self.now;
        if let Err(error) = put {
            self.note(&format!("the copy could not be put in place: {error}"));
        }
        let span = self.rng.millis(1_000, 40_000) * self.pace;
        self.schedule(span, Event::Restart(n));
        self.schedule(span + Duration::from_millis(1), Event::Wake(n));
    }
}

/// Something users and administrators do; much of it is refused, as in life.
fn client_acts(store: &Store, act: u64, rng: &mut Rng) -> Result<(), StoreError> {
    let digits = rng.pick(&MAILBOXES).copied().unwrap_or("2001");
    let ext = Extension::new(digits).map_err(|e| StoreError::Invalid(e.to_string()))?;
    if store.mailbox(&ext)?.is_none_or(|m| m.deleted) {
        return store.create_mailbox(&ext, &named(rng)).map(drop);
    }
    let messages = store.messages(&ext, &[], None, 100)?.items;
    let bytes = format!("audio {}", rng.number()).into_bytes();
    match (act, rng.pick(&messages)) {
        (0..30, Some(message)) => {
            let states = [MessageState::Old, MessageState::Saved, MessageState::New];
            let state = rng.pick(&states).copied().unwrap_or(MessageState::Old);
            store.set_message_state(message.id, state).map(drop)
        }
        (30..42, Some(message)) => store.purge_message(message.id),
        (42..50, _) => {
            let audio = described(&bytes, rng);
            store
                .set_greeting(&ext, GreetingKind::Busy, audio, &bytes, None)
                .map(drop)
        }
        (50..52, _) => store.remove_greeting(&ext, GreetingKind::Busy),
        (52..58, _) => {
            let flow = format!("n = {}", rng.number());
            store.set_flow("main", &flow).map(drop)
        }
        (58..62, _) => store.set_setting("x", rng.number().into()),
        (62..68, _) => store.change_mailbox(&ext, &named(rng)).map(drop),
        (68, _) => store.clear_mailbox(&ext),
        (69, _) => store.delete_mailbox(&ext),
        _ => {
            let facts = MessageFacts {
                caller_number: Some(rng.below(10_000).to_string()),
                ..MessageFacts::default()
            };
            let audio = described(&bytes, rng);
            store.deposit(&ext, facts, audio, &bytes).map(drop)
        }
    }
}

fn shown(vector: &Vector) -> String {
    let entries = vector.iter().map(|(origin, seq)| format!("{origin}:{seq}"));
    entries.collect::<Vec<_>>().join(" ")
}

fn named(rng: &mut Rng) -> MailboxPatch {
    MailboxPatch {
        name: Some(format!("Ann {}", rng.below(1_000))),
        ..MailboxPatch::default()
    }
}

fn described(bytes: &[u8], rng: &mut Rng) -> AudioRef {
    AudioRef {
        blob: id(rng),
        sha256: hex::encode(Sha256::digest(bytes)),
        bytes: bytes.len() as u64,
        content_type: "audio/wav".into(),
        codec: "ulaw".into(),
        duration_ms: 1_000,
    }
}
