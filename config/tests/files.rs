//! The configuration as files: good ones load, bad ones are answered with exactly the errors beside them.
//!
//! `bad/NAME.toml` goes with `bad/NAME.err`, the complete answer; `NAME.env`, where there is one,
//! holds `NAME=value` lines of the environment. With `UPDATE=1` in the environment the `.err`
//! files are written anew: read what changed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use vmsync_config::{Config, ConfigErrors, Destination, SenderTls, VrlTls, load, parse};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn toml_files(name: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder(name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    files.sort();
    files
}

/// The environment that goes with a file.
fn env_of(file: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(file.with_extension("env")).unwrap_or_default();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn check(file: &Path) -> Result<Config, ConfigErrors> {
    let text = fs::read_to_string(file).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    parse(&text, name, env_of(file).into_iter())
}

fn good(name: &str) -> Config {
    let file = folder("tests/good").join(name);
    check(&file).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn every_bad_file_gets_its_answer() {
    let files = toml_files("tests/bad");
    assert!(files.len() >= 10, "the bad files are gone");
    let mut wrong = Vec::new();
    for file in files {
        let answer = match check(&file) {
            Ok(_) => "accepted\n".to_owned(),
            Err(errors) => format!("{errors}\n"),
        };
        let expected = file.with_extension("err");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&expected, &answer).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        if answer != expected || answer == "accepted\n" {
            let name = file.display();
            wrong.push(format!(
                "{name} is answered\n{answer}instead of\n{expected}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_good_file_loads() {
    let files = toml_files("tests/good");
    assert!(files.len() >= 5, "the good files are gone");
    for file in files {
        if let Err(errors) = load(&file, env_of(&file).into_iter()) {
            panic!("{errors}");
        }
    }
}

#[test]
fn the_samples_load_and_fit_one_another() {
    let sample = |name| {
        let errors = |errors| panic!("{errors}");
        load(&folder("samples").join(name), std::iter::empty()).unwrap_or_else(errors)
    };
    let (primary, secondary) = (sample("primary.toml"), sample("secondary.toml"));
    assert_eq!(primary.pair.peer, secondary.node.fqdn);
    assert_eq!(secondary.pair.peer, primary.node.fqdn);
    assert_eq!(primary.pair.peer_id, secondary.node.id);
    assert_eq!(secondary.pair.peer_id, primary.node.id);
    assert_eq!(primary.groups(), secondary.groups());
    assert!(secondary.resilience.backs_up_voicemail);
    let (server, remote) = (primary.vrl.server.unwrap(), secondary.vrl.remote.unwrap());
    assert_eq!(
        (server.listen.port(), server.user),
        (remote.port, remote.user)
    );
}

#[test]
fn defaults_are_what_the_spelled_out_file_says() {
    let said = format!("{:#?}", good("minimal-spelled-out.toml"));
    assert_eq!(format!("{:#?}", good("minimal.toml")), said);
}

#[test]
fn a_system_without_home_stands_at_the_node_that_serves_it() {
    let config = good("dual-active.toml");
    let homes: Vec<_> = config.systems.iter().map(|s| s.home.as_str()).collect();
    assert_eq!(homes, ["vmpro1", "vmpro2"]);
    assert_eq!(config.systems[1].destination, Destination::Secondary);
    assert_eq!(config.groups().len(), 2);
}

#[test]
fn the_demo_may_use_loopback_and_needs_no_tls() {
    let config = good("demo-on-one-machine.toml");
    assert!(config.node.demo);
    assert_eq!(config.senders[0].domain, "vmpro2.demo.test");
    assert_eq!(config.senders[0].server, "127.0.0.1");
    assert_eq!(config.vrl.remote.unwrap().tls, VrlTls::Off);
}

#[test]
fn further_senders_keep_their_own_settings() {
    let config = good("mail-delivery.toml");
    assert_eq!(config.receiver.listen, None);
    let domains: Vec<_> = config.senders.iter().map(|s| s.domain.as_str()).collect();
    assert_eq!(
        domains,
        ["vmpro1.example.com", "example.com", "example.net", "*"]
    );
    let entry = |domain| config.sender_for(domain).unwrap().0;
    assert_eq!((entry("Example.NET"), entry("example.org")), (2, 3));
    for own in ["vmpro1.example.com", "VMPRO2.example.com"] {
        assert!(
            config.sender_for(own).is_none(),
            "{own}: it would come back"
        );
    }
    let tls: Vec<_> = config.senders[1..].iter().map(|s| s.tls).collect();
    assert_eq!(
        tls,
        [
            SenderTls::Required,
            SenderTls::Opportunistic,
            SenderTls::Implicit
        ]
    );
    assert_eq!(config.senders[0].server, "vmpro2.example.com");
    assert_eq!(config.senders[1].port, 587);
    assert_eq!(config.senders[1].auth.as_ref().unwrap().user, "voicemail");
    assert_eq!(config.senders[2].port, 25);
}

#[test]
fn the_environment_overrides_and_extends_the_file() {
    let config = good("from-the-environment.toml");
    assert_eq!(config.node.fqdn.as_str(), "vmpro1.example.com");
    assert_eq!(config.receiver.allow.len(), 2);
    assert_eq!(config.senders[0].port, 2525);
    assert_eq!(config.senders[0].server, "vmpro2.example.com");
    assert_eq!(config.limits.smtp_connections, 8);
    assert_eq!(config.limits.message_bytes, 8 << 20);
    let phones: Vec<_> = config
        .systems
        .iter()
        .map(|s| (s.name.as_str(), s.phones))
        .collect();
    assert_eq!(phones, [("headquarters", 120), ("warehouse", 0)]);
}

#[test]
fn relative_paths_start_at_the_files_folder() {
    let text = fs::read_to_string(folder("tests/good/dual-active.toml")).unwrap();
    let config = parse(&text, "/etc/vmsync/vmsync.toml", std::iter::empty()).unwrap();
    assert_eq!(config.node.data_dir, Path::new("/etc/vmsync/data"));
    assert_eq!(
        config.callflows.dir,
        Path::new("/etc/vmsync/data/callflows")
    );
    assert_eq!(
        config.tls.files.unwrap().ca,
        Path::new("/etc/vmsync/ca.pem")
    );
    assert_eq!(config.vrl.folder, Path::new("/opt/vmpro/MM/VRL"));
}

#[test]
fn files_that_are_no_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let answer = |name: &str| {
        let errors = load(&dir.path().join(name), std::iter::empty()).unwrap_err();
        assert_eq!(errors.0.len(), 1);
        errors.0[0].message.clone()
    };
    assert!(answer("missing.toml").contains("can't be read"));
    fs::write(dir.path().join("latin1.toml"), b"# caf\xe9\n").unwrap();
    assert!(answer("latin1.toml").contains("offset 5"));
    fs::write(dir.path().join("huge.toml"), vec![b'#'; (8 << 20) + 1]).unwrap();
    assert!(answer("huge.toml").contains("longer than"));
}
