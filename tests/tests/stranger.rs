//! A second implementation of the pair's synchronisation, `tests/stranger/peer.py`, written from
//! docs/wire-format.md and docs/heartbeat.md, beside a real node: what those pages say is enough.
//!
//! The stranger keeps all in memory and takes a new incarnation whenever it starts.

#![allow(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::{path::PathBuf, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use vmsync_tests::pair::{
    GREETING, Node, ONE, Pair, Process, TWO, client, installed, run, soon, wav,
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn program() -> String {
    let path = folder().join("stranger/peer.py");
    path.to_string_lossy().into_owned()
}

/// The Python program in the place of the pair's secondary.
struct Stranger<'a> {
    place: &'a Node,
    client: reqwest::Client,
    process: Process,
}

impl<'a> Stranger<'a> {
    async fn start(place: &'a Node) -> Self {
        Self::start_with(place, &[]).await
    }

    async fn start_with(place: &'a Node, more: &[&str]) -> Self {
        installed("python3");
        let config = place.config.to_string_lossy().into_owned();
        let program = program();
        let args = [&["-u", &program, "--config", &config], more].concat();
        let log = place.config.with_file_name("stranger.txt");
        let mut process = Process::program("python3", &args, &log);
        process.says(" listens as ").await;
        Self {
            place,
            client: client(),
            process,
        }
    }

    async fn restart(self) -> Self {
        self.process.kill().await;
        Self::start(self.place).await
    }

    /// What it knows.
    async fn knows(&self) -> Value {
        let url = format!("{}/stranger", self.place.http);
        let answer = self.client.get(url).send().await.unwrap();
        answer.json().await.unwrap()
    }

    /// Has it do something.
    async fn does(&self, what: Value) -> Value {
        let url = format!("{}/stranger/do", self.place.http);
        let answer = self.client.post(url).json(&what).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{what}");
        answer.json().await.unwrap()
    }

    /// Records an operation there.
    async fn records(&self, entity: &str, effect: Value) {
        self.does(json!({"do": "change", "entity": entity, "effect": effect}))
            .await;
    }

    /// A voice message left there; gives its id.
    async fn leave(&self, mailbox: &str, caller: &str, wav: &[u8]) -> String {
        let id = uuid::Uuid::now_v7().to_string();
        let audio = self.audio(wav).await;
        let facts = json!({"caller_number": caller, "taken_by": "vmpro2"});
        let fields = json!({"mailbox": mailbox, "state": "new", "facts": facts, "audio": audio});
        self.does(json!({
            "do": "change", "entity": format!("message/{id}"), "effect": {"set": fields},
        }))
        .await;
        id
    }

    /// A file of audio there, as a field names it.
    async fn audio(&self, wav: &[u8]) -> Value {
        let data = BASE64_STANDARD.encode(wav);
        self.does(json!({"do": "audio", "data": data})).await
    }

    /// Waits until it has the audio of `message`, byte for byte. (Its record may come before it, in quarantine.)
    async fn hears(&self, message: &str, wav: &[u8]) {
        let audio = soon("the message at the stranger", async || {
            let knows = self.knows().await;
            let audio = &knows["records"][format!("message/{message}")]["f"]["audio"][0];
            let Some(blob) = audio["blob"].as_str() else {
                return Err(knows["have"].to_string());
            };
            let url = format!("{}/stranger/audio/{blob}", self.place.http);
            let answer = self.client.get(url).send().await.unwrap();
            if answer.status() == 200 {
                Ok(answer.bytes().await.unwrap())
            } else {
                Err(format!("no audio: {}", answer.status()))
            }
        })
        .await;
        assert!(audio == wav, "{message}");
    }
}

/// Waits until the node says that both hold the same, and its certificate and the stranger say so too.
async fn equal(node: &Node, stranger: &Stranger<'_>) {
    soon("node and stranger to hold the same", async || {
        let sync = node.try_get("/api/v1/sync").await?;
        let finished = sync["out"]["state"] == "finished" && sync["in"]["state"] == "finished";
        let knows = stranger.knows().await;
        let same = sync["have"] == knows["have"] && sync["digest"] == knows["digest"];
        if !finished || sync["peer_digest"] != sync["digest"] || !same || knows["finished"] != true
        {
            let (have, heard) = (&knows["have"], &knows["heard"]);
            return Err(format!("{sync}\nstranger: {have}, heard {heard}"));
        }
        let proof = node.try_get("/api/v1/sync/certificate").await?;
        if proof["equal_now"] == true && proof["digest"] == knows["digest"] {
            Ok(())
        } else {
            Err(proof.to_string())
        }
    })
    .await;
}

