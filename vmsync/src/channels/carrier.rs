//! The task of one channel: sends the oldest notice, again and again until it is taken, then the next.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vmsync_config::{Config, Severity, words::UnixMillis};
use vmsync_core::{
    alarm::{Facts, Item, Notice, Patience, Refusals, What},
    vrl::{Backoff, Pace},
};
use vmsync_store::Store;

use super::{
    DOWN, DROPPED, REFUSED,
    channel::{Ask, Channel},
    email, snmp, syslog, webhook,
};
use crate::{alarms::Alarms, clock};

/// Between tries: from a second to five minutes.
const PACE: Pace = Pace {
    first: Duration::from_secs(1),
    most: Duration::from_mins(5),
};
/// On one machine, where somebody looks on.
const DEMO_PACE: Pace = Pace {
    first: Duration::from_millis(200),
    most: Duration::from_secs(2),
};
/// A notice refused for good, before it is given up.
const PATIENCE: Patience = Patience {
    over: Duration::from_mins(10),
    tries: 4,
};
/// As [`DEMO_PACE`].
const DEMO_PATIENCE: Patience = Patience {
    over: Duration::from_secs(5),
    tries: 4,
};
/// One try at most, whatever the way.
const TRY: Duration = Duration::from_mins(1);
/// Tries that fail in a row before an alarm says so: one lost packet is none.
const TOLD: u32 = 2;

/// Why a notice was not taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Failure {
    /// In words, with what to do.
    pub(super) why: String,
    /// It is never to be tried again.
    pub(super) for_good: bool,
    /// It is this notice that is refused, and will be the next time: given up after some tries ([`Patience`]).
    pub(super) refused: bool,
    /// The receiver asks not to be tried again before this has passed.
    pub(super) not_within: Option<Duration>,
}

impl Failure {
    pub(super) fn new(why: impl Into<String>) -> Self {
        let why = why.into();
        Self {
            why,
            ..Self::default()
        }
    }
}

/// Who has taken a notice, where it goes to several; the others are told without names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Addresses that have it.
    pub(super) took: Vec<String>,
    /// Addresses that refuse it for good, and why.
    pub(super) refused: Vec<(String, String)>,
}

/// One of the ways.
pub(super) enum Driver {
    Email(email::Driver),
    Syslog(syslog::Driver),
    Snmp(snmp::Driver),
    Webhook(webhook::Driver),
}

impl Driver {
    /// How many are sent as one: all of them are taken, or none.
    fn at_once(&self) -> usize {
        match self {
            Self::Syslog(driver) => driver.at_once(),
            Self::Snmp(driver) => driver.at_once(),
            Self::Email(_) | Self::Webhook(_) => 1,
        }
    }

    /// Sends them; `Ok` once they are acknowledged, or, where there is no such thing, sent. `more` follow at once.
    async fn send(&mut self, items: &[Item], more: bool) -> Result<Told, Failure> {
        let nameless = |()| Told::default();
        match (self, items) {
            (Self::Syslog(driver), items) => driver.send(items).await.map(nameless),
            (Self::Snmp(driver), items) => driver.send(items).await.map(nameless),
            (Self::Email(driver), [item, ..]) => driver.send(item, more).await,
            (Self::Webhook(driver), [item, ..]) => driver.send(item).await.map(nameless),
            (Self::Email(_) | Self::Webhook(_), []) => Ok(Told::default()),
        }
    }
}

/// The drivers, in the order of [`super::specs`].
pub(super) fn drivers(config: &Config, store: &Store) -> Result<Vec<Driver>, String> {
    let mut all = Vec::new();
    for channel in &config.alarms.email {
        all.push(Driver::Email(email::Driver::new(channel, config)?));
    }
    for channel in &config.alarms.syslog {
        all.push(Driver::Syslog(syslog::Driver::new(channel, config)?));
    }
    if !config.alarms.snmp.is_empty() {
        let engine = snmp::Engine::begin(store, config)?;
        for channel in &config.alarms.snmp {
            let driver = snmp::Driver::new(channel, config, Arc::clone(&engine));
            all.push(Driver::Snmp(driver));
        }
    }
    for channel in &config.alarms.webhooks {
        all.push(Driver::Webhook(webhook::Driver::new(channel, config)?));
    }
    Ok(all)
}

