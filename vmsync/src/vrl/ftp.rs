//! One FTP session (RFC 959, EPSV of RFC 2428, explicit TLS of RFC 4217), as the mover and
//! Test Connection need it.
//!
//! suppaftp has no time limits of its own, and after an aborted command its replies are out of
//! step. So: every command has a limit here, and whoever gets an [`FtpFailure`] drops the
//! [`Session`]. Transfers are binary always (suppaftp starts in ASCII, which rewrites LF).

mod ahead;
mod command;
mod data;
mod digest;
mod failure;
mod listing;
mod tickets;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use rustls::client::Resumption;
use suppaftp::{
    FtpError, Mode,
    tokio::{AsyncRustlsConnector, AsyncRustlsFtpStream},
    types::FileType,
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use vmsync_config::{VrlRemote, VrlTls};
use zeroize::Zeroizing;

use self::{command::sendable, data::DataPort, digest::Features, failure::timed, tickets::Tickets};
pub use self::{
    digest::{Algorithm, Offer},
    failure::{Fault, FtpFailure},
    listing::{Entry, Listing},
};

/// A session that rested longer is tried before it is used: servers end sessions that idle.
const RESTED: Duration = Duration::from_millis(500);

/// TLS as the client needs it.
#[derive(Clone)]
pub struct ClientTls {
    /// Trusts the pair's CA.
    pub config: Arc<rustls::ClientConfig>,
    /// Name or address the server's certificate must bear.
    pub server_name: String,
}

/// The account at the primary.
#[derive(Clone)]
pub struct Account {
    /// Address, location, user.
    pub remote: VrlRemote,
    /// Needed when the remote says so.
    pub tls: Option<ClientTls>,
    /// Limits.
    pub limits: TimeLimits,
    /// What earlier sessions found out about the server.
    pub learnt: Learnt,
}

impl Account {
    /// An account of which nothing is known yet.
    pub fn new(remote: VrlRemote, tls: Option<ClientTls>, limits: TimeLimits) -> Self {
        Self {
            remote,
            tls,
            limits,
            learnt: Learnt::default(),
        }
    }
}

/// What sessions find out about the server, so that the next need not again. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Learnt(Arc<AtomicU8>);

impl Learnt {
    /// Data connections by PASV: the server does not know EPSV, or its port can't be reached.
    const PASV: u8 = 1;
    /// REST is ignored or refused before STOR.
    const NO_REST: u8 = 2;
    /// APPE is refused.
    const NO_APPE: u8 = 4;
    /// Data connections are refused that don't resume the TLS session.
    const RESUMES: u8 = 8;

    fn knows(&self, what: u8) -> bool {
        self.0.load(Ordering::Relaxed) & what != 0
    }

    fn learn(&self, what: u8, is_so: bool) {
        if is_so {
            self.0.fetch_or(what, Ordering::Relaxed);
        } else {
            self.0.fetch_and(!what, Ordering::Relaxed);
        }
    }
}

/// Time limits of a session.
#[derive(Debug, Clone, Copy)]
pub struct TimeLimits {
    /// TCP connection and greeting. Default 10 s.
    pub connect: Duration,
    /// One command with its reply. Default 30 s.
    pub command: Duration,
    /// One piece of 128 KiB. Default 30 s.
    pub piece: Duration,
}

impl Default for TimeLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            command: Duration::from_secs(30),
            piece: Duration::from_secs(30),
        }
    }
}

/// Finds the server's addresses.
pub async fn resolve(account: &Account) -> Result<Vec<SocketAddr>, FtpFailure> {
    let remote = &account.remote;
    let doing = format!("resolving {}", remote.host);
    let lookup = tokio::net::lookup_host((remote.host.as_str(), remote.port));
    let broken = |words: String| FtpFailure::new(doing.clone(), words, Fault::Broken);
    match timeout(account.limits.connect, lookup).await {
        Err(_) => Err(FtpFailure::new(doing, "no answer from DNS", Fault::Silent)),
        Ok(Err(e)) => Err(broken(e.to_string())),
        Ok(Ok(found)) => {
            let found: Vec<_> = found.collect();
            if found.is_empty() {
                Err(broken("no address".to_owned()))
            } else {
                Ok(found)
            }
        }
    }
}

/// A session with the server. Drop it after any failure.
pub struct Session {
    ftp: AsyncRustlsFtpStream,
    limits: TimeLimits,
    learnt: Learnt,
    /// What became of the last try to connect for data.
    data_port: DataPort,
    features: Option<Features>,
    /// Opened with all of this, and so can be opened anew.
    account: Option<Account>,
    used: Instant,
    began_at: u64,
    /// An answer was not read to its end.
    spent: bool,
    tickets: Option<Arc<Tickets>>,
}

