//! Syslog over TLS through a line that is cut in the middle of a message.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use vmsync_tests::pair::{Pair, Ports, soon};

use crate::{channel, command, maintenance, receivers::rsyslog_tls};

/// Carries connections to a receiver, each until the client has sent `most` bytes; then both ends are reset.
#[derive(Clone)]
struct Line {
    most: Arc<AtomicUsize>,
    /// Bytes of the last connection from the client.
    carried: Arc<AtomicUsize>,
    cuts: Arc<AtomicUsize>,
}

impl Line {
    async fn to(receiver: SocketAddr) -> (Self, u16) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let line = Self {
            most: Arc::new(AtomicUsize::new(usize::MAX)),
            carried: Arc::default(),
            cuts: Arc::default(),
        };
        let ours = line.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let line = ours.clone();
                tokio::spawn(async move { line.carry(client, receiver).await });
            }
        });
        (line, port)
    }

    async fn carry(&self, mut client: TcpStream, receiver: SocketAddr) {
        let Ok(mut server) = TcpStream::connect(receiver).await else {
            return;
        };
        let (mut sent, most) = (0, self.most.load(Ordering::SeqCst));
        let (mut out, mut back) = ([0; 64], [0; 4096]);
        let (mut client_open, mut server_open) = (true, true);
        while client_open || server_open {
            tokio::select! {
                read = client.read(&mut out), if client_open => match read {
                    Ok(n) if n > 0 => {
                        sent += n;
                        self.carried.store(sent, Ordering::SeqCst);
                        if sent >= most {
                            self.cuts.fetch_add(1, Ordering::SeqCst);
                            for end in [&client, &server] {
                                let _ = end.set_zero_linger();
                            }
                            return;
                        }
                        if server.write_all(&out[..n]).await.is_err() {
                            return;
                        }
                    }
                    _ => {
                        client_open = false;
                        let _ = server.shutdown().await;
                    }
                },
                read = server.read(&mut back), if server_open => match read {
                    Ok(n) if n > 0 => if client.write_all(&back[..n]).await.is_err() {
                        return;
                    },
                    _ => {
                        server_open = false;
                        let _ = client.shutdown().await;
                    }
                },
            }
        }
    }
}

#[tokio::test]
async fn a_cut_in_the_middle_of_a_message_over_tls_repeats_it_whole() {
    let pair = Pair::laid_out().await;
    let ports = Ports::reserve();
    let (_rsyslog, log) = rsyslog_tls(&pair, ports.base);
    let (line, port) = Line::to(SocketAddr::from(([127, 0, 0, 1], ports.base))).await;
    let node = &pair.secondary;
    node.configure_more(&format!(
        "[[alarms.syslog]]\nname = \"log\"\nserver = \"127.0.0.1\"\nport = {port}\ntransport = \"tls\"\ncodes = [\"maintenance\"]\n"
    ));
    pair.start_both().await;
    let lines = || -> Vec<String> {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let id = |line: &str| line.split('|').nth(2).unwrap_or_default().to_owned();
        text.lines().map(id).collect()
    };
    // How much a whole message takes.
    soon("rsyslog to listen", async || {
        let test = command(node, &["alarms", "test", "log"]).await;
        if test.code == Some(0) {
            Ok(())
        } else {
            Err(test.out)
        }
    })
    .await;
    let whole = line.carried.load(Ordering::SeqCst);
    soon("the test", async || {
        if lines() == ["alarm-test"] {
            Ok(())
        } else {
            Err(format!("{:?}", lines()))
        }
    })
    .await;

    // In the message, and in the handshake.
    for most in [whole - 200, 300] {
        line.most.store(most, Ordering::SeqCst);
        let before = line.cuts.load(Ordering::SeqCst);
        if most != 300 {
            maintenance(node, true).await;
        }
        soon("it to be cut off", async || {
            let stands = channel(node, "log").await?;
            let cut = line.cuts.load(Ordering::SeqCst) > before + 1;
            if cut && stands["state"] == "failing" && stands["queued"] == 1 {
                Ok(())
            } else {
                Err(stands.to_string())
            }
        })
        .await;
    }
    assert_eq!(lines(), ["alarm-test"], "half a message is none");
    line.most.store(usize::MAX, Ordering::SeqCst);
    soon("the message", async || {
        if lines().len() > 1 {
            Ok(())
        } else {
            Err("nothing".to_owned())
        }
    })
    .await;
    maintenance(node, false).await;
    soon("the end", async || {
        if lines() == ["alarm-test", "alarm-raised", "alarm-cleared"] {
            Ok(())
        } else {
            Err(format!("{:?}", lines()))
        }
    })
    .await;
    assert_eq!(channel(node, "log").await.unwrap()["state"], "idle");
}
