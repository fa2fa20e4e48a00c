//! The FTP server as a stranger, a clumsy client and a broken one meet it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::time::Duration;

use crate::support::client::Client;
use crate::support::{Pki, Primary, until};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use vmsync::vrl::server::{self, ServerOptions, ServerTls};
use vmsync_config::VrlServer;

/// A server whose configuration is as the test wants it.
async fn start_as(at: &str, change: impl FnOnce(&mut VrlServer)) -> Primary {
    let dir = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind(at).await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let mut config = VrlServer {
        listen: address,
        passive_ports: (0, 0),
        passive_address: None,
        user: "vrl".to_owned(),
        password_file: dir.path().join("password"),
        max_bytes: 1 << 30,
    };
    std::fs::write(&config.password_file, crate::support::PASSWORD).unwrap();
    change(&mut config);
    let primary = Primary {
        address,
        password_file: config.password_file.clone(),
        stop: stop.clone(),
        dir,
    };
    let (folder, options) = (
        primary.folder(),
        ServerOptions {
            min_free_bytes: 0,
            ..ServerOptions::default()
        },
    );
    tokio::spawn(async move {
        server::serve(listener, &config, &folder, None, options, stop)
            .await
            .unwrap();
    });
    primary
}

#[tokio::test]
async fn a_line_without_end_is_cut_off_early() {
    let primary = Primary::start(None).await;
    let mut client = Client::greet(&primary).await;
    client
        .io
        .get_mut()
        .write_all(&vec![b'A'; 5_000])
        .await
        .unwrap();
    assert!(client.hear().await.starts_with("500 "));
    let mut rest = Vec::new();
    let end = timeout(Duration::from_secs(5), client.io.read_to_end(&mut rest))
        .await
        .unwrap();
    assert!(rest.is_empty(), "{end:?}");
}

#[tokio::test]
async fn nothing_is_done_before_login() {
    let primary = Primary::start(None).await;
    let mut client = Client::greet(&primary).await;
    for command in [
        "SIZE a.wav",
        "STOR a.wav",
        "LIST",
        "EPSV",
        "DELE a.part",
        "CWD /",
        "RNFR a",
    ] {
        client.expect(command, 530).await;
    }
    client.expect("PASS x", 503).await;
}

#[tokio::test]
async fn three_wrong_passwords_end_the_connection() {
    let primary = Primary::start(None).await;
    let mut client = Client::greet(&primary).await;
    for _ in 0..3 {
        client.expect("USER vrl", 331).await;
        client.expect("PASS nope", 530).await;
    }
    assert_eq!(client.hear().await, "");
}

#[tokio::test]
async fn uploads_under_a_finished_name_are_whole_or_not_there() {
    let primary = Primary::start(None).await;
    let mut client = Client::log_in(&primary).await;
    assert!(client.store("call.wav", b"audio").await.starts_with("226 "));
    assert_eq!(primary.files()["call.wav"], b"audio");
    // The same again is no error; other content is.
    assert!(client.store("call.wav", b"audio").await.starts_with("226 "));
    assert!(client.store("call.wav", b"other").await.starts_with("553 "));
    assert_eq!(primary.files().len(), 1, "{:?}", primary.files().keys());
    assert_eq!(primary.files()["call.wav"], b"audio");
    client.expect("DELE call.wav", 550).await;
    client.expect("RNFR call.wav", 350).await;
    client.expect("RNTO mine.wav", 553).await;
    client.expect("SIZE call.wav", 213).await;
}

#[tokio::test]
async fn a_dropped_upload_leaves_what_can_be_resumed_and_nothing_else() {
    let primary = Primary::start(None).await;
    let mut client = Client::log_in(&primary).await;
    let mut data = client.data().await;
    assert!(client.say("STOR call.wav").await.starts_with("150"));
    data.write_all(b"half").await.unwrap();
    data.flush().await.unwrap();
    until("some of it is on the disk", || {
        primary.files().values().any(|v| v == b"half")
    })
    .await;
    // A reset, as a crashed client's machine would send it.
    socket2::SockRef::from(&data)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(data);
    assert!(client.hear().await.starts_with("426"));
    client.expect("SIZE call.wav", 550).await;
    assert!(primary.files().is_empty(), "its name is random");
    let mut data = client.data().await;
    client.expect("STOR .call~00.wav.part", 150).await;
    data.write_all(b"half").await.unwrap();
    until("it is on the disk", || {
        primary.files().values().any(|v| v == b"half")
    })
    .await;
    // The client lost its connection, and comes back before the server noticed.
    let mut again = Client::log_in(&primary).await;
    again.expect("REST 4", 350).await;
    let stored = again.store(".call~00.wav.part", b" and half").await;
    assert!(stored.starts_with("226"), "{stored}");
    assert_eq!(primary.files()[".call~00.wav.part"], b"half and half");
    assert!(client.hear().await.starts_with("426"));
}

