//! The proof that both nodes hold the same, and everything that qualifies it: single copies, what is
//! quarantined, audio the disk has lost; and what the last reunions came to.

use std::sync::Arc;

use axum::extract::State;
use maud::{Markup, html};
use vmsync_config::words::Vector;
use vmsync_store::{AudioFault, Change, Conflict, MergeReport, Quarantined, Side, StoreError};

use super::{
    Console, SignedIn,
    layout::{Here, Oops, page},
    words::{count, moment, size, time},
};
use crate::{
    app::CertificateAnswer,
    node::{self, Course, ReunionReport},
    status::SyncStatus,
};

/// Reports, and lines of each list, on the page; the API has all.
const REPORTS: usize = 10;
const LINES: usize = 50;

/// What is read for the page.
struct Held {
    origin: String,
    have: Vector,
    quarantined: Vec<Quarantined>,
    faults: Vec<AudioFault>,
    course: Option<Course>,
    reports: Vec<ReunionReport>,
}

pub(super) async fn show(
    State(console): State<Arc<Console>>,
    SignedIn { session, .. }: SignedIn,
) -> Result<Markup, Oops> {
    let app = &console.app;
    let held = app
        .store(|store| {
            let mut reports = node::reports(store)?;
            reports.truncate(REPORTS);
            Ok::<_, StoreError>(Held {
                origin: store.origin().to_string(),
                have: store.have(),
                quarantined: store.quarantined(),
                faults: store.audio_faults(),
                course: node::course(store)?,
                reports,
            })
        })
        .await?;
    let certificate = app.node.certificate().await;
    let status = app.node.status();
    let peer = &status.peer.id;
    let body = html! {
        header.head {
            h1 { "Proof" }
            p.muted { "What " (status.node.id) " and " (peer) " hold, and how they know that it is the same." }
        }
        (verdict(&status.sync, certificate.as_ref(), peer))
        div.columns {
            (held_here(&held, &status.sync, peer))
            (audio(&held))
        }
        @if !held.quarantined.is_empty() { (quarantine(&held.quarantined)) }
        (reunions(&held.reports, &status.node.id, peer))
    };
    Ok(page(app, Some(&session), Here::Proof, "Proof", &body))
}

fn verdict(sync: &SyncStatus, certificate: Option<&CertificateAnswer>, peer: &str) -> Markup {
    let equal = certificate.is_some_and(|c| c.equal_now);
    let (class, label, text) = if equal {
        (
            "calm",
            "Equal",
            format!("This node and {peer} hold the same"),
        )
    } else if sync.diverged {
        (
            "alert",
            "Different",
            "Both hold the same changes but not the same state; it is being repaired".to_owned(),
        )
    } else {
        (
            "watch",
            "Not equal now",
            format!("This node and {peer} do not hold the same at this moment"),
        )
    };
    html! {
        section.banner.(class) role="status" aria-label="Whether both hold the same" {
            p.tone { (label) }
            h2 { (text) }
            @match certificate.and_then(|c| Some((c.at.as_ref()?, c.digest.as_ref()?))) {
                Some((at, digest)) => {
                    p.muted { "Last shown equal " (time(at)) ", digest " code { (digest) } }
                    @if let Some(c) = certificate.filter(|c| c.left_out.count > 0 || c.audio_faults > 0) {
                        p.reason {
                            "It leaves out " (count(c.left_out.count, "quarantined record")) " and did not look at "
                            (count(c.audio_faults, "audio file")) " missing or damaged here"
                        }
                    }
                }
                None => p.muted { "They have never been shown equal." },
            }
        }
    }
}

fn held_here(held: &Held, sync: &SyncStatus, peer: &str) -> Markup {
    html! {
        section.panel aria-label="What this node holds" {
            h2 { "Held here" }
            dl.rows {
                div { dt { "Messages only here" } dd.num { (sync.single_copies) } }
                div { dt { "Quarantined" } dd.num { (sync.quarantined) } }
                div { dt { "Digest" } dd { code { (sync.digest) } } }
                div { dt { "Digest of " (peer) } dd { code { (sync.peer_digest.as_deref().unwrap_or("not told yet")) } } }
                @if let Some(ms) = sync.probe.round_trip_ms {
                    div { dt { "Last probe, there and back" } dd.num { (ms) " ms" } }
                }
                div { dt { "This store" } dd { code { (held.origin) } } }
            }
            details {
                summary { (count(held.have.iter().count() as u64, "origin")) }
                ul.list {
                    @for (origin, seq) in held.have.iter() {
                        li { code { (origin) } " up to change " span.num { (seq) } }
                    }
                }
            }
        }
    }
}

fn audio(held: &Held) -> Markup {
    html! {
        section.panel aria-label="Audio files" {
            h2 { "Audio files" @if !held.faults.is_empty() { " " span.badge.alert { (held.faults.len()) } } }
            p.muted { "Each is read once in a while and compared with its SHA-256." }
            @match &held.course {
                None => p { "Not begun yet." },
                Some(course) => dl.rows {
                    div { dt { "This time since" } dd { (moment(course.begun)) } }
                    div { dt { "Read" } dd.num { (count(course.files, "file")) ", " (size(course.bytes)) } }
                    @if let Some(ended) = course.ended.or(course.last_ended) {
                        div { dt { "All read last" } dd { (moment(ended)) } }
                    }
                },
            }
            @if held.faults.is_empty() {
                p { "None is known to be missing or damaged." }
            } @else {
                p { "Missing or damaged; the peer is asked for its copies:" }
                ul.list {
                    @for fault in held.faults.iter().take(LINES) {
                        li { p { code { (fault.entity) } } p.reason { (fault.why) } p.muted { (moment(fault.since)) } }
                    }
                }
                (beyond(held.faults.len(), LINES))
            }
        }
    }
}

