//! One control connection, from greeting to goodbye. Commands are never logged: one is PASS.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{
    Shared,
    command::{Command, MAX_LINE, parse},
    data::{self, Stream},
    files::Refusal,
    login::Verdict,
    upload,
};

/// Time to log in, TLS included.
const LOGIN_LIMIT: Duration = Duration::from_secs(30);
/// Time between two commands.
const IDLE_LIMIT: Duration = Duration::from_mins(2);
/// Time for a data connection to come, and for TLS on any connection.
const SETUP_LIMIT: Duration = Duration::from_secs(15);
/// Time between two reads or writes of data, and for a reply to leave.
const STALL_LIMIT: Duration = Duration::from_mins(1);
/// Wrong passwords on one connection.
const MAX_TRIES: u32 = 3;
/// Delay after each of them.
const WRONG_DELAY: Duration = Duration::from_millis(500);

/// What to do after a command.
enum Next {
    Go,
    UpgradeToTls,
    End,
}

/// A reply.
struct Reply(u16, String);

fn reply(code: u16, words: impl Into<String>) -> Reply {
    Reply(code, words.into())
}

impl From<Refusal> for Reply {
    fn from(r: Refusal) -> Self {
        Self(r.code, r.words)
    }
}

pub(crate) struct Session {
    shared: Arc<Shared>,
    io: BufReader<Stream>,
    local: SocketAddr,
    peer: SocketAddr,
    user: Option<String>,
    logged_in: bool,
    tries: u32,
    tls: bool,
    private_data: bool,
    passive: Option<TcpListener>,
    rename_from: Option<String>,
    /// Where the client is: the folder, or a folder on the way to it that only clients see.
    at: String,
    restart_at: u64,
}

/// Serves one connection to its end. The caller bounds how many there are.
pub(crate) async fn serve(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let session = Session {
        shared,
        io: BufReader::with_capacity(4096, Stream::Plain(stream)),
        local,
        peer,
        user: None,
        logged_in: false,
        tries: 0,
        tls: false,
        private_data: false,
        passive: None,
        rename_from: None,
        at: "/".to_owned(),
        restart_at: 0,
    };
    session.run().await;
}

impl Session {
    async fn run(mut self) {
        if self.say(reply(220, "vmsync VRL")).await.is_none() {
            return;
        }
        let login_until = tokio::time::Instant::now() + LOGIN_LIMIT;
        loop {
            let limit = if self.logged_in {
                IDLE_LIMIT
            } else {
                login_until.saturating_duration_since(tokio::time::Instant::now())
            };
            let line = match timeout(limit, self.line()).await {
                Ok(Some(line)) => line,
                Ok(None) => return,
                Err(_) => {
                    self.say(reply(421, "time-out; goodbye")).await;
                    return;
                }
            };
            let (answer, next) = self.handle(parse(&line)).await;
            if self.say(answer).await.is_none() {
                return;
            }
            match next {
                Next::Go => {}
                Next::End => return,
                Next::UpgradeToTls => match self.upgrade().await {
                    Some(session) => self = session,
                    None => return,
                },
            }
        }
    }

    /// A line without its end; `None` at the end of the connection, or when it is no FTP.
    async fn line(&mut self) -> Option<String> {
        let mut bytes = Vec::new();
        let mut limited = (&mut self.io).take(MAX_LINE as u64);
        let n = limited.read_until(b'\n', &mut bytes).await.ok()?;
        if n == 0 {
            return None;
        }
        if bytes.last() != Some(&b'\n') {
            // Too long, or cut off: what follows can't be told from commands.
            self.say(reply(500, "line too long; goodbye")).await;
            return None;
        }
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        // A name that is not UTF-8 can't be a recording's; it reads as a malformed command.
        Some(String::from_utf8(bytes).unwrap_or_default())
    }

    async fn say(&mut self, Reply(code, words): Reply) -> Option<()> {
        let text = if words.contains('\n') {
            words
        } else {
            let clean: String = words
                .chars()
                .filter(|c| !c.is_control())
                .take(300)
                .collect();
            format!("{code} {clean}\r\n")
        };
        let stream = self.io.get_mut();
        let sent = timeout(STALL_LIMIT, async {
            stream.write_all(text.as_bytes()).await?;
            stream.flush().await
        });
        sent.await.ok()?.ok()
    }

    async fn upgrade(mut self) -> Option<Self> {
        let tls = self.shared.tls.as_ref()?.config.clone();
        // What came before the handshake was not protected and is dropped with the buffer (RFC 4217 section 15.1).
        let Stream::Plain(stream) = self.io.into_inner() else {
            return None;
        };
        let accepted = timeout(SETUP_LIMIT, TlsAcceptor::from(tls).accept(stream)).await;
        match accepted {
            Ok(Ok(stream)) => {
                self.io = BufReader::with_capacity(4096, Stream::Tls(Box::new(stream)));
                self.tls = true;
                Some(self)
            }
            Ok(Err(e)) => {
                tracing::info!(peer = %self.peer, error = %e, "FTP client did not get through TLS");
                None
            }
            Err(_) => None,
        }
    }

