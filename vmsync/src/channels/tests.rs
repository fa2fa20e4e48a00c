use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use vmsync_config::{Config, alarms::EVENT_KINDS};
use vmsync_core::alarm::CATALOGUE;
use vmsync_store::{Options, Store};

use super::*;
use crate::{
    alarms::{Alarms, Later},
    clock,
    events::EventHub,
};

const MANUAL: &str = include_str!("../../../docs/alarms.md");

fn config(folder: &Path, role: &str) -> Config {
    config_of(folder, role, 0)
}

/// With so many systems beside the branch.
fn config_of(folder: &Path, role: &str, more: usize) -> Config {
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
    let system = |n| format!("[[systems]]\nname = \"s{n}\"\ndestination = \"99999\"\n");
    let text = text + &(0..more).map(system).collect::<String>();
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

/// The node's next life: the writer is behind, and its end closes the store.
fn restarted(config: &Config, store: Store, alarms: Alarms) -> Alarms {
    drop(alarms);
    drop(store);
    let options = || Options {
        node: config.node.id.clone(),
        min_free_bytes: 0,
        clock: clock::wall,
    };
    until(|| Store::open(&config.node.data_dir, options()).is_ok());
    open(config).1
}

/// What waits for the first channel.
fn waiting(alarms: &Alarms) -> Vec<String> {
    let channels = alarms.channels();
    let mut state = channels.list()[0].lock();
    let mut all = Vec::new();
    for item in state.queue.begin(usize::MAX) {
        let facts = item.notice.facts().unwrap();
        all.push(format!(
            "{} {} {}",
            item.notice.word(),
            facts.code,
            facts.subject
        ));
    }
    state.queue.told();
    all
}

/// Waits, a minute at most.
fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..6_000 {
        if done() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("it never came about");
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
    let again = restarted(&config, store, alarms);
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

/// Hardware of the backup is swapped: maintenance is begun at the home, and ended while the backup is still off.
#[test]
fn maintenance_is_told_by_the_node_at_which_it_was_begun() {
    let [one, two] = ["vmpro1", "vmpro2"].map(|n| n.parse::<NodeId>().unwrap());
    for (role, by, told) in [
        ("primary", &one, 2),
        ("secondary", &one, 0),
        ("primary", &two, 0),
        ("secondary", &two, 2),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), role);
        let (_, alarms) = open(&config);
        alarms.channels().maintenance_by(by);
        alarms.raise("maintenance", "pair", "words");
        alarms.clear("maintenance", "pair");
        assert_eq!(waiting(&alarms).len(), told, "{role}, begun at {by}");
    }
}

#[test]
fn what_both_list_is_told_by_the_other_while_its_teller_is_out_of_sight() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "primary");
    let (_, alarms) = open(&config);
    alarms.raise("flapping", "branch", "the backup tells it");
    alarms.channels().peer_away(true);
    alarms.clear("flapping", "branch");
    alarms.channels().peer_away(false);
    alarms.raise("flapping", "branch", "the backup tells it");
    assert_eq!(waiting(&alarms), ["cleared flapping branch"]);
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

/// R-AL-1, of more systems than the list holds of other alarms: each is told of with its begin and its end, in order,
/// nothing is dropped, all are listed, and what waits outlives a restart.
#[test]
fn thousands_of_systems_fail_over_and_back_and_each_is_told_of() {
    const SYSTEMS: usize = 2_500;
    let folder = tempfile::tempdir().unwrap();
    let config = config_of(folder.path(), "secondary", SYSTEMS);
    let (store, alarms) = open(&config);
    let code = "voicemail_failover";
    let subjects = (0..SYSTEMS).map(|n| format!("s{n}"));
    let raise = |subject| Later::Raise(code, subject, "served by vmpro2".to_owned());
    let begun = clock::now().mono;
    alarms.later(subjects.clone().map(raise).collect());
    let handed_over = clock::now().mono.saturating_sub(begun);
    until(|| alarms.active() == SYSTEMS);
    assert_eq!(alarms.up_of(code).len(), SYSTEMS);
    alarms.later(subjects.clone().map(|s| Later::Clear(code, s)).collect());
    until(|| alarms.active() == 0);
    println!(
        "{SYSTEMS} systems: handed over in {handed_over:?}, raised and ended in {:?}",
        clock::now().mono.saturating_sub(begun)
    );
    assert_eq!(alarms.list().len(), SYSTEMS, "all are listed");
    assert_eq!(alarms.channels().list()[0].view().dropped, 0);
    let again = restarted(&config, store, alarms);
    assert_eq!(again.list().len(), SYSTEMS);
    let all: Vec<_> = ["raised", "cleared"]
        .iter()
        .flat_map(|word| subjects.clone().map(move |s| format!("{word} {code} {s}")))
        .collect();
    assert!(waiting(&again) == all, "each begin and each end, in order");
}

/// What waits for a channel that is down has a bound also for thousands of systems, and what is dropped is said.
#[test]
fn a_queue_that_is_full_drops_what_is_over_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let config = config_of(folder.path(), "secondary", 2_500);
    let (_, alarms) = open(&config);
    let least = 2 * (1_000 + 2 * 2_501) + 500;
    assert!(limit(&config) == least && least > config.alarms.queue);
    alarms.raise("peer_lost", "vmpro1", "up all the time");
    for _ in 0..least {
        alarms.raise("disk_full", "vmpro2", "no space");
        alarms.clear("disk_full", "vmpro2");
    }
    let channel = &alarms.channels().list()[0];
    let view = channel.view();
    assert!(view.queued <= least && view.dropped > 0, "{view:?}");
    let items = channel.lock().queue.begin(usize::MAX);
    let first = items[0].notice.facts().unwrap();
    assert_eq!(first.code, "peer_lost", "what is up is not dropped");
    assert_eq!(
        items[1].missed, view.dropped,
        "and the next says how many were"
    );
    let words: Vec<_> = items[1..]
        .chunks(2)
        .map(|two| [two[0].notice.word(), two[1].notice.word()])
        .collect();
    assert!(words.iter().all(|w| *w == ["raised", "cleared"]));
    assert_eq!(alarms.list().len(), kept(2_501));
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
        let calls = [".raise(", "Later::Raise("];
        for argument in calls.iter().flat_map(|call| first_arguments(text, call)) {
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
}

/// Each kind has its row in the manual: how much it matters, what it means, what to do, and when it ends.
#[test]
fn the_manual_tells_of_every_alarm_what_it_means_and_what_to_do() {
    let rows = MANUAL.lines().filter_map(|line| {
        let cells: Vec<_> = line
            .strip_prefix("| `")?
            .split('|')
            .map(str::trim)
            .collect();
        let code = cells[0].strip_suffix('`')?;
        (cells.len() == 6).then_some((code, cells))
    });
    let rows: BTreeMap<_, _> = rows.collect();
    for (code, severity) in CATALOGUE {
        let cells = rows
            .get(code)
            .unwrap_or_else(|| panic!("docs/alarms.md lacks {code}"));
        assert_eq!(cells[1], severity.as_str(), "severity of {code}");
        for (cell, what) in [(2, "what it means"), (3, "what to do"), (4, "when it ends")] {
            let words = cells[cell].split_whitespace().count();
            assert!(words > 1, "docs/alarms.md does not tell {what} of {code}");
        }
    }
    let known: BTreeSet<_> = CATALOGUE.iter().map(|(code, _)| *code).collect();
    let gone: Vec<_> = rows.keys().filter(|code| !known.contains(*code)).collect();
    assert!(
        gone.is_empty(),
        "docs/alarms.md tells of what there is not: {gone:?}"
    );
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
