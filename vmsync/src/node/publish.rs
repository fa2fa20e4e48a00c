//! What the loop tells the fronts: the status document, who serves what, events on every change.

use std::{sync::Arc, time::Duration};

use vmsync_config::{
    Config, FailbackPolicy, Mode, Role,
    words::{NodeId, Now, Origin, UnixMillis, Vector},
};
use vmsync_core::{
    resilience::{Colour, Link, Ownership, Serving, Standing, colour},
    sync::{Direction, SyncState},
};
use vmsync_store::{Backlog, model::Totals};

use super::{Node, destination_name, holdings::PeerHolds, mode_name};
use crate::{
    app::rfc3339,
    clock,
    status::{
        DirectionStatus, EmailSummary, FailbackStatus, GroupStatus, HoldOffStatus, LinkStatus,
        MaintenanceStatus, NodeStatus, PeerStatus, ProbeStatus, SignsStatus, Status, SyncStatus,
        TotalsStatus, VrlSummary, WitnessStatus,
    },
    topology::Topology,
};

/// What is measured on the way, for display.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) digest: String,
    pub(super) have: Vector,
    /// And the last operations it knows to have been recorded.
    pub(super) seen: Vector,
    pub(super) totals: Totals,
    /// What the peer holds, also while it is away.
    pub(super) peer: PeerHolds,
    /// What it lacks of what is held here.
    pub(super) backlog: Backlog,
    /// Entities under quarantine.
    pub(super) left_out: crate::app::LeftOut,
    /// Audio files missing or damaged here: now, and ever noted since the start.
    pub(super) audio_faults: (usize, u64),
    /// Of this store, as last read.
    pub(super) origin: Option<Origin>,
    /// Ownership changed: the peer is told at once.
    pub(super) tell_peer: bool,
    /// Whether this node was ready at the last turn.
    pub(super) was_ready: bool,
    pub(super) to_adopt: Vec<Ownership>,
    /// Since when each direction is in its state: out, in.
    states: [Option<(SyncState, Now)>; 2],
    /// Since when each direction lags: out, in.
    lags: [Option<Duration>; 2],
    vrl_allowed: Option<(bool, String)>,
    announced: Vec<(String, String)>,
    links: Option<(Links, Arc<Vec<LinkStatus>>)>,
}

/// What the links' colours hang on.
pub(super) struct Links {
    topology: Arc<Topology>,
    up: bool,
    backed_up: bool,
    owners: Vec<NodeId>,
}

impl PartialEq for Links {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.topology, &other.topology)
            && (self.up, self.backed_up, &self.owners) == (other.up, other.backed_up, &other.owners)
    }
}

impl Progress {
    pub(super) fn new(peer: PeerHolds) -> Self {
        Self {
            peer,
            ..Self::default()
        }
    }
}

impl Node {
    /// Publishes what changed in this turn.
    pub(super) fn publish(&mut self, now: Now) {
        let table: Vec<_> = (0..self.groups.len())
            .map(|i| (self.groups[i].name().clone(), self.serving(i, now)))
            .collect();
        self.seat.serving.send_if_modified(|old| {
            let changed = **old != table;
            if changed {
                *old = Arc::new(table);
            }
            changed
        });
        self.tell_what_the_peer_holds();
        self.seat
            .peer_session
            .send_replace(self.session.peer_session());
        self.steer_recordings();
        let status = self.status(now);
        self.phase_events(&status);
        self.seat.status.send_replace(Arc::new(status));
    }

    /// For answers that wait for the second copy.
    fn tell_what_the_peer_holds(&mut self) {
        self.learn_what_the_peer_holds();
        let have = self.progress.peer.have();
        self.seat.peer_have.send_if_modified(|held| {
            let news = held != have;
            if news {
                held.clone_from(have);
            }
            news
        });
    }

