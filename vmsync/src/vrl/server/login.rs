//! The one account: password checked against an Argon2id hash, wrong tries delayed and limited.

use std::{collections::HashMap, net::IpAddr, sync::Mutex, sync::PoisonError, time::Duration};

use subtle::ConstantTimeEq;
use tokio::{sync::Semaphore, time::Instant};

use super::account::{check_hash, hash_password, is_hash, is_password};

/// Wrong tries of one address before it is locked out.
const MAX_FAILURES: u32 = 10;
/// How long wrong tries count, and a lock holds.
const MEMORY: Duration = Duration::from_mins(10);
/// Addresses remembered; beyond it the oldest are forgotten.
const MAX_ADDRESSES: usize = 1024;

/// What came of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Welcome,
    Wrong,
    Locked,
}

/// The account.
pub(crate) struct Login {
    user: String,
    hash: String,
    // A hash takes some 7 MiB and 20 ms: one at a time, so that guessing can't starve the node.
    hashing: Semaphore,
    failures: Mutex<Failures>,
    start: Instant,
}

impl Login {
    /// `secret`: the first line of the password file, being the password or its hash. Blocks for
    /// some milliseconds.
    pub(crate) fn new(user: &str, secret: &str) -> Result<Self, String> {
        let hash = if is_hash(secret) {
            check_hash(secret)?;
            secret.to_owned()
        } else {
            hash_password(secret)?
        };
        Ok(Self {
            user: user.to_owned(),
            hash,
            hashing: Semaphore::new(1),
            failures: Mutex::default(),
            start: Instant::now(),
        })
    }

    /// Checks a login. Unknown users cost as much time as wrong passwords.
    pub(crate) async fn check(&self, from: IpAddr, user: &str, password: &str) -> Verdict {
        if self.failures().is_locked(from, self.start.elapsed()) {
            return Verdict::Locked;
        }
        let known = bool::from(self.user.as_bytes().ct_eq(user.as_bytes()));
        let right = self.matches(password.to_owned()).await;
        if known && right {
            self.failures().forget(from);
            return Verdict::Welcome;
        }
        self.failures().note(from, self.start.elapsed());
        Verdict::Wrong
    }

    async fn matches(&self, password: String) -> bool {
        let Ok(_permit) = self.hashing.acquire().await else {
            return false;
        };
        let hash = self.hash.clone();
        let password = zeroize::Zeroizing::new(password);
        tokio::task::spawn_blocking(move || is_password(&hash, &password))
            .await
            .unwrap_or(false)
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wrong tries by address.
#[derive(Default)]
struct Failures(HashMap<IpAddr, (u32, Duration)>);

impl Failures {
    fn is_locked(&self, from: IpAddr, now: Duration) -> bool {
        self.0
            .get(&from)
            .is_some_and(|(n, last)| *n >= MAX_FAILURES && now.saturating_sub(*last) < MEMORY)
    }

    fn note(&mut self, from: IpAddr, now: Duration) {
        self.0
            .retain(|_, (_, last)| now.saturating_sub(*last) < MEMORY);
        if self.0.len() >= MAX_ADDRESSES && !self.0.contains_key(&from) {
            let oldest = self
                .0
                .iter()
                .min_by_key(|(_, (_, last))| *last)
                .map(|(ip, _)| *ip);
            if let Some(oldest) = oldest {
                self.0.remove(&oldest);
            }
        }
        let entry = self.0.entry(from).or_insert((0, now));
        *entry = (entry.0.saturating_add(1), now);
    }

    fn forget(&mut self, from: IpAddr) {
        self.0.remove(&from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_account_and_one_password() {
        let login = Login::new("vrl", "geheim").unwrap();
        let from = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(login.check(from, "vrl", "geheim").await, Verdict::Welcome);
        assert_eq!(login.check(from, "vrl", "Geheim").await, Verdict::Wrong);
        assert_eq!(login.check(from, "root", "geheim").await, Verdict::Wrong);
        assert!(Login::new("vrl", "").is_err());
    }

    #[tokio::test]
    async fn who_has_the_hash_does_not_have_the_password() {
        let hash = hash_password("geheim").unwrap();
        let login = Login::new("vrl", &hash).unwrap();
        let from = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(login.check(from, "vrl", "geheim").await, Verdict::Welcome);
        assert_eq!(login.check(from, "vrl", &hash).await, Verdict::Wrong);
        assert!(Login::new("vrl", "$argon2id$v=19$m=99999999,t=1,p=1$c29tc2FsdA").is_err());
    }

    #[test]
    fn many_wrong_tries_lock_one_address_for_a_while() {
        let (bad, good) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut failures = Failures::default();
        for s in 0..10 {
            assert!(!failures.is_locked(bad, Duration::from_secs(s)));
            failures.note(bad, Duration::from_secs(s));
        }
        assert!(failures.is_locked(bad, Duration::from_mins(9)));
        assert!(!failures.is_locked(good, Duration::from_mins(9)));
        assert!(!failures.is_locked(bad, Duration::from_mins(11)));
    }

    #[test]
    fn the_memory_of_wrong_tries_is_bounded() {
        let mut failures = Failures::default();
        for n in 0..5_000_u32 {
            failures.note(
                IpAddr::from(n.to_be_bytes()),
                Duration::from_millis(u64::from(n)),
            );
        }
        assert!(failures.0.len() <= MAX_ADDRESSES);
    }
}