    async fn handle(&mut self, command: Command) -> (Reply, Next) {
        // RNTO must follow RNFR at once (RFC 959 section 4.1.3).
        if !matches!(command, Command::RenameTo(_)) {
            self.rename_from = None;
        }
        match command {
            Command::AuthTls if self.tls => (reply(503, "TLS is on already"), Next::Go),
            Command::AuthTls if self.shared.tls.is_some() => {
                (reply(234, "go on with TLS"), Next::UpgradeToTls)
            }
            Command::AuthTls => (reply(502, "this server has no certificate"), Next::Go),
            Command::Quit => (reply(221, "goodbye"), Next::End),
            Command::Pass(password) => self.pass(&password).await,
            other => (self.answer(other).await, Next::Go),
        }
    }

    async fn answer(&mut self, command: Command) -> Reply {
        match command {
            Command::User(user) => self.user(user),
            Command::Pbsz if self.tls => reply(200, "PBSZ=0"),
            Command::Prot(private) if self.tls => self.prot(private),
            Command::Pbsz | Command::Prot(_) => reply(503, "TLS first"),
            Command::Feat => Reply(211, self.features()),
            Command::Syst => reply(215, "UNIX Type: L8"),
            Command::OptsUtf8 | Command::Noop | Command::Type => reply(200, "OK"),
            Command::NotOffered => reply(502, "not offered here"),
            Command::Malformed => reply(500, "not understood"),
            _ if !self.logged_in => reply(530, "log in first"),
            other => match self.on_files(other).await {
                Ok(reply) => reply,
                Err(refusal) => refusal.into(),
            },
        }
    }

    async fn on_files(&mut self, command: Command) -> Result<Reply, Refusal> {
        let files = &self.shared.files;
        Ok(match command {
            Command::Pwd => reply(257, format!("\"{}\"", self.at)),
            Command::Cwd(path) => self.cwd(&path),
            Command::Mkd(path) if files.is_ancestor(&self.path(&path)) => {
                reply(550, "it is there already")
            }
            Command::Mkd(_) => reply(550, "no folders are made here"),
            Command::Size(name) => reply(213, files.stat(&self.path(&name)).await?.0.to_string()),
            Command::Mdtm(name) => reply(213, stamp(files.stat(&self.path(&name)).await?.1)),
            Command::Dele(name) => files
                .delete(&self.path(&name))
                .await
                .map(|()| reply(250, "deleted"))?,
            Command::RenameFrom(name) => {
                let from = self.path(&name);
                files.stat(&from).await?;
                self.rename_from = Some(from);
                reply(350, "to what?")
            }
            Command::RenameTo(to) => match self.rename_from.take() {
                Some(from) => files
                    .rename(&from, &self.path(&to))
                    .await
                    .map(|()| reply(250, "renamed"))?,
                None => reply(503, "RNFR first"),
            },
            Command::Rest(offset) => {
                self.restart_at = offset;
                reply(350, "the next transfer starts there")
            }
            Command::Epsv => self.epsv().await?,
            Command::Pasv => self.pasv().await?,
            transfer => self.transfer(transfer).await?,
        })
    }

    fn cwd(&mut self, path: &str) -> Reply {
        let mut parts = Vec::new();
        let whole = self.path(path);
        for part in whole.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let at = format!("/{}", parts.join("/"));
        if !self.shared.files.is_ancestor(&at) {
            return reply(
                550,
                format!("the only folder here is {}", self.shared.files.location),
            );
        }
        self.at = at;
        reply(250, "OK")
    }

    /// What the client means by a path, from the top.
    fn path(&self, given: &str) -> String {
        if given.starts_with('/') {
            return given.to_owned();
        }
        let given = given.strip_prefix("./").unwrap_or(given);
        format!("{}/{given}", self.at.trim_end_matches('/'))
    }

    fn user(&mut self, user: String) -> Reply {
        if self.shared.tls.as_ref().is_some_and(|t| t.required) && !self.tls {
            return reply(534, "this server insists on TLS: AUTH TLS first");
        }
        self.logged_in = false;
        self.user = Some(user);
        reply(331, "password?")
    }

    async fn pass(&mut self, password: &str) -> (Reply, Next) {
        let Some(user) = self.user.take() else {
            return (reply(503, "USER first"), Next::Go);
        };
        let from = self.peer.ip().to_canonical();
        match self.shared.login.check(from, &user, password).await {
            Verdict::Welcome => {
                self.logged_in = true;
                (reply(230, "logged in"), Next::Go)
            }
            verdict => {
                tracing::warn!(peer = %self.peer, ?verdict, "FTP login refused");
                tokio::time::sleep(WRONG_DELAY).await;
                self.tries += 1;
                let next = if self.tries >= MAX_TRIES {
                    Next::End
                } else {
                    Next::Go
                };
                let words = match verdict {
                    Verdict::Locked => {
                        "too many wrong passwords from this address; try again in 10 minutes"
                    }
                    _ => "wrong user or password",
                };
                (reply(530, words), next)
            }
        }
    }

