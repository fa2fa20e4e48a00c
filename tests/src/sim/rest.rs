//! After the troubles: all is made whole, the group is brought home, and what must hold at rest is checked.

use std::time::Duration;

use vmsync_config::FailbackPolicy;
use vmsync_core::resilience::{Ask, Request};

use super::{
    beats::Cuts,
    link::Link,
    ordering::Guard,
    setting::BEAT,
    world::{BACKUP, Event, HOME, World},
};

impl World {
    /// Ends all troubles: links whole, nodes up. Living calls end soon, but some where the policy has a
    /// timeout for that; calls whose PBX is gone have to expire.
    pub fn heal(&mut self) -> Result<(), String> {
        self.note("healed");
        self.troubled = false;
        self.cuts = Cuts::default();
        self.link = Link::healed();
        self.refusers = [None, None];
        self.all_readable_soon();
        let automatic = self.policy() == FailbackPolicy::Automatic;
        for key in self.talks.keys().copied().collect::<Vec<_>>() {
            let span = self.rng.millis(0, 8_000) * self.pace;
            let stays = automatic && self.rng.chance(60);
            if let Some(talk) = self.talks.get_mut(&key) {
                talk.ends = if stays {
                    Duration::MAX
                } else {
                    self.now + span
                };
            }
        }
        if automatic && self.rng.chance(50) {
            // Somebody who talks on and on, where the group may still be away.
            let before = self.talked;
            self.call(BACKUP)?;
            if let Some(talk) = self.talks.get_mut(&before) {
                talk.goes_on();
            }
        }
        for n in 0..2 {
            self.nodes[n].disk.hold();
            if self.nodes[n].live.is_none() {
                self.schedule(Duration::ZERO, Event::Restart(n));
            }
        }
        for beats in 1..15 {
            self.schedule(BEAT * beats * self.pace, Event::Tidy);
        }
        Ok(())
    }

    fn policy(&self) -> FailbackPolicy {
        self.nodes[BACKUP].config.failback.policy
    }

    /// An administrator brings the group home, where no policy has; orders that still stand are taken
    /// back.
    pub fn bring_home(&mut self) -> Result<(), String> {
        self.tidy_up(true)?;
        // A slow seed's beats are further apart than what follows is long.
        for (n, seconds) in [(HOME, 12), (BACKUP, 12), (HOME, 24), (BACKUP, 24)] {
            self.schedule(Duration::from_secs(seconds), Event::Wake(n));
        }
        let Some(live) = &self.nodes[BACKUP].live else {
            return Err("the backup is down".to_owned());
        };
        let group = &live.group;
        let away = group.ownership.owner == self.group.backup;
        let waits = group.decision.hold_off.as_ref().and_then(|h| h.until);
        let held_off = waits.is_some_and(|until| until > self.now);
        let policy = self.policy() != FailbackPolicy::Manual;
        if away && policy && !group.ownership.held && !held_off {
            let waits = group.decision.waiting_for.join(", ");
            return Err(format!("no policy has brought the group home: {waits}"));
        }
        if held_off {
            self.count("held off to the end");
        }
        if away {
            let ask = Ask::from(Request::Failback { force: true });
            self.request(BACKUP, &ask, &Guard::default(), false)?;
            self.settle(BACKUP)?;
        }
        let live = self.nodes[BACKUP].live.as_ref();
        if live.is_some_and(|l| l.group.ownership.owner == self.group.home) {
            Ok(())
        } else {
            Err("an administrator could not bring the group home".to_owned())
        }
    }

    /// The promises that hold at rest.
    pub fn check_rest(&mut self) -> Result<(), String> {
        let serving = [0, 1].map(|n| self.nodes[n].serving(self.clock(n)));
        self.oracle.at_rest(&self.nodes, &serving, self.lengths)?;
        self.orders_at_rest()
    }
}
