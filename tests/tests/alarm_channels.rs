//! Alarms by every channel, between real nodes and real receivers: snmptrapd, rsyslog over UDP, TCP and TLS, a mail
//! server, and a receiver of webhooks (R-AL-1, R-FO-6).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a test says what failed by panicking"
)]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::process::{Child, Command};
use vmsync_tests::{
    mailhog::{Guard, MailHog, Options},
    pair::{Node, Pair, Ports, installed, run, soon, vmsync},
};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
/// What a failover of both systems and its failback tell, in order.
const STORY: [&str; 4] = [
    "raised headquarters",
    "raised branch",
    "cleared headquarters",
    "cleared branch",
];

/// Where the receivers listen; none does until it is started.
struct Receivers {
    dir: PathBuf,
    ports: Ports,
    running: Vec<Child>,
    mail: Option<MailHog>,
    hook: Hook,
}

/// What a receiver of webhooks has got.
#[derive(Clone, Default)]
struct Hook {
    seen: Arc<Mutex<Vec<Post>>>,
    /// So many tries of each are refused.
    refuse: usize,
}

/// One try.
#[derive(Clone)]
struct Post {
    id: String,
    body: Value,
    taken: bool,
}

impl Receivers {
    async fn laid_out(pair: &Pair) -> Self {
        let this = Self {
            dir: pair.dir().to_owned(),
            ports: Ports::reserve(),
            running: Vec::new(),
            mail: None,
            hook: Hook::default(),
        };
        let secret = format!("whsec_{}\n", STANDARD.encode(SECRET));
        for (name, content) in [
            ("community", "a-community\n"),
            ("auth", "an auth password\n"),
            ("priv", "a priv password\n"),
            ("hook", &secret),
        ] {
            pair.file(name, content);
        }
        let [mail, udp, tcp, tls, snmp, hook] = [0, 1, 2, 3, 4, 5].map(|n| this.ports.base + n);
        let dir = this.dir.display();
        let only = "codes = [\"voicemail_failover\"]";
        let syslog = |name: &str, port: u16| {
            format!(
                "[[alarms.syslog]]\nname = \"{name}\"\nserver = \"127.0.0.1\"\nport = {port}\ntransport = \"{name}\"\n{only}\n"
            )
        };
        let snmp = |name: &str, inform: bool, user: &str| {
            format!(
                "[[alarms.snmp]]\nname = \"{name}\"\nserver = \"127.0.0.1\"\nport = {snmp}\ninform = {inform}\n{user}\n{only}\n"
            )
        };
        let v2c = format!("version = \"2c\"\ncommunity_file = \"{dir}/community\"");
        let v3 = |name: &str, auth: &str| {
            format!(
                "user = \"{name}\"\nauth = \"{auth}\"\nauth_password_file = \"{dir}/auth\"\npriv_password_file = \"{dir}/priv\""
            )
        };
        let config = [
            format!(
                "[[smtp.sender]]\ndomain = \"example.com\"\nserver = \"127.0.0.1\"\nport = {mail}\n"
            ),
            format!("[[alarms.email]]\nname = \"noc\"\nto = [\"noc@example.com\"]\n{only}\n"),
            syslog("udp", udp),
            syslog("tcp", tcp),
            syslog("tls", tls),
            snmp("v2c-trap", false, &v2c),
            snmp("v2c-inform", true, &v2c),
            snmp("v3-sha256", false, &v3("ops", "sha256")),
            snmp("v3-sha1", false, &v3("old", "sha1")),
            snmp("v3-inform", true, &v3("ops", "sha256")),
            format!(
                "[[alarms.webhooks]]\nname = \"hook\"\nurl = \"http://127.0.0.1:{hook}/alarms?a=b\"\nsecret_file = \"{dir}/hook\"\n{only}\n"
            ),
        ];
        // The same on both: what is told twice would show.
        for node in pair.nodes() {
            node.configure_more(&config.concat());
        }
        this
    }

