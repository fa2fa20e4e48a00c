//! Who is signed in to the console: random ids, kept in memory only, few, and not for ever.
//!
//! A restart signs everybody out. The oldest session makes room for a new one, so that signing in
//! never fails and never grows the table.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rand::TryRngCore as _;
use subtle::ConstantTimeEq as _;

use crate::keys::Scope;

/// Sessions at once.
const MOST: usize = 64;
/// A session not used for this long ends.
pub(super) const IDLE: Duration = Duration::from_hours(12);

/// One person signed in.
#[derive(Debug, Clone)]
pub(super) struct Session {
    /// May press the buttons.
    pub(super) admin: bool,
    /// Must come back with every form.
    pub(super) form_token: String,
    used: Duration,
    notice: Option<String>,
}

impl Session {
    /// Whether a form carries this session's token.
    pub(super) fn sent(&self, token: &str) -> bool {
        self.form_token.as_bytes().ct_eq(token.as_bytes()).into()
    }
}

/// All sessions of this node.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Session>>);

impl Sessions {
    /// Begins a session and returns its id; `None` where the system gives no random bytes.
    pub(super) fn begin(&self, scope: Scope, now: Duration) -> Option<String> {
        let (id, form_token) = (secret()?, secret()?);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, s| alive(s, now));
        if all.len() >= MOST {
            let oldest = all
                .iter()
                .min_by_key(|(_, s)| s.used)
                .map(|(id, _)| id.clone());
            oldest.and_then(|id| all.remove(&id));
        }
        let admin = matches!(scope, Scope::Admin);
        all.insert(
            id.clone(),
            Session {
                admin,
                form_token,
                used: now,
                notice: None,
            },
        );
        Some(id)
    }

    /// The session of that id, used now.
    pub(super) fn find(&self, id: &str, now: Duration) -> Option<Session> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let session = all.get_mut(id).filter(|s| alive(s, now))?;
        session.used = now;
        Some(session.clone())
    }

    /// Ends a session.
    pub(super) fn end(&self, id: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
    }

    /// Leaves a sentence for the session's next page.
    pub(super) fn notice(&self, id: &str, text: String) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = all.get_mut(id) {
            session.notice = Some(text);
        }
    }

    /// Takes that sentence.
    pub(super) fn take_notice(&self, id: &str) -> Option<String> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get_mut(id)?.notice.take()
    }
}

fn alive(session: &Session, now: Duration) -> bool {
    now.saturating_sub(session.used) < IDLE
}

fn secret() -> Option<String> {
    let mut bytes = [0; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).ok()?;
    Some(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_when_it_is_not_used() {
        let sessions = Sessions::default();
        let id = sessions.begin(Scope::Read, Duration::ZERO).unwrap();
        assert!(sessions.find(&id, IDLE / 2).is_some());
        assert!(sessions.find(&id, IDLE).is_some(), "it was used half-way");
        assert!(sessions.find(&id, IDLE * 2).is_none());
    }

    #[test]
    fn the_table_does_not_grow_and_drops_the_longest_unused() {
        let sessions = Sessions::default();
        let first = sessions.begin(Scope::Admin, Duration::ZERO).unwrap();
        let second = sessions
            .begin(Scope::Admin, Duration::from_secs(1))
            .unwrap();
        for n in 0..MOST as u64 - 1 {
            sessions
                .begin(Scope::Admin, Duration::from_secs(2 + n))
                .unwrap();
        }
        let now = Duration::from_secs(100);
        assert!(sessions.find(&first, now).is_none());
        assert!(sessions.find(&second, now).is_some());
        assert_eq!(sessions.0.lock().unwrap().len(), MOST);
    }

    #[test]
    fn only_its_own_form_token_is_taken() {
        let sessions = Sessions::default();
        let mine = sessions.begin(Scope::Admin, Duration::ZERO).unwrap();
        let other = sessions.begin(Scope::Admin, Duration::ZERO).unwrap();
        let mine = sessions.find(&mine, Duration::ZERO).unwrap();
        let other = sessions.find(&other, Duration::ZERO).unwrap();
        assert!(mine.sent(&mine.form_token));
        assert!(!mine.sent(&other.form_token));
        assert!(!mine.sent(""));
    }

    #[test]
    fn a_notice_is_shown_once() {
        let sessions = Sessions::default();
        let id = sessions.begin(Scope::Admin, Duration::ZERO).unwrap();
        sessions.notice(&id, "done".to_owned());
        assert_eq!(sessions.take_notice(&id).as_deref(), Some("done"));
        assert_eq!(sessions.take_notice(&id), None);
    }
}
