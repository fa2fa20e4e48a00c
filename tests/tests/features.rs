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
use vmsync_tests::pair::{Node, Pair, group_of, soon};

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
    asked_at_the_node_that_does_not_decide(&pair).await;
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

    // The list of registrations goes on where the page before ended.
    for extension in ["2001", "2002", "2003"] {
        registers(node, extension, "desk", "headquarters").await;
    }
    let (mut listed, mut path) = (Vec::new(), "/api/v1/phones?limit=2".to_owned());
    loop {
        let page = node.get(&path).await;
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2, "{page}");
        listed.extend(items.iter().map(|p| p["extension"].clone()));
        match page["next"].as_str() {
            Some(next) => path = format!("/api/v1/phones?limit=2&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(
        json!(listed),
        json!(["2003", "2002", "2001"]),
        "newest first"
    );
}

/// R-TO-7: either node takes an administrator's failback; the one that decides carries it out.
async fn asked_at_the_node_that_does_not_decide(pair: &Pair) {
    let (decides, other) = (&pair.secondary, &pair.primary);
    let polls = "/api/v1/systems/headquarters/polls";
    let failback = "/api/v1/features/headquarters/portal/failback";
    let portal = async |node: &Node, state: &str| {
        let told = node.post(polls, &json!({"portal": state})).await;
        told.must_be(200);
    };
    portal(decides, "down").await;
    stands(decides, "portal", "resilience", "branch").await;
    portal(decides, "up").await;
    let returning = stands(decides, "portal", "returning", "branch").await;
    assert_eq!(returning["epoch"], 3, "{returning}");

    let dry = other.post(failback, &json!({"dry_run": true})).await;
    let dry = dry.must_be(200).json();
    assert_eq!(
        (&dry["epoch"], &dry["decided_by"]),
        (&json!(4), &json!("vmpro2"))
    );
    let stale = other.post(failback, &json!({"expected_epoch": 1})).await;
    stale.problem(409, "stale_expected_epoch", &["epoch 3"]);
    let done = other.post(failback, &json!({"expected_epoch": 3})).await;
    let done = done.must_be(202).json();
    assert_eq!(
        (&done["epoch"], &done["served_by"]),
        (&json!(4), &json!("headquarters"))
    );
    stands(decides, "portal", "normal", "headquarters").await;
    other
        .post(failback, &json!({}))
        .await
        .problem(409, "already_there", &["headquarters"]);

    // While the one that decides is away the other takes over; afterwards both have: one request
    // brings it home at both.
    decides.kill().await;
    portal(other, "down").await;
    stands(other, "portal", "resilience", "branch").await;
    decides.start().await;
    portal(decides, "down").await;
    stands(decides, "portal", "resilience", "branch").await;
    for node in pair.nodes() {
        portal(node, "up").await;
        stands(node, "portal", "returning", "branch").await;
    }
    soon("the node that decides to be asked", async || {
        let done = other.post(failback, &json!({})).await;
        if done.status == 202 && done.json()["epoch"] == 6 {
            Ok(())
        } else {
            Err(done.text())
        }
    })
    .await;
    for node in pair.nodes() {
        stands(node, "portal", "normal", "headquarters").await;
    }
}

/// R-TO-2, R-TO-3: the other features follow a live switch without a restart, with what was known;
/// and so does what counts as evidence for voicemail (R-FO-1).
#[tokio::test]
async fn features_and_evidence_follow_a_live_switch() {
    let pair = Pair::laid_out().await;
    pair.fails_over_quickly();
    pair.configure_both("trigger = \"visibility\"", "trigger = \"phones\"");
    for node in pair.nodes() {
        let hq = "name = \"headquarters\"";
        let backed_up = "backup = \"branch\"\nbacked_up = [\"phones\", \"portal\"]";
        node.configure(hq, &format!("{hq}\n{backed_up}"));
        node.configure_more("[features]\nfailover_after = \"1s\"\ninvisible_after = \"60s\"");
    }
    pair.start_both().await;
    let (first, second) = (&pair.primary, &pair.secondary);
    let decided_by = async |node: &Node, who: &str| {
        soon(&format!("{who} to decide, at {}", node.id), async || {
            let now = feature(node, "phones").await?;
            if now["decided_by"] == who {
                Ok(())
            } else {
                Err(now.to_string())
            }
        })
        .await;
    };
    // Both systems stand at the primary, which so decides about headquarters.
    for node in pair.nodes() {
        decided_by(node, "vmpro1").await;
    }
    let polls = "/api/v1/systems/headquarters/polls";
    for state in ["up", "down"] {
        let told = first.post(polls, &json!({"portal": state})).await;
        told.must_be(200);
    }
    let before = stands(first, "portal", "resilience", "branch").await;

    let dual = json!({"mode": "dual-active", "destinations": {"branch": "99998"}});
    let put = second.request(Method::PUT, "/api/v1/topology").json(&dual);
    put.send().await.must_be(200);
    for node in pair.nodes() {
        decided_by(node, "vmpro2").await;
        let systems = node.get("/api/v1/systems").await;
        let branch = systems["items"].as_array().unwrap().iter();
        let branch = branch.clone().find(|s| s["name"] == "branch").unwrap();
        assert_eq!(branch["home"], "vmpro2", "{branch}");
    }
    // What a node took over it still knows, and brings home.
    let kept = feature(first, "portal").await.unwrap();
    assert_eq!(
        (&kept["epoch"], &kept["since"], &kept["because"]),
        (&before["epoch"], &before["since"], &before["because"])
    );
    let told = first.post(polls, &json!({"portal": "up"})).await;
    told.must_be(200);
    let home = stands(first, "portal", "normal", "headquarters").await;
    assert_eq!(home["epoch"], 2, "{home}");

    // The branch is the secondary's now: its phones are evidence at the primary's system.
    let serves = async |node: &Node, group: &str, owner: &str, phone: Value| {
        soon(&format!("{owner} to serve group {group}"), async || {
            if !phone.is_null() {
                let answer = node.post("/api/v1/phones", &phone).await;
                answer.must_be(200);
            }
            let now = group_of(&node.try_status().await?, group);
            if now["owner"] == owner {
                Ok(())
            } else {
                Err(now.to_string())
            }
        })
        .await;
    };
    second.kill().await;
    let of_branch = json!({"extension": "3001", "kind": "desk", "home_system": "branch", "at_system": "headquarters"});
    serves(first, "secondary", "vmpro1", of_branch).await;
    // A start reads the same: what was switched live counts from its first decision on.
    second.start().await;
    decided_by(second, "vmpro2").await;
    serves(second, "secondary", "vmpro2", Value::Null).await;

    first.kill().await;
    let of_headquarters = phone("2001", "desk", "branch");
    serves(second, "primary", "vmpro2", of_headquarters).await;
    soon("the phones of headquarters to go over", async || {
        registers(second, "2001", "desk", "branch").await;
        let now = feature(second, "phones").await?;
        let over = now["state"] == "resilience" && now["served_by"] == "branch";
        if over && now["decided_by"] == "vmpro2" {
            Ok(())
        } else {
            Err(now.to_string())
        }
    })
    .await;
}
