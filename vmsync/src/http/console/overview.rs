//! The overview: both nodes side by side, who serves, why, and what it waits for.
//!
//! It is made of parts. `GET /` sends them in a page, `GET /console/fragment` alone; the page's
//! script puts a part in place only where its text has changed, so that nothing flickers, no
//! focus is lost, and a screen reader hears only what is new.

use maud::{Markup, html};
use serde_json::Value;
use vmsync_core::resilience::Ownership;

use super::{
    layout::form_token,
    sentence::sentence,
    session::Session,
    words::{count, moment, size, time},
};
use crate::{
    alarms::Alarm,
    events::Event,
    status::{DirectionStatus, FailbackStatus, GroupStatus, LinkStatus, Status, TotalsStatus},
};

/// Everything the overview shows.
pub(super) struct Overview<'a> {
    pub(super) status: &'a Status,
    /// Transitions of all groups, newest first.
    pub(super) history: &'a [Ownership],
    /// Alarms to show, newest first.
    pub(super) alarms: &'a [Alarm],
    /// Newest first.
    pub(super) events: &'a [std::sync::Arc<Event>],
    pub(super) session: &'a Session,
}

impl Overview<'_> {
    /// All parts.
    pub(super) fn render(&self) -> Markup {
        let status = self.status;
        html! {
            (part("banner", &banner(status)))
            @for group in &status.groups {
                (part(&format!("group-{}", group.name), &group_card(group, self.session.admin, status.groups.len() > 1)))
            }
            (part("nodes", &nodes(status)))
            div.columns {
                (part("alarms", &alarms(self.alarms, self.session)))
                (part("systems", &systems(&status.links)))
                (part("history", &history(self.history)))
                (part("recordings", &recordings(status)))
            }
            (part("events", &events(self.events)))
        }
    }
}

fn part(name: &str, body: &Markup) -> Markup {
    html! { div.part data-part=(name) { (body) } }
}

fn banner(status: &Status) -> Markup {
    let said = sentence(status);
    html! {
        section.banner.(said.tone.class()) role="status" aria-label="Who serves" {
            p.tone { (said.label) }
            h1 { (said.text) }
        }
    }
}

fn group_card(group: &GroupStatus, admin: bool, named: bool) -> Markup {
    let away = group.owner != group.home;
    html! {
        section.panel.group aria-label={ "Group " (group.name) } {
            @if named { h2 { "Group " (group.name) } }
            dl.facts {
                div { dt { "Served by" } dd { strong { (group.owner) } @if away { " for " (group.home) } } }
                div { dt { "Since" } dd { (time(&group.since)) } }
                div { dt { "Phase" } dd { (group.phase) } }
                div { dt { "Epoch" } dd.num { (group.epoch) } }
                div { dt { "Active calls" } dd.num { (group.calls) } }
                div { dt { "Failback" } dd { (policy(&group.failback)) } }
                @if group.phones_refused > 0 {
                    div { dt { "Phones refused" } dd.num { (group.phones_refused) } }
                }
                div.wide { dt { "Why" } dd { (group.reason) } }
            }
            @if !group.failback.waiting_for.is_empty() || group.failback.deadline.is_some() {
                div.waiting {
                    h3 { @if away { "Failback waits for" } @else { "Failover waits for" } }
                    ul { @for what in &group.failback.waiting_for { li { (what) } } }
                    @if let Some(deadline) = &group.failback.deadline {
                        p { "At the latest at " (time(deadline)) "." }
                    }
                }
            }
            (buttons(group, away, admin))
        }
    }
}

fn policy(failback: &FailbackStatus) -> String {
    // Only the automatic policy runs a timer (R-FB-4).
    match failback.policy.as_str() {
        "automatic" => format!("automatic, within {} min", failback.timeout_minutes),
        other => other.to_owned(),
    }
}

