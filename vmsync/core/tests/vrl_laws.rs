//! Laws of the transfer machine, against a simulated primary that fails, restarts and forgets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;
use vmsync_config::words::UnixMillis;
use vmsync_core::{
    Now,
    vrl::{
        Conditions, ConfirmAnswer, Outcome, Pace, Part, RecordingName, Step, Transfer, is_ignored,
    },
};

const SHA: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
/// The recording, and what is noted beside it.
const NAMES: [&str; 3] = ["call.wav", "call.json", "call.xml"];

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
    /// It is killed in the middle of removing: the last of the files is gone, the audio is not.
    KilledWithin,
    /// The primary loses everything, then the step fails.
    PrimaryForgets,
    /// The primary's group is taken over again for a while.
    Forbidden,
    /// The journal is lost, and the process with it.
    JournalLost,
}

/// The primary: names and whose content each holds. Ours is the name of the file here.
#[derive(Default)]
struct Primary(BTreeMap<String, String>);

const THEIRS: &str = "theirs";

impl Primary {
    /// Performs a step as the shell would; what the machine hears of it.
    fn perform(&mut self, step: &Step, t: &Transfer) -> Outcome {
        let ours = |part: &usize| t.parts()[*part].name.to_string();
        match step {
            Step::Confirm { part, remote_name } => Outcome::Answer(match self.0.get(remote_name) {
                None => ConfirmAnswer::Missing,
                Some(content) if *content == ours(part) => ConfirmAnswer::Durable,
                Some(_) => ConfirmAnswer::Different {
                    bytes: 1,
                    sha256: String::new(),
                },
            }),
            Step::Upload {
                part, temporary, ..
            } => {
                self.0.insert(temporary.clone(), ours(part));
                Outcome::Uploaded
            }
            Step::Verify {
                temporary,
                remote_name,
                ..
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
            _ => unreachable!("not performed at the primary"),
        }
    }

    /// Finished names that hold this file of ours.
    fn copies(&self, ours: &str) -> usize {
        let finished = self.0.iter().filter(|(name, _)| !is_ignored(name));
        finished.filter(|(_, content)| *content == ours).count()
    }
}

struct World {
    primary: Primary,
    transfer: Transfer,
    journal: Option<String>,
    local: BTreeSet<String>,
    now: Duration,
    confirmed_now: BTreeSet<usize>,
    files: usize,
}

/// The content's hash; each file has its own.
fn sha(name: &str) -> String {
    match name {
        "call.wav" => SHA.to_owned(),
        "call.json" => "aa".repeat(32),
        _ => "bb".repeat(32),
    }
}

/// What the shell plans from what is in the folder.
fn planned(local: &BTreeSet<String>) -> Transfer {
    let part = |name: &str| Part::new(RecordingName::new(name).unwrap(), 100, sha(name));
    let sides = NAMES[1..].iter().filter(|n| local.contains(**n));
    Transfer::planned(
        part(NAMES[0]),
        sides.map(|n| part(n)).collect(),
        UnixMillis(0),
    )
}

impl World {
    /// `sides` side files beside the audio; the first `taken` names of the file number `whose` are
    /// taken at the primary.
    fn new(sides: usize, taken: usize, whose: usize) -> Self {
        let local: BTreeSet<_> = NAMES[..=sides].iter().map(ToString::to_string).collect();
        let audio = RecordingName::new(NAMES[0]).unwrap();
        let mut primary = Primary::default();
        for n in 0..taken {
            let name = match whose.min(sides) {
                0 => audio.candidate(n, SHA),
                side => {
                    let side = RecordingName::new(NAMES[side]).unwrap();
                    audio.side_candidate(&side, n, SHA)
                }
            };
            primary.0.insert(name.unwrap(), THEIRS.to_owned());
        }
        Self {
            primary,
            journal: None,
            transfer: planned(&local),
            files: local.len(),
            local,
            now: Duration::ZERO,
            confirmed_now: BTreeSet::new(),
        }
    }

    fn now(&self) -> Now {
        Now {
            mono: self.now,
            wall: UnixMillis(0),
        }
    }

    fn tell(&mut self, part: usize, outcome: Outcome) {
        match &outcome {
            Outcome::Answer(ConfirmAnswer::Durable) => drop(self.confirmed_now.insert(part)),
            Outcome::Answer(_) => drop(self.confirmed_now.remove(&part)),
            Outcome::Failed(_) => self.confirmed_now.clear(),
            _ => {}
        }
        let now = self.now();
        self.transfer.handle(part, outcome, now, &Pace::default());
        self.save();
    }

    // As the shell does: what was only planned is found in the folder again.
    fn save(&mut self) {
        if self.transfer.has_begun() {
            self.journal = Some(serde_json::to_string(&self.transfer).unwrap());
        }
    }

    fn restart(&mut self) {
        self.confirmed_now.clear();
        let record = self.journal.as_ref();
        self.transfer = match record {
            Some(record) => serde_json::from_str::<Transfer>(record)
                .unwrap()
                .restored()
                .unwrap(),
            None => planned(&self.local),
        };
    }