impl Session {
    /// All of it: addresses, connection, TLS, login, location.
    pub async fn open(account: &Account) -> Result<Self, FtpFailure> {
        let addresses = resolve(account).await?;
        let session = Self::connect(account, &addresses).await?;
        let mut session = session.secure(account).await?;
        session.login(account).await?;
        session.enter(&account.remote.location).await?;
        session.account = Some(account.clone());
        Ok(session)
    }

    /// Connects to the first address that answers with a greeting.
    pub async fn connect(account: &Account, addresses: &[SocketAddr]) -> Result<Self, FtpFailure> {
        let mut last = FtpFailure::new("connecting", "no address", Fault::Broken);
        for address in addresses {
            let doing = format!("connecting to {address}");
            let data_port = DataPort::default();
            let limit = account.limits.connect;
            let connected = connect(*address, data_port.clone(), limit);
            match timed(limit, &doing, connected).await {
                Ok(ftp) => {
                    let mut session = Self {
                        ftp,
                        limits: account.limits,
                        learnt: account.learnt.clone(),
                        data_port,
                        features: None,
                        account: None,
                        used: Instant::now(),
                        began_at: 0,
                        spent: false,
                        tickets: None,
                    };
                    // The address in a reply to PASV is not looked at: behind NAT it is wrong, and it could be anybody's.
                    session.ftp.set_passive_nat_workaround(true);
                    let pasv = session.learnt.knows(Learnt::PASV);
                    session.ftp.set_mode(if pasv {
                        Mode::Passive
                    } else {
                        Mode::ExtendedPassive
                    });
                    return Ok(session);
                }
                Err(e) => last = e.at_the_door(),
            }
        }
        Err(last)
    }

    /// Explicit TLS, where the account asks for it.
    pub async fn secure(self, account: &Account) -> Result<Self, FtpFailure> {
        let preferred = account.remote.tls == VrlTls::Preferred;
        let tls = match &account.tls {
            _ if account.remote.tls == VrlTls::Off => return Ok(self),
            None if preferred => return Ok(self),
            tls => tls,
        };
        let doing = "securing the connection with TLS";
        let Some(tls) = tls else {
            let words = "tls = \"required\" but this node has no CA file; set [tls] ca";
            return Err(FtpFailure::new(doing, words, Fault::Local));
        };
        // Servers want data connections to resume the session of their own control connection, and of no other.
        let mut config = (*tls.config).clone();
        let tickets = Tickets::new();
        config.resumption = Resumption::store(tickets.clone());
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let secured = self
            .ftp
            .into_secure(AsyncRustlsConnector::from(connector), &tls.server_name);
        match timed(self.limits.command, doing, secured).await {
            Ok(ftp) => Ok(Self {
                ftp,
                limits: self.limits,
                learnt: self.learnt,
                data_port: self.data_port,
                features: None,
                account: None,
                used: Instant::now(),
                began_at: 0,
                spent: false,
                tickets: Some(tickets),
            }),
            // It said that it has no TLS (RFC 959: 500, 502, 504; RFC 4217: 431, 534). The connection went with
            // the try. A wrong certificate is another matter, and no reason to do without.
            Err(e)
                if preferred
                    && matches!(e.fault, Fault::Refused(431 | 500 | 502 | 504 | 530 | 534)) =>
            {
                let host = &account.remote.host;
                tracing::warn!(server = %host, answer = %e, "recordings move unencrypted: the FTP server has no TLS, and vrl.tls is \"preferred\"");
                Self::connect(account, &resolve(account).await?).await
            }
            Err(e) => Err(e),
        }
    }

    /// User, password, binary.
    pub async fn login(&mut self, account: &Account) -> Result<(), FtpFailure> {
        let user = &account.remote.user;
        let doing = format!("logging in as {user}");
        let password = read_password(account.remote.password_file.clone()).await?;
        sendable(&doing, &[user, &password])?;
        let login = self.ftp.login(user.as_str(), password.as_str());
        let login = timed(self.limits.command, &doing, login).await;
        login.map_err(FtpFailure::at_the_door)?;
        // Names are UTF-8 here (RFC 2640); most servers think so too, some want to be told.
        if self.features().await?.has("UTF8") {
            let utf8 = self.command(self.limits.command, &doing, "OPTS UTF8 ON");
            utf8.await?;
        }
        let binary = self.ftp.transfer_type(FileType::Binary);
        timed(self.limits.command, "asking for binary transfers", binary).await
    }

