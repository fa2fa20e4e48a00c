//! The cluster matrix: who is cut off, who is back first, and what goes on meanwhile.
//!
//! | cut | back first |
//! |---|---|
//! | the primary (killed) | – |
//! | the secondary (killed) | – |
//! | both (killed) | primary, secondary, both at once |
//! | the line between them, refused or silent | – |
//! | heartbeats alone, mails alone, one way alone | – |
//!
//! each while nothing goes on, during a call, during synchronisation, during failback, and with callers
//! who leave messages all through it, wherever they are let. A cell
//! ends as it began: the primary owns the group, both hold the same, no alarm is up. It must show
//! that one owner is named by both within 5 s of the return; that no epoch went down, or had two
//! owners; that each message acknowledged anywhere is on both nodes, once, byte for byte; that each
//! move is told in the history. While the line is cut both nodes take messages and say how they stand.
//!
//! The cells of a row follow one another on the same pair. Rows also run under the automatic policy, and
//! with a witness and consistency put first, with fewer cells: what the matrix asks for is the same.
//! `FULL=1` goes through each row three times, and has all of them under each of these.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what failed by panicking, and how long it took"
)]

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::time::Instant;
use vmsync_tests::pair::{
    Cut, Ledger, Net, Node, OpenCall, Pair, Process, Watch, Way, group_of, soon,
};

const GROUP: &str = "primary";
/// Issue of the partition: on healing there is one owner within this time.
const ONE_OWNER_WITHIN: Duration = Duration::from_secs(5);
/// Messages of a backlog, a second of sound each: 16 KB.
const BACKLOG: usize = 16;
/// What the line lets through while a backlog is to be under way, bytes a second.
const TRICKLE: u32 = 50_000;

/// What is cut, and how it comes back.
#[derive(Debug, Clone, Copy)]
enum Row {
    Primary,
    Secondary,
    Both(First),
    Line(Cut),
    /// One service, or one direction, while the node lives by another sign: no failover.
    Heartbeats(Cut),
    Mails(Cut),
    /// The primary can't reach the secondary.
    OneWay(Cut),
}

/// How the pair is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Under {
    /// Graceful failback, no witness.
    Defaults,
    /// Automatic failback (R-FB-4).
    Automatic,
    /// A witness that both see, and `answering_beats_consistency = false`.
    Witness,
}

/// Of two nodes that were killed, who is started first; the other when that one serves.
#[derive(Debug, Clone, Copy)]
enum First {
    Primary,
    Secondary,
    AtOnce,
}

impl Row {
    /// Whether each node still sees the other.
    fn is_partial(self) -> bool {
        matches!(self, Self::Heartbeats(_) | Self::Mails(_) | Self::OneWay(_))
    }
}

/// What goes on when it happens.
#[derive(Debug, Clone, Copy)]
enum Meanwhile {
    Nothing,
    Call,
    Sync,
    Failback,
    Callers,
}

#[tokio::test]
async fn the_primary_is_cut_and_comes_back() {
    row(Row::Primary).await;
}

#[tokio::test]
async fn the_secondary_is_cut_and_comes_back() {
    row(Row::Secondary).await;
}

#[tokio::test]
async fn both_are_cut_and_the_primary_is_back_first() {
    row(Row::Both(First::Primary)).await;
}

#[tokio::test]
async fn both_are_cut_and_the_secondary_is_back_first() {
    row(Row::Both(First::Secondary)).await;
}

#[tokio::test]
async fn both_are_cut_and_come_back_at_once() {
    row(Row::Both(First::AtOnce)).await;
}

#[tokio::test]
async fn the_line_is_cut_and_connections_are_refused() {
    row(Row::Line(Cut::Refused)).await;
}

#[tokio::test]
async fn the_line_is_cut_and_all_is_silent() {
    row(Row::Line(Cut::Silent)).await;
}

#[tokio::test]
async fn heartbeats_alone_are_cut() {
    row(Row::Heartbeats(Cut::Silent)).await;
}

#[tokio::test]
async fn mails_alone_are_cut() {
    row(Row::Mails(Cut::Refused)).await;
}

#[tokio::test]
async fn the_primary_alone_reaches_nobody() {
    row(Row::OneWay(Cut::Silent)).await;
}

#[tokio::test]
async fn under_the_automatic_policy_the_primary_is_cut() {
    row_under(Under::Automatic, Row::Primary).await;
}

#[tokio::test]
async fn under_the_automatic_policy_the_line_is_silent() {
    row_under(Under::Automatic, Row::Line(Cut::Silent)).await;
}

