//! What holds whatever the bytes and whatever the caller does (R-CF-7: a pure step function).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

use std::sync::Arc;

use jiff::Zoned;
use proptest::prelude::*;
use vmsync_callflows::{
    Action, BUILT_IN, Digits, Event, Heading, Kept, PinAnswer, Question, Run, State, Variables,
    check,
};

fn now() -> Zoned {
    "2026-11-23T09:00:00+01:00[+01:00]".parse().unwrap()
}

/// R-CF-1.
#[test]
fn the_flows_that_come_with_the_program_are_valid() {
    for (name, source) in BUILT_IN {
        let checked = check(source.as_bytes(), &format!("{name}.toml"));
        assert_eq!(checked.map(|f| f.name().to_owned()), Ok(name.to_owned()));
    }
}

#[test]
fn the_example_in_the_documentation_is_valid() {
    let page = include_str!("../../docs/callflows.md");
    let example = page.split("```toml\n").nth(1).unwrap();
    let example = example.split("```").next().unwrap();
    let nodes = check(example.as_bytes(), "attendant.toml").map(|flow| flow.nodes().len());
    assert_eq!(nodes, Ok(6));
}

#[test]
fn bytes_that_are_no_text_are_refused_where_they_begin() {
    let errors = check(b"start = \"a\"\n# \xff", "x.toml").unwrap_err();
    assert_eq!((errors[0].line, errors[0].column), (2, 3));
}

#[test]
fn depth_and_size_are_bounded() {
    let deep = format!("start = {}", "[".repeat(100_000));
    assert!(check(deep.as_bytes(), "x.toml").is_err());
    let keys = format!("{} = 1", vec!["a"; 50_000].join("."));
    assert!(check(keys.as_bytes(), "x.toml").is_err());
    let long = vec![b' '; vmsync_callflows::MAX_SOURCE + 1];
    assert!(
        check(&long, "x.toml").unwrap_err()[0]
            .message
            .contains("at most")
    );
}

/// A built-in flow with pieces cut out and put in: near enough to a flow to reach every rule.
fn mangled() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("[nodes.x]\n".to_owned()),
        Just("do = \"menu\"\n".to_owned()),
        Just("keys = { 1 = \"body\", 1 = [2] }\n".to_owned()),
        Just("\"${".to_owned()),
        Just("say = [{ number = 3 }]\n".to_owned()),
        Just("time = \"24:00-99:99\"\n".to_owned()),
        "\\PC{0,12}",
    ];
    (
        0..BUILT_IN.len(),
        prop::collection::vec((any::<prop::sample::Index>(), 0..30_usize, piece), 1..6),
    )
        .prop_map(|(n, cuts)| {
            let mut chars: Vec<char> = BUILT_IN[n].1.chars().collect();
            for (at, length, piece) in cuts {
                let at = at.index(chars.len());
                let end = (at + length).min(chars.len());
                chars.splice(at..end, piece.chars());
            }
            chars.into_iter().collect::<String>().into_bytes()
        })
}

fn event() -> impl Strategy<Value = Event> {
    let state = prop_oneof![
        Just(State::New),
        Just(State::Unopened),
        Just(State::Old),
        Just(State::Saved),
        Just(State::Deleted)
    ];
    let heading = state.prop_map(|state| Heading {
        id: "m".to_owned(),
        state,
        caller: "101".to_owned(),
        received: String::new(),
        duration_ms: 1,
        urgent: true,
    });
    prop_oneof![
        8 => "[0-9*#]{1,4}".prop_map(|keys| Event::Digits(Digits::new(&keys).unwrap())),
        3 => Just(Event::Timeout),
        3 => Just(Event::Played),
        1 => Just(Event::Answered),
        2 => (0..3_u64).prop_map(Event::Recorded),
        1 => prop_oneof![Just(Event::TransferFailed), Just(Event::HungUp)],
        3 => prop_oneof![Just(PinAnswer::Right), Just(PinAnswer::Wrong), Just(PinAnswer::Locked)].prop_map(Event::PinChecked),
        3 => prop::option::of(prop::collection::vec(heading, 0..4)).prop_map(Event::Messages),
        2 => prop_oneof![Just(Kept::Durable), Just(Kept::Refused)].prop_map(Event::Stored),
        3 => any::<bool>().prop_map(Event::StateSet),
    ]
}

proptest! {
    #[test]
    fn no_bytes_make_the_check_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = check(&bytes, "x.toml");
    }

    #[test]
    fn no_near_flow_makes_the_check_panic(bytes in mangled()) {
        if let Err(errors) = check(&bytes, "x.toml") {
            prop_assert!(!errors.is_empty());
            let lines = bytes.split(|b| *b == b'\n').count();
            for error in errors {
                prop_assert!(error.line as usize <= lines && error.column >= 1, "{error}");
            }
        }
    }

    /// A step always ends, in something to wait for or in the end of the call; what is not
    /// waited for changes nothing; a question to the host is always the last action.
    #[test]
    fn every_step_ends_well(which in 0..BUILT_IN.len(), has_pin in any::<bool>(), events in prop::collection::vec(event(), 1..60)) {
        let (name, source) = BUILT_IN[which];
        let flow = Arc::new(check(source.as_bytes(), name).unwrap());
        let given = [("mailbox", "2001"), ("caller_number", "2001"), ("takes_messages", "yes"), ("has_pin", if has_pin { "yes" } else { "no" })];
        let mut run = Run::start(flow, given.map(|(k, v)| (k.to_owned(), v.to_owned())).into_iter().collect::<Variables>());
        run.step(Event::Answered, &now());
        for event in events {
            let (taken, before, waited) = (run.takes(&event), format!("{run:?}"), run.waiting());
            let gone = event == Event::HungUp;
            let actions = run.step(event, &now());
            if !taken {
                prop_assert!(actions.is_empty());
                prop_assert_eq!(before, format!("{run:?}"));
            } else if !gone && !run.ended() {
                prop_assert!(!actions.is_empty(), "{before} left the channel with nothing to do, it waited for {waited:?}");
            }
            let asks = actions.iter().filter(|a| matches!(a, Action::Ask(_))).count();
            prop_assert!(asks == 0 || (asks == 1 && matches!(actions.last(), Some(Action::Ask(_)))));
            let cut = actions.iter().any(|a| matches!(a, Action::Disconnect { reason } if *reason != "done"));
            prop_assert!(!cut, "a built-in flow went in a circle");
        }
    }

    #[test]
    fn no_pin_is_ever_shown(pin in "[0-9]{4,15}") {
        let question = Action::Ask(Question::CheckPin(pin.clone()));
        let digits = Event::Digits(Digits::new(&pin).unwrap());
        for shown in [format!("{question:?}"), question.to_string(), format!("{digits:?}")] {
            prop_assert!(!shown.contains(&pin), "{shown}");
        }
    }
}