    /// Out of sight, what was known last is the best there is.
    pub(super) fn learn_what_the_peer_holds(&mut self) {
        let heard = self.session.started().and(self.session.peer_have());
        let told = self.peer.report.as_ref().map(|r| &r.have);
        if let Some(have) = heard.or(told.filter(|_| self.peer.visible())) {
            self.progress.peer.hear(have);
        }
    }

    fn phase_events(&mut self, status: &Status) {
        let phases = status
            .groups
            .iter()
            .map(|g| (g.name.clone(), g.phase.clone()));
        let phases: Vec<_> = phases.collect();
        if phases != self.progress.announced {
            for (group, phase) in &phases {
                self.app
                    .events
                    .publish("phase", serde_json::json!({"group": group, "phase": phase}));
            }
            self.progress.announced = phases;
        }
    }

    fn steer_recordings(&mut self) {
        let Some(vrl) = &self.app.vrl else { return };
        let allowed = self.vrl_allowed();
        if self.progress.vrl_allowed.as_ref() != Some(&allowed) {
            vrl.allow(allowed.0, allowed.1.clone());
            self.progress.vrl_allowed = Some(allowed);
        }
        // What a PBX puts into the folder itself is refused as what it hands in is (R-VR-3).
        vrl.refuse(self.app.rights.may_record(&self.app).err());
    }

    fn status(&mut self, now: Now) -> Status {
        let groups: Vec<_> = (0..self.groups.len())
            .map(|i| self.group_status(i, now))
            .collect();
        let serves = groups.iter().any(|g| g.serving_here == "yes");
        let mut out = self.session.outgoing(now.mono);
        let mut incoming = self.session.incoming(now.mono);
        if self.session.started().is_none() {
            let theirs = self.progress.peer.have();
            out.pending = self.progress.have.ahead_of(theirs);
            incoming.pending = theirs.ahead_of(&self.progress.have);
        }
        let probe = self.session.probe(now.mono);
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let sync = SyncStatus {
            out: self.direction(0, out, now),
            incoming: self.direction(1, incoming, now),
            digest: self.progress.digest.clone(),
            peer_digest: self.session.peer_digest().map(str::to_owned),
            diverged: self.session.diverged(),
            single_copies: self.progress.backlog.messages,
            quarantined: self.progress.left_out.count,
            audio_faults: self.progress.audio_faults.0 as u64,
            probe: ProbeStatus {
                out_age_ms: probe.out_age.map(ms),
                round_trip_ms: probe.round_trip.map(ms),
                in_age_ms: probe.in_age.map(ms),
            },
        };
        Status {
            node: NodeStatus {
                incarnation: self
                    .progress
                    .origin
                    .as_ref()
                    .map_or_else(String::new, |o| format!("{:08x}", o.incarnation)),
                voicemail_type: if serves { "local" } else { "centralized" }.to_owned(),
                started_at: rfc3339(self.started_at.wall),
                ready: self.started(now),
                ..node_status(&self.app.config, self.app.topology().mode)
            },
            mode: mode_name(self.app.topology().mode).to_owned(),
            peer: self.peer_status(now),
            maintenance: self.maintenance_status(now),
            witness: self.witness_status(now),
            links: self.links(),
            calls: self.app.calls.active(),
            totals: totals(self.progress.totals),
            vrl: self.vrl_summary(),
            email: self.email_summary(),
            rights: self
                .app
                .rights
                .status(self.app.topology().mode, self.peer.answers(now)),
            alarms: u32::try_from(self.app.alarms.active()).unwrap_or(u32::MAX),
            groups,
            sync,
        }
    }

    fn email_summary(&self) -> EmailSummary {
        let (pending, failed) = self.app.delivery.totals();
        EmailSummary { pending, failed }
    }