#[tokio::test]
async fn with_a_witness_both_are_cut_and_the_secondary_is_back_first() {
    row_under(Under::Witness, Row::Both(First::Secondary)).await;
}

#[tokio::test]
async fn with_a_witness_the_line_is_cut() {
    row_under(Under::Witness, Row::Line(Cut::Refused)).await;
}

/// Every row under every configuration: minutes, so only where asked for.
#[tokio::test]
async fn every_row_under_every_configuration() {
    if !full() {
        return;
    }
    let lines = [Row::Line(Cut::Refused), Row::Line(Cut::Silent)];
    let both = [First::Primary, First::Secondary, First::AtOnce].map(Row::Both);
    for under in [Under::Automatic, Under::Witness] {
        for one in [Row::Primary, Row::Secondary] {
            row_under(under, one).await;
        }
        for one in both.into_iter().chain(lines) {
            row_under(under, one).await;
        }
    }
}

fn full() -> bool {
    std::env::var("FULL").is_ok_and(|full| full == "1")
}

async fn row(row: Row) {
    row_under(Under::Defaults, row).await;
}

async fn row_under(under: Under, row: Row) {
    let scene = Scene::set(under, row).await;
    let all = [
        Meanwhile::Nothing,
        Meanwhile::Failback,
        Meanwhile::Callers,
        Meanwhile::Call,
        Meanwhile::Sync,
    ];
    let partial = [Meanwhile::Failback, Meanwhile::Call, Meanwhile::Sync];
    let (times, cells) = match (full(), under) {
        (true, Under::Defaults) => (3, &all[..]),
        // Idle and with callers: `signs_of_life`.
        (false, Under::Defaults) if row.is_partial() => (1, &partial[..]),
        (true, _) | (_, Under::Defaults) => (1, &all[..]),
        _ => (1, &all[..3]),
    };
    for _ in 0..times {
        for meanwhile in cells {
            scene.cell(*meanwhile).await;
        }
    }
}

struct Scene {
    under: Under,
    row: Row,
    // Before the pair, so that it is dropped first.
    net: Net,
    watch: Watch,
    ledger: Arc<Ledger>,
    pair: Pair,
    _witness: Option<Process>,
}

impl Scene {
    async fn set(under: Under, row: Row) -> Self {
        let pair = Pair::laid_out().await;
        pair.fails_over_quickly();
        let mut witness = None;
        match under {
            Under::Defaults => {}
            Under::Automatic => {
                pair.configure_both("policy = \"graceful\"", "policy = \"automatic\"");
            }
            Under::Witness => {
                let trigger = "trigger = \"visibility\"";
                let consistent = format!("{trigger}\nanswering_beats_consistency = false");
                pair.configure_both(trigger, &consistent);
                witness = Some(pair.has_a_witness());
            }
        }
        let net = Net::between(&pair);
        pair.start_both().await;
        pair.served_by(&pair.primary).await;
        Self {
            under,
            row,
            net,
            watch: Watch::over(&pair),
            ledger: Arc::default(),
            pair,
            _witness: witness,
        }
    }

    /// One cell of the matrix, from normal operation to normal operation.
    async fn cell(&self, meanwhile: Meanwhile) {
        let Self { pair, ledger, .. } = self;
        let begun = Instant::now();
        let epoch = self.epoch(&pair.primary).await;
        ledger.leave(&pair.primary, "2001").await;
        let mut call = self.under_way(meanwhile).await;
        let mut callers = Vec::new();
        if matches!(meanwhile, Meanwhile::Callers) {
            let [one, other] = pair.nodes();
            callers.push(ledger.calls_come_in([one, other], "2001"));
            callers.push(ledger.calls_come_in([other, one], "2001"));
        }

        let cut = Instant::now();
        self.cut().await;
        let noticed = self.apart(meanwhile).await.duration_since(cut);
        if matches!(meanwhile, Meanwhile::Call) {
            self.call_finishes(&mut call).await;
        }

        let back = self.back().await;
        let (_, healed) = pair.one_owner(GROUP).await;
        assert!(
            healed <= ONE_OWNER_WITHIN,
            "one owner after {healed:?} only"
        );
        self.call_finishes(&mut call).await;

        // Graceful failback waits until both hold the same, which callers may put off for long.
        for callers in callers {
            callers.hang_up().await;
        }
        pair.served_by(&pair.primary).await;
        pair.in_step().await;
        pair.one_owner(GROUP).await;
        let left = ledger.len();
        ledger.is_on_both(pair).await;
        pair.calm().await;
        self.watch.saw_nothing_wrong();
        self.watch.is_told(pair, GROUP, epoch).await;
        let moves = self.epoch(&pair.primary).await - epoch;
        assert_eq!(moves, self.moves(meanwhile), "failovers and failbacks");
        println!(
            "{:?}, {:?}, {meanwhile:?}: settled {} ms after the cut, one owner {} ms after the return ({} ms of starting before), {moves} moves, {left} messages, cell {:.1} s",
            self.under,
            self.row,
            noticed.as_millis(),
            healed.as_millis(),
            back.as_millis(),
            begun.elapsed().as_secs_f32(),
        );
    }

