//! Guarded operation: orders for later, dry runs, maintenance mode, the witness (R-FO-2, R-FO-4,
//! R-FO-7, R-FB-1, R-FB-2, R-FB-6, R-TO-7), each at either node and while the other is down.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use vmsync_tests::pair::{Cut, Net, Node, ONE, Pair, TWO, Way, soon};

const ACTIVATE: &str = "/api/v1/groups/primary/activate-backup";
const FAILBACK: &str = "/api/v1/groups/primary/failback";
const SCHEDULE: &str = "/api/v1/groups/primary/schedule";
const HISTORY: &str = "/api/v1/groups/primary/history";
const MAINTENANCE: &str = "/api/v1/maintenance";

async fn group(node: &Node) -> Value {
    node.try_status().await.unwrap()["groups"][0].clone()
}

/// RFC 3339, so many seconds from now.
fn ahead(seconds: u64) -> String {
    let now = vmsync::clock::wall();
    vmsync_config::words::UnixMillis(now.0 + seconds * 1000).to_string()
}

/// Quick failover by sight alone, and failback only when an administrator says so.
fn quick(pair: &Pair) {
    pair.configure_both("trigger = \"phones\"", "trigger = \"visibility\"");
    pair.configure_both("failover_after = \"3m\"", "failover_after = \"1s\"");
    pair.configure_both("policy = \"graceful\"", "policy = \"manual\"");
}

/// Waits until the history of `node` has a line of `kind` with `words`.
async fn told(node: &Node, kind: &str, words: &str) -> Value {
    soon(
        &format!("{kind:?} with {words:?} at {}", node.id),
        async || {
            let list = node.try_get(HISTORY).await?;
            let items = list["items"].as_array().cloned().unwrap_or_default();
            let says = |t: &&Value| {
                t["kind"] == kind && t["reason"].as_str().is_some_and(|r| r.contains(words))
            };
            items
                .iter()
                .find(says)
                .cloned()
                .ok_or_else(|| list.to_string())
        },
    )
    .await
}

async fn shows(node: &Node, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    soon(&format!("{what} at {}", node.id), async || {
        let status = node.try_status().await?;
        if is(&status) {
            Ok(status)
        } else {
            Err(json!({"groups": status["groups"], "maintenance": status["maintenance"], "witness": status["witness"], "peer": status["peer"]}).to_string())
        }
    })
    .await
}

#[tokio::test]
async fn an_order_is_taken_at_the_home_shown_by_both_and_carried_out_by_the_backup() {
    let pair = Pair::start().await;
    let (home, backup) = (&pair.primary, &pair.secondary);
    let at = ahead(8);
    let ask = json!({"at": at, "expected_owner": "vmpro1", "reason": "new memory"});
    let answer = home.post(ACTIVATE, &ask).await.must_be(202).json();
    assert_eq!(
        (&answer["owner"], &answer["scheduled"]["what"]),
        (&json!("vmpro1"), &json!("activate-backup"))
    );
    for node in pair.nodes() {
        let id = &answer["scheduled"]["id"];
        shows(node, "the order", |s| {
            s["groups"][0]["scheduled"]["id"] == *id
        })
        .await;
        assert_eq!(
            node.get(SCHEDULE).await["scheduled"]["reason"],
            "new memory"
        );
        assert_eq!(group(node).await["owner"], "vmpro1", "not before its time");
    }
    pair.served_by(backup).await;
    assert!(ahead(0) >= at, "not before its time");
    for node in pair.nodes() {
        told(node, "scheduled", "new memory").await;
        told(
            node,
            "failover",
            "an operator activated the backup vmpro2: new memory",
        )
        .await;
        told(node, "carried-out", "new memory").await;
        shows(node, "no order", |s| s["groups"][0]["scheduled"].is_null()).await;
    }
    let epoch = group(backup).await["epoch"].clone();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(group(backup).await["epoch"], epoch, "carried out once");
}