    fn group_status(&self, index: usize, now: Now) -> GroupStatus {
        let group = &self.groups[index];
        let configured = group.machine.group();
        let deadline = group.decision.failback_deadline.map(|at| wall_at(at, now));
        let hold_off = group.decision.hold_off.as_ref();
        let order = self.agreed.orders.get(&configured.name);
        GroupStatus {
            name: configured.name.to_string(),
            home: configured.home.to_string(),
            backup: configured.backup.to_string(),
            owner: group.ownership.owner.to_string(),
            phase: group.decision.phase.as_str().to_owned(),
            epoch: group.ownership.epoch,
            since: rfc3339(group.ownership.since),
            reason: group.ownership.reason.clone(),
            serving_here: match self.serving(index, now) {
                Serving::Yes => "yes",
                Serving::YesPartition => "partition",
                Serving::No { .. } => "no",
                Serving::Starting => "starting",
                Serving::Isolated { .. } => "isolated",
            }
            .to_owned(),
            both_may_serve: self.both_may_serve(index, now),
            failback: FailbackStatus {
                policy: policy_name(self.agreed.failback.policy).to_owned(),
                timeout_minutes: u32::try_from(self.agreed.failback.timeout.as_secs() / 60)
                    .unwrap_or(60),
                deadline: deadline.map(rfc3339),
                waiting_for: group.decision.waiting_for.clone(),
            },
            waiting_until: group
                .decision
                .deadline
                .filter(|at| *at > now.mono)
                .map(|at| rfc3339(wall_at(at, now))),
            calls: self.calls_on_owner(index),
            phones_refused: u32::try_from(group.evidence.refused()).unwrap_or(u32::MAX),
            phones_counted: group.evidence.desk_phones(),
            hold_off: hold_off.map(|h| HoldOffStatus {
                failovers: u32::try_from(h.flaps).unwrap_or(u32::MAX),
                until: h.until.map(|at| rfc3339(wall_at(at, now))),
            }),
            scheduled: match order {
                Some(Standing::Open(order)) => Some(order.clone().into()),
                _ => None,
            },
        }
    }

    /// A partition as far as one side of it can tell (R-FO-6, R-SY-6).
    fn both_may_serve(&self, index: usize, now: Now) -> Option<String> {
        let peer = &self.app.config.pair.peer_id;
        let why = match self.serving(index, now) {
            Serving::Yes if self.peer.hears_us(now) => return None,
            Serving::No { .. } | Serving::Starting | Serving::Isolated { .. } => return None,
            _ if !self.peer.visible() => {
                format!("{peer} is out of sight since {}", self.peer.since)
            }
            Serving::Yes => format!("{peer} lives, but gets no answer from here"),
            Serving::YesPartition => {
                format!("{peer} owns the group, but callers can't be sent there")
            }
        };
        Some(format!(
            "{why}: it may be answering callers too; what both take is merged when they meet"
        ))
    }

    fn peer_status(&self, now: Now) -> PeerStatus {
        let pair = &self.app.config.pair;
        let report = self.peer.report.as_ref();
        PeerStatus {
            id: pair.peer_id.to_string(),
            fqdn: pair.peer.to_string(),
            url: pair.peer_url.as_str().trim_end_matches('/').to_owned(),
            visible: self.peer.visible(),
            signs: {
                let [answers, questions, greeting] = self.peer.signs(now);
                SignsStatus {
                    answers,
                    questions,
                    greeting,
                }
            },
            since: rfc3339(self.peer.since),
            last_seen: self.peer.last_seen.map(rfc3339),
            reason: self.peer.reason.clone().filter(|_| !self.peer.answers(now)),
            calls: report.map(|r| r.calls.iter().map(|(_, n)| n).sum()),
            totals: report.map(|r| r.totals),
        }
    }

    fn maintenance_status(&self, now: Now) -> Option<MaintenanceStatus> {
        let on = self.agreed.maintenance.as_ref();
        let on = on.filter(|m| m.is_on(now.wall))?;
        Some(MaintenanceStatus {
            since: rfc3339(on.since),
            until: on.until.map(rfc3339),
            reason: on.reason.clone(),
            by: on.by.to_string(),
        })
    }

