//! The task: sees to what is due, and to what follows from decisions.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use vmsync_core::{
    Now,
    features::{Decided, Feature, Setup, Side},
};

use super::{Features, keep, told_of, view};
use crate::{app::App, clock, status::Status, topology::Topology};

/// Systems looked at in one turn: the lock is held no longer, and no batch is larger.
const A_TURN: usize = 500;
/// Decisions in one event.
const AN_EVENT: usize = 100;
/// What could not be made durable is decided again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// The task looks at everything due at least this often.
const TICK: Duration = Duration::from_mins(1);
/// And never turns faster than this by its own deadlines.
const REST: Duration = Duration::from_millis(2);
/// Alarm of a system whose phones its backup serves (R-AL-1).
const PHONES_FAILOVER: &str = "phones_failover";
/// Alarm: decisions can't be made durable.
const NOT_KEPT: &str = "features_not_kept";

/// Runs until the node stops.
pub(crate) async fn run(app: Arc<App>, stop: CancellationToken) {
    let mut status = app.node.watch();
    // Before that nobody knows whether the other node is there.
    tokio::select! {
        () = stop.cancelled() => return,
        ready = status.wait_for(|s| s.node.ready) => if ready.is_err() { return },
    }
    let features = &app.features;
    features.alarms_again(&app);
    let mut sight = None;
    // What was switched live before this start counts from the first turn on.
    let mut topology = app.topology.watch();
    topology.mark_changed();
    loop {
        if topology.has_changed().unwrap_or_default() {
            let now_in_force = Arc::clone(&topology.borrow_and_update());
            features.follow_topology(&now_in_force);
        }
        let visible = status.borrow_and_update().peer.visible;
        if sight != Some(visible) {
            sight = Some(visible);
            features.node_sight(visible, clock::now());
        }
        features.turn(&app).await;
        let rest = features.rest(clock::now());
        tokio::select! {
            () = stop.cancelled() => return,
            () = features.wake.notified() => {}
            () = tokio::time::sleep(rest) => {}
            switched = topology.changed() => {
                if switched.is_err() {
                    return;
                }
                // Seen at the top of the next round.
                topology.mark_changed();
            }
            changed = sight_changed(&mut status, visible) => if !changed { return },
        }
    }
}

/// Waits until the other node appears or vanishes; false when the loop has ended.
async fn sight_changed(
    status: &mut tokio::sync::watch::Receiver<Arc<Status>>,
    visible: bool,
) -> bool {
    status.wait_for(|s| s.peer.visible != visible).await.is_ok()
}

impl Features {
    fn node_sight(&self, visible: bool, now: Now) {
        let peer = if visible { Ok(now.mono) } else { Err(now.mono) };
        self.lock().tracker.node_sight(peer);
    }

    /// Mode and systems were switched live: who stands where, and so who decides.
    fn follow_topology(&self, topology: &Topology) {
        self.lock().tracker.follow(Setup::all(&topology.systems));
    }

    fn rest(&self, now: Now) -> Duration {
        let due = self.lock().tracker.next_deadline();
        due.map_or(TICK, |due| due.saturating_sub(now.mono))
            .clamp(REST, TICK)
    }

    /// Decides what is due and follows it through.
    pub(crate) async fn turn(&self, app: &App) {
        let _turn = self.turns.lock().await;
        let maintenance = self.maintenance.borrow().clone();
        let heard = Arc::clone(&self.heard.borrow());
        {
            let mut inner = self.lock();
            inner.tracker.maintenance(maintenance);
            inner.tracker.hear(&heard);
        }
        loop {
            let now = clock::now();
            let (changes, more) = {
                let mut inner = self.lock();
                let changes = inner.tracker.decide(A_TURN, now);
                (changes, super::is_due(&inner))
            };
            if let Err(error) = self.follow(app, changes, now).await {
                app.alarms.raise(NOT_KEPT, self.me.as_str(), &error);
                return;
            }
            if !more {
                return;
            }
        }
    }

    /// Makes changes durable, takes them on, tells of them.
    pub(super) async fn follow(
        &self,
        app: &App,
        changes: Vec<Decided>,
        now: Now,
    ) -> Result<(), String> {
        let mut records: Vec<_> = std::mem::take(&mut self.lock().records)
            .into_iter()
            .collect();
        let others = records.len();
        records.extend(changes.iter().filter_map(keep::standing));
        if !records.is_empty() {
            let written = records.clone();
            let written = app.store(move |store| keep::write(store, &written)).await;
            if let Err(error) = written {
                records.truncate(others);
                let mut inner = self.lock();
                for (place, value) in records {
                    // What has changed since is newer.
                    inner.records.entry(place).or_insert(value);
                }
                inner
                    .tracker
                    .retry(&changes, now.mono.saturating_add(AGAIN));
                return Err(format!("{error}; nothing was changed"));
            }
            app.alarms.clear(NOT_KEPT, self.me.as_str());
        }
        if changes.is_empty() {
            return Ok(());
        }
        let told = {
            let mut inner = self.lock();
            inner.tracker.take(&changes, now);
            if changes.iter().any(|c| c.outlook.standing.is_some()) {
                self.told.send_replace(Arc::new(inner.tracker.tell()));
            }
            let told = told_of(&changes).filter_map(|change| {
                let number = inner.tracker.number(&change.system)?;
                view::feature(&inner.tracker, &self.me, number, change.feature, now)
            });
            told.collect::<Vec<_>>()
        };
        for change in told_of(&changes) {
            self.alarm(app, change);
        }
        for some in told.chunks(AN_EVENT) {
            app.events.publish("feature", json!({"decisions": some}));
        }
        Ok(())
    }

    /// One alarm per system whose phones fail over, ended when they go home (R-AL-1).
    fn alarm(&self, app: &App, change: &Decided) {
        let Some(standing) = &change.outlook.standing else {
            return;
        };
        let (system, feature) = (change.system.as_str(), change.feature.as_str());
        tracing::info!(node = %self.me, system, feature, epoch = standing.epoch, side = ?standing.side, "{}", standing.because);
        if change.feature != Feature::Phones {
            return;
        }
        match standing.side {
            // The node that decided it tells.
            Side::Backup if standing.by.is_some() => app.alarms.clear(PHONES_FAILOVER, system),
            Side::Backup => {
                let text = format!(
                    "phones of {system} are served by its backup: {}",
                    standing.because
                );
                app.alarms.raise(PHONES_FAILOVER, system, &text);
            }
            Side::Home => app.alarms.clear(PHONES_FAILOVER, system),
        }
    }

    /// The process may have ended between a decision and its alarm.
    fn alarms_again(&self, app: &App) {
        let mut over = Vec::new();
        {
            let inner = self.lock();
            for number in 0..inner.tracker.counts().0 {
                if let Some((setup, standing, _)) = inner.tracker.stands(number, Feature::Phones)
                    && standing.side == Side::Backup
                    && standing.by.is_none()
                {
                    over.push((setup.name.to_string(), standing.because.clone()));
                }
            }
        }
        let still: BTreeSet<_> = over.iter().map(|(system, _)| system).collect();
        for subject in app.alarms.up_of(PHONES_FAILOVER) {
            if !still.contains(&subject) {
                app.alarms.clear(PHONES_FAILOVER, &subject);
            }
        }
        for (system, because) in over {
            let text = format!("phones of {system} are served by its backup: {because}");
            app.alarms.raise(PHONES_FAILOVER, &system, &text);
        }
    }
}