    fn port(&self, n: u16) -> u16 {
        self.ports.base + n
    }

    async fn start(&mut self, pair: &Pair) {
        let any = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let options = Options {
            smtp: any(self.port(0)),
            http: any(0),
            forward_to: None,
        };
        self.mail = Some(MailHog::guarded(options, Guard::default()).await.unwrap());
        self.rsyslog(pair);
        self.snmptrapd(pair);
        self.hook.serve(any(self.port(5))).await;
    }

    fn rsyslog(&mut self, pair: &Pair) {
        installed("rsyslogd");
        let dir = self.dir.display();
        let work = |name: &str| {
            let work = self.dir.join(format!("rsyslog-{name}"));
            std::fs::create_dir_all(&work).unwrap();
            work.display().to_string()
        };
        let (plain, secure) = (work("plain"), work("tls"));
        let format = r#"template(name="facts" type="string" string="%hostname%|%app-name%|%msgid%|%syslogfacility-text%.%syslogseverity-text%|%structured-data%|%msg%\n")"#;
        let rules = |name: &str| {
            format!(
                "ruleset(name=\"{name}\") {{ action(type=\"omfile\" file=\"{dir}/{name}.log\" template=\"facts\") }}\n"
            )
        };
        let (udp, tcp, tls) = (self.port(1), self.port(2), self.port(3));
        let config = format!(
            "global(workDirectory=\"{plain}\")\nmodule(load=\"imudp\")\nmodule(load=\"imtcp\")\n{format}\n{}{}\
             input(type=\"imudp\" address=\"127.0.0.1\" port=\"{udp}\" ruleset=\"udp\")\n\
             input(type=\"imtcp\" address=\"127.0.0.1\" port=\"{tcp}\" ruleset=\"tcp\")\n",
            rules("udp"),
            rules("tcp"),
        );
        let layout = pair.layout();
        let (ca, own) = (
            layout.join("pki/ca.pem"),
            layout.join("vmpro1/vmpro1.demo.example"),
        );
        let (ca, own) = (ca.display(), own.display());
        // The receiver asks who we are, and takes the backup alone.
        let secure = format!(
            "global(workDirectory=\"{secure}\" DefaultNetstreamDriverCAFile=\"{ca}\" DefaultNetstreamDriverCertFile=\"{own}.pem\" DefaultNetstreamDriverKeyFile=\"{own}.key\")\n\
             module(load=\"imtcp\" StreamDriver.Name=\"ossl\" StreamDriver.Mode=\"1\" StreamDriver.AuthMode=\"x509/name\" PermittedPeer=\"vmpro2.demo.example\")\n\
             {format}\n{}input(type=\"imtcp\" address=\"127.0.0.1\" port=\"{tls}\" ruleset=\"tls\")\n",
            rules("tls"),
        );
        for (name, config) in [("plain", config), ("tls", secure)] {
            let file = pair.file(&format!("rsyslog-{name}.conf"), config);
            let pid = self.dir.join(format!("rsyslog-{name}.pid"));
            let mut command = Command::new("rsyslogd");
            command.arg("-n").arg("-f").arg(file).arg("-i").arg(pid);
            self.spawn(command, &format!("rsyslog-{name}.out"));
        }
    }

