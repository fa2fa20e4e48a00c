//! The loop: looks at the folder, gives recordings to lanes, waits after failures.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::{Id, JoinError, JoinSet},
};
use vmsync_core::vrl::{Backoff, Book, Found, RecordingName, Transfer};

use super::{
    Context,
    lane::{self, End, Left, Work},
};
use crate::vrl::{
    folder::{self, Listing, Taken},
    ftp::Session,
    status::{Current, VrlState},
    watch::{Changes, Watch},
};

/// A session that rested longer is opened anew: servers close idle ones, mostly without a word.
const SESSION_REST: Duration = Duration::from_secs(10);
/// After the server refused one more connection, how long until one more is tried.
const FEWER_FOR: Duration = Duration::from_mins(5);
/// Recordings that failed by themselves and wait to be tried again, at most: beyond it, others wait
/// for these. Each takes some 500 bytes.
const MOST_ASIDE: usize = 10_000;
/// Files looked at one by one; more than that are found by a look at the whole folder.
const MOST_LOOKS: usize = 256;
/// Names of refused files told at most.
const MOST_TOLD: usize = 100;
/// The loop turns at least this often.
const AT_LATEST: Duration = Duration::from_mins(1);
/// The loop never turns faster than this for time alone.
const LEAST_WAIT: Duration = Duration::from_millis(10);

/// When to try again (monotonic; zero = when conditions allow), and which.
type Turn = (Duration, RecordingName);

pub(super) struct Mover {
    ctx: Arc<Context>,
    taken_in: mpsc::Receiver<Taken>,
    book: Book,
    /// Begun, or failed; waiting for their turn.
    aside: BTreeMap<Turn, (Transfer, String)>,
    aside_bytes: u64,
    lanes: JoinSet<Left>,
    /// What the lanes are at.
    busy: BTreeSet<RecordingName>,
    /// Which lane is at what.
    tasks: HashMap<Id, RecordingName>,
    /// Sessions at rest, and since when (monotonic).
    sessions: Vec<(Session, Duration)>,
    link: Backoff,
    /// Lanes at once, for now, and until when fewer than configured.
    most: usize,
    fewer_until: Duration,
    watch: Watch,
    scans: JoinSet<io::Result<Listing>>,
    /// The next look at the whole folder, beside those that `watch` asks for.
    rescan_at: Option<Duration>,
    /// The folder was looked at since start.
    looked: bool,
    /// Files refused at the last look.
    refused: u64,
}

impl Mover {
    pub(super) fn new(ctx: Arc<Context>, watch: Watch, taken_in: mpsc::Receiver<Taken>) -> Self {
        Self {
            watch,
            book: Book::new(ctx.setup.tuning.quiet),
            most: ctx.connections(),
            ctx,
            taken_in,
            aside: BTreeMap::new(),
            aside_bytes: 0,
            lanes: JoinSet::new(),
            busy: BTreeSet::new(),
            tasks: HashMap::new(),
            sessions: Vec::new(),
            link: Backoff::default(),
            fewer_until: Duration::ZERO,
            scans: JoinSet::new(),
            rescan_at: None,
            looked: false,
            refused: 0,
        }
    }

