//! Two stores and their sessions, joined by mails as the nodes write and take them, in virtual time:
//! what quarantine, its end, and seeding come to between them.

use std::time::Duration;

use vmsync_config::words::{Extension, NodeId, Now, UnixMillis};
use vmsync_core::{
    sync::{Event, Kind, Plan, Session},
    wire::{self, Addresses, Keys, Transfer},
};
use vmsync_store::{
    CompactTo, EntityKey, Options, Skip, Store,
    model::{MailboxPatch, MessageFacts},
};

use super::{Content, Letterhead, apply, blame, differing, local, refusal};
use crate::mailroom::describe;

const WALL: u64 = 1_700_000_000_000;
const SECOND: Duration = Duration::from_secs(1);
/// A few comparisons of states that differ.
const SOON: Duration = Duration::from_mins(3);
const WAV: &[u8] = include_bytes!("../../assets/voice/two.wav");

struct Node {
    /// It is of a version that does not try what the peer's items name.
    older: bool,
    store: Store,
    session: Session,
    happened: Vec<Event>,
    _folder: tempfile::TempDir,
}

impl Node {
    fn new(n: usize, nonce: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            node: id(n),
            min_free_bytes: 0,
            clock: || UnixMillis(WALL),
        };
        let store = Store::open(folder.path(), options).unwrap();
        Self {
            older: false,
            session: Session::new(store.origin(), nonce, nonce),
            store,
            happened: Vec::new(),
            _folder: folder,
        }
    }

    /// What the node loop does after each turn.
    fn look(&mut self, now: Now) {
        self.session.local(local(&self.store), now);
        while let Some(event) = self.session.next_event() {
            if let Event::Started { .. } = event {
                let quarantined = self.quarantined();
                self.session.release(quarantined);
            }
            self.happened.push(event);
        }
    }

    fn quarantined(&self) -> Vec<String> {
        let listed = self.store.quarantined().into_iter();
        listed.map(|q| q.entity.to_string()).collect()
    }

    fn quarantine(&self, entity: &EntityKey) {
        let skip = Skip {
            origin: self.store.origin(),
            seq: 0,
            entity: entity.clone(),
            why: "a test".to_owned(),
        };
        self.store.skip(&[skip]).unwrap();
    }

    fn rename(&self, ext: &Extension, name: &str) {
        let patch = MailboxPatch {
            name: Some(name.to_owned()),
            ..MailboxPatch::default()
        };
        self.store.change_mailbox(ext, &patch).unwrap();
    }

    fn name(&self, ext: &Extension) -> String {
        self.store.mailbox(ext).unwrap().unwrap().name
    }

    fn differed(&self) -> bool {
        self.happened.contains(&Event::Diverged)
    }
}

fn id(n: usize) -> NodeId {
    ["vmpro1", "vmpro2"][n].parse().unwrap()
}

/// A mail that was written, and what its sender does once it is taken.
struct Written {
    from: usize,
    plan: Plan,
    bytes: bytes::Bytes,
    released: Vec<EntityKey>,
}

struct Two {
    nodes: [Node; 2],
    now: Duration,
    nonces: u64,
    keys: Keys,
}

impl Two {
    /// Both hold mailbox 2001, and know that they do.
    fn in_step() -> (Self, Extension, EntityKey) {
        let ext: Extension = "2001".parse().unwrap();
        let mut two = Self {
            nodes: [Node::new(0, 10), Node::new(1, 20)],
            now: SECOND,
            nonces: 100,
            keys: Keys::parse(include_str!("../../core/tests/data/wire/pair.key")).unwrap(),
        };
        let made = MailboxPatch::default();
        two.nodes[0].store.create_mailbox(&ext, &made).unwrap();
        two.meet();
        two.run(SECOND);
        two.agree();
        (two, ext.clone(), EntityKey::Mailbox(ext))
    }

    fn at(&self) -> Now {
        let passed = u64::try_from(self.now.as_millis()).unwrap();
        Now {
            mono: self.now,
            wall: UnixMillis(WALL + passed),
        }
    }

    /// Both lose sight of one another, and begin new sessions.
    fn meet(&mut self) {
        for visible in [false, true] {
            for n in 0..2 {
                self.nonces += 1;
                let now = self.at();
                self.nodes[n].look(now);
                self.nodes[n].session.visible(visible, self.nonces, now);
            }
        }
    }

    fn write(&mut self, from: usize, plan: Plan) -> Written {
        let now = self.at();
        let node = &mut self.nodes[from];
        let content = Content::gather(&node.store, &plan).unwrap();
        node.session
            .packed(plan.ticket, content.load().clone(), now.mono);
        let released = content.released().iter();
        let released = released.map(|e| EntityKey::try_from(e.clone()).unwrap());
        let released = released.collect();
        let addresses = Addresses {
            from: "vmsync@a.example".to_owned(),
            to: "vmsync@b.example".to_owned(),
        };
        let letterhead = Letterhead {
            id: uuid::Uuid::now_v7(),
            to: id(1 - from),
            sent_at: now.wall,
            addresses: &addresses,
            transfer: Transfer::Base64,
        };
        let bytes = content.encode(&plan, letterhead, &self.keys).unwrap();
        node.look(now);
        Written {
            from,
            plan,
            bytes: bytes.into(),
            released,
        }
    }

