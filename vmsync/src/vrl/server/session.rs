//! One control connection, from greeting to goodbye. Commands are never logged: one is PASS.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{
    Shared,
    command::{Command, Lines, parse},
    data::Stream,
    files::Refusal,
    listing::stamp,
    login::Verdict,
};

/// Time to log in, TLS included.
const LOGIN_LIMIT: Duration = Duration::from_secs(30);
/// Time between two commands.
const IDLE_LIMIT: Duration = Duration::from_mins(2);
/// Time for TLS on the control connection.
const SETUP_LIMIT: Duration = Duration::from_secs(15);
/// Time between two reads or writes of data, and for a reply to leave.
pub(super) const STALL_LIMIT: Duration = Duration::from_mins(1);
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

/// Longest line of a reply, characters; the longest holds a name and a hash.
const MAX_WORDS: usize = 2_000;

/// A reply; words with line ends in them are sent as they are.
pub(super) struct Reply(u16, String);

pub(super) fn reply(code: u16, words: impl Into<String>) -> Reply {
    Reply(code, words.into())
}

impl From<Refusal> for Reply {
    fn from(r: Refusal) -> Self {
        Self(r.code, r.words)
    }
}

/// What came from the client.
pub(super) enum Heard {
    Line(String),
    /// A line without end: what follows can't be told from commands.
    TooLong,
    End,
}

/// Data connections to come.
#[derive(Default)]
pub(super) struct Passive {
    pub(super) listener: Option<TcpListener>,
    /// After EPSV ALL.
    pub(super) extended_only: bool,
}

pub(crate) struct Session {
    pub(super) shared: Arc<Shared>,
    io: BufReader<Stream>,
    lines: Lines,
    /// Commands that came during a transfer.
    pub(super) waiting: VecDeque<String>,
    /// How the client's side ended during a transfer.
    pub(super) ended: Option<Heard>,
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
    user: Option<String>,
    logged_in: bool,
    tries: u32,
    tls: bool,
    pub(super) private_data: bool,
    pub(super) passive: Passive,
    rename_from: Option<String>,
    /// Where the client is: the folder, or a folder on the way to it that only clients see.
    pub(super) at: String,
    pub(super) restart_at: u64,
}

/// Serves one connection to its end. The caller bounds how many there are.
pub(crate) async fn serve(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let session = Session {
        shared,
        io: BufReader::with_capacity(4096, Stream::Plain(stream)),
        lines: Lines::default(),
        waiting: VecDeque::new(),
        ended: None,
        local,
        peer,
        user: None,
        logged_in: false,
        tries: 0,
        tls: false,
        private_data: false,
        passive: Passive::default(),
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
            let line = match timeout(limit, self.next_line()).await {
                Ok(Heard::Line(line)) => line,
                Ok(Heard::End) => return,
                Ok(Heard::TooLong) => {
                    self.say(reply(500, "line too long; goodbye")).await;
                    return;
                }
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

    async fn next_line(&mut self) -> Heard {
        if let Some(line) = self.waiting.pop_front() {
            return Heard::Line(line);
        }
        match self.ended.take() {
            Some(ended) => ended,
            None => self.hear().await,
        }
    }

    /// The next line. Dropped while it waits, it loses nothing.
    pub(super) async fn hear(&mut self) -> Heard {
        loop {
            let taken = match self.io.fill_buf().await {
                Ok(bytes) if !bytes.is_empty() => self.lines.take(bytes),
                _ => return Heard::End,
            };
            self.io.consume(taken.bytes);
            match taken.line {
                // A name that is not UTF-8 can't be a recording's; it reads as a malformed command.
                Some(line) => return Heard::Line(String::from_utf8(line).unwrap_or_default()),
                None if self.lines.is_too_long() => return Heard::TooLong,
                None => {}
            }
        }
    }

    pub(super) async fn say(&mut self, Reply(code, words): Reply) -> Option<()> {
        let text = if words.contains('\n') {
            words
        } else {
            let clean: String = words
                .chars()
                .filter(|c| !c.is_control())
                .take(MAX_WORDS)
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
                // Whoever said something before was not protected (RFC 4217 section 4).
                (self.user, self.logged_in, self.restart_at) = (None, false, 0);
                self.lines = Lines::default();
                self.passive = Passive::default();
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
            Command::OptsHash(None) => reply(200, "SHA-256"),
            Command::OptsHash(Some(a)) if a.eq_ignore_ascii_case("SHA-256") => {
                reply(200, "SHA-256")
            }
            Command::OptsHash(_) => reply(504, "only SHA-256 is offered"),
            Command::OptsMlst(_) => reply(200, "MLST OPTS type;size;modify;perm;"),
            Command::Abor => reply(226, "nothing to abort"),
            Command::NotOffered => reply(502, "not offered here"),
            Command::WrongParameter => reply(504, "not offered with that parameter"),
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
            Command::Pwd => reply(257, format!("\"{}\"", self.at.replace('"', "\"\""))),
            Command::Stat => reply(211, "vmsync VRL; no transfer is on its way"),
            Command::Cwd(path) => self.cwd(&path),
            Command::Mkd(path) if files.is_ancestor(&self.path(&path)) => {
                reply(550, "it is there already")
            }
            Command::Mkd(_) => reply(550, "no folders are made here"),
            Command::Size(name) => {
                let bytes = files.meta(&self.path(&name)).await?.len();
                reply(213, bytes.to_string())
            }
            Command::Mdtm(name) => {
                let modified = files.meta(&self.path(&name)).await?.modified()?;
                reply(213, stamp(modified))
            }
            Command::Facts(path) => self.facts(path).await?,
            Command::Hash(name) => {
                let (bytes, sha256) = files.hash(&self.path(&name)).await?;
                reply(213, format!("SHA-256 0-{bytes} {sha256} {name}"))
            }
            Command::Xsha256(name) => {
                let (_, sha256) = files.hash(&self.path(unquoted(&name))).await?;
                reply(250, sha256)
            }
            Command::Allo(bytes) => files
                .has_room(bytes)
                .await
                .map(|()| reply(200, "there is room"))?,
            Command::Dele(name) => files
                .delete(&self.path(&name))
                .await
                .map(|()| reply(250, "deleted"))?,
            Command::RenameFrom(name) => {
                let from = self.path(&name);
                files.meta(&from).await?;
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
            Command::Epsv(how) => self.epsv(how).await?,
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

    /// MLST (RFC 3659 section 7).
    async fn facts(&self, path: Option<String>) -> Result<Reply, Refusal> {
        let path = path.map_or_else(|| self.at.clone(), |path| self.path(&path));
        let facts = self.shared.files.facts(&path).await?;
        Ok(Reply(
            250,
            format!("250-Listing\r\n {facts} {path}\r\n250 End\r\n"),
        ))
    }

    /// What the client means by a path, from the top.
    pub(super) fn path(&self, given: &str) -> String {
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
        let files = " UTF8\r\n EPSV\r\n SIZE\r\n MDTM\r\n REST STREAM\r\n \
             MLST type*;size*;modify*;perm*;\r\n HASH SHA-256*\r\n XSHA256\r\n";
        format!("211-Features\r\n{files}{tls}211 End\r\n")
    }
}

/// A name that some clients write in quotes.
fn unquoted(name: &str) -> &str {
    name.strip_prefix('"')
        .and_then(|name| name.strip_suffix('"'))
        .filter(|name| !name.is_empty())
        .unwrap_or(name)
}
