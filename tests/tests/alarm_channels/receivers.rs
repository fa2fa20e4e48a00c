//! The receivers of a pair's channels: snmptrapd, rsyslog, a mail server, and one of webhooks.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use tokio::process::{Child, Command};
use vmsync_tests::{
    mailhog::{Guard, Item, MailHog, Options},
    pair::{Pair, Ports, installed, soon},
};

use crate::hook::{Hook, Post, secret_line};

/// One of each way.
pub(crate) const CHANNELS: [&str; 10] = [
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

/// Where the receivers listen; none does until it is started.
pub(crate) struct Receivers {
    dir: PathBuf,
    ports: Ports,
    running: Vec<Child>,
    pub(crate) mail: Option<MailHog>,
    hook: Hook,
}

impl Receivers {
    pub(crate) fn laid_out(pair: &Pair) -> Self {
        let this = Self {
            dir: pair.dir().to_owned(),
            ports: Ports::reserve(),
            running: Vec::new(),
            mail: None,
            hook: Hook::default(),
        };
        let secret = secret_line();
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
        let only = "codes = [\"voicemail_failover\", \"phones_failover\"]";
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

    pub(crate) async fn start(&mut self, pair: &Pair) {
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
        let dir = self.dir.display();
        let (udp, tcp) = (self.port(1), self.port(2));
        let config = format!(
            "module(load=\"imudp\")\nmodule(load=\"imtcp\")\n{FORMAT}\n{}{}\
             input(type=\"imudp\" address=\"127.0.0.1\" port=\"{udp}\" ruleset=\"udp\")\n\
             input(type=\"imtcp\" address=\"127.0.0.1\" port=\"{tcp}\" ruleset=\"tcp\")\n",
            ruleset(&dir, "udp"),
            ruleset(&dir, "tcp"),
        );
        let (child, _) = run_rsyslog(pair, "plain", &config);
        self.running.push(child);
        let (child, _) = rsyslog_tls(pair, self.port(3));
        self.running.push(child);
    }

    fn snmptrapd(&mut self, pair: &Pair) {
        installed("snmptrapd");
        // By the sender's engine for traps, and by its own for informs.
        let user = |engine: &str, name: &str, auth: &str| {
            format!(
                "createUser {engine} {name} {auth} \"an auth password\" AES \"a priv password\"\n"
            )
        };
        let [one, two] = ["-e 0x80007ed904766d70726f31", "-e 0x80007ed904766d70726f32"];
        let config = [
            "authCommunity log a-community\nauthUser log ops priv\nauthUser log old priv\n"
                .to_owned(),
            user(one, "ops", "SHA-256"),
            user(one, "old", "SHA"),
            user(two, "ops", "SHA-256"),
            user(two, "old", "SHA"),
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
        self.running
            .push(spawn(command, &self.dir.join("snmptrapd.out")));
    }

    pub(crate) fn lines(&self, file: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        text.lines()
            .filter(|l| l.contains('|'))
            .map(str::to_owned)
            .collect()
    }

    /// What a channel's receiver was told by `node`, in order: `raised branch` of voicemail, `raised phones of branch`.
    pub(crate) fn told(&self, channel: &str, node: &str) -> Vec<String> {
        let all = match channel {
            "noc" => self.mailed(),
            "udp" | "tcp" | "tls" => self.logged(channel),
            "hook" => self.posted(),
            snmp => self.trapped(snmp),
        };
        let of_node = all.into_iter().filter(|told| told.node == node);
        of_node
            .map(|told| match told.code.as_str() {
                "phones_failover" => format!("{} phones of {}", told.word, told.subject),
                _ => format!("{} {}", told.word, told.subject),
            })
            .collect()
    }

    fn mailed(&self) -> Vec<Told> {
        let mails = self.mail.as_ref().map(MailHog::mails).unwrap_or_default();
        let told = |mail: &Arc<Item>| {
            let subject = mail.header("Subject").unwrap_or_default();
            // [vmsync vmpro2] raised: voicemail_failover branch
            let words: Vec<_> = subject.split_whitespace().collect();
            assert_eq!(words[0], "[vmsync", "{subject}");
            Told {
                node: words[1].trim_end_matches(']').to_owned(),
                word: words[2].trim_end_matches(':').to_owned(),
                code: words[3].to_owned(),
                subject: words[4].to_owned(),
            }
        };
        mails.iter().rev().map(told).collect()
    }

    fn logged(&self, channel: &str) -> Vec<Told> {
        let told = |line: &String| {
            let (host, rest) = line.split_once(".demo.example|vmsync|alarm-").unwrap();
            Told {
                node: host.to_owned(),
                word: rest.split('|').next().unwrap().to_owned(),
                code: between(line, " code=\"", "\"").to_owned(),
                subject: between(line, " subject=\"", "\"").to_owned(),
            }
        };
        let lines = self.lines(&format!("{channel}.log"));
        lines.iter().map(told).collect()
    }

    fn posted(&self) -> Vec<Told> {
        let seen = self.hook.seen.lock().unwrap();
        let taken = seen.iter().filter(|p| p.taken);
        let told = |post: &Post| {
            let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
            Told {
                node: text(&post.body["node"]),
                word: text(&post.body["type"]).replace("alarm.", ""),
                code: text(&post.body["data"]["code"]),
                subject: text(&post.body["data"]["subject"]),
            }
        };
        taken.map(told).collect()
    }

    fn trapped(&self, channel: &str) -> Vec<Told> {
        let how = match channel {
            "v2c-trap" => "TRAP2, SNMP v2c, community a-community",
            "v2c-inform" => "INFORM, SNMP v2c, community a-community",
            "v3-sha256" => "TRAP2, SNMP v3, user ops",
            "v3-sha1" => "TRAP2, SNMP v3, user old",
            _ => "INFORM, SNMP v3, user ops",
        };
        let told = |line: &String| {
            let word = between(line, "VMSYNC-MIB::vmsyncAlarm", ",").to_lowercase();
            let of = |object: &str| {
                between(line, &format!("VMSYNC-MIB::{object}.0 = STRING: "), ",").to_owned()
            };
            Told {
                node: of("vmsyncNode"),
                word: word.split(['\t', ' ', '|']).next().unwrap().to_owned(),
                code: of("vmsyncAlarmCode"),
                subject: of("vmsyncAlarmSubject"),
            }
        };
        let lines = self.lines("snmp.log");
        lines.iter().filter(|l| l.contains(how)).map(told).collect()
    }

    /// Waits until every channel's receiver was told `story` by `node`, in order and nothing twice.
    pub(crate) async fn all_told(&self, node: &str, story: &[&str]) {
        for channel in CHANNELS {
            self.channel_told(channel, node, story).await;
        }
    }

    /// The same of one channel.
    pub(crate) async fn channel_told(&self, channel: &str, node: &str, story: &[&str]) {
        soon(&format!("{channel} to tell {story:?}"), async || {
            let told = self.told(channel, node);
            if told == story {
                Ok(())
            } else {
                Err(format!("{told:?}"))
            }
        })
        .await;
    }
}

/// What rsyslog writes of a message.
const FORMAT: &str = r#"template(name="facts" type="string" string="%hostname%|%app-name%|%msgid%|%syslogfacility-text%.%syslogseverity-text%|%structured-data%|%msg%\n")"#;

fn ruleset(dir: &std::path::Display<'_>, name: &str) -> String {
    format!(
        "ruleset(name=\"{name}\") {{ action(type=\"omfile\" file=\"{dir}/{name}.log\" template=\"facts\") }}\n"
    )
}

/// rsyslog over TLS on `port`, which asks who we are, and takes the pair alone; and the file it writes.
pub(crate) fn rsyslog_tls(pair: &Pair, port: u16) -> (Child, PathBuf) {
    let layout = pair.layout();
    let (ca, own) = (
        layout.join("pki/ca.pem"),
        layout.join("vmpro1/vmpro1.demo.example"),
    );
    let (ca, own, dir) = (ca.display(), own.display(), pair.dir().display());
    let config = format!(
        "global(DefaultNetstreamDriverCAFile=\"{ca}\" DefaultNetstreamDriverCertFile=\"{own}.pem\" DefaultNetstreamDriverKeyFile=\"{own}.key\")\n\
         module(load=\"imtcp\" StreamDriver.Name=\"ossl\" StreamDriver.Mode=\"1\" StreamDriver.AuthMode=\"x509/name\" PermittedPeer=[\"vmpro1.demo.example\",\"vmpro2.demo.example\"])\n\
         {FORMAT}\n{}input(type=\"imtcp\" address=\"127.0.0.1\" port=\"{port}\" ruleset=\"tls\")\n",
        ruleset(&dir, "tls"),
    );
    run_rsyslog(pair, "tls", &config)
}

fn run_rsyslog(pair: &Pair, name: &str, config: &str) -> (Child, PathBuf) {
    installed("rsyslogd");
    let dir = pair.dir();
    let work = dir.join(format!("rsyslog-{name}"));
    std::fs::create_dir_all(&work).unwrap();
    let config = format!("global(workDirectory=\"{}\")\n{config}", work.display());
    let config = pair.file(&format!("rsyslog-{name}.conf"), config);
    let pid = dir.join(format!("rsyslog-{name}.pid"));
    let mut command = Command::new("rsyslogd");
    command.arg("-n").arg("-f").arg(config).arg("-i").arg(pid);
    let child = spawn(command, &dir.join(format!("rsyslog-{name}.out")));
    (child, dir.join(format!("{name}.log")))
}

/// Runs until it is dropped; what it says goes to `log`.
fn spawn(mut command: Command, log: &Path) -> Child {
    let log = std::fs::File::create(log).unwrap();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    command.kill_on_drop(true).spawn().unwrap()
}

/// One notice as a receiver has it.
struct Told {
    node: String,
    word: String,
    code: String,
    subject: String,
}

fn between<'t>(text: &'t str, from: &str, to: &str) -> &'t str {
    let rest = text.split_once(from).map_or("", |(_, rest)| rest);
    rest.split_once(to).map_or(rest, |(found, _)| found)
}