/// See the module's head.
pub(super) struct Carrier {
    channel: Arc<Channel>,
    alarms: Alarms,
    driver: Driver,
    pace: Pace,
    backoff: Backoff,
    patience: Patience,
    refusals: Refusals,
    /// Asked for by the receiver.
    not_before: Option<Duration>,
    /// Whether the alarm that it is down may be up.
    told: bool,
    dropped: u64,
}

impl Carrier {
    pub(super) fn new(channel: Arc<Channel>, alarms: Alarms, driver: Driver, demo: bool) -> Self {
        Self {
            channel,
            alarms,
            driver,
            pace: if demo { DEMO_PACE } else { PACE },
            backoff: Backoff::default(),
            patience: if demo { DEMO_PATIENCE } else { PATIENCE },
            refusals: Refusals::default(),
            not_before: None,
            // By an earlier life.
            told: true,
            dropped: 0,
        }
    }

    pub(super) async fn run(mut self, mut asks: mpsc::Receiver<Ask>, stop: CancellationToken) {
        loop {
            self.tell_of_dropped();
            let now = clock::now();
            let asked = self.not_before.filter(|at| *at > now.mono);
            let until = self.backoff.wait(now).max(asked);
            let waits = !self.channel.lock().queue.is_empty();
            let due = async {
                match until {
                    _ if !waits => std::future::pending().await,
                    Some(at) => tokio::time::sleep(at.saturating_sub(clock::now().mono)).await,
                    None => {}
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(ask) = asks.recv() => self.test(ask, &stop).await,
                () = due => self.next(&stop).await,
                () = self.channel.news.notified() => {}
            }
        }
    }

    /// Tries the oldest.
    async fn next(&mut self, stop: &CancellationToken) {
        let (items, more) = {
            let mut state = self.channel.lock();
            let items = state.queue.begin(self.driver.at_once());
            let more = state.queue.len() > items.len();
            (items, more)
        };
        let Some(result) = self.attempt(&items, more, stop).await else {
            self.channel.lock().queue.failed();
            return;
        };
        match result {
            Ok(told) => {
                let gone = self.channel.lock().queue.told();
                let count = gone.len();
                self.channel.write(self.channel.records(gone));
                self.works(count);
                self.addresses(told);
            }
            Err(failure) if failure.for_good || self.is_poison(&items, &failure) => {
                for item in items {
                    tracing::warn!(channel = self.channel.name, notice = %item.notice.id, "given up: {}", failure.why);
                }
                let gone = self.channel.lock().queue.give_up();
                self.channel.write(self.channel.records(gone));
                self.note_error(&failure);
                if failure.refused {
                    self.answers();
                }
            }
            Err(failure) => {
                self.channel.lock().queue.failed();
                self.fails(&failure);
            }
        }
    }

    /// Whether the notice was refused for good so often that it is given up for those behind it.
    fn is_poison(&mut self, items: &[Item], failure: &Failure) -> bool {
        let first = items.first().filter(|_| failure.refused);
        first.is_some_and(|item| {
            let now = clock::now().mono;
            self.refusals.give_up(item.notice.id, now, &self.patience)
        })
    }

    /// `None` when the node stops meanwhile.
    async fn attempt(
        &mut self,
        items: &[Item],
        more: bool,
        stop: &CancellationToken,
    ) -> Option<Result<Told, Failure>> {
        let sent = tokio::time::timeout(TRY, self.driver.send(items, more));
        tokio::select! {
            () = stop.cancelled() => None,
            sent = sent => Some(sent.unwrap_or_else(|_| {
                Err(Failure::new(format!("no end within {} s", TRY.as_secs())))
            })),
        }
    }

    /// A test alarm, past the queue.
    async fn test(&mut self, ask: Ask, stop: &CancellationToken) {
        let at = clock::wall();
        let item = Item {
            number: 0,
            missed: 0,
            notice: Arc::new(test_notice(&self.channel.name, at)),
        };
        let result = self.attempt(&[item], false, stop).await;
        match result {
            None => drop(ask.send(Err("the node is stopping".to_owned()))),
            Some(Ok(told)) => {
                // What waits goes at once.
                self.works(0);
                let refused = told.refused.iter();
                let refused: Vec<_> = refused.map(|(_, why)| why.clone()).collect();
                self.addresses(told);
                let outcome = if refused.is_empty() {
                    Ok(())
                } else {
                    Err(format!("taken, but not for all: {}", refused.join("; ")))
                };
                drop(ask.send(outcome));
            }
            Some(Err(failure)) => {
                self.note_error(&failure);
                drop(ask.send(Err(failure.why)));
            }
        }
    }

    /// Says which addresses are refused, and which no more.
    fn addresses(&self, told: Told) {
        for (address, why) in told.refused {
            let text = format!(
                "alarms of channel {} are refused for {address}: {why}; the others have them: correct or remove the address",
                self.channel.name
            );
            self.note_error(&Failure::new(why));
            self.alarms.raise(REFUSED, &address, &text);
        }
        for address in told.took {
            self.alarms.clear(REFUSED, &address);
        }
    }

    fn works(&mut self, sent: usize) {
        {
            let mut state = self.channel.lock();
            state.view.last_success = Some(clock::wall());
            state.view.sent += u64::try_from(sent).unwrap_or(u64::MAX);
        }
        self.answers();
    }

    /// The receiver is there, whatever it thinks of a notice.
    fn answers(&mut self) {
        self.backoff.succeeded();
        self.not_before = None;
        {
            let mut state = self.channel.lock();
            state.view.failures = 0;
            state.view.retry_at = None;
        }
        // While some still wait, one that fails every now and then would be an alarm every now and then.
        if self.told && self.channel.lock().queue.is_empty() {
            self.told = false;
            self.alarms.clear(DOWN, &self.channel.name);
        }
    }

    fn note_error(&self, failure: &Failure) {
        let mut state = self.channel.lock();
        state.view.last_error = Some((clock::wall(), failure.why.clone()));
    }

    fn fails(&mut self, failure: &Failure) {
        let now = clock::now();
        self.backoff.failed(now, &self.pace, &self.channel.name);
        let failures = self.backoff.failures();
        let wait = self.backoff.wait(now).map(|at| at.saturating_sub(now.mono));
        // What the receiver asks for, as far as the longest pause there is.
        let asked = failure.not_within.map(|asked| asked.min(PACE.most));
        let wait = wait.max(asked).unwrap_or_default();
        self.not_before = asked.map(|_| now.mono.saturating_add(wait));
        let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let queued = {
            let mut state = self.channel.lock();
            state.view.failures = failures;
            state.view.retry_at = Some(UnixMillis(now.wall.0.saturating_add(wait)));
            state.queue.len()
        };
        self.note_error(failure);
        tracing::debug!(
            channel = self.channel.name,
            failures,
            "not sent: {}",
            failure.why
        );
        if failures >= TOLD {
            self.told = true;
            let text = format!(
                "alarms can't be sent by {} to {}: {}; {queued} wait and are tried again: see `vmsync alarms channels`, then `vmsync alarms test {}`",
                self.channel.kind, self.channel.target, failure.why, self.channel.name
            );
            self.alarms.raise(DOWN, &self.channel.name, &text);
        }
    }

    fn tell_of_dropped(&mut self) {
        let (dropped, empty) = {
            let state = self.channel.lock();
            (state.queue.dropped(), state.queue.is_empty())
        };
        if dropped > self.dropped {
            self.dropped = dropped;
            let text = format!(
                "{dropped} notices for {} were dropped or given up since the start; the list of alarms is complete: raise alarms.queue where this is too few",
                self.channel.target
            );
            self.alarms.raise(DROPPED, &self.channel.name, &text);
        } else if empty && dropped > 0 {
            self.alarms.clear(DROPPED, &self.channel.name);
        }
    }
}

fn test_notice(name: &str, at: UnixMillis) -> Notice {
    Notice {
        id: Uuid::new_v4(),
        at,
        what: What::Test(Facts {
            number: 0,
            code: "test".to_owned(),
            subject: name.to_owned(),
            text: "somebody asked whether this channel works; nothing is wrong".to_owned(),
            severity: Severity::Notice,
            since: at,
        }),
    }
}
