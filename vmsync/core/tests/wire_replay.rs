//! Whoever records signed mails may send them again, whenever he likes: it changes nothing that is
//! held, starts nothing, and the pair comes to rest (docs/wire-format.md section 12). The mails are
//! real ones; the stores are reduced to vectors.

#![allow(
    clippy::expect_used,
    reason = "shared code of tests, outside #[test] functions"
)]

mod wire_support;

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;
use vmsync_config::words::{NodeId, Now, Origin, UnixMillis, Vector};
use vmsync_core::{
    sync::{Kind, Load, Local, Plan, Session},
    wire::{Mail, decode},
};
use wire_support::{Example, keys};

const SECOND: Duration = Duration::from_secs(1);

fn origin(node: usize) -> Origin {
    let node = NodeId::new(["vmpro1", "vmpro2"][node]).expect("an id");
    Origin {
        node,
        incarnation: 1,
    }
}

struct Pair {
    sessions: [Session; 2],
    have: [Vector; 2],
    now: Duration,
    nonce: u64,
    /// Every mail there ever was, and for whom.
    recorded: Vec<(usize, Bytes)>,
}

impl Pair {
    /// Two nodes that have just started; `nonce` stands for chance.
    fn new(nonce: u64) -> Self {
        let session = |n: usize| Session::new(origin(n), nonce + n as u64, n as u64);
        let mut pair = Self {
            sessions: [session(0), session(1)],
            have: Default::default(),
            now: SECOND,
            nonce: nonce + 2,
            recorded: Vec::new(),
        };
        pair.write(0, 0);
        pair.write(1, 0);
        pair
    }

    fn at(&self) -> Now {
        let wall = 1_795_000_000_000 + u64::try_from(self.now.as_millis()).expect("short");
        Now {
            mono: self.now,
            wall: UnixMillis(wall),
        }
    }

    /// Sight is lost and comes back: both take new sessions.
    fn meet(&mut self) {
        for visible in [false, true] {
            for n in 0..2 {
                self.nonce += 1;
                let now = self.at();
                self.sessions[n].visible(visible, self.nonce, now);
            }
            self.now += SECOND;
        }
    }

    fn write(&mut self, n: usize, count: u64) {
        let me = origin(n);
        let seq = self.have[n].get(&me) + count;
        self.have[n].raise(&me, seq);
        self.tell(n);
    }

    fn tell(&mut self, n: usize) {
        let local = Local {
            have: self.have[n].clone(),
            digest: format!("{:?}", self.have[n]),
            ..Local::default()
        };
        let now = self.at();
        self.sessions[n].local(local, now);
    }

    /// Runs until nothing is due within `span`. Returns how many mails that took.
    fn run(&mut self, span: Duration) -> usize {
        let (end, before) = (self.now + span, self.recorded.len());
        while let Some(due) = self
            .sessions
            .iter()
            .filter_map(Session::next_deadline)
            .min()
        {
            if due > end {
                break;
            }
            self.now = self.now.max(due) + Duration::from_millis(1);
            for n in 0..2 {
                while let Some(plan) = self.sessions[n].poll(self.now) {
                    self.carry(n, &plan);
                }
            }
        }
        self.now = end;
        self.recorded.len() - before
    }

    fn carry(&mut self, from: usize, plan: &Plan) {
        let (id, to) = (
            Uuid::from_u128(self.recorded.len() as u128),
            origin(1 - from).node,
        );
        let mut mail = Mail::of(plan.head(id, origin(from), to, self.at().wall, None));
        let mut load = Load::default();
        if let Kind::Operations { ranges, .. } = &plan.kind {
            for (origin, after, upto) in ranges {
                let upto = (*upto).min(after + 3);
                for seq in after + 1..=upto {
                    mail.operations
                        .push(json!({"stamp": {"origin": origin, "seq": seq}}).into());
                }
                load.upto.raise(origin, upto);
                load.operations += upto - after;
            }
        }
        self.sessions[from].packed(plan.ticket, load, self.now);
        let written = Bytes::from(Example::of(mail).write().expect("writes"));
        self.recorded.push((1 - from, written.clone()));
        self.deliver(1 - from, &written);
        let now = self.at();
        self.sessions[from].sent(plan.ticket, now);
    }