#[tokio::test]
async fn an_order_is_cancelled_at_the_other_node_and_void_once_the_group_has_moved() {
    let pair = Pair::start().await;
    let (home, backup) = (&pair.primary, &pair.secondary);
    backup
        .delete(SCHEDULE)
        .await
        .problem(404, "not_found", &["scheduled"]);
    for (at, words) in [("tomorrow", "RFC 3339"), ("2020-01-01T00:00:00Z", "past")] {
        let refused = home.post(ACTIVATE, &json!({"at": at})).await;
        refused.problem(422, "invalid", &[words]);
    }
    let stale = json!({"at": ahead(60), "expected_owner": "vmpro2"});
    home.post(ACTIVATE, &stale)
        .await
        .problem(409, "stale_expected_owner", &["vmpro1"]);
    home.post(FAILBACK, &json!({"at": ahead(60)}))
        .await
        .problem(409, "already_there", &[]);

    backup
        .post(ACTIVATE, &json!({"at": ahead(60)}))
        .await
        .must_be(202);
    shows(home, "the order", |s| {
        s["groups"][0]["scheduled"].is_object()
    })
    .await;
    home.delete(SCHEDULE).await.must_be(200);
    for node in pair.nodes() {
        told(node, "dropped", "cancelled by an operator at vmpro1").await;
    }

    // Moved by hand before its time: what was meant then is not meant now.
    home.post(ACTIVATE, &json!({"at": ahead(60)}))
        .await
        .must_be(202);
    shows(backup, "the order", |s| {
        s["groups"][0]["scheduled"].is_object()
    })
    .await;
    backup.post(ACTIVATE, &json!({})).await.must_be(202);
    for node in pair.nodes() {
        told(node, "dropped", "void: the group has moved").await;
    }
    backup.alarm("order_dropped").await;
}

/// R-TO-7: the home's operator asks while the node that decides is down.
#[tokio::test]
async fn a_failback_asked_for_while_the_backup_is_down_is_done_when_it_is_back() {
    let pair = Pair::laid_out().await;
    quick(&pair);
    pair.start_both().await;
    let (home, backup) = (&pair.primary, &pair.secondary);
    home.post(ACTIVATE, &json!({})).await.must_be(202);
    pair.served_by(backup).await;
    backup.kill().await;
    shows(home, "the loss of its peer", |s| {
        s["peer"]["visible"] == false
    })
    .await;
    home.alarm("peer_lost").await;

    // Nobody can activate a backup that is not there.
    home.post(ACTIVATE, &json!({}))
        .await
        .problem(503, "peer_unreachable", &["vmpro2"]);
    let answer = home
        .post(FAILBACK, &json!({"reason": "it burnt"}))
        .await
        .must_be(202)
        .json();
    assert_eq!(answer["owner"], "vmpro2");
    assert!(
        answer["what"].as_str().unwrap().contains("noted"),
        "{answer}"
    );
    assert_eq!(
        group(home).await["serving_here"],
        "partition",
        "it answers meanwhile"
    );
    home.leave("2001", "1", ONE).await;

    // It is kept over a restart of the home as well.
    home.kill().await;
    pair.start_both().await;
    pair.served_by(home).await;
    for node in pair.nodes() {
        told(node, "failback", "it burnt").await;
    }
}

#[tokio::test]
async fn a_dry_run_names_the_messages_that_are_on_one_side_only() {
    let pair = Pair::laid_out().await;
    let net = Net::between(&pair);
    pair.start_both().await;
    let (home, backup) = (&pair.primary, &pair.secondary);
    net.cut(Way::Smtp, home, backup, Cut::Refused);
    let id = home.leave("2001", "1", ONE).await;
    for (node, side) in [(home, "here"), (backup, "there")] {
        let dry = soon("both sides to be told", async || {
            let dry = node
                .post(ACTIVATE, &json!({"dry_run": true}))
                .await
                .must_be(200)
                .json();
            if dry["one_sided"][side]["messages"] == 1 {
                Ok(dry)
            } else {
                Err(dry.to_string())
            }
        })
        .await;
        assert_eq!(dry["one_sided"][side]["ids"], json!([id]), "{dry}");
        let other = if side == "here" { "there" } else { "here" };
        assert_eq!(dry["one_sided"][other]["messages"], 0, "{dry}");
    }
    net.heal();
    pair.in_step().await;
    let dry = home
        .post(ACTIVATE, &json!({"dry_run": true}))
        .await
        .must_be(200)
        .json();
    assert_eq!(dry["one_sided"]["here"]["messages"], 0, "{dry}");
    assert_eq!(group(home).await["owner"], "vmpro1", "nothing was changed");
}