    /// The receiver takes it; with what code it answers.
    fn take(&mut self, written: &Written) -> u16 {
        let now = self.at();
        let to = 1 - written.from;
        let mail = wire::decode(&written.bytes, &self.keys, &id(to)).unwrap();
        let node = &mut self.nodes[to];
        match apply(&node.store, &mail) {
            Ok(applied) => {
                node.look(now);
                if applied.old_digest {
                    node.session.heard_with_old_digest(&mail.head, now);
                } else {
                    node.session.heard(&mail.head, now);
                }
                node.session.want(applied.wanted);
                if !node.older {
                    node.session.release(applied.quarantined);
                }
                if mail.head.buckets.is_some() && node.session.diverged() {
                    node.session.differs(differing(&node.store, &mail.head));
                }
                node.look(now);
                250
            }
            Err(error) => {
                node.look(now);
                refusal(&error).code()
            }
        }
    }

    /// The sender gets the answer.
    fn answer(&mut self, written: &Written, code: u16) {
        let now = self.at();
        let (node, ticket) = (&mut self.nodes[written.from], written.plan.ticket);
        if code == 250 {
            node.session.sent(ticket, now);
            node.store.release(&written.released).unwrap();
        } else {
            let why = format!("{code} refused");
            node.session.failed(ticket, now, blame(code), &why);
        }
        node.look(now);
    }

    /// Runs until nothing is due within `span`; every mail takes two milliseconds.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let due = self.nodes.iter().filter_map(|n| n.session.next_deadline());
            let Some(due) = due.min().filter(|due| *due <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(due);
            for n in 0..2 {
                while let Some(plan) = self.nodes[n].session.poll(self.now) {
                    let written = self.write(n, plan);
                    self.now += Duration::from_millis(2);
                    let code = self.take(&written);
                    self.answer(&written, code);
                }
            }
        }
    }

    /// Both hold the same and know it, and nothing is left out.
    fn agree(&self) {
        let [a, b] = &self.nodes;
        assert_eq!(a.quarantined(), b.quarantined());
        assert!(a.quarantined().is_empty(), "{:?}", a.quarantined());
        assert_eq!(a.store.digest(), b.store.digest());
        assert!(a.session.finished() && b.session.finished());
    }

    /// The next mail of `n` that carries something.
    fn next(&mut self, n: usize) -> Plan {
        let due = self.nodes[n].session.next_deadline().unwrap();
        self.now = self.now.max(due);
        self.nodes[n].session.poll(self.now).unwrap()
    }
}

#[test]
fn a_skip_on_its_way_together_with_a_release_is_settled_soon() {
    let (mut two, ext, mailbox) = Two::in_step();
    for node in &two.nodes {
        node.quarantine(&mailbox);
    }
    two.run(SECOND);
    let node = &mut two.nodes[0];
    node.session.release(vec![mailbox.to_string()]);
    let release = two.next(0);
    let release = two.write(0, release);
    // Before the answer to it has come, what was refused three times before is left behind.
    two.nodes[0].rename(&ext, "Ann");
    let now = two.at();
    two.nodes[0].look(now);
    let mut skip = two.next(0);
    let Kind::Operations { skip: why, .. } = &mut skip.kind else {
        panic!("not operations: {:?}", skip.kind);
    };
    *why = Some("554 no".to_owned());
    let skip = two.write(0, skip);
    for mail in [release, skip] {
        assert_eq!(two.take(&mail), 250);
        two.answer(&mail, 250);
    }
    let [a, b] = &two.nodes;
    assert!(a.quarantined().is_empty() && !b.quarantined().is_empty());
    assert_eq!(b.name(&ext), "", "it has not come there");

    two.run(SOON);
    two.agree();
    assert_eq!(two.nodes[1].name(&ext), "Ann");
}

