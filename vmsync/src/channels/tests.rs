use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use vmsync_config::{Config, alarms::EVENT_KINDS};
use vmsync_core::alarm::CATALOGUE;
use vmsync_store::{Options, Store};

use super::*;
use crate::{alarms::Alarms, clock, events::EventHub};

const MANUAL: &str = include_str!("../../../docs/alarms.md");

fn config(folder: &Path, role: &str) -> Config {
    let (one, two, destination) = match role {
        "primary" => ("vmpro1", "vmpro2", "99999"),
        _ => ("vmpro2", "vmpro1", "99999"),
    };
    let text = format!(
        r#"
        node = {{ id = "{one}", fqdn = "{one}.example.com", role = "{role}", data_dir = "data" }}
        pair = {{ mode = "single-active", peer = "{two}.example.com", peer_url = "http://{two}.example.com:8080", key_file = "k" }}
        tls = {{ require = false }}
        http = {{ listen = "0.0.0.0:8080", tokens_file = "tokens" }}
        [[systems]]
        name = "branch"
        destination = "{destination}"
        [[alarms.syslog]]
        name = "log"
        server = "127.0.0.1"
        "#
    );
    let file = folder.join("vmsync.toml").display().to_string();
    vmsync_config::parse(&text, &file, std::iter::empty()).unwrap_or_else(|e| panic!("{e}"))
}

fn open(config: &Config) -> (Store, Alarms) {
    let options = Options {
        node: config.node.id.clone(),
        min_free_bytes: 0,
        clock: clock::wall,
    };
    let store = Store::open(&config.node.data_dir, options).unwrap();
    let alarms = Alarms::load_for(config, store.clone(), EventHub::new()).unwrap();
    (store, alarms)
}

/// What waits for the first channel.
fn waiting(alarms: &Alarms) -> Vec<String> {
    let channels = alarms.channels();
    let mut state = channels.list()[0].lock();
    let mut all = Vec::new();
    while let Some(item) = state.queue.begin() {
        let facts = item.notice.facts().unwrap();
        all.push(format!(
            "{} {} {}",
            item.notice.word(),
            facts.code,
            facts.subject
        ));
        state.queue.told(item.number);
    }
    all
}

#[test]
fn begin_and_end_wait_over_a_restart_and_an_acknowledgement_is_neither() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "secondary");
    let (store, alarms) = open(&config);
    alarms.raise("disk_full", "vmpro2", "no space");
    alarms.raise("disk_full", "vmpro2", "still no space");
    alarms.raise("voicemail_failover", "branch", "served by vmpro2");
    alarms.acknowledge(1);
    alarms.clear("disk_full", "vmpro2");
    alarms.clear("disk_full", "vmpro2");
    let all = [
        "raised disk_full vmpro2",
        "raised voicemail_failover branch",
        "cleared disk_full vmpro2",
    ];
    // The writer is behind; its end closes the store.
    drop(alarms);
    drop(store);
    for _ in 0..100 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        if let Ok(store) = Store::open(
            &config.node.data_dir,
            Options {
                node: config.node.id.clone(),
                min_free_bytes: 0,
                clock: clock::wall,
            },
        ) {
            drop(store);
            break;
        }
    }
    let (_, again) = open(&config);
    assert_eq!(waiting(&again), all);
}

#[test]
fn a_failover_is_told_by_the_node_that_backs_up() {
    for (role, told) in [("primary", 0), ("secondary", 1)] {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), role);
        let (_, alarms) = open(&config);
        alarms.raise("voicemail_failover", "branch", "words");
        assert_eq!(waiting(&alarms).len(), told, "{role}");
        assert_eq!(alarms.active(), 1, "both list it");
    }
}

#[test]
fn what_waits_for_a_channel_that_is_gone_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), "primary");
    let store = {
        let (store, alarms) = open(&config);
        alarms.raise("disk_full", "vmpro1", "no space");
        // Durable once the writer has it.
        for _ in 0..200 {
            if !store.locals(SPACE).unwrap().is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        store
    };
    assert_eq!(store.locals(SPACE).unwrap().len(), 1);
    config.alarms.syslog.clear();
    let alarms = Alarms::load_for(&config, store.clone(), EventHub::new()).unwrap();
    assert!(alarms.channels().list().is_empty());
    assert!(store.locals(SPACE).unwrap().is_empty());
}

