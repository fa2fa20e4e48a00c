//! The FTP server as a stranger, a clumsy client and a broken one meet it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "vrl_support/client.rs"]
mod client;
mod vrl_support;

use std::time::Duration;

use client::Client;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};
use vmsync::vrl::server::{ServerOptions, ServerTls};
use vrl_support::{Pki, Primary, until};

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
        .expect(&format!("CWD {}", vrl_support::LOCATION), 250)
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
    client.store("b.wav", b"22").await;
    client.store("a.wav", b"1").await;
    client.store("c.part", b"333").await;
    let mut data = client.data().await;
    client.expect("NLST", 150).await;
    let mut names = String::new();
    data.read_to_string(&mut names).await.unwrap();
    assert_eq!(names, "a.wav\r\nb.wav\r\n");
    assert!(client.hear().await.starts_with("226"));
}

#[tokio::test]
async fn it_stops_when_told_with_clients_connected() {
    let primary = Primary::start(None).await;
    let mut client = Client::log_in(&primary).await;
    primary.stop.cancel();
    assert_eq!(client.hear().await, "");
    assert!(TcpStream::connect(primary.address).await.is_err());
}