fn buttons(group: &GroupStatus, away: bool, admin: bool) -> Markup {
    let button = |action: &str, name: &str, fits: bool, else_because: String| {
        let href = format!("/console/groups/{}/{action}", group.name);
        html! {
            @if !admin {
                span.button aria-disabled="true" title="Sign in with an admin token" { (name) }
            } @else if fits {
                a.button.primary href=(href) { (name) }
            } @else {
                span.button aria-disabled="true" title=(else_because) { (name) }
            }
        }
    };
    html! {
        div.actions {
            (button("activate-backup", "Activate Backup Server", !away, format!("{} serves already", group.owner)))
            (button("failback", "Failback", away, format!("{} is at home already", group.owner)))
        }
    }
}

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
fn nodes(status: &Status) -> Markup {
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

fn alarms(alarms: &[Alarm], session: &Session) -> Markup {
    let up = alarms.iter().filter(|a| a.cleared.is_none()).count();
    html! {
        section.panel aria-label="Alarms" {
            h2 { "Alarms" @if up > 0 { " " span.badge.alert { (up) } } }
            @if alarms.is_empty() { p.muted { "None." } }
            ul.list {
                @for alarm in alarms {
                    li.cleared[alarm.cleared.is_some()] {
                        p { strong { (alarm.code) } " " span.muted { (alarm.subject) } }
                        p { (alarm.text) }
                        p.muted {
                            (moment(alarm.since))
                            @if alarm.count > 1 { " · " (alarm.count) " times" }
                            @if let Some(end) = alarm.cleared { " · ended " (moment(end)) }
                            @if alarm.acknowledged.is_some() { " · acknowledged" }
                        }
                        @if alarm.acknowledged.is_none() && session.admin {
                            form method="post" action={ "/console/alarms/" (alarm.id) "/ack" } {
                                (form_token(session))
                                button type="submit" id={ "ack-" (alarm.id) } aria-label={ "Acknowledge " (alarm.code) " " (alarm.subject) } { "Acknowledge" }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn systems(links: &[LinkStatus]) -> Markup {
    html! {
        section.panel aria-label="Systems" {
            h2 { "Systems" }
            @if links.is_empty() { p.muted { "None configured." } }
            ul.list.links {
                @for link in links {
                    li {
                        span.swatch.(link.colour) aria-hidden="true" {}
                        div {
                            p { strong { (link.system) } " " span.muted { "voicemail at " (link.destination) } }
                            p.muted { (link.colour.replace('-', " ")) ": " (link.meaning) }
                        }
                    }
                }
            }
        }
    }
}

fn history(history: &[Ownership]) -> Markup {
    html! {
        section.panel aria-label="History" {
            h2 { "Failovers and failbacks" }
            @if history.is_empty() { p.muted { "None so far." } }
            ol.list.timeline {
                @for entry in history {
                    li {
                        p { strong { (entry.owner) } " serves " (entry.group) " " span.muted { "epoch " (entry.epoch) } }
                        p { (entry.reason) }
                        p.muted { (moment(entry.since)) }
                    }
                }
            }
        }
    }
}

fn recordings(status: &Status) -> Markup {
    let vrl = &status.vrl;
    html! {
        section.panel aria-label="Recordings" {
            h2 { "Recordings" }
            dl.rows {
                div { dt { "Move to the primary" } dd { (vrl.state) } }
                @if vrl.state != "off" {
                    div { dt { "To move" } dd.num { (count(vrl.files_pending, "file")) ", " (size(vrl.bytes_pending)) } }
                    div { dt { "Moved" } dd.num { (count(vrl.files_done, "file")) } }
                }
            }
            @if let Some(error) = &vrl.last_error { p.reason { (error) } }
        }
    }
}

fn events(events: &[std::sync::Arc<Event>]) -> Markup {
    html! {
        section.panel aria-label="Events" {
            h2 { "Latest events" }
            @if events.is_empty() { p.muted { "Nothing has happened since this node started." } }
            ol.events {
                @for event in events {
                    li {
                        span.when { (moment(event.at)) }
                        span.kind { (event.kind) }
                        span.what { (gist(event.kind, &event.data)) }
                    }
                }
            }
        }
    }
}

/// An event in one line.
fn gist(kind: &str, data: &Value) -> String {
    const MOST: usize = 160;
    let text = |name: &str| data[name].as_str().unwrap_or_default();
    let number = |name: &str| data[name].as_u64().unwrap_or_default();
    let line = match kind {
        "mwi" => {
            let light = if data["on"] == true { "on" } else { "off" };
            format!(
                "mailbox {}: light {light}, {} new",
                text("mailbox"),
                number("new")
            )
        }
        "phase" => format!("group {}: {}", text("group"), text("phase")),
        "ownership" => format!(
            "{} serves group {}: {}",
            text("owner"),
            text("group"),
            text("reason")
        ),
        "alarm" => format!("{} {}: {}", text("code"), text("subject"), text("text")),
        "message" | "mailbox" | "greeting" => {
            let deed = if data["deleted"] == true {
                "deleted"
            } else {
                "changed"
            };
            let place = if data["from_peer"] == true {
                "at the peer"
            } else {
                "here"
            };
            format!("{} {deed} {place}", text("entity"))
        }
        _ => plain_facts(data),
    };
    if line.chars().count() <= MOST {
        return line;
    }
    line.chars().take(MOST - 1).chain(['…']).collect()
}

/// What an event of any kind says, without its nested parts.
fn plain_facts(data: &Value) -> String {
    let Some(fields) = data.as_object() else {
        return data.to_string();
    };
    let facts = fields.iter().filter_map(|(name, value)| match value {
        Value::String(text) => Some(format!("{name} {text}")),
        Value::Number(n) => Some(format!("{name} {n}")),
        Value::Bool(true) => Some(name.clone()),
        _ => None,
    });
    facts.collect::<Vec<_>>().join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_told_in_one_line() {
        let data = serde_json::json!({"mailbox": "2001", "new": 2, "on": true, "old": 0});
        assert_eq!(gist("mwi", &data), "mailbox 2001: light on, 2 new");
        let data = serde_json::json!({"entity": "message/1", "deleted": false, "from_peer": true});
        assert_eq!(gist("message", &data), "message/1 changed at the peer");
        let data = serde_json::json!({"file": "a.wav", "bytes": 7, "done": true, "more": {}});
        assert_eq!(gist("vrl", &data), "bytes 7 · done · file a.wav");
        let long = serde_json::json!({"text": "x".repeat(500)});
        assert_eq!(gist("new-kind", &long).chars().count(), 160);
    }

    #[test]
    fn what_comes_from_outside_is_escaped() {
        let link = LinkStatus {
            system: "<script>".to_owned(),
            colour: "red".to_owned(),
            meaning: "\"&".to_owned(),
            destination: "99999".to_owned(),
        };
        let html = systems(&[link]).into_string();
        assert!(!html.contains("<script>"), "{html}");
    }
}
