//! The second sign of life: the greeting of the peer's SMTP receiver (RFC 5321 section 3.1).
//!
//! Asked for as often as heartbeats are, on a connection of its own that sends nothing but QUIT. It
//! counts when the greeting names the peer (section 4.3.1), so that whatever answers in its place
//! does not; 421, "too busy", counts too, for that was said by a living receiver.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;
use vmsync_config::{Config, words::Now};

use crate::clock;

/// Longest reply line (RFC 5321 section 4.5.3.1.5).
const LINE: usize = 512;

/// One greeting, or why there was none.
pub(super) struct Greeted {
    pub(super) at: Now,
    pub(super) result: Result<(), String>,
}

/// How the peer's receiver is asked.
pub(super) struct Greeter {
    server: String,
    port: u16,
    /// The peer's name, which it must greet with.
    name: String,
    every: Duration,
    limit: Duration,
    out: mpsc::Sender<Greeted>,
}

impl Greeter {
    /// Asks where mails to the peer go. `None` without an entry for it.
    pub(super) fn new(
        config: &Config,
        limit: Duration,
        out: mpsc::Sender<Greeted>,
    ) -> Option<Self> {
        let entry = config.senders.first()?;
        Some(Self {
            server: entry.server.clone(),
            port: entry.port,
            name: config.pair.peer.to_string(),
            every: config.pair.heartbeat,
            limit,
            out,
        })
    }

    /// Asks until stopped, one question at a time.
    pub(super) async fn run(self, stop: CancellationToken) {
        loop {
            let begun = clock::now().mono;
            let greeting = tokio::time::timeout(self.limit, self.greeting());
            let result = tokio::select! {
                () = stop.cancelled() => return,
                result = greeting => result.unwrap_or_else(|_| Err("no greeting in time".to_owned())),
            };
            let at = clock::now();
            if self.out.send(Greeted { at, result }).await.is_err() {
                return;
            }
            let rest = self.every.saturating_sub(at.mono.saturating_sub(begun));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(rest) => {}
            }
        }
    }

    async fn greeting(&self) -> Result<(), String> {
        let at = (self.server.as_str(), self.port);
        let unreachable = |e: std::io::Error| format!("{}:{}: {e}", self.server, self.port);
        let mut connection = TcpStream::connect(at).await.map_err(unreachable)?;
        let mut line = Vec::with_capacity(LINE);
        while !line.contains(&b'\n') {
            let mut some = [0; LINE];
            let n = connection.read(&mut some).await.map_err(unreachable)?;
            if n == 0 || line.len() + n > LINE {
                break;
            }
            line.extend_from_slice(&some[..n]);
        }
        judge(&line, &self.name)?;
        // A courtesy; the greeting is all that was wanted.
        let _ = connection.write_all(b"QUIT\r\n").await;
        Ok(())
    }
}

/// Whether `line` is a greeting of the server `name`.
fn judge(line: &[u8], name: &str) -> Result<(), String> {
    let text = String::from_utf8_lossy(line);
    let text = text.lines().next().unwrap_or_default();
    let mut words = text.splitn(2, [' ', '-']);
    let code = words.next().unwrap_or_default();
    if !matches!(code, "220" | "421") {
        return Err(if text.is_empty() {
            "it closes the connection without a greeting".to_owned()
        } else {
            format!(
                "it greets with {:?}",
                text.chars().take(80).collect::<String>()
            )
        });
    }
    let named = words.next().and_then(|rest| rest.split_whitespace().next());
    if named.is_some_and(|n| n.eq_ignore_ascii_case(name)) {
        Ok(())
    } else {
        Err(format!(
            "the server there greets as {:?}, not as {name}",
            named.unwrap_or_default()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::judge;

    #[test]
    fn a_greeting_counts_when_the_peer_gives_it_in_its_own_name() {
        let table = [
            ("220 vmpro2.example.com ESMTP vmsync\r\n", true),
            ("220-VMPRO2.example.com waits\r\n", true),
            ("421 vmpro2.example.com too many connections\r\n", true),
            ("220 relay.example.com ESMTP\r\n", false),
            ("554 vmpro2.example.com no\r\n", false),
            ("220\r\n", false),
            ("", false),
            ("HTTP/1.1 400 Bad Request\r\n", false),
        ];
        for (line, counts) in table {
            let judged = judge(line.as_bytes(), "vmpro2.example.com");
            assert_eq!(judged.is_ok(), counts, "{line:?}: {judged:?}");
        }
    }
}
