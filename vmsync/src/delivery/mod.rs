//! Voice messages to users' e-mail addresses (R-MB-11, R-SY-2 further entries): the shell around
//! the decisions of [`vmsync_core::delivery`].
//!
//! Each entry of `[[smtp.sender]]` but the first has a [`carrier`](self) of its own, a task that looks for
//! what waits, mails it and marks it; one more watches what no entry carries. They share nothing but
//! the store and the [`Board`], and the node loop does not wait for them: a server that is slow or
//! away holds up neither another domain nor the pair. `watch` turns the board into alarms.

mod board;
mod carrier;
mod letter;
mod trust;
mod watch;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::tz::TimeZone;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;
use vmsync_config::{Config, words::EmailMode};
use vmsync_core::{
    delivery::{HANDOVER, Lane},
    vrl::Pace,
};
use vmsync_store::{Committed, model::Mailbox};

pub use board::{Board, LaneState, Trouble};
pub(crate) use trust::{Trust, client_tls};

use self::carrier::Carrier;
use crate::{
    app::App,
    smtp::{
        Timeouts,
        submission::{Login, Submission},
    },
};

/// A message of the mailbox could not be mailed, for good.
pub const FAILED: &str = "email_failed";
/// The server of an entry takes nothing.
pub const SERVER: &str = "email_server";
/// No entry carries a domain for which messages wait.
pub const NO_ENTRY: &str = "email_no_entry";
/// A server puts off the mails of a mailbox.
pub const DELAYED: &str = "email_delayed";

/// Between tries of what fails: from half a minute to an hour (RFC 5321 section 4.5.4.1).
const PACE: Pace = Pace {
    first: Duration::from_secs(30),
    most: Duration::from_hours(1),
};
/// On one machine, where somebody looks on.
const DEMO_PACE: Pace = Pace {
    first: Duration::from_secs(1),
    most: Duration::from_secs(15),
};
const DEMO_HANDOVER: Duration = Duration::from_secs(2);

/// Starts delivery on `tasks`.
///
/// # Errors
/// The pair's CA can't be read.
pub fn start(
    app: &Arc<App>,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Result<(), String> {
    let config = &app.config;
    let (pace, handover) = if config.node.demo {
        (DEMO_PACE, DEMO_HANDOVER)
    } else {
        (PACE, HANDOVER)
    };
    let zone = TimeZone::system();
    let ca = config.tls.files.as_ref().map(|files| files.ca.as_path());
    let trust = match config.senders.len() {
        0 | 1 => None,
        _ => Some(Trust::load(ca).map_err(|e| e.to_string())?),
    };
    let mut news = Vec::new();
    for (place, entry) in config.senders.iter().enumerate() {
        // In the place of the peer's entry: what no other carries.
        let server = trust.as_ref().filter(|_| place > 0).map(|trust| {
            Submission::new(
                entry.server.clone(),
                entry.port,
                trust.of(entry),
                entry.auth.as_ref().map(|auth| Login {
                    user: auth.user.clone(),
                    password_file: auth.password_file.clone(),
                }),
                config.node.fqdn.as_str(),
                Timeouts::default(),
            )
        });
        let told = Arc::new(Notify::new());
        news.push(Arc::clone(&told));
        let carrier = Carrier {
            app: Arc::clone(app),
            place,
            lane: Lane::new(entry.domain.clone(), pace),
            server,
            zone: zone.clone(),
            handover,
            news: told,
            serving: app.node.serving.clone(),
            since: BTreeMap::new(),
        };
        tasks.spawn(carrier.run(stop.clone()));
    }
    app.store.on_commit(Box::new(move |_: &Committed| {
        for told in &news {
            told.notify_one();
        }
    }));
    tasks.spawn(watch::run(Arc::clone(app), stop.clone()));
    Ok(())
}

/// Why a mailbox's messages can't be mailed as things are, and what to do; `None` = they can, or
/// are not to be.
pub fn problem(config: &Config, mailbox: &Mailbox) -> Option<String> {
    let mode = mailbox.email_mode;
    if mode == EmailMode::Off {
        return None;
    }
    // Each node may have changed one of the two while they were apart.
    let Some(email) = &mailbox.email else {
        return Some(format!(
            "e-mail mode {} without an address: set email, or email_mode to off",
            mode.as_str()
        ));
    };
    let domain = email.rsplit_once('@').map_or("", |(_, domain)| domain);
    if config.is_own_domain(domain) {
        return Some(format!(
            "{email} is an address of this pair, and messages mailed there would come back: set the user's own address"
        ));
    }
    let carried = config.sender_for(domain).is_some();
    (!carried).then(|| {
        format!(
            "no [[smtp.sender]] entry carries mail for {domain}: add one with domain = \"{domain}\" (or \"*\" for every domain) on both nodes and restart them, or change the address; until then the messages wait"
        )
    })
}
