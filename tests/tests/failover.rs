//! Who serves whom: failover, failback, what holds them, and what survives (R-FO, R-FB).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use vmsync_tests::pair::{Answer, Node, ONE, OpenCall, Pair, TWO, soon};

const ACTIVATE: &str = "/api/v1/groups/primary/activate-backup";
const FAILBACK: &str = "/api/v1/groups/primary/failback";
const HISTORY: &str = "/api/v1/groups/primary/history";

async fn group(node: &Node) -> Value {
    node.try_status().await.unwrap()["groups"][0].clone()
}

/// Asks `node` for failback until it is granted: right after a start it is not, because the nodes
/// have not exchanged yet what they hold (R-FB-1, R-FB-2).
async fn granted(node: &Node, ask: Value) {
    soon("failback to be granted", async || {
        let answer = node.post(FAILBACK, &ask).await;
        let waits = answer.json()["code"] == "sync_not_started";
        assert!(answer.status == 202 || waits, "{}", answer.text());
        if waits { Err(answer.text()) } else { Ok(()) }
    })
    .await;
}

#[tokio::test]
async fn an_operator_moves_the_group_from_either_node_and_each_move_is_told() {
    let pair = Pair::start().await;
    let (home, backup) = (&pair.primary, &pair.secondary);
    let start = group(home).await["epoch"].as_u64().unwrap();

    // Said first, done later: a dry run changes nothing; nor does a request that is out of date.
    let dry = home
        .post(ACTIVATE, &json!({"dry_run": true}))
        .await
        .must_be(200)
        .json();
    assert_eq!(
        (&dry["owner"], &dry["epoch"], &dry["dry_run"]),
        (&json!("vmpro2"), &json!(start + 1), &json!(true))
    );
    for node in pair.nodes() {
        let stale = node
            .post(ACTIVATE, &json!({"expected_owner": "vmpro2"}))
            .await;
        stale.problem(409, "stale_expected_owner", &["vmpro1"]);
    }
    home.post(FAILBACK, &json!({}))
        .await
        .problem(409, "already_there", &["vmpro1"]);
    home.post("/api/v1/groups/moon/activate-backup", &json!({}))
        .await
        .problem(404, "not_found", &["moon"]);
    for node in pair.nodes() {
        let group = group(node).await;
        assert_eq!(
            (&group["owner"], &group["epoch"], &group["phase"]),
            (&json!("vmpro1"), &json!(start), &json!("normal"))
        );
    }

    as_the_reference_shows_it(&pair, home).await;

    // Asked at the home; the backup decides.
    let ask = json!({"expected_owner": "vmpro1", "reason": "maintenance of the primary"});
    let moved = home.post(ACTIVATE, &ask).await.must_be(202).json();
    assert_eq!(
        (&moved["owner"], &moved["epoch"]),
        (&json!("vmpro2"), &json!(start + 1))
    );
    pair.served_by(backup).await;
    home.post(ACTIVATE, &json!({}))
        .await
        .problem(409, "already_there", &["vmpro2"]);
    // An operator's failover with the home in sight is held until an operator ends it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(group(backup).await["owner"], "vmpro2");
    as_the_reference_shows_it(&pair, backup).await;

    // Back, asked at the other node.
    granted(backup, json!({"reason": "maintenance is over"})).await;
    pair.served_by(home).await;
    as_the_reference_shows_it(&pair, home).await;
    assert_eq!(group(home).await["epoch"], start + 2);

    for node in pair.nodes() {
        let history = soon("both moves in the history", async || {
            let list = node.try_get(HISTORY).await?["items"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            if list.last().is_some_and(|t| t["epoch"] == start + 2) {
                Ok(list)
            } else {
                Err(format!("{list:?}"))
            }
        })
        .await;
        let told = |epoch: u64| {
            let found = history.iter().find(|t| t["epoch"] == epoch);
            found.unwrap_or_else(|| panic!("no epoch {epoch} at {}: {history:?}", node.id))["reason"].as_str().unwrap().to_owned()
        };
        assert_eq!(
            told(start + 1),
            "an operator activated the backup vmpro2: maintenance of the primary"
        );
        assert_eq!(
            told(start + 2),
            "an administrator started failback to vmpro1: maintenance is over"
        );
    }
}

/// R-TO-1, R-TO-4: in single-active one node is active and the other stands by, in the words of the
/// reference's status.
async fn as_the_reference_shows_it(pair: &Pair, active: &Node) {
    for node in pair.nodes() {
        let (voicemail, serves) = if node.id == active.id {
            ("local", "yes")
        } else {
            ("centralized", "no")
        };
        let status = soon(&format!("{} to be {voicemail}", node.id), async || {
            let status = node.try_status().await?;
            let is = status["node"]["voicemail_type"] == voicemail
                && status["groups"][0]["serving_here"] == serves;
            if is {
                Ok(status)
            } else {
                Err(status.to_string())
            }
        })
        .await;
        // The primary's backup is the secondary; the secondary is nobody's home, and has none.
        let backup = match status["node"]["role"].as_str() {
            Some("primary") => json!(pair.secondary.fqdn),
            _ => Value::Null,
        };
        assert_eq!(status["node"]["backup_address"], backup, "{}", node.id);
        let systems = status["links"].as_array().unwrap();
        assert!(!systems.is_empty());
        assert!(
            systems.iter().all(|s| s["destination"] == "99999"),
            "{systems:?}"
        );
    }
}

#[tokio::test]
async fn without_backs_up_voicemail_there_is_no_failover() {
    let pair = Pair::laid_out().await;
    pair.configure_both("backs_up_voicemail = true", "backs_up_voicemail = false");
    pair.start_both().await;
    for node in pair.nodes() {
        node.post(ACTIVATE, &json!({})).await.problem(
            409,
            "resilience_off",
            &["backs_up_voicemail"],
        );
    }
    assert_eq!(group(&pair.primary).await["owner"], "vmpro1");
}

/// R-FO-6: a request that reaches the wrong node is told where to go; reading may be done at either.
#[tokio::test]
async fn a_request_at_the_wrong_node_is_sent_on() {
    let pair = Pair::start().await;
    let route = pair.secondary.get("/api/v1/route?mailbox=2001").await;
    assert_eq!(
        (&route["owner"], &route["here"], &route["url"]),
        (&json!("vmpro1"), &json!(false), &json!(pair.primary.http))
    );

    sent_on(&pair.secondary, &pair.primary).await;
    pair.primary.post(ACTIVATE, &json!({})).await.must_be(202);
    pair.served_by(&pair.secondary).await;
    sent_on(&pair.primary, &pair.secondary).await;
    for asked in ["mailbox=2001", "system=branch"] {
        let route = pair.primary.get(&format!("/api/v1/route?{asked}")).await;
        assert_eq!(
            (&route["owner"], &route["url"]),
            (&json!("vmpro2"), &json!(pair.secondary.http))
        );
        let route = pair.secondary.get(&format!("/api/v1/route?{asked}")).await;
        assert_eq!(
            (&route["owner"], &route["here"]),
            (&json!("vmpro2"), &json!(true))
        );
    }
    let neither = pair
        .primary
        .request(Method::GET, "/api/v1/route")
        .send()
        .await;
    neither.problem(422, "invalid", &["mailbox", "system"]);
    pair.primary
        .request(Method::GET, "/api/v1/route?mailbox=2999")
        .send()
        .await
        .problem(404, "not_found", &["2999"]);
}

/// Every kind of write at `wrong` is answered with the same place at `right`, which takes it.
async fn sent_on(wrong: &Node, right: &Node) {
    let call = json!({"kind": "leave", "mailbox": "2001"});
    let changes: [(Method, &str, Value); 3] = [
        (
            Method::PATCH,
            "/api/v1/mailboxes/2001",
            json!({"name": "Ada"}),
        ),
        (
            Method::POST,
            "/api/v1/mailboxes",
            json!({"extension": "2009"}),
        ),
        (Method::POST, "/api/v1/calls", call),
    ];
    for (method, path, body) in changes {
        let answer = wrong.request(method, path).json(&body).send().await;
        pointed(
            &answer.problem(307, "not_serving", &[&right.id]),
            right,
            path,
        );
    }
    let answer =
        wrong
            .deposit("2001", "1", ONE)
            .send()
            .await
            .problem(307, "not_serving", &[&right.id]);
    let path = "/api/v1/mailboxes/2001/messages?caller_number=1";
    pointed(&answer, right, path);
    let taken = right
        .request(Method::POST, path)
        .wav(ONE)
        .send()
        .await
        .must_be(201);
    wrong
        .hears("2001", taken.json()["id"].as_str().unwrap(), ONE)
        .await;
    let read = wrong
        .request(Method::GET, "/api/v1/mailboxes/2001/messages")
        .send()
        .await
        .must_be(200);
    assert_eq!(read.header("served-by"), wrong.id);
}

#[track_caller]
fn pointed(answer: &Answer, to: &Node, path: &str) {
    assert_eq!(answer.header("location"), format!("{}{path}", to.http));
}

/// A pair that fails back only when an operator says so.
async fn operated() -> Pair {
    let pair = Pair::laid_out().await;
    pair.configure_both("policy = \"graceful\"", "policy = \"manual\"");
    pair.start_both().await;
    pair
}

/// R-FO-7: resilience outlives the processes that hold it.
#[tokio::test]
async fn who_serves_survives_the_death_of_both_nodes() {
    let pair = operated().await;
    pair.primary.post(ACTIVATE, &json!({})).await.must_be(202);
    pair.served_by(&pair.secondary).await;
    let id = pair.secondary.leave("2001", "1", ONE).await;
    let epoch = group(&pair.secondary).await["epoch"].clone();
    for node in pair.nodes() {
        node.kill().await;
    }
    pair.start_both().await;
    pair.served_by(&pair.secondary).await;
    for node in pair.nodes() {
        let group = group(node).await;
        assert_eq!(
            (&group["epoch"], &group["phase"]),
            (&epoch, &json!("returning")),
            "at {}",
            node.id
        );
    }
    pair.secondary.leave("2001", "2", TWO).await;
    pair.primary.hears("2001", &id, ONE).await;
    granted(&pair.secondary, json!({})).await;
    pair.served_by(&pair.primary).await;
}

/// The home alone, after it was killed in resilience: it must not serve with what it knew before.
#[tokio::test]
async fn a_home_that_comes_back_alone_remembers_that_it_does_not_serve() {
    let pair = operated().await;
    pair.primary.post(ACTIVATE, &json!({})).await.must_be(202);
    pair.served_by(&pair.secondary).await;
    for node in pair.nodes() {
        node.kill().await;
    }
    pair.primary.start().await;
    let group = group(&pair.primary).await;
    assert_eq!(group["owner"], "vmpro2", "{group}");
    pair.secondary.start().await;
    pair.in_step().await;
    pair.served_by(&pair.secondary).await;
}

async fn waits_for(node: &Node, words: &str) {
    soon(&format!("failback to wait for {words:?}"), async || {
        let waiting = group(node).await["failback"]["waiting_for"].clone();
        if waiting.to_string().contains(words) {
            Ok(())
        } else {
            Err(waiting.to_string())
        }
    })
    .await;
}

/// R-FB-3: graceful failback waits for calls and for synchronisation, then happens by itself.
#[tokio::test]
async fn a_call_holds_graceful_failback() {
    let pair = Pair::start().await;
    pair.fail_over().await;
    let call = OpenCall::to_leave(&pair.secondary, "2001", "5550199").await;
    let left = pair.secondary.leave("2002", "1", TWO).await;
    pair.primary.start().await;
    pair.in_step().await;
    waits_for(&pair.secondary, "1 call on vmpro2 to end").await;
    // An administrator who does not force it is told of the call (R-FB-6): refused, or, where his
    // own failover still held the group, left to the policy, which waits for it.
    soon("the call to be named", async || {
        let answer = pair.primary.post(FAILBACK, &json!({})).await;
        let json = answer.json();
        let told = match answer.status {
            409 => json["code"] == "calls_active",
            _ => json["waiting_for"] == json!(["1 call on vmpro2 to end"]),
        };
        if told { Ok(()) } else { Err(answer.text()) }
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    pair.served_by(&pair.secondary).await;

    call.ends().await.must_be(204);
    pair.served_by(&pair.primary).await;
    let reason = group(&pair.primary).await["reason"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(reason.contains("calls"), "{reason}");
    pair.primary.hears("2002", &left, TWO).await;
}

/// R-FB-6: forced failback leaves a call where it is, and what it records is kept.
#[tokio::test]
async fn forced_failback_loses_nothing_of_a_call() {
    let pair = Pair::start().await;
    pair.fail_over().await;
    let backup = &pair.secondary;
    let mut call = OpenCall::to_leave(backup, "2001", "5550199").await;
    call.up_to_the_beep().await;
    pair.primary.start().await;
    pair.in_step().await;
    granted(backup, json!({"force": true})).await;
    pair.served_by(&pair.primary).await;
    let reason = group(&pair.primary).await["reason"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        reason.contains("forced") && reason.contains("calls left to end on vmpro2: 1"),
        "{reason}"
    );

    // The caller goes on speaking, on the node that has the call.
    let message = call.says(ONE).await;
    pair.primary.hears("2001", &message, ONE).await;
    pair.primary
        .shows("2001", &message, "caller_number", "5550199")
        .await;
}

/// R-FB-1: before both have exchanged what they hold there is no failback, not even a forced one.
#[tokio::test]
async fn nothing_forces_failback_to_a_home_that_is_away() {
    let pair = Pair::start().await;
    pair.fail_over().await;
    soon("the home to be missed", async || {
        let peer = pair.secondary.try_status().await?["peer"].clone();
        if peer["visible"] == false {
            Ok(())
        } else {
            Err(peer.to_string())
        }
    })
    .await;
    for force in [false, true] {
        let refused = pair
            .secondary
            .post(FAILBACK, &json!({"force": force}))
            .await;
        refused.problem(409, "home_invisible", &["vmpro1"]);
    }
    pair.secondary.names_owner(&pair.secondary).await;
}

/// R-FO-1, shortened: the home is away, and a desk phone of it registers at the backup's system.
/// R-FO-1, and its alarm (R-AL-1).
#[tokio::test]
async fn a_desk_phone_fails_over_and_a_softphone_does_not() {
    let pair = Pair::laid_out().await;
    pair.configure_both("failover_after = \"3m\"", "failover_after = \"1s\"");
    pair.start_both().await;
    let backup = &pair.secondary;
    let registers = |kind: &str| {
        let phone = json!({"extension": "2001", "kind": kind, "home_system": "headquarters", "at_system": "vmpro2"});
        async move { backup.post("/api/v1/phones", &phone).await }
    };
    // R-FO-5: in sight of the home it is no evidence.
    let seen = registers("desk").await;
    assert!(seen.status < 300, "{}", seen.text());
    soon("it to be counted as refused", async || {
        let refused = group(backup).await["phones_refused"].clone();
        if refused == 1 {
            Ok(())
        } else {
            Err(refused.to_string())
        }
    })
    .await;

    pair.primary.kill().await;
    soon("the home to be missed", async || {
        let group = group(backup).await;
        if group["phase"] == "pending" {
            Ok(())
        } else {
            Err(group.to_string())
        }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    registers("softphone").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(group(backup).await["owner"], "vmpro1");
    registers("desk").await;
    let status = backup.names_owner(backup).await;
    let reason = status["groups"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("desk phone"), "{reason}");
    backup.alarm("voicemail_failover").await;
    pair.primary.start().await;
    pair.served_by(&pair.primary).await;
}
