//! What follows: decisions, their deadlines, an administrator's failback.

use std::time::Duration;

use vmsync_config::words::{Now, SystemName};

use super::{
    super::{
        Feature, Outlook, Refused, Side, Sight, Standing,
        decide::{decide, may_fail_back},
        parameters::{ROWS, row},
        system::Theirs,
    },
    Decided, Tracker,
};

impl Tracker {
    /// Looks at what was touched and what is due, at most `most` systems; [`Self::next_deadline`]
    /// tells whether more wait. What changed must be handed to [`Self::take`] or [`Self::retry`].
    pub fn decide(&mut self, most: usize, now: Now) -> Vec<Decided> {
        while let Some(&(due, n)) = self.dues.first().filter(|(due, _)| *due <= now.mono) {
            self.dues.remove(&(due, n));
            self.systems[n as usize].deadline = None;
            self.touched.insert(n);
        }
        let mut changes = Vec::new();
        for _ in 0..most {
            let Some(n) = self.touched.pop_first() else {
                break;
            };
            self.decide_one(n, now, &mut changes);
        }
        changes
    }

    fn decide_one(&mut self, n: u32, now: Now, changes: &mut Vec<Decided>) {
        let node = self.node_of(n);
        let mine = self.decides(n as usize);
        let decider = self.systems[n as usize].setup.decider.as_ref();
        let decider_is_me = decider.is_none_or(|d| *d == self.me);
        let decider_gone = self.peer.and_then(Result::err).filter(|_| !decider_is_me);
        let tracked = &mut self.systems[n as usize];
        tracked.refresh(node, &self.timers, now.mono);
        let mut deadline = tracked.silence_due(&self.timers);
        let mut phones = tracked.stands(Feature::Phones).standing.side;
        for row in &ROWS {
            let stands = tracked.stands(row.feature);
            let at_home = stands.standing.side == Side::Home;
            let sight = Sight {
                setup: &tracked.setup,
                row,
                timers: &self.timers,
                seen: tracked.seen(row.watches, node),
                desk_phones: tracked.desk_phones,
                phones,
                maintenance: self.maintenance.as_ref(),
                stands_in_since: decider_gone.filter(|_| at_home),
                asked: false,
                now,
            };
            // What this node took over it brings home, whoever decides by then.
            let taken_over_here = !at_home && stands.standing.by.is_none();
            let outlook = if let Some(theirs) = stands.to_follow(decider_is_me) {
                Outlook::following(follow(theirs, now), &sight)
            } else if mine || taken_over_here {
                decide(&stands.standing, &sight)
            } else {
                Outlook::left_to_the_other(stands.standing.side, &sight)
            };
            if let (Feature::Phones, Some(next)) = (row.feature, &outlook.standing) {
                phones = next.side;
            }
            deadline = deadline.into_iter().chain(outlook.deadline).min();
            let news = outlook.standing.is_some()
                || outlook.phase != stands.phase
                || outlook.waiting_for != stands.waiting_for;
            if news {
                changes.push(Decided {
                    system: tracked.name().clone(),
                    feature: row.feature,
                    announce: tracked.setup.backs_up(row.feature)
                        || stands.standing.side == Side::Backup,
                    outlook,
                });
            } else {
                tracked.stands[row.feature as usize].deadline = outlook.deadline;
            }
        }
        self.schedule(n, deadline);
    }

    fn schedule(&mut self, n: u32, deadline: Option<Duration>) {
        let tracked = &mut self.systems[n as usize];
        if let Some(old) = std::mem::replace(&mut tracked.deadline, deadline) {
            self.dues.remove(&(old, n));
        }
        if let Some(due) = deadline {
            self.dues.insert((due, n));
        }
    }

    /// Takes on changes that are durable.
    pub fn take(&mut self, changes: &[Decided], now: Now) {
        for change in changes {
            let Some(&n) = self.index.get(&change.system) else {
                continue;
            };
            let tracked = &mut self.systems[n as usize];
            if let Some(next) = &change.outlook.standing {
                let stands = &mut tracked.stands[change.feature as usize];
                let handed_over = next.epoch == stands.standing.epoch && next.by.is_some();
                if next.epoch <= stands.standing.epoch && !handed_over {
                    continue;
                }
                if next.by.is_some() {
                    // What follows from it is decided next.
                    self.touched.insert(n);
                }
                stands.standing = next.clone();
                if change.feature == Feature::Phones {
                    let window = now.mono.saturating_add(self.timers.homeless_prevention);
                    tracked.homeless_until = (next.side == Side::Home).then_some(window);
                }
            }
            let stands = &mut tracked.stands[change.feature as usize];
            stands.phase = change.outlook.phase;
            stands.waiting_for.clone_from(&change.outlook.waiting_for);
            stands.deadline = change.outlook.deadline;
        }
    }

    /// Changes that could not be made durable have not happened: they are decided again at `at`.
    pub fn retry(&mut self, changes: &[Decided], at: Duration) {
        for change in changes {
            if let Some(&n) = self.index.get(&change.system) {
                self.schedule(n, Some(at));
            }
        }
    }

    /// What an administrator's failback would change; make it durable and [`Self::take`] it, or
    /// leave it for a dry run.
    pub fn ask_failback(
        &mut self,
        system: &SystemName,
        feature: Feature,
        now: Now,
    ) -> Result<Decided, Refused> {
        let n = self.find(system)?;
        let node = self.node_of(n);
        let tracked = &mut self.systems[n as usize];
        tracked.refresh(node, &self.timers, now.mono);
        let row = row(feature);
        let sight = Sight {
            setup: &tracked.setup,
            row,
            timers: &self.timers,
            seen: tracked.seen(row.watches, node),
            desk_phones: tracked.desk_phones,
            phones: tracked.stands(Feature::Phones).standing.side,
            maintenance: self.maintenance.as_ref(),
            stands_in_since: None,
            asked: true,
            now,
        };
        let standing = &tracked.stands(feature).standing;
        may_fail_back(standing, &sight)?;
        Ok(Decided {
            system: system.clone(),
            feature,
            outlook: decide(standing, &sight),
            announce: true,
        })
    }

    /// When [`Self::decide`] is to be called again (monotonic); in the past when something waits.
    pub fn next_deadline(&self) -> Option<Duration> {
        if !self.touched.is_empty() {
            return Some(Duration::ZERO);
        }
        self.dues.first().map(|(due, _)| *due)
    }
}

/// The standing of a node that follows the other one.
fn follow(theirs: &Theirs, now: Now) -> Standing {
    let by = theirs.by.as_ref();
    let by_whom = by.map_or("this node, before", |by| by.as_str());
    Standing {
        epoch: theirs.epoch,
        side: theirs.side,
        since: now.wall,
        because: format!("decided by {by_whom}, which this node follows"),
        by: theirs.by.clone(),
    }
}
