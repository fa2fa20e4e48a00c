//! A node on loopback: a real store and the whole HTTP front, no node loop.

use std::{fs, path::Path, sync::Arc};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use vmsync_config::words::{Extension, GroupName};
use vmsync_core::{resilience::Serving, wire::Keys};
use vmsync_store::{
    Options, Store,
    model::{MailboxPatch, Message},
};

use crate::{
    alarms::Alarms,
    app::App,
    calls::Calls,
    client::{ApiClient, Body, Reply},
    events::EventHub,
    keys::Tokens,
    node,
};

const TOKEN: &str = "admin-token-of-a-test-0123456789";
const CONFIG: &str = r#"
[node]
id = "vmpro1"
fqdn = "vmpro1.demo.example"
role = "primary"
data_dir = "data"
profile = "demo"
[pair]
mode = "single-active"
peer = "vmpro2.demo.example"
peer_url = "http://127.0.0.1:9"
key_file = "pair.key"
[tls]
require = false
[smtp.receiver]
mode = "off"
[[smtp.sender]]
domain = "vmpro1.demo.example"
server = "127.0.0.1"
port = 9
[http]
listen = "127.0.0.1:9"
tokens_file = "tokens"
[callflows]
dir = "flows"
[limits]
message_min = "1s"
message_max = "10s"
"#;

pub(super) struct Node {
    pub(super) app: Arc<App>,
    pub(super) client: ApiClient,
    serving: watch::Sender<Arc<Vec<(GroupName, Serving)>>>,
    pub(super) folder: TempDir,
    stop: CancellationToken,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Node {
    pub(super) async fn start() -> Self {
        // Whoever is first; the others find it done.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vmsync.toml");
        let config =
            vmsync_config::parse(CONFIG, &file.display().to_string(), std::iter::empty()).unwrap();
        fs::write(folder.path().join("tokens"), format!("admin {TOKEN}\n")).unwrap();
        fs::create_dir(folder.path().join("flows")).unwrap();
        let options = Options {
            node: config.node.id.clone(),
            min_free_bytes: 0,
            clock: crate::clock::wall,
        };
        let store = Store::open(&config.node.data_dir, options).unwrap();
        let events = EventHub::new();
        let (mut handle, _seat) = node::channel(&config);
        let (serving, table) = watch::channel(Arc::default());
        handle.serving = table;
        let mut ready = (*handle.status()).clone();
        ready.node.ready = true;
        handle.status = watch::channel(Arc::new(ready)).1;
        let app = Arc::new(App {
            topology: crate::topology::TopologyCell::new(&config),
            tokens: Tokens::load(&config.http.tokens_file).unwrap(),
            keys: Keys::parse(&"0123456789abcdef".repeat(4)).unwrap(),
            calls: Calls::new(events.clone(), Arc::default(), config.node.id.clone()),
            alarms: Alarms::load(store.clone(), events.clone()).unwrap(),
            node: handle,
            rights: crate::rights::RightsBook::load(&store, &config).unwrap(),
            features: crate::features::Features::load(&store, &config, crate::clock::now())
                .unwrap(),
            events,
            vrl: None,
            vrl_board: crate::vrl::Board::default(),
            delivery: crate::delivery::Board::new(&config),
            smtp_refusals: Arc::default(),
            store,
            config,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        tokio::spawn(crate::http::serve(listener, Arc::clone(&app), stop.clone()));
        let client = ApiClient::new(&url, TOKEN).unwrap();
        let node = Self {
            app,
            client,
            serving,
            folder,
            stop,
        };
        node.serve(Serving::Yes);
        node.mailbox("2001", &MailboxPatch::default()).await;
        node
    }

    pub(super) fn serve(&self, serving: Serving) {
        let group = GroupName::new("primary").unwrap();
        self.serving.send_replace(Arc::new(vec![(group, serving)]));
    }

    pub(super) async fn mailbox(&self, ext: &str, patch: &MailboxPatch) {
        let (ext, patch) = (Extension::new(ext).unwrap(), patch.clone());
        self.app
            .store(move |s| s.create_mailbox(&ext, &patch))
            .await
            .unwrap();
    }

    pub(super) async fn send(&self, method: Method, path: &str, body: Body<'_>) -> Reply {
        self.client.call(method, path, &[], body).await.unwrap()
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(Method::POST, path, Body::Json(&body)).await
    }

    /// Starts a call and gives its path and first answer.
    pub(super) async fn call(&self, kind: &str) -> (String, Value) {
        let reply = self
            .post(
                "/api/v1/calls",
                json!({ "kind": kind, "mailbox": "2001", "caller_number": "5550123" }),
            )
            .await;
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.json());
        (reply.location.clone().unwrap(), reply.json())
    }

    pub(super) async fn tell(&self, call: &str, event: Value) -> Value {
        let reply = self.post(&format!("{call}/events"), event).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.json());
        reply.json()
    }

    pub(super) async fn messages(&self) -> Vec<Message> {
        let ext = Extension::new("2001").unwrap();
        self.app
            .store(move |s| s.messages(&ext, &[], None, 100))
            .await
            .unwrap()
            .items
    }

    pub(super) async fn flow(&self, name: &str, source: &str) -> Reply {
        let body = Body::Audio("application/toml", source.into());
        self.send(Method::PUT, &format!("/api/v1/callflows/{name}"), body)
            .await
    }
}

/// A WAV file, 16-bit PCM at 8 kHz.
pub(super) fn wav(seconds: u32) -> Vec<u8> {
    wav_ms(seconds * 1_000)
}

pub(super) fn wav_ms(length: u32) -> Vec<u8> {
    let data = length * 16;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data).to_le_bytes());
    bytes.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    bytes.extend(8_000_u32.to_le_bytes());
    bytes.extend(16_000_u32.to_le_bytes());
    bytes.extend(b"\x02\0\x10\0data");
    bytes.extend(data.to_le_bytes());
    bytes.resize(bytes.len() + data as usize, 0x55);
    bytes
}

pub(super) fn audio(seconds: u32) -> Body<'static> {
    Body::Audio("audio/wav", wav(seconds))
}

pub(super) fn actions(answer: &Value) -> Vec<&str> {
    answer["actions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["action"].as_str().unwrap())
        .collect()
}

#[allow(clippy::disallowed_methods, reason = "breaks the disk of a test")]
pub(super) fn set_aside(from: &Path, to: &Path) {
    fs::rename(from, to).unwrap();
}
