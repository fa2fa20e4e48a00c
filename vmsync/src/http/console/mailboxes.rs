//! Mailboxes and their messages, to look at and listen to.

use std::sync::Arc;

use axum::{extract::State, http::HeaderMap, response::Response};
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;
use vmsync_config::words::Extension;
use vmsync_store::{
    EntityKey,
    model::{Mailbox, Message, MessageState},
};

use super::{
    Console, SignedIn,
    layout::{Here, Oops, page},
    words::{count, length, moment, size},
};
use crate::{
    delivery,
    http::{
        audio,
        extract::{Path, Query},
        mailboxes::existing,
        messages::existing_message,
    },
};

const PAGE: usize = 50;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Paging {
    cursor: Option<String>,
    /// Deleted messages too.
    #[serde(default)]
    deleted: bool,
}

pub(super) async fn list(
    State(console): State<Arc<Console>>,
    SignedIn { session, .. }: SignedIn,
    Query(paging): Query<Paging>,
) -> Result<Markup, Oops> {
    let app = &console.app;
    let mailboxes = app
        .store(move |s| s.mailboxes(paging.cursor.as_deref(), PAGE))
        .await?;
    let body = html! {
        header.head {
            h1 { "Mailboxes" }
            p.muted { (count(app.node.status().totals.mailboxes, "mailbox")) " on this node" }
        }
        @if mailboxes.items.is_empty() {
            p.empty { "No mailboxes. Create one with " code { "POST /api/v1/mailboxes" } "." }
        } @else {
            div.scroll tabindex="0" role="region" aria-label="Mailboxes" {
                table {
                    thead {
                        tr {
                            th scope="col" { "Extension" } th scope="col" { "Name" }
                            th.num scope="col" { "New" } th.num scope="col" { "Unopened" }
                            th.num scope="col" { "Old" } th.num scope="col" { "Saved" }
                            th.num scope="col" { "Deleted" } th.num scope="col" { "Size" }
                            th scope="col" { "System" } th scope="col" { "State" }
                        }
                    }
                    tbody { @for mailbox in &mailboxes.items { (row(mailbox)) } }
                }
            }
        }
        (next_page(mailboxes.next.as_deref(), ""))
    };
    Ok(page(
        app,
        Some(&session),
        Here::Mailboxes,
        "Mailboxes",
        &body,
    ))
}

fn row(mailbox: &Mailbox) -> Markup {
    let counts = mailbox.counts;
    html! {
        tr {
            th scope="row" { a href={ "/console/mailboxes/" (mailbox.extension) } { (mailbox.extension) } }
            td { (mailbox.name) }
            td.num { @if counts.new > 0 { span.badge.calm { (counts.new) } } @else { "0" } }
            td.num { (counts.unopened) }
            td.num { (counts.old) }
            td.num { (counts.saved) }
            td.num { (counts.deleted) }
            td.num { (size(counts.bytes)) }
            td { @if let Some(system) = &mailbox.home_system { (system) } @else { "–" } }
            td { (state_word(mailbox)) }
        }
    }
}

fn state_word(mailbox: &Mailbox) -> &'static str {
    match (mailbox.deleted, mailbox.enabled) {
        (true, _) => "deleted",
        (false, true) => "enabled",
        (false, false) => "disabled",
    }
}