#[tokio::test]
async fn the_folder_can_not_be_left() {
    let primary = Primary::start(None).await;
    std::fs::create_dir_all(primary.folder()).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", primary.folder().join("link.part")).unwrap();
    let mut client = Client::log_in(&primary).await;
    for command in ["CWD /etc", "CWD sub", "CWD ../etc", "MKD sub"] {
        client.expect(command, 550).await;
    }
    for name in ["../password", "/etc/passwd", "..", "sub/a.wav"] {
        client.expect(&format!("SIZE {name}"), 553).await;
        client.expect(&format!("DELE {name}"), 553).await;
        assert!(client.store(name, b"x").await.starts_with("553"), "{name}");
    }
    assert!(client.store("link.part", b"x").await.starts_with("550"));
    client.expect("RETR link.part", 425).await;
    let _data = client.data().await;
    client.expect("RETR link.part", 550).await;
    client
        .expect(&format!("CWD {}", crate::support::LOCATION), 250)
        .await;
    for command in [
        "CWD ..",
        "CDUP",
        "CWD /",
        "CWD opt",
        "CWD vmpro/MM",
        "CWD VRL",
    ] {
        client.expect(command, 250).await;
    }
    client.expect("SIZE ../MM/a.wav", 553).await;
    client.expect("CWD /opt", 250).await;
    client.expect("SIZE a.wav", 553).await;
}

#[tokio::test]
async fn limits_hold() {
    let options = ServerOptions {
        max_bytes: 10,
        min_free_bytes: 0,
        connections: 2,
        ..ServerOptions::default()
    };
    let primary = Primary::start_with(None, options).await;
    let mut client = Client::log_in(&primary).await;
    assert!(
        client
            .store("large.part", &[0; 11])
            .await
            .starts_with("552")
    );
    assert!(client.store("fits.part", &[0; 10]).await.starts_with("226"));
    client.expect("REST 5", 350).await;
    assert!(client.store("short.part", b"x").await.starts_with("554"));
    let _second = Client::greet(&primary).await;
    let mut third = BufReader::new(TcpStream::connect(primary.address).await.unwrap());
    let mut line = String::new();
    third.read_line(&mut line).await.unwrap();
    assert!(line.starts_with("421 "), "{line}");
}

#[tokio::test]
async fn where_tls_is_required_nothing_goes_without_it() {
    let tls = ServerTls {
        config: Pki::new().server,
        required: true,
    };
    let primary = Primary::start(Some(tls)).await;
    let mut client = Client::greet(&primary).await;
    client.expect("USER vrl", 534).await;
    client.expect("PASS x", 503).await;
    // A failed handshake ends this connection and no other.
    client.expect("AUTH TLS", 234).await;
    client
        .io
        .get_mut()
        .write_all(b"USER vrl\r\n")
        .await
        .unwrap();
    let mut rest = Vec::new();
    let _ = timeout(Duration::from_secs(5), client.io.read_to_end(&mut rest))
        .await
        .unwrap();
    Client::greet(&primary).await;
}

#[tokio::test]
async fn listings_show_finished_recordings() {
    let primary = Primary::start(None).await;
    let mut client = Client::log_in(&primary).await;
    client.store("b;2.wav", b"22").await;
    client.store("a.wav", b"1").await;
    client.store("c.part", b"333").await;
    for (command, lines) in [
        ("NLST", &["a.wav", "b;2.wav"][..]),
        ("NLST -a /opt/vmpro/MM/VRL", &["a.wav", "b;2.wav"]),
        ("NLST a.wav", &["a.wav"]),
        ("NLST /opt", &["vmpro"]),
        ("MLSD /opt/vmpro", &["type=dir;perm=el; MM"]),
    ] {
        let mut found = client.listing(command).await;
        found.sort();
        assert_eq!(found, lines, "{command}");
    }
    let long = client.listing("LIST -al b;2.wav").await;
    assert_eq!(long.len(), 1);
    assert!(long[0].starts_with("-r--r--r-- 1 ") && long[0].ends_with(" b;2.wav"));
    let facts = client.listing("MLSD").await;
    let b = facts.iter().find(|l| l.ends_with("; b;2.wav")).unwrap();
    assert!(b.starts_with("type=file;size=2;modify=20"), "{b}");
    let _data = client.data().await;
    client.expect("LIST nothing.wav", 550).await;
    let _data = client.data().await;
    client.expect("MLSD a.wav", 501).await;
}

