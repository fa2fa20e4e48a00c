//! Orders of operators at the edges: cancelled at one node while mails to the other are cut, given twice,
//! while a node starts; and callers between nodes of different modes (R-FO-4, R-FO-6, R-TO-7).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what failed by panicking, and how long it took"
)]

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;
use vmsync_tests::pair::{Cut, Net, Node, ONE, Pair, Way, group_of, soon};

const ACTIVATE: &str = "/api/v1/groups/primary/activate-backup";
const SCHEDULE: &str = "/api/v1/groups/primary/schedule";
const HISTORY: &str = "/api/v1/groups/primary/history";

/// RFC 3339, so many seconds from now.
fn ahead(seconds: u64) -> String {
    let now = vmsync::clock::wall();
    vmsync_config::words::UnixMillis(now.0 + seconds * 1000).to_string()
}

async fn group(node: &Node) -> Value {
    group_of(&node.try_status().await.unwrap(), "primary")
}

async fn shows_order(node: &Node, is: bool) {
    soon(&format!("order {is} at {}", node.id), async || {
        let group = group_of(&node.try_status().await?, "primary");
        (group["scheduled"].is_object() == is)
            .then_some(())
            .ok_or(group.to_string())
    })
    .await;
}

async fn told(node: &Node, kind: &str, words: &str) {
    soon(&format!("{kind:?} at {}", node.id), async || {
        let list = node.try_get(HISTORY).await?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let says = |t: &Value| {
            t["kind"] == kind && t["reason"].as_str().is_some_and(|r| r.contains(words))
        };
        items.iter().any(says).then_some(()).ok_or(list.to_string())
    })
    .await;
}

/// Processor time that a node's process takes in `span`.
async fn busy_for(node: &Node, span: Duration) -> Duration {
    let before = processor_time(node.pid().await);
    sleep(span).await;
    processor_time(node.pid().await).saturating_sub(before)
}

/// Processor time of a process so far.
fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<_> = fields.split_whitespace().collect();
    // proc_pid_stat(5): utime and stime, in hundredths of a second.
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// What the backup has not been told yet may be that the order is cancelled: it waits for it, where its peer
/// is there to tell. Nothing else stands still meanwhile, and the waiting costs nothing.
#[tokio::test]
async fn an_order_that_was_cancelled_where_mails_are_cut_is_not_carried_out() {
    let pair = Pair::laid_out().await;
    let net = Net::between(&pair);
    pair.start_both().await;
    let (home, backup) = (&pair.primary, &pair.secondary);
    let at = ahead(10);
    home.post(ACTIVATE, &json!({"at": at})).await.must_be(202);
    shows_order(backup, true).await;
    for node in pair.nodes() {
        node.post(ACTIVATE, &json!({"at": ahead(60)}))
            .await
            .problem(409, "already_scheduled", &["activate the backup", &at]);
    }

    net.cut(Way::Smtp, home, backup, Cut::Silent);
    home.delete(SCHEDULE).await.must_be(200);
    shows_order(home, false).await;
    let idle = busy_for(backup, Duration::from_secs(2)).await;
    while ahead(0) < at {
        sleep(Duration::from_millis(50)).await;
    }
    let waiting = busy_for(backup, Duration::from_secs(4)).await;
    println!("processor time: {idle:?} in 2 s before it is due, {waiting:?} in 4 s after");
    assert!(waiting < idle * 4 + Duration::from_millis(150), "it spins");
    shows_order(backup, true).await;
    assert_eq!(group(backup).await["owner"], "vmpro1", "not without asking");

    net.heal();
    for node in pair.nodes() {
        told(node, "dropped", "cancelled by an operator at vmpro1").await;
        shows_order(node, false).await;
        assert_eq!(group(node).await["epoch"], 0);
    }
}

/// A node that does not know yet what was decided while it was down changes nothing.
#[tokio::test]
async fn while_a_node_starts_it_cancels_nothing() {
    let pair = Pair::laid_out().await;
    pair.configure_both("startup_grace = \"3s\"", "startup_grace = \"15s\"");
    pair.start_both().await;
    let home = &pair.primary;
    home.post(ACTIVATE, &json!({"at": ahead(600)}))
        .await
        .must_be(202);
    for node in pair.nodes() {
        shows_order(node, true).await;
    }
    for node in pair.nodes() {
        node.kill().await;
    }
    home.launch().await;
    let first = soon("its first answer", async || {
        home.request(reqwest::Method::DELETE, SCHEDULE)
            .attempt()
            .await
    })
    .await;
    first.problem(503, "starting", &["try again"]);
    home.ready().await;
    shows_order(home, true).await;
    home.delete(SCHEDULE).await.must_be(200);
}

/// While the nodes are in different modes neither sends callers to a node that would send them back.
#[tokio::test]
async fn callers_are_not_sent_in_circles_while_the_modes_differ() {
    let pair = Pair::laid_out().await;
    let (home, other) = (&pair.primary, &pair.secondary);
    home.configure("mode = \"single-active\"", "mode = \"dual-active\"");
    home.configure(
        "name = \"branch\"\nhome = \"vmpro1\"\ndestination = \"99999\"",
        "name = \"branch\"\nhome = \"vmpro2\"\ndestination = \"99998\"",
    );
    home.configure_between("folder = \"VRL\"\n", "\n[[systems]]", "");
    pair.start_both().await;
    home.alarm("mode_mismatch").await;
    other.alarm("mode_mismatch").await;
    let mailbox =
        json!({"extension": "2099", "name": "Bo", "pin": "4711", "home_system": "branch"});
    home.post("/api/v1/mailboxes", &mailbox).await.must_be(201);
    pair.in_step().await;
    for _ in 0..20 {
        let mut way = Vec::new();
        for node in [home, other] {
            let route = node.get("/api/v1/route?system=branch").await;
            let left = node.deposit("2099", "5550100", ONE).send().await;
            assert_eq!(left.status == 201, route["here"] == true, "{route}");
            assert!(matches!(left.status, 201 | 307), "{}", left.text());
            way.push(left.status);
        }
        assert!(way.contains(&201), "sent in circles: {way:?}");
    }
}
