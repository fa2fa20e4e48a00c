//! One lane: looks for what waits for its entry, mails it, marks it; one message at a time, so that
//! what is in memory is one message an entry, and the rest stays in the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::tz::TimeZone;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vmsync_config::words::{Extension, GroupName, Now, SystemName, UnixMillis};
use vmsync_core::{
    delivery::{Answer, Duty, Job, Lane, Verdict},
    resilience::Serving,
};
use vmsync_store::{Stamp, Unmailed, model::Mailbox};

use super::{
    board::Trouble,
    letter::{self, Read, Ready},
    problem,
};
use crate::{app::App, clock, smtp::submission::Submission};

/// Mailboxes looked at in one reading of the store.
const PAGE: usize = 200;
/// Messages of a mailbox looked at, oldest first: what lies behind more unreadable ones waits.
const EACH: usize = 32;
/// A look at everything that waits, whatever happens, for the figures.
const LONGEST_REST: Duration = Duration::from_secs(10);
/// Never more than one part in so many of the time is spent looking when nothing can be done.
const LEISURE: u32 = 10;
/// How soon what is held back is looked at again.
const HELD: Duration = Duration::from_secs(1);
const SHORTEST_REST: Duration = Duration::from_millis(100);
/// How long to wait before a mark that could not be kept is tried again.
const MARK_AGAIN: Duration = Duration::from_secs(1);

type Table = Arc<Vec<(GroupName, Serving)>>;

/// See the module's head.
pub(super) struct Carrier {
    pub(super) app: Arc<App>,
    /// Its place among the entries; 0 = what no entry carries.
    pub(super) place: usize,
    pub(super) lane: Lane,
    /// None: there is no server to ask.
    pub(super) server: Option<Submission>,
    pub(super) zone: TimeZone,
    pub(super) handover: Duration,
    /// Something was committed.
    pub(super) news: Arc<Notify>,
    pub(super) serving: watch::Receiver<Table>,
    /// Since when this node answers for each group.
    pub(super) since: BTreeMap<GroupName, Now>,
}

/// What became of a message.
#[derive(Clone)]
enum Mark {
    Mailed { id: Uuid, forwarded: bool },
    Failed { id: Uuid, to: String, why: String },
}

/// What a round came to.
#[derive(Default)]
struct Round {
    /// Something was tried, so that another look is worth while.
    tried: bool,
    /// Something is this node's to mail, but not yet.
    held: bool,
    pending: u64,
    /// Of them, those that are this node's to mail.
    ours: u64,
    mailboxes: BTreeSet<Extension>,
    uncarried: BTreeMap<String, String>,
}