#[tokio::test]
async fn facts_and_hashes_are_told_of_each_file() {
    let primary = Primary::start(None).await;
    let mut client = Client::log_in(&primary).await;
    client.store("two words.wav", b"abc").await;
    // FIPS 180-4, of "abc".
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let told = client.say("HASH two words.wav").await;
    assert_eq!(told, format!("213 SHA-256 0-3 {sha256} two words.wav\r\n"));
    assert_eq!(
        client.say("XSHA256 \"two words.wav\"").await,
        format!("250 {sha256}\r\n")
    );
    // A recording that others changed is read again.
    std::fs::write(primary.folder().join("two words.wav"), b"abd").unwrap();
    assert!(!client.say("HASH two words.wav").await.contains(sha256));
    client.expect("OPTS HASH", 200).await;
    client.expect("OPTS HASH SHA-256", 200).await;
    client.expect("OPTS HASH SHA-1", 504).await;
    client.expect("HASH missing.wav", 550).await;
    client.expect("MLST two words.wav", 250).await;
    let facts = client.hear().await;
    assert!(facts.starts_with(" type=file;size=3;modify="), "{facts}");
    assert!(facts.ends_with(";perm=r; /two words.wav\r\n"), "{facts}");
    assert!(client.hear().await.starts_with("250 "));
    client.expect("MLST", 250).await;
    assert!(client.hear().await.starts_with(" type=dir;"));
    assert!(client.hear().await.starts_with("250 "));
    client.expect("FEAT", 211).await;
    let mut features = String::new();
    while !features.ends_with("211 End\r\n") {
        features.push_str(&client.hear().await);
    }
    for feature in [
        "UTF8",
        "MLST type*;size*;modify*;perm*;",
        "HASH SHA-256*",
        "REST STREAM",
        "EPSV",
    ] {
        assert!(features.contains(&format!(" {feature}\r\n")), "{features}");
    }
}

#[tokio::test]
async fn unfinished_uploads_can_be_appended_to_and_finished_ones_can_not() {
    let primary = Primary::start(None).await;
    let mut client = Client::log_in(&primary).await;
    for (command, bytes, code) in [
        ("APPE .a.part", &b"one"[..], "226"),
        ("APPE .a.part", b" two", "226"),
        ("APPE new.wav", b"three", "226"),
        ("APPE new.wav", b"more", "553"),
    ] {
        let said = client.send_data(command, bytes).await;
        assert!(said.starts_with(code), "{command}: {said}");
    }
    assert_eq!(primary.files()[".a.part"], b"one two");
    assert_eq!(primary.files()["new.wav"], b"three");
    // An upload from the start leaves nothing of what was there.
    client.store(".a.part", b"new").await;
    assert_eq!(primary.files()[".a.part"], b"new");
}

#[tokio::test]
async fn what_a_client_says_during_a_transfer_is_heard() {
    let primary = Primary::start(None).await;
    let mut client = Client::log_in(&primary).await;
    let mut data = client.data().await;
    client.expect("STOR .a.part", 150).await;
    data.write_all(b"some").await.unwrap();
    client.expect("STAT", 211).await;
    // What comes meanwhile waits for its turn; Telnet's signals before ABOR are none of it.
    client.send("SIZE .a.part").await;
    client.send_bytes(b"\xFF\xF4\xFF\xF2ABOR\r\n").await;
    assert!(client.hear().await.starts_with("426"));
    assert!(client.hear().await.starts_with("226"));
    assert_eq!(client.hear().await, "213 4\r\n");
    client.expect("ABOR", 226).await;
    // QUIT lets it end first.
    let mut data = client.data().await;
    client.expect("STOR .b.part", 150).await;
    client.send("NOOP").await;
    client.send("QUIT").await;
    data.write_all(b"whole").await.unwrap();
    drop(data);
    for code in ["226", "200", "221", ""] {
        let said = client.hear().await;
        assert!(said.starts_with(code), "{said}");
    }
    assert_eq!(primary.files()[".b.part"], b"whole");
}

