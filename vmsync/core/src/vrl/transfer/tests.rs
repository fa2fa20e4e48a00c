//! The machine told as stories.

use super::*;

const SHA: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn at(s: u64) -> Now {
    Now {
        mono: Duration::from_secs(s),
        wall: UnixMillis(s * 1000),
    }
}

fn yes() -> Conditions {
    Conditions {
        allowed: true,
        why: "the primary serves again".into(),
    }
}

fn recording() -> Transfer {
    Transfer::planned(part("call.wav", SHA), Vec::new(), UnixMillis(0))
}

fn part(name: &str, sha256: &str) -> Part {
    Part::new(RecordingName::new(name).unwrap(), 100, sha256.into())
}

/// A recording with what its recorder noted beside it.
fn with_sides() -> Transfer {
    let sides = vec![part("call.json", "aa"), part("call.xml", "bb")];
    Transfer::planned(part("call.wav", SHA), sides, UnixMillis(0))
}

fn ask(part: usize, remote_name: &str) -> Step {
    Step::Confirm {
        part,
        remote_name: remote_name.into(),
    }
}

fn feed(t: &mut Transfer, outcomes: impl IntoIterator<Item = Outcome>) {
    for o in outcomes {
        t.handle(0, o, at(0), &Pace::default());
    }
}

fn missing() -> Outcome {
    Outcome::Answer(ConfirmAnswer::Missing)
}

fn different() -> Outcome {
    Outcome::Answer(ConfirmAnswer::Different {
        bytes: 1,
        sha256: String::new(),
    })
}

#[test]
fn the_plain_way() {
    let mut t = recording();
    assert_eq!(t.next(&yes(), at(0)), ask(0, "call.wav"));
    feed(&mut t, [missing()]);
    let temporary = ".call~9f86d081.wav.part".to_owned();
    assert_eq!(
        t.next(&yes(), at(0)),
        Step::Upload {
            part: 0,
            temporary: temporary.clone(),
            resume: false
        }
    );
    feed(&mut t, [Outcome::Begun, Outcome::Uploaded]);
    assert_eq!(
        t.next(&yes(), at(0)),
        Step::Verify {
            part: 0,
            temporary,
            remote_name: "call.wav".into()
        }
    );
    feed(&mut t, [Outcome::Verified]);
    assert_eq!(t.next(&yes(), at(0)), ask(0, "call.wav"));
    feed(&mut t, [Outcome::Answer(ConfirmAnswer::Durable)]);
    assert_eq!(t.next(&yes(), at(0)), Step::RemoveLocal);
    feed(&mut t, [Outcome::LocalRemoved]);
    assert_eq!(t.next(&yes(), at(0)), Step::Done);
}

#[test]
fn nothing_moves_while_the_backup_serves() {
    let no = Conditions {
        allowed: false,
        why: "group primary is in resilience".into(),
    };
    assert_eq!(
        recording().next(&no, at(0)),
        Step::Wait {
            until: None,
            why: no.why.clone()
        }
    );
}

#[test]
fn a_primary_that_holds_it_already_gets_no_second_copy() {
    let mut t = recording();
    feed(&mut t, [Outcome::Answer(ConfirmAnswer::Durable)]);
    assert_eq!(t.next(&yes(), at(0)), Step::RemoveLocal);
}

#[test]
fn another_recording_of_that_name_is_left_alone() {
    let mut t = recording();
    feed(&mut t, [different()]);
    assert_eq!(t.remote_name(), "call~9f86d081.wav");
    assert_eq!(
        t.next(&yes(), at(0)),
        ask(0, "call~9f86d081.wav"),
        "the other name may be there already"
    );
    feed(
        &mut t,
        [
            missing(),
            Outcome::Begun,
            Outcome::Uploaded,
            Outcome::Occupied,
        ],
    );
    assert_eq!(
        t.next(&yes(), at(9)),
        ask(0, "call~9f86d081.wav"),
        "it may be the same"
    );
    feed(&mut t, [different()]);
    assert_eq!(t.remote_name(), "call~9f86d081884c7d65.wav");
    feed(&mut t, [missing()]);
    assert!(
        matches!(t.next(&yes(), at(9)), Step::Verify { .. }),
        "the upload is not repeated"
    );
}

#[test]
fn a_break_resumes_and_a_lost_upload_starts_anew() {
    let mut t = recording();
    feed(
        &mut t,
        [
            missing(),
            Outcome::Begun,
            Outcome::Failed("connection reset".into()),
        ],
    );
    let Step::Wait {
        until: Some(until),
        why,
    } = t.next(&yes(), at(0))
    else {
        panic!("no wait after a failure");
    };
    assert_eq!(why, "connection reset");
    assert!(until > Duration::ZERO);
    assert_eq!(t.next(&yes(), at(10)), ask(0, "call.wav"));
    feed(&mut t, [missing()]);
    assert!(matches!(
        t.next(&yes(), at(10)),
        Step::Upload { resume: true, .. }
    ));
    feed(
        &mut t,
        [
            Outcome::Begun,
            Outcome::Uploaded,
            Outcome::UploadLost("99 of 100 bytes".into()),
        ],
    );
    feed(&mut t, [missing(), Outcome::Begun]);
    assert!(matches!(
        t.next(&yes(), at(1000)),
        Step::Upload { resume: false, .. }
    ));
}