/// How often the node has found that states differ at equal vectors: an alarm of its own each time.
async fn divergences(node: &Node) -> usize {
    let alarms = node.get("/api/v1/alarms").await;
    let all = alarms["items"].as_array().unwrap();
    all.iter().filter(|a| a["code"] == "diverged").count()
}

#[tokio::test]
async fn it_reads_every_example_that_is_kept() {
    installed("python3");
    let root = folder().join("..");
    let args = [&program(), "--check", &root.to_string_lossy()];
    let ended = run("python3", &args, Duration::from_secs(20)).await.well();
    assert!(ended.out.contains("as the documents say"), "{}", ended.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn node_and_stranger_come_to_hold_the_same_and_prove_it() {
    let pair = Pair::laid_out().await;
    let node = &pair.primary;
    node.launch().await;
    let stranger = Stranger::start(&pair.secondary).await;
    node.ready().await;
    equal(node, &stranger).await;

    // From the node: a message, a backlog, a greeting and its replacement, a deletion, settings.
    let first = node.leave("2001", "1", ONE).await;
    stranger.hears(&first, ONE).await;
    let mut backlog = Vec::new();
    for n in 0..5 {
        backlog.push(node.leave("2002", &n.to_string(), &wav(1 + n)).await);
    }
    for audio in [GREETING, TWO] {
        node.request(Method::PUT, "/api/v1/mailboxes/2001/greetings/busy")
            .wav(audio)
            .send()
            .await
            .must_be(200);
    }
    let gone = node.leave("2001", "2", TWO).await;
    let path = format!("/api/v1/mailboxes/2001/messages/{gone}?purge=true");
    node.delete(&path).await.must_be(204);
    let settings = json!({"failback": {"policy": "automatic", "timeout_minutes": 10}});
    let set = node
        .request(Method::PUT, "/api/v1/settings")
        .json(&settings);
    set.send().await.must_be(200);
    equal(node, &stranger).await;
    for (n, id) in (0..5).zip(&backlog) {
        stranger.hears(id, &wav(1 + n)).await;
    }

    // From the stranger: a mailbox, messages in it, one alone and several at once; a change; a greeting.
    let mailbox = json!({"created": true, "name": "Straße", "enabled": true});
    stranger
        .records("mailbox/3001", json!({"set": mailbox}))
        .await;
    let alone = stranger.leave("3001", "77", TWO).await;
    node.hears("3001", &alone, TWO).await;
    let mut several = Vec::new();
    for n in 0..4 {
        several.push(stranger.leave("3001", "78", &wav(1 + n)).await);
    }
    stranger
        .records(
            &format!("message/{alone}"),
            json!({"set": {"state": "saved"}}),
        )
        .await;
    let audio = stranger.audio(GREETING).await;
    let greeting =
        json!({"audio": audio, "until": null, "based_on": stranger.knows().await["have"]});
    stranger
        .records("greeting/2001/busy", json!({"set": greeting}))
        .await;
    equal(node, &stranger).await;
    for (n, id) in (0..4).zip(&several) {
        node.hears("3001", id, &wav(1 + n)).await;
    }
    node.shows("3001", &alone, "state", "saved").await;
    assert_eq!(node.get("/api/v1/mailboxes/3001").await["name"], "Straße");
    let heard = node
        .request(Method::GET, "/api/v1/mailboxes/2001/greetings/busy")
        .send()
        .await
        .must_be(200);
    assert!(
        heard.body == GREETING,
        "the greeting set last, by the stranger"
    );

    // A replay of all it ever sent, byte for byte, is answered 250 and changes nothing.
    let before = node.get("/api/v1/sync").await;
    let replies = stranger.does(json!({"do": "replay"})).await;
    let replies = replies.as_array().unwrap();
    assert!(
        replies.len() > 5 && replies.iter().all(|r| r[0] == 250),
        "{replies:?}"
    );
    equal(node, &stranger).await;
    let after = node.get("/api/v1/sync").await;
    assert_eq!(
        (&before["have"], &before["digest"]),
        (&after["have"], &after["digest"])
    );

    // A mail signed with another key is refused as the page says.
    let reply = stranger.does(json!({"do": "forge"})).await;
    assert_eq!(reply[0], 550, "{reply}");
    assert!(reply[1].as_str().unwrap().starts_with("5.7.1"), "{reply}");
    node.alarm("bad_signature").await;

    // The node restarts; then the stranger, which has forgotten everything and is given it back.
    node.kill().await;
    let kept = stranger.leave("3001", "79", ONE).await;
    node.start().await;
    equal(node, &stranger).await;
    node.hears("3001", &kept, ONE).await;
    let stranger = stranger.restart().await;
    let later = node.leave("2001", "3", TWO).await;
    equal(node, &stranger).await;
    stranger.hears(&later, TWO).await;
    stranger.hears(&kept, ONE).await;
    let new = stranger.leave("3001", "80", TWO).await;
    equal(node, &stranger).await;
    node.hears("3001", &new, TWO).await;
    assert_eq!(
        divergences(node).await,
        0,
        "states never differed at equal vectors"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_of_them_lost_is_repaired() {
    let pair = Pair::laid_out().await;
    let node = &pair.primary;
    node.launch().await;
    // Without CHUNKING: every mail goes as DATA, in 7-bit lines, one at a time.
    let stranger = Stranger::start_with(&pair.secondary, &["--plain"]).await;
    node.ready().await;
    let id = node.leave("2001", "1", ONE).await;
    equal(node, &stranger).await;

    let message = format!("message/{id}");
    let lost = stranger
        .does(json!({"do": "forget", "entity": message}))
        .await;
    assert!(lost["f"]["audio"].is_array(), "{lost}");
    soon("the difference to be seen", async || {
        let seen = divergences(node).await;
        if seen == 1 {
            Ok(())
        } else {
            Err(seen.to_string())
        }
    })
    .await;
    equal(node, &stranger).await;
    stranger.hears(&id, ONE).await;
}

/// Waits until `GET /api/v1/sync` at the node satisfies `holds`.
async fn sync(node: &Node, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    soon(what, async || {
        let sync = node.try_get("/api/v1/sync").await?;
        if holds(&sync) {
            Ok(sync)
        } else {
            Err(sync.to_string())
        }
    })
    .await
}

/// What the node has in quarantine.
fn quarantined(sync: &Value) -> Vec<String> {
    let all = sync["quarantine"].as_array().unwrap().iter();
    let mut names: Vec<_> = all
        .map(|q| q["entity"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

fn is_empty(vector: &Value) -> bool {
    vector.as_object().is_none_or(serde_json::Map::is_empty)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_seeds_the_other_when_its_log_no_longer_reaches_back() {
    let pair = Pair::laid_out().await;
    let node = &pair.primary;
    node.configure_more("[limits]\nlog_operations = 1000");
    node.launch().await;
    let stranger = Stranger::start(&pair.secondary).await;
    node.ready().await;
    let kept = node.leave("2001", "1", ONE).await;
    let gone = node.leave("2001", "2", ONE).await;
    let path = format!("/api/v1/mailboxes/2001/messages/{gone}?purge=true");
    node.delete(&path).await.must_be(204);
    let rename = async |n: u32| {
        let name = json!({"name": format!("name {n}")});
        node.patch("/api/v1/mailboxes/2003", &name)
            .await
            .must_be(200);
    };
    let renames = futures_util::stream::iter(0..1_200);
    renames.for_each_concurrent(16, rename).await;
    sync(node, "a log that was cut", |s| !is_empty(&s["floor"])).await;

    // The stranger forgets everything, and is given state.
    let stranger = stranger.restart().await;
    equal(node, &stranger).await;
    assert!(
        !is_empty(&stranger.knows().await["floor"]),
        "state, not a thousand operations"
    );
    stranger.hears(&kept, ONE).await;

    // The node's disk is replaced, and the stranger's log is cut: now it is the one to give state.
    let mailbox = json!({"created": true, "name": "Three", "enabled": true});
    stranger
        .records("mailbox/3001", json!({"set": mailbox}))
        .await;
    let left = stranger.leave("3001", "3", TWO).await;
    equal(node, &stranger).await;
    node.kill().await;
    std::fs::remove_dir_all(&node.data_dir).unwrap();
    // One record that no node takes: its seeding goes on without it.
    let too_long = json!({"set": {"x".repeat(201): true}});
    stranger.records("setting/refused", too_long).await;
    let floor = stranger.does(json!({"do": "compact"})).await;
    node.start().await;
    equal(node, &stranger).await;
    let seeded = node.get("/api/v1/sync").await;
    assert_eq!(seeded["floor"], floor);
    assert_eq!(quarantined(&seeded), ["setting/refused"]);
    node.hears("2001", &kept, ONE).await;
    node.hears("3001", &left, TWO).await;
    node.lacks(&format!("/api/v1/mailboxes/2001/messages/{gone}"))
        .await;
    let after = node.leave("3001", "4", ONE).await;
    equal(node, &stranger).await;
    stranger.hears(&after, ONE).await;
    assert_eq!(
        divergences(node).await,
        0,
        "states never differed at equal vectors"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_operation_holds_up_nothing_and_its_quarantine_ends() {
    let pair = Pair::laid_out().await;
    let node = &pair.primary;
    node.launch().await;
    let stranger = Stranger::start(&pair.secondary).await;
    node.ready().await;
    equal(node, &stranger).await;

    // The node goes; a file at the stranger can't be read any more, and another operation can't be taken.
    node.kill().await;
    let before = stranger.leave("2001", "1", ONE).await;
    let bad = stranger.leave("2001", "2", TWO).await;
    let message = format!("message/{bad}");
    let record = &stranger.knows().await["records"][&message];
    let blob = &record["f"]["audio"][0]["blob"];
    stranger.does(json!({"do": "lose", "blob": blob})).await;
    let too_long = json!({"set": {"x".repeat(201): true}});
    stranger.records("setting/refused", too_long).await;
    let behind = stranger.leave("2001", "3", wav(1).as_slice()).await;
    node.start().await;
    node.hears("2001", &behind, &wav(1)).await;
    equal(node, &stranger).await;
    node.hears("2001", &before, ONE).await;
    let both = vec![message.clone(), "setting/refused".to_owned()];
    assert_eq!(quarantined(&node.get("/api/v1/sync").await), both);
    node.alarm("quarantined").await;
    assert_eq!(divergences(node).await, 0, "a skip is none");

    // The node, which holds nothing of them, tries to end it, in vain.
    node.post("/api/v1/sync/resync", &json!({}))
        .await
        .must_be(202);
    for _ in 0..30 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        assert_eq!(quarantined(&node.get("/api/v1/sync").await), both);
        let there = stranger.knows().await["quarantine"].clone();
        assert_eq!(
            there.as_object().map(serde_json::Map::len),
            Some(2),
            "{there}"
        );
    }
    equal(node, &stranger).await;

    // The file is back: the record follows, and is released.
    stranger
        .does(json!({"do": "mend", "entity": message}))
        .await;
    sync(node, "the message's release", |s| {
        quarantined(s) == both[1..]
    })
    .await;
    equal(node, &stranger).await;
    node.hears("2001", &bad, TWO).await;

    // A skip counts also beside operations that are held already: 250 means all of a mail.
    let known = stranger.knows().await["log"][0].clone();
    let skip = json!({"origin": known["stamp"]["origin"], "seq": 0, "entity": "setting/other", "why": "a test"});
    let members = json!({"operations": [known], "skips": [skip]});
    let reply = stranger
        .does(json!({"do": "send", "members": members}))
        .await;
    assert_eq!(reply[0], 250, "{reply}");
    let names = quarantined(&node.get("/api/v1/sync").await);
    assert!(names.contains(&"setting/other".to_owned()), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_node_cannot_read_reaches_the_stranger_once_it_is_mended() {
    let pair = Pair::laid_out().await;
    let node = &pair.primary;
    node.launch().await;
    let stranger = Stranger::start(&pair.secondary).await;
    node.ready().await;
    equal(node, &stranger).await;
    stranger.process.kill().await;
    let bad = node.leave("2001", "1", TWO).await;
    let behind = node.leave("2001", "2", ONE).await;
    let message = node
        .get(&format!("/api/v1/mailboxes/2001/messages/{bad}"))
        .await;
    let file = node.audio_file(&message);
    let sound = std::fs::read(&file).unwrap();
    let mut damaged = sound.clone();
    *damaged.last_mut().unwrap() ^= 0xff;
    std::fs::write(&file, &damaged).unwrap();

    let stranger = Stranger::start(&pair.secondary).await;
    stranger.hears(&behind, ONE).await;
    equal(node, &stranger).await;
    let entity = format!("message/{bad}");
    assert_eq!(quarantined(&node.get("/api/v1/sync").await), [&*entity]);
    let knows = stranger.knows().await;
    assert!(knows["quarantine"][&entity].is_string(), "{knows}");
    assert_eq!(divergences(node).await, 0, "a skip is none");

    std::fs::write(&file, &sound).unwrap();
    node.post("/api/v1/sync/resync", &json!({}))
        .await
        .must_be(202);
    stranger.hears(&bad, TWO).await;
    equal(node, &stranger).await;
    assert!(quarantined(&node.get("/api/v1/sync").await).is_empty());
    assert!(is_empty(&stranger.knows().await["quarantine"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_refused_with_the_code_the_page_says() {
    let pair = Pair::laid_out().await;
    let node = &pair.primary;
    node.launch().await;
    let stranger = Stranger::start(&pair.secondary).await;
    node.ready().await;
    equal(node, &stranger).await;
    let before = node.get("/api/v1/sync").await;

    let operation = |seq: u32, entity: &str, fields: Value| {
        let at = json!({"wall": "2026-11-22T08:00:00.000Z"});
        let stamp = json!({"origin": "vmpro2.0badcafe", "seq": seq, "at": at});
        let one = json!({"stamp": stamp, "entity": entity, "effect": {"set": fields}});
        json!({"members": {"operations": [one]}})
    };
    let value = json!({"value": 1});
    let audio = stranger.audio(ONE).await;
    let named = json!({"audio": audio});
    let message = "message/01935eff-0000-7000-8000-000000000abc";
    let versions = json!({"v": [{"s": "1.0@vmpro2.0badcafe#1", "f": {}}]});
    let misfit = json!({"records": [{"entity": "setting/a", "record": versions}]});
    let cases = [
        ("530 5.7.0", json!({"tls": "none"})),
        ("550 5.7.1", json!({"tls": "anonymous"})),
        ("451 4.5.0", json!({"head": {"version": "2.0"}})),
        ("550 5.1.1", json!({"head": {"to": "vmpro3"}})),
        ("554 5.6.0", json!({"head": {"from": "vmpro1.0badcafe"}})),
        ("550 5.7.1", json!({"head": {"from": "vmpro3.0badcafe"}})),
        ("554 5.6.0", json!({"head": {"have": 7}})),
        ("451 4.3.0", operation(2, "setting/a", value.clone())),
        ("554 5.6.0", operation(1, "setting", value.clone())),
        ("554 5.6.0", operation(1, "message/1", value.clone())),
        ("554 5.6.0", operation(1, "mailbox/front-desk", value)),
        ("554 5.6.0", operation(1, message, named)),
        ("554 5.6.0", json!({"damaged": [audio["blob"]]})),
        ("554 5.6.0", json!({"members": misfit})),
    ];
    for (expected, mut case) in cases {
        case["do"] = "send".into();
        let reply = stranger.does(case.clone()).await;
        let said = format!("{} {}", reply[0], reply[1].as_str().unwrap());
        assert!(said.starts_with(expected), "{case}: {expected}, not {said}");
    }
    let after = node.get("/api/v1/sync").await;
    assert_eq!(
        (&before["have"], &before["digest"]),
        (&after["have"], &after["digest"]),
        "nothing of it was taken"
    );
    // And a probe goes there and back.
    soon("a probe's echo", async || {
        let echoed = stranger.knows().await["echoed"].clone();
        if echoed.as_u64().unwrap() > 0 {
            Ok(())
        } else {
            Err(echoed.to_string())
        }
    })
    .await;
    equal(node, &stranger).await;
}