#[tokio::test]
async fn a_client_that_is_killed_leaves_no_short_recording() {
    let primary = Primary::start(None).await;
    let mut client = Client::log_in(&primary).await;
    let mut data = client.data().await;
    client.expect("STOR call.wav", 150).await;
    data.write_all(b"half").await.unwrap();
    until("it is on the disk", || !primary.files().is_empty()).await;
    // What the system does with the connections of a process that is gone.
    drop((data, client));
    until("it is dropped", || primary.files().is_empty()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(primary.files().is_empty());
}

#[tokio::test]
async fn commands_may_come_all_at_once() {
    let primary = Primary::start(None).await;
    let mut client = Client::greet(&primary).await;
    let all = format!(
        "USER vrl\r\nPASS {}\r\nPWD\r\nNOOP\r\nQUIT\r\n",
        crate::support::PASSWORD
    );
    client.send_bytes(all.as_bytes()).await;
    for code in ["331", "230", "257", "200", "221"] {
        assert!(client.hear().await.starts_with(code), "{code}");
    }
}

#[tokio::test]
async fn wrong_input_gets_its_answer_and_harms_nothing() {
    let primary = Primary::start(None).await;
    let mut client = Client::log_in(&primary).await;
    let long = "a".repeat(256);
    let nul = "a\0b.wav".to_owned();
    for (command, code) in [
        ("", 500),
        ("XYZZY", 500),
        ("STOR", 500),
        ("REST x", 500),
        ("REST 99999999999999999999", 500),
        ("ALLO x", 500),
        ("ALLO 10", 200),
        ("ALLO 18446744073709551615", 552),
        ("TYPE E", 504),
        ("MODE B", 504),
        ("STRU R", 504),
        ("OPTS XYZZY", 504),
        ("PORT 127,0,0,1,0,22", 502),
        ("EPRT |1|127.0.0.1|22|", 502),
        ("SITE CHMOD 777 a.wav", 502),
        ("PROT P", 503),
        ("PBSZ 0", 503),
        ("AUTH TLS", 502),
        ("RMD /", 502),
        ("EPSV 2", 522),
        ("EPSV 9", 522),
        ("STOR a.wav", 425),
        ("RNTO b.wav", 503),
        ("MDTM nothing.wav", 550),
        ("SIZE /", 553),
        ("DELE /opt/vmpro/MM/VRL", 553),
        (&format!("SIZE {long}"), 553),
        (&format!("DELE {nul}"), 553),
        ("CWD a\u{7f}", 550),
    ] {
        client.expect(command, code).await;
    }
    for name in [long.as_str(), &nul, "a\tb", "..", "a/../b", " a", "a\\b"] {
        let said = client.store(name, b"x").await;
        assert!(said.starts_with("553"), "{name}: {said}");
    }
    client.send_bytes(b"STOR \xFE\xFE\r\n").await;
    assert!(client.hear().await.starts_with("500"));
    assert!(primary.files().is_empty());
    // 255 bytes are a name; a resume beyond the end, or of nothing, is none.
    assert!(client.store(&long[..255], b"x").await.starts_with("226"));
    client.expect("REST 2", 350).await;
    let _data = client.data().await;
    client.expect(&format!("RETR {}", &long[..255]), 554).await;
    client.expect("REST 2", 350).await;
    assert!(client.store("call.wav", b"x").await.starts_with("554"));
    // The offset was for that one alone.
    assert!(client.store("call.wav", b"x").await.starts_with("226"));
}

#[tokio::test]
async fn after_epsv_all_there_is_no_pasv() {
    let primary = Primary::start(None).await;
    let mut client = Client::log_in(&primary).await;
    client.expect("PASV", 227).await;
    client.expect("EPSV ALL", 200).await;
    client.expect("PASV", 501).await;
    client.expect("EPSV", 229).await;
}

#[tokio::test]
async fn behind_address_translation_pasv_tells_another_address() {
    let primary = start_as("127.0.0.1:0", |config| {
        config.passive_address = Some([203, 0, 113, 7].into());
    })
    .await;
    let mut client = Client::log_in(&primary).await;
    let said = client.say("PASV").await;
    assert!(said.contains("(203,0,113,7,"), "{said}");
    assert!(client.store("a.wav", b"x").await.starts_with("226"));
}

#[tokio::test]
async fn over_ipv6_there_is_epsv() {
    let primary = start_as("[::1]:0", |_| {}).await;
    let mut client = Client::log_in(&primary).await;
    let said = client.say("PASV").await;
    assert_eq!(said, "425 PASV is for IPv4; use EPSV\r\n");
    client.expect("EPSV 1", 522).await;
    client.expect("EPSV 2", 229).await;
    assert!(client.store("a.wav", b"x").await.starts_with("226"));
    assert_eq!(primary.files()["a.wav"], b"x");
}

#[tokio::test]
async fn passive_ports_that_are_used_up_are_told() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let primary = start_as("127.0.0.1:0", |config| config.passive_ports = (port, port)).await;
    let mut client = Client::log_in(&primary).await;
    let said = client.say("EPSV").await;
    assert!(
        said.starts_with("425 ") && said.contains("vrl.server.passive_ports"),
        "{said}"
    );
    drop(taken);
    assert!(client.store("a.wav", b"x").await.starts_with("226"));
    // Its port is free again for the next.
    assert!(client.store("b.wav", b"x").await.starts_with("226"));
}

