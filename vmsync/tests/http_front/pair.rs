//! Who serves, where to go otherwise, and what operators ask.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use vmsync_core::resilience::Serving;

use crate::support::{Node, problem, wav};

#[tokio::test]
async fn a_write_at_the_node_that_stands_by_is_sent_to_the_other() {
    let node = Node::start().await;
    node.mailbox("2001");
    node.standing_by();
    let path = "/api/v1/mailboxes/2001/messages?caller_number=1%202";
    let response = node.deposit(path, wav(500, 0)).await;
    assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(
        response.headers()["location"],
        format!("http://127.0.0.1:9{path}")
    );
    let (_, code, body) = problem(response).await;
    assert_eq!(code, "not_serving");
    assert_eq!(body["owner"], "vmpro2");
    for (method, path, body) in [
        (
            Method::POST,
            "/api/v1/mailboxes",
            json!({"extension": "2005"}),
        ),
        (
            Method::PATCH,
            "/api/v1/mailboxes/2001",
            json!({"name": "x"}),
        ),
        (Method::DELETE, "/api/v1/mailboxes/2001", Value::Null),
        (Method::POST, "/api/v1/mailboxes/2001/clear", Value::Null),
        (
            Method::DELETE,
            "/api/v1/mailboxes/2001/greetings/busy",
            Value::Null,
        ),
    ] {
        let response = node.send(method.clone(), path, body).await;
        assert_eq!(response.status(), 307, "{method} {path}");
        assert_eq!(
            response.headers()["location"],
            format!("http://127.0.0.1:9{path}")
        );
    }
    // Readers get an answer here, and are told whose it is.
    let read = node.get("/api/v1/mailboxes/2001").await;
    assert_eq!(read.status(), 200);
    assert_eq!(read.headers()["served-by"], "vmpro1");
}

