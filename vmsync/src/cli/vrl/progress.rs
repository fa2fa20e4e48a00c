//! A move that is waited for: when it is over, and how it is shown.

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write},
    time::Duration,
};

use crate::{
    cli::Failure,
    vrl::{Current, VrlState, VrlStatus},
};

/// The node looks at its folder first: what it says before that is of the time before.
const BEGIN: Duration = Duration::from_secs(2);
/// A move that must wait for so long will not go on by itself.
const MUST_WAIT: Duration = Duration::from_secs(3);
/// One that fails and achieves nothing for so long is not waited for.
const FAILS: Duration = Duration::from_mins(1);
/// Between two lines where there is no terminal.
const LINE: Duration = Duration::from_secs(5);

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    GoOn,
    Moved,
    GiveUp(String),
}

/// Says when a move is over, or not worth waiting for. Pure.
pub(super) struct Judge {
    begun: Duration,
    timeout: Option<Duration>,
    /// What was achieved when something last was: files and bytes.
    achieved: (u64, u64),
    achieved_at: Duration,
    /// Since when it must wait.
    waits_since: Option<Duration>,
}

impl Judge {
    pub(super) fn new(status: &VrlStatus, now: Duration, timeout: Option<Duration>) -> Self {
        Self {
            begun: now,
            timeout,
            achieved: achieved(status),
            achieved_at: now,
            waits_since: None,
        }
    }

    pub(super) fn look(&mut self, status: &VrlStatus, now: Duration) -> Verdict {
        let passed = now.saturating_sub(self.begun);
        if self.achieved != achieved(status) {
            (self.achieved, self.achieved_at) = (achieved(status), now);
        }
        self.waits_since = match status.state {
            VrlState::Waiting if !status.why.is_empty() => self.waits_since.or(Some(now)),
            _ => None,
        };
        match status.state {
            VrlState::Off => return Verdict::GiveUp(status.why.clone()),
            VrlState::Done if passed >= BEGIN && status.files_pending == 0 => {
                return Verdict::Moved;
            }
            VrlState::Failed if now.saturating_sub(self.achieved_at) >= FAILS => {
                let why = status.last_error.as_deref().unwrap_or(&status.why);
                return Verdict::GiveUp(format!(
                    "{} not moved, and nothing was achieved for a minute; it is tried again: {why}",
                    files(status.files_pending)
                ));
            }
            _ => {}
        }
        if self
            .waits_since
            .is_some_and(|since| now.saturating_sub(since) >= MUST_WAIT)
        {
            return Verdict::GiveUp(format!("it must wait: {}", status.why));
        }
        if self.timeout.is_some_and(|most| passed >= most) {
            return Verdict::GiveUp(format!(
                "{} not moved within {} s; the move goes on",
                files(status.files_pending),
                passed.as_secs()
            ));
        }
        Verdict::GoOn
    }
}

fn achieved(status: &VrlStatus) -> (u64, u64) {
    let sent = on_the_way(status).map(|c| c.sent).sum();
    (status.files_done, sent)
}

pub(super) fn on_the_way(status: &VrlStatus) -> impl Iterator<Item = &Current> {
    // A node of an earlier version tells of one alone.
    let one = status
        .current
        .iter()
        .filter(|_| status.on_the_way.is_empty());
    status.on_the_way.iter().chain(one)
}

/// Shows a move: one line written over on a terminal, else a line every few seconds, or nothing beside JSON.
pub(super) struct View {
    kind: Kind,
    first: Option<(u64, u64)>,
    last: Option<Duration>,
    drawn: usize,
}

#[derive(PartialEq, Eq)]
enum Kind {
    Bar,
    Lines,
    Nothing,
}

impl View {
    pub(super) fn new(json: bool) -> Self {
        let plain = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        let kind = match (json, std::io::stderr().is_terminal() && !plain) {
            (true, _) => Kind::Nothing,
            (false, true) => Kind::Bar,
            (false, false) => Kind::Lines,
        };
        Self {
            kind,
            first: None,
            last: None,
            drawn: 0,
        }
    }

    pub(super) fn show(&mut self, status: &VrlStatus, now: Duration) -> Result<(), Failure> {
        let first = *self
            .first
            .get_or_insert((status.files_done, status.bytes_done));
        let step = Step::of(status, first);
        match self.kind {
            Kind::Nothing => Ok(()),
            Kind::Lines
                if self
                    .last
                    .is_some_and(|last| now.saturating_sub(last) < LINE) =>
            {
                Ok(())
            }
            Kind::Lines => {
                self.last = Some(now);
                let mut out = std::io::stderr().lock();
                writeln!(out, "{}", step.words())?;
                Ok(())
            }
            Kind::Bar => {
                let line = step.bar(width());
                let length = line.chars().count();
                let blank = " ".repeat(self.drawn.saturating_sub(length));
                self.drawn = length;
                let mut out = std::io::stderr().lock();
                write!(out, "\r{line}{blank}")?;
                out.flush()?;
                Ok(())
            }
        }
    }

