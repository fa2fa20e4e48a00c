//! What is told of a system: signs of life, and the results of polls.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a feature watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// The system itself.
    Home,
    /// Its DECT system, polled.
    Dect,
    /// The active one of its two mirrored DECT master base stations.
    Mirror,
    /// Its users' portal.
    Portal,
}

impl Subject {
    /// All.
    pub const ALL: [Self; 4] = [Self::Home, Self::Dect, Self::Mirror, Self::Portal];

    /// As sentences name it, of the system `name`.
    pub(super) fn of(self, name: &str) -> String {
        match self {
            Self::Home => name.to_owned(),
            Self::Dect => format!("DECT of {name}"),
            Self::Mirror => format!("the active DECT master of {name}"),
            Self::Portal => format!("the portal of {name}"),
        }
    }
}

/// Since when a subject is there (`Ok`) or gone (`Err`), monotonic; `None` = nothing is known of it.
pub type Seen = Option<Result<Duration, Duration>>;

/// One subject as watched.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Watch {
    seen: Seen,
    last: Duration,
    /// Whether it was ever heard: silence means something only then.
    reports: bool,
}

impl Watch {
    /// One that reported in an earlier life of this process: where all was well, it is taken as
    /// heard of at the start; else it must show itself first.
    pub(super) fn remembered(well: bool, now: Duration) -> Self {
        Self {
            seen: Some(if well { Ok(now) } else { Err(now) }),
            last: now,
            reports: true,
        }
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen
    }

    pub(super) fn reports(&self) -> bool {
        self.reports
    }

    /// It is up, or down. True when that is news.
    pub(super) fn told(&mut self, up: bool, now: Duration) -> bool {
        self.reports = true;
        self.last = now;
        let news = match self.seen {
            Some(Ok(_)) => !up,
            Some(Err(_)) => up,
            None => true,
        };
        if news {
            self.seen = Some(if up { Ok(now) } else { Err(now) });
        }
        news
    }

    /// Notes that it has been silent for too long; `silence` = how long is too long, `None` = it
    /// may be silent for ever.
    pub(super) fn refresh(&mut self, silence: Option<Duration>, now: Duration) {
        if let Some(due) = self.due(silence).filter(|due| *due <= now) {
            self.seen = Some(Err(due));
        }
    }

    /// When silence will mean that it is gone.
    pub(super) fn due(&self, silence: Option<Duration>) -> Option<Duration> {
        let silence = silence.filter(|_| self.reports && matches!(self.seen, Some(Ok(_))))?;
        Some(self.last.saturating_add(silence))
    }
}