    /// Brings about what is to be interrupted; gives the call, where there is one.
    async fn under_way(&self, meanwhile: Meanwhile) -> Option<OpenCall<'_>> {
        let Self {
            pair, net, ledger, ..
        } = self;
        match meanwhile {
            Meanwhile::Nothing | Meanwhile::Callers => None,
            Meanwhile::Call => Some(self.call_at(&pair.primary).await),
            Meanwhile::Sync => {
                let (from, to) = (&pair.primary, &pair.secondary);
                net.slow(Way::Smtp, from, to, TRICKLE);
                let carried = || net.carried(Way::Smtp, from, to);
                let before = carried();
                for _ in 0..BACKLOG {
                    ledger.leave(from, "2002").await;
                }
                soon("a backlog to be under way", async || {
                    let so_far = carried() - before;
                    (so_far > 40_000)
                        .then_some(())
                        .ok_or(format!("{so_far} bytes"))
                })
                .await;
                let held = to.get("/api/v1/status").await["totals"]["messages"].as_u64();
                let all = u64::try_from(ledger.len()).unwrap();
                assert!(held.unwrap() < all, "the backlog is over already");
                None
            }
            Meanwhile::Failback => {
                pair.primary.kill().await;
                pair.secondary.names_owner(&pair.secondary).await;
                let call = self.call_at(&pair.secondary).await;
                pair.primary.start().await;
                soon("failback to wait for the call", async || {
                    let group = group_of(&pair.secondary.try_status().await?, GROUP);
                    let waits = group["failback"]["waiting_for"].to_string();
                    let mut list = group["failback"]["waiting_for"]
                        .as_array()
                        .into_iter()
                        .flatten();
                    let call = list.next().is_some_and(|w| w == "1 call on vmpro2 to end");
                    // Under the automatic policy the timeout is the alternative (R-FB-4).
                    let only =
                        call && list.all(|w| w.as_str().is_some_and(|w| w.starts_with("or ")));
                    (group["phase"] == "returning" && only)
                        .then_some(())
                        .ok_or(waits)
                })
                .await;
                Some(call)
            }
        }
    }

    async fn call_at<'n>(&self, node: &'n Node) -> OpenCall<'n> {
        let mut call = OpenCall::to_leave(node, "2003", &self.ledger.caller()).await;
        call.up_to_the_beep().await;
        call
    }

    async fn cut(&self) {
        let Self { pair, net, .. } = self;
        match self.row {
            Row::Primary => pair.primary.kill().await,
            Row::Secondary => pair.secondary.kill().await,
            Row::Both(_) => {
                for node in pair.nodes() {
                    node.kill().await;
                }
            }
            Row::Line(cut) => net.cut_all(cut),
            Row::Heartbeats(cut) | Row::Mails(cut) => {
                let mails = matches!(self.row, Row::Mails(_));
                let way = if mails { Way::Smtp } else { Way::Heartbeat };
                net.cut(way, &pair.primary, &pair.secondary, cut);
                net.cut(way, &pair.secondary, &pair.primary, cut);
            }
            Row::OneWay(cut) => net.cut_one_way(&pair.primary, &pair.secondary, cut),
        }
    }

    /// Waits until whoever is left has done what is his, and leaves messages there; gives when it
    /// had been done. Of two that were killed, one is started here.
    async fn apart(&self, meanwhile: Meanwhile) -> Instant {
        let Self { pair, ledger, .. } = self;
        let [primary, secondary] = pair.nodes();
        let resilience = matches!(meanwhile, Meanwhile::Failback);
        let alone = match self.row {
            Row::Primary | Row::Both(First::Secondary) => vec![secondary],
            Row::Secondary | Row::Both(First::Primary) => vec![primary],
            Row::Both(First::AtOnce) => vec![],
            Row::Heartbeats(_) | Row::Mails(_) | Row::OneWay(_) => {
                return self.missed(resilience).await;
            }
            Row::Line(_) => vec![primary, secondary],
        };
        if matches!(self.row, Row::Both(_))
            && let [first] = alone[..]
        {
            first.start().await;
        }
        for node in &alone {
            self.is_alone(node, resilience).await;
        }
        let settled = Instant::now();
        for node in alone {
            if self.stands(node, resilience) == "isolated" {
                continue;
            }
            let id = ledger.leave(node, "2001").await;
            ledger.is_heard(&id, node).await;
        }
        settled
    }

    /// Waits until what is cut is told, and longer than a failover would take; who serves goes on.
    async fn missed(&self, resilience: bool) -> Instant {
        let [primary, secondary] = self.pair.nodes();
        let epoch = self.epoch(primary).await;
        match self.row {
            Row::Heartbeats(_) => secondary.alarm("heartbeat_lost").await,
            Row::Mails(_) => secondary.alarm("smtp_lost").await,
            _ => primary.alarm("smtp_lost").await,
        };
        let told = Instant::now();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let owner = if resilience { secondary } else { primary };
        for node in [primary, secondary] {
            let group = group_of(&node.get("/api/v1/status").await, GROUP);
            assert_eq!(group["epoch"], epoch, "nothing moves: {group}");
            assert_eq!(group["owner"], owner.id.as_str(), "{group}");
        }
        self.ledger.leave(owner, "2001").await;
        told
    }

    /// Waits until `node` says that it answers although the other is out of sight. The backup owns
    /// the group by then; the home doesn't where it had been taken over before.
    async fn is_alone(&self, node: &Node, resilience: bool) {
        let home = node.id == self.pair.primary.id;
        let wanted = self.stands(node, resilience);
        soon(&format!("{} to go on alone", node.id), async || {
            let status = node.try_status().await?;
            let group = group_of(&status, GROUP);
            let alone = status["peer"]["visible"] == false;
            let named = group["owner"] == node.id.as_str();
            let fine = alone && group["serving_here"] == wanted && named == (wanted == "yes");
            fine.then_some(()).ok_or(group.to_string())
        })
        .await;
        if !home {
            node.alarm("voicemail_failover").await;
        }
    }

    /// What a node that is alone says of itself.
    fn stands(&self, node: &Node, resilience: bool) -> &'static str {
        let home = node.id == self.pair.primary.id;
        match (home && resilience, self.under) {
            (false, _) => "yes",
            // It knows that the other owns the group, and may not answer beside it.
            (true, Under::Witness) => "isolated",
            (true, _) => "partition",
        }
    }

    /// Heals the cut; gives how long the processes took to be started.
    async fn back(&self) -> Duration {
        let Self { pair, net, .. } = self;
        let [primary, secondary] = pair.nodes();
        net.heal();
        let begun = Instant::now();
        match self.row {
            Row::Primary | Row::Both(First::Secondary) => primary.start().await,
            Row::Secondary | Row::Both(First::Primary) => secondary.start().await,
            Row::Both(First::AtOnce) => {
                primary.launch().await;
                secondary.launch().await;
                primary.ready().await;
                secondary.ready().await;
            }
            Row::Line(_) | Row::Heartbeats(_) | Row::Mails(_) | Row::OneWay(_) => {}
        }
        begun.elapsed()
    }

    /// The caller speaks and hangs up, on the node that has the call; unless that was killed.
    async fn call_finishes(&self, call: &mut Option<OpenCall<'_>>) {
        let Some(mut call) = call.take() else { return };
        let lived = match self.row {
            Row::Primary => call.is_at(&self.pair.secondary),
            Row::Secondary => call.is_at(&self.pair.primary),
            Row::Both(_) => false,
            Row::Line(_) | Row::Heartbeats(_) | Row::Mails(_) | Row::OneWay(_) => true,
        };
        if lived {
            self.ledger.record(&mut call).await;
            call.ends().await.must_be(204);
        } else {
            assert!(!call.goes_on().await, "a call outlived its process");
        }
    }

    /// Failovers and failbacks of a cell.
    fn moves(&self, meanwhile: Meanwhile) -> u64 {
        // The secondary is alone for so long that it takes the group.
        let alone = match self.row {
            Row::Primary | Row::Both(First::Secondary) | Row::Line(_) => true,
            Row::Secondary
            | Row::Both(First::Primary | First::AtOnce)
            | Row::Heartbeats(_)
            | Row::Mails(_)
            | Row::OneWay(_) => false,
        };
        let before = matches!(meanwhile, Meanwhile::Failback);
        if alone || before { 2 } else { 0 }
    }

    async fn epoch(&self, node: &Node) -> u64 {
        let status: Value = node.get("/api/v1/status").await;
        group_of(&status, GROUP)["epoch"].as_u64().unwrap()
    }
}
