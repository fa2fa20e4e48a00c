//! The other features with a real pair: phones register, the home's node is killed, decisions appear
//! at the survivor, survive its restart, and go home (table of other features).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::timeout;
use vmsync_tests::pair::{Node, Pair, soon};

/// Short timers, and a branch that backs headquarters up.
fn configured(pair: &Pair) {
    for node in pair.nodes() {
        let hq = "name = \"headquarters\"";
        node.configure(
            hq,
            &format!(
                "{hq}\nbackup = \"branch\"\nbacked_up = [\"phones\", \"users\", \"hunt-groups\", \"portal\"]\nportal_failback = \"manual\""
            ),
        );
        // The branch stands at vmpro2, which so decides about headquarters.
        node.configure(
            "name = \"branch\"\nhome = \"vmpro1\"",
            "name = \"branch\"\nhome = \"vmpro2\"",
        );
        node.configure_more(
            "[features]\nfailover_after = \"2s\"\nstable_for = \"3s\"\ninvisible_after = \"60s\"\nhomeless_prevention = \"4s\"",
        );
    }
}

async fn feature(node: &Node, feature: &str) -> Result<Value, String> {
    let path = format!("/api/v1/features?system=headquarters&feature={feature}");
    Ok(node.try_get(&path).await?["items"][0].clone())
}

async fn stands(node: &Node, name: &str, state: &str, served_by: &str) -> Value {
    soon(&format!("{name} {state}, by {served_by}"), async || {
        let now = feature(node, name).await?;
        if now["state"] == state && now["served_by"] == served_by {
            Ok(now)
        } else {
            Err(now.to_string())
        }
    })
    .await
}

fn phone(extension: &str, kind: &str, at: &str) -> Value {
    json!({"extension": extension, "kind": kind, "home_system": "headquarters", "at_system": at})
}

/// Reports a phone; the answer.
async fn registers(node: &Node, extension: &str, kind: &str, at: &str) -> Value {
    let phone = phone(extension, kind, at);
    let answer = node.post("/api/v1/phones", &phone).await;
    answer.must_be(200).json()
}

/// Reads the event stream until an event's data says what is wanted.
async fn told(node: &Node, wanted: impl Fn(&Value) -> bool) -> Value {
    let response = vmsync_tests::pair::client()
        .get(format!("{}/api/v1/events?kinds=feature", node.http))
        .bearer_auth(&node.read_token)
        // All that is kept: the reader was away since before anything happened.
        .header("Last-Event-ID", "1-1")
        .send()
        .await
        .unwrap();
    let mut response = response;
    let mut text = String::new();
    let read = async {
        while let Some(chunk) = response.chunk().await.unwrap() {
            text.push_str(&String::from_utf8_lossy(&chunk));
            for line in text.lines().filter_map(|l| l.strip_prefix("data: ")) {
                let event: Value = serde_json::from_str(line).unwrap_or_default();
                let decisions = event["data"]["decisions"].as_array();
                let found = decisions.and_then(|all| all.iter().find(|d| wanted(d)));
                if let Some(found) = found {
                    return found.clone();
                }
            }
        }
        panic!("the stream ended: {text}");
    };
    timeout(Duration::from_secs(10), read).await.unwrap()
}

