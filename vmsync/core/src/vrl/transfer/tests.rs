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
    let name = RecordingName::new("call.wav").unwrap();
    Transfer::planned(name, 100, SHA.into(), UnixMillis(0))
}

fn feed(t: &mut Transfer, outcomes: impl IntoIterator<Item = Outcome>) {
    for o in outcomes {
        t.handle(o, at(0), &Pace::default());
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
    assert_eq!(t.next(&yes(), at(0)), Step::Confirm);
    feed(&mut t, [missing()]);
    let temporary = ".call~9f86d081.wav.part".to_owned();
    assert_eq!(
        t.next(&yes(), at(0)),
        Step::Upload {
            temporary: temporary.clone(),
            resume: false
        }
    );
    feed(&mut t, [Outcome::Begun, Outcome::Uploaded]);
    assert_eq!(
        t.next(&yes(), at(0)),
        Step::Verify {
            temporary,
            remote_name: "call.wav".into()
        }
    );
    feed(&mut t, [Outcome::Verified]);
    assert_eq!(t.next(&yes(), at(0)), Step::Confirm);
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
    assert_eq!(t.remote_name, "call~9f86d081.wav");
    assert_eq!(
        t.next(&yes(), at(0)),
        Step::Confirm,
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
    assert_eq!(t.remote_name, "call~9f86d081884c7d65.wav");
    feed(&mut t, [missing()]);
    assert!(
        matches!(t.next(&yes(), at(0)), Step::Verify { .. }),
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
    assert_eq!(t.next(&yes(), at(10)), Step::Confirm);
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
        .restored();
    assert_eq!(t.next(&yes(), at(0)), Step::Confirm);
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
    assert_eq!(t.state, State::Planned);
}

#[test]
fn a_file_that_grew_is_planned_again() {
    let mut t = recording();
    feed(
        &mut t,
        [different(), Outcome::Answer(ConfirmAnswer::Durable)],
    );
    feed(
        &mut t,
        [Outcome::LocalChanged {
            bytes: 200,
            sha256: "aa".repeat(32),
        }],
    );
    assert_eq!(
        (t.state, t.bytes, t.remote_name.as_str()),
        (State::Planned, 200, "call.wav")
    );
    assert_eq!(t.next(&yes(), at(0)), Step::Confirm);
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
