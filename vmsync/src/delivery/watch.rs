//! Turns how delivery stands into alarms, one per cause, and ends them when it is cured.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use vmsync_config::words::{EmailMode, Extension};
use vmsync_store::{
    Store, StoreError,
    model::{EmailFailed, Message, MessageState},
};

use super::{DELAYED, FAILED, NO_ENTRY, SERVER, board::LaneState};
use crate::{alarms::Alarms, app::App};

const EVERY: Duration = Duration::from_secs(1);
/// Messages of a mailbox looked at for whether its failure is cured.
const LOOKED_AT: usize = 1000;
const ALL: [MessageState; 5] = [
    MessageState::New,
    MessageState::Unopened,
    MessageState::Old,
    MessageState::Saved,
    MessageState::Deleted,
];

/// Runs until stopped.
pub(super) async fn run(app: Arc<App>, stop: CancellationToken) {
    if let Err(error) = app.store(Store::settle_unmailed).await {
        tracing::warn!(%error, "what waits to be e-mailed may not be complete");
    }
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let lanes = app.delivery.lanes();
        servers(&app, &lanes);
        // What each lane has not looked at yet in this life it says nothing of.
        if lanes.iter().all(|lane| lane.known) {
            let delayed = lanes.iter().flat_map(|l| l.delayed.iter());
            let delayed = delayed.map(|(mailbox, why)| {
                let text = format!(
                    "the messages of mailbox {mailbox} are put off by the mail server: {why}; they are tried for 5 days: check the mailbox's address, and the sender of its [[smtp.sender]] entry"
                );
                (mailbox.clone(), text)
            });
            keep(&app.alarms, DELAYED, delayed.collect());
            let uncarried = lanes.first().map(|l| l.uncarried.clone());
            keep(&app.alarms, NO_ENTRY, uncarried.unwrap_or_default());
        }
        failures(&app).await;
    }
}

fn servers(app: &App, lanes: &[LaneState]) {
    for (entry, lane) in app.config.senders.iter().zip(lanes).skip(1) {
        match lane.trouble.as_ref().filter(|t| t.told) {
            Some(trouble) => {
                let text = format!(
                    "mails for {} can't be handed to {}:{}: {}; {} messages wait and are tried for 5 days",
                    entry.domain, entry.server, entry.port, trouble.why, lane.pending
                );
                app.alarms.raise(SERVER, &entry.domain, &text);
            }
            None if lane.known && lane.trouble.is_none() => {
                app.alarms.clear(SERVER, &entry.domain);
            }
            None => {}
        }
    }
    // An entry that is gone from the configuration has no trouble.
    let gone = |subject: &str| !app.config.senders.iter().any(|s| s.domain == subject);
    for subject in app.alarms.up_of(SERVER) {
        if gone(&subject) {
            app.alarms.clear(SERVER, &subject);
        }
    }
}

/// Raises what is wanted, and ends whatever else of that code is up.
fn keep(alarms: &Alarms, code: &str, wanted: BTreeMap<String, String>) {
    for subject in alarms.up_of(code) {
        if !wanted.contains_key(&subject) {
            alarms.clear(code, &subject);
        }
    }
    for (subject, text) in wanted {
        alarms.raise(code, &subject, &text);
    }
}

/// Ends the alarms of mailboxes whose failure is cured, also where the other node has cured it.
async fn failures(app: &App) {
    for subject in app.alarms.up_of(FAILED) {
        let Ok(extension) = Extension::new(&subject) else {
            continue;
        };
        if let Ok(true) = app.store(move |s| is_cured(s, &extension)).await {
            app.alarms.clear(FAILED, &subject);
        }
    }
}

fn is_cured(store: &Store, extension: &Extension) -> Result<bool, StoreError> {
    let Some(mailbox) = store.mailbox(extension)? else {
        return Ok(true);
    };
    if mailbox.email_mode == EmailMode::Off {
        return Ok(true);
    }
    let messages = store.messages(extension, &ALL, None, LOOKED_AT)?.items;
    Ok(cured(mailbox.email.as_deref(), &messages))
}

/// Whether nothing that failed is left that a later mail, or another address, has not made good.
fn cured(address: Option<&str>, messages: &[Message]) -> bool {
    let last_mailed = messages.iter().filter_map(|m| m.emailed).max();
    let failed = messages.iter().filter_map(|m| m.email_failed.as_ref());
    let stands = |failed: &EmailFailed| {
        address == Some(failed.to.as_str()) && last_mailed.is_none_or(|at| at <= failed.at)
    };
    !failed.into_iter().any(stands)
}
