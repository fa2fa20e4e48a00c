use super::{progress::Step, *};
use crate::vrl::Current;

fn moving(state: VrlState, pending: u64, done: u64) -> VrlStatus {
    VrlStatus {
        state,
        files_pending: pending,
        bytes_pending: pending * 1_000_000,
        files_done: done,
        bytes_done: done * 1_000_000,
        ..VrlStatus::default()
    }
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn it_is_over_when_nothing_is_left_and_the_folder_was_looked_at() {
    let done = moving(VrlState::Done, 0, 5);
    let mut judge = Judge::new(&done, s(10), None);
    assert_eq!(
        judge.look(&done, s(11)),
        Verdict::GoOn,
        "as before the start"
    );
    let busy = moving(VrlState::Transferring, 2, 5);
    assert_eq!(judge.look(&busy, s(300)), Verdict::GoOn);
    assert_eq!(
        judge.look(&moving(VrlState::Done, 0, 7), s(301)),
        Verdict::Moved
    );
}

#[test]
fn what_must_wait_is_not_waited_for() {
    let mut waits = moving(VrlState::Waiting, 2, 0);
    waits.why = "the primary does not own its group".to_owned();
    let mut judge = Judge::new(&waits, s(0), None);
    assert_eq!(judge.look(&waits, s(1)), Verdict::GoOn);
    // A moment's wait between two tries is no reason.
    assert_eq!(
        judge.look(&moving(VrlState::Transferring, 2, 0), s(2)),
        Verdict::GoOn
    );
    assert_eq!(judge.look(&waits, s(3)), Verdict::GoOn);
    let why = "it must wait: the primary does not own its group".to_owned();
    assert_eq!(judge.look(&waits, s(6)), Verdict::GiveUp(why));
    let off = VrlStatus::default();
    assert!(matches!(judge.look(&off, s(7)), Verdict::GiveUp(_)));
}

#[test]
fn a_failing_move_is_waited_for_while_anything_is_achieved() {
    let fails = |done| VrlStatus {
        last_error: Some("530 no".to_owned()),
        ..moving(VrlState::Failed, 9 - done, done)
    };
    let mut judge = Judge::new(&fails(0), s(0), None);
    assert_eq!(judge.look(&fails(0), s(59)), Verdict::GoOn);
    assert_eq!(judge.look(&fails(1), s(60)), Verdict::GoOn);
    assert_eq!(judge.look(&fails(1), s(119)), Verdict::GoOn);
    let Verdict::GiveUp(why) = judge.look(&fails(1), s(120)) else {
        panic!("still waited for");
    };
    assert!(
        why.contains("8 files not moved") && why.contains("530 no"),
        "{why}"
    );
}

#[test]
fn no_longer_than_asked() {
    let busy = moving(VrlState::Transferring, 2, 0);
    let mut judge = Judge::new(&busy, s(0), Some(s(600)));
    assert_eq!(judge.look(&busy, s(599)), Verdict::GoOn);
    assert!(matches!(judge.look(&busy, s(600)), Verdict::GiveUp(_)));
}

fn half_way() -> VrlStatus {
    let on_the_way = ["Gespräch 1.wav", "call\x1b[2J.wav"].map(|name| Current {
        name: name.to_owned(),
        bytes: 2_000_000,
        sent: 1_000_000,
    });
    VrlStatus {
        rate: 2 << 20,
        eta_s: Some(125),
        on_the_way: on_the_way.to_vec(),
        bytes_pending: 4_000_000,
        ..moving(VrlState::Transferring, 4, 12)
    }
}

#[test]
fn the_bar_fits_every_terminal_and_passes_no_escape_codes() {
    let step = Step::of(&half_way(), (10, 10_000_000));
    assert_eq!(
        step.bar(120),
        "[###############...............]  50 %  2/6 files  2.0 MiB/s  2 min 5 s left  Gespräch 1.wav, call [2J.wav"
    );
    for width in 20..140 {
        let line = step.bar(width);
        assert!(line.chars().count() < width, "{width}: {line}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    assert!(step.bar(40).starts_with("[#####.....]  50 %  2/6 files"));
    let words = step.words();
    assert!(
        words.starts_with("2 of 6 files, 3.8 MiB of 7.6 MiB, 2.0 MiB/s  2 min 5 s left; "),
        "{words}"
    );
}

#[test]
fn an_error_takes_the_place_of_the_names() {
    let mut status = half_way();
    status.state = VrlState::Failed;
    status.last_error = Some("452 the disk is full".to_owned());
    let step = Step::of(&status, (10, 10_000_000));
    assert!(step.bar(120).ends_with("452 the disk is full"));
    assert!(step.words().ends_with("; 452 the disk is full"));
}

#[test]
fn a_test_is_shown_step_by_step_with_what_to_do() {
    let answer = json!({"ok": false, "failed": "login", "steps": [
        {"step": "connect", "ok": true, "ms": 3, "detail": "127.0.0.1:21", "advice": null},
        {"step": "login", "ok": false, "ms": 12, "detail": "530 no", "advice": "check ftp_user"},
    ]});
    assert_eq!(
        steps(&answer),
        "STEP             TIME   WHAT\nconnect  ok      3 ms   127.0.0.1:21\nlogin    FAILED  12 ms  530 no\n\ncheck ftp_user"
    );
}

#[test]
fn spans_and_sizes_read_well() {
    assert_eq!(
        (span(59), span(61), span(3_700)),
        (
            "59 s".to_owned(),
            "1 min 1 s".to_owned(),
            "1 h 1 min".to_owned()
        )
    );
    assert_eq!(
        (size(1023), size(1536)),
        ("1023 B".to_owned(), "1.5 KiB".to_owned())
    );
}
