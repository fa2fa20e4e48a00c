//! Dual-active: each node serves its own systems and is the other's backup (R-TO-2); the two groups
//! fail over and back each for itself.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what failed by panicking, and how long it took"
)]

use reqwest::Method;
use serde_json::{Value, json};
use vmsync_tests::pair::{
    Answer, Cut, Ledger, Net, Node, ONE, OpenCall, Pair, TWO, Watch, group_of, soon,
};

/// The groups with the mailbox this test has in each.
const GROUPS: [(&str, &str); 2] = [("primary", "2001"), ("secondary", "3001")];

struct Scene {
    net: Net,
    watch: Watch,
    ledger: Ledger,
    pair: Pair,
}

impl Scene {
    /// A pair that serves both its systems, with a mailbox in each.
    async fn set() -> Self {
        let pair = Pair::laid_out().await;
        pair.fails_over_quickly();
        pair.is_dual_active();
        let net = Net::between(&pair);
        pair.start_both().await;
        let scene = Self {
            watch: Watch::over(&pair),
            ledger: Ledger::default(),
            net,
            pair,
        };
        scene.everyone_at_home().await;
        let branch = json!({"extension": "3001", "name": "Alan Turing", "home_system": "branch"});
        let there = &scene.pair.secondary;
        there.post("/api/v1/mailboxes", &branch).await.must_be(201);
        scene.pair.in_step().await;
        scene
    }

    /// Home and backup of a group.
    fn of(&self, group: &str) -> (&Node, &Node) {
        let [primary, secondary] = self.pair.nodes();
        if group == "primary" {
            (primary, secondary)
        } else {
            (secondary, primary)
        }
    }

    async fn everyone_at_home(&self) {
        for (group, _) in GROUPS {
            self.serves(self.of(group).0, group).await;
        }
    }

    /// Waits until both name `owner` as the one that serves `group`.
    async fn serves(&self, owner: &Node, group: &str) {
        soon(&format!("{} to serve {group}", owner.id), async || {
            let (named, _) = self.pair.one_owner(group).await;
            (named == owner.id).then_some(()).ok_or(named)
        })
        .await;
    }

    /// Waits until `node`, alone, serves `group`.
    async fn takes(&self, node: &Node, group: &str) -> Value {
        soon(&format!("{} to take {group}", node.id), async || {
            let found = group_of(&node.try_status().await?, group);
            let fine = found["owner"] == node.id.as_str() && found["serving_here"] == "yes";
            fine.then_some(found.clone()).ok_or(found.to_string())
        })
        .await
    }

    async fn epochs(&self) -> [u64; 2] {
        let status = self.pair.primary.get("/api/v1/status").await;
        GROUPS.map(|(group, _)| group_of(&status, group)["epoch"].as_u64().unwrap())
    }

    /// Both hold the same, everything acknowledged among it, and nothing is amiss.
    async fn is_well(&self, epochs: [u64; 2]) {
        self.pair.in_step().await;
        self.ledger.is_on_both(&self.pair).await;
        self.pair.calm().await;
        self.watch.saw_nothing_wrong();
        for ((group, _), epoch) in GROUPS.into_iter().zip(epochs) {
            self.watch.is_told(&self.pair, group, epoch).await;
        }
    }
}

/// R-TO-2, R-TO-4, R-FO-6: who asks the wrong node is pointed to the right one, group by group.
#[tokio::test]
async fn each_node_serves_its_own_systems_and_points_to_the_other_for_the_rest() {
    let scene = Scene::set().await;
    let Scene {
        pair, net, ledger, ..
    } = &scene;
    for (node, other) in [
        (&pair.primary, &pair.secondary),
        (&pair.secondary, &pair.primary),
    ] {
        let status = node.get("/api/v1/status").await;
        assert_eq!(status["mode"], "dual-active");
        assert_eq!(status["node"]["voicemail_type"], "local");
        assert_eq!(status["node"]["backup_address"], other.fqdn.as_str());
        let colours = status["links"].as_array().unwrap().iter();
        let colours: Vec<_> = colours.map(|l| l["colour"].as_str().unwrap()).collect();
        let wanted = if node.id == "vmpro1" {
            ["dark-green", "white"]
        } else {
            ["white", "dark-green"]
        };
        assert_eq!(colours, wanted, "headquarters and branch at {}", node.id);
    }
    for (group, mailbox) in GROUPS {
        let (home, backup) = scene.of(group);
        ledger.leave(home, mailbox).await;
        points(net, backup, home, mailbox, group).await;
    }
    // A user who moves to the other system is served there from then on.
    let moved = json!({"home_system": "branch"});
    pair.primary
        .patch("/api/v1/mailboxes/2002", &moved)
        .await
        .must_be(200);
    pair.in_step().await;
    points(net, &pair.primary, &pair.secondary, "2002", "secondary").await;
    ledger.leave(&pair.secondary, "2002").await;
    scene.is_well([0, 0]).await;
}