impl Carrier {
    /// Carries until stopped. The mail under way is finished first, within the limits of a stop.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        self.note_serving();
        while !stop.is_cancelled() {
            let begun = clock::now().mono;
            let round = self.round(&stop).await;
            let (tried, held) = (round.tried, round.held);
            self.show(round);
            if !tried {
                let now = clock::now();
                let took = now.mono.saturating_sub(begun);
                let longest = if held { HELD } else { LONGEST_REST };
                self.rest(now, took, longest, &stop).await;
            }
        }
        if let Some(server) = &mut self.server {
            server.close().await;
        }
    }

    async fn rest(
        &mut self,
        now: Now,
        took: Duration,
        longest: Duration,
        stop: &CancellationToken,
    ) {
        let least = took.saturating_mul(LEISURE).max(SHORTEST_REST);
        let until = self.lane.deadline(now);
        let wait = until.map_or(longest, |at| at.saturating_sub(now.mono));
        let wait = wait.clamp(least, longest.max(least));
        // A server that rests is not tried sooner for what has come.
        let resting = self.lane.rests(now).is_some();
        let slept = async {
            tokio::time::sleep(least).await;
            tokio::select! {
                () = tokio::time::sleep(wait.saturating_sub(least)) => {}
                () = self.news.notified(), if !resting => {}
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            changed = self.serving.changed() => {
                if changed.is_ok() {
                    self.note_serving();
                } else {
                    stop.cancelled().await;
                }
            }
            () = slept => {}
        }
    }

    /// Since when this node answers for what it does.
    fn note_serving(&mut self) {
        let now = clock::now();
        let table = Arc::clone(&self.serving.borrow_and_update());
        let answers = |serving: &Serving| matches!(serving, Serving::Yes | Serving::YesPartition);
        for (group, serving) in table.iter() {
            if answers(serving) {
                self.since.entry(group.clone()).or_insert(now);
            } else {
                self.since.remove(group);
            }
        }
    }

    /// Goes through all mailboxes of which something waits, and tries one message of each that is
    /// this lane's.
    async fn round(&mut self, stop: &CancellationToken) -> Round {
        let mut round = Round::default();
        let mut behind: Option<Extension> = None;
        loop {
            let from = behind.take();
            let read = self.app.store(move |store| {
                let page = store.unmailed(from.as_ref(), PAGE, EACH)?;
                let mailboxes = page.into_iter().map(|unmailed| {
                    let mailbox = store.mailbox(&unmailed.mailbox)?;
                    Ok((unmailed, mailbox))
                });
                mailboxes.collect::<Result<Vec<_>, _>>()
            });
            let page = match read.await {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(%error, "what waits to be mailed can't be read");
                    return round;
                }
            };
            let full = page.len() == PAGE;
            behind = page.last().map(|(unmailed, _)| unmailed.mailbox.clone());
            for (unmailed, mailbox) in page {
                if let Some(mailbox) = mailbox.filter(|m| self.carries(m)) {
                    self.look_at(&unmailed, &mailbox, &mut round, stop).await;
                }
                if stop.is_cancelled() {
                    return round;
                }
            }
            if !full {
                return round;
            }
        }
    }

    /// Whether its messages go by this lane.
    fn carries(&self, mailbox: &Mailbox) -> bool {
        let domain = mailbox.email.as_deref().map(domain_of);
        let entry = domain.and_then(|domain| self.app.config.sender_for(domain));
        entry.map_or(0, |(place, _)| place) == self.place
    }

    async fn look_at(
        &mut self,
        unmailed: &Unmailed,
        mailbox: &Mailbox,
        round: &mut Round,
        stop: &CancellationToken,
    ) {
        round.pending += unmailed.waiting;
        let system = mailbox.home_system.as_ref().map(SystemName::as_str);
        let group = self.app.group_of(system);
        let serving = self.app.node.serving(&group);
        if !matches!(serving, Serving::Yes | Serving::YesPartition) {
            return;
        }
        round.ours += unmailed.waiting;
        round.mailboxes.insert(mailbox.extension.clone());
        if self.place == 0
            && let Some(why) = problem(&self.app.config, mailbox)
        {
            let domain = mailbox.email.as_deref().map_or("", domain_of);
            round.uncarried.insert(domain.to_owned(), why);
        }
        let now = clock::now();
        if self.lane.rests(now).is_some() && !self.lane.gives_up(now) {
            return;
        }
        for id in &unmailed.messages {
            let now = clock::now();
            let resting = self.lane.rests(now).is_some();
            if !resting && !self.lane.mailbox_may(&mailbox.extension, now) {
                return;
            }
            let wanted = *id;
            let stamp = self.app.store(move |s| Ok(letter::still_waits(s, wanted)));
            let Ok(Some(stamp)) = stamp.await else {
                continue;
            };
            let only_copy = self.app.copies(*id, &stamp) < 2;
            if !self.is_ours(&stamp, only_copy, &group, &serving, now) {
                round.held = true;
                continue;
            }
            let job = Job {
                mailbox: mailbox.extension.clone(),
                message: wanted,
                arrived: stamp.at.wall,
            };
            if resting {
                // They are in order of arrival: what lies behind one that is not overdue isn't either.
                let Some(why) = self.lane.given_up(job.arrived, now) else {
                    return;
                };
                self.fail(&job, mailbox, &why, stop).await;
                continue;
            }
            if self.lane.message_may(wanted, now) {
                round.tried |= self.try_one(&job, mailbox, stop).await;
                return;
            }
        }
    }

    fn is_ours(
        &self,
        stamp: &Stamp,
        only_copy: bool,
        group: &GroupName,
        serving: &Serving,
        now: Now,
    ) -> bool {
        let status = self.app.node.status();
        let finished = |state: &str| state == "finished";
        let since = self.since.get(group).copied().unwrap_or(now);
        let duty = Duty {
            serving,
            served_for: now.mono.saturating_sub(since.mono),
            handover: self.handover,
            peer_visible: status.peer.visible,
            in_step: finished(&status.sync.out.state) && finished(&status.sync.incoming.state),
            taken_here: stamp.origin.node == self.app.config.node.id,
            since_served: stamp.at.wall >= since.wall,
            only_copy,
        };
        duty.is_ours()
    }

    /// False where there was nothing to try after all.
    async fn try_one(&mut self, job: &Job, mailbox: &Mailbox, stop: &CancellationToken) -> bool {
        let (answer, forwarded) = match self.read(job, mailbox).await {
            Read::Over => return false,
            Read::Uncarried(why) => (Answer::MailboxLater(why), false),
            Read::Unreadable(why) => (Answer::MessageLater(why), false),
            Read::Unsendable(why) => (Answer::Refused(why), false),
            Read::Ready(ready) => (self.hand_over(&ready, mailbox).await, ready.forwarded),
        };
        let error = match &answer {
            Answer::Taken => None,
            Answer::NotNow { why, .. }
            | Answer::MailboxLater(why)
            | Answer::MessageLater(why)
            | Answer::Refused(why) => Some(why.clone()),
        };
        let now = clock::now();
        if let Some(why) = error {
            tracing::info!(mailbox = %job.mailbox, message = %job.message, why, "not e-mailed");
            self.board(|lane| lane.last_error = Some((now.wall, why)));
        }
        match self.lane.ended(job, answer, now) {
            Verdict::Mailed => self.mailed(job, forwarded, now, stop).await,
            Verdict::Failed(why) => self.fail(job, mailbox, &why, stop).await,
            Verdict::Later => {}
        }
        self.board(|lane| lane.known = true);
        true
    }

    async fn read(&self, job: &Job, mailbox: &Mailbox) -> Read {
        if self.place == 0 {
            let why = problem(&self.app.config, mailbox);
            return why.map_or(Read::Over, Read::Uncarried);
        }
        let (app, zone, place) = (Arc::clone(&self.app), self.zone.clone(), self.place);
        let (extension, id) = (job.mailbox.clone(), job.message);
        let read = self.app.store(move |store| {
            let entry = app.config.senders.get(place);
            let configured = entry.and_then(|e| e.sender.as_deref());
            Ok(letter::read(
                store,
                &app.config,
                configured,
                &zone,
                &extension,
                id,
            ))
        });
        match read.await {
            Ok(read) => read,
            Err(e) => Read::Unreadable(e.to_string()),
        }
    }

    async fn hand_over(&mut self, ready: &Ready, mailbox: &Mailbox) -> Answer {
        let system = mailbox.home_system.as_ref().map(SystemName::as_str);
        let serving = self.app.node.serving(&self.app.group_of(system));
        let later = |why: &str| Answer::MessageLater(why.to_owned());
        if !matches!(serving, Serving::Yes | Serving::YesPartition) {
            return later("another node serves the mailbox now");
        }
        let Some(server) = &mut self.server else {
            return later("there is no server to ask");
        };
        match server.send(&ready.from, &ready.to, &ready.mail).await {
            Ok(()) => Answer::Taken,
            Err(failure) => Answer::from(failure),
        }
    }

    /// The server has it: that is kept before anything else is done, or it would go out again.
    async fn mailed(&mut self, job: &Job, forwarded: bool, now: Now, stop: &CancellationToken) {
        self.board(|lane| {
            lane.sent += 1;
            lane.last_sent = Some(now.wall);
        });
        let id = job.message;
        self.keep(Mark::Mailed { id, forwarded }, stop).await;
        tracing::info!(mailbox = %job.mailbox, message = %job.message, forwarded, "e-mailed");
        self.app.alarms.clear(super::FAILED, job.mailbox.as_str());
    }

    async fn fail(&mut self, job: &Job, mailbox: &Mailbox, why: &str, stop: &CancellationToken) {
        let to = mailbox.email.clone().unwrap_or_default();
        let text = format!(
            "a message for {to} can't be e-mailed: {why}; it stays in mailbox {}: check the address, or set email_mode to off (ends with the next one that is taken, or when address or mode is changed)",
            job.mailbox
        );
        self.app
            .alarms
            .raise(super::FAILED, job.mailbox.as_str(), &text);
        self.board(|lane| lane.failed += 1);
        let (id, why) = (job.message, why.to_owned());
        self.keep(Mark::Failed { id, to, why }, stop).await;
    }

    /// Keeps a mark; repeated until it is durable.
    async fn keep(&self, mark: Mark, stop: &CancellationToken) {
        loop {
            let mark = mark.clone();
            let kept = self.app.store(move |store| match mark {
                Mark::Mailed { id, forwarded } => store.mark_emailed(id, forwarded),
                Mark::Failed { id, to, why } => store.mark_email_failed(id, &to, &why),
            });
            let Err(error) = kept.await else { return };
            tracing::error!(%error, "what became of an e-mail can't be kept; tried again");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(MARK_AGAIN) => {}
            }
        }
    }

    fn board(&self, change: impl FnOnce(&mut super::board::LaneState)) {
        self.app.delivery.change(self.place, change);
    }

    /// Tells how the lane stands after a round.
    fn show(&mut self, round: Round) {
        self.lane
            .retain(|mailbox| round.mailboxes.contains(mailbox));
        if round.ours == 0 {
            self.lane.reset();
        }
        let now = clock::now();
        let wall = |at: Duration| {
            let ahead = at.saturating_sub(now.mono).as_millis();
            UnixMillis(now.wall.0.saturating_add(u64::try_from(ahead).unwrap_or(0)))
        };
        let told = self.lane.alarm().is_some();
        let trouble = self.lane.trouble().map(|t| Trouble {
            since: t.since.wall,
            why: t.why.clone(),
            again: t.again(now).map(wall),
            tries: t.tries(),
            told,
        });
        let waiting = self.lane.waiting();
        let waiting = waiting.map(|(m, t)| (m.to_string(), t.why.clone(), t.again(now).map(wall)));
        let waiting = waiting.collect();
        // Of what no entry carries an operator is told by domain.
        let delayed = self.lane.delayed().filter(|_| self.place > 0);
        let delayed = delayed.map(|(m, t)| (m.to_string(), t.why.clone()));
        let delayed = delayed.collect();
        self.board(|lane| {
            lane.pending = round.pending;
            lane.trouble = trouble;
            lane.waiting = waiting;
            lane.delayed = delayed;
            lane.uncarried = round.uncarried;
            lane.known |= round.ours == 0;
        });
    }
}

fn domain_of(email: &str) -> &str {
    email.rsplit_once('@').map_or("", |(_, domain)| domain)
}