#[tokio::test]
async fn names_in_any_script_and_form_are_kept_as_they_are() {
    let primary = Primary::start(None).await;
    let mut client = Client::log_in(&primary).await;
    let names = [
        "\u{e9}.wav",
        "e\u{301}.wav",
        "a \"b\"; c=d.wav",
        "-l.wav",
        "録音.wav",
    ];
    for name in names {
        let stored = client
            .store(&format!(".{name}.part"), name.as_bytes())
            .await;
        assert!(stored.starts_with("226"), "{stored}");
        client.expect(&format!("RNFR .{name}.part"), 350).await;
        client.expect(&format!("RNTO {name}"), 250).await;
        client.expect(&format!("SIZE {name}"), 213).await;
    }
    assert_eq!(primary.files().len(), names.len());
    for (name, bytes) in primary.files() {
        assert_eq!(name.as_bytes(), bytes);
    }
    let mut listed = client.listing("NLST").await;
    listed.sort();
    let mut names = names.map(str::to_owned);
    names.sort();
    assert_eq!(listed, names);
}

#[tokio::test]
async fn it_stops_when_told_with_clients_connected() {
    let primary = Primary::start(None).await;
    let mut client = Client::log_in(&primary).await;
    primary.stop.cancel();
    assert_eq!(client.hear().await, "");
    assert!(TcpStream::connect(primary.address).await.is_err());
}

/// What `vmsync vrl hash-password` prints.
fn hashed_by_the_program(password: &str) -> String {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_vmsync"))
        .args(["vrl", "hash-password"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, format!("{password}\n").as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

#[tokio::test]
async fn the_password_file_may_hold_a_hash() {
    let hash = hashed_by_the_program(crate::support::PASSWORD);
    let primary = start_as("127.0.0.1:0", |config| {
        std::fs::write(&config.password_file, format!("{hash}\n")).unwrap();
    })
    .await;
    let mut client = Client::log_in(&primary).await;
    assert!(client.store("a.wav", b"x").await.starts_with("226"));
    let mut thief = Client::greet(&primary).await;
    thief.expect("USER vrl", 331).await;
    thief.expect(&format!("PASS {hash}"), 530).await;
}

#[test]
fn a_check_of_the_configuration_reads_the_password_files() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vrl.password");
    let path = dir.path().join("vmsync.toml").display().to_string();
    let pair = |role: &str, vrl: &str| {
        format!(
            r#"
            node = {{ id = "{role}", fqdn = "{role}.example.com", role = "{role}", data_dir = "data" }}
            pair = {{ mode = "single-active", peer = "other.example.com", peer_url = "http://other.example.com:8080", key_file = "k" }}
            http = {{ listen = "0.0.0.0:8080", tokens_file = "tokens" }}
            tls = {{ ca = "ca", cert = "cert", key = "key" }}
            {vrl}"#
        )
    };
    let primary = pair(
        "primary",
        r#"vrl.server = { listen = "0.0.0.0:21", user = "vrl", password_file = "vrl.password" }"#,
    );
    let secondary = pair(
        "secondary",
        r#"vrl = { remote_host = "a.example.com", ftp_user = "vrl", ftp_password_file = "vrl.password" }"#,
    );
    let hash = server::hash_password("geheim").unwrap();
    for (of, line, words) in [
        (&primary, "", Some("its first line is empty")),
        (&primary, "geheim", None),
        (&primary, &*hash, None),
        (
            &primary,
            &hash.replace("m=7168", "m=97168"),
            Some("m (KiB) = 97168"),
        ),
        (&primary, "$argon2id$v=19", Some("without salt")),
        (&secondary, "geheim", None),
        (
            &secondary,
            &*hash,
            Some("the secondary needs the password itself"),
        ),
    ] {
        std::fs::write(&file, format!("{line}\n")).unwrap();
        let config =
            vmsync_config::parse(of, &path, std::iter::empty()).unwrap_or_else(|e| panic!("{e}"));
        let said = vmsync::serve::check_files(&config).unwrap_err();
        let about: Vec<_> = said
            .lines()
            .filter(|l| l.contains("vrl.password"))
            .collect();
        match words {
            Some(words) => assert!(
                about.len() == 1 && about[0].contains(words),
                "{line}: {said}"
            ),
            None => assert!(about.is_empty(), "{line}: {said}"),
        }
        assert!(line.is_empty() || !said.contains(line), "{said}");
    }
}