    pub(super) fn end(&mut self) -> Result<(), Failure> {
        if self.kind == Kind::Bar && self.drawn > 0 {
            writeln!(std::io::stderr().lock())?;
        }
        Ok(())
    }
}

/// Columns of the terminal.
fn width() -> usize {
    let asked = rustix::termios::tcgetwinsize(std::io::stderr());
    asked
        .map_or(80, |size| usize::from(size.ws_col))
        .clamp(20, 500)
}

/// How far a move is, since it was first looked at.
pub(super) struct Step {
    moved: u64,
    all: u64,
    bytes_moved: u64,
    bytes_all: u64,
    rate: u64,
    left: Option<u64>,
    names: Vec<String>,
    problem: Option<String>,
}

impl Step {
    pub(super) fn of(status: &VrlStatus, first: (u64, u64)) -> Self {
        let moved = status.files_done.saturating_sub(first.0);
        let sent: u64 = on_the_way(status).map(|c| c.sent).sum();
        let bytes_moved = status
            .bytes_done
            .saturating_sub(first.1)
            .saturating_add(sent);
        Self {
            moved,
            all: moved.saturating_add(status.files_pending),
            bytes_moved,
            bytes_all: bytes_moved.saturating_add(status.bytes_pending),
            rate: status.rate,
            left: status.eta_s,
            names: on_the_way(status).map(|c| c.name.clone()).collect(),
            problem: match status.state {
                VrlState::Failed => status.last_error.clone(),
                VrlState::Waiting if !status.why.is_empty() => Some(status.why.clone()),
                _ => None,
            },
        }
    }

    /// Thousandths of the bytes.
    fn share(&self) -> u64 {
        match self.bytes_all {
            0 => 0,
            all => {
                let share = u128::from(self.bytes_moved) * 1000 / u128::from(all);
                u64::try_from(share).unwrap_or(1000).min(1000)
            }
        }
    }

    /// The line on a terminal of `width` columns, shorter than that. What matters most comes first.
    pub(super) fn bar(&self, width: usize) -> String {
        let room = width.saturating_sub(1);
        let cells = (width / 4).clamp(5, 30);
        let full = usize::try_from(self.share()).unwrap_or(0) * cells / 1000;
        let bar = "#".repeat(full) + &".".repeat(cells - full);
        let mut line = format!("[{bar}] {:>3} %", self.share() / 10);
        let further = [
            format!("{}/{}", self.moved, files(self.all)),
            self.pace(),
            self.problem
                .clone()
                .unwrap_or_else(|| self.names.join(", ")),
        ];
        for part in further.iter().filter(|p| !p.is_empty()) {
            line.push_str("  ");
            line.extend(part.chars().map(|c| if c.is_control() { ' ' } else { c }));
        }
        if line.chars().count() > room {
            line = line
                .chars()
                .take(room.saturating_sub(1))
                .chain(['…'])
                .collect();
        }
        line
    }

    fn pace(&self) -> String {
        let mut pace = format!("{}/s", size(self.rate));
        if let Some(left) = self.left.filter(|_| self.rate > 0) {
            let _ = write!(pace, "  {} left", span(left));
        }
        pace
    }

    /// The same for a log.
    pub(super) fn words(&self) -> String {
        let mut line = format!(
            "{} of {}, {} of {}, {}",
            self.moved,
            files(self.all),
            size(self.bytes_moved),
            size(self.bytes_all),
            self.pace()
        );
        if let Some(problem) = &self.problem {
            let _ = write!(line, "; {problem}");
        } else if !self.names.is_empty() {
            let _ = write!(line, "; {}", self.names.join(", "));
        }
        line
    }
}

pub(super) fn files(n: u64) -> String {
    format!("{n} file{}", if n == 1 { "" } else { "s" })
}

pub(super) fn size(bytes: u64) -> String {
    let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(one, _)| bytes >= *one) {
        Some((one, unit)) => {
            let tenths = u128::from(bytes) * 10 / u128::from(one);
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

pub(super) fn span(seconds: u64) -> String {
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (h, m) {
        (0, 0) => format!("{s} s"),
        (0, _) => format!("{m} min {s} s"),
        _ => format!("{h} h {m} min"),
    }
}