fn quarantine(quarantined: &[Quarantined]) -> Markup {
    html! {
        section.panel.apart aria-label="Quarantine" {
            h2 { "Quarantine " span.badge.alert { (quarantined.len()) } }
            p.muted { "A change of each could not be sent or taken and was left behind, so that everything else goes on. It is tried again each hour." }
            ul.list {
                @for q in quarantined.iter().take(LINES) {
                    li { p { code { (q.entity) } } p.reason { (q.why) } p.muted { (moment(q.since)) } }
                }
            }
            (beyond(quarantined.len(), LINES))
        }
    }
}

fn reunions(reports: &[ReunionReport], me: &str, peer: &str) -> Markup {
    html! {
        section.panel.apart aria-label="Reunions" {
            h2 { "Reunions" }
            p.muted { "What each side held alone when the nodes met again, and what became of changes both had made." }
            @if reports.is_empty() { p { "None so far: whenever they met, both held the same." } }
            ol.list.timeline {
                @for r in reports { (reunion(r, me, peer)) }
            }
        }
    }
}

fn reunion(r: &ReunionReport, me: &str, peer: &str) -> Markup {
    let report: &MergeReport = &r.report;
    let conflicts = report.conflicts.len() as u64 + report.more;
    html! {
        li {
            p { strong { "Equal again " (moment(r.equal_at)) } span.muted { " · met " (moment(r.met_at)) } }
            p { (me) " alone: " (side(&report.here)) }
            p { (peer) " alone: " (side(&report.there)) }
            @if let Some(why) = &report.incomplete { p.reason { (why) } }
            @if conflicts == 0 {
                p.muted { "Nothing was changed on both sides." }
            } @else {
                details {
                    summary { (count(conflicts, "change")) " made on both sides" }
                    ul.list {
                        @for c in report.conflicts.iter().take(LINES) { (conflict(c)) }
                    }
                    (beyond(usize::try_from(conflicts).unwrap_or(usize::MAX), LINES))
                }
            }
        }
    }
}

fn side(side: &Side) -> String {
    let parts = [
        (side.messages_taken, "message taken", "messages taken"),
        (side.messages_changed, "message changed", "messages changed"),
        (side.messages_deleted, "message deleted", "messages deleted"),
        (
            side.mailboxes,
            "change of a mailbox",
            "changes of mailboxes",
        ),
        (side.greetings, "greeting", "greetings"),
        (side.flows, "call flow", "call flows"),
        (side.settings, "other change", "other changes"),
    ];
    let told = parts.into_iter().filter(|(n, ..)| *n > 0);
    let told: Vec<_> = told
        .map(|(n, one, many)| format!("{n} {}", if n == 1 { one } else { many }))
        .collect();
    if told.is_empty() {
        "nothing".to_owned()
    } else {
        told.join(", ")
    }
}

fn conflict(c: &Conflict) -> Markup {
    html! {
        li {
            p { code { (c.entity) } @if let Some(field) = &c.field { " · " (field) } }
            p { "Kept: " (change(&c.kept)) }
            @for dropped in &c.dropped { p.muted { "Not kept: " (change(dropped)) } }
            p.muted { (c.because) @if c.retrievable { " What was not kept can be looked at and taken back as a version." } }
        }
    }
}

fn change(c: &Change) -> Markup {
    html! {
        @if let Some(value) = &c.value { strong { (value) } ", " }
        "by " (c.by.node) ", " (moment(c.at))
    }
}

fn beyond(all: usize, shown: usize) -> Markup {
    html! {
        @if all > shown { p.muted { "and " (all - shown) " more: " code { "GET /api/v1/sync" } } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::LeftOut;

    #[test]
    fn what_a_side_held_is_told_in_words() {
        let held = Side {
            operations: 5,
            messages_taken: 1,
            messages_changed: 3,
            greetings: 1,
            ..Side::default()
        };
        assert_eq!(
            side(&held),
            "1 message taken, 3 messages changed, 1 greeting"
        );
        assert_eq!(side(&Side::default()), "nothing");
    }

    #[test]
    fn the_verdict_is_never_better_than_the_facts() {
        let status = crate::http::console::example::status();
        let certificate = |equal_now| CertificateAnswer {
            at: Some("2026-11-22T08:43:12.000Z".to_owned()),
            digest: Some("abc".to_owned()),
            vector: serde_json::Value::Null,
            equal_now,
            left_out: LeftOut::default(),
            audio_faults: 0,
        };
        let said = |sync: &SyncStatus, c: Option<&CertificateAnswer>| {
            verdict(sync, c, "vmpro2").into_string()
        };
        let mut sync = status.sync;
        assert!(said(&sync, Some(&certificate(true))).contains("hold the same"));
        assert!(said(&sync, Some(&certificate(false))).contains("do not hold the same"));
        assert!(said(&sync, None).contains("never been shown equal"));
        let mut partial = certificate(true);
        partial.left_out.count = 2;
        assert!(said(&sync, Some(&partial)).contains("leaves out 2"));
        sync.diverged = true;
        assert!(said(&sync, Some(&certificate(false))).contains("being repaired"));
    }
}
