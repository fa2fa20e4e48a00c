//! Call flows over HTTP: which one counts, and what is refused.

use std::fs;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::bench::Node;
use crate::client::Body;

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