#[tokio::test]
async fn phones_go_over_with_their_users_and_hunt_groups_and_home_again() {
    let pair = Pair::laid_out().await;
    configured(&pair);
    pair.start_both().await;
    let survivor = &pair.secondary;

    // At home: registered, and told to be there.
    let answer = registers(survivor, "2001", "desk", "headquarters").await;
    assert_eq!(answer["may_register"], json!(["headquarters"]), "{answer}");
    assert_eq!(answer["move_to"], Value::Null);
    stands(survivor, "phones", "normal", "headquarters").await;
    // R-FO-5: no evidence while the home is visible.
    registers(survivor, "2002", "desk", "branch").await;

    pair.primary.kill().await;
    let pending = stands(survivor, "phones", "pending", "headquarters").await;
    assert!(pending["deadline"].is_string() || pending["waiting_for"][0].is_string());
    assert_eq!(pending["decided_by"], "vmpro2");
    soon("the time to be over", async || {
        let now = feature(survivor, "phones").await?;
        let waits = now["waiting_for"].as_array().cloned().unwrap_or_default();
        if waits.len() == 1 {
            Ok(())
        } else {
            Err(now.to_string())
        }
    })
    .await;
    // A softphone never does.
    registers(survivor, "2003", "softphone", "branch").await;
    assert_eq!(
        feature(survivor, "phones").await.unwrap()["state"],
        "pending"
    );
    // A desk phone does, and the answer says so at once.
    let over = registers(survivor, "2002", "desk", "branch").await;
    assert_eq!(over["may_register"], json!(["branch"]), "{over}");
    for name in ["phones", "users", "hunt-groups"] {
        let now = stands(survivor, name, "resilience", "branch").await;
        assert_eq!(now["epoch"], 1, "{now}");
    }
    let event = told(survivor, |d| d["feature"] == "phones" && d["epoch"] == 1).await;
    assert_eq!(event["served_by"], "branch");
    let alarm = survivor.alarm("phones_failover").await;
    assert_eq!(alarm["subject"], "headquarters");

    // R-FO-7: it survives the survivor's own end.
    survivor.kill().await;
    survivor.launch().await;
    survivor.ready().await;
    let again = stands(survivor, "phones", "resilience", "branch").await;
    assert_eq!(
        (&again["epoch"], &again["because"]),
        (&json!(1), &event["because"])
    );
    let phones = survivor.get("/api/v1/systems/headquarters/phones").await;
    let kept = phones["items"].as_array().unwrap();
    let kept = kept.iter().find(|p| p["extension"] == "2002").unwrap();
    assert_eq!(kept["at_system"], "branch");
    survivor.alarm("phones_failover").await;

    // Home again, after it was visible for long enough.
    pair.primary.start().await;
    for name in ["phones", "users", "hunt-groups"] {
        let now = stands(survivor, name, "normal", "headquarters").await;
        assert_eq!(now["epoch"], 2, "{now}");
    }
    let event = told(survivor, |d| d["feature"] == "users" && d["epoch"] == 2).await;
    assert_eq!(event["state"], "normal");
    soon("the alarm to end", async || {
        let up = survivor.try_get("/api/v1/alarms?active=true").await?;
        let still = up["items"].as_array().unwrap().iter();
        if still.clone().any(|a| a["code"] == "phones_failover") {
            Err(up.to_string())
        } else {
            Ok(())
        }
    })
    .await;
    let home = registers(survivor, "2002", "desk", "branch").await;
    assert_eq!(home["move_to"], "headquarters", "{home}");
}

#[tokio::test]
async fn a_manual_portal_waits_for_an_administrator_and_systems_tell_of_themselves() {
    let pair = Pair::laid_out().await;
    configured(&pair);
    pair.start_both().await;
    let node = &pair.secondary;
    let polls = "/api/v1/systems/headquarters/polls";
    let failback = "/api/v1/features/headquarters/portal/failback";
    node.post(polls, &json!({"portal": "up"}))
        .await
        .must_be(200);
    node.post(failback, &json!({}))
        .await
        .problem(409, "already_there", &["headquarters"]);
    node.post(polls, &json!({"portal": "down"}))
        .await
        .must_be(200);
    stands(node, "portal", "resilience", "branch").await;
    node.post(failback, &json!({}))
        .await
        .problem(409, "home_invisible", &["portal"]);
    node.post(polls, &json!({"portal": "up"}))
        .await
        .must_be(200);
    stands(node, "portal", "returning", "branch").await;
    let dry = node
        .post(failback, &json!({"dry_run": true}))
        .await
        .must_be(200);
    assert_eq!(dry.json()["epoch"], 2);
    node.post(failback, &json!({"expected_epoch": 7}))
        .await
        .problem(409, "stale_expected_epoch", &["epoch 1"]);
    let done = node
        .post(failback, &json!({"expected_epoch": 1}))
        .await
        .must_be(202);
    assert_eq!(done.json()["served_by"], "headquarters");
    node.post("/api/v1/features/headquarters/phones/failback", &json!({}))
        .await
        .problem(409, "already_there", &["headquarters"]);
    node.post("/api/v1/features/headquarters/fax/failback", &json!({}))
        .await
        .problem(404, "not_found", &["fax"]);

    let alive = node
        .post("/api/v1/systems/headquarters/alive", &json!({}))
        .await;
    assert_eq!(alive.must_be(200).json()["reports"], true);
    node.post("/api/v1/systems/moon/alive", &json!({}))
        .await
        .problem(404, "unknown_system", &["moon"]);
    let many = json!({"systems": ["headquarters", "branch", "moon"]});
    let many = node
        .post("/api/v1/systems/alive", &many)
        .await
        .must_be(200)
        .json();
    assert_eq!(many, json!({"taken": 2, "unknown": ["moon"]}));
    let systems = node.get("/api/v1/systems?limit=1").await;
    assert_eq!(systems["items"].as_array().unwrap().len(), 1);
    assert!(systems["next"].is_string());
    let wrong = node
        .request(Method::GET, "/api/v1/features?feature=fax")
        .send()
        .await;
    wrong.problem(404, "not_found", &["fax"]);
}