/// The text of every source file of this crate.
fn sources(folder: &Path, into: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs")
            && !path.ends_with("channels/tests.rs")
        {
            let text = std::fs::read_to_string(&path).unwrap();
            // What tests raise is nobody's alarm.
            let text = text
                .split("#[cfg(test)]\nmod tests {")
                .next()
                .unwrap()
                .to_owned();
            into.push((path, text));
        }
    }
}

/// The first argument of each call of `.name(`.
fn first_arguments<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let calls = text.split(name).skip(1);
    let arguments = calls.filter_map(|rest| rest.split_once(',').map(|(first, _)| first.trim()));
    arguments.collect()
}

#[test]
fn every_alarm_there_is_stands_in_the_catalogue_and_in_the_manual() {
    let mut files = Vec::new();
    sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut files,
    );
    let mut constants: BTreeMap<(&Path, &str), &str> = BTreeMap::new();
    for (path, text) in &files {
        for line in text.split("const ").skip(1) {
            let named = line
                .split_once(": &str = \"")
                .and_then(|(name, rest)| Some((name, rest.split_once('"')?.0)));
            if let Some((name, value)) = named.filter(|(name, _)| !name.contains([' ', '\n'])) {
                constants.insert((path.as_path(), name), value);
            }
        }
    }
    let mut raised = BTreeSet::new();
    for (path, text) in &files {
        for argument in first_arguments(text, ".raise(") {
            if let Some(code) = argument.strip_prefix('"').and_then(|a| a.strip_suffix('"')) {
                raised.insert(code.to_owned());
                continue;
            }
            let name = argument.rsplit("::").next().unwrap();
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') {
                // A vector of synchronisation, or a code handed on by one of the functions below.
                continue;
            }
            let own = constants.get(&(path.as_path(), name));
            let any = || {
                constants.iter().find(|((p, n), _)| {
                    *n == name && p.ends_with("mod.rs") && p.parent() == path.parent()
                })
            };
            let anywhere = || constants.iter().find(|((_, n), _)| *n == name);
            let code = own
                .or_else(|| any().map(|(_, v)| v))
                .or_else(|| anywhere().map(|(_, v)| v));
            raised.insert(
                (*code.unwrap_or_else(|| panic!("{name} in {}", path.display()))).to_owned(),
            );
        }
    }
    // Handed on: of `node/sight`, `mailroom`, `delivery/watch`, and the receiver's events.
    let indirect = [
        "heartbeat_lost",
        "smtp_lost",
        "peer_lost",
        "witness_unseen",
        "maintenance",
        "order_overdue",
        "flapping",
        "wire_version",
        "bad_signature",
        "email_delayed",
        "email_no_entry",
        "tls_required",
        "wrong_certificate",
    ];
    raised.extend(indirect.map(str::to_owned));
    let known: BTreeSet<String> = CATALOGUE
        .iter()
        .map(|(code, _)| (*code).to_owned())
        .collect();
    let missing: Vec<_> = raised.difference(&known).collect();
    assert!(
        missing.is_empty(),
        "raised, and not in vmsync/core/src/alarm/catalogue.rs: {missing:?}"
    );
    let gone: Vec<_> = known.difference(&raised).collect();
    assert!(
        gone.is_empty(),
        "in the catalogue, and raised nowhere: {gone:?}"
    );
    for (code, severity) in CATALOGUE {
        let row = format!("| `{code}` | {} |", severity.as_str());
        assert!(MANUAL.contains(&row), "docs/alarms.md lacks the row {row}");
    }
}

#[test]
fn every_kind_of_event_can_be_asked_for() {
    let mut files = Vec::new();
    sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut files,
    );
    for (path, text) in &files {
        for argument in first_arguments(text, ".publish(") {
            let kind = argument.strip_prefix('"').and_then(|a| a.strip_suffix('"'));
            if let Some(kind) = kind.filter(|kind| *kind != "alarm") {
                assert!(
                    EVENT_KINDS.contains(&kind),
                    "{kind} of {} is missing in vmsync_config::alarms::EVENT_KINDS",
                    path.display()
                );
                assert!(
                    MANUAL.contains(&format!("`{kind}`")),
                    "docs/alarms.md lacks {kind}"
                );
            }
        }
    }
}
