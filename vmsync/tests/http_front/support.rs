//! A node's HTTP front for tests: store in a temporary folder, listener on loopback, stand-in loop.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use reqwest::{Method, RequestBuilder, Response, StatusCode, redirect::Policy};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use vmsync::{
    alarms::Alarms,
    app::{
        App, CertificateAnswer, Guard, LeftOut, NodeHandle, OneSidedAnswer, Outcome, Refused,
        SeenPhone,
    },
    calls::Calls,
    clock,
    events::EventHub,
    http::{self, Patience},
    keys::Tokens,
    node::{Command, OneSided},
    status::Status,
};
use vmsync_config::{
    Config,
    words::{Extension, GroupName, Vector},
};
use vmsync_core::{
    resilience::{Ownership, Serving},
    wire::Keys,
};
use vmsync_store::{Options, Store, model::MailboxPatch};

pub(crate) const ADMIN: &str = "admin-token-0123456789abcdef0123456789";
pub(crate) const READ: &str = "read-token-0123456789abcdef01234567890";

/// A node under test; stops when dropped.
pub(crate) struct Node {
    pub(crate) url: String,
    pub(crate) app: Arc<App>,
    pub(crate) http: reqwest::Client,
    /// What operators asked of the loop.
    pub(crate) asked: Arc<Mutex<Vec<Guard>>>,
    status: watch::Sender<Arc<Status>>,
    serving: watch::Sender<Arc<Vec<(GroupName, Serving)>>>,
    pub(crate) stop: CancellationToken,
    pub(crate) served: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Node {
    /// vmpro1, the primary of a single-active pair, which serves.
    pub(crate) async fn start() -> Self {
        Self::with("", |_| ()).await
    }

    /// The same with more lines of configuration, and with `change` applied to the result.
    pub(crate) async fn with(more: &str, change: impl FnOnce(&mut Config)) -> Self {
        Self::with_patience(more, change, Patience::default()).await
    }

    pub(crate) async fn with_patience(
        more: &str,
        change: impl FnOnce(&mut Config),
        patience: Patience,
    ) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(more, dir.path());
        change(&mut config);
        let store = Store::open(
            &config.node.data_dir,
            Options {
                node: config.node.id.clone(),
                min_free_bytes: 0,
                clock: clock::wall,
            },
        )
        .unwrap();
        let (commands, asked_of_loop) = mpsc::channel(16);
        let (status, status_seen) = watch::channel(Arc::new(status()));
        let group = GroupName::new("primary").unwrap();
        let (serving, serving_seen) = watch::channel(Arc::new(vec![(group, Serving::Yes)]));
        let changed = Arc::new(Notify::new());
        let events = EventHub::new();
        let app = Arc::new(App {
            topology: vmsync::topology::TopologyCell::new(&config),
            tokens: Tokens::parse(&format!("admin {ADMIN}\nread {READ}\n")).unwrap(),
            keys: Keys::parse(&"0123456789abcdef".repeat(4)).unwrap(),
            node: NodeHandle::new(
                1,
                commands,
                status_seen,
                serving_seen,
                Arc::clone(&changed),
                watch::channel(Vector::default()).1,
                watch::channel(None).1,
            ),
            calls: Calls::new(events.clone(), changed, config.node.id.clone()),
            alarms: Alarms::load(store.clone(), events.clone()).unwrap(),
            rights: vmsync::rights::RightsBook::load(&store, &config).unwrap(),
            features: vmsync::features::Features::load(&store, &config, clock::now()).unwrap(),
            events,
            vrl: None,
            vrl_board: vmsync::vrl::Board::default(),
            delivery: vmsync::delivery::Board::new(&config),
            smtp_refusals: Arc::default(),
            store,
            config,
        });
        let asked = Arc::default();
        tokio::spawn(play_loop(
            asked_of_loop,
            status.subscribe(),
            Arc::clone(&asked),
        ));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let connections = app.config.limits.http_connections;
        let router = http::router(Arc::clone(&app));
        let served = http::serve_router(listener, router, connections, patience, stop.clone());
        let served = Some(tokio::spawn(served));
        let http = reqwest::Client::builder()
            .redirect(Policy::none())
            .timeout(Duration::from_secs(20))
            .no_proxy()
            .build()
            .unwrap();
        Self {
            url,
            app,
            http,
            asked,
            status,
            serving,
            stop,
            served,
            _dir: dir,
        }
    }

    /// Changes what the loop publishes.
    pub(crate) fn status(&self, change: impl FnOnce(&mut Status)) {
        self.status
            .send_modify(|status| change(Arc::make_mut(status)));
    }

