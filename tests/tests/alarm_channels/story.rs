//! A failover and its end, by every way at once (R-AL-1): of voicemail, and of phones.

use std::time::Duration;

use serde_json::json;
use vmsync_tests::pair::{Node, Pair, soon};

use crate::{
    channels, command,
    receivers::{CHANNELS, Receivers},
    there_and_back, up,
};

/// What a failover of both systems and its failback tell, in order.
const STORY: [&str; 4] = [
    "raised headquarters",
    "raised branch",
    "cleared headquarters",
    "cleared branch",
];

/// The branch's phones fall back to headquarters, which stand at the primary: that decides about them.
fn phones_fall_back(pair: &Pair) {
    for node in pair.nodes() {
        let branch = "name = \"branch\"";
        let backed_up = format!("{branch}\nbackup = \"headquarters\"\nbacked_up = [\"phones\"]");
        node.configure(branch, &backed_up);
        node.configure_more("[features]\nfailover_after = \"1s\"\nstable_for = \"1s\"\ninvisible_after = \"1s\"\nhomeless_prevention = \"1s\"");
    }
}

/// The branch falls silent, a desk phone of it registers at headquarters, and the branch comes back.
async fn phones_there_and_back(node: &Node) {
    let alive = "/api/v1/systems/branch/alive";
    let phone = json!({"extension": "2002", "kind": "desk", "home_system": "branch", "at_system": "headquarters"});
    node.post(alive, &json!({})).await.must_be(200);
    let served_by = async |system: &str, post: &str, body: &serde_json::Value| {
        soon(&format!("phones of branch at {system}"), async || {
            node.post(post, body).await.must_be(200);
            let now = node
                .try_get("/api/v1/features?system=branch&feature=phones")
                .await?;
            let now = &now["items"][0];
            if now["served_by"] == system {
                Ok(())
            } else {
                Err(now.to_string())
            }
        })
        .await;
    };
    served_by("headquarters", "/api/v1/phones", &phone).await;
    served_by("branch", alive, &json!({})).await;
}

/// docs/api.md has every route about alarms that the node has, and the answers of those that refuse.
async fn the_api_page_names_every_route(node: &Node) {
    let page = include_str!("../../../docs/api.md");
    let openapi = node.get("/api/v1/openapi.json").await;
    let paths = openapi["paths"].as_object().unwrap();
    let mut routes = 0;
    for (path, methods) in paths {
        let Some((_, path)) = path.split_once("/alarms") else {
            continue;
        };
        for method in methods.as_object().unwrap().keys() {
            let row = format!("| `{} /alarms{path}` |", method.to_uppercase());
            assert!(page.contains(&row), "docs/api.md lacks {row}");
            routes += 1;
        }
    }
    assert_eq!(routes, 4, "{:?}", paths.keys());
    for path in [
        "/api/v1/alarms/4711/ack",
        "/api/v1/alarms/channels/nobody/test",
    ] {
        let answer = node.post(path, &json!({})).await;
        answer.problem(404, "not_found", &[]);
    }
}