    pub(super) async fn run(mut self) {
        self.restore().await;
        let mut allowed = self.ctx.allowed.clone();
        loop {
            self.look().await;
            let wake = self.fill();
            self.tell();
            if self.lanes.is_empty() {
                self.rest().await;
            }
            let sleep = wake.saturating_sub(self.now()).max(LEAST_WAIT);
            tokio::select! {
                changes = self.watch.changed() => self.changed(changes).await,
                Some(left) = self.lanes.join_next_with_id() => self.left(left),
                Some(scan) = self.scans.join_next() => self.scanned(scan.unwrap_or_else(|e| Err(io::Error::other(e)))),
                () = self.ctx.shared.kick.notified() => self.kicked(),
                () = self.ctx.shared.look.notified() => self.rescan_at = Some(Duration::ZERO),
                Some(taken) = self.taken_in.recv() => self.taken(&taken),
                Ok(()) = allowed.changed() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Monotonic.
    fn now(&self) -> Duration {
        self.ctx.now().mono
    }

    async fn restore(&mut self) {
        let journal = self.ctx.setup.journal.clone();
        match tokio::task::spawn_blocking(move || journal.load_all()).await {
            Ok(Ok(transfers)) => {
                for transfer in transfers.into_iter().filter_map(Transfer::restored) {
                    self.set_aside(Duration::ZERO, transfer, String::new());
                }
            }
            Ok(Err(e)) => self.ctx.shared.complain(&e.to_string()),
            Err(e) => self.ctx.shared.complain(&e.to_string()),
        }
    }

    /// An operator: everything is tried now.
    fn kicked(&mut self) {
        self.link.kick();
        self.ctx.by_hand.store(true, Ordering::Relaxed);
        let aside = std::mem::take(&mut self.aside);
        self.aside_bytes = 0;
        for (_, (mut transfer, why)) in aside {
            transfer.kick();
            self.set_aside(Duration::ZERO, transfer, why);
        }
        self.rescan_at = Some(Duration::ZERO);
    }

    fn taken(&mut self, taken: &Taken) {
        if let Ok(name) = RecordingName::new(&taken.name)
            && !self.is_under_way(&name)
        {
            let modified = std::time::UNIX_EPOCH + Duration::from_millis(self.ctx.now().wall.0);
            self.book.take(Found {
                name,
                bytes: taken.bytes,
                modified,
            });
        }
    }

    fn is_under_way(&self, name: &RecordingName) -> bool {
        self.busy.contains(name) || self.aside.keys().any(|(_, aside)| aside == name)
    }

    /// Looks at what is due: the whole folder, or what may still have grown.
    async fn look(&mut self) {
        let now = self.now();
        let due = self.book.due(now, MOST_LOOKS);
        if due.len() < MOST_LOOKS && self.rescan_at.is_none_or(|at| now < at) {
            self.look_at(due).await;
        } else if self.scans.is_empty() {
            self.rescan_at = None;
            let folder = self.ctx.setup.vrl.folder.clone();
            self.scans.spawn_blocking(move || folder::list(&folder));
        }
    }

    async fn changed(&mut self, changes: Changes) {
        match changes {
            Changes::Names(names) if names.len() < MOST_LOOKS => {
                let names = names
                    .iter()
                    .filter_map(|name| RecordingName::new(name).ok());
                let names = names.filter(|name| !self.is_under_way(name)).collect();
                self.look_at(names).await;
            }
            Changes::Names(_) | Changes::Rescan(_) => self.rescan_at = Some(Duration::ZERO),
        }
    }

    async fn look_at(&mut self, names: Vec<RecordingName>) {
        if names.is_empty() {
            return;
        }
        let folder = self.ctx.setup.vrl.folder.clone();
        let looked = tokio::task::spawn_blocking(move || {
            names
                .into_iter()
                .map(|name| (folder::look(&folder, &name), name))
                .collect::<Vec<_>>()
        })
        .await;
        let now = self.now();
        for (found, name) in looked.unwrap_or_default() {
            match found {
                Ok(Some(found)) => {
                    let held = self.is_held(&found);
                    self.book.see(found, held, now);
                }
                Ok(None) => self.book.gone(&name),
                Err(e) => {
                    self.book.gone(&name);
                    self.ctx.shared.complain(&format!("reading {name}: {e}"));
                }
            }
        }
    }

    fn scanned(&mut self, scan: io::Result<Listing>) {
        let listing = match scan {
            Ok(listing) => listing,
            Err(e) => {
                let folder = self.ctx.setup.vrl.folder.display();
                let words = format!("reading the folder {folder}: {e}");
                return self.ctx.shared.complain(&words);
            }
        };
        self.looked = true;
        {
            let mut told = self.ctx.shared.told();
            told.status.unfit = listing.unfit;
            if self.aside.is_empty() && self.busy.is_empty() && self.book.files() == 0 {
                told.status.last_error = None;
            }
        }
        let aside: BTreeSet<_> = self.aside.keys().map(|(_, name)| name).collect();
        let busy = |name: &RecordingName| self.busy.contains(name) || aside.contains(name);
        let now = self.ctx.now().mono;
        let refused = listing.recordings.iter().filter(|f| self.ctx.refuses(f));
        let refused: Vec<_> = refused.map(|f| f.name.to_string()).collect();
        self.refused = refused.len() as u64;
        self.ctx.shared.told().status.refused = refused.into_iter().take(MOST_TOLD).collect();
        let (watch, ctx) = (&self.watch, &self.ctx);
        let held = |f: &Found| watch.still_written(f.name.as_str()) || ctx.refuses(f);
        self.book.scan(listing.recordings, busy, held, now);
    }

    fn is_held(&self, found: &Found) -> bool {
        self.watch.still_written(found.name.as_str()) || self.ctx.refuses(found)
    }

    /// Starts lanes while there is something to move and a way for it; returns when to look again.
    fn fill(&mut self) -> Duration {
        let now = self.now();
        if now >= self.fewer_until {
            self.most = self.ctx.connections();
        }
        // The folder's watch wakes us, at the latest when it wants the folder looked at.
        let mut wake = self.rescan_at.unwrap_or(now + AT_LATEST);
        if let Some(next) = self.book.next_look() {
            wake = wake.min(next);
        }
        let (conditions, opens) = self.ctx.conditions();
        wake = wake.min(opens.unwrap_or(wake));
        if !conditions.allowed {
            return wake;
        }
        if let Some(until) = self.link.wait(self.ctx.now()) {
            return wake.min(until);
        }
        // After a failure, one tries whether the way is good again.
        let most = if self.link.failures() > 0 {
            1
        } else {
            self.most
        };
        while self.lanes.len() < most {
            let Some(work) = self.next_work(now) else {
                break;
            };
            let session = loop {
                match self.sessions.pop() {
                    Some((session, since)) if now.saturating_sub(since) < SESSION_REST => {
                        break Some(session);
                    }
                    Some((session, _)) => drop(tokio::spawn(session.quit())),
                    None => break None,
                }
            };
            let name = work.name().clone();
            self.busy.insert(name.clone());
            let current = Current {
                name: name.to_string(),
                bytes: work.bytes(),
                sent: 0,
            };
            let mut told = self.ctx.shared.told();
            told.on_the_way.insert(name.clone(), current);
            drop(told);
            let lane = lane::run(self.ctx.clone(), session, work);
            self.tasks.insert(self.lanes.spawn(lane).id(), name);
        }
        match self.aside.first_key_value() {
            Some(((turn, _), _)) if *turn > now => wake.min(*turn),
            _ => wake,
        }
    }

    fn next_work(&mut self, now: Duration) -> Option<Work> {
        if let Some(entry) = self.aside.first_entry()
            && entry.key().0 <= now
        {
            let (transfer, _) = entry.remove();
            self.aside_bytes = self.aside_bytes.saturating_sub(transfer.bytes());
            return Some(Work::Again(transfer));
        }
        if self.aside.len() >= MOST_ASIDE {
            return None;
        }
        let mut held = Vec::new();
        // Two recordings of one stem may share a side file: it goes with the first, so they go one by one.
        let aside = self.aside.keys().map(|(_, name)| name);
        let stems: HashSet<_> = self
            .busy
            .iter()
            .chain(aside)
            .map(RecordingName::stem)
            .collect();
        let mut passed = Vec::new();
        let mut next = None;
        while let Some(found) = self.book.pop() {
            if self.ctx.writers.still_write(found.name.as_str()) {
                held.push(found);
            } else if stems.contains(found.name.stem()) {
                passed.push(found);
            } else {
                next = Some(found);
                break;
            }
        }
        drop(stems);
        for found in passed.into_iter().rev() {
            self.book.put_back(found);
        }
        for found in held {
            self.book.see(found, true, now);
        }
        next.map(Work::New)
    }

    fn set_aside(&mut self, turn: Duration, transfer: Transfer, why: String) {
        self.aside_bytes = self.aside_bytes.saturating_add(transfer.bytes());
        let turn = (turn, transfer.name().clone());
        self.aside.insert(turn, (transfer, why));
    }

    /// Takes in what a lane left.
    fn left(&mut self, left: Result<(Id, Left), JoinError>) {
        let left = match left {
            Ok((id, left)) => {
                self.tasks.remove(&id);
                left
            }
            Err(e) => {
                // A panic in a lane, which nothing there does: what it was at is found in the folder again.
                self.ctx.shared.complain(&format!("a lane stopped: {e}"));
                if let Some(name) = self.tasks.remove(&e.id()) {
                    self.busy.remove(&name);
                    self.ctx.shared.told().on_the_way.remove(&name);
                }
                self.rescan_at = Some(Duration::ZERO);
                return;
            }
        };
        self.busy.remove(&left.name);
        self.sessions.extend(left.session);
        if left.link_good && !matches!(left.end, End::Link { .. }) {
            self.link.succeeded();
        }
        match left.end {
            End::Over => {}
            End::Young(found) => {
                let now = self.now();
                self.book.defer(found, now);
            }
            End::Anew => {
                let soon = self.now() + self.book.quiet().max(LEAST_WAIT);
                self.rescan_at = Some(self.rescan_at.map_or(soon, |at| at.min(soon)));
            }
            End::Waits {
                transfer,
                until,
                why,
            } => self.set_aside(until.unwrap_or(Duration::ZERO), *transfer, why),
            End::Link {
                work,
                words,
                opening,
            } => {
                let others = self.lanes.len() + self.sessions.len();
                if opening && others > 0 {
                    self.fewer(others, &words);
                } else if self.link.wait(self.ctx.now()).is_none() {
                    let pace = &self.ctx.setup.tuning.pace;
                    let host = &self.ctx.account.remote.host;
                    self.link.failed(self.ctx.now(), pace, host);
                    self.ctx.shared.complain(&words);
                }
                match work {
                    Work::New(found) => self.book.put_back(found),
                    Work::Again(transfer) => self.set_aside(Duration::ZERO, transfer, words),
                }
            }
        }
    }

    /// The server takes no more than `most` connections: that is no failure, the others go on.
    fn fewer(&mut self, most: usize, words: &str) {
        tracing::info!(
            connections = most,
            "recordings: the server takes no more connections for now: {words}"
        );
        self.most = most.max(1);
        self.fewer_until = self.now() + FEWER_FOR;
    }

    /// Nothing is on its way: lets the sessions go.
    async fn rest(&mut self) {
        // What an operator asked for is all that could move then, found by the look he asked for.
        let looking = self.rescan_at.is_some() || !self.scans.is_empty();
        if self.aside.is_empty() && self.book.files() <= self.refused && !looking {
            self.ctx.by_hand.store(false, Ordering::Relaxed);
        }
        for (session, _) in self.sessions.drain(..) {
            session.quit().await;
        }
    }

    /// Says how far it is, and why not farther.
    fn tell(&self) {
        let (conditions, _) = self.ctx.conditions();
        let waiting = self.book.files() + self.aside.len() as u64;
        let now = self.ctx.now();
        let mut told = self.ctx.shared.told();
        told.waiting = (waiting, self.book.bytes().saturating_add(self.aside_bytes));
        let something = !self.lanes.is_empty() || !self.aside.is_empty() || self.book.has_whole();
        told.at_work(conditions.allowed && something, now);
        let error = told.status.last_error.clone();
        let first = self.aside.values().next().map(|(_, why)| why.clone());
        let trouble = error.filter(|_| conditions.allowed);
        (told.status.state, told.status.why) = match trouble {
            _ if !self.lanes.is_empty() && self.link.failures() == 0 => {
                (VrlState::Transferring, conditions.why)
            }
            Some(error) => {
                let why = first.filter(|why| !why.is_empty()).unwrap_or(error);
                (VrlState::Failed, why)
            }
            None if !self.lanes.is_empty() => (VrlState::Transferring, conditions.why),
            None if !conditions.allowed && waiting > 0 => (VrlState::Waiting, conditions.why),
            None if waiting > 0 && waiting <= self.refused => {
                (VrlState::Waiting, self.ctx.refusal().unwrap_or_default())
            }
            None if waiting > 0 => {
                let why = "files that were written to a moment ago are let grow first";
                (VrlState::Waiting, why.to_owned())
            }
            None if !self.looked => (VrlState::Waiting, "looking at the folder".to_owned()),
            None => (VrlState::Done, "nothing to move".to_owned()),
        };
    }
}
