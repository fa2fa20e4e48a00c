//! What is seen of the peer and the witness, as alarms: a dead service is told, long before it
//! would be missed (docs/resilience.md, *Two signs of life*).

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use vmsync_config::{Witness, words::Now};
use vmsync_core::resilience::{Lost, Standing};

use super::Node;
use crate::clock;

/// Bytes of the witness's answer that are looked at.
const LOOK: usize = 1024;

/// The witness as seen from here.
#[derive(Debug)]
pub struct WitnessSight {
    unseen_after: Duration,
    /// When it was first asked.
    asked: Duration,
    /// Its last answer.
    last: Option<Duration>,
    /// Why the last question was not answered.
    pub reason: Option<String>,
}

/// One answer of the witness.
#[derive(Debug)]
pub struct Witnessed {
    /// When.
    pub at: Now,
    /// Why it does not count.
    pub result: Result<(), String>,
}

impl WitnessSight {
    /// Not seen before its first answer.
    pub fn new(witness: &Witness, now: Now) -> Self {
        Self {
            unseen_after: witness.unseen_after,
            asked: now.mono,
            last: None,
            reason: None,
        }
    }

    /// An answer, or none.
    pub fn heard(&mut self, answer: Witnessed) {
        match answer.result {
            Ok(()) => {
                self.last = self.last.max(Some(answer.at.mono));
                self.reason = None;
            }
            Err(why) => self.reason = Some(why),
        }
    }

    fn until(&self) -> Option<Duration> {
        Some(self.last?.saturating_add(self.unseen_after))
    }

    /// Not before its first answer: a node that starts cut off must not take it for granted.
    pub fn seen(&self, now: Now) -> bool {
        self.until().is_some_and(|until| now.mono < until)
    }

    /// When, after that, it becomes unseen unless it answers.
    pub fn deadline(&self, after: Duration) -> Option<Duration> {
        self.until().filter(|until| after < *until)
    }

    /// Unseen for so long that it is worth an alarm; a start is given the time to ask.
    fn missed(&self, now: Now) -> bool {
        !self.seen(now) && now.mono >= self.asked.saturating_add(self.unseen_after)
    }
}

/// Asks the witness until stopped.
pub(super) async fn ask_witness(
    witness: Witness,
    out: mpsc::Sender<Witnessed>,
    stop: CancellationToken,
) {
    crate::pki::install_provider();
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout((witness.unseen_after / 2).max(witness.every))
        .build();
    loop {
        let begun = clock::now().mono;
        let answer = async {
            match &client {
                Ok(client) => answer(client, &witness).await,
                Err(error) => Err(error.to_string()),
            }
        };
        let result = tokio::select! {
            () = stop.cancelled() => return,
            result = answer => result,
        };
        let at = clock::now();
        if out.send(Witnessed { at, result }).await.is_err() {
            return;
        }
        let rest = witness.every.saturating_sub(at.mono.saturating_sub(begun));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
    }
}

async fn answer(client: &reqwest::Client, witness: &Witness) -> Result<(), String> {
    let asked = client.get(witness.url.clone()).send().await;
    let mut answer = asked.map_err(|e| e.without_url().to_string())?;
    if !answer.status().is_success() {
        return Err(format!("it answers {}", answer.status()));
    }
    let Some(expected) = &witness.expect else {
        return Ok(());
    };
    let mut body = Vec::new();
    while let Some(part) = answer
        .chunk()
        .await
        .map_err(|e| e.without_url().to_string())?
    {
        body.extend_from_slice(&part);
        if body.len() >= LOOK {
            body.truncate(LOOK);
            break;
        }
    }
    if String::from_utf8_lossy(&body).contains(expected) {
        Ok(())
    } else {
        Err(format!("its answer does not contain {expected:?}"))
    }
}

impl Node {
    /// What is seen of the witness; `None` where none is configured.
    pub(super) fn witness(&self, now: Now) -> Option<bool> {
        self.witness.as_ref().map(|w| w.seen(now))
    }

    /// Both nodes must be in one mode; their files may say otherwise.
    pub(super) fn compare_modes(&mut self, now: Now) {
        let mine = super::mode_name(self.app.topology().mode);
        let report = self.peer.report.as_ref().filter(|_| self.peer.answers(now));
        let theirs = report.and_then(|r| r.mode.clone());
        let peer = self.app.config.pair.peer_id.to_string();
        match theirs.filter(|theirs| theirs != mine) {
            None => {
                self.modes_differ = None;
                self.app.alarms.clear("mode_mismatch", &peer);
            }
            Some(theirs) => {
                let since = *self.modes_differ.get_or_insert(now.mono);
                if now.mono.saturating_sub(since) >= self.app.config.pair.invisible_after {
                    let text = format!(
                        "this node is {mine} and {peer} is {theirs}: set pair.mode alike on both, or switch both with PUT /api/v1/topology"
                    );
                    self.app.alarms.raise("mode_mismatch", &peer, &text);
                }
            }
        }
    }