#[tokio::test]
async fn a_failover_and_its_end_are_told_by_every_way_once() {
    let pair = Pair::laid_out().await;
    let mut receivers = Receivers::laid_out(&pair);
    receivers.start(&pair).await;
    phones_fall_back(&pair);
    pair.start_both().await;
    tokio::join!(there_and_back(&pair), phones_there_and_back(&pair.primary));
    receivers.all_told("vmpro2", &STORY).await;
    let phones = ["raised phones of branch", "cleared phones of branch"];
    receivers.all_told("vmpro1", &phones).await;
    // The home lists voicemail, too, and tells nobody of it.
    let home = pair.primary.get("/api/v1/alarms").await;
    assert!(
        home["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|a| a["code"] == "voicemail_failover")
    );
    soon("the home to have told of phones alone", async || {
        let all = channels(&pair.primary).await?;
        let right = all.iter().all(|c| c["sent"] == 2 && c["queued"] == 0);
        if right {
            Ok(())
        } else {
            Err(format!("{all:?}"))
        }
    })
    .await;
    // What rsyslog made of it.
    let lines = receivers.lines("tls.log");
    let line = lines.iter().find(|l| l.starts_with("vmpro2")).unwrap();
    assert!(
        line.contains("|local0.crit|[vmsyncAlarm@32473 id="),
        "{line}"
    );
    assert!(
        line.contains("severity=\"critical\"") && line.contains("is served by vmpro2"),
        "{line}"
    );
    // The MIB's names, an enumeration's word, a date.
    let line = receivers.lines("snmp.log")[0].clone();
    assert!(
        line.contains("vmsyncAlarmSeverity.0 = INTEGER: critical(1)"),
        "{line}"
    );
    assert!(line.contains("vmsyncAlarmSince.0 = STRING: 20"), "{line}");
    let mails = receivers.mail.as_ref().unwrap().mails();
    assert_eq!(mails[0].header("Auto-Submitted"), Some("auto-generated"));

    the_api_page_names_every_route(&pair.secondary).await;

    // Tests, and what the command line says.
    for channel in CHANNELS {
        let ended = command(&pair.secondary, &["alarms", "test", channel])
            .await
            .well();
        assert!(ended.out.contains("a test alarm went to"), "{ended:?}");
    }
    for channel in CHANNELS {
        let test = format!("test {channel}");
        let story = [&STORY[..], &[test.as_str()]].concat();
        receivers.channel_told(channel, "vmpro2", &story).await;
    }
    let ended = command(&pair.secondary, &["alarms", "channels"])
        .await
        .well();
    assert!(
        CHANNELS.iter().all(|c| ended.out.contains(c)) && ended.out.contains("idle"),
        "{ended:?}"
    );
    let metrics = pair
        .secondary
        .request(reqwest::Method::GET, "/metrics")
        .send()
        .await
        .must_be(200)
        .text();
    let series = "vmsync_alarm_channel_sent_total{channel=\"hook\",kind=\"webhook\"} 4\n";
    assert!(metrics.contains(series), "{metrics}");
}

#[tokio::test]
async fn what_waits_while_nobody_listens_outlives_a_kill_and_comes_in_order_once() {
    let pair = Pair::laid_out().await;
    let mut receivers = Receivers::laid_out(&pair);
    pair.start_both().await;
    let node = &pair.secondary;
    there_and_back(&pair).await;
    soon("everything to wait", async || {
        let all = channels(node).await?;
        let waits = all
            .iter()
            .all(|c| c["queued"] == 4 && c["state"] == "failing" && c["last_error"].is_string());
        if waits && all.len() == CHANNELS.len() {
            Ok(())
        } else {
            Err(format!("{all:?}"))
        }
    })
    .await;
    soon("an alarm of each channel", async || {
        match up(node, "alarm_channel_down").await? {
            10 => Ok(()),
            n => Err(n.to_string()),
        }
    })
    .await;
    let ended = command(node, &["alarms", "test", "tcp"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended
            .out
            .contains("no test alarm could be sent to 127.0.0.1"),
        "{ended:?}"
    );
    // The writer is done by now.
    tokio::time::sleep(Duration::from_millis(500)).await;
    node.kill().await;
    node.start().await;
    for channel in channels(node).await.unwrap() {
        assert_eq!(channel["queued"], 4, "{channel}");
    }
    receivers.start(&pair).await;
    receivers.all_told("vmpro2", &STORY).await;
    soon("the alarms of the channels to end", async || {
        match up(node, "alarm_channel_down").await? {
            0 => Ok(()),
            n => Err(n.to_string()),
        }
    })
    .await;
    // In order and once, also after another restart.
    node.stop().await;
    node.start().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    receivers.all_told("vmpro2", &STORY).await;
}