/// Every kind of question about `mailbox` at `wrong` is answered with the way to `right`; reading is
/// done at either.
async fn points(net: &Net, wrong: &Node, right: &Node, mailbox: &str, group: &str) {
    let there = net.url(wrong, right);
    let system = if group == "primary" {
        "headquarters"
    } else {
        "branch"
    };
    for asked in [format!("mailbox={mailbox}"), format!("system={system}")] {
        let route = wrong.get(&format!("/api/v1/route?{asked}")).await;
        assert_eq!(
            (
                &route["owner"],
                &route["here"],
                &route["url"],
                &route["group"]
            ),
            (
                &json!(right.id),
                &json!(false),
                &json!(there),
                &json!(group)
            )
        );
        let route = right.get(&format!("/api/v1/route?{asked}")).await;
        assert_eq!(
            (&route["owner"], &route["here"]),
            (&json!(right.id), &json!(true))
        );
    }
    let call = json!({"kind": "leave", "mailbox": mailbox, "caller_number": "1"});
    let calls = "/api/v1/calls".to_owned();
    let box_path = format!("/api/v1/mailboxes/{mailbox}");
    let left = format!("{box_path}/messages?caller_number=1");
    let asked: [(&str, Answer); 3] = [
        (&left, wrong.deposit(mailbox, "1", ONE).send().await),
        (&calls, wrong.post(&calls, &call).await),
        (
            &box_path,
            wrong.patch(&box_path, &json!({"name": "Nobody"})).await,
        ),
    ];
    for (path, answer) in asked {
        let answer = answer.problem(307, "not_serving", &[&right.id, group]);
        assert_eq!(answer.header("location"), format!("{there}{path}"));
    }
    let read = wrong
        .request(Method::GET, &format!("{box_path}/messages"))
        .send()
        .await;
    assert_eq!(read.must_be(200).header("served-by"), wrong.id);
}

/// R-TO-2, R-FB-3: the survivor serves all, whichever it is; each group comes home by its own rule.
#[tokio::test]
async fn the_survivor_serves_all_and_each_group_goes_home_by_itself() {
    let scene = Scene::set().await;
    let ledger = &scene.ledger;
    let before = scene.epochs().await;
    for (which, (lost, mailbox)) in GROUPS.into_iter().enumerate() {
        let (kept, own) = GROUPS[1 - which];
        let (home, backup) = scene.of(lost);
        let start = scene.epochs().await;
        ledger.leave(home, mailbox).await;
        ledger.leave(backup, own).await;
        home.kill().await;
        let taken = scene.takes(backup, lost).await;
        assert_eq!(taken["epoch"], start[which] + 1);
        let status = backup.get("/api/v1/status").await;
        let other = group_of(&status, kept);
        assert_eq!(
            (&other["epoch"], &other["phase"], &other["owner"]),
            (
                &json!(start[1 - which]),
                &json!("normal"),
                &json!(backup.id)
            ),
            "the other group did not move"
        );
        let alarm = backup.alarm("voicemail_failover").await;
        let system = if lost == "primary" {
            "headquarters"
        } else {
            "branch"
        };
        assert_eq!(alarm["subject"], system);

        // Both groups are served here, calls and all; a call of the lost group holds that one alone.
        ledger.leave(backup, mailbox).await;
        ledger.leave(backup, own).await;
        let mut call = OpenCall::to_leave(backup, mailbox, &ledger.caller()).await;
        call.up_to_the_beep().await;
        home.start().await;
        soon("failback to wait for the call", async || {
            let group = group_of(&backup.try_status().await?, lost);
            let waits = group["failback"]["waiting_for"].to_string();
            let only = waits == format!("[\"1 call on {} to end\"]", backup.id);
            only.then_some(()).ok_or(waits)
        })
        .await;
        ledger.record(&mut call).await;
        call.ends().await.must_be(204);
        scene.everyone_at_home().await;
        let end = scene.epochs().await;
        assert_eq!(
            (end[which], end[1 - which]),
            (start[which] + 2, start[1 - which])
        );
    }
    scene.is_well(before).await;
}

