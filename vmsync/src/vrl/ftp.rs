//! One FTP session (RFC 959, EPSV of RFC 2428, explicit TLS of RFC 4217), as the mover and
//! Test Connection need it.
//!
//! suppaftp has no time limits of its own, and after an aborted command its replies are out of
//! step. So: every command has a limit here, and whoever gets an [`FtpFailure`] drops the
//! [`Session`]. Transfers are binary always (suppaftp starts in ASCII, which rewrites LF).

use std::{
    future::Future,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use suppaftp::{
    FtpError, Mode,
    tokio::{AsyncRustlsConnector, AsyncRustlsFtpStream},
    types::FileType,
};
use tokio::{
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use vmsync_config::{VrlRemote, VrlTls};
use zeroize::Zeroizing;

/// Bytes handed to the network at once; each such piece has its own time limit.
const PIECE: usize = 128 * 1024;

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

/// Whose fault, as far as it can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The server answered with this code.
    Refused(u32),
    /// No answer in time.
    Silent,
    /// The connection could not be made, or broke.
    Broken,
    /// TLS: certificate, name or protocol.
    Tls,
    /// Something on this side: password file, local file.
    Local,
}

/// A step failed. The session must be dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{doing}: {words}")]
pub struct FtpFailure {
    /// What was being done (`logging in as vrl`).
    pub doing: String,
    /// The server's words, or what happened.
    pub words: String,
    /// Whose fault.
    pub fault: Fault,
}

impl FtpFailure {
    /// Whether every other recording would fail in the same way now: the link, the account or
    /// the server's disk, not this file.
    pub fn is_about_link(&self) -> bool {
        // RFC 959: 421 service not available, 425/426 data connection, 452/552 disk, 530 login.
        !matches!(self.fault, Fault::Local)
            && !matches!(self.fault, Fault::Refused(code) if !matches!(code, 421 | 425 | 426 | 452 | 530 | 552))
    }

    fn new(doing: impl Into<String>, words: impl Into<String>, fault: Fault) -> Self {
        Self {
            doing: doing.into(),
            words: words.into(),
            fault,
        }
    }

    fn local(doing: impl Into<String>, e: &io::Error) -> Self {
        Self::new(doing, e.to_string(), Fault::Local)
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
}

impl Session {
    /// All of it: addresses, connection, TLS, login, location.
    pub async fn open(account: &Account) -> Result<Self, FtpFailure> {
        let addresses = resolve(account).await?;
        let session = Self::connect(account, &addresses).await?;
        let mut session = session.secure(account).await?;
        session.login(account).await?;
        session.enter(&account.remote.location).await?;
        Ok(session)
    }

    /// Connects to the first address that answers with a greeting.
    pub async fn connect(account: &Account, addresses: &[SocketAddr]) -> Result<Self, FtpFailure> {
        let mut last = FtpFailure::new("connecting", "no address", Fault::Broken);
        for address in addresses {
            let doing = format!("connecting to {address}");
            match timed(account.limits.connect, &doing, connect(*address)).await {
                Ok(mut ftp) => {
                    ftp.set_mode(Mode::ExtendedPassive);
                    return Ok(Self {
                        ftp,
                        limits: account.limits,
                    });
                }
                Err(e) => last = e,
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
        let connector = tokio_rustls::TlsConnector::from(tls.config.clone());
        let secured = self
            .ftp
            .into_secure(AsyncRustlsConnector::from(connector), &tls.server_name);
        match timed(self.limits.command, doing, secured).await {
            Ok(ftp) => Ok(Self {
                ftp,
                limits: self.limits,
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
        let login = self.ftp.login(user.as_str(), password.as_str());
        timed(self.limits.command, &doing, login).await?;
        let binary = self.ftp.transfer_type(FileType::Binary);
        timed(self.limits.command, "asking for binary transfers", binary).await
    }

    /// Goes to the location, creating what is missing of it.
    pub async fn enter(&mut self, location: &str) -> Result<(), FtpFailure> {
        let doing = format!("opening the location {location}");
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
        match timed(self.limits.command, &doing, self.ftp.size(name)).await {
            Ok(bytes) => Ok(Some(bytes as u64)),
            Err(e) if matches!(e.fault, Fault::Refused(550)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Uploads the file from `offset` on, and waits for the server's acknowledgement. `sent`
    /// gets each piece, and says how long to rest before the next.
    pub async fn upload(
        &mut self,
        local: &Path,
        remote: &str,
        offset: u64,
        mut sent: impl FnMut(&[u8]) -> Duration,
    ) -> Result<(), FtpFailure> {
        let reading = format!("reading {}", local.display());
        let doing = format!("uploading {remote}");
        let mut file = tokio::fs::File::open(local)
            .await
            .map_err(|e| FtpFailure::local(reading.clone(), &e))?;
        let start = usize::try_from(offset)
            .map_err(|_| FtpFailure::new(&doing, "offset out of range", Fault::Local))?;
        file.seek(io::SeekFrom::Start(offset))
            .await
            .map_err(|e| FtpFailure::local(reading.clone(), &e))?;
        timed(self.limits.command, &doing, self.ftp.resume_transfer(start)).await?;
        let open = self.ftp.put_with_stream(remote);
        let mut data = timed(self.limits.command, &doing, open).await?;
        let mut piece = vec![0_u8; PIECE];
        loop {
            let n = file
                .read(&mut piece)
                .await
                .map_err(|e| FtpFailure::local(reading.clone(), &e))?;
            if n == 0 {
                break;
            }
            let bytes = piece.get(..n).unwrap_or_default();
            timed_io(self.limits.piece, &doing, data.write_all(bytes)).await?;
            let rest = sent(bytes);
            if !rest.is_zero() {
                tokio::time::sleep(rest).await;
            }
        }
        timed_io(self.limits.piece, &doing, data.flush()).await?;
        timed(self.limits.command, &doing, data.finish()).await
    }

    /// Uploads a few bytes.
    pub async fn upload_bytes(&mut self, bytes: &[u8], remote: &str) -> Result<(), FtpFailure> {
        let doing = format!("uploading {remote}");
        let mut data = timed(
            self.limits.command,
            &doing,
            self.ftp.put_with_stream(remote),
        )
        .await?;
        timed_io(self.limits.piece, &doing, data.write_all(bytes)).await?;
        timed_io(self.limits.piece, &doing, data.flush()).await?;
        timed(self.limits.command, &doing, data.finish()).await
    }

    /// Reads at most `most` bytes of a small file back.
    pub async fn read(&mut self, name: &str, most: u64) -> Result<Vec<u8>, FtpFailure> {
        let doing = format!("reading {name} back");
        let mut data = timed(self.limits.command, &doing, self.ftp.retr_as_stream(name)).await?;
        let mut bytes = Vec::new();
        let mut limited = (&mut data).take(most);
        timed_io(self.limits.piece, &doing, limited.read_to_end(&mut bytes)).await?;
        timed(self.limits.command, &doing, data.finish()).await?;
        Ok(bytes)
    }

    /// Renames a file.
    pub async fn rename(&mut self, from: &str, to: &str) -> Result<(), FtpFailure> {
        let doing = format!("renaming {from} to {to}");
        timed(self.limits.command, &doing, self.ftp.rename(from, to)).await
    }

    /// Deletes a file.
    pub async fn delete(&mut self, name: &str) -> Result<(), FtpFailure> {
        let doing = format!("deleting {name}");
        timed(self.limits.command, &doing, self.ftp.rm(name)).await
    }

    /// Says goodbye; that the server does not answer is no matter.
    pub async fn quit(mut self) {
        let _ = timeout(Duration::from_secs(1), self.ftp.quit()).await;
    }
}

async fn connect(address: SocketAddr) -> Result<AsyncRustlsFtpStream, FtpError> {
    let ftp = AsyncRustlsFtpStream::connect_with_stream(nodelay(address).await?).await?;
    Ok(ftp.passive_stream_builder(|address| Box::pin(nodelay(address))))
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

async fn timed<T>(
    limit: Duration,
    doing: &str,
    work: impl Future<Output = Result<T, FtpError>>,
) -> Result<T, FtpFailure> {
    match timeout(limit, work).await {
        Ok(result) => result.map_err(|e| told(doing, e)),
        Err(_) => Err(silent(doing, limit)),
    }
}

async fn timed_io<T>(
    limit: Duration,
    doing: &str,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, FtpFailure> {
    match timeout(limit, work).await {
        Ok(result) => result.map_err(|e| FtpFailure::new(doing, e.to_string(), Fault::Broken)),
        Err(_) => Err(silent(doing, limit)),
    }
}

fn silent(doing: &str, limit: Duration) -> FtpFailure {
    let words = format!("no answer within {} s", limit.as_secs_f32());
    FtpFailure::new(doing, words, Fault::Silent)
}

fn told(doing: &str, e: FtpError) -> FtpFailure {
    match e {
        FtpError::UnexpectedResponse(r) => {
            let words: String = String::from_utf8_lossy(&r.body)
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .take(300)
                .collect();
            FtpFailure::new(doing, words.trim(), Fault::Refused(r.status.code()))
        }
        FtpError::SecureError(words) => FtpFailure::new(doing, words, Fault::Tls),
        FtpError::ConnectionError(e) => FtpFailure::new(doing, e.to_string(), Fault::Broken),
        other => FtpFailure::new(doing, other.to_string(), Fault::Broken),
    }
}
