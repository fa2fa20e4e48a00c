//! Handshakes between nodes of one CA and of another.

use std::{net::Ipv4Addr, os::unix::fs::PermissionsExt as _};

use rustls::{ClientConnection, ServerConnection, version::TLS12};

use super::*;

const ONE: &str = "vmpro1.example.com";
const TWO: &str = "vmpro2.example.com";

/// TLS itself looks at the clock.
fn now() -> UnixMillis {
    UnixMillis(UnixTime::now().as_secs() * 1000)
}

fn files(ca: &Path, issued: &Issued) -> TlsFiles {
    TlsFiles {
        ca: ca.join("ca.pem"),
        cert: issued.cert.clone(),
        key: issued.key.clone(),
    }
}

/// A CA and a node's files in `dir/name`.
fn node(dir: &Path, name: &str, fqdn: &str) -> TlsFiles {
    let ca = dir.join(name);
    if !ca.exists() {
        init(&ca, "example.com", now()).unwrap();
    }
    let local = [Ipv4Addr::LOCALHOST.into()];
    let issued = issue(&ca, fqdn, &local, &ca.join(fqdn), now()).unwrap();
    files(&ca, &issued)
}

/// Runs a handshake in memory; how many certificates the server saw, or what went wrong.
fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &'static str,
) -> Result<usize, String> {
    let name = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            server.read_tls(&mut wire).unwrap();
            server
                .process_new_packets()
                .map_err(|e| format!("server: {e}"))?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            client.read_tls(&mut wire).unwrap();
            client
                .process_new_packets()
                .map_err(|e| format!("client: {e}"))?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(server.peer_certificates().map_or(0, <[_]>::len))
}

#[test]
fn two_nodes_of_one_ca_trust_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (node(dir.path(), "ca", ONE), node(dir.path(), "ca", TWO));
    let client = client_config(&one).unwrap();
    let server = server_config(&two).unwrap();
    assert_eq!(handshake(&client, &server, TWO), Ok(1));
    assert_eq!(handshake(&client, &server, "127.0.0.1"), Ok(1));
    let wrong_name = handshake(&client, &server, ONE).unwrap_err();
    assert!(wrong_name.contains("not valid for name"), "{wrong_name}");
}

#[test]
fn a_certificate_says_whether_it_is_the_peers() {
    let dir = tempfile::tempdir().unwrap();
    let two = node(dir.path(), "ca", TWO);
    let chain = certificates(&two.cert).unwrap();
    let [one_, two_] = [ONE, TWO].map(|name| Fqdn::new(name).unwrap());
    assert_eq!(presented(Some(&chain), &two_), Certificate::Peer);
    let Certificate::Other(names) = presented(Some(&chain), &one_) else {
        panic!("taken for {ONE}")
    };
    assert!(names.contains(TWO), "{names}");
    assert_eq!(presented(None, &two_), Certificate::None);
    assert_eq!(presented(Some(&[]), &two_), Certificate::None);
    let nonsense = [CertificateDer::from(vec![1, 2, 3])];
    assert!(matches!(
        presented(Some(&nonsense), &two_),
        Certificate::Other(_)
    ));
}

#[test]
fn tls_1_2_is_enough_and_a_client_needs_no_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let one = node(dir.path(), "ca", ONE);
    let server = server_config(&one).unwrap();
    let pbx = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(roots(&one.ca).unwrap())
        .with_no_client_auth();
    assert_eq!(handshake(&Arc::new(pbx), &server, ONE), Ok(0));
}

