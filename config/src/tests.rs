//! The crate as a whole: the manual tells the truth, the environment can say all the file can,
//! and no text makes it panic.

use proptest::prelude::*;
use toml::{Table, Value};

use crate::{Config, ConfigErrors, field::Read as _, parse, shape::Root};

const MANUAL: &str = include_str!("../../docs/config.md");

/// Files in which every key without a default is set, for either role.
const PRIMARY: &str = r#"
    node = { id = "a", fqdn = "a.example.com", role = "primary", data_dir = "/data" }
    pair = { mode = "single-active", peer = "b.example.com", peer_url = "http://b.example.com:8080", key_file = "k" }
    tls = { ca = "ca", cert = "cert", key = "key" }
    http = { listen = "0.0.0.0:8080", tokens_file = "tokens" }
    witness = { url = "http://w.example.com:8090" }
    vrl.server = { listen = "0.0.0.0:21", user = "vrl", password_file = "vrl.password" }
    [[smtp.sender]]
    server = "b.example.com"
    [[smtp.sender]]
    domain = "example.com"
    server = "mail.example.com"
    [[systems]]
    name = "pbx"
    destination = "99999"
    [[alarms.email]]
    name = "noc"
    to = ["noc@example.com"]
    [[alarms.syslog]]
    name = "log"
    server = "log.example.com"
    [[alarms.snmp]]
    name = "nms"
    server = "nms.example.com"
    user = "vmsync"
    auth_password_file = "auth"
    [[alarms.webhooks]]
    name = "hook"
    url = "https://hooks.example.com/vmsync"
    secret_file = "secret"
"#;
const SECONDARY: &str = r#"
    node = { id = "b", fqdn = "b.example.com", role = "secondary", data_dir = "/data" }
    pair = { mode = "single-active", peer = "a.example.com", peer_url = "http://a.example.com:8080", key_file = "k" }
    tls = { ca = "ca", cert = "cert", key = "key" }
    http = { listen = "0.0.0.0:8080", tokens_file = "tokens" }
    vrl = { remote_host = "a.example.com", ftp_user = "vrl", ftp_password_file = "vrl.password" }
"#;

fn shown(config: Result<Config, ConfigErrors>) -> String {
    match config {
        Ok(config) => format!("{config:#?}"),
        Err(errors) => panic!("{errors}"),
    }
}

fn of(text: &str) -> String {
    shown(parse(text, "/etc/vmsync.toml", std::iter::empty()))
}

/// Key and default of each row of the manual's tables.
fn rows() -> Vec<(String, String)> {
    let tables = MANUAL.split("## Keys").nth(1).unwrap();
    let row = |line: &str| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let key = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        Some((key.to_owned(), cells.next()?.to_owned()))
    };
    tables.lines().filter_map(row).collect()
}

#[test]
fn the_manual_tells_every_key_and_no_other() {
    let mut known = Vec::new();
    Root::keys("", &mut known);
    let told: Vec<String> = rows().into_iter().map(|(key, _)| key).collect();
    let missing: Vec<_> = known.iter().filter(|key| !told.contains(key)).collect();
    let gone: Vec<_> = told.iter().filter(|key| !known.contains(key)).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "missing {missing:?}, gone {gone:?}"
    );
}

#[test]
fn a_default_written_out_changes_nothing() {
    let mut tried = 0;
    for (key, default) in rows() {
        let literal = default.strip_prefix('`').and_then(|d| d.strip_suffix('`'));
        // Defaults told in words hang on other keys.
        let Some(Ok(value)) = literal.map(toml_value) else {
            continue;
        };
        let secondary = key.starts_with("vrl.remote")
            || ["vrl.verify", "vrl.connections"].contains(&key.as_str());
        let base = if secondary { SECONDARY } else { PRIMARY };
        let mut file: Table = base.parse().unwrap();
        set(&mut file, &key, value);
        assert_eq!(of(&file.to_string()), of(base), "{key} = {default}");
        tried += 1;
    }
    assert!(tried >= 25, "only {tried} defaults found in the manual");
}