    fn witness_status(&self, now: Now) -> Option<WitnessStatus> {
        let witness = self.app.config.witness.as_ref()?;
        Some(WitnessStatus {
            url: witness.url.to_string(),
            seen: self.witness(now)?,
            reason: self.witness.as_ref().and_then(|w| w.reason.clone()),
        })
    }

    fn direction(&mut self, which: usize, direction: Direction, now: Now) -> DirectionStatus {
        let since = match &mut self.progress.states[which] {
            Some((state, since)) if *state == direction.state => *since,
            slot => slot.insert((direction.state, now)).1,
        };
        let lag = &mut self.progress.lags[which];
        if direction.state == SyncState::Finished {
            *lag = None;
        } else {
            lag.get_or_insert(now.mono);
        }
        let lag = lag.map_or(Duration::ZERO, |since| now.mono.saturating_sub(since));
        DirectionStatus {
            state: match direction.state {
                SyncState::Idle => "idle",
                SyncState::Started => "started",
                SyncState::Syncing => "syncing",
                SyncState::Finished => "finished",
                SyncState::Stalled => "stalled",
            }
            .to_owned(),
            pending_ops: direction.pending,
            pending_bytes: direction.bytes,
            seeding: direction.seeding,
            lag_ms: u64::try_from(lag.as_millis()).unwrap_or(u64::MAX),
            eta_s: direction
                .rest
                .map(|rest| rest.as_millis().div_ceil(1000))
                .and_then(|s| u64::try_from(s).ok()),
            reason: direction.stalled.map(|(_, why)| why),
            since: Some(rfc3339(since.wall)),
        }
    }

    /// R-AL-2: the link to each system is the link to the node that is its home. There may be
    /// thousands, so they are only looked at again when something changed.
    fn links(&mut self) -> Arc<Vec<LinkStatus>> {
        let backs_up = self.app.config.resilience.backs_up_voicemail;
        // R-TO-6 is a switch of each direction: the other one is the peer's.
        let report = self.peer.report.as_ref();
        let seen = Links {
            topology: self.app.topology(),
            up: self.peer.visible(),
            backed_up: report.and_then(|r| r.backs_up).unwrap_or(backs_up),
            owners: self
                .groups
                .iter()
                .map(|g| g.ownership.owner.clone())
                .collect(),
        };
        if let Some((before, links)) = &self.progress.links
            && *before == seen
        {
            return Arc::clone(links);
        }
        let systems = seen.topology.systems.iter().map(|system| {
            let group = seen.topology.group_of_system(system);
            let group = self.groups.iter().find(|g| g.name() == group);
            let mine = system.home == *self.me();
            let backup = group.is_some_and(|g| g.machine.group().backup == *self.me());
            let shown = colour(Link {
                up: mine || seen.up,
                i_back_it_up: backs_up && backup,
                it_backs_me_up: seen.up && seen.backed_up && !backup,
                i_serve_it: !mine && group.is_some_and(|g| g.ownership.owner == *self.me()),
            });
            LinkStatus {
                system: system.name.to_string(),
                colour: colour_name(shown).to_owned(),
                meaning: meaning(shown).to_owned(),
                destination: destination_name(system.destination).to_owned(),
            }
        });
        let links = Arc::new(systems.collect());
        self.progress.links = Some((seen, Arc::clone(&links)));
        links
    }

    fn vrl_summary(&self) -> VrlSummary {
        let Some(vrl) = &self.app.vrl else {
            return VrlSummary {
                state: "off".to_owned(),
                ..VrlSummary::default()
            };
        };
        let status = vrl.status();
        let on_the_way = status.on_the_way.len();
        VrlSummary {
            state: status.state.as_str().to_owned(),
            files_pending: status.files_pending,
            bytes_pending: status.bytes_pending,
            files_done: status.files_done,
            on_the_way: u64::try_from(on_the_way).unwrap_or(u64::MAX),
            rate: status.rate,
            eta_s: status.eta_s,
            stalled_s: status.stalled_s,
            last_error: status.last_error,
        }
    }
}

