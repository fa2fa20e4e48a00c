//! An FTP client that says what it likes.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its part; a test fails by panicking"
)]

use std::time::Duration;

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::support::{PASSWORD, Primary};

/// A client that says what it likes.
pub struct Client {
    pub io: BufReader<TcpStream>,
    at: std::net::IpAddr,
}

impl Client {
    pub async fn greet(primary: &Primary) -> Self {
        let stream = TcpStream::connect(primary.address).await.unwrap();
        let mut client = Self {
            io: BufReader::new(stream),
            at: primary.address.ip(),
        };
        assert!(client.hear().await.starts_with("220 "));
        client
    }

    pub async fn log_in(primary: &Primary) -> Self {
        let mut client = Self::greet(primary).await;
        client.expect("USER vrl", 331).await;
        client.expect(&format!("PASS {PASSWORD}"), 230).await;
        client
    }

    pub async fn hear(&mut self) -> String {
        let mut line = String::new();
        timeout(Duration::from_secs(5), self.io.read_line(&mut line))
            .await
            .unwrap()
            .unwrap();
        line
    }

    pub async fn send(&mut self, command: &str) {
        self.send_bytes(format!("{command}\r\n").as_bytes()).await;
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.io.get_mut().write_all(bytes).await.unwrap();
    }

    pub async fn say(&mut self, command: &str) -> String {
        self.send(command).await;
        self.hear().await
    }

    pub async fn expect_within(&mut self, code: u16, limit: Duration) {
        let mut line = String::new();
        let heard = timeout(limit, self.io.read_line(&mut line)).await;
        heard.unwrap().unwrap();
        assert!(line.starts_with(&code.to_string()), "{line}");
    }

    pub async fn expect(&mut self, command: &str, code: u16) {
        let reply = self.say(command).await;
        assert!(reply.starts_with(&code.to_string()), "{command}: {reply}");
    }

    pub async fn data(&mut self) -> TcpStream {
        let reply = self.say("EPSV").await;
        let port = reply.split('|').nth(3).unwrap().parse().unwrap();
        TcpStream::connect((self.at, port)).await.unwrap()
    }

    /// STOR with these bytes; the final reply.
    pub async fn store(&mut self, name: &str, bytes: &[u8]) -> String {
        self.send_data(&format!("STOR {name}"), bytes).await
    }

    /// A command that takes these bytes; the final reply.
    pub async fn send_data(&mut self, command: &str, bytes: &[u8]) -> String {
        let mut data = self.data().await;
        let reply = self.say(command).await;
        if !reply.starts_with("150") {
            return reply;
        }
        let _ = data.write_all(bytes).await;
        let _ = data.shutdown().await;
        self.hear().await
    }

    /// A command that lists; its lines.
    pub async fn listing(&mut self, command: &str) -> Vec<String> {
        let mut data = self.data().await;
        self.expect(command, 150).await;
        let mut text = String::new();
        data.read_to_string(&mut text).await.unwrap();
        self.expect_within(226, Duration::from_secs(5)).await;
        text.split_terminator("\r\n").map(str::to_owned).collect()
    }
}