/// Cut off from one another, each takes the other's group and keeps its own: everybody is answered
/// everywhere. Then each group has one owner, and goes home.
#[tokio::test]
async fn both_serve_all_while_the_line_is_cut() {
    let scene = Scene::set().await;
    let Scene {
        pair, net, ledger, ..
    } = &scene;
    let before = scene.epochs().await;
    for cut in [Cut::Silent, Cut::Refused] {
        let mut calls = Vec::new();
        for (group, mailbox) in GROUPS {
            let home = scene.of(group).0;
            let mut call = OpenCall::to_leave(home, mailbox, &ledger.caller()).await;
            call.up_to_the_beep().await;
            calls.push(call);
        }
        net.cut_all(cut);
        for (group, mailbox) in GROUPS {
            let (home, backup) = scene.of(group);
            scene.takes(backup, group).await;
            for node in [home, backup] {
                let id = ledger.leave(node, mailbox).await;
                ledger.is_heard(&id, node).await;
                let status = node.get("/api/v1/status").await;
                assert_eq!(status["peer"]["visible"], false);
                assert_eq!(group_of(&status, group)["serving_here"], "yes");
            }
        }
        net.heal();
        for (group, _) in GROUPS {
            let (owner, took) = pair.one_owner(group).await;
            println!(
                "{cut:?}: {group} has one owner, {owner}, {} ms after the return",
                took.as_millis()
            );
        }
        // Begun before the cut, finished where they were begun.
        for mut call in calls {
            ledger.record(&mut call).await;
            call.ends().await.must_be(204);
        }
        scene.everyone_at_home().await;
    }
    scene.is_well(before).await;
}

/// R-FO-7, for each group: who served what when both died.
#[tokio::test]
async fn both_groups_survive_the_death_of_both_nodes() {
    let scene = Scene::set().await;
    let Scene { pair, ledger, .. } = &scene;
    let before = scene.epochs().await;
    // Asked at the home, decided by the backup; held there, for the home is in sight.
    let ask = json!({"reason": "maintenance"});
    let path = "/api/v1/groups/secondary/activate-backup";
    pair.secondary.post(path, &ask).await.must_be(202);
    scene.serves(&pair.primary, "secondary").await;
    ledger.leave(&pair.primary, "3001").await;
    points(
        &scene.net,
        &pair.secondary,
        &pair.primary,
        "3001",
        "secondary",
    )
    .await;
    for node in pair.nodes() {
        node.kill().await;
    }
    // The home of the group, alone, knows that it does not own it; and answers all the same.
    pair.secondary.start().await;
    let group = group_of(&pair.secondary.get("/api/v1/status").await, "secondary");
    assert_eq!(
        (&group["owner"], &group["serving_here"], &group["epoch"]),
        (&json!("vmpro1"), &json!("partition"), &json!(before[1] + 1))
    );
    ledger.leave(&pair.secondary, "3001").await;
    ledger.leave(&pair.secondary, "2001").await;
    pair.primary.start().await;
    // It went away and came back, so the hold is over and the policy brings everything home.
    scene.everyone_at_home().await;
    scene.is_well(before).await;
}