#[tokio::test]
async fn in_maintenance_nothing_is_decided_without_an_operator() {
    let pair = Pair::laid_out().await;
    quick(&pair);
    pair.start_both().await;
    let (home, backup) = (&pair.primary, &pair.secondary);
    let put = |node: &Node, body: Value| node.request(Method::PUT, MAINTENANCE).json(&body);
    put(home, json!({"for": "90 days"}))
        .send()
        .await
        .problem(422, "invalid", &["for"]);
    put(home, json!({"reason": "a new switch"}))
        .send()
        .await
        .must_be(200);
    for node in pair.nodes() {
        let status = shows(node, "maintenance", |s| s["maintenance"].is_object()).await;
        assert_eq!(
            (
                &status["maintenance"]["by"],
                &status["maintenance"]["reason"]
            ),
            (&json!("vmpro1"), &json!("a new switch"))
        );
        told(node, "maintenance", "a new switch").await;
        node.alarm("maintenance").await;
    }
    home.kill().await;
    let waits = |s: &Value| {
        s["groups"][0]["failback"]["waiting_for"]
            .to_string()
            .contains("maintenance")
    };
    shows(backup, "that it waits for the end of maintenance", waits).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(group(backup).await["owner"], "vmpro1");
    assert_eq!(
        group(backup).await["serving_here"],
        "partition",
        "callers are answered"
    );

    // Asked again, the new words and the new time count; status says until when.
    put(backup, json!({"reason": "it takes longer", "for": "2h"}))
        .send()
        .await
        .must_be(200);
    let until = |s: &Value| s["groups"][0]["waiting_until"].is_string();
    let status = shows(backup, "until when it waits", until).await;
    let words = status["groups"][0]["failback"]["waiting_for"].to_string();
    assert!(words.contains("it takes longer"), "{words}");

    // It outlives the process, and ends at the node that is there.
    backup.kill().await;
    backup.start().await;
    shows(backup, "maintenance", |s| s["maintenance"].is_object()).await;
    backup.delete(MAINTENANCE).await.must_be(200);
    backup.names_owner(backup).await;
    told(backup, "maintenance-ended", "vmpro2").await;
    home.start().await;
    shows(home, "the end of maintenance", |s| {
        s["maintenance"].is_null()
    })
    .await;
    pair.served_by(backup).await;
}

/// A third process, known to both: only the side that sees it fails over by itself.
#[tokio::test]
async fn without_the_witness_a_backup_that_may_be_cut_off_itself_stays_quiet() {
    let pair = Pair::laid_out().await;
    quick(&pair);
    let trigger = "trigger = \"visibility\"";
    let consistent = format!("{trigger}\nanswering_beats_consistency = false");
    pair.configure_both(trigger, &consistent);
    let running = pair.has_a_witness();
    pair.start_both().await;
    let (home, backup) = (&pair.primary, &pair.secondary);
    shows(backup, "the witness", |s| s["witness"]["seen"] == true).await;

    // The backup loses both: it may be cut off itself, so it neither takes over nor answers.
    running.kill().await;
    backup.alarm("witness_unseen").await;
    home.kill().await;
    let waits = |s: &Value| {
        s["groups"][0]["failback"]["waiting_for"]
            .to_string()
            .contains("witness")
    };
    shows(backup, "that it waits for the witness", waits).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(group(backup).await["owner"], "vmpro1");
    let refused = backup.deposit("2001", "1", ONE).send().await;
    refused.problem(503, "isolated", &["answering_beats_consistency"]);

    let running = pair.starts_witness();
    backup.names_owner(backup).await;
    backup.leave("2001", "2", TWO).await;

    // An owner that sees neither its peer nor the witness falls silent too.
    running.kill().await;
    shows(backup, "its isolation", |s| {
        s["groups"][0]["serving_here"] == "isolated"
    })
    .await;
    home.start().await;
    shows(backup, "its peer", |s| {
        s["groups"][0]["serving_here"] == "yes"
    })
    .await;
}

