//! Plays the dialogues in `tests/dialogues`: what a caller does, and what the system must do.
//!
//! A dialogue names its flow (`flow leave`), what is known (`given mailbox 2001`), when it is
//! (`at 2026-11-23T09:00+01:00[+01:00]`), then turns: a line with what happens, indented lines
//! with what the system does. `UPDATE_DIALOGUES=1 cargo test` writes down what it does now.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

use std::{fmt::Write as _, fs, path::Path, sync::Arc};

use jiff::Zoned;
use vmsync_callflows::{
    Digits, Event, Heading, Kept, PinAnswer, Run, State, Variables, built_in, check,
};

/// R-CF-2, R-CF-3: the flows that come with the program.
#[test]
fn every_dialogue_goes_as_written() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues");
    let mut files: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|ext| ext == "txt"));
    files.sort();
    assert!(files.len() >= 8, "the dialogues are in {}", dir.display());
    let mut wrong = String::new();
    for path in files {
        let written = fs::read_to_string(&path).unwrap();
        let played = play(&written, &dir);
        if std::env::var_os("UPDATE_DIALOGUES").is_some() {
            fs::write(&path, &played).unwrap();
        } else if played != written {
            let differs = played
                .lines()
                .zip(written.lines())
                .position(|(a, b)| a != b);
            let line =
                differs.unwrap_or_else(|| played.lines().count().min(written.lines().count()));
            let _ = writeln!(
                wrong,
                "{}:{}: written {:?}, played {:?}",
                path.display(),
                line + 1,
                written.lines().nth(line).unwrap_or(""),
                played.lines().nth(line).unwrap_or("")
            );
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// The dialogue as the engine plays it: its own lines, with the system's put in anew.
fn play(text: &str, dir: &Path) -> String {
    let mut flow = None;
    let mut given = Variables::new();
    let mut now: Zoned = "2026-11-23T09:00:00+01:00[+01:00]".parse().unwrap();
    let mut run: Option<Run> = None;
    let mut played = String::new();
    for line in text.lines().filter(|line| !line.starts_with("    ")) {
        let _ = writeln!(played, "{line}");
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "" | "#" => {}
            "flow" => flow = Some(Arc::new(load(rest, dir))),
            "given" => {
                let (name, value) = rest.split_once(' ').unwrap();
                given.insert(name.to_owned(), value.to_owned());
            }
            "at" => now = rest.parse().unwrap_or_else(|e| panic!("{line}: {e}")),
            _ => {
                let run = run.get_or_insert_with(|| {
                    Run::start(
                        flow.clone().expect("a `flow` line comes first"),
                        given.clone(),
                    )
                });
                let event = event(word, rest);
                if !run.takes(&event) {
                    let _ = writeln!(played, "    (not now: {:?})", run.waiting());
                }
                for action in run.step(event, &now) {
                    let _ = writeln!(played, "    {action}");
                }
                if run.ended() {
                    let _ = writeln!(played, "    (over)");
                }
            }
        }
    }
    played
}

fn load(name: &str, dir: &Path) -> vmsync_callflows::Flow {
    let source = match built_in(name) {
        Some(source) => source.to_owned(),
        None => fs::read_to_string(dir.join(format!("{name}.toml"))).unwrap(),
    };
    check(source.as_bytes(), &format!("{name}.toml")).unwrap_or_else(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        panic!("{}", lines.join("\n"))
    })
}

fn event(word: &str, rest: &str) -> Event {
    match word {
        "answered" => Event::Answered,
        "digits" => Event::Digits(Digits::new(rest).unwrap()),
        "silence" => Event::Timeout,
        "heard" => Event::Played,
        "recorded" => Event::Recorded(rest.strip_suffix(" bytes").unwrap().parse().unwrap()),
        "kept" => Event::Stored(Kept::Durable),
        "not-kept" => Event::Stored(Kept::Refused),
        "pin-right" => Event::PinChecked(PinAnswer::Right),
        "pin-wrong" => Event::PinChecked(PinAnswer::Wrong),
        "pin-locked" => Event::PinChecked(PinAnswer::Locked),
        "messages" => Event::Messages(Some(
            rest.split(',')
                .filter(|s| !s.is_empty())
                .map(heading)
                .collect(),
        )),
        "no-answer" => Event::Messages(None),
        "marked" => Event::StateSet(true),
        "not-marked" => Event::StateSet(false),
        "transfer-failed" => Event::TransferFailed,
        "hung-up" => Event::HungUp,
        other => panic!("`{other}` is no event of a dialogue"),
    }
}

/// `A new 101`: id, state, caller.
fn heading(text: &str) -> Heading {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [id, state, caller] = words[..] else {
        panic!("{text:?}: id, state, caller")
    };
    let state = match state {
        "new" => State::New,
        "unopened" => State::Unopened,
        "old" => State::Old,
        "saved" => State::Saved,
        other => panic!("{other} is no state"),
    };
    Heading {
        id: id.to_owned(),
        state,
        caller: caller.to_owned(),
        received: "2026-11-22T18:30:00Z".to_owned(),
        duration_ms: 7_000,
        urgent: false,
    }
}
