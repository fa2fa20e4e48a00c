//! The two nodes side by side, and what flows between them.

use maud::{Markup, html};

use super::words::{count, size, time};
use crate::status::{DirectionStatus, Status, TotalsStatus};

/// What a card says of a node.
struct Card<'a> {
    id: &'a str,
    fqdn: &'a str,
    role: &'a str,
    here: bool,
    state: String,
    up: bool,
    calls: Option<u32>,
    totals: Option<TotalsStatus>,
    rows: Vec<(&'static str, Markup)>,
}

/// Primary left, secondary right, whichever node is asked: an operator with both consoles open
/// sees the same picture twice.
pub(super) fn nodes(status: &Status) -> Markup {
    let (mine, theirs) = (own_card(status), peer_card(status));
    let (left, right, lr, rl) = if status.node.role == "primary" {
        (mine, theirs, &status.sync.out, &status.sync.incoming)
    } else {
        (theirs, mine, &status.sync.incoming, &status.sync.out)
    };
    html! {
        section.pair aria-label="Both nodes" {
            (node_card(&left))
            div.sync {
                h3 { "Synchronisation" }
                (direction("→", left.id, right.id, lr))
                (direction("←", right.id, left.id, rl))
                (digests(status))
            }
            (node_card(&right))
        }
    }
}

fn own_card(status: &Status) -> Card<'_> {
    let node = &status.node;
    let serves = serves(status, &node.id);
    let mut rows = vec![
        ("Voicemail type", html! { (node.voicemail_type) }),
        ("Running since", time(&node.started_at)),
        ("Store", html! { code { (node.incarnation) } }),
    ];
    if let Some(backup) = &node.backup_address {
        rows.insert(1, ("Backup address", html! { (backup) }));
    }
    Card {
        id: &node.id,
        fqdn: &node.fqdn,
        role: &node.role,
        here: true,
        state: if node.ready {
            serves
        } else {
            "starting".to_owned()
        },
        up: node.ready,
        calls: Some(status.calls),
        totals: Some(status.totals),
        rows,
    }
}

fn peer_card(status: &Status) -> Card<'_> {
    let peer = &status.peer;
    let word = if peer.visible {
        "Visible since"
    } else {
        "Out of sight since"
    };
    let address = peer
        .url
        .split_once("://")
        .map_or(peer.url.as_str(), |(_, rest)| rest);
    let mut rows = vec![
        (
            "Console",
            html! { a href=(peer.url) rel="noopener" { (address.trim_end_matches('/')) } },
        ),
        (word, time(&peer.since)),
    ];
    if let Some(seen) = peer.last_seen.as_ref().filter(|_| !peer.visible) {
        rows.push(("Last seen", time(seen)));
    }
    let signs = [
        ("answers heartbeats", peer.signs.answers),
        ("sends heartbeats", peer.signs.questions),
        ("its mail server greets", peer.signs.greeting),
    ];
    let signs: Vec<_> = signs
        .iter()
        .filter(|(_, is)| *is)
        .map(|(what, _)| *what)
        .collect();
    if peer.visible {
        rows.push(("Signs", html! { (signs.join(", ")) }));
    }
    if let Some(reason) = &peer.reason {
        rows.push(("Why", html! { (reason) }));
    }
    Card {
        id: &peer.id,
        fqdn: &peer.fqdn,
        role: if status.node.role == "primary" {
            "secondary"
        } else {
            "primary"
        },
        here: false,
        state: if peer.visible {
            serves(status, &peer.id)
        } else {
            "out of sight".to_owned()
        },
        up: peer.visible,
        calls: peer.calls,
        totals: peer.totals,
        rows,
    }
}

fn serves(status: &Status, id: &str) -> String {
    let groups: Vec<&str> = status
        .groups
        .iter()
        .filter(|g| g.owner == id)
        .map(|g| g.name.as_str())
        .collect();
    match (groups.len(), status.groups.len()) {
        (0, _) => "stands by".to_owned(),
        (n, all) if n == all => "serves".to_owned(),
        _ => format!("serves {}", groups.join(", ")),
    }
}

fn node_card(card: &Card<'_>) -> Markup {
    let class = match (card.up, card.state.starts_with("serves")) {
        (false, _) => "down",
        (true, true) => "serving",
        (true, false) => "standby",
    };
    html! {
        article.node.(class) aria-label={ "Node " (card.id) } {
            header {
                p.label { (card.role) @if card.here { " · this node" } }
                h2 { (card.id) }
                p.state { span.dot aria-hidden="true" {} (card.state) }
            }
            p.fqdn { (card.fqdn) }
            dl.big {
                div { dt { "Calls" } dd.num { (shown(card.calls.map(u64::from))) } }
                div { dt { "Mailboxes" } dd.num { (shown(card.totals.map(|t| t.mailboxes))) } }
                div { dt { "Messages" } dd.num { (shown(card.totals.map(|t| t.messages))) } }
                div { dt { "Audio" } dd.num { @if let Some(t) = card.totals { (size(t.bytes)) } @else { "–" } } }
            }
            dl.rows {
                @for (name, value) in &card.rows { div { dt { (name) } dd { (value) } } }
            }
        }
    }
}

fn shown(n: Option<u64>) -> String {
    n.map_or_else(|| "–".to_owned(), |n| n.to_string())
}

fn direction(arrow: &str, from: &str, to: &str, d: &DirectionStatus) -> Markup {
    let class = match d.state.as_str() {
        "finished" => "calm",
        "stalled" => "alert",
        _ => "watch",
    };
    html! {
        div.direction.(class) aria-label={ "From " (from) " to " (to) ": " (d.state) } {
            span.arrow aria-hidden="true" { (arrow) }
            p.word { (d.state) }
            p.muted {
                @if d.pending_ops > 0 {
                    (count(d.pending_ops, "change")) ", " (size(d.pending_bytes)) " left"
                    @if let Some(eta) = d.eta_s { ", about " (eta) " s" }
                } @else { "nothing left" }
            }
            @if let Some(since) = &d.since { p.muted { "since " (time(since)) } }
            @if let Some(reason) = &d.reason { p.reason { (reason) } }
        }
    }
}

fn digests(status: &Status) -> Markup {
    let sync = &status.sync;
    let short = |digest: &str| digest.chars().take(12).collect::<String>();
    let word = match &sync.peer_digest {
        _ if sync.diverged => "differ though both hold the same changes",
        None => "not yet compared",
        Some(theirs) if *theirs == sync.digest => "equal",
        Some(_) => "differ",
    };
    html! {
        div.digests.alert[sync.diverged] {
            p { "Contents " strong { (word) } }
            p.muted {
                code title=(sync.digest) { (short(&sync.digest)) }
                @if let Some(theirs) = &sync.peer_digest { " · " code title=(theirs) { (short(theirs)) } }
            }
        }
    }
}
