//! Calls and call flows over HTTP, against a real store on loopback.

use std::{fs, path::Path, sync::Arc};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use vmsync_config::words::{Extension, GroupName, NodeId};
use vmsync_core::{resilience::Serving, wire::Keys};
use vmsync_store::{
    Options, Store,
    model::{MailboxPatch, Message, MessageState},
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

struct Node {
    app: Arc<App>,
    client: ApiClient,
    serving: watch::Sender<Arc<Vec<(GroupName, Serving)>>>,
    folder: TempDir,
    stop: CancellationToken,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Node {
    async fn start() -> Self {
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
        let app = Arc::new(App {
            tokens: Tokens::load(&config.http.tokens_file).unwrap(),
            keys: Keys::parse(&"0123456789abcdef".repeat(4)).unwrap(),
            calls: Calls::new(events.clone(), Arc::default(), config.node.id.clone()),
            alarms: Alarms::load(store.clone(), events.clone()).unwrap(),
            node: handle,
            events,
            vrl: None,
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

    fn serve(&self, serving: Serving) {
        let group = GroupName::new("primary").unwrap();
        self.serving.send_replace(Arc::new(vec![(group, serving)]));
    }

    async fn mailbox(&self, ext: &str, patch: &MailboxPatch) {
        let (ext, patch) = (Extension::new(ext).unwrap(), patch.clone());
        self.app
            .store(move |s| s.create_mailbox(&ext, &patch))
            .await
            .unwrap();
    }

    async fn send(&self, method: Method, path: &str, body: Body<'_>) -> Reply {
        self.client.call(method, path, &[], body).await.unwrap()
    }

    async fn post(&self, path: &str, body: Value) -> Reply {
        self.send(Method::POST, path, Body::Json(&body)).await
    }

    /// Starts a call and gives its path and first answer.
    async fn call(&self, kind: &str) -> (String, Value) {
        let reply = self
            .post(
                "/api/v1/calls",
                json!({ "kind": kind, "mailbox": "2001", "caller_number": "5550123" }),
            )
            .await;
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.json());
        (reply.location.clone().unwrap(), reply.json())
    }

    async fn tell(&self, call: &str, event: Value) -> Value {
        let reply = self.post(&format!("{call}/events"), event).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.json());
        reply.json()
    }

    async fn messages(&self) -> Vec<Message> {
        let ext = Extension::new("2001").unwrap();
        self.app
            .store(move |s| s.messages(&ext, &[], None, 100))
            .await
            .unwrap()
            .items
    }

    async fn flow(&self, name: &str, source: &str) -> Reply {
        let body = Body::Audio("application/toml", source.into());
        self.send(Method::PUT, &format!("/api/v1/callflows/{name}"), body)
            .await
    }
}

/// A WAV file, 16-bit PCM at 8 kHz.
fn wav(seconds: u32) -> Vec<u8> {
    wav_ms(seconds * 1_000)
}

fn wav_ms(length: u32) -> Vec<u8> {
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

fn audio(seconds: u32) -> Body<'static> {
    Body::Audio("audio/wav", wav(seconds))
}

fn actions(answer: &Value) -> Vec<&str> {
    answer["actions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["action"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_caller_leaves_a_message_which_is_durable_and_one() {
    let node = Node::start().await;
    let (call, first) = node.call("leave").await;
    assert_eq!(actions(&first), ["play", "record"]);
    assert_eq!(
        first["actions"][1]["max_seconds"], 10,
        "the node's limit is shorter than the flow's"
    );
    assert_eq!(node.app.calls.active(), 1);
    let path = format!("{call}/recording?recording=1");
    let kept = node.send(Method::POST, &path, audio(2)).await;
    assert_eq!(kept.status, StatusCode::CREATED, "{}", kept.json());
    assert_eq!(actions(&kept.json()), ["play", "disconnect"]);
    assert_eq!(node.app.calls.active(), 0, "it ended with its flow");
    // The answer was lost, so the channel sends it again.
    let again = node.send(Method::POST, &path, audio(2)).await;
    assert_eq!((again.status, again.json()), (kept.status, kept.json()));
    let messages = node.messages().await;
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].facts.caller_number.as_deref(), Some("5550123"));
    assert_eq!(
        messages[0].id.to_string(),
        kept.json()["message"].as_str().unwrap()
    );
}

#[tokio::test]
async fn a_recording_after_the_hang_up_is_kept_though_the_group_has_moved() {
    let node = Node::start().await;
    let (call, _) = node.call("leave").await;
    node.serve(Serving::No {
        owner: NodeId::new("vmpro2").unwrap(),
    });
    let refused = node
        .post(
            "/api/v1/calls",
            json!({ "kind": "leave", "mailbox": "2001" }),
        )
        .await;
    assert_eq!(
        refused.status,
        StatusCode::TEMPORARY_REDIRECT,
        "new calls go to the other node"
    );
    assert_eq!(
        refused.location.as_deref(),
        Some("http://127.0.0.1:9/api/v1/calls")
    );
    let waits = node.tell(&call, json!({ "event": "hung_up" })).await;
    assert_eq!(
        (&waits["state"], &waits["waiting_for"]),
        (&json!("active"), &json!("recording"))
    );
    let kept = node
        .send(Method::POST, &format!("{call}/recording"), audio(3))
        .await;
    assert_eq!(
        (kept.status, kept.json()["state"].clone()),
        (StatusCode::CREATED, json!("ended"))
    );
    assert_eq!(node.messages().await.len(), 1);
}

#[tokio::test]
async fn what_is_no_message_leaves_the_call_where_it_can_go_on() {
    let node = Node::start().await;
    let (call, _) = node.call("leave").await;
    let path = format!("{call}/recording");
    let noise = node
        .send(
            Method::POST,
            &path,
            Body::Audio("audio/wav", b"not a wav".to_vec()),
        )
        .await;
    assert_eq!(
        (noise.status.as_u16(), noise.json()["code"].clone()),
        (422, json!("not_audio"))
    );
    let long = node.send(Method::POST, &path, audio(12)).await;
    assert_eq!(
        (long.status.as_u16(), long.json()["code"].clone()),
        (422, json!("too_long"))
    );
    let early = node
        .post(
            &format!("{call}/events"),
            json!({ "event": "digits", "digits": "1" }),
        )
        .await;
    assert_eq!(
        (early.status.as_u16(), early.json()["waiting_for"].clone()),
        (409, json!("recording"))
    );
    let short = node
        .send(Method::POST, &path, Body::Audio("audio/wav", wav_ms(500)))
        .await;
    assert_eq!(short.status, StatusCode::OK, "{}", short.json());
    assert!(short.json()["refused"].as_str().unwrap().contains("500 ms"));
    assert_eq!(
        actions(&short.json()),
        ["play", "record"],
        "one more chance"
    );
    let first = node
        .send(Method::POST, &format!("{path}?recording=1"), audio(1))
        .await;
    assert_eq!(first.json(), short.json(), "the first is settled");
    let kept = node.send(Method::POST, &path, audio(1)).await;
    assert_eq!(kept.status, StatusCode::CREATED);
    assert_eq!(node.messages().await.len(), 1);
}

#[tokio::test]
async fn a_recording_the_disk_could_not_take_is_waited_for_and_kept_later() {
    let node = Node::start().await;
    let (call, _) = node.call("leave").await;
    let path = format!("{call}/recording?recording=1");
    let (here, away) = (
        node.folder.path().join("data/audio"),
        node.folder.path().join("away"),
    );
    set_aside(&here, &away);
    let failed = node.send(Method::POST, &path, audio(2)).await;
    assert_eq!(
        failed.status,
        StatusCode::INTERNAL_SERVER_ERROR,
        "{}",
        failed.json()
    );
    let hung_up = node.tell(&call, json!({ "event": "hung_up" })).await;
    assert_eq!(
        (&hung_up["state"], &hung_up["waiting_for"]),
        (&json!("active"), &json!("recording"))
    );
    set_aside(&away, &here);
    let kept = node.send(Method::POST, &path, audio(2)).await;
    assert_eq!(
        (kept.status, &kept.json()["state"]),
        (StatusCode::CREATED, &json!("ended")),
        "{}",
        kept.json()
    );
    assert_eq!(node.messages().await.len(), 1);
}

#[tokio::test]
async fn what_the_disk_does_not_take_can_be_given_up() {
    let node = Node::start().await;
    let (call, _) = node.call("leave").await;
    set_aside(
        &node.folder.path().join("data/audio"),
        &node.folder.path().join("away"),
    );
    let failed = node
        .send(Method::POST, &format!("{call}/recording"), audio(2))
        .await;
    assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR);
    let over = node
        .tell(&call, json!({ "event": "nothing_recorded" }))
        .await;
    assert_eq!(
        over["actions"][0]["items"][0]["prompt"],
        "message-not-saved"
    );
    assert_eq!(node.messages().await.len(), 0);
}

#[allow(clippy::disallowed_methods, reason = "breaks the disk of a test")]
fn set_aside(from: &Path, to: &Path) {
    fs::rename(from, to).unwrap();
}

#[tokio::test]
async fn a_disabled_mailbox_says_so_before_the_caller_speaks() {
    let node = Node::start().await;
    let off = MailboxPatch {
        enabled: Some(false),
        ..MailboxPatch::default()
    };
    node.app
        .store(move |s| s.change_mailbox(&Extension::new("2001").unwrap(), &off))
        .await
        .unwrap();
    let (_, first) = node.call("leave").await;
    assert_eq!(
        first["actions"][0]["items"][0]["prompt"],
        "mailbox-unavailable"
    );
    assert_eq!(first["state"], "ended");
}

#[tokio::test]
async fn a_user_collects_with_the_pin() {
    let node = Node::start().await;
    let pin = MailboxPatch {
        pin: Some("4711".to_owned()),
        ..MailboxPatch::default()
    };
    node.app
        .store(move |s| s.change_mailbox(&Extension::new("2001").unwrap(), &pin))
        .await
        .unwrap();
    let (leave, _) = node.call("leave").await;
    node.send(Method::POST, &format!("{leave}/recording"), audio(2))
        .await;
    let (call, _) = node.call("collect").await;
    let wrong = node
        .tell(&call, json!({ "event": "digits", "digits": "1111#" }))
        .await;
    assert_eq!(wrong["actions"][0]["items"][0]["prompt"], "wrong-pin");
    let header = node
        .tell(&call, json!({ "event": "digits", "digits": "4711#" }))
        .await;
    assert_eq!(header["waiting_for"], "played", "{header}");
    let body = node.tell(&call, json!({ "event": "played" })).await;
    let at = body["actions"][0]["items"][0]["audio"].as_str().unwrap();
    assert_eq!(
        node.client.get_bytes(at).await.unwrap(),
        wav(2),
        "byte for byte"
    );
    assert_eq!(node.messages().await[0].state, MessageState::Unopened);
    node.tell(&call, json!({ "event": "played" })).await;
    assert_eq!(node.messages().await[0].state, MessageState::Old);
    let saved = node
        .tell(&call, json!({ "event": "digits", "digits": "2" }))
        .await;
    assert_eq!(
        node.messages().await[0].state,
        MessageState::Saved,
        "{saved}"
    );
    let over = node.tell(&call, json!({ "event": "hung_up" })).await;
    assert_eq!(
        (&over["state"], node.app.calls.active()),
        (&json!("ended"), 0)
    );
}

#[tokio::test]
async fn five_wrong_pins_lock_the_mailbox_for_every_call() {
    let node = Node::start().await;
    let pin = MailboxPatch {
        pin: Some("4711".to_owned()),
        ..MailboxPatch::default()
    };
    node.app
        .store(move |s| s.change_mailbox(&Extension::new("2001").unwrap(), &pin))
        .await
        .unwrap();
    let mut tried = 0;
    while tried < 5 {
        let (call, _) = node.call("collect").await;
        for _ in 0..3.min(5 - tried) {
            node.tell(&call, json!({ "event": "digits", "digits": "0000#" }))
                .await;
            tried += 1;
        }
    }
    let (call, _) = node.call("collect").await;
    let right = node
        .tell(&call, json!({ "event": "digits", "digits": "4711#" }))
        .await;
    assert_eq!(
        right["actions"][0]["items"][0]["prompt"], "mailbox-locked",
        "{right}"
    );
}

#[tokio::test]
async fn calls_are_listed_kept_alive_and_ended() {
    let node = Node::start().await;
    let (call, first) = node.call("leave").await;
    let (other, second) = node.call("leave").await;
    let page = node.client.get("/api/v1/calls?limit=1").await.unwrap();
    assert_eq!(
        (&page["items"][0]["id"], &page["next"]),
        (&first["id"], &first["id"])
    );
    let rest = node
        .client
        .get(&format!(
            "/api/v1/calls?cursor={}",
            first["id"].as_str().unwrap()
        ))
        .await
        .unwrap();
    assert_eq!(
        (&rest["items"][0]["id"], &rest["next"]),
        (&second["id"], &Value::Null)
    );
    assert_eq!(
        node.post(&format!("{call}/keepalive"), json!({}))
            .await
            .status,
        StatusCode::OK
    );
    assert_eq!(
        node.send(Method::DELETE, &call, Body::None).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        node.send(Method::DELETE, &call, Body::None).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        node.post(&format!("{call}/keepalive"), json!({}))
            .await
            .status,
        StatusCode::NOT_FOUND
    );
    let over = node
        .post(&format!("{call}/events"), json!({ "event": "hung_up" }))
        .await;
    assert_eq!(over.status, StatusCode::CONFLICT);
    assert_eq!(node.client.get(&other).await.unwrap()["state"], "active");
    let unknown = node
        .post(
            "/api/v1/calls/0192aaaa-0000-7000-8000-000000000000/events",
            json!({ "event": "hung_up" }),
        )
        .await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn bad_starts_and_events_are_refused_with_the_reason() {
    let node = Node::start().await;
    for (body, status) in [
        (json!({ "kind": "leave", "mailbox": "2999" }), 404),
        (json!({ "kind": "no-such-flow", "mailbox": "2001" }), 404),
        (json!({ "kind": "../leave", "mailbox": "2001" }), 422),
        (json!({ "kind": "leave", "mailbox": "x" }), 422),
        (
            json!({ "kind": "leave", "mailbox": "2001", "colour": 1 }),
            422,
        ),
        (
            json!({ "kind": "leave", "mailbox": "2001", "caller_name": "a\u{7}" }),
            422,
        ),
    ] {
        let reply = node.post("/api/v1/calls", body.clone()).await;
        assert_eq!(reply.status.as_u16(), status, "{body}: {}", reply.json());
    }
    assert_eq!(node.app.calls.active(), 0);
    let (call, _) = node.call("collect").await;
    for body in [
        json!({ "event": "digits" }),
        json!({ "event": "digits", "digits": "12x" }),
        json!({ "event": "timeout", "digits": "1" }),
        json!({ "event": "sneeze" }),
    ] {
        let reply = node.post(&format!("{call}/events"), body.clone()).await;
        assert_eq!(reply.status.as_u16(), 422, "{body}");
    }
}

#[tokio::test]
async fn the_live_flow_wins_over_the_folder_and_the_folder_over_the_built_in() {
    let node = Node::start().await;
    let saying =
        |word: &str| format!("start = \"a\"\n[nodes.a]\ndo = \"disconnect\"\nsay = \"{word}\"\n");
    let heard = || async { node.call("leave").await.1["actions"][0]["items"][0].clone() };
    assert_eq!(heard().await, json!({ "prompt": "default-greeting" }));
    let file = node.folder.path().join("flows/leave.toml");
    fs::write(&file, saying("from-the-folder")).unwrap();
    assert_eq!(heard().await["prompt"], "from-the-folder");
    let put = node.flow("leave", &saying("live")).await;
    assert_eq!(
        (put.status, &put.json()["nodes"]),
        (StatusCode::OK, &json!(1)),
        "{}",
        put.json()
    );
    assert_eq!(heard().await["prompt"], "live");
    let listed = node.client.get("/api/v1/callflows").await.unwrap();
    assert_eq!(
        listed["items"],
        json!([{ "name": "collect", "from": "built-in" }, { "name": "leave", "from": "live" }])
    );
    let versions = node
        .client
        .get("/api/v1/callflows/leave/versions")
        .await
        .unwrap();
    assert_eq!(
        (
            &versions["items"][0]["state"],
            &versions["items"][0]["node"]
        ),
        (&json!("live"), &json!("vmpro1"))
    );
    let source = node
        .client
        .get_bytes("/api/v1/callflows/leave")
        .await
        .unwrap();
    assert_eq!(String::from_utf8(source).unwrap(), saying("live"));
    let gone = node
        .send(Method::DELETE, "/api/v1/callflows/leave", Body::None)
        .await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    fs::write(&file, "start = ").unwrap();
    assert_eq!(
        heard().await["prompt"],
        "default-greeting",
        "a broken file is passed over"
    );
}

#[tokio::test]
async fn a_flow_with_errors_is_refused_with_all_of_them_and_the_last_good_one_goes_on() {
    let node = Node::start().await;
    let good = "start = \"a\"\n[nodes.a]\ndo = \"disconnect\"\nsay = \"good\"\n";
    node.flow("leave", good).await;
    let bad = "start = \"b\"\n[nodes.a]\ndo = \"disconect\"\n";
    let refused = node.flow("leave", bad).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    let errors = refused.json()["errors"].clone();
    let places: Vec<String> = errors
        .as_array()
        .unwrap()
        .iter()
        .map(|e| {
            format!(
                "{}:{}:{}",
                e["file"].as_str().unwrap(),
                e["line"],
                e["column"]
            )
        })
        .collect();
    assert_eq!(places, ["leave.toml:1:9", "leave.toml:3:6"]);
    assert!(
        refused.json()["detail"]
            .as_str()
            .unwrap()
            .contains("did you mean `disconnect`")
    );
    let (_, first) = node.call("leave").await;
    assert_eq!(first["actions"][0]["items"][0]["prompt"], "good");
    let checked = node
        .send(
            Method::POST,
            "/api/v1/callflows/check?name=leave",
            Body::Audio("application/toml", good.into()),
        )
        .await;
    assert_eq!(
        (checked.status, &checked.json()["live_since"]),
        (StatusCode::OK, &Value::Null)
    );
    let binary = node
        .send(
            Method::POST,
            "/api/v1/callflows/check",
            Body::Audio("application/toml", vec![0xff; 10]),
        )
        .await;
    assert_eq!(binary.status, StatusCode::UNPROCESSABLE_ENTITY);
    let huge = node.flow("leave", &" ".repeat(300_000)).await;
    assert_eq!(huge.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(
        node.flow("Leave", good).await.status,
        StatusCode::UNPROCESSABLE_ENTITY
    );
}