    /// Goes to the location, creating what is missing of it.
    pub async fn enter(&mut self, location: &str) -> Result<(), FtpFailure> {
        let doing = format!("opening the location {location}");
        sendable(&doing, &[location])?;
        match timed(self.limits.command, &doing, self.ftp.cwd(location)).await {
            Err(e) if matches!(e.fault, Fault::Refused(550)) => {}
            other => return other,
        }
        let mut path = String::new();
        for part in location.split('/').filter(|p| !p.is_empty()) {
            path = if path.is_empty() && !location.starts_with('/') {
                part.to_owned()
            } else {
                format!("{path}/{part}")
            };
            // Fails where the folder is there, or may not be made; the last CWD tells.
            let made = timed(self.limits.command, &doing, self.ftp.mkdir(&path)).await;
            if let Err(e) = made
                && !matches!(e.fault, Fault::Refused(_))
            {
                return Err(e);
            }
        }
        timed(self.limits.command, &doing, self.ftp.cwd(location)).await
    }

    /// The length of a file; `None` when the server says there is none.
    pub async fn size(&mut self, name: &str) -> Result<Option<u64>, FtpFailure> {
        let doing = format!("asking for the length of {name}");
        sendable(&doing, &[name])?;
        self.awake().await?;
        match timed(self.limits.command, &doing, self.ftp.size(name)).await {
            Ok(bytes) => Ok(Some(bytes as u64)),
            Err(e) if matches!(e.fault, Fault::Refused(550)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Renames a file.
    pub async fn rename(&mut self, from: &str, to: &str) -> Result<(), FtpFailure> {
        let doing = format!("renaming {from} to {to}");
        sendable(&doing, &[from, to])?;
        self.awake().await?;
        timed(self.limits.command, &doing, self.ftp.rename(from, to)).await
    }

    /// Deletes a file.
    pub async fn delete(&mut self, name: &str) -> Result<(), FtpFailure> {
        let doing = format!("deleting {name}");
        sendable(&doing, &[name])?;
        self.awake().await?;
        timed(self.limits.command, &doing, self.ftp.rm(name)).await
    }

    /// Says goodbye; that the server does not answer is no matter.
    pub async fn quit(mut self) {
        let _ = timeout(Duration::from_secs(1), self.ftp.quit()).await;
    }

    /// Tries a session that has rested; one that the server has ended meanwhile is opened anew, once.
    async fn awake(&mut self) -> Result<(), FtpFailure> {
        let rested = self.used.elapsed() > RESTED;
        self.used = Instant::now();
        let doing = "trying a session that has rested";
        // A new session comes with new tickets.
        let used_up = self.learnt.knows(Learnt::RESUMES)
            && self.tickets.as_ref().is_some_and(|t| t.are_used_up());
        let due = rested || self.spent || used_up;
        let Some(account) = self.account.clone().filter(|_| due) else {
            let words = "an answer was not read to its end";
            let spent = self
                .spent
                .then(|| FtpFailure::new(doing, words, Fault::Broken));
            return spent.map_or(Ok(()), Err);
        };
        let lost = self.spent
            || used_up
            || match self.command(self.limits.command, doing, "NOOP").await {
                Ok(reply) => reply.code == 421,
                Err(e) if e.is_lost_session() => true,
                Err(e) => return Err(e),
            };
        if lost {
            tracing::debug!(server = %account.remote.host, "the FTP server ended a session that rested; opening a new one");
            *self = Box::pin(Self::open(&account)).await?;
        }
        Ok(())
    }

    /// Remembers it where a data connection seems to be refused because it resumed no TLS session.
    fn learn_from(&self, e: &FtpFailure) {
        let missed = self.tickets.as_ref().is_some_and(|t| t.were_missed());
        if missed
            && matches!(
                e.fault,
                Fault::Refused(425 | 426 | 522) | Fault::Broken | Fault::Tls
            )
        {
            self.learnt.learn(Learnt::RESUMES, true);
        }
    }
}

async fn connect(
    address: SocketAddr,
    data_port: DataPort,
    limit: Duration,
) -> Result<AsyncRustlsFtpStream, FtpError> {
    let ftp = AsyncRustlsFtpStream::connect_with_stream(nodelay(address).await?).await?;
    Ok(ftp.passive_stream_builder(move |address| {
        let data_port = data_port.clone();
        Box::pin(async move { data_port.reach(limit, nodelay(address)).await })
    }))
}

// Nagle's algorithm costs 40 ms a command and a file.
async fn nodelay(address: SocketAddr) -> Result<TcpStream, FtpError> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(FtpError::ConnectionError)?;
    stream
        .set_nodelay(true)
        .map_err(FtpError::ConnectionError)?;
    Ok(stream)
}

/// Reads the first line of a password file.
pub(crate) async fn read_password(file: PathBuf) -> Result<Zeroizing<String>, FtpFailure> {
    let text = tokio::fs::read_to_string(&file).await.map_err(|e| {
        FtpFailure::local(format!("reading the password file {}", file.display()), &e)
    })?;
    let text = Zeroizing::new(text);
    Ok(Zeroizing::new(text.lines().next().unwrap_or("").to_owned()))
}
