//! The engine's actions as a channel over HTTP gets them: with the address of every audio.

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;
use vmsync_callflows::{Action, Item, Waiting};

use crate::{
    app::App,
    calls::{
        Call, CallState,
        host::{Heard, Talk, heard},
    },
    clock,
};

/// What to do next in a call.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CallAnswer {
    /// The call.
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    /// `active` or `ended`.
    #[schema(value_type = String)]
    state: CallState,
    /// Node of the call flow where it is.
    step: String,
    /// What it waits for: `digits`, `played`, `recording`, `transfer` or `nothing`.
    waiting_for: &'static str,
    /// What to do, in this order; each an object with `action`: `play` (`items`, each a prompt,
    /// a spoken value, or audio with its address), `await_played`, `gather` (`max_digits`,
    /// `timeout_seconds`), `record` (`recording`, `max_seconds`, `silence_seconds`, `end_keys`),
    /// `transfer` (`to`), `disconnect` (`reason`).
    #[schema(value_type = Vec<Object>)]
    actions: Vec<Value>,
    /// After a recording: the message that was kept.
    #[schema(value_type = Option<String>, format = "uuid")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<Uuid>,
    /// After a recording: why no message was kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<String>,
}

/// Notes where the call has come to, and says what follows.
pub(super) async fn answer(
    app: &App,
    call: &Call,
    talk: &Talk,
    actions: Vec<Action>,
) -> CallAnswer {
    let now = clock::now();
    app.calls.at(call.id, talk.run.node(), now);
    if talk.run.ended() {
        let reason = actions.iter().find_map(|action| match action {
            Action::Disconnect { reason } => Some(*reason),
            _ => None,
        });
        app.calls.end(call.id, reason.unwrap_or("hung up"), now);
    }
    let state = app
        .calls
        .facts(call.id)
        .map_or(CallState::Ended, |facts| facts.state);
    let mut shown = Vec::with_capacity(actions.len());
    for action in actions {
        shown.push(show(app, call, action).await);
    }
    CallAnswer {
        id: call.id,
        state,
        step: talk.run.node().to_owned(),
        waiting_for: waits_for(talk),
        actions: shown,
        message: None,
        refused: None,
    }
}

/// What a call waits for, in one word.
pub(super) fn waits_for(talk: &Talk) -> &'static str {
    match talk.run.waiting() {
        _ if talk.wants_recording() => "recording",
        Waiting::Digits => "digits",
        Waiting::Played => "played",
        Waiting::Transfer => "transfer",
        Waiting::Recording | Waiting::LastRecording => "recording",
        Waiting::Answer | Waiting::Host | Waiting::Ended => "nothing",
    }
}

async fn show(app: &App, call: &Call, action: Action) -> Value {
    match action {
        Action::Play { items } => {
            let mut shown = Vec::with_capacity(items.len());
            for item in items {
                shown.push(show_item(app, call, item).await);
            }
            json!({ "action": "play", "items": shown })
        }
        // The mailbox's limit is shorter than the flow's, usually, and wins (R-MB-8).
        Action::Record {
            recording,
            max_seconds,
            silence_seconds,
            end_keys,
        } => {
            let most = app.config.limits.message_max.as_secs().max(1);
            json!({
                "action": "record",
                "recording": recording,
                "max_seconds": u64::from(max_seconds).min(most),
                "silence_seconds": silence_seconds,
                "end_keys": end_keys,
            })
        }
        other => serde_json::to_value(&other).unwrap_or_default(),
    }
}

async fn show_item(app: &App, call: &Call, item: Item) -> Value {
    match heard(app, item).await {
        Heard::Item(item) => serde_json::to_value(&item).unwrap_or_default(),
        Heard::Greeting(mailbox, kind) => {
            let kind = kind.as_str();
            let at = format!("/api/v1/mailboxes/{mailbox}/greetings/{kind}");
            json!({ "greeting": kind, "mailbox": mailbox, "audio": at })
        }
        Heard::Message(id) => {
            let at = format!("/api/v1/mailboxes/{}/messages/{id}/audio", call.new.mailbox);
            json!({ "message": id, "audio": at })
        }
    }
}