    fn snmptrapd(&mut self, pair: &Pair) {
        installed("snmptrapd");
        // By the sender's engine for traps, and by its own for informs.
        let user = |engine: &str, name: &str, auth: &str| {
            format!(
                "createUser {engine} {name} {auth} \"an auth password\" AES \"a priv password\"\n"
            )
        };
        let engine = "-e 0x80007ed904766d70726f32";
        let config = [
            "authCommunity log a-community\nauthUser log ops priv\nauthUser log old priv\n"
                .to_owned(),
            user(engine, "ops", "SHA-256"),
            user(engine, "old", "SHA"),
            user("", "ops", "SHA-256"),
            "doNotLogTraps no\n".to_owned(),
            "format2 %P|%B|%#v\\n\n".to_owned(),
        ];
        let config = pair.file("snmptrapd.conf", config.concat());
        let state = self.dir.join("snmp");
        std::fs::create_dir_all(&state).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mibs = format!(
            "{}:{}",
            root.join("data/mibs").display(),
            root.join("../docs/mib").display()
        );
        let mut command = Command::new("snmptrapd");
        command
            .env("SNMP_PERSISTENT_DIR", &state)
            .env("SNMPCONFPATH", &state);
        command.args(["-f", "-C", "-t", "-n", "-c"]).arg(config);
        command
            .args(["-M", &mibs, "-m", "VMSYNC-MIB:SNMPv2-MIB", "-Lf"])
            .arg(self.dir.join("snmp.log"));
        command.arg("-p").arg(self.dir.join("snmptrapd.pid"));
        command.arg(format!("udp:127.0.0.1:{}", self.port(4)));
        self.spawn(command, "snmptrapd.out");
    }

    fn spawn(&mut self, mut command: Command, log: &str) {
        let log = std::fs::File::create(self.dir.join(log)).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.running
            .push(command.kill_on_drop(true).spawn().unwrap());
    }

    fn lines(&self, file: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        text.lines()
            .filter(|l| l.contains('|'))
            .map(str::to_owned)
            .collect()
    }

    /// What a channel's receiver was told, `word subject` each, in order.
    fn told(&self, channel: &str) -> Vec<String> {
        let between = |text: &str, from: &str, to: &str| {
            let rest = text.split_once(from).map_or("", |(_, rest)| rest);
            rest.split_once(to)
                .map_or("", |(found, _)| found)
                .to_owned()
        };
        match channel {
            "noc" => {
                let mut mails = self.mail.as_ref().map(MailHog::mails).unwrap_or_default();
                mails.reverse();
                let word = |m: &Arc<vmsync_tests::mailhog::Item>| {
                    let subject = m.header("Subject").unwrap_or_default();
                    subject
                        .replace("[vmsync vmpro2] ", "")
                        .replace(": voicemail_failover", "")
                };
                mails.iter().map(word).collect()
            }
            "udp" | "tcp" | "tls" => {
                let of = |line: &String| {
                    assert!(
                        line.starts_with("vmpro2.demo.example|vmsync|alarm-"),
                        "{line}"
                    );
                    let (word, subject) = (
                        between(line, "|alarm-", "|"),
                        between(line, " subject=\"", "\""),
                    );
                    format!("{word} {subject}")
                };
                self.lines(&format!("{channel}.log"))
                    .iter()
                    .map(of)
                    .collect()
            }
            "hook" => {
                let seen = self.hook.seen.lock().unwrap();
                let taken = seen.iter().filter(|p| p.taken);
                let word = |p: &Post| {
                    let kind = p.body["type"].as_str().unwrap().replace("alarm.", "");
                    format!("{kind} {}", p.body["data"]["subject"].as_str().unwrap())
                };
                taken.map(word).collect()
            }
            snmp => {
                let how = match snmp {
                    "v2c-trap" => "TRAP2, SNMP v2c, community a-community",
                    "v2c-inform" => "INFORM, SNMP v2c, community a-community",
                    "v3-sha256" => "TRAP2, SNMP v3, user ops",
                    "v3-sha1" => "TRAP2, SNMP v3, user old",
                    _ => "INFORM, SNMP v3, user ops",
                };
                let all = self.lines("snmp.log");
                let of = |line: &String| {
                    assert!(
                        line.contains("VMSYNC-MIB::vmsyncNode.0 = STRING: vmpro2"),
                        "{line}"
                    );
                    let word = between(line, "VMSYNC-MIB::vmsyncAlarm", ",").to_lowercase();
                    let word = word.split(['\t', ' ', '|']).next().unwrap().to_owned();
                    format!(
                        "{word} {}",
                        between(line, "vmsyncAlarmSubject.0 = STRING: ", ",")
                    )
                };
                all.iter().filter(|l| l.contains(how)).map(of).collect()
            }
        }
    }

