//! Laws of the transfer machine, against a simulated primary that fails, restarts and forgets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use vmsync_config::words::UnixMillis;
use vmsync_core::{
    Now,
    vrl::{Conditions, ConfirmAnswer, Outcome, Pace, RecordingName, Step, Transfer, is_ignored},
};

const SHA: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// What befalls one step.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// It works.
    Works,
    /// It fails before it has any effect.
    FailsBefore,
    /// It takes effect, but the answer is lost.
    FailsAfter,
    /// The process is killed after the effect, before the journal is written.
    KilledAfter,
    /// The primary loses everything, then the step fails.
    PrimaryForgets,
    /// The primary's group is taken over again for a while.
    Forbidden,
}

/// The primary: names and whose content each holds.
#[derive(Default)]
struct Primary(BTreeMap<String, &'static str>);

impl Primary {
    /// Performs a step as the shell would; what the machine hears of it.
    fn perform(&mut self, step: &Step, t: &Transfer) -> Outcome {
        match step {
            Step::Confirm => Outcome::Answer(match self.0.get(&t.remote_name) {
                None => ConfirmAnswer::Missing,
                Some(&"ours") => ConfirmAnswer::Durable,
                Some(_) => ConfirmAnswer::Different {
                    bytes: 1,
                    sha256: String::new(),
                },
            }),
            Step::Upload { temporary, .. } => {
                self.0.insert(temporary.clone(), "ours");
                Outcome::Uploaded
            }
            Step::Verify {
                temporary,
                remote_name,
            } => {
                if self.0.contains_key(remote_name) {
                    return Outcome::Occupied;
                }
                match self.0.remove(temporary) {
                    Some(content) => {
                        self.0.insert(remote_name.clone(), content);
                        Outcome::Verified
                    }
                    None => Outcome::UploadLost("550 no such file".into()),
                }
            }
            Step::RemoveLocal => Outcome::LocalRemoved,
            Step::Wait { .. } | Step::Done => unreachable!("not performed"),
        }
    }
}

struct World {
    primary: Primary,
    transfer: Transfer,
    journal: String,
    local: bool,
    now: Duration,
    confirmed_now: bool,
}

impl World {
    fn new(taken: usize) -> Self {
        let name = RecordingName::new("call.wav").unwrap();
        let transfer = Transfer::planned(name.clone(), 100, SHA.into(), UnixMillis(0));
        let mut primary = Primary::default();
        for other in name.candidates(SHA).into_iter().take(taken) {
            primary.0.insert(other, "theirs");
        }
        Self {
            primary,
            journal: serde_json::to_string(&transfer).unwrap(),
            transfer,
            local: true,
            now: Duration::ZERO,
            confirmed_now: false,
        }
    }

    fn now(&self) -> Now {
        Now {
            mono: self.now,
            wall: UnixMillis(0),
        }
    }

    fn tell(&mut self, outcome: Outcome) {
        match &outcome {
            Outcome::Answer(ConfirmAnswer::Durable) => self.confirmed_now = true,
            Outcome::Failed(_) => self.confirmed_now = false,
            _ => {}
        }
        self.transfer.handle(outcome, self.now(), &Pace::default());
        self.journal = serde_json::to_string(&self.transfer).unwrap();
    }

    fn restart(&mut self) {
        self.confirmed_now = false;
        self.transfer = serde_json::from_str::<Transfer>(&self.journal)
            .unwrap()
            .restored();
    }

    /// One step; `false` when the transfer is over.
    fn step(&mut self, fate: Fate) -> bool {
        let allowed = !matches!(fate, Fate::Forbidden);
        let conditions = Conditions {
            allowed,
            why: "resilience".into(),
        };
        let step = self.transfer.next(&conditions, self.now());
        match &step {
            Step::Done => return false,
            Step::Wait { until, .. } => {
                self.now = until
                    .unwrap_or(self.now + Duration::from_secs(1))
                    .max(self.now);
                return true;
            }
            Step::Upload { .. } => self.tell(Outcome::Begun),
            Step::RemoveLocal => {
                // The law: only what the primary confirmed in this life, and still holds unless it lost its disk.
                assert!(self.confirmed_now, "removed without a confirmation");
            }
            _ => {}
        }
        match fate {
            Fate::FailsBefore => self.tell(Outcome::Failed("refused".into())),
            Fate::PrimaryForgets => {
                self.primary.0.retain(|_, v| *v == "theirs");
                self.tell(Outcome::Failed("connection reset".into()));
            }
            Fate::Works | Fate::Forbidden => {
                let outcome = self.effect(&step);
                self.tell(outcome);
            }
            Fate::FailsAfter => {
                self.effect(&step);
                self.tell(Outcome::Failed("no answer".into()));
            }
            Fate::KilledAfter => {
                self.effect(&step);
                self.restart();
            }
        }
        true
    }

    fn effect(&mut self, step: &Step) -> Outcome {
        if matches!(step, Step::RemoveLocal) {
            if !self.local {
                return Outcome::LocalGone;
            }
            self.local = false;
        }
        self.primary.perform(step, &self.transfer)
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Works),
        1 => Just(Fate::FailsBefore),
        1 => Just(Fate::FailsAfter),
        1 => Just(Fate::KilledAfter),
        1 => Just(Fate::PrimaryForgets),
        1 => Just(Fate::Forbidden),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens: nothing of theirs is touched, the local copy goes only after a
    /// confirmation, and once the world behaves the transfer ends with our content at the primary.
    #[test]
    fn a_recording_is_never_lost_and_always_arrives(fates in prop::collection::vec(fate(), 0..40), taken in 0_usize..3) {
        let mut world = World::new(taken);
        for fate in fates {
            let forgot_after_removal = matches!(fate, Fate::PrimaryForgets) && !world.local;
            if forgot_after_removal {
                continue; // a disk lost after the move is the primary's own loss
            }
            if !world.step(fate) {
                break;
            }
            if world.local {
                continue;
            }
            prop_assert!(world.primary.0.values().any(|v| *v == "ours"), "both copies gone");
        }
        let mut steps = 0;
        while world.step(Fate::Works) {
            steps += 1;
            prop_assert!(steps < 100, "it does not end: {:?}", world.transfer);
        }
        prop_assert!(!world.local);
        prop_assert_eq!(world.primary.0.values().filter(|v| **v == "theirs").count(), taken);
        prop_assert!(world.primary.0.iter().any(|(name, v)| *v == "ours" && !is_ignored(name)));
    }

    /// Waits after failures never exceed the pace's cap.
    #[test]
    fn waits_are_bounded(failures in 1_u32..200) {
        let mut world = World::new(0);
        for _ in 0..failures {
            world.transfer.handle(Outcome::Failed("x".into()), world.now(), &Pace::default());
        }
        let yes = Conditions { allowed: true, why: String::new() };
        match world.transfer.next(&yes, world.now()) {
            Step::Wait { until: Some(t), .. } => prop_assert!(t <= world.now + Pace::default().most),
            other => prop_assert!(false, "{other:?}"),
        }
    }
}
