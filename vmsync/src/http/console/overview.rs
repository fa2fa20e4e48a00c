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
    nodes::nodes,
    recordings,
    sentence::sentence,
    session::Session,
    words::{moment, time},
};
use crate::{
    alarms::Alarm,
    events::Event,
    rights::RightsStatus,
    status::{FailbackStatus, GroupStatus, LinkStatus, Status},
    vrl::VrlStatus,
};

/// Everything the overview shows.
pub(super) struct Overview<'a> {
    pub(super) status: &'a Status,
    pub(super) recordings: &'a VrlStatus,
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
            (part("maintenance", &maintenance(status)))
            @for group in &status.groups {
                (part(&format!("group-{}", group.name), &group_card(group, self.session.admin, status.groups.len() > 1)))
            }
            (part("nodes", &nodes(status)))
            div.columns {
                (part("alarms", &alarms(self.alarms, self.session)))
                (part("systems", &systems(&status.links)))
                (part("history", &history(self.history)))
                (part("recordings", &recordings::panel(self.recordings, self.session)))
                (part("rights", &rights(&status.rights)))
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

/// Empty but for maintenance mode and a witness that is not seen.
fn maintenance(status: &Status) -> Markup {
    html! {
        @if let Some(m) = &status.maintenance {
            section.panel.notice aria-label="Maintenance mode" {
                h2 { "Maintenance mode" }
                p {
                    "Nothing fails over or back by itself"
                    @if let Some(until) = &m.until { " until " (time(until)) }
                    @else { " until an operator ends it" }
                    ". Begun at " (m.by) " on " (time(&m.since))
                    @if !m.reason.is_empty() { ": " (m.reason) }
                }
            }
        }
        @if let Some(w) = status.witness.as_ref().filter(|w| !w.seen) {
            section.panel.notice aria-label="Witness" {
                h2 { "The witness does not answer" }
                p {
                    (w.url) ": this node does not fail over by itself"
                    @if let Some(reason) = &w.reason { " (" (reason) ")" }
                }
            }
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
                @if let Some(hold_off) = &group.hold_off {
                    div.wide { dt { "Hold-off" } dd {
                        (group.home) " was lost " (hold_off.failovers) " times within an hour"
                        @if let Some(until) = &hold_off.until { "; held off until " (time(until)) }
                    } }
                }
                @if let Some(order) = &group.scheduled {
                    div.wide { dt { "Scheduled" } dd {
                        (order.what.replace('-', " ")) " at " (time(&order.at)) ", ordered at " (order.by)
                        @if let Some(reason) = &order.reason { ": " (reason) }
                    } }
                }
                @if let Some(why) = &group.both_may_serve {
                    div.wide { dt { "Both may answer" } dd { (why) } }
                }
                div.wide { dt { "Why" } dd { (group.reason) } }
            }
            @if !group.failback.waiting_for.is_empty() || group.failback.deadline.is_some() {
                div.waiting {
                    h3 { @if away { "Failback waits for" } @else { "Failover waits for" } }
                    ul { @for what in &group.failback.waiting_for { li { (what) } } }
                    @if let Some(next) = &group.waiting_until {
                        p { "By time alone the next of these is so at " (time(next)) "." }
                    }
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

/// What the node asked may do (R-FO-8).
fn rights(rights: &RightsStatus) -> Markup {
    html! {
        section.panel aria-label="Rights" {
            h2 { "Rights of this node" }
            dl.rows {
                @for (name, right) in rights.named() {
                    div { dt { (name) } dd { @if right.granted { (right.words()) } @else { strong { (right.words()) } } } }
                }
            }
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
        "alarm" if data["cleared"].is_string() => {
            format!("{} {} ended", text("code"), text("subject"))
        }
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
        let alarm = |cleared: serde_json::Value| {
            let data = serde_json::json!({"code": "disk_full", "subject": "vmpro1", "text": "free some space", "cleared": cleared});
            gist("alarm", &data)
        };
        assert_eq!(
            alarm(serde_json::Value::Null),
            "disk_full vmpro1: free some space"
        );
        assert_eq!(
            alarm("2026-11-22T08:43:12Z".into()),
            "disk_full vmpro1 ended"
        );
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