/// A skip of the first and a release of the second pass each other.
fn crossed() -> Two {
    let (mut two, ext, mailbox) = Two::in_step();
    for node in &two.nodes {
        node.quarantine(&mailbox);
    }
    two.run(SECOND);
    two.nodes[0].rename(&ext, "Ann");
    let now = two.at();
    two.nodes[0].look(now);
    let mut skip = two.next(0);
    if let Kind::Operations { skip: why, .. } = &mut skip.kind {
        *why = Some("554 no".to_owned());
    }
    // What the second holds is what the first holds, as far as a record can tell.
    let held = two.nodes[0]
        .store
        .records_of(std::slice::from_ref(&mailbox));
    let held = held.unwrap().into_iter().map(|r| vmsync_store::PeerRecord {
        entity: r.entity,
        record: r.record,
    });
    let held: Vec<_> = held.collect();
    two.nodes[1].store.join(&held, None).unwrap();
    two.nodes[1].session.release(vec![mailbox.to_string()]);
    let release = two.next(1);
    let (skip, release) = (two.write(0, skip), two.write(1, release));
    assert_eq!(two.take(&release), 250);
    two.answer(&release, 250);
    assert_eq!(two.take(&skip), 250);
    two.answer(&skip, 250);
    let [a, b] = &two.nodes;
    assert!(a.quarantined().is_empty() && !b.quarantined().is_empty());
    two
}

#[test]
fn a_skip_and_a_release_that_cross_are_settled_soon() {
    let mut two = crossed();
    two.run(SECOND);
    two.agree();
}

#[test]
fn where_the_node_with_the_quarantine_is_older_the_other_one_settles_it() {
    let mut two = crossed();
    two.nodes[1].older = true;
    two.run(SOON);
    two.agree();
}

/// The second node's disk is replaced by an empty one; the log of the first does not reach back.
fn replaced(two: &mut Two) {
    let have = two.nodes[0].store.have();
    let all = CompactTo {
        both: have.clone(),
        keep: 0,
        most: 0,
        never_past: None,
    };
    two.nodes[0].store.compact(&all).unwrap();
    assert_eq!(two.nodes[0].store.floor(), have);
    two.nodes[1] = Node::new(1, 30);
    two.nodes[0].happened.clear();
    two.meet();
}

#[test]
fn what_is_quarantined_comes_to_a_replaced_peer_and_the_states_never_differ_on_the_way() {
    let (mut two, ext, mailbox) = Two::in_step();
    let a = &two.nodes[0];
    let audio = describe(&vmsync_core::audio::measure(WAV).unwrap(), WAV);
    let facts = MessageFacts::default();
    let message = a.store.deposit(&ext, facts, audio, WAV).unwrap().0;
    a.quarantine(&mailbox);
    a.quarantine(&EntityKey::Message(message.id));
    replaced(&mut two);
    two.run(SECOND);
    two.agree();
    for node in &two.nodes {
        assert!(!node.differed(), "{:?}", node.happened);
    }
    let held = two.nodes[1].store.message(message.id).unwrap().unwrap();
    assert_eq!(two.nodes[1].store.read_audio(&held.audio).unwrap(), WAV);
}

#[test]
fn what_only_the_replaced_peer_held_is_quarantined_no_longer() {
    let (mut two, _, _) = Two::in_step();
    let theirs: Extension = "2002".parse().unwrap();
    let b = &two.nodes[1].store;
    b.create_mailbox(&theirs, &MailboxPatch::default()).unwrap();
    let skip = Skip {
        origin: b.origin(),
        seq: b.have().get(&b.origin()),
        entity: EntityKey::Mailbox(theirs),
        why: "554 no".to_owned(),
    };
    for node in &two.nodes {
        node.store.skip(std::slice::from_ref(&skip)).unwrap();
    }
    replaced(&mut two);
    two.run(SECOND);
    two.agree();
    for node in &two.nodes {
        assert!(!node.differed(), "{:?}", node.happened);
    }
}

#[test]
fn a_record_that_lost_its_audio_is_quarantined_at_a_replaced_peer_until_it_is_mended() {
    let (mut two, ext, _) = Two::in_step();
    let audio = describe(&vmsync_core::audio::measure(WAV).unwrap(), WAV);
    let name = format!("{}.vma", audio.blob);
    let facts = MessageFacts::default();
    let a = &two.nodes[0].store;
    let message = a.deposit(&ext, facts, audio, WAV).unwrap().0;
    let file = a.dir().join("audio").join(&name[34..36]).join(name);
    let sound = std::fs::read(&file).unwrap();
    std::fs::write(&file, b"no audio").unwrap();
    replaced(&mut two);
    two.run(SECOND);
    let [a, b] = &two.nodes;
    assert_eq!(a.quarantined(), [format!("message/{}", message.id)]);
    assert_eq!(a.quarantined(), b.quarantined());
    assert_eq!(a.store.digest(), b.store.digest(), "of all else");
    assert!(!a.differed() && !b.differed());

    // Mended, and looked at again, as the node does in time.
    std::fs::write(&file, sound).unwrap();
    let entity = EntityKey::Message(message.id);
    assert!(a.store.check_audio_of(&[entity]).unwrap());
    two.meet();
    two.run(SECOND);
    two.agree();
    let b = &two.nodes[1].store;
    let held = b.message(message.id).unwrap().unwrap();
    assert_eq!(b.read_audio(&held.audio).unwrap(), WAV);
}
