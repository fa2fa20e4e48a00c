//! Mailboxes, greetings, lights and settings.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Node, problem, wav};

#[tokio::test]
async fn a_mailbox_lives() {
    let node = Node::start().await;
    let new = json!({"extension": "2001", "name": "Ada", "email": "ada@example.com", "home_system": "HQ", "pin": "4711"});
    let created = node
        .send(Method::POST, "/api/v1/mailboxes", new.clone())
        .await;
    assert_eq!(created.status(), StatusCode::CREATED);
    assert_eq!(created.headers()["location"], "/api/v1/mailboxes/2001");
    let text = created.text().await.unwrap();
    assert!(!text.contains("4711"), "the PIN came back: {text}");
    let mailbox: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(mailbox["name"], "Ada");
    assert_eq!(mailbox["group"], "primary");
    assert_eq!(mailbox["has_pin"], true);
    assert_eq!(mailbox["enabled"], true);

    let again = node.send(Method::POST, "/api/v1/mailboxes", new).await;
    assert_eq!(problem(again).await.1, "conflict");
    let changed = node
        .send(
            Method::PATCH,
            "/api/v1/mailboxes/2001",
            json!({"name": "Countess", "pin": ""}),
        )
        .await;
    let changed: Value = changed.json().await.unwrap();
    assert_eq!(changed["name"], "Countess");
    assert_eq!(
        changed["email"], "ada@example.com",
        "what was not given stays"
    );
    assert_eq!(changed["has_pin"], false);

    assert_eq!(
        node.json("/api/v1/mailboxes").await["items"][0]["extension"],
        "2001"
    );
    let gone = node
        .ask(Method::DELETE, "/api/v1/mailboxes/2001")
        .send()
        .await
        .unwrap();
    assert_eq!(gone.status(), StatusCode::NO_CONTENT);
    assert_eq!(
        problem(node.get("/api/v1/mailboxes/2001").await).await.0,
        404
    );
}

#[tokio::test]
async fn wrong_values_are_named() {
    let node = Node::start().await;
    for (body, word) in [
        (json!({"extension": "20 01"}), "extension"),
        (
            json!({"extension": "2001", "home_system": "Atlantis"}),
            "home_system",
        ),
        (json!({"extension": "2001", "enabled": "yes"}), "boolean"),
        (json!({}), "extension"),
    ] {
        let (status, code, answer) =
            problem(node.send(Method::POST, "/api/v1/mailboxes", body).await).await;
        assert_eq!((status, code.as_str()), (422, "invalid"), "{answer}");
        assert!(
            answer["detail"].as_str().unwrap().contains(word),
            "{answer}"
        );
    }
    assert_eq!(
        problem(node.get("/api/v1/mailboxes?limit=0").await).await.0,
        422
    );
}

/// R-MB-13.
#[tokio::test]
async fn the_light_follows_the_messages_and_clear_puts_it_out() {
    let node = Node::start().await;
    node.mailbox("2001");
    let light = "/api/v1/mailboxes/2001/mwi";
    assert_eq!(node.json(light).await["on"], false);
    node.deposit("/api/v1/mailboxes/2001/messages", wav(500, 0))
        .await;
    assert_eq!(
        node.json(light).await,
        json!({"mailbox": "2001", "on": true, "new": 1, "old": 0})
    );
    node.send(
        Method::PATCH,
        "/api/v1/mailboxes/2001",
        json!({"pin": "4711"}),
    )
    .await;
    let cleared = node
        .ask(Method::POST, "/api/v1/mailboxes/2001/clear")
        .send()
        .await
        .unwrap();
    let cleared: Value = cleared.json().await.unwrap();
    assert_eq!(cleared["counts"]["new"], 0);
    assert_eq!(cleared["has_pin"], true, "the PIN stays (R-MB-2)");
    assert_eq!(node.json(light).await["on"], false);
}

