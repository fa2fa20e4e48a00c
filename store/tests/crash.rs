//! `kill -9` in the middle of everything: what was acknowledged is there.
//!
//! The test runs itself as a child process that writes from many threads and says on standard
//! output what was acknowledged; the parent kills it, reopens the folder, and compares. Several
//! rounds on the same folder.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed expectation is the failure of the test"
)]

mod common;

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use common::{assert_sound, audio, deposit, ext, from_source, mailbox, open};
use uuid::Uuid;
use vmsync_store::{CompactTo, Store, model::MessageState};

const CHILD: &str = "VMSYNC_STORE_CRASH_DIR";
const WRITERS: usize = 8;
const ROUNDS: usize = 4;
const ACKNOWLEDGED: usize = 400;

#[test]
fn whatever_was_acknowledged_survives_kill_9() {
    if let Some(dir) = env::var_os(CHILD) {
        child(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    mailbox(&open(dir.path(), "vmpro1"), "2001");
    let mut acknowledged = BTreeMap::new();
    for round in 0..ROUNDS {
        run_and_kill(dir.path(), ACKNOWLEDGED + 37 * round, &mut acknowledged);
        let store = open(dir.path(), "vmpro1");
        verify(&store, &acknowledged);
        assert_sound(&store);
        assert!(store.floor().get(&store.origin()) > 0);
    }
}

/// Writes for ever.
fn child(dir: &Path) -> ! {
    let store = open(dir, "vmpro1");
    thread::scope(|s| {
        // The log is kept short meanwhile: what was acknowledged is in the state.
        s.spawn(|| {
            let to = CompactTo {
                most: 100,
                ..CompactTo::default()
            };
            loop {
                store.compact(&to).unwrap();
                thread::sleep(Duration::from_millis(2));
            }
        });
        for writer in 0..WRITERS {
            let store = &store;
            s.spawn(move || {
                for n in 0u64.. {
                    write_one(store, writer, n);
                }
            });
        }
    });
    unreachable!("the parent kills this process");
}

fn write_one(store: &Store, writer: usize, n: u64) {
    let body = vec![u8::try_from(writer).unwrap(); 500];
    let line = match n % 4 {
        0 => {
            let id = deposit(store, "2001", &body).id;
            store.set_message_state(id, MessageState::Saved).unwrap();
            format!("message {id} saved")
        }
        1 => {
            let id = deposit(store, "2001", &body).id;
            store.purge_message(id).unwrap();
            format!("message {id} purged")
        }
        2 => {
            let (key, value) = (format!("{writer}"), format!("{n}"));
            store
                .put_local("journal", &key, Some(value.as_bytes()))
                .unwrap();
            format!("local {key} {value}")
        }
        _ => {
            let (name, source) = (format!("flow-{writer}"), format!("{n}").repeat(3000));
            store.set_flow(&name, &source).unwrap();
            format!("flow {name} {n}")
        }
    };
    // One write call per line, so that lines of threads do not mix.
    let mut out = std::io::stdout();
    out.write_all(format!("ACK {line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

fn run_and_kill(dir: &Path, lines: usize, acknowledged: &mut BTreeMap<String, String>) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "whatever_was_acknowledged_survives_kill_9",
            "--nocapture",
        ])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut note = |line: String| {
        if let Some(ack) = line.split_once("ACK ").map(|(_, a)| a) {
            let mut words = ack.split(' ').map(str::to_owned);
            let (kind, id) = (words.next().unwrap(), words.next().unwrap());
            acknowledged.insert(format!("{kind} {id}"), words.next().unwrap());
        }
    };
    for line in output.by_ref().take(lines) {
        note(line.unwrap());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What it still managed to say was acknowledged too; only a torn last line was not.
    for line in output.map_while(Result::ok) {
        if line.split(' ').count() == 4 && !line.ends_with(' ') {
            note(line);
        }
    }
}

fn verify(store: &Store, acknowledged: &BTreeMap<String, String>) {
    assert!(acknowledged.len() > 100);
    for (what, value) in acknowledged {
        let (kind, id) = what.split_once(' ').unwrap();
        match kind {
            "message" => {
                let id: Uuid = id.parse().unwrap();
                let found = store.message(id).unwrap();
                if value == "purged" {
                    assert!(found.is_none(), "{what}");
                } else {
                    let found = found.unwrap_or_else(|| panic!("{what} is lost"));
                    assert_eq!(found.state, MessageState::Saved);
                    assert_eq!(store.read_audio(&found.audio).unwrap().len(), 500);
                }
            }
            "local" => {
                let held = store.local("journal", id).unwrap().unwrap();
                let held: u64 = String::from_utf8(held).unwrap().parse().unwrap();
                // The last acknowledged, or the one under way when the process died.
                assert_at_least(held, value, what);
            }
            _ => {
                let source = store.flow(id).unwrap().unwrap().source;
                assert_eq!(source.len() % 3000, 0);
                let held = source[..source.len() / 3000].parse().unwrap();
                assert_at_least(held, value, what);
            }
        }
    }
}

fn assert_at_least(held: u64, acknowledged: &str, what: &str) {
    let acknowledged: u64 = acknowledged.parse().unwrap();
    assert!(
        held == acknowledged || held == acknowledged + 4,
        "{what}: {held} held, {acknowledged} acknowledged"
    );
}

#[test]
fn a_repeated_deposit_after_a_crash_is_the_same_message() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), "vmpro1");
    mailbox(&store, "2001");
    let send = |store: &Store| {
        store
            .deposit(&ext("2001"), from_source("<7@pbx>"), audio(b"hi"), b"hi")
            .unwrap()
    };
    let (first, new) = send(&store);
    assert!(new);
    drop(store);
    let (again, new) = send(&open(dir.path(), "vmpro1"));
    assert!(!new);
    assert_eq!(again.id, first.id);
}