pub(super) async fn read(
    State(console): State<Arc<Console>>,
    SignedIn { session, .. }: SignedIn,
    Path(ext): Path<String>,
    Query(paging): Query<Paging>,
) -> Result<Markup, Oops> {
    let app = &console.app;
    let ext = Extension::new(ext)?;
    let mailbox = existing(app, &ext).await?;
    let states: &[MessageState] = if paging.deleted { &ALL } else { &[] };
    let of = ext.clone();
    let messages = app
        .store(move |s| s.messages(&of, states, paging.cursor.as_deref(), PAGE))
        .await?;
    let title = format!("Mailbox {ext}");
    let body = html! {
        nav.crumbs aria-label="Path" { a href="/console/mailboxes" { "Mailboxes" } }
        header.head {
            h1 { (ext) @if !mailbox.name.is_empty() { " " span.muted { (mailbox.name) } } }
            p.muted {
                (state_word(&mailbox)) " · message light "
                @if mailbox.counts.new > 0 { "on" } @else { "off" }
                " · PIN " @if mailbox.has_pin { "set" } @else { "not set" }
                @if let Some(email) = &mailbox.email { " · " (email) }
                " · e-mail " (mailbox.email_mode.as_str())
            }
            @if let Some(problem) = delivery::problem(&app.config, &mailbox) {
                p.reason { (problem) }
            }
            @if !mailbox.greetings.is_empty() {
                ul.chips aria-label="Greetings" { @for kind in &mailbox.greetings { li { (kind.as_str()) " greeting" } } }
            }
        }
        @if messages.items.is_empty() { p.empty { "No messages." } }
        ol.messages { @for message in &messages.items { (message_row(message)) } }
        (next_page(messages.next.as_deref(), if paging.deleted { "&deleted=true" } else { "" }))
        @if !paging.deleted && mailbox.counts.deleted > 0 {
            p { a href="?deleted=true" { "Show deleted messages too (" (mailbox.counts.deleted) ")" } }
        }
    };
    Ok(page(app, Some(&session), Here::Mailboxes, &title, &body))
}

const ALL: [MessageState; 5] = [
    MessageState::New,
    MessageState::Unopened,
    MessageState::Old,
    MessageState::Saved,
    MessageState::Deleted,
];

fn message_row(message: &Message) -> Markup {
    let facts = &message.facts;
    let number = facts.caller_number.as_deref();
    let caller = facts
        .caller_name
        .as_deref()
        .or(number)
        .unwrap_or("Unknown caller");
    let state = match message.state {
        MessageState::New => "new",
        MessageState::Unopened => "unopened",
        MessageState::Old => "old",
        MessageState::Saved => "saved",
        MessageState::Deleted => "deleted",
    };
    html! {
        li.message.(state) {
            div.who {
                p { strong { (caller) } @if let Some(number) = number.filter(|n| *n != caller) { " " span.muted { (number) } } }
                p.muted {
                    @if let Some(at) = facts.received_at { (moment(at)) " · " }
                    (length(message.audio.duration_ms)) " · " (message.audio.codec) ", " (size(message.audio.bytes))
                    @if let Some(node) = &facts.taken_by { " · taken by " (node) }
                }
            }
            ul.chips aria-label="State" {
                li.(state) { (state) }
                @if facts.urgent { li.alert { "urgent" } }
                @if facts.private { li { "private" } }
                @if let Some(at) = message.emailed { li { "e-mailed " (moment(at)) } }
                @if let Some(failed) = &message.email_failed { li.alert title=(failed.why) { "not e-mailed" } }
            }
            audio controls preload="none" src={ "/console/mailboxes/" (message.mailbox) "/messages/" (message.id) "/audio" } aria-label={ "Message of " (caller) } {}
        }
    }
}

fn next_page(next: Option<&str>, more: &str) -> Markup {
    html! {
        @if let Some(next) = next {
            p.next { a.button href={ "?cursor=" (encoded(next)) (more) } { "Next page" } }
        }
    }
}

fn encoded(cursor: &str) -> String {
    url::form_urlencoded::byte_serialize(cursor.as_bytes()).collect()
}

pub(super) async fn listen(
    State(console): State<Arc<Console>>,
    _: SignedIn,
    Path((ext, id)): Path<(String, Uuid)>,
    headers: HeaderMap,
) -> Result<Response, Oops> {
    let message = existing_message(&console.app, &Extension::new(ext)?, id).await?;
    Ok(audio::answer(
        &console.app,
        EntityKey::Message(id),
        &message.audio,
        &headers,
    )
    .await?)
}