/// R-VR-3: recordings stay with the node that made them, whoever served whom; and they need the
/// node's own right.
#[tokio::test]
async fn recordings_stay_with_the_node_that_made_them() {
    let scene = Scene::set().await;
    let Scene { pair, .. } = &scene;
    let record = async |node: &Node, name: &str, wav: &[u8]| {
        let path = format!("/api/v1/vrl/recordings?name={name}");
        node.request(Method::POST, &path).wav(wav).send().await
    };
    record(&pair.primary, "one.wav", ONE).await.must_be(201);
    record(&pair.secondary, "two.wav", TWO).await.must_be(201);
    pair.primary.kill().await;
    scene.takes(&pair.secondary, "primary").await;
    record(&pair.secondary, "during.wav", ONE)
        .await
        .must_be(201);
    pair.primary.start().await;
    scene.everyone_at_home().await;
    pair.in_step().await;
    let files = |node: &Node| {
        let mut names: Vec<_> = std::fs::read_dir(&node.vrl_dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort();
        names
    };
    // Nothing is on its way, and nothing waits to be.
    for node in pair.nodes() {
        let vrl = node.get("/api/v1/vrl").await;
        assert_eq!(
            (&vrl["state"], &vrl["files_pending"]),
            (&json!("off"), &json!(0)),
            "{vrl}"
        );
    }
    assert_eq!(files(&pair.primary), ["one.wav"]);
    assert_eq!(files(&pair.secondary), ["during.wav", "two.wav"]);

    pair.secondary.stop().await;
    pair.secondary
        .configure("folder = \"VRL\"", "folder = \"VRL\"\nright = false");
    pair.secondary.start().await;
    let refused = record(&pair.secondary, "three.wav", ONE).await;
    refused.problem(403, "no_media_manager_right", &["R-VR-3"]);
    record(&pair.primary, "three.wav", ONE).await.must_be(201);
}

/// R-FO-1, group by group: a desk phone is evidence for the group of its own system alone.
#[tokio::test]
async fn a_desk_phone_fails_over_the_group_of_its_system() {
    let pair = Pair::laid_out().await;
    pair.fails_over_quickly();
    pair.is_dual_active();
    pair.configure_both("trigger = \"visibility\"", "trigger = \"phones\"");
    pair.start_both().await;
    let node = &pair.primary;
    pair.secondary.kill().await;
    let phase = async |group: &str| group_of(&node.get("/api/v1/status").await, group);
    soon("the other node to be missed", async || {
        let phase = phase("secondary").await["phase"].clone();
        (phase == "pending").then_some(()).ok_or(phase.to_string())
    })
    .await;
    // What is waited for is the phone alone.
    soon("the time to be over", async || {
        let waits = phase("secondary").await["failback"]["waiting_for"].to_string();
        let phone = waits == "[\"a desk phone of vmpro2 to register at the system of vmpro1\"]";
        phone.then_some(()).ok_or(waits)
    })
    .await;
    for system in ["headquarters", "branch"] {
        let owner = phase("secondary").await["owner"].clone();
        assert_eq!(owner, "vmpro2", "before a phone of {system}");
        let phone = json!({"extension": "3001", "kind": "desk", "home_system": system, "at_system": "vmpro1"});
        let answer = node.post("/api/v1/phones", &phone).await;
        assert!(answer.status < 300, "{}", answer.text());
    }
    node.names_owner(node).await;
    soon("the branch to be served here", async || {
        let group = phase("secondary").await;
        (group["owner"] == "vmpro1")
            .then_some(())
            .ok_or(group.to_string())
    })
    .await;
    assert_eq!(phase("primary").await["epoch"], 0);
}

/// R-TO-6: backing up is a switch of each direction.
#[tokio::test]
async fn one_direction_may_be_backed_up_and_the_other_not() {
    let pair = Pair::laid_out().await;
    pair.fails_over_quickly();
    pair.is_dual_active();
    pair.secondary
        .configure("backs_up_voicemail = true", "backs_up_voicemail = false");
    pair.start_both().await;
    for node in pair.nodes() {
        let path = "/api/v1/groups/primary/activate-backup";
        let refused = node.post(path, &json!({})).await;
        refused.problem(409, "resilience_off", &["backs_up_voicemail", "vmpro2"]);
        let path = "/api/v1/groups/secondary/activate-backup";
        let dry = node
            .post(path, &json!({"dry_run": true}))
            .await
            .must_be(200)
            .json();
        assert_eq!(dry["owner"], "vmpro1");
    }
    pair.primary.kill().await;
    soon("the home to be missed for long", async || {
        let status = pair.secondary.try_status().await?;
        let group = group_of(&status, "primary");
        let missed = group["phase"] == "pending" && group["serving_here"] == "partition";
        missed.then_some(()).ok_or(group.to_string())
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let group = group_of(&pair.secondary.get("/api/v1/status").await, "primary");
    assert_eq!(
        (&group["owner"], &group["epoch"]),
        (&json!("vmpro1"), &json!(0))
    );
    // It answers all the same.
    pair.secondary.leave("2001", "1", ONE).await;
}
