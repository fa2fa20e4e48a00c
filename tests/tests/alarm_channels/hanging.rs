//! Receivers that take a connection and never answer: no decision waits for them.

use std::{
    net::{Ipv4Addr, TcpListener, UdpSocket},
    time::Duration,
};

use serde_json::Value;
use vmsync_config::words::UnixMillis;
use vmsync_tests::pair::{Pair, soon};

use crate::{channels, hook::secret_line, maintenance};

/// Sockets that the system accepts connections and datagrams for, and that nobody reads.
struct Silent {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Silent {
    fn new() -> Self {
        Self {
            tcp: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
            udp: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
        }
    }

    /// Every kind of channel, each to one of them.
    fn channels(&self, pair: &Pair) -> String {
        let [tcp, udp] = [
            self.tcp.local_addr().unwrap().port(),
            self.udp.local_addr().unwrap().port(),
        ];
        for (name, text) in [
            ("community", "a-community\n"),
            ("auth", "an auth password\n"),
            ("hook", &secret_line()),
        ] {
            pair.file(name, text);
        }
        let dir = pair.dir().display();
        let syslog = |way: &str| {
            format!(
                "[[alarms.syslog]]\nname = \"{way}\"\nserver = \"127.0.0.1\"\nport = {tcp}\ntransport = \"{way}\"\n"
            )
        };
        let inform = |name: &str, who: &str| {
            format!(
                "[[alarms.snmp]]\nname = \"{name}\"\nserver = \"127.0.0.1\"\nport = {udp}\ninform = true\n{who}\n"
            )
        };
        let hook = |scheme: &str| {
            format!(
                "[[alarms.webhooks]]\nname = \"{scheme}\"\nurl = \"{scheme}://127.0.0.1:{tcp}/\"\nsecret_file = \"{dir}/hook\"\nevents = [\"ownership\", \"phase\"]\n"
            )
        };
        [
            format!(
                "[[smtp.sender]]\ndomain = \"example.com\"\nserver = \"127.0.0.1\"\nport = {tcp}\n"
            ),
            "[[alarms.email]]\nname = \"mail\"\nto = [\"noc@example.com\"]\n".to_owned(),
            syslog("tcp"),
            syslog("tls"),
            inform(
                "v2c",
                &format!("version = \"2c\"\ncommunity_file = \"{dir}/community\""),
            ),
            inform(
                "v3",
                &format!("user = \"ops\"\nauth_password_file = \"{dir}/auth\""),
            ),
            hook("http"),
            hook("https"),
        ]
        .concat()
    }
}

/// Kills the home; how many milliseconds after the configured time its backup takes over.
async fn lateness(pair: &Pair) -> i64 {
    pair.primary.kill().await;
    let status = pair.secondary.names_owner(&pair.secondary).await;
    let time = |value: &Value| {
        let at: UnixMillis = value.as_str().unwrap().parse().unwrap();
        i64::try_from(at.0).unwrap()
    };
    // As `fails_over_quickly` has it: out of sight after 600 ms, and a second more.
    time(&status["groups"][0]["since"]) - time(&status["peer"]["last_seen"]) - 1_600
}

async fn with_silent_receivers() -> i64 {
    let pair = Pair::laid_out().await;
    let silent = Silent::new();
    pair.fails_over_quickly();
    let node = &pair.secondary;
    node.configure_more(&silent.channels(&pair));
    pair.start_both().await;
    // Each hangs with this, while the home is lost.
    maintenance(node, true).await;
    maintenance(node, false).await;
    soon("something to wait for each", async || {
        let all = channels(node).await?;
        let waits = all
            .iter()
            .all(|c| c["queued"].as_u64() > Some(1) && c["sent"] == 0);
        if waits && all.len() == 7 {
            Ok(())
        } else {
            Err(format!("{all:?}"))
        }
    })
    .await;
    let late = lateness(&pair).await;
    let mut all = channels(node).await.unwrap();
    // Plain syslog knows no answer: who takes the connection has it after a while.
    all.retain(|c| c["name"] != "tcp");
    assert!(all.iter().all(|c| c["sent"] == 0), "they do hang: {all:?}");
    late
}

async fn without_channels() -> i64 {
    let pair = Pair::laid_out().await;
    pair.fails_over_quickly();
    pair.start_both().await;
    lateness(&pair).await
}

#[tokio::test]
async fn receivers_that_never_answer_delay_no_failover() {
    let (with, without) = tokio::join!(with_silent_receivers(), without_channels());
    println!("decided {with} ms late with seven channels that hang, {without} ms without channels");
    // Each try hangs for 10 s and more: the machine may be busy, a wait for a channel would be longer.
    let allowed = i64::try_from(Duration::from_secs(5).as_millis()).unwrap();
    assert!(with < allowed, "{with} ms; {without} ms without");
}