fn toml_value(literal: &str) -> Result<Value, toml::de::Error> {
    let mut table: Table = format!("it = {literal}").parse()?;
    Ok(table.remove("it").unwrap())
}

/// Sets a dotted key; `name[]` means the last entry of a list.
fn set(table: &mut Table, key: &str, value: Value) {
    let Some((section, rest)) = key.split_once('.') else {
        table.insert(key.to_owned(), value);
        return;
    };
    let inner = match section.strip_suffix("[]") {
        Some(list) => table[list].as_array_mut().unwrap().last_mut().unwrap(),
        None => table
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new())),
    };
    set(inner.as_table_mut().unwrap(), rest, value);
}

#[test]
fn the_environment_can_say_all_the_file_can() {
    for file in [PRIMARY, SECONDARY, include_str!("../samples/primary.toml")] {
        let table: Table = file.parse().unwrap();
        let mut env = Vec::new();
        flatten("VMSYNC", &Value::Table(table), &mut env);
        let from_env = parse("", "/etc/vmsync.toml", env.into_iter());
        assert_eq!(shown(from_env), of(file));
    }
}

/// Writes each value as its variable.
fn flatten(name: &str, value: &Value, into: &mut Vec<(String, String)>) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                flatten(&format!("{name}__{}", key.to_uppercase()), value, into);
            }
        }
        Value::Array(items) if items.iter().all(Value::is_table) => {
            for (n, item) in items.iter().enumerate() {
                flatten(&format!("{name}__{n}"), item, into);
            }
        }
        Value::Array(items) => {
            let items: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            into.push((name.to_owned(), items.join(",")));
        }
        Value::String(text) => into.push((name.to_owned(), text.clone())),
        other => into.push((name.to_owned(), other.to_string())),
    }
}

#[test]
fn values_of_unknown_keys_are_not_repeated() {
    let text = "[vrl.server]\npassword = \"very-secret\"\n\"new\\nline\" = 1\n";
    let env = [(
        "VMSYNC__VRL__FTP_PASSWORD".to_owned(),
        "very-secret".to_owned(),
    )];
    let errors = parse(text, "vmsync.toml", env.into_iter()).unwrap_err();
    let said = errors.to_string();
    assert!(said.contains("vrl.server.password: is unknown"), "{said}");
    assert!(said.contains("vrl.ftp_password: is unknown"), "{said}");
    assert!(!said.contains("very-secret"), "{said}");
    assert_eq!(said.lines().count(), errors.0.len());
}

#[test]
fn deep_nesting_is_an_answer_not_a_crash() {
    let dotted = format!("{} = 1\n", vec!["a"; 50_000].join("."));
    let nested = format!("a = {}1{}\n", "[".repeat(50_000), "]".repeat(50_000));
    for text in [dotted, nested] {
        assert!(parse(&text, "vmsync.toml", std::iter::empty()).is_err());
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "[\\PC\\n]{0,200}", at in 0_usize..900, cut in 0_usize..20) {
        let _ = parse(&text, "vmsync.toml", std::iter::empty());
        // A good file with a piece replaced.
        let start = PRIMARY.floor_char_boundary(at.min(PRIMARY.len()));
        let end = PRIMARY.floor_char_boundary((at + cut).min(PRIMARY.len()));
        let broken = format!("{}{text}{}", &PRIMARY[..start], &PRIMARY[end.max(start)..]);
        if let Err(errors) = parse(&broken, "vmsync.toml", std::iter::empty()) {
            prop_assert!(!errors.0.is_empty());
        }
    }

    #[test]
    fn no_variable_panics(key in "[A-Z0-9_]{0,30}", value in "\\PC{0,20}") {
        let env = [(format!("VMSYNC__{key}"), value)];
        let _ = parse(PRIMARY, "vmsync.toml", env.into_iter());
    }
}