    /// One step; `false` when the transfer is over.
    fn step(&mut self, fate: Fate) -> bool {
        let conditions = Conditions {
            allowed: !matches!(fate, Fate::Forbidden),
            why: "resilience".into(),
        };
        // Lost in the very moment in which the side files are gone and the audio is not, it may make a second
        // copy of the audio, where the unit had got another name: more than one, never none.
        let whole = self.local.len() == self.files;
        if matches!(fate, Fate::JournalLost) && whole {
            self.journal = None;
            self.restart();
            return true;
        }
        let step = self.transfer.next(&conditions, self.now());
        let part = match &step {
            Step::Done => return false,
            Step::Forget => {
                self.journal = None;
                self.restart();
                return true;
            }
            Step::Wait { until, .. } => {
                self.now = until
                    .unwrap_or(self.now + Duration::from_secs(1))
                    .max(self.now);
                return true;
            }
            Step::Upload { part, .. } => {
                // A file that is gone can't be uploaded: the shell finds the folder changed.
                if !self
                    .local
                    .contains(self.transfer.parts()[*part].name.as_str())
                {
                    self.tell(*part, Outcome::LocalChanged);
                    return true;
                }
                self.tell(*part, Outcome::Begun);
                *part
            }
            Step::RemoveLocal => {
                // The law: only what the primary confirmed in this life.
                let all = self.transfer.parts().len();
                assert_eq!(self.confirmed_now.len(), all, "removed unconfirmed");
                0
            }
            Step::Confirm { part, .. } | Step::Verify { part, .. } => *part,
        };
        match fate {
            Fate::FailsBefore => self.tell(part, Outcome::Failed("refused".into())),
            Fate::PrimaryForgets => {
                self.primary.0.retain(|_, v| v == THEIRS);
                self.tell(part, Outcome::Failed("connection reset".into()));
            }
            Fate::Works | Fate::Forbidden | Fate::JournalLost => {
                let outcome = self.effect(&step);
                self.tell(part, outcome);
            }
            Fate::FailsAfter => {
                self.effect(&step);
                self.tell(part, Outcome::Failed("no answer".into()));
            }
            Fate::KilledAfter => {
                self.effect(&step);
                self.restart();
            }
            Fate::KilledWithin => {
                if matches!(step, Step::RemoveLocal) {
                    self.local.retain(|name| name == NAMES[0]);
                } else {
                    self.effect(&step);
                }
                self.restart();
            }
        }
        true
    }

    fn effect(&mut self, step: &Step) -> Outcome {
        if matches!(step, Step::RemoveLocal) {
            if !self.local.contains(NAMES[0]) {
                return Outcome::LocalGone;
            }
            self.local.clear();
            return Outcome::LocalRemoved;
        }
        self.primary.perform(step, &self.transfer)
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Works),
        1 => Just(Fate::FailsBefore),
        1 => Just(Fate::FailsAfter),
        1 => Just(Fate::KilledAfter),
        1 => Just(Fate::KilledWithin),
        1 => Just(Fate::PrimaryForgets),
        1 => Just(Fate::Forbidden),
        1 => Just(Fate::JournalLost),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens: nothing of theirs is touched, the local copies go only after a confirmation of
    /// each, and once the world behaves the transfer ends with each of our files at the primary, once.
    #[test]
    fn a_recording_is_never_lost_and_always_arrives(
        fates in prop::collection::vec(fate(), 0..60),
        sides in 0_usize..3,
        taken in 0_usize..3,
        whose in 0_usize..3,
    ) {
        let mut world = World::new(sides, taken, whose);
        let all: Vec<_> = NAMES[..=sides].to_vec();
        let mut lost_by_the_primary = false;
        for fate in fates {
            if matches!(fate, Fate::PrimaryForgets) {
                if world.local.len() < all.len() {
                    continue; // a disk lost after the move is the primary's own loss
                }
                lost_by_the_primary = true;
            }
            if !world.step(fate) {
                break;
            }
            for name in &all {
                let here = world.local.contains(*name);
                prop_assert!(here || world.primary.copies(name) > 0, "{name} is nowhere");
            }
        }
        let mut steps = 0;
        while world.step(Fate::Works) {
            steps += 1;
            prop_assert!(steps < 200, "it does not end: {:?}", world.transfer);
        }
        prop_assert!(world.local.is_empty());
        prop_assert_eq!(world.primary.0.values().filter(|v| *v == THEIRS).count(), taken);
        for name in all {
            let copies = world.primary.copies(name);
            prop_assert!(copies == 1 || (copies > 1 && lost_by_the_primary && taken > 0), "{} copies of {}", copies, name);
        }
    }

    /// Waits after failures never exceed the pace's cap.
    #[test]
    fn waits_are_bounded(failures in 1_u32..200) {
        let mut world = World::new(0, 0, 0);
        for _ in 0..failures {
            let now = world.now();
            world.transfer.handle(0, Outcome::Failed("x".into()), now, &Pace::default());
        }
        let yes = Conditions { allowed: true, why: String::new() };
        match world.transfer.next(&yes, world.now()) {
            Step::Wait { until: Some(t), .. } => prop_assert!(t <= world.now + Pace::default().most),
            other => prop_assert!(false, "{other:?}"),
        }
    }
}
