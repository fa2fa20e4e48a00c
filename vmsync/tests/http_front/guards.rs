//! Who may ask, what is refused before anything is done, and how errors look.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use vmsync::http::Patience;

use crate::support::{ADMIN, Node, READ, problem, wav};

#[tokio::test]
async fn health_is_open_and_everything_else_needs_a_token() {
    let node = Node::start().await;
    for (path, expected) in [
        ("/healthz", 200),
        ("/readyz", 200),
        ("/metrics", 401),
        ("/api/v1/status", 401),
        ("/api/v1/openapi.json", 401),
        ("/api/v1/mailboxes", 401),
    ] {
        let response = node
            .http
            .get(format!("{}{path}", node.url))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), expected, "{path}");
        if expected == 401 {
            assert_eq!(
                response.headers()["www-authenticate"],
                "Bearer realm=\"vmsync\""
            );
            assert_eq!(problem(response).await.1, "no_token");
        }
    }
}

#[tokio::test]
async fn a_starting_node_is_alive_but_not_ready() {
    let node = Node::start().await;
    node.status(|s| s.node.ready = false);
    assert_eq!(node.get("/healthz").await.status(), 200);
    let response = node.get("/readyz").await;
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(problem(response).await.1, "starting");
}

#[tokio::test]
async fn a_read_token_looks_and_changes_nothing() {
    let node = Node::start().await;
    let with = |method, token: &str| {
        node.http
            .request(method, format!("{}/api/v1/mailboxes", node.url))
            .bearer_auth(token)
    };
    assert_eq!(with(Method::GET, READ).send().await.unwrap().status(), 200);
    let new = with(Method::POST, READ).json(&json!({"extension": "2001"}));
    let (status, code, _) = problem(new.send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (403, "admin_needed"));
    let wrong = with(Method::GET, "not-a-token-of-this-node-at-all-00")
        .send()
        .await
        .unwrap();
    assert_eq!(problem(wrong).await.0, 401);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_too() {
    let node = Node::start().await;
    assert_eq!(
        problem(node.get("/api/v1/nonsense").await).await.1,
        "not_found"
    );
    let response = node
        .ask(Method::DELETE, "/api/v1/status")
        .send()
        .await
        .unwrap();
    assert!(response.headers().contains_key("allow"));
    assert_eq!(problem(response).await.1, "method_not_allowed");
}

#[tokio::test]
async fn unknown_fields_are_named() {
    let node = Node::start().await;
    let body = json!({"extension": "2001", "colour": "red"});
    let (status, code, body) =
        problem(node.send(Method::POST, "/api/v1/mailboxes", body).await).await;
    assert_eq!((status, code.as_str()), (422, "invalid"));
    assert!(
        body["detail"].as_str().unwrap().contains("`colour`"),
        "{body}"
    );
    let (_, _, body) = problem(node.get("/api/v1/mailboxes?page=2").await).await;
    assert!(
        body["detail"].as_str().unwrap().contains("`page`"),
        "{body}"
    );
    let broken = node
        .ask(Method::POST, "/api/v1/mailboxes")
        .body("{\"extension\"");
    assert_eq!(problem(broken.send().await.unwrap()).await.1, "malformed");
}

#[tokio::test]
async fn every_answer_carries_the_protecting_headers() {
    let node = Node::start().await;
    for path in ["/login", "/api/v1/status", "/static/console.js", "/nowhere"] {
        let response = node.get(path).await;
        let headers = response.headers();
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(headers["x-frame-options"], "DENY", "{path}");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'self'"), "{path}");
        assert!(!policy.contains("unsafe-inline"), "{path}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_the_limit_named() {
    let node = Node::with("", |c| c.limits.message_bytes = 10_000).await;
    node.mailbox("2001");
    let path = "/api/v1/mailboxes/2001/messages";
    let (status, code, body) = problem(node.deposit(path, wav(1000, 0)).await).await;
    assert_eq!((status, code.as_str()), (413, "too_large"));
    assert_eq!(body["limit_bytes"], 10_000);
    // Without a declared length it is counted as it comes.
    let chunks =
        futures_util::stream::iter((0..20).map(|_| Ok::<_, std::io::Error>(vec![0_u8; 1000])));
    let request = node
        .ask(Method::POST, path)
        .header("Content-Type", "audio/wav");
    let response = request
        .body(reqwest::Body::wrap_stream(chunks))
        .send()
        .await
        .unwrap();
    assert_eq!(problem(response).await.0, 413);
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let node = Node::start().await;
    node.mailbox("2001");
    node.standing_by();
    // Larger than every socket buffer: without taking it off the wire the answer would be lost.
    let body = vec![0_u8; 16 << 20];
    let response = node.deposit("/api/v1/mailboxes/2001/messages", body).await;
    assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
}

fn impatient() -> Patience {
    let mut patience = Patience {
        head: Duration::from_millis(200),
        ..Patience::default()
    };
    patience.body.idle = Duration::from_millis(200);
    patience
}

async fn raw(node: &Node) -> TcpStream {
    TcpStream::connect(node.url.trim_start_matches("http://"))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_client_that_never_finishes_its_head_is_dropped() {
    let node = Node::with_patience("", |_| (), impatient()).await;
    let mut slow = raw(&node).await;
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: ")
        .await
        .unwrap();
    let mut rest = Vec::new();
    timeout(Duration::from_secs(5), slow.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_body_that_stops_coming_is_answered_408() {
    let node = Node::with_patience("", |_| (), impatient()).await;
    let mut slow = raw(&node).await;
    let head = format!(
        "POST /api/v1/mailboxes HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {ADMIN}\r\nContent-Length: 100\r\n\r\n{{"
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    timeout(Duration::from_secs(5), slow.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn beyond_the_limit_connections_wait_for_a_place() {
    let node = Node::with("", |c| c.limits.http_connections = 1).await;
    let mut first = raw(&node).await;
    first
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut answer = vec![0; 12];
    first.read_exact(&mut answer).await.unwrap();
    let second = node.http.get(format!("{}/healthz", node.url)).send();
    let mut second = std::pin::pin!(second);
    assert!(
        timeout(Duration::from_millis(200), second.as_mut())
            .await
            .is_err(),
        "there was a place"
    );
    drop(first);
    let answer = timeout(Duration::from_secs(5), second)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn a_stop_closes_the_listener_and_idle_connections() {
    let mut node = Node::start().await;
    assert_eq!(node.get("/healthz").await.status(), 200);
    let served = node.served.take().unwrap();
    node.stop.cancel();
    timeout(Duration::from_secs(4), served)
        .await
        .expect("an idle connection held the stop")
        .unwrap();
    assert!(
        TcpStream::connect(node.url.trim_start_matches("http://"))
            .await
            .is_err()
    );
}
