//! A MailHog-style capture fixture: takes any mail over SMTP and shows it over MailHog's HTTP API v2.
//!
//! SMTP is `mailin-embedded`, whose limits do no harm here (docs/decisions/0006-smtp-receiver.md
//! says why it must not face a network). With [`Options::forward_to`] the fixture stands between two
//! nodes: it shows what one mails to the other, and answers with what the other answered, so that
//! nothing is acknowledged that was not taken.

mod api;
mod behaviour;
mod capture;
mod forward;
mod message;

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
};

pub use behaviour::{Answer, Behaviour, Guard};
pub use message::{Content, Item, Mime, Path, Raw};

/// Mails kept; the oldest go first.
pub const KEPT: usize = 10_000;

/// How to run the fixture.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where SMTP listens; port 0 for any free one.
    pub smtp: SocketAddr,
    /// Where HTTP listens; port 0 for any free one.
    pub http: SocketAddr,
    /// Hand each mail on to this receiver and answer with its answer.
    pub forward_to: Option<SocketAddr>,
}

/// A running fixture. Its SMTP threads end with the process: `mailin-embedded` has no stop.
pub struct MailHog {
    /// SMTP address.
    pub smtp: SocketAddr,
    /// HTTP address.
    pub http: SocketAddr,
    mails: Mails,
    switch: behaviour::Switch,
}

/// The mails taken, oldest first.
#[derive(Clone, Default)]
pub(crate) struct Mails(Arc<Mutex<Vec<Arc<Item>>>>);

impl Mails {
    fn push(&self, item: Item) {
        let mut mails = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if mails.len() == KEPT {
            mails.remove(0);
        }
        mails.push(Arc::new(item));
    }
    fn newest_first(&self) -> Vec<Arc<Item>> {
        let mails = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        mails.iter().rev().cloned().collect()
    }
    fn retain(&self, keep: impl Fn(&Item) -> bool) -> bool {
        let mut mails = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = mails.len();
        mails.retain(|m| keep(m));
        mails.len() != before
    }
}

impl MailHog {
    /// Starts it on the running tokio runtime.
    pub async fn start(options: Options) -> std::io::Result<Self> {
        Self::guarded(options, Guard::default()).await
    }

    /// Starts one that offers STARTTLS or wants a login, as `guard` says.
    pub async fn guarded(options: Options, guard: Guard) -> std::io::Result<Self> {
        let smtp = TcpListener::bind(options.smtp)?;
        let smtp_address = smtp.local_addr()?;
        let http = tokio::net::TcpListener::bind(options.http).await?;
        let http_address = http.local_addr()?;
        let mails = Mails::default();
        let switch = behaviour::Switch::default();
        capture::start(smtp, mails.clone(), options.forward_to, &guard, &switch)?;
        let router = api::router(mails.clone());
        tokio::spawn(async move { axum::serve(http, router).await });
        Ok(Self {
            smtp: smtp_address,
            http: http_address,
            mails,
            switch,
        })
    }

    /// A server of user mailboxes on loopback that takes everything, until told otherwise.
    ///
    /// # Panics
    /// Where it can't be started.
    pub async fn for_users(guard: Guard) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let options = Options {
            smtp: any,
            http: any,
            forward_to: None,
        };
        let started = Self::guarded(options, guard).await;
        #[allow(clippy::panic, reason = "a test says what failed by panicking")]
        started.unwrap_or_else(|e| panic!("the capture fixture: {e}"))
    }

    /// From now on it answers so.
    pub fn behave(&self, behaviour: Behaviour) {
        self.switch.set(behaviour);
    }

    /// How often somebody has tried to log in.
    pub fn logins(&self) -> usize {
        self.switch.logins()
    }

    /// Mails taken for `to`, oldest first.
    pub fn mails_for(&self, to: &str) -> Vec<Arc<Item>> {
        let mut mails = self.mails();
        mails.retain(|m| m.raw.to.iter().any(|t| t == to));
        mails.reverse();
        mails
    }

    /// Every mail taken, newest first.
    pub fn mails(&self) -> Vec<Arc<Item>> {
        self.mails.newest_first()
    }
}