    /// Changes who serves the group.
    pub(crate) fn serving(&self, serving: Serving) {
        self.serving
            .send_modify(|table| Arc::make_mut(table)[0].1 = serving);
    }

    /// The other node serves.
    pub(crate) fn standing_by(&self) {
        self.serving(Serving::No {
            owner: self.app.config.pair.peer_id.clone(),
        });
    }

    /// A request with the admin token.
    pub(crate) fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(ADMIN)
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path).send().await.unwrap()
    }

    /// GET that must be 200 with JSON.
    pub(crate) async fn json(&self, path: &str) -> Value {
        let response = self.get(path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.unwrap()
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: Value) -> Response {
        self.ask(method, path).json(&body).send().await.unwrap()
    }

    /// Leaves a message.
    pub(crate) async fn deposit(&self, path: &str, wav: Vec<u8>) -> Response {
        let request = self
            .ask(Method::POST, path)
            .header("Content-Type", "audio/wav");
        request.body(wav).send().await.unwrap()
    }

    /// Creates a mailbox in the store itself.
    pub(crate) fn mailbox(&self, ext: &str) {
        let ext = Extension::new(ext).unwrap();
        self.app
            .store
            .create_mailbox(&ext, &MailboxPatch::default())
            .unwrap();
    }
}

/// Status and `code` of an answer that must be a problem (RFC 9457).
pub(crate) async fn problem(response: Response) -> (u16, String, Value) {
    let status = response.status().as_u16();
    let kind = response.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    assert_eq!(kind, "application/problem+json", "status {status}");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["status"], status);
    for member in ["type", "title", "detail", "code"] {
        assert!(body[member].is_string(), "{member} is missing in {body}");
    }
    (status, body["code"].as_str().unwrap().to_owned(), body)
}

/// 16-bit PCM at 8 kHz that plays for `ms` milliseconds; `seed` makes its bytes its own.
pub(crate) fn wav(ms: u32, seed: u8) -> Vec<u8> {
    let samples = ms * 8;
    let data = samples * 2;
    let mut wav = Vec::new();
    wav.extend_from_slice(b"RIFF");
    wav.extend_from_slice(&(36 + data).to_le_bytes());
    wav.extend_from_slice(b"WAVEfmt ");
    wav.extend_from_slice(&16_u32.to_le_bytes());
    for word in [1_u16, 1] {
        wav.extend_from_slice(&word.to_le_bytes());
    }
    for word in [8000_u32, 16_000] {
        wav.extend_from_slice(&word.to_le_bytes());
    }
    for word in [2_u16, 16] {
        wav.extend_from_slice(&word.to_le_bytes());
    }
    wav.extend_from_slice(b"data");
    wav.extend_from_slice(&data.to_le_bytes());
    wav.extend((0..data).map(|n| (n % 251) as u8 ^ seed));
    wav
}

fn config(more: &str, dir: &std::path::Path) -> Config {
    let text = format!(
        r#"
[node]
id = "vmpro1"
fqdn = "vmpro1.example.com"
role = "primary"
data_dir = "data"
profile = "demo"
[pair]
mode = "single-active"
peer = "vmpro2.example.com"
peer_url = "http://127.0.0.1:9"
key_file = "pair.key"
[tls]
require = false
[resilience]
backs_up_voicemail = true
[smtp.receiver]
mode = "off"
[[smtp.sender]]
domain = "vmpro1.example.com"
server = "127.0.0.1"
[http]
listen = "127.0.0.1:0"
tokens_file = "tokens"
[vrl]
folder = "VRL"
[[systems]]
name = "HQ"
home = "vmpro1"
destination = "99999"
{more}
"#
    );
    let file = dir.join("vmsync.toml").display().to_string();
    vmsync_config::parse(&text, &file, std::iter::empty()).unwrap_or_else(|e| panic!("{e}"))
}

