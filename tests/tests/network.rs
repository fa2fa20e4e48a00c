//! A true network: each node in a network namespace, packets dropped by filters, the cable pulled.
//! Silence is what most failures look like: no reset tells that a connection is dead, and TCP sends
//! what was on its way again in its own, growing time.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what failed by panicking, and how long it took"
)]

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use vmsync_tests::pair::{Cable, Ledger, Node, OpenCall, Pair, Watch, group_of, installed, soon};

const GROUP: &str = "primary";
/// How long a cut lasts after which both have decided.
const APART: Duration = Duration::from_secs(4);

struct Scene {
    cable: Cable,
    watch: Watch,
    ledger: Arc<Ledger>,
    pair: Pair,
}

impl Scene {
    /// `None` where this user may not make networks.
    async fn set() -> Option<Self> {
        let pair = Pair::laid_out().await;
        pair.fails_over_quickly();
        let Some(cable) = Cable::between(&pair) else {
            println!("not done: this user may not make network namespaces; root may");
            return None;
        };
        installed("nft");
        pair.start_both().await;
        Some(Self {
            watch: Watch::over(&pair),
            ledger: Arc::default(),
            cable,
            pair,
        })
    }

    /// Cuts by `cut` with a call going on and callers coming in, waits until both serve, heals it,
    /// and sees that everything is as it was.
    async fn cut_and_heal(&self, name: &str, cut: impl AsyncFnOnce(&Cable)) {
        let Self {
            pair,
            ledger,
            cable,
            ..
        } = self;
        let [primary, secondary] = pair.nodes();
        let epoch = self.epoch().await;
        let mut call = OpenCall::to_leave(primary, "2003", &ledger.caller()).await;
        call.up_to_the_beep().await;
        let callers = [
            ledger.calls_come_in([primary, secondary], "2001"),
            ledger.calls_come_in([secondary, primary], "2002"),
        ];
        let begun = Instant::now();
        cut(cable).await;
        self.alone(secondary).await;
        let taken = begun.elapsed();
        self.alone(primary).await;
        sleep(APART.saturating_sub(begun.elapsed())).await;
        for node in pair.nodes() {
            let id = ledger.leave(node, "2001").await;
            ledger.is_heard(&id, node).await;
        }
        ledger.record(&mut call).await;
        call.ends().await.must_be(204);

        cable.heal();
        let begun = Instant::now();
        pair.one_owner(GROUP).await;
        let healed = begun.elapsed();
        // Graceful failback waits until both hold the same, which callers may put off for long.
        for callers in callers {
            callers.hang_up().await;
        }
        pair.served_by(primary).await;
        pair.in_step().await;
        println!(
            "{name}: taken over {} ms after the cut; one owner {} ms, in step {} ms after {} s apart",
            taken.as_millis(),
            healed.as_millis(),
            begun.elapsed().as_millis(),
            APART.as_secs()
        );
        assert!(healed < Duration::from_secs(5), "one owner within 5 s");
        ledger.is_on_both(pair).await;
        pair.calm().await;
        self.watch.saw_nothing_wrong();
        self.watch.is_told(pair, GROUP, epoch).await;
        assert_eq!(self.epoch().await, epoch + 2);
    }

    async fn epoch(&self) -> u64 {
        let status = self.pair.primary.get("/api/v1/status").await;
        group_of(&status, GROUP)["epoch"].as_u64().unwrap()
    }

    /// Waits until `node` misses the other and serves.
    async fn alone(&self, node: &Node) {
        soon(&format!("{} to go on alone", node.id), async || {
            let status = node.try_status().await?;
            let group = group_of(&status, GROUP);
            let alone = status["peer"]["visible"] == false && group["serving_here"] == "yes";
            alone.then_some(()).ok_or(group.to_string())
        })
        .await;
    }
}

#[tokio::test]
async fn silence_of_the_network_leads_to_the_same_decisions_as_refusal() {
    let Some(scene) = Scene::set().await else {
        return;
    };
    let [primary, secondary] = scene.pair.nodes();
    let both = async |cable: &Cable| cable.drop_all();
    scene.cut_and_heal("no packets", both).await;
    // Packets of one only: no connection comes about either way, though half of each handshake does.
    let one = async |cable: &Cable| cable.drop_from(primary, secondary);
    scene.cut_and_heal("no packets of the primary", one).await;
    let one = async |cable: &Cable| cable.drop_from(secondary, primary);
    scene.cut_and_heal("no packets of the secondary", one).await;
    let pulled = async |cable: &Cable| cable.pull(primary);
    scene
        .cut_and_heal("the primary's cable pulled", pulled)
        .await;
}

/// Mails vanish in the middle, and nobody says so: no failover, an alarm, and afterwards they go on.
/// `FULL=1` has an outage after which TCP itself would be silent for another half minute.
#[tokio::test]
async fn mails_that_vanish_on_the_way_are_no_failover_and_get_through_afterwards() {
    let Some(scene) = Scene::set().await else {
        return;
    };
    let Scene {
        cable,
        ledger,
        pair,
        ..
    } = &scene;
    let [primary, secondary] = pair.nodes();
    let long = std::env::var("FULL").is_ok_and(|full| full == "1");
    for outage in [2, 12].into_iter().chain(long.then_some(35)) {
        // Mails are under way all the time, so one is when it happens.
        let callers = ledger.calls_come_in([primary, secondary], "2001");
        sleep(Duration::from_millis(300)).await;
        cable.drop_smtp();
        let begun = Instant::now();
        for node in pair.nodes() {
            node.alarm("smtp_lost").await;
        }
        let told = begun.elapsed();
        sleep(Duration::from_secs(outage)).await;
        callers.hang_up().await;
        let status = primary.get("/api/v1/status").await;
        assert_eq!(status["peer"]["visible"], true);
        assert_eq!(group_of(&status, GROUP)["epoch"], 0, "no failover");
        println!("after {outage} s: {}", status["sync"]["out"]);
        cable.heal();
        let begun = Instant::now();
        pair.in_step().await;
        println!(
            "told after {} ms; in step {} ms after {outage} s without mails",
            told.as_millis(),
            begun.elapsed().as_millis()
        );
        ledger.is_on_both(pair).await;
        pair.calm().await;
    }
    scene.watch.saw_nothing_wrong();
}