    /// Waits until every channel's receiver was told `story`, in order and nothing twice.
    async fn all_told(&self, story: &[&str]) {
        for channel in CHANNELS {
            soon(&format!("{channel} to tell {story:?}"), async || {
                let told = self.told(channel);
                if told == story {
                    Ok(())
                } else {
                    Err(format!("{told:?}"))
                }
            })
            .await;
        }
    }
}

const CHANNELS: [&str; 10] = [
    "noc",
    "udp",
    "tcp",
    "tls",
    "v2c-trap",
    "v2c-inform",
    "v3-sha256",
    "v3-sha1",
    "v3-inform",
    "hook",
];

impl Hook {
    async fn serve(&self, address: SocketAddr) {
        async fn take(State(hook): State<Hook>, headers: HeaderMap, body: String) -> StatusCode {
            let header = |name| headers[name].to_str().unwrap().to_owned();
            let (id, at) = (header("webhook-id"), header("webhook-timestamp"));
            let signed = hmac(SECRET, format!("{id}.{at}.{body}").as_bytes());
            assert_eq!(
                header("webhook-signature"),
                format!("v1,{}", STANDARD.encode(signed))
            );
            let mut seen = hook.seen.lock().unwrap();
            let taken = seen.iter().filter(|p| p.id == id).count() >= hook.refuse;
            let body = serde_json::from_str(&body).unwrap();
            seen.push(Post { id, body, taken });
            if taken {
                StatusCode::NO_CONTENT
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let router = Router::new()
            .route("/alarms", post(take))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
    }
}

/// RFC 2104, by hand: a receiver shares no code with the sender.
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let pad = |with: u8| -> Vec<u8> {
        (0..64)
            .map(|n| key.get(n).copied().unwrap_or(0) ^ with)
            .collect()
    };
    let inner = Sha256::new()
        .chain_update(pad(0x36))
        .chain_update(text)
        .finalize();
    Sha256::new()
        .chain_update(pad(0x5c))
        .chain_update(inner)
        .finalize()
        .to_vec()
}

/// A failover of both systems and its failback, both nodes up.
async fn there_and_back(pair: &Pair) {
    for (action, body) in [
        ("activate-backup", json!({})),
        ("failback", json!({"force": true})),
    ] {
        let path = format!("/api/v1/groups/primary/{action}");
        pair.secondary.post(&path, &body).await.must_be(202);
        let owner = if action == "failback" {
            &pair.primary
        } else {
            &pair.secondary
        };
        pair.served_by(owner).await;
    }
}

async fn channels(node: &Node) -> Result<Vec<Value>, String> {
    let answer = node.try_get("/api/v1/alarms/channels").await?;
    Ok(answer["items"].as_array().cloned().unwrap_or_default())
}

async fn up(node: &Node, code: &str) -> Result<usize, String> {
    let alarms = node.try_get("/api/v1/alarms?active=true").await?;
    let items = alarms["items"].as_array().cloned().unwrap_or_default();
    Ok(items.iter().filter(|a| a["code"] == code).count())
}

async fn command(node: &Node, args: &[&str]) -> vmsync_tests::pair::Ended {
    let mut all = args.to_vec();
    all.extend(["--url", &node.http, "--token", &node.admin_token]);
    run(vmsync(), &all, Duration::from_secs(30)).await
}

#[tokio::test]
async fn a_failover_and_its_end_are_told_by_every_way_once() {
    let pair = Pair::laid_out().await;
    let mut receivers = Receivers::laid_out(&pair).await;
    receivers.start(&pair).await;
    pair.start_both().await;
    there_and_back(&pair).await;
    receivers.all_told(&STORY).await;
    // The home lists it, too, and tells nobody.
    let home = pair.primary.get("/api/v1/alarms").await;
    assert!(
        home["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|a| a["code"] == "voicemail_failover")
    );
    for channel in channels(&pair.primary).await.unwrap() {
        assert_eq!(channel["sent"], 0, "{channel}");
    }
    // What rsyslog made of it.
    let line = receivers.lines("tls.log")[0].clone();
    assert!(
        line.contains("|local0.crit|[vmsyncAlarm@32473 id="),
        "{line}"
    );
    assert!(
        line.contains("severity=\"critical\"") && line.contains("is served by vmpro2"),
        "{line}"
    );
    // The MIB's names, an enumeration's word, a date.
    let line = receivers.lines("snmp.log")[0].clone();
    assert!(
        line.contains("vmsyncAlarmSeverity.0 = INTEGER: critical(1)"),
        "{line}"
    );
    assert!(line.contains("vmsyncAlarmSince.0 = STRING: 20"), "{line}");
    let mails = receivers.mail.as_ref().unwrap().mails();
    assert_eq!(mails[0].header("Auto-Submitted"), Some("auto-generated"));

    // Tests, and what the command line says.
    for channel in CHANNELS {
        let ended = command(&pair.secondary, &["alarms", "test", channel])
            .await
            .well();
        assert!(ended.out.contains("a test alarm went to"), "{ended:?}");
    }
    let mut story = STORY.to_vec();
    let tests = CHANNELS.map(|c| format!("test {c}"));
    for (channel, test) in CHANNELS.iter().zip(&tests) {
        story.truncate(4);
        story.push(if *channel == "noc" {
            "test: test noc"
        } else {
            test
        });
        soon(&format!("{channel} to tell its test"), async || {
            let told = receivers.told(channel);
            if told == story {
                Ok(())
            } else {
                Err(format!("{told:?}"))
            }
        })
        .await;
    }
    let ended = command(&pair.secondary, &["alarms", "channels"])
        .await
        .well();
    assert!(
        CHANNELS.iter().all(|c| ended.out.contains(c)) && ended.out.contains("idle"),
        "{ended:?}"
    );
    let metrics = pair
        .secondary
        .request(reqwest::Method::GET, "/metrics")
        .send()
        .await
        .must_be(200)
        .text();
    let series = "vmsync_alarm_channel_sent_total{channel=\"hook\",kind=\"webhook\"} 4\n";
    assert!(metrics.contains(series), "{metrics}");
}

#[tokio::test]
async fn what_waits_while_nobody_listens_outlives_a_kill_and_comes_in_order_once() {
    let pair = Pair::laid_out().await;
    let mut receivers = Receivers::laid_out(&pair).await;
    pair.start_both().await;
    let node = &pair.secondary;
    there_and_back(&pair).await;
    soon("everything to wait", async || {
        let all = channels(node).await?;
        let waits = all
            .iter()
            .all(|c| c["queued"] == 4 && c["state"] == "failing" && c["last_error"].is_string());
        if waits && all.len() == CHANNELS.len() {
            Ok(())
        } else {
            Err(format!("{all:?}"))
        }
    })
    .await;
    soon("an alarm of each channel", async || {
        match up(node, "alarm_channel_down").await? {
            10 => Ok(()),
            n => Err(n.to_string()),
        }
    })
    .await;
    let ended = command(node, &["alarms", "test", "tcp"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended
            .out
            .contains("no test alarm could be sent to 127.0.0.1"),
        "{ended:?}"
    );
    // The writer is done by now.
    tokio::time::sleep(Duration::from_millis(500)).await;
    node.kill().await;
    node.start().await;
    for channel in channels(node).await.unwrap() {
        assert_eq!(channel["queued"], 4, "{channel}");
    }
    receivers.start(&pair).await;
    receivers.all_told(&STORY).await;
    soon("the alarms of the channels to end", async || {
        match up(node, "alarm_channel_down").await? {
            0 => Ok(()),
            n => Err(n.to_string()),
        }
    })
    .await;
    // In order and once, also after another restart.
    node.stop().await;
    node.start().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    receivers.all_told(&STORY).await;
}

#[tokio::test]
async fn a_webhook_that_is_refused_is_tried_again_before_the_next_with_the_same_id() {
    let pair = Pair::laid_out().await;
    let ports = Ports::reserve();
    let secret = pair.file("hook", format!("whsec_{}\n", STANDARD.encode(SECRET)));
    pair.secondary.configure_more(&format!(
        "[[alarms.webhooks]]\nname = \"hook\"\nurl = \"http://127.0.0.1:{}/alarms\"\nsecret_file = \"{}\"\nevents = [\"ownership\"]\ncodes = [\"voicemail_failover\"]\n",
        ports.base,
        secret.display()
    ));
    let hook = Hook {
        refuse: 2,
        ..Hook::default()
    };
    hook.serve(SocketAddr::from(([127, 0, 0, 1], ports.base)))
        .await;
    pair.start_both().await;
    there_and_back(&pair).await;
    let expected = 1 + 2 + 4;
    let seen = soon("everything to be posted", async || {
        let seen = hook.seen.lock().unwrap().clone();
        let taken = seen.iter().filter(|p| p.taken).count();
        if taken >= expected {
            Ok(seen)
        } else {
            Err(format!(
                "{taken} taken: {:?}",
                seen.iter().map(|p| &p.body["type"]).collect::<Vec<_>>()
            ))
        }
    })
    .await;
    // Each three times in a row, the last of which is taken; never the next before.
    for tries in seen.chunks(3) {
        assert_eq!(
            tries.iter().map(|t| t.taken).collect::<Vec<_>>(),
            [false, false, true]
        );
        assert!(
            tries
                .iter()
                .all(|t| t.id == tries[0].id && t.body == tries[0].body)
        );
    }
    let kinds: Vec<_> = seen
        .iter()
        .filter(|p| p.taken)
        .map(|p| p.body["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "started",
            "ownership",
            "alarm.raised",
            "alarm.raised",
            "ownership",
            "alarm.cleared",
            "alarm.cleared"
        ]
    );
    let owners: Vec<_> = seen
        .iter()
        .filter(|p| p.taken && p.body["type"] == "ownership")
        .collect();
    assert_eq!(
        (
            &owners[0].body["data"]["owner"],
            &owners[1].body["data"]["owner"]
        ),
        (&json!("vmpro2"), &json!("vmpro1"))
    );
    assert!(owners[0].body["data"]["epoch"].as_u64() < owners[1].body["data"]["epoch"].as_u64());
    let sequence: Vec<_> = seen
        .iter()
        .filter(|p| p.taken)
        .map(|p| p.body["sequence"].as_u64().unwrap())
        .collect();
    assert!(sequence.is_sorted_by(|a, b| a < b), "{sequence:?}");
}

#[tokio::test]
async fn a_secret_that_is_none_is_said_at_the_start() {
    let pair = Pair::laid_out().await;
    let secret = pair.file("hook", "short\n");
    pair.secondary.configure_more(&format!(
        "[[alarms.webhooks]]\nname = \"hook\"\nurl = \"http://127.0.0.1:9/\"\nsecret_file = \"{}\"\n\
         [[alarms.snmp]]\nname = \"nms\"\nserver = \"127.0.0.1\"\nuser = \"ops\"\nauth_password_file = \"{}\"\n",
        secret.display(),
        secret.display()
    ));
    let ended = pair.secondary.fails_to_start().await;
    assert!(
        ended.err.contains("whsec_") && ended.err.contains("fewer than 8 characters"),
        "{ended:?}"
    );
    assert!(!ended.err.contains("short\n"), "{ended:?}");
}