    /// As a receiver does (section 5): skips what it holds, takes the next, refuses a gap.
    fn deliver(&mut self, to: usize, mail: &Bytes) {
        let mail = decode(mail, &keys(), &origin(to).node).expect("a signed mail");
        for operation in &mail.operations {
            let stamp = &operation.value()["stamp"];
            let origin: Origin = stamp["origin"]
                .as_str()
                .expect("origin")
                .parse()
                .expect("origin");
            let seq = stamp["seq"].as_u64().expect("seq");
            let held = self.have[to].get(&origin);
            assert!(seq <= held + 1, "a gap at {origin}");
            self.have[to].raise(&origin, seq);
        }
        self.tell(to);
        let now = self.at();
        self.sessions[to].heard(&mail.head, now);
    }

    fn finished(&self) -> bool {
        self.sessions.iter().all(Session::finished)
    }

    /// A pair with a past: three sessions, and changes of both in each.
    fn with_a_past() -> Self {
        let mut pair = Self::new(1000);
        for n in 1..=3 {
            pair.write(0, 2 * n);
            pair.meet();
            pair.run(Duration::from_mins(1));
            pair.write(1, n);
            pair.run(Duration::from_mins(1));
        }
        assert!(pair.finished());
        pair
    }
}

#[test]
fn every_mail_there_ever_was_may_come_again() {
    let mut pair = Pair::with_a_past();
    let (held, past) = (pair.have.clone(), pair.recorded.clone());
    assert!(past.len() > 12, "{} mails", past.len());
    for (to, mail) in past.iter().rev().chain(&past) {
        pair.deliver(*to, mail);
        assert_eq!(pair.have, held, "nothing new came, nothing went");
    }
    let mails = pair.run(Duration::from_hours(1));
    assert!(pair.finished());
    assert!(mails <= 8, "{mails} mails to set it right");
    assert_eq!(pair.run(Duration::from_hours(1)), 0, "quiet");
    for (session, held) in pair.sessions.iter().zip(&held) {
        let certificate = session.certificate().expect("certificate");
        assert_eq!(certificate.vector, *held);
    }
}

/// R-FB-1: no failback is based on what the peer said to a session that is over.
#[test]
fn a_node_that_starts_anew_believes_no_mail_of_the_past() {
    let pair = Pair::with_a_past();
    for n in 0..2 {
        let mut anew = Pair::new(5000);
        anew.have = pair.have.clone();
        anew.tell(n);
        let now = anew.at();
        anew.sessions[n].visible(true, 6000, now);
        for (to, mail) in pair.recorded.iter().filter(|(to, _)| *to == n) {
            anew.deliver(*to, mail);
            assert_eq!(anew.sessions[n].started(), None);
            assert!(!anew.sessions[n].finished());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Mails come again at any time, also in the midst of an exchange.
    #[test]
    fn replays_at_any_time_lose_and_double_nothing(
        steps in prop::collection::vec((0_usize..4, any::<prop::sample::Index>(), 1_u64..8), 0..40),
    ) {
        let mut pair = Pair::with_a_past();
        for (what, which, count) in steps {
            match what {
                0 => pair.write(which.index(2), count),
                1 => pair.meet(),
                2 => { pair.run(Duration::from_millis(count * 10)); }
                _ => {
                    let (to, mail) = pair.recorded[which.index(pair.recorded.len())].clone();
                    pair.deliver(to, &mail);
                }
            }
        }
        pair.run(Duration::from_hours(1));
        prop_assert!(pair.finished());
        prop_assert_eq!(&pair.have[0], &pair.have[1]);
        prop_assert_eq!(pair.run(Duration::from_hours(1)), 0);
    }
}