    fn prot(&mut self, private: bool) -> Reply {
        if !private && self.shared.tls.as_ref().is_some_and(|t| t.required) {
            return reply(534, "this server insists on TLS for data");
        }
        self.private_data = private;
        reply(200, "OK")
    }

    fn features(&self) -> String {
        let tls = if self.shared.tls.is_some() {
            " AUTH TLS\r\n PBSZ\r\n PROT\r\n"
        } else {
            ""
        };
        format!(
            "211-Features\r\n UTF8\r\n EPSV\r\n SIZE\r\n MDTM\r\n REST STREAM\r\n{tls}211 End\r\n"
        )
    }

    async fn epsv(&mut self) -> Result<Reply, Refusal> {
        let port = self.listen().await?;
        Ok(reply(
            229,
            format!("Entering Extended Passive Mode (|||{port}|)"),
        ))
    }

    async fn pasv(&mut self) -> Result<Reply, Refusal> {
        let std::net::IpAddr::V4(ip) = self.local.ip().to_canonical() else {
            return Err(Refusal::new(425, "PASV is for IPv4; use EPSV"));
        };
        let port = self.listen().await?;
        let [a, b, c, d] = ip.octets();
        let [high, low] = port.to_be_bytes();
        Ok(reply(
            227,
            format!("Entering Passive Mode ({a},{b},{c},{d},{high},{low})"),
        ))
    }

    async fn listen(&mut self) -> Result<u16, Refusal> {
        self.passive = None;
        let refused = |e: std::io::Error| Refusal::new(425, format!("no passive port: {e}"));
        let listener = data::listen(self.local.ip(), self.shared.passive_ports)
            .await
            .map_err(refused)?;
        let port = listener.local_addr().map_err(refused)?.port();
        self.passive = Some(listener);
        Ok(port)
    }

    /// STOR, RETR, LIST, NLST: everything with a data connection.
    async fn transfer(&mut self, command: Command) -> Result<Reply, Refusal> {
        let offset = std::mem::take(&mut self.restart_at);
        let Some(listener) = self.passive.take() else {
            return Err(Refusal::new(425, "PASV or EPSV first"));
        };
        if self.shared.tls.as_ref().is_some_and(|t| t.required) && !self.private_data {
            return Err(Refusal::new(
                521,
                "this server insists on TLS for data: PROT P first",
            ));
        }
        let shared = self.shared.clone();
        let files = &shared.files;
        match command {
            Command::Stor(name) => {
                let upload = files.begin(&self.path(&name), Some(offset)).await?;
                let stream = self.open(listener).await?;
                upload::receive(stream, upload, STALL_LIMIT).await?;
                tracing::debug!(peer = %self.peer, bytes_from = offset, "FTP upload taken");
            }
            Command::Retr(name) => {
                let file = files.read(&self.path(&name), offset).await?;
                let stream = self.open(listener).await?;
                data::send(stream, file, STALL_LIMIT).await?;
            }
            listing => {
                let text = lines(&files.list().await?, matches!(listing, Command::List));
                let stream = self.open(listener).await?;
                data::send(stream, text.as_bytes(), STALL_LIMIT).await?;
            }
        }
        Ok(reply(226, "done"))
    }

    /// Opens the data connection. An answer of 150 goes out first: clients begin TLS after it.
    async fn open(&mut self, listener: TcpListener) -> Result<Stream, Refusal> {
        let gone = || Refusal::new(426, "the control connection is gone");
        self.say(reply(150, "go on")).await.ok_or_else(gone)?;
        let stream = data::accept(listener, self.peer.ip(), SETUP_LIMIT).await?;
        match &self.shared.tls {
            Some(tls) if self.private_data => data::secure(stream, &tls.config, SETUP_LIMIT).await,
            _ => Ok(Stream::Plain(stream)),
        }
    }
}

fn stamp(time: std::time::SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(
        |_| "19700101000000".to_owned(),
        |t| t.strftime("%Y%m%d%H%M%S").to_string(),
    )
}

fn lines(found: &[crate::vrl::folder::Found], long: bool) -> String {
    found
        .iter()
        .map(|f| {
            if long {
                let time = jiff::Timestamp::try_from(f.modified).map_or_else(
                    |_| String::from("Jan 01  1970"),
                    |t| t.strftime("%b %d  %Y").to_string(),
                );
                format!(
                    "-r--r--r-- 1 vmsync vmsync {:>12} {time} {}\r\n",
                    f.bytes, f.name
                )
            } else {
                format!("{}\r\n", f.name)
            }
        })
        .collect()
}