/// Waits until `node` shows every link in this colour (R-AL-2).
async fn links(node: &Node, colour: &str) {
    shows(node, &format!("{colour} links"), |s| {
        let links = s["links"].as_array().cloned().unwrap_or_default();
        !links.is_empty() && links.iter().all(|l| l["colour"] == colour)
    })
    .await;
}

/// R-FO-7: what the backup knows of phones survives its restart, also before a failover.
#[tokio::test]
async fn evidence_of_phones_outlives_the_backup() {
    let pair = Pair::laid_out().await;
    quick(&pair);
    pair.configure_both("trigger = \"visibility\"", "trigger = \"phones\"");
    pair.configure_both("failover_after = \"1s\"", "failover_after = \"2s\"");
    pair.start_both().await;
    let (home, backup) = (&pair.primary, &pair.secondary);
    links(home, "dark-green").await;
    links(backup, "white").await;
    home.kill().await;
    let needs = |s: &Value| {
        s["groups"][0]["failback"]["waiting_for"]
            .to_string()
            .contains("desk phone")
    };
    shows(backup, "that a phone is all it waits for", |s| {
        needs(s)
            && !s["groups"][0]["failback"]["waiting_for"]
                .to_string()
                .contains("invisible")
    })
    .await;
    links(backup, "orange").await;
    // The phone registers while the pair is in maintenance, so that nothing follows yet.
    backup
        .request(Method::PUT, MAINTENANCE)
        .json(&json!({}))
        .send()
        .await
        .must_be(200);
    let phone = json!({"extension": "2001", "kind": "desk", "home_system": "vmpro1", "at_system": "vmpro2"});
    let seen = backup
        .post("/api/v1/phones", &phone)
        .await
        .must_be(200)
        .json();
    assert!(
        seen["evidence"].as_str().unwrap().starts_with("counts"),
        "{seen}"
    );
    shows(backup, "the phone", |s| {
        s["groups"][0]["phones_counted"] == 1
    })
    .await;
    backup.kill().await;
    backup.start().await;
    assert_eq!(group(backup).await["phones_counted"], 1);
    backup.delete(MAINTENANCE).await.must_be(200);
    let status = backup.names_owner(backup).await;
    let reason = status["groups"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("a desk phone of it registered"), "{reason}");
    links(backup, "yellow").await;
}

