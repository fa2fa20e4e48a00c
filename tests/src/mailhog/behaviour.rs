//! What the fixture is told to answer, so that a test can see what comes of it.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Code and text.
pub type Answer = (u16, String);

/// Its answers; by default it takes everything at once.
#[derive(Debug, Clone, Default)]
pub struct Behaviour {
    /// To MAIL, where it is not taken.
    pub mail: Option<Answer>,
    /// To RCPT.
    pub rcpt: Option<Answer>,
    /// To RCPT of some addresses.
    pub some: Vec<(String, Answer)>,
    /// To DATA.
    pub data: Option<Answer>,
    /// To the mail itself, 5xx only: with 4xx `mailin` takes what follows for more of the mail.
    pub end: Option<Answer>,
    /// How long it keeps a mail it has taken before it says so.
    pub slow: Duration,
}

impl Behaviour {
    /// Every recipient is answered with `code`.
    pub fn recipients(code: u16, text: &str) -> Self {
        Self {
            rcpt: Some((code, text.to_owned())),
            ..Self::default()
        }
    }

    /// These recipients are answered so, all others taken.
    pub fn to(some: Vec<(String, Answer)>) -> Self {
        Self {
            some,
            ..Self::default()
        }
    }

    /// The answer to RCPT of `address`, where it is not taken.
    pub(super) fn recipient(&self, address: &str) -> Option<Answer> {
        let one = self.some.iter().find(|(to, _)| to == address);
        one.map(|(_, answer)| answer.clone())
            .or_else(|| self.rcpt.clone())
    }
}

/// What it asks of a client.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// Certificate and key, PEM: STARTTLS is offered.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// User and password it wants.
    pub login: Option<(String, String)>,
}

/// The behaviour now; shared by all connections.
#[derive(Clone, Default)]
pub(super) struct Switch {
    now: Arc<Mutex<Behaviour>>,
    logins: Arc<AtomicUsize>,
}

impl Switch {
    pub(super) fn set(&self, behaviour: Behaviour) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = behaviour;
    }

    pub(super) fn get(&self) -> Behaviour {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.clone()
    }

    pub(super) fn login_tried(&self) {
        self.logins.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn logins(&self) -> usize {
        self.logins.load(Ordering::Relaxed)
    }
}
