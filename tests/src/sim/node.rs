//! A node as the shell runs it: session, resilience machine, store, and nothing else.

use std::time::Duration;

use vmsync_config::{
    Group,
    words::{NodeId, Now, Vector},
};
use vmsync_core::{
    resilience::{
        Ask, Decision, Machine, Ownership, PhoneEvidence, PhoneKind, Registration, Rules, Serving,
        Startup, View, adopt, serves,
    },
    sync::{Event, Local, Session},
    wire::Head,
};
use vmsync_store::Operation;

use super::store::{Memory, Replica};

/// Without a heartbeat for this long the peer is invisible.
const INVISIBLE_AFTER: Duration = Duration::from_secs(5);
/// How long a starting node waits for its peer.
const GRACE: Duration = Duration::from_secs(10);

/// What survives a crash, and what runs.
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Durable, but for what is unflushed.
    pub store: Memory,
    /// Durable.
    pub ownership: Ownership,
    /// `None` while the process is down.
    pub live: Option<Live>,
    /// Starts so far; an outcome meant for an earlier life is dropped.
    pub boot: u64,
    /// The data folder was restored from an old copy and nobody has noticed yet.
    pub restored_unnoticed: bool,
}

/// What a crash takes.
pub struct Live {
    /// The sync session.
    pub session: Session,
    /// Active calls of the group on this node.
    pub calls: u32,
    startup: Startup,
    sight: Result<Duration, Duration>,
    last_heard: Duration,
    phones: PhoneEvidence,
    machine: Machine,
    /// The last decision's deadline.
    pub deadline: Option<Duration>,
}

impl Node {
    /// A node that was never started.
    pub fn new(id: NodeId, group: &Group, now: Now) -> Self {
        Self {
            store: Memory::new(id.clone(), 1),
            ownership: Ownership::initial(group, now.wall),
            id,
            live: None,
            boot: 0,
            restored_unnoticed: false,
        }
    }

    /// Starts the process.
    pub fn start(&mut self, group: &Group, nonce: u64, now: Now) {
        self.boot += 1;
        let mut session = Session::new(self.store.origin().clone(), nonce, nonce);
        let (have, digest) = self.store.held();
        session.local(local(have, digest), now);
        self.live = Some(Live {
            session,
            calls: 0,
            startup: Startup::new(now.mono, GRACE),
            sight: Err(now.mono),
            last_heard: Duration::ZERO,
            phones: PhoneEvidence::new(group, &[]),
            machine: Machine::new(group.clone()),
            deadline: None,
        });
    }

    /// Ends it, as `kill -9` does.
    pub fn crash(&mut self) {
        self.live = None;
        self.store.crash();
    }

    /// Tells the session what is durable now.
    pub fn tell(&mut self, now: Now) {
        if let Some(live) = &mut self.live {
            let (have, digest) = self.store.held();
            live.session.local(local(have, digest), now);
        }
    }

    /// A heartbeat of the peer.
    pub fn beat(&mut self, group: &Group, theirs: &Ownership, nonce: u64, now: Now) {
        let Some(live) = &mut self.live else { return };
        if let Some(next) = adopt(group, &self.ownership, theirs) {
            self.ownership = next;
        }
        live.startup.heard();
        live.last_heard = now.mono;
        if live.sight.is_err() {
            live.sight = Ok(now.mono);
            live.phones.sight(live.sight);
            live.session.visible(true, nonce, now);
        }
    }

    /// Whether the peer has been silent for too long.
    pub fn watch(&mut self, nonce: u64, now: Now) {
        let Some(live) = &mut self.live else { return };
        if live.sight.is_ok() && now.mono >= live.last_heard + INVISIBLE_AFTER {
            live.sight = Err(now.mono);
            live.phones.sight(live.sight);
            live.session.visible(false, nonce, now);
        }
    }

    /// Whether it answers requests of the group now.
    pub fn serving(&self, now: Now) -> Option<Serving> {
        let live = self.live.as_ref()?;
        if self.restored_unnoticed {
            return Some(Serving::Starting);
        }
        let (visible, started) = (live.sight.is_ok(), live.startup.done(now.mono));
        Some(serves(&self.id, &self.ownership, visible, started))
    }

    /// A phone of the home registers at this node's system.
    pub fn phone(&mut self, group: &Group, kind: PhoneKind, rules: &Rules, now: Now) {
        let (Some(live), Ok(home), Ok(at)) = (
            &mut self.live,
            group.home.as_str().parse(),
            self.id.as_str().parse(),
        ) else {
            return;
        };
        let phone = Registration {
            extension: "2001".to_owned(),
            kind,
            home_system: home,
            at_system: at,
        };
        let after = rules.failover_after;
        live.phones.registered(&phone, live.sight, after, now.mono);
    }

    /// Asks the machine; a transition is not applied yet. `None` while down or still starting.
    pub fn decide(
        &mut self,
        rules: &Rules,
        ask: Option<&Ask>,
        now: Now,
    ) -> Option<(View, Decision)> {
        let live = self.live.as_mut()?;
        if !live.startup.done(now.mono) {
            return None;
        }
        let view = View {
            me: self.id.clone(),
            peer: live.sight,
            desk_phones: live.phones.desk_phones(),
            sync_started: live.session.started(),
            sync_finished: live.session.finished(),
            pending_operations: live.session.pending_out() + live.session.pending_in(),
            calls: live.calls,
        };
        let decision = live.machine.decide(&self.ownership, &view, rules, ask, now);
        live.deadline = decision.deadline;
        Some((view, decision))
    }

    /// A mail of the peer: applied durably, then heard; `Err` is the 4xx.
    pub fn receive(&mut self, operations: &[Operation], now: Now) -> Result<(), String> {
        self.store.apply(operations, now.wall)?;
        self.tell(now);
        Ok(())
    }

    /// The mail's head, once its operations are durable.
    pub fn hear(&mut self, head: &Head, now: Now) {
        if let Some(live) = &mut self.live {
            live.session.heard(head, now);
        }
    }

    /// Acts on what the session found. `incarnation` is used if the store must take a new one.
    pub fn act(&mut self, incarnation: u32) {
        let Some(live) = &mut self.live else { return };
        let mut started = false;
        while let Some(event) = live.session.next_event() {
            match event {
                Event::PeerKnowsMore { origin, .. } if origin == *self.store.origin() => {
                    self.store.new_incarnation(incarnation);
                    live.session.rename(self.store.origin().clone());
                }
                Event::Started { .. } => started = true,
                _ => {}
            }
        }
        // What the peer holds was heard, and a lost sequence number would have shown.
        self.restored_unnoticed &= !started;
    }

    /// When this node must be looked at again by time alone.
    pub fn deadline(&self) -> Option<Duration> {
        let live = self.live.as_ref()?;
        let sync = live.session.next_deadline();
        sync.into_iter().chain(live.deadline).min()
    }

    /// The vector of what is held durably.
    pub fn have(&self) -> Vector {
        self.store.held().0
    }
}

/// What the session is told of a store that keeps its whole log.
fn local(have: Vector, digest: String) -> Local {
    Local {
        have,
        digest,
        ..Local::default()
    }
}