    /// Raises and ends the alarms about the peer's services, the witness, and what pauses decisions.
    pub(super) fn sight_alarms(&self, now: Now) {
        let alarms = &self.app.alarms;
        let peer = self.app.config.pair.peer_id.as_str();
        let told = |is: bool, code: &str, subject: &str, text: &dyn Fn() -> String| {
            if is {
                alarms.raise(code, subject, &text());
            } else {
                alarms.clear(code, subject);
            }
        };
        let lost = self.peer.lost_services(now);
        let why =
            |reason: &Option<String>| reason.clone().unwrap_or_else(|| "no answer".to_owned());
        told(
            lost.contains(&Lost::Heartbeat),
            "heartbeat_lost",
            peer,
            &|| {
                format!(
                    "{peer} does not answer heartbeats ({}), but lives by another sign: no failover; see its HTTP service and the way there",
                    why(&self.peer.reason)
                )
            },
        );
        told(lost.contains(&Lost::Smtp), "smtp_lost", peer, &|| {
            format!(
                "the SMTP receiver of {peer} does not greet ({}), but the node lives by another sign: no failover; synchronisation waits; see its receiver and the way there",
                why(&self.peer.greeting)
            )
        });
        // A node that has just started has not missed anybody yet.
        let missing = !self.peer.visible() && self.started(now);
        alarms.channels().peer_away(missing);
        told(missing, "peer_lost", peer, &|| {
            format!(
                "{peer} is out of sight since {}: {}; if it lives, it may be answering callers too, and what both take is merged when they meet",
                self.peer.since,
                why(&self.peer.reason)
            )
        });
        if let (Some(seen), Some(witness)) = (&self.witness, &self.app.config.witness) {
            let subject = witness.url.as_str();
            told(seen.missed(now), "witness_unseen", subject, &|| {
                format!(
                    "the witness does not answer ({}): this node does not fail over by itself",
                    why(&seen.reason)
                )
            });
        }
        let maintenance = self.agreed.maintenance.as_ref();
        let maintenance = maintenance.filter(|m| m.is_on(now.wall));
        if let Some(maintenance) = maintenance {
            alarms.channels().maintenance_by(&maintenance.by);
        }
        told(maintenance.is_some(), "maintenance", "pair", &|| {
            let until = maintenance.and_then(|m| m.until);
            let until = until.map_or("an operator ends it".to_owned(), |u| u.to_string());
            let reason = maintenance.map_or("", |m| m.reason.as_str());
            format!(
                "maintenance mode is on until {until}: no automatic failover or failback ({reason})"
            )
        });
        for group in &self.groups {
            // The node that carries it out tells by itself; this one tells when that one does not come.
            let order = self.agreed.orders.get(group.name());
            let overdue = match order {
                Some(Standing::Open(order)) => now.wall > order.until,
                _ => false,
            };
            let name = group.name().as_str();
            told(overdue, "order_overdue", name, &|| {
                let backup = &group.machine.group().backup;
                if backup == self.me() {
                    "an order of an operator was not carried out in time; it is dropped as soon as both nodes know the same of it".to_owned()
                } else {
                    format!(
                        "an order of an operator was not carried out in time, and {backup} has not said why; see whether it runs"
                    )
                }
            });
            let hold_off = group.decision.hold_off.as_ref();
            told(
                hold_off.is_some(),
                "flapping",
                group.name().as_str(),
                &|| {
                    let home = &group.machine.group().home;
                    let flaps = hold_off.map_or(0, |h| h.flaps);
                    format!(
                        "{home} was lost {flaps} times within an hour: failback is held off; see why it goes away, or start failback yourself"
                    )
                },
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmsync_config::words::UnixMillis;

    fn at(s: u64) -> Now {
        Now {
            mono: Duration::from_secs(s),
            wall: UnixMillis(s * 1000),
        }
    }

    #[test]
    fn a_witness_is_seen_until_it_was_silent_for_the_time_set() {
        let witness = Witness {
            url: "http://192.0.2.1/".parse().unwrap(),
            expect: None,
            every: Duration::from_secs(1),
            unseen_after: Duration::from_secs(5),
        };
        let mut sight = WitnessSight::new(&witness, at(0));
        assert!(!sight.seen(at(0)), "not before its first answer");
        assert!(!sight.missed(at(4)) && sight.missed(at(5)));
        sight.heard(Witnessed {
            at: at(6),
            result: Ok(()),
        });
        sight.heard(Witnessed {
            at: at(7),
            result: Err("refused".to_owned()),
        });
        assert!(sight.seen(at(10)) && !sight.seen(at(11)));
        assert_eq!(sight.deadline(at(7).mono), Some(Duration::from_secs(11)));
        assert_eq!(
            (sight.deadline(at(11).mono), sight.reason.as_deref()),
            (None, Some("refused"))
        );
    }
}