#[test]
fn a_confirmation_does_not_outlive_the_process() {
    let mut t = recording();
    feed(&mut t, [Outcome::Answer(ConfirmAnswer::Durable)]);
    let journal = serde_json::to_string(&t).unwrap();
    let mut t = serde_json::from_str::<Transfer>(&journal)
        .unwrap()
        .restored()
        .unwrap();
    assert_eq!(t.next(&yes(), at(0)), ask(0, "call.wav"));
    feed(&mut t, [missing()]);
    assert!(matches!(t.next(&yes(), at(0)), Step::Upload { .. }));
}

#[test]
fn a_wrong_remote_location_is_named() {
    let mut t = recording();
    feed(
        &mut t,
        [
            missing(),
            Outcome::Begun,
            Outcome::Uploaded,
            Outcome::Verified,
            missing(),
        ],
    );
    assert!(
        t.last_error
            .as_deref()
            .unwrap_or("")
            .contains("remote_location")
    );
    assert_eq!(t.state(), State::Planned);
}

#[test]
fn a_file_that_grew_is_planned_anew() {
    let mut t = recording();
    feed(
        &mut t,
        [
            different(),
            Outcome::Answer(ConfirmAnswer::Durable),
            Outcome::LocalChanged,
        ],
    );
    assert_eq!(t.next(&yes(), at(0)), Step::Forget);
}

#[test]
fn a_recording_that_vanished_is_told_unless_it_was_confirmed() {
    let mut t = recording();
    feed(&mut t, [missing(), Outcome::LocalGone]);
    assert_eq!(t.next(&yes(), at(0)), Step::Done);
    assert!(t.last_error.unwrap().contains("by somebody else"));
    let mut t = recording();
    feed(
        &mut t,
        [Outcome::Answer(ConfirmAnswer::Durable), Outcome::LocalGone],
    );
    assert_eq!((t.next(&yes(), at(0)), t.last_error), (Step::Done, None));
}

/// All are asked about, all are there before one gets its name, the audio gets it last, and nothing
/// goes before all are confirmed.
#[test]
fn side_files_move_with_their_recording_as_one() {
    let mut t = with_sides();
    assert_eq!((t.bytes(), t.state()), (300, State::Planned));
    let mut done = Vec::new();
    loop {
        let step = t.next(&yes(), at(0));
        let (word, part, outcomes) = match &step {
            Step::Confirm { part, .. } if t.parts()[*part].state == State::Verified => (
                "confirm",
                *part,
                vec![Outcome::Answer(ConfirmAnswer::Durable)],
            ),
            Step::Confirm { part, .. } => ("ask", *part, vec![missing()]),
            Step::Upload { part, .. } => ("upload", *part, vec![Outcome::Begun, Outcome::Uploaded]),
            Step::Verify { part, .. } => ("name", *part, vec![Outcome::Verified]),
            Step::RemoveLocal => ("remove", 0, vec![Outcome::LocalRemoved]),
            Step::Done => break,
            other => panic!("{other:?}"),
        };
        done.push(format!("{word} {}", t.parts()[part].name));
        for outcome in outcomes {
            t.handle(part, outcome, at(0), &Pace::default());
        }
    }
    assert_eq!(
        done,
        [
            "ask call.wav",
            "ask call.json",
            "ask call.xml",
            "upload call.xml",
            "upload call.json",
            "upload call.wav",
            "name call.xml",
            "name call.json",
            "name call.wav",
            "confirm call.wav",
            "confirm call.json",
            "confirm call.xml",
            "remove call.wav",
        ]
    );
}

#[test]
fn where_one_name_is_taken_all_get_the_next() {
    let mut t = with_sides();
    for (part, outcome) in [(0, missing()), (1, different())] {
        t.handle(part, outcome, at(0), &Pace::default());
    }
    for (part, name) in [
        (0, "call~9f86d081.wav"),
        (1, "call~9f86d081.json"),
        (2, "call~9f86d081.xml"),
    ] {
        assert_eq!(t.next(&yes(), at(0)), ask(part, name));
        t.handle(part, missing(), at(0), &Pace::default());
    }
    assert!(matches!(
        t.next(&yes(), at(0)),
        Step::Upload { part: 2, .. }
    ));
}

#[test]
fn names_run_out_with_advice() {
    let mut t = recording();
    feed(&mut t, [different(), different(), different(), different()]);
    assert!(
        t.last_error
            .as_deref()
            .unwrap_or("")
            .contains("move those files away")
    );
    assert!(matches!(t.next(&yes(), at(0)), Step::Wait { .. }));
}