#[tokio::test]
async fn a_starting_node_asks_to_come_back_and_a_partition_is_served() {
    let node = Node::start().await;
    node.mailbox("2001");
    node.serving(Serving::Starting);
    let response = node
        .deposit("/api/v1/mailboxes/2001/messages", wav(500, 0))
        .await;
    assert_eq!(response.headers()["retry-after"], "1");
    let (status, code, _) = problem(response).await;
    assert_eq!((status, code.as_str()), (503, "starting"));
    node.serving(Serving::YesPartition);
    let response = node
        .deposit("/api/v1/mailboxes/2001/messages", wav(500, 0))
        .await;
    assert_eq!(response.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn the_route_names_the_node_that_serves() {
    let node = Node::start().await;
    node.mailbox("2001");
    let route = node.json("/api/v1/route?mailbox=2001").await;
    assert_eq!(
        (&route["owner"], &route["here"]),
        (&json!("vmpro1"), &json!(true))
    );
    assert_eq!(route["url"], node.url);
    node.standing_by();
    node.status(|s| {
        s.groups[0].owner = "vmpro2".to_owned();
        s.groups[0].phase = "resilience".to_owned();
        s.groups[0].failback.deadline = Some("2026-11-22T10:00:00Z".to_owned());
    });
    let route = node.json("/api/v1/route?system=HQ").await;
    assert_eq!(route["owner"], "vmpro2");
    assert_eq!(route["fqdn"], "vmpro2.example.com");
    assert_eq!(route["url"], "http://127.0.0.1:9");
    assert_eq!(route["here"], false);
    assert_eq!(route["until"], "2026-11-22T10:00:00Z");
    assert_eq!(
        problem(node.get("/api/v1/route?mailbox=2999").await)
            .await
            .0,
        404
    );
    assert_eq!(
        problem(node.get("/api/v1/route?system=Atlantis").await)
            .await
            .0,
        404
    );
    assert_eq!(problem(node.get("/api/v1/route").await).await.0, 422);
}

#[tokio::test]
async fn operators_requests_go_to_the_loop_with_their_conditions() {
    let node = Node::start().await;
    let path = "/api/v1/groups/primary/activate-backup";
    let body = json!({"expected_owner": "vmpro1", "reason": "maintenance"});
    let done = node.send(Method::POST, path, body).await;
    assert_eq!(done.status(), StatusCode::ACCEPTED);
    assert_eq!(done.json::<Value>().await.unwrap()["owner"], "vmpro2");
    assert_eq!(
        node.asked.lock().unwrap()[0].reason.as_deref(),
        Some("maintenance")
    );

    let empty = node.ask(Method::POST, path).send().await.unwrap();
    assert_eq!(
        empty.status(),
        StatusCode::ACCEPTED,
        "the body may be left out"
    );
    let dry = node
        .send(Method::POST, path, json!({"dry_run": true}))
        .await;
    assert_eq!(dry.status(), StatusCode::OK);
    let stale = node
        .send(Method::POST, path, json!({"expected_owner": "vmpro2"}))
        .await;
    let (status, code, _) = problem(stale).await;
    assert_eq!((status, code.as_str()), (409, "stale_expected_owner"));

    let failback = "/api/v1/groups/primary/failback";
    node.send(Method::POST, failback, json!({"force": true}))
        .await;
    assert!(node.asked.lock().unwrap().last().unwrap().force);
    let long = node
        .send(Method::POST, failback, json!({"reason": "x".repeat(201)}))
        .await;
    assert_eq!(problem(long).await.0, 422);
    let nobody = node
        .send(Method::POST, "/api/v1/groups/tertiary/failback", json!({}))
        .await;
    assert_eq!(problem(nobody).await.0, 404);
}

#[tokio::test]
async fn history_comes_with_reasons_in_pages() {
    let node = Node::start().await;
    let first = node.json("/api/v1/groups/primary/history?limit=2").await;
    assert_eq!(first["items"][0]["reason"], "step 1");
    assert_eq!(first["next"], "2");
    let rest = node
        .json("/api/v1/groups/primary/history?limit=2&cursor=2")
        .await;
    assert_eq!(rest["items"][0]["epoch"], 3);
    assert_eq!(rest["next"], Value::Null);
}

#[tokio::test]
async fn phones_are_checked_before_they_are_evidence() {
    let node = Node::start().await;
    let phone = |kind: &str| json!({"extension": "2001", "kind": kind, "home_system": "HQ", "at_system": "BR"});
    let seen = node
        .send(Method::POST, "/api/v1/phones", phone("desk"))
        .await;
    let seen: Value = seen.json().await.unwrap();
    assert_eq!(seen["evidence"], "refused: the home is visible");
    assert_eq!(seen["extension"], "2001");
    let (status, _, body) = problem(
        node.send(Method::POST, "/api/v1/phones", phone("rotary"))
            .await,
    )
    .await;
    assert_eq!(status, 422);
    assert!(
        body["detail"].as_str().unwrap().contains("rotary"),
        "{body}"
    );
    assert_eq!(node.json("/api/v1/phones").await["items"], json!([]));
}

#[tokio::test]
async fn synchronisation_alarms_and_metrics_can_be_read() {
    let node = Node::start().await;
    let sync = node.json("/api/v1/sync").await;
    assert_eq!(sync["in"]["state"], "syncing");
    assert!(sync["origin"].as_str().unwrap().starts_with("vmpro1."));
    let resync = node
        .send(Method::POST, "/api/v1/sync/resync", Value::Null)
        .await;
    assert_eq!(resync.status(), StatusCode::ACCEPTED);
    assert_eq!(
        node.json("/api/v1/sync/certificate").await["equal_now"],
        false
    );

    node.app.alarms.raise(
        "foreign_domain",
        "mail.example.org",
        "refused; check the sender",
    );
    let alarms = node.json("/api/v1/alarms?active=true").await;
    let id = alarms["items"][0]["id"].as_u64().unwrap();
    let ack = node
        .send(
            Method::POST,
            &format!("/api/v1/alarms/{id}/ack"),
            Value::Null,
        )
        .await;
    assert!(ack.json::<Value>().await.unwrap()["acknowledged"].is_string());
    assert_eq!(
        node.json("/api/v1/alarms?active=false").await["items"],
        json!([])
    );
    let unknown = node
        .send(Method::POST, "/api/v1/alarms/99/ack", Value::Null)
        .await;
    assert_eq!(problem(unknown).await.0, 404);

    let metrics = node.get("/metrics").await.text().await.unwrap();
    for line in [
        "vmsync_group_serving{group=\"primary\"} 1",
        "vmsync_peer_visible{peer=\"vmpro2\"} 1",
        "vmsync_sync_pending_operations{direction=\"in\"} 2",
        "vmsync_sync_state{direction=\"out\",state=\"finished\"} 1",
    ] {
        assert!(
            metrics.lines().any(|l| l == line),
            "{line} is missing in\n{metrics}"
        );
    }
}