#[tokio::test]
async fn a_greeting_is_set_heard_and_removed() {
    let node = Node::start().await;
    node.mailbox("2001");
    let path = "/api/v1/mailboxes/2001/greetings/busy";
    assert_eq!(problem(node.get(path).await).await.0, 404);
    let audio = wav(800, 9);
    let put = node
        .ask(Method::PUT, path)
        .header("Content-Type", "audio/x-wav")
        .body(audio.clone());
    let set: Value = put.send().await.unwrap().json().await.unwrap();
    assert_eq!(
        (&set["kind"], &set["duration_ms"]),
        (&json!("busy"), &json!(800))
    );
    let heard = node.get(path).await;
    assert_eq!(heard.headers()["content-type"], "audio/x-wav");
    assert_eq!(heard.bytes().await.unwrap(), audio);
    assert_eq!(
        node.json("/api/v1/mailboxes/2001").await["greetings"],
        json!(["busy"])
    );
    assert_eq!(
        node.ask(Method::DELETE, path)
            .send()
            .await
            .unwrap()
            .status(),
        204
    );
    assert_eq!(problem(node.get(path).await).await.0, 404);

    let odd = node
        .ask(Method::PUT, "/api/v1/mailboxes/2001/greetings/rude")
        .body(audio.clone());
    assert_eq!(problem(odd.send().await.unwrap()).await.0, 422);
    let until = node
        .ask(Method::PUT, &format!("{path}?until=2030-01-01T00:00:00Z"))
        .body(audio);
    assert_eq!(
        problem(until.send().await.unwrap()).await.0,
        422,
        "only a temporary greeting ends"
    );
}

#[tokio::test]
async fn settings_hold_from_the_file_until_they_are_changed() {
    let node = Node::with(
        "[failback]\npolicy = \"graceful\"\ntimeout = \"10m\"\n",
        |_| (),
    )
    .await;
    let settings = node.json("/api/v1/settings").await;
    assert_eq!(
        settings["failback"],
        json!({"policy": "graceful", "timeout_minutes": 10, "stable_for": "0s"})
    );
    assert_eq!(settings["changed"], json!({}));
    let change =
        json!({"failback": {"policy": "automatic", "timeout_minutes": 60, "stable_for": "90s"}});
    let changed = node.send(Method::PUT, "/api/v1/settings", change).await;
    assert_eq!(changed.status(), 200);
    let settings = node.json("/api/v1/settings").await;
    assert_eq!(
        settings["failback"],
        json!({"policy": "automatic", "timeout_minutes": 60, "stable_for": "90s"})
    );
    assert_eq!(settings["changed"]["failback.policy"]["by"], "vmpro1");
}

#[tokio::test]
async fn a_setting_out_of_range_changes_nothing() {
    let node = Node::start().await;
    for (failback, word) in [
        (json!({"policy": "manual", "timeout_minutes": 61}), "R-FB-5"),
        (json!({"policy": "manual", "timeout_minutes": 0}), "R-FB-5"),
        (json!({"policy": "sometimes"}), "graceful"),
        (
            json!({"policy": "manual", "stable_for": "soon"}),
            "stable_for",
        ),
        (json!({"policy": "manual", "timeout": 5}), "`timeout`"),
    ] {
        let put = node
            .send(
                Method::PUT,
                "/api/v1/settings",
                json!({"failback": failback}),
            )
            .await;
        let (status, _, answer) = problem(put).await;
        assert_eq!(status, 422);
        assert!(
            answer["detail"].as_str().unwrap().contains(word),
            "{answer}"
        );
    }
    assert_eq!(node.json("/api/v1/settings").await["changed"], json!({}));
}

/// R-MB-11: a mode needs an address; where nothing carries its domain, the mailbox says so.
#[tokio::test]
async fn an_email_mode_is_set_shown_and_explained() {
    let entry = "[[smtp.sender]]\ndomain = \"example.com\"\nserver = \"mail.example.com\"";
    let node = Node::with(entry, |_| ()).await;
    let new = json!({"extension": "2001", "email_mode": "copy"});
    let refused = node.send(Method::POST, "/api/v1/mailboxes", new).await;
    assert_eq!(problem(refused).await.1, "invalid");
    let new = json!({"extension": "2001", "email": "ada@example.com", "email_mode": "copy"});
    let created = node.send(Method::POST, "/api/v1/mailboxes", new).await;
    assert_eq!(created.status(), StatusCode::CREATED);
    let created: Value = created.json().await.unwrap();
    assert_eq!(created["email_mode"], "copy");
    assert_eq!(created["email_problem"], Value::Null);

    let path = "/api/v1/mailboxes/2001";
    let change = async |body: Value| node.send(Method::PATCH, path, body).await;
    let elsewhere: Value = change(json!({"email": "ada@example.net"}))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(elsewhere["email_mode"], "copy");
    let words = elsewhere["email_problem"].as_str().unwrap();
    assert!(words.contains("domain = \"example.net\""), "{words}");
    for wrong in [
        json!({"email": ""}),
        json!({"email_mode": "sometimes"}),
        json!({"email": "2001@vmpro1.example.com"}),
    ] {
        let refused = change(wrong.clone()).await;
        assert_eq!(problem(refused).await.1, "invalid", "{wrong}");
    }
    let off: Value = change(json!({"email_mode": "off"}))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(
        (&off["email_mode"], &off["email_problem"]),
        (&json!("off"), &Value::Null)
    );
}