#[test]
fn certificates_of_another_ca_are_refused_by_both_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (node(dir.path(), "ca", ONE), node(dir.path(), "other", TWO));
    let client = client_config(&ours).unwrap();
    let server = server_config(&theirs).unwrap();
    let refused = handshake(&client, &server, TWO).unwrap_err();
    assert!(
        refused.starts_with("client: ") && refused.contains("invalid peer certificate"),
        "{refused}"
    );
    // A client that trusts the server's CA, but whose own certificate is of another.
    let stranger = TlsFiles {
        ca: theirs.ca.clone(),
        ..ours
    };
    let client = client_config(&stranger).unwrap();
    let refused = handshake(&client, &server, TWO).unwrap_err();
    assert!(
        refused.starts_with("server: ") && refused.contains("invalid peer certificate"),
        "{refused}"
    );
}

#[test]
fn keys_are_private_and_nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let one = node(dir.path(), "ca", ONE);
    let ca = dir.path().join("ca");
    for key in [&one.key, &ca.join("ca.key")] {
        assert_eq!(
            fs::metadata(key).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    let before = [&one.key, &one.cert, &one.ca].map(|f| fs::read(f).unwrap());
    let again = init(&ca, "example.com", now()).unwrap_err();
    assert!(again.problem.contains("not overwritten"), "{again}");
    let again = issue(&ca, ONE, &[], &ca.join(ONE), now()).unwrap_err();
    assert!(again.problem.contains("not overwritten"), "{again}");
    // With the key gone and the certificate there, no new key is left behind.
    fs::copy(&one.key, dir.path().join("kept.key")).unwrap();
    fs::remove_file(&one.key).unwrap();
    assert!(issue(&ca, ONE, &[], &ca.join(ONE), now()).is_err());
    assert!(!one.key.exists());
    let after = [&dir.path().join("kept.key"), &one.cert, &one.ca].map(|f| fs::read(f).unwrap());
    assert_eq!(before, after);
}

#[test]
fn a_ca_signs_for_its_own_domain_and_time_only() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, out) = (dir.path().join("ca"), dir.path().join("out"));
    init(&ca, "Example.com.", now()).unwrap();
    for stranger in ["vmpro1.example.org", "vmpro1.notexample.com", "vmpro1"] {
        assert!(
            issue(&ca, stranger, &[], &out, now()).is_err(),
            "{stranger}"
        );
    }
    assert!(!out.exists());
    let later = |by: Duration| UnixMillis(now().0 + u64::try_from(by.as_millis()).unwrap());
    assert!(init(&dir.path().join("x"), "not a domain", now()).is_err());

    let issued = issue(&ca, ONE, &[], &out, now()).unwrap();
    let files = files(&ca, &issued);
    let [one, two] = [ONE, TWO].map(|name| Fqdn::new(name).unwrap());
    assert_eq!(check_identity(&files, &one, now()), Ok(()));
    assert!(check_identity(&files, &two, now()).is_err());
    let old = check_identity(&files, &one, later(NODE_VALIDITY + DAY)).unwrap_err();
    assert!(
        old.problem.contains("expired") && old.problem.contains("vmsync pki issue"),
        "{old}"
    );
}

#[test]
fn wrong_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (node(dir.path(), "ca", ONE), node(dir.path(), "ca", TWO));
    let mixed = TlsFiles {
        key: two.key.clone(),
        ..one.clone()
    };
    for error in [
        server_config(&mixed).unwrap_err(),
        client_config(&mixed).unwrap_err(),
    ] {
        assert!(
            error.to_string().contains(two.key.to_str().unwrap()),
            "{error}"
        );
    }
    let swapped = TlsFiles {
        cert: one.key.clone(),
        key: one.cert.clone(),
        ..one.clone()
    };
    let error = client_config(&swapped).unwrap_err();
    assert_eq!(error.path, one.key);
    let missing = TlsFiles {
        ca: dir.path().join("none.pem"),
        ..one.clone()
    };
    let error = server_config(&missing).unwrap_err();
    assert_eq!(error.path, missing.ca);
    fs::write(&one.cert, "-----BEGIN CERTIFICATE-----\nAAAA").unwrap();
    assert!(server_config(&one).unwrap_err().problem.contains("PEM"));
}