fn status() -> Status {
    serde_json::from_value(json!({
        "node": {
            "id": "vmpro1", "fqdn": "vmpro1.example.com", "role": "primary", "incarnation": "0000abcd",
            "voicemail_type": "local", "backup_address": "vmpro2.example.com", "version": "0.1.0",
            "started_at": "2026-11-22T08:00:00Z", "ready": true
        },
        "mode": "single-active",
        "peer": {
            "id": "vmpro2", "fqdn": "vmpro2.example.com", "url": "http://127.0.0.1:9", "visible": true,
            "since": "2026-11-22T08:00:01Z", "last_seen": "2026-11-22T08:10:00Z", "reason": null,
            "calls": 0, "totals": {"mailboxes": 3, "messages": 7, "bytes": 1000}
        },
        "groups": [{
            "name": "primary", "home": "vmpro1", "backup": "vmpro2", "owner": "vmpro1", "phase": "normal",
            "epoch": 4, "since": "2026-11-22T08:00:02Z", "reason": "normal operation", "serving_here": "yes",
            "failback": {"policy": "graceful", "timeout_minutes": 60, "deadline": null, "waiting_for": []},
            "calls": 0, "phones_refused": 0
        }],
        "sync": {
            "out": {"state": "finished", "pending_ops": 0, "pending_bytes": 0, "lag_ms": 0, "eta_s": null, "reason": null, "since": null},
            "in": {"state": "syncing", "pending_ops": 2, "pending_bytes": 4096, "lag_ms": 42, "eta_s": 1, "reason": null, "since": null},
            "digest": "9f1c", "peer_digest": "9f1c", "diverged": false
        },
        "links": [{"system": "HQ", "colour": "dark-green", "meaning": "up, it backs me up", "destination": "99999"}],
        "calls": 0,
        "totals": {"mailboxes": 3, "messages": 7, "bytes": 1000},
        "vrl": {"state": "off", "files_pending": 0, "bytes_pending": 0, "files_done": 0, "last_error": null},
        "alarms": 0
    }))
    .unwrap()
}

/// Answers as the loop would: refuses a stale owner, else does what it is asked.
async fn play_loop(
    mut commands: mpsc::Receiver<Command>,
    status: watch::Receiver<Arc<Status>>,
    asked: Arc<Mutex<Vec<Guard>>>,
) {
    while let Some(command) = commands.recv().await {
        match command {
            Command::Housekeeping { answer, .. } => drop(answer.send(Vec::new())),
            Command::CheckAudio { answer } => drop(answer.send(())),
            Command::Meets { noted, .. } => drop(noted.send(())),
            Command::Request {
                group,
                guard,
                answer,
                ..
            } => {
                let owner = status.borrow().groups[0].owner.clone();
                asked.lock().unwrap().push(guard.clone());
                let stale = guard.expected_owner.as_ref().is_some_and(|e| *e != owner);
                let _ = answer.send(if stale {
                    Err(Refused {
                        code: "stale_expected_owner".to_owned(),
                        reason: format!("{owner} owns the group now; look again"),
                    })
                } else {
                    Ok(Outcome {
                        group: group.to_string(),
                        owner: "vmpro2".to_owned(),
                        epoch: 5,
                        what: "vmpro2 takes over".to_owned(),
                        dry_run: guard.dry_run,
                        waiting_for: Vec::new(),
                        scheduled: None,
                        one_sided: None,
                    })
                });
            }
            Command::History { group, answer } => {
                let _ = answer.send((1..=3).map(|epoch| ownership(&group, epoch)).collect());
            }
            Command::Phone {
                registration,
                answer,
            } => {
                let evidence = "refused: the home is visible".to_owned();
                let at = "2026-11-22T08:00:00Z".to_owned();
                let _ = answer.send(Ok(SeenPhone {
                    registration,
                    at,
                    evidence,
                    advice: None,
                }));
            }
            Command::Phones { answer, .. } => {
                let _ = answer.send(Vec::new());
            }
            Command::PassOn { answer, .. } => drop(answer.send(Err(Refused {
                code: "peer_unreachable".to_owned(),
                reason: "there is no peer".to_owned(),
            }))),
            Command::Resync { answer } => {
                let _ = answer.send(());
            }
            Command::Certificate { answer } => {
                let _ = answer.send(CertificateAnswer {
                    at: None,
                    digest: None,
                    vector: json!({}),
                    equal_now: false,
                    left_out: LeftOut::default(),
                    audio_faults: 0,
                });
            }
            Command::Cancel { answer, .. } => drop(answer.send(Ok(None))),
            Command::OneSided { answer } => {
                let _ = answer.send(OneSidedAnswer {
                    here: OneSided::default(),
                    there: None,
                });
            }
            Command::Heartbeat { .. } | Command::Heard { .. } => {}
        }
    }
}

fn ownership(group: &GroupName, epoch: u64) -> Ownership {
    serde_json::from_value(json!({
        "group": group, "epoch": epoch, "since": "2026-11-22T08:00:00Z", "reason": format!("step {epoch}"),
        "owner": if epoch.is_multiple_of(2) { "vmpro2" } else { "vmpro1" }
    }))
    .unwrap()
}
