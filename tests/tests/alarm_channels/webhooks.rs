//! Webhooks: refused and tried again, over https, given up, and over a kill; verified by Python.

use std::net::SocketAddr;

use serde_json::{Value, json};
use vmsync_tests::pair::{Node, Pair, Ports, Process, installed, soon};

use crate::{
    channel,
    hook::{Hook, secret_line},
    there_and_back,
};

#[tokio::test]
async fn a_webhook_that_is_refused_is_tried_again_before_the_next_with_the_same_id() {
    let pair = Pair::laid_out().await;
    let ports = Ports::reserve();
    let secret = pair.file("hook", secret_line());
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

/// A receiver that shares no code with the sender, over http or https.
struct Receiver {
    _process: Process,
    log: std::path::PathBuf,
}

impl Receiver {
    async fn start(pair: &Pair, name: &str, port: u16, certificate: Option<(&str, &str)>) -> Self {
        installed("python3");
        let log = pair.dir().join(format!("{name}.jsonl"));
        let (port, secret) = (port.to_string(), secret_line());
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/data/webhook_receiver.py");
        let shown = log.to_string_lossy().into_owned();
        let mut args = vec![program, &port, &shown, secret.trim()];
        args.extend(certificate.into_iter().flat_map(|(c, k)| [c, k]));
        let errors = pair.dir().join(format!("{name}.err"));
        let mut process = Process::program("python3", &args, &errors);
        process.says("listening").await;
        Self {
            _process: process,
            log,
        }
    }

    /// What was posted to `path`; every signature must have been right.
    fn posts(&self, path: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let all = text
            .lines()
            .map(|l| serde_json::from_str::<Value>(l).unwrap());
        let of_path: Vec<_> = all.filter(|p| p["path"] == path).collect();
        assert!(of_path.iter().all(|p| p["verified"] == true), "{of_path:?}");
        of_path
    }

    /// Waits until `count` posts to `path` were taken; gives all of them.
    async fn took(&self, path: &str, count: usize) -> Vec<Value> {
        soon(&format!("{count} posts to {path}"), async || {
            let posts = self.posts(path);
            match posts.iter().filter(|p| p["answer"] == 204).count() {
                n if n == count => Ok(posts),
                n => Err(format!("{n} taken of {}", posts.len())),
            }
        })
        .await
    }
}

fn words(posts: &[Value]) -> Vec<String> {
    let word = |p: &Value| {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let kind = text(&p["body"]["type"]).replace("alarm.", "");
        format!("{kind} {}", text(&p["body"]["data"]["subject"]))
    };
    posts.iter().map(word).collect()
}

/// What happened so long ago that it is given up: the notices that wait for `channel` become ten minutes older, as
/// if the node had been switched off meanwhile.
async fn ten_minutes_pass(node: &Node, channel: &str) {
    let (dir, channel) = (node.data_dir.clone(), channel.to_owned());
    let options = vmsync_store::Options {
        node: node.id.parse().unwrap(),
        min_free_bytes: 0,
        clock: vmsync::clock::wall,
    };
    let done = tokio::task::spawn_blocking(move || {
        let store = vmsync_store::Store::open(&dir, options).unwrap();
        for (key, value) in store.locals("notices").unwrap() {
            if key.starts_with(&format!("{channel}/")) {
                let mut item: vmsync_core::alarm::Item = serde_json::from_slice(&value).unwrap();
                let mut notice = (*item.notice).clone();
                notice.at.0 -= 600_000;
                item.notice = notice.into();
                let older = serde_json::to_vec(&item).unwrap();
                store.put_local("notices", &key, Some(&older)).unwrap();
            }
        }
    });
    done.await.unwrap();
}

/// Five receivers of one node, each in its own trouble, over a failover, a kill of the node, and its next life. None is in
/// another's way.
#[tokio::test]
async fn each_receiver_of_webhooks_has_its_own_trouble_and_its_own_order() {
    const STORY: [&str; 4] = [
        "raised headquarters",
        "raised branch",
        "cleared headquarters",
        "cleared branch",
    ];
    let pair = Pair::laid_out().await;
    let block = Ports::reserve();
    let [plain, secure, nobody] = [0, 1, 2].map(|n| block.base + n);
    let node = &pair.secondary;
    // A CA of the receiver's own, which the pair knows nothing of: another pair's.
    let other = Pair::laid_out().await;
    let theirs = other.layout();
    let secret = pair.file("hook", secret_line());
    let hook = |name: &str, url: String, more: &str| {
        let secret = secret.display();
        format!(
            "[[alarms.webhooks]]\nname = \"{name}\"\nurl = \"{url}\"\nsecret_file = \"{secret}\"\n{more}\n"
        )
    };
    let only = "codes = [\"voicemail_failover\"]";
    let ca = format!(
        "ca = \"{}\"\ncodes = [\"voicemail_failover\", \"alarm_channel_down\"]",
        theirs.join("pki/ca.pem").display()
    );
    let at = |port: u16, path: &str| format!("http://127.0.0.1:{port}{path}");
    let over_tls = |path: &str| format!("https://127.0.0.1:{secure}{path}");
    node.configure_more(
        &[
            hook("trusted", over_tls("/first/0/204"), &ca),
            hook("stranger", over_tls("/first/0/205"), only),
            hook("gone", at(plain, "/first/3/410"), only),
            hook("busy", at(plain, "/each/1/503"), only),
            hook(
                "away",
                at(nobody, "/"),
                &format!("give_up_after = \"1m\"\n{only}"),
            ),
        ]
        .concat(),
    );
    let own = theirs.join("vmpro1/vmpro1.demo.example");
    let (cert, key) = (
        own.with_added_extension("pem"),
        own.with_added_extension("key"),
    );
    let certificate = (&*cert.to_string_lossy(), &*key.to_string_lossy());
    let https = Receiver::start(&pair, "https", secure, Some(certificate)).await;
    let http = Receiver::start(&pair, "http", plain, None).await;
    pair.start_both().await;
    there_and_back(&pair).await;

    // 410: never again, and the next says how many were given up.
    let gone = http.took("/first/3/410", 1).await;
    assert_eq!(words(&gone), STORY, "each once");
    assert_eq!(gone[3]["body"]["missed"], 3);
    let stands = channel(node, "gone").await.unwrap();
    assert_eq!(
        (&stands["dropped"], &stands["sent"]),
        (&json!(3), &json!(1))
    );

    // https: whom the CA does not vouch for gets nothing, and that is an alarm in words, which the other receiver is told.
    let stranger = soon("the wrong certificate to be said", async || {
        let stands = channel(node, "stranger").await?;
        let error = stands["last_error"].as_str().unwrap_or_default();
        if error.contains("invalid peer certificate") && stands["state"] == "failing" {
            Ok(stands)
        } else {
            Err(stands.to_string())
        }
    })
    .await;
    assert_eq!(stranger["queued"], 4);
    assert!(https.posts("/first/0/205").is_empty());
    let told = soon("the other receiver to be told", async || {
        let posts = https.posts("/first/0/204");
        let down = posts
            .iter()
            .find(|p| p["body"]["data"]["subject"] == "stranger");
        down.cloned().ok_or_else(|| format!("{:?}", words(&posts)))
    })
    .await;
    let text = told["body"]["data"]["text"].as_str().unwrap();
    assert!(text.contains("certificate"), "{text}");

    // 503 with Retry-After, and a kill in between: in order, none lost, the same again at most where the kill was.
    http.took("/each/1/503", 1).await;
    node.kill().await;
    ten_minutes_pass(node, "away").await;
    node.start().await;
    let posts = soon("all of the story", async || {
        let posts = http.posts("/each/1/503");
        let mut taken: Vec<Value> = posts
            .iter()
            .filter(|p| p["answer"] == 204)
            .cloned()
            .collect();
        taken.dedup_by_key(|p| p["id"].clone());
        if words(&taken) == STORY {
            Ok(posts)
        } else {
            Err(format!("{:?}", words(&taken)))
        }
    })
    .await;
    let mut at_once = 0;
    for two in posts.windows(2) {
        let waited = two[1]["at"].as_f64().unwrap() - two[0]["at"].as_f64().unwrap();
        if two[0]["answer"] == 503 {
            assert_eq!(two[0]["id"], two[1]["id"], "never the next before");
            at_once += usize::from(waited < 0.9);
        }
    }
    // A node that starts again does not know what was asked of its life before.
    assert!(at_once <= 1, "Retry-After is kept to: {posts:?}");

    // Nobody there for longer than `give_up_after`: given up, and that is told.
    soon("what is too old to be given up", async || {
        let stands = channel(node, "away").await?;
        if stands["queued"] == 0 && stands["dropped"] == 4 {
            Ok(())
        } else {
            Err(stands.to_string())
        }
    })
    .await;
    let given_up = |a: &Value| a["code"] == "alarm_channel_dropped" && a["subject"] == "away";
    let alarms = node.get("/api/v1/alarms").await;
    assert!(alarms["items"].as_array().unwrap().iter().any(given_up));
}