/// R-TO-2, R-TO-3: switching modes live, refused while in resilience.
#[tokio::test]
async fn the_mode_is_switched_live_on_both_nodes_but_not_in_resilience() {
    let pair = Pair::laid_out().await;
    // Only an administrator brings a group home here.
    pair.configure_both("policy = \"graceful\"", "policy = \"manual\"");
    pair.start_both().await;
    let (home, backup) = (&pair.primary, &pair.secondary);
    let put = |node: &Node, body: Value| node.request(Method::PUT, "/api/v1/topology").json(&body);
    let single = json!({"destinations": {"branch": "99998"}});
    put(home, single)
        .send()
        .await
        .problem(422, "invalid", &["branch", "99998"]);
    let unknown = json!({"mode": "dual-active", "destinations": {"moon": "99998"}});
    put(home, unknown)
        .send()
        .await
        .problem(422, "invalid", &["moon"]);

    let dual = json!({"mode": "dual-active", "destinations": {"branch": "99998"}});
    home.post(ACTIVATE, &json!({})).await.must_be(202);
    pair.served_by(backup).await;
    for node in pair.nodes() {
        put(node, dual.clone())
            .send()
            .await
            .problem(409, "in_resilience", &["primary", "vmpro2"]);
    }
    soon("failback", async || {
        let answer = home.post(FAILBACK, &json!({})).await;
        if answer.status == 202 {
            Ok(())
        } else {
            Err(answer.text())
        }
    })
    .await;
    pair.served_by(home).await;
    for node in pair.nodes() {
        shows(node, "normal operation", |s| {
            s["groups"][0]["owner"] == "vmpro1"
        })
        .await;
    }

    // Asked at the secondary; both follow, and each serves its own.
    let answer = put(backup, dual).send().await.must_be(200).json();
    assert_eq!(answer["groups"][1]["home"], "vmpro2", "{answer}");
    for node in pair.nodes() {
        let status = shows(node, "two groups", |s| s["groups"][1].is_object()).await;
        assert_eq!(status["mode"], "dual-active");
        let route = node.get("/api/v1/route?system=branch").await;
        assert_eq!(
            (&route["owner"], &route["group"]),
            (&json!("vmpro2"), &json!("secondary"))
        );
        let route = node.get("/api/v1/route?system=headquarters").await;
        assert_eq!(route["owner"], "vmpro1");
    }
    // It is what counts after a restart, too, whatever the file says; and the new group fails over.
    backup.kill().await;
    backup.start().await;
    let moved = home
        .post("/api/v1/groups/secondary/activate-backup", &json!({}))
        .await;
    assert_eq!(moved.must_be(202).json()["owner"], "vmpro1");
    put(home, json!({"mode": "single-active"}))
        .send()
        .await
        .problem(409, "in_resilience", &["secondary"]);
    soon("failback of the second group", async || {
        let answer = home
            .post("/api/v1/groups/secondary/failback", &json!({}))
            .await;
        if answer.status == 202 {
            Ok(())
        } else {
            Err(answer.text())
        }
    })
    .await;
    for node in pair.nodes() {
        shows(node, "both at home", |s| {
            s["groups"][1]["owner"] == "vmpro2"
        })
        .await;
    }
    // Granted once the node that was just started mails again.
    soon("the switch back", async || {
        let answer = put(home, json!({"mode": "single-active"})).send().await;
        if answer.status == 200 {
            Ok(())
        } else {
            Err(answer.text())
        }
    })
    .await;
    for node in pair.nodes() {
        shows(node, "one group", |s| {
            s["groups"].as_array().map(Vec::len) == Some(1)
        })
        .await;
        let route = node.get("/api/v1/route?system=branch").await;
        assert_eq!(
            route["owner"], "vmpro1",
            "in single-active everybody's is the primary (R-TO-1)"
        );
    }
}

/// R-TO-2: both nodes are in one mode; files that differ are told, and settled live.
#[tokio::test]
async fn nodes_in_different_modes_say_so_until_both_are_switched_alike() {
    let pair = Pair::laid_out().await;
    pair.primary
        .configure("mode = \"single-active\"", "mode = \"dual-active\"");
    // Recordings stay where they are made then (R-VR-3).
    pair.primary
        .configure_between("folder = \"VRL\"\n", "\n[[systems]]", "");
    pair.start_both().await;
    for node in pair.nodes() {
        let alarm = node.alarm("mode_mismatch").await;
        assert!(
            alarm["text"]
                .as_str()
                .unwrap()
                .contains("PUT /api/v1/topology"),
            "{alarm}"
        );
    }
    let alike = json!({"mode": "single-active"});
    let put = pair
        .secondary
        .request(Method::PUT, "/api/v1/topology")
        .json(&alike);
    put.send().await.must_be(200);
    for node in pair.nodes() {
        soon("the end of the alarm", async || {
            let alarms = node.try_get("/api/v1/alarms?active=true").await?;
            if alarms.to_string().contains("mode_mismatch") {
                Err(alarms.to_string())
            } else {
                Ok(())
            }
        })
        .await;
    }
}