/// The wall clock's reading at a moment of the monotonic one.
fn wall_at(at: Duration, now: Now) -> UnixMillis {
    let ahead = u64::try_from(at.saturating_sub(now.mono).as_millis()).unwrap_or(0);
    UnixMillis(now.wall.0.saturating_add(ahead))
}

fn policy_name(policy: FailbackPolicy) -> &'static str {
    match policy {
        FailbackPolicy::Manual => "manual",
        FailbackPolicy::Graceful => "graceful",
        FailbackPolicy::Automatic => "automatic",
    }
}

fn colour_name(colour: Colour) -> &'static str {
    match colour {
        Colour::Red => "red",
        Colour::LightGreen => "light-green",
        Colour::White => "white",
        Colour::Yellow => "yellow",
        Colour::Orange => "orange",
        Colour::DarkGreen => "dark-green",
    }
}

fn meaning(colour: Colour) -> &'static str {
    match colour {
        Colour::Red => "down, no resilience configured",
        Colour::LightGreen => "up, no resilience",
        Colour::White => "up, this node is its backup",
        Colour::Yellow => "down, this node is backing it up",
        Colour::Orange => "down, failover pending",
        Colour::DarkGreen => "up, it is backed up by the peer",
    }
}

pub(super) fn totals(totals: Totals) -> TotalsStatus {
    TotalsStatus {
        mailboxes: totals.mailboxes,
        messages: totals.messages,
        bytes: totals.bytes,
    }
}

fn node_status(config: &Config, mode: Mode) -> NodeStatus {
    let role = config.node.role;
    // R-TO-4: the primary names the secondary; the secondary names the primary in dual-active only.
    let shows_backup = role == Role::Primary || mode == Mode::DualActive;
    NodeStatus {
        id: config.node.id.to_string(),
        fqdn: config.node.fqdn.to_string(),
        role: match role {
            Role::Primary => "primary",
            Role::Secondary => "secondary",
        }
        .to_owned(),
        incarnation: String::new(),
        voicemail_type: "centralized".to_owned(),
        backup_address: shows_backup.then(|| config.pair.peer.to_string()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: rfc3339(clock::wall()),
        ready: false,
    }
}

/// The status of a node whose loop has not turned yet.
pub(super) fn starting(config: &Config) -> Status {
    let idle = || DirectionStatus {
        state: "idle".to_owned(),
        pending_ops: 0,
        pending_bytes: 0,
        seeding: None,
        lag_ms: 0,
        eta_s: None,
        reason: None,
        since: None,
    };
    Status {
        node: node_status(config, config.pair.mode),
        mode: mode_name(config.pair.mode).to_owned(),
        peer: PeerStatus {
            id: config.pair.peer_id.to_string(),
            fqdn: config.pair.peer.to_string(),
            url: config
                .pair
                .peer_url
                .as_str()
                .trim_end_matches('/')
                .to_owned(),
            visible: false,
            signs: SignsStatus::default(),
            since: rfc3339(clock::wall()),
            last_seen: None,
            reason: None,
            calls: None,
            totals: None,
        },
        groups: Vec::new(),
        maintenance: None,
        witness: None,
        sync: SyncStatus {
            out: idle(),
            incoming: idle(),
            digest: String::new(),
            peer_digest: None,
            diverged: false,
            single_copies: 0,
            quarantined: 0,
            audio_faults: 0,
            probe: ProbeStatus::default(),
        },
        links: Arc::default(),
        calls: 0,
        totals: TotalsStatus::default(),
        vrl: VrlSummary {
            state: "off".to_owned(),
            ..VrlSummary::default()
        },
        email: EmailSummary::default(),
        rights: crate::rights::RightsStatus::default(),
        alarms: 0,
    }
}
