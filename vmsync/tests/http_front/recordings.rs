//! Call recordings handed in (R-VR).

use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::support::{Node, problem, wav};

const RECORDINGS: &str = "/api/v1/vrl/recordings?name=2026-11-22-2001.wav";

#[tokio::test]
async fn a_recording_lands_in_the_folder_whole() {
    let node = Node::start().await;
    let audio = wav(700, 4);
    let response = node.deposit(RECORDINGS, audio.clone()).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    let taken: Value = response.json().await.unwrap();
    assert_eq!(taken["name"], "2026-11-22-2001.wav");
    assert_eq!(taken["bytes"], audio.len());
    let file = node.app.config.vrl.folder.join("2026-11-22-2001.wav");
    assert_eq!(std::fs::read(file).unwrap(), audio);
    assert_eq!(
        node.deposit(RECORDINGS, audio).await.status(),
        StatusCode::OK,
        "again is no error"
    );
    let other: Value = node
        .deposit(RECORDINGS, wav(700, 5))
        .await
        .json()
        .await
        .unwrap();
    assert_ne!(
        other["name"], "2026-11-22-2001.wav",
        "other content is kept beside it"
    );
}

#[tokio::test]
async fn a_recording_needs_the_right_and_the_serving_node() {
    let node = Node::with("", |c| c.vrl.right = false).await;
    let (status, code, body) = problem(node.deposit(RECORDINGS, wav(700, 4)).await).await;
    assert_eq!((status, code.as_str()), (403, "no_media_manager_right"));
    assert!(body["detail"].as_str().unwrap().contains("R-VR-3"));
    let node = Node::start().await;
    node.standing_by();
    assert_eq!(
        problem(node.deposit(RECORDINGS, wav(700, 4)).await).await.1,
        "not_serving"
    );
}

#[tokio::test]
async fn names_lead_nowhere_else_and_contents_are_checked() {
    let node = Node::start().await;
    for name in ["..%2Fescape.wav", "a%2Fb.wav", "", ".hidden"] {
        let path = format!("/api/v1/vrl/recordings?name={name}");
        let (status, code, _) = problem(node.deposit(&path, wav(700, 4)).await).await;
        assert_eq!((status, code.as_str()), (422, "invalid"), "{name}");
    }
    let path = format!("{RECORDINGS}&sha256={}", "0".repeat(64));
    assert_eq!(
        problem(node.deposit(&path, wav(700, 4)).await).await.1,
        "damaged"
    );
    assert_eq!(
        problem(node.deposit(RECORDINGS, b"no audio".to_vec()).await)
            .await
            .1,
        "not_audio"
    );
}

#[tokio::test]
async fn a_node_without_a_remote_says_so() {
    let node = Node::start().await;
    let vrl = node.json("/api/v1/vrl").await;
    assert_eq!(vrl["state"], "off");
    assert_eq!(vrl["remote"], Value::Null);
    for path in ["/api/v1/vrl/test", "/api/v1/vrl/transfer"] {
        let (status, code, _) = problem(node.send(Method::POST, path, Value::Null).await).await;
        assert_eq!((status, code.as_str()), (409, "no_vrl_remote"));
    }
}

#[tokio::test]
async fn the_state_of_the_move_stands_in_the_metrics() {
    let node = Node::start().await;
    let metrics = node.get("/metrics").await.text().await.unwrap();
    for line in [
        "vmsync_vrl_state{state=\"off\"} 1",
        "vmsync_vrl_state{state=\"transferring\"} 0",
        "vmsync_vrl_stalled_seconds 0",
        "vmsync_vrl_moved_bytes_total 0",
        "vmsync_vrl_failures_total 0",
        "vmsync_vrl_archive_files 0",
    ] {
        assert!(
            metrics.lines().any(|l| l == line),
            "{line} is missing in\n{metrics}"
        );
    }
}
