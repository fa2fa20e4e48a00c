//! TLS sessions that data connections resume: those of their own control connection, and no other's.
//!
//! Many servers insist on that (vsftpd `require_ssl_reuse`, ProFTPD by default), as a proof that both connections are
//! one client's. With TLS 1.2 a session is resumed any number of times. With TLS 1.3 each resumption takes a ticket,
//! and not every server gives a new one with each data connection.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use rustls::{
    NamedGroup,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue,
        Tls13ClientSessionValue,
    },
    pki_types::ServerName,
};

/// The sessions of one control connection.
#[derive(Debug)]
pub(super) struct Tickets {
    cache: ClientSessionMemoryCache,
    left: AtomicUsize,
    given: AtomicBool,
    missed: AtomicBool,
}

impl Tickets {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            cache: ClientSessionMemoryCache::new(1),
            left: AtomicUsize::new(0),
            given: AtomicBool::new(false),
            missed: AtomicBool::new(false),
        })
    }

    /// It was TLS 1.3 with tickets, and they are used up: another data connection resumes nothing.
    pub(super) fn are_used_up(&self) -> bool {
        self.given.load(Ordering::Relaxed) && self.left.load(Ordering::Relaxed) == 0
    }

    /// The last data connection resumed nothing, as none was left. A refused one may have come with new ones.
    pub(super) fn were_missed(&self) -> bool {
        self.missed.load(Ordering::Relaxed)
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.cache.set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.cache.kx_hint(server)
    }

    fn set_tls12_session(&self, server: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.cache.set_tls12_session(server, value);
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.cache.tls12_session(server)
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        self.cache.remove_tls12_session(server);
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.cache.insert_tls13_ticket(server, value);
        self.given.store(true, Ordering::Relaxed);
        self.left.fetch_add(1, Ordering::Relaxed);
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let ticket = self.cache.take_tls13_ticket(server);
        let given = self.given.load(Ordering::Relaxed);
        self.missed
            .store(given && ticket.is_none(), Ordering::Relaxed);
        // The cache forgets the oldest beyond some; then it has none before this counts to nought.
        let left = self.left.load(Ordering::Relaxed);
        let left = ticket.as_ref().map_or(0, |_| left.saturating_sub(1));
        self.left.store(left, Ordering::Relaxed);
        ticket
    }
}
